//! Moving the older files of the journal out, so that they can leave the machine.
//!
//! In an order in which every step can be the last one:
//! 0. The folder is tried: what is closed is copied there, and the file that is written as far as it goes. Nothing is said of it yet.
//! 1. A [snapshot] of all records is written beside the journal and synced. Nothing knows of it yet.
//! 2. A new file is begun, whose first line names the snapshot's digest. From here on the store can do without what is before.
//! 3. Each older file is copied, synced and read back. All are still here.
//! 4. The older files are removed, oldest first, so that what is left has no gap.
//!
//! Changes wait during 1 and 2, calls never do: about 2 s at a million keys.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::draft::Draft;
use super::effects::Failure;
use super::embedded::Embedded;
use super::journal::{Condition, Journal};
use super::mirror::Mirror;
use super::segment::Segment;
use super::snapshot::{self, Facts, Snapshot, Unwritten};
use super::{Author, Seq, StoreError, disk};

/// What was moved out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    pub folder: PathBuf,
    /// The files that are there now and here no more.
    pub files: Vec<String>,
    /// The first change that is still here; `None` before there is any.
    pub first: Option<Seq>,
    /// Records in the snapshot that stands for all changes before.
    pub records: u64,
}

impl Embedded {
    /// Moves all that is older than now to the folder `to`, which is made if need be. What is there already under the same names must be the
    /// same: an archiving that was cut off is taken up again.
    pub fn archive(&self, to: &Path, author: &Author) -> Result<Archived, StoreError> {
        // One at a time: two would remove what the other copies.
        let _alone = self.alone_with_files()?;
        let here = self.folder();
        // Where it leads can be told only when what is before it exists.
        if to.components().any(|part| part == Component::ParentDir) {
            return Err(refused(to, format_args!("it goes up with \"..\"; name the folder itself")));
        }
        see_that_it_is_outside(to, here)?;
        disk::make_folder(to).map_err(|e| refused(to, format_args!("{e}")))?;
        see_that_it_is_outside(to, here)?;
        self.try_out(to)?;
        let snapshot = {
            let mut journal = self.journal.lock();
            let made = self.snapshot(&mut journal, to, author);
            self.note_condition(&journal);
            made?
        };
        let Some(snapshot) = snapshot else {
            return Ok(Archived { folder: to.to_owned(), files: Vec::new(), first: None, records: 0 });
        };
        let files = self.move_out(&snapshot, to)?;
        Ok(Archived { folder: to.to_owned(), files, first: Some(snapshot.before), records: snapshot.facts.records })
    }

    /// Copies what is closed, and for a trial the file that is written. A folder that cannot take them is refused before the journal says anything.
    fn try_out(&self, to: &Path) -> Result<(), StoreError> {
        let last = {
            let journal = self.journal.lock();
            let tail = journal.tail().seq;
            let is_done = tail == 0 || journal.snapshot().is_some_and(|last| last.before == tail);
            journal.files().last().filter(|_| !is_done).map(|(first, path, _)| (first, path.to_owned()))
        };
        let Some((first, last)) = last else { return Ok(()) };
        for path in older_files(&self.folder().join("journal"), first + 1)? {
            let tried = if path == last { try_to_copy(&path, to) } else { copy(&path, to) };
            tried.map_err(|e| refused(to, format_args!("{}: {e}", path.display())))?;
        }
        Ok(())
    }

    /// The snapshot that the journal ends with, made if there is none; `None` for a journal without changes.
    fn snapshot(&self, journal: &mut Journal, to: &Path, author: &Author) -> Result<Option<Snapshot>, StoreError> {
        let tail = journal.tail();
        if tail.seq == 0 {
            return Ok(None);
        }
        if let Some(last) = journal.snapshot().filter(|last| last.before == tail.seq) {
            return Ok(Some(last.clone()));
        }
        let mirror = self.changing()?;
        let before = tail.seq + 1;
        let path = snapshot::path_of(journal.folder(), before);
        let facts = write(&mirror, journal, &path).map_err(|error| self.unwritten(&mirror, &path, error))?;
        let snapshot = Snapshot { path, before, facts };
        if let Err(error) = self.vouch(journal, &mirror, &snapshot, to, author) {
            // A line that cannot be cut off now may still be there after a restart, and would name it.
            if !matches!(journal.condition(), Condition::Unsure(_))
                && let Err(second) = disk::remove(&snapshot.path)
            {
                tracing::debug!(error = %second, "a snapshot that no line names stays until the next start");
            }
            return Err(error);
        }
        journal.rest_on(snapshot.clone());
        Ok(Some(snapshot))
    }

    fn vouch(
        &self,
        journal: &mut Journal,
        mirror: &Arc<Mirror>,
        snapshot: &Snapshot,
        to: &Path,
        author: &Author,
    ) -> Result<(), StoreError> {
        let tail = journal.tail();
        let base = journal.begin_after_snapshot()?;
        let mut draft = Draft::new(mirror, tail, base);
        let told = json!({"snapshot": snapshot.facts, "to": to.display().to_string()});
        draft.note(author, "journal.archived", &told).map_err(|failure| self.explain(mirror, failure))?;
        self.store(journal, mirror, draft)
    }

    fn unwritten(&self, mirror: &Arc<Mirror>, path: &Path, error: Unwritten) -> StoreError {
        match error {
            Unwritten::Disk(error) => StoreError::Unavailable(format!("{} cannot be written: {error}", path.display())),
            Unwritten::Failure(failure) => self.explain(mirror, failure),
            Unwritten::Differs => {
                let broken = super::mirror::Broken("it does not hold what the journal says it should".into());
                self.explain(mirror, Failure::Mirror(broken))
            }
        }
    }

    fn move_out(&self, snapshot: &Snapshot, to: &Path) -> Result<Vec<String>, StoreError> {
        let older = older_files(&self.folder().join("journal"), snapshot.before)?;
        for path in &older {
            copy(path, to).map_err(|e| refused(to, format_args!("{}: {e}", path.display())))?;
        }
        disk::sync_folder(to).map_err(|e| refused(to, format_args!("{e}")))?;
        let mut journal = self.journal.lock();
        let begins = journal.files().find(|(first, ..)| *first == snapshot.before).map(|(_, path, _)| path.to_owned());
        let origin = begins.map(|path| Segment::origin(&path)).transpose()?.flatten();
        // Before a first change there is nothing, so nothing older either.
        let Some(origin) = origin else { return Ok(Vec::new()) };
        journal.forget_before(origin);
        drop(journal);
        let failed = |path: &Path, e: io::Error| StoreError::Unavailable(format!("{} cannot be removed: {e}", path.display()));
        for path in &older {
            fs::remove_file(path).map_err(|e| failed(path, e))?;
            // One by one, or a power cut could leave a gap.
            disk::sync_folder(&self.folder().join("journal")).map_err(|e| failed(path, e))?;
        }
        Ok(older.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect())
    }
}

fn write(mirror: &Mirror, journal: &Journal, path: &Path) -> Result<Facts, Unwritten> {
    let new = path.with_extension("snapshot.new");
    let tail = journal.tail();
    let file = disk::create_private(&new)?;
    let mut out = BufWriter::with_capacity(256 * 1024, &file);
    let facts = snapshot::write(mirror, tail.seq + 1, tail.state, &mut out)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    fs::rename(&new, path)?;
    disk::sync_folder(journal.folder())?;
    Ok(facts)
}

/// The journal's files and snapshots before `first`, in order: a snapshot goes before the file that vouches for it.
fn older_files(folder: &Path, first: Seq) -> Result<Vec<PathBuf>, StoreError> {
    let unreadable = |e: io::Error| StoreError::Unavailable(format!("{} cannot be read: {e}", folder.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let number = name.strip_suffix(".log").or_else(|| name.strip_suffix(".snapshot")).and_then(|n| n.parse::<Seq>().ok());
        files.extend(number.filter(|number| *number < first).map(|number| (number, name.ends_with(".log"), path.clone())));
    }
    files.sort();
    Ok(files.into_iter().map(|(.., path)| path).collect())
}

/// Copies a file into a folder and reads the copy back.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let name = from.file_name().ok_or_else(|| io::Error::other("a file without a name"))?;
    let target = to.join(name);
    let expected = disk::digest(from)?;
    if target.exists() {
        if is_one_file(from, &target)? {
            return Err(io::Error::other(format!("{} is the same file, not a copy of it", target.display())));
        }
        if disk::digest(&target)? != expected {
            return Err(io::Error::other(format!("{} is there already and differs", target.display())));
        }
        // Who put it there may not have waited for the disk.
        return File::open(&target)?.sync_all();
    }
    let part = part_of(&target);
    write_part(from, &part)?;
    if disk::digest(&part)? != expected {
        return Err(io::Error::other("the copy is not what was written"));
    }
    fs::rename(&part, &target)
}

/// Whether a file that still grows could be copied into a folder as it is now.
fn try_to_copy(from: &Path, to: &Path) -> io::Result<()> {
    let name = from.file_name().ok_or_else(|| io::Error::other("a file without a name"))?;
    let target = to.join(name);
    if target.exists() {
        return copy(from, to);
    }
    let part = part_of(&target);
    let written = write_part(from, &part);
    disk::remove(&part)?;
    written
}

fn part_of(target: &Path) -> PathBuf {
    let mut part = target.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

fn write_part(from: &Path, part: &Path) -> io::Result<()> {
    let mut out = disk::create_private(part)?;
    io::copy(&mut File::open(from)?, &mut out)?;
    out.sync_all()
}

/// Two names of one file, by a link or by a folder that is mounted twice.
fn is_one_file(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (fs::metadata(a)?, fs::metadata(b)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn see_that_it_is_outside(to: &Path, here: &Path) -> Result<(), StoreError> {
    if is_below(to, here) {
        return Err(refused(to, format_args!("it lies in the store's own folder {}; name a folder outside", here.display())));
    }
    Ok(())
}

fn is_below(path: &Path, folder: &Path) -> bool {
    // What does not exist yet lies where its nearest existing parent does.
    let existing = path.ancestors().find_map(|path| path.canonicalize().ok());
    matches!((existing, folder.canonicalize()), (Some(path), Ok(folder)) if path.starts_with(&folder))
}

fn refused(to: &Path, why: std::fmt::Arguments<'_>) -> StoreError {
    StoreError::Refused(format!("the journal cannot be archived to {}: {why}", to.display()))
}
