//! Follows a chunked body (RFC 9112 section 7.1) byte by byte over its framing and in one step over its data.
//!
//! Nothing is copied: the bytes are judged where they stand and hyper decodes them again. What is refused is
//! refused before the byte that would complete it, so a body with a bad end never looks whole.

use super::bytes::is_token;

/// Digits of a chunk's size; sixteen fit a u64 whatever they are.
const SIZE_DIGITS: u8 = 16;
/// Bytes of extensions on one line and in one body. Nobody uses them; attackers do (CVE-2025-55315).
const EXTENSION_LINE: u16 = 256;
const EXTENSION_BODY: u16 = 16 * 1024 - 1;
/// Bytes of a whole trailer section.
const TRAILER_SIZE: u16 = 8 * 1024;
/// Fields that say how to read or route a message, which is over when trailers come (RFC 9110 section 6.5.1).
const FORBIDDEN: [&[u8]; 9] =
    [b"connection", b"content-encoding", b"content-length", b"expect", b"host", b"te", b"trailer", b"transfer-encoding", b"upgrade"];
const LONGEST_FORBIDDEN: usize = b"transfer-encoding".len();

/// Where in a chunked body the next byte stands.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    /// Of the chunk whose size or data is being read: the size so far, or the bytes left.
    size: u64,
    extensions: u16,
    trailer_bytes: u16,
    trailers: usize,
    most_trailers: usize,
    name: Name,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many digits of a size were read.
    Size(u8),
    /// So many bytes of this line's extensions were read.
    Extension(u16),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
}

/// What `advance` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All bytes belong to the body, and more are to come.
    Open,
    /// The body ended after so many of the bytes.
    Done(usize),
    /// So many bytes are good; the next one is not, because of this.
    Bad(usize, &'static str),
}

impl Chunks {
    /// At the start of a body whose trailer section may have so many fields.
    pub fn new(most_trailers: usize) -> Chunks {
        let name = Name { bytes: [0; LONGEST_FORBIDDEN], len: 0 };
        Chunks { state: State::Size(0), size: 0, extensions: 0, trailer_bytes: 0, trailers: 0, most_trailers, name }
    }

    pub fn advance(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        while at < bytes.len() {
            if let State::Data = self.state {
                at += self.skip_data(bytes.len() - at);
                continue;
            }
            match self.step(bytes[at]) {
                Ok(Some(state)) => self.state = state,
                Ok(None) => return Progress::Done(at + 1),
                Err(what) => return Progress::Bad(at, what),
            }
            at += 1;
        }
        Progress::Open
    }

    fn skip_data(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.size).unwrap_or(usize::MAX).min(available);
        self.size -= taken as u64;
        if self.size == 0 {
            self.state = State::DataCr;
        }
        taken
    }

    /// The state after one byte of framing; `None` when it was the body's last.
    fn step(&mut self, byte: u8) -> Result<Option<State>, &'static str> {
        let next = match self.state {
            State::Size(digits) => self.size_byte(digits, byte)?,
            State::Extension(len) => self.extension_byte(len, byte)?,
            State::SizeLf => lf(byte, if self.size == 0 { State::TrailerStart } else { State::Data })?,
            // `advance` skips data without asking here.
            State::Data | State::DataCr if byte == b'\r' => State::DataLf,
            State::Data | State::DataCr => return Err("a chunk's data is not followed by CRLF"),
            State::DataLf => lf(byte, self.next_chunk())?,
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf => self.trailer_byte(byte)?,
            State::LastLf if byte == b'\n' => return Ok(None),
            State::LastLf => return Err("a CR without an LF after it in a chunked body"),
        };
        Ok(Some(next))
    }

    fn next_chunk(&mut self) -> State {
        self.size = 0;
        State::Size(0)
    }

    fn size_byte(&mut self, digits: u8, byte: u8) -> Result<State, &'static str> {
        match (byte, (byte as char).to_digit(16)) {
            (_, Some(_)) if digits == SIZE_DIGITS => Err("a chunk's size has more than 16 digits"),
            (_, Some(digit)) => {
                self.size = self.size << 4 | u64::from(digit);
                Ok(State::Size(digits + 1))
            }
            _ if digits == 0 => Err("a chunk's size is not a hexadecimal number"),
            (b'\r', _) => Ok(State::SizeLf),
            (b';', _) => self.extension_byte(0, byte),
            _ => Err("a chunk's size is not a hexadecimal number"),
        }
    }

    fn extension_byte(&mut self, len: u16, byte: u8) -> Result<State, &'static str> {
        match byte {
            b'\r' => return Ok(State::SizeLf),
            b';' | b'=' => {}
            byte if is_token(byte) => {}
            _ => return Err("a chunk extension holds a byte that is not taken here"),
        }
        if len == EXTENSION_LINE || self.extensions == EXTENSION_BODY {
            return Err("chunk extensions are too long");
        }
        self.extensions += 1;
        Ok(State::Extension(len + 1))
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, &'static str> {
        if self.trailer_bytes == TRAILER_SIZE {
            return Err("the trailer section is too large");
        }
        self.trailer_bytes += 1;
        match (self.state, byte) {
            (State::TrailerStart, b'\r') => Ok(State::LastLf),
            (State::TrailerStart, byte) if is_token(byte) => self.trailer_begins(byte),
            (State::TrailerName, b':') if self.name.is_forbidden() => Err("a field in the trailer section that may only stand in the head"),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerName, byte) if is_token(byte) => {
                self.name.push(byte);
                Ok(State::TrailerName)
            }
            (State::TrailerStart | State::TrailerName, _) => Err("a trailer field's name holds a byte that no name has"),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, byte) if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => Ok(State::TrailerValue),
            (State::TrailerValue, _) => Err("a control byte in a trailer field's value"),
            (_, byte) => lf(byte, State::TrailerStart),
        }
    }

    fn trailer_begins(&mut self, byte: u8) -> Result<State, &'static str> {
        if self.trailers == self.most_trailers {
            return Err("the trailer section has too many fields");
        }
        self.trailers += 1;
        self.name.len = 0;
        self.name.push(byte);
        Ok(State::TrailerName)
    }
}

fn lf(byte: u8, next: State) -> Result<State, &'static str> {
    if byte == b'\n' { Ok(next) } else { Err("a CR without an LF after it in a chunked body") }
}

/// The start of a trailer's name in lower case, as far as a forbidden name could reach.
#[derive(Debug)]
struct Name {
    bytes: [u8; LONGEST_FORBIDDEN],
    len: usize,
}

impl Name {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte.to_ascii_lowercase();
        }
        self.len = self.len.saturating_add(1);
    }

    fn is_forbidden(&self) -> bool {
        self.bytes.get(..self.len).is_some_and(|name| FORBIDDEN.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &str) -> Progress {
        Chunks::new(100).advance(body.as_bytes())
    }

    fn bytewise(body: &str) -> Progress {
        let mut chunks = Chunks::new(100);
        for at in 0..body.len() {
            match chunks.advance(&body.as_bytes()[at..=at]) {
                Progress::Open => {}
                Progress::Done(n) => return Progress::Done(at + n),
                Progress::Bad(n, what) => return Progress::Bad(at + n, what),
            }
        }
        Progress::Open
    }

    #[test]
    fn good_bodies_end_where_they_end() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n00\r\n\r\n",
            "0000000000000005\r\nhello\r\n0\r\n\r\n",
            "5;name=value;flag\r\nhello\r\n0\r\n\r\n",
            "1\r\nx\r\n0\r\nX-Sum: 12\r\nEmpty:\r\n\r\n",
        ] {
            let next = format!("{body}GET / HTTP/1.1");
            assert_eq!(whole(&next), Progress::Done(body.len()), "{body:?}");
            assert_eq!(bytewise(&next), Progress::Done(body.len()), "{body:?}");
            for end in 0..body.len() {
                assert_eq!(whole(&body[..end]), Progress::Open, "{:?}", &body[..end]);
            }
        }
    }

    #[test]
    fn bad_bodies_are_refused_at_the_first_byte_that_shows_it() {
        let long = format!("5;{}\r\n", "x".repeat(256));
        let many = "1;0123456789012345678901234567890123456789\r\nx\r\n".repeat(400);
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
        let large = format!("0\r\na: {}\r\n\r\n", "x".repeat(8 * 1024));
        for body in [
            "0x2\r\nhi\r\n0\r\n\r\n",
            "+2\r\nhi\r\n",
            "-2\r\nhi\r\n",
            "2_0\r\n",
            " 2\r\nhi\r\n",
            "2 \r\nhi\r\n",
            "00000000000000002\r\nhi\r\n",
            "\r\nhi\r\n",
            ";x\r\n",
            "2\nhi\r\n",
            "2\rhi\r\n",
            "2\r\nhiX\r\n",
            "2\r\nhi\n0\r\n\r\n",
            "2\r\nhi0\r\n\r\n",
            "2\r\nhi\rX",
            "2;a\nb\r\n",
            "2;a\rb\r\n",
            "2;a=\"q\"\r\n",
            "2; a\r\n",
            "0\r\nContent-Length: 1\r\n\r\n",
            "0\r\nTRANSFER-ENCODING: chunked\r\n\r\n",
            "0\r\nHost: a\r\n\r\n",
            "0\r\nTrailer: a\r\n\r\n",
            "0\r\n : b\r\n",
            "0\r\na : b\r\n",
            "0\r\na\r\n",
            "0\r\na: b\n",
            "0\r\na: \0b\r\n",
            "0\r\na: b\r\n folded\r\n",
            "0\r\n\n",
            "0\r\n\rX",
            &long,
            &many,
            &trailers,
            &large,
        ] {
            let verdict = whole(body);
            assert!(matches!(verdict, Progress::Bad(..)), "{body:?}: {verdict:?}");
            assert_eq!(bytewise(body), verdict, "{body:?}");
        }
    }
}
