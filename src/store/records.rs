//! How machines, keys and operators are written down: the stored form, which is all of a record with the hashes of its values, and the
//! public form, which the journal shows and which has none. Both are made from the model's types and from nothing else.
//!
//! The stored form carries its version. One from a newer octroi is refused: to skip a field could mean to skip a rule.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Op, hex};
use crate::model::{
    Environment, Key, KeyId, KeyState, Machine, MachineId, OldValue, Operator, OperatorId, Organizations, PermissionName, PermissionSet,
    Right, Rights, SecretHash, TierName, Timestamp,
};

const VERSION: u32 = 1;

/// A stored record that cannot be read. Says which field, never what stands there: it may be a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not the JSON that was expected; the column where that shows.
    Json(usize),
    Newer(u32),
    Field(&'static str),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Json(column) => write!(f, "unexpected JSON at column {column}"),
            Unreadable::Newer(version) => {
                write!(f, "written in version {version} by a newer octroi, this one reads up to {VERSION}: start the newer one")
            }
            Unreadable::Field(name) => write!(f, "no valid value in the field {name}"),
        }
    }
}

impl std::error::Error for Unreadable {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMachine {
    v: u32,
    id: String,
    name: String,
    description: String,
    contact: String,
    permissions: Vec<String>,
    organizations: Option<Vec<String>>,
    tier: Option<String>,
    third_party: bool,
    enabled: bool,
    created_at: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    v: u32,
    id: String,
    machine: String,
    label: String,
    description: String,
    environment: String,
    permissions: Option<Vec<String>>,
    organizations: Option<Vec<String>>,
    tier: Option<String>,
    allowed_ips: Option<Vec<String>>,
    expires_at: Option<i64>,
    state: State,
    created_at: i64,
    created_by: String,
    hash: String,
    hint: String,
    old_values: Vec<StoredValue>,
    renewed_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredValue {
    hash: String,
    hint: String,
    replaced_at: i64,
    counts_until: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOperator {
    v: u32,
    id: String,
    name: String,
    rights: Vec<String>,
    enabled: bool,
    expires_at: Option<i64>,
    created_at: i64,
    created_by: String,
    hash: String,
    hint: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Active,
    Inactive,
    Revoked,
}

/// What a line's private part holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Private {
    pub ops: Vec<StoredOp>,
}

/// An [`Op`] as it is written down. Records are kept as JSON values, not as the types above, so that what a rebuild puts into the
/// mirror has the very bytes that were summed when the change was made, whichever version made it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredOp {
    PutMachine(Value),
    PutKey(Value),
    DeleteMachine(String),
    DeleteKey(String),
    PutOperator(Value),
    DeleteOperator(String),
}

impl From<&Op> for StoredOp {
    fn from(op: &Op) -> StoredOp {
        match op {
            Op::PutMachine(machine) => StoredOp::PutMachine(store_machine(machine)),
            Op::PutKey(key) => StoredOp::PutKey(store_key(key)),
            Op::DeleteMachine(id) => StoredOp::DeleteMachine(id.to_string()),
            Op::DeleteKey(id) => StoredOp::DeleteKey(id.to_string()),
            Op::PutOperator(operator) => StoredOp::PutOperator(store_operator(operator)),
            Op::DeleteOperator(id) => StoredOp::DeleteOperator(id.to_string()),
        }
    }
}

/// Reads the private part of a line.
pub fn read_private(bytes: &[u8]) -> Result<Private, Unreadable> {
    // The reader's own message quotes what it met: only its column is passed on.
    serde_json::from_slice(bytes).map_err(|e| Unreadable::Json(e.column()))
}

fn store_machine(machine: &Machine) -> Value {
    let stored = StoredMachine {
        v: VERSION,
        id: machine.id.to_string(),
        name: machine.name.clone(),
        description: machine.description.clone(),
        contact: machine.contact.clone(),
        permissions: names(&machine.permissions),
        organizations: machine.organizations.as_ref().map(ids),
        tier: machine.tier.as_ref().map(TierName::to_string),
        third_party: machine.third_party,
        enabled: machine.enabled,
        created_at: machine.created_at.0,
    };
    to_value(stored)
}

fn store_key(key: &Key) -> Value {
    let stored = StoredKey {
        v: VERSION,
        id: key.id.to_string(),
        machine: key.machine.to_string(),
        label: key.label.clone(),
        description: key.description.clone(),
        environment: key.environment.to_string(),
        permissions: key.permissions.as_ref().map(names),
        organizations: key.organizations.as_ref().map(ids),
        tier: key.tier.as_ref().map(TierName::to_string),
        allowed_ips: key.allowed_ips.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect()),
        expires_at: key.expires_at.map(|t| t.0),
        state: match key.state {
            KeyState::Active => State::Active,
            KeyState::Inactive => State::Inactive,
            KeyState::Revoked => State::Revoked,
        },
        created_at: key.created_at.0,
        created_by: key.created_by.clone(),
        hash: hex::encode(&key.hash.0),
        hint: key.hint.clone(),
        old_values: key.old_values.iter().map(store_value).collect(),
        renewed_at: key.renewed_at.map(|t| t.0),
    };
    to_value(stored)
}

fn store_operator(operator: &Operator) -> Value {
    let stored = StoredOperator {
        v: VERSION,
        id: operator.id.to_string(),
        name: operator.name.clone(),
        rights: rights(operator.rights),
        enabled: operator.enabled,
        expires_at: operator.expires_at.map(|t| t.0),
        created_at: operator.created_at.0,
        created_by: operator.created_by.clone(),
        hash: hex::encode(&operator.hash.0),
        hint: operator.hint.clone(),
    };
    to_value(stored)
}

fn store_value(old: &OldValue) -> StoredValue {
    StoredValue { hash: hex::encode(&old.hash.0), hint: old.hint.clone(), replaced_at: old.replaced_at.0, counts_until: old.counts_until.0 }
}

fn to_value(stored: impl Serialize) -> Value {
    serde_json::to_value(stored).expect("strings, whole numbers and lists of them are always JSON")
}

fn names(set: &PermissionSet) -> Vec<String> {
    set.names().map(str::to_owned).collect()
}

fn rights(rights: Rights) -> Vec<String> {
    rights.iter().map(|right| right.to_string()).collect()
}

fn ids(organizations: &Organizations) -> Vec<String> {
    organizations.ids().map(str::to_owned).collect()
}

/// Reads a stored machine.
pub fn read_machine(bytes: &[u8]) -> Result<Machine, Unreadable> {
    let stored: StoredMachine = read(bytes)?;
    Ok(Machine {
        id: stored.id.parse().map_err(|_| Unreadable::Field("id"))?,
        name: stored.name,
        description: stored.description,
        contact: stored.contact,
        permissions: permissions(stored.permissions)?,
        organizations: stored.organizations.map(Organizations::from_iter),
        tier: tier(stored.tier)?,
        third_party: stored.third_party,
        enabled: stored.enabled,
        created_at: Timestamp(stored.created_at),
    })
}

/// Reads a stored key.
pub fn read_key(bytes: &[u8]) -> Result<Key, Unreadable> {
    let stored: StoredKey = read(bytes)?;
    let nets = |texts: Vec<String>| texts.iter().map(|t| t.parse().map_err(|_| Unreadable::Field("allowed_ips"))).collect();
    Ok(Key {
        id: stored.id.parse().map_err(|_| Unreadable::Field("id"))?,
        machine: stored.machine.parse().map_err(|_| Unreadable::Field("machine"))?,
        label: stored.label,
        description: stored.description,
        environment: Environment::parse(&stored.environment).ok_or(Unreadable::Field("environment"))?,
        permissions: stored.permissions.map(permissions).transpose()?,
        organizations: stored.organizations.map(Organizations::from_iter),
        tier: tier(stored.tier)?,
        allowed_ips: stored.allowed_ips.map(nets).transpose()?,
        expires_at: stored.expires_at.map(Timestamp),
        state: match stored.state {
            State::Active => KeyState::Active,
            State::Inactive => KeyState::Inactive,
            State::Revoked => KeyState::Revoked,
        },
        created_at: Timestamp(stored.created_at),
        created_by: stored.created_by,
        hash: hash(&stored.hash)?,
        hint: stored.hint,
        old_values: stored.old_values.into_iter().map(old_value).collect::<Result<_, _>>()?,
        renewed_at: stored.renewed_at.map(Timestamp),
    })
}

/// Reads a stored operator.
pub fn read_operator(bytes: &[u8]) -> Result<Operator, Unreadable> {
    let stored: StoredOperator = read(bytes)?;
    Ok(Operator {
        id: stored.id.parse().map_err(|_| Unreadable::Field("id"))?,
        name: stored.name,
        rights: stored.rights.iter().map(|name| Right::parse(name).ok_or(Unreadable::Field("rights"))).collect::<Result<_, _>>()?,
        enabled: stored.enabled,
        expires_at: stored.expires_at.map(Timestamp),
        created_at: Timestamp(stored.created_at),
        created_by: stored.created_by,
        hash: hash(&stored.hash)?,
        hint: stored.hint,
    })
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    serde_json::from_slice(bytes).map_err(|e| match serde_json::from_slice(bytes) {
        Ok(Version { v }) if v > VERSION => Unreadable::Newer(v),
        _ => Unreadable::Json(e.column()),
    })
}

fn permissions(names: Vec<String>) -> Result<PermissionSet, Unreadable> {
    names.iter().map(|name| PermissionName::parse(name).ok_or(Unreadable::Field("permissions"))).collect()
}

fn tier(name: Option<String>) -> Result<Option<TierName>, Unreadable> {
    name.map(|name| TierName::parse(&name).ok_or(Unreadable::Field("tier"))).transpose()
}

fn hash(text: &str) -> Result<SecretHash, Unreadable> {
    hex::decode(text.as_bytes()).map(SecretHash).ok_or(Unreadable::Field("hash"))
}

fn old_value(stored: StoredValue) -> Result<OldValue, Unreadable> {
    Ok(OldValue {
        hash: hash(&stored.hash)?,
        hint: stored.hint,
        replaced_at: Timestamp(stored.replaced_at),
        counts_until: Timestamp(stored.counts_until),
    })
}

/// The ids in a stored key that its place in the mirror follows from.
pub fn key_ids(stored: &Value) -> Result<(KeyId, MachineId), Unreadable> {
    Ok((id_in(stored, "id")?, id_in(stored, "machine")?))
}

/// The id in a stored machine.
pub fn machine_id(stored: &Value) -> Result<MachineId, Unreadable> {
    id_in(stored, "id")
}

/// The id in a stored operator.
pub fn operator_id(stored: &Value) -> Result<OperatorId, Unreadable> {
    id_in(stored, "id")
}

fn id_in<T: std::str::FromStr>(stored: &Value, field: &'static str) -> Result<T, Unreadable> {
    stored.get(field).and_then(Value::as_str).and_then(|text| text.parse().ok()).ok_or(Unreadable::Field(field))
}

/// What the journal shows of a machine.
pub fn show_machine(machine: &Machine) -> Value {
    json!({
        "id": machine.id.to_string(),
        "name": machine.name,
        "description": machine.description,
        "contact": machine.contact,
        "permissions": names(&machine.permissions),
        "organizations": machine.organizations.as_ref().map(ids),
        "tier": machine.tier.as_ref().map(TierName::as_str),
        "third_party": machine.third_party,
        "enabled": machine.enabled,
        "created_at": machine.created_at.to_string(),
    })
}

/// What the journal shows of an operator: everything but the hash.
pub fn show_operator(operator: &Operator) -> Value {
    json!({
        "id": operator.id.to_string(),
        "name": operator.name,
        "rights": rights(operator.rights),
        "enabled": operator.enabled,
        "expires_at": operator.expires_at.map(|t| t.to_string()),
        "created_at": operator.created_at.to_string(),
        "created_by": operator.created_by,
        "hint": operator.hint,
    })
}

/// What the journal shows of a key: everything but the hashes.
pub fn show_key(key: &Key) -> Value {
    let old = |old: &OldValue| {
        json!({
            "hint": old.hint,
            "replaced_at": old.replaced_at.to_string(),
            "counts_until": old.counts_until.to_string(),
        })
    };
    json!({
        "id": key.id.to_string(),
        "machine_id": key.machine.to_string(),
        "label": key.label,
        "description": key.description,
        "environment": key.environment.as_str(),
        "permissions": key.permissions.as_ref().map(names),
        "organizations": key.organizations.as_ref().map(ids),
        "tier": key.tier.as_ref().map(TierName::as_str),
        "allowed_ips": key.allowed_ips.as_ref().map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "expires_at": key.expires_at.map(|t| t.to_string()),
        "state": match key.state {
            KeyState::Active => "active",
            KeyState::Inactive => "inactive",
            KeyState::Revoked => "revoked",
        },
        "created_at": key.created_at.to_string(),
        "created_by": key.created_by,
        "hint": key.hint,
        "old_values": key.old_values.iter().map(old).collect::<Vec<_>>(),
        "renewed_at": key.renewed_at.map(|t| t.to_string()),
    })
}
