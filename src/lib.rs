//! octroi: a reverse proxy that lets in only requests with a valid API key.

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
