//! Usage is the truth: every call is counted once, wherever one looks, and what was counted survives restarts and crashes.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use octroi::model::BucketOwner;
use octroi::model::{CalendarCounters, KeyId, MachineId};
use octroi::usage::Usage;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::admin::{labelled, text};
use crate::support::client::{Connection, eventually};
use crate::support::program::Program;
use crate::support::{Admin, Gateway, Reply, Upstream, gateway};

fn usage_of(admin: &Admin, key: &Value) -> Value {
    admin.get(&format!("/v1/keys/{}/usage", text(&key["id"])))
}

/// Waits for what workers note after their answer has left.
fn eventually_total(admin: &Admin, key: &Value, total: u64) -> Value {
    eventually("the calls in the usage", || Some(usage_of(admin, key)).filter(|usage| usage["calls"]["total"] == total))
}

fn call(to: SocketAddr, target: &str, key: &Value) -> u16 {
    Connection::open(to).get(target, &[("X-API-Key", key["secret"].as_str().unwrap())]).status
}

/// What a start would find in the usage log as it is now: opened as a copy, since the gateway goes on writing.
fn persisted(store: &Path) -> (Usage, HashMap<BucketOwner, CalendarCounters>) {
    let copy = tempfile::tempdir().unwrap();
    let log = std::fs::read(store.join("usage/usage.log")).unwrap_or_default();
    std::fs::write(copy.path().join("usage.log"), log).unwrap();
    let (usage, restored) = Usage::open(copy.path()).unwrap();
    (usage, restored.counters)
}

#[test]
fn calls_and_last_use_survive_a_restart() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let (busy, idle) = (admin.key(&machine, labelled("prod - busy v1")), admin.key(&machine, labelled("prod - idle v1")));
    for expected in [200, 200, 200] {
        assert_eq!(call(gateway.address(), "/v1/sensors", &busy), expected);
    }
    assert_eq!(call(gateway.address(), "/orgs/o1/x", &busy), 200);
    assert_eq!(Connection::open(gateway.address()).get("/v1/sensors", &[]).status, 401);
    let put = |gateway: &Gateway| {
        let mut connection = gateway.connect();
        connection.request("PUT", "/v1/sensors/1/config", &[("X-API-Key", busy["secret"].as_str().unwrap())], Some(b"x"));
        connection.answer().refused(403, "permission_denied");
    };
    put(&gateway);
    let before = eventually_total(&admin, &busy, 5);
    assert_eq!(before["calls"]["by_verdict"], json!({"ok": 4, "permission_denied": 1}));
    let noon = json!(gateway::NOON.to_string());
    assert_eq!((&before["last_used_at"], &before["last_used_ip"], &before["last_refused_at"]), (&noon, &json!("127.0.0.1"), &noon));
    gateway.restart();
    assert_eq!(usage_of(&admin, &busy), before, "as it was");
    let unused = usage_of(&admin, &idle);
    assert_eq!((&unused["calls"], &unused["last_used_at"]), (&json!({"total": 0, "by_verdict": {}}), &Value::Null));
    put(&gateway);
    eventually_total(&admin, &busy, 6);
    gateway.restart();
    assert_eq!(usage_of(&admin, &busy)["calls"], json!({"total": 6, "by_verdict": {"ok": 4, "permission_denied": 2}}));
    gateway.stop();
    let (kept, _) = persisted(&gateway.dir().join("data"));
    assert_eq!(kept.without_key().total(), 1);
}

/// A gateway as a process, whose key may be used so often a day.
struct Crashing {
    dir: tempfile::TempDir,
    file: PathBuf,
    admin: Admin,
}

impl Crashing {
    fn before(upstream: &Upstream, per_day: u32) -> Crashing {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("octroi.yaml");
        let tier = format!("free: {{per_day: {per_day}}}");
        let settings = gateway::settings(upstream.address).replace("free: {per_minute: 60, per_day: 10000}", &tier);
        std::fs::write(&file, format!("{settings}limits: {{timezone: {}}}\n", where_it_is_noon())).unwrap();
        let admin = Admin::at(dir.path().join("data/admin.sock"));
        Crashing { dir, file, admin }
    }

    fn start(&self) -> (Program, SocketAddr) {
        Program::serving(&self.file)
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What stands on the disk: calls in the key's usage, and calls in the machine's counter of the day.
    fn persisted(&self, machine: &Value, key: &Value) -> (u64, u64) {
        let (usage, counters) = persisted(&self.store());
        let owner = BucketOwner::Machine(text(&machine["id"]).parse::<MachineId>().unwrap());
        (usage.of_key(id_of(key)).calls.total(), counters.get(&owner).map_or(0, |counters| counters.day.used.into()))
    }
}

fn id_of(key: &Value) -> KeyId {
    text(&key["id"]).parse().unwrap()
}

/// A time zone in which no day ends while a test runs.
fn where_it_is_noon() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let hour = (seconds / 3_600 % 24) as i64;
    // The signs in these names are those of POSIX: west is positive.
    match hour - 12 {
        0 => "Etc/GMT".into(),
        west => format!("Etc/GMT{west:+}"),
    }
}

#[test]
fn a_crash_loses_of_usage_only_what_was_not_flushed_and_of_counters_no_more() {
    const QUOTA: u32 = 40;
    let upstream = Upstream::plain();
    let place = Crashing::before(&upstream, QUOTA);
    let (mut program, mut address) = place.start();
    let machine = place.admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = place.admin.key(&machine, labelled("prod - billing v1"));
    // What is known to be kept, and what can be at most.
    let (mut least, mut most) = (0u64, 0u64);
    for round in 0..4 {
        for _ in 0..5 {
            assert_eq!(call(address, "/v1/sensors", &key), 200);
            most += 1;
        }
        least = eventually("a flush", || {
            let (total, used) = place.persisted(&machine, &key);
            assert!(total.max(used) <= most, "{total} and {used} of {most}");
            let flushed = total.min(used);
            (flushed >= least + 5).then_some(flushed)
        });
        for _ in 0..2 {
            assert_eq!(call(address, "/v1/sensors", &key), 200);
            most += 1;
        }
        program.kill();
        let (total, used) = place.persisted(&machine, &key);
        assert!((least..=most).contains(&used), "round {round}: {used} of {least} to {most}");
        (program, address) = place.start();
        let usage = usage_of(&place.admin, &key);
        assert_eq!(usage["calls"], json!({"total": total, "by_verdict": {"ok": total}}), "round {round}");
        assert!((least..=most).contains(&total), "round {round}: {total} of {least} to {most}");
        assert_eq!((&usage["last_used_ip"], usage["last_used_at"].is_string()), (&json!("127.0.0.1"), true));
        // From here on both are exact again.
        (least, most) = (total.min(used), total.max(used));
    }
    let mut admitted = 0;
    let refused = loop {
        let answer = Connection::open(address).get("/v1/sensors", &[("X-API-Key", key["secret"].as_str().unwrap())]);
        if answer.status != 200 {
            break answer;
        }
        admitted += 1;
    };
    refused.refused(429, "quota_exceeded");
    let left = u64::from(QUOTA) - most..=u64::from(QUOTA) - least;
    assert!(left.contains(&admitted), "{admitted} were let in, not one of {left:?}: never from full");
    program.signal(Signal::TERM);
    assert_eq!(program.end().code, Some(0));
}

/// Sums of a metric by the value of one label.
fn counted(metrics: &str, name: &str, label: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with(&format!("{name}{{"))) {
        let value = line.split(&format!("{label}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let count = line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64;
        if count > 0 {
            *sums.entry(value.to_owned()).or_default() += count;
        }
    }
    sums
}

#[test]
fn t243_keys_and_the_keyless_add_up_to_the_counter_and_the_log() {
    let upstream = Upstream::answering(|request| match request.line.contains("broken") {
        true => Reply::ThenClose(Vec::new()),
        false => Reply::ok("hello"),
    });
    let mut gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"], "tier": "premium"}));
    let key = |label: &str, tier: Option<&str>| admin.key(&machine, json!({"label": label, "tier": tier}));
    let (plain, limited, off, gone) =
        (key("prod - plain v1", None), key("prod - limited v1", Some("free")), key("prod - off v1", None), key("prod - gone v1", None));
    let keys = [&plain, &limited, &off, &gone];
    assert_eq!(call(gateway.address(), "/v1/sensors", &gone), 200);
    admin.done("POST", &format!("/v1/keys/{}/deactivate", text(&off["id"])), json!({}));
    admin.done("DELETE", &format!("/v1/keys/{}", text(&gone["id"])), json!({}));
    const ROUNDS: usize = 40;
    const CLIENTS: usize = 3;
    let one_round = |round: usize| {
        let get = |target: &str, key: Option<&str>| {
            let headers: Vec<(&str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
            gateway.get(target, &headers)
        };
        let value = |key: &Value| key["secret"].as_str().unwrap().to_owned();
        get("/v1/sensors", Some(&value(&plain)));
        get("/v1/sensors", Some(&value(&limited)));
        get("/v1/sensors", Some(&value(&off)));
        get("/any/broken", Some(&value(&plain)));
        get("/orgs/o/x", Some(&value(&plain)));
        get("/status/x", None);
        get("/nowhere", Some(&value(&plain)));
        get("/v1//sensors", Some(&value(&plain)));
        get("/v1/sensors", None);
        get("/v1/sensors", Some(&value(&gone)));
        get("/v1/sensors", Some("pk_prod_x"));
        let mut raw = gateway.connect();
        raw.send(if round.is_multiple_of(2) { "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" } else { "GET /\r\n\r\n" });
        assert_eq!(raw.answer().status, 400);
    };
    std::thread::scope(|scope| (0..CLIENTS).for_each(|_| drop(scope.spawn(|| (0..ROUNDS).for_each(one_round)))));
    let calls = CLIENTS * ROUNDS * 12 + 1;

    let lines = gateway.log_lines(calls);
    assert_eq!(lines.len(), calls, "one line for each call");
    let mut logged = BTreeMap::<String, u64>::new();
    let mut logged_of = BTreeMap::<String, BTreeMap<String, u64>>::new();
    for line in &lines {
        let verdict = text(&line["verdict"]);
        *logged.entry(verdict.clone()).or_default() += 1;
        let owner = line["key.id"].as_str().or(line["key"]["id"].as_str()).unwrap_or_default().to_owned();
        *logged_of.entry(owner).or_default().entry(verdict).or_default() += 1;
    }
    let metrics = gateway.metrics();
    let requests: u64 = counted(&metrics, "octroi_requests_total", "status").values().sum();
    assert_eq!(requests, calls as u64, "the counter of requests");
    assert_eq!(counted(&metrics, "octroi_decisions_total", "verdict"), logged, "the counter of decisions");
    for key in [&plain, &limited, &off] {
        let usage = usage_of(&admin, key);
        assert_eq!(json!(logged_of[&text(&key["id"])]), usage["calls"]["by_verdict"], "{}", key["label"]);
    }
    gateway.stop();

    let (kept, _) = persisted(&gateway.dir().join("data"));
    let sum: u64 = keys.iter().map(|key| kept.of_key(id_of(key)).calls.total()).sum();
    assert_eq!(sum + kept.without_key().total(), calls as u64, "keys, a deleted one included, and calls without a key");
    let in_words = |counts: &octroi::usage::VerdictCounts| -> BTreeMap<String, u64> {
        counts.iter().filter(|(_, count)| *count > 0).map(|(verdict, count)| (verdict.as_str().to_owned(), count)).collect()
    };
    assert_eq!(in_words(&kept.totals()), logged, "verdict by verdict");
    assert_eq!(in_words(&kept.without_key()), logged_of[""]);
    for verdict in ["ok", "key_inactive", "key_missing", "key_unknown", "key_malformed", "rate_limited", "route_not_found", "bad_request"] {
        assert!(logged.contains_key(verdict), "{verdict} occurred: {logged:?}");
    }
}
