//! The embedded store: a folder that one process holds, with the journal and its mirror in it.
//!
//! ```text
//! lock      held while a process uses the folder; its number is in it
//! journal/  the truth
//! sled/     the mirror: can be thrown away at any time
//! head      how far the journal stood when it was last started or stopped
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::check::{self, Verified};
use super::disk::{self, Disk};
use super::draft::Draft;
use super::effects::{self, Failure};
use super::export;
use super::head::Head;
use super::history::{self, Filter, History, Trace, Walk};
use super::journal::{Condition, Journal, SEGMENT_BYTES};
use super::lock;
use super::mirror::{self, Broken, Mirror};
use super::records::Unreadable;
use super::refill::{self, Found};
use super::{Author, Entry, Health, Kept, Record, Seq, Store, StoreError, Subject};
use super::{noted, restore};
use crate::model::{Key, KeyId, Machine, MachineId, Operator, OperatorId};

/// The store that a single gateway keeps in a folder of its own.
pub struct Embedded {
    folder: PathBuf,
    pub(super) journal: Mutex<Journal>,
    /// Held for as long as it takes to clone or replace what is in it.
    mirror: RwLock<Slot>,
    trouble: Mutex<Trouble>,
    notices: Mutex<Vec<String>>,
    /// Held while all files of the journal are read, or older ones are moved out.
    files: Mutex<()>,
    /// Declared last: released when everything above is closed.
    _lock: File,
}

enum Slot {
    Serving(Arc<Mirror>),
    /// To be refilled from the journal, once nobody reads in the old one any more.
    Broken(Weak<Mirror>),
}

/// What keeps changes from being taken.
#[derive(Default)]
struct Trouble {
    journal: Option<String>,
    mirror: Option<String>,
}

impl Embedded {
    /// Opens the store in `folder`, which is made if need be. Brings journal and mirror together, however the last process ended, or says
    /// why the folder cannot be trusted.
    pub fn open(folder: &Path) -> Result<Embedded, StoreError> {
        Embedded::open_on(folder, Arc::new(disk::Real), SEGMENT_BYTES)
    }

    pub(super) fn open_on(folder: &Path, disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<Embedded, StoreError> {
        let unusable = |e| StoreError::Unavailable(format!("{} cannot be used as a store: {e}", folder.display()));
        disk::make_folder(folder).map_err(unusable)?;
        let lock = lock::take(folder)?;
        let mut notices = Vec::new();
        notices.extend(restore::settle(folder)?);
        let journal_folder = folder.join("journal");
        disk::make_folder(&journal_folder).map_err(unusable)?;
        tidy(folder, &mut notices);
        let mut journal = Journal::read(&journal_folder, disk, segment_bytes)?;
        let found = refill::judge(folder, &journal)?;
        if let Found::Unreachable(_) = &found {
            refill::judge_by_copy(folder, &journal)?;
        }
        let (mirror, trouble) = match settle(&mut journal, &mut notices).and_then(|()| {
            // Only a mirror that is made anew cannot do without.
            let _ = noted::write(folder, &journal);
            refill::bring(found, folder, &journal, &mut notices)
        }) {
            Err(StoreError::Unavailable(why)) if disk::told_by(&why) && journal.files().next().is_some() => {
                let why = format!("{why}; memory was filled from the journal");
                notices.push(format!("store: {why}; changes are refused until the disk can be written"));
                (refill::stand_in(&journal)?, Some(why))
            }
            brought => (brought?, None),
        };
        tidy(folder, &mut notices);
        Ok(Embedded {
            folder: folder.to_owned(),
            journal: Mutex::new(journal),
            mirror: RwLock::new(Slot::Serving(Arc::new(mirror))),
            trouble: Mutex::new(Trouble { journal: None, mirror: trouble }),
            notices: Mutex::new(notices),
            files: Mutex::default(),
            _lock: lock,
        })
    }

    /// What an operator should be told of the start and of recoveries since, in the order in which it was found.
    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().clone()
    }

    /// Nobody else reads all of the journal's files meanwhile, and none is moved out.
    pub(super) fn alone_with_files(&self) -> Result<MutexGuard<'_, ()>, StoreError> {
        let busy = || StoreError::Refused("the journal is being verified or archived already; ask again when that is done".into());
        self.files.try_lock().ok_or_else(busy)
    }

    /// Verifies the journal's files as they are on the disk, up to the last change that is acknowledged now, and the snapshot that they rest on.
    pub(super) fn check_files(&self, heads: &[Head]) -> Result<Verified, StoreError> {
        let (origin, extents, tail, snapshot) = {
            let journal = self.journal.lock();
            (journal.origin(), journal.extents(), journal.tail(), journal.snapshot().cloned())
        };
        let mut verified = check::files(origin, &extents, heads, Some(("the running gateway", tail.into())))?;
        if let Some(snapshot) = snapshot.filter(|_| verified.flaw.is_none()) {
            verified.flaw = snapshot.flaw()?;
        }
        Ok(verified)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn serving(&self) -> Result<Arc<Mirror>, StoreError> {
        match &*self.mirror.read() {
            Slot::Serving(mirror) => Ok(mirror.clone()),
            Slot::Broken(_) => Err(StoreError::Unavailable("the mirror of the journal is being refilled".into())),
        }
    }

    /// The mirror for who wants to change something: what stands in for one takes no changes.
    pub(super) fn changing(&self) -> Result<Arc<Mirror>, StoreError> {
        let mirror = self.serving()?;
        if mirror.is_in_memory() {
            return Err(StoreError::Unavailable(self.trouble.lock().mirror.clone().unwrap_or_default()));
        }
        Ok(mirror)
    }

    /// Asks the mirror; one that fails serves no longer.
    fn ask<T>(&self, question: impl FnOnce(&Mirror) -> Result<T, Failure>) -> Result<T, StoreError> {
        let mirror = self.serving()?;
        question(&mirror).map_err(|failure| self.explain(&mirror, failure))
    }

    pub(super) fn explain(&self, mirror: &Arc<Mirror>, failure: Failure) -> StoreError {
        match failure {
            Failure::Mirror(broken) => StoreError::Unavailable(self.retire(mirror, &broken)),
            Failure::Record(unreadable) => {
                StoreError::Unusable(format!("a record in {} cannot be read: {unreadable}", self.folder.display()))
            }
        }
    }

    pub(super) fn retire(&self, mirror: &Arc<Mirror>, Broken(why): &Broken) -> String {
        let why = format!("{} failed and must be refilled from the journal: {why}", self.folder.join("sled").display());
        *self.mirror.write() = Slot::Broken(Arc::downgrade(mirror));
        self.trouble.lock().mirror = Some(why.clone());
        why
    }

    pub(super) fn note_condition(&self, journal: &Journal) {
        self.trouble.lock().journal = match journal.condition() {
            Condition::Good => None,
            Condition::Failing(why) | Condition::Unsure(why) => Some(why.clone()),
        };
    }

    fn commit_to(&self, journal: &mut Journal, group: &[Entry]) -> Result<Vec<Seq>, StoreError> {
        let mirror = self.changing()?;
        let base = journal.begin()?;
        let mut draft = Draft::new(&mirror, journal.tail(), base);
        let seqs = group.iter().map(|entry| draft.add(entry)).collect::<Result<Vec<Seq>, Failure>>();
        let seqs = seqs.map_err(|failure| self.explain(&mirror, failure))?;
        self.store(journal, &mirror, draft)?;
        Ok(seqs)
    }

    /// Makes lines durable, and then the mirror follow.
    pub(super) fn store(&self, journal: &mut Journal, mirror: &Arc<Mirror>, draft: Draft<'_>) -> Result<(), StoreError> {
        journal.append(&draft.bytes, &draft.starts, draft.tail)?;
        // From here on the group happened, whatever becomes of the mirror.
        if let Err(broken) = mirror.apply(&draft.into_writes()) {
            let why = self.retire(mirror, &broken);
            tracing::error!(reason = why, "the store takes no more changes until its mirror is refilled");
        }
        Ok(())
    }

    /// Adds a line about the store itself.
    pub(super) fn note(&self, author: &Author, what: &str, told: &serde_json::Value) -> Result<Seq, StoreError> {
        let mut journal = self.journal.lock();
        let mirror = self.changing()?;
        let base = journal.begin()?;
        let mut draft = Draft::new(&mirror, journal.tail(), base);
        let seq = draft.note(author, what, told).map_err(|failure| self.explain(&mirror, failure))?;
        let stored = self.store(&mut journal, &mirror, draft);
        self.note_condition(&journal);
        stored.map(|()| seq)
    }

    /// Refills a mirror that failed, or that the disk did not allow, as a start does.
    fn refill(&self, journal: &Journal) {
        match &*self.mirror.read() {
            Slot::Serving(mirror) if !mirror.is_in_memory() => return,
            // Looking a large mirror through again and again is of no use while nothing can be written.
            Slot::Serving(_) if *journal.condition() != Condition::Good || journal.probe().is_err() => return,
            Slot::Serving(_) => {}
            // Somebody still reads in it, and sled may still write its files: the folder cannot be moved yet.
            Slot::Broken(old) if old.strong_count() > 0 => return,
            Slot::Broken(_) => {}
        }
        let mut notices = Vec::new();
        let why = self.trouble.lock().mirror.clone().unwrap_or_default();
        // Where only the disk failed, what is on it may be as good as ever.
        let brought = if disk::told_by(&why) {
            refill::judge(&self.folder, journal).and_then(|found| refill::bring(found, &self.folder, journal, &mut notices))
        } else {
            refill::anew(&self.folder, journal, &why, &mut notices)
        };
        match brought {
            Ok(mirror) => {
                tidy(&self.folder, &mut notices);
                *self.mirror.write() = Slot::Serving(Arc::new(mirror));
                self.trouble.lock().mirror = None;
            }
            Err(error) => self.trouble.lock().mirror = Some(error.to_string()),
        }
        self.notices.lock().append(&mut notices);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let journal = self.journal.lock();
        if *journal.condition() == Condition::Good {
            // Not worth a word: the mirror knows as well.
            let _ = noted::write(&self.folder, &journal);
        }
    }
}

/// Opens the journal for changes; where the disk does not let it, it stays open for reading.
fn settle(journal: &mut Journal, notices: &mut Vec<String>) -> Result<(), StoreError> {
    match journal.settle() {
        Ok(notice) => {
            notices.extend(notice);
            Ok(())
        }
        Err(error) => {
            journal.doubt(error.to_string());
            Err(error)
        }
    }
}

/// Nobody but the gateway's own user may read hashes, not even where the files came from elsewhere.
fn tidy(folder: &Path, notices: &mut Vec<String>) {
    if let Err(error) = disk::make_private(folder) {
        notices.push(format!("{}: others may be able to read it, and that could not be changed: {error}", folder.display()));
    }
}

impl Store for Embedded {
    fn scan(&self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        self.ask(|mirror| {
            visit(mirror, mirror::MACHINES, None, |value| {
                each(Record::Machine(effects::machine_in(value)?.record));
                Ok(true)
            })?;
            visit(mirror, mirror::KEYS, None, |value| {
                each(Record::Key(effects::key_in(value)?.record));
                Ok(true)
            })?;
            visit(mirror, mirror::OPERATORS, None, |value| {
                each(Record::Operator(effects::operator_in(value)?.record));
                Ok(true)
            })
        })
    }

    fn machine(&self, id: MachineId) -> Result<Option<Kept<Machine>>, StoreError> {
        self.ask(|mirror| Ok(mirror.get(&mirror::machine_name(id))?.as_deref().map(effects::machine_in).transpose()?))
    }

    fn key(&self, id: KeyId) -> Result<Option<Kept<Key>>, StoreError> {
        self.ask(|mirror| Ok(mirror.get(&mirror::key_name(id))?.as_deref().map(effects::key_in).transpose()?))
    }

    fn operator(&self, id: OperatorId) -> Result<Option<Kept<Operator>>, StoreError> {
        self.ask(|mirror| Ok(mirror.get(&mirror::operator_name(id))?.as_deref().map(effects::operator_in).transpose()?))
    }

    fn operators(&self, after: Option<OperatorId>, limit: usize) -> Result<Vec<Operator>, StoreError> {
        self.ask(|mirror| page(mirror, mirror::OPERATORS, after.map(mirror::operator_name), limit, effects::operator_in))
    }

    fn machines(&self, after: Option<MachineId>, limit: usize) -> Result<Vec<Machine>, StoreError> {
        self.ask(|mirror| page(mirror, mirror::MACHINES, after.map(mirror::machine_name), limit, effects::machine_in))
    }

    fn keys(&self, of: Option<MachineId>, after: Option<KeyId>, limit: usize) -> Result<Vec<Key>, StoreError> {
        match of {
            Some(machine) => self.ask(|mirror| keys_of(mirror, machine, after, limit)),
            None => self.ask(|mirror| page(mirror, mirror::KEYS, after.map(mirror::key_name), limit, effects::key_in)),
        }
    }

    fn commit(&self, group: Vec<Entry>) -> Result<Vec<Seq>, StoreError> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        let mut journal = self.journal.lock();
        let committed = self.commit_to(&mut journal, &group);
        self.note_condition(&journal);
        committed
    }

    fn history(&self, filter: &Filter, before: Option<Seq>, limit: usize) -> Result<History, StoreError> {
        // Asked before the journal's end is looked at: no line that the mirror knows is beyond it.
        let mirror = self.serving().ok();
        let walk = Walk::begin(filter, before, limit, || self.journal.lock().tail().seq, mirror.as_deref());
        let walk = match (walk, &mirror) {
            (Ok(walk), _) => walk,
            (Err(broken), Some(mirror)) => return Err(StoreError::Unavailable(self.retire(mirror, &broken))),
            (Err(Broken(why)), None) => return Err(StoreError::Unavailable(why)),
        };
        // Neither mirror nor lock is held while the disk is read: a page keeps no refill and no change waiting.
        drop(mirror);
        walk.finish(|seq| self.journal.lock().block(seq))
    }

    fn entry(&self, seq: Seq) -> Result<Option<serde_json::Value>, StoreError> {
        history::entry(|seq| self.journal.lock().block(seq), seq)
    }

    fn was_there(&self, subject: Subject) -> Result<Option<bool>, StoreError> {
        if self.serving().is_err() {
            return Ok(None);
        }
        let trace = self.ask(|mirror| Ok(history::trace(mirror, subject)?))?;
        Ok(match trace {
            Trace::Live(_) | Trace::Deleted(_) => Some(true),
            Trace::Never => Some(false),
            Trace::Unknown => None,
        })
    }

    fn origin(&self) -> Head {
        self.journal.lock().origin().into()
    }

    fn head(&self, at: Option<Seq>) -> Result<Option<Head>, StoreError> {
        let (origin, tail) = {
            let journal = self.journal.lock();
            (journal.origin(), journal.tail())
        };
        match at {
            Some(seq) if seq == origin.seq => Ok(Some(origin.into())),
            Some(seq) if seq != tail.seq => history::head(|seq| self.journal.lock().block(seq), seq),
            _ => Ok(Some(tail.into())),
        }
    }

    fn export(&self, after: Head, until: Seq) -> Result<(Vec<u8>, Head), StoreError> {
        let block = if after.seq < until { self.journal.lock().block(after.seq + 1) } else { None };
        block.map_or(Ok((Vec::new(), after)), |block| export::lines(&block, after, until))
    }

    fn verify(&self, heads: &[Head]) -> Result<Verified, StoreError> {
        let _alone = self.alone_with_files()?;
        self.check_files(heads)
    }

    fn health(&self) -> Health {
        let trouble = self.trouble.lock();
        match trouble.journal.as_ref().or(trouble.mirror.as_ref()) {
            Some(why) => Health::Refusing(why.clone()),
            None => Health::Ready,
        }
    }

    fn recover(&self) {
        let mut journal = self.journal.lock();
        journal.recover();
        self.note_condition(&journal);
        self.refill(&journal);
    }
}

/// Visits values until `each` is content or fails.
fn visit(
    mirror: &Mirror,
    prefix: &[u8],
    after: Option<&[u8]>,
    mut each: impl FnMut(&[u8]) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut failed = Ok(());
    mirror.walk(prefix, after, |_, value| {
        each(value).unwrap_or_else(|failure| {
            failed = Err(failure);
            false
        })
    })?;
    failed
}

/// At most `limit` records of one kind behind the name `after`.
fn page<T>(
    mirror: &Mirror,
    kind: &[u8],
    after: Option<Vec<u8>>,
    limit: usize,
    read: fn(&[u8]) -> Result<Kept<T>, Unreadable>,
) -> Result<Vec<T>, Failure> {
    let mut page = Vec::new();
    visit(mirror, kind, after.as_deref(), |value| {
        if page.len() < limit {
            page.push(read(value)?.record);
        }
        Ok(page.len() < limit)
    })?;
    Ok(page)
}

fn keys_of(mirror: &Mirror, machine: MachineId, after: Option<KeyId>, limit: usize) -> Result<Vec<Key>, Failure> {
    let mut ids = Vec::new();
    let after = after.map(|key| mirror::index_name(machine, key));
    mirror.walk(&mirror::index_prefix(machine), after.as_deref(), |name, _| {
        if ids.len() < limit {
            ids.extend(mirror::indexed_key(name));
        }
        ids.len() < limit
    })?;
    let mut page = Vec::with_capacity(ids.len());
    for id in ids {
        // A key that a change took away meanwhile is simply not on the page.
        page.extend(mirror.get(&mirror::key_name(id))?.as_deref().map(effects::key_in).transpose()?.map(|kept| kept.record));
    }
    Ok(page)
}
