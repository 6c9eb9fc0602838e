//! What a command prints: tables for people, JSON for programs.

use std::borrow::Cow;
use std::io::{ErrorKind, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::client::understand;
use super::failure::{Failure, Outcome};
use crate::admin::wire::Warning;

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

/// What an answer to a change warns of.
pub fn warnings(answer: &Value) -> Result<Vec<Warning>, Failure> {
    answer.get("warnings").cloned().map(understand).transpose().map(Option::unwrap_or_default)
}

/// Prints to stderr what was accepted and is probably not what was meant.
pub fn warn(warnings: &[Warning]) {
    for warning in warnings {
        note(&format!("warning: {}", tame(&warning.message.en)));
    }
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
        self.within(None, instead)
    }

    /// Prints it; a terminal gets lines that fit.
    pub fn print_or(self, instead: &str) -> Outcome {
        print(&self.within(terminal(), instead))
    }

    fn within(self, columns: Option<usize>, instead: &str) -> String {
        if self.rows.len() > 1 { aligned(&self.rows, columns) } else { format!("{instead}\n") }
    }
}

/// `heading  value` lines, the values under one another.
pub fn card(lines: &[(&str, String)]) -> String {
    aligned(&lines.iter().map(|(heading, value)| vec![(*heading).to_owned(), tame(value)]).collect::<Vec<_>>(), None)
}

/// How many columns the terminal has that stdout leads to, if it is one.
fn terminal() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

fn aligned(rows: &[Vec<String>], columns: Option<usize>) -> String {
    let widths = widths(rows, columns);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| padded(&cut(cell, *width), *width)).collect();
        text.push_str(cells.join(GAP).trim_end());
        text.push('\n');
    }
    text
}

/// Between two columns.
const GAP: &str = "  ";
/// No column is cut to less.
const NARROWEST: usize = 12;

/// Each column as wide as its widest cell; where they do not fit side by side, the widest give way, but for the first: what
/// stands there is for copying.
fn widths(rows: &[Vec<String>], columns: Option<usize>) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widest = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or_default();
    let mut widths: Vec<usize> = (0..count).map(widest).collect();
    let gaps = count.saturating_sub(1) * GAP.len();
    while columns.is_some_and(|columns| widths.iter().sum::<usize>() + gaps > columns) {
        match widths.iter_mut().skip(1).max().filter(|width| **width > NARROWEST) {
            Some(width) => *width -= 1,
            None => break,
        }
    }
    widths
}

fn cut(cell: &str, width: usize) -> Cow<'_, str> {
    if cell.width() <= width {
        return Cow::Borrowed(cell);
    }
    let mut kept = String::new();
    let mut left = width.saturating_sub(1);
    for c in cell.chars() {
        let Some(rest) = left.checked_sub(c.width().unwrap_or_default()) else { break };
        left = rest;
        kept.push(c);
    }
    Cow::Owned(kept + "…")
}

/// By what it takes on a screen: a Chinese character takes two places, a combining accent none.
fn padded(cell: &str, width: usize) -> String {
    format!("{cell}{}", " ".repeat(width.saturating_sub(cell.width())))
}

/// Keeps a text on its line: what comes from the gateway was typed by somebody, and must neither move the cursor nor turn the
/// direction of writing around.
pub fn tame(text: &str) -> String {
    let moves = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if moves(c) { ' ' } else { c }).collect()
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
    fn columns_are_aligned_by_what_they_take_on_a_screen() {
        let mut table = Table::new(&["NAME", "TIER"]);
        table.row(["請求書".to_owned(), "free".to_owned()]);
        table.row(["e\u{301}te\u{301}".to_owned(), "free".to_owned()]);
        assert_eq!(table.or("none"), "NAME    TIER\n請求書  free\ne\u{301}te\u{301}     free\n");
    }

    #[test]
    fn a_terminal_gets_lines_that_fit_with_the_first_column_whole() {
        let table = || {
            let mut table = Table::new(&["ID", "LABEL", "STATUS"]);
            table.row(["key_0123456789".to_owned(), "Production - Facturation 請求書".to_owned(), "active".to_owned()]);
            table
        };
        let whole = table().or("");
        for columns in [200, 55, 54, 41, 40, 39, 38, 20, 1] {
            let text = table().within(Some(columns), "");
            assert!(text.contains("key_0123456789") && text.contains("active"), "{text}");
            assert_eq!(text == whole, columns >= 55, "{columns}\n{text}");
            assert!(columns < 36 || text.lines().all(|line| line.width() <= columns), "{columns}\n{text}");
        }
        assert!(table().within(Some(40), "").contains("Production - Fa…  active"), "{}", table().within(Some(40), ""));
    }

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
        table.row(["x\u{202e}y\u{2066}z".to_owned()]);
        assert_eq!(table.or(""), "NAME\na [2Jb c\nx y z\n");
    }
}
