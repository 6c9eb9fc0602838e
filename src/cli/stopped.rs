//! What can be done without a gateway: to the folder of one that is stopped.

use std::path::Path;

use super::failure::Failure;
use super::request::Shared;
use crate::config::{self, Settings};

/// Asks the running gateway. Only where none answers, and the settings are named, the stopped one's folder is opened: a gateway that
/// answers is the only one who may touch its files, and one that was named by an address may be on another machine.
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
