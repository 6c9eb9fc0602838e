//! Keys in full: what is known of each of their values, what becomes of those that nobody uses, and many of them at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use octroi::clock::Clock;
use serde_json::{Value, json};

use crate::support::admin::{labelled, text};
use crate::support::client::{Answer, Connection, eventually};
use crate::support::gateway::NOON;
use crate::support::program::{Ran, octroi, run};
use crate::support::{Admin, Gateway, Reply, Upstream, gateway};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn url(key: &Value) -> String {
    format!("/v1/keys/{}", text(&key["id"]))
}

fn call(to: SocketAddr, value: &Value) -> Answer {
    Connection::open(to).get("/v1/sensors", &[("X-API-Key", value.as_str().unwrap())])
}

/// Once more where the connection was taken in by the time before the clock was moved, and so ended before it began.
fn call_anew(to: SocketAddr, value: &Value) -> Answer {
    let attempt = || {
        let mut connection = Connection::open(to);
        connection.request("GET", "/v1/sensors", &[("X-API-Key", value.as_str().unwrap())], None);
        connection.try_answer_to("GET")
    };
    std::iter::repeat_with(attempt).take(5).flatten().next().unwrap()
}

fn caller(admin: &Admin) -> Value {
    admin.machine(json!({"name": "caller", "permissions": ["sensors:read"], "tier": "unmetered"}))
}

/// Runs a command against one gateway's socket, in its folder.
fn shell(gateway: &Gateway, args: &[&str]) -> Ran {
    let socket = Admin::of(gateway).socket().to_owned();
    run(octroi(gateway.dir(), &[args, &["--socket", socket.to_str().unwrap()]].concat()))
}

// --- values ------------------------------------------------------------------------------------------------------------------

#[test]
fn each_value_in_grace_has_its_own_last_use_and_the_old_one_is_told_to_be_safe_to_end() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let key = admin.key(&machine, labelled("prod - billing v1"));
    assert_eq!(call(gateway.address(), &key["secret"]).status, 200);
    gateway.wait(HOUR);
    let made = admin.done("POST", &format!("{}/regenerate", url(&key)), json!({"grace": "7d"}));
    let shown = |admin: &Admin| admin.get(&url(&key));
    let old = eventually("the first call", || Some(shown(&admin)["old_values"][0].clone()).filter(|old| !old["last_used_at"].is_null()));
    assert_eq!((&old["last_used_at"], &old["last_used_ip"]), (&json!(NOON.to_string()), &json!("127.0.0.1")));
    assert_eq!((&old["counts"], &old["safe_to_end"]), (&json!(true), &json!(false)));
    assert_eq!(shown(&admin)["value_last_used_at"], Value::Null, "the new value was not used yet");

    gateway.wait(2 * DAY);
    assert_eq!(shown(&admin)["old_values"][0]["safe_to_end"], json!(false), "nobody has shown to have the new value");
    assert_eq!(call(gateway.address(), &key["secret"]).status, 200);
    gateway.wait(HOUR);
    assert_eq!(call(gateway.address(), &made["secret"]).status, 200);
    let used_old = NOON.plus(HOUR + 2 * DAY).to_string();
    let used_new = NOON.plus(2 * HOUR + 2 * DAY).to_string();
    for round in ["live", "after a restart"] {
        let both = eventually("both calls", || Some(shown(&admin)).filter(|key| key["value_last_used_at"] == json!(used_new)));
        assert_eq!(both["old_values"][0]["last_used_at"], json!(used_old), "{round}");
        assert_eq!((&both["last_used_at"], &both["value_last_used_ip"]), (&json!(used_new), &json!("127.0.0.1")), "{round}");
        assert_eq!(both["old_values"][0]["safe_to_end"], json!(false), "{round}: an hour ago is no silence");
        gateway.restart();
    }
    gateway.wait(DAY);
    assert_eq!(shown(&admin)["old_values"][0]["safe_to_end"], json!(true));
    let list = shell(&gateway, &["key", "list"]);
    assert!(list.done().contains("old value last used ") && list.out.contains(", safe to end"), "{list:?}");
    assert!(shell(&gateway, &["key", "show", "prod - billing v1"]).done().contains(", safe to end"));

    assert_eq!(call(gateway.address(), &key["secret"]).status, 200);
    shell(&gateway, &["key", "end-grace", "prod - billing v1"]).done();
    call(gateway.address(), &key["secret"]).refused(401, "key_replaced");
    assert_eq!(call(gateway.address(), &made["secret"]).status, 200);
    assert_eq!(shown(&admin)["old_values"][0]["counts"], json!(false));
    assert_eq!(admin.get("/v1/journal?limit=1")["data"][0]["what"], json!("key.grace_ended"));
    gateway.clock.step_wall(-86_400_000);
    gateway.restart();
    call(gateway.address(), &key["secret"]).refused(401, "key_replaced");
    // Once more is fine, and nothing happens.
    let seq = admin.get("/v1/journal?limit=1")["data"][0]["seq"].clone();
    admin.done("POST", &format!("{}/end-grace", url(&key)), json!({}));
    assert_eq!(admin.get("/v1/journal?limit=1")["data"][0]["seq"], seq);
}

#[test]
fn what_calls_move_in_old_values_is_no_conflict_and_the_rest_of_them_is() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let key = admin.key(&caller(&admin), labelled("prod - billing v1"));
    admin.done("POST", &format!("{}/regenerate", url(&key)), json!({"grace": "1d"}));
    let mut shown = admin.get(&url(&key));
    shown["old_values"][0]["last_used_at"] = json!("2020-01-01T00:00:00.000Z");
    shown["idle_since"] = json!("2020-01-01T00:00:00.000Z");
    admin.done("PATCH", &url(&key), shown.clone());
    shown["old_values"][0]["counts_until"] = json!("2020-01-01T00:00:00.000Z");
    assert_eq!(admin.faults("PATCH", &url(&key), shown), ["/old_values"]);
}

// --- what binds the very next request ----------------------------------------------------------------------------------------

#[test]
fn t048_a_disabled_machine_stops_all_its_keys_at_once_and_brings_them_back_as_they_were() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let keys: Vec<Value> = (0..20).map(|n| admin.key(&machine, labelled(&format!("prod - part {n}")))).collect();
    let other = admin.machine(json!({"name": "other", "permissions": ["sensors:read"]}));
    let other = admin.key(&other, labelled("prod - other v1"));
    admin.done("POST", &format!("{}/deactivate", url(&keys[0])), json!({}));
    admin.done("POST", &format!("{}/revoke", url(&keys[1])), json!({}));
    let mut connections: Vec<Connection> = keys.iter().map(|_| gateway.connect()).collect();
    let mut codes = || -> Vec<String> {
        let each = keys.iter().zip(&mut connections).map(|(key, connection)| {
            let answer = connection.get("/v1/sensors", &[("X-API-Key", key["secret"].as_str().unwrap())]);
            if answer.status == 200 { String::new() } else { answer.code() }
        });
        each.collect()
    };
    let mut as_they_were = vec![String::new(); keys.len()];
    as_they_were[0] = "key_inactive".into();
    as_they_were[1] = "key_revoked".into();
    let mut stopped = vec!["machine_disabled".to_owned(); keys.len()];
    stopped[..2].clone_from_slice(&as_they_were[..2]);
    for _ in 0..20 {
        assert_eq!(codes(), as_they_were);
        shell(&gateway, &["machine", "disable", "caller"]).done();
        assert_eq!(codes(), stopped);
        assert_eq!(call(gateway.address(), &other["secret"]).status, 200);
        admin.done("POST", &format!("/v1/machines/{}/enable", text(&machine["id"])), json!({}));
    }
    assert_eq!(codes(), as_they_were);
}

#[test]
fn every_field_of_a_key_is_kept_shown_and_judged() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = admin.machine(json!({"name": "caller", "permissions": ["admin"]}));
    let asked = json!({
        "label": "staging - billing v2", "description": "two\nlines", "environment": "staging", "permissions": ["sensors:read", "config:write"],
        "organizations": ["acme"], "tier": "premium", "allowed_ips": ["127.0.0.0/8"], "expires_at": "2030-01-01T00:00:00.000Z",
    });
    let key = admin.key(&machine, asked.clone());
    for _ in 0..2 {
        let shown = admin.get(&url(&key));
        for (name, value) in asked.as_object().unwrap() {
            let sorted = |value: &Value| {
                let mut value = value.clone();
                value.as_array_mut().into_iter().for_each(|list| list.sort_by_key(Value::to_string));
                value
            };
            assert_eq!(sorted(&shown[name]), sorted(value), "{name}");
        }
        assert!(text(&shown["created_by"]).starts_with("socket:"), "{shown}");
        let hint = text(&shown["hint"]);
        assert!(hint.starts_with("pk_staging_") && hint.ends_with(&text(&key["secret"])[text(&key["secret"]).len() - 4..]), "{hint}");
        assert_eq!((&shown["status"], &shown["exposed_at"]), (&json!("active"), &Value::Null));
        gateway.restart();
    }
    let to = gateway.address();
    let status = |target: &str| Connection::open(to).get(target, &[("X-API-Key", key["secret"].as_str().unwrap())]);
    assert_eq!(status("/orgs/acme/x").status, 200);
    status("/orgs/other/x").refused(403, "organization_denied");
    let edit = |body: Value| admin.done("PATCH", &url(&key), body);
    edit(json!({"expires_at": "2020-01-01T00:00:00Z"}));
    status("/orgs/acme/x").refused(401, "key_expired");
    edit(json!({"expires_in": "1d"}));
    assert_eq!(status("/orgs/acme/x").status, 200, "moving the date revives it");
    eventually("the refusal", || Some(admin.get(&url(&key))).filter(|shown| !shown["last_refused_at"].is_null()));

    admin.done("POST", &format!("{}/revoke", url(&key)), json!({}));
    admin.done("POST", &format!("{}/revoke", url(&key)), json!({}));
    for verb in ["reactivate", "deactivate", "regenerate", "end-grace"] {
        admin.ask("POST", &format!("{}/{verb}", url(&key)), Some(&json!({}))).refused(409, "conflict");
    }
    for (name, value) in
        asked.as_object().unwrap().iter().filter(|(name, _)| !["label", "description", "environment"].contains(&name.as_str()))
    {
        admin.ask("PATCH", &url(&key), Some(&json!({name.as_str(): value}))).refused(409, "conflict");
    }
    edit(json!({"label": "staging - retired v2", "description": ""}));
    admin.done("DELETE", &url(&key), Value::Null);
    admin.ask("GET", &url(&key), None).refused(404, "not_found");
    status("/orgs/acme/x").refused(401, "key_unknown");
    assert!(admin.all("/v1/keys", 50).is_empty());
}

#[test]
fn t005_an_empty_label_is_no_label_and_an_empty_value_no_key() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let keys = format!("/v1/machines/{}/keys", text(&machine["id"]));
    for label in ["", " ", "\t", "\u{a0}"] {
        assert_eq!(admin.faults("POST", &keys, json!({"label": label})), ["/label"], "{label:?}");
    }
    assert_eq!(admin.faults("POST", &keys, json!({"label": "prod - x v1", "key": "", "secret": ""})), ["/key", "/secret"]);
    for (header, value, code) in
        [("X-API-Key", "", "key_missing"), ("Authorization", "Bearer", "key_malformed"), ("Authorization", "Bearer ", "key_malformed")]
    {
        gateway.get("/v1/sensors", &[(header, value)]).refused(401, code);
    }
}

// --- idle keys ---------------------------------------------------------------------------------------------------------------

fn with_idle_keys(upstream: &Upstream, keys: &str) -> Gateway {
    Gateway::with(format!("{}keys: {keys}\n", gateway::settings(upstream.address)), Clock::manual(NOON))
}

fn labels(keys: &[Value]) -> Vec<String> {
    let mut labels: Vec<String> = keys.iter().map(|key| text(&key["label"])).collect();
    labels.sort();
    labels
}

fn status(admin: &Admin, key: &Value) -> String {
    text(&admin.get(&url(key))["status"])
}

fn eventually_idle(gateway: &Gateway, count: usize) {
    eventually("the gauge", || gateway.metrics().lines().any(|line| line == format!("octroi_keys_idle {count}")).then_some(()));
}

#[test]
fn idle_keys_are_shown_then_deactivated_by_the_gateway_and_come_back_with_a_fresh_period() {
    let upstream = Upstream::plain();
    let mut gateway = with_idle_keys(&upstream, "{warn_idle_after: 60d, deactivate_idle_after: 90d}");
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let make = |label: &str| admin.key(&machine, labelled(label));
    let (idle, busy, rotated, stopped) =
        (make("prod - idle v1"), make("prod - busy v1"), make("prod - rotated v1"), make("prod - stopped v1"));
    admin.done("POST", &format!("{}/deactivate", url(&stopped)), json!({}));
    gateway.wait(59 * DAY);
    assert_eq!(call(gateway.address(), &busy["secret"]).status, 200);
    let rotated_value = admin.done("POST", &format!("{}/regenerate", url(&rotated)), json!({}))["secret"].clone();
    assert_eq!(admin.get("/v1/keys?idle=true")["data"], json!([]));
    gateway.wait(DAY);
    assert_eq!(labels(&admin.all("/v1/keys?idle=true", 50)), ["prod - idle v1"]);
    assert_eq!(labels(&admin.all("/v1/keys?idle=false", 50)), ["prod - busy v1", "prod - rotated v1", "prod - stopped v1"]);
    let shown = admin.get(&url(&idle));
    assert_eq!((&shown["idle"], &shown["idle_since"]), (&json!(true), &json!(NOON.to_string())));
    eventually_idle(&gateway, 1);
    let listed = shell(&gateway, &["key", "list", "--idle"]);
    assert!(listed.done().contains("idle since ") && !listed.out.contains("prod - busy v1"), "{listed:?}");

    gateway.wait(30 * DAY);
    eventually("the deactivation", || (status(&admin, &idle) == "inactive").then_some(()));
    call(gateway.address(), &idle["secret"]).refused(401, "key_inactive");
    let line = admin.get("/v1/journal?limit=1")["data"][0].clone();
    assert_eq!((&line["what"], &line["actor"], &line["subject"]), (&json!("key.deactivated"), &json!("gateway"), &idle["id"]));
    assert!(text(&line["reason"]).contains("90 days"), "{line}");
    assert_eq!((status(&admin, &busy), status(&admin, &rotated)), ("active".into(), "active".into()));
    assert_eq!(call(gateway.address(), &rotated_value).status, 200);

    admin.done("POST", &format!("{}/reactivate", url(&idle)), json!({}));
    gateway.restart();
    eventually_idle(&gateway, 0);
    assert_eq!(call(gateway.address(), &idle["secret"]).status, 200, "the same value, and a fresh period");
}

#[test]
fn nothing_happens_to_idle_keys_unless_it_is_set() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let key = admin.key(&caller(&admin), labelled("prod - idle v1"));
    gateway.wait(4_000 * DAY);
    gateway.restart();
    assert_eq!(call(gateway.address(), &key["secret"]).status, 200);
    assert_eq!((&admin.get(&url(&key))["idle"], admin.get("/v1/keys?idle=true")["data"].clone()), (&json!(false), json!([])));
}

/// A gateway whose calls hang after their first byte. No deadline of a call itself ends it within a day.
fn with_open_calls(keys: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::answering(|_| Reply::ThenHang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx".to_vec()));
    let settings = gateway::settings(upstream.address).replace("idle: 2s", "idle: 1d").replace("write: 2s", "write: 1d");
    let gateway = Gateway::with(format!("{settings}keys: {keys}\n"), Clock::manual(NOON));
    (upstream, gateway)
}

fn open_call(gateway: &Gateway, value: &Value) -> Connection {
    let mut connection = gateway.connect();
    connection.request("GET", "/v1/sensors", &[("X-API-Key", value.as_str().unwrap())], None);
    assert!(connection.head().is_some_and(|head| head.contains("200")));
    connection
}

#[test]
fn a_key_whose_call_is_not_over_is_not_idle_whatever_was_edited_since() {
    let (_upstream, gateway) = with_open_calls("{deactivate_idle_after: 1d}");
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let make = |label: &str| admin.key(&machine, labelled(label));
    let (open, edited, idle) = (make("prod - open v1"), make("prod - edited v1"), make("prod - idle v1"));
    let _calls = [open_call(&gateway, &open["secret"]), open_call(&gateway, &edited["secret"])];
    admin.done("PATCH", &url(&edited), json!({"label": "prod - edited v2"}));
    admin.done("PATCH", &url(&edited), json!({"label": "prod - edited v3"}));
    // A day by the wall clock, and not quite one by the deadlines.
    gateway.clock.step_wall(45_000);
    gateway.wait(DAY - Duration::from_secs(30));
    eventually("the deactivation", || (status(&admin, &idle) == "inactive").then_some(()));
    assert_eq!((status(&admin, &open), status(&admin, &edited)), ("active".into(), "active".into()), "their calls are still open");
}

#[test]
fn an_old_value_whose_call_is_not_over_is_not_safe_to_end() {
    let (_upstream, gateway) = with_open_calls("{}");
    let admin = Admin::of(&gateway);
    let key = admin.key(&caller(&admin), labelled("prod - open v1"));
    let made = admin.done("POST", &format!("{}/regenerate", url(&key)), json!({"grace": "30d"}));
    let call = open_call(&gateway, &key["secret"]);
    admin.done("PATCH", &url(&key), json!({"label": "prod - open v2"}));
    drop(open_call(&gateway, &made["secret"]));
    let shown = || admin.get(&url(&key));
    eventually("the call with the new value", || (!shown()["value_last_used_at"].is_null()).then_some(()));
    gateway.clock.step_wall(2 * 86_400_000);
    assert_eq!(shown()["old_values"][0]["safe_to_end"], json!(false));
    drop(call);
    eventually("the end of the call", || (shown()["old_values"][0]["safe_to_end"] == json!(true)).then_some(()));
}

/// Time goes by until the gateway has looked and found this key idle.
fn eventually_deactivated(gateway: &Gateway, admin: &Admin, key: &Value) {
    eventually("the deactivation", || {
        gateway.wait(HOUR / 4);
        (status(admin, key) == "inactive").then_some(())
    });
}

#[test]
fn time_that_nobody_watched_makes_no_key_idle() {
    let upstream = Upstream::plain();
    for (story, is_off) in [("the wall clock leaps", false), ("the gateway is off", true)] {
        let mut gateway = with_idle_keys(&upstream, "{deactivate_idle_after: 90d}");
        let admin = Admin::of(&gateway);
        let machine = caller(&admin);
        let idle = admin.key(&machine, labelled("prod - idle v1"));
        gateway.wait(80 * DAY);
        let (busy, made) = (admin.key(&machine, labelled("prod - busy v1")), admin.key(&machine, labelled("prod - made v1")));
        assert_eq!(call_anew(gateway.address(), &busy["secret"]).status, 200);
        match is_off {
            true => {
                gateway.stop();
                gateway.clock.advance(100 * DAY);
                gateway.restart();
            }
            false => gateway.clock.step_wall(100 * 86_400_000),
        }
        gateway.wait(9 * DAY);
        gateway.restart();
        eventually_deactivated(&gateway, &admin, &idle);
        assert_eq!((status(&admin, &busy), status(&admin, &made)), ("active".into(), "active".into()), "{story}");
        gateway.wait(80 * DAY);
        eventually_deactivated(&gateway, &admin, &busy);
        eventually_deactivated(&gateway, &admin, &made);
    }
}

#[test]
fn what_nobody_could_use_was_not_left_unused() {
    let upstream = Upstream::plain();
    let gateway = with_idle_keys(&upstream, "{deactivate_idle_after: 90d}");
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let other = admin.machine(json!({"name": "other"}));
    let switch = |what: &str| admin.done("POST", &format!("/v1/machines/{}/{what}", text(&other["id"])), json!({}));
    let expiring = admin.key(&machine, json!({"label": "prod - expiring v1", "expires_in": "30d"}));
    let (first, disabled) = (admin.key(&machine, labelled("prod - first v1")), admin.key(&other, labelled("prod - disabled v1")));
    switch("disable");
    gateway.wait(30 * DAY);
    let second = admin.key(&machine, labelled("prod - second v1"));
    gateway.wait(70 * DAY);
    eventually_deactivated(&gateway, &admin, &first);
    assert_eq!((status(&admin, &expiring), status(&admin, &disabled)), ("expired".into(), "active".into()));
    admin.done("PATCH", &url(&expiring), json!({"expires_in": "365d"}));
    switch("enable");
    gateway.wait(20 * DAY);
    eventually_deactivated(&gateway, &admin, &second);
    assert_eq!((status(&admin, &expiring), status(&admin, &disabled)), ("active".into(), "active".into()));
    gateway.wait(70 * DAY);
    eventually_deactivated(&gateway, &admin, &expiring);
    eventually_deactivated(&gateway, &admin, &disabled);
}

#[test]
fn a_key_that_is_used_at_the_last_moment_is_active_afterwards() {
    let upstream = Upstream::plain();
    let gateway = with_idle_keys(&upstream, "{deactivate_idle_after: 90d}");
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let noise = admin.key(&machine, labelled("prod - noise v1"));
    for round in 0..5 {
        admin.done("POST", &format!("{}/reactivate", url(&noise)), json!({}));
        let keys: Vec<Value> = (0..64).map(|n| admin.key(&machine, labelled(&format!("prod - round {round} part {n}")))).collect();
        let to = gateway.address();
        let over = AtomicBool::new(false);
        let used: Vec<bool> = std::thread::scope(|scope| {
            let callers: Vec<_> = keys
                .chunks(16)
                .map(|keys| {
                    let (over, noise) = (&over, &noise);
                    scope.spawn(move || {
                        while !over.load(Ordering::Acquire) {
                            std::hint::spin_loop();
                        }
                        let let_in = |key: &Value| {
                            // Calls of another key take the time until the gateway looks for idle ones, before, while and after it does.
                            (0..10).for_each(|_| drop(call_anew(to, &noise["secret"])));
                            let answer = call_anew(to, &key["secret"]);
                            answer.status == 200 || answer.code() != "key_inactive"
                        };
                        keys.iter().map(let_in).collect::<Vec<bool>>()
                    })
                })
                .collect();
            gateway.wait(91 * DAY);
            over.store(true, Ordering::Release);
            callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
        });
        for (key, used) in keys.iter().zip(used) {
            let expected = if used { "active" } else { "inactive" };
            eventually(&format!("{expected}, in round {round}"), || (status(&admin, key) == expected).then_some(()));
        }
    }
}

// --- many at once ------------------------------------------------------------------------------------------------------------

fn rows(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write(gateway: &Gateway, name: &str, lines: &[String]) -> PathBuf {
    let path = gateway.dir().join(name);
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

fn line(machine: &str, label: &str) -> String {
    json!({"machine": machine, "label": label}).to_string()
}

#[test]
fn many_keys_are_made_from_a_file_and_a_bad_line_costs_none_of_the_others() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let mut lines: Vec<String> = (1..=1_200).map(|n| line(if n % 2 == 0 { "caller" } else { "" }, &format!("prod - part {n}"))).collect();
    let by_id = text(&machine["id"]);
    lines.iter_mut().step_by(2).for_each(|l| *l = l.replace("\"machine\":\"\"", &format!("\"machine\":\"{by_id}\"")));
    lines[9] = "not JSON".into();
    lines[19] = r#"{"machine":"caller","label":"prod - twice v1","permissions":["config:write"],"permissions":null}"#.into();
    lines[29] = line("nobody", "prod - nobody v1");
    lines[39] = json!({"machine": "caller", "label": "", "tier": "gold", "oops": 1}).to_string();
    lines[49] = String::new();
    lines[59] =
        json!({"machine": "caller", "label": "Clé 1", "environment": "staging", "expires_in": "90d", "reason": "ticket 7"}).to_string();
    let input = write(&gateway, "keys.ndjson", &lines);
    let output = gateway.dir().join("values.ndjson");
    let args = ["key", "create", "--from", input.to_str().unwrap(), "--output-file", output.to_str().unwrap()];
    let ran = shell(&gateway, &[&args[..], &["--reason", "migration"]].concat());
    assert!(ran.failed(1).contains("1195 keys were made, 4 lines were refused") && ran.out.is_empty(), "{ran:?}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);

    let made = rows(&output);
    let of = |number: u64| made.iter().find(|row| row["line"] == number).unwrap_or_else(|| panic!("line {number}"));
    assert_eq!(made.len(), 1_199);
    for (number, code) in [(10, "invalid"), (20, "invalid"), (30, "invalid"), (40, "invalid")] {
        assert_eq!(of(number)["code"], code, "{number}");
    }
    assert_eq!(of(20)["detail"], "/permissions: stands there twice; send it once");
    assert_eq!(of(40)["errors"].as_array().unwrap().len(), 3, "all at once: {}", of(40));
    for number in [1, 2, 500, 501, 1_200] {
        assert_eq!(of(number)["label"], json!(format!("prod - part {number}")));
        assert_eq!(call(gateway.address(), &of(number)["secret"]).status, 200, "{number}");
    }
    assert!(text(&of(60)["secret"]).starts_with("pk_staging_") && of(60)["warnings"][0]["code"] == "label_vague", "{}", of(60));
    assert_eq!(admin.all("/v1/keys", 500).len(), 1_195);
    let reasons: Vec<Value> = admin.all("/v1/journal", 500).into_iter().map(|line| line["reason"].clone()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "migration").count(), 1_194);
    assert!(reasons.contains(&json!("ticket 7")));

    // The same again makes nothing twice, and tries what was refused.
    lines[29] = line("caller", "prod - nobody v1");
    write(&gateway, "keys.ndjson", &lines);
    let ran = shell(&gateway, &args);
    assert!(ran.failed(1).contains("1 key was made, 3 lines were refused, 1195 had been made before"), "{ran:?}");
    assert_eq!(admin.all("/v1/keys", 500).len(), 1_196);

    // Results of another input are not mixed up with these.
    lines[0] = line("caller", "prod - other v1");
    write(&gateway, "keys.ndjson", &lines);
    assert!(shell(&gateway, &args).failed(1).contains("belong to another input"));
}

#[test]
fn an_interrupted_run_goes_on_without_making_a_key_twice() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let lines: Vec<String> = (1..=100).map(|n| line("caller", &format!("prod - part {n}"))).collect();
    let input = write(&gateway, "keys.ndjson", &lines);
    let output = gateway.dir().join("values.ndjson");
    let args = ["key", "create", "--from", input.to_str().unwrap(), "--output-file", output.to_str().unwrap()];
    shell(&gateway, &args).done();
    let whole = std::fs::read_to_string(&output).unwrap();
    // As it is when the process was killed while it wrote down the sixty-first of a hundred answers.
    let kept: String = whole.split_inclusive('\n').take(60).collect();
    std::fs::write(&output, format!("{kept}{{\"line\":61,\"la")).unwrap();
    let lost = admin.all("/v1/keys", 500).into_iter().find(|key| key["label"] == "prod - part 100").unwrap();
    admin.done("DELETE", &url(&lost), Value::Null);
    let ran = shell(&gateway, &args);
    assert!(ran.failed(1).contains("1 key was made, 39 lines were refused, 60 had been made before"), "{ran:?}");
    let row = rows(&output).into_iter().find(|row| row["line"] == 61).unwrap();
    let id = admin.all("/v1/keys", 500).into_iter().find(|key| key["label"] == "prod - part 61").map(|key| text(&key["id"])).unwrap();
    assert!(row["code"] == "conflict" && text(&row["detail"]).contains(&format!("octroi key regenerate {id}")), "{row}");
    assert_eq!(admin.all(&format!("/v1/machines/{}/keys", text(&machine["id"])), 500).len(), 100);
}

#[test]
fn however_often_it_is_interrupted_no_key_is_made_twice() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = caller(&admin);
    let mut lines: Vec<String> = (1..=20).map(|n| line("caller", &format!("prod - part {n}"))).collect();
    lines[14] = "{oops".into();
    let input = write(&gateway, "keys.ndjson", &lines);
    let output = gateway.dir().join("values.ndjson");
    let args = ["key", "create", "--from", input.to_str().unwrap(), "--output-file", output.to_str().unwrap()];
    shell(&gateway, &args).failed(1);
    // As it is when the process was killed before it read the answer: the line that is no JSON was known before that.
    let refused = rows(&output).into_iter().find(|row| row["line"] == 15).unwrap();
    std::fs::write(&output, format!("{refused}\n")).unwrap();
    for round in ["second run", "third run"] {
        let ran = shell(&gateway, &args);
        assert!(ran.failed(1).contains("0 keys were made, 20 lines were refused"), "{round}: {ran:?}");
        assert_eq!(admin.all(&format!("/v1/machines/{}/keys", text(&machine["id"])), 500).len(), 19, "{round}");
    }
}

#[test]
fn keys_come_from_standard_input_and_go_to_standard_output() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    caller(&admin);
    let input = write(&gateway, "keys.ndjson", &[line("caller", "prod - piped v1")]);
    let socket = admin.socket().to_str().unwrap().to_owned();
    let mut command = octroi(gateway.dir(), &["key", "create", "--from", "-", "--socket", &socket]);
    command.stdin(std::fs::File::open(&input).unwrap());
    let ran = run(command);
    let row: Value = serde_json::from_str(ran.done()).unwrap();
    assert_eq!(call(gateway.address(), &row["secret"]).status, 200);
    assert!(ran.err.contains("1 key was made, 0 lines were refused"), "{ran:?}");
    shell(&gateway, &["key", "create", "--from", "nowhere.ndjson"]).failed(2);
    shell(&gateway, &["key", "create", "--from", "-", "--label", "x"]).failed(2);
    shell(&gateway, &["key", "create", "--machine", "caller"]).failed(2);
}

#[test]
fn the_bulk_call_takes_both_shapes_and_answers_for_each_key() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    caller(&admin);
    let keys = json!({"keys": [{"machine": "caller", "label": "prod - a v1"}, {"machine": "caller"}, 7]});
    let made = admin.done("POST", "/v1/keys/bulk", keys);
    let items = made["data"].as_array().unwrap();
    assert_eq!(call(gateway.address(), &items[0]["key"]["secret"]).status, 200);
    assert_eq!((&items[1]["line"], &items[1]["problem"]["errors"][0]["pointer"]), (&json!(2), &json!("/label")));
    assert_eq!(items[2]["problem"]["code"], json!("invalid"));
    let body = format!("{}\n\nx\n", line("caller", "prod - b v1"));
    let head = format!(
        "POST /v1/keys/bulk HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n",
        body.len()
    );
    let answer = admin.send(&format!("{head}\r\n{body}")).unwrap();
    let items = answer.json()["data"].clone();
    assert_eq!((&items[0]["key"]["label"], &items[1]["line"], items.as_array().unwrap().len()), (&json!("prod - b v1"), &json!(3), 2));
    assert_eq!(admin.faults("POST", "/v1/keys/bulk", json!({"keys": []})), [""]);
    assert_eq!(admin.faults("POST", "/v1/keys/bulk", json!({"keys": vec![json!({}); 1_001]})), [""]);
    assert_eq!(admin.faults("POST", "/v1/keys/bulk", json!({"keys": 1, "x": 2})), ["/keys", "/x"]);
    assert_eq!(admin.all("/v1/keys", 50).len(), 2);
}
