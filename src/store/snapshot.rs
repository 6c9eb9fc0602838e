//! All live records as they stand before some line of the journal, so that the files before it are no longer needed to fill a mirror.
//!
//! A snapshot lies beside the journal's files, `journal/00000042.snapshot`, and holds what was there before change 42. Change 42, the first line
//! of `00000042.log`, names its SHA-256: the chain vouches for it as for any line. It is JSON, a line for each thing:
//!
//! ```text
//! {"before":42,"snapshot":1}
//! {"op":{"put_key":{…}},"seq":7}         a record, and the number of its last change
//! {"actor":"socket:root","seq":41}       the last change by that actor
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::draft::Tail;
use super::effects::{self, Base, Effects, Failure, Standing};
use super::mirror::{Broken, Mirror};
use super::records::StoredOp;
use super::refill::Stuck;
use super::segment::Segment;
use super::sum::Sum;
use super::{Seq, StoreError, hex};

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
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    seq: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    op: Option<StoredOp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
}

/// Where the snapshot before a line lies.
pub fn path_of(folder: &Path, before: Seq) -> PathBuf {
    folder.join(format!("{before:08}.snapshot"))
}

impl Snapshot {
    /// The snapshot that the first line of a file vouches for.
    pub fn vouched_for(segment: &Segment) -> Result<Option<Snapshot>, StoreError> {
        #[derive(Deserialize)]
        struct Line {
            store: Option<Told>,
        }
        #[derive(Deserialize)]
        struct Told {
            snapshot: Option<Facts>,
        }
        let folder = segment.path.parent().unwrap_or(Path::new(""));
        let path = path_of(folder, segment.first);
        let Some(block) = segment.block(segment.first).filter(|_| segment.lines > 0 && path.exists()) else { return Ok(None) };
        let mut facts = None;
        block.each(|seq, line| {
            if seq == segment.first {
                facts = serde_json::from_slice::<Line>(line.public).ok().and_then(|line| line.store?.snapshot);
            }
            Ok(())
        })?;
        Ok(facts.map(|facts| Snapshot { path, before: segment.first, facts }))
    }

    /// Puts its records where `effects` takes them, and says up to where they stand. `each` is handed some at a time.
    pub fn read<E: From<StoreError>>(&self, mut each: impl FnMut(Vec<(Seq, Held)>) -> Result<(), E>) -> Result<(), E> {
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
                self.check_header(&bytes)?;
                continue;
            }
            let (seq, held) = entry_in(&bytes).ok_or_else(|| self.damaged(&format!("line {number} is not one of a snapshot")))?;
            records += u64::from(matches!(held, Held::Record(_)));
            some.push((seq, held));
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

    fn check_header(&self, bytes: &[u8]) -> Result<(), StoreError> {
        match serde_json::from_slice::<Header>(bytes) {
            Ok(Header { snapshot, .. }) if snapshot > FORMAT => Err(StoreError::Unusable(format!(
                "{}: written in format {snapshot} by a newer octroi, this one reads up to {FORMAT}: start the newer one",
                self.path.display()
            ))),
            Ok(Header { before, .. }) if before == self.before => Ok(()),
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

/// Something that a snapshot holds.
pub enum Held {
    Record(StoredOp),
    Actor(String),
}

fn entry_in(bytes: &[u8]) -> Option<(Seq, Held)> {
    match serde_json::from_slice(bytes.strip_suffix(b"\n")?).ok()? {
        Entry { seq, op: Some(op), actor: None } => Some((seq, Held::Record(op))),
        Entry { seq, op: None, actor: Some(actor) } => Some((seq, Held::Actor(actor))),
        _ => None,
    }
}

/// Puts what a snapshot holds.
fn put(effects: &mut Effects<'_>, some: Vec<(Seq, Held)>) -> Result<(), Failure> {
    for (seq, held) in some {
        match held {
            Held::Record(op) => drop(effects.perform(seq, &op)?),
            Held::Actor(actor) => effects.remember(&actor, seq)?,
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
    out.line(&serde_json::to_value(Header { snapshot: FORMAT, before }))?;
    let (mut records, mut written) = (0, Sum::default());
    let mut failed: Result<(), Unwritten> = Ok(());
    mirror
        .walk(b"", None, |name, value| {
            failed = (|| {
                let entry = match effects::standing_in(name, value).map_err(|e| Unwritten::Failure(e.into()))? {
                    Some(Standing::Record(seq, op)) => {
                        written.add(name, value);
                        records += 1;
                        Entry { seq, op: Some(op), actor: None }
                    }
                    Some(Standing::Actor(actor, seq)) => Entry { seq, op: None, actor: Some(actor) },
                    None => return Ok(()),
                };
                Ok(out.line(&serde_json::to_value(entry))?)
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
