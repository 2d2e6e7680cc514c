//! Text tables: columns aligned left or right, as wide as their cells.

use std::fmt;

/// How the cells of a column are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// A table that is formatted once all its rows are known: two spaces before each column, none at the end of a line.
#[derive(Clone, Debug)]
pub struct Table {
    head: Vec<String>,
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without columns.
    pub fn new() -> Table {
        Table { head: Vec::new(), aligns: Vec::new(), rows: Vec::new() }
    }

    /// Adds a column that is aligned left.
    pub fn left(mut self, head: impl Into<String>) -> Table {
        self.column(head, Align::Left);
        self
    }

    /// Adds a column that is aligned right.
    pub fn right(mut self, head: impl Into<String>) -> Table {
        self.column(head, Align::Right);
        self
    }

    /// Adds a column.
    pub fn column(&mut self, head: impl Into<String>, align: Align) {
        self.head.push(head.into());
        self.aligns.push(align);
    }

    /// Adds a row. Cells that are missing at its end are empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Default for Table {
    fn default() -> Self {
        Table::new()
    }
}

impl fmt::Display for Table {
    /// Writes the head, if a column has one, and the rows, each with a line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headed = self.head.iter().any(|name| !name.is_empty());
        let lines = || headed.then_some(&self.head).into_iter().chain(&self.rows);
        let wide = |c: usize| lines().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(wide).collect();
        for row in lines() {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.aligns).zip(&widths) {
                line += &match align {
                    Align::Left => format!("  {cell:<width$}"),
                    Align::Right => format!("  {cell:>width$}"),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new().left("name").right("users").left("state");
        table.row(["é", "1,000,000", "done"]);
        table.row(["longer name", "7", ""]);
        table.row(["short"]);
        assert_eq!(
            table.to_string(),
            "  name             users  state\n  é            1,000,000  done\n  longer name          7\n  short\n"
        );
        let mut bare = Table::new().right("").left("");
        assert!(bare.is_empty());
        bare.row(["1", "x"]);
        bare.row(["10", "y"]);
        assert_eq!(bare.to_string(), "   1  x\n  10  y\n");
    }
}
