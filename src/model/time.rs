//! Two kinds of time. A [`Tick`] only ever moves forward and measures how long something took or how soon a
//! limit frees up; a [`Timestamp`] is the wall clock, which operators can set, and decides when a key expires
//! and when a calendar day ends. A [`Moment`] is both, read once per call.

use std::fmt;
use std::time::Duration;

/// Nanoseconds on the monotonic clock since an arbitrary origin of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Time that passed from `earlier` to this tick; zero when `earlier` is later.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The tick `by` after this one.
    #[must_use]
    pub fn plus(self, by: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall-clock time: milliseconds since the Unix epoch (UTC, leap seconds ignored as in POSIX).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Later than every date that can be written: what "never" compares as.
    pub const NEVER: Timestamp = Timestamp(i64::MAX);

    /// The time `by` after this one.
    #[must_use]
    pub fn plus(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Reads RFC 3339 (`2027-01-31T00:00:00Z`, any offset).
    pub fn parse(text: &str) -> Option<Timestamp> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Timestamp(t.as_millisecond()))
    }
}

/// RFC 3339 in UTC with milliseconds: `2027-01-31T00:00:00.000Z`. Times outside the years that RFC 3339 can
/// write are shown as the nearest one that it can.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nearest = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or(nearest);
        write!(f, "{time:.3}")
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    pub tick: Tick,
    pub wall: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_and_read_as_rfc_3339() {
        let t = Timestamp(1_800_000_000_123);
        assert_eq!(t.to_string(), "2027-01-15T08:00:00.123Z");
        assert_eq!(Timestamp::parse(&t.to_string()), Some(t));
        assert_eq!(Timestamp::parse("2027-01-15T09:00:00.123+01:00"), Some(t));
        assert_eq!(Timestamp::parse("2027-01-15"), None);
        let never = Timestamp::NEVER.to_string();
        assert!(never.starts_with("9999-12-30T"), "{never}");
    }
}
