//! Writes down what the gate does, step by step.

use std::sync::Arc;

use http::request::Parts;

use super::super::credential::{self, Taken};
use super::super::permit::Demand;
use super::super::trace::{self, Trace};
use super::super::{Call, Rules};
use super::{Presented, words};
use crate::config::{Access, Credentials, Route};
use crate::limits::{Charged, Refused};
use crate::model::{ClientIp, Code, PeerIp, Refusal, Timestamp};
use crate::registry::{Entry, MachineState};

/// The steps, in the order of precedence of what they can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Client,
    Target,
    Route,
    Method,
    Request,
    Guessing,
    Credential,
    Identify,
    Replaced,
    Status,
    Expiry,
    Machine,
    Address,
    Permission,
    Organization,
    Limits,
}

impl Step {
    pub const ALL: [Step; 16] = [
        Step::Client,
        Step::Target,
        Step::Route,
        Step::Method,
        Step::Request,
        Step::Guessing,
        Step::Credential,
        Step::Identify,
        Step::Replaced,
        Step::Status,
        Step::Expiry,
        Step::Machine,
        Step::Address,
        Step::Permission,
        Step::Organization,
        Step::Limits,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Step::Client => "client",
            Step::Target => "target",
            Step::Route => "route",
            Step::Method => "method",
            Step::Request => "request",
            Step::Guessing => "guessing",
            Step::Credential => "credential",
            Step::Identify => "identify",
            Step::Replaced => "replaced",
            Step::Status => "status",
            Step::Expiry => "expiry",
            Step::Machine => "machine",
            Step::Address => "address",
            Step::Permission => "permission",
            Step::Organization => "organization",
            Step::Limits => "limits",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(Code),
    /// Not reached, or not asked.
    Skipped,
}

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub step: Step,
    pub outcome: Outcome,
    /// What was compared with what, for a person; never the value of a key.
    pub detail: String,
}

pub struct Recorder {
    presented: Option<Presented>,
    peer: Option<PeerIp>,
    knows_counts: bool,
    is_public: bool,
    /// Where a value stands in the request, and whether one there was mistyped.
    places: Vec<String>,
    mistyped: bool,
    looked_at: String,
    findings: Vec<Finding>,
}

impl Recorder {
    pub fn new(presented: Option<Presented>, peer: Option<PeerIp>, knows_counts: bool) -> Recorder {
        let mistyped = presented.is_some_and(|presented| presented.mistyped);
        Recorder {
            presented,
            peer,
            knows_counts,
            is_public: false,
            places: Vec::new(),
            mistyped,
            looked_at: String::new(),
            findings: Vec::new(),
        }
    }

    /// All steps in their order.
    pub fn finish(self) -> Vec<Finding> {
        let noted = |step: Step| self.findings.iter().find(|finding| finding.step == step).cloned();
        let why = if self.is_public { "the route is public: nothing is asked of a caller" } else { "not reached" };
        // The brake on guessing is asked about values that are not valid, and about no other.
        let is_known = noted(Step::Identify).is_some_and(|finding| finding.outcome == Outcome::Passed);
        let why = |step| if step == Step::Guessing && is_known { "valid values pass" } else { why };
        let skipped = |step| Finding { step, outcome: Outcome::Skipped, detail: why(step).to_owned() };
        Step::ALL.into_iter().map(|step| noted(step).unwrap_or_else(|| skipped(step))).collect()
    }

    fn note(&mut self, step: Step, refusal: Option<&Refusal>, detail: String) {
        let outcome = refusal.map_or(Outcome::Passed, |refusal| Outcome::Failed(refusal.code()));
        self.findings.push(Finding { step, outcome, detail });
    }

    fn skip(&mut self, step: Step, detail: &str) {
        self.findings.push(Finding { step, outcome: Outcome::Skipped, detail: detail.to_owned() });
    }
}

impl Trace for Recorder {
    const BINDS: bool = false;

    fn peer(&self, _: &Call) -> Option<PeerIp> {
        self.peer
    }

    fn knows_counts(&self) -> bool {
        self.knows_counts
    }

    fn target(&mut self, settled: &trace::Step, request: &Parts) {
        self.note(Step::Target, settled.as_ref().err(), words::target(settled, request));
    }

    fn route(&mut self, found: &Result<usize, Refusal>, rules: &Rules) {
        match found {
            Ok(index) => {
                let route = rules.route(*index);
                self.is_public = route.access == Access::Public;
                self.note(Step::Route, None, words::route(route));
                self.note(Step::Method, None, words::methods(route.methods.as_deref()));
            }
            Err(refusal @ Refusal::MethodNotAllowed(methods)) => {
                self.note(Step::Route, None, "routes match host and path".to_owned());
                self.note(Step::Method, Some(refusal), words::methods(Some(methods)));
            }
            Err(refusal @ Refusal::RouteNotFound) => {
                self.note(Step::Route, Some(refusal), "no route matches host and path".to_owned());
            }
            // The target has no form that could match.
            Err(_) => {}
        }
    }

    fn request(&mut self, acceptable: &trace::Step) {
        self.note(Step::Request, acceptable.as_ref().err(), words::request(acceptable));
    }

    fn places(&mut self, _: Option<&Route>, sources: &Credentials, request: &Parts) {
        self.places = credential::places(sources, request);
        self.mistyped |= credential::is_mistyped(sources, request);
        self.looked_at = words::sources(sources);
    }

    fn presented(&mut self, taken: Taken) -> Taken {
        if self.is_public {
            return taken;
        }
        let taken = match self.presented.map(|presented| presented.taken) {
            None | Some(Taken::Missing) => taken,
            Some(given) if taken == Taken::Missing || taken == given => given,
            Some(_) => Taken::Ambiguous,
        };
        if self.presented.is_some() {
            self.places.push("given with the question".to_owned());
        }
        let result = taken.hash();
        let detail = words::credential(&result, &self.places, &self.looked_at, self.mistyped);
        self.note(Step::Credential, result.as_ref().err(), detail);
        taken
    }

    fn identified(&mut self, identified: &Result<Arc<Entry>, Refusal>) {
        match identified {
            Ok(entry) => self.note(Step::Identify, None, words::identity(entry)),
            Err(refusal @ Refusal::KeyUnknown) => {
                self.note(
                    Step::Identify,
                    Some(refusal),
                    "nobody has this value: it was never made here, or its key was deleted".to_owned(),
                );
            }
            Err(_) => {}
        }
    }

    fn client(&mut self, client: &Result<Option<ClientIp>, Refusal>, peer: Option<PeerIp>) {
        match client {
            Ok(None) => self.skip(Step::Client, "no address was given"),
            Ok(Some(client)) => self.note(Step::Client, None, words::client(*client, peer)),
            Err(refusal) => self.note(Step::Client, Some(refusal), words::refused(refusal)),
        }
    }

    fn guessing(&mut self, retry_after: Option<u64>) {
        let refusal = retry_after.map(|retry_after| Refusal::TooManyFailures { retry_after });
        self.note(Step::Guessing, refusal.as_ref(), words::guessing(retry_after));
    }

    fn standing(&mut self, judged: trace::Step, entry: &Entry, machine: &MachineState, at: Timestamp) -> trace::Step {
        for (step, detail) in words::standing(entry, machine, &judged, at) {
            let failed = judged.as_ref().err().filter(|refusal| words::step_of(refusal) == Some(step));
            self.note(step, failed, detail);
            if failed.is_some() {
                break;
            }
        }
        judged
    }

    fn address(&mut self, judged: trace::Step, entry: &Entry, client: Option<ClientIp>) -> trace::Step {
        self.note(Step::Address, judged.as_ref().err(), words::address(entry, client, judged.is_ok()));
        judged
    }

    fn permissions(&mut self, judged: trace::Step, entry: &Entry, machine: &MachineState, demand: &Demand<'_>) -> trace::Step {
        self.note(Step::Permission, judged.as_ref().err(), words::permissions(entry, machine, demand));
        judged
    }

    fn organization(&mut self, judged: trace::Step, entry: &Entry, machine: &MachineState, demand: &Demand<'_>) -> trace::Step {
        self.note(Step::Organization, judged.as_ref().err(), words::organization(entry, machine, demand));
        judged
    }

    fn limits(&mut self, judged: &Result<Option<Charged>, Refused>) {
        match judged {
            Ok(None) => self.skip(Step::Limits, "what was left then is not kept"),
            Ok(Some(charged)) => self.note(Step::Limits, None, words::left(charged)),
            Err(over) => self.note(Step::Limits, Some(&over.refusal()), words::over(over)),
        }
    }
}
