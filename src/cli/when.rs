//! Times as people say them.

use super::failure::Failure;
use crate::model::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// `3 min ago`, `in 12 days`; `never` where there is no time; the text itself where it is none.
pub fn relative(at: Option<&str>, never: &str, now: Timestamp) -> String {
    let Some(text) = at else { return never.to_owned() };
    match Timestamp::parse(text) {
        Some(at) => distance((at.0 - now.0).div_euclid(1_000)),
        None => text.to_owned(),
    }
}

/// `3 min ago (2027-01-15T07:57:00.000Z)`, or `never`.
pub fn with_date(at: Option<&str>, now: Timestamp) -> String {
    match at {
        Some(date) => format!("{} ({date})", relative(at, "", now)),
        None => "never".to_owned(),
    }
}

/// Rounded to the nearest, so that what was given 90 days a moment ago is shown with 90 days.
fn distance(seconds: i64) -> String {
    let away = seconds.unsigned_abs() as i64;
    let in_units = |unit: i64| (away + unit / 2) / unit;
    let length = match away {
        0..=4 => return "just now".to_owned(),
        _ if away < MINUTE => format!("{away} s"),
        _ if in_units(MINUTE) < 60 => format!("{} min", in_units(MINUTE)),
        _ if in_units(HOUR) < 24 => format!("{} h", in_units(HOUR)),
        _ if in_units(DAY) == 1 => "1 day".to_owned(),
        _ if in_units(DAY) < 730 => format!("{} days", in_units(DAY)),
        _ => format!("{} years", in_units(365 * DAY)),
    };
    if seconds < 0 { format!("{length} ago") } else { format!("in {length}") }
}

/// On which side of now a length of time lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Past,
    Future,
}

/// The time that a person means by `30d` (before or after now), by a day (its beginning in UTC) or by writing it out in RFC 3339; `option` is where it was said.
pub fn meant(option: &str, text: &str, side: Side, now: Timestamp) -> Result<Timestamp, Failure> {
    let away = span(text).map(|span| match side {
        Side::Past => now.0.saturating_sub(span),
        Side::Future => now.0.saturating_add(span),
    });
    let day = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    let wrong = || Failure::Usage(format!("{option}: {text:?} is no time; write 30d, 12h, 45m, 2027-01-31, or 2027-01-31T00:00:00Z"));
    away.map(Timestamp).or_else(|| Timestamp::parse(text)).or_else(day).ok_or_else(wrong)
}

/// Whether `text` is a length of time.
pub fn is_span(text: &str) -> bool {
    span(text).is_some()
}

/// Refuses what is no length of time; `option` is where it was said.
pub fn checked_span(option: &str, text: &str) -> Result<(), Failure> {
    let wrong = || Failure::Usage(format!("{option}: {text:?} is no length of time; write 24h, 7d, 45m"));
    is_span(text).then_some(()).ok_or_else(wrong)
}

/// `30d`, `12h`, `45m`, `10s` in milliseconds.
fn span(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "d" => DAY,
        "h" => HOUR,
        "m" => MINUTE,
        "s" => 1,
        _ => return None,
    };
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    number.parse::<i64>().ok().filter(|_| digits)?.checked_mul(unit)?.checked_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let cases = [
            (0, "just now"),
            (-4, "just now"),
            (-59, "59 s ago"),
            (-180, "3 min ago"),
            (-3_580, "1 h ago"),
            (-7_199, "2 h ago"),
            (86_399, "in 1 day"),
            (90 * 86_400 - 1, "in 90 days"),
            (12 * 86_400 + 5, "in 12 days"),
            (90 * 86_400, "in 90 days"),
            (-800 * 86_400, "2 years ago"),
        ];
        for (seconds, words) in cases {
            assert_eq!(distance(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn no_time_and_no_such_time_are_said_in_words() {
        let now = Timestamp::parse("2027-01-15T08:00:00Z").unwrap();
        let cases = [(None, "never"), (Some("2027-01-15T07:57:00.000Z"), "3 min ago"), (Some("soon"), "soon")];
        for (at, words) in cases {
            assert_eq!(relative(at, "never", now), words);
        }
    }

    #[test]
    fn a_time_is_a_length_from_now_or_written_out() {
        let now = Timestamp::parse("2027-01-15T08:00:00Z").unwrap();
        let cases = [
            ("30d", Side::Past, "2026-12-16T08:00:00.000Z"),
            ("12h", Side::Future, "2027-01-15T20:00:00.000Z"),
            ("45m", Side::Past, "2027-01-15T07:15:00.000Z"),
            ("0s", Side::Past, "2027-01-15T08:00:00.000Z"),
            ("2027-01-31", Side::Past, "2027-01-31T00:00:00.000Z"),
            ("2027-01-31T00:00:00+01:00", Side::Past, "2027-01-30T23:00:00.000Z"),
        ];
        for (text, side, expected) in cases {
            assert_eq!(meant("--x", text, side, now).unwrap().to_string(), expected, "{text}");
        }
        for wrong in ["", "d", "-1d", "+1d", "1w", "30", "é", "tomorrow", "2027-02-30", "9223372036854775807d"] {
            assert!(matches!(meant("--x", wrong, Side::Past, now), Err(Failure::Usage(text)) if text.starts_with("--x: ")), "{wrong}");
        }
    }
}
