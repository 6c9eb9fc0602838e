//! A machine: a program that calls, with what it may do.

use super::ids::MachineId;
use super::permission::{Organizations, PermissionSet};
use super::tier::TierName;
use super::time::Timestamp;

/// A calling program. Its keys may never do more than it may.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub id: MachineId,
    /// Unique among machines, any UTF-8 without control characters, 1 to 200 characters.
    pub name: String,
    pub description: String,
    /// Whom to tell when something is odd: an address, a team, a ticket queue.
    pub contact: String,
    pub permissions: PermissionSet,
    /// `None` = not restricted.
    pub organizations: Option<Organizations>,
    /// `None` = follows the settings' `default_tier`.
    pub tier: Option<TierName>,
    /// Run by somebody outside: creating or changing it needs `platform:configure`.
    pub third_party: bool,
    /// A disabled machine's keys are all refused.
    pub enabled: bool,
    pub created_at: Timestamp,
}
