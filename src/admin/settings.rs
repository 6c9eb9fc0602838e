//! `/v1/config`: the settings in force, defaults included, laid out as in the settings file.
//!
//! Every setting is named here, so that a new one must be looked at: one that holds a secret must be shown as `"***"`. None
//! does so far.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::Admin;
use crate::config::{
    Access, AccessLog, Addresses, Admin as AdminSettings, AdminTls, Balance, Connections, Credentials, HostHeader, IdentityHeaders,
    KeySettings, LimitHeaders, Limits, Listener, LogFormat, Logs, Organization, Permission, Route, Settings, TierSettings, Timeouts,
    Underscores, Upstream, UsageSettings,
};

/// The settings as they were at the start of the gateway, which is when they are read.
pub async fn config(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(admin.catalogue.config.clone())
}

pub fn shown(settings: &Settings) -> Value {
    let Settings {
        listeners,
        trusted_proxies,
        admin: AdminSettings { bind, socket, tls, hosts },
        telemetry,
        store,
        credentials: where_keys_stand,
        key_prefix,
        guessing,
        permissions,
        tiers,
        default_tier,
        limits: Limits { timezone, headers },
        upstreams,
        routes,
        connections: bounds,
        usage: UsageSettings { flush },
        keys: KeySettings { warn_idle_after, deactivate_idle_after },
        logs,
        underscores,
        identity,
        warnings: _,
    } = settings;
    let listener = |Listener { name, bind }: &Listener| (name.clone(), json!({"bind": bind}));
    let permission = |Permission { name, label }: &Permission| (name.to_string(), json!({"label": {"fr": label.fr, "en": label.en}}));
    let mut credentials = credentials(where_keys_stand);
    credentials["prefix"] = json!(key_prefix);
    json!({
        "listeners": listeners.iter().map(listener).collect::<Map<_, _>>(),
        "trusted_proxies": trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "admin": {
            "bind": bind.map_or(json!(false), |bind| json!(bind)),
            "socket": socket,
            "tls": tls.as_ref().map(encrypted),
            "hosts": hosts,
        },
        "telemetry": {"bind": telemetry},
        "store": {"path": store},
        "credentials": credentials,
        "guessing": guessing.map_or(json!(false), |limit| json!({"failures": format!("{}/{}", limit.quota, limit.window.name())})),
        "permissions": permissions.iter().map(permission).collect::<Map<_, _>>(),
        "tiers": tiers.iter().map(tier).collect::<Map<_, _>>(),
        "default_tier": default_tier.as_str(),
        "limits": {"timezone": timezone.iana_name(), "headers": limit_headers(*headers)},
        "upstreams": upstreams.iter().map(upstream).collect::<Map<_, _>>(),
        "routes": routes.iter().map(|one| route(one, upstreams)).collect::<Map<_, _>>(),
        "connections": connections(bounds),
        "usage": {"flush": span(*flush)},
        "keys": {"warn_idle_after": or_never(*warn_idle_after), "deactivate_idle_after": or_never(*deactivate_idle_after)},
        "logs": written(logs),
        "underscore_headers": spelled(*underscores),
        "identity_headers": identified(identity),
    })
}

/// Where the files lie, not what is in them.
fn encrypted(AdminTls { certificate, private_key, client_ca }: &AdminTls) -> Value {
    json!({"certificate": certificate, "private_key": private_key, "client_ca": client_ca})
}

fn or_never(limit: Option<Duration>) -> Value {
    limit.map_or(json!(false), |limit| json!(span(limit)))
}

fn credentials(Credentials { bearer, query, header }: &Credentials) -> Value {
    let off = || json!(false);
    json!({
        "bearer": bearer,
        "query": query.as_ref().map_or_else(off, |name| json!(name)),
        "header": header.as_ref().map_or_else(off, |name| json!(name.as_str())),
    })
}

fn tier(TierSettings { tier, label }: &TierSettings) -> (String, Value) {
    let mut shown = Map::from_iter([("label".to_owned(), json!({"fr": label.fr, "en": label.en}))]);
    for limit in &tier.limits {
        shown.insert(format!("per_{}", limit.window.name()), json!(limit.quota));
        if limit.window.seconds().is_some() {
            shown.insert("burst".to_owned(), json!(limit.burst));
        }
    }
    if tier.limits.is_empty() {
        shown.insert("unlimited".to_owned(), json!(true));
    }
    (tier.name.to_string(), Value::Object(shown))
}

fn limit_headers(headers: LimitHeaders) -> &'static str {
    match headers {
        LimitHeaders::Ietf => "ietf",
        LimitHeaders::Legacy => "legacy",
        LimitHeaders::Both => "both",
        LimitHeaders::None => "none",
    }
}

fn upstream(Upstream { name, targets, balance, host, timeouts, retries }: &Upstream) -> (String, Value) {
    let Timeouts { connect, response, idle } = timeouts;
    let host = match host {
        HostHeader::Pass => "pass".into(),
        HostHeader::Target => "target".into(),
        HostHeader::Fixed(name) => String::from_utf8_lossy(name.as_bytes()),
    };
    let balance = match balance {
        Balance::RoundRobin => "round_robin",
    };
    let shown = json!({
        // Targets are written without user and password: the reader refuses them.
        "targets": targets.iter().map(|target| format!("http://{}", target.authority())).collect::<Vec<_>>(),
        "balance": balance,
        "host": host,
        "timeouts": {"connect": span(*connect), "response": span(*response), "idle": span(*idle)},
        "retries": retries,
    });
    (name.clone(), shown)
}

fn route(route: &Route, upstreams: &[Upstream]) -> (String, Value) {
    let Route { name, host, pattern, methods, access, organization, credentials: places, upstream } = route;
    let methods = methods.as_ref().map(|methods| methods.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut shown = json!({
        "match": {"host": host, "path": pattern.to_string(), "methods": methods},
        "credentials": credentials(places),
        "upstream": upstreams.get(*upstream).map(|upstream| &upstream.name),
        "organization": match organization {
            Organization::None => Value::Null,
            Organization::Any => json!("any"),
            Organization::Path(parameter) => json!({"path": parameter}),
            Organization::Header(name) => json!({"header": name.as_str()}),
            Organization::Query(parameter) => json!({"query": parameter}),
        },
    });
    match access {
        Access::Public => shown["public"] = json!(true),
        Access::AnyKey => shown["permission"] = json!("any"),
        Access::Permissions(names) => shown["permission"] = names.iter().map(|name| json!(name.as_str())).collect(),
    }
    (name.clone(), shown)
}

fn connections(bounds: &Connections) -> Value {
    let Connections { workers, max, first_byte, head, idle, body, write, drain, head_size, uri_size, header_count, body_size } = bounds;
    json!({
        "workers": workers.map_or(json!("auto"), |workers| json!(workers)),
        "max": max,
        "first_byte": span(*first_byte),
        "head": span(*head),
        "idle": span(*idle),
        "body": span(*body),
        "write": span(*write),
        "drain": span(*drain),
        "head_size": head_size,
        "uri_size": uri_size,
        "header_count": header_count,
        "body_size": body_size.map_or(json!("none"), |size| json!(size)),
    })
}

fn written(Logs { level, format, access, addresses }: &Logs) -> Value {
    let format = match format {
        LogFormat::Json => "json",
        LogFormat::Text => "text",
    };
    let access = match access {
        AccessLog::Off => json!("off"),
        AccessLog::Stdout => json!("stdout"),
        AccessLog::File(path) => json!(path),
    };
    let addresses = match addresses {
        Addresses::Full => "full",
        Addresses::Truncated => "truncated",
        Addresses::None => "none",
    };
    json!({"level": level, "format": format, "access": access, "addresses": addresses})
}

fn spelled(underscores: Underscores) -> &'static str {
    match underscores {
        Underscores::Drop => "drop",
        Underscores::Pass => "pass",
        Underscores::Refuse => "refuse",
    }
}

fn identified(IdentityHeaders { machine_id, machine_name, key_id, environment }: &IdentityHeaders) -> Value {
    let name = |header: &Option<http::HeaderName>| header.as_ref().map_or(json!(false), |name| json!(name.as_str()));
    json!({
        "machine_id": name(machine_id),
        "machine_name": name(machine_name),
        "key_id": name(key_id),
        "environment": name(environment),
    })
}

/// A length of time as the settings file writes it.
fn span(length: Duration) -> String {
    match length.subsec_millis() {
        0 => format!("{}s", length.as_secs()),
        _ => format!("{}ms", length.as_millis()),
    }
}
