//! Looking a store through: the journal's checksums and chain, each line's state by replaying all of them, and the mirror. Nothing is changed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::backup::Head;
use super::effects::Base;
use super::embedded::Embedded;
use super::journal::Journal;
use super::mirror::{self, Broken, Mirror, Write, Writes};
use super::refill::{self, Found, Stuck};
use super::{Seq, StoreError, disk, lock, restore};

/// What was found of a store that is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The first change that is here; those before were archived.
    pub first: Seq,
    pub head: Head,
    /// Of the journal.
    pub files: usize,
    pub records: u64,
    /// What is not as it could be, but does no harm.
    pub notes: Vec<String>,
}

/// Looks through a stopped gateway's store. The error names the first thing that is bad.
pub fn verify(folder: &Path) -> Result<Verified, StoreError> {
    if !folder.join("journal").is_dir() {
        return Err(StoreError::Unavailable(format!("there is no store in {}", folder.display())));
    }
    let _lock = lock::take(folder)?;
    restore::refuse_unfinished(folder)?;
    let journal = Journal::read(&folder.join("journal"), Arc::new(disk::Real), u64::MAX)?;
    let mut notes = Vec::new();
    let torn =
        journal.damage().map(|damage| format!("{} bytes of a change that was never acknowledged at {}", damage.length, damage.place()));
    notes.extend(torn);
    let records = replay(&journal)?;
    match refill::judge(folder, &journal)? {
        Found::Usable { applied, .. } if applied < journal.tail().seq => {
            notes.push(format!("sled stands at change {applied}; the next start brings it forward"));
        }
        Found::Usable { .. } => {}
        Found::Missing => notes.push("sled is missing; the next start makes it anew".into()),
        Found::Damaged(Broken(why)) => {
            let sled = folder.join("sled");
            return Err(StoreError::Unusable(format!("{} is damaged: {why}; octroi store rebuild makes it anew", sled.display())));
        }
    }
    Ok(Verified::of(&journal, records, notes))
}

impl Verified {
    fn of(journal: &Journal, records: u64, notes: Vec<String>) -> Verified {
        let tail = journal.tail();
        let head = Head { seq: tail.seq, chain: tail.chain };
        Verified { first: journal.origin().seq + 1, head, files: journal.files().count(), records, notes }
    }
}

impl Embedded {
    /// Looks through the store of a running gateway: journal and chain as they are on the disk, and whether the mirror holds what the
    /// last line says. Changes wait while the mirror is read.
    pub fn verify(&self) -> Result<Verified, StoreError> {
        let _still = self.archiving.lock();
        let tail = self.journal.lock().tail();
        // What is appended meanwhile may look torn.
        let journal = Journal::read(&self.folder().join("journal"), Arc::new(disk::Real), u64::MAX)?;
        let holds = journal.tail().seq >= tail.seq && refill::standing(&journal, tail.seq)?.0 == tail.chain;
        if !holds {
            let why = format!("the files in {} do not hold change {}, which was acknowledged", journal.folder().display(), tail.seq);
            return Err(StoreError::Unusable(why));
        }
        if let Some(snapshot) = journal.snapshot() {
            snapshot.read::<StoreError>(|_| Ok(()))?;
        }
        let mirror = self.serving()?;
        let (sum, state) = {
            let journal = self.journal.lock();
            (mirror.check(), journal.tail().state)
        };
        let broken = match sum {
            Ok(sum) if sum == state => None,
            Ok(_) => Some("it does not hold what the journal says it should".to_owned()),
            Err(Broken(why)) => Some(why),
        };
        if let Some(why) = broken {
            let sled = self.folder().join("sled");
            return Err(StoreError::Unusable(format!("{} is damaged: {why}; a restart makes it anew", sled.display())));
        }
        let records = count(&mirror).map_err(|Broken(why)| StoreError::Unavailable(why))?;
        Ok(Verified::of(&journal, records, Vec::new()))
    }
}

/// How many records a mirror holds.
pub fn count(mirror: &Mirror) -> Result<u64, Broken> {
    let mut records = 0;
    mirror.walk(b"", None, |name, _| {
        records += u64::from(mirror::is_record(name));
        true
    })?;
    Ok(records)
}

/// Replays all that the journal holds, and says how many records that leaves.
fn replay(journal: &Journal) -> Result<u64, StoreError> {
    let memory = Memory::default();
    match refill::from_the_beginning(&memory, journal) {
        Ok(()) => Ok(memory.0.borrow().keys().filter(|name| mirror::is_record(name)).count() as u64),
        Err(Stuck::Journal(error)) => Err(error),
        Err(Stuck::Mirror(Broken(why))) => Err(StoreError::Unavailable(why)),
    }
}

/// Records in memory, for a replay that leaves no trace.
#[derive(Default)]
struct Memory(RefCell<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Base for Memory {
    fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        Ok(self.0.borrow().get(name).cloned())
    }

    fn names(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Broken> {
        let all = self.0.borrow();
        all.range(prefix.to_vec()..).take_while(|(name, _)| name.starts_with(prefix)).for_each(|(name, _)| each(name));
        Ok(())
    }

    fn apply(&self, lines: &[Writes]) -> Result<(), Broken> {
        lines.iter().try_for_each(|line| self.fill(&line.writes))
    }

    fn fill(&self, writes: &[Write]) -> Result<(), Broken> {
        let mut all = self.0.borrow_mut();
        for (name, value) in writes {
            match value {
                Some(value) => drop(all.insert(name.clone(), value.clone())),
                None => drop(all.remove(name)),
            }
        }
        Ok(())
    }
}
