//! octroi: a reverse proxy that lets in only requests with a valid API key.
//!
//! This page is the map. A request meets the rooms in this order:
//!
//! ```text
//! accept ──→ find ─→ take ─→ identify ─→ permit ─→ charge ──→ send ──→ record
//! server     └──────────────── gate ───────────────────┘      proxy    telemetry, usage
//!                      registry          limits
//! ```
//!
//! and a change of a machine or key goes the other way: `cli → admin → registry → store`, and back into the registry's
//! memory before anybody is answered.
//!
//! | room | what it is | may use | must not know |
//! |---|---|---|---|
//! | [`model`] | pure values and rules | `http`'s names, hashes, dates | every other room, tokio, hyper, sled, serde |
//! | [`clock`] | the only reader of time | model | |
//! | [`config`] | YAML → [`config::Settings`], or all findings with positions | model, clock | store, telemetry, hyper |
//! | [`store`] | journal and its sled mirror | model, clock | config, telemetry, hyper |
//! | [`telemetry`] | metrics, access log, own log | model, clock | config, store, hyper |
//! | [`limits`] | how much: windows, quotas, the brake on guessing | model, clock, telemetry | hyper, config, registry, usage |
//! | [`registry`] | who: hash → key and machine; the one way to change them | model, clock, store, telemetry, a bucket of limits | hyper, config, usage |
//! | [`usage`] | what happened, kept over restarts | model, clock, telemetry | hyper, config, registry, limits |
//! | [`gate`] | the decision | model, clock, config, registry, limits | sockets, store, admin, proxy |
//! | [`server`] | sockets, workers, framing guard, deadlines, drain | model, clock | every plane, registry |
//! | [`proxy`] | the data plane | model, clock, config, gate, registry, limits (what was charged), server, usage, telemetry | admin, store |
//! | [`admin`] | the admin plane | model, clock, config, gate, registry, limits, usage, telemetry, store (queries) | proxy |
//! | [`cli`] | commands | the admin plane's wire types, config, model, clock, app | the rest |
//! | [`app`] | wires everything, runs, drains | everything | |
//!
//! A test (`tests/it/rooms.rs`) keeps the table true.
//!
//! # Where do I change …
//!
//! | … | here |
//! |---|---|
//! | what a refusal is called, its status and title | `model/refusal.rs`; its words: `proxy/answer.rs` |
//! | in which order a call is judged | `gate.rs`: `Gate::decide`; what is told of each step: `gate/explain/` |
//! | where a key may stand in a request | `gate/credential.rs` |
//! | which spellings of a path are refused | `gate/target.rs` |
//! | which bytes on the wire are refused | `server/wire/` |
//! | what the upstream is told | `proxy/headers.rs` |
//! | when a call is tried again | `proxy/forward.rs` |
//! | which open calls are cut | `proxy/open.rs`; when a value stops counting: `registry/entry.rs` |
//! | what a change does | `registry/rules.rs`, and for keys `model/key.rs`; who may meet whom in one sync: `registry/group.rs` |
//! | which labels are vague, when a key is idle or an old value safe to end | `model/key.rs`; what the gateway does about idle keys: `app/idle.rs`; which time was watched: `usage/watched.rs` |
//! | what stands in the journal | `store/draft.rs`, `store/line.rs`, `store/records.rs` |
//! | backup, restore, archiving, the look through the store | `store/backup.rs`, `restore.rs`, `archive.rs`, `snapshot.rs`, `verify.rs`; for the commands on a stopped gateway: `app/care.rs` |
//! | how the journal is searched, verified, exported | `store/history.rs`, `store/check.rs`, `store/export.rs` |
//! | a setting | `config/settings.rs`, the reader beside it, `config/octroi.yaml`, `docs/settings.md` |
//! | a metric | `telemetry/metrics.rs`, or `app/watch.rs` for numbers that other rooms keep |
//! | a field of the access log | `telemetry/access/line.rs` |
//! | an endpoint | its row in `admin.rs`, its description in `admin/openapi/operations.rs`, `docs/admin-api.md`; a command: `cli.rs`, `docs/commands.md` |
//! | who may use the admin API, and how guessing is slowed | `admin/door.rs`, `admin/doorkeeper.rs`; what an operator may change, judged when the change has its turn: `registry/rules.rs` |
//!
//! # What always holds
//!
//! - Only [`gate::Gate::admit`] makes a [`gate::Admitted`], and sending a call on demands one.
//! - A credential leaves the request where it is read; nothing after that can log or forward it. Values are never stored.
//! - A change is answered after it is durable and after memory has it: the very next request is judged by it.
//! - What is open a second after its key or machine stopped counting is cut.
//! - Every call is recorded exactly once, when its [exchange](proxy) is dropped, whatever its end.
//! - Nothing blocks a worker: disks, changes and both logs have threads of their own.
//! - Everything that can grow has a bound with a name.
//! - When something fails inside, the call is refused.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod gate;
pub mod limits;
pub mod model;
pub mod proxy;
pub mod registry;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod usage;
