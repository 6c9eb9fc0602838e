//! `/v1/verify`: whether a key may do something, for applications that ask instead of being proxied. It counts as a call of that key, unless it
//! is a dry run.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use http::HeaderMap;
use http::header::USER_AGENT;
use serde_json::Value;

use super::catalogue::Catalogue;
use super::door::Requester;
use super::explain::{address, text};
use super::fields::{Faults, Fields, Read};
use super::judge::Asked;
use super::problem::Problem;
use super::wire::decision::{KeyName, MachineName, VerifyView, windows};
use super::{Admin, values};
use crate::gate::{Verification, Verified};
use crate::limits::Charged;
use crate::model::permission::ADMIN;
use crate::model::{ClientIp, PeerIp, PermissionName, RequestId};
use crate::registry::Entry;

/// The highest cost of one call.
pub const MAX_COST: u32 = 1_000_000;

pub async fn verify(
    requester: Requester,
    State(admin): State<Arc<Admin>>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    mut fields: Fields,
) -> Result<Json<VerifyView>, Problem> {
    let began = admin.clock.now();
    let value = fields.required("key", text).unwrap_or_default();
    let permissions = fields.optional("permission", |value| permissions(value, &admin.catalogue)).unwrap_or_default();
    let organization = fields.optional("organization", values::organization);
    let cost = fields.optional("cost", cost).unwrap_or(NonZeroU32::MIN);
    let client = fields.optional("ip", address).map(|ip| ClientIp(ip.to_canonical()));
    let rehearsal = fields.optional("dry_run", values::boolean).unwrap_or(false);
    fields.finish()?;

    let organization = organization.as_deref();
    let question = Verification { value: &value, permissions: &permissions, organization, cost, client, rehearsal };
    let judge = &admin.judge;
    let verified = judge
        .gate
        .verify(&judge.rules, &question, began)
        .map_err(|above| Problem::invalid_at("/cost", format!("can never be met: the tier of this key admits {} at once", above.most)))?;
    if !rehearsal {
        // Over the socket an application has no address but this machine's.
        let peer = PeerIp(requester.address.unwrap_or(Ipv4Addr::LOCALHOST.into()));
        let user_agent = headers.get(USER_AGENT).map(|value| value.as_bytes());
        let asked = Asked { id, began, ended: admin.clock.now(), peer, client, user_agent };
        let refusal = verified.outcome.as_ref().err().map(|turned| &turned.refusal);
        judge.calls.record(&asked, verified.entry.as_deref(), refusal);
    }
    Ok(Json(view(&verified, &admin.catalogue)))
}

fn view(verified: &Verified, catalogue: &Catalogue) -> VerifyView {
    let refusal = verified.outcome.as_ref().err().map(|turned| &turned.refusal);
    let left: Option<&Charged> = match &verified.outcome {
        Ok(charged) => Some(charged),
        Err(turned) => turned.charged.as_deref(),
    };
    let entry = verified.entry.as_deref();
    VerifyView {
        valid: refusal.is_none(),
        code: refusal.map(|refusal| refusal.code().as_str().to_owned()),
        machine: entry.map(MachineName::from),
        key: entry.map(KeyName::from),
        permissions: entry.map(|entry| effective(entry, catalogue)).unwrap_or_default(),
        limits: left.map(windows).unwrap_or_default(),
        retry_after: refusal.and_then(|refusal| refusal.retry_after()),
    }
}

fn effective(entry: &Entry, catalogue: &Catalogue) -> Vec<String> {
    let own = entry.narrowed().and_then(|narrowed| narrowed.permissions.as_ref());
    let both = entry.machine.state().permissions.intersect(own, catalogue.permission_names());
    both.names().map(str::to_owned).collect()
}

/// One name, or a list of which all are needed.
fn permissions(value: Value, catalogue: &Catalogue) -> Read<Vec<PermissionName>> {
    let names = match value {
        Value::String(name) => vec![catalogue.permission(&values::string(name.into())?)?],
        list => values::list(list, |name| catalogue.permission(&name).map_err(Faults::from))?,
    };
    match names.iter().any(|name| name.as_str() == ADMIN) {
        true => Err(format!("{ADMIN} stands for all permissions and cannot be demanded; name the one that is needed").into()),
        false => Ok(names),
    }
}

fn cost(value: Value) -> Read<NonZeroU32> {
    // To JSON 5 and 5.0 are one number, and some languages have no other way to write it.
    let cost = value.as_f64().filter(|cost| cost.fract() == 0.0 && (1.0..=f64::from(MAX_COST)).contains(cost));
    cost.and_then(|cost| NonZeroU32::new(cost as u32)).ok_or_else(|| format!("must be a whole number from 1 to {MAX_COST}").into())
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::tests::example;
    use super::*;
    use serde_json::json;

    #[test]
    fn permissions_are_one_name_or_a_list() {
        let read = |value| permissions(value, &example()).map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>()).ok();
        assert_eq!(read(json!("sensors:read")), Some(vec!["sensors:read".into()]));
        assert_eq!(read(json!(["sensors:read", "events:read"])).unwrap().len(), 2);
        assert_eq!(read(json!([])), Some(vec![]));
        for bad in [json!("nope"), json!(["nope"]), json!("admin"), json!(["sensors:read", "admin"]), json!(5), json!([5])] {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn a_cost_is_a_whole_number_within_bounds() {
        assert!(cost(json!(1)).is_ok() && cost(json!(1_000_000)).is_ok() && cost(json!(5.0)) == cost(json!(5)));
        for bad in [json!(0), json!(-1), json!(1.5), json!(1_000_001), json!("1"), json!(4_294_967_297_u64)] {
            assert!(cost(bad.clone()).is_err(), "{bad}");
        }
    }
}
