//! Two opinions of the same world must be one: what the tables answer and what the specification says.

use proptest::prelude::*;

use super::arbitrary::{Description, config, description, flows};
use crate::compile::compile;
use crate::lookup::{Flow, Judgement};
use crate::oracle::{self, Opinion};

fn agree(description: &Description, flows: &[Flow]) -> Result<(), TestCaseError> {
    let world = description.cluster().world("node-0");
    let compiled = compile(&world);
    let same = |flow: &Flow, judgement: Option<Judgement>, opinion: Option<Opinion>| {
        let judgement = judgement.map(|judgement| Opinion {
            allowed: judgement.allowed,
            rule: compiled.names.rules.get(&judgement.rule).cloned(),
            policies: match compiled.names.rule_sets.get(&judgement.rule_set) {
                Some(rule_set) => rule_set.policies.clone(),
                None => Vec::new(),
            },
        });
        prop_assert_eq!(judgement, opinion, "tables left, oracle right, on {:?}", flow);
        Ok(())
    };
    for flow in flows {
        let (answer, opinions) = (compiled.tables.lookup(flow), oracle::judge(&world, flow));
        same(flow, answer.egress, opinions.egress)?;
        same(flow, answer.ingress, opinions.ingress)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn compiled_tables_agree_with_the_oracle(description in description(), flows in flows(200)) {
        agree(&description, &flows)?;
    }

    #[test]
    fn the_order_in_which_objects_arrive_does_not_matter(description in description()) {
        let cluster = description.cluster();
        let mut backwards = crate::world::World::new("node-0");
        for (_, attachment) in &cluster.attachments {
            backwards.attach(attachment.clone());
        }
        for (object, unknown_fields) in cluster.objects.iter().rev() {
            backwards.apply(object.clone(), unknown_fields);
        }
        prop_assert_eq!(compile(&backwards), compile(&cluster.world("node-0")));
    }
}
