//! Judges one request head, from left to right and once. What is decided depends on the bytes alone, never on how
//! they were cut into reads: every ruling is made at the first byte that decides it.
//!
//! It is stricter than RFC 9112 asks, because what stands behind the gateway is not known: whatever two servers
//! could read differently is refused (request smuggling: bare LF, CL.TE, TE.TE, obs-fold, space before the colon …).

use crate::server::Anomaly;

use super::bytes::{is_path, is_query, token_len, value_len, visible_len};
use super::host;

/// The longest method, in bytes. IANA's longest registered one has 17.
const METHOD_SIZE: usize = 32;

/// How much of a head is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Bytes of a whole head, its final empty line included.
    pub head_size: usize,
    /// Bytes of the target.
    pub uri_size: usize,
    /// Fields in a head; also in a trailer section.
    pub header_count: usize,
}

/// How the body after a head ends (RFC 9112 section 6.3; a request never ends by closing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
}

/// What is known about a head after the bytes that came so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    Incomplete,
    /// It is good and ends after `len` bytes.
    Complete {
        len: usize,
        framing: Framing,
    },
    Refused(Anomaly),
}

/// The judgement of one head, kept between reads so that no line is looked at twice once it is whole.
#[derive(Debug, Default)]
pub struct Judge {
    /// Where the line that is not yet judged begins.
    at: usize,
    line: Line,
    fields: usize,
    http_11: bool,
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Line {
    #[default]
    Lead,
    Request,
    Field,
}

/// A step forward over `Some` bytes, or `None` when the line is not whole yet.
type Step<T> = Result<Option<T>, Anomaly>;

fn malformed<T>(what: &'static str) -> Result<T, Anomaly> {
    Err(Anomaly::Malformed(what))
}

impl Judge {
    /// Judges `head`, which begins with the head's first byte and holds at least what the last call was shown.
    pub fn advance(&mut self, head: &[u8], rules: &Rules) -> Ruling {
        let seen = &head[..head.len().min(rules.head_size)];
        match self.walk(seen, rules) {
            Ok(Some(len)) => Ruling::Complete { len, framing: self.framing() },
            Ok(None) if seen.len() == rules.head_size => Ruling::Refused(Anomaly::HeadTooLarge),
            Ok(None) => Ruling::Incomplete,
            Err(anomaly) => Ruling::Refused(anomaly),
        }
    }

    fn framing(&self) -> Framing {
        match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, None | Some(0)) => Framing::Empty,
            (false, Some(length)) => Framing::Length(length),
        }
    }

    /// The length of the head once it is whole.
    fn walk(&mut self, head: &[u8], rules: &Rules) -> Step<usize> {
        loop {
            let rest = &head[self.at..];
            let step = match self.line {
                Line::Lead => lead(rest),
                Line::Request => self.request_line(rest, rules)?,
                Line::Field => match self.field(rest, rules)? {
                    Some(Field::Line(len)) => Some(len),
                    Some(Field::End) => return self.whole().map(|()| Some(self.at + 2)),
                    None => None,
                },
            };
            let Some(len) = step else { return Ok(None) };
            self.at += len;
            self.line = match self.line {
                Line::Lead => Line::Request,
                Line::Request | Line::Field => Line::Field,
            };
        }
    }

    fn request_line(&mut self, line: &[u8], rules: &Rules) -> Step<usize> {
        let Some(method) = method(line)? else { return Ok(None) };
        let rest = &line[method.len() + 1..];
        let Some(target) = target(rest, rules.uri_size)? else { return Ok(None) };
        check_target(method, target)?;
        let rest = &rest[target.len() + 1..];
        let Some(http_11) = version(rest)? else { return Ok(None) };
        self.http_11 = http_11;
        Ok(Some(method.len() + 1 + target.len() + 1 + b"HTTP/1.1\r\n".len()))
    }

    fn field(&mut self, line: &[u8], rules: &Rules) -> Step<Field> {
        match line.first() {
            None => return Ok(None),
            Some(b'\r') => return Ok(line_end(line)?.map(|()| Field::End)),
            Some(b'\n') => return malformed("a line ends with a bare LF instead of CRLF"),
            Some(b' ' | b'\t') if self.fields == 0 => return malformed("white space before the first header field"),
            Some(b' ' | b'\t') => return malformed("a header field is folded over several lines"),
            Some(_) if self.fields == rules.header_count => return Err(Anomaly::HeadTooLarge),
            Some(_) => {}
        }
        let Some(name) = field_name(line)? else { return Ok(None) };
        let rest = &line[name.len() + 1..];
        let value = &rest[..value_len(rest)];
        let Some(()) = line_end(&rest[value.len()..])? else { return Ok(None) };
        self.read_field(name, value.trim_ascii())?;
        self.fields += 1;
        Ok(Some(Field::Line(name.len() + 1 + value.len() + 2)))
    }

    /// Takes note of the fields that decide about framing and the host; all others are none of the guard's business.
    fn read_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Anomaly> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => self.read_host(value),
            14 if is("content-length") => self.read_length(value),
            17 if is("transfer-encoding") => self.read_transfer_encoding(value),
            10 if is("connection") && !value.is_ascii() => malformed("a byte above 0x7f in Connection"),
            6 if is("expect") && !value.is_ascii() => malformed("a byte above 0x7f in Expect"),
            _ => Ok(()),
        }
    }

    fn read_host(&mut self, value: &[u8]) -> Result<(), Anomaly> {
        if self.host {
            return malformed("more than one Host field");
        }
        if !host::is_well_formed(value) {
            return malformed("Host is neither a name nor an address with an optional port");
        }
        self.host = true;
        Ok(())
    }

    fn read_length(&mut self, value: &[u8]) -> Result<(), Anomaly> {
        if self.length.is_some() {
            return malformed("more than one Content-Length field");
        }
        if self.chunked {
            return malformed("Content-Length and Transfer-Encoding in one request");
        }
        // Nineteen digits fit a u64 whatever they are.
        if !(1..=19).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
            return malformed("Content-Length is not one decimal number");
        }
        self.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        Ok(())
    }

    fn read_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Anomaly> {
        if self.chunked {
            return malformed("more than one Transfer-Encoding field");
        }
        if self.length.is_some() {
            return malformed("Content-Length and Transfer-Encoding in one request");
        }
        if !self.http_11 {
            return malformed("Transfer-Encoding in an HTTP/1.0 request");
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return malformed("Transfer-Encoding is anything but a single `chunked`");
        }
        self.chunked = true;
        Ok(())
    }

    /// What can only be said once all fields were seen.
    fn whole(&self) -> Result<(), Anomaly> {
        if self.http_11 && !self.host { malformed("no Host field in an HTTP/1.1 request") } else { Ok(()) }
    }
}

/// A whole line of the field section.
enum Field {
    /// One field that took so many bytes.
    Line(usize),
    End,
}

/// One empty line before the request line is tolerated (RFC 9112 section 2.2): old clients sent it after a body.
fn lead(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [] | [b'\r'] => None,
        [b'\r', b'\n', ..] => Some(2),
        _ => Some(0),
    }
}

fn method(line: &[u8]) -> Step<&[u8]> {
    let len = token_len(&line[..line.len().min(METHOD_SIZE + 1)]);
    let method = &line[..len];
    if len > METHOD_SIZE {
        return malformed("the method is longer than 32 bytes");
    }
    match line.get(len) {
        None => Ok(None),
        Some(b' ') if method.is_empty() => malformed("the request line begins with a space"),
        Some(b' ') if method == b"CONNECT" => malformed("CONNECT is not offered"),
        Some(b' ') => Ok(Some(method)),
        Some(b'\r' | b'\n') => malformed("the request line has no target"),
        Some(_) => malformed("the method holds a byte that no method has"),
    }
}

/// The bytes up to the next space. Any visible byte is taken here; `check_target` judges where it stands.
fn target(rest: &[u8], size: usize) -> Step<&[u8]> {
    let len = visible_len(rest);
    if len > size {
        return Err(Anomaly::UriTooLong);
    }
    match rest.get(len) {
        None => Ok(None),
        Some(b' ') if len == 0 => malformed("more than one space in the request line"),
        Some(b' ') => Ok(Some(&rest[..len])),
        Some(b'\r' | b'\n') => malformed("the request line has no HTTP version"),
        Some(_) => malformed("the target holds a byte that has to be percent-encoded"),
    }
}

/// Origin form, absolute form with `http` or `https`, or `*` with OPTIONS (RFC 9112 section 3.2).
fn check_target(method: &[u8], target: &[u8]) -> Result<(), Anomaly> {
    if target[0] == b'/' {
        return check_path_and_query(target);
    }
    if target == b"*" {
        return if method == b"OPTIONS" { Ok(()) } else { malformed("the target `*` with a method other than OPTIONS") };
    }
    let Some(rest) = after_scheme(target) else {
        return malformed("the target is neither a path nor an http or https URL");
    };
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    if !host::is_well_formed(&rest[..end]) {
        return malformed("the target's authority is neither a name nor an address with an optional port");
    }
    check_path_and_query(&rest[end..])
}

fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (head, rest) = target.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

fn check_path_and_query(bytes: &[u8]) -> Result<(), Anomaly> {
    let path = bytes.iter().position(|&b| !is_path(b)).unwrap_or(bytes.len());
    let bad = match bytes.get(path) {
        Some(b'?') => bytes[path..].iter().copied().find(|&b| !is_query(b)),
        other => other.copied(),
    };
    match bad {
        None => Ok(()),
        Some(b'#') => malformed("a `#` in the target"),
        Some(_) => malformed("the target holds a byte that has to be percent-encoded"),
    }
}

/// Whether it is 1.1; compared byte by byte so that the first wrong one decides.
fn version(rest: &[u8]) -> Step<bool> {
    for (i, &byte) in rest.iter().take(10).enumerate() {
        match (i, byte) {
            (7, b'0' | b'1') | (8, b'\r') | (9, b'\n') => {}
            (8, b'\n') => return malformed("a line ends with a bare LF instead of CRLF"),
            (9, _) => return malformed("a CR without an LF after it"),
            (0, b' ') => return malformed("more than one space in the request line"),
            (8, b' ') => return malformed("something follows the HTTP version"),
            (..7, byte) if byte == b"HTTP/1."[i] => {}
            _ => return malformed("only HTTP/1.0 and HTTP/1.1 are spoken here"),
        }
    }
    Ok((rest.len() >= 10).then(|| rest[7] == b'1'))
}

fn field_name(line: &[u8]) -> Step<&[u8]> {
    let len = token_len(line);
    match line.get(len) {
        None => Ok(None),
        Some(b':') if len == 0 => malformed("a header field without a name"),
        Some(b':') => Ok(Some(&line[..len])),
        Some(b' ' | b'\t') => malformed("white space in or after a header field's name"),
        Some(b'\r' | b'\n') => malformed("a header field without a colon"),
        Some(_) => malformed("a header field's name holds a byte that no name has"),
    }
}

/// CRLF and nothing else.
fn line_end(rest: &[u8]) -> Step<()> {
    match rest {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(())),
        [b'\r', ..] => malformed("a CR without an LF after it"),
        [b'\n', ..] => malformed("a line ends with a bare LF instead of CRLF"),
        _ => malformed("a control byte in a header field's value"),
    }
}
