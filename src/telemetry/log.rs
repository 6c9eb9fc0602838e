//! The gateway's own log, on standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("unknown log level {0:?}; known: off, error, warn, info, debug, trace")]
    Level(String),
    #[error("a log is set up already")]
    Twice(#[from] TryInitError),
}

/// Sends the process's events at `level` and above to standard error, as JSON objects or as lines for people.
pub fn init(level: &str, json: bool) -> Result<(), LogError> {
    let filter = filter(level)?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    Ok(tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?)
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
