//! What a call reads about its key and machine. An entry never changes but for its latches: a change of the key puts
//! another in its place. Machines sit in a cell of their own, shared by all their keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use http::HeaderValue;
use ipnet::IpNet;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::limits::Bucket;
use crate::model::{
    Environment, Key, KeyId, KeyState, Machine, MachineId, OldValue, Organizations, PermissionSet, Refusal, SecretHash, TierName, Timestamp,
};

/// One value of a key: the current one, or one that a regeneration replaced.
#[derive(Debug)]
pub struct Entry {
    pub hash: SecretHash,
    pub key: KeyId,
    pub machine: Arc<MachineCell>,
    pub label: Box<str>,
    pub environment: Environment,
    state: KeyState,
    expires_at: Timestamp,
    /// When a replaced value stops counting; `None` for the current one.
    counts_until: Option<Timestamp>,
    narrowed: Option<Box<Narrowed>>,
    /// Set once `counts_until` or `expires_at` was seen to be over, so that a wall clock set back does not bring the value back. One for
    /// each: what a caller is told of the one must not depend on the other.
    grace_over: AtomicBool,
    expired: AtomicBool,
    /// Shared with the entries that stood for the same value before, for as long as calls hold them; made by the first change.
    alike: OnceLock<Arc<()>>,
}

/// What a key narrows of its machine's rights; most keys narrow nothing.
#[derive(Debug)]
pub struct Narrowed {
    pub permissions: Option<PermissionSet>,
    pub organizations: Option<Organizations>,
    pub allowed_ips: Option<Box<[IpNet]>>,
    /// A tier of its own, with the bucket that counts for it.
    pub tier: Option<(TierName, Arc<Bucket>)>,
}

impl Entry {
    pub(super) fn current(key: &Key, machine: &Arc<MachineCell>, bucket: Option<Arc<Bucket>>) -> Entry {
        Entry {
            hash: key.hash,
            key: key.id,
            machine: machine.clone(),
            label: key.label.clone().into(),
            environment: key.environment.clone(),
            state: key.state,
            expires_at: key.expires_at.unwrap_or(Timestamp::NEVER),
            counts_until: None,
            narrowed: Narrowed::of(key, bucket).map(Box::new),
            grace_over: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            alike: OnceLock::new(),
        }
    }

    pub(super) fn replaced(key: &Key, old: &OldValue, machine: &Arc<MachineCell>, bucket: Option<Arc<Bucket>>) -> Entry {
        let grace_over = key.in_grace() != Some(old);
        Entry {
            hash: old.hash,
            counts_until: Some(old.counts_until),
            grace_over: grace_over.into(),
            ..Entry::current(key, machine, bucket)
        }
    }

    /// Keeps what was seen of the same value before a change: an end that the change did not move stays over.
    pub(super) fn after(mut self, before: &Entry) -> Entry {
        let seen = |end: &AtomicBool| end.load(Ordering::Relaxed);
        *self.grace_over.get_mut() |= self.counts_until == before.counts_until && seen(&before.grace_over);
        *self.expired.get_mut() |= self.expires_at == before.expires_at && seen(&before.expired);
        self.alike = before.alike.get_or_init(Arc::default).clone().into();
        self
    }

    /// Keeps in mind that the same date was seen to be over, on another value of the same key.
    pub(super) fn expires_like(&mut self, other: &Entry) {
        *self.expired.get_mut() |= self.expires_at == other.expires_at && other.expired.load(Ordering::Relaxed);
    }

    /// Whether a call holds this entry, which the registry holds as well, or one that stood for the same value before.
    pub(super) fn is_held(self: &Arc<Entry>) -> bool {
        Arc::strong_count(self) > 1 || self.alike.get().is_some_and(|alike| Arc::strong_count(alike) > 1)
    }

    /// Whether the value counts at `now`, and if not, why: in the published order of precedence. An end that is over stays over.
    pub fn judge(&self, machine: &MachineState, now: Timestamp) -> Result<(), Refusal> {
        self.judge_by(machine, |end, seen| is_over(end, now, seen))
    }

    /// What [`Entry::judge`] would say at `at`, without keeping anything in mind. `remembering` is false for a time that is past: what
    /// was seen to be over since then was not over yet.
    pub fn foresee(&self, machine: &MachineState, at: Timestamp, remembering: bool) -> Result<(), Refusal> {
        self.judge_by(machine, |end, seen| end <= at || (remembering && seen.load(Ordering::Relaxed)))
    }

    fn judge_by(&self, machine: &MachineState, is_over: impl Fn(Timestamp, &AtomicBool) -> bool) -> Result<(), Refusal> {
        if self.counts_until.is_some_and(|end| is_over(end, &self.grace_over)) {
            return Err(Refusal::KeyReplaced);
        }
        match self.state {
            KeyState::Revoked => return Err(Refusal::KeyRevoked),
            KeyState::Inactive => return Err(Refusal::KeyInactive),
            KeyState::Active => {}
        }
        if is_over(self.expires_at, &self.expired) {
            return Err(Refusal::KeyExpired);
        }
        if !machine.enabled {
            return Err(Refusal::MachineDisabled);
        }
        Ok(())
    }

    /// When the value stops counting by itself, if no change comes first.
    pub fn ends_at(&self) -> Timestamp {
        self.counts_until.map_or(self.expires_at, |end| end.min(self.expires_at))
    }

    /// Whether both count, or not, for the same reason at any moment.
    pub(super) fn counts_like(&self, other: &Entry) -> bool {
        let what_counts = |entry: &Entry| (entry.state, entry.expires_at, entry.counts_until);
        what_counts(self) == what_counts(other)
    }

    /// When the key stops counting; `None` for never.
    pub fn expires_at(&self) -> Option<Timestamp> {
        (self.expires_at != Timestamp::NEVER).then_some(self.expires_at)
    }

    /// When this value stops counting, where a regeneration replaced it.
    pub fn counts_until(&self) -> Option<Timestamp> {
        self.counts_until
    }

    pub fn is_replaced(&self) -> bool {
        self.counts_until.is_some()
    }

    pub fn narrowed(&self) -> Option<&Narrowed> {
        self.narrowed.as_deref()
    }
}

fn is_over(end: Timestamp, now: Timestamp, seen: &AtomicBool) -> bool {
    if end <= now {
        seen.store(true, Ordering::Relaxed);
        return true;
    }
    seen.load(Ordering::Relaxed)
}

impl Narrowed {
    fn of(key: &Key, bucket: Option<Arc<Bucket>>) -> Option<Narrowed> {
        let Key { permissions, organizations, allowed_ips, tier, .. } = key;
        (permissions.is_some() || organizations.is_some() || allowed_ips.is_some() || tier.is_some()).then(|| Narrowed {
            permissions: permissions.clone(),
            organizations: organizations.clone(),
            allowed_ips: allowed_ips.clone().map(Vec::into_boxed_slice),
            tier: tier.clone().zip(bucket),
        })
    }
}

/// A machine's place in memory: its bucket lives as long as the machine, whatever is edited.
#[derive(Debug)]
pub struct MachineCell {
    pub id: MachineId,
    pub bucket: Bucket,
    state: ArcSwap<MachineState>,
}

/// What a call reads of a machine.
#[derive(Debug)]
pub struct MachineState {
    pub name: Box<str>,
    /// The id and the percent-encoded name, ready to be sent to the upstream.
    pub id_header: HeaderValue,
    pub name_header: HeaderValue,
    pub enabled: bool,
    pub permissions: PermissionSet,
    pub organizations: Option<Organizations>,
    pub tier: Option<TierName>,
}

impl MachineCell {
    pub(super) fn new(machine: &Machine) -> MachineCell {
        MachineCell { id: machine.id, bucket: Bucket::default(), state: ArcSwap::from_pointee(MachineState::of(machine)) }
    }

    pub(super) fn update(&self, machine: &Machine) {
        self.state.store(Arc::new(MachineState::of(machine)));
    }

    /// The state as of now. The guard must not be kept across an await: it holds one of few slots of its thread.
    pub fn state(&self) -> arc_swap::Guard<Arc<MachineState>> {
        self.state.load()
    }
}

/// What a header value cannot or should not carry plainly: controls, non-ASCII, and what a naive reader could trip over.
const IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b',').add(b';').add(b'\\').add(b'<').add(b'>');

impl MachineState {
    fn of(machine: &Machine) -> MachineState {
        let header = |text: String| HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
        MachineState {
            name: machine.name.clone().into(),
            id_header: header(machine.id.to_string()),
            name_header: header(utf8_percent_encode(&machine.name, IN_HEADER).to_string()),
            enabled: machine.enabled,
            permissions: machine.permissions.clone(),
            organizations: machine.organizations.clone(),
            tier: machine.tier.clone(),
        }
    }
}
