//! Upstreams that fail and clients that vanish: the right code, never a wrong or a short 200.

use std::sync::atomic::{AtomicUsize, Ordering};

use octroi::model::Verdict;

use crate::support::client::eventually;
use crate::support::upstream::nobody;
use crate::support::{Gateway, Reply, Upstream};

fn upstream_bytes(bytes: &str) -> Upstream {
    let bytes = bytes.as_bytes().to_vec();
    Upstream::answering(move |_| Reply::ThenClose(bytes.clone()))
}

#[test]
fn an_upstream_that_is_not_there_is_502() {
    let gateway = Gateway::on_real_time(nobody());
    gateway.get("/status", &[]).refused(502, "upstream_unreachable");
}

#[test]
fn an_upstream_that_hangs_is_504() {
    for reply in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Le"] {
        let upstream = Upstream::answering(move |_| Reply::ThenHang(reply.to_vec()));
        let gateway = Gateway::on_real_time(upstream.address);
        gateway.get("/status", &[]).refused(504, "upstream_timeout");
        assert_eq!(upstream.received().len(), 1, "what may have been done is not repeated");
    }
}

#[test]
fn an_upstream_that_talks_nonsense_is_502() {
    for reply in [
        "garbage\r\n\r\n",
        "HTTP/1.1 banana\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nBad Name: x\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n",
    ] {
        let upstream = upstream_bytes(reply);
        let gateway = Gateway::on_real_time(upstream.address);
        gateway.get("/status", &[]).refused(502, "upstream_invalid");
    }
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_502_and_idempotent_calls_are_tried_again() {
    let calls = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let upstream = Upstream::answering(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 | 2 => Reply::ThenClose(Vec::new()),
        _ => Reply::ok("hello"),
    });
    let gateway = Gateway::on_real_time(upstream.address);
    assert_eq!(gateway.get("/status", &[]).status, 200, "a GET is tried again");
    let mut connection = gateway.connect();
    connection.request("POST", "/status", &[], Some(b"x"));
    connection.answer().refused(502, "upstream_unreachable");
    assert_eq!(calls.load(Ordering::SeqCst), 3, "a POST that was sent is not");
}

#[test]
fn an_answer_that_breaks_off_never_looks_whole() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ] {
        for reset in [false, true] {
            let bytes = reply.as_bytes().to_vec();
            let upstream =
                Upstream::answering(move |_| if reset { Reply::ThenReset(bytes.clone()) } else { Reply::ThenClose(bytes.clone()) });
            let gateway = Gateway::on_real_time(upstream.address);
            let answer = gateway.get("/status", &[]);
            assert!(answer.truncated || answer.status == 502, "{reply:?} {reset}: {answer:?}");
            let line = gateway.log_lines(1).remove(0);
            let verdict = line["verdict"].as_str().unwrap();
            assert!(verdict.starts_with("upstream_"), "{line}");
        }
    }
}

#[test]
fn an_upstream_that_falls_silent_in_mid_answer_is_cut() {
    let upstream = Upstream::answering(|_| Reply::ThenHang(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello".to_vec()));
    let gateway = Gateway::on_real_time(upstream.address);
    let answer = gateway.get("/status", &[]);
    assert!(answer.truncated, "{answer:?}");
    assert_eq!(gateway.log_lines(1)[0]["verdict"], "upstream_timeout");
}

#[test]
fn a_dead_target_costs_no_call_while_another_stands() {
    let upstream = Upstream::plain();
    let settings = crate::support::gateway::settings(upstream.address)
        .replace(&format!("'http://{}'", upstream.address), &format!("'http://{}', 'http://{}'", nobody(), upstream.address));
    let gateway = Gateway::with(settings, octroi::clock::Clock::system());
    for _ in 0..20 {
        let mut connection = gateway.connect();
        connection.request("POST", "/status", &[], Some(b"x"));
        assert_eq!(connection.answer().status, 200, "nothing was sent to the dead one");
    }
}

#[test]
fn a_connection_that_the_upstream_closed_while_idle_costs_no_call() {
    let upstream = Upstream::answering(|_| Reply::ThenClose(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()));
    let gateway = Gateway::on_real_time(upstream.address);
    let mut connection = gateway.connect();
    for _ in 0..50 {
        assert_eq!(connection.get("/status", &[]).status, 200);
    }
}

#[test]
fn an_early_answer_of_the_upstream_reaches_a_client_that_still_sends() {
    let upstream = Upstream::early(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig");
    let gateway = Gateway::on_real_time(upstream.address);
    let mut connection = gateway.connect();
    connection.send("POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
    let chunk = vec![b'x'; 64 * 1024];
    for _ in 0..20 {
        if !connection.try_send(&chunk) {
            break;
        }
    }
    let answer = connection.answer();
    assert!(answer.status == 413 || answer.status == 502, "{answer:?}");
}

#[test]
fn a_client_that_leaves_is_recorded_as_such() {
    let upstream = Upstream::answering(|_| Reply::ThenHang(Vec::new()));
    let gateway = Gateway::on_real_time(upstream.address);
    let mut connection = gateway.connect();
    connection.request("GET", "/status", &[], None);
    eventually("the upstream's request", || (!upstream.received().is_empty()).then_some(()));
    drop(connection);
    let line = gateway.log_lines(1).remove(0);
    assert_eq!(line["verdict"], Verdict::ClientClosed.as_str(), "{line}");
}

#[test]
fn a_body_that_stops_coming_is_408_and_never_a_whole_request() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let mut connection = gateway.connect();
    connection.send("POST /status HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    connection.answer().refused(408, "request_timeout");
    assert_eq!(upstream.received().len(), 0);
}

#[test]
fn a_malformed_body_is_400_and_never_a_whole_request() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    for body in ["zz\r\n", "3\r\nabcX", "3\r\nabc\r\n0x0\r\n\r\n", "-1\r\n", "3;\n\r\nabc\r\n0\r\n\r\n"] {
        let mut connection = gateway.connect();
        connection.send(format!("POST /status HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        connection.answer().refused(400, "bad_request");
        assert_eq!(connection.rest(), b"", "and the connection closes");
    }
    assert_eq!(upstream.received().len(), 0);
}

#[test]
fn a_body_beyond_the_bound_is_413() {
    let upstream = Upstream::plain();
    let settings = crate::support::gateway::settings(upstream.address).replace("head_size: 16KiB", "head_size: 16KiB, body_size: 1KiB");
    let gateway = Gateway::with(settings, octroi::clock::Clock::system());
    let mut connection = gateway.connect();
    connection.request("POST", "/status", &[], Some(&[b'x'; 1024]));
    assert_eq!(connection.answer().status, 200);
    connection.request("POST", "/status", &[], Some(&[b'x'; 1025]));
    connection.answer().refused(413, "body_too_large");
    let mut connection = gateway.connect();
    connection
        .send(format!("POST /status HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n{}\r\n0\r\n\r\n", "x".repeat(1025)));
    connection.answer().refused(413, "body_too_large");
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn draining_finishes_what_runs_and_takes_nothing_new() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::answering(move |_| {
        told.lock().unwrap().recv().unwrap();
        Reply::ok("late")
    });
    let gateway = Gateway::on_real_time(upstream.address);
    let address = gateway.address();
    let mut connection = gateway.connect();
    connection.request("GET", "/status", &[], None);
    // The upstream's connection shows that the call is under way.
    eventually("the call under way", || (upstream.connections() == 1).then_some(()));
    let drained = gateway.drain();
    eventually("the closed listener", || std::net::TcpStream::connect(address).is_err().then_some(()));
    tell.send(()).unwrap();
    let answer = connection.answer();
    assert_eq!((answer.status, answer.body.as_slice(), answer.header("connection")), (200, &b"late"[..], Some("close")));
    drop(connection);
    assert_eq!(drained.join().unwrap(), 0, "nothing had to be cut");
}

#[test]
fn an_upstream_that_takes_no_connection_is_502_after_the_bound() {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    // Whoever comes after the queue is full gets no answer at all.
    let short = std::time::Duration::from_millis(200);
    let waiting: Vec<_> = (0..8).map_while(|_| std::net::TcpStream::connect_timeout(&address, short).ok()).collect();
    assert!(waiting.len() < 8, "the queue is never full here");
    let gateway = Gateway::on_real_time(address);
    gateway.get("/status", &[]).refused(502, "upstream_unreachable");
}
