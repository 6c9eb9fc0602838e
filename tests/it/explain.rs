//! Explain and verify over the admin socket, beside the real data plane: the same decision by other doors.

use std::collections::BTreeMap;
use std::time::Duration;

use octroi::clock::Clock;
use octroi::model::Change;
use octroi::model::change::NewKey;
use serde_json::{Value, json};

use crate::support::admin::{labelled, text};
use crate::support::client::{Connection, eventually};
use crate::support::gateway::{self, NOON};
use crate::support::program::{Ran, octroi, run};
use crate::support::{Admin, Gateway, Upstream};

const MISTYPED: &str = "pk_prod_vC3L7ESxxpuJNWlD7LukzfZWdAyVtN1eypHx";

fn explain(admin: &Admin, body: Value) -> Value {
    let answer = admin.ask("POST", "/v1/explain", Some(&body));
    let told = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{body}: {told}");
    // Neither what is a value nor what was meant as one comes back.
    for secret in [&body["key"], &body["headers"]["X-API-Key"]].into_iter().filter_map(Value::as_str).filter(|value| value.len() > 5) {
        assert!(!told.contains(secret), "{told}");
    }
    answer.json()
}

fn step<'a>(explained: &'a Value, name: &str) -> &'a Value {
    explained["steps"].as_array().unwrap().iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name}: {explained}"))
}

fn outcome<'a>(explained: &'a Value, name: &str) -> &'a str {
    step(explained, name)["outcome"].as_str().unwrap()
}

#[test]
fn an_explanation_tells_each_step_and_leaves_nothing_behind() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"], "tier": "free"}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let question = json!({"key": key["secret"], "method": "GET", "url": "http://gateway.test/v1/sensors/7", "ip": "192.0.2.7"});
    for _ in 0..100 {
        let explained = explain(&admin, question.clone());
        assert_eq!((&explained["verdict"], &explained["code"], &explained["status"]), (&json!("ok"), &Value::Null, &Value::Null));
    }
    let explained = explain(&admin, question);
    let minute = json!({"window": "minute", "quota": 60, "remaining": 60, "reset_after": 0});
    let day = json!({"window": "day", "quota": 10_000, "remaining": 10_000, "reset_after": 0});
    assert_eq!(explained["limits"], json!([minute, day]), "nothing was spent");
    assert_eq!(explained["key"], json!({"id": key["id"], "label": "prod - billing v1", "environment": "prod"}));
    assert_eq!(explained["machine"], json!({"id": machine["id"], "name": "caller"}));
    assert_eq!((&explained["route"], &explained["at"], &explained["notes"]), (&json!("sensors"), &json!(NOON.to_string()), &json!([])));
    let names: Vec<&str> = explained["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    let order = "client target route method request guessing credential identify replaced status expiry machine address permission organization limits";
    assert_eq!(names.join(" "), order);
    assert_eq!((outcome(&explained, "permission"), outcome(&explained, "guessing")), ("passed", "skipped"));

    // By id, and refused.
    let put = explain(&admin, json!({"key_id": key["id"], "method": "PUT", "url": "/v1/sensors/7/config"}));
    assert_eq!((&put["code"], &put["status"]), (&json!("permission_denied"), &json!(403)));
    let permission = step(&put, "permission");
    assert_eq!((&permission["outcome"], &permission["code"]), (&json!("failed"), &json!("permission_denied")));
    assert!(text(&permission["detail"]).starts_with("demanded: config:write; the machine has: sensors:read"), "{permission}");
    assert_eq!((outcome(&put, "organization"), outcome(&put, "limits")), ("skipped", "skipped"));

    // Wrong values, often: nobody is held for them afterwards.
    for _ in 0..100 {
        let wrong = explain(&admin, json!({"key": MISTYPED, "method": "GET", "url": "/v1/sensors", "ip": "127.0.0.1"}));
        assert_eq!(wrong["code"], "key_malformed");
        assert!(text(&step(&wrong, "credential")["detail"]).contains("mistyped"), "{wrong}");
    }
    gateway.get("/v1/sensors", &[("X-API-Key", "nonsense")]).refused(401, "key_malformed");
    let usage = admin.get(&format!("/v1/keys/{}/usage", text(&key["id"])));
    assert_eq!((&usage["calls"]["total"], &usage["last_used_at"]), (&json!(0), &Value::Null));
    assert_eq!(gateway.log_lines(1).len(), 1, "only the call stands in the log");
}

#[test]
fn another_time_is_judged_as_far_as_it_can_be_known() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"], "tier": "free"}));
    let key = admin.key(&machine, json!({"label": "prod - billing v1", "expires_in": "1h"}));
    let value = text(&key["secret"]);
    admin.done("POST", &format!("/v1/keys/{}/regenerate", text(&key["id"])), json!({"grace": "30m"}));
    for _ in 0..60 {
        assert_eq!(gateway.get("/v1/sensors", &[("X-API-Key", &value)]).status, 200);
    }
    let at = |minutes: i64| {
        let at = octroi::model::Timestamp(NOON.0 + minutes * 60_000).to_string();
        explain(&admin, json!({"key": value, "method": "GET", "url": "/v1/sensors", "ip": "127.0.0.1", "at": at}))
    };
    assert_eq!(explain(&admin, json!({"key": value, "method": "GET", "url": "/v1/sensors"}))["code"], "rate_limited");
    for (minutes, code, left) in
        [(1, Value::Null, 60), (29, Value::Null, 60), (30, json!("key_replaced"), 60), (61, json!("key_replaced"), 60)]
    {
        let explained = at(minutes);
        assert_eq!((&explained["code"], &explained["limits"][0]["remaining"]), (&code, &json!(left)), "{minutes}");
        assert!(text(&explained["notes"][0]).contains("lies ahead"));
    }
    assert_eq!(at(12 * 60)["limits"][1]["remaining"], 10_000, "the next day");
    let past = at(-5);
    assert_eq!((&past["code"], &past["limits"], outcome(&past, "limits")), (&Value::Null, &json!([]), "skipped"));
    assert!(text(&past["notes"][0]).contains("lies in the past"));
    // Looking ahead has not made the value old.
    gateway.wait(Duration::from_secs(2));
    assert_eq!(gateway.get("/v1/sensors", &[("X-API-Key", &value)]).status, 200);
}

#[test]
fn a_question_that_is_not_one_is_told_so_all_at_once() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let bad = json!({"key": 5, "key_id": "key_1", "method": "G T", "url": "v1/x", "ip": "localhost", "at": "noon", "headers": {"a b": "c"}, "more": 1});
    let mut faults = admin.faults("POST", "/v1/explain", bad);
    faults.sort();
    assert_eq!(faults, ["/at", "/headers/a b", "/ip", "/key", "/key_id", "/method", "/more", "/url"]);
    assert_eq!(admin.faults("POST", "/v1/explain", json!({})), ["/method", "/url"]);
    let id = "key_00000000000000000000000000";
    assert_eq!(admin.faults("POST", "/v1/explain", json!({"method": "GET", "url": "/", "key": "a", "key_id": id})), ["/key_id"]);
    admin.ask("POST", "/v1/explain", Some(&json!({"method": "GET", "url": "/", "key_id": id}))).refused(404, "not_found");

    let bad = json!({"permission": ["nope"], "organization": "", "cost": 0, "ip": "x", "dry_run": 1, "more": 1});
    let mut faults = admin.faults("POST", "/v1/verify", bad);
    faults.sort();
    assert_eq!(faults, ["/cost", "/dry_run", "/ip", "/key", "/more", "/organization", "/permission/0"]);
    for target in ["/v1/explain", "/v1/verify"] {
        let answer = crate::support::admin::over_tcp(gateway.admin_address(), "POST", target, "localhost", "", "");
        answer.refused(401, "token_missing");
    }
}

/// A smaller one of the many in `decisions`, with a client, the server's parser and the upstream in between.
#[test]
fn over_real_sockets_the_explanation_is_the_answer() {
    let upstream = Upstream::plain();
    // Time leaps while calls are under way: no deadline of theirs shall come up.
    let short = ["connect: 1s, response: 1s, idle: 2s", "head: 500ms, first_byte: 2s, idle: 2s, body: 500ms, write: 2s"];
    let long = ["connect: 300s, response: 300s, idle: 300s", "head: 300s, first_byte: 300s, idle: 300s, body: 300s, write: 300s"];
    let settings = short.iter().zip(long).fold(gateway::settings(upstream.address), |text, (short, long)| text.replace(short, long));
    let gateway = Gateway::with(settings, Clock::manual(NOON));
    let admin = Admin::of(&gateway);
    let mut values = vec![String::new(), MISTYPED.to_owned(), "pk_prod_x".to_owned()];
    for (index, (permissions, tier)) in [(&["sensors:read"][..], "premium"), (&["admin"], "free"), (&[], "free")].iter().enumerate() {
        let machine = gateway.machine(&format!("machine {index}"), permissions, Some(tier));
        let make = |new: NewKey| gateway.key(&machine, new);
        let off = make(NewKey::default());
        gateway.commit(Change::DeactivateKey(off.key.id)).unwrap();
        let gone = make(NewKey::default());
        gateway.commit(Change::DeleteKey(gone.key.id)).unwrap();
        let bound = NewKey { allowed_ips: Some(vec!["192.0.2.0/24".parse().unwrap()]), ..NewKey::default() };
        let restricted = NewKey { organizations: Some(["o1".to_owned()].into_iter().collect()), ..NewKey::default() };
        let expiring = NewKey { expires_at: Some(NOON.plus(Duration::from_secs(20))), ..NewKey::default() };
        values.extend([
            off.value,
            gone.value,
            make(bound).value,
            make(restricted).value,
            make(expiring).value,
            make(NewKey::default()).value,
        ]);
    }
    let targets =
        ["/v1/sensors", "/v1/sensors/7/config", "/any/x", "/orgs/o1/x", "/orgs/o2/x", "/status/x", "/nowhere", "/any//x", "/any/%2f"];
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    let mut next = 7u64;
    let mut below = |n: usize| {
        next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((next >> 33) % n as u64) as usize
    };
    for round in 0..600 {
        gateway.wait(Duration::from_millis(below(100) as u64));
        let (target, value) = (targets[below(targets.len())], values[below(values.len())].clone());
        let method = ["GET", "GET", "GET", "PUT"][below(4)];
        let mut question = json!({"method": method, "url": format!("http://gateway.test{target}"), "ip": "127.0.0.1"});
        match round % 2 {
            0 => question["key"] = json!(value),
            _ => question["headers"] = json!({"X-API-Key": value, "Host": "gateway.test"}),
        }
        let explained = explain(&admin, question);
        let mut connection = gateway.connect();
        connection.request(method, target, &[("X-API-Key", &value)], None);
        let answer = connection.answer_to(method);
        let code = if answer.status == 200 { "ok".to_owned() } else { answer.code() };
        assert_eq!(explained["verdict"], code, "round {round}: {method} {target}");
        assert_eq!(explained["status"].as_u64().unwrap_or(200), u64::from(answer.status));
        *met.entry(code).or_default() += 1;
    }
    for code in [
        "ok",
        "bad_request",
        "route_not_found",
        "too_many_failures",
        "key_missing",
        "key_malformed",
        "key_unknown",
        "key_inactive",
        "key_expired",
        "address_denied",
        "permission_denied",
        "organization_denied",
    ] {
        assert!(met.contains_key(code), "{code}: {met:?}");
    }
}

#[test]
fn verify_answers_whether_a_key_may_and_charges_it() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"], "tier": "free"}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let verify = |more: Value| {
        let mut body = json!({"key": key["secret"]});
        more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        let answer = admin.ask("POST", "/v1/verify", Some(&body));
        assert_eq!(answer.status, 200, "{body}: {}", String::from_utf8_lossy(&answer.body));
        assert!(!String::from_utf8_lossy(&answer.body).contains(key["secret"].as_str().unwrap()));
        answer.json()
    };
    let valid = verify(json!({"permission": "sensors:read"}));
    let expected = json!({
        "valid": true, "code": null,
        "machine": {"id": machine["id"], "name": "caller"},
        "key": {"id": key["id"], "label": "prod - billing v1", "environment": "prod"},
        "permissions": ["sensors:read"],
        "limits": [
            {"window": "minute", "quota": 60, "remaining": 59, "reset_after": 1},
            {"window": "day", "quota": 10_000, "remaining": 9_999, "reset_after": 43_200},
        ],
    });
    assert_eq!(valid, expected);
    assert_eq!(verify(json!({"dry_run": true}))["limits"][0]["remaining"], 59, "what a dry run finds, nothing taken off");
    assert_eq!(verify(json!({"permission": ["sensors:read", "config:write"]}))["code"], "permission_denied");
    assert_eq!(verify(json!({"cost": 58}))["limits"][0]["remaining"], 1);
    assert_eq!(verify(json!({"cost": 2, "dry_run": true}))["code"], "rate_limited");
    assert_eq!(verify(json!({}))["valid"], true);
    let over = verify(json!({}));
    assert_eq!((&over["valid"], &over["code"], &over["retry_after"]), (&json!(false), &json!("rate_limited"), &json!(1)));
    assert_eq!(over["limits"][0]["remaining"], 0);
    gateway.get("/v1/sensors", &[("X-API-Key", key["secret"].as_str().unwrap())]).refused(429, "rate_limited");
    assert_eq!(admin.faults("POST", "/v1/verify", json!({"key": key["secret"], "cost": 61})), ["/cost"]);

    gateway.wait(Duration::from_secs(60));
    let target = format!("/v1/keys/{}", text(&key["id"]));
    admin.done("PATCH", &target, json!({"organizations": ["o1"], "allowed_ips": ["192.0.2.0/24"]}));
    for (more, code) in [
        (json!({}), json!("address_denied")),
        (json!({"ip": "198.51.100.1", "organization": "o1"}), json!("address_denied")),
        (json!({"ip": "192.0.2.7"}), json!("organization_denied")),
        (json!({"ip": "192.0.2.7", "organization": "o2"}), json!("organization_denied")),
        (json!({"ip": "::ffff:192.0.2.7", "organization": "o1"}), Value::Null),
    ] {
        assert_eq!(verify(more.clone())["code"], code, "{more}");
    }
    admin.done("POST", &format!("{target}/revoke"), json!({}));
    assert_eq!(verify(json!({"ip": "192.0.2.7", "organization": "o1"}))["code"], "key_revoked");
    for (value, code) in [("", "key_missing"), (MISTYPED, "key_malformed"), ("pk_prod_vC3L7ESxxpuJNWlD7LukzfZWdAyVtN1eypHk", "key_unknown")]
    {
        let answer = admin.done("POST", "/v1/verify", json!({"key": value}));
        assert_eq!((&answer["code"], &answer["key"], &answer["machine"]), (&json!(code), &Value::Null, &Value::Null));
    }
}

#[test]
fn guesses_count_for_who_showed_the_value_and_not_for_the_application() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let guess = |ip: Option<&str>, dry: bool| {
        let mut body = json!({"key": MISTYPED, "dry_run": dry});
        if let Some(ip) = ip {
            body["ip"] = json!(ip);
        }
        text(&admin.done("POST", "/v1/verify", body)["code"])
    };
    for _ in 0..80 {
        assert_eq!(guess(None, false), "key_malformed", "the application is not held");
        assert_eq!(guess(Some("192.0.2.7"), true), "key_malformed", "a dry run counts nothing");
    }
    gateway.get("/any/x", &[]).refused(401, "key_missing");
    for _ in 0..60 {
        assert_eq!(guess(Some("192.0.2.7"), false), "key_malformed");
    }
    assert_eq!(guess(Some("192.0.2.7"), false), "too_many_failures");
    assert_eq!(guess(Some("192.0.2.8"), false), "key_malformed");
    gateway.get("/any/x", &[]).refused(401, "key_missing");
    let holder = gateway.holder("caller");
    let valid = admin.done("POST", "/v1/verify", json!({"key": holder.value, "ip": "192.0.2.7"}));
    assert_eq!(valid["valid"], true, "valid keys from there still pass");
}

/// The value of one sample.
fn sample(metrics: &str, series: &str) -> u64 {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn a_verify_call_stands_once_in_usage_metrics_and_the_log() {
    let upstream = Upstream::plain();
    let gateway = Gateway::with(gateway::settings(upstream.address), Clock::manual(NOON));
    let admin = Admin::of(&gateway);
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let ask = |body: Value| admin.done("POST", "/v1/verify", body);
    ask(json!({"key": key["secret"], "ip": "192.0.2.7"}));
    ask(json!({"key": key["secret"], "ip": "192.0.2.7", "permission": "config:write"}));
    ask(json!({"key": key["secret"], "dry_run": true}));
    ask(json!({"key": MISTYPED}));
    assert_eq!(Connection::open(gateway.address()).get("/v1/sensors", &[("X-API-Key", key["secret"].as_str().unwrap())]).status, 200);

    let lines = gateway.log_lines(4);
    assert_eq!(lines.len(), 4, "{lines:?}");
    let (verified, proxied): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line["route"] == "/v1/verify");
    let seen: Vec<&str> = verified.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    assert_eq!((seen, proxied.len()), (vec!["ok", "permission_denied", "key_malformed"], 1));
    assert_eq!((&verified[0]["client.ip"], &verified[0]["key.id"], &verified[0]["status"]), (&json!("192.0.2.7"), &key["id"], &json!(200)));
    assert_eq!(
        (&verified[0]["listener"], &verified[0]["path"], &verified[2]["client.ip"]),
        (&json!("admin"), &json!("/v1/verify"), &json!("127.0.0.1"))
    );

    let metrics = gateway.metrics();
    assert_eq!(sample(&metrics, r#"octroi_requests_total{route="/v1/verify",method="POST",status="200"}"#), 3, "{metrics}");
    for verdict in ["ok", "permission_denied", "key_malformed"] {
        let series = format!(r#"octroi_decisions_total{{route="/v1/verify",verdict="{verdict}"}}"#);
        assert_eq!(sample(&metrics, &series), 1, "{series}");
    }
    let usage = eventually("the call's record", || {
        let usage = admin.get(&format!("/v1/keys/{}/usage", text(&key["id"])));
        (usage["calls"]["total"] == 3).then_some(usage)
    });
    assert_eq!(usage["calls"]["by_verdict"], json!({"ok": 2, "permission_denied": 1}));
    assert_eq!(usage["last_refused_at"], json!(NOON.to_string()));
}

#[test]
fn the_command_explains_for_people_and_for_programs() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let (id, value) = (text(&key["id"]), text(&key["secret"]));
    let socket = admin.socket().to_str().unwrap().to_owned();
    let input = gateway.dir().join("value");
    std::fs::write(&input, format!("{value}\n")).unwrap();
    let explain = |key: &str, more: &[&str]| -> Ran {
        let all = [&["explain", "--socket", &socket, "--key", key, "http://gateway.test/v1/sensors/7/config"], more].concat();
        let mut command = octroi(gateway.dir(), &all);
        command.stdin(std::fs::File::open(&input).unwrap());
        run(command)
    };
    for key in [&*id, "prod - billing v1", &value, "-"] {
        let told = explain(key, &["--method", "PUT", "--ip", "192.0.2.7", "--header", "X-A: b"]);
        let out = told.done();
        assert!(out.contains("✗ permission   permission_denied: demanded: config:write"), "{out}");
        assert!(
            out.contains("Refused: permission_denied (403)") && out.contains("✓ client       192.0.2.7") && !out.contains(&value),
            "{out}"
        );
    }
    assert_eq!(explain(&id, &["--output", "json"]).json()["verdict"], "ok", "GET falls to the route below");
    assert!(explain(&id, &["--at", "noon"]).failed(2).contains("--at"));
    assert!(explain("no such key", &[]).failed(1).contains("no key has the id or label"));
}
