//! The four things that the journal asks of a disk, behind a trait of their own so that tests can let the n-th of them fail.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Files are for the gateway's own user only: they hold the hashes of keys.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// EIO, ENOSPC, EROFS, EDQUOT: the disk's own, which say nothing of what is on it.
const OWN_ERRORS: [i32; 4] = [5, 28, 30, 122];

/// What a commit does to files.
pub trait Disk: Send + Sync + 'static {
    /// A new empty file; what stood there under this name is gone.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Writes all of `bytes` at `offset`. When it fails, any part of them may have been written.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// `fdatasync`: what was written is on the disk, and so is the file's length.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Shortens the file.
    fn cut(&self, file: &File, length: u64) -> io::Result<()>;
}

/// The real one.
pub struct Real;

impl Disk for Real {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }
}

/// A new file for the gateway's own user. What stood there under this name is removed first: whoever made it may read it, or it leads elsewhere.
pub fn create_private(path: &Path) -> io::Result<File> {
    remove(path)?;
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// SHA-256 of what a file holds.
pub fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let (mut digest, mut bytes) = (Sha256::new(), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(digest.finalize().into()),
            read => digest.update(&bytes[..read]),
        }
    }
}

/// Whether the words of an error, as they are shown or as a panic has them, name one that is the disk's own.
pub fn told_by(words: &str) -> bool {
    let forms = |number: &i32| [format!("os error {number})"), format!("Os {{ code: {number},")];
    OWN_ERRORS.iter().flat_map(forms).any(|form| words.contains(&form))
}

/// Makes a folder, and those above it, that survive a power cut.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    make_folder(parent)?;
    DirBuilder::new().mode(FOLDER_MODE).recursive(true).create(path)?;
    sync_folder(parent)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes the names in a folder durable: a file that was made or renamed is only then sure to be found after a power cut.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Takes access away from everybody but the owner, here and in all that lies below.
pub fn make_private(path: &Path) -> io::Result<()> {
    let kind = std::fs::symlink_metadata(path)?;
    if kind.is_dir() {
        restrict(path, kind.permissions(), FOLDER_MODE)?;
        for entry in std::fs::read_dir(path)? {
            make_private(&entry?.path())?;
        }
    } else if kind.is_file() {
        restrict(path, kind.permissions(), FILE_MODE)?;
    }
    Ok(())
}

fn restrict(path: &Path, has: Permissions, mode: u32) -> io::Result<()> {
    if has.mode() & 0o777 == mode { Ok(()) } else { std::fs::set_permissions(path, Permissions::from_mode(mode)) }
}
