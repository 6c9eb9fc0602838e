//! Builds every room from the settings, runs the gateway, drains it. The only file that knows them all.

mod admin_thread;
pub mod care;
pub mod demo;
mod idle;
mod keeper;
mod sensors;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use admin_thread::AdminThread;
use idle::Idle;
use keeper::{Keeper, Pulse};

use crate::admin::{self, Catalogue, Doorkeeper, KeyUse, Readiness, StoreCare, Totals, ValueUse};
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
use crate::telemetry::log::{Log, LogError};
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
    #[error("admin.tls.{0}")]
    AdminTls(#[from] admin::TlsError),
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
        let store = Arc::new(store);
        settings_cover(&settings, &*store)?;
        let registry = Registry::open(store.clone(), clock.clone(), settings.key_prefix.clone()).map_err(in_store)?;

        let (usage, restored) = Usage::open(&settings.store.join("usage"))?;
        let usage = Arc::new(usage);
        usage.watch(clock.now());
        registry.restore_counters(restored.counters.into_iter());
        let idle = Idle::new(settings.keys, registry.clone(), usage.clone(), clock.clone());

        let access = access_log(&settings)?;
        let routes = settings.routes.iter().map(|route| route.name.clone()).collect();
        let metrics = Metrics::new(routes, &clock);
        let gate = Arc::new(Gate::new(registry.clone(), Brake::new(settings.guessing, Brake::CAPACITY)));
        let live = Arc::new(Live::new(settings));
        let shared = Arc::new(Shared { live: live.clone(), gate: gate.clone(), access: access.clone() });
        let settings = &live.settings;

        let draining = Arc::new(AtomicBool::new(false));
        let (heart, pulse) = keeper::heart();
        let doorkeeper = Arc::new(Doorkeeper::new(usage.clone()));
        let admin = admin::Admin {
            registry: registry.clone(),
            clock: clock.clone(),
            catalogue: Catalogue::from(settings),
            hosts: settings.admin.hosts.clone(),
            body_within: admin::BODY_TIMEOUT,
            usage: use_of_key(&usage),
            store: {
                let (usage, registry, clock) = (usage.clone(), registry.clone(), clock.clone());
                StoreCare::new(Arc::new(care::Running { store, usage, registry, clock }))
            },
            judge: admin::Judge {
                gate: gate.clone(),
                rules: live.rules.clone(),
                calls: admin::Calls::new(metrics.beside(&[admin::VERIFY]), usage.ledger(), access.clone()),
            },
            totals: totals(&usage),
            repeats: admin::Repeats::default(),
            readiness: readiness(&registry, &draining, pulse),
            doorkeeper: doorkeeper.clone(),
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
        watch::watch_door(&metrics, &doorkeeper)?;
        watch::watch_idle(&metrics, idle.counter())?;
        let keeper = Keeper::start(settings.usage.flush, heart, usage, registry.clone(), gate, clock, idle)?;
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

/// Reads the files that the settings name and a start would need, so that what is wrong with them is known before it.
pub fn try_files(settings: &Settings) -> Result<(), StartError> {
    settings.admin.tls.as_ref().map(admin::Tls::load).transpose()?;
    Ok(())
}

/// Runs `octroi serve` until it is told to stop.
pub fn serve(path: &Path) -> Result<(), StartError> {
    let settings = config::load(path).map_err(StartError::Settings)?;
    let _log = init_logs(&settings)?;
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    until_signal(settings, async |gateway| {
        for (name, address) in gateway.addresses() {
            tracing::info!(listener = %name, %address, "listening");
        }
        if let Some(address) = gateway.admin_address() {
            tracing::info!(listener = "admin", %address, "listening");
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

/// What it returns is kept until everything has been said.
fn init_logs(settings: &Settings) -> Result<Log, LogError> {
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
            Record::Operator(_) => return,
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
            by_value: known.uses().map(|last| ValueUse { value: last.value, at: last.at, from: last.from }).collect(),
            last_refused_at: known.last_refused,
            calls: known.calls.iter().collect(),
            old_value_is_open: false,
        }
    })
}

fn totals(usage: &Arc<Usage>) -> Arc<dyn Fn() -> Totals + Send + Sync> {
    let usage = usage.clone();
    Arc::new(move || {
        // In this order, so that the part is never more than the whole.
        let without_key = usage.without_key().iter().collect();
        Totals { calls: usage.totals().iter().collect(), without_key }
    })
}

/// The description of the admin API, OpenAPI 3.1 in JSON.
pub fn openapi() -> &'static str {
    admin::openapi()
}

fn readiness(registry: &Registry, draining: &Arc<AtomicBool>, keeper: Pulse) -> Arc<dyn Fn() -> Readiness + Send + Sync> {
    let (registry, draining) = (registry.clone(), draining.clone());
    Arc::new(move || {
        if draining.load(Ordering::Acquire) {
            return Readiness::NotReady { status: "draining", reasons: vec!["the gateway is shutting down".into()] };
        }
        degraded(registry.store().health(), registry.takes_changes(), keeper.beats())
    })
}

/// What of the gateway's own work does not get done. Calls are judged all the same.
fn degraded(store: Health, writer: bool, keeper: bool) -> Readiness {
    let mut reasons = Vec::new();
    if let Health::Refusing(why) = store {
        reasons.push(format!("changes are refused: {why}"));
    }
    if !writer {
        reasons.push("changes are refused: the writer thread is gone; restart the gateway".into());
    }
    if !keeper {
        reasons.push("usage is not written and the clock not followed: the keeper thread is gone; restart the gateway".into());
    }
    if reasons.is_empty() { Readiness::Ready } else { Readiness::NotReady { status: "degraded", reasons } }
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

    #[test]
    fn whatever_of_its_own_work_stops_is_told() {
        assert_eq!(degraded(Health::Ready, true, true), Readiness::Ready);
        for (store, writer, keeper, told) in [
            (Health::Refusing("disk full".into()), true, true, "changes are refused: disk full"),
            (Health::Ready, false, true, "changes are refused: the writer thread is gone"),
            (Health::Ready, true, false, "usage is not written"),
        ] {
            let Readiness::NotReady { status: "degraded", reasons } = degraded(store, writer, keeper) else {
                panic!("ready without: {told}")
            };
            assert!(reasons.len() == 1 && reasons[0].starts_with(told), "{reasons:?}");
        }
    }
}
