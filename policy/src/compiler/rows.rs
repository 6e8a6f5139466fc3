//! The rows of rule sets and classes that come and go.
//!
//! What a rule set answers to a class never changes: so rows are written when one of the two is new, and go with one of
//! the two.

use std::collections::{BTreeMap, BTreeSet};

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
    let mut gone: Vec<RulePrefix> = Vec::new();
    let view = View { tables: actual, changes: pending };
    for (id, _) in &sets.died {
        gone.extend(view.rows_of_set(*id).map(|(prefix, _)| prefix));
    }
    let born: BTreeSet<RuleSetId> = sets.born.iter().copied().collect();
    let asking = Asking::new(endpoints.sets.iter().filter(|(id, _)| !born.contains(id)), news);
    for class in &news.died {
        for id in asking.sets(classes.matches(*class)) {
            let before = gone.len();
            gone.extend(view.rows_of_class(id, classes.id(*class)).map(|(prefix, _)| prefix));
            if let Some(set) = endpoints.sets.get_mut(&id).filter(|_| gone.len() > before) {
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
        for id in asking.sets(matches) {
            if let Some(set) = endpoints.sets.get_mut(&id) {
                write(id, set, classes.id(*class), matches, pending);
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
        let terms: Vec<u32> = rule_set.terms().collect();
        for (class, matches) in classes.iter() {
            // Both are in order.
            if matches.iter().any(|m| terms.binary_search(&m.term).is_ok()) {
                write(id, set, classes.id(class), matches, pending);
            }
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

/// Which rule sets ask for which term.
struct Asking(BTreeMap<u32, Vec<RuleSetId>>);

impl Asking {
    /// Empty where no class came or went: nobody asks.
    fn new<'a>(sets: impl Iterator<Item = (&'a RuleSetId, &'a UsedSet)>, news: &ClassNews) -> Self {
        let mut asking: BTreeMap<u32, Vec<RuleSetId>> = BTreeMap::new();
        if !news.born.is_empty() || !news.died.is_empty() {
            for (id, set) in sets {
                for term in set.rule_set.terms() {
                    asking.entry(term).or_default().push(*id);
                }
            }
        }
        Self(asking)
    }

    fn sets(&self, matches: &[Match]) -> BTreeSet<RuleSetId> {
        matches.iter().filter_map(|m| self.0.get(&m.term)).flatten().copied().collect()
    }
}
