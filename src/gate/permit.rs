//! What a recognised key may do: from where, with which permission, for which organization.

use std::borrow::Cow;

use http::request::Parts;
use percent_encoding::percent_decode;

use super::target;
use crate::config::{Access, Organization, Pattern, Route, Segment};
use crate::model::{ClientIp, Organizations, Refusal};
use crate::registry::{Entry, MachineState};

pub fn address(entry: &Entry, client: ClientIp) -> Result<(), Refusal> {
    let allowed = entry.narrowed().and_then(|n| n.allowed_ips.as_ref());
    match allowed {
        Some(nets) if !super::client::is_trusted(nets, client.0) => Err(Refusal::AddressDenied),
        _ => Ok(()),
    }
}

/// Both the machine and the key must grant each permission that the route demands; the first missing one is named.
pub fn permissions(entry: &Entry, machine: &MachineState, route: &Route) -> Result<(), Refusal> {
    let Access::Permissions(demanded) = &route.access else { return Ok(()) };
    let narrowed = entry.narrowed().and_then(|n| n.permissions.as_ref());
    let missing = demanded.iter().find(|name| !machine.permissions.grants(name) || narrowed.is_some_and(|set| !set.grants(name)));
    missing.map_or(Ok(()), |name| Err(Refusal::PermissionDenied(name.clone())))
}

/// A restricted caller passes only for its own organizations, and only where the request names exactly one.
pub fn organization(entry: &Entry, machine: &MachineState, route: &Route, request: &Parts) -> Result<(), Refusal> {
    let of_key = entry.narrowed().and_then(|n| n.organizations.as_ref());
    let restrictions: [Option<&Organizations>; 2] = [machine.organizations.as_ref(), of_key];
    if restrictions.iter().all(Option::is_none) {
        return Ok(());
    }
    let named = match &route.organization {
        Organization::Any => return Ok(()),
        Organization::None => None,
        Organization::Path(parameter) => in_path(&route.pattern, parameter, request.uri.path()),
        Organization::Header(name) => only(request.headers.get_all(name).iter().map(|value| value.as_bytes())),
        Organization::Query(name) => only(target::parameters(request.uri.query().unwrap_or_default(), name)),
    };
    let named: Cow<'_, [u8]> = match (&route.organization, named) {
        (_, None) => return Err(Refusal::OrganizationDenied),
        (Organization::Header(_), Some(id)) => id.into(),
        (_, Some(id)) => percent_decode(id).into(),
    };
    let passes = restrictions.into_iter().flatten().all(|held| held.contains(&named));
    if passes { Ok(()) } else { Err(Refusal::OrganizationDenied) }
}

/// The segment of `path` where the pattern has the parameter. The path matched the pattern, so segments stand in the same places.
fn in_path<'a>(pattern: &Pattern, parameter: &str, path: &'a str) -> Option<&'a [u8]> {
    let place = pattern.segments.iter().position(|s| matches!(s, Segment::Parameter(name) if name == parameter))?;
    path.split('/').nth(place + 1).map(str::as_bytes)
}

fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let first = values.next()?;
    values.next().is_none().then_some(first)
}
