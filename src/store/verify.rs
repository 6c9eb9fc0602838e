//! Looking a whole store through: the journal as [`check`](super::check) does, the snapshot that it rests on, each line's state by
//! replaying all of them, and the mirror. Nothing is changed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::check::{Flaw, Verified};
use super::effects::Base;
use super::embedded::Embedded;
use super::head::Head;
use super::journal::Journal;
use super::mirror::{self, Broken, Mirror, Write, Writes};
use super::refill::{self, Found, Stuck};
use super::{StoreError, disk, lock, restore, stopped};

/// What was found of a store that is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub journal: Verified,
    pub records: u64,
    /// What is not as it could be, but does no harm.
    pub notes: Vec<String>,
}

/// Looks through a stopped gateway's store. The error names the first thing that is bad.
pub fn verify_store(folder: &Path) -> Result<Whole, StoreError> {
    if !folder.join("journal").is_dir() {
        return Err(StoreError::Unavailable(format!("there is no store in {}", folder.display())));
    }
    let _lock = lock::take(folder)?;
    restore::refuse_unfinished(folder)?;
    let verified = stopped::files(folder, &[], applied(folder))?;
    let mut notes = Vec::new();
    notes.extend(verified.unfinished.as_ref().map(|end| format!("the end of a change that was never acknowledged: {end}")));
    let verified = good(verified)?;
    let journal = Journal::read(&folder.join("journal"), Arc::new(disk::Real), u64::MAX)?;
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
    Ok(Whole { journal: verified, records, notes })
}

/// How far the mirror stands, if it can say so.
fn applied(folder: &Path) -> Option<Head> {
    let sled = folder.join("sled");
    if !sled.exists() {
        return None;
    }
    Mirror::open(&sled).and_then(|mirror| mirror.applied()).ok().map(|applied| applied.map_or(Head::START, Head::from))
}

fn good(verified: Verified) -> Result<Verified, StoreError> {
    match &verified.flaw {
        None => Ok(verified),
        Some(flaw) => Err(bad(flaw)),
    }
}

fn bad(flaw: &Flaw) -> StoreError {
    StoreError::Unusable(format!(
        "{flaw}; bring the journal back from a backup that is as new. Only if a loss is accepted, and with it that revoked keys may be valid \
         again: octroi store restore --accept-rollback --config SETTINGS"
    ))
}

impl Embedded {
    /// Looks through the store of a running gateway: the journal as it is on the disk, the snapshot, and whether the mirror holds what the
    /// last line says. Changes wait while the mirror is read.
    pub fn verify_whole(&self) -> Result<Whole, StoreError> {
        let _alone = self.alone_with_files()?;
        let journal = good(self.check_files(&[])?)?;
        let snapshot = self.journal.lock().snapshot().cloned();
        if let Some(snapshot) = snapshot {
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
        Ok(Whole { journal, records, notes: Vec::new() })
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
