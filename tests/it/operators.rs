//! Operators: made, changed and ended over the API and by commands, and what one may not do for another.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use octroi::model::change::{NewMachine, NewOperator, OperatorEdit};
use octroi::model::operator::Right;
use octroi::model::{Authority, Change, ChangeError, Operator, OperatorId, Rights, Timestamp};
use octroi::registry::Left;
use octroi::usage::Usage;
use serde_json::{Value, json};

use crate::support::admin::{exchange, labelled, over_tcp, text};
use crate::support::client::{Answer, eventually};
use crate::support::program::{Ran, octroi, run};
use crate::support::{Admin, Gateway, Upstream, gateway};

fn start() -> (Upstream, Gateway, Admin) {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    (upstream, gateway, admin)
}

/// An operator as made, `secret` included.
fn operator(admin: &Admin, name: &str, rights: &[Right]) -> Value {
    let rights: Vec<&str> = rights.iter().map(|right| right.as_str()).collect();
    admin.done("POST", "/v1/operators", json!({"name": name, "rights": rights}))
}

fn url(of: &Value) -> String {
    format!("/v1/operators/{}", text(&of["id"]))
}

/// One request over TCP with the token of `operator`.
fn ask_as(gateway: &Gateway, operator: &Value, method: &str, target: &str, body: &Value) -> Answer {
    let headers = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", text(&operator["secret"]));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    over_tcp(gateway.admin_address(), method, target, "localhost", &headers, &body)
}

fn get_as(gateway: &Gateway, operator: &Value, target: &str) -> Answer {
    ask_as(gateway, operator, "GET", target, &Value::Null)
}

fn lacks(answer: &Answer, right: Right) {
    answer.refused(403, "right_missing");
    assert_eq!(answer.json()["right"], right.as_str(), "{}", answer.json());
}

#[test]
fn an_operator_lives_from_creation_to_deletion_and_each_change_binds_the_next_request() {
    let (_upstream, gateway, admin) = start();
    let new = json!({"name": "Jeanne Martin", "rights": ["machines:read"], "expires_in": "90d", "reason": "ticket 1"});
    let answer = admin.ask("POST", "/v1/operators", Some(&new));
    let made = answer.json();
    assert_eq!((answer.status, answer.header("location")), (201, Some(url(&made).as_str())));
    let token = text(&made["secret"]);
    assert!(token.starts_with("octroi_op_") && token.len() == "octroi_op_".len() + 36, "{token}");
    assert_eq!(made["hint"], format!("octroi_op_…{}", &token[token.len() - 4..]));
    let shown = admin.get(&url(&made));
    assert!(shown.get("secret").is_none() && text(&shown["created_by"]).starts_with("socket:"), "{shown}");
    for (name, value) in [
        ("name", json!("Jeanne Martin")),
        ("rights", json!(["machines:read"])),
        ("status", json!("active")),
        ("enabled", json!(true)),
        ("expires_at", json!(Timestamp(gateway::NOON.0 + 90 * 86_400_000).to_string())),
        ("created_at", json!(gateway::NOON.to_string())),
        ("last_used_at", Value::Null),
        ("last_used_ip", Value::Null),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }

    let status = |operator: &Value| get_as(&gateway, operator, "/v1/machines").status;
    let act = |verb: &str| admin.done("POST", &format!("{}/{verb}", url(&made)), json!({"reason": "ticket 2"}));
    assert_eq!(status(&made), 200);
    for (verb, expected) in [("disable", 401), ("disable", 401), ("enable", 200), ("enable", 200)] {
        assert_eq!((act(verb)["enabled"].as_bool(), status(&made)), (Some(expected == 200), expected), "{verb}");
    }
    let edit = |body: Value| admin.done("PATCH", &url(&made), body);
    edit(json!({"rights": ["keys:verify"]}));
    lacks(&get_as(&gateway, &made, "/v1/machines"), Right::MachinesRead);
    edit(json!({"rights": ["machines:write"]}));
    assert_eq!(status(&made), 200, "writing includes reading");
    assert_eq!((edit(json!({"expires_at": gateway::NOON.to_string()}))["status"].clone(), status(&made)), (json!("expired"), 401));
    assert_eq!((edit(json!({"expires_in": "10s"}))["status"].clone(), status(&made)), (json!("active"), 200));
    gateway.wait(Duration::from_secs(10));
    assert_eq!((status(&made), &admin.get(&url(&made))["status"]), (401, &json!("expired")));
    edit(json!({"expires_at": null}));
    let renewed = act("regenerate");
    assert_eq!((status(&made), status(&renewed)), (401, 200), "the token before ends at once");
    assert_eq!(renewed["id"], made["id"]);
    assert_eq!(admin.ask("DELETE", &format!("{}?reason=left", url(&made)), None).status, 204);
    assert_eq!(status(&renewed), 401);
    admin.ask("GET", &url(&made), None).refused(404, "not_found");
    admin.ask("DELETE", &url(&made), None).refused(404, "not_found");
    assert_eq!(admin.get("/v1/operators")["data"], json!([]), "the last one may go: the socket remains");

    let told: Vec<Value> = admin.all("/v1/journal", 50).into_iter().map(|line| line["what"].clone()).rev().collect();
    let expected = ["created", "disabled", "enabled", "edited", "edited", "edited", "edited", "edited", "regenerated", "deleted"];
    assert_eq!(told, expected.map(|what| json!(format!("operator.{what}"))), "what changed nothing is not journalled");
}

#[test]
fn everything_wrong_with_an_operator_is_said_at_once() {
    let (_upstream, _gateway, admin) = start();
    let one = operator(&admin, "one", &[Right::MachinesRead]);
    let faults = |method: &str, target: &str, body: Value| admin.faults(method, target, body);
    assert_eq!(faults("POST", "/v1/operators", json!({})), ["/name", "/rights"]);
    let all =
        json!({"name": " ", "rights": ["machines:read", "root", 1], "expires_at": "soon", "expires_in": "1w", "reason": 1, "token": "x"});
    assert_eq!(
        faults("POST", "/v1/operators", all),
        ["/name", "/rights/1", "/rights/2", "/expires_at", "/expires_in", "/reason", "/token"]
    );
    for rights in [json!([]), json!(null), json!("machines:read")] {
        assert_eq!(faults("PATCH", &url(&one), json!({"rights": rights})), ["/rights"], "{rights}");
    }
    let fixed = json!({"id": "op_x", "name": "two", "enabled": false, "status": "expired", "hint": "h", "created_by": "b", "secret": "s"});
    let pointers = ["/id", "/name", "/enabled", "/status", "/hint", "/created_by", "/secret"];
    assert_eq!(faults("PATCH", &url(&one), fixed), pointers);
    let mut same = admin.get(&url(&one));
    let with_no_warnings = |mut shown: Value| {
        shown["warnings"] = json!([]);
        shown
    };
    assert_eq!(admin.done("PATCH", &url(&one), same.clone()), with_no_warnings(same.clone()), "what was shown can be sent back");
    same["rights"] = json!(["machines:write"]);
    assert_eq!(admin.done("PATCH", &url(&one), same.clone()), with_no_warnings(same.clone()));
    admin.ask("POST", "/v1/operators", Some(&json!({"name": "one", "rights": ["machines:read"]}))).refused(409, "conflict");
    assert_eq!(admin.ask("GET", "/v1/operators?status=dead&limit=0&x=1", None).json()["errors"].as_array().unwrap().len(), 3);
    for odd in ["op_01hzzzzzzzzzzzzzzzzzzzzzzz", "nonsense", "op_%00"] {
        for (method, verb) in
            [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/enable"), ("POST", "/disable"), ("POST", "/regenerate")]
        {
            admin.ask(method, &format!("/v1/operators/{odd}{verb}"), None).refused(404, "not_found");
        }
    }
}

#[test]
fn operators_are_listed_page_by_page_and_found_by_name_and_status() {
    let (_upstream, gateway, admin) = start();
    let make = |n: u32| {
        // Ids are in the order of their milliseconds.
        gateway.wait(Duration::from_millis(1));
        operator(&admin, &format!("op {n}"), &[Right::KeysVerify])
    };
    let made: Vec<Value> = (0..5).map(make).collect();
    let names = |path: &str, limit| -> Vec<String> { admin.all(path, limit).iter().map(|operator| text(&operator["name"])).collect() };
    for limit in [1, 2, 5, 50] {
        assert_eq!(names("/v1/operators", limit), ["op 0", "op 1", "op 2", "op 3", "op 4"], "{limit}");
    }
    admin.done("POST", &format!("{}/disable", url(&made[1])), json!({}));
    admin.done("PATCH", &url(&made[3]), json!({"expires_in": "1s"}));
    gateway.wait(Duration::from_secs(1));
    assert_eq!(names("/v1/operators?status=disabled", 1), ["op 1"]);
    assert_eq!(names("/v1/operators?status=expired", 1), ["op 3"]);
    assert_eq!(names("/v1/operators?status=active", 2), ["op 0", "op 2", "op 4"]);
    assert_eq!(names("/v1/operators?name=op%202", 1), ["op 2"]);
    assert_eq!(names("/v1/operators?name=op", 1), [] as [&str; 0]);
}

#[test]
fn whoami_tells_any_token_and_the_socket_who_asks() {
    let (_upstream, gateway, admin) = start();
    let over_socket = admin.get("/v1/whoami");
    assert!(text(&over_socket["actor"]).starts_with("socket:") && over_socket["operator"].is_null(), "{over_socket}");
    assert_eq!(over_socket["rights"], json!(Right::ALL.map(Right::as_str)));
    for right in Right::ALL {
        let made = operator(&admin, right.as_str(), &[right]);
        let told = get_as(&gateway, &made, "/v1/whoami").json();
        assert_eq!((&told["actor"], &told["rights"]), (&json!(format!("operator:{right}")), &json!([right.as_str()])));
        assert_eq!((&told["operator"]["id"], told["operator"].get("secret")), (&made["id"], None));
    }
}

#[test]
fn what_was_done_to_operators_is_for_who_manages_them() {
    let (_upstream, gateway, admin) = start();
    let reader = operator(&admin, "reader", &[Right::MachinesRead]);
    let chief = operator(&admin, "chief", &[Right::MachinesRead, Right::PlatformConfigure]);
    let machine = admin.machine(json!({"name": "m"}));
    let of_chief = format!("/v1/journal?subject={}", text(&chief["id"]));
    let listed = |who: &Value, target: &str| {
        let lines = get_as(&gateway, who, target).json()["data"].clone();
        lines.as_array().unwrap().iter().map(|line| text(&line["what"])).collect::<Vec<_>>()
    };
    for target in [of_chief.as_str(), &format!("{}/activity", url(&chief)), "/v1/journal/1", "/v1/journal/2"] {
        lacks(&get_as(&gateway, &reader, target), Right::PlatformConfigure);
        assert_eq!(get_as(&gateway, &chief, target).status, 200, "{target}");
    }
    assert_eq!(listed(&reader, "/v1/journal"), ["machine.created"]);
    assert_eq!(listed(&reader, "/v1/journal?limit=1"), ["machine.created"]);
    assert!(listed(&reader, "/v1/journal?what=operator").is_empty());
    assert_eq!(listed(&chief, "/v1/journal"), ["machine.created", "operator.created", "operator.created"]);
    assert_eq!(get_as(&gateway, &reader, "/v1/journal/3").status, 200);
    assert_eq!(listed(&reader, &format!("/v1/machines/{}/activity", text(&machine["id"]))), ["machine.created"]);
}

#[test]
fn an_operator_does_not_inherit_the_answers_of_another_one_with_the_same_name() {
    let (_upstream, gateway, admin) = start();
    let make = |who: &Value, name: &str| {
        let headers =
            format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\nIdempotency-Key: deploy-1\r\n", text(&who["secret"]));
        over_tcp(gateway.admin_address(), "POST", "/v1/machines", "localhost", &headers, &json!({"name": name}).to_string())
    };
    let first = operator(&admin, "ci", &[Right::MachinesWrite]);
    assert_eq!(make(&first, "m").status, 201);
    assert_eq!(make(&first, "m").header("idempotency-replayed"), Some("true"));
    assert_eq!(admin.ask("DELETE", &url(&first), None).status, 204);
    let second = operator(&admin, "ci", &[Right::MachinesWrite]);
    make(&second, "m").refused(409, "conflict");
    assert_eq!(make(&second, "n").status, 201);
}

#[test]
fn nobody_grants_a_right_they_lack() {
    let (_upstream, gateway, admin) = start();
    let chief = operator(&admin, "chief", &[Right::MachinesWrite, Right::PlatformConfigure]);
    let verifier = operator(&admin, "verifier", &[Right::KeysVerify]);
    admin.done("POST", &format!("{}/disable", url(&verifier)), json!({}));
    let ask = |method: &str, target: &str, body: Value| ask_as(&gateway, &chief, method, target, &body);
    let of = |operator: &Value, verb: &str| format!("{}/{verb}", url(operator));
    let before = admin.all("/v1/operators", 50);
    for (method, target, body) in [
        ("POST", "/v1/operators".to_owned(), json!({"name": "x", "rights": ["keys:verify"]})),
        ("POST", "/v1/operators".to_owned(), json!({"name": "x", "rights": ["machines:read", "keys:verify"]})),
        ("PATCH", url(&chief), json!({"rights": ["platform:configure", "keys:verify"]})),
        ("PATCH", url(&verifier), json!({"expires_in": "1d"})),
        ("POST", of(&verifier, "enable"), json!({})),
        ("POST", of(&verifier, "regenerate"), json!({})),
    ] {
        lacks(&ask(method, &target, body), Right::KeysVerify);
    }
    let without_use = |mut operators: Vec<Value>| {
        operators.iter_mut().for_each(|operator| operator["last_used_at"] = Value::Null);
        operators
    };
    assert_eq!(without_use(admin.all("/v1/operators", 50)), without_use(before), "nothing was changed");

    let reader = ask("POST", "/v1/operators", json!({"name": "reader", "rights": ["machines:read"]}));
    assert_eq!(reader.status, 201, "writing includes reading, also to give it on");
    let reader = reader.json();
    assert_eq!(reader["created_by"], "operator:chief");
    assert_eq!(ask("POST", &of(&reader, "regenerate"), json!({})).status, 200);
    for (body, status) in [(json!({"rights": ["keys:verify"]}), 200), (json!({"rights": ["machines:write"]}), 200)] {
        assert_eq!(ask("PATCH", &url(&verifier), body.clone()).status, status, "what somebody has may stay, and be taken: {body}");
    }
    admin.done("PATCH", &url(&verifier), json!({"rights": ["keys:verify"]}));
    admin.done("POST", &of(&verifier, "enable"), json!({}));
    assert_eq!(ask("POST", &of(&verifier, "disable"), json!({})).status, 200);
    assert_eq!(ask("DELETE", &url(&verifier), Value::Null).status, 204);
    assert_eq!(ask("DELETE", &url(&chief), Value::Null).status, 204, "oneself too");
    assert_eq!(get_as(&gateway, &chief, "/v1/whoami").status, 401);
}

#[test]
fn third_party_machines_and_their_keys_are_for_who_configures_the_platform() {
    let (_upstream, gateway, admin) = start();
    let writer = operator(&admin, "writer", &[Right::MachinesWrite]);
    let both = operator(&admin, "both", &[Right::MachinesWrite, Right::PlatformConfigure]);
    let ours = admin.machine(json!({"name": "ours"}));
    let theirs = admin.machine(json!({"name": "theirs", "third_party": true}));
    let key = text(&admin.key(&theirs, labelled("prod - partner v1"))["id"]);
    let (ours, theirs) = (text(&ours["id"]), text(&theirs["id"]));
    let mut changes = vec![
        ("POST", "/v1/machines".to_owned(), json!({"name": "new", "third_party": true})),
        ("PATCH", format!("/v1/machines/{ours}"), json!({"third_party": true})),
        ("PATCH", format!("/v1/machines/{theirs}"), json!({"description": "x"})),
        ("POST", format!("/v1/machines/{theirs}/disable"), json!({})),
        ("POST", format!("/v1/machines/{theirs}/enable"), json!({})),
        ("POST", format!("/v1/machines/{theirs}/keys"), labelled("prod - partner v2")),
        ("PATCH", format!("/v1/keys/{key}"), json!({"label": "prod - partner v3"})),
    ];
    changes.extend(["deactivate", "reactivate", "regenerate", "revoke"].map(|verb| ("POST", format!("/v1/keys/{key}/{verb}"), json!({}))));
    changes.extend([
        ("DELETE", format!("/v1/keys/{key}"), Value::Null),
        ("PATCH", format!("/v1/machines/{theirs}"), json!({"third_party": false})),
        ("PATCH", format!("/v1/machines/{ours}"), json!({"third_party": true})),
        ("DELETE", format!("/v1/machines/{ours}"), Value::Null),
    ]);
    let journal = admin.get("/v1/journal");
    for (method, target, body) in &changes[..changes.len() - 2] {
        lacks(&ask_as(&gateway, &writer, method, target, body), Right::PlatformConfigure);
    }
    assert_eq!(admin.get("/v1/journal"), journal, "nothing was changed");
    for target in [format!("/v1/machines/{theirs}"), format!("/v1/machines/{theirs}/keys"), format!("/v1/keys/{key}/usage")] {
        assert_eq!(get_as(&gateway, &writer, &target).status, 200, "seeing is no change: {target}");
    }
    assert_eq!(ask_as(&gateway, &writer, "PATCH", &format!("/v1/machines/{ours}"), &json!({"description": "x"})).status, 200);
    for (method, target, body) in &changes {
        let answer = ask_as(&gateway, &both, method, target, body);
        assert!((200..300).contains(&answer.status), "{method} {target}: {answer:?}");
    }
    assert_eq!(admin.get("/v1/journal?limit=1")["data"][0]["actor"], "operator:both");
    assert_eq!(admin.get("/v1/journal?limit=1")["data"][0]["address"], "127.0.0.1");
}

#[test]
fn the_last_use_of_a_token_is_the_last_request_it_was_enough_for_and_survives_a_restart() {
    let (_upstream, mut gateway, admin) = start();
    let made = operator(&admin, "reader", &[Right::MachinesRead]);
    let shown = || {
        let shown = admin.get(&url(&made));
        (shown["last_used_at"].clone(), shown["last_used_ip"].clone())
    };
    let used = |seconds: i64| (json!(Timestamp(gateway::NOON.0 + seconds * 1_000).to_string()), json!("127.0.0.1"));
    assert_eq!(shown(), (Value::Null, Value::Null));
    assert_eq!(get_as(&gateway, &made, "/v1/machines").status, 200);
    assert_eq!(shown(), used(0));
    gateway.wait(Duration::from_secs(5));
    lacks(&ask_as(&gateway, &made, "POST", "/v1/machines", &json!({"name": "x"})), Right::MachinesWrite);
    admin.done("POST", &format!("{}/disable", url(&made)), json!({}));
    assert_eq!(get_as(&gateway, &made, "/v1/machines").status, 401);
    admin.done("POST", &format!("{}/enable", url(&made)), json!({}));
    admin.done("PATCH", &url(&made), json!({"expires_in": "0s"}));
    assert_eq!(get_as(&gateway, &made, "/v1/machines").status, 401);
    admin.done("PATCH", &url(&made), json!({"expires_at": null}));
    assert_eq!(shown(), used(0), "a refused use is none");
    assert_eq!(get_as(&gateway, &made, "/v1/nothing").status, 404);
    assert_eq!(shown(), used(5), "the token was good, whatever became of the request");
    let id: OperatorId = text(&made["id"]).parse().unwrap();
    eventually("the use in the log", || (persisted(&gateway.dir().join("data"), id) == Some(gateway::NOON.0 + 5_000)).then_some(()));
    gateway.restart();
    assert_eq!(shown(), used(5));
}

/// The last use that a start would find in the usage log as it is now: opened as a copy, since the gateway goes on writing.
fn persisted(store: &Path, id: OperatorId) -> Option<i64> {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(store.join("usage/usage.log"), copy.path().join("usage.log")).unwrap();
    Usage::open(copy.path()).unwrap().0.of_operator(id).map(|last| last.at.0)
}

#[test]
fn an_operator_lives_by_commands_alone() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let socket = Admin::of(&gateway).socket().to_owned();
    let shell = |args: &[&str]| -> Ran {
        let args = [&["operator"], args, &["--socket", socket.to_str().unwrap()]].concat();
        run(octroi(gateway.dir(), &args))
    };
    let json = |args: &[&str]| shell(&[args, &["--output", "json"]].concat()).json();
    let status = |token: &str| {
        let headers = format!("Authorization: Bearer {token}\r\n");
        over_tcp(gateway.admin_address(), "GET", "/v1/machines", "localhost", &headers, "").status
    };
    let name = "Jeanne Martin";
    let made = shell(&["create", name, "--right", "machines:write", "--right", "platform:configure", "--expires", "90d"]);
    let token = made.done().lines().find(|line| line.starts_with("octroi_op_")).unwrap().to_owned();
    assert!(made.out.contains("machines:write, platform:configure") && made.out.contains("in 90 days") && made.err.is_empty(), "{made:?}");
    assert_eq!(status(&token), 200);
    let quiet = shell(&["create", "console", "--right", "machines:read", "--quiet", "--reason", "ticket 7"]);
    assert_eq!((quiet.done().lines().count(), status(quiet.out.trim_end())), (1, 200));
    assert_eq!(text(&json(&["create", "robot", "--right", "keys:verify"])["secret"]).len(), 46);

    let table = shell(&["list"]);
    assert!(table.done().starts_with("ID ") && table.out.contains(name) && table.out.contains("just now"), "{table:?}");
    assert_eq!(json(&["list"])["data"].as_array().unwrap().len(), 3);
    let shown = json(&["show", name]);
    assert_eq!(json(&["show", &text(&shown["id"])])["id"], shown["id"], "by id as by name");
    let card = shell(&["show", name]);
    assert!(card.done().contains("from 127.0.0.1") && !card.out.contains(&token), "{card:?}");
    let edited = json(&["edit", name, "--right", "machines:read", "--expires", "never"]);
    assert_eq!((&edited["rights"], &edited["expires_at"]), (&json!(["machines:read"]), &Value::Null));
    shell(&["edit", name]).failed(2);
    shell(&["disable", name]).done();
    assert_eq!(status(&token), 401);
    shell(&["enable", name, "--reason", "back"]).done();
    assert_eq!(status(&token), 200);
    let renewed = shell(&["regenerate", name, "--quiet"]);
    assert_eq!((status(&token), status(renewed.done().trim_end())), (401, 200));
    assert!(shell(&["delete", name]).failed(2).contains("delete the operator \"Jeanne Martin\", for good"));
    shell(&["delete", name, "--yes"]).done();
    assert_eq!(status(renewed.out.trim_end()), 401);
    assert!(shell(&["show", name]).failed(1).contains("no operator has the id or name"));
    let pasted = shell(&["show", &token]);
    assert!(pasted.failed(1).contains("a secret value, which no command takes") && !pasted.err.contains(&token[10..]), "{pasted:?}");
}

// --- what was begun --------------------------------------------------------------------------------------------------------------

/// A POST whose head was good enough: the gateway asks for its body, which is still to come.
struct Begun {
    stream: TcpStream,
    body: String,
}

impl Begun {
    fn of(gateway: &Gateway, operator: &Value, target: &str, headers: &str, body: &Value) -> Begun {
        let (mut stream, body) = (TcpStream::connect(gateway.admin_address()).unwrap(), body.to_string());
        let token = text(&operator["secret"]);
        let fields = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        let expects = "Connection: close\r\nExpect: 100-continue";
        write!(stream, "POST {target} HTTP/1.1\r\nHost: localhost\r\n{expects}\r\n{fields}\r\n{headers}\r\n").unwrap();
        let mut interim = *b"HTTP/1.1 ??? Continue\r\n\r\n";
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n", "{target}");
        Begun { stream, body }
    }

    fn end(self) -> Answer {
        exchange(self.stream, &self.body).expect("an answer before the connection ends")
    }
}

/// What can be the end of a token, each in its way.
const ENDINGS: [&str; 4] = ["disabled", "deleted", "regenerated", "expired"];

fn bring_to_an_end(gateway: &Gateway, admin: &Admin, operator: &Value, ending: &str) {
    match ending {
        "disabled" => drop(admin.done("POST", &format!("{}/disable", url(operator)), json!({}))),
        "deleted" => drop(admin.done("DELETE", &url(operator), Value::Null)),
        "regenerated" => drop(admin.done("POST", &format!("{}/regenerate", url(operator)), json!({}))),
        _ => {
            admin.done("PATCH", &url(operator), json!({"expires_in": "10s"}));
            gateway.wait(Duration::from_secs(10));
        }
    }
}

#[test]
fn whoever_lost_their_token_or_right_since_the_head_gets_nothing_for_the_body() {
    let (_upstream, gateway, admin) = start();
    let archive = gateway.dir().join("archive");
    let asked = [
        ("/v1/operators", json!({"name": "backdoor", "rights": ["machines:read"]}), Right::PlatformConfigure),
        ("/v1/machines", json!({"name": "backdoor"}), Right::MachinesWrite),
        ("/v1/keys/bulk", json!({"keys": [{"machine": "known", "label": "prod - backdoor v1"}]}), Right::MachinesWrite),
        ("/v1/verify", json!({"key": "x"}), Right::KeysVerify),
        ("/v1/explain", json!({"method": "GET", "url": "/v1/sensors"}), Right::MachinesRead),
        ("/v1/store/backup", json!({}), Right::PlatformConfigure),
        ("/v1/journal/archive", json!({"to": archive}), Right::PlatformConfigure),
    ];
    admin.machine(json!({"name": "known"}));
    let mut made = 0;
    let mut chief = || {
        made += 1;
        operator(&admin, &format!("chief {made}"), &Right::ALL)
    };
    for (target, body, right) in &asked {
        for ending in ENDINGS {
            let chief = chief();
            let begun = Begun::of(&gateway, &chief, target, "", body);
            bring_to_an_end(&gateway, &admin, &chief, ending);
            begun.end().refused(401, "token_invalid");
        }
        let chief = chief();
        let begun = Begun::of(&gateway, &chief, target, "", body);
        let left = if *right == Right::KeysVerify { Right::PlatformConfigure } else { Right::KeysVerify };
        admin.done("PATCH", &url(&chief), json!({"rights": [left.as_str()]}));
        lacks(&begun.end(), *right);
        assert_eq!(admin.get(&url(&chief))["last_used_at"], Value::Null, "{target}: a use that was refused is none");
    }
    assert_eq!(admin.get("/v1/operators?name=backdoor")["data"], json!([]));
    assert_eq!(admin.get("/v1/machines?name=backdoor")["data"], json!([]));
    assert_eq!(admin.get("/v1/keys")["data"], json!([]));
    assert!(!archive.exists());

    let (named, body) = ("Idempotency-Key: 1\r\n", json!({"name": "made"}));
    let chief = chief();
    assert_eq!(Begun::of(&gateway, &chief, "/v1/machines", named, &body).end().status, 201);
    let again = Begun::of(&gateway, &chief, "/v1/machines", named, &body);
    bring_to_an_end(&gateway, &admin, &chief, "disabled");
    again.end().refused(401, "token_invalid");
}

#[test]
fn a_change_is_judged_by_what_its_operator_may_do_when_its_turn_comes() {
    let (_upstream, gateway, _admin) = start();
    let mut made = 0;
    let mut operator = |rights: &[Right]| -> (Operator, Authority) {
        made += 1;
        let new = NewOperator { name: format!("operator {made}"), rights: rights.iter().copied().collect(), expires_at: None };
        match gateway.commit(Change::CreateOperator(new)).unwrap().left {
            Left::Operator(made) => (made.clone(), Authority::Token { operator: made.id, hash: made.hash }),
            other => panic!("{other:?}"),
        }
    };
    let mut names = 0;
    let mut machine = || {
        names += 1;
        Change::CreateMachine(NewMachine { name: format!("machine {names}"), ..NewMachine::default() })
    };
    let edited = |id, edit: OperatorEdit| Change::EditOperator(id, edit);
    for ending in [Change::DisableOperator, Change::DeleteOperator, Change::RegenerateOperator, |id| {
        Change::EditOperator(id, OperatorEdit { expires_at: Some(Some(gateway::NOON)), ..OperatorEdit::default() })
    }] {
        let (operator, authority) = operator(&[Right::MachinesWrite]);
        assert!(gateway.commit_by(authority, machine()).is_ok());
        gateway.commit(ending(operator.id)).unwrap();
        let refused = gateway.commit_by(authority, machine()).unwrap_err();
        assert!(matches!(refused, ChangeError::TokenInvalid(_)), "{refused}");
    }
    let (other, authority) = operator(&[Right::MachinesWrite, Right::PlatformConfigure]);
    let rights = |rights: &[Right]| OperatorEdit { rights: Some(rights.iter().copied().collect::<Rights>()), ..OperatorEdit::default() };
    let lacks = |change: Change, right: Right| {
        let refused = gateway.commit_by(authority, change).unwrap_err();
        assert!(matches!(refused, ChangeError::RightMissing { right: missing, .. } if missing == right), "{refused}");
    };
    gateway.commit(edited(other.id, rights(&[Right::PlatformConfigure]))).unwrap();
    lacks(machine(), Right::MachinesWrite);
    assert!(gateway.commit_by(authority, Change::DisableOperator(operator(&[Right::MachinesRead]).0.id)).is_ok());
    gateway.commit(edited(other.id, rights(&[Right::MachinesWrite]))).unwrap();
    lacks(Change::DeleteOperator(other.id), Right::PlatformConfigure);
    assert!(gateway.commit_by(authority, machine()).is_ok());
}

#[test]
fn a_long_answer_breaks_off_when_its_operator_is_stopped() {
    let (_upstream, gateway, admin) = start();
    let machine = admin.machine(json!({"name": "caller"}));
    let description = "x".repeat(900);
    for n in 0..8 {
        let keys: Vec<Value> = (0..1_000)
            .map(|i| json!({"machine": machine["id"], "label": format!("prod - part {n}.{i} v1"), "description": description}))
            .collect();
        admin.done("POST", "/v1/keys/bulk", json!({"keys": keys}));
    }
    let chief = operator(&admin, "chief", &[Right::PlatformConfigure]);
    for (method, target) in [("POST", "/v1/store/backup"), ("GET", "/v1/journal/export")] {
        let whole = ask_as(&gateway, &chief, method, target, &Value::Null).body;
        assert!(whole.ends_with(b"\r\n0\r\n\r\n") && whole.len() > 8 << 20, "{target}: {}", whole.len());
        let mut stream = TcpStream::connect(gateway.admin_address()).unwrap();
        let token = text(&chief["secret"]);
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        admin.done("POST", &format!("{}/disable", url(&chief)), json!({}));
        let mut rest = Vec::new();
        // However the connection ends.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < whole.len() && !rest.ends_with(b"0\r\n\r\n"), "{target}: {} of {}", rest.len(), whole.len());
        admin.done("POST", &format!("{}/enable", url(&chief)), json!({}));
    }
}
