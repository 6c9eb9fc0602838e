//! The care of the store and its journal: what the admin plane asks of a running gateway's, and what the commands do to a stopped one's, or
//! to an export.

use std::path::Path;
use std::sync::Arc;

use crate::admin::Care;
use crate::admin::wire::{ArchivedView, JournalVerified, StoreVerified};
use crate::clock::Clock;
use crate::config::Settings;
use crate::model::Timestamp;
use crate::registry::Registry;
pub use crate::store::Manifest;
use crate::store::{self, Archived, Author, Backup, Embedded, Head, NoHead, Restore, Restored, StoreError, Whole};
use crate::usage::Usage;

/// A running gateway's store, with the usage that lies beside it.
pub struct Running {
    pub store: Arc<Embedded>,
    pub usage: Arc<Usage>,
    pub registry: Registry,
    pub clock: Clock,
}

impl Care for Running {
    fn backup(&self) -> Result<Backup, StoreError> {
        // Calls up to now shall be in it. A backup without the last of them is better than none.
        let flushed = self.usage.flush(&mut |each| self.registry.buckets(|owner, bucket| each(owner, bucket.counters())));
        if let Err(error) = flushed {
            tracing::error!(%error, "usage could not be written; the backup holds what was written before");
        }
        self.store.backup(self.clock.now().wall)
    }

    fn verify(&self) -> Result<Whole, StoreError> {
        self.store.verify_whole()
    }

    fn archive(&self, to: &Path, author: &Author) -> Result<Archived, StoreError> {
        self.store.archive(to, author)
    }
}

fn now() -> Timestamp {
    Clock::system().now().wall
}

/// Whoever runs a command on a stopped gateway's folder. The kernel vouches for the number, and nobody for a name.
fn author(reason: Option<String>) -> Author {
    let user = rustix::process::geteuid().as_raw();
    Author { time: now(), actor: format!("offline:{user}"), address: None, reason }
}

/// Looks a stopped gateway's store through.
pub fn verify(settings: &Settings) -> Result<StoreVerified, StoreError> {
    match store::verify_store(&settings.store) {
        Ok(whole) => Ok(whole.into()),
        Err(StoreError::Unusable(finding)) => Ok(StoreVerified::bad(finding)),
        Err(error) => Err(error),
    }
}

/// Why the journal could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{0}")]
    Head(#[from] NoHead),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Reads what people note as a head, and gives it as it is written.
pub fn head(text: &str) -> Result<String, NoHead> {
    text.parse::<Head>().map(|head| head.to_string())
}

/// Verifies a stopped gateway's journal, which is left as it is. Also says why the mirror beside it could not be asked how far the
/// journal should reach.
pub fn verify_journal(settings: &Settings, heads: &[String]) -> Result<(JournalVerified, Option<String>), VerifyError> {
    let stopped = store::verify_journal(&settings.store, &parsed(heads)?)?;
    Ok((stopped.verified.into(), stopped.mirror))
}

/// Verifies an export.
pub fn verify_export(file: &Path, heads: &[String]) -> Result<JournalVerified, VerifyError> {
    Ok(store::verify_export(file, &parsed(heads)?)?.into())
}

fn parsed(heads: &[String]) -> Result<Vec<Head>, NoHead> {
    heads.iter().map(|head| head.parse()).collect()
}

/// Makes a stopped gateway's mirror anew, and says how many records it has.
pub fn rebuild(settings: &Settings) -> Result<u64, StoreError> {
    store::rebuild(&settings.store)
}

/// A backup of a stopped gateway's store, to be read to its end.
pub fn backup(settings: &Settings) -> Result<Backup, StoreError> {
    Backup::of_stopped(&settings.store, now())
}

/// Whether a file is a whole backup.
pub fn check_backup(path: &Path) -> Result<Manifest, StoreError> {
    store::check_backup(path)
}

/// Puts a backup in the place of a stopped gateway's store; without one, accepts what is there.
pub fn restore(settings: &Settings, source: Option<&Path>, accept_rollback: bool, reason: Option<String>) -> Result<Restored, StoreError> {
    store::restore(&Restore { folder: &settings.store, source, accept_rollback, author: &author(reason) })
}

/// Moves the older journal of a stopped gateway out.
pub fn archive(settings: &Settings, to: &Path, reason: Option<String>) -> Result<ArchivedView, StoreError> {
    let store = Embedded::open(&settings.store)?;
    store.archive(to, &author(reason)).map(ArchivedView::from)
}
