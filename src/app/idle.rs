//! Looks for keys that nobody uses: tells of them once they are idle for one limit, deactivates them at the next.
//!
//! All keys are gone through at the start and every quarter of an hour, a part of them in each round of the keeper, so that usage is
//! flushed in time however many there are. Judged is by the live usage, calls that no flush has written yet included, and a key
//! whose call is not over is left alone. A call can still be let in between that look and the deactivation: such a key is looked at once more, and is
//! active again at once when it turns out to have been used.
//!
//! Only watched time counts, and only while the key's machine was enabled for as long: what nobody could use was not left unused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::KeySettings;
use crate::model::{Actor, Authority, Change, ChangeError, Key, KeyId, KeyStatus, MachineId, Moment, Origin, Tick, Timestamp};
use crate::registry::{Committed, Entry, Registry};
use crate::store::{About, Filter, Kept, Seq, Subject};
use crate::usage::{LastUse, Usage};

/// From one look at all keys to the next.
const EVERY: Duration = Duration::from_secs(15 * 60);
/// Keys that are read in one round of the keeper.
const BATCH: usize = 5_000;
/// Deactivations in one round: a group of one sync.
const MOST_AT_ONCE: usize = 64;
/// How long a call may go on that was let in while its key was being deactivated; it is cut sooner.
const SECOND_LOOK_WITHIN: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub struct Idle {
    settings: KeySettings,
    registry: Registry,
    usage: Arc<Usage>,
    clock: Clock,
    pass: Pass,
    told: Option<Tick>,
    stopped: Vec<Stopped>,
    /// As many keys as the last whole pass found idle.
    idle: Arc<AtomicU64>,
}

/// Where in the keys it is.
enum Pass {
    /// Nothing to do until then.
    Resting {
        until: Tick,
    },
    At {
        after: Option<KeyId>,
        idle: u64,
    },
}

/// A key that was just deactivated.
struct Stopped {
    key: KeyId,
    /// The change that did it: whoever changed the key since has decided otherwise.
    revision: Seq,
    last_used: Option<LastUse>,
    at: Tick,
    /// What calls hold that were let in before.
    entries: Vec<Arc<Entry>>,
}

impl Idle {
    pub fn new(settings: KeySettings, registry: Registry, usage: Arc<Usage>, clock: Clock) -> Idle {
        Idle {
            settings,
            registry,
            usage,
            pass: Pass::Resting { until: clock.now().tick },
            told: None,
            stopped: Vec::new(),
            idle: Arc::default(),
            clock,
        }
    }

    pub fn counter(&self) -> Arc<AtomicU64> {
        self.idle.clone()
    }

    /// The wall clock was set: a whole rest goes by before anything is judged by what it says now.
    pub fn wait(&mut self) {
        self.pass = Pass::Resting { until: self.clock.now().tick.plus(EVERY) };
    }

    /// Does a part of the work.
    pub fn round(&mut self) {
        let KeySettings { warn_idle_after, deactivate_idle_after } = self.settings;
        if warn_idle_after.is_none() && deactivate_idle_after.is_none() {
            return;
        }
        self.look_again();
        let now = self.clock.now();
        let (after, idle) = match self.pass {
            Pass::Resting { until } if now.tick < until => return,
            Pass::Resting { .. } => (None, 0),
            Pass::At { after, idle } => (after, idle),
        };
        self.pass = match self.registry.store().keys(None, after, BATCH) {
            Ok(keys) => self.go_through(&keys, idle, now),
            Err(error) => {
                tracing::warn!(%error, "idle keys could not be looked for; that is tried again later");
                Pass::Resting { until: now.tick.plus(EVERY) }
            }
        };
    }

    fn go_through(&mut self, keys: &[Key], mut idle: u64, now: Moment) -> Pass {
        let KeySettings { warn_idle_after, deactivate_idle_after } = self.settings;
        let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        let uses = self.usage.of_keys(&ids);
        let watched = self.usage.watched();
        let mut enabled = HashMap::new();
        let mut due = Vec::new();
        for (key, used) in keys.iter().zip(uses) {
            let since = key.idle_since(used.last_used.map(|last| last.at));
            let is_over = |limit: Option<Duration>, since: Timestamp| {
                let counted_from = watched.as_ref().map_or(now.wall, |watched| watched.counted_from(since));
                limit.is_some_and(|limit| counted_from.plus(limit) <= now.wall)
            };
            let may_be_idle = is_over(warn_idle_after, since) || is_over(deactivate_idle_after, since);
            if key.status(now.wall) != KeyStatus::Active || !may_be_idle {
                continue;
            }
            let Some(enabled_at) = *enabled.entry(key.machine).or_insert_with(|| self.enabled_since(key.machine)) else { continue };
            let since = since.max(enabled_at);
            if is_over(deactivate_idle_after, since) {
                due.push((key, used.last_used));
            } else if is_over(warn_idle_after, since) {
                idle += 1;
            }
            if due.len() == MOST_AT_ONCE {
                self.deactivate(&due);
                return Pass::At { after: Some(key.id), idle };
            }
        }
        self.deactivate(&due);
        match keys.last() {
            Some(last) if keys.len() == BATCH => Pass::At { after: Some(last.id), idle },
            _ => {
                self.conclude(idle);
                Pass::Resting { until: now.tick.plus(EVERY) }
            }
        }
    }

    /// When the machine was last enabled, as far as the journal tells: the beginning of time where it does not. `None` while it is disabled.
    fn enabled_since(&self, machine: MachineId) -> Option<Timestamp> {
        if !self.registry.machine(machine).is_some_and(|cell| cell.state().enabled) {
            return None;
        }
        let subject = Some(About::Record(Subject::Machine(machine)));
        let enablings = Filter { subject, what: Some("machine.enabled".into()), ..Filter::default() };
        match self.registry.store().history(&enablings, None, 1) {
            Ok(history) => {
                let time = history.lines.first().and_then(|line| Timestamp::parse(line["time"].as_str()?));
                Some(time.unwrap_or(Timestamp(i64::MIN)))
            }
            Err(error) => {
                tracing::warn!(%error, machine.id = %machine, "its keys could not be judged idle; that is tried again later");
                None
            }
        }
    }

    fn conclude(&mut self, idle: u64) {
        self.idle.store(idle, Ordering::Relaxed);
        let now = self.clock.now().tick;
        if idle > 0 && self.told.is_none_or(|told| now.since(told) >= DAY) {
            self.told = Some(now);
            let limit = days(self.settings.warn_idle_after.unwrap_or_default());
            tracing::warn!(keys = idle, "keys were not used for {limit}; octroi key list --idle names them");
        }
    }

    fn deactivate(&mut self, due: &[(&Key, Option<LastUse>)]) {
        let due: Vec<(Kept<Key>, Option<LastUse>)> = due.iter().filter_map(|(key, used)| Some((self.as_judged(key)?, *used))).collect();
        let entries: Vec<Vec<_>> =
            due.iter().map(|(key, _)| key.record.values().filter_map(|hash| self.registry.identify(hash)).collect()).collect();
        let limit = days(self.settings.deactivate_idle_after.unwrap_or_default());
        let reason = format!("idle: not used for {limit} (keys.deactivate_idle_after)");
        let changes = due.iter().map(|(key, _)| (Change::DeactivateKey(key.record.id), key.seq)).collect();
        let at = self.clock.now().tick;
        for (((Kept { record: key, .. }, last_used), entries), made) in due.into_iter().zip(entries).zip(self.commit(changes, &reason)) {
            match made {
                Ok(Committed { seq: Some(revision), .. }) => {
                    tracing::warn!(key.id = %key.id, key.label = %key.label, "the key was deactivated: not used for {limit}");
                    self.stopped.push(Stopped { key: key.id, revision, last_used, at, entries });
                }
                Ok(_) => {}
                Err(error) if is_for_good(&error) => {}
                Err(error) => tracing::warn!(key.id = %key.id, %error, "an idle key could not be deactivated; that is tried again later"),
            }
        }
    }

    /// The key as it is stored, if it still is what was judged and no call of it is open.
    fn as_judged(&self, judged: &Key) -> Option<Kept<Key>> {
        if judged.values().any(|hash| self.registry.is_being_used(hash)) {
            return None;
        }
        match self.registry.store().key(judged.id) {
            Ok(kept) => kept.filter(|kept| kept.record == *judged),
            Err(error) => {
                tracing::warn!(key.id = %judged.id, %error, "an idle key could not be read again; that is tried again later");
                None
            }
        }
    }

    /// Gives back what was used at the last moment.
    fn look_again(&mut self) {
        if self.stopped.is_empty() {
            return;
        }
        let now = self.clock.now().tick;
        let is_over = |stopped: &Stopped| {
            now.since(stopped.at) >= SECOND_LOOK_WITHIN || stopped.entries.iter().all(|entry| Arc::strong_count(entry) == 1)
        };
        let (over, rest) = std::mem::take(&mut self.stopped).into_iter().partition(is_over);
        self.stopped = rest;
        let over: Vec<Stopped> = over;
        let ids: Vec<KeyId> = over.iter().map(|stopped| stopped.key).collect();
        let used = over.into_iter().zip(self.usage.of_keys(&ids));
        let wrong: Vec<Stopped> = used.filter(|(stopped, used)| used.last_used != stopped.last_used).map(|(stopped, _)| stopped).collect();
        let changes = wrong.iter().map(|stopped| (Change::ReactivateKey(stopped.key), stopped.revision)).collect();
        let made = self.commit(changes, "it was used while it was being deactivated as idle");
        self.stopped.extend(wrong.into_iter().zip(made).filter_map(|(stopped, made)| to_try_again(stopped, made)));
    }

    /// Submits all at once, so that they share a sync. Each is made only if the key's last change is still the one given.
    fn commit(&self, changes: Vec<(Change, Seq)>, reason: &str) -> Vec<Result<Committed, ChangeError>> {
        let origin =
            || Origin { actor: Actor("gateway".into()), authority: Authority::Everything, address: None, reason: Some(reason.into()) };
        let changes: Vec<_> = changes.into_iter().map(|(change, revision)| (origin(), change, Some(revision))).collect();
        if changes.is_empty() {
            return Vec::new();
        }
        match tokio::runtime::Builder::new_current_thread().build() {
            Ok(runtime) => runtime.block_on(self.registry.commit_all(changes)),
            Err(error) => changes.iter().map(|_| Err(ChangeError::StoreUnavailable(error.to_string()))).collect(),
        }
    }
}

/// Whether somebody was faster, so that there is nothing left to do.
fn is_for_good(error: &ChangeError) -> bool {
    matches!(error, ChangeError::NoSuchKey(_) | ChangeError::Revoked(_) | ChangeError::Stale { .. })
}

/// A key whose reactivation failed though it is still due.
fn to_try_again(stopped: Stopped, made: Result<Committed, ChangeError>) -> Option<Stopped> {
    match made {
        Ok(_) => None,
        Err(error) if is_for_good(&error) => None,
        Err(error) => {
            tracing::error!(key.id = %stopped.key, %error, "a key that was used while it was being deactivated could not be reactivated; that is tried again");
            Some(stopped)
        }
    }
}

/// `90 days`, or to the hour.
fn days(span: Duration) -> String {
    match span.as_secs() {
        86_400 => "1 day".to_owned(),
        seconds if seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        seconds => format!("{} hours", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::change::{NewKey, NewMachine};
    use crate::registry::Left;
    use crate::store::Embedded;

    const LIMIT: Duration = Duration::from_secs(90 * 86_400);

    struct World {
        idle: Idle,
        clock: Clock,
        _folder: tempfile::TempDir,
    }

    fn world() -> (World, Key) {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp(0));
        let store = Arc::new(Embedded::open(folder.path()).unwrap());
        let registry = Registry::open(store, clock.clone(), "pk".into()).unwrap();
        let usage = Arc::new(Usage::open(&folder.path().join("usage")).unwrap().0);
        usage.watch(clock.now());
        let settings = KeySettings { warn_idle_after: None, deactivate_idle_after: Some(LIMIT) };
        let idle = Idle::new(settings, registry, usage, clock.clone());
        let world = World { idle, clock, _folder: folder };
        let Left::Machine(machine) = world.done(Change::CreateMachine(NewMachine { name: "caller".into(), ..NewMachine::default() }))
        else {
            panic!("no machine")
        };
        let new = NewKey { label: "prod - idle v1".into(), ..NewKey::default() };
        let Left::Key(key) = world.done(Change::CreateKey(machine.id, new)) else { panic!("no key") };
        (world, key)
    }

    impl World {
        fn done(&self, change: Change) -> Left {
            let origin = Origin { actor: Actor("test".into()), authority: Authority::Everything, address: None, reason: None };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(self.idle.registry.commit(origin, change)).unwrap().left
        }

        fn wait(&self, by: Duration) {
            self.clock.advance(by);
            self.idle.usage.watch(self.clock.now());
        }

        fn status(&self, key: &Key) -> KeyStatus {
            self.idle.registry.store().key(key.id).unwrap().unwrap().record.status(self.clock.now().wall)
        }
    }

    #[test]
    fn a_key_that_was_cared_for_since_it_was_read_is_left_alone() {
        let (mut world, key) = world();
        world.wait(LIMIT);
        let read = world.idle.registry.store().keys(None, None, BATCH).unwrap();
        world.done(Change::RegenerateKey(key.id, Duration::ZERO));
        world.idle.go_through(&read, 0, world.clock.now());
        assert_eq!(world.status(&key), KeyStatus::Active);
        world.wait(LIMIT);
        world.idle.round();
        assert_eq!(world.status(&key), KeyStatus::Inactive);
    }

    #[test]
    fn a_change_that_somebody_else_made_in_between_stands() {
        let (world, key) = world();
        let seq = world.idle.as_judged(&key).unwrap().seq;
        world.done(Change::RegenerateKey(key.id, Duration::ZERO));
        let made = world.idle.commit(vec![(Change::DeactivateKey(key.id), seq)], "idle");
        assert!(matches!(made[..], [Err(ChangeError::Stale { .. })]), "{made:?}");
        assert_eq!(world.status(&key), KeyStatus::Active);
    }

    #[test]
    fn a_reactivation_that_the_store_refused_is_tried_again() {
        let (_, key) = world();
        let stopped = || Stopped { key: key.id, revision: 7, last_used: None, at: Tick(0), entries: Vec::new() };
        let refused = ChangeError::StoreUnavailable("the disk is full".into());
        assert!(to_try_again(stopped(), Err(refused)).is_some_and(|again| again.revision == 7));
        for faster in [ChangeError::NoSuchKey(key.id), ChangeError::Revoked(key.id), ChangeError::Stale { subject: String::new() }] {
            assert!(to_try_again(stopped(), Err(faster.clone())).is_none(), "{faster}");
        }
    }
}
