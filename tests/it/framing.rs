//! Requests that two servers could frame differently: refused with 400 and a closed connection, and the upstream sees none of it.

use crate::support::{Gateway, Upstream};

const HIDDEN: &str = "GET /status/hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// What follows the request line of `POST /status`.
const SMUGGLING: &[&str] = &[
    "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "Host: a\r\nContent-Length: 5, 5\r\n\r\nhello",
    "Host: a\r\nContent-Length: +5\r\n\r\nhello",
    "Host: a\r\nContent-Length: 0x5\r\n\r\nhello",
    "Host: a\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
    "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "Host: a\r\nTransfer-Encoding: identity\r\n\r\n",
    "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Host: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "Host: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Host: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "Host: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "Host: a\nContent-Length: 0\r\n\r\n",
    "Host: a\r\nX: a\r\n folded\r\n\r\n",
    "Host: a\r\nX: a\rb\r\n\r\n",
    "Host: a\r\nX: a\0b\r\n\r\n",
    "Host: a\r\nNo colon\r\n\r\n",
    "Host: a\r\n: empty\r\n\r\n",
    " Host: a\r\n\r\n",
    "Host: a\r\nHost: b\r\n\r\n",
    "Host: a/evil?x\r\n\r\n",
    "Host: u@a\r\n\r\n",
    "Host: \r\n\r\n",
    "X: no host\r\n\r\n",
    "Host: a\r\nX: y\n\n",
];

#[test]
fn t071_t081_what_could_be_framed_in_two_ways_is_refused() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    for payload in SMUGGLING {
        for split in [false, true] {
            let mut connection = gateway.connect();
            let request = format!("POST /status HTTP/1.1\r\n{payload}{HIDDEN}");
            if split {
                // The gateway may have answered and closed before the last byte is sent.
                let _ = request.as_bytes().iter().all(|byte| connection.try_send([*byte]));
            } else {
                connection.send(&request);
            }
            connection.answer().refused(400, "bad_request");
            assert_eq!(connection.rest(), b"", "nothing after it is answered: {payload:?}");
        }
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn odd_request_lines_are_refused() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    for line in [
        "GET /status#x HTTP/1.1",
        "GET  /status HTTP/1.1",
        "GET /status  HTTP/1.1",
        "GET /status HTTP/1.2",
        "GET /status HTTP/2.0",
        "GET /status",
        "GET status HTTP/1.1",
        "GET /st\u{e9} HTTP/1.1",
        "GET /a\tb HTTP/1.1",
        "G(T /status HTTP/1.1",
        "CONNECT a:80 HTTP/1.1",
        "GET * HTTP/1.1",
        "\r\n\r\nGET /status HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        let mut connection = gateway.connect();
        connection.send(format!("{line}\r\nHost: a\r\n\r\n"));
        let answer = connection.answer();
        assert_eq!(answer.status, 400, "{line:?}: {answer:?}");
        assert_eq!(answer.code(), "bad_request");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn t085_heads_beyond_the_bounds_are_refused_by_name() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let fields = |n: usize| (0..n).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    for (request, status, code) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9_000)), 414, "uri_too_long"),
        (format!("GET /status HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(200)), 431, "headers_too_large"),
        (format!("GET /status HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(1 << 20)), 431, "headers_too_large"),
    ] {
        let mut connection = gateway.connect();
        let _ = connection.try_send(&request);
        connection.answer().refused(status, code);
    }
    // A head without end is cut off at the same bound.
    let mut connection = gateway.connect();
    connection.send("GET /status HTTP/1.1\r\nHost: a\r\n");
    while connection.try_send("X-Endless: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n") {}
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn t076_a_refusal_reaches_a_client_that_still_sends_and_nothing_hidden_runs() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    for size in [1, 64 * 1024, 10_000_000] {
        let mut connection = gateway.connect();
        connection.send(format!("POST /v1/sensors HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
        let _ = connection.try_send(&HIDDEN.as_bytes().repeat(1 + size / HIDDEN.len())[..size.min(2_000_000)]);
        connection.answer().refused(401, "key_missing");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn t087_pipelined_requests_are_answered_in_order_each_on_its_own() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let value = gateway.holder("caller").value;
    let mut connection = gateway.connect();
    let mut all = String::new();
    let mut expected = Vec::new();
    for n in 0..100 {
        let (key, method, body, status) = match n % 4 {
            0 => (value.as_str(), "GET", "", 200),
            1 => ("", "GET", "", 401),
            2 => (value.as_str(), "POST", "12345", 200),
            _ => ("nonsense", "HEAD", "", 401),
        };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        all += &format!("{method} /v1/sensors/{n} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{length}\r\n{body}");
        expected.push((method, status));
    }
    connection.send(&all);
    for (n, (method, status)) in expected.into_iter().enumerate() {
        assert_eq!(connection.answer_to(method).status, status, "{n}");
    }
    assert_eq!(upstream.received().len(), 50);
}

#[test]
fn t098_http_1_0_clients_get_no_chunks_and_no_keep_alive_unasked() {
    let upstream = Upstream::answering(|_| {
        crate::support::Reply::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec())
    });
    let gateway = Gateway::before(upstream.address);
    let mut connection = gateway.connect();
    connection.send("GET /status HTTP/1.0\r\n\r\n");
    let all = String::from_utf8(connection.rest()).unwrap();
    assert!(all.ends_with("\r\n\r\nok") && !all.to_lowercase().contains("transfer-encoding"), "{all}");
}

#[test]
fn slow_and_silent_clients_are_sent_away() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let mut half = gateway.connect();
    half.send("GET /status HTTP/1.1\r\nHost: a\r\nX: y");
    half.answer().refused(408, "request_timeout");
    let mut silent = gateway.connect();
    assert_eq!(silent.rest(), b"");
    let mut idle = gateway.connect();
    assert_eq!(idle.get("/status", &[]).status, 200);
    assert_eq!(idle.rest(), b"");
}
