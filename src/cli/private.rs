//! Files that nobody else reads: they hold values, hashes, or what is nobody else's business.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// A new file. What has its name goes first: it may be open to others, or lead elsewhere.
pub fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new().write(true).create_new(true).mode(0o600).open(path),
    }
}

/// A file that is gone on with, or a new one. One that is a link, another user's or open to others is refused, untouched.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // A pipe is not waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits().cast_signed());
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => io::Error::other("it is a link; name the file itself"),
        _ => error,
    })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("it is open to others; first: chmod 600 {}", path.display())));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_file_takes_the_place_of_an_open_one_and_of_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (part, other) = (folder.path().join("a.part"), folder.path().join("other"));
        fs::write(&part, "old").unwrap();
        fs::set_permissions(&part, PermissionsExt::from_mode(0o644)).unwrap();
        create(&part).unwrap();
        assert_eq!((mode(&part), fs::read(&part).unwrap()), (0o600, Vec::new()));
        fs::write(&other, "mine").unwrap();
        fs::remove_file(&part).unwrap();
        symlink(&other, &part).unwrap();
        create(&part).unwrap();
        assert_eq!((fs::read(&other).unwrap(), part.is_symlink()), (b"mine".to_vec(), false));
    }

    #[test]
    fn a_file_that_is_gone_on_with_is_private_already() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        open(&path).unwrap();
        for wider in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, PermissionsExt::from_mode(wider)).unwrap();
            assert!(open(&path).unwrap_err().to_string().contains("chmod 600 "), "{wider:o}");
        }
        symlink(&path, &link).unwrap();
        assert!(open(&link).unwrap_err().to_string().contains("is a link"));
    }
}
