//! One sliding window: GCRA by `governor`, with the state of a caller kept in a [`Slot`] of the caller's bucket.
//!
//! governor sees every call at its own time zero: the clock always reads 0 and the store hands over how far the
//! caller is ahead of its rate (its theoretical arrival time minus now). So one limiter judges any number of
//! buckets, needs no clock of its own, and its outcome can be looked at before it is kept.

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

use crate::model::{Limit, Tick};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What a caller used of one sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// When everything is available again (the theoretical arrival time of GCRA), in nanoseconds of [`Tick`].
    pub full_at: u64,
    /// The time one call takes to come back, as it was when `full_at` was written: a changed limit converts by it.
    interval: u64,
}

impl Slot {
    /// Nothing was ever used.
    pub const NEVER: Slot = Slot { full_at: 0, interval: 0 };
}

/// A sliding window's limit, ready to judge.
pub(super) struct Rate {
    /// Nanoseconds until one call comes back. Rounded up, so that an odd quota never admits more than it says; what
    /// is lost is less than a nanosecond per call.
    interval: u64,
    burst: NonZeroU32,
    limiter: RateLimiter<Backlog, Handover, AtZero, NoOpMiddleware<Nanos>>,
}

impl Rate {
    /// `seconds` is the window's length, at most that of a leap year. A burst above the quota counts as the quota.
    pub fn new(limit: &Limit, seconds: u64) -> Rate {
        let interval = (seconds * NANOS_PER_SECOND).div_ceil(limit.quota.get().into()).max(1);
        let burst = limit.burst.min(limit.quota);
        // An interval of zero is excluded by the line above; one call per interval would be the strictest reading.
        let quota = Quota::with_period(Duration::from_nanos(interval)).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Rate { interval, burst, limiter: RateLimiter::new(quota.allow_burst(burst), Handover, AtZero) }
    }

    /// Brings a slot to `now` and to this limit: what was used under another one stays used, up to the burst.
    pub fn settle(&self, slot: &mut Slot, now: Tick) {
        let mut backlog = backlog(slot, now);
        if slot.interval != self.interval && backlog > 0 {
            let converted = (u128::from(backlog) * u128::from(self.interval)).div_ceil(u128::from(slot.interval.max(1)));
            backlog = u64::try_from(converted).unwrap_or(u64::MAX);
        }
        let most = self.interval * u64::from(self.burst.get());
        *slot = Slot { full_at: now.0.saturating_add(backlog.min(most)), interval: self.interval };
    }

    /// Spends `cost` from a settled slot, or says how many nanoseconds to wait and leaves it as it is. A cost above the
    /// burst counts as the whole burst: it could never be met otherwise.
    pub fn spend(&self, slot: &mut Slot, cost: NonZeroU32, now: Tick) -> Result<(), u64> {
        let state = Backlog(Cell::new(backlog(slot, now)));
        match self.limiter.check_key_n(&state, cost.min(self.burst)) {
            Ok(Ok(())) => {
                slot.full_at = now.0.saturating_add(state.0.get());
                Ok(())
            }
            Ok(Err(not_until)) => Err(u64::try_from(not_until.wait_time_from(Nanos::new(0)).as_nanos()).unwrap_or(u64::MAX)),
            Err(_above_burst) => Err(state.0.get()),
        }
    }

    /// Calls that a settled slot has left at once.
    pub fn remaining(&self, slot: &Slot, now: Tick) -> u32 {
        let used = backlog(slot, now).div_ceil(self.interval);
        self.burst.get().saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// Nanoseconds until one more call is left than now; zero when nothing is used.
    pub fn more_in(&self, slot: &Slot, now: Tick) -> u64 {
        match backlog(slot, now) {
            0 => 0,
            backlog => (backlog - 1) % self.interval + 1,
        }
    }
}

/// Whole seconds that are not shorter than `nanos`.
pub(super) fn whole_seconds(nanos: u64) -> u64 {
    nanos.div_ceil(NANOS_PER_SECOND)
}

/// Nanoseconds that the slot's caller is ahead of its rate.
fn backlog(slot: &Slot, now: Tick) -> u64 {
    slot.full_at.saturating_sub(now.0)
}

/// The state of one judgement: handed in as the backlog before it and handed back as the one after it. It poses as
/// governor's key because that is the one thing a shared limiter gets from each call; it is never looked up.
#[derive(Clone, PartialEq, Eq)]
struct Backlog(Cell<u64>);

impl Hash for Backlog {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

struct Handover;

impl StateStore for Handover {
    type Key = Backlog;

    fn measure_and_replace<T, F, E>(&self, key: &Backlog, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, after) = judge(Some(Nanos::new(key.0.get())))?;
        key.0.set(after.as_u64());
        Ok(outcome)
    }
}

/// The clock that makes every call its own time zero.
struct AtZero;

impl clock::Clock for AtZero {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Window;

    fn rate(quota: u32, burst: u32, seconds: u64) -> Rate {
        let some = |n| NonZeroU32::new(n).unwrap();
        Rate::new(&Limit { window: Window::Minute, quota: some(quota), burst: some(burst) }, seconds)
    }

    /// Spends one at a time until refused.
    fn drain(rate: &Rate, slot: &mut Slot, now: Tick) -> u32 {
        rate.settle(slot, now);
        (0..).find(|_| rate.spend(slot, NonZeroU32::MIN, now).is_err()).unwrap()
    }

    #[test]
    fn a_fresh_window_admits_its_burst_then_one_per_interval() {
        for (quota, burst, seconds) in [(60, 60, 60), (60, 10, 60), (1, 1, 3_600), (7, 7, 60), (999, 999, 1)] {
            let (rate, mut slot, start) = (rate(quota, burst, seconds), Slot::NEVER, Tick(5_000_000_000));
            assert_eq!(drain(&rate, &mut slot, start), burst, "{quota} in {seconds} s");
            for calls in 1..20u64 {
                let just_before = Tick(start.0 + calls * rate.interval - 1);
                assert_eq!(drain(&rate, &mut slot, just_before), 0);
                assert_eq!(drain(&rate, &mut slot, Tick(just_before.0 + 1)), 1);
            }
        }
    }

    #[test]
    fn a_changed_limit_keeps_what_was_used() {
        let now = Tick(9_000_000_000);
        // used, of (quota, burst) → left under (quota, burst)
        for (used, before, after, left) in [
            (50, (60, 60), (100, 100), 50),
            (50, (100, 100), (60, 60), 10),
            (50, (100, 100), (40, 40), 0),
            (0, (100, 100), (40, 40), 40),
            (7, (7, 7), (13, 13), 6),
            (5, (60, 60), (60, 3), 0),
            (60, (60, 60), (60, 3), 0),
        ] {
            let (old, new, mut slot) = (rate(before.0, before.1, 60), rate(after.0, after.1, 60), Slot::NEVER);
            old.settle(&mut slot, now);
            for _ in 0..used {
                old.spend(&mut slot, NonZeroU32::MIN, now).unwrap();
            }
            assert_eq!(drain(&new, &mut slot, now), left, "{used} of {before:?} under {after:?}");
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        for seconds in [1, 3_600, 366 * 86_400] {
            for (quota, burst) in [(1, u32::MAX), (u32::MAX, u32::MAX), (u32::MAX, 1)] {
                let (rate, mut slot, now) = (rate(quota, burst, seconds), Slot::NEVER, Tick(u64::MAX / 2));
                rate.settle(&mut slot, now);
                let all = NonZeroU32::MAX;
                assert_eq!(rate.spend(&mut slot, all, now), Ok(()));
                assert_eq!(rate.remaining(&slot, now), 0);
                assert!(rate.spend(&mut slot, all, now).is_err());
            }
        }
    }

    proptest! {
        /// Against GCRA as its definition says, in integers, with limits that change on the way.
        #[test]
        fn it_agrees_with_plain_gcra(
            limits in prop::collection::vec((1u32..2_000, 1u32..2_000, prop::sample::select(vec![1u64, 60, 3_600])), 1..4),
            steps in prop::collection::vec((0u64..5_000_000_000, 1u32..40, 0usize..40), 1..200),
        ) {
            let mut slot = Slot::NEVER;
            let mut now = 1_000i128;
            let (mut arrival, mut interval) = (0i128, 1i128);
            let mut current = 0;
            for (pause, cost, change) in steps {
                now += i128::from(pause);
                if change < limits.len() {
                    current = change;
                }
                let (quota, burst, seconds) = limits[current];
                let (burst, cost) = (burst.min(quota), cost.min(burst).min(quota));
                let t = (i128::from(seconds) * 1_000_000_000 + i128::from(quota) - 1) / i128::from(quota);
                let ahead = (arrival - now).max(0);
                let ahead = if t == interval { ahead } else { (ahead * t + interval - 1) / interval };
                arrival = now + ahead.min(t * i128::from(burst));
                interval = t;
                let room = t * i128::from(burst) - (arrival - now);
                let need = t * i128::from(cost);

                let rate = rate(quota, burst, seconds);
                let tick = Tick(now as u64);
                rate.settle(&mut slot, tick);
                prop_assert_eq!(i128::from(rate.remaining(&slot, tick)), room / t);
                let expected = if need <= room { arrival += need; Ok(()) } else { Err((need - room) as u64) };
                prop_assert_eq!(rate.spend(&mut slot, NonZeroU32::new(cost).unwrap(), tick), expected);
            }
        }

        /// The law a customer can check: in no stretch of time more than the burst and what comes back in it.
        #[test]
        fn no_stretch_of_time_admits_more_than_burst_and_rate(
            quota in 1u32..2_000, burst in 1u32..40, pauses in prop::collection::vec(0u64..40_000_000, 1..50),
        ) {
            let (rate, mut slot) = (rate(quota, burst, 1), Slot::NEVER);
            let burst = u128::from(burst.min(quota));
            let mut admitted = Vec::new();
            let mut now = 1_000_000u64;
            for pause in pauses {
                now += pause;
                for _ in 0..drain(&rate, &mut slot, Tick(now)) {
                    admitted.push(now);
                }
            }
            for first in (0..admitted.len()).step_by(7) {
                for last in first..admitted.len() {
                    let stretch = u128::from(admitted[last] - admitted[first]);
                    let most = burst + stretch * u128::from(quota) / 1_000_000_000;
                    prop_assert!(((last - first) as u128) < most, "{} calls in {stretch} ns", last - first + 1);
                }
            }
        }
    }
}
