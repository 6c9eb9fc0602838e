//! The guard against a scripted stream: what it lets hyper see, whole and however it is cut.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::model::Timestamp;
use crate::server::link::Link;
use crate::server::sweep::Pulse;
use crate::server::{Anomaly, Stats};

use super::{Rules, STAND_IN, Stream, Wire};

const RULES: Rules = Rules { head_size: 1024, uri_size: 256, header_count: 20 };

/// Brings its pieces one read at a time, then nothing more.
struct Script(VecDeque<Vec<u8>>);

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.0.pop_front() else { return Poll::Pending };
        let rest = piece.split_off(piece.len().min(buf.remaining()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            self.0.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Script {
    fn abandon(&self) {}
}

/// What came out: the bytes hyper saw (without the stand-in), the refused head's number and anomaly, the body's anomaly.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    seen: Vec<u8>,
    refused: Option<(u64, Anomaly)>,
    failed: Option<Anomaly>,
}

fn through(pieces: impl IntoIterator<Item = Vec<u8>>, room: usize) -> Outcome {
    let clock = Clock::manual(Timestamp(0));
    let link = Link::new(Pulse::new(&clock));
    let script = Script(pieces.into_iter().filter(|piece| !piece.is_empty()).collect());
    let mut wire = Wire::new(script, link.clone(), clock, Arc::new(Stats::default()), RULES);
    let mut seen = Vec::new();
    let mut failed = None;
    let mut space = vec![0; room];
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut wire).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) => seen.extend_from_slice(buf.filled()),
            Poll::Ready(Err(error)) => {
                failed = Anomaly::of(&error);
                break;
            }
            Poll::Pending => break,
        }
    }
    let refused = (1..10).find_map(|call| link.anomaly_of(call).map(|anomaly| (call, anomaly)));
    if refused.is_some() {
        assert!(seen.ends_with(STAND_IN), "the stand-in is what hyper sees last");
        seen.truncate(seen.len() - STAND_IN.len());
    }
    Outcome { seen, refused, failed }
}

fn whole(bytes: &[u8]) -> Outcome {
    through([bytes.to_vec()], 8192)
}

/// The outcome, having made sure that cutting the bytes anywhere, or everywhere, does not change it.
fn judged(bytes: &[u8]) -> Outcome {
    let outcome = whole(bytes);
    let same = |cut: Outcome, how: &str| {
        // How much of a body's framing was seen before its error may differ; where the error lies may not.
        let seen_matters = outcome.failed.is_none();
        assert!(!seen_matters || cut.seen == outcome.seen, "{how}: {:?}", String::from_utf8_lossy(bytes));
        assert_eq!((&cut.refused, &cut.failed), (&outcome.refused, &outcome.failed), "{how}: {:?}", String::from_utf8_lossy(bytes));
    };
    for at in 1..bytes.len() {
        same(through([bytes[..at].to_vec(), bytes[at..].to_vec()], 8192), "cut once");
    }
    same(through(bytes.iter().map(|&b| vec![b]), 8192), "byte by byte");
    same(through(bytes.iter().map(|&b| vec![b]), 1), "byte by byte into one byte of room");
    same(through([bytes.to_vec()], 7), "into seven bytes of room");
    outcome
}

fn accepted(bytes: &str) {
    let outcome = judged(bytes.as_bytes());
    assert_eq!(outcome, Outcome { seen: bytes.into(), refused: None, failed: None }, "{bytes:?}");
}

fn refusal(bytes: &[u8]) -> Anomaly {
    let outcome = judged(bytes);
    let (number, anomaly) = outcome.refused.unwrap_or_else(|| panic!("accepted: {:?}", String::from_utf8_lossy(bytes)));
    assert_eq!((number, outcome.seen.len()), (1, 0), "{:?}", String::from_utf8_lossy(bytes));
    anomaly
}

#[test]
fn well_formed_requests_pass_unchanged() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a/b?c=d&e[f]={g}|h%20 HTTP/1.1\r\nhost:a:8080\r\nAccept: */*\r\nX-Empty:\r\nX-Tab: a\tb\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET HTTPS://a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "M-SEARCH /x HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\n\r\n",
    ] {
        accepted(request);
    }
}

#[test]
fn high_bytes_pass_in_values_that_nobody_interprets() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Name: caf\xe9 \xff\r\n\r\n";
    assert_eq!(judged(request), Outcome { seen: request.to_vec(), refused: None, failed: None });
}

#[test]
fn t071_content_length_beside_transfer_encoding_is_refused() {
    let both = Anomaly::Malformed("Content-Length and Transfer-Encoding in one request");
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(refusal(request.as_bytes()), both, "{request:?}");
    }
}

#[test]
fn framing_that_two_servers_could_read_differently_is_refused() {
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\ncontent-length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 5 5",
        "Content-Length: 0x5",
        "Content-Length:",
        "Content-Length: 5\u{a0}",
        "Content-Length: 10000000000000000000",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\r\n\tfolded",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\0",
        "X: \x7f",
        "X: \x01",
        ": y",
        "X",
        "X Y: z",
        "X(: z",
        "X\u{e9}: z",
        "Host: b",
        "Connection: \u{e9}",
        "Expect: \u{e9}",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        assert!(matches!(refusal(request.as_bytes()), Anomaly::Malformed(_)), "{fields:?}");
    }
    let te_on_1_0 = refusal(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(te_on_1_0, Anomaly::Malformed("Transfer-Encoding in an HTTP/1.0 request"));
    let leading = refusal(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n");
    assert_eq!(leading, Anomaly::Malformed("white space before the first header field"));
}

#[test]
fn request_lines_that_are_none_are_refused() {
    for line in [
        "GET / HTTP/2.0",
        "PRI * HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / HTTP/0.9",
        "GET / http/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1 x",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        " GET / HTTP/1.1",
        "GET /",
        "GET",
        "/ HTTP/1.1",
        "G(T / HTTP/1.1",
        "\r\n\r\nGET / HTTP/1.1",
        "\nGET / HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
        "GET * HTTP/1.1",
        "GET a HTTP/1.1",
        "GET a:80 HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http:/// HTTP/1.1",
        "GET http://u@a/ HTTP/1.1",
        "GET http://a:x/ HTTP/1.1",
        "GET /#x HTTP/1.1",
        "GET /?x#y HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /<x> HTTP/1.1",
        "GET /\"x HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /a^b HTTP/1.1",
        "GET /{a} HTTP/1.1",
        "GET /a|b HTTP/1.1",
        "GET /`a HTTP/1.1",
        "GET /?\"a\" HTTP/1.1",
        "GET /?<a> HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "\x16\x03\x01\x02\x00\x01\x00\x01",
    ] {
        let request = format!("{line}\r\nHost: a\r\n\r\n");
        assert!(matches!(refusal(request.as_bytes()), Anomaly::Malformed(_)), "{line:?}");
    }
    assert!(matches!(refusal(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(33)).as_bytes()), Anomaly::Malformed(_)));
    accepted(&format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(32)));
}

#[test]
fn t077_bare_line_ends_are_refused() {
    for request in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
    ] {
        assert!(matches!(refusal(request.as_bytes()), Anomaly::Malformed(_)), "{request:?}");
    }
}

#[test]
fn a_host_is_demanded_once_and_well_formed() {
    for fields in
        ["", "X: y\r\n", "Host:\r\n", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: u@a\r\n", "Host: a/b\r\n", "Host: \u{e9}\r\n"]
    {
        let request = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        assert!(matches!(refusal(request.as_bytes()), Anomaly::Malformed(_)), "{fields:?}");
    }
    assert!(matches!(refusal(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), Anomaly::Malformed(_)));
}

#[test]
fn t085_sizes_are_capped_to_the_byte() {
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    accepted(&fields(RULES.header_count));
    assert_eq!(refusal(fields(RULES.header_count + 1).as_bytes()), Anomaly::HeadTooLarge);

    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(n - 1));
    accepted(&target(RULES.uri_size));
    assert_eq!(refusal(target(RULES.uri_size + 1).as_bytes()), Anomaly::UriTooLong);
    assert_eq!(refusal(format!("GET /{}", "x".repeat(300)).as_bytes()), Anomaly::UriTooLong);

    let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
    let head = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(n - frame));
    accepted(&head(RULES.head_size));
    assert_eq!(refusal(head(RULES.head_size + 1).as_bytes()), Anomaly::HeadTooLarge);
    assert_eq!(refusal(&[b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec(), vec![b'y'; 2_000]].concat()), Anomaly::HeadTooLarge);
}

#[test]
fn t087_a_bad_request_in_a_pipeline_stops_it_there() {
    let good = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let outcome = judged(format!("{good}{good}GET / HTTP/1.1\r\n\r\n{good}").as_bytes());
    assert_eq!(outcome.seen, format!("{good}{good}").into_bytes());
    assert_eq!(outcome.refused, Some((3, Anomaly::Malformed("no Host field in an HTTP/1.1 request"))));
}

#[test]
fn t078_an_anomaly_in_a_body_is_a_read_error_and_nothing_follows() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "0x2\r\nhi\r\n0\r\n\r\n",
        "2\nhi\r\n0\r\n\r\n",
        "2\r\nhiX0\r\n\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        "2;\"\n\"\r\nhi\r\n0\r\n\r\n",
    ] {
        let outcome = judged(format!("{head}{body}GET / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert!(matches!(outcome.failed, Some(Anomaly::Malformed(_))), "{body:?}: {outcome:?}");
        assert!(!String::from_utf8_lossy(&outcome.seen).contains("GET"), "{body:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_held_head_is_freed_when_it_was_delivered() {
    let clock = Clock::manual(Timestamp(0));
    let pieces = [b"GET / HTTP/1.1\r\nHo".to_vec(), b"st: a\r\n\r\n".to_vec()];
    let mut wire = Wire::new(Script(pieces.into()), Link::new(Pulse::new(&clock)), clock, Arc::default(), RULES);
    let mut space = [0; 100];
    let mut buf = ReadBuf::new(&mut space);
    poll_fn(|cx| Pin::new(&mut wire).poll_read(cx, &mut buf)).await.unwrap();
    assert_eq!(buf.filled(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.held.capacity(), 0);
}

/// Whether hyper's own parser, and the types it parses into, take a head.
fn hyper_takes(head: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let complete = matches!(request.parse(head), Ok(httparse::Status::Complete(len)) if len == head.len());
    complete
        && request.method.is_some_and(|method| http::Method::from_bytes(method.as_bytes()).is_ok())
        && request.path.is_some_and(|path| path.parse::<http::Uri>().is_ok())
        && request
            .headers
            .iter()
            .all(|field| http::HeaderName::from_bytes(field.name.as_bytes()).is_ok() && http::HeaderValue::from_bytes(field.value).is_ok())
}

/// Heads that are nearly good: every part is drawn from good and from arbitrary ones.
fn nearly_good() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![4 => "GET|POST|OPTIONS", 1 => "[!-~]{1,34}"];
    let target = prop_oneof!["/[ -~]{0,20}", "http://[a-z.:@\\[\\]0-9]{1,12}[/?]?[!-~]{0,10}", "\\*", "/[a-z]{0,8}\\?[!-~]{0,12}"];
    let version = prop_oneof![4 => "HTTP/1\\.[01]", 1 => "HTTP/[0-9.]{1,3}"];
    let field = prop_oneof![
        "(?i)(host|content-length|transfer-encoding|connection|expect): ?[a-z0-9:.,\\[\\]-]{0,12}",
        "[!-~]{1,8}:[ \t-~]{0,12}",
    ];
    let fields = prop::collection::vec(field, 0..4).prop_map(|fields| fields.join("\r\n"));
    let head = (method, target, version, fields).prop_map(|(m, t, v, f)| {
        let fields = if f.is_empty() { f } else { format!("{f}\r\n") };
        format!("{m} {t} {v}\r\nHost: a\r\n{fields}\r\n").into_bytes()
    });
    let mutation = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (head, mutation).prop_map(|(mut head, mutation)| {
        if let Some((index, byte)) = mutation {
            let at = index.index(head.len());
            head[at] = byte;
        }
        head
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_the_guard_lets_through_hyper_takes(head in nearly_good()) {
        let mut judge = super::Judge::default();
        if let super::Ruling::Complete { len, .. } = judge.advance(&head, &RULES) {
            prop_assert!(hyper_takes(&head[..len]), "{:?}", String::from_utf8_lossy(&head));
        }
    }

    #[test]
    fn t095_the_verdict_never_depends_on_how_the_bytes_were_cut(head in nearly_good(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(head.len())).chain([0, head.len()]).collect();
        places.sort_unstable();
        let pieces = places.windows(2).map(|pair| head[pair[0]..pair[1]].to_vec());
        let cut = through(pieces, 8192);
        let outcome = whole(&head);
        prop_assert_eq!((cut.refused, cut.failed), (outcome.refused, outcome.failed));
    }
}
