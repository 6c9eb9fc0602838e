//! The text of a settings file as a tree in which every value knows where it stands.
//!
//! Of YAML only what can be read in one way is taken: no anchors, aliases, tags, duplicate keys, or second document.
//! Most readers keep the last of two equal keys without a word; here that could be the difference between two permissions.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::finding::{Position, Report, child, item};

/// No settings are nested deeper; without a bound, 10 000 opening brackets would use up the stack.
const MAX_DEPTH: usize = 32;
const TOO_DEEP: &str = "nested too deep; settings have at most 32 levels";

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub at: Position,
    pub kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    /// In the order of the file; every name once.
    Mapping(Vec<(Name, Node)>),
    /// Something stood here that has been reported: nobody needs to complain about it again.
    Refused,
}

/// The name of a field and where it stands.
#[derive(Debug)]
pub(super) struct Name {
    pub at: Position,
    pub text: String,
}

#[derive(Debug)]
pub(super) struct Scalar {
    /// What it stands for, `${…}` resolved.
    pub text: String,
    /// What the file says where that differs: findings show this, never a resolved secret.
    pub written: Option<String>,
    /// Without quotes: only then `null`, `~` and nothing at all mean "no value".
    pub plain: bool,
}

impl Scalar {
    pub fn is_null(&self) -> bool {
        self.plain && self.written.is_none() && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

/// Reads the only document of `text`; `None` after a syntax error, or when there is nothing in it. Whatever else is
/// wrong is reported too, and the tree goes on behind it.
pub(super) fn tree(text: &str, report: &Report) -> Option<Node> {
    let mut builder = Builder { parser: Parser::new_from_str(text), report };
    match builder.document() {
        Ok(root) => root,
        Err(Stop::Syntax(error)) => {
            let (at, message) = explain(text, &error);
            report.refuse(at, "", message);
            None
        }
        Err(Stop::TooDeep(at, path)) => {
            report.refuse(at, &path, TOO_DEEP);
            None
        }
    }
}

enum Stop {
    Syntax(ScanError),
    TooDeep(Position, String),
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    report: &'a Report,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Position), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, position(&span))),
            Some(Err(error)) => Err(Stop::Syntax(error)),
            None => Err(Stop::Syntax(ScanError::new_str(Default::default(), "it ends in the middle"))),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::DocumentStart(_), at) if root.is_some() => {
                    self.report.refuse(at, "", "a second document begins here; one file holds one document: remove the line \"---\"");
                    return Ok(root);
                }
                (Event::DocumentStart(_), _) => {
                    let (event, at) = self.next()?;
                    root = Some(self.node(event, at, "", 0)?);
                }
                _ => {}
            }
        }
        if root.as_ref().is_none_or(|node| matches!(&node.kind, Kind::Scalar(scalar) if scalar.is_null())) {
            self.report.refuse(Position::START, "", "the file is empty; the least that works is one upstream and one route");
            return Ok(None);
        }
        Ok(root)
    }

    fn node(&mut self, event: Event<'a>, at: Position, path: &str, depth: usize) -> Result<Node, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::TooDeep(at, path.to_owned()));
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            _ => (0, false),
        };
        if anchor > 0 {
            self.report.refuse(at, path, "anchors (&name) are not taken; write the value out where it is needed");
        }
        if tag {
            self.report.refuse(at, path, "tags (!name) are not taken; put text that looks like a number in quotes");
        }
        let kind = match event {
            Event::Scalar(text, style, ..) => {
                Kind::Scalar(Scalar { text: text.into_owned(), written: None, plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(..) => self.sequence(path, depth)?,
            Event::MappingStart(..) => self.mapping(path, depth)?,
            Event::Alias(_) => {
                self.report.refuse(at, path, "aliases (*name) are not taken; write the value out, in quotes if it begins with *");
                Kind::Refused
            }
            _ => Kind::Refused,
        };
        Ok(Node { at, kind })
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Kind, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Kind::Sequence(items)),
                (event, at) => items.push(self.node(event, at, &item(path, items.len()), depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Kind, Stop> {
        let mut entries = Vec::new();
        let mut seen: HashMap<String, Position> = HashMap::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Kind::Mapping(entries));
            }
            let Kind::Scalar(Scalar { text, .. }) = self.node(event, at, path, depth + 1)?.kind else {
                self.report.refuse(
                    at,
                    path,
                    "the name of a field is a word, not a list or a mapping; text that begins with { or [ needs quotes",
                );
                self.value(path, depth)?;
                continue;
            };
            let path = child(path, &text);
            let value = self.value(&path, depth)?;
            match seen.get(&text) {
                Some(first) => {
                    self.report.refuse(
                        at,
                        &path,
                        format!("stands here a second time; it was first set in line {}: keep one of them", first.line),
                    );
                }
                None => {
                    seen.insert(text.clone(), at);
                    entries.push((Name { at, text }, value));
                }
            }
        }
    }

    fn value(&mut self, path: &str, depth: usize) -> Result<Node, Stop> {
        let (event, at) = self.next()?;
        self.node(event, at, path, depth + 1)
    }
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

/// The usual cause of a syntax error is a tab, which no message of a YAML scanner says clearly: look for one first.
fn explain(text: &str, error: &ScanError) -> (Position, String) {
    let at = Position { line: error.marker().line(), column: error.marker().col() + 1 };
    let tab = text.lines().enumerate().take(at.line).skip(at.line.saturating_sub(2)).find_map(|(i, line)| {
        let indent = line.len() - line.trim_start().len();
        line[..indent].find('\t').map(|tab| Position { line: i + 1, column: tab + 1 })
    });
    match tab {
        Some(tab) => (tab, "a tab indents this line; YAML takes spaces only".to_owned()),
        None if error.info().contains("unknown anchor") => {
            (at, "aliases (*name) are not taken; put text that holds { or * in quotes".to_owned())
        }
        None if error.info().contains("recursion limit") => (at, TOO_DEEP.to_owned()),
        None => (at, format!("not valid YAML: {}", error.info())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn found(text: &str) -> String {
        let report = Report::new(Path::new("f"));
        let tree = tree(text, &report);
        report.conclude(tree).map(|_| String::new()).unwrap_or_else(|findings| findings.to_string())
    }

    #[test]
    fn every_value_knows_its_line_and_column() {
        let report = Report::new(Path::new("f"));
        let root = tree("a:\n  b: [1, \"x\"]\né: {c: d}\n", &report).unwrap();
        let Kind::Mapping(fields) = &root.kind else { panic!("{root:?}") };
        let Kind::Mapping(inner) = &fields[0].1.kind else { panic!("{root:?}") };
        let Kind::Sequence(items) = &inner[0].1.kind else { panic!("{root:?}") };
        let place = |at: Position| (at.line, at.column);
        assert_eq!(place(inner[0].0.at), (2, 3));
        assert_eq!(items.iter().map(|i| place(i.at)).collect::<Vec<_>>(), [(2, 7), (2, 10)]);
        assert_eq!(place(fields[1].1.at), (3, 4));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let cases = [
            ("a: 1\nb: 2\na: 3\n", "f:3:1: a: stands here a second time; it was first set in line 1"),
            ("a: {b: 1, b: 1}\n", "f:1:11: a.b: stands here a second time"),
            ("a: &x 1\nb: *x\n", "f:2:4: b: aliases"),
            ("a: !!str 1\n", "a: tags"),
            ("a: 1\n---\nb: 2\n", "f:2:1: a second document"),
            ("? [a]\n: b\n", "the name of a field is a word"),
            ("", "f:1:1: the file is empty"),
            ("# nothing\n---\n", "f:1:1: the file is empty"),
            ("a:\n\tb: 1\n", "f:2:1: a tab indents this line"),
            ("a: [1\nb: 2\n", "not valid YAML"),
        ];
        for (text, expected) in cases {
            assert!(found(text).contains(expected), "{text:?} gave {}", found(text));
        }
        assert_eq!(found("---\na: 1\n"), "");
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        for text in ["[".repeat(100_000), "a: {".repeat(10_000), "- ".repeat(100_000), "? ".repeat(100_000), "[".repeat(40)] {
            assert!(found(&text).contains("nested too deep"), "{}: {}", &text[..4], found(&text));
        }
    }
}
