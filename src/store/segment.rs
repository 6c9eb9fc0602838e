//! One file of the journal, read: which lines it has, and what of it is damaged.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Take};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::draft::Tail;
use super::line::{self, Facts, Fault, Header, Line};
use super::sum::Sum;
use super::{Seq, StoreError};

/// One offset is kept for so many lines: 128 KiB of memory for a million.
const STRIDE: u64 = 64;

/// What is known of a file whose lines are all intact up to `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub path: PathBuf,
    /// The number of its first line.
    pub first: Seq,
    pub lines: u64,
    /// Where the next line goes.
    pub end: u64,
    /// Where every 64th line begins.
    offsets: Vec<u64>,
}

/// Where a file ceases to be a journal.
#[derive(Debug)]
pub struct Damage {
    pub path: PathBuf,
    /// The line in the file, from 1.
    pub line: u64,
    pub offset: u64,
    /// From there to the end of the file.
    pub length: u64,
    pub fault: Fault,
    /// An intact line behind it belongs to a group that was begun later. A group is begun only when the one before is durable, so
    /// what is damaged had been acknowledged.
    pub acknowledged: bool,
}

impl Damage {
    /// Where, as an operator looks for it.
    pub fn place(&self) -> String {
        format!("{} line {} (byte {})", self.path.display(), self.line, self.offset)
    }

    /// The header itself: nothing of the file is of use.
    pub fn is_whole(&self) -> bool {
        self.offset == 0
    }
}

/// Some lines that stand one behind the other in a file.
pub struct Block {
    pub path: PathBuf,
    /// The number of the first line.
    pub first: Seq,
    first_in_segment: Seq,
    from: u64,
    to: u64,
}

impl Segment {
    /// A file that has only its header, which is `header` bytes long.
    pub fn new(path: PathBuf, first: Seq, header: u64) -> Segment {
        Segment { path, first, lines: 0, end: header, offsets: Vec::new() }
    }

    /// Takes note of a line that ends at `end`.
    pub fn push(&mut self, end: u64) {
        if self.lines.is_multiple_of(STRIDE) {
            self.offsets.push(self.end);
        }
        self.lines += 1;
        self.end = end;
    }

    /// The lines around `seq`, which must be one of this segment.
    pub fn block(&self, seq: Seq) -> Option<Block> {
        let index = usize::try_from(seq.checked_sub(self.first)? / STRIDE).ok()?;
        let from = *self.offsets.get(index)?;
        let to = self.offsets.get(index + 1).copied().unwrap_or(self.end);
        let first = self.first + index as u64 * STRIDE;
        Some(Block { path: self.path.clone(), first, first_in_segment: self.first, from, to })
    }

    /// What stood before a file's first line, as its header says; `None` where the header is damaged or nothing was before.
    pub fn origin(path: &Path) -> Result<Option<Tail>, StoreError> {
        let mut reading = Reading::open(path)?;
        if !reading.next_line()? {
            return Ok(None);
        }
        let told = reading.line().and_then(|line| Ok((line.chain, header_in(&line)?)));
        Ok(told.ok().and_then(|(chain, header)| {
            let state = Sum::parse(&header.state)?;
            (header.first > 1).then_some(Tail { seq: header.first - 1, chain, state })
        }))
    }

    /// Reads a file from its beginning. `tail` is that of the segments before it and is moved on. Lines are judged by checksum and
    /// chain; the content of the last one must be right, too.
    pub fn read(path: &Path, tail: &mut Tail) -> Result<(Segment, Option<Damage>), StoreError> {
        let mut reading = Reading::open(path)?;
        let mut segment = match reading.header(tail)? {
            Ok(segment) => segment,
            Err(damage) => return Ok((Segment::new(path.to_owned(), tail.seq + 1, 0), Some(damage))),
        };
        let mut last = Vec::new();
        let mut damage = None;
        while reading.next_line()? {
            match reading.line().and_then(|line| follows(tail, &line)) {
                Ok(()) => {
                    segment.push(reading.end);
                    std::mem::swap(&mut last, &mut reading.bytes);
                }
                Err(fault) => {
                    damage = Some(reading.damage(fault)?);
                    break;
                }
            }
        }
        if segment.lines > 0 {
            tail.state = state_of(&last, tail.seq).map_err(|fault| unusable(path, segment.lines + 1, &fault.to_string()))?;
        }
        Ok((segment, damage))
    }
}

/// The number that a file of the journal has in its name.
pub fn named(path: &Path) -> Option<Seq> {
    path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()
}

/// Whether this is what is left of an attempt to begin a file: it has no line, and the files before it go on to `last`, beyond its first one.
pub fn is_leftover(path: &Path, last: Seq) -> Result<bool, StoreError> {
    if named(path).is_none_or(|first| first > last) {
        return Ok(false);
    }
    let mut reading = Reading::open(path)?;
    Ok(!(reading.next_line()? && reading.next_line()?))
}

fn follows(tail: &mut Tail, line: &Line<'_>) -> Result<(), Fault> {
    if tail.chain.after(line.public, line.private) != line.chain {
        return Err(Fault::Chain);
    }
    tail.chain = line.chain;
    tail.seq += 1;
    Ok(())
}

fn state_of(bytes: &[u8], seq: Seq) -> Result<Sum, Fault> {
    let facts = Facts::of(&line::decode(bytes.strip_suffix(b"\n").unwrap_or(bytes))?)?;
    if facts.seq == seq { facts.state() } else { Err(Fault::Content) }
}

/// A file on its way through memory, a line at a time.
pub struct Reading<'p> {
    path: &'p Path,
    file: BufReader<Take<File>>,
    bytes: Vec<u8>,
    /// Where the current line begins and ends, and which of the file it is, from 1.
    pub offset: u64,
    pub end: u64,
    pub number: u64,
}

impl<'p> Reading<'p> {
    pub fn open(path: &'p Path) -> Result<Reading<'p>, StoreError> {
        Reading::open_until(path, u64::MAX)
    }

    /// Nothing from byte `until` on is read.
    pub fn open_until(path: &'p Path, until: u64) -> Result<Reading<'p>, StoreError> {
        let file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let file = BufReader::with_capacity(256 * 1024, file.take(until));
        Ok(Reading { path, file, bytes: Vec::new(), offset: 0, end: 0, number: 0 })
    }

    /// Whether there was one more.
    pub fn next_line(&mut self) -> Result<bool, StoreError> {
        self.offset = self.end;
        self.number += 1;
        self.bytes.clear();
        let read = self.file.read_until(b'\n', &mut self.bytes).map_err(|e| unreadable(self.path, &e))?;
        self.end += read as u64;
        Ok(read > 0)
    }

    pub fn line(&self) -> Result<Line<'_>, Fault> {
        line::decode(self.bytes.strip_suffix(b"\n").ok_or(Fault::Unfinished)?)
    }

    fn header(&mut self, tail: &Tail) -> Result<Result<Segment, Damage>, StoreError> {
        if !self.next_line()? {
            return Ok(Err(self.damage(Fault::Unfinished)?));
        }
        let (chain, header) = match self.line().and_then(|line| Ok((line.chain, header_in(&line)?))) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(self.damage(fault)?)),
        };
        if header.journal > line::FORMAT {
            return Err(StoreError::Unusable(format!(
                "{}: written in format {} by a newer octroi, this one reads up to {}: start the newer one",
                self.path.display(),
                header.journal,
                line::FORMAT
            )));
        }
        if header.first != tail.seq + 1 || chain != tail.chain || Sum::parse(&header.state) != Some(tail.state) {
            return Err(StoreError::Unusable(format!(
                "{} begins with change {}, which does not follow from change {}, the last one before it: a file of the journal is missing, \
                 or comes from another one; bring the whole folder back from one backup",
                self.path.display(),
                header.first,
                tail.seq
            )));
        }
        Ok(Ok(Segment::new(self.path.to_owned(), header.first, self.end)))
    }

    /// The current line is damaged: finds out what stands behind it.
    pub fn damage(&mut self, fault: Fault) -> Result<Damage, StoreError> {
        let mut rest = std::mem::take(&mut self.bytes);
        self.file.read_to_end(&mut rest).map_err(|e| unreadable(self.path, &e))?;
        let later = |line: Line<'_>| Facts::of(&line).is_ok_and(|facts| facts.base > self.offset);
        Ok(Damage {
            path: self.path.to_owned(),
            line: self.number,
            offset: self.offset,
            length: rest.len() as u64,
            fault,
            acknowledged: line::salvage(&rest).any(later),
        })
    }
}

pub fn header_in(line: &Line<'_>) -> Result<Header, Fault> {
    serde_json::from_slice(line.public).map_err(|_| Fault::Content)
}

impl Block {
    /// Visits its lines in order.
    pub fn each(&self, mut each: impl FnMut(Seq, &Line<'_>) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let bytes = self.read()?;
        (self.first..).zip(Block::split(&bytes)).try_for_each(|(seq, bytes)| each(seq, &self.decode(seq, bytes)?))
    }

    /// Its bytes, for who needs few of its lines.
    pub fn read(&self) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; usize::try_from(self.to - self.from).map_err(|_| StoreError::Unavailable("out of memory".into()))?];
        let file = File::open(&self.path).map_err(|e| unreadable(&self.path, &e))?;
        file.read_exact_at(&mut bytes, self.from).map_err(|e| unreadable(&self.path, &e))?;
        Ok(bytes)
    }

    /// The lines in what was read, not looked at yet.
    pub fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|b| *b == b'\n')
    }

    /// Looks at one of them.
    pub fn decode<'b>(&self, seq: Seq, bytes: &'b [u8]) -> Result<Line<'b>, StoreError> {
        line::decode(bytes).map_err(|fault| self.unusable(seq, &fault.to_string()))
    }

    /// What to say of a line of it that was intact when the file was opened.
    pub fn unusable(&self, seq: Seq, why: &str) -> StoreError {
        unusable(&self.path, seq - self.first_in_segment + 2, why)
    }
}

fn unusable(path: &Path, line: u64, why: &str) -> StoreError {
    StoreError::Unusable(format!("{} line {line}: {why}; bring the file back from a backup", path.display()))
}

fn unreadable(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("{} cannot be read: {error}", path.display()))
}
