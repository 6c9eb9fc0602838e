//! Numbers that other rooms keep, shown at each scrape.

use std::sync::Arc;

use crate::admin::Doorkeeper;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::registry::Registry;
use crate::server::{Counter, Server, Stats};
use crate::telemetry::access::AccessLog;
use crate::telemetry::log;
use crate::telemetry::metrics::{Metrics, MetricsError};

/// Has `metrics` read how many keys were idle when they were last looked at.
pub fn watch_idle(metrics: &Metrics, idle: Arc<AtomicU64>) -> Result<(), MetricsError> {
    let help = "Active keys that nobody used for keys.warn_idle_after, as last looked at.";
    metrics.gauge("octroi_keys_idle", help, move || idle.load(Ordering::Relaxed) as f64)
}

/// Has `metrics` read them.
pub fn watch(metrics: &Metrics, server: &Server, registry: &Registry, access: Option<&AccessLog>) -> Result<(), MetricsError> {
    let stats = server.stats();
    metrics.gauge("octroi_connections", "Connections open at the public listeners.", {
        let stats = stats.clone();
        move || stats.open.get() as f64
    })?;
    type Read = fn(&Stats) -> &Counter;
    let counters: [(&str, &str, Read); 4] = [
        ("octroi_connections_accepted_total", "Connections that were let in.", |s| &s.accepted),
        ("octroi_connections_refused_total", "Connections turned away because the gateway had its most.", |s| &s.over_cap),
        ("octroi_anomalies_total", "Requests refused for their framing.", |s| &s.anomalies),
        ("octroi_panics_total", "Connections ended by a failure of the gateway's own.", |s| &s.panics),
    ];
    for (name, help, read) in counters {
        let stats = stats.clone();
        metrics.counter(name, help, &[], move || read(&stats).get() as f64)?;
    }
    let timeouts: [(&str, Read); 5] = [
        ("first_byte", |s| &s.first_byte_timeouts),
        ("head", |s| &s.head_timeouts),
        ("idle", |s| &s.idle_timeouts),
        ("body", |s| &s.body_timeouts),
        ("write", |s| &s.write_timeouts),
    ];
    for (kind, read) in timeouts {
        let stats = stats.clone();
        metrics.counter("octroi_timeouts_total", "Connections that ran into a bound, by the bound.", &[("kind", kind)], move || {
            read(&stats).get() as f64
        })?;
    }
    let machines = registry.counts_reader();
    metrics.gauge("octroi_machines", "Machines that exist.", move || machines().0 as f64)?;
    let values = registry.counts_reader();
    metrics.gauge("octroi_key_values", "Key values that are known, replaced ones included.", move || values().1 as f64)?;
    if let Some(access) = access.cloned() {
        metrics
            .counter("octroi_access_log_dropped_total", "Lines the access log had no room for.", &[], move || access.dropped() as f64)?;
    }
    metrics.counter("octroi_log_dropped_total", "Messages the gateway's own log had no room for.", &[], || log::dropped() as f64)
}

/// Has `metrics` read who was turned away from the admin plane.
pub fn watch_door(metrics: &Metrics, doorkeeper: &Arc<Doorkeeper>) -> Result<(), MetricsError> {
    for code in Doorkeeper::COUNTED {
        let doorkeeper = doorkeeper.clone();
        let help = "Requests to the admin plane that were turned away for who made them.";
        metrics.counter("octroi_admin_refused_total", help, &[("code", code.as_str())], move || doorkeeper.turned_away(code) as f64)?;
    }
    Ok(())
}
