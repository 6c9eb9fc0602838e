//! What can be done without a gateway: to the folder of one that is stopped.

use std::path::Path;

use super::failure::Failure;
use super::request::Shared;
use crate::config::{self, Settings};

/// Asks the running gateway. Only where there is none, and the settings are named, the stopped one's folder is opened: a gateway that
/// runs, however long it takes to answer, is the only one who may touch its files, and one that was named by an address may be on another machine.
pub fn ask_or_open<T>(
    shared: &Shared,
    ask: impl FnOnce() -> Result<T, Failure>,
    open: impl FnOnce(&Settings) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match (ask(), shared.settings()) {
        (Err(Failure::Unreachable(_)), Some(file)) => open(&load(&file)?),
        (Err(Failure::Unreachable(why)), None) => Err(Failure::Unreachable(format!(
            "{}. With --config FILE this can be done to a stopped gateway, too",
            why.trim_end_matches('?')
        ))),
        (answer, _) => answer,
    }
}

/// Reads a settings file.
pub fn load(file: &Path) -> Result<Settings, Failure> {
    config::load(file).map_err(|findings| Failure::Usage(findings.to_string()))
}

/// What the store says when it does not do as asked.
pub fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        shared: Shared,
    }

    #[test]
    fn only_where_nothing_can_be_connected_to_is_the_folder_opened() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("octroi.yaml");
        std::fs::write(
            &file,
            "upstreams: {u: {targets: ['http://127.0.0.1:1']}}\nroutes: {r: {match: {path: /}, public: true, upstream: u}}\n",
        )
        .unwrap();
        let shared = Line::parse_from(["octroi", "--config", file.to_str().unwrap()]).shared;
        let ask = |failure: Failure| ask_or_open(&shared, || Err(failure), |_| Ok("opened"));
        assert_eq!(ask(Failure::Unreachable("x".into())), Ok("opened"));
        for failure in [Failure::Unanswered("x".into()), Failure::Refused("x".into())] {
            assert_eq!(ask(failure.clone()), Err(failure));
        }
    }
}
