//! One program with the real gateway in it: real sockets, a real store in a temporary folder, upstreams that do what
//! a test tells them. Each module is named after the promise it shows.

#![allow(clippy::unwrap_used)] // an error that a test did not expect is its failure
#![allow(clippy::print_stdout)] // what a test has to say goes through its captured output

mod support;

mod admin;
mod archived;
mod attack;
mod bounds;
mod care;
mod commands;
mod crash;
mod credentials;
mod faults;
mod formats;
mod framing;
mod headers;
mod image;
mod journal;
mod lifecycle;
mod limits;
mod readme;
mod replay;
mod rooms;
mod routing;
mod secrecy;
mod usage;
