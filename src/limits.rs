//! How much a caller may do: [`charge`] judges a call by every window of its tier, all or nothing.
//!
//! Seconds, minutes and hours slide (`rate`, by governor) and start fresh after a restart. Days and months are periods of the calendar
//! (`calendar`) whose counters survive one: whoever keeps them reads [`Bucket::counters`] and puts them back with
//! [`Bucket::restore`]. All that a caller has used stands in its [`Bucket`], behind one lock that is held for the
//! judgement of all windows, so no parallelism admits more than the limits say. The [`Brake`] on guessing is here too.
//!
//! This room knows neither keys nor routes nor files, and reads no clock: time comes in with the call.

pub mod brake;
pub mod bucket;
mod calendar;
pub mod charged;
mod rate;

use std::num::NonZeroU32;

use jiff::tz::TimeZone;

pub use brake::Brake;
pub use bucket::Bucket;
pub use charged::{Charged, WindowState};

use crate::model::refusal::Violated;
use crate::model::{Limit, Moment, Refusal, Tick, Tier, Window};
use bucket::{SLIDING, State};
use rate::{Rate, whole_seconds};

/// A tier ready to judge. Built when settings load and shared by all callers that have the tier; what they use stands
/// in their buckets, so a tier built anew from changed settings goes on where the old one was.
pub struct TierLimits {
    tier: Tier,
    /// The zone whose days and months are counted.
    zone: TimeZone,
    /// By their place in [`SLIDING`].
    rates: [Option<Rate>; 3],
    /// Of the day and of the month.
    quotas: [Option<NonZeroU32>; 2],
}

impl TierLimits {
    pub fn new(tier: &Tier, zone: TimeZone) -> TierLimits {
        let limit = |window: Window| tier.limits.iter().find(|limit| limit.window == window);
        let rate = |window: Window| Some(Rate::new(limit(window)?, window.seconds()?));
        let quota = |limit: &Limit| limit.quota;
        TierLimits {
            rates: SLIDING.map(rate),
            quotas: [Window::Day, Window::Month].map(|window| limit(window).map(quota)),
            tier: tier.clone(),
            zone,
        }
    }

    pub fn tier(&self) -> &Tier {
        &self.tier
    }

    /// The highest cost that a call can ever meet: the least that any window admits at once. `None` without limits.
    pub fn most_at_once(&self) -> Option<NonZeroU32> {
        let at_once = |limit: &Limit| if limit.window.seconds().is_some() { limit.burst.min(limit.quota) } else { limit.quota };
        self.tier.limits.iter().map(at_once).min()
    }
}

/// A call that a window turned away. Nothing was spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Whole seconds, at least 1: who waits that long, sharing the bucket with nobody, is let in. The longest of the
    /// windows' waits.
    pub retry_after: u64,
    /// The windows that turned it away, shortest first.
    pub violated: Violated,
    /// A day's or month's quota is among them.
    pub quota: bool,
    /// What is left, for the answer's fields.
    pub state: Box<Charged>,
}

impl Refused {
    /// `quota_exceeded` if a calendar quota is used up, else `rate_limited`.
    pub fn refusal(&self) -> Refusal {
        let (retry_after, violated) = (self.retry_after, self.violated.clone());
        match self.quota {
            true => Refusal::QuotaExceeded { retry_after, violated },
            false => Refusal::RateLimited { retry_after, violated },
        }
    }
}

/// Spends `cost` from every window of `limits`, or from none. A cost above what a window admits at all counts as all
/// of it: such a call passes when nothing else is used.
pub fn charge(limits: &TierLimits, bucket: &Bucket, cost: NonZeroU32, now: Moment) -> Result<Charged, Refused> {
    let mut state = bucket.0.lock();
    let tick = state.settle(limits, now);
    let after = spend(limits, &state, cost, now, tick)?;
    *state = after;
    Ok(after.seen(limits, now.wall))
}

/// What [`charge`] would answer, without spending anything; what is left is told as it was found. `now` may lie ahead: then it is what a
/// call will find when nobody calls in between.
pub fn foresee(limits: &TierLimits, bucket: &Bucket, cost: NonZeroU32, now: Moment) -> Result<Charged, Refused> {
    let mut state = *bucket.0.lock();
    let tick = state.settle(limits, now);
    spend(limits, &state, cost, now, tick)?;
    Ok(state.seen(limits, now.wall))
}

/// What a settled state becomes by a call.
fn spend(limits: &TierLimits, state: &State, cost: NonZeroU32, now: Moment, tick: Tick) -> Result<State, Refused> {
    let mut after = *state;
    let mut waits = Waits::default();

    // The calendar first, then what slides, longest first: the order in which a caller has to give up hope. The
    // reservations are in `after`, so a refusal gives them back by not keeping it.
    for (place, window) in [Window::Day, Window::Month].into_iter().enumerate().rev() {
        let quota = limits.quotas[place].map(NonZeroU32::get);
        if let Err(millis) = after.counts[place].spend(quota, cost.get(), now.wall) {
            waits.quota = true;
            waits.add(window, millis.div_ceil(1_000));
        }
    }
    for (place, window) in SLIDING.into_iter().enumerate().rev() {
        let Some(rate) = &limits.rates[place] else { continue };
        if let Err(nanos) = rate.spend(&mut after.slots[place], cost, tick) {
            // Judged at `tick`, which can be later than the caller's own now.
            waits.add(window, whole_seconds(nanos.saturating_add(tick.0 - now.tick.0)));
        }
    }

    if waits.violated.is_empty() {
        return Ok(after);
    }
    let state = Box::new(state.seen(limits, now.wall));
    waits.violated.sort();
    Err(Refused { retry_after: waits.longest.max(1), violated: waits.violated, quota: waits.quota, state })
}

/// What a call would find, without spending anything.
pub fn peek(limits: &TierLimits, bucket: &Bucket, now: Moment) -> Charged {
    let mut state = *bucket.0.lock();
    state.settle(limits, now);
    state.seen(limits, now.wall)
}

/// Gives a call's `cost` back to the day and the month it was counted in, as far as they are not over: for a
/// route whose calls are free when the API behind cannot answer. Sliding windows keep theirs.
pub fn refund_calendar(bucket: &Bucket, charged: &Charged, cost: NonZeroU32) {
    let mut state = bucket.0.lock();
    for (count, period) in state.counts.iter_mut().zip(charged.periods) {
        count.refund(period, cost.get());
    }
}

/// The windows that turn a call away, gathered.
#[derive(Default)]
struct Waits {
    violated: Violated,
    /// Seconds.
    longest: u64,
    quota: bool,
}

impl Waits {
    fn add(&mut self, window: Window, seconds: u64) {
        self.violated.push(window);
        self.longest = self.longest.max(seconds);
    }
}

#[cfg(test)]
mod tests;
