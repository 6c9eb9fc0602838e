//! The section about routes, and what holds among several of them: no two may be equal, and a public one that lies
//! over a protected one deserves a warning.

use std::collections::HashMap;

use http::Method;

use super::callers::{Headers, route_credentials};
use super::edge::check_name;
use super::finding::{did_you_mean, known as known_names, quoted};
use super::pattern::Pattern;
use super::reader::{Section, Value};
use super::settings::{Access, Credentials, Organization, Route};
use super::upstreams::Upstreams;
use super::values;
use crate::model::PermissionName;
use crate::model::permission::ADMIN;

/// What routes refer to.
pub(super) struct Known<'k> {
    pub credentials: &'k Credentials,
    pub headers: &'k Headers,
    pub permissions: Vec<&'k str>,
    pub upstreams: &'k Upstreams,
}

pub(super) fn routes(root: &mut Section<'_>, known: &Known<'_>) -> Vec<Route> {
    let example = "write routes: {api: {match: {path: \"/{*rest}\"}, permission: any, upstream: api}}";
    let value = root.required("routes", format!("say what leads to an upstream: {example}"));
    let entries = value.and_then(|value| value.entries("routes", example)).unwrap_or_default();
    // What a route takes is compared although something else about it is wrong: all is told at once.
    let (mut taken, mut read) = (Vec::new(), Vec::new());
    for (name, value) in entries {
        let (takes, route) = route(name, &value, known);
        taken.extend(takes.map(|takes| (takes, value.clone())));
        read.extend(route.map(|route| (route, value)));
    }
    refuse_equals(&taken);
    warn_of_public_rests(&read);
    read.into_iter().map(|(route, _)| route).collect()
}

fn route(name: &str, value: &Value<'_>, known: &Known<'_>) -> (Option<Takes>, Option<Route>) {
    let name = check_name(name, value);
    let mut takes = None;
    let route = value.section(|fields| {
        let matched =
            fields.required("match", "say which requests are meant: match: {path: \"/v1/{*rest}\"}").and_then(|v| v.section(read_match));
        let access = access(fields, known);
        let public = access == Some(Access::Public);
        let organization = organization(fields, public, matched.as_ref().and_then(|m| m.pattern.as_ref()));
        let credentials = route_credentials(fields, known.credentials, known.headers, public);
        let upstream = fields.required("upstream", format!("name one; {}", names_of(known.upstreams)));
        // That there is no upstream at all has been reported.
        let upstream =
            upstream.filter(|_| !known.upstreams.names.is_empty()).and_then(|v| v.parse(|text| find_upstream(text, known.upstreams)));
        let Match { host, pattern, methods } = matched?;
        let (name, host, pattern) = (name?, host?, pattern?);
        takes = Some(Takes { name: name.clone(), host: host.clone(), shape: pattern.shape(), methods: methods.clone() });
        Some(Route { name, host, pattern, methods, access: access?, organization, credentials, upstream: upstream? })
    });
    (takes, route.flatten())
}

/// Which requests the route of that name takes.
struct Takes {
    name: String,
    host: Option<String>,
    shape: String,
    methods: Option<Vec<Method>>,
}

struct Match {
    /// `None` where it could not be read, `Some(None)` for every host.
    host: Option<Option<String>>,
    pattern: Option<Pattern>,
    methods: Option<Vec<Method>>,
}

fn read_match(fields: &mut Section<'_>) -> Match {
    Match {
        host: fields.field("host").map_or(Some(None), |v| v.parse(values::host).map(Some)),
        pattern: fields
            .required("path", "write the path that is meant, for example path: \"/v1/{*rest}\"")
            .and_then(|v| v.parse(Pattern::parse)),
        methods: fields.read("methods", None, |v| Some(Some(methods(v)))),
    }
}

fn methods(value: &Value<'_>) -> Vec<Method> {
    let items = value.items("nothing would match: list methods, or remove the line for every method").unwrap_or_default();
    let mut methods = Vec::new();
    for item in items {
        let Some(method) = item.parse(values::method) else { continue };
        if methods.contains(&method) {
            item.refuse(format!("{} is listed twice; remove one", item.shown()));
        }
        methods.push(method);
    }
    methods
}

fn names_of(upstreams: &Upstreams) -> String {
    known_names(upstreams.names.iter().map(String::as_str))
}

fn find_upstream(text: &str, upstreams: &Upstreams) -> Result<usize, String> {
    let found = upstreams.names.iter().position(|name| name == text);
    found
        .ok_or_else(|| format!("is no upstream{}; {}", did_you_mean(text, upstreams.names.iter().map(String::as_str)), names_of(upstreams)))
}

fn access(fields: &mut Section<'_>, known: &Known<'_>) -> Option<Access> {
    let permission = fields.field("permission");
    let public = fields.field("public").map(|value| value.flag());
    match (permission, public) {
        (Some(value), Some(Some(true))) => {
            value
                .refuse_name("the route is public and demands a permission; remove \"public\" to protect it, or \"permission\" to open it");
            None
        }
        (None, Some(Some(true))) => Some(Access::Public),
        (Some(value), _) => demanded(&value, known),
        (None, Some(None)) => None,
        (None, _) => {
            let names = match known.permissions.as_slice() {
                [] => String::new(),
                names => format!("; permissions {}", known_names(names.iter().copied())),
            };
            fields.value.refuse_name(format!(
                "does not say whom it lets in; write permission: NAME, permission: any (every valid key) or public: true (everybody){names}"
            ));
            None
        }
    }
}

fn demanded(value: &Value<'_>, known: &Known<'_>) -> Option<Access> {
    if value.is("any") {
        return Some(Access::AnyKey);
    }
    if value.is_scalar() {
        return value.parse(|text| find_permission(text, known)).map(|name| Access::Permissions(vec![name]));
    }
    let mut names = Vec::new();
    for item in value.items("name a permission, or write any for every valid key")? {
        let Some(name) = item.parse(|text| find_permission(text, known)) else { continue };
        if names.contains(&name) {
            item.refuse(format!("{} is listed twice; remove one", item.shown()));
        }
        names.push(name);
    }
    Some(Access::Permissions(names))
}

fn find_permission(text: &str, known: &Known<'_>) -> Result<PermissionName, String> {
    let names = || known.permissions.iter().copied();
    match text {
        ADMIN => Err(format!("stands for all permissions and cannot be demanded; name the one that is needed; {}", known_names(names()))),
        "any" => Err("stands alone, permission: any; it has no place in a list".to_owned()),
        _ => names()
            .find(|name| *name == text)
            .and_then(PermissionName::parse)
            .ok_or_else(|| format!("is no permission{}; {}", did_you_mean(text, names()), known_names(names()))),
    }
}

fn organization(fields: &mut Section<'_>, public: bool, pattern: Option<&Pattern>) -> Organization {
    let Some(value) = fields.field("organization") else { return Organization::None };
    if public {
        value.refuse_name("the route is public, so that no key's organizations are compared; remove it");
    }
    if value.is("any") {
        return Organization::Any;
    }
    if value.is_scalar() && !value.is_null() {
        value.refuse(format!("{} is no place; write any, {{path: …}}, {{header: …}} or {{query: …}}", value.shown()));
        return Organization::None;
    }
    value.section(|fields| organization_place(fields, pattern)).flatten().unwrap_or(Organization::None)
}

fn organization_place(fields: &mut Section<'_>, pattern: Option<&Pattern>) -> Option<Organization> {
    let places = [fields.field("path"), fields.field("header"), fields.field("query")];
    if places.iter().flatten().count() != 1 {
        fields.value.refuse_name("names exactly one place; write {path: …}, {header: …} or {query: …}, or any");
        return None;
    }
    let [path, header, query] = places;
    let path = path.and_then(|v| v.parse(|text| path_parameter(text, pattern)).map(Organization::Path));
    let header = header.and_then(|v| v.parse(values::header_name).map(Organization::Header));
    let query = query.and_then(|v| v.parse(values::query_name).map(Organization::Query));
    path.or(header).or(query)
}

fn path_parameter(text: &str, pattern: Option<&Pattern>) -> Result<String, String> {
    // A pattern that could not be read has been reported; what its parameters are is then unknown.
    let Some(pattern) = pattern else { return Ok(text.to_owned()) };
    // A rest is no id: it can hold several segments.
    let names = || pattern.parameters();
    if names().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    Err(format!("is no parameter of the route's path{}; {}", did_you_mean(text, names()), known_names(names())))
}

/// Two routes are equal when the precedence rule cannot choose: same host, same shape, and a method in common (or both
/// without methods).
fn refuse_equals(routes: &[(Takes, Value<'_>)]) {
    let mut first: HashMap<(Option<&str>, &str, Option<&Method>), &str> = HashMap::new();
    for (route, value) in routes {
        let methods: Vec<Option<&Method>> = match &route.methods {
            Some(methods) => methods.iter().map(Some).collect(),
            None => vec![None],
        };
        let mut equals: Vec<&str> = Vec::new();
        for method in methods {
            let other = *first.entry((route.host.as_deref(), &*route.shape, method)).or_insert(&route.name);
            if other != route.name && !equals.contains(&other) {
                equals.push(other);
                value.refuse_name(format!(
                    "takes the same requests as the route {}{}; change path, host or methods of one of them",
                    quoted(other),
                    in_common(method)
                ));
            }
        }
    }
}

/// The method that two routes share. Paths and hosts are not repeated: parts of them may come from the environment.
fn in_common(method: Option<&Method>) -> String {
    method.map(|method| format!(" ({method})")).unwrap_or_default()
}

/// What a protected route does not match (another method, another spelling) falls to the public rest under it.
fn warn_of_public_rests(routes: &[(Route, Value<'_>)]) {
    let protected: Vec<&Route> = routes.iter().map(|(route, _)| route).filter(|route| route.access != Access::Public).collect();
    for (route, value) in routes.iter().filter(|(route, _)| route.access == Access::Public) {
        let hosts_meet = |other: &Route| route.host.is_none() || other.host.is_none() || route.host == other.host;
        let under: Vec<&str> = protected
            .iter()
            .filter(|other| hosts_meet(other) && route.pattern.lies_over(&other.pattern))
            .map(|other| other.name.as_str())
            .collect();
        if let Some((first, rest)) = under.split_first() {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            value.warn(format!(
                "public, and its path lies over the protected route {}{more}: what that one does not match (another method, host or spelling) passes here without a key",
                quoted(first)
            ));
        }
    }
}
