//! Connections to upstreams: one pool per worker, so that taking and giving back costs no lock. Last in, first out: the
//! connection used last is the one the upstream is least likely to have closed.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::upload::RequestBody;
use crate::config::{Target, Upstream};
use crate::model::Tick;
use crate::server::Timers;

/// Idle connections kept per target and worker; more are closed when given back.
const KEPT_IDLE: usize = 256;

/// A larger buffer than hyper's would only cost memory; a smaller one doubled the CPU of 1 MiB bodies.
const BUFFER: usize = 64 * 1024;

pub struct Pools {
    upstreams: Vec<Balancer>,
}

/// The targets of one upstream, taken in turn.
pub struct Balancer {
    targets: Vec<Rc<Pool>>,
    next: Cell<usize>,
}

/// The idle connections to one target.
pub struct Pool {
    /// Idle times are seconds: that they are measured by sweeps is near enough.
    timers: Timers,
    target: Target,
    idle_for: Duration,
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    line: Line,
    since: Tick,
}

/// A connection and the task that drives it. Dropping it ends both at once: hyper by itself would go on with an upload to an upstream
/// that takes nothing any more, for as long as that upstream stays.
struct Line {
    sender: SendRequest<RequestBody>,
    task: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection in use. Given back only after a whole exchange; dropped otherwise, which closes it.
pub struct Lease {
    line: Line,
    /// It has carried a call before: the upstream may have closed it meanwhile.
    pub reused: bool,
    pool: Rc<Pool>,
}

impl Pools {
    pub fn new(upstreams: &[Upstream], timers: &Timers) -> Pools {
        Pools { upstreams: upstreams.iter().map(|upstream| Balancer::new(upstream, timers)).collect() }
    }

    pub fn of(&self, upstream: usize) -> &Balancer {
        &self.upstreams[upstream]
    }

    pub fn close_idle(&self) {
        for pool in self.upstreams.iter().flat_map(|upstream| &upstream.targets) {
            let now = pool.timers.soon();
            pool.idle.borrow_mut().retain(|idle| pool.is_fresh(idle, now));
        }
    }
}

impl Balancer {
    fn new(upstream: &Upstream, timers: &Timers) -> Balancer {
        let pool = |target: &Target| {
            let (timers, target) = (timers.clone(), target.clone());
            Rc::new(Pool { timers, target, idle_for: upstream.timeouts.idle, idle: RefCell::default() })
        };
        Balancer { targets: upstream.targets.iter().map(pool).collect(), next: Cell::new(0) }
    }

    /// The next target in turn.
    pub fn next(&self) -> Rc<Pool> {
        let turn = self.next.get();
        self.next.set(turn.wrapping_add(1));
        self.targets[turn % self.targets.len()].clone()
    }
}

impl Pool {
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// An idle connection that, as far as is known, still stands.
    pub fn idle(self: &Rc<Self>) -> Option<Lease> {
        let now = self.timers.soon();
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if self.is_fresh(&candidate, now) {
                return Some(Lease { line: candidate.line, reused: true, pool: self.clone() });
            }
        }
        None
    }

    /// A new connection. The address is looked up each time, so that a name that moved is followed.
    pub async fn connect(self: &Rc<Self>, within: Duration) -> io::Result<Lease> {
        let connecting = TcpStream::connect((self.target.host.as_str(), self.target.port));
        let stream = tokio::time::timeout(within, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driven = tokio::task::spawn_local(async move {
            // Its end shows in the sender and in the answer's body; there is nobody else to tell.
            let _ = connection.await;
        });
        Ok(Lease { line: Line { sender, task: driven.abort_handle() }, reused: false, pool: self.clone() })
    }

    fn is_fresh(&self, idle: &Idle, now: Tick) -> bool {
        !idle.line.sender.is_closed() && now.since(idle.since) < self.idle_for
    }
}

impl Lease {
    pub fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.line.sender
    }

    pub fn give_back(self) {
        let Lease { line, pool, .. } = self;
        let mut idle = pool.idle.borrow_mut();
        if !line.sender.is_closed() && idle.len() < KEPT_IDLE {
            idle.push(Idle { line, since: pool.timers.soon() });
        }
    }
}
