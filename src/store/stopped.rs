//! Verifying the journal of a gateway that is not running. Nothing in it is changed, and its lock is not kept: a gateway may start meanwhile.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::check::{self, Extent, Flaw, Verified};
use super::draft::Tail;
use super::head::Head;
use super::journal::files_in;
use super::mirror::{Broken, Mirror};
use super::segment::Segment;
use super::snapshot::Snapshot;
use super::{StoreError, lock, restore};

/// What was found in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    pub verified: Verified,
    /// Why the mirror could not say how far the journal should reach.
    pub mirror: Option<String>,
}

/// Verifies the journal in a store's folder, and that it reaches as far as the mirror beside it.
pub fn verify_journal(folder: &Path, heads: &[Head]) -> Result<Stopped, StoreError> {
    lock::see_that_it_is_free(folder)?;
    restore::refuse_unfinished(folder)?;
    let sled = folder.join("sled");
    let known = mirror_head(&sled);
    let verified = files(folder, heads, known.as_ref().ok().copied().flatten())?;
    let mirror = match known {
        Err(why) => Some(why),
        Ok(None) if verified.head.seq > 0 => Some(format!("{} holds nothing", sled.display())),
        Ok(Some(head)) if head.seq + 1 < verified.first => {
            Some(format!("{} stands at change {}, and what is here begins with change {}", sled.display(), head.seq, verified.first))
        }
        Ok(_) => None,
    };
    Ok(Stopped { verified, mirror })
}

/// Verifies the files in a store's folder. `known` is how far the mirror beside them stands.
pub fn files(folder: &Path, heads: &[Head], known: Option<Head>) -> Result<Verified, StoreError> {
    let journal = folder.join("journal");
    let paths = if journal.exists() { files_in(&journal)? } else { Vec::new() };
    if paths.is_empty() {
        return Err(StoreError::Unusable(format!("there is no journal in {}", journal.display())));
    }
    let origin = origin(&paths)?;
    let extents: Vec<Extent> = paths.into_iter().map(|path| Extent { path, end: u64::MAX }).collect();
    let mut verified = check::files(origin, &extents, heads, known.map(|head| ("the mirror beside it", head)))?;
    if verified.flaw.is_some() {
        return Ok(verified);
    }
    if let Some(snapshot) = newest_snapshot(&extents)? {
        verified.flaw = snapshot.flaw()?;
    } else if origin.seq > 0 {
        let why = format!("the files before change {} are missing, and no entry vouches for the snapshot beside this one", origin.seq + 1);
        verified.flaw = extents.first().map(|first| Flaw { file: first.path.clone(), line: 1, seq: None, why });
    }
    Ok(verified)
}

/// What the first file must follow from: the very beginning, unless there is a snapshot that may stand for what was before it.
fn origin(paths: &[PathBuf]) -> Result<Tail, StoreError> {
    let before = paths.first().map(|first| Segment::origin(first)).transpose()?.flatten();
    let may_rest = paths.iter().any(|path| path.with_extension("snapshot").exists());
    Ok(before.filter(|_| may_rest).unwrap_or_else(Tail::start))
}

/// The one that a start would fill a mirror from.
fn newest_snapshot(extents: &[Extent]) -> Result<Option<Snapshot>, StoreError> {
    for extent in extents.iter().rev() {
        if let Some(snapshot) = Snapshot::vouched_for(&extent.path)? {
            return Ok(Some(snapshot));
        }
    }
    Ok(None)
}

/// Up to where the mirror stands; `None` for one that holds nothing and so knows nothing. Sled writes as it opens, so it is given a copy.
pub fn mirror_head(sled: &Path) -> Result<Option<Head>, String> {
    if !sled.exists() {
        return Err(format!("there is none at {}", sled.display()));
    }
    let copy = Copy::of(sled).map_err(|e| format!("{} cannot be copied to be read: {e}", sled.display()))?;
    let unreadable = |Broken(why)| format!("{} cannot be read: {why}", sled.display());
    let applied = Mirror::open(&copy.0).and_then(|mirror| mirror.applied()).map_err(unreadable)?;
    Ok(applied.map(Head::from))
}

/// A folder's content in another place, for as long as this lives. Only its owner may read it: it holds hashes.
pub struct Copy(PathBuf);

impl Copy {
    pub fn place(&self) -> &Path {
        &self.0
    }

    pub fn of(folder: &Path) -> io::Result<Copy> {
        let name = format!("octroi-verify-{}", std::process::id());
        let places = (0..1_000).map(|n| std::env::temp_dir().join(format!("{name}-{n}")));
        let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
        for place in places {
            match DirBuilder::new().mode(0o700).create(&place) {
                Ok(()) => {
                    let copy = Copy(place);
                    copy_files(folder, &copy.0)?;
                    return Ok(copy);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What stays behind is closed to everybody else.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_files(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
