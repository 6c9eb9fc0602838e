//! What is remembered of those who come over TCP: when each token was last used, which addresses present wrong ones, and how
//! many requests were turned away at the door.
//!
//! Guessing a token is hopeless (178 random bits, looked up by their SHA-256, so that neither the comparison nor its time says how
//! close a guess was); the brake is there so that who tries it is slowed and seen.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::problem::{Code, Problem};
use crate::limits::Brake;
use crate::model::{Limit, Moment, OperatorId, Window};
use crate::usage::{LastUse, Usage};

/// How many wrong tokens one address (IPv6: one /64) may present at once, and within a minute from then on.
const FAILURES: NonZeroU32 = NonZeroU32::MIN.saturating_add(59);
/// The most addresses that are told apart; more share one place.
const ADDRESSES: usize = 4_096;

/// Shared by all listeners of the admin plane.
pub struct Doorkeeper {
    usage: Arc<Usage>,
    brake: Brake,
    /// Keeps the log to one warning for each address and minute.
    warned: Brake,
    turned_away: [AtomicU64; Doorkeeper::COUNTED.len()],
}

impl Doorkeeper {
    /// The codes that turn somebody away for who they are.
    pub const COUNTED: [Code; 5] = [Code::TokenMissing, Code::TokenInvalid, Code::TooManyFailures, Code::RightMissing, Code::HostDenied];

    /// `usage` keeps the last use of each token over restarts.
    pub fn new(usage: Arc<Usage>) -> Doorkeeper {
        Doorkeeper {
            usage,
            brake: Brake::new(Some(per_minute(FAILURES)), ADDRESSES),
            warned: Brake::new(Some(per_minute(NonZeroU32::MIN)), ADDRESSES),
            turned_away: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// How many requests were turned away with this code since the start; 0 for codes that are not counted.
    pub fn turned_away(&self, code: Code) -> u64 {
        self.counter(code).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// The last time that an operator's token was accepted, and from where.
    pub fn last_use(&self, operator: OperatorId) -> Option<LastUse> {
        self.usage.of_operator(operator)
    }

    /// What somebody without a valid token is told: `problem`, or that their address has failed too often. A missing token is no guess,
    /// but past the limit it is not distinguished from one.
    pub(super) fn refusal(&self, problem: Problem, from: IpAddr, now: Moment) -> Problem {
        if let Some(seconds) = self.brake.is_past(from, now) {
            return Problem::too_many_failures(seconds);
        }
        if problem.code == Code::TokenInvalid {
            self.brake.count_failure(from, now);
            self.warn(from, now);
        }
        problem
    }

    fn warn(&self, from: IpAddr, now: Moment) {
        if self.warned.is_past(from, now).is_none() {
            self.warned.count_failure(from, now);
            tracing::warn!(address = %from, "a token that is not valid was presented to the admin API; further ones from there within a minute are only counted");
        }
    }

    /// Notes how a request ended.
    pub(super) fn count(&self, ended: Option<Code>) {
        if let Some(counter) = ended.and_then(|code| self.counter(code)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins a use of a token.
    pub(super) fn used(&self, by: Option<(OperatorId, LastUse)>) -> InUse<'_> {
        InUse { keeper: self, by }
    }

    fn counter(&self, code: Code) -> Option<&AtomicU64> {
        Doorkeeper::COUNTED.iter().zip(&self.turned_away).find(|(counted, _)| **counted == code).map(|(_, counter)| counter)
    }
}

/// A use of a token. It is noted when it ends, also when whoever asked goes away before the answer: what was asked may have been done.
pub(super) struct InUse<'a> {
    keeper: &'a Doorkeeper,
    by: Option<(OperatorId, LastUse)>,
}

impl InUse<'_> {
    /// The token was not enough for what was asked: that is no use of it.
    pub fn refused(&mut self) {
        self.by = None;
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if let Some((operator, used)) = self.by {
            self.keeper.usage.operator_used(operator, used);
        }
    }
}

fn per_minute(quota: NonZeroU32) -> Limit {
    Limit { window: Window::Minute, quota, burst: quota }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Tick, Timestamp};

    fn keeper() -> Doorkeeper {
        let dir = tempfile::tempdir().unwrap();
        Doorkeeper::new(Arc::new(Usage::open(dir.path()).unwrap().0))
    }

    fn at(second: u64) -> Moment {
        Moment { tick: Tick(second * 1_000_000_000), wall: Timestamp(1_800_000_000_000 + second as i64 * 1_000) }
    }

    fn told(keeper: &Doorkeeper, code: Code, from: &str, second: u64) -> Code {
        keeper.refusal(Problem::new(code, "no"), from.parse().unwrap(), at(second)).code
    }

    #[test]
    fn an_address_may_fail_so_often_and_is_heard_again_later() {
        let keeper = keeper();
        for _ in 0..FAILURES.get() {
            assert_eq!(told(&keeper, Code::TokenInvalid, "192.0.2.1", 10), Code::TokenInvalid);
        }
        assert_eq!(told(&keeper, Code::TokenInvalid, "192.0.2.1", 10), Code::TooManyFailures);
        assert_eq!(told(&keeper, Code::TokenMissing, "192.0.2.1", 10), Code::TooManyFailures);
        assert_eq!(told(&keeper, Code::TokenInvalid, "192.0.2.2", 10), Code::TokenInvalid, "another address");
        assert_eq!(told(&keeper, Code::TokenInvalid, "192.0.2.1", 11), Code::TokenInvalid, "a second later one more");
    }

    #[test]
    fn who_sends_no_token_does_not_guess_and_a_subscriber_is_one_guesser() {
        let keeper = keeper();
        for host in 0..2 * FAILURES.get() {
            assert_eq!(told(&keeper, Code::TokenMissing, "192.0.2.1", 10), Code::TokenMissing);
            let expected = if host < FAILURES.get() { Code::TokenInvalid } else { Code::TooManyFailures };
            assert_eq!(told(&keeper, Code::TokenInvalid, &format!("2001:db8::{host:x}"), 10), expected, "{host}");
        }
    }

    #[test]
    fn only_what_happens_at_the_door_is_counted() {
        let keeper = keeper();
        for code in [Some(Code::TokenInvalid), Some(Code::NotFound), None, Some(Code::TokenInvalid)] {
            keeper.count(code);
        }
        assert_eq!([Code::TokenInvalid, Code::NotFound, Code::HostDenied].map(|code| keeper.turned_away(code)), [2, 0, 0]);
    }

    #[test]
    fn a_use_is_noted_however_it_ends_but_for_a_refusal() {
        let keeper = keeper();
        let (first, second) = (OperatorId::from_u128(1), OperatorId::from_u128(2));
        let used = LastUse { at: Timestamp(5), from: "192.0.2.1".parse().unwrap(), value: None };
        drop(keeper.used(Some((first, used))));
        keeper.used(Some((second, used))).refused();
        drop(keeper.used(None));
        assert_eq!((keeper.last_use(first), keeper.last_use(second)), (Some(used), None));
    }
}
