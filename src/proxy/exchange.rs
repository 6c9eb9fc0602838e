//! One call from its first byte to its record. Whatever ends it, the answer's last byte or a client that left, dropping the exchange
//! records it: exactly once.

use std::rc::Rc;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;

use super::Plane;
use super::ids::X_REQUEST_ID;
use super::open::Place;
use super::upload::Upload;
use crate::gate::{Admitted, Call};
use crate::model::call::Record;
use crate::model::{Code, Moment, PeerIp, RequestId, Verdict};
use crate::server::Connection;
use crate::telemetry::access::Line;

/// The status recorded when a client left before there was one; nginx made the number customary.
const CLIENT_CLOSED: u16 = 499;

pub struct Exchange {
    plane: Rc<Plane>,
    call: Call,
    id: RequestId,
    method: Method,
    from: Rc<Connection>,
    /// Copied for the access log, when there is one: a kept header value would pin the buffer it was read into.
    described: Option<Box<Described>>,
    admitted: bool,
    /// Among the calls that are cut when their key or machine stops counting.
    place: Option<Place>,
    verdict: Option<Verdict>,
    status: Option<u16>,
    upload: Rc<Upload>,
    sent: u64,
    upstream: Option<Duration>,
}

struct Described {
    host: Vec<u8>,
    path: String,
    user_agent: Option<Vec<u8>>,
}

impl Exchange {
    pub fn open(plane: Rc<Plane>, from: Rc<Connection>, request: &Request<Incoming>) -> Exchange {
        let now = plane.now();
        let began = Moment { tick: from.head_began().min(now.tick), wall: now.wall };
        let described = plane.shared.access.as_ref().map(|_| Box::new(Described::of(request)));
        Exchange {
            call: Call::new(began, PeerIp(from.peer.ip())),
            id: plane.ids.next(&plane.texts),
            method: request.method().clone(),
            from,
            described,
            admitted: false,
            place: None,
            verdict: None,
            status: None,
            upload: Rc::default(),
            sent: 0,
            upstream: None,
            plane,
        }
    }

    pub fn call(&mut self) -> &mut Call {
        &mut self.call
    }

    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// A client may name its call itself.
    pub fn adopt_id(&mut self, headers: &HeaderMap) {
        if let Some(id) = headers.get(X_REQUEST_ID).and_then(RequestId::from_client) {
            self.id = id;
        }
    }

    /// The log shows the path in the form that was judged.
    pub fn judged_as(&mut self, path: &str) {
        if let Some(described) = self.described.as_mut().filter(|described| described.path != path) {
            path.clone_into(&mut described.path);
        }
    }

    pub fn admitted(&mut self, pass: &Admitted) {
        self.admitted = true;
        // On a public route nobody was charged, and no key has to go on counting.
        let entry = self.call.entry.as_ref().filter(|_| pass.charged().is_some());
        self.place = entry.map(|entry| self.plane.open.add(entry, &self.from));
    }

    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Whether the call has to end because its key or machine stopped counting.
    pub fn is_cut(&self) -> bool {
        self.place.is_some_and(|place| self.plane.open.cut(place).is_some())
    }

    /// From here on the call is not cut any more. Why it was, if it was: that is then how it ended, unless it had ended already.
    pub fn leave(&mut self) -> Option<Code> {
        let why = self.plane.open.remove(self.place.take()?)?.code();
        if self.verdict.is_none() {
            self.plane.metrics.cut(why);
        }
        self.ends_as(Verdict::Refused(why));
        Some(why)
    }

    /// Where it is noted how far the request's body has come.
    pub fn upload(&self) -> Rc<Upload> {
        self.upload.clone()
    }

    pub fn waited_for_upstream(&mut self, time: Duration) {
        self.upstream = Some(time);
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// How the call ended; the first word counts.
    pub fn ends_as(&mut self, verdict: Verdict) {
        self.verdict.get_or_insert(verdict);
    }

    /// What the client is answered with, whoever wrote it.
    pub fn answers_with<B>(&mut self, response: &mut Response<B>) {
        self.status = Some(response.status().as_u16());
        response.headers_mut().insert(X_REQUEST_ID, self.id.header().clone());
    }

    fn record(&self) -> Record {
        Record {
            id: self.id.clone(),
            began: self.call.now,
            ended: self.plane.now(),
            peer: self.call.peer,
            client: self.call.client,
            method: self.method.clone(),
            route: self.call.route,
            caller: self.call.caller(),
            admitted: self.admitted,
            verdict: self.verdict.unwrap_or(Verdict::ClientClosed),
            status: self.status.unwrap_or(CLIENT_CLOSED),
            received: self.upload.passed(),
            sent: self.sent,
            upstream: self.upstream,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.leave();
        let record = self.record();
        self.plane.metrics.observe(&record);
        self.plane.ledger.record(&record);
        if let (Some(log), Some(described)) = (&self.plane.shared.access, &self.described) {
            let entry = self.call.entry.as_deref();
            let machine = entry.map(|entry| entry.machine.state());
            log.line(&Line {
                record: &record,
                listener: &self.from.listener,
                host: &described.host,
                path: described.path.as_bytes(),
                route: record.route.map(|index| &*self.plane.live().rules.route(index).name),
                machine_name: machine.as_ref().map(|state| &*state.name),
                key_label: entry.map(|entry| &*entry.label),
                user_agent: described.user_agent.as_deref(),
            });
        }
    }
}

impl Described {
    /// The path without the query: a query may carry secrets.
    fn of(request: &Request<Incoming>) -> Described {
        let field = |name| request.headers().get(name).map(|v| v.as_bytes().to_vec());
        Described { host: field(HOST).unwrap_or_default(), path: request.uri().path().to_owned(), user_agent: field(USER_AGENT) }
    }
}
