//! The admin plane: where operators see and change machines and keys, and where probes and Prometheus look.
//!
//! A request comes in by one of three doors ([`listen`]): the Unix socket, where the kernel says who is there and every
//! right is held; the loopback listener, where nobody is let past `/livez`, `/readyz` and `/metrics` because there are no
//! operators yet; and the telemetry listener, which has nothing else. Handlers are grouped by noun: [`machines`], [`keys`],
//! [`journal`], [`catalogue`]. What they take is read by [`fields`] and [`values`], what they give is in [`wire`], which the
//! CLI reads too. Every change goes to the registry; nothing here writes to the store.

mod answer;
mod catalogue;
mod door;
mod fields;
mod health;
mod journal;
mod keys;
mod listen;
mod machines;
mod page;
mod problem;
mod usage;
mod values;
pub mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};

use crate::clock::Clock;
use crate::model::KeyId;
use crate::registry::Registry;
use crate::store::{Store, StoreError};

pub use catalogue::{Catalogue, Label, PermissionInfo, RouteInfo, TierInfo};
pub use door::Door;
pub use health::Readiness;
pub use listen::{AdminSocket, BindError, Listeners, serve};
pub use problem::{Code, Problem};
pub use usage::KeyUse;

/// The longest body a request may have, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// What the admin plane needs of the gateway.
pub struct Admin {
    pub registry: Registry,
    pub clock: Clock,
    /// What the settings name: permissions, tiers, routes.
    pub catalogue: Catalogue,
    /// What is known of a key's use, as of now.
    pub usage: Arc<dyn Fn(KeyId) -> KeyUse + Send + Sync>,
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

/// Everything, behind the guard that knows the [`Door`] of each request from its extensions.
pub fn router(admin: Arc<Admin>) -> Router {
    let v1 = Router::new()
        .route("/machines", get(machines::list).post(machines::create))
        .route("/machines/{id}", get(machines::show).patch(machines::edit).delete(machines::delete))
        .route("/machines/{id}/enable", post(machines::enable))
        .route("/machines/{id}/disable", post(machines::disable))
        .route("/machines/{id}/keys", get(keys::list_of_machine).post(keys::create))
        .route("/keys", get(keys::list))
        .route("/keys/{id}", get(keys::show).patch(keys::edit).delete(keys::delete))
        .route("/keys/{id}/deactivate", post(keys::deactivate))
        .route("/keys/{id}/reactivate", post(keys::reactivate))
        .route("/keys/{id}/revoke", post(keys::revoke))
        .route("/keys/{id}/regenerate", post(keys::regenerate))
        .route("/keys/{id}/usage", get(keys::usage))
        .route("/keys/{id}/activity", get(journal::of_key))
        .route("/machines/{id}/activity", get(journal::of_machine))
        .route("/journal", get(journal::list))
        .route("/journal/verify", get(journal::verify))
        .route("/journal/export", get(journal::export))
        .route("/journal/{seq}", get(journal::show))
        .route("/tiers", get(catalogue::tiers))
        .route("/routes", get(catalogue::routes))
        .route("/permissions", get(catalogue::permissions));
    let all = health::routes().nest("/v1", v1);
    finish(all, admin)
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
        .layer(middleware::from_fn(door::guard))
        .layer(middleware::from_fn(answer::complete))
        .with_state(admin)
}
