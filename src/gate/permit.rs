//! What a recognised key may do: from where, with which permission, for which organization.

use std::borrow::Cow;

use http::request::Parts;
use percent_encoding::percent_decode;

use super::target;
use crate::config::{Access, Organization, Pattern, Route, Segment};
use crate::model::{ClientIp, Organizations, PermissionName, Refusal};
use crate::registry::{Entry, MachineState};

/// What a call asks of its key.
pub enum Demand<'a> {
    /// What the route of a request demands.
    Request { route: &'a Route, request: &'a Parts },
    /// What an application demands that asks for itself.
    Named { permissions: &'a [PermissionName], organization: Option<&'a str> },
}

/// The organization that a call is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// Whichever it is, restricted keys pass.
    Any,
    /// The route does not say where the organization stands.
    Nowhere,
    Missing,
    Repeated,
    /// It stands in a query, where two servers could read it differently.
    Unclear,
    Id(Cow<'a, [u8]>),
}

impl Demand<'_> {
    pub fn permissions(&self) -> &[PermissionName] {
        match self {
            Demand::Request { route: Route { access: Access::Permissions(demanded), .. }, .. } => demanded,
            Demand::Request { .. } => &[],
            Demand::Named { permissions, .. } => permissions,
        }
    }

    pub fn organization(&self) -> Named<'_> {
        let (route, request) = match self {
            Demand::Request { route, request } => (route, request),
            Demand::Named { organization: Some(id), .. } => return Named::Id(id.as_bytes().into()),
            Demand::Named { organization: None, .. } => return Named::Missing,
        };
        match &route.organization {
            Organization::Any => Named::Any,
            Organization::None => Named::Nowhere,
            Organization::Path(parameter) => in_path(&route.pattern, parameter, request.uri.path()),
            Organization::Header(name) => only(request.headers.get_all(name).iter().map(|value| value.as_bytes().into())),
            Organization::Query(name) => in_query(request.uri.query().unwrap_or_default(), name),
        }
    }
}

/// Where a key bound to addresses may be used from. An address that nobody knows is none of them.
pub fn address(entry: &Entry, client: Option<ClientIp>) -> Result<(), Refusal> {
    let allowed = entry.narrowed().and_then(|n| n.allowed_ips.as_ref());
    match allowed {
        Some(nets) if !client.is_some_and(|client| super::client::is_trusted(nets, client.0)) => Err(Refusal::AddressDenied),
        _ => Ok(()),
    }
}

/// Both the machine and the key must grant each permission that is demanded; the first missing one is named.
pub fn permissions(entry: &Entry, machine: &MachineState, demand: &Demand<'_>) -> Result<(), Refusal> {
    let narrowed = entry.narrowed().and_then(|n| n.permissions.as_ref());
    let mut demanded = demand.permissions().iter();
    let missing = demanded.find(|name| !machine.permissions.grants(name) || narrowed.is_some_and(|set| !set.grants(name)));
    missing.map_or(Ok(()), |name| Err(Refusal::PermissionDenied(name.clone())))
}

/// A restricted caller passes only for its own organizations, and only where exactly one is named.
pub fn organization(entry: &Entry, machine: &MachineState, demand: &Demand<'_>) -> Result<(), Refusal> {
    let restrictions = restrictions(entry, machine);
    if restrictions.iter().all(Option::is_none) {
        return Ok(());
    }
    match demand.organization() {
        Named::Any => Ok(()),
        Named::Id(id) if restrictions.into_iter().flatten().all(|held| held.contains(&id)) => Ok(()),
        Named::Id(_) | Named::Nowhere | Named::Missing | Named::Repeated | Named::Unclear => Err(Refusal::OrganizationDenied),
    }
}

/// The machine's and the key's.
pub fn restrictions<'a>(entry: &'a Entry, machine: &'a MachineState) -> [Option<&'a Organizations>; 2] {
    [machine.organizations.as_ref(), entry.narrowed().and_then(|n| n.organizations.as_ref())]
}

/// The segment of `path` where the pattern has the parameter. The path matched the pattern, so segments stand in the same places.
fn in_path<'a>(pattern: &Pattern, parameter: &str, path: &'a str) -> Named<'a> {
    let place = pattern.segments.iter().position(|s| matches!(s, Segment::Parameter(name) if name == parameter));
    let segment = place.and_then(|place| path.split('/').nth(place + 1));
    segment.map_or(Named::Missing, |segment| Named::Id(percent_decode(segment.as_bytes()).into()))
}

/// The one parameter of that name. Servers disagree about queries more than about anything else, and a second reading would be another
/// tenant's data: some take `+` for a space, some end parameters at `;`, some compare names without case or take `name[]` for `name`.
fn in_query<'a>(query: &'a str, name: &str) -> Named<'a> {
    let is_like = |pair: &str| {
        let raw: Vec<u8> = percent_decode(pair.split('=').next().unwrap_or_default().as_bytes()).collect();
        let plain = raw.split(|b| *b == b'[').next().unwrap_or_default();
        plain.trim_ascii().eq_ignore_ascii_case(name.as_bytes())
    };
    if query.split(['&', ';']).filter(|pair| is_like(pair)).count() > 1 {
        return Named::Repeated;
    }
    match target::parameters(query, name).next() {
        None => Named::Missing,
        Some(raw) if raw.iter().any(|b| matches!(b, b'+' | b';')) => Named::Unclear,
        Some(raw) => Named::Id(percent_decode(raw).into()),
    }
}

fn only<'a>(mut values: impl Iterator<Item = Cow<'a, [u8]>>) -> Named<'a> {
    match (values.next(), values.next()) {
        (None, _) => Named::Missing,
        (Some(id), None) => Named::Id(id),
        (Some(_), Some(_)) => Named::Repeated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_an_organization_only_where_every_server_reads_the_same() {
        let id = |text: &'static str| Named::Id(text.as_bytes().into());
        for (query, expected) in [
            ("", Named::Missing),
            ("org=a", id("a")),
            ("x=1&org=a&y=2", id("a")),
            ("o%72g=%61", id("a")),
            ("org=", id("")),
            ("org", id("")),
            ("org=a%2Bb", id("a+b")),
            ("org=a+b", Named::Unclear),
            ("org=a;b", Named::Unclear),
            ("Org=a", Named::Missing),
            ("org=a&org=a", Named::Repeated),
            ("org=a&ORG=b", Named::Repeated),
            ("org=a&org[]=b", Named::Repeated),
            ("org=a&org%5B0%5D=b", Named::Repeated),
            ("x=1;org=b&org=a", Named::Repeated),
            ("org=a&%20org=b", Named::Repeated),
            ("organization=b&org=a", id("a")),
        ] {
            assert_eq!(in_query(query, "org"), expected, "{query}");
        }
    }
}
