//! The sled mirror of what the journal says: live records by id, for the scan at start and for lists. The only file that names
//! sled. It is never believed: a start compares it with the journal, and whatever goes wrong in it is cured by a refill.
//!
//! One tree, so that a batch is atomic:
//!
//! ```text
//! m<machine 16>            → <seq 8> <stored machine>
//! k<key 16>                → <seq 8> <machine 16> <stored key>
//! o<operator 16>           → <seq 8> <stored operator>
//! i<machine 16><key 16>    → (nothing)      the keys of a machine
//! a<actor>                 → <seq 8>        the last change by that actor
//! d<m, k or o><id 16>      → <seq 8> <seq 8>   a deleted record: the change that deleted it, and the last one before (0 = none)
//! !tombstones              → (nothing)      no deleted record is missing: filled by a make that keeps `d`
//! !applied                 → <seq 8> <chain 32>   the line up to which all of this stands
//! ```
//!
//! `seq` is the last change of that record. Numbers are big-endian, so that names sort by id.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use parking_lot::RwLock;

use super::line::Chain;
use super::sum::Sum;
use super::{Seq, Subject, disk};
use crate::model::{KeyId, MachineId, OperatorId};

/// Larger caches made the process grow to 390 MiB at a million keys; the registry answers from its own memory anyway.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Refilling in batches of 1 000 took 1.5 GB of memory, in batches of 50 it took 150 MB.
const BATCH: usize = 64;
/// A sled that was just closed in this process lets go of its own lock a little later.
const LOCK_TRIES: u32 = 250;

const APPLIED: &[u8] = b"!applied";
const TOMBSTONES: &[u8] = b"!tombstones";
const SEQ: usize = 8;
const ID: usize = 16;

/// The mirror failed: sled answered with an error, or panicked, or holds something that was never written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl Broken {
    /// Whether it was the disk that failed and not what stands on it: full, over its quota, read-only or unreadable. Then the mirror may be as good
    /// as ever. Sled hands the system's error on in words only, and those of a panic are others.
    pub fn is_of_the_disk(&self) -> bool {
        disk::told_by(&self.0)
    }
}

/// Up to which line of which journal the mirror stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub seq: Seq,
    pub chain: Chain,
}

/// A name and its value, `None` where it goes.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

/// What is left of a deleted record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The change that deleted it. It may be about another record: a machine's end is that of its keys.
    pub deleted: Seq,
    /// The last change before that.
    pub before: Option<Seq>,
}

/// What one journal line writes.
pub struct Writes {
    pub applied: Applied,
    pub writes: Vec<Write>,
}

/// An open mirror.
pub struct Mirror {
    place: Place,
    #[cfg(test)]
    failing: std::sync::atomic::AtomicBool,
}

enum Place {
    Sled(Closing),
    /// For as long as the disk does not let sled have its files, and for a replay that leaves no trace.
    Memory(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>),
}

/// Closing it, too, may panic on a damaged one, and must not take the process with it.
struct Closing(Option<sled::Db>);

impl Drop for Closing {
    fn drop(&mut self) {
        let db = self.0.take();
        // Nothing to save when it fails: the journal has it all, and the next start checks what is here.
        let _ = guarded("close", || {
            drop(db);
            Ok(())
        });
    }
}

impl Mirror {
    pub fn open(folder: &Path) -> Result<Mirror, Broken> {
        let config = sled::Config::new()
            .path(folder)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(CACHE_BYTES)
            // Nobody waits for these flushes: they only keep the next start from replaying much.
            .flush_every_ms(Some(500));
        let mut tries = 0;
        loop {
            match guarded("open", || config.open()) {
                Err(Broken(why)) if why.contains("could not acquire lock") && tries < LOCK_TRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => {
                    return other.map(|db| Mirror::at(Place::Sled(Closing(Some(db)))));
                }
            }
        }
    }

    /// An empty one that needs no disk.
    pub fn in_memory() -> Mirror {
        Mirror::at(Place::Memory(RwLock::default()))
    }

    fn at(place: Place) -> Mirror {
        Mirror {
            place,
            #[cfg(test)]
            failing: false.into(),
        }
    }

    /// Whether all of it is gone with this process.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    /// Every write from now on panics, as those of sled do.
    #[cfg(test)]
    pub fn fail_writes(&self) {
        self.failing.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn write<'w>(&self, writes: impl Iterator<Item = &'w Write>) -> Result<(), Broken> {
        let db = match &self.place {
            Place::Sled(closing) => closing.db()?,
            Place::Memory(names) => {
                let mut names = names.write();
                writes.for_each(|(name, value)| match value {
                    Some(value) => drop(names.insert(name.clone(), value.clone())),
                    None => drop(names.remove(name)),
                });
                return Ok(());
            }
        };
        let mut batch = sled::Batch::default();
        writes.for_each(|(name, value)| match value {
            Some(value) => batch.insert(name.as_slice(), value.as_slice()),
            None => batch.remove(name.as_slice()),
        });
        guarded("write", || {
            #[cfg(test)]
            assert!(!self.failing.load(std::sync::atomic::Ordering::Relaxed), "told to fail");
            db.apply_batch(batch)
        })
    }

    pub fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        match &self.place {
            Place::Sled(closing) => {
                let db = closing.db()?;
                Ok(guarded("read", || db.get(name))?.map(|value| value.to_vec()))
            }
            Place::Memory(names) => Ok(names.read().get(name).cloned()),
        }
    }

    /// Visits names from `after` on (without it, when it is such a name) that begin with `prefix`, in order, until `each` says no.
    pub fn walk(&self, prefix: &[u8], after: Option<&[u8]>, mut each: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), Broken> {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let db = match &self.place {
            Place::Sled(closing) => closing.db()?,
            Place::Memory(names) => {
                let names = names.read();
                let mut range = names.range::<[u8], _>((from, Bound::Unbounded));
                // `all` stops where `each` does.
                range.all(|(name, value)| name.starts_with(prefix) && each(name, value));
                return Ok(());
            }
        };
        let mut names = guarded("read", || Ok(db.range::<&[u8], _>((from, Bound::Unbounded))))?;
        while let Some((name, value)) = guarded("read", || names.next().transpose())? {
            if !name.starts_with(prefix) || !each(&name, &value) {
                break;
            }
        }
        Ok(())
    }

    /// Writes lines in order. Each batch moves `!applied` along with what it holds, so whatever part of it a crash leaves behind
    /// is the state after some line.
    pub fn apply(&self, lines: &[Writes]) -> Result<(), Broken> {
        let (mut from, mut size) = (0, 0);
        for (i, line) in lines.iter().enumerate() {
            size += line.writes.len();
            let next = lines.get(i + 1).map_or(usize::MAX, |next| next.writes.len());
            if size.saturating_add(next) >= BATCH {
                let applied = (APPLIED.to_vec(), Some(encode_applied(&line.applied)));
                self.write(lines[from..=i].iter().flat_map(|line| &line.writes).chain([&applied]))?;
                (from, size) = (i + 1, 0);
            }
        }
        Ok(())
    }

    /// Puts records in place of which it is not said yet up to which line they stand. Only then does [`Mirror::apply`] make
    /// a mirror of them: one that a crash leaves half filled stands for nothing.
    pub fn fill(&self, writes: &[Write]) -> Result<(), Broken> {
        writes.chunks(BATCH).try_for_each(|part| self.write(part.iter()))
    }

    pub fn applied(&self) -> Result<Option<Applied>, Broken> {
        self.get(APPLIED)?.map(|value| decode_applied(&value).ok_or_else(|| Broken("no valid `applied` in it".into()))).transpose()
    }

    /// Whether what is neither a record nor a tombstone never was. Mirrors of earlier makes do not know.
    pub fn has_all_tombstones(&self) -> Result<bool, Broken> {
        Ok(self.get(TOMBSTONES)?.is_some())
    }

    /// Reads everything and sums it. The index has no part in the sum that the journal knows, so it is compared with the keys.
    pub fn check(&self) -> Result<Sum, Broken> {
        let (mut sum, mut of_keys, mut of_index) = (Sum::default(), Sum::default(), Sum::default());
        let mut odd = false;
        self.walk(b"", None, |name, value| {
            match (name.first(), split_key(value)) {
                (Some(b'm' | b'o'), _) => sum.add(name, value),
                (Some(b'k'), Some((_, machine, _))) => {
                    sum.add(name, value);
                    of_keys.add(&machine.as_u128().to_be_bytes(), &name[1..]);
                }
                (Some(b'i'), _) if name.len() == 1 + 2 * ID => of_index.add(&name[1..1 + ID], &name[1 + ID..]),
                (Some(b'a' | b'd'), _) => {}
                _ => odd |= name != APPLIED && name != TOMBSTONES,
            }
            true
        })?;
        if odd || of_keys != of_index {
            return Err(Broken("its index does not match its keys".into()));
        }
        Ok(sum)
    }
}

impl Closing {
    fn db(&self) -> Result<&sled::Db, Broken> {
        self.0.as_ref().ok_or_else(|| Broken("it is closed".into()))
    }
}

/// Every call into sled passes here: on damaged files it panics as often as it answers with an error, and it may only ever cost the
/// mirror.
fn guarded<T>(doing: &str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, Broken> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Broken(format!("{doing}: {error}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Broken(format!("{doing}: panicked: {}", text.unwrap_or("without a word"))))
        }
    }
}

fn encode_applied(applied: &Applied) -> Vec<u8> {
    [&applied.seq.to_be_bytes()[..], &applied.chain.0].concat()
}

fn decode_applied(value: &[u8]) -> Option<Applied> {
    let (seq, chain) = value.split_first_chunk::<SEQ>()?;
    Some(Applied { seq: Seq::from_be_bytes(*seq), chain: Chain(chain.try_into().ok()?) })
}

pub const MACHINES: &[u8] = b"m";
pub const KEYS: &[u8] = b"k";
pub const OPERATORS: &[u8] = b"o";

pub fn machine_name(id: MachineId) -> Vec<u8> {
    named(b'm', id.as_u128())
}

pub fn key_name(id: KeyId) -> Vec<u8> {
    named(b'k', id.as_u128())
}

pub fn operator_name(id: OperatorId) -> Vec<u8> {
    named(b'o', id.as_u128())
}

/// What the index entries of a machine's keys begin with.
pub fn index_prefix(machine: MachineId) -> Vec<u8> {
    named(b'i', machine.as_u128())
}

pub fn index_name(machine: MachineId, key: KeyId) -> Vec<u8> {
    let mut name = index_prefix(machine);
    name.extend(key.as_u128().to_be_bytes());
    name
}

/// The key that an index entry is about.
pub fn indexed_key(name: &[u8]) -> Option<KeyId> {
    name.last_chunk::<ID>().map(|id| KeyId::from_u128(u128::from_be_bytes(*id)))
}

pub fn actor_name(actor: &str) -> Vec<u8> {
    [b"a", actor.as_bytes()].concat()
}

/// The record that has this name.
pub fn record_named(name: &[u8]) -> Option<Subject> {
    let (kind, id) = name.split_first()?;
    let id = u128::from_be_bytes(id.try_into().ok()?);
    match kind {
        b'm' => Some(Subject::Machine(MachineId::from_u128(id))),
        b'k' => Some(Subject::Key(KeyId::from_u128(id))),
        b'o' => Some(Subject::Operator(OperatorId::from_u128(id))),
        _ => None,
    }
}

/// Says of what is being filled that no deletion is missing in it.
pub fn all_tombstones() -> Write {
    (TOMBSTONES.to_vec(), Some(Vec::new()))
}

/// The name under which a deleted record is remembered. No part of the sum.
pub fn tombstone_name(record: &[u8]) -> Vec<u8> {
    [b"d", record].concat()
}

pub fn tombstone_value(tombstone: Tombstone) -> Vec<u8> {
    [tombstone.deleted.to_be_bytes(), tombstone.before.unwrap_or_default().to_be_bytes()].concat()
}

pub fn split_tombstone(value: &[u8]) -> Option<Tombstone> {
    let (deleted, before) = split_plain(value)?;
    let before = Seq::from_be_bytes(before.try_into().ok()?);
    Some(Tombstone { deleted, before: (before > 0).then_some(before) })
}

/// Whether a name is that of a record, which the sum counts.
pub fn is_record(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'm' | b'k' | b'o'))
}

fn named(kind: u8, id: u128) -> Vec<u8> {
    let mut name = Vec::with_capacity(1 + 2 * ID);
    name.push(kind);
    name.extend(id.to_be_bytes());
    name
}

/// What a machine or an operator is kept as.
pub fn plain_value(seq: Seq, stored: &[u8]) -> Vec<u8> {
    [&seq.to_be_bytes()[..], stored].concat()
}

pub fn key_value(seq: Seq, machine: MachineId, stored: &[u8]) -> Vec<u8> {
    [&seq.to_be_bytes()[..], &machine.as_u128().to_be_bytes(), stored].concat()
}

/// The number of the last change of a record, and the stored record.
pub fn split_plain(value: &[u8]) -> Option<(Seq, &[u8])> {
    value.split_first_chunk::<SEQ>().map(|(seq, stored)| (Seq::from_be_bytes(*seq), stored))
}

/// Likewise, with the machine in between.
pub fn split_key(value: &[u8]) -> Option<(Seq, MachineId, &[u8])> {
    let (seq, rest) = split_plain(value)?;
    let (machine, stored) = rest.split_first_chunk::<ID>()?;
    Some((seq, MachineId::from_u128(u128::from_be_bytes(*machine)), stored))
}
