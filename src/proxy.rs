//! The data plane: what happens to a request, told once. Each verb is one call into a file of its own.
//!
//! `gate.admit` finds the route, takes the credential, identifies the key, permits and charges; `forward::send` wants the pass that only
//! the gate makes; the [`Exchange`] records the call once, whatever its end. This room never opens the store.

mod answer;
mod body;
mod exchange;
mod forward;
mod headers;
mod ids;
mod open;
mod pool;
mod text;
mod upload;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::clock::Clock;
use crate::config::{LimitHeaders, Settings};
use crate::gate::{Gate, Rules, Turned};
use crate::model::{Moment, Refusal, Verdict};
use crate::server::{Anomaly, Connection, Service, Timers, Worker};
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::WorkerMetrics;
use crate::usage::Ledger;
use answer::limit_fields;
use body::AnswerBody;
use exchange::Exchange;
use headers::NotInTrailers;
use ids::RequestIds;
use open::OpenCalls;
use pool::Pools;
use text::Texts;

/// The settings as the data plane reads them.
pub struct Live {
    pub settings: Settings,
    pub rules: Arc<Rules>,
}

impl Live {
    pub fn new(settings: Settings) -> Live {
        Live { rules: Arc::new(Rules::new(&settings)), settings }
    }
}

/// What every worker's plane shares with the others.
pub struct Shared {
    pub live: Arc<Live>,
    pub gate: Arc<Gate>,
    pub access: Option<AccessLog>,
}

/// The data plane of one worker.
pub struct Plane {
    shared: Arc<Shared>,
    pools: Rc<Pools>,
    open: OpenCalls,
    no_trailers: Rc<NotInTrailers>,
    ids: RequestIds,
    texts: Texts,
    metrics: WorkerMetrics,
    ledger: Ledger,
    timers: Timers,
    clock: Clock,
}

/// How often idle upstream connections are looked through.
const POOL_SWEEP: Duration = Duration::from_secs(1);

impl Plane {
    /// Called on the worker's own thread, inside its runtime.
    pub fn new(shared: Arc<Shared>, worker: &Worker, metrics: WorkerMetrics, ledger: Ledger) -> Plane {
        let pools = Rc::new(Pools::new(&shared.live.settings.upstreams, &worker.timers));
        tokio::task::spawn_local(sweep(Rc::downgrade(&pools)));
        let no_trailers = Rc::new(NotInTrailers::new(&shared.live.settings));
        let (timers, clock) = (worker.timers.clone(), worker.clock.clone());
        let open = OpenCalls::new(&shared.gate);
        Plane { shared, pools, open, no_trailers, ids: RequestIds::seeded(), texts: Texts::default(), metrics, ledger, timers, clock }
    }

    fn live(&self) -> &Live {
        &self.shared.live
    }

    fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The spine. What the gate learns on the way stays in the exchange, whatever the outcome.
    async fn serve(
        &self,
        exchange: &mut Exchange,
        mut head: Parts,
        body: Incoming,
        anomaly: Option<Anomaly>,
    ) -> Result<Response<AnswerBody>, Turned> {
        if let Some(anomaly) = anomaly {
            return Err(refusal_of(anomaly).into());
        }
        let live = self.live();
        exchange.adopt_id(&head.headers);
        let judged = self.shared.gate.admit(&live.rules, exchange.call(), &mut head);
        exchange.judged_as(head.uri.path());
        let pass = judged?;
        exchange.admitted(&pass);
        let limits = pass.charged().map(|charged| limit_fields(charged, live.settings.limits.headers, &self.texts));
        let place = exchange.place();
        let mut response = self.open.unless_cut(place, forward::send(self, &pass, exchange, head, body)).await?;
        if let Some(fields) = limits {
            fields.add_to(response.headers_mut());
        }
        Ok(response)
    }
}

impl Service for Plane {
    type Body = AnswerBody;

    async fn call(self: Rc<Self>, request: Request<Incoming>, from: Rc<Connection>, anomaly: Option<Anomaly>) -> Response<AnswerBody> {
        let mut exchange = Exchange::open(self.clone(), from, &request);
        let (head, body) = request.into_parts();
        let served = caught(self.serve(&mut exchange, head, body, anomaly)).await;
        let served = served.unwrap_or_else(|Panicked| Err(Refusal::InternalError.into()));
        let mut response = served.unwrap_or_else(|turned| {
            let cut = exchange.leave().is_some();
            exchange.ends_as(Verdict::Refused(turned.refusal.code()));
            self.metrics.limited(turned.refusal.violated());
            let mut answer = answer::refusal(&turned, exchange.id(), self.live().settings.limits.headers, &self.texts);
            if cut {
                // The connection is the holder's, and nothing more is let in from it.
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        });
        exchange.answers_with(&mut response);
        response.map(|body| body.on_behalf_of(exchange))
    }

    fn sweep(&self) {
        self.open.sweep(&self.shared.gate, self.now());
    }
}

/// Our own failure while judging or sending a call. It costs that call; nothing is let in by it.
struct Panicked;

async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(move |cx| match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

fn refusal_of(anomaly: Anomaly) -> Refusal {
    match anomaly {
        Anomaly::Malformed(what) => Refusal::BadRequest(what),
        Anomaly::HeadTooLarge => Refusal::HeadersTooLarge,
        Anomaly::UriTooLong => Refusal::UriTooLong,
        Anomaly::TimedOut => Refusal::RequestTimeout,
    }
}

async fn sweep(pools: std::rc::Weak<Pools>) {
    let mut ticks = tokio::time::interval(POOL_SWEEP);
    loop {
        ticks.tick().await;
        let Some(pools) = pools.upgrade() else { return };
        pools.close_idle();
    }
}

/// Which limit fields the settings ask for.
fn wants_ietf(headers: LimitHeaders) -> bool {
    matches!(headers, LimitHeaders::Ietf | LimitHeaders::Both)
}

fn wants_legacy(headers: LimitHeaders) -> bool {
    matches!(headers, LimitHeaders::Legacy | LimitHeaders::Both)
}
