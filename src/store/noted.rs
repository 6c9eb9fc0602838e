//! `head`: up to where the journal stood at the last start or stop, for when its mirror cannot say so any more. A mirror is thrown away only
//! after this was written, so that at no moment a journal which lost changes finds nobody who knows better.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{self, Disk, Real};
use super::head::Head;
use super::journal::Journal;
use super::refill;
use super::{StoreError, head};

fn place(folder: &Path) -> PathBuf {
    folder.join("head")
}

/// What was noted, where something was.
pub fn read(folder: &Path) -> Result<Option<Head>, StoreError> {
    let path = place(folder);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::Unavailable(format!("{} cannot be read: {error}", path.display()))),
    };
    let damaged = |head::NoHead| {
        let why =
            format!("{} is damaged: it does not hold the head of a journal; delete it if the journal is known to be whole", path.display());
        StoreError::Unusable(why)
    };
    text.trim_end().parse().map(Some).map_err(damaged)
}

/// Notes how far the journal stands, for good. All of it must be on the disk.
pub fn write(folder: &Path, journal: &Journal) -> Result<(), StoreError> {
    let text = format!("{}\n", Head::from(journal.tail()));
    let path = place(folder);
    if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let new = folder.join("head.new");
    let written = Real.create(&new).and_then(|file| {
        Real.write(&file, text.as_bytes(), 0)?;
        Real.sync(&file)?;
        fs::rename(&new, &path)?;
        disk::sync_folder(folder)
    });
    written.map_err(|e| StoreError::Unavailable(format!("{} cannot be written: {e}", path.display())))
}

/// Forgets it: another journal takes the place of this one.
pub fn remove(folder: &Path) -> io::Result<()> {
    fs::remove_file(place(folder)).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Refuses a journal that does not hold what was noted. What was archived since needs no witness.
pub fn judge(folder: &Path, journal: &Journal) -> Result<(), StoreError> {
    let Some(noted) = read(folder)?.filter(|noted| noted.seq >= journal.origin().seq) else { return Ok(()) };
    let (path, tail) = (place(folder), journal.tail().seq);
    let why = if noted.seq > tail {
        format!(
            "the journal in {} ends with change {tail}, and {} notes that it went on to change {}",
            folder.join("journal").display(),
            path.display(),
            noted.seq
        )
    } else if refill::standing(journal, noted.seq)?.0 != noted.chain {
        format!("change {} in {} is not the one that {} notes", noted.seq, folder.join("journal").display(), path.display())
    } else {
        return Ok(());
    };
    Err(StoreError::Unusable(format!(
        "{why}. A lost or restored journal would bring revoked keys back; restore the newer journal. Only if the loss is accepted: octroi store \
         restore --accept-rollback --config SETTINGS"
    )))
}
