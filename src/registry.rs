//! Who may call and who may manage: hash → key and machine, hash → operator, in memory, and the one way to change them.
//!
//! Reading is a look-up in a [`DashMap`] by the hash's first eight bytes, the rest compared; nothing is cached beyond it,
//! so what the writer puts there binds the very next request. Writing is [`Registry::commit`]: judged by the rules of
//! `model`, stored, then applied here, then answered, all by one thread (`writer`), never by a worker.

mod entry;
mod group;
mod rules;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::model::operator::{OperatorStatus, TokenInvalid};
use crate::model::tier::CalendarCounters;
use crate::model::{
    Authority, BucketOwner, Change, ChangeError, Key, KeyId, Machine, MachineId, Operator, OperatorId, Origin, Refusal, Rights, Secret,
    SecretHash, Timestamp,
};
use crate::store::{Record, Seq, Store, StoreError};

pub use entry::{Entry, MachineCell, MachineState, Narrowed};
use writer::Writer;

/// Changes of one [`Registry::commit_all`] that wait at a time: enough for full groups, and not so many that others find no room.
const MOST_AT_ONCE: usize = 256;

/// What a change left behind.
#[derive(Debug)]
pub struct Committed {
    /// Its place in the journal; `None` when everything already was as asked and nothing was written.
    pub seq: Option<Seq>,
    /// The last change of what it left, this one or an earlier: what a later [`Registry::commit_at`] may expect.
    pub revision: Seq,
    pub left: Left,
    /// The new value, where one was made: the only time it exists outside its holder.
    pub secret: Option<Secret>,
}

#[derive(Debug)]
pub enum Left {
    Machine(Machine),
    Key(Key),
    Operator(Operator),
    /// Deleted.
    Nothing,
}

/// A handle; clones share one registry.
#[derive(Clone)]
pub struct Registry {
    known: Arc<Known>,
    store: Arc<dyn Store>,
    writer: Arc<Writer>,
}

impl Registry {
    /// Loads every record and starts the writer. `key_prefix` begins new values.
    pub fn open(store: Arc<dyn Store>, clock: Clock, key_prefix: String) -> Result<Registry, StoreError> {
        let known = Arc::new(Known::load(&*store)?);
        let writer = Arc::new(Writer::start(known.clone(), store.clone(), clock, key_prefix)?);
        Ok(Registry { known, store, writer })
    }

    /// For lists and look-ups by id; blocks on the disk.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Who presented a value with this hash: the entry as of now.
    pub fn identify(&self, hash: &SecretHash) -> Option<Arc<Entry>> {
        self.known.entry(hash)
    }

    /// Another number whenever a change may have ended a value that counted, or brought one back. What ends by its date does not show
    /// here: [`Registry::still_counts`] tells that date.
    pub fn turn(&self) -> u64 {
        self.known.turn.load(Ordering::Acquire)
    }

    /// Whether a value that was let in before counts at `now`, and if so until when, should no change come first.
    pub fn still_counts(&self, hash: &SecretHash, now: Timestamp) -> Result<Timestamp, Refusal> {
        let entry = self.identify(hash).ok_or(Refusal::KeyUnknown)?;
        entry.judge(&entry.machine.state(), now)?;
        Ok(entry.ends_at())
    }

    /// Makes a change: stored, then applied, then answered. Once this returns, no call that starts later is judged by the
    /// old state. Dropping the future does not undo the change.
    pub async fn commit(&self, origin: Origin, change: Change) -> Result<Committed, ChangeError> {
        self.writer.submit(origin, change, None).await
    }

    /// Like [`Registry::commit`], but only if the last change of what it is about is still `revision`: otherwise
    /// [`ChangeError::Stale`], and nothing is changed.
    pub async fn commit_at(&self, origin: Origin, change: Change, revision: Seq) -> Result<Committed, ChangeError> {
        self.writer.submit(origin, change, Some(revision)).await
    }

    /// Makes several changes, at best in one sync, and answers of each what became of it, in their order. A change that carries a revision
    /// is made like [`Registry::commit_at`]. At most [`MOST_AT_ONCE`] of them wait in the queue at a time.
    pub async fn commit_all(&self, changes: Vec<(Origin, Change, Option<Seq>)>) -> Vec<Result<Committed, ChangeError>> {
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut waiting = VecDeque::with_capacity(MOST_AT_ONCE);
        for (origin, change, expected) in changes {
            if waiting.len() == MOST_AT_ONCE
                && let Some(first) = waiting.pop_front()
            {
                outcomes.push(writer::answer(first).await);
            }
            waiting.push_back(self.writer.queue(origin, change, expected));
        }
        for job in waiting {
            outcomes.push(writer::answer(job).await);
        }
        outcomes
    }

    /// The operator whose token has this hash, whatever it is worth now.
    pub fn operator(&self, hash: &SecretHash) -> Option<Arc<Operator>> {
        self.known.operator(hash)
    }

    /// The operator whose token has this hash, if it is worth anything at `now`.
    pub fn bearer(&self, hash: &SecretHash, now: Timestamp) -> Result<Arc<Operator>, TokenInvalid> {
        self.known.bearer(hash, now)
    }

    /// What somebody may do at `now`.
    pub fn rights(&self, authority: &Authority, now: Timestamp) -> Result<Rights, TokenInvalid> {
        self.known.rights(authority, now)
    }

    /// Whether changes can be made at all, as far as this room is concerned: a writer that died takes none until a restart.
    pub fn takes_changes(&self) -> bool {
        self.writer.is_at_work()
    }

    /// Visits every bucket that counts calls: each machine's, and each key's that has a tier of its own.
    pub fn buckets(&self, mut each: impl FnMut(BucketOwner, &crate::limits::Bucket)) {
        // The handles are copied out first: `each` may take long, and a guard of the map would block its shard meanwhile.
        for cell in self.known.machines.iter().map(|cell| cell.value().clone()).collect::<Vec<_>>() {
            each(BucketOwner::Machine(cell.id), &cell.bucket);
        }
        let own = self.known.own_buckets.lock().clone();
        for (key, bucket) in own {
            each(BucketOwner::Key(key), &bucket);
        }
    }

    /// Puts back what calendar windows had counted before a restart. Owners that no longer exist are passed over.
    pub fn restore_counters(&self, counters: impl Iterator<Item = (BucketOwner, CalendarCounters)>) {
        for (owner, counters) in counters {
            match owner {
                BucketOwner::Machine(id) => self.known.machine(id).iter().for_each(|cell| cell.bucket.restore(&counters)),
                BucketOwner::Key(id) => self.known.own_buckets.lock().get(&id).iter().for_each(|bucket| bucket.restore(&counters)),
            }
        }
    }

    /// Whether a call that presented this value is not over yet, whatever was changed about the key since it began.
    pub fn is_being_used(&self, hash: &SecretHash) -> bool {
        self.known.entries.get(&hash.short()).is_some_and(|entry| entry.hash == *hash && entry.value().is_held())
    }

    /// The machine of that name.
    pub fn machine_named(&self, name: &str) -> Option<MachineId> {
        self.known.named(name)
    }

    /// A machine's place in memory, if it exists.
    pub fn machine(&self, id: MachineId) -> Option<Arc<MachineCell>> {
        self.known.machine(id)
    }

    /// Reads the number of machines and of values (current and replaced ones), without keeping the registry alive.
    pub fn counts_reader(&self) -> impl Fn() -> (usize, usize) + Send + Sync + 'static {
        let known = Arc::downgrade(&self.known);
        move || known.upgrade().map_or((0, 0), |known| (known.machines.len(), known.entries.len()))
    }
}

/// SHA-256 bytes are as random as any hash of them.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What is in memory. Only the writer changes it.
struct Known {
    entries: DashMap<u64, Arc<Entry>, BuildHasherDefault<Identity>>,
    machines: DashMap<MachineId, Arc<MachineCell>>,
    /// Protects the uniqueness of names; the writer changes it, the admin plane looks up in it.
    names: Mutex<HashMap<String, MachineId>>,
    /// Buckets of keys that have, or once had, a tier of their own. Kept by id so that no edit makes one fresh.
    own_buckets: Mutex<HashMap<KeyId, Arc<crate::limits::Bucket>>>,
    /// By the hash of their tokens; few, and asked for by the admin plane only.
    operators: Mutex<HashMap<SecretHash, Arc<Operator>>>,
    /// See [`Registry::turn`]. It moves after what it tells of is in place.
    turn: AtomicU64,
}

impl Known {
    fn load(store: &dyn Store) -> Result<Known, StoreError> {
        let known = Known {
            entries: DashMap::with_hasher_and_shard_amount(BuildHasherDefault::default(), 256),
            machines: DashMap::new(),
            names: Mutex::default(),
            own_buckets: Mutex::default(),
            operators: Mutex::default(),
            turn: AtomicU64::new(0),
        };
        let mut orphan = None;
        store.scan(&mut |record| match record {
            Record::Machine(machine) => known.put_machine(&machine),
            Record::Key(key) => {
                if !known.put_key(&key) {
                    orphan = Some(key.id);
                }
            }
            Record::Operator(operator) => known.put_operator(&operator),
        })?;
        match orphan {
            Some(key) => {
                Err(StoreError::Unusable(format!("key {key} belongs to no stored machine: restore the store's folder from a backup")))
            }
            None => Ok(known),
        }
    }

    fn entry(&self, hash: &SecretHash) -> Option<Arc<Entry>> {
        let entry = self.entries.get(&hash.short()).map(|guard| guard.value().clone())?;
        (entry.hash == *hash).then_some(entry)
    }

    fn machine(&self, id: MachineId) -> Option<Arc<MachineCell>> {
        self.machines.get(&id).map(|guard| guard.value().clone())
    }

    fn is_taken(&self, hash: &SecretHash) -> bool {
        self.entries.contains_key(&hash.short())
    }

    fn operator(&self, hash: &SecretHash) -> Option<Arc<Operator>> {
        self.operators.lock().get(hash).cloned()
    }

    fn bearer(&self, hash: &SecretHash, now: Timestamp) -> Result<Arc<Operator>, TokenInvalid> {
        let operator = self.operator(hash).ok_or(TokenInvalid::Unknown)?;
        match operator.status(now) {
            OperatorStatus::Active => Ok(operator),
            status => Err(TokenInvalid::Ended { name: operator.name.clone(), status }),
        }
    }

    fn rights(&self, authority: &Authority, now: Timestamp) -> Result<Rights, TokenInvalid> {
        match authority {
            Authority::Everything => Ok(Rights::ALL),
            Authority::Token { hash, .. } => self.bearer(hash, now).map(|operator| operator.rights),
        }
    }

    fn operator_named(&self, name: &str) -> Option<OperatorId> {
        self.operators.lock().values().find(|operator| operator.name == name).map(|operator| operator.id)
    }

    /// Puts the operator in, and takes an earlier token of theirs out.
    fn put_operator(&self, operator: &Operator) {
        let mut operators = self.operators.lock();
        operators.retain(|_, known| known.id != operator.id);
        operators.insert(operator.hash, Arc::new(operator.clone()));
    }

    fn remove_operator(&self, id: OperatorId) {
        self.operators.lock().retain(|_, known| known.id != id);
    }

    fn named(&self, name: &str) -> Option<MachineId> {
        self.names.lock().get(name).copied()
    }

    fn put_machine(&self, machine: &Machine) {
        let mut names = self.names.lock();
        match self.machine(machine.id) {
            Some(cell) => {
                names.remove(&*cell.state().name);
                let was_enabled = cell.state().enabled;
                cell.update(machine);
                if was_enabled != machine.enabled {
                    self.turn_over();
                }
            }
            None => {
                self.machines.insert(machine.id, Arc::new(MachineCell::new(machine)));
            }
        }
        names.insert(machine.name.clone(), machine.id);
    }

    /// Puts the key's current value and the replaced ones. False when its machine is not known.
    fn put_key(&self, key: &Key) -> bool {
        let Some(machine) = self.machine(key.machine) else { return false };
        let bucket = key.tier.as_ref().map(|_| self.own_buckets.lock().entry(key.id).or_default().clone());
        for old in &key.old_values {
            self.put(Entry::replaced(key, old, &machine, bucket.clone()));
        }
        let mut current = Entry::current(key, &machine, bucket);
        // A new value is no new life: what the one before it was seen to be over stays over.
        if let Some(before) = key.old_values.first().and_then(|old| self.entry(&old.hash)) {
            current.expires_like(&before);
        }
        self.put(current);
        true
    }

    fn put(&self, entry: Entry) {
        let before = self.entry(&entry.hash);
        let turns = before.as_ref().is_some_and(|before| !entry.counts_like(before));
        let entry = match before {
            Some(before) => entry.after(&before),
            None => entry,
        };
        self.entries.insert(entry.hash.short(), Arc::new(entry));
        if turns {
            self.turn_over();
        }
    }

    fn remove_value(&self, hash: &SecretHash) {
        if self.entries.remove_if(&hash.short(), |_, entry| entry.hash == *hash).is_some() {
            self.turn_over();
        }
    }

    fn turn_over(&self) {
        self.turn.fetch_add(1, Ordering::Release);
    }

    fn remove_key(&self, key: &Key) {
        self.remove_value(&key.hash);
        key.old_values.iter().for_each(|old| self.remove_value(&old.hash));
        self.own_buckets.lock().remove(&key.id);
    }

    fn remove_machine(&self, id: MachineId) {
        if let Some((_, cell)) = self.machines.remove(&id) {
            self.names.lock().remove(&*cell.state().name);
        }
    }
}
