//! Time without timers. Each worker looks at everything that waits on it ten times a second, connections and calls
//! alike; a wait costs a store into its own memory and nothing else. (hyper's own head timer costs 433 ns and an
//! allocation per request and counts idle time; `tokio::time::timeout` 117 ns.)
//!
//! A deadline never fires early, and at most two sweeps late.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::clock::Clock;
use crate::model::Tick;

/// The time between two sweeps.
pub const SWEEP: Duration = Duration::from_millis(100);

/// A worker's coarse clock, written by its sweep: reading it costs a load. It shows the tick at which the *next* sweep is
/// due, so what is measured from it never seems longer than it was.
#[derive(Debug)]
pub struct Pulse(AtomicU64);

impl Pulse {
    pub fn new(clock: &Clock) -> Arc<Pulse> {
        let pulse = Pulse(AtomicU64::new(0));
        pulse.beat(clock);
        Arc::new(pulse)
    }

    /// Sets it by the clock and returns the clock's tick.
    pub fn beat(&self, clock: &Clock) -> Tick {
        let now = clock.now().tick;
        self.0.store(now.plus(SWEEP).0, Ordering::Relaxed);
        now
    }

    pub fn soon(&self) -> Tick {
        Tick(self.0.load(Ordering::Relaxed))
    }
}

/// A worker's timers for whoever must not wait for ever: a call for its upstream, say. Clones are the same timers.
#[derive(Clone, Debug)]
pub struct Timers(Rc<Waits>);

#[derive(Debug)]
struct Waits {
    pulse: Arc<Pulse>,
    /// Borrowed for single statements only, never while a waker runs.
    waiting: RefCell<Slab<Wait>>,
}

#[derive(Debug)]
struct Wait {
    due: Tick,
    waker: Waker,
}

impl Timers {
    pub(super) fn new(pulse: Arc<Pulse>) -> Timers {
        Timers(Rc::new(Waits { pulse, waiting: RefCell::default() }))
    }

    /// A tick for what may be off by a sweep: reading it costs a load, not the clock.
    pub fn soon(&self) -> Tick {
        self.0.pulse.soon()
    }

    /// A future that is ready once `time` has passed. It takes its place among the timers when it is first polled.
    pub fn after(&self, time: Duration) -> Deadline {
        Deadline { timers: self.clone(), due: self.0.pulse.soon().plus(time), place: None }
    }

    /// Wakes those whose time has come.
    pub(super) fn sweep(&self, now: Tick) {
        let due: Vec<Waker> = self.0.waiting.borrow().iter().filter(|(_, w)| w.due <= now).map(|(_, w)| w.waker.clone()).collect();
        for waker in due {
            waker.wake();
        }
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.0.waiting.borrow().len()
    }
}

/// Ready, and ready again, once its time has passed. Dropping it cancels it.
#[derive(Debug)]
#[must_use = "a deadline does nothing unless polled"]
pub struct Deadline {
    timers: Timers,
    due: Tick,
    place: Option<usize>,
}

impl Deadline {
    fn now(&self) -> Tick {
        let soon = self.timers.0.pulse.soon();
        Tick(soon.0.saturating_sub(SWEEP.as_nanos() as u64))
    }

    fn wait(&mut self, waker: &Waker) {
        let waiting = &mut *self.timers.0.waiting.borrow_mut();
        match self.place.and_then(|place| waiting.get_mut(place)) {
            Some(wait) => wait.waker.clone_from(waker),
            None => self.place = Some(waiting.insert(Wait { due: self.due, waker: waker.clone() })),
        }
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            // The waker is dropped after the borrow has ended: nobody knows what hangs on it.
            let _wait = self.timers.0.waiting.borrow_mut().try_remove(place);
        }
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.due <= self.now() {
            self.leave();
            return Poll::Ready(());
        }
        self.wait(cx.waker());
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use crate::model::Timestamp;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_deadline_fires_at_its_time_and_leaves_no_trace() {
        let clock = Clock::manual(Timestamp(0));
        let pulse = Pulse::new(&clock);
        let timers = Timers::new(pulse.clone());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut deadline = timers.after(Duration::from_secs(1));
        let other = timers.after(Duration::from_secs(5));
        assert_eq!(timers.waiting(), 0, "nothing is kept before the first poll");
        for (millis, ready) in [(0, false), (999, false), (100, false), (1, true)] {
            clock.advance(Duration::from_millis(millis));
            timers.sweep(pulse.beat(&clock));
            assert_eq!(woken.0.load(Ordering::Relaxed), usize::from(ready), "after {millis} ms more");
            assert_eq!(Pin::new(&mut deadline).poll(&mut cx).is_ready(), ready, "after {millis} ms more");
            assert_eq!(timers.waiting(), usize::from(!ready));
        }
        drop(other);
    }

    #[test]
    fn a_dropped_deadline_is_cancelled() {
        let clock = Clock::manual(Timestamp(0));
        let timers = Timers::new(Pulse::new(&clock));
        let mut deadline = timers.after(Duration::from_secs(1));
        assert!(Pin::new(&mut deadline).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(timers.waiting(), 1);
        drop(deadline);
        assert_eq!(timers.waiting(), 0);
    }
}
