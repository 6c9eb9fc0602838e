//! What operators see: [`metrics`] for Prometheus, the [`access`] log with one line per call, and the gateway's own
//! [`log`]. Each tells the same story of a call, from one [`Record`](crate::model::call::Record).
//!
//! Nothing here can delay a call: counters are plain memory of one worker, and a log whose reader cannot keep up
//! drops lines and counts them. Nothing here ever holds a key's value, a query, a body or a cookie.

pub mod access;
mod lines;
pub mod log;
pub mod metrics;

pub use access::AccessLog;
pub use metrics::{Metrics, WorkerMetrics};
