//! The sections about what is kept: store, usage, idle keys, logs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::{Section, Value};
use super::settings::{AccessLog, Addresses, KeySettings, LogFormat, Logs, UsageSettings};

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

/// A day at least: less would take keys from programs that run at night.
pub(super) fn keys(root: &mut Section<'_>) -> KeySettings {
    const DAY: Duration = Duration::from_secs(86_400);
    let after = |value: &Value<'_>| if value.is("false") { Some(None) } else { value.duration(DAY..=DAY * 3_650).map(Some) };
    root.read("keys", KeySettings::default(), |value| {
        let keys = value.section(|fields| KeySettings {
            warn_idle_after: fields.read("warn_idle_after", None, after),
            deactivate_idle_after: fields.read("deactivate_idle_after", None, after),
        })?;
        if let (Some(warn), Some(deactivate)) = (keys.warn_idle_after, keys.deactivate_idle_after)
            && warn >= deactivate
        {
            value.refuse_name("would deactivate idle keys before it warns of them; make warn_idle_after the shorter one");
        }
        Some(keys)
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
