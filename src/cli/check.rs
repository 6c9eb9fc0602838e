//! `octroi check`: what is wrong with a settings file, or what it means.

use std::fmt::Write;
use std::path::Path;

use super::failure::{Failure, Outcome};
use super::output::{self, Table};
use crate::app;
use crate::config::{self, Access, Route, Settings, TierSettings, Upstream};

/// Prints the findings to stderr (exit code 2), or a summary and the warnings.
pub fn run(file: &Path) -> Outcome {
    let settings = config::load(file).map_err(|findings| Failure::Usage(findings.to_string()))?;
    app::try_files(&settings).map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    output::print(&summary(file, &settings))?;
    for warning in &settings.warnings {
        output::note(&format!("warning: {warning}"));
    }
    Ok(())
}

fn summary(file: &Path, settings: &Settings) -> String {
    let parts = [
        listeners(settings).or("no listeners"),
        routes(settings).or("no routes"),
        upstreams(&settings.upstreams).or("no upstreams"),
        tiers(settings).or("no tiers"),
    ];
    let warned = match settings.warnings.len() {
        0 => "no warnings".to_owned(),
        1 => "1 warning".to_owned(),
        count => format!("{count} warnings"),
    };
    format!("{}\n{} is fine, {warned}.\n", parts.join("\n"), file.display())
}

fn listeners(settings: &Settings) -> Table {
    let mut table = Table::new(&["LISTENER", "ADDRESS"]);
    for listener in &settings.listeners {
        table.row([listener.name.clone(), listener.bind.to_string()]);
    }
    table.row(["admin socket".to_owned(), settings.admin.socket.display().to_string()]);
    let admin = if settings.admin.tls.is_some() { "admin (TLS)" } else { "admin" };
    let others = [(admin, settings.admin.bind), ("telemetry", settings.telemetry)];
    for (name, bind) in others.into_iter().filter_map(|(name, bind)| bind.map(|bind| (name, bind))) {
        table.row([name.to_owned(), bind.to_string()]);
    }
    table
}

fn routes(settings: &Settings) -> Table {
    let mut table = Table::new(&["ROUTE", "METHODS", "HOST AND PATH", "NEEDS", "UPSTREAM"]);
    for route in &settings.routes {
        let upstream = settings.upstreams.get(route.upstream).map(|upstream| upstream.name.clone());
        let place = format!("{}{}", route.host.as_deref().unwrap_or_default(), route.pattern);
        table.row([route.name.clone(), methods(route), place, needs(&route.access), upstream.unwrap_or_default()]);
    }
    table
}

fn methods(route: &Route) -> String {
    let joined = |methods: &Vec<http::Method>| methods.iter().map(http::Method::as_str).collect::<Vec<_>>().join(", ");
    route.methods.as_ref().map_or_else(|| "any".to_owned(), joined)
}

fn needs(access: &Access) -> String {
    match access {
        Access::Public => "nothing (public)".to_owned(),
        Access::AnyKey => "any valid key".to_owned(),
        Access::Permissions(names) => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
    }
}

fn upstreams(upstreams: &[Upstream]) -> Table {
    let mut table = Table::new(&["UPSTREAM", "TARGETS"]);
    for upstream in upstreams {
        let targets: Vec<String> = upstream.targets.iter().map(|target| format!("http://{}", target.authority())).collect();
        table.row([upstream.name.clone(), targets.join(", ")]);
    }
    table
}

fn tiers(settings: &Settings) -> Table {
    let mut table = Table::new(&["TIER", "LIMITS"]);
    for tier in &settings.tiers {
        let default = if tier.tier.name == settings.default_tier { " (default)" } else { "" };
        table.row([format!("{}{default}", tier.tier.name), limits(tier)]);
    }
    table
}

fn limits(tier: &TierSettings) -> String {
    let mut text = String::new();
    for limit in &tier.tier.limits {
        let join = if text.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{join}{} a {}", limit.quota, limit.window.name());
        if limit.burst < limit.quota && limit.window.seconds().is_some() {
            let _ = write!(text, " ({} at once)", limit.burst);
        }
    }
    if text.is_empty() { "unlimited".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str = "permissions: {a:read: {}, b: {}}\nupstreams: {u: {targets: ['http://127.0.0.1:3000', 'http://[::1]']}}\n\
        tiers: {free: {per_minute: 60, per_day: 100, burst: 5}, open: {unlimited: true}}\nroutes:\n  \
        r: {match: {host: h.example, path: '/v1/{*rest}', methods: [GET, PUT]}, permission: [a:read, b], upstream: u}\n  \
        any: {match: {path: /v1/any}, permission: any, upstream: u}\n  p: {match: {path: /status}, public: true, upstream: u}\n";

    #[test]
    fn settings_that_are_fine_are_summed_up() {
        let file = Path::new("octroi.yaml");
        let settings = config::parse(SETTINGS, file, &|_| None).unwrap();
        let expected = "\
LISTENER      ADDRESS
public        0.0.0.0:8080
admin socket  data/admin.sock
admin         127.0.0.1:8090

ROUTE  METHODS   HOST AND PATH         NEEDS             UPSTREAM
r      GET, PUT  h.example/v1/{*rest}  a:read and b      u
any    any       /v1/any               any valid key     u
p      any       /status               nothing (public)  u

UPSTREAM  TARGETS
u         http://127.0.0.1:3000, http://[::1]

TIER            LIMITS
free (default)  60 a minute (5 at once), 100 a day
open            unlimited

octroi.yaml is fine, no warnings.
";
        assert_eq!(summary(file, &settings), expected);
    }

    #[test]
    fn what_is_wrong_is_wrong_settings() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("broken.yaml");
        std::fs::write(&file, "routes: {}\nroutes: {}\n").unwrap();
        let Err(Failure::Usage(text)) = run(&file) else { panic!("accepted") };
        assert!(text.contains("broken.yaml:2:1: "), "{text}");
    }
}
