//! The way from the admin plane to the gate, and how calls that an application asked about are recorded.

use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;

use crate::gate::{Gate, Rules, caller_of};
use crate::model::call::Record;
use crate::model::{ClientIp, Moment, PeerIp, Refusal, RequestId, Verdict};
use crate::registry::Entry;
use crate::telemetry::access::{AccessLog, Line};
use crate::telemetry::metrics::WorkerMetrics;
use crate::usage::Ledger;

/// What verify calls are counted under, in the place of a route: no route of the settings can have this name.
pub const VERIFY: &str = "/v1/verify";
/// What stands for the listener in their lines of the access log.
const LISTENER: &str = "admin";

/// The gate as the data plane asks it.
pub struct Judge {
    pub gate: Arc<Gate>,
    pub rules: Arc<Rules>,
    pub calls: Calls,
}

/// Where calls of this plane are recorded: the same three places as those of the data plane, so that their sums stay the same.
pub struct Calls {
    /// Requests are answered by one thread; the lock lets the compiler believe it.
    metrics: Mutex<WorkerMetrics>,
    ledger: Ledger,
    access: Option<AccessLog>,
}

/// One question of an application.
pub struct Asked<'a> {
    pub id: RequestId,
    pub began: Moment,
    pub ended: Moment,
    /// The application.
    pub peer: PeerIp,
    /// Who showed it the key, where it said so.
    pub client: Option<ClientIp>,
    pub user_agent: Option<&'a [u8]>,
}

impl Calls {
    /// `metrics` were made for [`VERIFY`] alone.
    pub fn new(metrics: WorkerMetrics, ledger: Ledger, access: Option<AccessLog>) -> Calls {
        Calls { metrics: Mutex::new(metrics), ledger, access }
    }

    /// Records a call once.
    pub fn record(&self, asked: &Asked<'_>, entry: Option<&Entry>, refusal: Option<&Refusal>) {
        let record = Record {
            id: asked.id.clone(),
            began: asked.began,
            ended: asked.ended,
            peer: asked.peer,
            client: asked.client.unwrap_or(ClientIp(asked.peer.0.to_canonical())),
            method: Method::POST,
            route: Some(0),
            caller: entry.map(caller_of),
            admitted: refusal.is_none(),
            verdict: refusal.map_or(Verdict::Ok, |refusal| Verdict::Refused(refusal.code())),
            // The application is answered, whatever the answer.
            status: 200,
            received: 0,
            sent: 0,
            upstream: None,
        };
        {
            let metrics = self.metrics.lock();
            metrics.observe(&record);
            metrics.limited(refusal.map(Refusal::violated).unwrap_or_default());
        }
        self.ledger.record(&record);
        let Some(log) = &self.access else { return };
        let machine = entry.map(|entry| entry.machine.state());
        log.line(&Line {
            record: &record,
            listener: LISTENER,
            host: b"",
            path: VERIFY.as_bytes(),
            route: Some(VERIFY),
            machine_name: machine.as_ref().map(|state| &*state.name),
            key_label: entry.map(|entry| &*entry.label),
            user_agent: asked.user_agent,
        });
    }
}
