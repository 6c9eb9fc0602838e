//! Looking a whole store through: the journal as [`check`](super::check) does, the snapshot that it rests on, each line's state by
//! replaying all of them, and the mirror. Nothing is changed.

use std::path::Path;
use std::sync::Arc;

use super::check::{Flaw, Verified};
use super::embedded::Embedded;
use super::head::Head;
use super::journal::Journal;
use super::mirror::{self, Broken, Mirror};
use super::refill::{self, Found, Stuck};
use super::stopped::{self, Copy};
use super::{StoreError, disk, lock, restore};

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
    let sled = folder.join("sled");
    // Sled writes as it opens.
    let copy = sled.exists().then(|| Copy::of(&sled)).transpose().map_err(|e| uncopied(&sled, &e.to_string()))?;
    let copy = copy.as_ref().map(Copy::place);
    let verified = stopped::files(folder, &[], copy.and_then(applied))?;
    let mut notes = Vec::new();
    notes.extend(verified.unfinished.as_ref().map(|end| format!("the end of a change that was never acknowledged: {end}")));
    let verified = good(verified)?;
    let journal = Journal::read(&folder.join("journal"), Arc::new(disk::Real), u64::MAX)?;
    let records = replay(&journal)?;
    match refill::judge_at(copy.unwrap_or(&sled), folder, &journal)? {
        Found::Usable { applied: 0, .. } if journal.tail().seq > 0 => {
            notes.push("sled holds nothing; the next start fills it from the journal".into());
        }
        Found::Usable { applied, .. } if applied < journal.tail().seq => {
            notes.push(format!("sled stands at change {applied}; the next start brings it forward"));
        }
        Found::Usable { .. } => {}
        Found::Missing => notes.push("sled is missing; the next start makes it anew".into()),
        Found::Unreachable(Broken(why)) => return Err(uncopied(&sled, &why)),
        Found::Damaged(Broken(why)) => {
            return Err(StoreError::Unusable(format!("{} is damaged: {why}; octroi store rebuild makes it anew", sled.display())));
        }
    }
    Ok(Whole { journal: verified, records, notes })
}

fn uncopied(sled: &Path, why: &str) -> StoreError {
    StoreError::Unavailable(format!(
        "{} cannot be copied to {} to be read there: {why}; make room, or let TMPDIR name a folder that has some. Nothing was changed, and nothing \
         is said against the store",
        sled.display(),
        std::env::temp_dir().display()
    ))
}

/// How far the mirror stands, if it can say so.
fn applied(sled: &Path) -> Option<Head> {
    Mirror::open(sled).and_then(|mirror| mirror.applied()).ok().flatten().map(Head::from)
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
    let memory = Mirror::in_memory();
    match refill::from_the_beginning(&memory, journal) {
        Ok(()) => count(&memory).map_err(|Broken(why)| StoreError::Unavailable(why)),
        Err(Stuck::Journal(error)) => Err(error),
        Err(Stuck::Mirror(Broken(why))) => Err(StoreError::Unavailable(why)),
    }
}
