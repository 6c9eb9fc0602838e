//! The data plane under attack: what is judged is what is sent on, whoever sent it, and no answer reaches another's caller.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use octroi::model::change::{NewKey, NewMachine};
use octroi::model::{Change, Organizations, PermissionName};
use octroi::registry::Left;

use crate::support::gateway::{NOON, settings};
use crate::support::{Gateway, Reply, Upstream};

fn with(settings: String) -> Gateway {
    Gateway::with(settings, octroi::clock::Clock::manual(NOON))
}

#[test]
fn t039_the_field_that_an_organization_was_judged_by_reaches_the_upstream() {
    let upstream = Upstream::plain();
    let settings = settings(upstream.address).replace("organization: {path: organization}", "organization: {header: X-Org}");
    let gateway = with(settings);
    let ours = ["ours".to_owned()].into_iter().collect::<Organizations>();
    let new = NewMachine {
        name: "tenant".into(),
        permissions: [PermissionName::parse("sensors:read").unwrap()].into_iter().collect(),
        organizations: Some(ours),
        ..NewMachine::default()
    };
    let Left::Machine(machine) = gateway.commit(Change::CreateMachine(new)).unwrap().left else { panic!() };
    let holder = gateway.key(&machine, NewKey::default());
    let bearer = format!("Bearer {}", holder.value);
    let nominated = [("Authorization", bearer.as_str()), ("X-Org", "ours"), ("Connection", "X-Org")];
    assert_eq!(gateway.get("/orgs/any/x", &nominated).status, 200);
    assert_eq!(upstream.only().header("x-org"), Some("ours"), "not dropped after it was judged");
    let spelt = [("Authorization", bearer.as_str()), ("X-Org", "ours"), ("X_Org", "theirs")];
    gateway.get("/orgs/any/x", &spelt);
    assert_eq!(upstream.received().last().unwrap().all("x_org").len(), 0);
}

#[test]
fn a_credential_is_removed_in_every_spelling_even_where_underscores_pass() {
    let upstream = Upstream::plain();
    let gateway = with(settings(upstream.address) + "underscore_headers: pass\n");
    let value = gateway.holder("caller").value;
    for name in ["X_API_Key", "x-api_key", "X_Api-Key"] {
        assert_eq!(gateway.get("/v1/sensors", &[("X-API-Key", &value), (name, &value)]).status, 200);
        assert_eq!(gateway.get("/status", &[(name, &value), ("X_Fine", "1")]).status, 200);
    }
    let raw = String::from_utf8(upstream.raw()).unwrap().to_lowercase();
    assert!(!raw.contains(&value.to_lowercase()), "{raw}");
    assert!(raw.contains("x_fine"));
}

#[test]
fn t080_no_trailer_says_what_only_a_head_may() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let value = gateway.holder("caller").value;
    let forged = [
        "Authorization",
        "X-API-Key",
        "X-Machine-Id",
        "X-Machine-Name",
        "X-Key-Id",
        "X-Key-Environment",
        "X_Machine_Id",
        "x-machine_id",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Prefix",
        "X-Real-IP",
        "Forwarded",
        "X-Original-URL",
        "X-HTTP-Method-Override",
        "Cookie",
        "Via",
        "X-Request-Id",
        "traceparent",
        "Proxy-Authorization",
    ];
    let trailers: String = forged.iter().map(|name| format!("{name}: {value}\r\n")).collect();
    let mut connection = gateway.connect();
    connection.send(format!(
        "POST /v1/sensors HTTP/1.1\r\nHost: a\r\nX-API-Key: {value}\r\nTE: trailers\r\nTrailer: X-Sum, {}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n{trailers}\r\n",
        forged.join(", ")
    ));
    assert_eq!(connection.answer().status, 200);
    assert_eq!(upstream.only().trailers, vec![("x-sum".to_owned(), "1".to_owned())]);
}

#[test]
fn an_answer_framed_in_two_ways_or_coded_unasked_is_502() {
    for fields in [
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ] {
        let reply = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let upstream = Upstream::answering(move |_| Reply::ThenClose(reply.clone().into()));
        let gateway = Gateway::on_real_time(upstream.address);
        gateway.get("/status", &[]).refused(502, "upstream_invalid");
    }
}

#[test]
fn an_http_10_client_never_takes_a_broken_answer_for_a_whole_one() {
    let reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let upstream = Upstream::answering(|_| Reply::ThenClose(reply.to_vec()));
    let gateway = Gateway::on_real_time(upstream.address);
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.write_all(b"GET /status HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    let mut all = Vec::new();
    let end = client.read_to_end(&mut all);
    assert!(end.is_err() || String::from_utf8_lossy(&all).contains(" 502 "), "{:?}", String::from_utf8_lossy(&all));
}

#[test]
fn what_an_upstream_says_beyond_its_answer_reaches_nobody() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let upstream = Upstream::answering(move |request| {
        let own = request.header("x-marker").unwrap_or("none").to_owned();
        let whole = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let reply = match own.as_bytes().last() {
            Some(b'0') => whole(&own) + evil,
            Some(b'1') => format!("HTTP/1.1 204 No Content\r\nContent-Length: {}\r\n\r\n{evil}", evil.len()),
            Some(b'2') => format!("HTTP/1.1 304 Not Modified\r\nContent-Length: {}\r\n\r\n{evil}", evil.len()),
            Some(b'3') => format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{own}\r\n0\r\n\r\n{evil}", own.len()),
            Some(b'4') => whole(&own) + "\r\n\r\n",
            _ => whole(&own),
        };
        Reply::Bytes(reply.into())
    });
    let gateway = Gateway::before(upstream.address);
    let mut connection = gateway.connect();
    for n in 0..600 {
        let marker = format!("m{n}");
        let method = if n % 7 == 0 { "HEAD" } else { "GET" };
        connection.request(method, "/status", &[("X-Marker", &marker)], None);
        let Some(answer) = connection.try_answer_to(method) else {
            connection = gateway.connect();
            continue;
        };
        assert!(answer.body.is_empty() || answer.body == marker.as_bytes() || answer.status == 502, "{answer:?} to {marker}");
        if answer.status == 204 {
            assert_eq!(answer.header("content-length"), None);
        }
        if answer.truncated || answer.header("connection") == Some("close") {
            connection = gateway.connect();
        }
    }
}

#[test]
fn t151_chaos_mixes_no_answers_up() {
    // Every answer says whose it is; the upstream misbehaves by the marker's number, the clients by their own.
    let upstream = Upstream::answering(|request| {
        let marker = request.header("x-marker").unwrap();
        let n: usize = marker[1..].parse().unwrap();
        let body = format!("{marker};").repeat(1 + n % 2_000);
        let whole = format!("HTTP/1.1 200 OK\r\nX-Marker: {marker}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
        match n % 13 {
            1 => Reply::ThenClose(whole),
            2 => Reply::ThenReset(whole),
            3 => Reply::ThenClose(whole[..whole.len() / 2].to_vec()),
            4 => Reply::Bytes([whole, b"HTTP/1.1 200 OK\r\nX-Marker: evil\r\nContent-Length: 0\r\n\r\n".to_vec()].concat()),
            5 => Reply::ThenReset(Vec::new()),
            _ => Reply::Bytes(whole),
        }
    });
    let gateway = Gateway::on_real_time(upstream.address);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut connection = gateway.connect();
                for turn in 0..250 {
                    let marker = format!("m{}", client * 1_000 + turn);
                    let leaves = turn % 11 == 3;
                    let body = (turn % 3 == 0).then_some(&b"0123456789"[..]);
                    connection.request(if body.is_some() { "POST" } else { "GET" }, "/status", &[("X-Marker", &marker)], body);
                    if turn % 17 == 5 {
                        connection.try_send("POST /status HTTP/1.1\r\nHost: a\r\nX-Marker: m7\r\nContent-Length: 50\r\n\r\nhalf");
                    }
                    if leaves || turn % 17 == 5 {
                        connection = gateway.connect();
                        continue;
                    }
                    match connection.try_answer_to("GET") {
                        Some(answer) if answer.status == 200 && !answer.truncated => {
                            assert_eq!(answer.header("x-marker"), Some(marker.as_str()));
                            assert!(answer.body.chunks(marker.len() + 1).all(|part| part == format!("{marker};").as_bytes()), "{marker}");
                        }
                        Some(answer) if answer.truncated => connection = gateway.connect(),
                        Some(answer) => {
                            answer.refused(502, &answer.code());
                            if answer.header("connection") == Some("close") {
                                connection = gateway.connect();
                            }
                        }
                        None => connection = gateway.connect(),
                    }
                }
            });
        }
    });
}

#[test]
fn t149_no_post_is_executed_twice() {
    let executed: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let counted = executed.clone();
    let upstream = Upstream::answering(move |request| {
        let id = request.header("x-marker").unwrap();
        *counted.lock().unwrap().entry(id.to_owned()).or_default() += 1;
        match id.len() % 2 + id.as_bytes().iter().map(|b| usize::from(*b)).sum::<usize>() % 5 {
            0 => Reply::ThenClose(Vec::new()),
            1 => Reply::ThenReset(Vec::new()),
            2 => Reply::ThenClose(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()),
            _ => Reply::ok("ok"),
        }
    });
    let gateway = with(settings(upstream.address).replace("timeouts:", "retries: 3, timeouts:"));
    let answered: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let gateway = &gateway;
                scope.spawn(move || {
                    let mut connection = gateway.connect();
                    let mut good = 0;
                    for turn in 0..500 {
                        let id = format!("{client}-{turn}");
                        let body = (turn % 2 == 0).then_some(&b"x"[..]);
                        connection.request("POST", "/status", &[("X-Marker", &id), ("Expect", "100-continue")], body);
                        let answer = connection.answer();
                        good += usize::from(answer.status == 200);
                        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
                        if answer.header("connection") == Some("close") {
                            connection = gateway.connect();
                        }
                    }
                    good
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let executed = executed.lock().unwrap();
    let twice: Vec<_> = executed.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(answered > 0 && executed.len() <= 3_000);
}

#[test]
fn a_call_with_a_malformed_forwarded_address_is_still_attributed() {
    let upstream = Upstream::plain();
    let gateway = with(settings(upstream.address) + "trusted_proxies: [127.0.0.0/8]\n");
    let holder = gateway.holder("caller");
    let value = holder.value.as_str();
    let many = "1.2.3.4, ".repeat(500) + "unknown";
    let malformed = ["nonsense", "192.0.2.1,", "256.1.1.1", "::1%eth0", "[::1", "1.2.3.4:99999", "\u{e9}", many.as_str()];
    for entry in malformed {
        gateway.get("/v1/sensors", &[("X-API-Key", value), ("X-Forwarded-For", entry)]).refused(400, "bad_request");
    }
    for entry in ["192.0.2.1", "::ffff:192.0.2.1", "[::ffff:192.0.2.1]:80", "nonsense, 192.0.2.1:1"] {
        assert_eq!(gateway.get("/v1/sensors", &[("X-API-Key", value), ("X-Forwarded-For", entry)]).status, 200);
    }
    let lines = gateway.log_lines(malformed.len() + 4);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line["key.id"], holder.key.id.to_string(), "{line}");
        assert_eq!(line["client.ip"], if n < malformed.len() { "127.0.0.1" } else { "192.0.2.1" }, "{line}");
    }
    assert_eq!(upstream.received().len(), 4);
}

#[test]
fn t238_a_value_in_a_place_for_none_reaches_no_log() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let value = gateway.holder("caller").value;
    let spelt = value.replace('_', "%5F");
    let bearer = format!("Bearer {value}");
    let calls = [
        (format!("/v1/sensors/{value}"), vec![("User-Agent", value.as_str()), ("X-Request-Id", value.as_str())]),
        (format!("/v1/sensors/{spelt}"), vec![("Authorization", bearer.as_str())]),
        (format!("/nowhere/x{value}"), vec![("Host", value.as_str())]),
        (format!("/v1/sensors/%2f{value}"), vec![]),
        (format!("/status?api%255Fkey={value};api_key={value}"), vec![]),
    ];
    for (target, headers) in &calls {
        let answer = gateway.get(target, headers);
        assert!(!format!("{answer:?}").contains(&value), "{answer:?}");
    }
    let random = &value[value.len() - 36..];
    for line in gateway.log_lines(calls.len()) {
        assert!(!line.to_string().contains(random), "{line}");
    }
    assert!(!gateway.metrics().contains(random));
}

/// Small and repeatable: what is tried does not depend on the run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

const PIECES: [&str; 32] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    "%",
    "%2f",
    "%2e",
    "..",
    "//",
    ";",
    "#",
    "?",
    "&api_key=x",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: b\r\n",
    "Connection: close, x-api-key\r\n",
    "Expect: 100-continue\r\n",
    "X-API-Key: y\r\n",
    "Authorization: Bearer\r\n",
    "\u{e9}",
    "HTTP/1.0",
    "HTTP/2.0",
    "5\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\n",
    "http://a/",
    "*",
    "X-Forwarded-For: ::1\r\n",
    "[::1]:80",
];

fn mutated(dice: &mut Dice, value: &str) -> Vec<u8> {
    let seeds = [
        format!("GET /v1/sensors/a%20b?x=1&api_key={value} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n"),
        format!("POST /v1/sensors HTTP/1.1\r\nHost: a:80\r\nX-API-Key: {value}\r\nContent-Length: 5\r\n\r\nhello"),
        format!(
            "POST /status HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {value}\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: 1\r\n\r\n"
        ),
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "HEAD http://a/status HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".to_owned(),
        "GET /orgs/%6fne/x HTTP/1.0\r\n\r\n".to_owned(),
    ];
    let mut bytes = seeds[dice.roll(seeds.len())].clone().into_bytes();
    for _ in 0..1 + dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(5) {
            0 => drop(bytes.splice(at..at, PIECES[dice.roll(PIECES.len())].bytes())),
            1 => bytes.insert(at, dice.roll(256) as u8),
            2 if at < bytes.len() => bytes[at] = dice.roll(256) as u8,
            3 => bytes.truncate(at.max(1)),
            _ => drop(bytes.drain(at..(at + dice.roll(9)).min(bytes.len()))),
        }
    }
    bytes
}

#[test]
fn t097_mutated_requests_are_answered_by_us_or_closed_and_the_next_is_served() {
    // The upstream panics at what its strict parser does not take; the marks it leaves then are missing below.
    let upstream = Upstream::plain();
    let settings =
        settings(upstream.address).replace("head: 500ms", "head: 50ms").replace("body: 500ms", "body: 50ms") + "guessing: false\n";
    let settings = settings.replace("first_byte: 2s, idle: 2s", "first_byte: 50ms, idle: 50ms");
    let gateway = Gateway::with(settings, octroi::clock::Clock::system());
    let machine = gateway.machine("caller", &["sensors:read"], Some("unmetered"));
    let value = gateway.key(&machine, NewKey::default()).value;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (gateway, value) = (&gateway, &value);
            scope.spawn(move || {
                let mut dice = Dice(thread);
                for turn in 0..400 {
                    let bytes = mutated(&mut dice, value);
                    let mut client = TcpStream::connect(gateway.address()).unwrap();
                    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    let _ = client.write_all(&bytes);
                    // A part of them leaves it to the gateway to find out that nothing more comes; those that close early are cheap.
                    if turn % 4 > 0 {
                        let _ = client.shutdown(std::net::Shutdown::Write);
                    }
                    let mut answer = Vec::new();
                    if let Err(error) = client.read_to_end(&mut answer) {
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{:?}", String::from_utf8_lossy(&bytes));
                    }
                    judge(&String::from_utf8_lossy(&answer), &bytes, value);
                }
            });
        }
    });
    assert_eq!(gateway.get("/v1/sensors", &[("X-API-Key", &value)]).status, 200);
    let metrics = gateway.metrics();
    let panics = metrics.lines().find(|line| line.starts_with("octroi_panics_total"));
    assert!(panics.is_none_or(|line| line.ends_with(" 0")), "{panics:?}");
    assert!(!metrics.contains("internal_error\"} 1"));
}

/// Every error is our own, with a document; nothing echoes the value.
fn judge(answer: &str, sent: &[u8], value: &str) {
    assert!(!answer.contains(value), "{answer}");
    let Some(status) = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)) else {
        assert!(answer.is_empty(), "{answer}");
        return;
    };
    let fits = match status {
        "200" | "100" => true,
        "400" | "401" | "403" | "404" | "405" | "408" | "413" | "414" | "417" | "431" => answer.contains("application/problem+json"),
        _ => false,
    };
    assert!(fits, "{answer}\nto {:?}", String::from_utf8_lossy(sent));
}
