//! The edge towards clients: listening sockets, workers, the guard against malformed framing, deadlines, and an orderly
//! end. It turns bytes into calls of a [`Service`] and knows nothing of what the service does.
//!
//! Read on: `listen` (sockets), `worker` (accepting, spreading, draining), `serve` (one connection), `wire` (the guard),
//! `link` and `sweep` (deadlines). hyper speaks HTTP; everything it sees was judged by the guard before.
//!
//! Time: a sweep every 100 ms instead of timers. A deadline never fires early, and at most 200 ms late.

mod anomaly;
mod link;
mod listen;
mod serve;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;
mod wire;
mod worker;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;

pub use anomaly::Anomaly;
pub use serve::Connection;
pub use stats::{Counter, Stats};
pub use sweep::{Deadline, Timers};
pub use worker::{DrainSignal, Worker};

use listen::{Addresses, Bound};
use worker::{Door, Handed, House};

/// Any error; what bodies fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the edge enforces. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections open at a time, of the whole process.
    pub max_connections: usize,
    /// From a connection's opening to its first byte. Past it the connection is closed silently.
    pub first_byte: Duration,
    /// From a head's first byte to its last. Past it the service is called with [`Anomaly::TimedOut`].
    pub head: Duration,
    /// From an answer's end to the next request's first byte. Past it the connection is closed silently.
    pub idle: Duration,
    /// Between two reads of a body that the service wants more of. Past it the body fails with [`Anomaly::TimedOut`].
    pub body: Duration,
    /// Between two writes that a client takes something of. Past it the connection is cut.
    pub write: Duration,
    /// From the beginning of a drain to its end. Past it what is left is cut.
    pub drain: Duration,
    /// Of a whole head, request line and final empty line included.
    pub head_size: usize,
    /// Of the request target.
    pub uri_size: usize,
    /// Fields in a head, and again in a trailer section.
    pub header_count: usize,
    /// A whole HTTP/1.1 response that closes the connection, for those that come over `max_connections`.
    pub overloaded_answer: Bytes,
}

/// What a plane makes of requests. There is one per worker, and it never leaves its thread.
pub trait Service: 'static {
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + 'static;

    /// Answers one request. With an anomaly, `request` is a stand-in without meaning, and only the anomaly is to be answered.
    fn call(
        self: Rc<Self>,
        request: Request<Incoming>,
        from: Rc<Connection>,
        anomaly: Option<Anomaly>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// Called by the worker's sweep, ten times a second, before it looks after the connections.
    fn sweep(&self) {}
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("listener {listener}: cannot bind {address}: {}", bind_reason(.source))]
    Bind { listener: Arc<str>, address: SocketAddr, source: io::Error },
    #[error("no workers: at least one is needed")]
    NoWorkers,
    #[error("worker {index}: cannot start: {source}")]
    Worker { index: usize, source: io::Error },
    #[error("worker {index}: its service panicked while it was made")]
    Service { index: usize },
}

fn bind_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address in use; another program, perhaps another gateway, listens there".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned(),
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address".to_owned(),
        _ => error.to_string(),
    }
}

/// A server at work. Dropping it stops everything at once; [`Server::drain`] ends it in good order.
pub struct Server {
    addresses: Addresses,
    house: Arc<House>,
    draining: watch::Sender<bool>,
    /// Each worker's last word: how many connections it had to cut.
    ends: Vec<oneshot::Receiver<usize>>,
}

impl Server {
    /// Listens on all addresses and starts `workers` threads, each of which makes a service of its own.
    pub fn start<S: Service>(
        listeners: Vec<(Arc<str>, SocketAddr)>,
        workers: usize,
        bounds: Bounds,
        clock: Clock,
        service: impl Fn(&Worker) -> S + Send + Sync + Clone + 'static,
    ) -> Result<Server, StartError> {
        if workers == 0 {
            return Err(StartError::NoWorkers);
        }
        let (addresses, sockets) = listen::listen(listeners, workers)?;
        let (doors, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| door()).unzip();
        let house = Arc::new(House { bounds, clock, stats: Arc::default(), drain: DrainSignal::default(), doors });
        let (draining, _) = watch::channel(false);
        let mut ends = Vec::new();
        for (index, (sockets, inbox)) in sockets.into_iter().zip(inboxes).enumerate() {
            let post = Post { index, house: house.clone(), sockets, inbox, draining: draining.subscribe() };
            ends.push(post.start(service.clone())?);
        }
        Ok(Server { addresses, house, draining, ends })
    }

    /// Where each listener can be reached; a port 0 has become the one that all workers share.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// What happened so far, kept up to date.
    pub fn stats(&self) -> Arc<Stats> {
        self.house.stats.clone()
    }

    /// Stops accepting, lets answers in progress end with `Connection: close`, and cuts what is left after `bounds.drain`.
    /// Returns how many connections were cut.
    ///
    /// A connection between two requests is closed once it was silent for one second of the drain: closed at once, it
    /// would race a request that is on its way.
    pub async fn drain(self) -> usize {
        self.house.drain.begin();
        self.draining.send_replace(true);
        let mut cut = 0;
        for end in self.ends {
            // A worker that died has nothing left to cut.
            cut += end.await.unwrap_or(0);
        }
        cut
    }
}

fn door() -> (Door, mpsc::UnboundedReceiver<Handed>) {
    let (hand, inbox) = mpsc::unbounded_channel();
    (Door { hand, load: Arc::default() }, inbox)
}

/// What a worker's thread begins with.
struct Post {
    index: usize,
    house: Arc<House>,
    sockets: Vec<Bound>,
    inbox: mpsc::UnboundedReceiver<Handed>,
    draining: watch::Receiver<bool>,
}

impl Post {
    /// Returns once the worker has its runtime and its service.
    fn start<S: Service>(self, service: impl Fn(&Worker) -> S + Send + 'static) -> Result<oneshot::Receiver<usize>, StartError> {
        let index = self.index;
        let failed = |source| StartError::Worker { index, source };
        let (started, starting) = std_mpsc::channel();
        let (end, ends) = oneshot::channel();
        let run = move || match runtime() {
            Ok(runtime) => {
                let left = runtime.block_on(self.run(service, &started));
                // The rest is cut before anybody is told.
                drop(runtime);
                let _ = end.send(left);
            }
            Err(error) => drop(started.send(Err(error))),
        };
        thread::Builder::new().name(format!("worker-{index}")).spawn(run).map_err(failed)?;
        match starting.recv() {
            Ok(result) => result.map(|()| ends).map_err(failed),
            Err(_) => Err(StartError::Service { index }),
        }
    }

    async fn run<S: Service>(self, service: impl Fn(&Worker) -> S, started: &std_mpsc::Sender<io::Result<()>>) -> usize {
        let sockets = match worker::register(self.sockets) {
            Ok(sockets) => sockets,
            Err(error) => {
                let _ = started.send(Err(error));
                return 0;
            }
        };
        let make = |worker: &Worker| {
            let service = service(worker);
            // Whoever started us waits for this word.
            let _ = started.send(Ok(()));
            service
        };
        worker::work(self.index, self.house, sockets, self.inbox, self.draining, make).await
    }
}

fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())
}
