//! One program with the real gateway in it: real sockets, a real store in a temporary folder, upstreams that do what
//! a test tells them. Each module is named after the promise it shows.

#![allow(clippy::unwrap_used)] // an error that a test did not expect is its failure
#![allow(clippy::print_stdout)] // what a test has to say goes through its captured output

mod support;

mod admin;
mod admin_api;
mod archived;
mod attack;
mod bounds;
mod care;
mod commands;
mod crash;
mod credentials;
mod cut;
mod decisions;
mod endpoints;
mod explain;
mod faults;
mod formats;
mod framing;
mod headers;
mod image;
mod journal;
mod keys;
mod lifecycle;
mod limits;
mod next_request;
mod operators;
mod organizations;
mod own_log;
mod readme;
mod remote;
mod replay;
mod rooms;
mod routing;
mod secrecy;
mod tokens;
mod usage;
