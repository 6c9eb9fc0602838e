//! Putting a backup in the place of a store, or accepting that the journal in place lost changes.
//!
//! The new store is made whole beside the old one, as `restore.new`. Its one renaming to `restore.ready` is the restore: a process that is killed
//! before leaves the old store, one that is killed after leaves the new one, which the next start moves to its place. What was there is kept
//! in a folder `replaced-…`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::backup::{self, Backup, Bad, Manifest};
use super::embedded::Embedded;
use super::head::Head;
use super::journal::{Journal, SEGMENT_BYTES};
use super::mirror::Mirror;
use super::{Author, StoreError, disk, lock, noted, refill};
use crate::clock::Clock;

const NEW: &str = "restore.new";
const READY: &str = "restore.ready";
/// In `restore.ready`: what it takes the place of.
const REPLACED: &str = "replaced";
/// What a restore replaces, each whole.
const PARTS: [&str; 3] = ["journal", "sled", "usage"];

/// What is to be restored.
#[derive(Debug)]
pub struct Restore<'r> {
    /// The store's folder.
    pub folder: &'r Path,
    /// A backup, or what is in place already: the way to go on with a journal that lost changes.
    pub source: Option<&'r Path>,
    /// Changes that the store in place knows of may be lost.
    pub accept_rollback: bool,
    pub author: &'r Author,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The last change that came back.
    pub head: Head,
    /// The last change known of before, where it is not among those that came back.
    pub lost: Option<String>,
    /// Where what was in place before is now.
    pub replaced: Option<PathBuf>,
}

/// Restores, or says why not. An error leaves the store as it was.
pub fn restore(request: &Restore<'_>) -> Result<Restored, StoreError> {
    let folder = request.folder;
    let failed = |e: io::Error| StoreError::Unavailable(format!("{} cannot be restored: {e}", folder.display()));
    disk::make_folder(folder).map_err(failed)?;
    let _lock = lock::take(folder)?;
    settle(folder)?;
    let place = Place::of(folder)?;
    let new = folder.join(NEW);
    let prepared = prepare(request, &place, &new);
    let (head, lost) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            backup::remove(&new)?;
            return Err(error);
        }
    };
    fs::remove_file(new.join("lock")).and_then(|()| noted::remove(&new)).map_err(failed)?;
    disk::make_private(&new).and_then(|()| disk::sync_folder(&new)).map_err(failed)?;
    fs::rename(&new, folder.join(READY)).and_then(|()| disk::sync_folder(folder)).map_err(failed)?;
    let replaced = roll_forward(folder).map_err(failed)?;
    Ok(Restored { head, lost, replaced })
}

/// Makes the new store whole, and tries it: every line is replayed.
fn prepare(request: &Restore<'_>, place: &Place, new: &Path) -> Result<(Head, Option<String>), StoreError> {
    let manifest = match request.source {
        Some(source) => backup::open(source, Some(new))?,
        None => copy_in_place(request, place, new)?,
    };
    let store = Embedded::open_on(new, Arc::new(disk::Real), SEGMENT_BYTES)?;
    let loss = {
        let journal = store.journal.lock();
        let tail = journal.tail();
        if Head::from(tail) != manifest.head {
            return Err(StoreError::Unusable(format!(
                "the backup's journal ends with change {}, not with {} as it says",
                tail.seq, manifest.head
            )));
        }
        place.loss(&journal)?
    };
    match &loss {
        None if request.source.is_none() => {
            return Err(StoreError::Refused("nothing was lost: the journal is as new as its mirror, so there is nothing to accept".into()));
        }
        Some(loss) if !request.accept_rollback => {
            return Err(StoreError::Refused(format!(
                "{loss}. Keys that were revoked since would be valid again. Only if that is accepted: add --accept-rollback"
            )));
        }
        Some(_) => {
            let source = request.source.map(|source| source.display().to_string());
            let told = json!({
                "source": source,
                "created_at": manifest.created_at.to_string(),
                "head": manifest.head.to_string(),
                "head_before": place.head().map(|head| head.to_string()),
            });
            store.note(request.author, "store.restored", &told)?;
        }
        None => {}
    }
    Ok((manifest.head, loss))
}

fn copy_in_place(request: &Restore<'_>, place: &Place, new: &Path) -> Result<Manifest, StoreError> {
    let journal = place.journal.as_ref().map_err(|why| StoreError::Unusable(why.clone()))?;
    let backup = Backup::of(request.folder, journal, request.author.time)?;
    backup::unpack(backup, Some(new)).map_err(|bad| {
        let why = match bad {
            Bad::Content(why) => why,
            Bad::Disk(e) => e.to_string(),
        };
        StoreError::Unavailable(format!("the store in {} cannot be copied: {why}", request.folder.display()))
    })
}

/// What is known of the store in place.
struct Place {
    folder: PathBuf,
    /// Or why it cannot be read.
    journal: Result<Journal, String>,
    /// How far the mirror stood.
    mirror: Option<Head>,
    /// How far the journal stood, as it was noted beside it.
    noted: Option<Head>,
}

impl Place {
    fn of(folder: &Path) -> Result<Place, StoreError> {
        let journal = match Journal::read(&folder.join("journal"), Arc::new(disk::Real), u64::MAX) {
            Ok(journal) => Ok(journal),
            Err(StoreError::Unusable(why)) => Err(why),
            Err(error) => return Err(error),
        };
        let sled = folder.join("sled");
        // A mirror that cannot be read knows nothing: the journal alone is compared.
        let applied = sled.exists().then(|| Mirror::open(&sled).and_then(|mirror| mirror.applied()).ok().flatten()).flatten();
        let mirror = applied.map(Head::from);
        let noted = match noted::read(folder) {
            Err(StoreError::Unusable(_)) => None,
            read => read?,
        };
        Ok(Place { folder: folder.to_owned(), journal, mirror, noted })
    }

    /// The last change that anything here knows of.
    fn head(&self) -> Option<Head> {
        let journal = self.journal.as_ref().ok().map(|journal| Head::from(journal.tail()));
        journal.into_iter().chain(self.mirror).chain(self.noted).filter(|head| head.seq > 0).max_by_key(|head| head.seq)
    }

    /// Why something would be lost with this journal in place of what is here.
    fn loss(&self, new: &Journal) -> Result<Option<String>, StoreError> {
        let place = self.folder.display();
        let journal = match &self.journal {
            Ok(journal) => journal,
            Err(why) => return Ok(Some(format!("what the backup lacks cannot be told, since the journal in place cannot be read: {why}"))),
        };
        let tail = journal.tail();
        let heads = [Some(Head::from(tail)), self.mirror, self.noted].into_iter().flatten();
        for head in heads.filter(|head| head.seq > 0) {
            if holds(new, head)? {
                continue;
            }
            let end = Head::from(new.tail());
            let newer = head.seq > end.seq && (end.seq == 0 || holds(journal, end)?);
            return Ok(Some(if newer {
                format!("the store in {place} is newer: it goes on to change {}, and the backup ends with change {}", head.seq, end.seq)
            } else {
                format!("the store in {place} has another history: its change {} is not the one that the backup holds", head.seq)
            }));
        }
        Ok(None)
    }
}

/// Whether a journal holds this very change.
fn holds(journal: &Journal, head: Head) -> Result<bool, StoreError> {
    if head.seq > journal.tail().seq || head.seq < journal.origin().seq {
        return Ok(false);
    }
    Ok(refill::standing(journal, head.seq)?.0 == head.chain)
}

/// Ends a restore that was cut off, one way or the other, and says so.
pub fn settle(folder: &Path) -> Result<Option<String>, StoreError> {
    let failed = |e: io::Error| StoreError::Unavailable(format!("a restore of {} that was cut off cannot be ended: {e}", folder.display()));
    // Never whole: nothing but a copy of what the backup still has.
    backup::remove(&folder.join(NEW))?;
    if !folder.join(READY).exists() {
        return Ok(None);
    }
    let replaced = roll_forward(folder).map_err(failed)?;
    let aside = replaced.map(|path| format!("; what was there before is in {}", path.display())).unwrap_or_default();
    Ok(Some(format!("store: a restore that was cut off has been completed{aside}")))
}

/// For who only looks: a restore must be ended before anything else.
pub fn refuse_unfinished(folder: &Path) -> Result<(), StoreError> {
    if folder.join(READY).exists() {
        let why = format!("a restore of {} was cut off: start the gateway once, which completes it", folder.display());
        return Err(StoreError::Unusable(why));
    }
    Ok(())
}

/// Moves what is ready to its place. Each step can be the last one before a crash, and is then not done twice.
fn roll_forward(folder: &Path) -> io::Result<Option<PathBuf>> {
    let (ready, replaced) = (folder.join(READY), folder.join(READY).join(REPLACED));
    disk::make_folder(&replaced)?;
    // It is about the journal that goes.
    noted::remove(folder)?;
    for part in PARTS {
        let (new, here, aside) = (ready.join(part), folder.join(part), replaced.join(part));
        if !new.exists() {
            continue;
        }
        if here.exists() && !aside.exists() {
            fs::rename(&here, &aside)?;
            disk::sync_folder(&replaced)?;
        }
        fs::rename(&new, &here)?;
        disk::sync_folder(folder)?;
        disk::sync_folder(&ready)?;
    }
    let seconds = Clock::system().now().wall.0 / 1000;
    let names = (seconds..).map(|n| folder.join(format!("{REPLACED}-{n}")));
    let aside = names.into_iter().find(|name| !name.exists());
    let something = fs::read_dir(&replaced)?.next().is_some();
    let aside = aside.filter(|_| something);
    aside.as_ref().map_or(Ok(()), |aside| fs::rename(&replaced, aside))?;
    // Nothing is left in it that is not elsewhere.
    fs::remove_dir_all(&ready)?;
    disk::sync_folder(folder)?;
    Ok(aside)
}
