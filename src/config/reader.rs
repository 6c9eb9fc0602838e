//! How the tree is read: a [`Value`] is a node with its path, a [`Section`] is a mapping whose fields are known.
//!
//! A reader that cannot make sense of a value reports it and answers `None`; whoever asked goes on with a default, so
//! that one pass finds everything. Nobody gets to see those defaults: one finding, and there are no settings.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::finding::{Position, Report, child, did_you_mean, item, known, quoted};
use super::values;
use super::yaml::{Kind, Name, Node, Scalar};

/// A value, where it stands and what it is called.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub report: &'a Report,
    node: &'a Node,
    /// Where the name stands that it goes by: what is missing inside it is reported there.
    named_at: Position,
    pub path: String,
}

impl<'a> Value<'a> {
    pub fn root(node: &'a Node, report: &'a Report) -> Value<'a> {
        Value { report, node, named_at: Position::START, path: String::new() }
    }

    fn child(&self, name: &'a Name, node: &'a Node) -> Value<'a> {
        Value { report: self.report, node, named_at: name.at, path: child(&self.path, &name.text) }
    }

    /// Reports what is wrong with it.
    pub fn refuse(&self, message: impl Into<String>) {
        self.report.refuse(self.node.at, &self.path, message);
    }

    /// Reports what is wrong with its name, or missing inside it.
    pub fn refuse_name(&self, message: impl Into<String>) {
        self.report.refuse(self.named_at, &self.path, message);
    }

    /// Says that it deserves a second look.
    pub fn warn(&self, message: impl Into<String>) {
        self.report.warn(self.named_at, &self.path, message);
    }

    /// Its text in quotes as the file has it, references unresolved.
    pub fn shown(&self) -> String {
        match &self.node.kind {
            Kind::Scalar(Scalar { text, written, .. }) => quoted(written.as_deref().unwrap_or(text)),
            Kind::Sequence(_) => "a list".to_owned(),
            Kind::Mapping(_) | Kind::Refused => "a group of fields".to_owned(),
        }
    }

    fn expected(&self, what: &str) {
        match &self.node.kind {
            Kind::Refused => {}
            Kind::Scalar(scalar) if scalar.is_null() => self.refuse_name(format!("has no value; write {what} or remove the line")),
            Kind::Scalar(_) => self.refuse(format!("must be {what}, not the text {}", self.shown())),
            _ => self.refuse(format!("must be {what}, not {}", self.shown())),
        }
    }

    /// Whether it is a single text or number (that was not refused).
    pub fn is_scalar(&self) -> bool {
        matches!(self.node.kind, Kind::Scalar(_))
    }

    /// Whether nothing is written behind its name.
    pub fn is_null(&self) -> bool {
        matches!(&self.node.kind, Kind::Scalar(scalar) if scalar.is_null())
    }

    /// Whether it is exactly this text.
    pub fn is(&self, word: &str) -> bool {
        matches!(&self.node.kind, Kind::Scalar(scalar) if scalar.text == word)
    }

    /// Its text; `what` belongs there if it has none.
    fn text(&self, what: &str) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Scalar(scalar) if !scalar.is_null() => Some(&scalar.text),
            _ => {
                self.expected(what);
                None
            }
        }
    }

    /// Whether its text holds `c`.
    pub fn holds(&self, c: char) -> bool {
        matches!(&self.node.kind, Kind::Scalar(scalar) if scalar.text.contains(c))
    }

    /// Reads its text by `parse`, whose error follows the quoted text: what is wrong, `; `, what would be right.
    pub fn parse<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text("a single value")?;
        if text.is_empty() {
            self.refuse("is empty; write a value or remove the line");
            return None;
        }
        match parse(text) {
            Ok(value) => Some(value),
            Err(_) if self.is_resolved() => {
                // The error may repeat a part of the secret. What it says of any wrong value is safe to show.
                let remedy = parse("?").err().and_then(|message| message.split_once("; ").map(|(_, remedy)| format!("; {remedy}")));
                self.refuse(format!("what {} stands for does not fit here{}", self.shown(), remedy.unwrap_or_default()));
                None
            }
            Err(message) => {
                self.refuse(format!("{} {message}", self.shown()));
                None
            }
        }
    }

    /// Whether its text comes from elsewhere, and may be a secret.
    fn is_resolved(&self) -> bool {
        matches!(&self.node.kind, Kind::Scalar(Scalar { written: Some(_), .. }))
    }

    /// Reads its text by `parse`; `false` switches it off (`Some(None)`).
    pub fn parse_or_off<T>(&self, example: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Option<T>> {
        if self.is("false") {
            return Some(None);
        }
        if self.is("true") {
            self.refuse(format!("is on when it has a value: write {example}, or false to switch it off"));
            return None;
        }
        self.parse(parse).map(Some)
    }

    pub fn flag(&self) -> Option<bool> {
        self.parse(|text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is no switch; write true or false".to_owned()),
        })
    }

    /// One of the words that `choices` gives a meaning.
    pub fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        self.parse(|text| match choices.iter().find(|(word, _)| *word == text) {
            Some((_, choice)) => Ok(choice.clone()),
            None => Err(format!("is none of the choices{}; {}", did_you_mean(text, words()), known(words()))),
        })
    }

    pub fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        self.parse(|text| within(values::whole(text)?, &range, |n| n.to_string()))
    }

    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.parse(|text| within(values::duration(text)?, &range, |d| values::show_duration(*d)))
    }

    /// Bytes.
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        self.parse(|text| within(values::size(text)?, &range, |bytes| values::show_size(*bytes)))
    }

    /// The items of a list; `empty` says what an empty one lacks.
    pub fn items(&self, empty: &str) -> Option<Vec<Value<'a>>> {
        let Kind::Sequence(nodes) = &self.node.kind else {
            self.expected("a list like [a, b]");
            return None;
        };
        let item = |(i, node): (usize, &'a Node)| Value { report: self.report, node, named_at: node.at, path: item(&self.path, i) };
        self.unless_empty(nodes.iter().enumerate().map(item).collect(), empty)
    }

    /// The entries of a mapping whose names the operator chooses; `empty` says what an empty one lacks.
    pub fn entries(&self, of: &str, empty: &str) -> Option<Vec<(&'a str, Value<'a>)>> {
        let Kind::Mapping(entries) = &self.node.kind else {
            self.expected(&format!("a group of {of} by name"));
            return None;
        };
        self.unless_empty(entries.iter().map(|(name, node)| (name.text.as_str(), self.child(name, node))).collect(), empty)
    }

    /// `values`, or a finding if there are none and `empty` says that there must be.
    fn unless_empty<T>(&self, values: Vec<T>, empty: &str) -> Option<Vec<T>> {
        if values.is_empty() && !empty.is_empty() {
            self.refuse(format!("is empty; {empty}"));
            return None;
        }
        Some(values)
    }

    /// Reads a mapping by its fields; what `read` did not ask for is unknown, and reported.
    pub fn section<T>(&self, read: impl FnOnce(&mut Section<'a>) -> T) -> Option<T> {
        let Kind::Mapping(_) = &self.node.kind else {
            self.expected(if self.path.is_empty() { "a group of fields, upstreams: and routes: at least" } else { "a group of fields" });
            return None;
        };
        let mut section = Section { value: self.clone(), asked: Vec::new() };
        let result = read(&mut section);
        section.report_unknown();
        Some(result)
    }
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("is out of bounds; write {} to {}", show(range.start()), show(range.end())))
}

/// A mapping whose fields the gateway names. It remembers which ones were asked for.
pub(super) struct Section<'a> {
    pub value: Value<'a>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The value of a field, if the file has it.
    pub fn field(&mut self, name: &'static str) -> Option<Value<'a>> {
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        let Kind::Mapping(entries) = &self.value.node.kind else { return None };
        entries.iter().find(|(found, _)| found.text == name).map(|(name, node)| self.value.child(name, node))
    }

    /// The value of a field that the file must have; `hint` says what belongs there.
    pub fn required(&mut self, name: &'static str, hint: impl Display) -> Option<Value<'a>> {
        let field = self.field(name);
        if field.is_none() {
            self.value.refuse_name(format!("{name:?} is missing; {hint}"));
        }
        field
    }

    /// Reads a field, or takes its default.
    pub fn read<T>(&mut self, name: &'static str, default: T, read: impl FnOnce(&Value<'a>) -> Option<T>) -> T {
        self.field(name).and_then(|value| read(&value)).unwrap_or(default)
    }

    fn report_unknown(&self) {
        let Kind::Mapping(entries) = &self.value.node.kind else { return };
        for (name, node) in entries.iter().filter(|(name, _)| !self.asked.contains(&name.text.as_str())) {
            let hint = did_you_mean(&name.text, self.asked.iter().copied());
            self.value.child(name, node).refuse_name(format!("unknown field{hint}; {}", known(self.asked.iter().copied())));
        }
    }
}
