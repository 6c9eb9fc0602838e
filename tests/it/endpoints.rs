//! Every endpoint of the table, one after the other: it does what its description says, refuses what is wrong, heeds the state that a request
//! demands, and does a request that is sent twice once.

use std::collections::BTreeSet;

use octroi::admin::endpoint_table;
use serde_json::{Value, json};

use crate::support::admin::{labelled, request, text};
use crate::support::client::Answer;
use crate::support::{Admin, Gateway, Upstream};

const ROUND: usize = 1_000;

/// A gateway, and its own description.
struct World {
    gateway: Gateway,
    admin: Admin,
    document: Value,
    _upstream: Upstream,
}

/// An operation, with something of its own that it can be asked about.
struct Case<'w> {
    admin: &'w Admin,
    method: String,
    /// As the table has it.
    path: String,
    target: String,
    /// What it takes; null where it takes nothing.
    body: Value,
    described: Value,
}

impl World {
    fn new() -> World {
        let upstream = Upstream::plain();
        let gateway = Gateway::before(upstream.address);
        let admin = Admin::of(&gateway);
        World { document: admin.get("/openapi.json"), gateway, admin, _upstream: upstream }
    }

    fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        endpoint_table().into_iter().enumerate().map(|(n, (method, path, _))| self.case(n, method.to_string(), path))
    }

    fn case(&self, n: usize, method: String, path: String) -> Case<'_> {
        let machine = self.admin.machine(json!({"name": format!("machine {n}"), "permissions": ["sensors:read"]}));
        let key = self.admin.key(&machine, labelled("prod - billing v1"));
        let operator = self.admin.done("POST", "/v1/operators", json!({"name": format!("operator {n}"), "rights": ["machines:read"]}));
        let body = match (method.as_str(), path.as_str()) {
            ("POST", "/v1/machines") => json!({"name": format!("new {n}")}),
            ("PATCH", "/v1/machines/{id}") => json!({"contact": "ops"}),
            ("POST", "/v1/machines/{id}/keys") => labelled("prod - billing v2"),
            ("POST", "/v1/keys/bulk") => json!({"keys": [{"machine": machine["id"], "label": "prod - billing v2"}]}),
            ("PATCH", "/v1/keys/{id}") => json!({"description": "d"}),
            ("POST", "/v1/explain") => json!({"method": "GET", "url": "/v1/sensors", "key": key["secret"]}),
            ("POST", "/v1/verify") => json!({"key": key["secret"], "permission": "sensors:read"}),
            ("POST", "/v1/operators") => json!({"name": format!("new {n}"), "rights": ["machines:read"]}),
            ("PATCH", "/v1/operators/{id}") => json!({"expires_in": "1d"}),
            ("POST", "/v1/journal/archive") => json!({"to": self.gateway.dir().join("archive")}),
            _ => Value::Null,
        };
        let id = match path.split('/').nth(2) {
            Some("machines") => &machine["id"],
            Some("keys") => &key["id"],
            _ => &operator["id"],
        };
        let last = || self.admin.get("/v1/journal?limit=1")["data"][0]["seq"].to_string();
        let target = path.replace("{id}", &text(id)).replace("{seq}", &last());
        let described = self.document["paths"][&path][method.to_lowercase()].clone();
        Case { admin: &self.admin, method, path, target, body, described }
    }
}

impl Case<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn asked(&self, headers: &str) -> Answer {
        self.asked_with(headers, &if self.body.is_null() { String::new() } else { self.body.to_string() })
    }

    fn asked_with(&self, headers: &str, body: &str) -> Answer {
        let headers = format!("Content-Type: application/json\r\n{headers}");
        self.admin.send(&request(&self.method, &self.target, "localhost", &headers, body)).expect("an answer")
    }

    /// The status of a good answer, and what is said of it.
    fn good(&self) -> (u16, &Value) {
        let responses = self.described["responses"].as_object().unwrap_or_else(|| panic!("{} is not described", self.name()));
        let (status, said) = responses.iter().find(|(status, _)| status.starts_with('2')).expect("a good answer");
        (status.parse().unwrap(), said)
    }

    fn is_stream(&self) -> bool {
        self.good().1["content"].as_object().is_some_and(|content| !content.contains_key("application/json"))
    }

    fn parameters(&self, place: &str) -> BTreeSet<String> {
        let parameters = self.described["parameters"].as_array().unwrap().iter();
        parameters.filter(|parameter| parameter["in"] == place).map(|parameter| text(&parameter["name"])).collect()
    }
}

/// The members that an answer must have, by the description.
fn required(document: &Value, schema: &Value) -> Vec<String> {
    let schema = match schema["$ref"].as_str() {
        Some(to) => document.pointer(to.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    schema["required"].as_array().into_iter().flatten().map(text).collect()
}

#[test]
fn every_endpoint_has_a_good_case_and_answers_as_it_is_described() {
    let world = World::new();
    let mut count = 0;
    for case in world.cases() {
        let (answer, (status, said)) = (case.asked(""), case.good());
        let name = case.name();
        assert_eq!(answer.status, status, "{name}: {}", String::from_utf8_lossy(&answer.body));
        let promised = |header: &str| said["headers"].get(header).is_some();
        for header in ["ETag", "Location", "Octroi-Head"] {
            assert_eq!(answer.header(&header.to_lowercase()).is_some(), promised(header), "{name}: {header}");
        }
        let Some((media, content)) = said["content"].as_object().and_then(|content| content.iter().next()) else {
            assert!(status == 204 && answer.body.is_empty(), "{name}");
            count += 1;
            continue;
        };
        assert_eq!(answer.header("content-type"), Some(media.as_str()), "{name}");
        if !case.is_stream() {
            let (json, members) = (answer.json(), required(&world.document, &content["schema"]));
            members.iter().for_each(|member| assert!(json.get(member).is_some(), "{name}: {member}: {json}"));
        }
        count += 1;
    }
    assert_eq!(count, endpoint_table().len());
}

#[test]
fn every_endpoint_refuses_what_is_wrong_with_what_it_takes() {
    let world = World::new();
    let mut takes_nothing = BTreeSet::new();
    for mut case in world.cases() {
        let name = case.name();
        let bodies = case.described["requestBody"].is_object();
        if bodies {
            for body in ["[]", "{", "{\"zzz\": 1}", "null"] {
                case.asked_with("", body).refused(400, "invalid");
            }
        }
        let is_paged = case.parameters("query").contains("limit");
        if !case.parameters("query").is_empty() {
            let target = case.target.clone();
            case.target = format!("{target}?zzz=1{}", if is_paged { "&limit=0&cursor=x" } else { "" });
            let answer = case.asked("");
            answer.refused(400, "invalid");
            assert_eq!(answer.json()["errors"].as_array().unwrap().len(), if is_paged { 3 } else { 1 }, "{name}: all at once");
            case.target = target;
        }
        if case.path.contains('{') {
            let nobody = ["nobody", "0", "mac_00000000000000000000000000", "key_00000000000000000000000000", "%00"];
            for id in nobody {
                case.target = case.path.replace("{id}", id).replace("{seq}", id);
                case.asked("").refused(404, "not_found");
            }
        }
        if !bodies && case.parameters("query").is_empty() && !case.path.contains('{') {
            takes_nothing.insert(name);
        }
    }
    let expected = ["config", "permissions", "routes", "store/verify", "tiers", "usage", "whoami"].map(|path| format!("GET /v1/{path}"));
    assert_eq!(takes_nothing, BTreeSet::from(expected).into_iter().chain(["POST /v1/store/backup".to_owned()]).collect());
}

#[test]
fn every_record_and_every_change_of_one_heeds_the_state_that_is_demanded() {
    let world = World::new();
    let mut seen = BTreeSet::new();
    for case in world.cases() {
        let (name, headers) = (case.name(), case.parameters("header"));
        if headers.contains("If-None-Match") {
            let tag = case.asked("").header("etag").unwrap().to_owned();
            let answer = case.asked(&format!("If-None-Match: {tag}\r\n"));
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{name}");
            case.asked("If-None-Match: x\r\n").refused(400, "invalid");
            seen.insert(name);
        } else if headers.contains("If-Match") {
            let record = case.target.split('/').take(4).collect::<Vec<_>>().join("/");
            let before = case.admin.ask("GET", &record, None);
            for stale in ["\"0\"", "\"foreign\"", "W/\"1\""] {
                case.asked(&format!("If-Match: {stale}\r\n")).refused(412, "precondition_failed");
            }
            case.asked("If-Match: x\r\n").refused(400, "invalid");
            assert_eq!(case.admin.ask("GET", &record, None).body, before.body, "{name}: nothing was done");
            let answer = case.asked(&format!("If-Match: {}\r\n", before.header("etag").unwrap()));
            assert_eq!(answer.status, case.good().0, "{name}: {}", String::from_utf8_lossy(&answer.body));
            if answer.status == 200 {
                assert_eq!(answer.header("etag"), case.admin.ask("GET", &record, None).header("etag"), "{name}: as it is shown afterwards");
            }
            seen.insert(name);
        }
    }
    let of_one_record = |(method, path, _): &(http::Method, String, _)| {
        let has_no_state = ["usage", "activity", "keys"].iter().any(|end| path.ends_with(&format!("}}/{end}")));
        (path.contains("{id}") && !has_no_state).then(|| format!("{method} {path}"))
    };
    assert_eq!(seen, endpoint_table().iter().filter_map(of_one_record).collect());
}

#[test]
fn every_post_that_is_sent_twice_is_done_once() {
    let world = World::new();
    let mut posts = 0;
    for case in world.cases().filter(|case| case.method == "POST") {
        let (name, header) = (case.name(), format!("Idempotency-Key: {posts}\r\n"));
        let first = case.asked(&header);
        assert_eq!(first.status, case.good().0, "{name}");
        let journal = case.admin.get("/v1/journal?limit=1")["data"][0]["seq"].clone();
        let again = case.asked(&header);
        assert_eq!(again.status, first.status, "{name}");
        assert_eq!(case.admin.get("/v1/journal?limit=1")["data"][0]["seq"], journal, "{name}");
        posts += 1;
        if ["/v1/verify", "/v1/explain", "/v1/store/backup"].iter().any(|only_asks| name.ends_with(only_asks)) {
            assert_eq!(again.header("idempotency-replayed"), None, "{name}: it holds for the moment, and is answered anew");
            continue;
        }
        assert_eq!(again.header("idempotency-replayed"), Some("true"), "{name}");
        let mut expected = first.json();
        take_secrets(&mut expected);
        assert_eq!(again.json(), expected, "{name}");
    }
    assert!(posts > 15, "{posts}");
}

/// Puts null in the place of each value.
fn take_secrets(json: &mut Value) {
    match json {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| match name.as_str() {
            "secret" => *value = Value::Null,
            _ => take_secrets(value),
        }),
        Value::Array(entries) => entries.iter_mut().for_each(take_secrets),
        _ => {}
    }
}

#[test]
fn many_keys_that_are_asked_for_twice_are_made_once() {
    let world = World::new();
    let machine = world.admin.machine(json!({"name": "caller", "permissions": ["sensors:read"]}));
    let key = |n: usize| json!({"machine": "caller", "label": format!("prod - billing v{n}"), "description": "d".repeat(700)});
    let lines: String = (0..ROUND).map(|n| format!("{}\n", key(n))).collect();
    let json =
        json!({"keys": (0..ROUND).map(|n| json!({"machine": machine["id"], "label": format!("prod - json v{n}")})).collect::<Vec<_>>()});
    for (round, (media, body)) in [("application/x-ndjson", lines), ("application/json", json.to_string())].into_iter().enumerate() {
        let ask = || {
            let headers = format!("Content-Type: {media}\r\nIdempotency-Key: round-{round}\r\n");
            world.admin.send(&request("POST", "/v1/keys/bulk", "localhost", &headers, &body)).expect("an answer")
        };
        let (first, again) = (ask(), ask());
        assert_eq!((first.status, again.status, again.header("idempotency-replayed")), (200, 200, Some("true")), "{media}");
        let (mut first, again) = (first.json(), again.json());
        let made = |answer: &Value| answer["data"].as_array().unwrap().iter().filter(|item| item["key"]["secret"].is_string()).count();
        assert_eq!((made(&first), made(&again)), (ROUND, 0), "{media}");
        take_secrets(&mut first);
        assert!(first == again, "{media}");
        let keys = world.admin.all(&format!("/v1/machines/{}/keys", text(&machine["id"])), 500);
        assert_eq!(keys.len(), (round + 1) * ROUND, "{media}");
    }
}
