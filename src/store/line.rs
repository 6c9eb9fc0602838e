//! One line of the journal:
//!
//! ```text
//! <crc32, 8 hex> TAB <chain, 64 hex> TAB <public JSON> TAB <private JSON> LF
//! ```
//!
//! The CRC-32 covers what follows the first tab up to the line's end and finds torn and rotten lines. The chain is
//! `SHA-256(previous chain ‖ public ‖ SHA-256(private))` and finds changed, missing and reordered ones; the private part
//! goes in by its digest, so that an export without it can still be verified. JSON text contains neither a raw tab nor a raw
//! line feed, so both are safe as separators.
//!
//! The first line of every segment is a header of the same shape: its chain is the head that came before, its public part
//! a [`Header`], its private part `{}`.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::sum::Sum;
use super::{Seq, hex};

/// The highest format that is read. A file of it begins after a snapshot, which versions before could not read. A higher number is refused,
/// never guessed at.
pub const FORMAT: u32 = 2;
/// What the header of any other file says.
pub const PLAIN_FORMAT: u32 = 1;

const CRC: Range<usize> = 0..8;
const CHAIN: Range<usize> = 9..73;
/// Where the public part begins.
const PUBLIC: usize = 74;

/// The head of the chain after some line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Chain(pub [u8; 32]);

impl Chain {
    /// Before the very first line.
    pub const START: Chain = Chain([0; 32]);

    /// The head after a line with these parts.
    #[must_use]
    pub fn after(&self, public: &[u8], private: &[u8]) -> Chain {
        self.after_digest(public, &Sha256::digest(private).into())
    }

    /// Likewise, where all that is known of the private part is its SHA-256.
    #[must_use]
    pub fn after_digest(&self, public: &[u8], private: &[u8; 32]) -> Chain {
        Chain(Sha256::new().chain_update(self.0).chain_update(public).chain_update(private).finalize().into())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// A line whose checksum is right. It shows nothing of the private part when printed.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    pub chain: Chain,
    pub public: &'a [u8],
    pub private: &'a [u8],
}

/// Why some bytes are no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Shape,
    Checksum,
    Chain,
    Content,
    Unfinished,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Shape => "it does not have the shape of a journal line",
            Fault::Checksum => "its checksum does not match its content",
            Fault::Chain => "it does not follow from the line before it",
            Fault::Content => "its content is not that of a journal line",
            Fault::Unfinished => "it has no end",
        })
    }
}

/// Appends a line to `out`.
pub fn encode(chain: &Chain, public: &[u8], private: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"00000000\t");
    out.extend_from_slice(hex::encode(&chain.0).as_bytes());
    for part in [public, private] {
        out.push(b'\t');
        out.extend_from_slice(part);
    }
    let crc = crc32fast::hash(&out[start + CRC.end + 1..]);
    out[start..start + CRC.end].copy_from_slice(hex::encode(&crc.to_be_bytes()).as_bytes());
    out.push(b'\n');
}

/// Reads a line, given without its line feed. Whether it follows from the one before is the caller's to check.
pub fn decode(bytes: &[u8]) -> Result<Line<'_>, Fault> {
    if !has_shape(bytes) {
        return Err(Fault::Shape);
    }
    let crc = hex::decode::<4>(&bytes[CRC]).ok_or(Fault::Shape)?;
    if u32::from_be_bytes(crc) != crc32fast::hash(&bytes[CRC.end + 1..]) {
        return Err(Fault::Checksum);
    }
    let chain = Chain(hex::decode(&bytes[CHAIN]).ok_or(Fault::Shape)?);
    let tab = memchr::memchr(b'\t', &bytes[PUBLIC..]).ok_or(Fault::Shape)?;
    Ok(Line { chain, public: &bytes[PUBLIC..PUBLIC + tab], private: &bytes[PUBLIC + tab + 1..] })
}

/// Whether a line may begin here: the cheap test before the checksum.
fn has_shape(bytes: &[u8]) -> bool {
    bytes.len() > PUBLIC && bytes[CRC.end] == b'\t' && bytes[CHAIN.end] == b'\t'
}

/// Every intact line in `bytes`, wherever it begins: one whose predecessor lost its line feed must be found, too, or a single
/// flipped bit would make acknowledged changes look like an unfinished end.
pub fn salvage(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    memchr::memchr_iter(b'\t', bytes).filter_map(|tab| {
        let rest = &bytes[tab.checked_sub(CRC.end)?..];
        if !has_shape(rest) {
            return None;
        }
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        decode(&rest[..end]).ok()
    })
}

/// What stands in the first line of a segment, so that the segment can be understood without the ones before it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Header {
    /// [`PLAIN_FORMAT`] or [`FORMAT`].
    pub journal: u32,
    /// The number of the first change in this segment.
    pub first: Seq,
    /// The [`Sum`] over all live records before that change.
    pub state: String,
}

/// What the store itself needs of a line's public part.
#[derive(Debug, Deserialize)]
pub struct Facts {
    pub seq: Seq,
    pub actor: String,
    /// The offset in the segment where the group of this line begins.
    pub base: u64,
    pub state: String,
}

impl Facts {
    pub fn of(line: &Line<'_>) -> Result<Facts, Fault> {
        serde_json::from_slice(line.public).map_err(|_| Fault::Content)
    }

    pub fn state(&self) -> Result<Sum, Fault> {
        Sum::parse(&self.state).ok_or(Fault::Content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> (Chain, Vec<u8>) {
        let chain = Chain::START.after(br#"{"a":1}"#, br#"{"b":"\t"}"#);
        let mut bytes = Vec::new();
        encode(&chain, br#"{"a":1}"#, br#"{"b":"\t"}"#, &mut bytes);
        (chain, bytes)
    }

    #[test]
    fn a_line_reads_back() {
        let (chain, bytes) = line();
        let read = decode(bytes.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((read.chain, read.public, read.private), (chain, &br#"{"a":1}"#[..], &br#"{"b":"\t"}"#[..]));
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_goes_unseen() {
        let (_, mut bytes) = line();
        bytes.pop();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn an_intact_line_is_found_behind_garbage() {
        let (chain, line) = line();
        let cases: [(&[u8], &[u8], usize); 5] =
            [(b"", b"", 1), (b"garbage", b"", 1), (b"gar\tbage\0\0\n", b"\0\0\0", 1), (b"\t", b"\t", 1), (b"\t", &line, 2)];
        for (before, after, expected) in cases {
            let bytes = [before, &line, after].concat();
            let found: Vec<Chain> = salvage(&bytes).map(|l| l.chain).collect();
            assert_eq!(found, vec![chain; expected]);
        }
        assert_eq!(salvage(&line[1..]).count(), 0);
        assert_eq!(salvage(&line[..line.len() - 1]).count(), 1, "only its line feed is missing");
    }

    #[test]
    fn the_chain_depends_on_everything_before() {
        let head = Chain::START.after(b"p", b"q");
        for other in [Chain::START.after(b"p", b"r"), Chain::START.after(b"o", b"q"), head.after(b"p", b"q")] {
            assert_ne!(head, other);
        }
    }
}
