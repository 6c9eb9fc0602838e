//! Whether the journal is still what was written: every byte of it is read, and the first entry that is not right is named by
//! file, line and number.
//!
//! Where older files were archived, the first one that is left says in its header what it follows from.
//!
//! Of each file its name and header, of each line the checksum, the chain, the number, where its group begins and the form of its
//! sum. The sums are not replayed: that takes every live record in memory, and finds nothing that the chain does not,
//! but for a fault of the writer. [`verify_store`](super::verify_store) does it on a stopped store, and a start does.
//!
//! A cut end leaves no trace in the files. It is seen by who knows more: the gateway's memory, the mirror, or a [`Head`] that was noted elsewhere.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::draft::Tail;
use super::export::Exported;
use super::head::Head;
use super::line::{self, Facts, Fault};
use super::segment::{self, Reading};
use super::sum::Sum;
use super::{Seq, StoreError};

/// The longest line of an export that is read, in bytes.
const MAX_LINE: u64 = 1 << 28;

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub files: u64,
    /// The first change that is here; those before were archived.
    pub first: Seq,
    /// Changes that are as they were written.
    pub entries: u64,
    /// The last of them.
    pub head: Head,
    pub flaw: Option<Flaw>,
    /// An end that a crash left, and that the next start cuts off: whoever knows how far the journal reached knows nothing of it.
    pub unfinished: Option<Flaw>,
    /// The heads that were asked about.
    pub heads: Vec<Judged>,
}

/// The first entry that is not right. Nothing behind it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub file: PathBuf,
    /// In the file, from 1.
    pub line: u64,
    /// The change that should stand there; `None` for the header of a file.
    pub seq: Option<Seq>,
    pub why: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = self.seq.map(|seq| format!(", change {seq}")).unwrap_or_default();
        write!(f, "{} line {}{change}: {}", self.file.display(), self.line, self.why)
    }
}

/// Whether a head is part of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub head: Head,
    /// Why not.
    pub missing: Option<String>,
}

/// A file of the journal, up to where its last durable line ends.
pub struct Extent {
    pub path: PathBuf,
    pub end: u64,
}

impl Verified {
    pub fn is_good(&self) -> bool {
        self.flaw.is_none() && self.heads.iter().all(|judged| judged.missing.is_none())
    }
}

/// Verifies files in their order, the first of which must follow from `origin`. `known` is a head that somebody else holds, with a word for
/// who: it must be among them.
pub fn files(origin: Tail, extents: &[Extent], noted: &[Head], known: Option<(&str, Head)>) -> Result<Verified, StoreError> {
    let mut check = Check::new(noted);
    check.known = known.map(|(_, head)| Judging::new(head));
    check.begin(origin.into());
    let mut state = origin.state;
    let mut end = Path::new("");
    for extent in extents {
        // What the next start throws away.
        if segment::is_leftover(&extent.path, check.found.head.seq)? {
            continue;
        }
        end = &extent.path;
        if check.found.flaw.is_none() {
            check.found.files += 1;
            check.file(extent, &mut state)?;
        }
    }
    if let Some((who, head)) = known {
        check.compare(who, head, end);
    }
    Ok(check.finish())
}

/// Verifies an export.
pub fn export(path: &Path, noted: &[Head]) -> Result<Verified, StoreError> {
    let unreadable = |e: std::io::Error| StoreError::Unavailable(format!("{} cannot be read: {e}", path.display()));
    let mut file = BufReader::with_capacity(256 * 1024, File::open(path).map_err(unreadable)?);
    let mut check = Check::new(noted);
    check.begin(Head::START);
    check.found.files = 1;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        (&mut file).take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(unreadable)?;
        if bytes.is_empty() {
            break;
        }
        check.line += 1;
        if let Err(why) = check.exported(&bytes) {
            let seq = (check.found.entries > 0).then_some(check.found.head.seq + 1);
            check.found.flaw = Some(Flaw { file: path.to_owned(), line: check.line, seq, why });
            break;
        }
    }
    if check.line == 0 {
        let why = "there is nothing in it: an export holds a change a line".to_owned();
        check.found.flaw = Some(Flaw { file: path.to_owned(), line: 1, seq: None, why });
    }
    Ok(check.finish())
}

struct Judging {
    head: Head,
    /// Whether the change has this chain; `None` until it was met.
    kept: Option<bool>,
}

impl Judging {
    fn new(head: Head) -> Judging {
        Judging { head, kept: None }
    }

    fn meet(&mut self, head: Head) {
        if self.head.seq == head.seq {
            self.kept = Some(self.head == head);
        }
    }
}

struct Check {
    found: Verified,
    noted: Vec<Judging>,
    known: Option<Judging>,
    /// What the first line follows from.
    begin: Head,
    /// Of the file that is read, from 1.
    line: u64,
    lines_in_last: u64,
    /// The flaw is one that a write leaves which never ended, and nothing that was acknowledged stands behind it in its file.
    torn: bool,
}

impl Check {
    fn new(noted: &[Head]) -> Check {
        let found = Verified { files: 0, first: 1, entries: 0, head: Head::START, flaw: None, unfinished: None, heads: Vec::new() };
        let noted = noted.iter().map(|head| Judging::new(*head)).collect();
        Check { found, noted, known: None, begin: Head::START, line: 0, lines_in_last: 0, torn: false }
    }

    fn begin(&mut self, head: Head) {
        self.begin = head;
        self.reach(head);
    }

    fn reach(&mut self, head: Head) {
        self.found.head = head;
        self.noted.iter_mut().chain(&mut self.known).for_each(|judging| judging.meet(head));
    }

    fn file(&mut self, extent: &Extent, state: &mut Sum) -> Result<(), StoreError> {
        let mut reading = Reading::open_until(&extent.path, extent.end)?;
        let flaw = |reading: &Reading<'_>, seq, why| Flaw { file: extent.path.clone(), line: reading.number, seq, why };
        reading.next_line()?;
        if let Err(why) = self.header(&reading, extent, *state) {
            self.found.flaw = Some(flaw(&reading, None, why));
            return self.look_behind(&mut reading);
        }
        self.lines_in_last = 1;
        let mut base = reading.end;
        while reading.next_line()? {
            match self.change(&reading, &mut base) {
                Ok(after) => *state = after,
                Err(why) => {
                    self.found.flaw = Some(flaw(&reading, Some(self.found.head.seq + 1), why));
                    return self.look_behind(&mut reading);
                }
            }
            self.lines_in_last += 1;
        }
        Ok(())
    }

    fn look_behind(&mut self, reading: &mut Reading<'_>) -> Result<(), StoreError> {
        self.torn = match reading.line().err() {
            Some(fault) => !reading.damage(fault)?.acknowledged,
            None => false,
        };
        Ok(())
    }

    fn header(&self, reading: &Reading<'_>, extent: &Extent, state: Sum) -> Result<(), String> {
        let line = reading.line().map_err(|fault| fault.to_string())?;
        let header = segment::header_in(&line).map_err(|fault| fault.to_string())?;
        let next = self.found.head.seq + 1;
        if header.journal > line::FORMAT {
            return Err(format!("it is written in format {} by a newer octroi: verify it with that", header.journal));
        }
        if header.first != next {
            return Err(format!("the file begins with change {}, but change {next} should follow: a file is missing", header.first));
        }
        if line.chain != self.found.head.chain || Sum::parse(&header.state) != Some(state) {
            return Err("the file does not follow from the one before it".into());
        }
        let named = extent.path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse::<Seq>().ok());
        if named != Some(header.first) {
            return Err(format!("the file has the name of another one: it begins with change {}", header.first));
        }
        Ok(())
    }

    /// The sum after a line that is right. `base` is where the group of the line before began.
    fn change(&mut self, reading: &Reading<'_>, base: &mut u64) -> Result<Sum, String> {
        let line = reading.line().map_err(|fault| fault.to_string())?;
        let next = self.found.head.seq + 1;
        let facts = Facts::of(&line).map_err(|fault| fault.to_string())?;
        if facts.seq != next {
            return Err(gap(facts.seq, next));
        }
        if self.found.head.chain.after(line.public, line.private) != line.chain {
            return Err(Fault::Chain.to_string());
        }
        if facts.base != reading.offset && facts.base != *base {
            return Err(format!("it names byte {} as the beginning of its group, which none has", facts.base));
        }
        *base = facts.base;
        self.found.entries += 1;
        self.reach(Head::new(next, line.chain));
        facts.state().map_err(|fault| fault.to_string())
    }

    fn exported(&mut self, bytes: &[u8]) -> Result<(), String> {
        let line = bytes.strip_suffix(b"\n").ok_or_else(|| Fault::Unfinished.to_string())?;
        let line = Exported::read(line).ok_or("it does not have the shape of an exported entry, or was written anew by another program")?;
        let facts: Facts = serde_json::from_slice(&line.public).map_err(|_| Fault::Content.to_string())?;
        if self.found.entries == 0 && facts.seq > 0 {
            let before = Head::new(facts.seq - 1, line.previous);
            if facts.seq == 1 && before != Head::START {
                return Err(Fault::Chain.to_string());
            }
            self.begin(before);
        }
        let next = self.found.head.seq + 1;
        if facts.seq != next {
            return Err(gap(facts.seq, next));
        }
        if line.previous != self.found.head.chain {
            return Err(Fault::Chain.to_string());
        }
        if !line.is_whole() {
            return Err("its chain does not match its content".into());
        }
        self.found.entries += 1;
        self.reach(Head::new(next, line.chain));
        Ok(())
    }

    /// What is on the disk must reach as far as somebody else knows.
    fn compare(&mut self, who: &str, head: Head, end: &Path) {
        let kept = self.known.as_ref().and_then(|judging| judging.kept);
        // A file is begun only when all before it is durable, so only the last one can have an end that is unfinished.
        if kept == Some(true) && self.torn && self.found.flaw.as_ref().is_some_and(|flaw| flaw.file == end) {
            self.found.unfinished = self.found.flaw.take();
        }
        if self.found.flaw.is_some() || kept == Some(true) {
            return;
        }
        // Who stands before the first change that is here cannot tell.
        if head.seq < self.begin.seq {
            return;
        }
        let last = self.found.head.seq;
        let why = match kept {
            None => format!("the end is cut: the journal ends with change {last}, but {who} holds changes up to {}", head.seq),
            Some(_) => format!("change {} is not the one that {who} holds: the journal was changed, or is another one", head.seq),
        };
        let (line, seq) = if kept.is_none() { (self.lines_in_last + 1, last + 1) } else { (self.lines_in_last, head.seq) };
        self.found.flaw = Some(Flaw { file: end.to_owned(), line, seq: Some(seq), why });
    }

    fn finish(mut self) -> Verified {
        let (begin, end) = (self.begin.seq, self.found.head.seq);
        self.found.first = begin + 1;
        let flawed = self.found.flaw.is_some();
        let judge = |judging: Judging| {
            let seq = judging.head.seq;
            let missing = match judging.kept {
                Some(true) => None,
                Some(false) => Some(format!("change {seq} was rewritten after this head was noted")),
                None if seq < begin => Some(format!("what is here begins with change {}: verify it on what came before", begin + 1)),
                None if flawed => Some("not reached: the first bad entry stands before it".into()),
                None => Some(format!("the end was cut after this head was noted: the last change is {end}")),
            };
            Judged { head: judging.head, missing }
        };
        self.found.heads = self.noted.into_iter().map(judge).collect();
        self.found
    }
}

fn gap(found: Seq, expected: Seq) -> String {
    if found > expected {
        format!("change {expected} is missing or stands elsewhere: this is change {found}")
    } else {
        format!("change {found} stands here where change {expected} should")
    }
}
