//! What is known of one connection by its three parties: the guard that reads and writes it, the sweep that watches the
//! time, and the service that answers. All of them run on one thread; the fields are atomics, read and written relaxed,
//! so that the guard can be sent along when a connection is upgraded.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::model::Tick;

use super::sweep::Pulse;
use super::{Anomaly, Bounds};

/// How long a closed connection is still read, so that what the client was sending does not reset it before it has
/// read the answer; and how long one that is idle while draining may still bring a request.
pub const LINGER: Duration = Duration::from_secs(2);
pub const DRAIN_IDLE: Duration = Duration::from_secs(1);

const NEVER: u64 = 0;

/// What the bytes that come next belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not one byte has come.
    Fresh,
    /// Between two requests.
    Between,
    /// Part of a head has come.
    Head,
    Body,
    /// A head or a body was refused: nothing more is read.
    Refused,
    /// Everything was answered and our side is closed; the client's bytes are thrown away.
    Lingering,
}

/// What the sweep told the connection to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    None,
    /// Close: no request came, ever.
    CloseFresh,
    /// Close: no next request came.
    CloseIdle,
    /// Close: no next request came, and the gateway is going.
    CloseDraining,
    /// Answer the unfinished head with a timeout.
    EndHead,
    /// End the unfinished body with a timeout.
    EndBody,
    /// Drop the connection: the client takes nothing.
    CutStalled,
    /// Drop the connection: it was closed and the client does not close its side.
    CutLingering,
    /// Drop the connection: its service wants nothing more of it.
    CutUnwanted,
}

const PHASES: [Phase; 6] = [Phase::Fresh, Phase::Between, Phase::Head, Phase::Body, Phase::Refused, Phase::Lingering];
const ORDERS: [Order; 9] = [
    Order::None,
    Order::CloseFresh,
    Order::CloseIdle,
    Order::CloseDraining,
    Order::EndHead,
    Order::EndBody,
    Order::CutStalled,
    Order::CutLingering,
    Order::CutUnwanted,
];

#[derive(Debug)]
pub struct Link {
    pulse: Arc<Pulse>,
    phase: AtomicU8,
    order: AtomicU8,
    /// When the phase began or the last answer ended, whichever was later.
    since: AtomicU64,
    /// Since when a body's next bytes are waited for; `NEVER` when they are not.
    reading_since: AtomicU64,
    /// Since when the client takes nothing; `NEVER` while it does.
    writing_since: AtomicU64,
    /// When the first byte came of the head that was delivered last.
    began: AtomicU64,
    /// Heads delivered to hyper, and calls that ended.
    heads: AtomicU64,
    answered: AtomicU64,
    /// An answer broke off whose end only the connection's end shows.
    broken: AtomicBool,
    /// The service has something new to say on its own account.
    called: AtomicBool,
    /// The number of the head that was refused, and why. There is at most one: nothing is read after it.
    refused: OnceLock<(u64, Anomaly)>,
}

impl Link {
    pub fn new(pulse: Arc<Pulse>) -> Arc<Link> {
        let now = pulse.soon().0;
        Arc::new(Link {
            pulse,
            phase: AtomicU8::new(Phase::Fresh as u8),
            order: AtomicU8::new(Order::None as u8),
            since: AtomicU64::new(now),
            reading_since: AtomicU64::new(NEVER),
            writing_since: AtomicU64::new(NEVER),
            began: AtomicU64::new(NEVER),
            heads: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            called: AtomicBool::new(false),
            refused: OnceLock::new(),
        })
    }

    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Relaxed))]
    }

    /// Time is measured anew from a change of phase, and only from a change.
    pub fn enter(&self, phase: Phase) {
        if self.phase.swap(phase as u8, Relaxed) != phase as u8 {
            self.since.store(self.pulse.soon().0, Relaxed);
        }
    }

    // What the guard reports.

    /// A whole head was delivered whose first byte came at `began`.
    pub fn head_delivered(&self, began: Tick) {
        self.heads.fetch_add(1, Relaxed);
        self.began.store(began.0, Relaxed);
    }

    /// The head delivered last stands for one that was refused.
    pub fn head_refused(&self, anomaly: Anomaly) {
        // The first one stays: there is no second.
        let _ = self.refused.set((self.heads.load(Relaxed), anomaly));
    }

    pub fn read_waits(&self) {
        if self.phase() == Phase::Body && self.reading_since.load(Relaxed) == NEVER {
            self.reading_since.store(self.pulse.soon().0, Relaxed);
        }
    }

    /// Bytes came.
    pub fn read_moved(&self) {
        self.reading_since.store(NEVER, Relaxed);
    }

    pub fn write_waits(&self) {
        if self.writing_since.load(Relaxed) == NEVER {
            self.writing_since.store(self.pulse.soon().0, Relaxed);
        }
    }

    pub fn write_moved(&self) {
        self.writing_since.store(NEVER, Relaxed);
    }

    // What the service asks and reports.

    /// Why the call with this number (the first is 1) was refused before it was a call.
    pub fn anomaly_of(&self, call: u64) -> Option<Anomaly> {
        self.refused.get().filter(|(number, _)| *number == call).map(|(_, anomaly)| *anomaly)
    }

    pub fn began(&self) -> Tick {
        Tick(self.began.load(Relaxed))
    }

    /// Whether this call's body did not come to its end: not yet, or it never will.
    pub fn body_is_open(&self, call: u64) -> bool {
        matches!(self.phase(), Phase::Body | Phase::Refused) && self.heads.load(Relaxed) == call
    }

    /// The answer's last byte was given to hyper, or there will be none.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Relaxed);
        self.since.store(self.pulse.soon().0, Relaxed);
    }

    /// An answer that the connection's closing would end properly has broken off.
    pub fn broke_off(&self) {
        self.broken.store(true, Relaxed);
    }

    /// Whether the client must be told by a reset that the connection did not end in good order.
    pub fn ends_in_reset(&self) -> bool {
        self.broken.load(Relaxed) || matches!(self.order(), Order::CutStalled | Order::CutUnwanted)
    }

    /// The connection's task has to look again; the sweep wakes it.
    pub fn call(&self) {
        self.called.store(true, Relaxed);
    }

    // What the sweep decides.

    pub fn order(&self) -> Order {
        ORDERS[usize::from(self.order.load(Relaxed))]
    }

    pub fn give(&self, order: Order) {
        self.order.store(order as u8, Relaxed);
    }

    /// Whether the connection has to be dropped as it is.
    pub fn is_cut(&self) -> bool {
        matches!(self.order(), Order::CutStalled | Order::CutLingering | Order::CutUnwanted)
    }

    /// Whether it was called since this was last asked.
    pub fn was_called(&self) -> bool {
        // Two plain accesses instead of an exchange: both sides run on one thread.
        let called = self.called.load(Relaxed);
        if called {
            self.called.store(false, Relaxed);
        }
        called
    }

    /// What is overdue at `now`. `draining` is when the drain began.
    pub fn overdue(&self, now: Tick, bounds: &Bounds, draining: Option<Tick>) -> Order {
        let passed = |since: &AtomicU64, bound: Duration| now >= Tick(since.load(Relaxed)).plus(bound);
        let waits = |since: &AtomicU64| since.load(Relaxed) != NEVER;
        let stalled = waits(&self.writing_since);
        if stalled && passed(&self.writing_since, bounds.write) {
            return Order::CutStalled;
        }
        let busy = stalled || self.heads.load(Relaxed) > self.answered.load(Relaxed);
        match self.phase() {
            Phase::Lingering if passed(&self.since, LINGER) => Order::CutLingering,
            Phase::Body if waits(&self.reading_since) && passed(&self.reading_since, bounds.body) => Order::EndBody,
            Phase::Head if !busy && passed(&self.since, bounds.head) => Order::EndHead,
            Phase::Fresh if passed(&self.since, bounds.first_byte) => Order::CloseFresh,
            Phase::Between if !busy && passed(&self.since, bounds.idle) => Order::CloseIdle,
            Phase::Fresh | Phase::Between if !busy && self.is_done_draining(now, draining) => Order::CloseDraining,
            _ => Order::None,
        }
    }

    fn is_done_draining(&self, now: Tick, draining: Option<Tick>) -> bool {
        draining.is_some_and(|began| now >= began.max(Tick(self.since.load(Relaxed))).plus(DRAIN_IDLE))
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Clock;
    use crate::model::Timestamp;
    use crate::server::tests::bounds;

    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// A link, and a function that lets a second pass and asks what is overdue.
    fn watched() -> (Arc<Link>, impl Fn(u64) -> Order) {
        let bounds = Bounds { first_byte: secs(2), head: secs(3), idle: secs(5), body: secs(4), write: secs(6), ..bounds() };
        let clock = Clock::manual(Timestamp(0));
        let pulse = Pulse::new(&clock);
        let link = Link::new(pulse.clone());
        let watch = link.clone();
        (link, move |millis| {
            clock.advance(Duration::from_millis(millis));
            watch.overdue(pulse.beat(&clock), &bounds, None)
        })
    }

    #[test]
    fn each_phase_has_its_own_bound() {
        for (phase, bound, order) in [
            (Phase::Fresh, 2_000, Order::CloseFresh),
            (Phase::Head, 3_000, Order::EndHead),
            (Phase::Between, 5_000, Order::CloseIdle),
            (Phase::Lingering, 2_000, Order::CutLingering),
        ] {
            let (link, after) = watched();
            link.enter(phase);
            assert_eq!(after(bound), Order::None, "{phase:?}: never early");
            assert_eq!(after(100), order, "{phase:?}");
        }
    }

    #[test]
    fn a_body_is_timed_only_while_it_is_waited_for() {
        let (link, after) = watched();
        link.enter(Phase::Body);
        assert_eq!(after(60_000), Order::None);
        link.read_waits();
        assert_eq!(after(4_000), Order::None);
        assert_eq!(after(100), Order::EndBody);
        link.read_moved();
        assert_eq!(after(60_000), Order::None);
    }

    #[test]
    fn a_request_in_progress_is_not_idle_and_time_starts_at_its_answer() {
        for (phase, bound, order) in [(Phase::Between, 5_000, Order::CloseIdle), (Phase::Head, 3_000, Order::EndHead)] {
            let (link, after) = watched();
            link.head_delivered(Tick(1));
            link.enter(phase);
            assert_eq!(after(60_000), Order::None, "{phase:?}");
            link.answered();
            assert_eq!(after(bound), Order::None, "{phase:?}");
            assert_eq!(after(100), order, "{phase:?}");
        }
    }

    #[test]
    fn a_client_that_takes_nothing_is_cut() {
        let (link, after) = watched();
        link.enter(Phase::Between);
        link.write_waits();
        assert_eq!(after(5_500), Order::None, "not idle while bytes wait for it");
        assert_eq!(after(600), Order::CutStalled);
        link.write_moved();
        assert_ne!(after(0), Order::CutStalled);
    }

    #[test]
    fn only_the_refused_call_has_the_anomaly() {
        let (link, _) = watched();
        link.head_delivered(Tick(1));
        link.head_delivered(Tick(1));
        link.head_refused(Anomaly::UriTooLong);
        assert_eq!((link.anomaly_of(1), link.anomaly_of(2), link.anomaly_of(3)), (None, Some(Anomaly::UriTooLong), None));
    }
}
