//! All live records as they stand before some line of the journal, so that the files before it are no longer needed to fill a mirror.
//!
//! A snapshot lies beside the journal's files, `journal/00000042.snapshot`, and holds what was there before change 42. Change 42, the first line
//! of `00000042.log`, names its SHA-256: the chain vouches for it as for any line. It is JSON, a line for each thing:
//!
//! ```text
//! {"before":42,"snapshot":1,"tombstones":true}   whether no deleted record is missing
//! {"op":{"put_key":{…}},"seq":7}                 a record, and the number of its last change
//! {"actor":"socket:root","seq":41}               the last change by that actor
//! {"deleted":"key_…","before":7,"seq":12}        the change that deleted a record, and the last one before (null = none)
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::check::Flaw;
use super::draft::Tail;
use super::effects::{self, Base, Effects, Failure, Standing};
use super::mirror::{self, Broken, Mirror, Tombstone};
use super::records::StoredOp;
use super::refill::Stuck;
use super::segment::{Reading, header_in};
use super::sum::Sum;
use super::{Seq, StoreError, Subject, disk, hex};

const FORMAT: u32 = 1;
/// Records that are held in memory while a snapshot is read.
const AT_ONCE: usize = 64;

/// One that a line of the journal vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub path: PathBuf,
    /// The number of the line that vouches for it; it holds what was there before.
    pub before: Seq,
    pub facts: Facts,
}

/// What the journal says of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub sha256: String,
    pub records: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    snapshot: u32,
    before: Seq,
    tombstones: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    seq: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    op: Option<StoredOp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Seq>,
}

/// Where the snapshot before a line lies.
pub fn path_of(folder: &Path, before: Seq) -> PathBuf {
    folder.join(format!("{before:08}.snapshot"))
}

impl Snapshot {
    /// The snapshot that the first line of a file of the journal vouches for. Whether that line follows from the one before it is not looked at.
    pub fn vouched_for(log: &Path) -> Result<Option<Snapshot>, StoreError> {
        #[derive(Deserialize)]
        struct Line {
            store: Option<Told>,
        }
        #[derive(Deserialize)]
        struct Told {
            snapshot: Option<Facts>,
        }
        let mut reading = Reading::open(log)?;
        if !reading.next_line()? {
            return Ok(None);
        }
        let Some(before) = reading.line().and_then(|line| header_in(&line)).ok().map(|header| header.first) else { return Ok(None) };
        let path = path_of(log.parent().unwrap_or(Path::new("")), before);
        if !path.exists() || !reading.next_line()? {
            return Ok(None);
        }
        let told = reading.line().ok().and_then(|line| serde_json::from_slice::<Line>(line.public).ok());
        Ok(told.and_then(|line| line.store?.snapshot).map(|facts| Snapshot { path, before, facts }))
    }

    /// Puts its records where `effects` takes them, and says up to where they stand. `each` is handed some at a time.
    pub fn read<E: From<StoreError>>(&self, mut each: impl FnMut(Vec<Held>) -> Result<(), E>) -> Result<(), E> {
        let unreadable = |e: &dyn std::fmt::Display| StoreError::Unavailable(format!("{} cannot be read: {e}", self.path.display()));
        let mut file = BufReader::with_capacity(256 * 1024, File::open(&self.path).map_err(|e| unreadable(&e))?);
        let (mut digest, mut bytes, mut some, mut number, mut records) = (Sha256::new(), Vec::new(), Vec::new(), 0u64, 0);
        loop {
            bytes.clear();
            if file.read_until(b'\n', &mut bytes).map_err(|e| unreadable(&e))? == 0 {
                break;
            }
            digest.update(&bytes);
            number += 1;
            if number == 1 {
                let header = self.header(&bytes)?;
                some.extend(header.tombstones.then_some(Held::AllDeleted));
                continue;
            }
            let held = entry_in(&bytes).ok_or_else(|| self.damaged(&format!("line {number} is not one of a snapshot")))?;
            records += u64::from(matches!(held, Held::Record(..)));
            some.push(held);
            if some.len() == AT_ONCE {
                each(std::mem::take(&mut some))?;
            }
        }
        each(some)?;
        if hex::encode(&digest.finalize()) != self.facts.sha256 || records != self.facts.records {
            return Err(self.damaged(&format!("it is not what change {} of the journal says it is", self.before)).into());
        }
        Ok(())
    }

    /// What is wrong with it, byte by byte, told of the line that vouches for it.
    pub fn flaw(&self) -> Result<Option<Flaw>, StoreError> {
        let unreadable = |e| StoreError::Unavailable(format!("{} cannot be read: {e}", self.path.display()));
        if hex::encode(&disk::digest(&self.path).map_err(unreadable)?) == self.facts.sha256 {
            return Ok(None);
        }
        let why = format!("{} beside it, all records as they were before, is not the snapshot that it names", self.path.display());
        Ok(Some(Flaw { file: self.path.with_extension("log"), line: 2, seq: Some(self.before), why }))
    }

    fn header(&self, bytes: &[u8]) -> Result<Header, StoreError> {
        match serde_json::from_slice::<Header>(bytes) {
            Ok(Header { snapshot, .. }) if snapshot > FORMAT => Err(StoreError::Unusable(format!(
                "{}: written in format {snapshot} by a newer octroi, this one reads up to {FORMAT}: start the newer one",
                self.path.display()
            ))),
            Ok(header) if header.before == self.before => Ok(header),
            _ => Err(self.damaged("its first line is not that of a snapshot")),
        }
    }

    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Unusable(format!("{} is damaged: {why}; bring the file back from a backup", self.path.display()))
    }

    /// Fills what is empty. `standing` is what stood before the line that vouches for this snapshot.
    pub fn load(&self, base: &dyn Base, standing: Tail) -> Result<(), Stuck> {
        let mut sum = Sum::default();
        self.read::<Stuck>(|some| {
            let mut effects = Effects::upon(base, sum);
            put(&mut effects, some).map_err(|failure| self.stuck(failure))?;
            sum = effects.sum;
            Ok(base.fill(&effects.into_writes())?)
        })?;
        if sum != standing.state {
            return Err(self.damaged("its records do not add up to the state that the journal names").into());
        }
        Ok(())
    }

    fn stuck(&self, failure: Failure) -> Stuck {
        match failure {
            Failure::Mirror(broken) => Stuck::Mirror(broken),
            Failure::Record(e) => Stuck::Journal(self.damaged(&format!("a record in it cannot be read: {e}"))),
        }
    }
}

/// Something that a snapshot holds, with the number of a change.
pub enum Held {
    Record(StoredOp, Seq),
    Actor(String, Seq),
    Deleted(Subject, Tombstone),
    /// No deleted record is missing.
    AllDeleted,
}

fn entry_in(bytes: &[u8]) -> Option<Held> {
    match serde_json::from_slice(bytes.strip_suffix(b"\n")?).ok()? {
        Entry { seq, op: Some(op), actor: None, deleted: None, before: None } => Some(Held::Record(op, seq)),
        Entry { seq, op: None, actor: Some(actor), deleted: None, before: None } => Some(Held::Actor(actor, seq)),
        Entry { seq, op: None, actor: None, deleted: Some(record), before } => {
            Some(Held::Deleted(record.parse().ok()?, Tombstone { deleted: seq, before }))
        }
        _ => None,
    }
}

fn entry_of(standing: Standing) -> Entry {
    let nothing = Entry { seq: 0, op: None, actor: None, deleted: None, before: None };
    match standing {
        Standing::Record(seq, op) => Entry { seq, op: Some(op), ..nothing },
        Standing::Actor(actor, seq) => Entry { seq, actor: Some(actor), ..nothing },
        Standing::Deleted(record, tombstone) => {
            Entry { seq: tombstone.deleted, deleted: Some(record.to_string()), before: tombstone.before, ..nothing }
        }
    }
}

/// Puts what a snapshot holds.
fn put(effects: &mut Effects<'_>, some: Vec<Held>) -> Result<(), Failure> {
    for held in some {
        match held {
            Held::Record(op, seq) => drop(effects.perform(seq, &op)?),
            Held::Actor(actor, seq) => effects.remember(&actor, seq)?,
            Held::Deleted(record, tombstone) => effects.set_tombstone(record, tombstone)?,
            Held::AllDeleted => effects.set_all_tombstones()?,
        }
    }
    Ok(())
}

/// Why no snapshot could be written.
pub enum Unwritten {
    Disk(io::Error),
    Failure(Failure),
    /// The mirror does not hold what it should.
    Differs,
}

impl From<io::Error> for Unwritten {
    fn from(error: io::Error) -> Unwritten {
        Unwritten::Disk(error)
    }
}

/// Writes all that the mirror holds. `sum` is what it must add up to.
pub fn write(mirror: &Mirror, before: Seq, sum: Sum, out: &mut dyn Write) -> Result<Facts, Unwritten> {
    let mut out = Digesting { out, digest: Sha256::new() };
    let tombstones = mirror.has_all_tombstones().map_err(|broken| Unwritten::Failure(broken.into()))?;
    out.line(&serde_json::to_value(Header { snapshot: FORMAT, before, tombstones }))?;
    let (mut records, mut written) = (0, Sum::default());
    let mut failed: Result<(), Unwritten> = Ok(());
    mirror
        .walk(b"", None, |name, value| {
            failed = (|| {
                let Some(standing) = effects::standing_in(name, value).map_err(|e| Unwritten::Failure(e.into()))? else { return Ok(()) };
                if mirror::is_record(name) {
                    written.add(name, value);
                    records += 1;
                }
                Ok(out.line(&serde_json::to_value(entry_of(standing)))?)
            })();
            failed.is_ok()
        })
        .map_err(|broken: Broken| Unwritten::Failure(broken.into()))?;
    failed?;
    if written != sum {
        return Err(Unwritten::Differs);
    }
    Ok(Facts { sha256: hex::encode(&out.digest.finalize()), records })
}

struct Digesting<'o> {
    out: &'o mut dyn Write,
    digest: Sha256,
}

impl Digesting<'_> {
    fn line(&mut self, value: &serde_json::Result<Value>) -> io::Result<()> {
        let mut bytes = value.as_ref().map_err(|e| io::Error::other(e.to_string()))?.to_string().into_bytes();
        bytes.push(b'\n');
        self.digest.update(&bytes);
        self.out.write_all(&bytes)
    }
}
