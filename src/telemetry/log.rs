//! The gateway's own log, on standard error.
//!
//! Workers write to it, when an upstream fails for instance, and do not wait for who reads it: a thread of its own does.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use super::lines::{self, Queue};

/// Bytes of messages that may wait for a reader; as much again can be in the writer's hands. Minutes of an ordinary log.
const CAPACITY: usize = 256 * 1024;

/// The process has one log, as it has one standard error.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("unknown log level {0:?}; known: off, error, warn, info, debug, trace")]
    Level(String),
    #[error("a log is set up already")]
    Twice(#[from] TryInitError),
    #[error("cannot start the log's thread: {0}")]
    Thread(#[source] io::Error),
}

/// The log while it is open. Dropping it writes out what waits; for a reader that takes nothing it waits some seconds at most.
#[must_use = "the log ends when it is dropped"]
pub struct Log(Arc<Queue>);

impl Drop for Log {
    fn drop(&mut self) {
        // Whether everything was taken is seen by who reads it, or by nobody.
        self.0.close();
    }
}

/// Sends the process's events at `level` and above to standard error, as JSON objects or as lines for people.
pub fn init(level: &str, json: bool) -> Result<Log, LogError> {
    let filter = filter(level)?;
    let queue = lines::start("log", None, Box::new(io::stderr()), CAPACITY).map_err(LogError::Thread)?;
    let log = Log(QUEUE.get_or_init(|| queue).clone());
    let queue = log.0.clone();
    let lines = fmt::layer().with_writer(move || Message(queue.clone()));
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(log)
}

/// Messages that were lost because nobody read the log, or not fast enough.
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped())
}

/// Takes one message, which comes in one piece.
struct Message(Arc<Queue>);

impl Write for Message {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Libraries speak up only from warnings on: what they say below that can hold whole header sections, and so keys.
fn filter(level: &str) -> Result<Targets, LogError> {
    let level: LevelFilter = match level {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => level.parse().map_err(|_| LogError::Level(level.into()))?,
        _ => return Err(LogError::Level(level.into())),
    };
    Ok(Targets::new().with_target("octroi", level).with_default(level.min(LevelFilter::WARN)))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn t238_libraries_do_not_log_what_they_received() {
        for (level, target, event, shown) in [
            ("trace", "octroi::proxy", Level::TRACE, true),
            ("trace", "hyper::proto::h1", Level::INFO, false),
            ("trace", "hyper::proto::h1", Level::WARN, true),
            ("info", "octroi", Level::DEBUG, false),
            ("error", "sled", Level::WARN, false),
            ("off", "octroi", Level::ERROR, false),
        ] {
            assert_eq!(filter(level).unwrap().would_enable(target, &event), shown, "{level} {target} {event}");
        }
    }

    #[test]
    fn an_unknown_level_is_named_with_the_known_ones() {
        for odd in ["", "verbose", "3", "INFO "] {
            assert!(filter(odd).unwrap_err().to_string().contains("known: off, error, warn"), "{odd:?}");
        }
    }
}
