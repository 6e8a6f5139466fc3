//! Cells in aligned columns, line after line: a column is as wide as its widest cell so far, so that a stream of lines
//! needs no second look.

/// How a cell stands out on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Quiet,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }

    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

#[derive(Default)]
pub(crate) struct Columns {
    widths: Vec<usize>,
    colour: bool,
}

impl Columns {
    pub(crate) fn new(colour: bool) -> Self {
        Self { widths: Vec::new(), colour }
    }

    /// Makes room for a row that comes later.
    pub(crate) fn fit(&mut self, row: &[Cell]) {
        self.widths.resize(self.widths.len().max(row.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }

    /// One line, without its end, two spaces between the columns and nothing after the last.
    pub(crate) fn line(&mut self, row: &[Cell]) -> String {
        self.fit(row);
        let mut line = String::new();
        let mut owed = 0;
        for (cell, width) in row.iter().zip(&self.widths) {
            if !cell.text.is_empty() {
                line.extend(std::iter::repeat_n(' ', owed));
                owed = 0;
                self.write(&mut line, cell);
            }
            owed += width + 2 - cell.width();
        }
        line
    }

    fn write(&self, line: &mut String, cell: &Cell) {
        line.push_str(&toned(&cell.text, cell.tone, self.colour));
    }
}

/// A text as it stands out on a terminal that has colours.
pub(crate) fn toned(text: &str, tone: Tone, colour: bool) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Bad => "31",
        Tone::Quiet => "2",
        Tone::Plain => "",
    };
    if colour && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// All rows in columns of their own, each line after `indent`.
pub(crate) fn aligned(rows: &[Vec<Cell>], indent: &str, colour: bool) -> String {
    let mut columns = Columns::new(colour);
    rows.iter().for_each(|row| columns.fit(row));
    rows.iter().map(|row| format!("{indent}{}\n", columns.line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_grows_with_its_cells_and_lines_have_no_trailing_space() {
        let mut columns = Columns::new(false);
        let row = |cells: [&str; 3]| cells.map(Cell::new);
        assert_eq!(columns.line(&row(["a", "b", "c"])), "a  b  c");
        assert_eq!(columns.line(&row(["long", "→", ""])), "long  →");
        assert_eq!(columns.line(&row(["a", "", "c"])), "a        c");
    }

    #[test]
    fn colour_does_not_count_as_width() {
        let mut columns = Columns::new(true);
        let line = columns.line(&[Cell::toned("no", Tone::Bad), Cell::new("x")]);
        assert_eq!(line, "\x1b[31mno\x1b[0m  x");
        assert_eq!(columns.line(&[Cell::new("yes"), Cell::new("x")]), "yes  x");
    }
}
