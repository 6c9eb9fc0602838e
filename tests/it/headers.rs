//! Fields, bodies and trailers on their way through.

use crate::support::{Gateway, Reply, Upstream};

#[test]
fn t038_the_upstream_is_told_who_calls_by_the_gateway_alone() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("Météo & co, Brest");
    let bearer = format!("Bearer {}", holder.value);
    let forged = [
        ("X-Machine-Id", "forged"),
        ("x-machine-id", "forged"),
        ("X-MACHINE-ID", "forged"),
        ("X_Machine_Id", "forged"),
        ("x-machine_id", "forged"),
        ("X-Machine-Name", "forged"),
        ("X_Machine_Name", "forged"),
        ("X-Key-Id", "forged"),
        ("x_key-id", "forged"),
        ("X-Key-Environment", "forged"),
        ("X-Real-IP", "forged"),
        ("X-Original-URL", "/forged"),
        ("X_Original_URL", "/forged"),
        ("Forwarded", "for=forged"),
        ("X-Forwarded-For", "forged"),
        ("X-Forwarded-Host", "forged"),
        ("X-Forwarded-Proto", "forged"),
        ("X-Forwarded-Prefix", "forged"),
        ("Connection", "X-Machine-Id, x-key-id"),
    ];
    let mut headers = vec![("Authorization", bearer.as_str())];
    headers.extend(forged);
    assert_eq!(gateway.get("/v1/sensors", &headers).status, 200);
    let seen = upstream.only();
    assert_eq!(seen.header("x-machine-id"), Some(holder.machine.id.to_string().as_str()));
    assert_eq!(seen.header("x-machine-name"), Some("M%C3%A9t%C3%A9o%20&%20co%2C%20Brest"));
    assert_eq!(seen.header("x-key-id"), Some(holder.key.id.to_string().as_str()));
    assert_eq!(seen.header("x-key-environment"), Some("prod"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!((seen.header("x-forwarded-proto"), seen.header("x-forwarded-host")), (Some("http"), Some("gateway.test")));
    assert!(!format!("{seen:?}").to_lowercase().contains("forged"), "{seen:?}");

    assert_eq!(gateway.get("/status", &forged).status, 200);
    assert!(!format!("{:?}", upstream.received()[1]).to_lowercase().contains("forged"), "public routes too");
}

#[test]
fn hop_by_hop_fields_stay_on_their_side() {
    let reply = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Private\r\nKeep-Alive: timeout=5\r\nX-Private: 1\r\nX-Kept: 1\r\nProxy-Authenticate: x\r\nContent-Length: 2\r\n\r\nok";
    let upstream = Upstream::answering(move |_| Reply::Bytes(reply.into()));
    let gateway = Gateway::before(upstream.address);
    let bearer = format!("Bearer {}", gateway.holder("caller").value);
    let answer = gateway.get(
        "/v1/sensors",
        &[
            ("Authorization", &bearer),
            ("Connection", "close, X-Drop, Host, Content-Length, Transfer-Encoding"),
            ("Keep-Alive", "x"),
            ("Proxy-Authorization", "x"),
            ("Proxy-Connection", "x"),
            ("TE", "gzip"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "x"),
            ("X-Drop", "1"),
            ("X-Keep", "1"),
            ("Cookie", "a=b"),
        ],
    );
    assert_eq!((answer.header("x-kept"), answer.header("x-private")), (Some("1"), None));
    let seen = upstream.only();
    assert_eq!((seen.header("x-keep"), seen.header("cookie"), seen.header("host")), (Some("1"), Some("a=b"), Some("gateway.test")));
    for gone in ["x-drop", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade", "http2-settings", "connection"] {
        assert_eq!(seen.all(gone).len(), 0, "{gone}");
    }
}

#[test]
fn request_ids_are_kept_where_they_are_safe() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let bearer = format!("Bearer {}", gateway.holder("caller").value);
    let mut own = Vec::new();
    for (sent, kept) in [("abc-1.2_3", true), ("a b", false), ("x\"y", false), (&*"x".repeat(129), false)] {
        let answer = gateway.get("/v1/sensors", &[("Authorization", &bearer), ("X-Request-Id", sent)]);
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(id == sent, kept, "{sent}");
        assert_eq!(upstream.received().pop().unwrap().header("x-request-id"), Some(id.as_str()));
        own.push(id);
    }
    own.sort();
    own.dedup();
    assert_eq!(own.len(), 4);
}

#[test]
fn traces_are_continued_or_begun() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (sent, kept) in [(valid, true), ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false), ("garbage", false)] {
        assert_eq!(gateway.get("/status", &[("traceparent", sent), ("tracestate", "a=b")]).status, 200);
        let seen = upstream.received().pop().unwrap();
        let trace = seen.header("traceparent").unwrap();
        assert_eq!(trace == sent, kept, "{trace}");
        assert_eq!(seen.header("tracestate").is_some(), kept);
        assert_eq!(trace.len(), valid.len());
    }
}

#[test]
fn bodies_stream_both_ways_with_their_framing() {
    let upstream = Upstream::answering(|request| {
        let chunked = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            request.body.len().max(1),
            "y".repeat(request.body.len().max(1))
        );
        Reply::Bytes(chunked.into_bytes())
    });
    let gateway = Gateway::before(upstream.address);
    let bearer = format!("Bearer {}", gateway.holder("caller").value);
    let mut connection = gateway.connect();
    for size in [0, 1, 1_000, 200_000, 3_000_000] {
        let body = vec![b'x'; size];
        connection.request("POST", "/v1/sensors", &[("Authorization", &bearer)], Some(&body));
        let answer = connection.answer();
        assert_eq!((answer.status, answer.body.len(), answer.truncated), (200, size.max(1), false));
        let seen = upstream.received().pop().unwrap();
        assert_eq!(seen.body.len(), size);
        assert_eq!(seen.header("content-length"), Some(size.to_string().as_str()));
    }
    for method in ["POST", "GET", "DELETE"] {
        connection.send(format!("{method} /v1/sensors HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"));
        assert_eq!(connection.answer().status, 200);
        let seen = upstream.received().pop().unwrap();
        assert_eq!((seen.body.as_slice(), seen.header("transfer-encoding")), (&b"abcde"[..], Some("chunked")), "{method}");
    }
    assert_eq!(upstream.connections(), 1, "kept alive and reused");
}

#[test]
fn answers_are_passed_on_as_they_come() {
    // The upstream sends the second half only when told so: a gateway that buffered would never show the first.
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
            .unwrap();
        told.lock().unwrap().recv().unwrap();
        stream.write_all(b"7\r\nsecond\n\r\n0\r\n\r\n").unwrap();
        let _ = stream.read(&mut buffer);
    });
    let gateway = Gateway::before(address);
    let mut connection = gateway.connect();
    connection.request("GET", "/status", &[], None);
    assert!(connection.head().unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(connection.chunk().unwrap(), b"first\n");
    tell.send(()).unwrap();
    assert_eq!(connection.chunk().unwrap(), b"second\n");
    assert_eq!(connection.chunk().unwrap(), b"");
    drop((connection, gateway));
    upstream.join().unwrap();
}

#[test]
fn trailers_pass_where_they_are_announced() {
    let reply =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 9\r\nX-Machine-Id: forged\r\n\r\n";
    let upstream = Upstream::answering(move |_| Reply::Bytes(reply.into()));
    let gateway = Gateway::before(upstream.address);
    let mut connection = gateway.connect();
    connection.send("POST /status HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Up: 1\r\nContent-Type: forged\r\n\r\n");
    let head = connection.head().unwrap();
    assert!(head.to_lowercase().contains("trailer: x-sum"), "{head}");
    assert_eq!(connection.chunk().unwrap(), b"ok");
    connection.finish_sending();
    let rest = String::from_utf8(connection.rest()).unwrap().to_lowercase();
    assert_eq!(rest, "0\r\nx-sum: 9\r\n\r\n");
    let seen = upstream.only();
    assert_eq!(seen.trailers, vec![("x-up".to_owned(), "1".to_owned())]);
    assert_eq!(seen.header("te"), Some("trailers"));
}

#[test]
fn head_has_no_body_and_keeps_its_length() {
    let upstream = Upstream::answering(|request| {
        if request.line.starts_with("HEAD") {
            Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec())
        } else {
            Reply::ok("hello")
        }
    });
    let gateway = Gateway::before(upstream.address);
    let mut connection = gateway.connect();
    connection.request("HEAD", "/status", &[], None);
    let answer = connection.answer_to("HEAD");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
    connection.request("HEAD", "/v1/sensors", &[], None);
    assert_eq!(connection.answer_to("HEAD").status, 401);
    assert_eq!(connection.get("/status", &[]).body, b"hello");
}

#[test]
fn t086_expectations_are_answered_after_admission() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let bearer = format!("Bearer {}", gateway.holder("caller").value);
    let head = |authorization: &str, expect: &str| {
        format!("POST /v1/sensors HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\nContent-Length: 5\r\nExpect: {expect}\r\n\r\n")
    };
    let mut connection = gateway.connect();
    connection.send(head(&bearer, "100-continue"));
    assert!(connection.head().unwrap().starts_with("HTTP/1.1 100"));
    connection.send("12345");
    assert_eq!(connection.answer().status, 200);
    let seen = upstream.only();
    assert_eq!((seen.body.as_slice(), seen.all("expect").len()), (&b"12345"[..], 0));

    let mut connection = gateway.connect();
    connection.send(head("Bearer nonsense", "100-continue"));
    assert!(connection.head().unwrap().starts_with("HTTP/1.1 401"), "no 100 for who is not let in");

    let mut connection = gateway.connect();
    connection.send(head(&bearer, "junk"));
    assert_eq!(connection.answer().status, 417);
}

#[test]
fn the_host_passes_or_is_rewritten() {
    let upstream = Upstream::plain();
    let base = crate::support::gateway::settings(upstream.address);
    for (setting, expected) in [
        ("", "gateway.test".to_owned()),
        (", host: target", upstream.address.to_string()),
        (", host: api.internal", "api.internal".to_owned()),
    ] {
        let settings = base.replace(", timeouts: {connect", &format!("{setting}, timeouts: {{connect"));
        let gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
        assert_eq!(gateway.get("/status", &[]).status, 200);
        assert_eq!(upstream.received().pop().unwrap().header("host"), Some(expected.as_str()));
    }
}

#[test]
fn a_target_that_is_tried_next_is_told_its_own_name() {
    let (gone, there) = (crate::support::upstream::nobody(), Upstream::plain());
    let settings = crate::support::gateway::settings(there.address)
        .replace(&format!("'http://{}'", there.address), &format!("'http://{gone}', 'http://{}'", there.address))
        .replace("workers: 2", "workers: 1");
    let gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
    let mut connection = gateway.connect();
    connection.send("GET /status HTTP/1.0\r\n\r\n");
    assert_eq!(connection.answer().status, 200);
    assert_eq!(there.only().header("host"), Some(there.address.to_string().as_str()));
}

#[test]
fn targets_are_taken_in_turn() {
    let (one, two) = (Upstream::plain(), Upstream::plain());
    let settings = crate::support::gateway::settings(one.address)
        .replace(&format!("'http://{}'", one.address), &format!("'http://{}', 'http://{}'", one.address, two.address))
        .replace("workers: 2", "workers: 1");
    let gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
    let mut connection = gateway.connect();
    for _ in 0..10 {
        assert_eq!(connection.get("/status", &[]).status, 200);
    }
    assert_eq!((one.received().len(), two.received().len()), (5, 5));
}

#[test]
fn identity_fields_have_the_names_that_the_settings_give_them() {
    let upstream = Upstream::plain();
    let settings = crate::support::gateway::settings(upstream.address)
        + "identity_headers: {machine_id: X-Consumer-ID, machine_name: X-Consumer-Username, key_id: false}\n";
    let gateway = Gateway::with(settings, octroi::clock::Clock::manual(crate::support::gateway::NOON));
    let holder = gateway.holder("Billing");
    let bearer = format!("Bearer {}", holder.value);
    let forged = [("Authorization", bearer.as_str()), ("X-Consumer-Id", "forged"), ("X_Consumer_Username", "forged")];
    assert_eq!(gateway.get("/v1/sensors", &forged).status, 200);
    let seen = upstream.only();
    assert_eq!(seen.header("x-consumer-id"), Some(holder.machine.id.to_string().as_str()));
    assert_eq!(seen.header("x-consumer-username"), Some("Billing"));
    assert_eq!((seen.all("x-machine-id").len(), seen.all("x-key-id").len(), seen.header("x-key-environment")), (0, 0, Some("prod")));
    assert!(!format!("{seen:?}").contains("forged"));
}
