//! The admin plane: where operators see and change machines and keys, and where probes and Prometheus look.
//!
//! A request comes in by one of three doors ([`listen`]): the Unix socket, where the kernel says who is there and every
//! right is held; the TCP listener, encrypted unless it stands on a loopback address, where an operator's token says who is there and
//! which rights they hold; and the telemetry listener, which has `/livez`, `/readyz` and `/metrics` and nothing else. Handlers are grouped by noun: [`machines`], [`keys`],
//! [`operators`], [`journal`], [`catalogue`], [`usage`], [`settings`], [`store`]; [`explain`] and [`verify`] ask the gate. Who comes over
//! TCP is remembered by the [`doorkeeper`]; what each endpoint takes and gives is told by [`openapi`]. What they take is read by [`fields`] and [`values`], what they give is in [`wire`], which the
//! CLI reads too. Every change goes to the registry; nothing here writes to the store.

mod answer;
mod catalogue;
mod door;
mod doorkeeper;
mod explain;
mod fields;
mod health;
mod idempotency;
mod journal;
mod judge;
mod keys;
mod listen;
mod machines;
mod openapi;
mod operators;
mod page;
mod problem;
mod revision;
mod settings;
mod store;
mod stream;
mod tls;
mod usage;
mod values;
mod verify;
pub mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{MethodRouter, delete, get, patch, post};
use http::Method;

use crate::clock::Clock;
use crate::model::{KeyId, Right};
use crate::registry::Registry;
use crate::store::{Store, StoreError};

pub use catalogue::{Catalogue, Label, PermissionInfo, RouteInfo, TierInfo};
pub use door::Door;
pub use doorkeeper::Doorkeeper;
pub use health::Readiness;
pub use idempotency::Repeats;
pub use judge::{Calls, Judge, VERIFY};
pub use listen::{AdminSocket, BindError, Listeners, serve};
pub use openapi::text as openapi;
pub use problem::{Code, Problem};
pub use store::{Care, StoreCare};
pub use tls::{Tls, TlsError};
pub use usage::{KeyUse, Totals, ValueUse};

/// The longest body a request may have, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// What the admin plane needs of the gateway.
pub struct Admin {
    pub registry: Registry,
    pub clock: Clock,
    /// What the settings name: permissions, tiers, routes.
    pub catalogue: Catalogue,
    /// The hosts that the TCP listener answers to besides those of the loopback interface; in lower case, without port.
    pub hosts: Vec<String>,
    /// What is known of a key's use, as of now.
    pub usage: Arc<dyn Fn(KeyId) -> KeyUse + Send + Sync>,
    /// Backups and the like.
    pub store: StoreCare,
    /// Who decides about calls.
    pub judge: Judge,
    /// Remembers who comes over TCP.
    pub doorkeeper: Arc<Doorkeeper>,
    /// What is known of all calls, as of now.
    pub totals: Arc<dyn Fn() -> Totals + Send + Sync>,
    /// What was done under a name that its requester gave.
    pub repeats: Repeats,
    /// Whether the gateway can do its work.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// The text of `/metrics`, in Prometheus' exposition format 0.0.4.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Admin {
    /// Asks the store on a thread that may block on the disk.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let store = self.registry.store().clone();
        match tokio::task::spawn_blocking(move || question(&*store)).await {
            Ok(answer) => answer.map_err(Problem::from),
            // The mirror is known to panic on damaged files; that must cost one request only.
            Err(_) => Err(Problem::store_unavailable("the store failed while it was read; its log says why")),
        }
    }
}

/// Every endpoint below `/v1`: what is asked, by which method, and the right that it takes.
fn endpoints() -> Vec<Endpoint> {
    use Right::{KeysVerify, MachinesRead, MachinesWrite, PlatformConfigure};
    vec![
        Endpoint::new(Method::GET, "/machines", MachinesRead, get(machines::list)),
        Endpoint::new(Method::POST, "/machines", MachinesWrite, post(machines::create)),
        Endpoint::new(Method::GET, "/machines/{id}", MachinesRead, get(machines::show)),
        Endpoint::new(Method::PATCH, "/machines/{id}", MachinesWrite, patch(machines::edit)),
        Endpoint::new(Method::DELETE, "/machines/{id}", MachinesWrite, delete(machines::delete)),
        Endpoint::new(Method::POST, "/machines/{id}/enable", MachinesWrite, post(machines::enable)),
        Endpoint::new(Method::POST, "/machines/{id}/disable", MachinesWrite, post(machines::disable)),
        Endpoint::new(Method::GET, "/machines/{id}/keys", MachinesRead, get(keys::list_of_machine)),
        Endpoint::new(Method::POST, "/machines/{id}/keys", MachinesWrite, post(keys::create)),
        Endpoint::new(Method::GET, "/keys", MachinesRead, get(keys::list)),
        Endpoint::new(Method::POST, "/keys/bulk", MachinesWrite, post(keys::bulk::create)),
        Endpoint::new(Method::GET, "/keys/{id}", MachinesRead, get(keys::show)),
        Endpoint::new(Method::PATCH, "/keys/{id}", MachinesWrite, patch(keys::edit)),
        Endpoint::new(Method::DELETE, "/keys/{id}", MachinesWrite, delete(keys::delete)),
        Endpoint::new(Method::POST, "/keys/{id}/deactivate", MachinesWrite, post(keys::deactivate)),
        Endpoint::new(Method::POST, "/keys/{id}/reactivate", MachinesWrite, post(keys::reactivate)),
        Endpoint::new(Method::POST, "/keys/{id}/revoke", MachinesWrite, post(keys::revoke)),
        Endpoint::new(Method::POST, "/keys/{id}/regenerate", MachinesWrite, post(keys::regenerate)),
        Endpoint::new(Method::POST, "/keys/{id}/end-grace", MachinesWrite, post(keys::end_grace)),
        Endpoint::new(Method::GET, "/keys/{id}/usage", MachinesRead, get(keys::usage)),
        Endpoint::new(Method::POST, "/explain", MachinesRead, post(explain::explain)),
        Endpoint::new(Method::POST, "/verify", KeysVerify, post(verify::verify)),
        Endpoint::new(Method::GET, "/operators", PlatformConfigure, get(operators::list)),
        Endpoint::new(Method::POST, "/operators", PlatformConfigure, post(operators::create)),
        Endpoint::new(Method::GET, "/operators/{id}", PlatformConfigure, get(operators::show)),
        Endpoint::new(Method::PATCH, "/operators/{id}", PlatformConfigure, patch(operators::edit)),
        Endpoint::new(Method::DELETE, "/operators/{id}", PlatformConfigure, delete(operators::delete)),
        Endpoint::new(Method::POST, "/operators/{id}/enable", PlatformConfigure, post(operators::enable)),
        Endpoint::new(Method::POST, "/operators/{id}/disable", PlatformConfigure, post(operators::disable)),
        Endpoint::new(Method::POST, "/operators/{id}/regenerate", PlatformConfigure, post(operators::regenerate)),
        Endpoint::new(Method::GET, "/whoami", None, get(operators::whoami)),
        Endpoint::new(Method::GET, "/machines/{id}/activity", MachinesRead, get(journal::of_machine)),
        Endpoint::new(Method::GET, "/keys/{id}/activity", MachinesRead, get(journal::of_key)),
        Endpoint::new(Method::GET, "/operators/{id}/activity", PlatformConfigure, get(journal::of_operator)),
        Endpoint::new(Method::GET, "/journal", MachinesRead, get(journal::list)),
        Endpoint::new(Method::GET, "/journal/{seq}", MachinesRead, get(journal::show)),
        Endpoint::new(Method::GET, "/journal/verify", MachinesRead, get(journal::verify)),
        Endpoint::new(Method::GET, "/journal/export", PlatformConfigure, get(journal::export)),
        Endpoint::new(Method::POST, "/journal/archive", PlatformConfigure, post(store::archive)),
        Endpoint::new(Method::POST, "/store/backup", PlatformConfigure, post(store::backup)),
        Endpoint::new(Method::GET, "/store/verify", PlatformConfigure, get(store::verify)),
        Endpoint::new(Method::GET, "/machines/{id}/usage", MachinesRead, get(machines::usage)),
        Endpoint::new(Method::GET, "/usage", MachinesRead, get(usage::totals)),
        Endpoint::new(Method::GET, "/config", PlatformConfigure, get(settings::config)),
        Endpoint::new(Method::GET, "/tiers", MachinesRead, get(catalogue::tiers)),
        Endpoint::new(Method::GET, "/routes", MachinesRead, get(catalogue::routes)),
        Endpoint::new(Method::GET, "/permissions", MachinesRead, get(catalogue::permissions)),
    ]
}

/// One thing that the API can be asked. Being in the table is what makes an endpoint exist, and what guards it.
struct Endpoint {
    method: Method,
    /// Below `/v1`.
    path: &'static str,
    /// `None`: whoever is known may ask.
    right: Option<Right>,
    handler: MethodRouter<Arc<Admin>>,
}

impl Endpoint {
    /// `handler` takes `method` alone.
    fn new(method: Method, path: &'static str, right: impl Into<Option<Right>>, handler: MethodRouter<Arc<Admin>>) -> Endpoint {
        Endpoint { method, path, right: right.into(), handler }
    }

    /// With what stands before the handler: first the right, then, for a POST, the memory of what was done already.
    fn guarded(self, admin: &Arc<Admin>) -> (&'static str, MethodRouter<Arc<Admin>>) {
        let right = self.right;
        let handler = match self.method {
            Method::POST => self.handler.layer(middleware::from_fn_with_state(admin.clone(), idempotency::once)),
            _ => self.handler,
        };
        (self.path, handler.layer(middleware::from_fn(move |request, next| door::permit(right, request, next))))
    }
}

/// Method, path and right of every endpoint (`None`: any token opens it): what a test walks through.
pub fn endpoint_table() -> Vec<(Method, String, Option<Right>)> {
    endpoints().into_iter().map(|endpoint| (endpoint.method, format!("/v1{}", endpoint.path), endpoint.right)).collect()
}

/// Everything, behind the guard that knows the [`Door`] of each request from its extensions.
pub fn router(admin: Arc<Admin>) -> Router {
    let v1 =
        endpoints().into_iter().map(|endpoint| endpoint.guarded(&admin)).fold(Router::new(), |v1, (path, handler)| v1.route(path, handler));
    finish(health::routes().route("/openapi.json", get(openapi::document)).nest("/v1", v1), admin)
}

/// `/livez`, `/readyz` and `/metrics` alone, for the telemetry listener.
pub fn telemetry_router(admin: Arc<Admin>) -> Router {
    finish(health::routes(), admin)
}

fn finish(routes: Router<Arc<Admin>>, admin: Arc<Admin>) -> Router {
    routes
        .fallback(answer::nothing_there)
        .method_not_allowed_fallback(answer::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(admin.clone(), door::guard))
        .layer(middleware::from_fn(answer::complete))
        .with_state(admin)
}
