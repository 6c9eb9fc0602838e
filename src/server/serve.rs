//! One connection: hyper's HTTP/1 server over the guard, with the service behind it.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::model::Tick;

use super::link::{Link, Order};
use super::wire::{Rules, Wire};
use super::worker::{Desk, Seat};
use super::{Anomaly, BoxError, Service, Stats};

/// hyper's bounds on what it buffers: with 16 KiB, bodies of 1 MiB cost twice the CPU; its default kept 2.5 MB a connection.
const BUFFER: usize = 64 * 1024;
/// With this many fields hyper parses heads on its stack; set explicitly, it allocates for every request.
const HYPER_FIELDS: usize = 100;

/// The connection that a request came over.
#[derive(Debug)]
pub struct Connection {
    /// The socket's other end: a proxy, maybe.
    pub peer: SocketAddr,
    /// The name of the listener that took it.
    pub listener: Arc<str>,
    began: Cell<Tick>,
    calls: Cell<u64>,
    link: Arc<Link>,
}

impl Connection {
    fn new(peer: SocketAddr, listener: Arc<str>, link: Arc<Link>) -> Rc<Connection> {
        Rc::new(Connection { peer, listener, began: Cell::default(), calls: Cell::default(), link })
    }

    /// When the first byte of the current request's head was seen.
    pub fn head_began(&self) -> Tick {
        self.began.get()
    }

    /// How many requests came over it, the current one included.
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Whether the current request's body did not come to its end: not yet, or, after an anomaly in it, never.
    pub fn body_is_open(&self) -> bool {
        self.link.body_is_open(self.calls.get())
    }

    /// Has the connection's task poll again what it polls: the call in progress or its answer's body has something to say that nobody
    /// would wake it for. Happens at the end of the sweep under way, or at the next one's.
    pub fn call_up(&self) {
        self.link.call();
    }

    /// Drops the connection in mid-answer, with all that waits in it: for an answer that the client does not take, whose body is
    /// therefore not asked. As late as [`Connection::call_up`].
    pub fn cut(&self) {
        self.link.give(Order::CutUnwanted);
        self.link.call();
    }

    /// Counts the call that begins now and says what was wrong with its head.
    fn begin_call(&self) -> Option<Anomaly> {
        let call = self.calls.get() + 1;
        self.calls.set(call);
        self.began.set(self.link.began());
        self.link.anomaly_of(call)
    }
}

/// A call in progress; the connection is not idle while it lives.
struct InProgress(Arc<Link>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// How hyper is set up, the same for all connections of a worker.
pub fn protocol(rules: &Rules) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    // Deadlines are the sweep's (see `sweep`), so hyper gets no timer.
    protocol.header_read_timeout(None).half_close(false).pipeline_flush(false);
    protocol.max_buf_size(BUFFER.max(rules.head_size.saturating_add(8 * 1024)));
    if rules.header_count > HYPER_FIELDS {
        protocol.max_headers(rules.header_count);
    }
    protocol
}

/// Serves `stream` to its end, on this worker.
pub fn serve<S: Service>(desk: &Rc<Desk<S>>, stream: TcpStream, peer: SocketAddr, listener: Arc<str>, seat: Seat) {
    let link = seat.link.clone();
    let wire = Wire::new(stream, link.clone(), desk.worker.clock.clone(), desk.house.stats.clone(), desk.rules);
    let connection = Connection::new(peer, listener, link);
    let shared = desk.clone();
    let service = service_fn(move |request| answer(&shared, &connection, request));
    let conversation = Box::pin(desk.protocol.serve_connection(TokioIo::new(wire), service));
    tokio::task::spawn_local(Serving { conversation, seat, stats: desk.house.stats.clone() });
}

/// One call: the service's answer, with what the connection has to say about itself.
fn answer<S: Service>(
    desk: &Rc<Desk<S>>,
    connection: &Rc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<impl Body<Data = bytes::Bytes, Error = BoxError> + use<S>>, Infallible>> + use<S> {
    let anomaly = connection.begin_call();
    if anomaly.is_some_and(|anomaly| anomaly != Anomaly::TimedOut) {
        desk.house.stats.anomalies.add();
    }
    let progress = InProgress(connection.link.clone());
    let drain = desk.worker.drain.clone();
    // Before HTTP/1.1 a body of unknown length ends with the connection: a broken one must not end in the same way.
    let ends_with_connection = request.version() == Version::HTTP_10;
    let call = desk.service.clone().call(request, connection.clone(), anomaly);
    let connection = connection.clone();
    async move {
        let mut response = call.await;
        // A refusal that comes before the body has, ends the connection: hyper will not read gigabytes to find the next
        // request. Saying so keeps the client from sending one.
        let refused_early = response.status().as_u16() >= 400 && connection.body_is_open();
        if anomaly.is_some() || refused_early || drain.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| {
            body.map_err(move |error| {
                // Held here, the call is in progress until hyper lets go of the body.
                let InProgress(link) = &progress;
                if ends_with_connection {
                    link.broke_off();
                }
                error.into()
            })
        }))
    }
}

/// The task of one connection.
struct Serving<F> {
    conversation: Pin<Box<F>>,
    seat: Seat,
    stats: Arc<Stats>,
}

impl<F: Future> Future for Serving<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.seat.link.is_cut() {
            return Poll::Ready(());
        }
        self.seat.wake_by(cx.waker());
        // A panic ends this connection and nothing else; what it leaves behind is dropped, never looked at.
        let conversation = &mut self.conversation;
        match catch_unwind(AssertUnwindSafe(|| conversation.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            // How it ended is the client's business; what went wrong in it was counted where it did.
            Ok(Poll::Ready(_)) => Poll::Ready(()),
            Err(_) => {
                self.stats.panics.add();
                Poll::Ready(())
            }
        }
    }
}
