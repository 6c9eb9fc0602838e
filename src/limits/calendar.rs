//! Days and months as the calendar of a time zone has them: 23, 24 or 25 hours, 28 to 31 days.
//!
//! A counter carries the bounds of the period it counts, so that the calendar is asked once per period and bucket,
//! not once per call. The wall clock can be set: a step back never grants a period a second time, a step ahead grants
//! at most the one it lands in, and neither makes a counter stick for longer than the period after the present one.

use jiff::ToSpan;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;

use crate::model::{CalendarCounter, Timestamp};

const DAY_MILLIS: i64 = 86_400_000;

/// Which stretch of the calendar a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Day,
    Month,
}

impl Unit {
    pub const ALL: [Unit; 2] = [Unit::Day, Unit::Month];
}

/// One day or month: its number (see [`CalendarCounter`]) and its bounds, the second one exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Period {
    number: i32,
    begins: Timestamp,
    ends: Timestamp,
}

impl Period {
    fn at(unit: Unit, wall: Timestamp, zone: &TimeZone) -> Period {
        // Years 1 to 9998: beyond, the calendar library has no next month. No clock stands there.
        let wall = Timestamp(wall.0.clamp(-62_104_060_800_000, 253_339_228_799_999));
        Period::of_calendar(unit, wall, zone).unwrap_or_else(|| Period::of_24_hours(wall))
    }

    fn of_calendar(unit: Unit, wall: Timestamp, zone: &TimeZone) -> Option<Period> {
        let today = zone.to_datetime(jiff::Timestamp::from_millisecond(wall.0).ok()?).date();
        let (first, next, number) = match unit {
            Unit::Day => (today, today.tomorrow().ok()?, days_since_1970(today)?),
            Unit::Month => {
                let first = today.first_of_month();
                let number = i32::from(first.year()) * 12 + i32::from(first.month()) - 1;
                (first, first.checked_add(1.month()).ok()?, number)
            }
        };
        Some(Period { number, begins: midnight(first, zone)?, ends: midnight(next, zone)? })
    }

    /// Stands in where the calendar cannot say, so that a count goes on rather than not count.
    fn of_24_hours(wall: Timestamp) -> Period {
        let number = wall.0.div_euclid(DAY_MILLIS);
        let begins = number * DAY_MILLIS;
        Period { number: i32::try_from(number).unwrap_or(i32::MAX), begins: Timestamp(begins), ends: Timestamp(begins + DAY_MILLIS) }
    }

    fn next(self, unit: Unit, zone: &TimeZone) -> Period {
        Period::at(unit, self.ends, zone)
    }
}

/// The first moment of a day, which is not always called 00:00.
fn midnight(day: Date, zone: &TimeZone) -> Option<Timestamp> {
    let start = day.to_zoned(zone.clone()).ok()?.start_of_day().ok()?;
    Some(Timestamp(start.timestamp().as_millisecond()))
}

fn days_since_1970(day: Date) -> Option<i32> {
    i32::try_from(day.duration_since(date(1970, 1, 1)).as_hours() / 24).ok()
}

/// What a caller used in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    ends: Timestamp,
    /// A month with a 25-hour day has 2 682 000 000 ms, so 32 bits hold any period. Zero: the bounds are not known yet.
    length_millis: u32,
    number: i32,
    used: u32,
}

impl Count {
    pub const NONE: Count = Count { ends: Timestamp(i64::MIN), length_millis: 0, number: i32::MIN, used: 0 };

    pub fn restored(counter: CalendarCounter) -> Count {
        Count { number: counter.period, used: counter.used, ..Count::NONE }
    }

    pub fn counter(&self) -> CalendarCounter {
        CalendarCounter { period: self.number, used: self.used }
    }

    /// Moves on to the period of `wall` where that has begun.
    #[inline]
    pub fn settle(&mut self, unit: Unit, wall: Timestamp, zone: &TimeZone) {
        let begins = self.ends.0.saturating_sub(self.length_millis.into());
        if wall.0 < begins || wall.0 >= self.ends.0 {
            self.turn(unit, Period::at(unit, wall, zone), zone);
        }
    }

    #[cold]
    fn turn(&mut self, unit: Unit, present: Period, zone: &TimeZone) {
        if self.number < present.number {
            self.used = 0;
            self.adopt(present);
        } else if self.number == present.number {
            self.adopt(present);
        } else {
            // The wall clock went back. The count stays and is that of the next period, which is as far as a
            // step of seconds over midnight can have come: from a clock that once stood in 2039 it frees up with
            // the end of tomorrow.
            self.adopt(present.next(unit, zone));
        }
    }

    fn adopt(&mut self, period: Period) {
        self.number = period.number;
        self.ends = period.ends;
        self.length_millis = u32::try_from(period.ends.0 - period.begins.0).unwrap_or(u32::MAX);
    }

    /// Adds `cost` unless that passes `quota`; then the milliseconds to wait, and the count stays. No quota: it counts
    /// all the same, so that a tier with one finds what was used.
    pub fn spend(&mut self, quota: Option<u32>, cost: u32, wall: Timestamp) -> Result<(), u64> {
        if let Some(quota) = quota
            && self.used.saturating_add(cost.min(quota)) > quota
        {
            return Err(self.millis_left(wall));
        }
        self.used = self.used.saturating_add(cost);
        Ok(())
    }

    /// Takes back what a call counted in the period `number`; nothing if that is over.
    pub fn refund(&mut self, number: i32, cost: u32) {
        if self.number == number {
            self.used = self.used.saturating_sub(cost);
        }
    }

    pub fn remaining(&self, quota: u32) -> u32 {
        quota.saturating_sub(self.used)
    }

    pub fn is_unused(&self) -> bool {
        self.used == 0
    }

    pub fn number(&self) -> i32 {
        self.number
    }

    pub fn millis_left(&self, wall: Timestamp) -> u64 {
        u64::try_from(self.ends.0.saturating_sub(wall.0)).unwrap_or(0)
    }

    pub fn length_seconds(&self) -> u32 {
        self.length_millis / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    /// The counter at `wall` after one more call.
    fn call(count: &mut Count, unit: Unit, wall: Timestamp, zone: &TimeZone) -> u32 {
        count.settle(unit, wall, zone);
        count.spend(None, 1, wall).unwrap();
        count.used
    }

    #[test]
    fn periods_have_the_length_and_the_bounds_of_the_calendar() {
        for (unit, name, inside, begins, ends) in [
            (Unit::Day, "UTC", "2026-11-21T08:00:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"),
            (Unit::Day, "Europe/Paris", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (Unit::Day, "Europe/Paris", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            // Here midnight itself is skipped by the change: the day begins at 01:00.
            (Unit::Day, "Africa/Cairo", "2026-04-24T12:00:00Z", "2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"),
            // And here a whole day was.
            (Unit::Day, "Pacific/Apia", "2011-12-31T00:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
            (Unit::Month, "UTC", "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Unit::Month, "UTC", "2027-02-28T00:00:00Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"),
            (Unit::Month, "Europe/Paris", "2026-12-31T22:59:59Z", "2026-11-30T23:00:00Z", "2026-12-31T23:00:00Z"),
            (Unit::Month, "Europe/Paris", "2026-12-31T23:00:00Z", "2026-12-31T23:00:00Z", "2027-01-31T23:00:00Z"),
            (Unit::Month, "UTC", "2038-01-19T03:14:08Z", "2038-01-01T00:00:00Z", "2038-02-01T00:00:00Z"),
        ] {
            let period = Period::at(unit, at(inside), &zone(name));
            assert_eq!((period.begins, period.ends), (at(begins), at(ends)), "{name} {inside}");
        }
    }

    #[test]
    fn periods_follow_each_other_without_a_gap() {
        for (name, unit) in [("Europe/Paris", Unit::Day), ("America/St_Johns", Unit::Day), ("Europe/Paris", Unit::Month)] {
            let zone = zone(name);
            let mut period = Period::at(unit, at("2023-12-30T12:00:00Z"), &zone);
            for _ in 0..1_200 {
                let next = period.next(unit, &zone);
                assert_eq!((next.begins, next.number), (period.ends, period.number + 1), "{name} {}", period.ends);
                assert_eq!(Period::at(unit, Timestamp(next.begins.0 - 1), &zone), period);
                period = next;
            }
        }
    }

    #[test]
    fn the_edges_of_time_have_periods_too() {
        for wall in [i64::MIN, -1, 0, i64::MAX] {
            for unit in Unit::ALL {
                let period = Period::at(unit, Timestamp(wall), &zone("Europe/Paris"));
                assert!(period.begins < period.ends);
            }
        }
    }

    #[test]
    fn a_count_starts_anew_with_the_day_and_not_before() {
        let (paris, mut count) = (zone("Europe/Paris"), Count::NONE);
        for (wall, used, left) in [
            ("2026-10-24T21:59:59.999Z", 1, 1),
            ("2026-10-24T22:00:00.000Z", 1, 90_000_000),
            ("2026-10-25T22:59:59.999Z", 2, 1),
            ("2026-10-25T23:00:00Z", 1, 86_400_000),
        ] {
            assert_eq!(call(&mut count, Unit::Day, at(wall), &paris), used, "{wall}");
            assert_eq!(count.millis_left(at(wall)), left, "{wall}");
        }
        assert_eq!(count.length_seconds(), 86_400);
    }

    #[test]
    fn t060_no_step_of_the_wall_clock_grants_a_period_twice() {
        let utc = TimeZone::UTC;
        // wall → what the next call makes the count
        for steps in [
            // A second back over midnight, and over it again.
            [("2026-05-10T23:59:59Z", 1), ("2026-05-11T00:00:01Z", 1), ("2026-05-10T23:59:59Z", 2), ("2026-05-11T00:00:01Z", 3)],
            // To 1970 and back.
            [("2026-05-10T12:00:00Z", 1), ("1970-01-01T00:00:00Z", 2), ("1970-01-02T12:00:00Z", 3), ("1970-01-03T00:00:00Z", 1)],
            // Into 2039: that grants one, and coming back does not; the day after tomorrow is free again.
            [("2026-05-10T12:00:00Z", 1), ("2039-01-01T00:00:00Z", 1), ("2026-05-10T12:00:00Z", 2), ("2026-05-11T23:59:59Z", 3)],
            [("2039-01-01T00:00:00Z", 1), ("2026-05-10T12:00:00Z", 2), ("2026-05-11T12:00:00Z", 3), ("2026-05-12T00:00:00Z", 1)],
        ] {
            let mut count = Count::NONE;
            for (wall, used) in steps {
                assert_eq!(call(&mut count, Unit::Day, at(wall), &utc), used, "{wall} of {steps:?}");
            }
        }
    }

    #[test]
    fn a_restored_count_goes_on_in_its_period_only() {
        let (utc, wall) = (TimeZone::UTC, at("2026-05-10T12:00:00Z"));
        let today = Period::at(Unit::Day, wall, &utc).number;
        for (period, used) in [(today, 8), (today - 1, 1), (today + 1, 8), (today + 400, 8)] {
            let mut count = Count::restored(CalendarCounter { period, used: 7 });
            assert_eq!(call(&mut count, Unit::Day, wall, &utc), used, "{}", period - today);
        }
    }
}
