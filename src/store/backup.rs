//! A backup: one file with all that a store is made of.
//!
//! ```text
//! octroi-backup 1
//! {"head":"412:9f0c…","first":1,"created_at":"2027-01-15T08:00:00.000Z"}
//! file journal/00000001.log 48213
//! <48213 bytes, and a line feed>
//! end <SHA-256 of all before this line>
//! ```
//!
//! Files of the journal only grow, so a backup is made while changes go on: what was durable when it began is copied, and nothing after it. The
//! mirror is not in it; a restore makes a new one. It holds the hashes of keys, as the store does, and is to be kept like it.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::embedded::Embedded;
use super::head::Head;
use super::journal::Journal;
use super::{Seq, StoreError, disk, hex, refill};
use crate::model::Timestamp;

const FIRST_LINE: &str = "octroi-backup 1\n";
/// No line between the files is longer, in bytes.
const MAX_LINE: u64 = 4096;
const CHUNK: usize = 256 * 1024;
/// Written by the room that counts calls, and kept beside the journal.
const USAGE: &str = "usage/usage.log";

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The last change that is in it.
    pub head: Head,
    /// The first change that is in it; those before were archived.
    pub first: Seq,
    pub created_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct WrittenManifest {
    head: String,
    first: Seq,
    created_at: String,
}

impl Manifest {
    fn line(&self) -> Vec<u8> {
        let written = WrittenManifest { head: self.head.to_string(), first: self.first, created_at: self.created_at.to_string() };
        let mut line = serde_json::to_vec(&written).expect("texts and a number are always JSON");
        line.push(b'\n');
        line
    }

    fn parse(line: &str) -> Option<Manifest> {
        let WrittenManifest { head, first, created_at } = serde_json::from_str(line).ok()?;
        Some(Manifest { head: head.parse().ok()?, first, created_at: Timestamp::parse(&created_at)? })
    }
}

/// A backup on its way out, read as the file it will be.
pub struct Backup {
    pub manifest: Manifest,
    pieces: VecDeque<Piece>,
    digest: Sha256,
    /// What is to be read next, and from where in it.
    chunk: Vec<u8>,
    at: usize,
}

enum Piece {
    Text(Vec<u8>),
    /// A file, and how much of it is still to come.
    File(PathBuf, File, u64),
    End,
}

impl Embedded {
    /// Everything that was acknowledged when this is called. Changes that come later go on while it is read, and are not in it.
    pub fn backup(&self, now: Timestamp) -> Result<Backup, StoreError> {
        let journal = self.journal.lock();
        Backup::of(self.folder(), &journal, now)
    }
}

impl Backup {
    /// A stopped gateway's folder.
    pub fn of_stopped(folder: &Path, now: Timestamp) -> Result<Backup, StoreError> {
        let _lock = super::lock::take(folder)?;
        super::restore::refuse_unfinished(folder)?;
        let journal = Journal::read(&folder.join("journal"), std::sync::Arc::new(disk::Real), u64::MAX)?;
        // An end that is cut or damaged is seen by the mirror alone, and that is not in the backup.
        drop(refill::judge(folder, &journal)?);
        Backup::of(folder, &journal, now)
    }

    pub(super) fn of(folder: &Path, journal: &Journal, now: Timestamp) -> Result<Backup, StoreError> {
        let (tail, origin) = (journal.tail(), journal.origin());
        let manifest = Manifest { head: tail.into(), first: origin.seq + 1, created_at: now };
        let pieces = VecDeque::from([Piece::Text(FIRST_LINE.into()), Piece::Text(manifest.line())]);
        let mut backup = Backup { manifest, pieces, digest: Sha256::new(), chunk: Vec::new(), at: 0 };
        for (_, path, end) in journal.files() {
            backup.add("journal", path, Some(end))?;
        }
        if let Some(snapshot) = journal.snapshot() {
            backup.add("journal", &snapshot.path, None)?;
        }
        let usage = folder.join(USAGE);
        if usage.exists() {
            backup.add("usage", &usage, None)?;
        }
        backup.pieces.push_back(Piece::End);
        Ok(backup)
    }

    /// Opened now: what is renamed or removed later is still read as it is.
    fn add(&mut self, folder: &str, path: &Path, length: Option<u64>) -> Result<(), StoreError> {
        let unreadable = |e| StoreError::Unavailable(format!("{} cannot be read: {e}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        let length = match length {
            Some(length) => length,
            None => file.metadata().map_err(unreadable)?.len(),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.pieces.push_back(Piece::Text(format!("file {folder}/{name} {length}\n").into_bytes()));
        self.pieces.push_back(Piece::File(path.to_owned(), file, length));
        self.pieces.push_back(Piece::Text(b"\n".to_vec()));
        Ok(())
    }

    /// The next part of it, at most 256 KiB; `None` at its end.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let bytes = match self.pieces.pop_front() {
            None => return Ok(None),
            Some(Piece::Text(text)) => text,
            Some(Piece::End) => format!("end {}\n", hex::encode(&self.digest.clone().finalize())).into_bytes(),
            Some(Piece::File(path, mut file, left)) => {
                let mut bytes = Vec::with_capacity(CHUNK);
                (&mut file).take(left.min(CHUNK as u64)).read_to_end(&mut bytes)?;
                if bytes.is_empty() && left > 0 {
                    return Err(io::Error::other(format!("{} became shorter while it was read", path.display())));
                }
                let left = left - bytes.len() as u64;
                if left > 0 {
                    self.pieces.push_front(Piece::File(path, file, left));
                }
                bytes
            }
        };
        self.digest.update(&bytes);
        Ok(Some(bytes))
    }
}

impl Read for Backup {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            match self.chunk()? {
                Some(chunk) => (self.chunk, self.at) = (chunk, 0),
                None => return Ok(0),
            }
        }
        let read = out.len().min(self.chunk.len() - self.at);
        out[..read].copy_from_slice(&self.chunk[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

/// Whether a file is a whole backup, as its digest says.
pub fn check(path: &Path) -> Result<Manifest, StoreError> {
    open(path, None)
}

/// Reads a backup file to its end, into a folder where one is given.
pub fn open(path: &Path, into: Option<&Path>) -> Result<Manifest, StoreError> {
    let file = File::open(path).map_err(|e| StoreError::Unavailable(format!("{} cannot be read: {e}", path.display())))?;
    unpack(file, into).map_err(|why| match why {
        Bad::Content(why) => StoreError::Unusable(format!("{} is no intact backup: {why}; take another one", path.display())),
        Bad::Disk(e) => StoreError::Unavailable(format!("{} cannot be unpacked: {e}", path.display())),
    })
}

/// Why a backup was not unpacked.
pub enum Bad {
    Content(String),
    Disk(io::Error),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Bad {
        Bad::Disk(error)
    }
}

struct Unpacking<R> {
    from: BufReader<R>,
    digest: Sha256,
}

/// Nothing of what comes out may be believed before the end was met and the digest was right.
pub fn unpack(from: impl Read, into: Option<&Path>) -> Result<Manifest, Bad> {
    let mut unpacking = Unpacking { from: BufReader::with_capacity(CHUNK, from), digest: Sha256::new() };
    if unpacking.line()? != FIRST_LINE.trim_end() {
        return Err(Bad::Content("it does not begin with \"octroi-backup 1\"".into()));
    }
    let manifest = Manifest::parse(&unpacking.line()?).ok_or_else(|| Bad::Content("its second line is no manifest".into()))?;
    loop {
        let expected = hex::encode(&unpacking.digest.clone().finalize());
        let line = unpacking.line()?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["file", name, length] => {
                let length = length.parse().map_err(|_| Bad::Content(format!("{line:?} names no length")))?;
                unpacking.file(name, length, into)?;
            }
            ["end", digest] if digest == expected => break,
            ["end", _] => return Err(Bad::Content("its content is not what its last line says".into())),
            _ => return Err(Bad::Content("a file in it does not end where it should".into())),
        }
    }
    if !unpacking.from.fill_buf()?.is_empty() {
        return Err(Bad::Content("something stands after its end".into()));
    }
    Ok(manifest)
}

impl<R: Read> Unpacking<R> {
    fn line(&mut self) -> Result<String, Bad> {
        let mut bytes = Vec::new();
        (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut bytes)?;
        self.digest.update(&bytes);
        let line = bytes.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
        line.map(str::to_owned).ok_or_else(|| Bad::Content("it ends too early, or was changed".into()))
    }

    fn file(&mut self, name: &str, length: u64, into: Option<&Path>) -> Result<(), Bad> {
        let plain = |part: &str| !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
        let folder = match name.split_once('/') {
            Some((folder @ ("journal" | "usage"), file)) if plain(file) && !file.is_empty() => folder,
            _ => return Err(Bad::Content(format!("it holds a file {name:?}, which is none of a store"))),
        };
        let mut out = match into {
            Some(into) => {
                disk::make_folder(&into.join(folder))?;
                Some(OpenOptions::new().write(true).create_new(true).mode(0o600).open(into.join(name))?)
            }
            None => None,
        };
        let mut left = length;
        let mut bytes = vec![0; CHUNK];
        while left > 0 {
            let part = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
            let read = self.from.read(&mut bytes[..part])?;
            if read == 0 {
                return Err(Bad::Content("it ends too early".into()));
            }
            self.digest.update(&bytes[..read]);
            out.as_mut().map(|out| out.write_all(&bytes[..read])).transpose()?;
            left -= read as u64;
        }
        if let (Some(out), Some(into)) = (out, into) {
            out.sync_all()?;
            disk::sync_folder(&into.join(folder))?;
        }
        if self.line()?.is_empty() { Ok(()) } else { Err(Bad::Content(format!("the file {name} in it does not end where it should"))) }
    }
}

/// Removes a folder that may not be there.
pub fn remove(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Unavailable(format!("{} cannot be removed: {e}", folder.display())))
        }
        _ => Ok(()),
    }
}
