//! The settings: one YAML file, read once and checked whole.
//!
//! ```text
//! text ── yaml ──→ tree ── substitute ──→ tree ── edge, callers, upstreams, routes, records ──→ Settings
//!                                                                                    or ──→ all Findings
//! ```
//! A field that nobody asked for is a finding, and so is a name that leads nowhere: a gate does not guess. Every finding
//! has its line and column, and they come all at once, so that an operator mends a file in one go.
//!
//! To add a setting: its type in `settings`, its reading in the section it belongs to, a line in `config/octroi.yaml`,
//! and a broken example in `tests/golden/config`.

mod callers;
mod edge;
mod finding;
mod pattern;
mod reader;
mod records;
mod routes;
mod settings;
mod substitute;
mod upstreams;
mod values;
mod yaml;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use finding::{Finding, Findings, Position};
pub use settings::*;

use callers::Headers;
use edge::Taken;
use finding::Report;
use reader::{Section, Value};
use routes::Known;
use substitute::Sources;

/// Settings for ten thousand routes fit; a wrong path (a log, a device) must not fill the memory.
const MAX_FILE: usize = 1024 * 1024;

/// Reads and checks a settings file; `${env:NAME}` comes from this process's environment.
pub fn load(path: &Path) -> Result<Settings, Findings> {
    let text = read(path).map_err(|message| Findings::unreadable(path, message))?;
    parse(&text, path, &|name| std::env::var(name).ok())
}

fn read(path: &Path) -> Result<String, String> {
    let failed = |error: io::Error| format!("cannot be read: {error}; name the settings file with --config FILE");
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err("is a folder; name the settings file inside it".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_FILE {
        return Err(TOO_LARGE.to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("is not UTF-8 from line {line} on; save it as UTF-8")
    })
}

const TOO_LARGE: &str = "is larger than 1 MiB; is it really the settings file?";

/// Checks the text of a settings file. `file` names it in findings and its folder is where relative paths start;
/// `env` looks up `${env:NAME}`.
pub fn parse(text: &str, file: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, Findings> {
    if text.len() > MAX_FILE {
        return Err(Findings::unreadable(file, TOO_LARGE.to_owned()));
    }
    let report = Report::new(file);
    let folder = file.parent().unwrap_or(Path::new(""));
    let read = yaml::tree(text.trim_start_matches('\u{feff}'), &report).and_then(|mut root| {
        substitute::resolve(&mut root, "", &Sources { env, folder }, &report);
        Value::root(&root, &report).section(|root| settings(root, folder))
    });
    let (settings, warnings) = report.conclude(read.flatten())?;
    Ok(Settings { warnings, ..settings })
}

/// Reads every section, in an order in which names are known before they are used.
fn settings(root: &mut Section<'_>, folder: &Path) -> Option<Settings> {
    let mut taken = Taken::default();
    let listeners = edge::listeners(root, &mut taken);
    let trusted_proxies = edge::trusted_proxies(root);
    let store = records::store(root, folder);
    let admin = edge::admin(root, &store, folder, &mut taken);
    let telemetry = edge::telemetry(root, &mut taken);
    let headers = Headers { identity: callers::identity(root), underscores: callers::underscores(root) };
    let (credentials, key_prefix) = callers::credentials(root, &headers);
    let guessing = callers::guessing(root);
    let permissions = callers::permissions(root);
    let (tiers, default_tier) = callers::tiers(root);
    let limits = callers::limits(root);
    let upstreams = upstreams::upstreams(root);
    let known = Known {
        credentials: &credentials,
        headers: &headers,
        permissions: permissions.iter().map(|p| p.name.as_str()).collect(),
        upstreams: &upstreams,
    };
    let routes = routes::routes(root, &known);
    let connections = edge::connections(root);
    let usage = records::usage(root);
    let keys = records::keys(root);
    let logs = records::logs(root, folder);
    Some(Settings {
        listeners,
        trusted_proxies,
        admin,
        telemetry,
        store,
        credentials,
        key_prefix,
        guessing,
        permissions,
        tiers,
        default_tier: default_tier?,
        limits,
        upstreams: upstreams.list,
        routes,
        connections,
        usage,
        keys,
        logs,
        underscores: headers.underscores,
        identity: headers.identity,
        warnings: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
