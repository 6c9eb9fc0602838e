//! The admin plane over its real socket: every endpoint, what it accepts, what it refuses, and that it never tells a value twice.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use octroi::clock::Clock;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::admin::{labelled, over_tcp, request, text};
use crate::support::client::eventually;
use crate::support::{Admin, Gateway, Reply, Upstream, gateway};

/// A gateway before an upstream that answers everything, and its admin socket.
fn start() -> (Upstream, Gateway, Admin) {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    (upstream, gateway, admin)
}

fn url(of: &Value) -> String {
    let id = text(&of["id"]);
    format!("/v1/{}/{id}", if id.starts_with("mac_") { "machines" } else { "keys" })
}

fn call(gateway: &Gateway, made: &Value) -> u16 {
    gateway.get("/v1/sensors", &[("X-API-Key", made["secret"].as_str().unwrap())]).status
}

/// What every endpoint under `/v1` is, with ids that exist.
fn endpoints(machine: &Value, key: &Value) -> Vec<(&'static str, String)> {
    let (machine, key) = (url(machine), url(key));
    let mut all = vec![
        ("GET", "/v1/machines".into()),
        ("POST", "/v1/machines".into()),
        ("GET", machine.clone()),
        ("PATCH", machine.clone()),
        ("DELETE", machine.clone()),
        ("POST", format!("{machine}/enable")),
        ("POST", format!("{machine}/disable")),
        ("GET", format!("{machine}/keys")),
        ("POST", format!("{machine}/keys")),
        ("GET", "/v1/keys".into()),
        ("GET", key.clone()),
        ("PATCH", key.clone()),
        ("DELETE", key.clone()),
        ("GET", format!("{key}/usage")),
    ];
    all.extend(["deactivate", "reactivate", "revoke", "regenerate"].map(|verb| ("POST", format!("{key}/{verb}"))));
    all.extend(["journal", "tiers", "routes", "permissions"].map(|list| ("GET", format!("/v1/{list}"))));
    all
}

#[test]
fn a_machine_lives_from_creation_to_deletion() {
    let (_upstream, gateway, admin) = start();
    let new = json!({
        "name": "Service de facturation", "description": "deux\nlignes", "contact": "ops@example.org", "permissions": ["sensors:read"],
        "organizations": ["o1"], "tier": "standard", "third_party": true, "reason": "ticket 7",
    });
    let answer = admin.ask("POST", "/v1/machines", Some(&new));
    let machine = answer.json();
    assert_eq!((answer.status, answer.header("location")), (201, Some(url(&machine).as_str())));
    for (name, value) in new.as_object().unwrap().iter().filter(|(name, _)| *name != "reason") {
        assert_eq!(machine[name], *value, "{name}");
    }
    assert_eq!((&machine["enabled"], machine.get("reason")), (&json!(true), None));
    assert_eq!(machine["created_at"], gateway::NOON.to_string());
    assert_eq!(admin.get(&url(&machine)), machine);
    assert_eq!(admin.get("/v1/machines")["data"], json!([machine]));

    let key = admin.key(&machine, json!({"label": "prod - billing v1", "organizations": ["o1"]}));
    let at = |gateway: &Gateway| gateway.get("/orgs/o1/x", &[("X-API-Key", key["secret"].as_str().unwrap())]);
    assert_eq!(at(&gateway).status, 200);
    assert_eq!(admin.done("POST", &format!("{}/disable", url(&machine)), json!({}))["enabled"], false);
    at(&gateway).refused(401, "machine_disabled");
    assert_eq!(admin.done("POST", &format!("{}/enable", url(&machine)), json!({"reason": "paid"}))["enabled"], true);
    assert_eq!(at(&gateway).status, 200);

    let answer = admin.ask("DELETE", &format!("{}?reason=closed", url(&machine)), None);
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    at(&gateway).refused(401, "key_unknown");
    for gone in [url(&machine), url(&key), format!("{}/keys", url(&machine)), format!("{}/usage", url(&key))] {
        admin.ask("GET", &gone, None).refused(404, "not_found");
    }
    admin.ask("DELETE", &url(&machine), None).refused(404, "not_found");
}

#[test]
fn a_key_lives_from_creation_to_deletion() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let new = json!({
        "label": "prod - billing v1", "description": "d", "environment": "staging", "permissions": ["sensors:read"],
        "tier": "premium", "allowed_ips": ["127.0.0.0/8"], "expires_in": "90d",
    });
    let answer = admin.ask("POST", &format!("{}/keys", url(&machine)), Some(&new));
    let made = answer.json();
    assert_eq!((answer.status, answer.header("location")), (201, Some(url(&made).as_str())));
    for name in ["label", "description", "environment", "permissions", "tier", "allowed_ips"] {
        assert_eq!(made[name], new[name], "{name}");
    }
    let value = text(&made["secret"]);
    assert!(value.starts_with("pk_staging_") && value.len() == "pk_staging_".len() + 36, "{value}");
    assert_eq!(made["hint"], format!("pk_staging_…{}", &value[value.len() - 4..]));
    assert_eq!((&made["machine_id"], &made["machine_name"], &made["status"]), (&machine["id"], &json!("caller"), &json!("active")));
    assert_eq!((&made["warnings"], &made["old_values"]), (&json!([]), &json!([])));
    assert!(text(&made["created_by"]).starts_with("socket:"));
    assert_eq!(call(&gateway, &made), 200);

    let act = |verb: &str| admin.done("POST", &format!("{}/{verb}", url(&made)), json!({}));
    for (verb, status, answer) in [
        ("deactivate", "inactive", 401),
        ("deactivate", "inactive", 401),
        ("reactivate", "active", 200),
        ("reactivate", "active", 200),
        ("revoke", "revoked", 401),
        ("revoke", "revoked", 401),
    ] {
        assert_eq!(act(verb)["status"], status, "{verb}");
        assert_eq!(call(&gateway, &made), answer, "{verb}");
    }
    for verb in ["reactivate", "deactivate", "regenerate"] {
        let refused = admin.ask("POST", &format!("{}/{verb}", url(&made)), None);
        refused.refused(409, "conflict");
        assert!(text(&refused.json()["detail"]).contains("revoked"));
    }
    admin.ask("PATCH", &url(&made), Some(&json!({"tier": null}))).refused(409, "conflict");
    let edited = admin.done("PATCH", &url(&made), json!({"label": "prod - retired v1", "description": "gone"}));
    assert_eq!((&edited["label"], &edited["status"]), (&json!("prod - retired v1"), &json!("revoked")));
    assert_eq!(admin.ask("DELETE", &url(&made), None).status, 204);
    admin.ask("DELETE", &url(&made), None).refused(404, "not_found");
    gateway.get("/v1/sensors", &[("X-API-Key", &value)]).refused(401, "key_unknown");
}

#[test]
fn a_regeneration_gives_one_new_value_and_a_grace_to_the_old_one() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let first = admin.key(&machine, labelled("prod - billing v1"));
    let second = admin.done("POST", &format!("{}/regenerate", url(&first)), json!({"grace": "1h"}));
    assert_ne!(first["secret"], second["secret"]);
    assert_eq!((call(&gateway, &first), call(&gateway, &second)), (200, 200), "both in grace");
    let old = &second["old_values"][0];
    assert_eq!((&old["hint"], &old["replaced_at"]), (&first["hint"], &json!(gateway::NOON.to_string())));
    gateway.wait(Duration::from_secs(3_600));
    assert_eq!((call(&gateway, &first), call(&gateway, &second)), (401, 200));
    let third = admin.done("POST", &format!("{}/regenerate", url(&first)), json!({}));
    assert_eq!((call(&gateway, &second), call(&gateway, &third)), (401, 200), "without grace at once");
    for bad in ["", "1", "-1h", "1w", "40000d"] {
        assert_eq!(admin.faults("POST", &format!("{}/regenerate", url(&first)), json!({"grace": bad})), ["/grace"], "{bad}");
    }
    assert_eq!(call(&gateway, &third), 200, "what is refused changes nothing");
}

#[test]
fn everything_wrong_with_a_request_is_said_at_once() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller"}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let everything = json!({
        "name": " ", "description": 7, "contact": "a\nb", "permissions": ["sensors:read", "no:such", 1], "organizations": ["", "o"],
        "tier": "gold", "third_party": "yes", "reason": "r".repeat(501), "enabled": "x", "a/b~": 1,
    });
    let expected = ["/name", "/description", "/contact", "/permissions/1", "/permissions/2", "/organizations/0", "/tier", "/third_party"];
    let rest = ["/reason", "/a~1b~0", "/enabled"];
    assert_eq!(admin.faults("POST", "/v1/machines", everything), [&expected[..], &rest[..]].concat());
    let everything = json!({
        "description": null, "environment": "PROD", "permissions": {}, "organizations": 1, "tier": 1, "allowed_ips": [],
        "expires_at": "tomorrow", "expires_in": "soon",
    });
    let expected =
        ["/label", "/description", "/environment", "/permissions", "/organizations", "/tier", "/allowed_ips", "/expires_at", "/expires_in"];
    assert_eq!(admin.faults("POST", &format!("{}/keys", url(&machine)), everything), expected);
    let both = json!({"label": "prod - billing v2", "expires_at": "2030-01-01T00:00:00Z", "expires_in": "1d"});
    assert_eq!(admin.faults("POST", &format!("{}/keys", url(&machine)), both), ["/expires_in"]);
    assert_eq!(admin.faults("PATCH", &url(&key), json!({"label": null, "allowed_ips": ["10.0.0.1/8"]})), ["/label", "/allowed_ips/0"]);
    assert_eq!(admin.faults("POST", &format!("{}/revoke", url(&key)), json!({"grace": "1h", "reason": 1})), ["/reason", "/grace"]);
    for (body, headers) in [
        ("[]", "Content-Type: application/json\r\n"),
        ("{", "Content-Type: application/json\r\n"),
        ("{\"name\":\"x\"}", "Content-Type: text/plain\r\n"),
        ("name=x", "Content-Type: application/x-www-form-urlencoded\r\n"),
        ("{\"name\":\"x\"}", ""),
    ] {
        let answer = admin.send(&request("POST", "/v1/machines", "localhost", headers, body)).unwrap();
        answer.refused(400, "invalid");
        assert_eq!(answer.json()["errors"][0]["pointer"], "", "{body} {headers}");
    }
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(octroi::admin::MAX_BODY));
    let answer = admin.send(&request("POST", "/v1/machines", "localhost", "Content-Type: application/json\r\n", &long)).unwrap();
    answer.refused(413, "body_too_large");
    for (target, pointers) in [
        ("/v1/keys?limit=0&cursor=x&status=dead&environment=P&machine=m&stauts=1", 6),
        ("/v1/machines?limit=501&limit=1", 1),
        ("/v1/journal?limit=ten&from=1", 2),
        ("/v1/machines?status=active", 1),
    ] {
        assert_eq!(admin.faults("GET", target, json!({})).len(), pointers, "{target}");
    }
    assert_eq!(admin.get("/v1/machines")["data"].as_array().unwrap().len(), 1, "nothing of it was done");
    assert_eq!(admin.get("/v1/journal")["data"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_not_there_is_404_and_what_is_not_taken_405() {
    let (_upstream, _gateway, admin) = start();
    let machine = json!({"id": "mac_01hzzzzzzzzzzzzzzzzzzzzzzz"});
    let key = json!({"id": "key_01hzzzzzzzzzzzzzzzzzzzzzzz"});
    let body = json!({"label": "prod - billing v1"});
    for odd in ["mac_01hzzzzzzzzzzzzzzzzzzzzzzz", "key_01hzzzzzzzzzzzzzzzzzzzzzzz", "nonsense", "key_%00", "%20"] {
        for (method, target) in endpoints(&machine, &key).into_iter().filter(|(_, target)| target.contains("zzz")) {
            let target = target.replace(&text(&machine["id"]), odd).replace(&text(&key["id"]), odd);
            let making = method == "POST" && target.ends_with("/keys");
            admin.ask(method, &target, making.then_some(&body)).refused(404, "not_found");
        }
    }
    for target in ["/", "/v1", "/v1/", "/v1/machine", "/v1/machines/", "/v2/keys", "/v1/operator", "/V1/keys"] {
        admin.ask("GET", target, None).refused(404, "not_found");
    }
    for (method, target) in [("PUT", "/v1/machines"), ("DELETE", "/v1/keys"), ("POST", "/v1/journal"), ("GET", "/v1/keys/k/revoke")] {
        let answer = admin.ask(method, target, None);
        answer.refused(405, "method_not_allowed");
        let allowed = answer.header("allow").unwrap().to_owned();
        assert!(!allowed.is_empty() && !allowed.contains(method), "{method} {target}: {allowed}");
    }
}

#[test]
fn a_name_is_taken_once() {
    let (_upstream, _gateway, admin) = start();
    let one = admin.machine(json!({"name": "one"}));
    let two = admin.machine(json!({"name": "two"}));
    let answer = admin.ask("POST", "/v1/machines", Some(&json!({"name": "one"})));
    answer.refused(409, "conflict");
    assert!(text(&answer.json()["detail"]).contains(&text(&one["id"])), "{}", answer.json());
    admin.ask("PATCH", &url(&two), Some(&json!({"name": "one"}))).refused(409, "conflict");
    assert_eq!(admin.done("PATCH", &url(&one), json!({"name": "one"}))["name"], "one", "its own name is free to it");
    admin.done("PATCH", &url(&one), json!({"name": "other"}));
    admin.done("PATCH", &url(&two), json!({"name": "one"}));
}

#[test]
fn an_edit_leaves_what_is_absent_and_clears_what_is_null() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({
        "name": "caller", "description": "d", "permissions": ["sensors:read"], "organizations": ["o"], "tier": "premium",
    }));
    let key = admin.key(
        &machine,
        json!({
            "label": "prod - billing v1", "permissions": ["sensors:read"], "organizations": ["o"], "tier": "free",
            "allowed_ips": ["192.0.2.7"], "expires_at": "2030-01-01T00:00:00+01:00",
        }),
    );
    assert_eq!(key["expires_at"], "2029-12-31T23:00:00.000Z");
    let same = admin.done("PATCH", &url(&machine), json!({}));
    assert_eq!(same, machine);
    let cleared = admin.done("PATCH", &url(&machine), json!({"organizations": null, "tier": null}));
    assert_eq!((&cleared["organizations"], &cleared["tier"], &cleared["description"]), (&Value::Null, &Value::Null, &json!("d")));
    assert_eq!(cleared["permissions"], json!(["sensors:read"]));
    for name in ["permissions", "organizations", "tier", "allowed_ips", "expires_at"] {
        let before = admin.get(&url(&key));
        let mut expected = before.clone();
        expected[name] = Value::Null;
        assert_ne!(before, expected, "{name}");
        admin.done("PATCH", &url(&key), json!({ name: null }));
        assert_eq!(admin.get(&url(&key)), expected, "{name} alone is cleared");
    }
    for name in ["label", "description"] {
        assert_eq!(admin.faults("PATCH", &url(&key), json!({ name: null })), [format!("/{name}")]);
    }
    let none = admin.done("PATCH", &url(&key), json!({"permissions": [], "organizations": []}));
    assert_eq!((&none["permissions"], &none["effective_permissions"], &none["organizations"]), (&json!([]), &json!([]), &json!([])));
}

#[test]
fn what_cannot_be_edited_is_refused_unless_it_is_the_same() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller"}));
    let other = admin.machine(json!({"name": "other"}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let moved = json!({
        "id": "key_x", "machine_id": other["id"], "environment": "staging", "created_at": "2020-01-01T00:00:00Z", "created_by": "me",
        "hint": "h", "status": "revoked", "secret": "pk_prod_x", "value": "x",
    });
    let mut refused = admin.faults("PATCH", &url(&key), moved.clone());
    refused.sort();
    let mut expected: Vec<String> = moved.as_object().unwrap().keys().map(|name| format!("/{name}")).collect();
    expected.sort();
    assert_eq!(refused, expected);
    let fixed = json!({"id": "mac_x", "created_at": "2020-01-01T00:00:00Z", "enabled": false});
    assert_eq!(admin.faults("PATCH", &url(&machine), fixed), ["/id", "/created_at", "/enabled"]);
    assert_eq!(admin.get(&url(&key))["machine_id"], machine["id"]);

    // What a client was shown, it can send back.
    let shown = admin.get(&url(&machine));
    assert_eq!(admin.done("PATCH", &url(&machine), shown.clone()), shown);
    let shown = admin.get(&url(&key));
    let mut again = admin.done("PATCH", &url(&key), shown.clone());
    again.as_object_mut().unwrap().remove("warnings");
    assert_eq!(again, shown);
    let grown = json!({"machine_name": "x", "effective_permissions": ["admin"], "exposed_at": "x", "old_values": [1], "warnings": [1]});
    assert_eq!(admin.faults("PATCH", &url(&key), grown.clone()).len(), grown.as_object().unwrap().len());
    // What calls move while an editor holds the key open is no conflict.
    let mut moved = shown.clone();
    moved["last_used_at"] = json!("2020-01-01T00:00:00.000Z");
    admin.done("PATCH", &url(&key), moved);
}

#[test]
fn t220_a_value_is_told_once_and_a_hash_never() {
    let (_upstream, mut gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let first = admin.key(&machine, labelled("prod - billing v1"));
    let second = admin.done("POST", &format!("{}/regenerate", url(&first)), json!({"reason": "rotation"}));
    let values = [text(&first["secret"]), text(&second["secret"])];
    call(&gateway, &first);
    call(&gateway, &second);
    let mut answers = Vec::new();
    for (method, target) in endpoints(&machine, &first) {
        // Everything but what makes another value or ends the key before the others were asked.
        if !target.ends_with("regenerate") && method != "DELETE" && !(method == "POST" && target.ends_with("keys")) {
            let answer = admin.ask(method, &target, None);
            assert!(!String::from_utf8_lossy(&answer.body).contains("\"secret\""), "{method} {target}");
            answers.push((format!("{method} {target}"), format!("{answer:?} {}", String::from_utf8_lossy(&answer.body))));
        }
    }
    for target in ["/metrics", "/readyz", "/livez"] {
        let answer = admin.ask("GET", target, None);
        answers.push((target.into(), String::from_utf8(answer.body).unwrap()));
    }
    let listed = answers.iter().filter(|(_, body)| body.contains(&text(&first["hint"]))).count();
    assert!(listed >= 5, "lists, journal and answers name the key: {listed}");
    gateway.stop();
    for value in &values {
        let hash: String = Sha256::digest(value.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let random = &value[value.len() - 36..value.len() - 4];
        for (what, body) in &answers {
            assert!(!body.contains(random), "{what} tells the value");
            assert!(!body.to_lowercase().contains(&hash[..16]), "{what} tells the hash");
        }
        for (path, bytes) in files(gateway.dir()) {
            assert!(!bytes.windows(random.len()).any(|window| window == random.as_bytes()), "the value is in {path}");
        }
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push((path.display().to_string(), bytes));
        }
    }
    found
}

#[test]
fn t220_a_value_in_a_text_is_refused_and_kept_nowhere() {
    let (_upstream, mut gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let made = admin.key(&machine, labelled("prod - billing v1"));
    let value = text(&made["secret"]);
    let leaked = format!("leaked: {value}");
    let asked = [
        ("POST", "/v1/machines".to_owned(), json!({"name": leaked, "description": leaked, "contact": leaked, "reason": leaked})),
        ("PATCH", url(&made), json!({"label": leaked, "description": leaked, "organizations": [leaked], "reason": leaked})),
        ("POST", format!("{}/deactivate", url(&made)), json!({"reason": leaked})),
    ];
    for (method, path, body) in &asked {
        let answer = admin.ask(method, path, Some(body));
        answer.refused(400, "invalid");
        let errors = answer.json()["errors"].as_array().unwrap().len();
        assert_eq!(errors, body.as_object().unwrap().len(), "{answer:?}");
        assert!(!format!("{answer:?}").contains(&value[8..]), "{answer:?}");
    }
    let data = gateway.dir().join("data");
    gateway.stop();
    let journal = std::fs::read_dir(data.join("journal")).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    assert!(!journal.collect::<String>().contains(&value[8..]));
}

#[test]
fn pages_have_neither_gaps_nor_repeats_while_others_are_made() {
    let (_upstream, _gateway, admin) = start();
    let machines: Vec<Value> = (0..120).map(|n| admin.machine(json!({"name": format!("machine {n}")}))).collect();
    let keys: Vec<Value> = (0..120).map(|n| admin.key(&machines[n % 3], labelled(&format!("prod - key v{n}")))).collect();
    let made: BTreeSet<String> = machines.iter().chain(&keys).map(|one| text(&one["id"])).collect();
    let stop = AtomicBool::new(false);
    let ids = |entries: Vec<Value>| -> Vec<String> { entries.iter().map(|entry| text(&entry["id"])).collect() };
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) && count < 2_000 {
                let other = admin.machine(json!({"name": format!("other {count}")}));
                admin.key(&other, labelled("prod - other v1"));
                count += 1;
            }
            count
        });
        for limit in [1, 7, 60, 500] {
            let seen = [ids(admin.all("/v1/machines", limit)), ids(admin.all("/v1/keys", limit))].concat();
            let distinct: BTreeSet<String> = seen.iter().cloned().collect();
            assert_eq!(seen.len(), distinct.len(), "none twice at {limit} a page");
            assert!(made.is_subset(&distinct), "none missing at {limit} a page");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(others.join().unwrap() > 0, "others were made meanwhile");
    });
    let own = ids(admin.all(&format!("{}/keys", url(&machines[0])), 9));
    let mut expected: Vec<String> = keys.iter().step_by(3).map(|key| text(&key["id"])).collect();
    // The clock stands still here, so that the ids are those of one millisecond and in no order of making.
    expected.sort();
    assert_eq!(own, expected, "a machine's own keys, in the order of their ids");
    let seqs: Vec<u64> = admin.all("/v1/journal", 100).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    let count = seqs.len() as u64;
    assert_eq!(seqs, (1..=count).rev().collect::<Vec<_>>(), "the journal, newest first, whole");
}

#[test]
fn filters_show_what_meets_all_of_them() {
    let (_upstream, gateway, admin) = start();
    let one = admin.machine(json!({"name": "Facturation", "contact": "Zoé"}));
    gateway.wait(Duration::from_millis(1));
    let two = admin.machine(json!({"name": "Météo", "description": "facts"}));
    let names = |target: &str, field: &str| -> Vec<String> {
        admin.get(target)["data"].as_array().unwrap().iter().map(|entry| text(&entry[field])).collect()
    };
    assert_eq!(names("/v1/machines?search=FACT", "name"), ["Facturation", "Météo"]);
    assert_eq!(names("/v1/machines?search=zo%C3%A9", "name"), ["Facturation"]);
    assert_eq!(names("/v1/machines?name=M%C3%A9t%C3%A9o", "name"), ["Météo"]);
    assert_eq!(names("/v1/machines?name=m%C3%A9t%C3%A9o", "name"), [] as [&str; 0]);

    let key = |machine, label: &str, environment: &str| admin.key(machine, json!({"label": label, "environment": environment}));
    let (active, inactive, revoked) =
        (key(&one, "prod - active v1", "prod"), key(&one, "prod - inactive v1", "prod"), key(&two, "test - revoked v1", "staging"));
    gateway.wait(Duration::from_millis(1));
    let expired = admin.key(&two, json!({"label": "prod - expired v1", "expires_in": "1h"}));
    admin.done("POST", &format!("{}/deactivate", url(&inactive)), json!({}));
    admin.done("POST", &format!("{}/revoke", url(&revoked)), json!({}));
    gateway.wait(Duration::from_secs(3_600));
    for (status, key) in [("active", &active), ("inactive", &inactive), ("revoked", &revoked), ("expired", &expired)] {
        assert_eq!(names(&format!("/v1/keys?status={status}"), "label"), [text(&key["label"])]);
        assert_eq!(admin.get(&url(key))["status"], status);
    }
    assert_eq!(names("/v1/keys?environment=staging", "label"), ["test - revoked v1"]);
    assert_eq!(names("/v1/keys?label=prod%20-%20active%20v1", "label"), ["prod - active v1"]);
    assert_eq!(names(&format!("/v1/keys?machine={}&search=V1", text(&two["id"])), "label"), ["test - revoked v1", "prod - expired v1"]);
    assert_eq!(names(&format!("{}/keys?status=active", url(&two)), "label"), [] as [&str; 0]);
    assert_eq!(
        names(&format!("/v1/keys?search={}", &text(&active["secret"])[44 - 4..]), "label"),
        ["prod - active v1"],
        "by the hint's end"
    );
}

#[test]
fn what_is_probably_a_mistake_is_accepted_with_a_warning() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let made = admin
        .key(&machine, json!({"label": "Clé 1", "permissions": ["config:write", "sensors:read"], "expires_at": "2020-01-01T00:00:00Z"}));
    let of = |made: &Value| -> Vec<(String, String)> {
        made["warnings"].as_array().unwrap().iter().map(|w| (text(&w["code"]), text(&w["pointer"]))).collect()
    };
    let expected = [("label_vague", "/label"), ("permission_not_held", "/permissions"), ("expires_in_past", "/expires_at")];
    assert_eq!(of(&made), expected.map(|(code, pointer)| (code.to_owned(), pointer.to_owned())));
    for (warning, words) in made["warnings"].as_array().unwrap().iter().zip(["system", "config:write", "past"]) {
        assert!(text(&warning["message"]["en"]).contains(words), "{warning}");
        assert!(!text(&warning["message"]["fr"]).is_empty(), "{warning}");
    }
    assert_eq!((&made["status"], &made["effective_permissions"]), (&json!("expired"), &json!(["sensors:read"])));
    let better = json!({"label": "prod - billing v1", "permissions": ["sensors:read"], "expires_at": null});
    assert_eq!(admin.done("PATCH", &url(&made), better)["warnings"], json!([]));
    let twin = admin.key(&machine, json!({"label": "prod - billing v1"}));
    assert_eq!(of(&twin), [("label_taken".to_owned(), "/label".to_owned())]);
    assert!(text(&twin["warnings"][0]["message"]["fr"]).contains(&text(&made["id"])), "{twin}");
    assert_eq!(admin.done("PATCH", &url(&twin), json!({"label": "prod - billing v2"}))["warnings"], json!([]));
    let unknown = admin.ask("PATCH", &url(&made), Some(&json!({"permissions": ["sensors:raed"]})));
    assert!(text(&unknown.json()["errors"][0]["message"]).contains("known: sensors:read, config:write, admin"), "{}", unknown.json());
}

#[test]
fn a_grace_that_ends_early_or_never_ran_is_told() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = admin.key(&machine, json!({"label": "prod - billing v1", "expires_in": "10d"}));
    let act = |verb: &str, body: Value| admin.done("POST", &format!("{}/{verb}", url(&key)), body);
    let codes = |answer: &Value| -> Vec<String> { answer["warnings"].as_array().unwrap().iter().map(|w| text(&w["code"])).collect() };
    assert_eq!(codes(&act("end-grace", json!({}))), ["no_grace"]);
    let first = act("regenerate", json!({"grace": "7d"}));
    assert_eq!(first["warnings"], json!([]));
    let second = act("regenerate", json!({"grace": "11d"}));
    assert_eq!(codes(&second), ["grace_ended", "grace_beyond_expiry"]);
    let promised = &first["old_values"][0];
    for language in ["fr", "en"] {
        let message = text(&second["warnings"][0]["message"][language]);
        assert!(message.contains(&text(&promised["hint"])) && message.contains(&text(&promised["counts_until"])), "{message}");
    }
    assert_eq!(act("end-grace", json!({}))["warnings"], json!([]));
    assert_eq!(codes(&act("end-grace", json!({}))), ["no_grace"]);
    assert_eq!(act("regenerate", json!({}))["warnings"], json!([]), "nothing counted any more");
}

#[test]
fn a_token_that_is_over_from_the_beginning_is_told() {
    let (_upstream, _gateway, admin) = start();
    let body = json!({"name": "late", "rights": ["machines:read"], "expires_at": "2020-01-01T00:00:00Z"});
    let made = admin.done("POST", "/v1/operators", body);
    assert_eq!(made["warnings"][0]["code"], "expires_in_past");
    let url = format!("/v1/operators/{}", text(&made["id"]));
    assert_eq!(admin.done("PATCH", &url, json!({"rights": ["machines:write"]}))["warnings"], json!([]), "it is not about the expiry");
    assert_eq!(admin.done("PATCH", &url, json!({"expires_in": "1d"}))["warnings"], json!([]));
}

#[test]
fn effective_permissions_are_what_machine_and_key_share() {
    let (_upstream, _gateway, admin) = start();
    let all = json!(["config:write", "sensors:read"]);
    let sorted = |value: &Value| {
        let mut names: Vec<String> = value.as_array().unwrap().iter().map(text).collect();
        names.sort();
        json!(names)
    };
    let cases = [
        (json!(["admin"]), json!(null), all.clone()),
        (json!(["admin"]), json!(["sensors:read"]), json!(["sensors:read"])),
        (json!(["sensors:read"]), json!(["admin"]), json!(["sensors:read"])),
        (json!(["sensors:read"]), json!(["config:write"]), json!([])),
        (json!([]), json!(null), json!([])),
        (json!(["sensors:read"]), json!([]), json!([])),
    ];
    for (n, (of_machine, of_key, expected)) in cases.into_iter().enumerate() {
        let machine = admin.machine(json!({"name": format!("m{n}"), "permissions": of_machine}));
        let key = admin.key(&machine, json!({"label": "prod - billing v1", "permissions": of_key}));
        assert_eq!(sorted(&key["effective_permissions"]), expected, "{of_machine} ∩ {of_key}");
        admin.done("PATCH", &url(&machine), json!({"permissions": []}));
        assert_eq!(admin.get(&url(&key))["effective_permissions"], json!([]), "they follow the machine");
    }
}

#[test]
fn an_expiry_ends_a_key_and_moving_it_revives_it() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = admin.key(&machine, json!({"label": "prod - billing v1", "expires_in": "10s"}));
    assert_eq!(call(&gateway, &key), 200);
    gateway.wait(Duration::from_secs(10));
    assert_eq!((call(&gateway, &key), &admin.get(&url(&key))["status"]), (401, &json!("expired")));
    admin.done("PATCH", &url(&key), json!({"expires_in": "1h"}));
    assert_eq!((call(&gateway, &key), &admin.get(&url(&key))["status"]), (200, &json!("active")));
    admin.done("PATCH", &url(&key), json!({"expires_at": null}));
    gateway.wait(Duration::from_secs(3_600));
    assert_eq!(call(&gateway, &key), 200);
}

#[test]
fn the_last_use_of_a_key_is_its_last_admitted_call() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let use_of = |key: &Value| {
        let shown = admin.get(&url(key));
        ["last_used_at", "last_used_ip", "last_refused_at"].map(|name| shown[name].as_str().map(str::to_owned))
    };
    assert_eq!(use_of(&key), [None, None, None]);
    let noon = Some(gateway::NOON.to_string());
    assert_eq!(call(&gateway, &key), 200);
    eventually("its last use", || (use_of(&key) == [noon.clone(), Some("127.0.0.1".into()), None]).then_some(()));
    gateway.wait(Duration::from_secs(60));
    let put = gateway.get("/v1/sensors/1/config", &[("X-API-Key", key["secret"].as_str().unwrap())]);
    assert_eq!(put.status, 200, "GET meets the rest pattern");
    admin.done("POST", &format!("{}/deactivate", url(&key)), json!({}));
    gateway.wait(Duration::from_secs(60));
    assert_eq!(call(&gateway, &key), 401);
    let later = |seconds: i64| Some(octroi::model::Timestamp(gateway::NOON.0 + 1_000 * seconds).to_string());
    eventually("its last refusal", || (use_of(&key) == [later(60), Some("127.0.0.1".into()), later(120)]).then_some(()));
    let usage = admin.get(&format!("{}/usage", url(&key)));
    assert_eq!((&usage["key_id"], &usage["calls"]), (&key["id"], &json!({"total": 3, "by_verdict": {"key_inactive": 1, "ok": 2}})));
    assert_eq!(usage["last_used_at"].as_str(), later(60).as_deref());
}

#[test]
fn t212_over_tcp_nothing_of_the_api_is_open_to_anybody() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller"}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let to = gateway.admin_address();
    let mut places = endpoints(&machine, &key);
    places.extend([("GET", "/v1".into()), ("GET", "/v1/".into()), ("PUT", "/v1/keys".into()), ("OPTIONS", "/v1/nothing".into())]);
    for (method, target) in &places {
        over_tcp(to, method, target, "localhost", "", "").refused(401, "token_missing");
        let bearer = format!("Authorization: Bearer {}\r\n", text(&key["secret"]));
        over_tcp(to, method, target, "127.0.0.1:8090", &bearer, "").refused(401, "token_invalid");
        over_tcp(to, method, target, "evil.example", "", "").refused(403, "host_denied");
    }
    for (host, status) in
        [("localhost", 200), ("127.0.0.1", 200), ("[::1]:8090", 200), ("evil.example", 403), ("localhost.evil.example", 403)]
    {
        for target in ["/livez", "/readyz", "/metrics"] {
            assert_eq!(over_tcp(to, "GET", target, host, "Origin: http://evil.example\r\n", "").status, status, "{host}{target}");
        }
    }
    let encoded = over_tcp(to, "GET", "/%76%31/keys", "localhost", "", "");
    assert!(matches!(encoded.status, 401 | 404), "{encoded:?}");
    assert_eq!(admin.get("/v1/keys")["data"].as_array().unwrap().len(), 1, "and nothing was done");
    assert_eq!(admin.get("/v1/journal")["data"].as_array().unwrap().len(), 2);
}

#[test]
fn only_the_gateways_own_user_can_open_what_it_keeps() {
    let (_upstream, mut gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    call(&gateway, &admin.key(&machine, labelled("prod - billing v1")));
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(admin.socket()), 0o600);
    let data = gateway.dir().join("data");
    let check = |folder: &Path| {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            assert_eq!(mode(&folder), 0o700, "{}", folder.display());
            for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else if entry.starts_with(data.join("journal")) || entry.starts_with(data.join("usage")) {
                    assert_eq!(mode(&entry), 0o600, "{}", entry.display());
                }
            }
        }
    };
    check(&data);
    gateway.stop();
    check(&data);
    assert!(!admin.socket().exists(), "the socket goes with the gateway");
}

#[test]
fn readiness_ends_when_draining_begins_and_calls_in_flight_are_finished() {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let upstream = Upstream::answering(move |_| {
        // An error means that the test is over.
        let _ = released.lock().unwrap().recv();
        Reply::ok("late")
    });
    let settings = gateway::settings(upstream.address).replace("response: 1s", "response: 60s").replace("drain: 2s", "drain: 60s");
    let gateway = Gateway::with(settings, Clock::system());
    let admin = Admin::of(&gateway);
    assert_eq!(admin.get("/readyz"), json!({"status": "ready"}));
    let mut connection = gateway.connect();
    connection.request("GET", "/status/x", &[], None);
    eventually("the call at the upstream", || (!upstream.raw().is_empty()).then_some(()));
    let drained = gateway.drain();
    let answer = eventually("draining", || Some(admin.ask("GET", "/readyz", None)).filter(|answer| answer.status == 503));
    assert_eq!(answer.json()["status"], "draining");
    assert_eq!(admin.get("/livez"), json!({"status": "alive"}), "it is not restarted for that");
    release.send(()).unwrap();
    let answer = connection.answer();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"late"[..]));
    assert_eq!(drained.join().unwrap(), 0, "no connection was cut");
    assert!(admin.try_ask("GET", "/readyz", None).is_none());
}

#[test]
fn the_journal_says_who_did_what_why_and_what_became_of_it() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "reason": "ticket 1"}));
    let key = admin.key(&machine, json!({"label": "prod - billing v1", "reason": "ticket 2"}));
    admin.done("PATCH", &url(&key), json!({"label": "prod - billing v2", "reason": "ticket 3"}));
    admin.done("POST", &format!("{}/revoke", url(&key)), json!({"reason": "leaked"}));
    admin.done("POST", &format!("{}/revoke", url(&key)), json!({"reason": "again"}));
    admin.ask("DELETE", &format!("{}?reason=over", url(&machine)), None);
    let lines = admin.all("/v1/journal", 2);
    let told: Vec<[String; 3]> = lines.iter().rev().map(|l| ["what", "subject", "reason"].map(|name| text(&l[name]))).collect();
    let (machine_id, key_id) = (text(&machine["id"]), text(&key["id"]));
    let expected = [
        ["machine.created", &machine_id, "ticket 1"],
        ["key.created", &key_id, "ticket 2"],
        ["key.edited", &key_id, "ticket 3"],
        ["key.revoked", &key_id, "leaked"],
        ["machine.deleted", &machine_id, "over"],
    ];
    assert_eq!(told, expected, "what changed nothing is not journalled");
    for line in &lines {
        assert!(text(&line["actor"]).starts_with("socket:"), "{line}");
        assert_eq!((&line["time"], &line["address"]), (&json!(gateway::NOON.to_string()), &Value::Null));
        assert!(line.get("private").is_none() && !line.to_string().contains("hash"), "{line}");
    }
    let edit = &lines[2]["changes"][0];
    assert_eq!((&edit["before"]["label"], &edit["after"]["label"]), (&json!("prod - billing v1"), &json!("prod - billing v2")));
    let end: Vec<&Value> = lines[0]["changes"].as_array().unwrap().iter().map(|change| &change["after"]).collect();
    assert_eq!(end, [&Value::Null, &Value::Null], "the machine's end is its key's, too");
}

#[test]
fn the_settings_are_shown_and_not_changed_here() {
    let (_upstream, _gateway, admin) = start();
    let names =
        |target: &str| -> Vec<String> { admin.get(target)["data"].as_array().unwrap().iter().map(|row| text(&row["name"])).collect() };
    assert_eq!(names("/v1/permissions"), ["sensors:read", "config:write", "admin"]);
    assert_eq!(names("/v1/tiers"), ["free", "standard", "premium", "unmetered"]);
    assert_eq!(names("/v1/routes"), ["sensors", "config", "anyone", "tenant", "status"]);
    let free = &admin.get("/v1/tiers")["data"][0];
    assert_eq!((&free["default"], free["limits"].as_array().map(Vec::len)), (&json!(true), Some(2)));
    assert_eq!(free["limits"][0], json!({"window": "minute", "quota": 60, "burst": 60}));
    for list in ["permissions", "tiers", "routes"] {
        admin.ask("POST", &format!("/v1/{list}"), Some(&json!({"name": "x"}))).refused(405, "method_not_allowed");
    }
}

#[test]
fn a_request_id_of_the_clients_own_is_kept() {
    let (_upstream, _gateway, admin) = start();
    let ask = |id: &str| admin.send(&request("GET", "/v1/keys/x", "localhost", &format!("X-Request-Id: {id}\r\n"), "")).unwrap();
    let answer = ask("ticket-7.a_b");
    assert_eq!(answer.header("x-request-id"), Some("ticket-7.a_b"));
    answer.refused(404, "not_found");
    assert_ne!(ask("a b").header("x-request-id"), Some("a b"));
}

#[test]
fn another_user_is_refused_even_where_the_files_would_let_them_in() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return crate::support::skip("another_user_is_refused_even_where_the_files_would_let_them_in", "only root can become another user");
    }
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let socket = Admin::of(&gateway).socket().to_owned();
    let open = |path: &std::path::Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    socket.ancestors().skip(1).take_while(|folder| folder.starts_with(gateway.dir())).for_each(|folder| open(folder, 0o755));
    open(&socket, 0o777);
    let ask = |uid| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"])
            .arg(&socket)
            .arg("http://localhost/v1/machines")
            .uid(uid);
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    };
    assert_eq!((ask(0).as_str(), ask(65_534).as_str()), ("200", "000"));
}
