//! What happened at the edge, as counters of the whole process. Touched when a connection opens or ends and when
//! something goes wrong, never on the way of a well-formed request.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start; only [`Stats::open`] also falls.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections that are open now, those that linger after their last answer included.
    pub open: Counter,
    /// Connections that were let in.
    pub accepted: Counter,
    /// Connections that were turned away because the process had `max_connections` already.
    pub over_cap: Counter,
    /// Accepts that failed (out of descriptors, mostly).
    pub accept_errors: Counter,
    /// Heads and bodies that were refused for what they were; timeouts not included.
    pub anomalies: Counter,
    /// Connections that never sent a byte in time.
    pub first_byte_timeouts: Counter,
    /// Heads that began and were not complete in time.
    pub head_timeouts: Counter,
    /// Connections closed because no next request came.
    pub idle_timeouts: Counter,
    /// Bodies of which nothing more came in time.
    pub body_timeouts: Counter,
    /// Connections cut because the client took nothing of its answer in time.
    pub write_timeouts: Counter,
    /// Connections that ended because the code that served them panicked.
    pub panics: Counter,
}

/// One number that many threads count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sub(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one more unless that would pass `most`.
    pub(super) fn add_within(&self, most: u64) -> bool {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < most).then_some(now + 1));
        taken.is_ok()
    }
}
