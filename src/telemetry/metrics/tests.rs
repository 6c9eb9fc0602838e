use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::Method;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::*;
use crate::model::call::{ClientIp, PeerIp, Record, RequestId};
use crate::model::{Code, Moment, Tick};

fn record() -> Record {
    let at = |nanos| Moment { tick: Tick(nanos), wall: Timestamp(0) };
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Record {
        id: RequestId::from_u128(1),
        began: at(1_000),
        ended: at(1_000 + 3_000_000),
        peer: PeerIp(ip),
        client: ClientIp(ip),
        method: Method::GET,
        route: Some(0),
        caller: None,
        admitted: true,
        verdict: Verdict::Ok,
        status: 200,
        received: 5,
        sent: 7,
        upstream: Some(Duration::from_millis(2)),
    }
}

fn metrics() -> Arc<Metrics> {
    Metrics::new(vec!["sensors".into(), "status".into()], &Clock::manual(Timestamp(1_800_000_000_000)))
}

/// The sum over all series of `name` whose labels contain `with`.
fn sum(text: &str, name: &str, with: &str) -> f64 {
    let lines = text.lines().filter(|line| {
        let series = line.split(' ').next().unwrap_or_default();
        series.split('{').next() == Some(name) && series.contains(with)
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn names_types_and_help_are_as_published() {
    let metrics = metrics();
    metrics.worker().observe(&record());
    let text: Vec<_> = metrics.text().lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert_eq!(text.concat(), include_str!("../../../tests/golden/metrics.txt"));
}

#[test]
fn one_call_is_seen_from_every_side() {
    let metrics = metrics();
    metrics.worker().observe(&record());
    let text = metrics.text();
    for line in [
        r#"octroi_requests_total{route="sensors",method="GET",status="200"} 1"#,
        r#"octroi_decisions_total{route="sensors",verdict="ok"} 1"#,
        r#"octroi_request_duration_seconds_bucket{route="sensors",le="0.0025"} 0"#,
        r#"octroi_request_duration_seconds_bucket{route="sensors",le="0.005"} 1"#,
        r#"octroi_request_duration_seconds_sum{route="sensors"} 0.003"#,
        r#"octroi_upstream_duration_seconds_bucket{route="sensors",le="+Inf"} 1"#,
        r#"octroi_upstream_duration_seconds_bucket{route="sensors",le="0.0025"} 1"#,
        r#"octroi_overhead_seconds_sum 0.001"#,
        r#"octroi_overhead_seconds_bucket{le="0.00001"} 0"#,
        r#"octroi_request_bytes_total{route="sensors"} 5"#,
        r#"octroi_response_bytes_total{route="sensors"} 7"#,
        r#"process_start_time_seconds 1800000000"#,
        &format!(r#"octroi_build_info{{version="{}"}} 1"#, env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nin\n{text}");
    }
}

#[test]
fn every_verdict_has_its_series() {
    let (metrics, count) = (metrics(), Verdict::COUNT);
    let worker = metrics.worker();
    for verdict in (0..count).filter_map(Verdict::from_index) {
        worker.observe(&Record { verdict, route: None, upstream: None, ..record() });
    }
    let text = metrics.text();
    for verdict in (0..count).filter_map(Verdict::from_index) {
        assert!(text.contains(&format!("octroi_decisions_total{{route=\"-\",verdict=\"{}\"}} 1", verdict.as_str())));
    }
    assert!(!text.contains("octroi_overhead_seconds"), "calls that never reached an upstream have no overhead");
}

#[test]
fn t243_the_sums_are_those_of_the_calls_over_workers_and_reloads() {
    let metrics = metrics();
    let mut runner = TestRunner::deterministic();
    let methods = ["GET", "POST", "get", "BREW", "PROPFIND"];
    let calls = (0usize..5, 0u16..700, 0usize..4, 0u64..1_000, proptest::option::of(0u64..20_000_000_000), 0..Verdict::COUNT);
    let (mut workers, mut count, mut received, mut forwarded) = (vec![metrics.worker(), metrics.worker()], 0, 0, 0);
    let mut refused = 0;
    for n in 0..10_000 {
        let (method, status, route, bytes, upstream, verdict) = calls.new_tree(&mut runner).unwrap().current();
        let verdict = Verdict::from_index(verdict).unwrap();
        let method = Method::from_bytes(methods[method].as_bytes()).unwrap();
        let route = (route < 3).then_some(route);
        let upstream = upstream.map(Duration::from_nanos);
        workers[n % 2].observe(&Record { method, status, route, verdict, received: bytes, upstream, ..record() });
        count += 1;
        received += bytes;
        forwarded += u64::from(upstream.is_some());
        refused += u64::from(verdict == Verdict::Refused(Code::KeyUnknown));
        if n % 1_000 == 500 {
            // Settings change: one worker follows at once, the other later.
            metrics.set_routes(vec![format!("route{n}"), "sensors".into()]);
            workers[n / 1_000 % 2] = metrics.worker();
        }
    }
    let text = metrics.text();
    for (name, with, expected) in [
        ("octroi_requests_total", "", count),
        ("octroi_decisions_total", "", count),
        ("octroi_decisions_total", "verdict=\"key_unknown\"", refused),
        ("octroi_request_duration_seconds_count", "", count),
        ("octroi_request_duration_seconds_bucket", "le=\"+Inf\"", count),
        ("octroi_upstream_duration_seconds_count", "", forwarded),
        ("octroi_overhead_seconds_count", "", forwarded),
        ("octroi_request_bytes_total", "", received),
        ("octroi_response_bytes_total", "", 7 * count),
    ] {
        assert_eq!(sum(&text, name, with), expected as f64, "{name} {with}");
    }
    drop(workers);
    assert_eq!(metrics.text(), text, "what a worker counted outlives it");
}

#[test]
fn t241_the_number_of_series_does_not_grow_with_what_clients_invent() {
    let metrics = metrics();
    let worker = metrics.worker();
    for n in 0..20_000u32 {
        let method = Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
        worker.observe(&Record { method, status: (n % 1_000) as u16, route: Some(n as usize), ..record() });
    }
    let series = metrics.text().lines().filter(|line| line.starts_with("octroi_requests_total")).count();
    assert_eq!(series, STATUS_COUNT + 2, "under no route all statuses, and one call under the second route and the first each");
}

#[test]
fn other_rooms_register_what_is_read_at_a_scrape() {
    let metrics = metrics();
    metrics.gauge("octroi_connections", "Open connections", || 3.0).unwrap();
    for (kind, value) in [("dropped", 1.0), ("written", 2.0)] {
        metrics.counter("octroi_access_log_lines_total", "Lines", &[("fate", kind)], move || value).unwrap();
    }
    let text = metrics.text();
    for line in [
        "# TYPE octroi_connections gauge",
        "octroi_connections 3",
        "# TYPE octroi_access_log_lines_total counter",
        "octroi_access_log_lines_total{fate=\"dropped\"} 1",
        "octroi_access_log_lines_total{fate=\"written\"} 2",
    ] {
        assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{line}\nin\n{text}");
    }
    for (name, labels) in [
        ("octroi_requests_total", vec![]),
        ("octroi_connections", vec![]),
        ("no spaces", vec![]),
        ("octroi_access_log_lines_total", vec![("fate", "dropped")]),
        ("octroi_x", vec![("bad label", "")]),
    ] {
        let error = metrics.counter(name, "Open connections", &labels, || 0.0).unwrap_err();
        assert!(error.to_string().starts_with(&format!("metric {name}: ")), "{error}");
    }
}
