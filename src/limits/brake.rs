//! The brake on guessing: how often an address may fail to present a valid key.
//!
//! Its table is filled by strangers, so it is bounded: IPv6 counts by /64 (one subscriber has that much), an address
//! that has not failed for a while is forgotten, and beyond the capacity all newcomers share one place.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;

use super::rate::{Rate, Slot, whole_seconds};
use crate::model::{Limit, Moment, Tick, Window};

/// A full table is searched for idle places at most once in this many nanoseconds: a flood of new addresses must not
/// buy a walk over the whole table with each of its requests.
const SWEEP_PAUSE: u64 = 1_000_000_000;

/// Counts failures by address and says which address has had too many.
pub struct Brake {
    /// `None`: failures are not limited.
    rate: Option<Rate>,
    capacity: usize,
    table: DashMap<Source, Slot>,
    /// Places taken in `table`, whose own count would lock every shard.
    taken: AtomicUsize,
    /// Shared by all addresses that found the table full.
    overflow: Mutex<Slot>,
    swept_at: AtomicU64,
}

/// What counts as one guesser.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    /// The upper 64 bits.
    V6(u64),
}

impl Source {
    fn of(ip: IpAddr) -> Source {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Source::V4(v4.to_bits()),
            IpAddr::V6(v6) => Source::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

impl Brake {
    /// At most this many addresses are told apart.
    pub const CAPACITY: usize = 65_536;

    /// A brake that lets an address fail as often as `limit` says; days and months slide here, as 24 hours and 31 days.
    pub fn new(limit: Option<Limit>, capacity: usize) -> Brake {
        let rate = limit.map(|limit| Rate::new(&limit, sliding_seconds(limit.window)));
        Brake {
            rate,
            capacity,
            table: DashMap::new(),
            taken: AtomicUsize::new(0),
            overflow: Mutex::new(Slot::NEVER),
            swept_at: AtomicU64::new(0),
        }
    }

    /// Whether `ip` has had its failures, and then for how many more seconds (at least 1).
    pub fn is_past(&self, ip: IpAddr, now: Moment) -> Option<u64> {
        let rate = self.rate.as_ref()?;
        let known = self.table.get(&Source::of(ip)).map(|slot| *slot);
        let mut slot = match known {
            Some(slot) => slot,
            None if self.is_full() => *self.overflow.lock(),
            None => return None,
        };
        rate.settle(&mut slot, now.tick);
        rate.spend(&mut slot, NonZeroU32::MIN, now.tick).err().map(|wait| whole_seconds(wait).max(1))
    }

    /// Counts one failed attempt of `ip`. Failures of an address that is past its limit already do not count, so that
    /// what [`Brake::is_past`] answered stays true.
    pub fn count_failure(&self, ip: IpAddr, now: Moment) {
        let Some(rate) = &self.rate else { return };
        let source = Source::of(ip);
        if self.is_full() && !self.table.contains_key(&source) {
            self.sweep_sometimes(now.tick);
            if self.is_full() {
                return count(rate, &mut self.overflow.lock(), now.tick);
            }
        }
        match self.table.entry(source) {
            Entry::Occupied(mut known) => count(rate, known.get_mut(), now.tick),
            Entry::Vacant(place) => {
                self.taken.fetch_add(1, Ordering::Relaxed);
                count(rate, place.insert(Slot::NEVER).value_mut(), now.tick);
            }
        }
    }

    /// Forgets addresses whose failures have all expired and gives their memory back. To be called now and then.
    pub fn sweep(&self, now: Moment) {
        self.forget_idle(now.tick);
        self.table.shrink_to_fit();
    }

    /// How many addresses are told apart now.
    pub fn len(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    fn sweep_sometimes(&self, now: Tick) {
        let last = self.swept_at.load(Ordering::Relaxed);
        let due = now.0 >= last.saturating_add(SWEEP_PAUSE);
        if due && self.swept_at.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.forget_idle(now);
        }
    }

    fn forget_idle(&self, now: Tick) {
        self.table.retain(|_, slot| {
            let keep = slot.full_at > now.0;
            if !keep {
                self.taken.fetch_sub(1, Ordering::Relaxed);
            }
            keep
        });
    }
}

fn count(rate: &Rate, slot: &mut Slot, now: Tick) {
    rate.settle(slot, now);
    // A refusal leaves the slot as it is, which is what is wanted here.
    let _ = rate.spend(slot, NonZeroU32::MIN, now);
}

fn sliding_seconds(window: Window) -> u64 {
    window.seconds().unwrap_or(match window {
        Window::Month => 31 * 86_400,
        _ => 86_400,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::model::Timestamp;

    fn brake(per_minute: u32, capacity: usize) -> Brake {
        let quota = NonZeroU32::new(per_minute).unwrap();
        Brake::new(Some(Limit { window: Window::Minute, quota, burst: quota }), capacity)
    }

    fn fail(brake: &Brake, ip: &str, times: usize, clock: &Clock) {
        (0..times).for_each(|_| brake.count_failure(ip.parse().unwrap(), clock.now()));
    }

    fn past(brake: &Brake, ip: &str, clock: &Clock) -> Option<u64> {
        brake.is_past(ip.parse().unwrap(), clock.now())
    }

    #[test]
    fn an_address_is_held_after_its_failures_and_let_go_when_said() {
        let (brake, clock) = (brake(6, 8), Clock::manual(Timestamp(0)));
        fail(&brake, "192.0.2.1", 5, &clock);
        assert_eq!(past(&brake, "192.0.2.1", &clock), None);
        fail(&brake, "192.0.2.1", 500, &clock);
        assert_eq!(past(&brake, "192.0.2.1", &clock), Some(10));
        assert_eq!(past(&brake, "192.0.2.2", &clock), None);
        clock.advance(Duration::from_secs(9));
        assert_eq!(past(&brake, "192.0.2.1", &clock), Some(1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(past(&brake, "192.0.2.1", &clock), None);
    }

    #[test]
    fn t056_one_subscriber_is_one_guesser() {
        let clock = Clock::manual(Timestamp(0));
        for (failing, asked, same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            let brake = brake(1, 8);
            fail(&brake, failing, 1, &clock);
            assert_eq!(past(&brake, asked, &clock).is_some(), same, "{failing} {asked}");
        }
    }

    #[test]
    fn t057_the_table_is_bounded_and_shrinks() {
        let (brake, clock) = (brake(60, 100), Clock::manual(Timestamp(0)));
        for n in 0..5_000u32 {
            brake.count_failure(IpAddr::V4(n.into()), clock.now());
        }
        assert_eq!(brake.len(), 100);
        // The rest shared one place, which is used up; an address with a place of its own is not held for it.
        assert!(past(&brake, "203.0.113.9", &clock).is_some());
        assert_eq!(past(&brake, "0.0.0.1", &clock), None);

        clock.advance(Duration::from_secs(2));
        fail(&brake, "203.0.113.9", 1, &clock);
        assert_eq!(brake.len(), 1, "a newcomer takes the place of those that are idle");
        clock.advance(Duration::from_secs(2));
        brake.sweep(clock.now());
        assert!(brake.is_empty());
    }

    #[test]
    fn a_full_table_is_not_searched_for_every_stranger() {
        let (brake, clock) = (brake(60, 1), Clock::manual(Timestamp(0)));
        fail(&brake, "192.0.2.1", 2, &clock);
        fail(&brake, "192.0.2.2", 1, &clock);
        let searched = brake.swept_at.load(Ordering::Relaxed);
        clock.advance(Duration::from_millis(999));
        fail(&brake, "192.0.2.3", 1, &clock);
        assert_eq!(brake.swept_at.load(Ordering::Relaxed), searched);
    }

    #[test]
    fn without_a_limit_nobody_is_held() {
        let (brake, clock) = (Brake::new(None, 8), Clock::manual(Timestamp(0)));
        fail(&brake, "192.0.2.1", 1_000, &clock);
        assert_eq!((past(&brake, "192.0.2.1", &clock), brake.len()), (None, 0));
    }
}
