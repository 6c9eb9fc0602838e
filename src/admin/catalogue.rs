//! What the settings name and the API only shows: permissions, tiers, routes. They are changed in the settings file alone.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::Admin;
use super::wire::List;
use crate::config::{self, Access, Settings};
use crate::model::permission::ADMIN;
use crate::model::{PermissionName, Tier, TierName};

/// Permissions, tiers and routes of the settings in force.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// Without `admin`, which is built in.
    pub permissions: Vec<PermissionInfo>,
    pub tiers: Vec<TierInfo>,
    /// The tier of machines that have none of their own.
    pub default_tier: TierName,
    pub routes: Vec<RouteInfo>,
    /// How long an active key may go unused before it is shown as idle; `None` for ever.
    pub warn_idle_after: Option<Duration>,
    /// All settings in force, as `/v1/config` shows them.
    pub config: Value,
}

/// How something is called by people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Label {
    pub fr: Option<String>,
    pub en: Option<String>,
}

#[derive(Clone, Debug)]
pub struct PermissionInfo {
    pub name: PermissionName,
    pub label: Label,
}

#[derive(Clone, Debug)]
pub struct TierInfo {
    pub tier: Tier,
    pub label: Label,
}

/// A route as `/v1/routes` shows it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct RouteInfo {
    pub name: String,
    /// `null` = every host.
    pub host: Option<String>,
    /// The pattern as the settings write it, `/v1/sensors/{*rest}`.
    pub path: String,
    /// `null` = every method.
    pub methods: Option<Vec<String>>,
    /// No key is needed.
    pub public: bool,
    /// All of these are needed; empty on a route that takes any key, and on a public one.
    pub permissions: Vec<String>,
    pub upstream: String,
}

impl From<&Settings> for Catalogue {
    fn from(settings: &Settings) -> Catalogue {
        let permission = |p: &config::Permission| PermissionInfo { name: p.name.clone(), label: Label::from(&p.label) };
        let tier = |t: &config::TierSettings| TierInfo { tier: t.tier.clone(), label: Label::from(&t.label) };
        Catalogue {
            permissions: settings.permissions.iter().map(permission).collect(),
            tiers: settings.tiers.iter().map(tier).collect(),
            default_tier: settings.default_tier.clone(),
            routes: settings.routes.iter().map(|route| RouteInfo::of(route, &settings.upstreams)).collect(),
            warn_idle_after: settings.keys.warn_idle_after,
            config: super::settings::shown(settings),
        }
    }
}

impl From<&config::Label> for Label {
    fn from(label: &config::Label) -> Label {
        Label { fr: label.fr.clone(), en: label.en.clone() }
    }
}

impl RouteInfo {
    fn of(route: &config::Route, upstreams: &[config::Upstream]) -> RouteInfo {
        RouteInfo {
            name: route.name.clone(),
            host: route.host.clone(),
            path: route.pattern.to_string(),
            methods: route.methods.as_ref().map(|methods| methods.iter().map(ToString::to_string).collect()),
            public: route.access == Access::Public,
            permissions: match &route.access {
                Access::Permissions(names) => names.iter().map(ToString::to_string).collect(),
                Access::Public | Access::AnyKey => Vec::new(),
            },
            upstream: upstreams.get(route.upstream).map(|upstream| upstream.name.clone()).unwrap_or_default(),
        }
    }
}

impl Catalogue {
    pub fn permission_names(&self) -> impl Iterator<Item = &PermissionName> {
        self.permissions.iter().map(|permission| &permission.name)
    }

    /// Reads the name of a permission that exists, or says which ones do.
    pub fn permission(&self, text: &str) -> Result<PermissionName, String> {
        let known = |name: &PermissionName| name.as_str() == ADMIN || self.permission_names().any(|known| known == name);
        PermissionName::parse(text)
            .filter(known)
            .ok_or_else(|| unknown("permission", text, self.permission_names().map(PermissionName::as_str).chain([ADMIN])))
    }

    /// Reads the name of a tier that exists, or says which ones do.
    pub fn tier(&self, text: &str) -> Result<TierName, String> {
        let names = || self.tiers.iter().map(|info| &info.tier.name);
        TierName::parse(text)
            .filter(|name| names().any(|known| known == name))
            .ok_or_else(|| unknown("tier", text, names().map(TierName::as_str)))
    }
}

fn unknown<'a>(kind: &str, text: &str, known: impl Iterator<Item = &'a str>) -> String {
    format!("no {kind} is named {text:?}; known: {}", known.collect::<Vec<_>>().join(", "))
}

#[derive(Serialize, JsonSchema)]
pub struct PermissionRow {
    name: String,
    label: Label,
    /// `admin`, which stands for all others.
    built_in: bool,
}

pub async fn permissions(State(admin): State<Arc<Admin>>) -> Json<List<PermissionRow>> {
    let named = admin.catalogue.permissions.iter();
    let named = named.map(|info| PermissionRow { name: info.name.to_string(), label: info.label.clone(), built_in: false });
    let label = Label { fr: Some("Toutes les permissions".into()), en: Some("Every permission".into()) };
    let admin = PermissionRow { name: ADMIN.into(), label, built_in: true };
    Json(List::whole(named.chain([admin]).collect()))
}

#[derive(Serialize, JsonSchema)]
pub struct TierRow {
    name: String,
    label: Label,
    /// Machines without a tier of their own have this one.
    default: bool,
    /// Shortest window first; none at all means unlimited.
    limits: Vec<LimitRow>,
}

#[derive(Serialize, JsonSchema)]
struct LimitRow {
    window: &'static str,
    quota: u32,
    /// How many may come at once; a calendar window lets all of them.
    burst: u32,
}

impl TierRow {
    fn of(info: &TierInfo, default: &TierName) -> TierRow {
        let limits = info.tier.limits.iter();
        TierRow {
            name: info.tier.name.to_string(),
            label: info.label.clone(),
            default: info.tier.name == *default,
            limits: limits.map(|l| LimitRow { window: l.window.name(), quota: l.quota.get(), burst: l.burst.get() }).collect(),
        }
    }
}

pub async fn tiers(State(admin): State<Arc<Admin>>) -> Json<List<TierRow>> {
    let Catalogue { tiers, default_tier, .. } = &admin.catalogue;
    Json(List::whole(tiers.iter().map(|info| TierRow::of(info, default_tier)).collect()))
}

pub async fn routes(State(admin): State<Arc<Admin>>) -> Json<List<RouteInfo>> {
    Json(List::whole(admin.catalogue.routes.clone()))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::{Limit, Window};

    /// Two permissions, two tiers, no routes.
    pub fn example() -> Catalogue {
        let permission = |name| PermissionInfo { name: PermissionName::parse(name).unwrap(), label: Label::default() };
        let tier = |name: &str, quota: u32| {
            let quota = quota.try_into().unwrap();
            let limits = vec![Limit { window: Window::Minute, quota, burst: quota }];
            TierInfo { tier: Tier { name: TierName::parse(name).unwrap(), limits }, label: Label::default() }
        };
        Catalogue {
            permissions: vec![permission("sensors:read"), permission("events:read")],
            tiers: vec![tier("free", 60), tier("premium", 1_000)],
            default_tier: TierName::parse("free").unwrap(),
            warn_idle_after: None,
            routes: Vec::new(),
            config: Value::Null,
        }
    }

    #[test]
    fn the_settings_are_shown_as_they_are_written() {
        let text = "permissions: {a:read: {label: {fr: Lire}}}\nupstreams: {u: {targets: ['http://127.0.0.1:1']}}\nroutes:\n  \
                    r: {match: {path: '/v1/{id}/{*rest}', methods: [GET]}, permission: a:read, upstream: u}\n  \
                    p: {match: {host: h.example, path: /p}, public: true, upstream: u}\n";
        let settings = config::parse(text, std::path::Path::new("o.yaml"), &|_| None).unwrap();
        let catalogue = Catalogue::from(&settings);
        assert_eq!(catalogue.permissions[0].label, Label { fr: Some("Lire".into()), en: None });
        let rows = serde_json::to_value(&catalogue.routes).unwrap();
        let expected = serde_json::json!([
            {"name": "r", "host": null, "path": "/v1/{id}/{*rest}", "methods": ["GET"], "public": false, "permissions": ["a:read"], "upstream": "u"},
            {"name": "p", "host": "h.example", "path": "/p", "methods": null, "public": true, "permissions": [], "upstream": "u"},
        ]);
        assert_eq!(rows, expected);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let catalogue = example();
        assert_eq!(catalogue.permission("admin").unwrap().as_str(), "admin");
        assert_eq!(catalogue.tier("premium").unwrap().as_str(), "premium");
        let message = catalogue.permission("sensors:raed").unwrap_err();
        assert_eq!(message, r#"no permission is named "sensors:raed"; known: sensors:read, events:read, admin"#);
        assert_eq!(catalogue.tier("Free").unwrap_err(), r#"no tier is named "Free"; known: free, premium"#);
    }
}
