//! The promises of `charge` over all windows at once. Those of one window stand in `rate` and `calendar`.

use std::sync::Barrier;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::model::{TierName, Timestamp};

const ONE: NonZeroU32 = NonZeroU32::MIN;

fn limits_in(zone: TimeZone, limits: &[(Window, u32, u32)]) -> TierLimits {
    let some = |n| NonZeroU32::new(n).unwrap();
    let limits = limits.iter().map(|&(window, quota, burst)| Limit { window, quota: some(quota), burst: some(burst) });
    TierLimits::new(&Tier { name: TierName::parse("t").unwrap(), limits: limits.collect() }, zone)
}

/// Windows with a full burst, in UTC.
fn limits(of: &[(Window, u32)]) -> TierLimits {
    let of: Vec<_> = of.iter().map(|&(window, quota)| (window, quota, quota)).collect();
    limits_in(TimeZone::UTC, &of)
}

fn clock(at: &str) -> Clock {
    Clock::manual(Timestamp::parse(at).unwrap())
}

/// Calls one by one until refused.
fn drain(limits: &TierLimits, bucket: &Bucket, now: Moment) -> (u32, Refused) {
    let mut admitted = 0;
    loop {
        match charge(limits, bucket, ONE, now) {
            Ok(_) => admitted += 1,
            Err(refused) => return (admitted, refused),
        }
    }
}

fn fields(charged: &Charged) -> (String, String) {
    let (mut policy, mut limit) = (bytes::BytesMut::new(), bytes::BytesMut::new());
    charged.write_policy(&mut policy);
    charged.write_limit(&mut limit);
    (String::from_utf8(policy.to_vec()).unwrap(), String::from_utf8(limit.to_vec()).unwrap())
}

#[test]
fn a_call_is_told_what_is_left_of_every_window() {
    let (tier, bucket) = (limits(&[(Window::Minute, 60), (Window::Day, 10_000)]), Bucket::new());
    let clock = clock("2026-11-21T12:47:59.5Z");
    for _ in 0..18 {
        charge(&tier, &bucket, ONE, clock.now()).unwrap();
    }
    let expected = (r#""minute";q=60;w=60, "day";q=10000;w=86400"#.into(), r#""minute";r=41;t=1, "day";r=9981;t=40321"#.into());
    let charged = charge(&tier, &bucket, ONE, clock.now()).unwrap();
    assert_eq!(fields(&charged), expected);
    assert_eq!(peek(&tier, &bucket, clock.now()), charged, "peeking spends nothing");
    assert_eq!(peek(&tier, &bucket, clock.now()), charged);
    let fresh = peek(&tier, &Bucket::new(), clock.now());
    assert_eq!(fields(&fresh).1, r#""minute";r=60;t=0, "day";r=10000;t=0"#);
}

#[test]
fn a_tier_without_limits_admits_everything_and_says_nothing() {
    let (tier, bucket, clock) = (limits(&[]), Bucket::new(), clock("2026-11-21T12:00:00Z"));
    for _ in 0..1_000 {
        assert!(charge(&tier, &bucket, NonZeroU32::MAX, clock.now()).unwrap().windows().is_empty());
    }
}

#[test]
fn a_refused_call_is_not_counted_anywhere() {
    // The window that refuses, and the ones that must keep what they have.
    for refusing in [Window::Second, Window::Minute, Window::Hour, Window::Day, Window::Month] {
        let quota = |window| if window == refusing { 3 } else { 1_000 };
        let tier = limits(&Window::ALL.map(|window| (window, quota(window))));
        let (bucket, clock) = (Bucket::new(), clock("2026-11-21T12:00:00Z"));
        let (admitted, refused) = drain(&tier, &bucket, clock.now());
        assert_eq!((admitted, &refused.violated[..]), (3, &[refusing][..]));
        for _ in 0..50 {
            assert_eq!(charge(&tier, &bucket, ONE, clock.now()).unwrap_err(), refused);
        }
        for window in refused.state.windows() {
            assert_eq!(window.remaining, quota(window.window) - 3, "{window:?}");
        }
    }
}

#[test]
fn the_longest_wait_is_told_and_quota_wins() {
    let (tier, bucket) = (limits(&[(Window::Minute, 6), (Window::Day, 6)]), Bucket::new());
    let clock = clock("2026-11-21T23:59:00Z");
    let (_, refused) = drain(&tier, &bucket, clock.now());
    assert_eq!(refused.violated, [Window::Minute, Window::Day]);
    assert_eq!(refused.refusal(), Refusal::QuotaExceeded { retry_after: 60, violated: vec![Window::Minute, Window::Day] });

    // Just before midnight the minute is the longer wait, and the code is still that of the quota.
    let bucket = Bucket::new();
    clock.advance(Duration::from_secs(58));
    let (_, refused) = drain(&tier, &bucket, clock.now());
    assert_eq!((refused.retry_after, refused.quota), (10, true));
    assert!(charge(&tier, &bucket, ONE, clock.now()).is_err());
    clock.advance(Duration::from_secs(10));
    assert!(charge(&tier, &bucket, ONE, clock.now()).is_ok());
}

#[test]
fn t050_threads_admit_exactly_the_quota() {
    let tier = limits(&[(Window::Minute, 60), (Window::Day, 10_000)]);
    let clock = clock("2026-11-21T12:00:00Z");
    for round in 0..50 {
        let (bucket, barrier) = (Bucket::new(), Barrier::new(8));
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        (0..1_250).filter(|_| charge(&tier, &bucket, ONE, clock.now()).is_ok()).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((admitted, bucket.counters().day.used), (60, 60), "round {round}");
    }
}

#[test]
fn a_tick_read_before_waiting_for_the_lock_gains_nothing() {
    let (tier, bucket, clock) = (limits(&[(Window::Second, 1)]), Bucket::new(), clock("2026-11-21T12:00:00Z"));
    let early = clock.now();
    clock.advance(Duration::from_millis(900));
    let late = clock.now();
    charge(&tier, &bucket, ONE, late).unwrap();
    let refused = charge(&tier, &bucket, ONE, early).unwrap_err();
    assert_eq!(refused.retry_after, 2, "1.9 s from its own now");
    clock.advance(Duration::from_millis(999));
    assert!(charge(&tier, &bucket, ONE, clock.now()).is_err());
    clock.advance(Duration::from_millis(1));
    assert!(charge(&tier, &bucket, ONE, clock.now()).is_ok());
}

#[test]
fn t058_a_change_of_limits_carries_over_what_was_used() {
    let clock = clock("2026-11-21T12:00:00Z");
    let tier = |minute, day| limits(&[(Window::Minute, minute), (Window::Day, day)]);
    let left =
        |limits: &TierLimits, bucket: &Bucket| peek(limits, bucket, clock.now()).windows().iter().map(|w| w.remaining).collect::<Vec<_>>();
    let bucket = Bucket::new();
    for _ in 0..50 {
        charge(&tier(60, 100), &bucket, ONE, clock.now()).unwrap();
    }
    for (minute, day, expected) in [(60, 100, [10, 50]), (100, 200, [50, 150]), (40, 40, [0, 0]), (60, 100, [10, 50])] {
        assert_eq!(left(&tier(minute, day), &bucket), expected, "{minute} {day}");
    }
    for _ in 0..50 {
        assert_eq!(drain(&tier(50, 100), &bucket, clock.now()).0, 0, "reloading gives no fresh burst");
    }
    // What a tier without a daily limit let through counts under one that has it.
    let bucket = Bucket::new();
    for _ in 0..30 {
        charge(&limits(&[]), &bucket, ONE, clock.now()).unwrap();
    }
    assert_eq!(left(&tier(60, 100), &bucket), [60, 70]);
}

#[test]
fn t061_days_turn_at_midnight_of_the_zone() {
    let paris = TimeZone::get("Europe/Paris").unwrap();
    // a moment, seconds its day has, seconds left of it
    for (at, length, left) in [
        ("2026-03-28T23:00:00Z", 82_800, 82_800),
        ("2026-03-29T21:59:58.001Z", 82_800, 2),
        ("2026-10-24T22:00:00Z", 90_000, 90_000),
        ("2026-10-25T22:59:59.999Z", 90_000, 1),
        ("2028-02-29T12:00:00Z", 86_400, 39_600),
        ("2026-12-31T22:00:00Z", 86_400, 3_600),
    ] {
        let (tier, bucket, clock) = (limits_in(paris.clone(), &[(Window::Day, 5, 1)]), Bucket::new(), clock(at));
        let (admitted, refused) = drain(&tier, &bucket, clock.now());
        assert_eq!((admitted, refused.retry_after), (5, left), "{at}: a calendar window has no burst");
        assert_eq!(refused.state.windows()[0].length, length, "{at}");
        clock.advance(Duration::from_secs(left - 1));
        assert!(charge(&tier, &bucket, ONE, clock.now()).is_err(), "{at}");
        clock.advance(Duration::from_secs(1));
        assert_eq!(drain(&tier, &bucket, clock.now()).0, 5, "{at}");
    }
}

#[test]
fn t060_steps_of_the_wall_clock_leave_rates_alone_and_grant_no_quota() {
    let (tier, bucket) = (limits(&[(Window::Minute, 60), (Window::Day, 60)]), Bucket::new());
    let clock = clock("2026-11-21T12:00:00Z");
    assert_eq!(drain(&tier, &bucket, clock.now()).0, 60);
    for step in [-1_000i64, -3_600_000, -86_400_000, -1_700_000_000_000] {
        clock.step_wall(step);
        let (admitted, refused) = drain(&tier, &bucket, clock.now());
        assert_eq!((admitted, &refused.violated[..]), (0, &[Window::Minute, Window::Day][..]), "{step}");
    }
    clock.step_wall(1_700_000_000_000 + 10 * 86_400_000);
    let (admitted, refused) = drain(&tier, &bucket, clock.now());
    assert_eq!((admitted, &refused.violated[..]), (0, &[Window::Minute][..]), "the day is new, the minute is not");
    clock.advance(Duration::from_secs(60));
    assert_eq!(drain(&tier, &bucket, clock.now()).0, 60, "a step ahead grants one period");
}

#[test]
fn t059_a_restart_keeps_the_calendar() {
    let (tier, bucket) = (limits(&[(Window::Day, 100), (Window::Month, 1_000)]), Bucket::new());
    let clock = clock("2026-11-30T12:00:00Z");
    for _ in 0..70 {
        charge(&tier, &bucket, ONE, clock.now()).unwrap();
    }
    let restarted = Bucket::new();
    restarted.restore(&bucket.counters());
    assert_eq!(drain(&tier, &restarted, clock.now()).0, 30);
    clock.advance(Duration::from_secs(43_200));
    assert_eq!(restarted.counters().month.used, 100);
    charge(&tier, &restarted, ONE, clock.now()).unwrap();
    assert_eq!((restarted.counters().day.used, restarted.counters().month.used), (1, 1));
}

#[test]
fn a_refund_goes_to_the_day_that_was_charged_only() {
    let (tier, bucket) = (limits(&[(Window::Minute, 10), (Window::Day, 100), (Window::Month, 1_000)]), Bucket::new());
    let clock = clock("2026-11-21T23:59:59Z");
    let cost = NonZeroU32::new(3).unwrap();
    let charged = charge(&tier, &bucket, cost, clock.now()).unwrap();
    let again = charge(&tier, &bucket, cost, clock.now()).unwrap();
    refund_calendar(&bucket, &charged, cost);
    assert_eq!((bucket.counters().day.used, bucket.counters().month.used), (3, 3));
    clock.advance(Duration::from_secs(1));
    charge(&tier, &bucket, ONE, clock.now()).unwrap();
    refund_calendar(&bucket, &again, cost);
    assert_eq!((bucket.counters().day.used, bucket.counters().month.used), (1, 1));
    assert_eq!(peek(&tier, &bucket, clock.now()).windows()[0].remaining, 3, "sliding windows keep theirs");
}

#[test]
fn a_cost_no_window_can_meet_passes_when_nothing_is_used() {
    let (tier, bucket, clock) = (limits(&[(Window::Minute, 6), (Window::Day, 10)]), Bucket::new(), clock("2026-11-21T12:00:00Z"));
    charge(&tier, &bucket, ONE, clock.now()).unwrap();
    let huge = NonZeroU32::new(50).unwrap();
    let refused = charge(&tier, &bucket, huge, clock.now()).unwrap_err();
    clock.advance(Duration::from_secs(refused.retry_after));
    assert!(charge(&tier, &bucket, huge, clock.now()).is_ok());
}

const SLIDING_AND_DAY: [Window; 4] = [Window::Second, Window::Minute, Window::Hour, Window::Day];

proptest! {
    #[test]
    fn retry_after_never_lies_and_is_not_longer_than_it_must_be(
        window in prop::sample::select(&SLIDING_AND_DAY[..]),
        quota in prop_oneof![Just(1u32), Just(7), Just(13), Just(999), 1u32..5_000],
        burst in 1u32..100,
        cost in 1u32..8,
        calls in prop::collection::vec(0u64..3_000_000_000, 1..60),
    ) {
        let tier = limits_in(TimeZone::UTC, &[(window, quota, burst)]);
        let (bucket, clock) = (Bucket::new(), clock("2026-11-21T12:00:00Z"));
        let cost = NonZeroU32::new(cost).unwrap();
        for pause in calls {
            clock.advance(Duration::from_nanos(pause));
            if let Err(refused) = charge(&tier, &bucket, cost, clock.now()) {
                let wait = Duration::from_secs(refused.retry_after);
                prop_assert!(refused.retry_after >= 1);
                if refused.retry_after >= 2 {
                    clock.advance(wait - Duration::from_secs(1));
                    prop_assert!(charge(&tier, &bucket, cost, clock.now()).is_err(), "{} s is too long", refused.retry_after);
                    clock.advance(Duration::from_secs(1));
                } else {
                    clock.advance(wait);
                }
                prop_assert!(charge(&tier, &bucket, cost, clock.now()).is_ok(), "{} s is too short", refused.retry_after);
            }
        }
    }

    #[test]
    fn retry_after_holds_for_several_windows_together(
        quotas in prop::collection::vec(1u32..50, 5),
        cost in 1u32..5,
        pauses in prop::collection::vec(0u64..50_000_000_000, 1..80),
    ) {
        let of: Vec<_> = Window::ALL.into_iter().zip(quotas).collect();
        let (tier, bucket, clock) = (limits(&of), Bucket::new(), clock("2026-02-28T23:00:00Z"));
        let cost = NonZeroU32::new(cost).unwrap();
        for pause in pauses {
            clock.advance(Duration::from_nanos(pause));
            if let Err(refused) = charge(&tier, &bucket, cost, clock.now()) {
                clock.advance(Duration::from_secs(refused.retry_after));
                prop_assert!(charge(&tier, &bucket, cost, clock.now()).is_ok(), "{refused:?}");
            }
        }
    }

    /// What `RateLimit` says is what happens: `r` calls pass and no more; after `t` seconds there are more.
    #[test]
    fn the_fields_tell_the_truth(quota in 1u32..200, burst in 1u32..200, pauses in prop::collection::vec(0u64..4_000_000_000, 1..40)) {
        let tier = limits_in(TimeZone::UTC, &[(Window::Minute, quota, burst)]);
        let (bucket, clock) = (Bucket::new(), clock("2026-11-21T12:00:00Z"));
        for pause in pauses {
            clock.advance(Duration::from_nanos(pause));
            let _ = charge(&tier, &bucket, ONE, clock.now());
            let seen = peek(&tier, &bucket, clock.now()).windows()[0];
            let copy = Bucket::new();
            *copy.0.lock() = *bucket.0.lock();
            prop_assert_eq!(drain(&tier, &copy, clock.now()).0, seen.remaining);
            clock.advance(Duration::from_secs(seen.more_in.into()));
            let later = peek(&tier, &bucket, clock.now()).windows()[0].remaining;
            prop_assert!(later > seen.remaining || seen.more_in == 0);
        }
    }
}
