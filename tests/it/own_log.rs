//! The gateway's own log holds nobody up: not the calls while nobody reads it, nor the end of the process, and what it has to say of a failed
//! start is seen.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::client::{Connection, eventually};
use crate::support::program::{octroi, run};
use crate::support::{gateway, upstream};

/// Ended with the test, whatever came of it.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_own_log_that_nobody_reads_holds_up_no_call_and_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("octroi.yaml");
    // Each call fails, and each failure is logged with the upstream's name.
    let name = "u".repeat(60);
    let settings = gateway::settings(upstream::nobody())
        .replace("  api: {", &format!("  {name}: {{"))
        .replace("upstream: api", &format!("upstream: {name}"));
    std::fs::write(&file, settings).unwrap();
    let mut command = octroi(dir.path(), &["serve", "--config", file.to_str().unwrap()]);
    let mut serving = Serving(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    // Read until its addresses are known, and then no more: the pipe stays open and fills up.
    let mut log = BufReader::with_capacity(512, serving.0.stderr.take().unwrap());
    let address: SocketAddr = eventually("the listener", || {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
        let line: Value = serde_json::from_str(&line).unwrap();
        (line["message"] == "listening").then(|| line["address"].as_str().unwrap().parse().unwrap())
    });
    let mut connection = Connection::open(address);
    // The pipe takes 64 KiB, the writer and the queue 256 KiB each: less than is said.
    for _ in 0..3_000 {
        connection.request("GET", "/status", &[], None);
        connection.answer().refused(502, "upstream_unreachable");
    }
    kill_process(Pid::from_child(&serving.0), Signal::TERM).unwrap();
    let ended = eventually("the end", || serving.0.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
    drop(log);
}

#[test]
fn what_a_start_that_fails_has_to_say_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("octroi.yaml");
    // A half line at the journal's end is logged as a warning; the listener that cannot be bound then ends the start.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = gateway::settings(upstream::nobody());
    std::fs::write(&file, settings.replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1)).unwrap();
    let journal = dir.path().join("data/journal");
    std::fs::create_dir_all(&journal).unwrap();
    std::fs::write(journal.join("00000001.log"), "half a line").unwrap();
    let ran = run(octroi(dir.path(), &["serve", "--config", file.to_str().unwrap()]));
    let told = ran.failed(1);
    let warning = told.find("\"level\":\"WARN\"").unwrap_or_else(|| panic!("{told}"));
    let reason = told.find("cannot start: ").unwrap_or_else(|| panic!("{told}"));
    assert!(warning < reason, "in the order in which it happened: {told}");
}
