//! Pure values and the rules of the domain: what a machine, a key, a tier and a refusal *are*, and which
//! change of a key is allowed. No sockets, no files, no serialisation, no clock: time comes in as a value.
//!
//! Every other room speaks in these types. Their stored and their JSON shapes are other types, kept in
//! `store` and `admin`, because they change for other reasons.

pub mod call;
pub mod change;
pub mod ids;
pub mod key;
pub mod machine;
pub mod operator;
pub mod permission;
pub mod refusal;
pub mod secret;
pub mod tier;
pub mod time;

pub use call::{Caller, ClientIp, PeerIp, RequestId, Verdict};
pub use change::{Actor, Authority, Change, ChangeError, Origin};
pub use ids::{KeyId, MachineId, OperatorId};
pub use key::{Environment, Key, KeyState, KeyStatus, OldValue};
pub use machine::Machine;
pub use operator::{Operator, Right, Rights};
pub use permission::{Organizations, PermissionName, PermissionSet};
pub use refusal::{Code, Refusal};
pub use secret::{Secret, SecretHash, ValueMark};
pub use tier::{BucketOwner, CalendarCounter, CalendarCounters, Limit, Tier, TierName, Window};
pub use time::{Moment, Tick, Timestamp};
