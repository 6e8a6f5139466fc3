//! The rows of rule sets and classes that come and go.
//!
//! What a rule set answers to a class never changes: so rows are written when one of the two is new, and go with one of
//! the two.

use std::collections::BTreeSet;

use common::id::{ClassId, RuleSetId};

use super::classes::{ClassNews, Counted};
use super::endpoints::{Endpoints, SetNews, UsedSet};
use crate::changes::{Changes, View};
use crate::class::Match;
use crate::tables::{RulePrefix, Tables};

pub(super) fn update(
    endpoints: &mut Endpoints,
    classes: &Counted,
    sets: &SetNews,
    news: &ClassNews,
    actual: &Tables,
    pending: &mut Changes,
) {
    let born: BTreeSet<RuleSetId> = sets.born.iter().copied().collect();
    let mut gone: Vec<RulePrefix> = Vec::new();
    let view = View { tables: actual, changes: pending };
    for (id, _) in &sets.died {
        gone.extend(view.rows_of_set(*id).map(|(prefix, _)| prefix));
    }
    for class in &news.died {
        for id in endpoints.asking(classes.matches(*class)).difference(&born) {
            let before = gone.len();
            gone.extend(view.rows_of_class(*id, classes.id(*class)).map(|(prefix, _)| prefix));
            if let Some(set) = endpoints.sets.get_mut(id).filter(|_| gone.len() > before) {
                set.rows -= gone.len() - before;
                set.renamed = true;
            }
        }
    }
    for prefix in gone {
        pending.rules.insert(prefix, None);
    }

    for class in &news.born {
        let matches = classes.matches(*class);
        for id in endpoints.asking(matches).difference(&born) {
            if let Some(set) = endpoints.sets.get_mut(id) {
                write(*id, set, classes.id(*class), matches, pending);
            }
        }
    }
    for id in born {
        let Some(set) = endpoints.sets.get_mut(&id) else { continue };
        set.renamed = true;
        let UsedSet { rule_set, rows, .. } = set;
        rule_set.everyones_rows(id, &mut |prefix, row| {
            *rows += 1;
            pending.rules.insert(prefix, Some(row));
        });
        for class in classes.with_terms(rule_set.terms()) {
            write(id, set, classes.id(class), classes.matches(class), pending);
        }
    }
}

fn write(id: RuleSetId, set: &mut UsedSet, class: ClassId, matches: &[Match], pending: &mut Changes) {
    let UsedSet { rule_set, rows, renamed, .. } = set;
    rule_set.rows_of(id, class, matches, &mut |prefix, row| {
        *rows += 1;
        *renamed = true;
        pending.rules.insert(prefix, Some(row));
    });
}
