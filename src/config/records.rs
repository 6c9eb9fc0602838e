//! The sections about what is kept: store, usage, logs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{Section, Value};
use super::settings::{AccessLog, Addresses, LogFormat, Logs, UsageSettings};

pub(super) fn store(root: &mut Section<'_>, folder: &Path) -> PathBuf {
    let default = folder.join("data");
    root.read("store", default.clone(), |value| {
        value.section(|fields| fields.read("path", default, |v| v.parse(|text| Ok(folder.join(text)))))
    })
}

pub(super) fn usage(root: &mut Section<'_>) -> UsageSettings {
    let default = UsageSettings { flush: Duration::from_secs(1) };
    let bounds = Duration::from_millis(100)..=Duration::from_secs(60);
    root.read("usage", default, |value| {
        value.section(|fields| UsageSettings { flush: fields.read("flush", default.flush, |v| v.duration(bounds)) })
    })
}

pub(super) fn logs(root: &mut Section<'_>, folder: &Path) -> Logs {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let default = || Logs { level: "info".to_owned(), format: LogFormat::Json, access: AccessLog::Stdout, addresses: Addresses::Full };
    root.read("logs", default(), |value| {
        value.section(|fields| Logs {
            level: fields.read("level", default().level, |v| v.choice(&LEVELS.map(|level| (level, level.to_owned())))),
            format: fields.read("format", LogFormat::Json, |v| v.choice(&[("json", LogFormat::Json), ("text", LogFormat::Text)])),
            access: fields.read("access", AccessLog::Stdout, |v| access_log(v, folder)),
            addresses: fields.read("addresses", Addresses::Full, |v| {
                v.choice(&[("full", Addresses::Full), ("truncated", Addresses::Truncated), ("none", Addresses::None)])
            }),
        })
    })
}

fn access_log(value: &Value<'_>, folder: &Path) -> Option<AccessLog> {
    value.parse(|text| match text {
        "stdout" => Ok(AccessLog::Stdout),
        "off" => Ok(AccessLog::Off),
        "true" | "false" => Err("is no place; write stdout, off, or the path of a file".to_owned()),
        path => Ok(AccessLog::File(folder.join(path))),
    })
}
