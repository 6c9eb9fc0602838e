//! An operator: a person or a program that manages octroi, and the rights they hold.
//!
//! An operator's token has the shape of a key's value (`octroi_op_` + 30 random characters + CRC), so that typos and leaks are
//! recognised alike, but lives among operators only: no token is a key, and no key is a token.

use std::fmt;

use super::ids::OperatorId;
use super::secret::SecretHash;
use super::time::Timestamp;

/// What every token begins with: `octroi_op_`.
pub const TOKEN_PREFIX: &str = "octroi";
/// Stands where a key's value has its environment.
pub const TOKEN_ENVIRONMENT: &str = "op";

/// One thing that an operator may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Right {
    /// See machines, keys, usage and the journal, and ask why a call was decided as it was.
    MachinesRead = 1,
    /// Change machines and keys; includes seeing them.
    MachinesWrite = 2,
    /// Ask whether a key may do something, and nothing else.
    KeysVerify = 4,
    /// Manage operators, third-party machines, the journal's export and the store.
    PlatformConfigure = 8,
}

impl Right {
    pub const ALL: [Right; 4] = [Right::MachinesRead, Right::MachinesWrite, Right::KeysVerify, Right::PlatformConfigure];

    pub fn as_str(self) -> &'static str {
        match self {
            Right::MachinesRead => "machines:read",
            Right::MachinesWrite => "machines:write",
            Right::KeysVerify => "keys:verify",
            Right::PlatformConfigure => "platform:configure",
        }
    }

    pub fn parse(text: &str) -> Option<Right> {
        Right::ALL.into_iter().find(|right| right.as_str() == text)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of rights, as granted: that `machines:write` includes `machines:read` is [`Rights::allow`]'s knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    pub const NONE: Rights = Rights(0);
    pub const ALL: Rights =
        Rights(Right::MachinesRead as u8 | Right::MachinesWrite as u8 | Right::KeysVerify as u8 | Right::PlatformConfigure as u8);

    /// Whether these rights suffice where `right` is asked for.
    pub fn allow(self, right: Right) -> bool {
        let sufficient = match right {
            Right::MachinesRead => Right::MachinesRead as u8 | Right::MachinesWrite as u8,
            Right::MachinesWrite | Right::KeysVerify | Right::PlatformConfigure => right as u8,
        };
        self.0 & sufficient != 0
    }

    /// The first right among `others` that these do not suffice for.
    pub fn lacking(self, others: Rights) -> Option<Right> {
        others.iter().find(|right| !self.allow(*right))
    }

    /// The granted rights, in their published order.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.0 & *right as u8 != 0)
    }

    /// What is granted here and not in `others`.
    #[must_use]
    pub fn without(self, others: Rights) -> Rights {
        Rights(self.0 & !others.0)
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Rights {
        Rights(rights.into_iter().fold(0, |set, right| set | right as u8))
    }
}

/// Who manages octroi over the admin API.
#[derive(Clone, Debug, PartialEq)]
pub struct Operator {
    pub id: OperatorId,
    /// Unique among operators, any UTF-8 without control characters, 1 to 200 characters. It names the operator in the journal, so it
    /// is never changed.
    pub name: String,
    pub rights: Rights,
    /// A disabled operator's token is refused.
    pub enabled: bool,
    /// `None` = never.
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// The actor who made it, as the journal names them.
    pub created_by: String,
    pub hash: SecretHash,
    /// The beginning and the last four characters of the token.
    pub hint: String,
}

/// What an operator's token is worth at one moment, in the order in which it is shown and judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorStatus {
    Disabled,
    Expired,
    Active,
}

impl OperatorStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            OperatorStatus::Disabled => "disabled",
            OperatorStatus::Expired => "expired",
            OperatorStatus::Active => "active",
        }
    }
}

/// Why a token is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenInvalid {
    #[error("no operator has this token")]
    Unknown,
    /// Told only to who holds the right token.
    #[error("the operator {name} is {}", .status.as_str())]
    Ended { name: String, status: OperatorStatus },
}

impl Operator {
    pub fn status(&self, now: Timestamp) -> OperatorStatus {
        match self.enabled {
            false => OperatorStatus::Disabled,
            true if self.expires_at.is_some_and(|at| at <= now) => OperatorStatus::Expired,
            true => OperatorStatus::Active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_includes_reading_and_nothing_else_includes_anything() {
        for held in Right::ALL {
            for asked in Right::ALL {
                let expected = held == asked || (held, asked) == (Right::MachinesWrite, Right::MachinesRead);
                assert_eq!(Rights::from_iter([held]).allow(asked), expected, "{held} for {asked}");
            }
            assert!(Rights::ALL.allow(held) && !Rights::NONE.allow(held));
            assert_eq!(Right::parse(held.as_str()), Some(held));
        }
        assert_eq!(Right::parse("admin"), None);
    }

    #[test]
    fn what_somebody_lacks_is_named() {
        let writer = Rights::from_iter([Right::MachinesWrite]);
        assert_eq!(writer.lacking(Rights::from_iter([Right::MachinesRead, Right::MachinesWrite])), None);
        assert_eq!(writer.lacking(Rights::ALL), Some(Right::KeysVerify));
        assert_eq!(
            Rights::ALL.without(writer).iter().collect::<Vec<_>>(),
            [Right::MachinesRead, Right::KeysVerify, Right::PlatformConfigure]
        );
    }
}
