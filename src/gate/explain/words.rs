//! The steps of a decision in words for a person. Nothing that was presented as a credential stands in them, and what was given as path or
//! id is masked, since a value can stand anywhere.

use std::fmt::Display;

use http::Method;
use http::request::Parts;

use super::super::permit::{self, Demand, Named};
use super::super::target;
use super::Step;
use crate::config::{Access, Credentials, Organization, Route};
use crate::limits::{Charged, Refused};
use crate::model::secret::masked;
use crate::model::{ClientIp, Organizations, PeerIp, PermissionName, Refusal, SecretHash, Timestamp};
use crate::registry::{Entry, MachineState};

/// How many entries of a list are told.
const SHOWN: usize = 8;

pub fn target(settled: &Result<(), Refusal>, request: &Parts) -> String {
    if let Err(refusal) = settled {
        return refused(refusal);
    }
    let path = shown(request.uri.path().as_bytes());
    match target::host(request) {
        Ok(Some(host)) => format!("{path} of the host {}", shown(host.as_bytes())),
        Ok(None) | Err(_) => format!("{path}; no host was given, so that routes with a host do not match"),
    }
}

pub fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::BadRequest(what) => (*what).to_owned(),
        refusal => refusal.code().title().to_owned(),
    }
}

pub fn route(route: &Route) -> String {
    let host = route.host.as_ref().map(|host| format!("{host} ")).unwrap_or_default();
    let access = match &route.access {
        Access::Public => "public".to_owned(),
        Access::AnyKey => "takes any valid key".to_owned(),
        Access::Permissions(names) => format!("demands {}", list(names)),
    };
    format!("{}: {host}{}, {access}", route.name, route.pattern)
}

pub fn methods(taken: Option<&[Method]>) -> String {
    taken.map_or("the route takes every method".to_owned(), |methods| format!("{} would be taken", list(methods)))
}

pub fn request(acceptable: &Result<(), Refusal>) -> String {
    acceptable.as_ref().map_or_else(refused, |()| "nothing in its head is refused".to_owned())
}

/// The places that a route looks at.
pub fn sources(sources: &Credentials) -> String {
    let bearer = sources.bearer.then(|| "Authorization: Bearer".to_owned());
    let header = sources.header.as_ref().map(|name| format!("the header {name}"));
    let query = sources.query.as_ref().map(|name| format!("?{name}="));
    list(bearer.into_iter().chain(header).chain(query).collect::<Vec<_>>().iter())
}

pub fn credential(taken: &Result<SecretHash, Refusal>, places: &[String], looked_at: &str, mistyped: bool) -> String {
    match taken {
        Ok(_) => list(places),
        Err(Refusal::KeyMissing) => format!("there is no value; looked at: {looked_at}"),
        Err(Refusal::KeyAmbiguous) => format!("two different values, or one place twice: {}", list(places)),
        Err(_) if mistyped => format!("{}: the checksum is wrong, so that the value was mistyped", list(places)),
        Err(_) => format!("{}: not the shape of a value; was it copied whole?", list(places)),
    }
}

pub fn identity(entry: &Entry) -> String {
    let old = if entry.is_replaced() { ", by a value that was replaced" } else { "" };
    let machine = entry.machine.state();
    format!("{} \"{}\" of {} \"{}\"{old}", entry.key, entry.label, entry.machine.id, machine.name)
}

pub fn client(client: ClientIp, peer: Option<PeerIp>) -> String {
    match peer {
        Some(peer) if peer.0.to_canonical() != client.0 => format!("{}, as the trusted proxy {} tells", client.0, peer.0),
        _ => client.0.to_string(),
    }
}

pub fn guessing(retry_after: Option<u64>) -> String {
    match retry_after {
        None => "the address has not failed too often".to_owned(),
        Some(seconds) => format!("the address presented too many wrong values; it is listened to again in {seconds} s"),
    }
}

/// Which of the steps of [`standing`] a refusal belongs to.
pub fn step_of(refusal: &Refusal) -> Option<Step> {
    match refusal {
        Refusal::KeyReplaced => Some(Step::Replaced),
        Refusal::KeyRevoked | Refusal::KeyInactive => Some(Step::Status),
        Refusal::KeyExpired => Some(Step::Expiry),
        Refusal::MachineDisabled => Some(Step::Machine),
        _ => None,
    }
}

pub fn standing(entry: &Entry, machine: &MachineState, judged: &Result<(), Refusal>, at: Timestamp) -> [(Step, String); 4] {
    let replaced = match entry.counts_until() {
        None => "the key's present value".to_owned(),
        Some(until) if until > at => format!("a replaced value, which counts until {until}"),
        Some(until) => format!("a replaced value, which counted until {until}"),
    };
    let status = match judged {
        Err(Refusal::KeyRevoked) => "revoked for good",
        Err(Refusal::KeyInactive) => "deactivated",
        _ => "active",
    };
    let expiry = match entry.expires_at() {
        None => "never expires".to_owned(),
        Some(end) if end > at => format!("expires at {end}"),
        Some(end) => format!("expired at {end}"),
    };
    let enabled = if machine.enabled { "enabled" } else { "disabled, and all its keys with it" };
    [
        (Step::Replaced, replaced),
        (Step::Status, status.to_owned()),
        (Step::Expiry, expiry),
        (Step::Machine, format!("\"{}\" is {enabled}", machine.name)),
    ]
}

pub fn address(entry: &Entry, client: Option<ClientIp>, passed: bool) -> String {
    let Some(nets) = entry.narrowed().and_then(|n| n.allowed_ips.as_ref()) else {
        return "the key may be used from anywhere".to_owned();
    };
    let bound = format!("the key is bound to {}", list(nets.iter()));
    match client {
        None => format!("{bound}, and no address was given"),
        Some(client) if passed => format!("{bound}; {} is among them", client.0),
        Some(client) => format!("{bound}; {} is not among them", client.0),
    }
}

pub fn permissions(entry: &Entry, machine: &MachineState, demand: &Demand<'_>) -> String {
    if demand.permissions().is_empty() {
        return "none is demanded".to_owned();
    }
    let own = entry.narrowed().and_then(|n| n.permissions.as_ref());
    let named = machine.permissions.names().chain(own.into_iter().flat_map(|set| set.names())).filter_map(PermissionName::parse);
    let mut known: Vec<PermissionName> = named.chain(demand.permissions().iter().cloned()).collect();
    known.sort();
    known.dedup();
    let effective = machine.permissions.intersect(own, known.iter());
    let key = own.map_or("what the machine has".to_owned(), |set| list(set.names()));
    format!(
        "demanded: {}; the machine has: {}; the key has: {key}; together: {}",
        list(demand.permissions()),
        list(machine.permissions.names()),
        list(effective.names())
    )
}

pub fn organization(entry: &Entry, machine: &MachineState, demand: &Demand<'_>) -> String {
    let restrictions = permit::restrictions(entry, machine);
    let place = place(demand);
    let named = match demand.organization() {
        _ if restrictions.iter().all(Option::is_none) => return "neither machine nor key is restricted to organizations".to_owned(),
        Named::Any => return "the route lets restricted keys in, whatever the organization".to_owned(),
        Named::Nowhere => "the route does not say where the organization stands".to_owned(),
        Named::Missing => format!("{place} names none"),
        Named::Repeated => format!("{place} names it more than once"),
        Named::Unclear => format!("{place} holds + or ; which servers read differently; percent-encode it"),
        Named::Id(id) => format!("{place} names \"{}\"", shown(&id)),
    };
    let held = |who: &str, held: Option<&Organizations>| held.map(|held| format!("; {who} is restricted to {}", list(held.ids())));
    let [of_machine, of_key] = restrictions;
    let held = [held("the machine", of_machine), held("the key", of_key)];
    named + &held.into_iter().flatten().collect::<String>()
}

fn place(demand: &Demand<'_>) -> String {
    let Demand::Request { route, .. } = demand else { return "the question".to_owned() };
    match &route.organization {
        Organization::Path(name) => format!("{{{name}}} in the path"),
        Organization::Header(name) => format!("the header {name}"),
        Organization::Query(name) => format!("?{name}="),
        Organization::None | Organization::Any => "the route".to_owned(),
    }
}

/// `minute: 41 of 60 left`, for each window.
pub fn left(charged: &Charged) -> String {
    let windows = charged.windows().iter().map(|w| format!("{}: {} of {} left", w.window.name(), w.remaining, w.quota));
    match charged.windows() {
        [] => "unlimited".to_owned(),
        _ => windows.collect::<Vec<_>>().join(", "),
    }
}

pub fn over(over: &Refused) -> String {
    let used_up = list(over.violated.iter().map(|window| window.name()));
    format!("{}; used up: {used_up}; the next call is let in after {} s", left(&over.state), over.retry_after)
}

/// Text that came with a request, without the telling part of any value in it.
fn shown(text: &[u8]) -> String {
    let text = masked(text);
    let text = String::from_utf8_lossy(&text);
    let tame: String = text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).take(200).collect();
    if tame.len() < text.len() { tame + "…" } else { tame }
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut items = items.into_iter();
    let told: Vec<String> = items.by_ref().take(SHOWN).map(|item| item.to_string()).collect();
    match (told.is_empty(), items.count()) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => told.join(", "),
        (false, more) => format!("{} and {more} more", told.join(", ")),
    }
}
