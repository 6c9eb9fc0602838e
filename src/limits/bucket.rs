//! What one caller has used of all its windows.

use std::fmt;

use parking_lot::Mutex;

use super::TierLimits;
use super::calendar::{Count, Unit};
use super::charged::{Charged, WindowState};
use super::rate::{Slot, whole_seconds};
use crate::model::{CalendarCounters, Moment, Tick, Timestamp, Window};

/// The windows that slide, by their place in [`State::slots`].
pub(super) const SLIDING: [Window; 3] = [Window::Second, Window::Minute, Window::Hour];

/// What a caller has used. Belongs to a machine, or to a key with a tier of its own. It fits every tier, so that what
/// was used stays used when the tier changes.
pub struct Bucket(pub(super) Mutex<State>);

/// The lock protects the whole of it and is held for one judgement (some nanoseconds, no call out of this room).
#[derive(Clone, Copy)]
pub(super) struct State {
    /// The latest tick it was judged at. Two workers read the clock before they queue for the lock, so a call can come
    /// with a slightly earlier tick than the one before it; it is judged at the later one.
    latest: Tick,
    pub slots: [Slot; 3],
    pub counts: [Count; 2],
}

impl Bucket {
    /// A bucket of which nothing is used.
    pub const fn new() -> Bucket {
        Bucket(Mutex::new(State { latest: Tick(0), slots: [Slot::NEVER; 3], counts: [Count::NONE; 2] }))
    }

    /// Puts back what was kept over a restart. To be called before the first call is judged.
    pub fn restore(&self, counters: &CalendarCounters) {
        self.0.lock().counts = [Count::restored(counters.day), Count::restored(counters.month)];
    }

    /// What must be kept over a restart.
    pub fn counters(&self) -> CalendarCounters {
        let [day, month] = self.0.lock().counts;
        CalendarCounters { day: day.counter(), month: month.counter() }
    }
}

impl Default for Bucket {
    fn default() -> Bucket {
        Bucket::new()
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.counters()).finish()
    }
}

impl State {
    /// Brings every window to `now` and to the limits that hold now. Answers the tick to judge at.
    pub fn settle(&mut self, limits: &TierLimits, now: Moment) -> Tick {
        self.latest = self.latest.max(now.tick);
        for (slot, rate) in self.slots.iter_mut().zip(&limits.rates) {
            if let Some(rate) = rate {
                rate.settle(slot, self.latest);
            }
        }
        for (count, unit) in self.counts.iter_mut().zip(Unit::ALL) {
            count.settle(unit, now.wall, &limits.zone);
        }
        self.latest
    }

    /// What callers are told of a settled state.
    pub fn seen(&self, limits: &TierLimits, wall: Timestamp) -> Charged {
        let periods = self.counts.map(|count| count.number());
        let mut charged = Charged::new(periods);
        for limit in &limits.tier.limits {
            let (length, remaining, more_in) = match limit.window {
                Window::Second => self.seen_rate(limits, 0),
                Window::Minute => self.seen_rate(limits, 1),
                Window::Hour => self.seen_rate(limits, 2),
                Window::Day => seen_count(&self.counts[0], limit.quota.get(), wall),
                Window::Month => seen_count(&self.counts[1], limit.quota.get(), wall),
            };
            let length = limit.window.seconds().map_or(length, shown);
            charged.push(WindowState { window: limit.window, quota: limit.quota.get(), length, remaining, more_in });
        }
        charged
    }

    fn seen_rate(&self, limits: &TierLimits, place: usize) -> (u32, u32, u32) {
        match &limits.rates[place] {
            Some(rate) => {
                let slot = &self.slots[place];
                (0, rate.remaining(slot, self.latest), shown(whole_seconds(rate.more_in(slot, self.latest))))
            }
            None => (0, 0, 0),
        }
    }
}

fn seen_count(count: &Count, quota: u32, wall: Timestamp) -> (u32, u32, u32) {
    let more_in = if count.is_unused() { 0 } else { shown(count.millis_left(wall).div_ceil(1_000)) };
    (count.length_seconds(), count.remaining(quota), more_in)
}

/// Seconds in 32 bits, which hold more than a century.
fn shown(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_stays_small() {
        // One per machine: a million of them are 112 MB at most, and only callers that have one pay for it.
        assert!(size_of::<Bucket>() <= 112, "{}", size_of::<Bucket>());
    }
}
