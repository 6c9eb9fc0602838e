//! How much a caller may do: a tier is a name and a limit for each of its windows.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::ids::{KeyId, MachineId};

/// The name of a tier, `standard`: 1 to 32 of `a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierName(Arc<str>);

impl TierName {
    pub fn parse(text: &str) -> Option<TierName> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        ((1..=32).contains(&text.len()) && text.bytes().all(good)).then(|| TierName(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The stretch of time that a limit counts over. Seconds to hours slide and are judged by GCRA; days and
/// months are periods of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    Second,
    Minute,
    Hour,
    Day,
    Month,
}

impl Window {
    pub const ALL: [Window; 5] = [Window::Second, Window::Minute, Window::Hour, Window::Day, Window::Month];

    /// Its name in `RateLimit` fields, metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Window::Second => "second",
            Window::Minute => "minute",
            Window::Hour => "hour",
            Window::Day => "day",
            Window::Month => "month",
        }
    }

    /// The length in seconds of a sliding window; `None` for a calendar period, whose length depends on the date.
    pub fn seconds(self) -> Option<u64> {
        match self {
            Window::Second => Some(1),
            Window::Minute => Some(60),
            Window::Hour => Some(3_600),
            Window::Day | Window::Month => None,
        }
    }
}

/// At most `quota` calls in one window. A sliding window lets `burst` of them through at once (by default
/// all), then one every window ÷ quota; a calendar period ignores `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub window: Window,
    pub quota: NonZeroU32,
    pub burst: NonZeroU32,
}

/// A tier as the settings name it. `limits` holds each window at most once, shortest first; none at all means unlimited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    pub name: TierName,
    pub limits: Vec<Limit>,
}

/// Whose calls a bucket counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BucketOwner {
    /// A machine's: all its keys together, but for those with a tier of their own.
    Machine(MachineId),
    /// A key's that has a tier of its own.
    Key(KeyId),
}

/// How much of one calendar window is used. `period` numbers the window: days since 1970-01-01, or months since
/// January of year 0, in the zone that the limits are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalendarCounter {
    pub period: i32,
    /// Cost of the calls admitted in that period; it stays at the largest number rather than wrap.
    pub used: u32,
}

/// What a bucket must not forget over a restart. Sliding windows are not part of it: they start fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalendarCounters {
    pub day: CalendarCounter,
    pub month: CalendarCounter,
}
