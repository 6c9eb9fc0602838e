//! Limits over the wire: exact under parallelism, with a `Retry-After` that never lies, kept over a restart.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use octroi::model::change::{MachineEdit, NewKey};
use octroi::model::{Change, TierName};

use crate::support::{Gateway, Upstream};

#[test]
fn ten_thousand_parallel_calls_on_a_fresh_tier_admit_exactly_sixty() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("free"));
    let holder = gateway.key(&machine, NewKey::default());
    let bearer = format!("Bearer {}", holder.value);
    let (admitted, limited) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(20);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut connection = gateway.connect();
                barrier.wait();
                for _ in 0..500 {
                    match connection.get("/v1/sensors", &[("Authorization", &bearer)]).status {
                        200 => admitted.fetch_add(1, Ordering::Relaxed),
                        429 => limited.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                }
            });
        }
    });
    assert_eq!((admitted.into_inner(), limited.into_inner()), (60, 9_940));
    assert_eq!(upstream.received().len(), 60);
    gateway.wait(Duration::from_secs(1));
    assert_eq!(gateway.get_as(&holder, "/v1/sensors").status, 200, "one more for each second that passed");
    gateway.get_as(&holder, "/v1/sensors").refused(429, "rate_limited");
    let metrics = gateway.metrics();
    assert!(metrics.contains("octroi_limited_total{window=\"minute\"} 9941\n"), "{metrics}");
    assert!(metrics.contains("octroi_limited_total{window=\"day\"} 0\n"), "{metrics}");
}

#[test]
fn what_is_left_is_told_and_the_wait_is_true() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("free"));
    let holder = gateway.key(&machine, NewKey::default());
    let first = gateway.get_as(&holder, "/v1/sensors");
    assert_eq!(first.header("ratelimit-policy"), Some("\"minute\";q=60;w=60, \"day\";q=10000;w=86400"));
    assert!(first.header("ratelimit").unwrap().starts_with("\"minute\";r=59;t=1, \"day\";r=9999;t="), "{first:?}");
    for _ in 1..60 {
        assert_eq!(gateway.get_as(&holder, "/v1/sensors").status, 200);
    }
    let limited = gateway.get_as(&holder, "/v1/sensors");
    limited.refused(429, "rate_limited");
    let problem = limited.json();
    assert_eq!(problem["violated-policies"], serde_json::json!(["minute"]));
    assert_eq!(problem["retry_after"].to_string(), limited.header("retry-after").unwrap());
    assert!(limited.header("ratelimit").unwrap().starts_with("\"minute\";r=0;t=1"), "{limited:?}");
    gateway.wait(Duration::from_secs(problem["retry_after"].as_u64().unwrap()));
    assert_eq!(gateway.get_as(&holder, "/v1/sensors").status, 200);
}

#[test]
fn keys_share_their_machines_bucket_unless_they_have_a_tier() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("free"));
    let (one, two) = (gateway.key(&machine, NewKey::default()), gateway.key(&machine, NewKey::default()));
    let own = gateway.key(&machine, NewKey { tier: TierName::parse("free"), ..NewKey::default() });
    for _ in 0..30 {
        assert_eq!((gateway.get_as(&one, "/any/x").status, gateway.get_as(&two, "/any/x").status), (200, 200));
    }
    gateway.get_as(&one, "/any/x").refused(429, "rate_limited");
    gateway.get_as(&two, "/any/x").refused(429, "rate_limited");
    for _ in 0..60 {
        assert_eq!(gateway.get_as(&own, "/any/x").status, 200);
    }
    gateway.get_as(&own, "/any/x").refused(429, "rate_limited");
}

#[test]
fn t055_what_is_refused_is_not_counted() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["sensors:read"], Some("free"));
    let holder = gateway.key(&machine, NewKey::default());
    let bearer = format!("Bearer {}", holder.value);
    for (target, method) in [("/nowhere", "GET"), ("/v1//x", "GET"), ("/v1/sensors/7/config", "PUT"), ("/orgs/%2e", "GET")] {
        for _ in 0..10 {
            let mut connection = gateway.connect();
            connection.request(method, target, &[("Authorization", &bearer)], None);
            assert!(connection.answer().status >= 400);
        }
    }
    assert!(gateway.get_as(&holder, "/v1/sensors").header("ratelimit").unwrap().starts_with("\"minute\";r=59"));
}

#[test]
fn a_day_quota_survives_a_restart_and_ends_with_the_day() {
    let upstream = Upstream::plain();
    let settings = crate::support::gateway::settings(upstream.address);
    let settings = settings.replace("  unmetered:", "  daily: {per_day: 5}\n  unmetered:") + "default_tier: daily\n";
    let mut gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
    let machine = gateway.machine("caller", &["admin"], None);
    let holder = gateway.key(&machine, NewKey::default());
    for _ in 0..3 {
        assert_eq!(gateway.get_as(&holder, "/any/x").status, 200);
    }
    gateway.restart();
    for _ in 0..2 {
        assert_eq!(gateway.get_as(&holder, "/any/x").status, 200);
    }
    let over = gateway.get_as(&holder, "/any/x");
    over.refused(429, "quota_exceeded");
    let wait = over.header("retry-after").unwrap().parse::<u64>().unwrap();
    assert_eq!(wait, 12 * 3600, "noon to midnight, UTC");
    // Noon twelve hours ago: a clock set back grants no second day.
    gateway.clock.step_wall(-24 * 3_600_000);
    gateway.get_as(&holder, "/any/x").refused(429, "quota_exceeded");
    gateway.clock.step_wall(24 * 3_600_000);
    gateway.wait(Duration::from_secs(wait - 1));
    gateway.get_as(&holder, "/any/x").refused(429, "quota_exceeded");
    gateway.wait(Duration::from_secs(1));
    assert_eq!(gateway.get_as(&holder, "/any/x").status, 200);
}

#[test]
fn a_changed_tier_carries_consumption_over() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("standard"));
    let holder = gateway.key(&machine, NewKey::default());
    let to = |tier: &str| {
        let edit = MachineEdit { tier: Some(TierName::parse(tier)), ..MachineEdit::default() };
        gateway.commit(Change::EditMachine(machine.id, edit)).unwrap();
    };
    for _ in 0..50 {
        assert_eq!(gateway.get_as(&holder, "/any/x").status, 200);
    }
    to("free");
    let left = (0..60).take_while(|_| gateway.get_as(&holder, "/any/x").status == 200).count();
    assert_eq!(left, 10, "60 a minute, of which 50 are used");
    to("premium");
    assert_eq!(gateway.get_as(&holder, "/any/x").status, 200, "the difference at once");
    to("free");
    gateway.get_as(&holder, "/any/x").refused(429, "rate_limited");
}

#[test]
fn what_the_gateway_takes_from_nobody_is_not_counted_either() {
    let upstream = Upstream::plain();
    let settings = crate::support::gateway::settings(upstream.address).replace("head_size: 16KiB", "head_size: 16KiB, body_size: 1KiB")
        + "underscore_headers: refuse\n";
    let gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
    let machine = gateway.machine("caller", &["admin"], Some("free"));
    let holder = gateway.key(&machine, NewKey::default());
    let bearer = format!("Bearer {}", holder.value);
    for (extra, status) in [("Expect: junk", 417), ("X_A: b", 400), ("Content-Length: 2000", 413)] {
        let mut connection = gateway.connect();
        // Refused, and still known to be this key's.
        connection.send(format!("POST /any/x HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\n{extra}\r\n\r\n"));
        assert_eq!(connection.answer().status, status, "{extra}");
    }
    assert!(gateway.log_lines(3).iter().all(|line| line["key.id"] == holder.key.id.to_string()));
    assert!(gateway.get_as(&holder, "/any/x").header("ratelimit").unwrap().starts_with("\"minute\";r=59"));
}
