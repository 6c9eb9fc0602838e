//! One process at a time: two that append to one journal would destroy it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::StoreError;

/// Takes the folder's lock (`flock`), which ends with the file's last handle, however the process ends. Its number is written
/// there only for whoever comes second.
pub fn take(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let failed = |e| StoreError::Unavailable(format!("{} cannot be locked: {e}", path.display()));
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held(folder, file)),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let number = format!("{}\n", std::process::id());
    match file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(number.as_bytes())) {
        // On a full disk the lock holds all the same.
        Err(error) if error.kind() != ErrorKind::StorageFull => return Err(failed(error)),
        _ => {}
    }
    Ok(file)
}

/// Says so when a gateway holds the folder, and leaves the lock as it is.
pub fn see_that_it_is_free(folder: &Path) -> Result<(), StoreError> {
    // A folder that nobody ever locked has no such file.
    let Ok(file) = File::open(folder.join("lock")) else { return Ok(()) };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(held(folder, file)),
        _ => Ok(()),
    }
}

fn held(folder: &Path, mut file: File) -> StoreError {
    let mut number = String::new();
    let holder = match file.read_to_string(&mut number) {
        Ok(_) if number.trim().parse::<u32>().is_ok() => format!("another octroi (pid {})", number.trim()),
        _ => "another octroi".into(),
    };
    StoreError::Unusable(format!("{holder} holds {}; stop it, or point store.path elsewhere", folder.display()))
}
