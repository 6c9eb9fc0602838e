//! The section about the APIs behind the gateway.

use std::time::Duration;

use http::HeaderValue;

use super::edge::check_name;
use super::reader::{Section, Value};
use super::settings::{Balance, HostHeader, Target, Timeouts, Upstream};
use super::values;

/// All upstreams. The names are also of those that cannot be read: a route to one of them is not dangling. Without
/// findings the two lists run in parallel.
pub(super) struct Upstreams {
    pub names: Vec<String>,
    pub list: Vec<Upstream>,
}

pub(super) fn upstreams(root: &mut Section<'_>) -> Upstreams {
    let example = "write upstreams: {api: {targets: [\"http://127.0.0.1:3000\"]}}";
    let value = root.required("upstreams", format!("name the API behind the gateway: {example}"));
    let entries = value.and_then(|value| value.entries("upstreams", example)).unwrap_or_default();
    let names = entries.iter().map(|(name, _)| (*name).to_owned()).collect();
    Upstreams { names, list: entries.iter().filter_map(|(name, value)| upstream(name, value)).collect() }
}

fn upstream(name: &str, value: &Value<'_>) -> Option<Upstream> {
    let name = check_name(name, value);
    let (targets, balance, host, timeouts, retries) = value.section(|fields| {
        (
            targets(fields),
            fields.read("balance", Balance::RoundRobin, |v| v.choice(&[("round_robin", Balance::RoundRobin)])),
            fields.read("host", HostHeader::Pass, host_header),
            timeouts(fields),
            fields.read("retries", 1, |v| v.number(0..=5).and_then(|n| u32::try_from(n).ok())),
        )
    })?;
    Some(Upstream { name: name?, targets, balance, host, timeouts, retries })
}

fn targets(fields: &mut Section<'_>) -> Vec<Target> {
    let hint = "list where the upstream runs: [\"http://127.0.0.1:3000\"]";
    let items = fields.required("targets", hint).and_then(|value| value.items(hint)).unwrap_or_default();
    let mut targets: Vec<Target> = Vec::new();
    for item in items {
        let Some(target) = read_target(&item) else { continue };
        if targets.contains(&target) {
            item.refuse(format!("{} is listed twice; remove one", item.shown()));
        }
        targets.push(target);
    }
    targets
}

fn read_target(value: &Value<'_>) -> Option<Target> {
    if value.holds('@') {
        // What stands before it can be a password: the text is not repeated.
        value.refuse("holds a user's name before an @; targets are written without one: http://127.0.0.1:3000");
        return None;
    }
    value.parse(target)
}

fn target(text: &str) -> Result<Target, String> {
    let (scheme, rest) = text.split_once("://").ok_or_else(|| "does not begin with a scheme; write http://HOST:PORT".to_owned())?;
    match scheme {
        "http" => {}
        "https" | "h2c" => return Err(format!("is reached over {scheme}, which is not there yet; only http:// targets are taken")),
        _ => return Err("has a scheme that is not known; only http:// targets are taken".to_owned()),
    }
    if let Some(at) = rest.find(['/', '?', '#']) {
        return Err(format!("goes on after host and port; requests keep their own path and query: write http://{}", &rest[..at]));
    }
    let (host, port) = values::host_and_port(rest)?;
    Ok(Target { host, port: port.unwrap_or(80) })
}

fn host_header(value: &Value<'_>) -> Option<HostHeader> {
    value.parse(|text| match text {
        "pass" => Ok(HostHeader::Pass),
        "target" => Ok(HostHeader::Target),
        _ => {
            values::host_and_port(text).map_err(|message| format!("{message}; known besides: pass, target"))?;
            HeaderValue::from_str(text).map(HostHeader::Fixed).map_err(|_| "cannot stand in a header".to_owned())
        }
    })
}

fn timeouts(fields: &mut Section<'_>) -> Timeouts {
    let default = Timeouts { connect: Duration::from_secs(2), response: Duration::from_secs(30), idle: Duration::from_secs(60) };
    let wait = |v: &Value<'_>| v.duration(Duration::from_millis(1)..=Duration::from_secs(86_400));
    fields.read("timeouts", default, |value| {
        value.section(|fields| Timeouts {
            connect: fields.read("connect", default.connect, wait),
            response: fields.read("response", default.response, wait),
            idle: fields.read("idle", default.idle, wait),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_port() {
        let ok = [
            ("http://127.0.0.1:3000", "127.0.0.1", 3000, "127.0.0.1:3000"),
            ("http://API.internal", "api.internal", 80, "api.internal"),
            ("http://[::1]:81", "::1", 81, "[::1]:81"),
            ("http://[::1]", "::1", 80, "[::1]"),
        ];
        for (text, host, port, authority) in ok {
            let target = target(text).unwrap();
            assert_eq!((target.host.as_str(), target.port, target.authority().as_str()), (host, port, authority));
        }
        let wrong = [
            ("127.0.0.1:3000", "write http://HOST:PORT"),
            ("https://a", "not there yet"),
            ("h2c://a", "not there yet"),
            ("ftp://a", "not known"),
            ("http://a/", "write http://a"),
            ("http://a:1/v1", "write http://a:1"),
            ("http://a?x", "write http://a"),
            ("http://u:p@a", "port"),
            ("http://", "not a host"),
            ("http://::1", "brackets"),
            ("http://a:0", "port"),
        ];
        for (text, part) in wrong {
            assert!(target(text).unwrap_err().contains(part), "{text} gave {:?}", target(text));
        }
    }
}
