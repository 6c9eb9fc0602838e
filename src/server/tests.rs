//! The edge over real sockets, with a small service behind it. Every wait is for an event: bytes, or the end of them.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::StatusCode;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use crate::model::Timestamp;

use super::*;

/// Far beyond what any test waits for; reached only by a bug.
const PATIENCE: Duration = Duration::from_secs(30);

const OVERLOADED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Bounds under which nothing happens by itself within a test.
pub fn bounds() -> Bounds {
    let long = Duration::from_secs(600);
    Bounds {
        max_connections: 1_000,
        first_byte: long,
        head: long,
        idle: long,
        body: long,
        write: long,
        drain: long,
        head_size: 16 * 1024,
        uri_size: 8 * 1024,
        header_count: 100,
        overloaded_answer: Bytes::from_static(OVERLOADED),
    }
}

/// Gives the body back, except: `/early` refuses without reading it, `/endless` never stops answering, `/panic`
/// panics, `/deadline` waits for a timer, `/wait` waits for the test, `/age` tells how long ago its head began.
struct Plane {
    timers: Timers,
    clock: Clock,
    shared: Arc<Shared>,
}

struct Shared {
    calls: AtomicU64,
    waiting: Semaphore,
    release: Semaphore,
}

enum Reply {
    Once(Option<Bytes>),
    Endless,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(match self.get_mut() {
            Reply::Once(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Reply::Endless => Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Reply::Once(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Once(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Reply::Endless => SizeHint::default(),
        }
    }
}

fn reply(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Once(Some(text.into())));
    *response.status_mut() = status;
    response
}

fn refusal(anomaly: Anomaly) -> Response<Reply> {
    let status = match anomaly {
        Anomaly::Malformed(_) => StatusCode::BAD_REQUEST,
        Anomaly::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Anomaly::UriTooLong => StatusCode::URI_TOO_LONG,
        Anomaly::TimedOut => StatusCode::REQUEST_TIMEOUT,
    };
    reply(status, anomaly.to_string())
}

impl Service for Plane {
    type Body = Reply;

    async fn call(self: Rc<Self>, request: Request<Incoming>, from: Rc<Connection>, anomaly: Option<Anomaly>) -> Response<Reply> {
        if let Some(anomaly) = anomaly {
            return refusal(anomaly);
        }
        self.shared.calls.fetch_add(1, Ordering::SeqCst);
        match request.uri().path() {
            "/early" => return reply(StatusCode::UNAUTHORIZED, "no"),
            "/endless" => return Response::new(Reply::Endless),
            "/panic" => panic!("as asked for"),
            "/deadline" => self.timers.after(Duration::from_millis(50)).await,
            "/age" => return reply(StatusCode::OK, format!("{:?}", self.clock.now().tick.since(from.head_began()) < PATIENCE)),
            "/wait" => {
                self.shared.waiting.add_permits(1);
                self.shared.release.acquire().await.expect("never closed").forget();
            }
            _ => {}
        }
        match request.into_body().collect().await {
            Ok(body) => reply(StatusCode::OK, body.to_bytes()),
            Err(error) => Anomaly::of(&error).map_or_else(|| reply(StatusCode::BAD_REQUEST, "gone"), refusal),
        }
    }
}

struct Gateway {
    server: Server,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
}

impl Gateway {
    fn start(bounds: Bounds) -> Gateway {
        Gateway::with_workers(bounds, 2)
    }

    fn with_workers(bounds: Bounds, workers: usize) -> Gateway {
        Gateway::on_clock(Clock::system(), bounds, workers)
    }

    fn on_clock(clock: Clock, bounds: Bounds, workers: usize) -> Gateway {
        let shared = Arc::new(Shared { calls: AtomicU64::new(0), waiting: Semaphore::new(0), release: Semaphore::new(0) });
        let given = shared.clone();
        let listeners = vec![("public".into(), ([127, 0, 0, 1], 0).into())];
        let make = move |worker: &Worker| Plane { timers: worker.timers.clone(), clock: worker.clock.clone(), shared: given.clone() };
        let server = Server::start(listeners, workers, bounds, clock, make).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Gateway { server, shared, runtime }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.server.addresses()[0].1).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, read: Vec::new() }
    }

    fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    fn stats(&self) -> Arc<Stats> {
        self.server.stats()
    }

    /// Until a call has reached `/wait`.
    fn until_waiting(&self) {
        self.runtime.block_on(async { self.shared.waiting.acquire().await.unwrap().forget() });
    }

    fn drain(self) -> usize {
        self.runtime.block_on(self.server.drain())
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// The next answer; it has a Content-Length.
    fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.more(), "closed before an answer: {:?}", String::from_utf8_lossy(&self.read));
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap().to_ascii_lowercase();
        let length = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0.parse().unwrap();
        while self.read.len() < length {
            assert!(self.more(), "closed within an answer");
        }
        let body = self.read.drain(..length).collect();
        Answer { status: head[9..12].parse().unwrap(), head, body }
    }

    /// Whether more was read; not, when the gateway closed.
    fn more(&mut self) -> bool {
        let mut buf = [0; 4096];
        let len = self.stream.read(&mut buf).unwrap();
        self.read.extend_from_slice(&buf[..len]);
        len > 0
    }

    /// Everything up to the gateway's closing its side, which must not be a reset.
    fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }

    fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).answer()
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

fn short(change: impl FnOnce(&mut Bounds)) -> Bounds {
    let mut bounds = bounds();
    change(&mut bounds);
    bounds
}

const SHORT: Duration = Duration::from_millis(200);

#[test]
fn requests_and_bodies_arrive_on_a_kept_connection() {
    let gateway = Gateway::start(bounds());
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(client.ask(GET).status, 200);
        assert_eq!(client.ask(post("/", "Content-Length: 5", "hello")).body, b"hello");
        let chunked = client.ask(post("/", "Transfer-Encoding: chunked", "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n"));
        assert_eq!((chunked.status, chunked.body, chunked.head.contains("connection:")), (200, b"hello".to_vec(), false));
    }
    assert_eq!(client.ask("GET /age HTTP/1.1\r\nHost: a\r\n\r\n").body, b"true");
    assert_eq!(client.ask("GET /deadline HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    assert_eq!(gateway.stats().accepted.get(), 1);
}

#[test]
fn a_head_larger_than_a_read_arrives_whole() {
    let gateway = Gateway::start(short(|b| b.head_size = 60_000));
    let mut client = gateway.connect();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nX: {}\r\nContent-Length: 5\r\n\r\n", "y".repeat(50_000));
    assert_eq!(client.ask(head + "hello").body, b"hello");
    assert_eq!(client.ask(GET).status, 200);
}

#[test]
fn one_byte_writes_are_read_like_whole_ones() {
    let gateway = Gateway::start(bounds());
    for (request, status) in [
        (post("/", "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), 200),
        (post("/", "Transfer-Encoding: chunked\r\nContent-Length: 5", ""), 400),
        (post("/", "Transfer-Encoding: chunked", "5\nhello\r\n0\r\n\r\n"), 400),
    ] {
        let mut client = gateway.connect();
        for byte in request.as_bytes() {
            // A refusal may close before all bytes are out.
            if client.stream.write_all(&[*byte]).is_err() {
                break;
            }
        }
        assert_eq!(client.answer().status, status, "{request:?}");
    }
}

#[test]
fn anomalies_are_answered_by_the_service_and_end_the_connection() {
    let gateway = Gateway::start(bounds());
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8 * 1024));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1024 * 1024));
    for (request, status) in [
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n", 400),
        (&long, 414),
        (&large, 431),
        (&many, 431),
    ] {
        let mut client = gateway.connect();
        let answer = client.send(request).send(GET).answer();
        assert_eq!((answer.status, answer.closes()), (status, true), "{request:?}");
        assert!(client.rest().is_empty(), "nothing after the refusal is answered: {request:?}");
    }
    assert_eq!(gateway.stats().anomalies.get(), 9);
    let mut client = gateway.connect();
    // The gateway stops reading early, so sending all of it may fail; the answer has to arrive nevertheless.
    let _ = client.stream.write_all(endless.as_bytes());
    assert_eq!(client.answer().status, 431);
    assert_eq!(gateway.calls(), 0, "no refused request was executed");
}

#[test]
fn an_anomaly_in_a_body_reaches_the_service_as_such() {
    let gateway = Gateway::start(bounds());
    let mut client = gateway.connect();
    let answer = client.ask(post("/", "Transfer-Encoding: chunked", "2\r\nhi\r\n0x1\r\na\r\n0\r\n\r\n") + GET);
    assert_eq!((answer.status, answer.body.as_slice()), (400, &b"a chunk's size is not a hexadecimal number"[..]));
    assert!(client.rest().is_empty());
    assert_eq!((gateway.calls(), gateway.stats().anomalies.get()), (1, 1));
}

#[test]
fn t087_pipelined_requests_are_answered_in_order_up_to_the_first_bad_one() {
    let gateway = Gateway::start(bounds());
    let mut client = gateway.connect();
    let requests: String =
        (0..50).map(|n| post("/", "Content-Length: 2", &format!("{n:02}")) + "GET /early HTTP/1.1\r\nHost: a\r\n\r\n").collect();
    client.send(requests + "GET / HTTP/1.1\r\nHost : a\r\n\r\n" + GET);
    for n in 0..50 {
        assert_eq!(client.answer().body, format!("{n:02}").into_bytes());
        assert_eq!(client.answer().status, 401);
    }
    assert_eq!(client.answer().status, 400);
    assert!(client.rest().is_empty());
    assert_eq!(gateway.calls(), 100);
}

#[test]
fn t098_an_http_1_0_client_is_closed_unless_it_asks_otherwise() {
    let gateway = Gateway::start(bounds());
    let mut client = gateway.connect();
    let kept = client.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((kept.status, kept.head.contains("transfer-encoding")), (200, false));
    assert_eq!(client.ask("GET / HTTP/1.0\r\n\r\n").status, 200);
    assert!(client.rest().is_empty());
}

#[test]
fn t076_an_early_answer_is_received_whole_however_much_body_is_coming() {
    let gateway = Gateway::start(bounds());
    for length in [1, 64 * 1024, 1024 * 1024 * 1024] {
        let mut client = gateway.connect();
        client.send(format!("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.closes()), (401, true));
        // A client that goes on sending what it began, with a request hidden in it.
        let _ = client.stream.write_all(GET.as_bytes());
        let _ = client.stream.write_all(&vec![b'x'; 48 * 1024]);
        let _ = client.stream.shutdown(Shutdown::Write);
        assert!(client.rest().is_empty());
    }
    assert_eq!(gateway.calls(), 3, "what hides in a body is not executed");
}

#[test]
fn a_closed_connection_is_still_read_so_that_nothing_resets_it() {
    // The clock stands still, so that lingering has no end but the client's.
    let gateway = Gateway::on_clock(Clock::manual(Timestamp(0)), bounds(), 1);
    let mut client = gateway.connect();
    client.send(post("/early", &format!("Content-Length: {}", 1024 * 1024), &"x".repeat(48 * 1024)));
    assert_eq!(client.answer().status, 401);
    assert!(client.rest().is_empty());
    // The one worker has gone on to another request, so whatever it did to this connection is done.
    assert_eq!(gateway.connect().ask(GET).status, 200);
    for _ in 0..3 {
        client.send("x");
    }
    drop(client);
    let stats = gateway.stats();
    until(|| stats.open.get() == 0);
}

#[test]
fn a_client_that_never_stops_sending_receives_its_answer_and_is_ended() {
    let gateway = Gateway::start(bounds());
    let mut client = gateway.connect();
    client.send(format!("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1u64 << 40));
    let mut sending = client.stream.try_clone().unwrap();
    let sender = thread::spawn(move || while sending.write_all(&[b'x'; 64 * 1024]).is_ok() {});
    assert_eq!(client.answer().status, 401);
    sender.join().unwrap();
    let stats = gateway.stats();
    until(|| stats.open.get() == 0);
    assert_eq!(gateway.calls(), 1);
}

#[test]
fn t089_bytes_after_an_upgrade_that_was_not_granted_are_the_next_request() {
    let gateway = Gateway::start(bounds());
    let mut client = gateway.connect();
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.send(upgrade.to_owned() + &post("/", "Content-Length: 5", "hello") + "GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().body, b"hello");
    assert_eq!(client.answer().status, 400);
}

#[test]
fn an_expectation_is_met_when_the_service_reads() {
    let gateway = Gateway::start(bounds());
    let mut client = gateway.connect();
    client.send(post("/", "Content-Length: 5\r\nExpect: 100-continue", ""));
    while !client.read.ends_with(b"\r\n\r\n") {
        assert!(client.more());
    }
    assert_eq!(std::mem::take(&mut client.read), b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.ask("hello").body, b"hello");
    let refused = client.ask(post("/early", "Content-Length: 5\r\nExpect: 100-continue", ""));
    assert_eq!((refused.status, refused.closes()), (401, true), "no 100 and no further request");
}

#[test]
fn a_slow_head_gets_408() {
    let gateway = Gateway::start(short(|b| b.head = SHORT));
    let mut client = gateway.connect();
    assert_eq!(client.ask(GET).status, 200);
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    assert_eq!((answer.status, answer.closes()), (408, true));
    assert!(client.rest().is_empty());
    assert_eq!(gateway.stats().head_timeouts.get(), 1);
}

#[test]
fn a_silent_client_is_closed_without_a_word() {
    let gateway = Gateway::start(short(|b| b.first_byte = SHORT));
    assert!(gateway.connect().rest().is_empty());
    assert_eq!(gateway.stats().first_byte_timeouts.get(), 1);
}

#[test]
fn an_idle_client_is_closed_without_a_word() {
    let gateway = Gateway::start(short(|b| b.idle = SHORT));
    let mut client = gateway.connect();
    assert_eq!(client.ask(GET).status, 200);
    assert!(client.rest().is_empty());
    assert_eq!(gateway.stats().idle_timeouts.get(), 1);
}

#[test]
fn a_call_in_progress_is_not_idle() {
    let gateway = Gateway::start(short(|b| (b.idle, b.head, b.body) = (SHORT, SHORT, SHORT)));
    let mut client = gateway.connect();
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    gateway.until_waiting();
    // Another connection on the same bounds lives and dies meanwhile: the sweeps have passed.
    for _ in 0..2 {
        let mut other = gateway.connect();
        assert_eq!(other.ask(GET).status, 200);
        assert!(other.rest().is_empty());
    }
    gateway.shared.release.add_permits(1);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_stalled_body_times_out_in_the_service() {
    let gateway = Gateway::start(short(|b| b.body = SHORT));
    let mut client = gateway.connect();
    let answer = client.ask(post("/", "Content-Length: 5", "he"));
    assert_eq!((answer.status, answer.closes()), (408, true));
    assert!(client.rest().is_empty());
    assert_eq!(gateway.stats().body_timeouts.get(), 1);
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let gateway = Gateway::start(short(|b| b.write = SHORT));
    let mut client = gateway.connect();
    client.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
    let stats = gateway.stats();
    until(|| stats.write_timeouts.get() == 1 && stats.open.get() == 0);
    // What was in flight can still be read; then comes a reset, never a proper end of the body.
    let mut buf = vec![0; 64 * 1024];
    let error = loop {
        match client.stream.read(&mut buf) {
            Ok(0) => panic!("a cut answer looked complete"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Looks again until it is so. The workers' threads have no event to wait for.
fn until(done: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it never happened");
        thread::yield_now();
    }
}

#[test]
fn a_panic_costs_one_connection() {
    let gateway = Gateway::with_workers(bounds(), 1);
    let mut bystander = gateway.connect();
    assert_eq!(bystander.ask(GET).status, 200);
    let mut client = gateway.connect();
    assert!(client.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").rest().is_empty());
    assert_eq!(bystander.ask(GET).status, 200);
    assert_eq!(gateway.connect().ask(GET).status, 200);
    assert_eq!(gateway.stats().panics.get(), 1);
}

#[test]
fn connections_over_the_cap_are_told_and_closed() {
    let gateway = Gateway::start(short(|b| b.max_connections = 2));
    let mut held: Vec<Client> = (0..2).map(|_| gateway.connect()).collect();
    for client in &mut held {
        assert_eq!(client.ask(GET).status, 200);
    }
    let mut third = gateway.connect();
    assert_eq!(third.send(GET).rest(), OVERLOADED);
    assert_eq!(gateway.stats().over_cap.get(), 1);
    drop(held);
    let stats = gateway.stats();
    until(|| stats.open.get() == 0);
    assert_eq!(gateway.connect().ask(GET).status, 200, "places are given back");
}

#[test]
fn connections_are_spread_over_the_workers() {
    let gateway = Gateway::with_workers(bounds(), 4);
    let mut clients: Vec<Client> = (0..40).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(GET).status, 200);
    }
    let loads: Vec<usize> = gateway.server.house.doors.iter().map(|door| door.load.get()).collect();
    assert_eq!(loads.iter().sum::<usize>(), 40);
    assert!(loads.iter().all(|&load| (8..=12).contains(&load)), "{loads:?}");
}

#[test]
fn a_drain_lets_answers_finish_and_takes_no_new_connections() {
    // The clock stands still, so that the idle connection stays however slow this test runs.
    let gateway = Gateway::on_clock(Clock::manual(Timestamp(0)), bounds(), 2);
    let address = gateway.server.addresses()[0].1;
    let mut busy = gateway.connect();
    let mut idle = gateway.connect();
    assert_eq!(idle.ask(GET).status, 200);
    busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    gateway.until_waiting();
    let shared = gateway.shared.clone();
    let draining = gateway.server.house.drain.clone();
    let drain = thread::spawn(move || gateway.drain());
    until(|| draining.is_draining());
    // A request that was on its way when the drain began is still answered.
    let late = idle.ask(GET);
    assert_eq!((late.status, late.closes()), (200, true));
    assert!(idle.rest().is_empty());
    until(|| TcpStream::connect(address).is_err());
    shared.release.add_permits(1);
    let answer = busy.answer();
    assert_eq!((answer.status, answer.closes()), (200, true));
    assert!(busy.rest().is_empty());
    drop((idle, busy));
    assert_eq!(drain.join().unwrap(), 0);
}

#[test]
fn a_drain_closes_idle_connections_and_cuts_what_outlasts_its_bound() {
    let gateway = Gateway::start(bounds());
    let mut idle = gateway.connect();
    assert_eq!(idle.ask(GET).status, 200);
    let drain = thread::spawn(move || gateway.drain());
    assert!(idle.rest().is_empty());
    drop(idle);
    assert_eq!(drain.join().unwrap(), 0);

    let gateway = Gateway::start(short(|b| b.drain = SHORT));
    let mut busy = gateway.connect();
    busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    gateway.until_waiting();
    assert_eq!(gateway.drain(), 1);
    assert!(busy.rest().is_empty(), "cut without an answer");
}

#[test]
fn dropping_the_server_ends_it() {
    let gateway = Gateway::start(bounds());
    let mut client = gateway.connect();
    assert_eq!(client.ask(GET).status, 200);
    drop(gateway);
    assert!(client.rest().is_empty());
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let gateway = Gateway::start(bounds());
    let address = gateway.server.addresses()[0].1;
    let make = |_: &Worker| -> Plane { panic!("not reached, or as asked for") };
    let start = |address, workers| {
        Server::start(vec![("admin".into(), address)], workers, bounds(), Clock::system(), make).err().unwrap().to_string()
    };
    let taken = start(address, 2);
    assert!(taken.starts_with(&format!("listener admin: cannot bind {address}: address in use")), "{taken}");
    assert_eq!(start(([127, 0, 0, 1], 0).into(), 0), "no workers: at least one is needed");
    assert_eq!(start(([127, 0, 0, 1], 0).into(), 1), "worker 0: its service panicked while it was made");
}
