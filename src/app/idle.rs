//! Looks for keys that nobody uses: tells of them once they are idle for one limit, deactivates them at the next.
//!
//! All keys are gone through at the start and every quarter of an hour, a part of them in each round of the keeper, so that usage is
//! flushed in time however many there are. Judged is by the live usage, calls that no flush has written yet included, and a key
//! whose call is not over is left alone. A call can still be let in between that look and the deactivation: such a key is looked at once more, and is
//! active again at once when it turns out to have been used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::KeySettings;
use crate::model::{Actor, Authority, Change, ChangeError, Key, KeyId, Origin, Tick, Timestamp};
use crate::registry::{Committed, Entry, Registry};
use crate::store::Seq;
use crate::usage::Usage;

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
    /// Uses before this moment are not known, so that idleness counts from it; the beginning of time when all are.
    known_from: Timestamp,
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
    idle_since: Timestamp,
    at: Tick,
    /// What calls hold that were let in before.
    entries: Vec<Arc<Entry>>,
}

impl Idle {
    pub fn new(settings: KeySettings, registry: Registry, usage: Arc<Usage>, clock: Clock, uses_are_known: bool) -> Idle {
        let now = clock.now();
        Idle {
            settings,
            registry,
            usage,
            known_from: if uses_are_known { Timestamp(i64::MIN) } else { now.wall },
            pass: Pass::Resting { until: now.tick },
            told: None,
            stopped: Vec::new(),
            idle: Arc::default(),
            clock,
        }
    }

    pub fn counter(&self) -> Arc<AtomicU64> {
        self.idle.clone()
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
            Ok(keys) => self.go_through(&keys, idle),
            Err(error) => {
                tracing::warn!(%error, "idle keys could not be looked for; that is tried again later");
                Pass::Resting { until: now.tick.plus(EVERY) }
            }
        };
    }

    fn go_through(&mut self, keys: &[Key], mut idle: u64) -> Pass {
        let now = self.clock.now();
        let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        let uses = self.usage.of_keys(&ids);
        let mut due = Vec::new();
        for (key, used) in keys.iter().zip(uses) {
            let last = Some(used.last_used.map_or(self.known_from, |last| last.at.max(self.known_from)));
            let is_idle = |limit: Option<Duration>| limit.is_some_and(|limit| key.is_idle(last, limit, now.wall));
            if is_idle(self.settings.deactivate_idle_after) {
                due.push((key, key.idle_since(last)));
            } else if is_idle(self.settings.warn_idle_after) {
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

    fn conclude(&mut self, idle: u64) {
        self.idle.store(idle, Ordering::Relaxed);
        let now = self.clock.now().tick;
        if idle > 0 && self.told.is_none_or(|told| now.since(told) >= DAY) {
            self.told = Some(now);
            let limit = days(self.settings.warn_idle_after.unwrap_or_default());
            tracing::warn!(keys = idle, "keys were not used for {limit}; octroi key list --idle names them");
        }
    }

    fn deactivate(&mut self, due: &[(&Key, Timestamp)]) {
        let free = |key: &Key| !key.values().any(|hash| self.registry.is_being_used(hash));
        let due: Vec<_> = due.iter().filter(|(key, _)| free(key)).collect();
        let entries: Vec<Vec<_>> =
            due.iter().map(|(key, _)| key.values().filter_map(|hash| self.registry.identify(hash)).collect()).collect();
        let limit = days(self.settings.deactivate_idle_after.unwrap_or_default());
        let reason = format!("idle: not used for {limit} (keys.deactivate_idle_after)");
        let changes = due.iter().map(|(key, _)| (Change::DeactivateKey(key.id), None)).collect();
        let at = self.clock.now().tick;
        for (((key, idle_since), entries), made) in due.into_iter().zip(entries).zip(self.commit(changes, &reason)) {
            match made {
                Ok(Committed { seq: Some(revision), .. }) => {
                    tracing::warn!(key.id = %key.id, key.label = %key.label, "the key was deactivated: not used for {limit}");
                    self.stopped.push(Stopped { key: key.id, revision, idle_since: *idle_since, at, entries });
                }
                // Somebody was faster.
                Ok(_) | Err(ChangeError::NoSuchKey(_) | ChangeError::Revoked(_)) => {}
                Err(error) => tracing::warn!(key.id = %key.id, %error, "an idle key could not be deactivated; that is tried again later"),
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
        let used = over.iter().zip(self.usage.of_keys(&ids));
        let wrong = used.filter(|(stopped, used)| used.last_used.is_some_and(|last| last.at > stopped.idle_since));
        let changes = wrong.map(|(stopped, _)| (Change::ReactivateKey(stopped.key), Some(stopped.revision))).collect();
        for made in self.commit(changes, "it was used while it was being deactivated as idle") {
            match made {
                Ok(_) | Err(ChangeError::NoSuchKey(_) | ChangeError::Revoked(_) | ChangeError::Stale { .. }) => {}
                Err(error) => tracing::error!(%error, "a key that was used while it was being deactivated could not be reactivated"),
            }
        }
    }

    /// Submits all at once, so that they share a sync. Nothing comes of those that could not even be submitted.
    fn commit(&self, changes: Vec<(Change, Option<Seq>)>, reason: &str) -> Vec<Result<Committed, ChangeError>> {
        let origin =
            || Origin { actor: Actor("gateway".into()), authority: Authority::Everything, address: None, reason: Some(reason.into()) };
        let changes: Vec<_> = changes.into_iter().map(|(change, revision)| (origin(), change, revision)).collect();
        if changes.is_empty() {
            return Vec::new();
        }
        match tokio::runtime::Builder::new_current_thread().build() {
            Ok(runtime) => runtime.block_on(self.registry.commit_all(changes)),
            Err(error) => {
                tracing::warn!(%error, "idle keys could not be dealt with now; that is tried again later");
                Vec::new()
            }
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
