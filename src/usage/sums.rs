//! What is kept of calls once they are added up.

use std::net::IpAddr;
use std::time::Duration;

use crate::model::call::Record;
use crate::model::{Timestamp, ValueMark, Verdict};

/// When, from where and with which of its values a key was last let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastUse {
    pub at: Timestamp,
    pub from: IpAddr,
    /// `None` where it was noted by a version that did not tell values apart.
    pub value: Option<ValueMark>,
}

/// What one key did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUsage {
    /// The last call that was admitted, whatever became of it upstream.
    pub last_used: Option<LastUse>,
    /// The last one with another value than that: at most two values of a key count at a time. Most keys have none.
    pub(super) other_used: Option<Box<LastUse>>,
    /// The last call that was turned away.
    pub last_refused: Option<Timestamp>,
    pub calls: VerdictCounts,
}

impl KeyUsage {
    pub(super) fn record(&mut self, record: &Record) {
        let (at, now) = (record.began.wall, record.ended.wall);
        if record.admitted {
            self.used(LastUse { at, from: record.client.0, value: record.caller.as_ref().map(|caller| caller.value) }, now);
        } else {
            self.refused(at, now);
        }
        self.calls.add(record.verdict, 1);
    }

    /// The last use of each of the two values that were used last, the later one first.
    pub fn uses(&self) -> impl Iterator<Item = LastUse> + '_ {
        self.last_used.into_iter().chain(self.other_used.as_deref().copied())
    }

    /// Adds what `later` counted, up to `now`; of two last uses of one value the later one stays.
    pub(super) fn absorb(&mut self, later: &KeyUsage, now: Timestamp) {
        later.uses().for_each(|last| self.used(last, now));
        later.last_refused.into_iter().for_each(|at| self.refused(at, now));
        self.calls.absorb(&later.calls);
    }

    fn refused(&mut self, at: Timestamp, now: Timestamp) {
        self.last_refused = self.last_refused.filter(|known| *known > at && !is_leap(*known, now)).or(Some(at));
    }

    fn used(&mut self, last: LastUse, now: Timestamp) {
        match self.last_used {
            Some(known) if known.at > last.at && !is_leap(known.at, now) => {
                if known.value != last.value && self.other_used.as_ref().is_none_or(|other| other.at <= last.at || is_leap(other.at, now)) {
                    self.set_other(last);
                }
            }
            known => {
                self.last_used = Some(last);
                if let Some(known) = known.filter(|known| known.value != last.value) {
                    self.set_other(known);
                }
            }
        }
    }

    /// In the room that is there: two values used in turn must not cost an allocation a call.
    fn set_other(&mut self, last: LastUse) {
        match &mut self.other_used {
            Some(other) => **other = last,
            None => self.other_used = Some(Box::new(last)),
        }
    }
}

/// Whether what is known of a time beyond `now` was noted while the wall clock had leapt ahead: it counts as older than all that follows.
/// Workers read the clock each for itself, so that a little beyond is none.
pub(super) fn is_leap(known: Timestamp, now: Timestamp) -> bool {
    const CLOSE: Duration = Duration::from_secs(60);
    known > now.plus(CLOSE)
}

/// Numbers of calls by verdict. Most keys know `ok` and little else, so that the others are kept only where there are any.
#[derive(Clone, Debug, Default)]
pub struct VerdictCounts {
    ok: u64,
    others: Vec<(Verdict, u64)>,
}

impl VerdictCounts {
    pub fn of(&self, verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Ok => self.ok,
            _ => self.others.iter().find(|(known, _)| *known == verdict).map_or(0, |(_, count)| *count),
        }
    }

    pub fn total(&self) -> u64 {
        self.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(count))
    }

    /// The verdicts that occurred, in no particular order but `ok` first.
    pub fn iter(&self) -> impl Iterator<Item = (Verdict, u64)> + '_ {
        let ok = (self.ok > 0).then_some((Verdict::Ok, self.ok));
        ok.into_iter().chain(self.others.iter().copied())
    }

    pub(super) fn add(&mut self, verdict: Verdict, count: u64) {
        if verdict == Verdict::Ok {
            self.ok = self.ok.saturating_add(count);
        } else if let Some((_, known)) = self.others.iter_mut().find(|(known, _)| *known == verdict) {
            *known = known.saturating_add(count);
        } else {
            self.others.push((verdict, count));
        }
    }

    pub(super) fn absorb(&mut self, other: &VerdictCounts) {
        other.iter().for_each(|(verdict, count)| self.add(verdict, count));
    }
}

/// Equal when they count the same, in whatever order the verdicts first came.
impl PartialEq for VerdictCounts {
    fn eq(&self, other: &VerdictCounts) -> bool {
        self.ok == other.ok && self.others.len() == other.others.len() && self.iter().all(|(verdict, count)| other.of(verdict) == count)
    }
}

impl Eq for VerdictCounts {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Code;

    fn counts(of: &[(Verdict, u64)]) -> VerdictCounts {
        let mut counts = VerdictCounts::default();
        of.iter().for_each(|(verdict, count)| counts.add(*verdict, *count));
        counts
    }

    #[test]
    fn counts_add_up_in_any_order() {
        let (limited, closed) = (Verdict::Refused(Code::RateLimited), Verdict::ClientClosed);
        let mut sum = counts(&[(Verdict::Ok, 2), (limited, 1)]);
        sum.absorb(&counts(&[(closed, 4), (limited, 3), (Verdict::Ok, 1)]));
        assert_eq!(sum, counts(&[(closed, 4), (Verdict::Ok, 3), (limited, 4)]));
        assert_ne!(sum, counts(&[(closed, 4), (Verdict::Ok, 3), (limited, 5)]));
        assert_ne!(sum, counts(&[(closed, 4), (Verdict::Ok, 3)]));
        assert_eq!((sum.total(), sum.of(limited), sum.of(Verdict::Refused(Code::KeyExpired))), (11, 4, 0));
    }

    #[test]
    fn the_later_use_stays_whichever_is_added_first() {
        let usage = |at: i64, from: &str, refused: Option<i64>| KeyUsage {
            last_used: Some(LastUse { at: Timestamp(at), from: from.parse().unwrap(), value: None }),
            last_refused: refused.map(Timestamp),
            ..KeyUsage::default()
        };
        let (early, late) = (usage(1, "192.0.2.1", Some(9)), usage(5, "192.0.2.2", None));
        for (mut first, second) in [(early.clone(), late.clone()), (late, early)] {
            first.absorb(&second, Timestamp(9));
            assert_eq!(first, usage(5, "192.0.2.2", Some(9)));
        }
    }

    #[test]
    fn each_of_two_values_keeps_its_last_use_in_whatever_order_they_come() {
        let used = |at: i64, value: u32| LastUse { at: Timestamp(at), from: "192.0.2.1".parse().unwrap(), value: Some(ValueMark(value)) };
        let orders = [[(1, 1), (2, 2), (3, 1)], [(3, 1), (1, 1), (2, 2)], [(2, 2), (3, 1), (1, 1)], [(3, 1), (2, 2), (1, 1)]];
        for order in orders {
            let mut one_by_one = KeyUsage::default();
            let mut added_up = KeyUsage::default();
            for (at, value) in order {
                one_by_one.used(used(at, value), Timestamp(3));
                let mut page = KeyUsage::default();
                page.used(used(at, value), Timestamp(3));
                added_up.absorb(&page, Timestamp(3));
            }
            assert_eq!(one_by_one.uses().collect::<Vec<_>>(), [used(3, 1), used(2, 2)], "{order:?}");
            assert_eq!(added_up, one_by_one, "{order:?}");
        }
    }

    #[test]
    fn a_use_in_a_leap_of_the_clock_is_older_than_the_next() {
        const LEAP: i64 = 100 * 86_400_000;
        let used = |at: i64, value: u32| LastUse { at: Timestamp(at), from: "192.0.2.1".parse().unwrap(), value: Some(ValueMark(value)) };
        let mut usage = KeyUsage::default();
        usage.used(used(LEAP, 1), Timestamp(LEAP));
        usage.used(used(LEAP + 1, 2), Timestamp(LEAP + 1));
        usage.refused(Timestamp(LEAP), Timestamp(LEAP));
        usage.used(used(5, 1), Timestamp(6));
        usage.refused(Timestamp(5), Timestamp(6));
        assert_eq!((usage.last_used, usage.last_refused), (Some(used(5, 1)), Some(Timestamp(5))));
        usage.used(used(7, 2), Timestamp(8));
        assert_eq!(usage.uses().collect::<Vec<_>>(), [used(7, 2), used(5, 1)]);
        // Of two workers, one may read its clock a little later, and an earlier call may end later.
        usage.used(used(6, 2), Timestamp(6));
        assert_eq!(usage.last_used, Some(used(7, 2)));
    }
}
