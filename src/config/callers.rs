//! The sections about who calls and how much: credentials, guessing, identity headers, permissions, tiers, limits.

use std::num::NonZeroU32;

use http::HeaderName;
use jiff::tz::TimeZone;

use super::finding::{did_you_mean, known, quoted};
use super::reader::{Section, Value};
use super::settings::{Credentials, IdentityHeaders, Label, LimitHeaders, Limits, Permission, TierSettings, Underscores};
use super::values;
use crate::model::permission::ADMIN;
use crate::model::secret::is_prefix;
use crate::model::{Limit, PermissionName, Tier, TierName, Window};

/// Fields that frame a message or lead it: taking one for a key, or writing who calls into it, would break requests.
const OCCUPIED: [&str; 22] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

fn free_header(text: &str) -> Result<HeaderName, String> {
    let name = values::header_name(text)?;
    match name.as_str() {
        "authorization" => Err("is read by credentials.bearer; name another header, for example X-API-Key".to_owned()),
        taken if OCCUPIED.contains(&taken) => Err("has a meaning of its own in HTTP; name another header".to_owned()),
        _ => Ok(name),
    }
}

/// The global places and the prefix of new values.
pub(super) fn credentials(root: &mut Section<'_>, headers: &Headers) -> (Credentials, String) {
    let default = Credentials { bearer: true, query: Some("api_key".to_owned()), header: Some(HeaderName::from_static("x-api-key")) };
    let prefix = "pk".to_owned();
    let (places, prefix) = root.read("credentials", (default.clone(), prefix.clone()), |value| {
        value.section(|fields| {
            let places = places(fields, &default);
            check_some_place(&places, value);
            (places, fields.read("prefix", prefix, |v| v.parse(key_prefix)))
        })
    });
    // Of two headers that collide at least one is written in the file: the defaults differ.
    if let Some(value) = root.field("credentials").or_else(|| root.field("identity_headers")) {
        headers.check(&places, &value);
    }
    (places, prefix)
}

/// What is decided about headers elsewhere, and a credential's header must not contradict.
pub(super) struct Headers {
    pub identity: IdentityHeaders,
    pub underscores: Underscores,
}

impl Headers {
    fn check(&self, places: &Credentials, value: &Value<'_>) {
        let Some(header) = &places.header else { return };
        let IdentityHeaders { machine_id, machine_name, key_id, environment } = &self.identity;
        if [machine_id, machine_name, key_id, environment].into_iter().flatten().any(|name| name == header) {
            value.refuse_name("one header would carry keys and tell upstreams who calls (identity_headers); rename one of them");
        }
        if header.as_str().contains('_') && self.underscores != Underscores::Pass {
            value.refuse_name("header has an underscore, and underscore_headers does not let such names in; write it with hyphens");
        }
    }
}

fn key_prefix(text: &str) -> Result<String, String> {
    if is_prefix(text.as_bytes()) {
        Ok(text.to_owned())
    } else {
        Err("is no prefix; write 1 to 16 of a-z and 0-9, for example pk".to_owned())
    }
}

/// The places of one route: what it does not say is as `global`.
pub(super) fn route_credentials(route: &mut Section<'_>, global: &Credentials, headers: &Headers, public: bool) -> Credentials {
    route.read("credentials", global.clone(), |value| {
        let places = value.section(|fields| places(fields, global))?;
        if !public {
            check_some_place(&places, value);
        }
        if places.header != global.header {
            headers.check(&places, value);
        }
        Some(places)
    })
}

fn places(fields: &mut Section<'_>, default: &Credentials) -> Credentials {
    Credentials {
        bearer: fields.read("bearer", default.bearer, Value::flag),
        query: fields.read("query", default.query.clone(), |v| v.parse_or_off("the parameter's name, query: api_key", values::query_name)),
        header: fields.read("header", default.header.clone(), |v| v.parse_or_off("the header's name, header: X-API-Key", free_header)),
    }
}

fn check_some_place(places: &Credentials, value: &Value<'_>) {
    if !places.bearer && places.query.is_none() && places.header.is_none() {
        value.refuse_name("bearer, query and header are all switched off, so that no key could be sent; leave one of them on");
    }
}

pub(super) fn guessing(root: &mut Section<'_>) -> Option<Limit> {
    const FAILURES: NonZeroU32 = NonZeroU32::new(60).unwrap();
    let default = Some(Limit { window: Window::Minute, quota: FAILURES, burst: FAILURES });
    root.read("guessing", default, |value| {
        if value.is("false") {
            return Some(None);
        }
        value.section(|fields| fields.read("failures", default, |v| v.parse_or_off("a rate, failures: 60/min", values::rate)))
    })
}

pub(super) fn underscores(root: &mut Section<'_>) -> Underscores {
    let choices = [("drop", Underscores::Drop), ("pass", Underscores::Pass), ("refuse", Underscores::Refuse)];
    root.read("underscore_headers", Underscores::Drop, |value| value.choice(&choices))
}

pub(super) fn identity(root: &mut Section<'_>) -> IdentityHeaders {
    let default = IdentityHeaders {
        machine_id: Some(HeaderName::from_static("x-machine-id")),
        machine_name: Some(HeaderName::from_static("x-machine-name")),
        key_id: Some(HeaderName::from_static("x-key-id")),
        environment: Some(HeaderName::from_static("x-key-environment")),
    };
    root.read("identity_headers", default.clone(), |value| value.section(|fields| read_identity(fields, default)))
}

fn read_identity(fields: &mut Section<'_>, default: IdentityHeaders) -> IdentityHeaders {
    let mut taken: Vec<HeaderName> = Vec::new();
    let mut header = |name: &'static str, default: Option<HeaderName>| {
        let value = fields.field(name);
        let at = value.as_ref().unwrap_or(&fields.value).clone();
        let header = match value {
            Some(value) => value.parse_or_off("the header's name", free_header).unwrap_or(default),
            None => default,
        };
        if let Some(header) = &header {
            if taken.contains(header) {
                at.refuse(format!("{name} would be sent in the same header as another one; give it a header of its own"));
            }
            taken.push(header.clone());
        }
        header
    };
    IdentityHeaders {
        machine_id: header("machine_id", default.machine_id),
        machine_name: header("machine_name", default.machine_name),
        key_id: header("key_id", default.key_id),
        environment: header("environment", default.environment),
    }
}

fn label(fields: &mut Section<'_>) -> Label {
    let text = |v: &Value<'_>| v.parse(|text| Ok(Some(text.to_owned())));
    fields.read("label", Label::default(), |value| {
        value.section(|fields| Label { fr: fields.read("fr", None, text), en: fields.read("en", None, text) })
    })
}

/// All permissions; an entry without a value is one without a label.
pub(super) fn permissions(root: &mut Section<'_>) -> Vec<Permission> {
    let Some(value) = root.field("permissions") else { return Vec::new() };
    let read = |(name, value): (&str, Value<'_>)| {
        let name = permission_name(name).map_err(|message| value.refuse_name(format!("{} {message}", quoted(name)))).ok();
        let label = if value.is_null() { Label::default() } else { value.section(label).unwrap_or_default() };
        name.map(|name| Permission { name, label })
    };
    value.entries("permissions", "").unwrap_or_default().into_iter().filter_map(read).collect()
}

fn permission_name(name: &str) -> Result<PermissionName, String> {
    match name {
        ADMIN => Err("is built in: it stands for all permissions; remove it here".to_owned()),
        "any" => Err("on a route means every valid key; choose another name".to_owned()),
        _ => PermissionName::parse(name).ok_or_else(|| "is no permission's name; write 1 to 64 of a-z 0-9 : _ . -".to_owned()),
    }
}

/// All tiers, and the one of machines that name none.
pub(super) fn tiers(root: &mut Section<'_>) -> (Vec<TierSettings>, Option<TierName>) {
    let (names, tiers) = match root.field("tiers") {
        Some(value) => read_tiers(&value),
        None => default_tiers(),
    };
    // Tiers that could not be read have been reported.
    let default = match root.field("default_tier") {
        _ if names.is_empty() => None,
        Some(value) => value.parse(|text| find_tier(text, &names)),
        None => find_tier("free", &names)
            .map_err(|_| {
                root.value
                    .refuse_name(format!("\"default_tier\" is missing and no tier is named \"free\"; name one; {}", known_names(&names)))
            })
            .ok(),
    };
    (tiers, default)
}

fn known_names(names: &[String]) -> String {
    known(names.iter().map(String::as_str))
}

fn find_tier(text: &str, names: &[String]) -> Result<TierName, String> {
    let found = names.iter().find(|name| *name == text).and_then(|name| TierName::parse(name));
    found.ok_or_else(|| format!("is no tier{}; {}", did_you_mean(text, names.iter().map(String::as_str)), known_names(names)))
}

/// Every tier's name, also of those that cannot be read: a reference to one of them is not dangling.
fn read_tiers(value: &Value<'_>) -> (Vec<String>, Vec<TierSettings>) {
    let entries = value.entries("tiers", "write at least one, for example free: {per_minute: 60}").unwrap_or_default();
    let names = entries.iter().map(|(name, _)| (*name).to_owned()).collect();
    (names, entries.into_iter().filter_map(|(name, value)| tier(name, &value)).collect())
}

fn default_tiers() -> (Vec<String>, Vec<TierSettings>) {
    let free = Label { fr: Some("Gratuit".to_owned()), en: Some("Free".to_owned()) };
    let tiers = [
        default_tier("free", free, &[(Window::Minute, 60), (Window::Day, 10_000)]),
        default_tier("standard", Label::default(), &[(Window::Minute, 300), (Window::Day, 100_000)]),
        default_tier("premium", Label::default(), &[(Window::Minute, 1_000)]),
    ];
    let tiers: Vec<TierSettings> = tiers.into_iter().flatten().collect();
    (tiers.iter().map(|t| t.tier.name.to_string()).collect(), tiers)
}

fn default_tier(name: &str, label: Label, limits: &[(Window, u32)]) -> Option<TierSettings> {
    let limit = |(window, quota): &(Window, u32)| NonZeroU32::new(*quota).map(|quota| Limit { window: *window, quota, burst: quota });
    Some(TierSettings { tier: Tier { name: TierName::parse(name)?, limits: limits.iter().filter_map(limit).collect() }, label })
}

fn tier(name: &str, value: &Value<'_>) -> Option<TierSettings> {
    let parsed = TierName::parse(name);
    if parsed.is_none() {
        value.refuse_name(format!("{} is no tier's name; write 1 to 32 of a-z 0-9 _ -", quoted(name)));
    }
    let (label, limits) = value.section(|fields| (label(fields), limits_of_tier(fields)))?;
    Some(TierSettings { tier: Tier { name: parsed?, limits }, label })
}

/// What a window's limit is called in the settings.
fn field_of(window: Window) -> &'static str {
    match window {
        Window::Second => "per_second",
        Window::Minute => "per_minute",
        Window::Hour => "per_hour",
        Window::Day => "per_day",
        Window::Month => "per_month",
    }
}

fn limits_of_tier(fields: &mut Section<'_>) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut written = 0;
    for window in Window::ALL {
        let Some(value) = fields.field(field_of(window)) else { continue };
        written += 1;
        limits.extend(value.parse(values::quota).map(|quota| Limit { window, quota, burst: quota }));
    }
    if let Some(value) = fields.field("burst")
        && let Some(burst) = value.parse(values::quota)
        && written > 0
    {
        narrow(&mut limits, burst, &value);
    }
    let unlimited = fields.field("unlimited");
    match (unlimited.as_ref().map(|value| value.flag()), written) {
        (Some(Some(true)), 1..) => fields.value.refuse_name("is unlimited and has limits; remove one or the other"),
        (None | Some(Some(false)), 0) => {
            fields.value.refuse_name(
                "has no limit; write per_second, per_minute, per_hour, per_day or per_month, or unlimited: true if that is meant",
            );
        }
        _ => {}
    }
    limits
}

/// Lets no more than `burst` calls of a sliding window through at once.
fn narrow(limits: &mut [Limit], burst: NonZeroU32, value: &Value<'_>) {
    let sliding = limits.iter_mut().filter(|limit| limit.window.seconds().is_some());
    if sliding.map(|limit| limit.burst = limit.quota.min(burst)).count() == 0 {
        value.refuse("narrows per_second, per_minute and per_hour, and this tier has none of them; remove it");
    }
}

pub(super) fn limits(root: &mut Section<'_>) -> Limits {
    let headers =
        [("ietf", LimitHeaders::Ietf), ("legacy", LimitHeaders::Legacy), ("both", LimitHeaders::Both), ("none", LimitHeaders::None)];
    let default = Limits { timezone: TimeZone::UTC, headers: LimitHeaders::Ietf };
    root.read("limits", default, |value| {
        value.section(|fields| Limits {
            timezone: fields.read("timezone", TimeZone::UTC, |v| v.parse(timezone)),
            headers: fields.read("headers", LimitHeaders::Ietf, |v| v.choice(&headers)),
        })
    })
}

fn timezone(text: &str) -> Result<TimeZone, String> {
    match text {
        "UTC" => Ok(TimeZone::UTC),
        _ => TimeZone::get(text)
            .map_err(|_| "is no time zone known here; write UTC or a name of the IANA list, for example Europe/Paris".to_owned()),
    }
}
