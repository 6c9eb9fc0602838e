//! The settings as every other room sees them: checked, complete, without anything left to parse.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use jiff::tz::TimeZone;

use super::finding::Finding;
use crate::model::{Limit, PermissionName, Tier, TierName};

pub use super::pattern::{Pattern, Segment};

/// One settings file. Every name in it leads somewhere and every value is possible.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect: at least one.
    pub listeners: Vec<Listener>,
    /// The peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    pub admin: Admin,
    /// A second, plain listener for `/metrics`, `/livez` and `/readyz`.
    pub telemetry: Option<SocketAddr>,
    /// The folder that holds journal, usage and mirror.
    pub store: PathBuf,
    /// Where keys are looked for on routes that do not say otherwise.
    pub credentials: Credentials,
    /// What new values begin with, [`is_prefix`](crate::model::secret::is_prefix).
    pub key_prefix: String,
    /// How many attempts without a valid key one client address has; `None` when they are not counted.
    pub guessing: Option<Limit>,
    /// Every permission but the built-in `admin`, in the order of the file.
    pub permissions: Vec<Permission>,
    /// In the order of the file; at least one.
    pub tiers: Vec<TierSettings>,
    /// The tier of machines that name none: one of `tiers`.
    pub default_tier: TierName,
    pub limits: Limits,
    /// At least one.
    pub upstreams: Vec<Upstream>,
    /// In the order of the file; at least one. Among any two the precedence rule decides.
    pub routes: Vec<Route>,
    pub connections: Connections,
    pub usage: UsageSettings,
    pub keys: KeySettings,
    pub logs: Logs,
    /// What becomes of a client's header whose name has an underscore.
    pub underscores: Underscores,
    pub identity: IdentityHeaders,
    /// What is allowed but deserves a second look, in the order of the file.
    pub warnings: Vec<Finding>,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Stands in logs and metrics; unique.
    pub name: String,
    /// Port 0 lets the system choose one.
    pub bind: SocketAddr,
}

/// Where operators connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// A loopback address unless there is `tls`; `None` when only the socket is served.
    pub bind: Option<SocketAddr>,
    /// The Unix socket that the commands use; at most 107 bytes long.
    pub socket: PathBuf,
    /// What encrypts the listener at `bind`; `None` = plain HTTP.
    pub tls: Option<AdminTls>,
    /// What the listener is called beside `localhost`, `127.0.0.1` and `[::1]`: hosts in lower case, without port.
    pub hosts: Vec<String>,
}

/// Where the admin listener's certificate lies: files in PEM form, read at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTls {
    /// The listener's own certificate first, then those between it and its authority.
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    /// The authorities one of which must have signed every client's certificate; `None` = clients need none.
    pub client_ca: Option<PathBuf>,
}

/// Where a key may stand in a request: at least one place is on, except on public routes, which may switch all off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `Authorization: Bearer …` (RFC 6750 section 2.1).
    pub bearer: bool,
    /// The name of a query parameter, percent-decoded.
    pub query: Option<String>,
    pub header: Option<HeaderName>,
}

/// How something is called before people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    pub fr: Option<String>,
    pub en: Option<String>,
}

/// A permission that routes can demand and machines can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    pub name: PermissionName,
    pub label: Label,
}

/// A tier and how it is called before people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierSettings {
    pub tier: Tier,
    pub label: Label,
}

/// What holds for all limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Where calendar days and months begin and end.
    pub timezone: TimeZone,
    pub headers: LimitHeaders,
}

/// Which fields tell a client how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy`.
    Ietf,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    Legacy,
    Both,
    None,
}

/// An API behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub name: String,
    /// At least one; each once.
    pub targets: Vec<Target>,
    pub balance: Balance,
    pub host: HostHeader,
    pub timeouts: Timeouts,
    /// Further attempts after one that failed: 0 to 5.
    pub retries: u32,
}

/// How calls are spread over targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
}

/// One server of an upstream, spoken to in plain HTTP/1.1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name in lower case, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

impl Target {
    /// As it stands in a Host field: brackets around IPv6, no port when it is 80 (RFC 9110 section 4.2.1).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

/// What the upstream gets as Host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's own.
    Pass,
    /// The target's, [`Target::authority`].
    Target,
    Fixed(HeaderValue),
}

/// How long an upstream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// From the request's end until the answer's head is there.
    pub response: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

/// What goes where, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: String,
    /// Lower case, no trailing dot, no port, IPv6 in brackets; `None` for every host.
    pub host: Option<String>,
    pub pattern: Pattern,
    /// At least one, each once; `None` for every method.
    pub methods: Option<Vec<Method>>,
    pub access: Access,
    pub organization: Organization,
    /// The route's own or, where it says nothing, the global ones.
    pub credentials: Credentials,
    /// An index into [`Settings::upstreams`].
    pub upstream: usize,
}

/// Whom a route lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody; no key is looked at.
    Public,
    /// Every valid key.
    AnyKey,
    /// Keys that hold all of these: at least one.
    Permissions(Vec<PermissionName>),
}

/// Where a request says which organization it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Organization {
    /// Nowhere: restricted keys are refused.
    None,
    /// Nowhere, and restricted keys pass.
    Any,
    /// In this parameter of the route's pattern.
    Path(String),
    Header(HeaderName),
    /// In this query parameter, its name percent-decoded.
    Query(String),
}

/// The bounds of the edge: what one client can make the gateway hold or wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// `None`: one for each core.
    pub workers: Option<NonZeroUsize>,
    /// Open at once, over all listeners.
    pub max: usize,
    /// From accepting a connection to the first byte.
    pub first_byte: Duration,
    /// From a head's first byte to its last.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// The longest wait for more of a request's body.
    pub body: Duration,
    /// The longest wait for a client to take more of an answer.
    pub write: Duration,
    /// How long calls in flight may go on after SIGTERM.
    pub drain: Duration,
    /// Bytes of a request's head, its first line included.
    pub head_size: usize,
    /// Bytes of a request's target; never more than `head_size`.
    pub uri_size: usize,
    /// Fields in a request's head.
    pub header_count: usize,
    /// Bytes of a request's body; `None` for no bound.
    pub body_size: Option<u64>,
}

/// How usage is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageSettings {
    /// What a crash can lose at most.
    pub flush: Duration,
}

/// What becomes of keys that nobody uses; `None` = nothing. The warning comes before the deactivation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySettings {
    pub warn_idle_after: Option<Duration>,
    pub deactivate_idle_after: Option<Duration>,
}

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    pub format: LogFormat,
    pub access: AccessLog,
    pub addresses: Addresses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// Where the line of each call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

/// How much of a client's address is kept: it is personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    Full,
    /// To /24 or /48.
    Truncated,
    None,
}

/// What becomes of a client's header whose name has an underscore: many servers read `X_A` as `X-A`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underscores {
    Drop,
    Pass,
    Refuse,
}

/// The fields that tell an upstream who calls; `None` for one that is not sent. All differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    pub machine_id: Option<HeaderName>,
    pub machine_name: Option<HeaderName>,
    pub key_id: Option<HeaderName>,
    pub environment: Option<HeaderName>,
}

impl Settings {
    /// The names of all permissions but `admin`.
    pub fn permission_names(&self) -> impl Iterator<Item = &PermissionName> {
        self.permissions.iter().map(|permission| &permission.name)
    }

    /// The tier of that name.
    pub fn tier(&self, name: &TierName) -> Option<&Tier> {
        self.tiers.iter().map(|settings| &settings.tier).find(|tier| tier.name == *name)
    }
}
