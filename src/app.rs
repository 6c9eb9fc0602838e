//! Builds every room from the settings, runs the gateway, drains it. The only file that knows them all.

mod admin_thread;
pub mod demo;
pub mod journal;
mod keeper;
mod sensors;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use admin_thread::AdminThread;
use keeper::Keeper;

use crate::admin::{self, Catalogue, KeyUse, Readiness};
use crate::clock::Clock;
use crate::config::{self, Findings, LogFormat, Settings};
use crate::gate::Gate;
use crate::limits::Brake;
use crate::model::{KeyId, PermissionName, TierName};
use crate::proxy::{Live, Plane, Shared};
use crate::registry::Registry;
use crate::server::{Bounds, Server};
use crate::store::{Embedded, Health, Record, Store, StoreError};
use crate::telemetry::access::{self, AccessLog};
use crate::telemetry::log::LogError;
use crate::telemetry::metrics::{Metrics, MetricsError};
use crate::usage::{Usage, UsageError};

/// Why the gateway did not start, in words for who started it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Settings(Findings),
    #[error("store {path}: {source}", path = path.display())]
    Store { path: PathBuf, source: StoreError },
    #[error("usage: {0}")]
    Usage(#[from] UsageError),
    #[error("{0}")]
    Server(#[from] crate::server::StartError),
    #[error("{0}")]
    Admin(#[from] admin::BindError),
    /// A tier or permission that somebody holds is no longer in the settings: without it the gate would have to guess.
    #[error("the settings no longer name {0}; put it back, or move its holders first")]
    InUse(String),
    #[error("logs.access: {0}")]
    Access(#[from] access::AccessLogError),
    #[error("metrics: {0}")]
    Metrics(#[from] MetricsError),
    #[error("logs: {0}")]
    Logs(#[from] LogError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

/// A running gateway.
pub struct Gateway {
    server: Server,
    admin: AdminThread,
    keeper: Keeper,
    registry: Registry,
    access: Option<AccessLog>,
    draining: Arc<AtomicBool>,
}

impl Gateway {
    /// Starts everything; when this returns, calls are answered.
    pub fn start(settings: Settings, clock: Clock) -> Result<Gateway, StartError> {
        let in_store = |source| StartError::Store { path: settings.store.clone(), source };
        let store = Embedded::open(&settings.store).map_err(in_store)?;
        store.notices().iter().for_each(|notice| tracing::warn!("{notice}"));
        let store: Arc<dyn Store> = Arc::new(store);
        settings_cover(&settings, &*store)?;
        let registry = Registry::open(store, clock.clone(), settings.key_prefix.clone()).map_err(in_store)?;

        let (usage, restored) = Usage::open(&settings.store.join("usage"))?;
        let usage = Arc::new(usage);
        registry.restore_counters(restored.counters.into_iter());

        let access = access_log(&settings)?;
        let routes = settings.routes.iter().map(|route| route.name.clone()).collect();
        let metrics = Metrics::new(routes, &clock);
        let gate = Arc::new(Gate::new(registry.clone(), Brake::new(settings.guessing, Brake::CAPACITY)));
        let live = Arc::new(Live::new(settings));
        let shared = Arc::new(Shared { live: live.clone(), gate: gate.clone(), access: access.clone() });
        let settings = &live.settings;

        let draining = Arc::new(AtomicBool::new(false));
        let admin = admin::Admin {
            registry: registry.clone(),
            clock: clock.clone(),
            catalogue: Catalogue::from(settings),
            usage: use_of_key(&usage),
            readiness: readiness(&registry, &draining),
            metrics: {
                let metrics = metrics.clone();
                Arc::new(move || metrics.text())
            },
        };
        let server = {
            let (metrics, usage) = (metrics.clone(), usage.clone());
            let listeners = settings.listeners.iter().map(|l| (Arc::from(l.name.as_str()), l.bind)).collect();
            Server::start(listeners, workers(settings), bounds(settings), clock.clone(), move |worker| {
                Plane::new(shared.clone(), worker, metrics.worker(), usage.ledger())
            })?
        };
        // Last, so that who asks whether the gateway is ready hears so when it is.
        let admin = AdminThread::start(admin, settings)?;
        watch::watch(&metrics, &server, &registry, access.as_ref())?;
        let keeper = Keeper::start(settings.usage.flush, usage, registry.clone(), gate, clock)?;
        Ok(Gateway { server, admin, keeper, registry, access, draining })
    }

    /// The public listeners by name, ports resolved.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        self.server.addresses()
    }

    /// The admin listener's address, when it has one besides the socket.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Refuses new connections, lets calls in progress finish within the settings' bound, keeps what was counted. Returns how
    /// many connections had to be cut.
    pub async fn drain(self) -> usize {
        self.draining.store(true, Ordering::Release);
        let cut = self.server.drain().await;
        // Everything after the workers' last call blocks on disks or threads, and nothing else is left to run.
        self.admin.stop();
        self.keeper.stop();
        if let Some(access) = self.access {
            access.close();
        }
        cut
    }
}

/// Runs `octroi serve` until it is told to stop.
pub fn serve(path: &Path) -> Result<(), StartError> {
    let settings = config::load(path).map_err(StartError::Settings)?;
    init_logs(&settings)?;
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    until_signal(settings, async |gateway| {
        for (name, address) in gateway.addresses() {
            tracing::info!(listener = %name, %address, "listening");
        }
        Ok(())
    })
}

/// Starts the gateway, tells `started`, waits for SIGTERM or SIGINT, drains. A second signal ends it at once.
fn until_signal(settings: Settings, started: impl AsyncFnOnce(&Gateway) -> Result<(), StartError>) -> Result<(), StartError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| StartError::Io { what, source }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("cannot start a runtime"))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(io("cannot watch for SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io("cannot watch for SIGINT"))?;
        // Unwatched, it would end the process: a terminal that closes, or an operator who expects a reload.
        let mut hang_up = signal(SignalKind::hangup()).map_err(io("cannot watch for SIGHUP"))?;
        let gateway = Gateway::start(settings, Clock::system())?;
        started(&gateway).await?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hang_up.recv() => tracing::warn!("SIGHUP changes nothing: settings are read at start"),
            }
        }
        tracing::info!("draining");
        tokio::select! {
            cut = gateway.drain() => tracing::info!(cut, "drained"),
            _ = terminate.recv() => tracing::warn!("stopped without draining"),
            _ = interrupt.recv() => tracing::warn!("stopped without draining"),
        }
        Ok(())
    })
}

fn init_logs(settings: &Settings) -> Result<(), LogError> {
    crate::telemetry::log::init(&settings.logs.level, settings.logs.format == LogFormat::Json)
}

/// What a stored record needs must be in the settings: dropping what is in use is refused, naming the holders.
fn settings_cover(settings: &Settings, store: &dyn Store) -> Result<(), StartError> {
    let mut lacking: Option<String> = None;
    let is_tier = |name: &TierName| settings.tier(name).is_some();
    let is_permission =
        |name: &str| name == crate::model::permission::ADMIN || settings.permission_names().any(|p: &PermissionName| p.as_str() == name);
    let scanned = store.scan(&mut |record| {
        let (holder, tier, permissions) = match &record {
            Record::Machine(m) => (format!("machine \"{}\" ({})", m.name, m.id), m.tier.as_ref(), Some(&m.permissions)),
            Record::Key(k) => (format!("key \"{}\" ({})", k.label, k.id), k.tier.as_ref(), k.permissions.as_ref()),
        };
        if let Some(tier) = tier.filter(|tier| !is_tier(tier)) {
            lacking.get_or_insert_with(|| format!("the tier \"{tier}\" that {holder} has"));
        }
        if let Some(name) = permissions.and_then(|set| set.names().find(|name| !is_permission(name))) {
            lacking.get_or_insert_with(|| format!("the permission \"{name}\" that {holder} has"));
        }
    });
    scanned.map_err(|source| StartError::Store { path: settings.store.clone(), source })?;
    lacking.map_or(Ok(()), |what| Err(StartError::InUse(what)))
}

fn access_log(settings: &Settings) -> Result<Option<AccessLog>, StartError> {
    let target = match &settings.logs.access {
        config::AccessLog::Off => return Ok(None),
        config::AccessLog::Stdout => access::Target::Stdout,
        config::AccessLog::File(path) => access::Target::File(path.clone()),
    };
    let addresses = match settings.logs.addresses {
        config::Addresses::Full => access::Addresses::Full,
        config::Addresses::Truncated => access::Addresses::Truncated,
        config::Addresses::None => access::Addresses::None,
    };
    let log = AccessLog::start(&target, addresses, AccessLog::CAPACITY)?;
    Ok(Some(log))
}

fn workers(settings: &Settings) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    settings.connections.workers.map_or_else(cores, std::num::NonZero::get)
}

fn bounds(settings: &Settings) -> Bounds {
    let c = &settings.connections;
    Bounds {
        max_connections: c.max,
        first_byte: c.first_byte,
        head: c.head,
        idle: c.idle,
        body: c.body,
        write: c.write,
        drain: c.drain,
        head_size: c.head_size,
        uri_size: c.uri_size,
        header_count: c.header_count,
        overloaded_answer: Bytes::from_static(OVERLOADED),
    }
}

/// What a connection over the cap gets before any request of it is read.
const OVERLOADED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
retry-after: 1\r\nconnection: close\r\ncontent-length: 162\r\n\r\n\
{\"type\":\"urn:octroi:overloaded\",\"title\":\"The gateway is overloaded\",\"status\":503,\"detail\":\"Too many connections are open. Try again shortly.\",\"code\":\"overloaded\"}";

fn use_of_key(usage: &Arc<Usage>) -> Arc<dyn Fn(KeyId) -> KeyUse + Send + Sync> {
    let usage = usage.clone();
    Arc::new(move |id| {
        let known = usage.of_key(id);
        KeyUse {
            last_used_at: known.last_used.map(|last| last.at),
            last_used_ip: known.last_used.map(|last| last.from),
            last_refused_at: known.last_refused,
            calls: known.calls.iter().collect(),
        }
    })
}

fn readiness(registry: &Registry, draining: &Arc<AtomicBool>) -> Arc<dyn Fn() -> Readiness + Send + Sync> {
    let (registry, draining) = (registry.clone(), draining.clone());
    Arc::new(move || {
        if draining.load(Ordering::Acquire) {
            return Readiness::NotReady { status: "draining", reasons: vec!["the gateway is shutting down".into()] };
        }
        match registry.store().health() {
            Health::Ready => Readiness::Ready,
            Health::Refusing(why) => Readiness::NotReady { status: "degraded", reasons: vec![format!("changes are refused: {why}")] },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_connection_too_many_is_well_formed() {
        let text = std::str::from_utf8(OVERLOADED).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{} bytes", body.len());
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], "overloaded");
    }
}
