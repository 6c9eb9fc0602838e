//! What happened: per key its last use and its calls by verdict, the calls without a known key, and the last use of each operator's
//! token.
//!
//! Every worker notes its calls in a [`Ledger`] of its own. [`Usage::flush`], called each `usage.flush`, adds the
//! ledgers up and appends what changed to the usage log, together with the calendar counters of the limits; every question is answered after adding up, so
//! answers are exact. A crash loses what happened since the last flush. The sum over all keys and the calls without
//! a key is the number of calls recorded.
//!
//! This room decides nothing: it knows neither the registry nor what a limit is, and a disk that fails costs no call.
//! What a deleted key did stays.

mod entry;
mod ledger;
mod log;
mod operators;
mod sums;
mod watched;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use entry::Entry;
pub use ledger::Ledger;
use ledger::{ById, Notes, Page};
use log::{Frames, Log};
use operators::Operators;
pub use sums::{KeyUsage, LastUse, VerdictCounts};
use watched::Watch;
pub use watched::Watched;

use crate::model::{BucketOwner, CalendarCounters, KeyId, Moment, OperatorId, Timestamp};

/// The usage log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct UsageError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What a restart finds.
#[derive(Debug, Default)]
pub struct Restored {
    /// To be put back into the buckets before the first call.
    pub counters: HashMap<BucketOwner, CalendarCounters>,
    /// Bytes of the log that could not be read, beyond a torn end. Sums can be too low by what stood there.
    pub damaged_bytes: u64,
}

/// Takes the counters of one bucket.
pub type CounterSink<'a> = dyn FnMut(BucketOwner, CalendarCounters) + 'a;

/// All usage of this gateway. Locks are taken in the order of the fields.
pub struct Usage {
    disk: Mutex<Disk>,
    totals: Mutex<Totals>,
    ledgers: Mutex<Vec<Notes>>,
    operators: Mutex<Operators>,
    watch: Mutex<Watch>,
}

/// Held for a whole flush, so that two do not write at once. No call ever waits for it; a question waits only while
/// the log is rewritten, which holds the totals still.
struct Disk {
    log: Log,
    /// As they stand in the log.
    counters: HashMap<BucketOwner, CalendarCounters>,
}

#[derive(Default)]
struct Totals {
    keys: HashMap<KeyId, KeyUsage, ById>,
    without_key: VerdictCounts,
    /// What is not in the log yet.
    changed: HashSet<KeyId, ById>,
    without_key_changed: bool,
}

impl Usage {
    /// Opens or makes the log in `dir`, which is made where it does not exist, and reads what it holds. A torn end, as
    /// a crash leaves it, is cut; damage elsewhere is skipped with a warning, since usage is not what calls are judged by.
    pub fn open(dir: &Path) -> Result<(Usage, Restored), UsageError> {
        let (mut totals, mut operators, mut restored) = (Totals::default(), Operators::default(), Restored::default());
        let mut watch = Watch::default();
        let (log, damaged_bytes) = Log::open(dir, &mut |entry| match entry {
            Entry::Key(id, usage) => drop(totals.keys.insert(id, usage)),
            Entry::WithoutKey(counts) => totals.without_key = counts,
            Entry::Counters(owner, counters) => drop(restored.counters.insert(owner, counters)),
            Entry::Operator(id, last) => operators.restore(id, last),
            Entry::Watched(watched) => watch.restore(watched),
        })?;
        restored.damaged_bytes = damaged_bytes;
        if damaged_bytes > 0 {
            watch.forget();
        }
        let disk = Disk { log, counters: restored.counters.clone() };
        let usage = Usage {
            disk: Mutex::new(disk),
            totals: Mutex::new(totals),
            ledgers: Mutex::default(),
            operators: Mutex::new(operators),
            watch: Mutex::new(watch),
        };
        Ok((usage, restored))
    }

    /// A ledger for one worker. What it holds when it is dropped still counts.
    pub fn ledger(&self) -> Ledger {
        let (ledger, notes) = Notes::new();
        self.ledgers.lock().push(notes);
        ledger
    }

    /// What a key did; nothing, if it was never used.
    pub fn of_key(&self, id: KeyId) -> KeyUsage {
        self.merged(|totals| totals.keys.get(&id).cloned().unwrap_or_default())
    }

    /// What several keys did, in their order.
    pub fn of_keys(&self, ids: &[KeyId]) -> Vec<KeyUsage> {
        self.merged(|totals| ids.iter().map(|id| totals.keys.get(id).cloned().unwrap_or_default()).collect())
    }

    /// Notes that an operator's token was accepted.
    pub fn operator_used(&self, id: OperatorId, last: LastUse) {
        self.operators.lock().note(id, last);
    }

    /// The last time that an operator's token was accepted, and from where.
    pub fn of_operator(&self, id: OperatorId) -> Option<LastUse> {
        self.operators.lock().last(id)
    }

    /// Notes that calls are being seen, from the first time on. Answers whether the wall clock was set since the last time, or the gateway
    /// was off.
    pub fn watch(&self, now: Moment) -> bool {
        self.watch.lock().go_on(now)
    }

    /// How much of the past was watched; `None` before the first [`Usage::watch`].
    pub fn watched(&self) -> Option<Watched> {
        self.watch.lock().watched().cloned()
    }

    /// Calls that no key can answer for, by verdict.
    pub fn without_key(&self) -> VerdictCounts {
        self.merged(|totals| totals.without_key.clone())
    }

    /// All calls by verdict.
    pub fn totals(&self) -> VerdictCounts {
        self.merged(|totals| {
            let mut all = totals.without_key.clone();
            totals.keys.values().for_each(|usage| all.absorb(&usage.calls));
            all
        })
    }

    /// Adds up what the ledgers hold.
    pub fn merge(&self) {
        self.merged(|_| ());
    }

    fn merged<T>(&self, read: impl FnOnce(&mut Totals) -> T) -> T {
        let mut totals = self.totals.lock();
        let mut ledgers = self.ledgers.lock();
        let go_on: Vec<bool> = ledgers.iter_mut().map(Notes::turn).collect();
        if let Some(now) = ledgers.iter_mut().filter_map(|notes| notes.turned().until.take()).max() {
            ledgers.iter_mut().for_each(|notes| totals.absorb(notes.turned(), now));
        }
        let mut go_on = go_on.into_iter();
        ledgers.retain(|_| go_on.next().unwrap_or(true));
        drop(ledgers);
        read(&mut totals)
    }

    /// Appends everything that changed since the last flush, and waits until the disk has it. `counters` is asked for the
    /// calendar counters of all buckets. After an error nothing is lost: the next flush writes it.
    pub fn flush(&self, counters: &mut dyn FnMut(&mut CounterSink<'_>)) -> Result<(), UsageError> {
        let mut disk = self.disk.lock();
        let mut frames = Frames::new(Vec::new());
        let moved = disk.moved(counters);
        for (owner, now) in &moved {
            frames.counters(*owner, now).map_err(|source| disk.log.error("write", source))?;
        }
        let (keys, without_key) = self
            .merged(|totals| {
                let pending = totals.take_changed();
                totals.write(&pending, &mut frames).map(|()| pending)
            })
            .map_err(|source| disk.log.error("write", source))?;
        let operators = self.operators.lock().write_changed(&mut frames).map_err(|source| disk.log.error("write", source))?;
        let watched = self.watch.lock().to_log();
        watched.iter().try_for_each(|watched| frames.watched(watched)).map_err(|source| disk.log.error("write", source))?;
        let written = frames.finish().and_then(|bytes| disk.log.append(&bytes));
        if let Err(source) = written {
            let mut totals = self.totals.lock();
            totals.changed.extend(keys);
            totals.without_key_changed |= without_key;
            self.operators.lock().put_back(operators);
            return Err(disk.log.error("append to", source));
        }
        disk.counters.extend(moved);
        self.watch.lock().logged(watched);
        if disk.log.has_grown() {
            self.rewrite(&mut disk);
        }
        Ok(())
    }

    /// Makes the log as short as what it says. A failure costs nothing but room.
    fn rewrite(&self, disk: &mut Disk) {
        let Disk { log, counters } = disk;
        let result = log.rewrite(&mut |frames| {
            let totals = self.totals.lock();
            totals.keys.iter().try_for_each(|(id, usage)| frames.key(*id, usage))?;
            frames.without_key(&totals.without_key)?;
            self.operators.lock().write(frames)?;
            self.watch.lock().watched().iter().try_for_each(|watched| frames.watched(watched))?;
            counters.iter().try_for_each(|(owner, counters)| frames.counters(*owner, counters))
        });
        if let Err(error) = result {
            tracing::warn!(%error, "the usage log could not be shortened; it goes on as it is");
        }
    }
}

impl Disk {
    /// Counters that are not in the log as they are now.
    fn moved(&self, counters: &mut dyn FnMut(&mut CounterSink<'_>)) -> Vec<(BucketOwner, CalendarCounters)> {
        let mut moved = Vec::new();
        counters(&mut |owner, now| {
            let unused = now.day.used == 0 && now.month.used == 0;
            match self.counters.get(&owner) {
                Some(logged) if *logged == now => {}
                None if unused => {}
                _ => moved.push((owner, now)),
            }
        });
        moved
    }
}

/// What a flush has taken on: keys, and whether the calls without a key.
type Pending = (Vec<KeyId>, bool);

impl Totals {
    /// Adds what was noted up to `now`.
    fn absorb(&mut self, page: &mut Page, now: Timestamp) {
        let Page { keys, without_key, .. } = page;
        let roomy = keys.capacity() > 4_096 && keys.len() < keys.capacity() / 8;
        for (id, delta) in keys.drain() {
            self.keys.entry(id).or_default().absorb(&delta, now);
            self.changed.insert(id);
        }
        if roomy {
            keys.shrink_to(4_096);
        }
        if without_key.total() > 0 {
            self.without_key.absorb(&std::mem::take(without_key));
            self.without_key_changed = true;
        }
    }

    fn take_changed(&mut self) -> Pending {
        (self.changed.drain().collect(), std::mem::take(&mut self.without_key_changed))
    }

    fn write(&self, (keys, without_key): &Pending, frames: &mut Frames<Vec<u8>>) -> io::Result<()> {
        for id in keys {
            if let Some(usage) = self.keys.get(id) {
                frames.key(*id, usage)?;
            }
        }
        if *without_key { frames.without_key(&self.without_key) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
