//! A worker: one thread, one runtime, a listening socket per address, and the connections it was given. Nothing
//! of a connection ever moves to another thread once it is served.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use slab::Slab;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::clock::Clock;
use crate::model::Tick;

use super::link::{Link, Order};
use super::listen::Bound;
use super::serve::{protocol, serve};
use super::sweep::{Pulse, SWEEP, Timers};
use super::wire::Rules;
use super::{Bounds, Service, Stats};

/// The pause after an accept that failed for want of descriptors or memory: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections over the cap that are told so at a time, and for how long; further ones are closed without a word.
const TURNING_AWAY: usize = 256;
const TURN_AWAY_TIME: Duration = Duration::from_secs(1);

/// Whether the gateway is going down.
#[derive(Clone, Debug, Default)]
pub struct DrainSignal(Arc<AtomicBool>);

impl DrainSignal {
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a service is made with, once per worker.
#[derive(Clone, Debug)]
pub struct Worker {
    /// From 0.
    pub index: usize,
    pub timers: Timers,
    pub clock: Clock,
    pub drain: DrainSignal,
}

/// What all workers share.
pub struct House {
    pub bounds: Bounds,
    pub clock: Clock,
    pub stats: Arc<Stats>,
    pub drain: DrainSignal,
    /// How to reach each worker, in their order.
    pub doors: Vec<Door>,
}

/// The way in to one worker.
pub struct Door {
    pub hand: mpsc::UnboundedSender<Handed>,
    pub load: Arc<Load>,
}

/// A connection that another worker accepted. How many wait is bounded by the cap on connections.
pub struct Handed {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    listener: Arc<str>,
    claim: Claim,
}

/// How many connections a worker has.
#[derive(Debug, Default)]
pub struct Load {
    connections: AtomicUsize,
    /// Told when there is none left.
    none: Notify,
}

impl Load {
    pub fn get(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn until_none(&self) {
        while self.get() > 0 {
            self.none.notified().await;
        }
    }
}

/// A connection's place under the cap and in its worker's load; given back when dropped.
struct Claim {
    stats: Arc<Stats>,
    load: Arc<Load>,
}

impl Claim {
    fn new(stats: &Arc<Stats>, load: &Arc<Load>, cap: usize) -> Option<Claim> {
        stats.open.add_within(cap as u64).then(|| {
            load.connections.fetch_add(1, Ordering::Relaxed);
            Claim { stats: stats.clone(), load: load.clone() }
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.stats.open.sub();
        if self.load.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.load.none.notify_one();
        }
    }
}

/// A worker at work.
pub struct Desk<S> {
    pub house: Arc<House>,
    pub worker: Worker,
    pub service: Rc<S>,
    pub protocol: http1::Builder,
    pub rules: Rules,
    pulse: Arc<Pulse>,
    seats: Rc<Seats>,
    turning_away: Cell<usize>,
}

/// The connections that the sweep visits.
#[derive(Default)]
struct Seats(RefCell<Slab<Watched>>);

struct Watched {
    link: Arc<Link>,
    waker: Waker,
}

/// A connection's place among those that the sweep visits.
pub struct Seat {
    pub link: Arc<Link>,
    place: usize,
    seats: Rc<Seats>,
    _claim: Claim,
}

impl Seat {
    fn take<S>(desk: &Desk<S>, claim: Claim) -> Seat {
        let link = Link::new(desk.pulse.clone());
        let place = desk.seats.0.borrow_mut().insert(Watched { link: link.clone(), waker: Waker::noop().clone() });
        Seat { link, place, seats: desk.seats.clone(), _claim: claim }
    }

    /// Whom the sweep wakes when something is overdue.
    pub fn wake_by(&self, waker: &Waker) {
        if let Some(watched) = self.seats.0.borrow_mut().get_mut(self.place) {
            watched.waker.clone_from(waker);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // The waker is dropped after the borrow has ended: nobody knows what hangs on it.
        let _watched = self.seats.0.borrow_mut().try_remove(self.place);
    }
}

/// Works until the gateway drains and this worker's connections have ended, or the grace has. Returns how many were left.
pub async fn work<S: Service>(
    index: usize,
    house: Arc<House>,
    sockets: Vec<(Arc<str>, TcpListener)>,
    inbox: mpsc::UnboundedReceiver<Handed>,
    mut draining: watch::Receiver<bool>,
    service: impl FnOnce(&Worker) -> S,
) -> usize {
    let desk = Desk::new(index, house, service);
    let accepting: Vec<_> = sockets
        .into_iter()
        .map(|(listener, socket)| tokio::task::spawn_local(accept(desk.clone(), listener, socket, draining.clone())))
        .collect();
    tokio::task::spawn_local(sweep(desk.clone()));
    tokio::task::spawn_local(take_over(desk.clone(), inbox));
    if draining.wait_for(|draining| *draining).await.is_err() {
        // Whoever could say so is gone: nobody waits for us.
        return 0;
    }
    for task in accepting {
        // It ends by itself; had it panicked, there would be nothing to wait for.
        let _ = task.await;
    }
    let load = desk.load();
    let _ = timeout(desk.house.bounds.drain, load.until_none()).await;
    load.get()
}

impl<S: Service> Desk<S> {
    fn new(index: usize, house: Arc<House>, service: impl FnOnce(&Worker) -> S) -> Rc<Desk<S>> {
        let pulse = Pulse::new(&house.clock);
        let timers = Timers::new(pulse.clone());
        let worker = Worker { index, timers, clock: house.clock.clone(), drain: house.drain.clone() };
        let bounds = &house.bounds;
        let rules = Rules { head_size: bounds.head_size, uri_size: bounds.uri_size, header_count: bounds.header_count };
        Rc::new(Desk {
            service: Rc::new(service(&worker)),
            protocol: protocol(&rules),
            rules,
            pulse,
            worker,
            seats: Rc::default(),
            turning_away: Cell::new(0),
            house,
        })
    }

    fn load(&self) -> &Arc<Load> {
        &self.house.doors[self.worker.index].load
    }

    /// Gives every connection its orders and wakes those that have any, or were called.
    fn sweep_connections(&self, now: Tick, draining: Option<Tick>) {
        let mut overdue = Vec::new();
        for (_, watched) in self.seats.0.borrow().iter() {
            let called = watched.link.was_called();
            match watched.link.overdue(now, &self.house.bounds, draining) {
                Order::None if called => overdue.push((Order::None, watched.waker.clone())),
                Order::None => {}
                order => {
                    watched.link.give(order);
                    overdue.push((order, watched.waker.clone()));
                }
            }
        }
        for (order, waker) in overdue {
            if order == Order::CutStalled {
                self.house.stats.write_timeouts.add();
            }
            waker.wake();
        }
    }

    fn seat(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, listener: Arc<str>, claim: Claim) {
        serve(self, stream, peer, listener, Seat::take(self, claim));
    }

    /// Serves a new connection here, or on the worker with the fewest when this one has clearly more: the kernel spreads
    /// few connections badly (with 4 on 4 workers the fullest has twice the mean).
    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, listener: &Arc<str>) {
        let index = self.choose_worker();
        let door = &self.house.doors[index];
        let Some(claim) = Claim::new(&self.house.stats, &door.load, self.house.bounds.max_connections) else {
            return self.turn_away(stream);
        };
        self.house.stats.accepted.add();
        if index == self.worker.index {
            return self.seat(stream, peer, listener.clone(), claim);
        }
        if let Ok(stream) = stream.into_std() {
            // A worker that is gone drops the connection, as the end of this process will.
            let _ = door.hand.send(Handed { stream, peer, listener: listener.clone(), claim });
        }
    }

    fn choose_worker(&self) -> usize {
        let own = self.worker.index;
        if self.worker.drain.is_draining() {
            return own;
        }
        let least = self.house.doors.iter().enumerate().map(|(index, door)| (door.load.get(), index)).min();
        match least {
            Some((least, index)) if self.load().get() > least + 1 => index,
            _ => own,
        }
    }

    fn turn_away(self: &Rc<Self>, stream: TcpStream) {
        self.house.stats.over_cap.add();
        if self.turning_away.get() < TURNING_AWAY {
            self.turning_away.set(self.turning_away.get() + 1);
            let desk = self.clone();
            tokio::task::spawn_local(async move {
                // Whatever becomes of it, this connection ends here.
                let _ = timeout(TURN_AWAY_TIME, say(stream, &desk.house.bounds.overloaded_answer)).await;
                desk.turning_away.set(desk.turning_away.get() - 1);
            });
        }
    }
}

/// Sends an answer without having read a request, then reads what comes until the client closes, so that it is not reset.
async fn say(mut stream: TcpStream, answer: &Bytes) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    let mut scratch = [0; 1024];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

async fn sweep<S: Service>(desk: Rc<Desk<S>>) {
    let mut beat = interval(SWEEP);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draining = None;
    loop {
        beat.tick().await;
        let now = desk.pulse.beat(&desk.house.clock);
        if desk.worker.drain.is_draining() {
            draining.get_or_insert(now);
        }
        desk.worker.timers.sweep(now);
        desk.service.sweep();
        desk.sweep_connections(now, draining);
    }
}

async fn take_over<S: Service>(desk: Rc<Desk<S>>, mut inbox: mpsc::UnboundedReceiver<Handed>) {
    while let Some(Handed { stream, peer, listener, claim }) = inbox.recv().await {
        if let Ok(stream) = TcpStream::from_std(stream) {
            desk.seat(stream, peer, listener, claim);
        }
    }
}

/// Accepts until the gateway drains, and then what the kernel had accepted already: those clients believe they are connected.
async fn accept<S: Service>(desk: Rc<Desk<S>>, listener: Arc<str>, socket: TcpListener, mut draining: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => desk.admit(stream, peer, &listener),
            Err(error) => {
                desk.house.stats.accept_errors.add();
                if !is_about_one_connection(&error) {
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    while let Some(Ok((stream, peer))) = accept_now(&socket).await {
        desk.admit(stream, peer, &listener);
    }
}

/// What waits to be accepted, if anything does.
async fn accept_now(socket: &TcpListener) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    std::future::poll_fn(|cx| match socket.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Whether only the connection that was to be accepted is lost (accept(2)), and the next one may well succeed.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// The sockets as the worker's runtime wants them; to be called within it.
pub fn register(bounds: Vec<Bound>) -> io::Result<Vec<(Arc<str>, TcpListener)>> {
    bounds.into_iter().map(|bound| Ok((bound.listener, TcpListener::from_std(bound.socket)?))).collect()
}
