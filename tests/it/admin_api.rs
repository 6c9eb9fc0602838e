//! The manners of the admin API: what protects from lost updates and from doing things twice, what lists can be asked for, and that
//! its description says of every endpoint what the gateway does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use octroi::model::change::NewOperator;
use octroi::model::{Change, Right};
use octroi::registry::Left;
use serde_json::{Value, json};

use crate::support::admin::{labelled, over_tcp, request, text};
use crate::support::client::Answer;
use crate::support::{Admin, Gateway, Upstream};

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

/// A request with header fields, each ended by its line end.
fn with(admin: &Admin, method: &str, target: &str, headers: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = format!("Content-Type: application/json\r\n{headers}");
    admin.send(&request(method, target, "localhost", &headers, &body)).expect("an answer")
}

fn tag(answer: &Answer) -> String {
    answer.header("etag").unwrap_or_else(|| panic!("no ETag: {answer:?}")).to_owned()
}

fn if_match(tag: &str) -> String {
    format!("If-Match: {tag}\r\n")
}

/// What each of 32 clients that start together is answered.
fn at_once(act: impl Fn(usize) -> Answer + Sync) -> Vec<Answer> {
    let start = std::sync::Barrier::new(32);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..32)
            .map(|n| {
                let (start, act) = (&start, &act);
                scope.spawn(move || {
                    start.wait();
                    act(n)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

#[test]
fn each_answer_about_one_record_carries_its_tag() {
    let (_upstream, _gateway, admin) = start();
    let other = admin.machine(json!({"name": "other"}));
    for (target, new) in
        [("/v1/machines".to_owned(), json!({"name": "caller"})), (format!("{}/keys", url(&other)), labelled("prod - billing v1"))]
    {
        let made = admin.ask("POST", &target, Some(&new));
        let url = url(&made.json());
        assert_eq!(tag(&made), tag(&admin.ask("GET", &url, None)), "as it is shown afterwards");
        let name = if url.contains("/keys/") { "label" } else { "name" };
        let edited = admin.ask("PATCH", &url, Some(&json!({name: "another one"})));
        assert_ne!(tag(&made), tag(&edited));
        assert_eq!(tag(&edited), tag(&admin.ask("GET", &url, None)));
        let verb = if url.contains("/keys/") { "deactivate" } else { "disable" };
        let acted = admin.ask("POST", &format!("{url}/{verb}"), None);
        assert_ne!(tag(&edited), tag(&acted));
        assert_eq!(tag(&acted), tag(&admin.ask("POST", &format!("{url}/{verb}"), None)), "what changes nothing leaves the tag");
    }
}

#[test]
fn a_change_meant_for_another_state_is_not_made() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller"}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    for (url, verb, body) in [(url(&machine), "disable", json!({"contact": "ops"})), (url(&key), "deactivate", json!({"description": "d"}))]
    {
        let seen = tag(&admin.ask("GET", &url, None));
        admin.done("PATCH", &url, json!({"description": "meanwhile"}));
        let (action, stale) = (format!("{url}/{verb}"), if_match(&seen));
        for (method, target, body) in [("PATCH", &url, &body), ("POST", &action, &json!({})), ("DELETE", &url, &Value::Null)] {
            with(&admin, method, target, &stale, body).refused(412, "precondition_failed");
            with(&admin, method, target, &if_match(&format!("W/{}", tag(&admin.ask("GET", &url, None)))), body)
                .refused(412, "precondition_failed");
            with(&admin, method, target, &if_match("\"foreign\""), body).refused(412, "precondition_failed");
            for bad in ["", "1", "\"1", "*, \"1\"", "\"1\" \"2\""] {
                let answer = with(&admin, method, target, &if_match(bad), body);
                answer.refused(400, "invalid");
                assert_eq!(answer.json()["errors"][0]["pointer"], "if-match:", "{bad}");
            }
        }
        assert_eq!(admin.get(&url)["description"], "meanwhile", "nothing of it was done");
        let good = format!("\"0\", {}, W/\"9\"", tag(&admin.ask("GET", &url, None)));
        assert_eq!(with(&admin, "PATCH", &url, &if_match(&good), &body).status, 200);
        assert_eq!(with(&admin, "POST", &action, &if_match("*"), &json!({})).status, 200);
    }
    let seen = tag(&admin.ask("GET", &url(&key), None));
    assert_eq!(with(&admin, "DELETE", &url(&key), &if_match(&seen), &Value::Null).status, 204);
    with(&admin, "DELETE", &url(&key), &if_match(&seen), &Value::Null).refused(404, "not_found");
    with(&admin, "POST", &format!("{}/revoke", url(&key)), &if_match("*"), &json!({})).refused(404, "not_found");
}

#[test]
fn use_is_no_edit_but_makes_a_copy_old() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let get = |tag: &str| with(&admin, "GET", &url(&key), &format!("If-None-Match: {tag}\r\n"), &Value::Null);
    let seen = tag(&admin.ask("GET", &url(&key), None));
    for same in [seen.clone(), format!("W/{seen}"), format!("\"x\", {seen}"), "*".into()] {
        let answer = get(&same);
        assert_eq!((answer.status, answer.body.len(), tag(&answer)), (304, 0, seen.clone()), "{same}");
    }
    get("x").refused(400, "invalid");
    assert_eq!(gateway.get("/v1/sensors", &[("X-API-Key", &text(&key["secret"]))]).status, 200);
    let answer = get(&seen);
    assert_eq!(answer.status, 200);
    assert!(answer.json()["last_used_at"].is_string());
    assert_eq!(with(&admin, "PATCH", &url(&key), &if_match(&seen), &json!({"description": "d"})).status, 200);
}

#[test]
fn of_32_editors_who_saw_the_same_state_one_wins() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller"}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    for target in [url(&machine), url(&key)] {
        for round in 0..4 {
            let seen = if_match(&tag(&admin.ask("GET", &target, None)));
            let answers = at_once(|n| with(&admin, "PATCH", &target, &seen, &json!({"description": format!("{round} of {n}")})));
            let won: Vec<usize> = (0..32).filter(|n| answers[*n].status == 200).collect();
            assert_eq!(won.len(), 1, "round {round}: {won:?}");
            answers.iter().filter(|answer| answer.status != 200).for_each(|answer| answer.refused(412, "precondition_failed"));
            assert_eq!(admin.get(&target)["description"], format!("{round} of {}", won[0]));
        }
    }
}

#[test]
fn a_repeat_is_answered_like_the_first_and_without_the_value() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller"}));
    let keys = format!("{}/keys", url(&machine));
    let post = |target: &str, name: &str, body: &Value| with(&admin, "POST", target, &format!("Idempotency-Key: {name}\r\n"), body);
    let first = post(&keys, "a-1", &labelled("prod - billing v1"));
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    for name in ["a-1", "\"a-1\""] {
        let again = post(&keys, name, &labelled("prod - billing v1"));
        assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")));
        assert_eq!((again.header("location"), tag(&again)), (first.header("location"), tag(&first)));
        let mut expected = first.json();
        expected["secret"] = Value::Null;
        assert_eq!(again.json(), expected);
    }
    let regenerate = format!("{}/regenerate", url(&first.json()));
    let second = post(&regenerate, "a-2", &json!({})).json();
    assert_eq!(post(&regenerate, "a-2", &json!({})).json()["hint"], second["hint"], "not regenerated twice");

    post(&keys, "a-1", &labelled("prod - billing v2")).refused(422, "idempotency_key_reused");
    post("/v1/machines", "a-1", &json!({"name": "x"})).refused(422, "idempotency_key_reused");
    assert_eq!(admin.get(&keys)["data"].as_array().unwrap().len(), 1);

    post(&keys, "a-3", &json!({"label": 7})).refused(400, "invalid");
    post("/v1/machines", "a-4", &json!({"name": "caller"})).refused(409, "conflict");
    assert_eq!(post(&keys, "a-3", &labelled("prod - billing v3")).status, 201, "what was refused is not remembered");
    for bad in ["", "é", "a b", &"x".repeat(256), "a\r\nIdempotency-Key: b"] {
        let answer = post(&keys, bad, &labelled("prod - billing v4"));
        answer.refused(400, "invalid");
        assert_eq!(answer.json()["errors"][0]["pointer"], "idempotency-key:", "{bad}");
    }
    gateway.wait(Duration::from_secs(86_400));
    let later = post(&keys, "a-1", &labelled("prod - billing v1"));
    assert_eq!((later.status, later.header("idempotency-replayed")), (201, None), "a day later it is another request");
    assert_ne!(later.json()["id"], first.json()["id"]);
}

#[test]
fn a_question_is_answered_anew_under_whatever_name() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = admin.key(&machine, labelled("prod - billing v1"));
    let named = "Idempotency-Key: same\r\n";
    let verify = || with(&admin, "POST", "/v1/verify", named, &json!({"key": key["secret"]})).json()["valid"].clone();
    let why = json!({"key": key["secret"], "method": "GET", "url": "/v1/sensors"});
    let explain = || with(&admin, "POST", "/v1/explain", named, &why).json()["code"].clone();
    let backup = || with(&admin, "POST", "/v1/store/backup", named, &json!({})).header("octroi-head").map(str::to_owned);
    assert_eq!((verify(), explain()), (json!(true), Value::Null));
    let (head, calls) = (backup(), admin.get(&format!("{}/usage", url(&key)))["calls"]["total"].clone());
    admin.done("POST", &format!("{}/revoke", url(&key)), json!({}));
    assert_eq!((verify(), explain()), (json!(false), json!("key_revoked")));
    assert!(head.is_some() && backup() != head);
    assert_eq!((calls, &admin.get(&format!("{}/usage", url(&key)))["calls"]["total"]), (json!(1), &json!(2)), "another call each time");

    let takes_name = |path: &str| {
        let document = admin.get("/openapi.json");
        let parameters = document["paths"][path]["post"]["parameters"].as_array();
        parameters.is_some_and(|parameters| parameters.iter().any(|parameter| parameter["name"] == "Idempotency-Key"))
    };
    assert!(takes_name("/v1/machines") && takes_name("/v1/keys/{id}/revoke"));
    assert!(!["/v1/verify", "/v1/explain", "/v1/store/backup"].into_iter().any(takes_name));
}

#[test]
fn thirty_two_repeats_at_once_make_one_key() {
    let (_upstream, _gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller"}));
    let keys = format!("{}/keys", url(&machine));
    for round in 0..4 {
        let header = format!("Idempotency-Key: round-{round}\r\n");
        let answers = at_once(|_| with(&admin, "POST", &keys, &header, &labelled("prod - billing v1")));
        let made: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert_eq!(made.iter().filter(|answer| answer.json()["secret"].is_string()).count(), 1, "one has the value");
        assert_eq!(made.iter().map(|answer| text(&answer.json()["id"])).collect::<BTreeSet<_>>().len(), 1);
        answers.iter().filter(|answer| answer.status != 201).for_each(|answer| answer.refused(409, "conflict"));
        assert_eq!(admin.get(&keys)["data"].as_array().unwrap().len(), round + 1);
    }
}

#[test]
fn names_of_requests_belong_to_who_gave_them() {
    let (_upstream, gateway, admin) = start();
    let token = |name: &str| {
        let new = NewOperator { name: name.into(), rights: [Right::MachinesWrite].into_iter().collect(), expires_at: None };
        gateway.commit(Change::CreateOperator(new)).unwrap().secret.unwrap().reveal().to_string()
    };
    let post = |token: &str| {
        let headers = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\nIdempotency-Key: same\r\n");
        over_tcp(gateway.admin_address(), "POST", "/v1/machines", "localhost", &headers, "{\"name\":\"caller\"}")
    };
    let (anna, ben) = (token("anna"), token("ben"));
    assert_eq!((post(&anna).status, post(&anna).status), (201, 201));
    post(&ben).refused(409, "conflict");
    assert_eq!(admin.get("/v1/machines")["data"].as_array().unwrap().len(), 1);
}

#[test]
fn lists_show_what_was_asked_for() {
    let (_upstream, gateway, admin) = start();
    let reader = admin.machine(json!({"name": "reader", "permissions": ["sensors:read"], "tier": "premium", "description": "Lecture"}));
    let chief = admin.machine(json!({"name": "chief", "permissions": ["admin"]}));
    let idle = admin.machine(json!({"name": "idle"}));
    admin.done("POST", &format!("{}/disable", url(&idle)), json!({}));
    // What is made in one millisecond stands in any order.
    let named = |target: &str, field: &str| -> BTreeSet<String> {
        admin.get(target)["data"].as_array().unwrap().iter().map(|row| text(&row[field])).collect()
    };
    for (filter, expected) in [
        ("enabled=false", &["idle"][..]),
        ("enabled=true&tier=free", &["chief"]),
        ("tier=premium", &["reader"]),
        ("permission=sensors:read", &["reader", "chief"]),
        ("permission=admin", &["chief"]),
        ("permission=sensors:read&search=LECT", &["reader"]),
        ("name=nobody", &[]),
    ] {
        assert_eq!(named(&format!("/v1/machines?{filter}"), "name"), names(expected.iter().copied()), "{filter}");
    }

    let used = admin.key(&reader, json!({"label": "used - v1", "expires_in": "10d"}));
    admin.key(&reader, json!({"label": "narrow - v1", "permissions": [], "tier": "free", "environment": "staging"}));
    admin.key(&chief, json!({"label": "chief - v1", "expires_in": "60d"}));
    gateway.wait(Duration::from_secs(86_400));
    assert_eq!(gateway.get("/v1/sensors", &[("X-API-Key", &text(&used["secret"]))]).status, 200);
    gateway.wait(Duration::from_secs(3_600));
    admin.key(&chief, json!({"label": "young - v1"}));
    for (filter, expected) in [
        ("unused_since=24h", &["narrow - v1", "chief - v1"][..]),
        ("unused_since=1h", &["narrow - v1", "chief - v1"]),
        ("unused_since=0s", &["used - v1", "narrow - v1", "chief - v1"]),
        ("unused_since=2099-01-01", &["used - v1", "narrow - v1", "chief - v1", "young - v1"]),
        ("expiring_before=30d", &["used - v1"]),
        ("expiring_before=90d", &["used - v1", "chief - v1"]),
        ("expiring_before=1970-01-01T00:00:00Z", &[]),
        ("tier=premium", &["used - v1"]),
        ("tier=free", &["narrow - v1", "chief - v1", "young - v1"]),
        ("permission=sensors:read", &["used - v1", "chief - v1", "young - v1"]),
        ("permission=config:write&expiring_before=90d", &["chief - v1"]),
        ("environment=staging&status=active&search=NARROW", &["narrow - v1"]),
    ] {
        assert_eq!(named(&format!("/v1/keys?{filter}"), "label"), names(expected.iter().copied()), "{filter}");
    }
    assert_eq!(named(&format!("{}/keys?unused_since=2h", url(&chief)), "label"), names(["chief - v1"].into_iter()));
    assert_eq!(admin.all("/v1/keys?tier=free", 1).len(), 3);

    let wrong = "/v1/keys?status=dead&tier=gold&permission=fly&unused_since=ever&expiring_before=soon&environment=P&machine=m";
    let answer = admin.ask("GET", wrong, None);
    answer.refused(400, "invalid");
    let messages: BTreeMap<String, String> =
        answer.json()["errors"].as_array().unwrap().iter().map(|error| (text(&error["pointer"]), text(&error["message"]))).collect();
    assert_eq!(messages.len(), 7);
    for (pointer, known) in [("?status", "active"), ("?tier", "premium"), ("?permission", "sensors:read"), ("?unused_since", "30d")] {
        assert!(messages[pointer].contains(known), "{}", messages[pointer]);
    }
    assert_eq!(admin.faults("GET", "/v1/machines?enabled=maybe&tier=gold&permission=fly", json!({})).len(), 3);
}

#[test]
fn usage_adds_up() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let keys = [1, 2].map(|n| admin.key(&machine, labelled(&format!("prod - billing v{n}"))));
    let call = |value: &str| gateway.get("/v1/sensors", &[("X-API-Key", value)]).status;
    keys.iter().for_each(|key| assert_eq!(call(&text(&key["secret"])), 200));
    assert_eq!(call("nonsense"), 401);
    admin.done("POST", &format!("{}/deactivate", url(&keys[0])), json!({}));
    assert_eq!(call(&text(&keys[0]["secret"])), 401);
    let usage = admin.get(&format!("{}/usage", url(&machine)));
    assert_eq!(usage["calls"], json!({"total": 3, "by_verdict": {"ok": 2, "key_inactive": 1}}));
    assert_eq!((&usage["keys"], &usage["machine_id"]), (&json!(2), &machine["id"]));
    assert!(usage["last_used_at"].is_string() && usage["last_refused_at"].is_string());
    let all = admin.get("/v1/usage");
    assert_eq!(all["calls"], json!({"total": 4, "by_verdict": {"ok": 2, "key_inactive": 1, "key_malformed": 1}}));
    assert_eq!(all["without_key"], json!({"total": 1, "by_verdict": {"key_malformed": 1}}));
    admin.ask("GET", "/v1/machines/mac_01hzzzzzzzzzzzzzzzzzzzzzzz/usage", None).refused(404, "not_found");
}

#[test]
fn the_settings_in_force_are_shown_where_the_file_has_them() {
    let (_upstream, _gateway, admin) = start();
    let config = admin.get("/v1/config");
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md")).unwrap();
    let documented = |name: &str| page.contains(&format!("| `{name}`"));
    let sections = config.as_object().unwrap();
    sections.keys().for_each(|name| assert!(documented(name), "{name}"));
    for section in ["admin", "credentials", "limits", "connections", "usage", "logs", "identity_headers"] {
        config[section].as_object().unwrap().keys().for_each(|name| assert!(documented(&format!("{section}.{name}")), "{section}.{name}"));
    }
    assert_eq!(config["routes"]["sensors"]["permission"], json!(["sensors:read"]));
    assert_eq!((&config["default_tier"], &config["connections"]["idle"]), (&json!("free"), &json!("2s")));
}

// --- the description -----------------------------------------------------------------------------------------------------------

#[test]
fn the_description_is_the_golden_file() {
    let (_upstream, gateway, _admin) = start();
    let served = over_tcp(gateway.admin_address(), "GET", "/openapi.json", "localhost", "", "");
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")), "without a token");
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_octroi")).arg("openapi").output().unwrap();
    assert!(printed.status.success() && printed.stdout == served.body);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/openapi.json");
    let text = String::from_utf8(served.body).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "the description of the admin API changed; UPDATE_GOLDEN=1 writes {}", path.display());
}

/// The names that the gateway says it knows, when it is sent one that it does not: in a body (`/zzz`) or in a query (`?zzz`).
fn known(answer: &Answer, pointer: &str) -> Option<BTreeSet<String>> {
    let json: Value = serde_json::from_slice(&answer.body).ok()?;
    let error = json["errors"].as_array()?.iter().find(|error| error["pointer"] == pointer)?;
    let (_, names) = error["message"].as_str()?.split_once("known: ")?;
    Some(names.split(", ").map(str::to_owned).collect())
}

fn names<'a>(of: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    of.map(str::to_owned).collect()
}

#[test]
fn the_description_names_the_fields_and_parameters_that_are_read() {
    let (_upstream, gateway, admin) = start();
    let document = admin.get("/openapi.json");
    let (mut bodies, mut queries) = (0, 0);
    for (count, (path, method, operation)) in operations(&document).enumerate() {
        let machine = admin.machine(json!({"name": format!("caller {count}")}));
        let id = match path.split('/').nth(2) {
            Some("machines") => text(&machine["id"]),
            Some("keys") => text(&admin.key(&machine, labelled("prod - billing v1"))["id"]),
            Some("operators") => {
                let new = NewOperator { name: format!("operator {count}"), ..NewOperator::default() };
                match gateway.commit(Change::CreateOperator(new)).unwrap().left {
                    Left::Operator(operator) => operator.id.to_string(),
                    other => panic!("{other:?}"),
                }
            }
            _ => String::new(),
        };
        let target = path.replace("{id}", &id).replace("{seq}", "1");
        if let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema") {
            let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{method} {path}: properties in place"));
            let answer = admin.ask(method, &target, Some(&json!({"zzz": 1})));
            assert_eq!(known(&answer, "/zzz"), Some(names(properties.keys().map(String::as_str))), "{method} {path}");
            bodies += 1;
        }
        let parameters = operation["parameters"].as_array().unwrap().iter().filter(|parameter| parameter["in"] == "query");
        let parameters = names(parameters.map(|parameter| parameter["name"].as_str().unwrap()));
        let answer = admin.ask(method, &format!("{target}?zzz=1"), None);
        let read = known(&answer, "?zzz").unwrap_or_default();
        assert_eq!(read, parameters, "{method} {path}");
        queries += usize::from(!read.is_empty());
    }
    assert!(bodies > 8 && queries > 4, "{bodies} {queries}");
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(|(method, operation)| {
            let method = match method.as_str() {
                "get" => "GET",
                "post" => "POST",
                "patch" => "PATCH",
                "delete" => "DELETE",
                other => panic!("{other}"),
            };
            (path.as_str(), method, operation)
        })
    })
}
