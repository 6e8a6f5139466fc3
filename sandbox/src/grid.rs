//! The truth table drawn: rows are sources, columns stand under a staircase of names, so that a dozen workloads fit a
//! terminal of eighty characters.

use std::collections::{BTreeMap, BTreeSet};

use crate::output::{Look, Names, heading, line};
use crate::table::{Column, Mark, Party, Table};

/// One grid for each namespace that is reached, cut into several where the terminal is too narrow.
pub(crate) fn write(out: &mut String, table: &Table, names: &Names<'_>, look: Look) {
    let mut blocks: BTreeMap<Option<&str>, Vec<&Column>> = BTreeMap::new();
    for column in table.columns() {
        blocks.entry(column.to.namespace()).or_default().push(column);
    }
    // What lies beyond the pods comes last.
    let beyond = blocks.remove(&None);
    let titled = blocks.into_iter().map(|(namespace, columns)| {
        (namespace.map_or_else(String::new, |namespace| format!("Who reaches {namespace}")), columns)
    });
    let beyond = beyond.map(|columns| ("Who reaches nodes and the outside".to_owned(), columns));
    for (title, columns) in titled.chain(beyond) {
        let rows: Vec<&Party> = table
            .rows()
            .into_iter()
            .filter(|row| columns.iter().any(|column| table.mark(row, column).is_some()))
            .collect();
        let label = rows.iter().map(|row| names.row(row).chars().count()).max().unwrap_or_default();
        let room = look.width.saturating_sub(label + 3);
        let mut rest = columns.as_slice();
        while !rest.is_empty() {
            let (part, later) = rest.split_at(fitting(rest, names, room));
            heading(out, &title, look);
            staircase(out, part, names, label);
            for row in &rows {
                let marks: Vec<_> = part.iter().map(|column| look.mark(table.mark(row, column))).collect();
                line(out, &format!("  {:label$} {}", names.row(row), marks.join(" ")));
            }
            rest = later;
        }
    }
    let used: BTreeSet<Mark> = table.cells.values().copied().collect();
    if !used.is_empty() {
        let legend: Vec<_> = Mark::ALL
            .iter()
            .filter(|mark| used.contains(mark))
            .map(|mark| format!("{} {}", look.mark(Some(*mark)), mark.meaning()))
            .collect();
        line(out, &format!("\n  {}   {} itself, or not probed", legend.join("   "), look.mark(None)));
    }
}

/// How many of `columns` go side by side into `room` characters, names included; at least one.
fn fitting(columns: &[&Column], names: &Names<'_>, room: usize) -> usize {
    let fits =
        |(index, column): &(usize, &&Column)| 2 * index + 2 + names.column(column).chars().count() <= room;
    columns.iter().enumerate().take_while(fits).count().max(1)
}

/// One line a column: its name hangs over its marks.
fn staircase(out: &mut String, columns: &[&Column], names: &Names<'_>, label: usize) {
    for (index, column) in columns.iter().enumerate() {
        let indent = " ".repeat(label + 3);
        line(out, &format!("{indent}{}┌ {}", "│ ".repeat(index), names.column(column)));
    }
}
