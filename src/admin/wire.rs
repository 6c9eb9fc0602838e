//! The JSON of the admin API, as the CLI reads it. Other types than the domain's, because they change for other reasons:
//! a field here is a promise to clients. Times are RFC 3339 in UTC, or null.

pub mod decision;
pub mod json;
mod store;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::catalogue::Catalogue;
use super::usage::{KeyUse, ValueUse};
pub use store::{ArchivedView, BadEntry, HeadJudged, JournalPage, JournalVerified, StoreVerified};

use crate::model::{Key, KeyStatus, Machine, OldValue, Operator, Organizations, PermissionSet, Timestamp, Verdict};
use crate::usage::LastUse;

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    pub data: Vec<T>,
    /// Opaque; hand it back as `cursor` for the next page. `null` on the last one.
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A list that is never long enough for pages.
    pub fn whole(data: Vec<T>) -> List<T> {
        List { data, next_cursor: None }
    }
}

/// One thing that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// RFC 6901 into the request's body; empty for the whole of it; `?name` for a query parameter, `name:` for a header field.
    pub pointer: String,
    pub message: String,
}

/// RFC 9457's problem document with octroi's members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProblemBody {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub code: String,
    pub request_id: String,
    /// With the code `invalid`: everything that is not valid, at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// With the code `right_missing`: the right that is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MachineView {
    pub id: String,
    pub name: String,
    pub description: String,
    pub contact: String,
    pub permissions: Vec<String>,
    /// `null` = not restricted.
    pub organizations: Option<Vec<String>>,
    /// `null` = follows the settings' default tier.
    pub tier: Option<String>,
    pub third_party: bool,
    pub enabled: bool,
    pub created_at: String,
}

impl From<&Machine> for MachineView {
    fn from(machine: &Machine) -> MachineView {
        MachineView {
            id: machine.id.to_string(),
            name: machine.name.clone(),
            description: machine.description.clone(),
            contact: machine.contact.clone(),
            permissions: names(&machine.permissions),
            organizations: machine.organizations.as_ref().map(ids),
            tier: machine.tier.as_ref().map(ToString::to_string),
            third_party: machine.third_party,
            enabled: machine.enabled,
            created_at: machine.created_at.to_string(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeyView {
    pub id: String,
    pub machine_id: String,
    pub machine_name: String,
    pub label: String,
    pub description: String,
    pub environment: String,
    /// The value's beginning and its last four characters.
    pub hint: String,
    /// `null` = the machine's.
    pub permissions: Option<Vec<String>>,
    /// Machine ∩ key, `admin` expanded.
    pub effective_permissions: Vec<String>,
    pub organizations: Option<Vec<String>>,
    /// `null` = counted together with the machine's other keys.
    pub tier: Option<String>,
    /// CIDRs; `null` = from anywhere.
    pub allowed_ips: Option<Vec<String>>,
    pub expires_at: Option<String>,
    /// `revoked`, `inactive`, `expired` or `active`, as of now.
    pub status: String,
    pub created_at: String,
    pub created_by: String,
    /// The last call that was let in.
    pub last_used_at: Option<String>,
    pub last_used_ip: Option<String>,
    /// The last call that was let in with the current value.
    pub value_last_used_at: Option<String>,
    pub value_last_used_ip: Option<String>,
    pub last_refused_at: Option<String>,
    pub exposed_at: Option<String>,
    /// The latest of created, last used, reactivated, regenerated, revived after it had expired.
    pub idle_since: String,
    /// Active, and idle for `keys.warn_idle_after` of the settings.
    pub idle: bool,
    /// Values that a regeneration replaced, newest first.
    pub old_values: Vec<OldValueView>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OldValueView {
    pub hint: String,
    pub replaced_at: String,
    /// Equal to `replaced_at` when it died at once.
    pub counts_until: String,
    /// It is let in now.
    pub counts: bool,
    /// The last call that was let in with it; `null` also where only later values were used since.
    pub last_used_at: Option<String>,
    pub last_used_ip: Option<String>,
    /// It counts, its successor is in use, and it was itself not used for a day (half of its grace, where that is shorter) and
    /// has no open call.
    pub safe_to_end: bool,
}

/// The replaced values of a key, each with what is known of its use.
fn old_values(key: &Key, used: &KeyUse, now: Timestamp) -> Vec<OldValueView> {
    let counting = key.in_grace().filter(|old| key.status(now) == KeyStatus::Active && old.counts_until > now);
    let current = value_use(key, used).map(|used| used.at);
    let view = |(place, old): (usize, &OldValue)| {
        let made = key.old_values.get(place + 1).map_or(key.created_at, |before| before.replaced_at);
        let last = used.of_value(old.hash.mark(), made, old.replaced_at);
        let counts = counting == Some(old);
        OldValueView {
            hint: old.hint.clone(),
            replaced_at: old.replaced_at.to_string(),
            counts_until: old.counts_until.to_string(),
            counts,
            last_used_at: text(last.map(|last| last.at)),
            last_used_ip: last.map(|last| last.from.to_string()),
            safe_to_end: counts && !used.old_value_is_open && old.is_safe_to_end(last.map(|last| last.at), current, now),
        }
    };
    key.old_values.iter().enumerate().map(view).collect()
}

/// The last use of the current value.
fn value_use(key: &Key, used: &KeyUse) -> Option<ValueUse> {
    let made = key.old_values.first().map_or(key.created_at, |old| old.replaced_at);
    used.of_value(key.hash.mark(), made, Timestamp::NEVER)
}

impl KeyView {
    /// `machine` is `None` where it cannot be read; the key then shows no name and no effective permissions.
    pub fn of(key: &Key, machine: Option<&Machine>, used: &KeyUse, catalogue: &Catalogue, now: Timestamp) -> KeyView {
        let effective = |machine: &Machine| machine.permissions.intersect(key.permissions.as_ref(), catalogue.permission_names());
        let value_use = value_use(key, used);
        KeyView {
            id: key.id.to_string(),
            machine_id: key.machine.to_string(),
            machine_name: machine.map(|machine| machine.name.clone()).unwrap_or_default(),
            label: key.label.clone(),
            description: key.description.clone(),
            environment: key.environment.to_string(),
            hint: key.hint.clone(),
            permissions: key.permissions.as_ref().map(names),
            effective_permissions: machine.map(|machine| names(&effective(machine))).unwrap_or_default(),
            organizations: key.organizations.as_ref().map(ids),
            tier: key.tier.as_ref().map(ToString::to_string),
            allowed_ips: key.allowed_ips.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect()),
            expires_at: text(key.expires_at),
            status: key.status(now).as_str().to_owned(),
            created_at: key.created_at.to_string(),
            created_by: key.created_by.clone(),
            last_used_at: text(used.last_used_at),
            last_used_ip: used.last_used_ip.map(|ip| ip.to_string()),
            value_last_used_at: text(value_use.map(|used| used.at)),
            value_last_used_ip: value_use.map(|used| used.from.to_string()),
            last_refused_at: text(used.last_refused_at),
            exposed_at: None,
            idle_since: key.idle_since(used.last_used_at).to_string(),
            idle: catalogue.warn_idle_after.is_some_and(|limit| key.is_idle(used.last_used_at, limit, now)),
            old_values: old_values(key, used, now),
        }
    }
}

/// The answer to a change of a key: the key and what its maker should think about. It may hold a value, so it can be
/// neither printed nor cloned by accident.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct KeyChanged {
    #[serde(flatten)]
    pub key: KeyView,
    /// The new value, where one was made; it is shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    pub warnings: Vec<Warning>,
}

/// Something that was accepted and is probably not what was meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Warning {
    /// `label_vague`, `label_taken`, `permission_not_held`, `expires_in_past`, `grace_ended`, `grace_beyond_expiry` or `no_grace`.
    pub code: String,
    pub pointer: String,
    pub message: Message,
}

/// A sentence in the languages of the people who read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    pub fr: String,
    pub en: String,
}

/// What became of one key of many, in the order in which they were asked for: either `key` or `problem` is there. It may hold a value, as
/// [`KeyChanged`].
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct BulkItem {
    /// From 1: the line of an NDJSON body, or the place in `keys`.
    pub line: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyChanged>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<BulkProblem>,
}

/// Why one key of many was not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BulkProblem {
    /// As of a request of its own: `invalid`, `not_found`, `right_missing`, …
    pub code: String,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OperatorView {
    pub id: String,
    pub name: String,
    /// As granted; `machines:write` includes `machines:read`.
    pub rights: Vec<String>,
    /// `disabled`, `expired` or `active`, as of now.
    pub status: String,
    pub enabled: bool,
    pub expires_at: Option<String>,
    /// The token's beginning and its last four characters.
    pub hint: String,
    pub created_at: String,
    pub created_by: String,
    /// The last request that the token was enough for.
    pub last_used_at: Option<String>,
    pub last_used_ip: Option<String>,
}

impl OperatorView {
    pub fn of(operator: &Operator, used: Option<LastUse>, now: Timestamp) -> OperatorView {
        OperatorView {
            id: operator.id.to_string(),
            name: operator.name.clone(),
            rights: operator.rights.iter().map(|right| right.to_string()).collect(),
            status: operator.status(now).as_str().to_owned(),
            enabled: operator.enabled,
            expires_at: text(operator.expires_at),
            hint: operator.hint.clone(),
            created_at: operator.created_at.to_string(),
            created_by: operator.created_by.clone(),
            last_used_at: text(used.map(|used| used.at)),
            last_used_ip: used.map(|used| used.from.to_string()),
        }
    }
}

/// The answer to a change of an operator. It may hold a token, so it can be neither printed nor cloned by accident.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct OperatorChanged {
    #[serde(flatten)]
    pub operator: OperatorView,
    /// The new token, where one was made; it is shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    pub warnings: Vec<Warning>,
}

/// Who makes a request, and what they may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WhoamiView {
    /// As the journal names them: `operator:<name>`, or `socket:<user>`.
    pub actor: String,
    pub rights: Vec<String>,
    /// Whose token was presented; `null` over the socket.
    pub operator: Option<OperatorView>,
}

/// What is known of one key's use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageView {
    pub key_id: String,
    pub last_used_at: Option<String>,
    pub last_used_ip: Option<String>,
    pub last_refused_at: Option<String>,
    pub calls: CallsView,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallsView {
    pub total: u64,
    /// By `ok`, `client_closed` or the refusal's code; only what occurred.
    pub by_verdict: BTreeMap<String, u64>,
}

impl CallsView {
    pub fn of<'a>(counts: impl IntoIterator<Item = &'a (Verdict, u64)>) -> CallsView {
        let mut by_verdict = BTreeMap::new();
        for (verdict, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            *by_verdict.entry(verdict.as_str().to_owned()).or_default() += count;
        }
        CallsView { total: by_verdict.values().sum(), by_verdict }
    }
}

/// What is known of the use of a machine's keys, those that were deleted left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MachineUsageView {
    pub machine_id: String,
    /// How many keys it has.
    pub keys: u64,
    pub last_used_at: Option<String>,
    pub last_refused_at: Option<String>,
    pub calls: CallsView,
}

impl MachineUsageView {
    pub fn of(machine_id: String, keys: impl Iterator<Item = KeyUse>) -> MachineUsageView {
        let (mut count, mut used, mut refused, mut calls) = (0, None, None, Vec::new());
        for key in keys {
            count += 1;
            used = used.max(key.last_used_at);
            refused = refused.max(key.last_refused_at);
            calls.extend(key.calls);
        }
        MachineUsageView { machine_id, keys: count, last_used_at: text(used), last_refused_at: text(refused), calls: CallsView::of(&calls) }
    }
}

/// All calls since the store was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TotalsView {
    pub calls: CallsView,
    /// Those of them that no key can answer for.
    pub without_key: CallsView,
}

impl UsageView {
    pub fn of(key_id: String, used: &KeyUse) -> UsageView {
        UsageView {
            key_id,
            last_used_at: text(used.last_used_at),
            last_used_ip: used.last_used_ip.map(|ip| ip.to_string()),
            last_refused_at: text(used.last_refused_at),
            calls: CallsView::of(&used.calls),
        }
    }
}

/// What the CLI shows of a line of the journal; the line holds more.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
pub struct JournalLine {
    pub seq: u64,
    pub time: String,
    pub actor: String,
    pub address: Option<String>,
    pub reason: Option<String>,
    /// `key.revoked` and the like.
    pub what: String,
    /// The id of what the change is about; `store` for what was done with the store itself.
    pub subject: String,
    pub changes: Vec<RecordChange>,
    /// What was done with the store itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Map<String, Value>>,
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
pub struct RecordChange {
    /// `null` for one that was made.
    pub before: Option<Map<String, Value>>,
    /// `null` for one that was deleted.
    pub after: Option<Map<String, Value>>,
    /// Its id, named by its kind: `{"key": "key_…"}`.
    #[serde(flatten)]
    pub record: Map<String, Value>,
}

fn names(set: &PermissionSet) -> Vec<String> {
    set.names().map(str::to_owned).collect()
}

fn ids(organizations: &Organizations) -> Vec<String> {
    organizations.ids().map(str::to_owned).collect()
}

fn text(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KeyId;
    use crate::model::refusal::Code;

    #[test]
    fn usage_shows_only_verdicts_that_occurred_and_their_sum() {
        let calls = vec![(Verdict::Ok, 3), (Verdict::ClientClosed, 0), (Verdict::Refused(Code::RateLimited), 2)];
        let view = UsageView::of(KeyId::from_u128(1).to_string(), &KeyUse { calls, ..KeyUse::default() });
        let json = serde_json::to_value(&view.calls).unwrap();
        assert_eq!(json, serde_json::json!({"total": 5, "by_verdict": {"ok": 3, "rate_limited": 2}}));
    }

    #[test]
    fn an_answer_without_a_new_value_has_no_secret() {
        let json = r#"{"id":"k","machine_id":"m","machine_name":"n","label":"l","description":"","environment":"prod","hint":"h",
            "permissions":null,"effective_permissions":[],"organizations":null,"tier":null,"allowed_ips":null,"expires_at":null,
            "status":"active","created_at":"c","created_by":"b","last_used_at":null,"last_used_ip":null,
            "value_last_used_at":null,"value_last_used_ip":null,"last_refused_at":null,"exposed_at":null,"idle_since":"c","idle":false,
            "old_values":[],"warnings":[]}"#;
        let changed: KeyChanged = serde_json::from_str(json).unwrap();
        let again = serde_json::to_value(&changed).unwrap();
        assert!(changed.secret.is_none() && again.get("secret").is_none());
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(json).unwrap());
    }
}
