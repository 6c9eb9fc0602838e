//! The admin socket: a file that only the gateway's own user can open, and a second look at who did.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::super::door::Door;

/// Why the admin socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another octroi answers on {}: stop it first, or give this one another admin.socket", .0.display())]
    Live(PathBuf),
    #[error("{} exists and is no socket: move it away, or choose another admin.socket", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot open the admin socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The bound socket and its place in the file system.
#[derive(Debug)]
pub struct AdminSocket {
    listener: StdUnixListener,
    guard: SocketGuard,
}

/// Who may pass, and the file to remove in the end.
#[derive(Debug)]
pub struct SocketGuard {
    path: PathBuf,
    own_uid: u32,
    own_name: String,
    root_name: String,
}

impl AdminSocket {
    /// Binds with mode 0600 in a folder made with 0700 if it is missing. A file left by a gateway that is gone is
    /// replaced; one that somebody answers on is an error. Blocks on the disk.
    pub fn bind(path: &Path) -> Result<AdminSocket, BindError> {
        let io = |source| BindError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        }
        refuse_if_taken(path)?;
        // Bound beside its place and moved there when its mode is right: nobody ever meets it with another mode.
        let beside = beside(path);
        remove_if_there(&beside).map_err(io)?;
        let listener = StdUnixListener::bind(&beside).map_err(io)?;
        fs::set_permissions(&beside, Permissions::from_mode(0o600)).and_then(|()| fs::rename(&beside, path)).map_err(|source| {
            // The error at hand says more than a failure to clean up after it would.
            let _ = fs::remove_file(&beside);
            io(source)
        })?;
        Ok(AdminSocket { listener, guard: SocketGuard::new(path.to_owned()) })
    }

    pub(super) fn into_tokio(self) -> io::Result<(UnixListener, SocketGuard)> {
        self.listener.set_nonblocking(true)?;
        Ok((UnixListener::from_std(self.listener)?, self.guard))
    }
}

fn refuse_if_taken(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BindError::Io { path: path.to_owned(), source }),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(BindError::Live(path.to_owned())),
        // Nobody holds the other end: the file outlived its gateway.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        Err(source) => Err(BindError::Io { path: path.to_owned(), source }),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl SocketGuard {
    fn new(path: PathBuf) -> SocketGuard {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let own_uid = rustix::process::geteuid().as_raw();
        SocketGuard { path, own_uid, own_name: user_name(&users, own_uid), root_name: user_name(&users, 0) }
    }

    /// The door for whoever connected, or `None` for somebody else than root and the gateway's own user. The file's mode
    /// keeps them out already; this holds when somebody changed the mode.
    pub fn door(&self, stream: &UnixStream) -> Option<Door> {
        let peer = match stream.peer_cred() {
            Ok(peer) => peer.uid(),
            Err(error) => {
                tracing::warn!(%error, "who connected to the admin socket could not be told: closed");
                return None;
            }
        };
        let door = self.door_of(peer);
        if door.is_none() {
            tracing::warn!(uid = peer, "a user other than root and the gateway's own connected to the admin socket: closed");
        }
        door
    }

    fn door_of(&self, uid: u32) -> Option<Door> {
        match uid {
            uid if uid == self.own_uid => Some(Door::Socket { user: self.own_name.clone() }),
            0 => Some(Door::Socket { user: self.root_name.clone() }),
            _ => None,
        }
    }

    /// Best effort: a file that stays is recognised as stale by the next start.
    pub fn remove_file(&self) {
        if let Err(error) = remove_if_there(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the admin socket's file could not be removed");
        }
    }
}

/// The name of a user by the lines of `/etc/passwd`, else the number: containers often have no such line.
fn user_name(users: &str, uid: u32) -> String {
    let uid = uid.to_string();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number == uid && !name.is_empty()).then(|| name.to_owned())
    });
    named.unwrap_or(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_or_numbered() {
        let users = "root:x:0:0:root:/root:/bin/sh\n:x:7:7::/:\nbroken\nocti:x:990:990::/:/bin/false\n";
        for (uid, name) in [(0, "root"), (990, "octi"), (7, "7"), (1000, "1000")] {
            assert_eq!(user_name(users, uid), name);
        }
    }

    #[test]
    fn only_root_and_the_own_user_pass() {
        let guard = SocketGuard { path: PathBuf::new(), own_uid: 990, own_name: "octi".into(), root_name: "root".into() };
        assert_eq!(guard.door_of(990), Some(Door::Socket { user: "octi".into() }));
        assert_eq!(guard.door_of(0), Some(Door::Socket { user: "root".into() }));
        assert_eq!(guard.door_of(1000), None);
    }

    #[test]
    fn the_socket_is_private_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/admin.sock");
        let first = AdminSocket::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let taken = AdminSocket::bind(&path).unwrap_err();
        assert!(matches!(taken, BindError::Live(_)), "{taken}");
        drop(first);
        assert!(path.exists(), "as a killed gateway leaves it");
        AdminSocket::bind(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
