//! The routing table: rules, indexed so that a lookup costs as many steps as the path has elements.

use std::collections::HashMap;

use regex::Regex;

use super::host::parent;
use super::path::{prefixes, trimmed};
use super::{Asked, Conditions, Host, PathMatch, Rule};

/// Immutable once made: a change makes a new one.
#[derive(Clone, Debug)]
pub struct Table<R> {
    exact: HashMap<String, Paths<R>>,
    wildcard: HashMap<String, Paths<R>>,
    any: Paths<R>,
    rules: usize,
}

/// The rules of one host.
#[derive(Clone, Debug)]
struct Paths<R> {
    exact: HashMap<String, Vec<Entry<R>>>,
    /// By the prefix without its closing slash.
    prefix: HashMap<String, Vec<Entry<R>>>,
    /// The longest pattern first.
    regex: Vec<(Regex, Entry<R>)>,
    otherwise: Option<R>,
}

#[derive(Clone, Debug)]
struct Entry<R> {
    conditions: Conditions,
    target: R,
}

impl<R> Table<R> {
    /// Of two rules that ask for the same, the one that comes first here counts: give the oldest first.
    pub fn new(rules: impl IntoIterator<Item = Rule<R>>) -> Self {
        let mut table =
            Self { exact: HashMap::new(), wildcard: HashMap::new(), any: Paths::default(), rules: 0 };
        for rule in rules {
            let paths = match rule.host {
                Host::Exact(name) => table.exact.entry(name).or_default(),
                Host::Wildcard(suffix) => table.wildcard.entry(suffix).or_default(),
                Host::Any => &mut table.any,
            };
            paths.add(rule.path, Entry { conditions: rule.conditions, target: rule.target });
            table.rules += 1;
        }
        let all = table.exact.values_mut().chain(table.wildcard.values_mut()).chain([&mut table.any]);
        all.for_each(Paths::sort);
        table
    }

    /// Every rule, host by host: its host, its path, how much else it asks for, and where it leads.
    pub fn rules(&self) -> Vec<(String, String, usize, &R)> {
        let mut exact: Vec<_> = self.exact.iter().collect();
        exact.sort_by_key(|(name, _)| *name);
        let mut wildcard: Vec<_> = self.wildcard.iter().collect();
        wildcard.sort_by_key(|(name, _)| *name);
        let exact = exact.into_iter().map(|(name, paths)| (name.clone(), paths));
        let wildcard = wildcard.into_iter().map(|(suffix, paths)| (format!("*.{suffix}"), paths));
        let hosts = exact.chain(wildcard).chain([("*".to_owned(), &self.any)]);
        hosts.flat_map(|(host, paths)| paths.rules(&host)).collect()
    }

    /// Where the request goes. A closer host's rules come first; where none of them matches, the next host's are asked,
    /// and defaults only after all rules.
    pub fn find(&self, asked: &Asked<'_>) -> Option<&R> {
        let hosts = self.hosts(asked.host);
        let rule = hosts.into_iter().flatten().find_map(|paths| paths.find(asked));
        rule.or_else(|| hosts.into_iter().flatten().find_map(|paths| paths.otherwise.as_ref()))
    }

    /// How many rules it holds.
    pub fn len(&self) -> usize {
        self.rules
    }

    /// Whether it holds no rule.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// The closest first.
    fn hosts(&self, host: &str) -> [Option<&Paths<R>>; 3] {
        let wildcard = parent(host).and_then(|suffix| self.wildcard.get(suffix));
        [self.exact.get(host), wildcard, Some(&self.any)]
    }
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self::new([])
    }
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self { exact: HashMap::new(), prefix: HashMap::new(), regex: Vec::new(), otherwise: None }
    }
}

impl<R> Paths<R> {
    fn add(&mut self, path: PathMatch, entry: Entry<R>) {
        match path {
            PathMatch::Exact(path) => self.exact.entry(path).or_default().push(entry),
            PathMatch::Prefix(path) => self.prefix.entry(trimmed(&path).to_owned()).or_default().push(entry),
            PathMatch::Regex(pattern) => self.regex.push((pattern, entry)),
            PathMatch::Otherwise => drop(self.otherwise.get_or_insert(entry.target)),
        }
    }

    fn rules(&self, host: &str) -> Vec<(String, String, usize, &R)> {
        let exact = self
            .exact
            .iter()
            .flat_map(|(path, entries)| entries.iter().map(move |it| (0, path.as_str(), it)));
        let prefix = self.prefix.iter().flat_map(|(path, entries)| {
            entries.iter().map(move |it| (1, if path.is_empty() { "/" } else { path.as_str() }, it))
        });
        let regex = self.regex.iter().map(|(pattern, it)| (1, pattern.as_str(), it));
        let mut found: Vec<_> = exact.chain(prefix).chain(regex).collect();
        // An exact path before others, then the longest.
        found.sort_by_key(|(kind, path, _)| (*kind, std::cmp::Reverse(path.len()), *path));
        let kind = |kind, path: &str| match (kind, path.starts_with('^')) {
            (0, _) => "exact",
            (_, true) => "regex",
            (_, false) => "prefix",
        };
        let rules = found.into_iter().map(|(number, path, it)| {
            let text = format!("{} {path}", kind(number, path));
            let (method, headers, query, cookies) = it.conditions.specificity();
            (host.to_owned(), text, usize::from(method) + headers + query + cookies, &it.target)
        });
        let otherwise =
            self.otherwise.iter().map(|target| (host.to_owned(), "otherwise".to_owned(), 0, target));
        rules.chain(otherwise).collect()
    }

    /// Sorting keeps the order of equals: the older rule stays first.
    fn sort(&mut self) {
        let by_conditions = |entry: &Entry<R>| std::cmp::Reverse(entry.conditions.specificity());
        for entries in self.exact.values_mut().chain(self.prefix.values_mut()) {
            entries.sort_by_key(by_conditions);
        }
        self.regex.sort_by_key(|(pattern, entry)| {
            (std::cmp::Reverse(pattern.as_str().len()), by_conditions(entry))
        });
    }

    fn find(&self, asked: &Asked<'_>) -> Option<&R> {
        if let Some(target) = self.exact.get(asked.path).and_then(|entries| first(entries, asked)) {
            return Some(target);
        }
        let mut regexes = self.regex.iter().peekable();
        for prefix in prefixes(asked.path) {
            let Some(entries) = self.prefix.get(prefix) else { continue };
            let longer = |(pattern, _): &&(Regex, Entry<R>)| pattern.as_str().len() >= prefix.len();
            while let Some((pattern, entry)) = regexes.next_if(longer) {
                if pattern.is_match(asked.path) && entry.conditions.hold(asked) {
                    return Some(&entry.target);
                }
            }
            if let Some(target) = first(entries, asked) {
                return Some(target);
            }
        }
        regexes
            .find(|(pattern, entry)| pattern.is_match(asked.path) && entry.conditions.hold(asked))
            .map(|(_, entry)| &entry.target)
    }
}

fn first<'a, R>(entries: &'a [Entry<R>], asked: &Asked<'_>) -> Option<&'a R> {
    entries.iter().find(|entry| entry.conditions.hold(asked)).map(|entry| &entry.target)
}
