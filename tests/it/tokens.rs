//! The door of the admin plane over TCP: which token opens which endpoint, what happens to who has none, and that no token stands anywhere.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use octroi::admin::endpoint_table;
use octroi::config;
use octroi::model::operator::{Right, Rights};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::admin::{labelled, over_tcp, text};
use crate::support::client::{Answer, Connection};
use crate::support::program::{Program, octroi, run};
use crate::support::{Admin, Gateway, Upstream, gateway};

fn start() -> (Upstream, Gateway, Admin) {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let admin = Admin::of(&gateway);
    (upstream, gateway, admin)
}

/// An operator's token.
fn token(admin: &Admin, name: &str, rights: &[Right]) -> String {
    let rights: Vec<&str> = rights.iter().map(|right| right.as_str()).collect();
    text(&admin.done("POST", "/v1/operators", json!({"name": name, "rights": rights}))["secret"])
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Every endpoint, asked about something that is not there, so that who may ask does no harm.
fn endpoints() -> Vec<(String, String, Option<Right>)> {
    let target =
        |path: String| path.split('/').map(|part| if part.starts_with('{') { "nobody" } else { part }).collect::<Vec<_>>().join("/");
    endpoint_table().into_iter().map(|(method, path, right)| (method.to_string(), target(path), right)).collect()
}

#[test]
fn t219_every_endpoint_opens_to_its_right_and_to_nothing_else() {
    let (_upstream, gateway, admin) = start();
    let to = gateway.admin_address();
    let holders = Right::ALL.map(|right| (right, token(&admin, right.as_str(), &[right])));
    let all = token(&admin, "all", &Right::ALL);
    for (method, target, needed) in endpoints() {
        let ask = |token: &str| over_tcp(to, &method, &target, "localhost", &bearer(token), "");
        for (held, token) in &holders {
            let answer = ask(token);
            match needed.filter(|needed| !Rights::from_iter([*held]).allow(*needed)) {
                None => assert!(!matches!(answer.status, 401 | 403), "{held}: {method} {target}: {answer:?}"),
                Some(needed) => {
                    answer.refused(403, "right_missing");
                    assert_eq!(answer.json()["right"], needed.as_str(), "{held}: {method} {target}");
                }
            }
        }
        assert!(!matches!(ask(&all).status, 401 | 403), "{method} {target}");
    }
}

#[test]
fn keys_verify_opens_the_verify_call_and_platform_configure_what_is_the_platforms() {
    let of = |right: Right| -> BTreeSet<String> {
        endpoints()
            .into_iter()
            .filter(|(_, _, needed)| *needed == Some(right))
            .map(|(method, target, _)| format!("{method} {target}"))
            .collect()
    };
    assert!(of(Right::KeysVerify).is_subset(&BTreeSet::from(["POST /v1/verify".to_owned()])), "{:?}", of(Right::KeysVerify));
    for right in [Right::MachinesRead, Right::KeysVerify] {
        let changing = of(right).into_iter().find(|asked| !asked.starts_with("GET ") && !asked.starts_with("POST "));
        assert_eq!(changing, None, "{right} changes nothing");
    }
    let open: Vec<_> = endpoints().into_iter().filter(|(_, _, needed)| needed.is_none()).map(|(_, target, _)| target).collect();
    assert_eq!(open, ["/v1/whoami"], "what any token opens");
    let operators = endpoints().into_iter().filter(|(_, target, _)| target.starts_with("/v1/operators"));
    assert!(operators.clone().count() > 7 && operators.clone().all(|(_, _, needed)| needed == Some(Right::PlatformConfigure)));
}

#[test]
fn t212_t219_no_endpoint_opens_without_a_token_that_counts_now() {
    let (_upstream, gateway, admin) = start();
    let to = gateway.admin_address();
    let machine = admin.machine(json!({"name": "caller", "permissions": ["admin"]}));
    let key = text(&admin.key(&machine, labelled("prod - billing v1"))["secret"]);
    let good = token(&admin, "good", &Right::ALL);
    let spoilt = ["expired", "disabled", "deleted", "regenerated"].map(|how| (how, token(&admin, how, &Right::ALL)));
    for operator in admin.all("/v1/operators", 50) {
        let url = format!("/v1/operators/{}", text(&operator["id"]));
        match text(&operator["name"]).as_str() {
            "expired" => drop(admin.done("PATCH", &url, json!({"expires_at": "2020-01-01T00:00:00Z"}))),
            "disabled" => drop(admin.done("POST", &format!("{url}/disable"), json!({}))),
            "deleted" => drop(admin.done("DELETE", &url, Value::Null)),
            "regenerated" => drop(admin.done("POST", &format!("{url}/regenerate"), json!({}))),
            _ => {}
        }
    }
    let journal = admin.get("/v1/journal");
    let wrong = [
        ("garbage", bearer("x")),
        ("nothing", bearer("")),
        ("an API key", bearer(&key)),
        ("a wrong checksum", bearer(&format!("{}0", &good[..good.len() - 1]))),
        ("two fields", bearer(&good) + &bearer(&good)),
        ("another scheme", format!("Authorization: Basic {good}\r\n")),
        ("no scheme", format!("Authorization: {good}\r\n")),
    ];
    let wrong: Vec<(&str, String)> = wrong.into_iter().chain(spoilt.iter().map(|(how, token)| (*how, bearer(token)))).collect();
    for (method, target, _) in endpoints() {
        // As long as the brake on guessing needs to forget.
        gateway.wait(Duration::from_secs(60));
        let ask = |target: &str, headers: &str| over_tcp(to, &method, target, "localhost", headers, "");
        ask(&target, "").refused(401, "token_missing");
        ask(&format!("{target}?token={good}&access_token={good}&api_key={good}"), "").refused(401, "token_missing");
        ask(&target, &format!("X-API-Key: {good}\r\nCookie: token={good}\r\n")).refused(401, "token_missing");
        for (how, headers) in &wrong {
            let answer = ask(&target, headers);
            assert_eq!((answer.status, text(&answer.json()["code"])), (401, "token_invalid".to_owned()), "{how}: {method} {target}");
        }
    }
    assert_eq!(admin.get("/v1/journal"), journal, "nothing was done");
    assert_eq!(over_tcp(to, "GET", "/v1/whoami", "localhost", &bearer(&good), "").status, 200);
    assert_eq!(gateway.get("/any/x", &[("X-API-Key", &good)]).status, 401, "no token is a key");
}

#[test]
fn t212_a_fresh_folder_lets_nobody_in_but_by_the_socket() {
    let (_upstream, mut gateway, admin) = start();
    let to = gateway.admin_address();
    assert!(to.ip().is_loopback());
    assert_eq!((admin.get("/v1/operators")["data"].clone(), admin.get("/v1/journal")["data"].clone()), (json!([]), json!([])));
    let new = json!({"name": "first", "rights": Right::ALL.map(Right::as_str)});
    let post = |headers: &str| {
        let headers = format!("{headers}Content-Type: application/json\r\n");
        over_tcp(to, "POST", "/v1/operators", "localhost", &headers, &new.to_string())
    };
    post("").refused(401, "token_missing");
    for guess in ["", "admin", "octroi", "changeme", "octroi_op_", &format!("octroi_op_{}", "0".repeat(36))] {
        post(&bearer(guess)).refused(401, "token_invalid");
    }
    post("Authorization: Basic YWRtaW46YWRtaW4=\r\n").refused(401, "token_invalid");
    assert_eq!(admin.get("/v1/operators")["data"], json!([]));
    let tokens = BTreeSet::from([token(&admin, "first", &Right::ALL), token(&admin, "second", &[Right::MachinesRead])]);
    assert!(tokens.len() == 2 && tokens.iter().all(|token| token.len() == "octroi_op_".len() + 36), "30 of 62 characters: 178 bit");
    gateway.stop();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for (path, _) in files(&gateway.dir().join("data/journal")).into_iter().chain(files(&gateway.dir().join("data/usage"))) {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(&gateway.dir().join("data")), 0o700);
}

#[test]
fn t212_the_admin_listener_stays_on_this_machine_unless_told_otherwise() {
    let settings = |admin: &str| {
        let text = gateway::settings("127.0.0.1:1".parse().unwrap()).replace("admin: {bind: '127.0.0.1:0'}\n", admin);
        config::parse(&text, Path::new("octroi.yaml"), &|_| None)
    };
    assert!(settings("").unwrap().admin.bind.is_some_and(|bind| bind.ip().is_loopback()), "by default");
    for open in ["0.0.0.0:8090", "[::]:8090", "192.0.2.1:8090", "[::ffff:192.0.2.1]:8090"] {
        let findings = settings(&format!("admin: {{bind: '{open}'}}\n")).expect_err(open).to_string();
        assert!(findings.contains("octroi.yaml:2:") && findings.contains("admin.bind") && findings.contains("TLS"), "{findings}");
    }
}

#[test]
fn t218_wrong_tokens_from_an_address_are_slowed_and_valid_ones_still_pass() {
    let (_upstream, gateway, admin) = start();
    let to = gateway.admin_address();
    let good = token(&admin, "good", &[Right::MachinesRead]);
    let ask = |headers: &str| over_tcp(to, "GET", "/v1/machines", "localhost", headers, "");
    for _ in 0..60 {
        ask(&bearer("x")).refused(401, "token_invalid");
    }
    for headers in [bearer("x"), String::new()] {
        let answer = ask(&headers);
        answer.refused(429, "too_many_failures");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(ask(&bearer(&good)).status, 200);
    assert_eq!(admin.ask("GET", "/v1/machines", None).status, 200, "the socket has no address");
    gateway.wait(Duration::from_secs(1));
    ask(&bearer("x")).refused(401, "token_invalid");
    ask(&bearer("x")).refused(429, "too_many_failures");
    over_tcp(to, "GET", "/v1/keys", "evil.example", "", "").refused(403, "host_denied");
    over_tcp(to, "POST", "/v1/machines", "localhost", &bearer(&good), "").refused(403, "right_missing");
    let metrics = gateway.metrics();
    for (code, count) in [("token_missing", 0), ("token_invalid", 61), ("too_many_failures", 3), ("host_denied", 1), ("right_missing", 1)] {
        let line = format!("octroi_admin_refused_total{{code=\"{code}\"}} {count}");
        assert!(metrics.lines().any(|seen| seen == line), "{line}: {metrics}");
    }
    gateway.wait(Duration::from_secs(60));
    ask("").refused(401, "token_missing");
}

#[test]
fn t215_t216_t217_a_page_of_another_site_does_nothing_here() {
    let (_upstream, gateway, admin) = start();
    let to = gateway.admin_address();
    let good = token(&admin, "good", &Right::ALL);
    let journal = admin.get("/v1/journal");
    let ask =
        |method: &str, target: &str, host: &str, headers: &str, body: &str| -> Answer { over_tcp(to, method, target, host, headers, body) };
    let body = "{\"name\":\"x\"}";
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let headers = format!("Content-Type: {kind}\r\nOrigin: http://evil.example\r\n");
        ask("POST", "/v1/machines", "localhost", &headers, body).refused(401, "token_missing");
        // Even a page that had the token would have to ask the browser first, who is told nothing of CORS.
        ask("POST", "/v1/machines", "localhost", &(headers + &bearer(&good)), body).refused(400, "invalid");
    }
    for host in
        ["evil.example", "localhost.", "localhost.evil.example", "127.0.0.1.nip.io", "[::2]", "0.0.0.0", "", "localhost\r\nHost: localhost"]
    {
        ask("GET", "/v1/machines", host, &bearer(&good), "").refused(403, "host_denied");
    }
    for origin in ["http://evil.example", "null", "http://localhost:8090", "file://"] {
        let headers = format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n");
        for target in ["/v1/machines", "/livez", "/v1/whoami"] {
            // The client refuses any Access-Control field of an answer.
            ask("OPTIONS", target, "localhost", &headers, "");
            ask("GET", target, "localhost", &(bearer(&good) + &headers), "");
        }
    }
    for (method, target, _) in endpoints().into_iter().filter(|(method, _, _)| method == "GET") {
        ask(&method, &target, "localhost", &bearer(&good), "");
    }
    assert_eq!(admin.get("/v1/journal"), journal, "nothing was changed");
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: std::path::PathBuf| {
        if path.is_dir() { files(&path) } else { std::fs::read(&path).map(|bytes| (path, bytes)).into_iter().collect() }
    };
    entries.flat_map(of).collect()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn t220_a_token_is_told_once_and_stands_nowhere_else() {
    let upstream = Upstream::plain();
    let dir = tempfile::tempdir().unwrap();
    let (file, to) = (dir.path().join("octroi.yaml"), free_address());
    let settings = gateway::settings(upstream.address).replace("admin: {bind: '127.0.0.1:0'}", &format!("admin: {{bind: '{to}'}}"));
    std::fs::write(&file, settings + "telemetry: {bind: '127.0.0.1:0'}\n").unwrap();
    let (program, public) = Program::serving(&file);
    let admin = Admin::at(dir.path().join("data/admin.sock"));
    let made = run(octroi(
        dir.path(),
        &["operator", "create", "console", "--right", "machines:write", "--right", "platform:configure", "--quiet"],
    ));
    let first = made.done().trim_end().to_owned();
    let id = text(&admin.get("/v1/operators")["data"][0]["id"]);

    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    let mut see = |what: &str, answer: &Answer| {
        seen.push((what.to_owned(), format!("{answer:?} {}", String::from_utf8_lossy(&answer.body)).into_bytes()))
    };
    for target in ["/v1/operators", "/v1/whoami", "/v1/journal", "/metrics", "/readyz", "/v1/machines?name=x", "/v1/nothing", "/v1/keys"] {
        for headers in [bearer(&first), bearer(&first) + &bearer(&first), String::new(), bearer(&format!("{first}x"))] {
            see(target, &over_tcp(to, "GET", target, "localhost", &headers, ""));
            see(target, &over_tcp(to, "GET", &format!("{target}?token={first}"), "localhost", &headers, ""));
        }
    }
    let typed = format!("Content-Type: application/json\r\n{}", bearer(&first));
    for body in [json!({"name": first}), json!({"name": "x", "reason": first}), json!({ first.clone(): 1 })] {
        let answer = over_tcp(to, "POST", "/v1/machines", "localhost", &typed, &body.to_string());
        answer.refused(400, "invalid");
        // An unknown field is named by its pointer to who sent it, and to nobody else.
        if body["name"].is_string() {
            see("a token in a text", &answer);
        }
    }
    let renewed = admin.done("POST", &format!("/v1/operators/{id}/regenerate"), json!({"reason": "lost"}));
    let second = text(&renewed["secret"]);
    see("the old token", &over_tcp(to, "GET", "/v1/whoami", "localhost", &bearer(&first), ""));
    see("a token on the data plane", &over_public(public, &second));
    for args in [
        &["operator", "list"][..],
        &["operator", "show", "console"],
        &["operator", "list", "--output", "json"],
        &["journal", "list", "--output", "json"],
    ] {
        let ran = run(octroi(dir.path(), args));
        seen.push((args.join(" "), format!("{} {}", ran.done(), ran.err).into_bytes()));
    }
    program.signal(Signal::TERM);
    let ran = program.end();
    assert_eq!(ran.code, Some(0));
    // A slow machine may need more than a minute for all of it.
    let warnings = ran.err.matches("a token that is not valid was presented").count();
    assert!((1..5).contains(&warnings), "once for an address and minute: {}", ran.err);
    seen.extend([("the log".to_owned(), ran.err.into_bytes()), ("standard output".to_owned(), ran.out.into_bytes())]);

    let hash = |token: &str| Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for token in [&first, &second] {
        // The random part alone is searched for, so that no encoding of the rest hides it.
        let random = &token[token.len() - 36..token.len() - 4];
        for (name, bytes) in
            seen.iter().cloned().chain(files(dir.path()).into_iter().map(|(path, bytes)| (path.display().to_string(), bytes)))
        {
            assert!(is_free_of(&bytes, random), "the token is in {name}");
        }
        for (name, bytes) in &seen {
            assert!(is_free_of(bytes, &hash(token)), "the hash is in {name}");
        }
    }
    let help = run(octroi(dir.path(), &["operator", "create", "--help"]));
    assert!(!help.done().contains("--token"), "a token on the command line would stand in the list of processes");
}

/// Whether `text` is not in `bytes`.
fn is_free_of(bytes: &[u8], text: &str) -> bool {
    !bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn over_public(to: SocketAddr, token: &str) -> Answer {
    Connection::open(to).get("/v1/sensors", &[("X-API-Key", token)])
}
