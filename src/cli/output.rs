//! What a command prints: tables for people, JSON for programs.

use std::io::{ErrorKind, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::failure::{Failure, Outcome};

/// How a command shows what it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, times relative to now
    #[default]
    Table,
    /// The admin API's JSON
    Json,
}

/// Prints to stdout. A reader that has seen enough and closed the pipe is no failure.
pub fn print(text: &str) -> Outcome {
    match write(text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::Refused(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints what cannot be had again: nobody reading it is a failure.
pub fn print_once(text: &str) -> Outcome {
    write(text).map_err(|error| {
        Failure::Refused(format!("cannot write the value to standard output: {error}; regenerate the key or token for another one"))
    })
}

pub fn print_json(value: &impl Serialize) -> Outcome {
    print(&(json(value)? + "\n"))
}

/// Prints a line to stderr: what a person should know and a program reading stdout should not meet.
pub fn note(text: &str) {
    // There is nowhere left to say that it could not be said.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Indented JSON without a line end after it.
pub fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::Refused(format!("cannot be shown as JSON: {error}")))
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Rows under headings, each column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Table {
        Table { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| tame(&cell)).collect());
    }

    /// The table, or `instead` when it has no rows.
    pub fn or(self, instead: &str) -> String {
        if self.rows.len() > 1 { aligned(&self.rows) } else { format!("{instead}\n") }
    }
}

/// `heading  value` lines, the values under one another.
pub fn card(lines: &[(&str, String)]) -> String {
    aligned(&lines.iter().map(|(heading, value)| vec![(*heading).to_owned(), tame(value)]).collect::<Vec<_>>())
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Keeps a text on its line: what comes from the gateway was typed by somebody, and must not move the cursor.
pub fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A list for people: `a, b` or what it means that there is none.
pub fn listed(values: Option<&[String]>, absent: &str, empty: &str) -> String {
    match values {
        None => absent.to_owned(),
        Some([]) => empty.to_owned(),
        Some(values) => values.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_and_lines_have_no_tail() {
        let mut table = Table::new(&["NAME", "TIER"]);
        table.row(["été".to_owned(), "free".to_owned()]);
        table.row(["Facturation".to_owned(), String::new()]);
        assert_eq!(table.or("none"), "NAME         TIER\nété          free\nFacturation\n");
        assert_eq!(Table::new(&["NAME"]).or("no machines"), "no machines\n");
        assert_eq!(card(&[("Id", "1".to_owned()), ("Machine", "2".to_owned())]), "Id       1\nMachine  2\n");
    }

    #[test]
    fn nothing_shown_can_move_the_cursor() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\u{1b}[2Jb\nc".to_owned()]);
        assert_eq!(table.or(""), "NAME\na [2Jb c\n");
    }
}
