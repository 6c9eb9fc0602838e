//! Who looks on while the gate decides, and whether the decision binds.
//!
//! The gate tells a [`Trace`] of each step as it takes it. The calls of the data plane have one that does nothing and is compiled away; an
//! explanation has one that writes everything down. There is one way to decide, whoever looks on.

use std::sync::Arc;

use http::request::Parts;

use super::credential::Taken;
use super::permit::Demand;
use super::{Call, Rules};
use crate::config::{Credentials, Route};
use crate::limits::{Charged, Refused};
use crate::model::{ClientIp, PeerIp, Refusal, Timestamp};
use crate::registry::{Entry, MachineState};

/// The outcome of one step.
pub type Step = Result<(), Refusal>;

/// Looks on, step by step. What is handed in is handed back; only [`Trace::peer`], [`Trace::presented`] and [`Trace::knows_counts`] have a
/// say in what is judged, for questions that leave something open.
#[allow(unused_variables, reason = "who does not look has no use for what there is to see, and the names say what it is")]
pub trait Trace {
    /// A decision that binds spends quota, counts guesses and keeps in mind which ends it saw go by. Any other leaves everything as it is.
    const BINDS: bool;

    /// The other end of the socket; `None` where a question does not say.
    fn peer(&self, call: &Call) -> Option<PeerIp> {
        Some(call.peer)
    }

    /// Whether what was used of the limits is known for the time that is judged.
    fn knows_counts(&self) -> bool {
        true
    }

    fn target(&mut self, settled: &Step, request: &Parts) {}

    fn route(&mut self, found: &Result<usize, Refusal>, rules: &Rules) {}

    fn request(&mut self, acceptable: &Step) {}

    /// The places that are looked at, before anything is taken from them.
    fn places(&mut self, route: Option<&Route>, sources: &Credentials, request: &Parts) {}

    /// What the request presented; a question can present more.
    fn presented(&mut self, taken: Taken) -> Taken {
        taken
    }

    fn identified(&mut self, identified: &Result<Arc<Entry>, Refusal>) {}

    fn client(&mut self, client: &Result<Option<ClientIp>, Refusal>, peer: Option<PeerIp>) {}

    /// Asked only about who was not recognised: whether the address had its failures.
    fn guessing(&mut self, retry_after: Option<u64>) {}

    fn standing(&mut self, judged: Step, entry: &Entry, machine: &MachineState, at: Timestamp) -> Step {
        judged
    }

    fn address(&mut self, judged: Step, entry: &Entry, client: Option<ClientIp>) -> Step {
        judged
    }

    fn permissions(&mut self, judged: Step, entry: &Entry, machine: &MachineState, demand: &Demand<'_>) -> Step {
        judged
    }

    fn organization(&mut self, judged: Step, entry: &Entry, machine: &MachineState, demand: &Demand<'_>) -> Step {
        judged
    }

    fn limits(&mut self, judged: &Result<Option<Charged>, Refused>) {}
}

/// A call: nobody looks on, and the decision binds.
pub struct Binding;

impl Trace for Binding {
    const BINDS: bool = true;
}

/// What a call would be told, and no trace of the question.
pub struct Rehearsal;

impl Trace for Rehearsal {
    const BINDS: bool = false;
}
