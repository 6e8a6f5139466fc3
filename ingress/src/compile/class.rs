//! Which Ingress objects are ours.

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::{Settings, Warner};
use crate::object::World;

/// `spec.controller` of our classes.
pub(super) const CONTROLLER: &str = "weir.dev/ingress-controller";
const ANNOTATION: &str = "kubernetes.io/ingress.class";
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Whether the object is to be served. The old annotation goes before `ingressClassName`, as it always did; an object with
/// neither belongs to whoever has the default class.
pub(super) fn is_ours(
    ingress: &Ingress,
    world: &World,
    settings: &Settings,
    warner: &mut Warner<'_>,
) -> bool {
    let annotations = ingress.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(ANNOTATION)).filter(|name| !name.is_empty());
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    if let (Some(annotated), Some(named)) = (annotated, named)
        && annotated != named
    {
        warner.warn(
            "spec.ingressClassName",
            format!("{named} beside the annotation {ANNOTATION}: {annotated}, which counts; expected only one of them"),
        );
    }
    let field = if annotated.is_some() { ANNOTATION } else { "spec.ingressClassName" };
    let Some(name) = annotated.or(named) else {
        let default = world.classes.values().find(|class| is_default(class));
        let ours = default.map_or(settings.without_class, |class| has_our_controller(class));
        if !ours {
            warner.warn(
                "spec.ingressClassName",
                "absent, and no class of ours is the default one: not served; expected for example `ingressClassName: weir`",
            );
        }
        return ours;
    };
    let class = world.classes.values().find(|class| class.metadata.name.as_ref() == Some(name));
    if settings.classes.contains(name) || class.is_some_and(|class| has_our_controller(class)) {
        return true;
    }
    match class.and_then(|class| class.spec.as_ref()).and_then(|spec| spec.controller.as_deref()) {
        Some(controller) => warner.warn(field, format!("class {name} belongs to {controller}: not served")),
        None => warner.warn(
            field,
            format!(
                "there is no IngressClass {name}: not served; expected {}, or an IngressClass {name} with `controller: {CONTROLLER}`",
                settings.classes.join(" or ")
            ),
        ),
    }
    false
}

fn has_our_controller(class: &IngressClass) -> bool {
    class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER)
}

fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(IS_DEFAULT)).is_some_and(|text| text == "true")
}
