//! How much of the past was watched. Nobody is seen calling while the gateway is off, nor in the time that a wall clock leaps over: only
//! watched time makes a key idle.

use std::time::Duration;

use crate::model::{Moment, Timestamp};

/// How far the wall clock may stray from the time that passed before it counts as set.
const STRAY: i64 = 60_000;
/// A flush that has nothing else to say says how far it was watched, once it is this much further.
const WRITE_EVERY: u64 = 30_000;
/// Gaps that are kept apart.
pub(super) const MOST_GAPS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Nothing is known of the time before.
    pub(super) since: Timestamp,
    pub(super) until: Timestamp,
    /// Not watched, oldest first.
    pub(super) gaps: Vec<Gap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Watched {
    fn begin(now: Timestamp) -> Watched {
        Watched { since: now, until: now, gaps: Vec::new() }
    }

    /// Somebody watched for `elapsed` since `until`. Answers whether the wall clock says something else than that.
    fn go_on(&mut self, now: Timestamp, elapsed: Duration) -> bool {
        let stray = now.0.saturating_sub(self.until.plus(elapsed).0);
        if stray > STRAY {
            // When in between it was set is not known: put last, the gap lies after all that was noted before it.
            self.gaps.push(Gap { from: Timestamp(now.0.saturating_sub(stray)), until: now });
            self.forget();
        } else if stray < -STRAY {
            self.set_back(now);
        }
        self.until = now;
        stray.saturating_abs() > STRAY
    }

    /// Puts the oldest two gaps together, at the later one's place: never less counts as a gap than was one.
    fn forget(&mut self) {
        if self.gaps.len() > MOST_GAPS {
            let oldest = self.gaps.remove(0);
            let length = oldest.until.0.saturating_sub(oldest.from.0);
            self.gaps[0].from.0 = self.gaps[0].from.0.saturating_sub(length);
        }
    }

    /// What was said about the time from `now` on is forgotten: it comes once more.
    fn set_back(&mut self, now: Timestamp) {
        self.since = self.since.min(now);
        self.gaps.retain(|gap| gap.from < now);
        self.gaps.iter_mut().for_each(|gap| gap.until = gap.until.min(now));
    }

    /// The moment from which on, had all been watched, as much time would be watched as there was since `since`.
    pub fn counted_from(&self, since: Timestamp) -> Timestamp {
        let since = since.max(self.since);
        let missed = self.gaps.iter().map(|gap| gap.until.0.saturating_sub(gap.from.max(since).0).max(0));
        Timestamp(missed.fold(since.0, i64::saturating_add))
    }
}

/// The watch of this process, and what stands in the log of it.
#[derive(Default)]
pub(super) struct Watch {
    watched: Option<Watched>,
    logged: Option<Watched>,
    last: Option<Moment>,
}

impl Watch {
    /// Goes on with what the log says.
    pub fn restore(&mut self, watched: Watched) {
        self.watched = Some(watched.clone());
        self.logged = Some(watched);
    }

    /// What happened before is not known.
    pub fn forget(&mut self) {
        self.watched = None;
    }

    pub fn go_on(&mut self, now: Moment) -> bool {
        let elapsed = self.last.replace(now).map_or(Duration::ZERO, |last| now.tick.since(last.tick));
        match &mut self.watched {
            Some(watched) => watched.go_on(now.wall, elapsed),
            None => {
                self.watched = Some(Watched::begin(now.wall));
                false
            }
        }
    }

    pub fn watched(&self) -> Option<&Watched> {
        self.watched.as_ref()
    }

    /// What the log should say, where it is time to.
    pub fn to_log(&self) -> Option<Watched> {
        let is_said = |watched: &Watched| {
            self.logged.as_ref().is_some_and(|logged| {
                (logged.since, &logged.gaps) == (watched.since, &watched.gaps) && watched.until.0.abs_diff(logged.until.0) < WRITE_EVERY
            })
        };
        self.watched.clone().filter(|watched| !is_said(watched))
    }

    pub fn logged(&mut self, watched: Option<Watched>) {
        self.logged = watched.or(self.logged.take());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Usage;
    use super::*;
    use crate::model::Tick;

    const HOUR: i64 = 3_600_000;

    fn at(tick: i64, wall: i64) -> Moment {
        Moment { tick: Tick(tick as u64 * 1_000_000), wall: Timestamp(wall) }
    }

    fn from(usage: &Usage, since: i64) -> i64 {
        usage.watched().unwrap().counted_from(Timestamp(since)).0
    }

    #[test]
    fn only_watched_time_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (usage, _) = Usage::open(dir.path()).unwrap();
        assert_eq!(usage.watched(), None);
        assert!(!usage.watch(at(0, 10 * HOUR)));
        assert_eq!((from(&usage, 0), from(&usage, 11 * HOUR)), (10 * HOUR, 11 * HOUR), "nothing is known of what was before");
        for (tick, wall, stepped) in [
            (HOUR, 11 * HOUR, false),
            (2 * HOUR, 12 * HOUR + STRAY, false),
            // A leap of 8 hours in a quarter of one.
            (2 * HOUR + HOUR / 4, 20 * HOUR + STRAY + HOUR / 4, true),
            (3 * HOUR + HOUR / 4, 21 * HOUR + STRAY + HOUR / 4, false),
        ] {
            assert_eq!(usage.watch(at(tick, wall)), stepped, "{wall}");
        }
        for (since, counted) in [(0, 18), (10, 18), (11, 19), (12, 20)] {
            assert_eq!(from(&usage, since * HOUR), counted * HOUR, "{since}");
        }
        assert_eq!(from(&usage, 21 * HOUR), 21 * HOUR);
    }

    #[test]
    fn what_was_noted_just_before_a_leap_has_all_of_it_behind_it() {
        let mut watched = Watched::begin(Timestamp(0));
        watched.go_on(Timestamp(189 * HOUR), Duration::from_secs(89 * 3_600));
        for (since, counted) in [(0, 100), (80, 180), (89, 189), (185, 189)] {
            assert_eq!(watched.counted_from(Timestamp(since * HOUR)), Timestamp(counted * HOUR), "{since}");
        }
    }

    #[test]
    fn a_leap_that_is_taken_back_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (usage, _) = Usage::open(dir.path()).unwrap();
        usage.watch(at(0, 0));
        assert!(usage.watch(at(1, 100 * HOUR)));
        assert_eq!(from(&usage, 0), 100 * HOUR - 1);
        assert!(usage.watch(at(2, 2)));
        assert!(from(&usage, 0) <= 2);
    }

    #[test]
    fn the_time_until_a_restart_is_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let (usage, _) = Usage::open(dir.path()).unwrap();
        usage.watch(at(0, 0));
        usage.watch(at(HOUR, HOUR));
        usage.flush(&mut |_| ()).unwrap();
        drop(usage);
        for (round, opens_at) in [(1, 3), (2, 5)] {
            let (usage, _) = Usage::open(dir.path()).unwrap();
            let opens_at = opens_at * HOUR;
            assert!(usage.watch(at(0, opens_at)));
            usage.watch(at(HOUR, opens_at + HOUR));
            assert_eq!(from(&usage, 0), if round == 1 { 2 * HOUR } else { 3 * HOUR });
            usage.flush(&mut |_| ()).unwrap();
        }
    }

    #[test]
    fn however_often_it_is_off_the_gaps_stay_few_and_no_time_is_lost() {
        let mut watched = Watched::begin(Timestamp(0));
        for n in 1..=10 * MOST_GAPS as i64 {
            watched.go_on(Timestamp((2 * n - 1) * HOUR), Duration::ZERO);
            watched.go_on(Timestamp(2 * n * HOUR), Duration::from_secs(3_600));
        }
        let end = 20 * MOST_GAPS as i64;
        assert_eq!(watched.gaps.len(), MOST_GAPS);
        for since in (0..end).step_by(2) {
            let watched_since = (end - since) / 2 * HOUR;
            let counted = end * HOUR - watched.counted_from(Timestamp(since * HOUR)).0;
            assert!(counted <= watched_since, "{since}");
            if since == 0 || since > end - MOST_GAPS as i64 {
                assert_eq!(counted, watched_since, "{since}");
            }
        }
    }

    #[test]
    fn it_is_written_when_it_went_on_by_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (usage, _) = Usage::open(dir.path()).unwrap();
        let mut written = 0;
        for n in 0..100 {
            usage.watch(at(n * 3_000, n * 3_000));
            let length = || dir.path().join("usage.log").metadata().unwrap().len();
            let before = length();
            usage.flush(&mut |_| ()).unwrap();
            written += u32::from(length() > before);
        }
        assert_eq!(written, 10);
    }
}
