//! Path patterns: `/v1/sensors/{id}/config`, `/v1/{*rest}`.
//!
//! A pattern is written in the canonical form that requests are brought to before they are matched (RFC 3986 section
//! 6.2.2.2): a literal in any other form would never match, and the route would silently protect nothing.

use std::fmt;

/// What a route's path looks like. Paths are case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What stands between the slashes: at least one segment; a [`Segment::Rest`] only at the end.
    pub segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Itself, byte for byte. Empty only as the last one: the pattern ends in a slash.
    Literal(String),
    /// Any one segment that is not empty, by the parameter's name.
    Parameter(String),
    /// All that is left, also nothing: `/v1/{*rest}` matches `/v1`, `/v1/` and `/v1/a/b`.
    Rest(String),
}

impl Pattern {
    /// Reads a pattern. The error says what is wrong after the quoted text: `"v1" does not begin with a slash; …`.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let path = text.strip_prefix('/').ok_or("does not begin with a slash; write a path like /v1/{*rest}")?;
        let parts: Vec<&str> = path.split('/').collect();
        let mut segments: Vec<Segment> = Vec::with_capacity(parts.len());
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let segment = Segment::parse(part)?;
            match &segment {
                Segment::Literal(literal) if literal.is_empty() && !last => {
                    return Err("holds \"//\", which is refused in requests; write one slash".to_owned());
                }
                Segment::Rest(name) if !last => {
                    return Err(format!("goes on after {{*{name}}}, which takes all that is left; write {{{name}}} for a single segment"));
                }
                _ => {}
            }
            if let Some(name) = segment.name().filter(|name| segments.iter().any(|s| s.name() == Some(name))) {
                return Err(format!("names the parameter {name:?} twice; give each one a name of its own"));
            }
            segments.push(segment);
        }
        Ok(Pattern { segments })
    }

    /// The names of the parameters that take one segment, from left to right.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Parameter(_))).filter_map(Segment::name)
    }

    /// The pattern without its parameters' names: two patterns of one shape match the same paths.
    pub(super) fn shape(&self) -> String {
        self.segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(text) => format!("/{text}"),
                Segment::Parameter(_) => "/{}".to_owned(),
                Segment::Rest(_) => "/{*}".to_owned(),
            })
            .collect()
    }

    /// Whether it ends in a rest and matches some path that `other` matches too.
    pub(super) fn lies_over(&self, other: &Pattern) -> bool {
        let Some((Segment::Rest(_), before)) = self.segments.split_last() else { return false };
        let meets = |(mine, theirs): (&Segment, &Segment)| match (mine, theirs) {
            (Segment::Literal(a), Segment::Literal(b)) => a == b,
            _ => true,
        };
        let ends_in_rest = matches!(other.segments.last(), Some(Segment::Rest(_)));
        (other.segments.len() >= before.len() || ends_in_rest) && before.iter().zip(&other.segments).all(meets)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Parameter(name) => write!(f, "/{{{name}}}"),
            Segment::Rest(name) => write!(f, "/{{*{name}}}"),
        })
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Segment, String> {
        match text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
            Some(inner) => match inner.strip_prefix('*') {
                Some(name) => parameter(name).map(Segment::Rest),
                None => parameter(inner).map(Segment::Parameter),
            },
            None => literal(text).map(Segment::Literal),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Segment::Literal(_) => None,
            Segment::Parameter(name) | Segment::Rest(name) => Some(name),
        }
    }
}

fn parameter(name: &str) -> Result<String, String> {
    let good = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if good && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(name.to_owned());
    }
    Err(format!("has a parameter {{{}}}; its name is of a-z, 0-9 and _ and begins with a letter: {{id}}, {{*rest}}", name.escape_default()))
}

/// Checks what the one view of the target would refuse or change.
fn literal(text: &str) -> Result<String, String> {
    if matches!(text, "." | "..") {
        return Err(format!("holds the dot segment \"{text}\", which is refused in requests; write the path it leads to"));
    }
    let bytes = text.as_bytes();
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' | b'}' => return Err("has a brace within a segment; a parameter takes a whole one: /v1/{id}/config".to_owned()),
            b'%' => escape(bytes.get(i + 1..i + 3))?,
            b'?' => return Err("holds a query; patterns match the path alone: remove the ? and what follows".to_owned()),
            b';' | b'\\' | b'#' | b'<' | b'>' | b'`' => return Err(format!("holds {:?}, which is refused in requests", char::from(*byte))),
            b' ' => return Err("holds a space; write %20".to_owned()),
            b'!'..=b'~' => {}
            _ => return Err("holds a character that is not printable ASCII; percent-encode its UTF-8 bytes: é is %C3%A9".to_owned()),
        }
    }
    Ok(text.to_owned())
}

/// Checks the two digits of a percent-encoding.
fn escape(digits: Option<&[u8]>) -> Result<(), String> {
    let digits = digits.and_then(|d| std::str::from_utf8(d).ok()).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some((digits, byte)) = digits.and_then(|d| u8::from_str_radix(d, 16).ok().map(|byte| (d, byte))) else {
        return Err("has a % without two hexadecimal digits; write %25 for the sign itself".to_owned());
    };
    match byte {
        b'/' | b'\\' | 0 => Err(format!("holds %{digits}, which is refused in requests (an encoded slash, backslash or NUL)")),
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            Err(format!("holds %{digits}, which requests are freed of before they are matched; write {}", char::from(byte)))
        }
        _ if digits.bytes().any(|b| b.is_ascii_lowercase()) => {
            Err(format!("holds %{digits} in lower case; write %{}", digits.to_ascii_uppercase()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn patterns_are_split_at_slashes() {
        let literal = |s: &str| Segment::Literal(s.to_owned());
        let cases = [
            ("/", vec![literal("")]),
            ("/v1", vec![literal("v1")]),
            ("/v1/", vec![literal("v1"), literal("")]),
            ("/{id}/x", vec![Segment::Parameter("id".to_owned()), literal("x")]),
            ("/{*rest}", vec![Segment::Rest("rest".to_owned())]),
            ("/a%20b/%C3%A9:c@d", vec![literal("a%20b"), literal("%C3%A9:c@d")]),
            ("/...", vec![literal("...")]),
        ];
        for (text, segments) in cases {
            assert_eq!(pattern(text).segments, segments, "{text}");
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn what_no_request_can_match_is_refused() {
        let cases = [
            ("", "begin with a slash"),
            ("v1", "begin with a slash"),
            ("//v1", "\"//\""),
            ("/a//b", "\"//\""),
            ("/a/../b", "dot segment"),
            ("/.", "dot segment"),
            ("/%2e%2e", "write ."),
            ("/%41", "write A"),
            ("/%2F", "encoded slash"),
            ("/%5c", "encoded slash"),
            ("/%00", "encoded slash"),
            ("/%3a", "write %3A"),
            ("/%", "two hexadecimal digits"),
            ("/%2", "two hexadecimal digits"),
            ("/%zz", "two hexadecimal digits"),
            ("/%+1", "two hexadecimal digits"),
            ("/%é", "two hexadecimal digits"),
            ("/a;b", "';'"),
            ("/a\\b", "'\\\\'"),
            ("/a?b", "query"),
            ("/a#b", "'#'"),
            ("/é", "%C3%A9"),
            ("/a b", "%20"),
            ("/a\u{7}", "printable"),
            ("/v{id}", "whole one"),
            ("/{id", "whole one"),
            ("/{}", "parameter {}"),
            ("/{Id}", "parameter {Id}"),
            ("/{1}", "parameter {1}"),
            ("/{*}", "parameter {}"),
            ("/{*rest}/a", "goes on after {*rest}"),
            ("/{*rest}/", "goes on after {*rest}"),
            ("/{id}/{id}", "\"id\" twice"),
            ("/{id}/{*id}", "\"id\" twice"),
        ];
        for (text, part) in cases {
            let got = Pattern::parse(text);
            assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{text} gave {got:?}");
        }
    }

    #[test]
    fn a_shape_forgets_names() {
        assert_eq!(pattern("/v1/{id}/{*a}").shape(), pattern("/v1/{x}/{*b}").shape());
        assert_ne!(pattern("/v1/{id}").shape(), pattern("/v1/id").shape());
        assert_ne!(pattern("/v1").shape(), pattern("/v1/").shape());
    }

    #[test]
    fn a_rest_lies_over_what_shares_a_path_with_it() {
        let cases = [
            ("/{*r}", "/v1/x", true),
            ("/v1/{*r}", "/v1", true),
            ("/v1/{*r}", "/v2", false),
            ("/v1/{*r}", "/{id}/x", true),
            ("/{id}/{*r}", "/v1/x", true),
            ("/v1/a/{*r}", "/v1", false),
            ("/v1/a/{*r}", "/v1/{*x}", true),
            ("/v1", "/v1", false),
        ];
        for (over, under, expected) in cases {
            assert_eq!(pattern(over).lies_over(&pattern(under)), expected, "{over} over {under}");
        }
    }
}
