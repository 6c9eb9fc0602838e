//! Times as people say them.

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
}
