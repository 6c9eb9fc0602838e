//! The access log: one JSON object per call on a line of its own.
//!
//! A worker never waits for it. [`AccessLog::line`] writes into memory of the calling thread and appends that to a
//! bounded queue; a thread of its own writes the queue out. What does not fit is dropped and counted, so
//! `written + dropped` is the number of calls.

mod line;

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use line::Scratch;
pub use line::{Addresses, Line};

use super::lines::{self, Out, Queue};

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    /// Appended to; made with mode 0640 where it does not exist, since its readers are log shippers.
    File(PathBuf),
}

/// Why the access log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    #[error("cannot append to the access log {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot start the access log's thread: {0}")]
    Thread(#[source] io::Error),
}

/// A handle on the access log; clones write to the same one. It ends when the last one is dropped.
#[derive(Clone)]
pub struct AccessLog(Arc<Handle>);

struct Handle {
    queue: Arc<Queue>,
    addresses: Addresses,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.end();
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

impl AccessLog {
    /// What the queue holds by default: some seconds of lines at 10 000 calls per second.
    pub const CAPACITY: usize = 16 * 1024 * 1024;

    /// `capacity` is in bytes of lines that wait; as much again can be in the writer's hands.
    pub fn start(target: &Target, addresses: Addresses, capacity: usize) -> Result<AccessLog, AccessLogError> {
        let queue = lines::start("access-log", Some("the access log"), open(target)?, capacity).map_err(AccessLogError::Thread)?;
        Ok(AccessLog(Arc::new(Handle { queue, addresses })))
    }

    /// Logs one call, or counts it as dropped when the queue is full. Never waits for the target.
    pub fn line(&self, line: &Line<'_>) {
        SCRATCH.with_borrow_mut(|scratch| self.0.queue.push(scratch.write(line, self.0.addresses)));
    }

    /// Lines that reached the target.
    pub fn written(&self) -> u64 {
        self.0.queue.written()
    }

    /// Lines that were lost because the target took them too slowly or not at all.
    pub fn dropped(&self) -> u64 {
        self.0.queue.dropped()
    }

    /// Writes out what waits and ends the log; lines that come later are dropped. Waits for a stuck target some seconds
    /// at most, and answers whether everything was written.
    pub fn close(&self) -> bool {
        self.0.queue.close()
    }
}

fn open(target: &Target) -> Result<Out, AccessLogError> {
    match target {
        Target::Stdout => Ok(Box::new(io::stdout())),
        Target::File(path) => OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path)
            .map(|file| Box::new(file) as Out)
            .map_err(|source| AccessLogError::Open { path: path.clone(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::call::{ClientIp, PeerIp, Record, RequestId};
    use crate::model::{Moment, Verdict};

    #[test]
    fn t243_lines_in_the_file_are_calls_logged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog::start(&Target::File(path.clone()), Addresses::None, AccessLog::CAPACITY).unwrap();
        let ip = "192.0.2.77".parse().unwrap();
        let record = Record {
            id: RequestId::from_u128(7),
            began: Moment::default(),
            ended: Moment::default(),
            peer: PeerIp(ip),
            client: ClientIp(ip),
            method: http::Method::GET,
            route: None,
            caller: None,
            admitted: false,
            verdict: Verdict::ClientClosed,
            status: 499,
            received: 0,
            sent: 0,
            upstream: None,
        };
        let line = Line {
            record: &record,
            host: b"",
            path: b"/a?api_key=canary",
            route: None,
            machine_name: None,
            key_label: None,
            user_agent: None,
            listener: "public",
        };
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(|| (0..100).for_each(|_| log.line(&line))))));
        assert!(log.close());
        assert_eq!((log.written(), log.dropped()), (300, 0));
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 300);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["verdict"] == "client_closed"));
        assert!(!text.contains("canary") && !text.contains("192.0.2"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = open(&Target::File("/nowhere/access.log".into())).err().unwrap();
        assert!(error.to_string().starts_with("cannot append to the access log /nowhere/access.log: "), "{error}");
    }
}
