//! A change of machines, keys or operators: what was asked, by whom, and why it can be refused.
//!
//! There is one way to write: a [`Change`] handed to the registry, which stores it, applies it, then answers.

use std::time::Duration;

use ipnet::IpNet;

use super::ids::{KeyId, MachineId, OperatorId};
use super::key::Environment;
use super::operator::{Right, Rights, TokenInvalid};
use super::permission::{Organizations, PermissionSet};
use super::secret::SecretHash;
use super::tier::TierName;
use super::time::Timestamp;

/// Who makes a change: `operator:<name>`, `socket:<user>` over the admin socket, `gateway` for the gateway itself, `demo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub String);

/// By what somebody may do something. What an operator may do is looked up whenever it is judged, and never kept: between a request's
/// head and the change that it asks for their token may have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Every right: whoever is let in by the admin socket, and the gateway itself.
    Everything,
    /// What the operator with this token may do then.
    Token { operator: OperatorId, hash: SecretHash },
}

/// Where a change comes from: journalled with it, but for the authority, which it is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub actor: Actor,
    pub authority: Authority,
    /// The operator's address; `None` over the socket.
    pub address: Option<std::net::IpAddr>,
    /// At most 500 characters.
    pub reason: Option<String>,
}

/// A machine to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewMachine {
    pub name: String,
    pub description: String,
    pub contact: String,
    pub permissions: PermissionSet,
    pub organizations: Option<Organizations>,
    pub tier: Option<TierName>,
    pub third_party: bool,
}

/// What to change of a machine: `None` leaves a field as it is, `Some(None)` clears it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineEdit {
    pub name: Option<String>,
    pub description: Option<String>,
    pub contact: Option<String>,
    pub permissions: Option<PermissionSet>,
    pub organizations: Option<Option<Organizations>>,
    pub tier: Option<Option<TierName>>,
    pub third_party: Option<bool>,
}

/// A key to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewKey {
    pub label: String,
    pub description: String,
    pub environment: Environment,
    pub permissions: Option<PermissionSet>,
    pub organizations: Option<Organizations>,
    pub tier: Option<TierName>,
    pub allowed_ips: Option<Vec<IpNet>>,
    pub expires_at: Option<Timestamp>,
}

/// What to change of a key; see [`MachineEdit`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyEdit {
    pub label: Option<String>,
    pub description: Option<String>,
    pub permissions: Option<Option<PermissionSet>>,
    pub organizations: Option<Option<Organizations>>,
    pub tier: Option<Option<TierName>>,
    pub allowed_ips: Option<Option<Vec<IpNet>>>,
    pub expires_at: Option<Option<Timestamp>>,
}

impl KeyEdit {
    /// Whether it touches nothing but label and description, which even a revoked key may change.
    pub fn is_cosmetic(&self) -> bool {
        let KeyEdit { label: _, description: _, permissions, organizations, tier, allowed_ips, expires_at } = self;
        permissions.is_none() && organizations.is_none() && tier.is_none() && allowed_ips.is_none() && expires_at.is_none()
    }
}

/// An operator to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewOperator {
    pub name: String,
    pub rights: Rights,
    pub expires_at: Option<Timestamp>,
}

/// What to change of an operator; see [`MachineEdit`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorEdit {
    pub rights: Option<Rights>,
    pub expires_at: Option<Option<Timestamp>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    CreateMachine(NewMachine),
    EditMachine(MachineId, MachineEdit),
    EnableMachine(MachineId),
    DisableMachine(MachineId),
    /// Deletes its keys too.
    DeleteMachine(MachineId),
    CreateKey(MachineId, NewKey),
    EditKey(KeyId, KeyEdit),
    DeactivateKey(KeyId),
    ReactivateKey(KeyId),
    RevokeKey(KeyId),
    /// Both values count for the `grace`.
    RegenerateKey(KeyId, Duration),
    /// The replaced value that counts in grace ends now.
    EndGrace(KeyId),
    DeleteKey(KeyId),
    CreateOperator(NewOperator),
    EditOperator(OperatorId, OperatorEdit),
    EnableOperator(OperatorId),
    DisableOperator(OperatorId),
    /// Gives it another token; the one it had ends at once.
    RegenerateOperator(OperatorId),
    DeleteOperator(OperatorId),
}

impl Change {
    /// What it takes of whoever makes it. The rules can ask for more.
    pub fn right(&self) -> Right {
        match self {
            Change::CreateMachine(_)
            | Change::EditMachine(..)
            | Change::EnableMachine(_)
            | Change::DisableMachine(_)
            | Change::DeleteMachine(_)
            | Change::CreateKey(..)
            | Change::EditKey(..)
            | Change::DeactivateKey(_)
            | Change::ReactivateKey(_)
            | Change::RevokeKey(_)
            | Change::RegenerateKey(..)
            | Change::EndGrace(_)
            | Change::DeleteKey(_) => Right::MachinesWrite,
            Change::CreateOperator(_)
            | Change::EditOperator(..)
            | Change::EnableOperator(_)
            | Change::DisableOperator(_)
            | Change::RegenerateOperator(_)
            | Change::DeleteOperator(_) => Right::PlatformConfigure,
        }
    }

    /// Its name in the journal: `key.revoked`.
    pub fn what(&self) -> &'static str {
        match self {
            Change::CreateMachine(_) => "machine.created",
            Change::EditMachine(..) => "machine.edited",
            Change::EnableMachine(_) => "machine.enabled",
            Change::DisableMachine(_) => "machine.disabled",
            Change::DeleteMachine(_) => "machine.deleted",
            Change::CreateKey(..) => "key.created",
            Change::EditKey(..) => "key.edited",
            Change::DeactivateKey(_) => "key.deactivated",
            Change::ReactivateKey(_) => "key.reactivated",
            Change::RevokeKey(_) => "key.revoked",
            Change::RegenerateKey(..) => "key.regenerated",
            Change::EndGrace(_) => "key.grace_ended",
            Change::DeleteKey(_) => "key.deleted",
            Change::CreateOperator(_) => "operator.created",
            Change::EditOperator(..) => "operator.edited",
            Change::EnableOperator(_) => "operator.enabled",
            Change::DisableOperator(_) => "operator.disabled",
            Change::RegenerateOperator(_) => "operator.regenerated",
            Change::DeleteOperator(_) => "operator.deleted",
        }
    }
}

/// Why a change was not made. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("no machine has the id {0}")]
    NoSuchMachine(MachineId),
    #[error("no key has the id {0}")]
    NoSuchKey(KeyId),
    #[error("no operator has the id {0}")]
    NoSuchOperator(OperatorId),
    #[error("another machine, {holder}, is already named \"{name}\"")]
    NameTaken { name: String, holder: MachineId },
    #[error("another operator, {holder}, is already named \"{name}\"")]
    OperatorNameTaken { name: String, holder: OperatorId },
    /// The token of who asks ended before the change was judged.
    #[error(transparent)]
    TokenInvalid(#[from] TokenInvalid),
    /// Who asks may not do this: the right they lack, and what it is needed for.
    #[error("{needed_for} needs the right {right}")]
    RightMissing { right: Right, needed_for: &'static str },
    /// Somebody changed it since it was looked at.
    #[error("{subject} was changed since: look at it again, then decide")]
    Stale { subject: String },
    #[error("key {0} is revoked, which is final: create another key instead")]
    Revoked(KeyId),
    /// The store cannot take changes now; the gateway goes on judging from memory.
    #[error("the store cannot take changes now: {0}")]
    StoreUnavailable(String),
}
