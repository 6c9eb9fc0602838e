//! Where machines, keys and operators are kept for good. A change is made when, and only when, [`Store::commit`] returned: what it
//! acknowledged survives `kill -9` and power loss.
//!
//! The embedded store is two things in one folder: an append-only journal, which is the truth and which alone decides
//! whether a change happened, and a sled mirror of it, read at start and for look-ups by id.

mod archive;
mod backup;
mod check;
mod disk;
mod draft;
mod effects;
mod embedded;
mod export;
mod head;
mod hex;
mod history;
mod journal;
mod line;
mod lock;
mod mirror;
mod noted;
mod records;
mod refill;
mod restore;
mod segment;
mod snapshot;
mod stopped;
mod sum;
#[cfg(test)]
mod tests;
mod verify;

pub use archive::Archived;
pub use backup::{Backup, Manifest, check as check_backup};
pub use check::{Flaw, Judged, Verified, export as verify_export};
pub use embedded::Embedded;
pub use head::{Head, NoHead};
pub use history::{About, Filter, History, NoSubject, is_of_operator};
pub use refill::rebuild;
pub use restore::{Restore, Restored, restore};
pub use stopped::{Stopped, verify_journal};
pub use verify::{Whole, verify_store};

use std::net::IpAddr;

use crate::model::{Key, KeyId, Machine, MachineId, Operator, OperatorId, Timestamp};

/// The place of a change in the journal, from 1, without gaps.
pub type Seq = u64;

/// What one change does to the stored records. The ops of one [`Entry`] hold together or not at all.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    PutMachine(Box<Machine>),
    PutKey(Box<Key>),
    DeleteMachine(MachineId),
    DeleteKey(KeyId),
    PutOperator(Box<Operator>),
    DeleteOperator(OperatorId),
}

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Machine(MachineId),
    Key(KeyId),
    Operator(OperatorId),
}

/// A change, judged and ready to be stored. The journal's public part shows who, when, what, and each record before and
/// after, never a hash; the store takes the records before from its mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub time: Timestamp,
    /// Who, as [`crate::model::Actor`] names them.
    pub actor: String,
    pub address: Option<IpAddr>,
    pub reason: Option<String>,
    /// `key.revoked` and the like.
    pub what: &'static str,
    pub subject: Subject,
    pub ops: Vec<Op>,
}

/// Who does something with the store itself, for its line in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub time: Timestamp,
    pub actor: String,
    pub address: Option<IpAddr>,
    pub reason: Option<String>,
}

/// A stored record, as a scan meets it.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Machine(Machine),
    Key(Key),
    Operator(Operator),
}

/// A stored record, and the last change that made it what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept<T> {
    pub seq: Seq,
    pub record: T,
}

/// Whether changes can be taken, and if not, why: in words for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// Memory goes on judging; changes are refused until the cause is gone.
    Refusing(String),
}

/// Why the store could not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, the mirror or the journal cannot be used now. A later try may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The folder's content cannot be trusted, or another process holds it: the gateway must not start on it. Says
    /// which file and line, and what to do.
    #[error("{0}")]
    Unusable(String),
    /// What was asked for does not go with what is there. Nothing was changed. Says what would be right.
    #[error("{0}")]
    Refused(String),
}

/// One kept truth about machines, keys and operators. Shared by the registry's writer (the only caller of `commit`) and by readers of
/// lists; every method may block on the disk, so none is called on a worker.
pub trait Store: Send + Sync + 'static {
    /// Visits every live record: machines, then keys, then operators.
    fn scan(&self, each: &mut dyn FnMut(Record)) -> Result<(), StoreError>;

    fn machine(&self, id: MachineId) -> Result<Option<Kept<Machine>>, StoreError>;
    fn key(&self, id: KeyId) -> Result<Option<Kept<Key>>, StoreError>;
    fn operator(&self, id: OperatorId) -> Result<Option<Kept<Operator>>, StoreError>;

    /// At most `limit` machines with ids after `after`, in id order (the order they were made in).
    fn machines(&self, after: Option<MachineId>, limit: usize) -> Result<Vec<Machine>, StoreError>;
    /// At most `limit` keys with ids after `after`, of one machine or of all, in id order.
    fn keys(&self, of: Option<MachineId>, after: Option<KeyId>, limit: usize) -> Result<Vec<Key>, StoreError>;
    /// At most `limit` operators with ids after `after`, in id order.
    fn operators(&self, after: Option<OperatorId>, limit: usize) -> Result<Vec<Operator>, StoreError>;

    /// Stores a group of changes about different subjects, in order. When it returns `Ok` every one of them is durable; when
    /// it returns `Err` none of them is visible, now or after a restart.
    fn commit(&self, group: Vec<Entry>) -> Result<Vec<Seq>, StoreError>;

    /// Lines of the journal that are asked for, newest first, before `before`. At most `limit`; fewer when a bound on what one page may
    /// cost was reached first.
    fn history(&self, filter: &Filter, before: Option<Seq>, limit: usize) -> Result<History, StoreError>;

    /// The public part of one line.
    fn entry(&self, seq: Seq) -> Result<Option<serde_json::Value>, StoreError>;

    /// Whether something with this id is or was there. `None` when only its lines could tell.
    fn was_there(&self, subject: Subject) -> Result<Option<bool>, StoreError>;

    /// What stood before the first change that is here: [`Head::START`], unless older ones were archived.
    fn origin(&self) -> Head;

    /// Where the chain stood after a change, or stands now. `None` when there is no such change, or it was archived.
    fn head(&self, at: Option<Seq>) -> Result<Option<Head>, StoreError>;

    /// Some of the lines after a head, up to `until`, as JSON lines for the world outside, and the head after them: the same one when there
    /// are no more.
    fn export(&self, after: Head, until: Seq) -> Result<(Vec<u8>, Head), StoreError>;

    /// Reads all of the journal that is on the disk, and says whether it is what was written and holds these heads. Changes go on meanwhile;
    /// another reading of all files is refused until it ends.
    fn verify(&self, heads: &[Head]) -> Result<Verified, StoreError>;

    fn health(&self) -> Health;

    /// Tries to get well again (free space came back, the mirror must be refilled). Called now and then while not ready.
    fn recover(&self);
}
