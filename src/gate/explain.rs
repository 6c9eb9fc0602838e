//! The door for people who ask why: the decision about a request, step by step. It leaves nothing behind: no quota is spent, no guess
//! counted, no end kept in mind.

mod steps;
mod words;

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;

use super::credential::Taken;
use super::{Call, Gate, Rules};
use crate::limits::{Charged, peek};
use crate::model::{Moment, PeerIp, Refusal, SecretHash, Timestamp};
use crate::registry::Entry;
use steps::Recorder;
pub use steps::{Finding, Outcome, Step};

/// A request as it would arrive, and what else there is to be known about it.
pub struct Question {
    pub request: Parts,
    /// A key beside those that stand in the request.
    pub presented: Option<Presented>,
    /// The other end of the socket; `None` when it is not said.
    pub peer: Option<PeerIp>,
    /// `None` for now.
    pub at: Option<Timestamp>,
}

/// A key that is asked about, as if it had been presented. The value itself is not kept.
#[derive(Clone, Copy, Debug)]
pub struct Presented {
    taken: Taken,
    /// Ours but for the checksum.
    mistyped: bool,
}

impl Presented {
    pub fn value(value: &str) -> Presented {
        let value = value.as_bytes();
        let taken = Taken::of(value);
        Presented { taken, mistyped: taken == Taken::Malformed && crate::model::secret::has_form(value) }
    }

    /// The value that a key has now.
    pub fn of_key(hash: SecretHash) -> Presented {
        Presented { taken: Taken::Value(hash), mistyped: false }
    }
}

/// What the gate would decide, and why.
pub struct Explanation {
    pub verdict: Result<(), Refusal>,
    /// All steps in their order of precedence: the verdict is that of the first that failed.
    pub steps: Vec<Finding>,
    /// Whose value it is, also where it is refused.
    pub entry: Option<Arc<Entry>>,
    /// The index of the route, once found.
    pub route: Option<usize>,
    /// What is left of the caller's limits, this call not taken off; `None` without a caller, or for a past that nobody kept.
    pub limits: Option<Charged>,
    /// The time that was judged.
    pub at: Timestamp,
    /// What to bear in mind about the answer.
    pub notes: Vec<&'static str>,
}

const PAST: &str = "the time lies in the past: key, machine and settings are taken as they are now, and what was left of the limits then is \
                    not kept; the journal tells what was changed since";
const FUTURE: &str = "the time lies ahead: key, machine and settings are taken as they are now, and nobody is taken to call in between";

impl Gate {
    /// Decides about a request that nobody sent.
    pub fn explain(&self, rules: &Rules, question: Question, now: Moment) -> Explanation {
        let at = question.at.unwrap_or(now.wall);
        let is_past = at < now.wall;
        let ahead = Duration::from_millis(u64::try_from(at.0.saturating_sub(now.wall.0)).unwrap_or(0));
        let moment = Moment { tick: now.tick.plus(ahead), wall: at };

        let Question { mut request, presented, peer, .. } = question;
        let mut recorder = Recorder::new(presented, peer, !is_past);
        let unknown = PeerIp(std::net::Ipv6Addr::UNSPECIFIED.into());
        let mut call = Call::new(moment, peer.unwrap_or(unknown));
        let verdict = self.decide(rules, &mut call, &mut request, &mut recorder).map(drop).map_err(|turned| turned.refusal);

        let limits = call.entry.as_deref().filter(|_| !is_past).and_then(|entry| {
            let machine = entry.machine.state();
            rules.limits(entry, &machine).map(|(limits, bucket)| peek(limits, bucket, moment))
        });
        let notes = match at.cmp(&now.wall) {
            std::cmp::Ordering::Less => vec![PAST],
            std::cmp::Ordering::Equal => Vec::new(),
            std::cmp::Ordering::Greater => vec![FUTURE],
        };
        Explanation { verdict, steps: recorder.finish(), entry: call.entry, route: call.route, limits, at, notes }
    }
}
