//! What is wrong in a settings file, where it stands, and what would be right.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::model::secret::masked;

/// A place in a settings file: both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    pub const START: Position = Position { line: 1, column: 1 };
}

/// One thing that is wrong, or (in [`Settings::warnings`](super::Settings::warnings)) deserves a second look.
///
/// Shown as `file:line:column: path.to.field: what is wrong; known: a, b` on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The settings file as it was named on the command line.
    pub file: PathBuf,
    /// `None` where the file as a whole is meant (it is missing, say).
    pub at: Option<Position>,
    /// The field, `routes.sensors.match.path` or `trusted_proxies[2]`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what would be right, in lower case. Values show as the file has them, `${env:…}` unresolved.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(Position { line, column }) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong in a settings file, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// The file as a whole cannot be read.
    pub(super) fn unreadable(file: &Path, message: String) -> Findings {
        Findings(vec![Finding { file: file.to_owned(), at: None, path: String::new(), message }])
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One finding per line, without a line break after the last.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}

/// Where the readers of one file put what they find. They share it, hence the cells.
pub(super) struct Report {
    file: PathBuf,
    findings: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

impl Report {
    pub fn new(file: &Path) -> Report {
        Report { file: file.to_owned(), findings: RefCell::default(), warnings: RefCell::default() }
    }

    pub fn refuse(&self, at: Position, path: &str, message: impl Into<String>) {
        self.findings.borrow_mut().push(self.finding(at, path, message.into()));
    }

    pub fn warn(&self, at: Position, path: &str, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.finding(at, path, message.into()));
    }

    fn finding(&self, at: Position, path: &str, message: String) -> Finding {
        Finding { file: self.file.clone(), at: Some(at), path: path.to_owned(), message }
    }

    /// Lets `value` out only if nothing was found, together with the warnings. Whoever could not read a value has
    /// reported why, so that without findings there is one.
    pub fn conclude<T>(self, value: Option<T>) -> Result<(T, Vec<Finding>), Findings> {
        let mut findings = self.findings.into_inner();
        match value {
            Some(value) if findings.is_empty() => Ok((value, sorted(self.warnings.into_inner()))),
            _ if findings.is_empty() => Err(Findings::unreadable(&self.file, "cannot be read as settings".to_owned())),
            _ => Err(Findings(sorted(std::mem::take(&mut findings)))),
        }
    }
}

fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| (a.at, &a.path).cmp(&(b.at, &b.path)));
    findings
}

/// The path of the field `name` of what stands at `path`. A name of other characters than usual is quoted, so that
/// nothing in a file can draw on an operator's terminal.
pub(super) fn child(path: &str, name: &str) -> String {
    let usual = |c: char| c.is_ascii_alphanumeric() || "_-:".contains(c);
    let name = if (1..=80).contains(&name.len()) && name.chars().all(usual) { name.to_owned() } else { quoted(name) };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// The path of the item `index` (from 0) of the list at `path`.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// `text` in quotes, escaped, cut after 80 characters.
pub(super) fn quoted(text: &str) -> String {
    let masked = masked(text.as_bytes());
    let text = &*String::from_utf8_lossy(&masked);
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// `known: a, b` for the end of a message.
pub(super) fn known<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 32;
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() {
        return "none is defined".to_owned();
    }
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("known: {}{more}", names[..names.len().min(SHOWN)].join(", "))
}

/// ` (did you mean "x"?)` when one of `names` is a typing error away from `name`, else nothing.
pub(super) fn did_you_mean<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    // The distance costs the product of both lengths; nobody mistypes a longer name than this.
    if name.len() > 64 {
        return String::new();
    }
    let lower = name.to_ascii_lowercase();
    let allowed = (name.chars().count() / 3).max(1);
    // A beginning of at least three characters is an abbreviation.
    let steps = |n: &str| if lower.len() >= 3 && n.starts_with(&lower) { 1 } else { distance(&lower, &n.to_ascii_lowercase()) };
    let nearest = names.into_iter().map(|n| (steps(n), n)).min();
    match nearest {
        Some((steps, near)) if steps <= allowed => format!(" (did you mean {}?)", quoted(near)),
        _ => String::new(),
    }
}

/// The number of characters to insert, delete, replace or swap with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replace = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Environment, Secret};

    #[test]
    fn typing_errors_are_recognised_and_other_words_are_not() {
        let names = ["upstreams", "routes", "tiers", "default_tier"];
        let cases = [
            ("tie", " (did you mean \"tiers\"?)"),
            ("upstream", " (did you mean \"upstreams\"?)"),
            ("ruotes", " (did you mean \"routes\"?)"),
            ("Tiers", " (did you mean \"tiers\"?)"),
            ("default-tier", " (did you mean \"default_tier\"?)"),
            ("plugins", ""),
            ("x", ""),
        ];
        for (name, expected) in cases {
            assert_eq!(did_you_mean(name, names), expected, "{name}");
        }
        assert_eq!(did_you_mean(&"r".repeat(100_000), names), "");
    }

    #[test]
    fn nothing_in_a_file_can_draw_on_a_terminal() {
        assert_eq!(child("routes", "a\u{1b}[2J"), "routes.\"a\\u{1b}[2J\"");
        assert_eq!(child("permissions", "sensors:read"), "permissions.sensors:read");
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert!(quoted(&"x".repeat(1_000)).chars().count() < 90);
    }

    #[test]
    fn the_value_of_a_key_is_not_quoted() {
        let mut n = 0;
        let drawn = Secret::generate("pk", &Environment::parse("prod").unwrap(), |bytes| {
            bytes.iter_mut().for_each(|b| (n, *b) = ((n + 7) % 200, n));
            Ok::<(), ()>(())
        });
        assert_eq!(quoted(&format!("a {}", *drawn.unwrap().reveal())), "\"a pk_prod_…\"");
    }

    #[test]
    fn findings_are_shown_in_the_order_of_the_file() {
        let report = Report::new(Path::new("o.yaml"));
        report.refuse(Position { line: 10, column: 1 }, "b", "two");
        report.refuse(Position { line: 9, column: 3 }, "a", "one");
        let findings = report.conclude(Some(())).unwrap_err();
        assert_eq!(findings.to_string(), "o.yaml:9:3: a: one\no.yaml:10:1: b: two");
    }
}
