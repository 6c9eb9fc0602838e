//! The calls of this worker that were let in with a key and are not over, and the end of those whose key or machine stopped counting
//! meanwhile: a second later they are cut.
//!
//! A call costs a place in a table. The worker's sweep compares two numbers, and asks the gate about all open calls only when a change may
//! have ended one of them or the first of their dates has come; from then on it asks about those alone that no longer count.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use slab::Slab;

use crate::gate::Gate;
use crate::model::{Moment, Refusal, SecretHash, Tick, Timestamp};
use crate::registry::Entry;
use crate::server::Connection;

/// How long a call may go on after its key or machine stopped counting. An ordinary answer is done by then; a stream is not.
const GRACE: Duration = Duration::from_secs(1);

pub struct OpenCalls {
    /// Bounded by the connections that can be open. Borrowed for single statements only.
    calls: RefCell<Slab<OpenCall>>,
    /// The gate's turn when all calls were last asked about.
    turn: Cell<u64>,
    /// No date among the calls is earlier. It may be that of a call which is over.
    next_end: Cell<Timestamp>,
    /// Whether some call no longer counted when they were last asked about.
    some_ended: Cell<bool>,
}

struct OpenCall {
    value: SecretHash,
    from: Rc<Connection>,
    fate: Fate,
}

enum Fate {
    Counts,
    /// It was first seen not to count.
    Ended(Tick),
    Cut(Refusal),
}

/// A call's place among the open ones, for as long as it is one.
#[derive(Clone, Copy)]
pub struct Place(usize);

impl OpenCalls {
    pub fn new(gate: &Gate) -> OpenCalls {
        OpenCalls {
            calls: RefCell::default(),
            turn: Cell::new(gate.turn()),
            next_end: Cell::new(Timestamp::NEVER),
            some_ended: Cell::new(false),
        }
    }

    /// To be called without a pause after the gate let the call in: a change that comes between the two then shows at the next sweep.
    pub fn add(&self, entry: &Entry, from: &Rc<Connection>) -> Place {
        self.next_end.set(self.next_end.get().min(entry.ends_at()));
        let call = OpenCall { value: entry.hash, from: from.clone(), fate: Fate::Counts };
        Place(self.calls.borrow_mut().insert(call))
    }

    /// The call is over. Why it was cut, if it was.
    pub fn remove(&self, place: Place) -> Option<Refusal> {
        let call = self.calls.borrow_mut().try_remove(place.0);
        call.and_then(|call| if let Fate::Cut(why) = call.fate { Some(why) } else { None })
    }

    /// Why the call is cut, if it is.
    pub fn cut(&self, place: Place) -> Option<Refusal> {
        match self.calls.borrow().get(place.0) {
            Some(OpenCall { fate: Fate::Cut(why), .. }) => Some(why.clone()),
            _ => None,
        }
    }

    /// What `future` comes to, unless the call is cut before.
    pub async fn unless_cut<T, E: From<Refusal>>(&self, place: Option<Place>, future: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| match place.and_then(|place| self.cut(place)) {
            Some(why) => Poll::Ready(Err(why.into())),
            None => future.as_mut().poll(cx),
        })
        .await
    }

    /// Looks whether anybody has to be cut, and cuts.
    pub fn sweep(&self, gate: &Gate, now: Moment) {
        let turn = gate.turn();
        let all = turn != self.turn.get() || now.wall >= self.next_end.get();
        if !all && !self.some_ended.get() {
            return;
        }
        if all {
            self.turn.set(turn);
            self.next_end.set(Timestamp::NEVER);
        }
        self.some_ended.set(false);
        for (_, call) in self.calls.borrow_mut().iter_mut() {
            if all || !matches!(call.fate, Fate::Counts) {
                self.follow(call, gate, now);
            }
        }
    }

    fn follow(&self, call: &mut OpenCall, gate: &Gate, now: Moment) {
        call.fate = match (gate.still_counts(&call.value, now.wall), &call.fate) {
            (_, Fate::Cut(why)) => {
                // It was called a sweep ago and did not come: its client takes nothing.
                call.from.cut();
                Fate::Cut(why.clone())
            }
            (Ok(until), _) => {
                self.next_end.set(self.next_end.get().min(until));
                Fate::Counts
            }
            (Err(_), Fate::Counts) => Fate::Ended(now.tick),
            (Err(why), Fate::Ended(since)) if now.tick.since(*since) >= GRACE => {
                call.from.call_up();
                Fate::Cut(why)
            }
            (Err(_), Fate::Ended(since)) => Fate::Ended(*since),
        };
        if !matches!(call.fate, Fate::Counts) {
            self.some_ended.set(true);
        }
    }
}
