//! What probes and Prometheus ask: `/livez`, `/readyz`, `/metrics`. They need no token and show nothing of any key.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::json;

use super::Admin;
use crate::telemetry::metrics::CONTENT_TYPE;

/// Whether the gateway can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    NotReady {
        /// One word: `starting`, `degraded`, `draining`.
        status: &'static str,
        /// Why, in words for an operator.
        reasons: Vec<String>,
    },
}

pub fn routes() -> Router<Arc<Admin>> {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/metrics", get(metrics))
}

async fn livez() -> Response {
    Json(json!({"status": "alive"})).into_response()
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    match (admin.readiness)() {
        Readiness::Ready => Json(json!({"status": "ready"})).into_response(),
        Readiness::NotReady { status, reasons } => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": status, "reasons": reasons}))).into_response()
        }
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], (admin.metrics)()).into_response()
}
