//! The classes in use, counted: how many addresses and blocks are of each.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use common::id::ClassId;

use crate::class::{Match, Terms, class_id};

/// A class as it is called in here. Two of different number differ.
pub(super) type Class = u32;

/// Matches nothing. Always there, never counted.
pub(super) const NONE: Class = 0;

#[derive(Debug)]
pub(super) struct Counted {
    /// By number.
    list: Vec<Option<Known>>,
    numbers: HashMap<Arc<[Match]>, Class>,
    /// Those with a term.
    by_term: HashMap<u32, Vec<Class>>,
    free: Vec<Class>,
    /// How many were of a class when it was touched first since the last `settle`.
    touched: BTreeMap<Class, u32>,
}

#[derive(Debug)]
struct Known {
    id: ClassId,
    matches: Arc<[Match]>,
    members: u32,
}

/// Classes that are new, and those that are no more.
#[derive(Debug, Default)]
pub(super) struct ClassNews {
    pub(super) born: Vec<Class>,
    pub(super) died: Vec<Class>,
}

impl Default for Counted {
    fn default() -> Self {
        let none = Known { id: ClassId::NONE, matches: Arc::from([]), members: 0 };
        Self {
            list: vec![Some(none)],
            numbers: HashMap::new(),
            by_term: HashMap::new(),
            free: Vec::new(),
            touched: BTreeMap::new(),
        }
    }
}

impl Counted {
    /// One more is of the class of these matches.
    pub(super) fn enter(&mut self, terms: &Terms, mut matches: Vec<Match>) -> Class {
        matches.sort_unstable();
        matches.dedup();
        if matches.is_empty() {
            return NONE;
        }
        let number = match self.numbers.get(matches.as_slice()) {
            Some(number) => *number,
            None => {
                let id = class_id(terms, &matches);
                let matches: Arc<[Match]> = Arc::from(matches);
                let number = self.free.pop().unwrap_or_else(|| {
                    self.list.push(None);
                    // There are not more classes than addresses and blocks in memory.
                    (self.list.len() - 1) as Class
                });
                for m in matches.iter() {
                    self.by_term.entry(m.term).or_default().push(number);
                }
                self.numbers.insert(Arc::clone(&matches), number);
                self.list[number as usize] = Some(Known { id, matches, members: 0 });
                number
            }
        };
        self.count(number, |members| members + 1);
        number
    }

    /// One less.
    pub(super) fn leave(&mut self, class: Class) {
        self.count(class, |members| members.saturating_sub(1));
    }

    fn count(&mut self, class: Class, change: impl FnOnce(u32) -> u32) {
        if class != NONE
            && let Some(known) = self.list.get_mut(class as usize).and_then(Option::as_mut)
        {
            self.touched.entry(class).or_insert(known.members);
            known.members = change(known.members);
        }
    }

    pub(super) fn id(&self, class: Class) -> ClassId {
        self.known(class).map_or(ClassId::NONE, |known| known.id)
    }

    pub(super) fn matches(&self, class: Class) -> &[Match] {
        self.known(class).map_or(&[], |known| &known.matches)
    }

    /// Every class with one of these terms that anything is of.
    pub(super) fn with_terms(&self, terms: impl Iterator<Item = u32>) -> BTreeSet<Class> {
        let with = terms.filter_map(|term| self.by_term.get(&term)).flatten().copied();
        with.filter(|class| self.known(*class).is_some_and(|known| known.members > 0)).collect()
    }

    /// What came and went since this was last asked. Those that died keep their number until it is given away.
    pub(super) fn settle(&mut self) -> ClassNews {
        let mut news = ClassNews::default();
        for (class, before) in std::mem::take(&mut self.touched) {
            match (before, self.known(class).map_or(0, |known| known.members)) {
                (0, 1..) => news.born.push(class),
                (_, 0) => news.died.push(class),
                _ => {}
            }
        }
        news
    }

    pub(super) fn free(&mut self, died: Vec<Class>) {
        let mut terms: BTreeSet<u32> = BTreeSet::new();
        for class in died {
            if let Some(known) = self.list.get_mut(class as usize).and_then(Option::take) {
                self.numbers.remove(&known.matches);
                terms.extend(known.matches.iter().map(|m| m.term));
                self.free.push(class);
            }
        }
        for term in terms {
            if let Entry::Occupied(mut with) = self.by_term.entry(term) {
                with.get_mut().retain(|class| self.list.get(*class as usize).is_some_and(Option::is_some));
                if with.get().is_empty() {
                    with.remove();
                }
            }
        }
    }

    fn known(&self, class: Class) -> Option<&Known> {
        self.list.get(class as usize)?.as_ref()
    }
}
