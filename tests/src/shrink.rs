//! The smallest scene that still shows something: greedily, one part after another is left out.

use serde_json::Value;

use crate::scene::Scene;

/// What is left when nothing more can go without `shows` becoming false. Asks at most `most` times.
pub fn shrink(scene: &Scene, most: usize, mut shows: impl FnMut(&Scene) -> bool) -> Scene {
    let mut smallest = scene.clone();
    let mut asked = 0;
    loop {
        let mut shrunk = false;
        // From the end, so that places before a removed one stay what they are.
        let mut places = places(&smallest);
        while let Some(place) = places.pop() {
            if asked == most {
                return smallest;
            }
            let mut candidate = smallest.clone();
            if remove(&mut candidate, &place) {
                asked += 1;
                if shows(&candidate) {
                    smallest = candidate;
                    shrunk = true;
                }
            }
        }
        if !shrunk {
            return smallest;
        }
    }
}

/// A way down from an object: field names and places in lists.
#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Item(usize),
}

type Place = (usize, Vec<Step>);

/// Outer parts come last, so that they are tried first.
fn places(scene: &Scene) -> Vec<Place> {
    let mut all = Vec::new();
    for (index, object) in scene.objects.iter().enumerate() {
        let mut within = Vec::new();
        descend(object, &mut Vec::new(), &mut within);
        all.extend(within.into_iter().map(|way| (index, way)));
    }
    all.sort_by_key(|(index, way)| (std::cmp::Reverse(way.len()), *index));
    all
}

fn descend(value: &Value, way: &mut Vec<Step>, all: &mut Vec<Vec<Step>>) {
    all.push(way.clone());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                way.push(Step::Field(name.clone()));
                descend(value, way, all);
                way.pop();
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                way.push(Step::Item(index));
                descend(value, way, all);
                way.pop();
            }
        }
        _ => {}
    }
}

/// False if there is nothing at that place any more.
fn remove(scene: &mut Scene, (index, way): &Place) -> bool {
    let Some((last, path)) = way.split_last() else {
        let there = *index < scene.objects.len();
        if there {
            scene.objects.remove(*index);
        }
        return there;
    };
    let mut value = scene.objects.get_mut(*index);
    for step in path {
        value = match (step, value) {
            (Step::Field(name), Some(value)) => value.get_mut(name),
            (Step::Item(index), Some(value)) => value.get_mut(index),
            (_, None) => None,
        };
    }
    match (last, value) {
        (Step::Field(name), Some(Value::Object(fields))) => fields.remove(name).is_some(),
        (Step::Item(index), Some(Value::Array(items))) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_matter_goes() {
        let scene = Scene {
            objects: vec![
                json!({"kind": "Namespace", "labels": {"app": "x"}}),
                json!({"kind": "Pod", "ports": [{"port": 80}, {"port": 81, "name": "http"}], "more": true}),
            ],
        };
        let left = shrink(&scene, usize::MAX, |scene| {
            let ports = scene.objects.iter().filter_map(|object| object["ports"].as_array()).flatten();
            ports.filter(|port| port["port"] == 81).count() > 0
        });
        assert_eq!(left.objects, [json!({"ports": [{"port": 81}]})]);
    }
}
