//! What the tests share: a gateway in this process, the program as a process of its own, clients of both planes, and an upstream that
//! remembers what it got.

use std::io::Write;

pub mod admin;
pub mod client;
pub mod gateway;
pub mod process;
pub mod program;
pub mod upstream;

pub use admin::Admin;
pub use gateway::Gateway;
pub use upstream::{Reply, Upstream};

/// Says that a test could not run here, and why. With `CI=true` that is a failure. `tests/run` looks for the line.
pub fn skip(name: &str, reason: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "SKIPPED {name}: {reason}");
    println!("SKIPPED {name}: {reason}");
}

/// Says something that is to be seen although the test passes.
pub fn note(text: &str) {
    // Written past the capture of `println!`; a closed terminal is no failure.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// How many times as many rounds a storm has: five times in the long set.
pub fn times() -> usize {
    if std::env::var_os("OCTROI_LONG").is_some_and(|value| value == "1") { 5 } else { 1 }
}
