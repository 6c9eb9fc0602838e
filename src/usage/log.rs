//! The file: frames of entries, appended and synced one flush at a time.
//!
//! A frame is a magic number, the length of its entries, their CRC-32, and they (numbers little-endian). A crash tears the last frame, which is
//! cut off at the next start. Where anything else is damaged, reading goes on at the next magic number that begins an
//! intact frame. A log that has outgrown what it says is written anew beside the old one and takes its name.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::UsageError;
use super::entry::{self, Entry};
use super::sums::{KeyUsage, LastUse, VerdictCounts};
use super::watched::Watched;
use crate::model::{BucketOwner, CalendarCounters, KeyId, OperatorId};

const NAME: &str = "usage.log";
const NEW_NAME: &str = "usage.log.new";

/// The last byte is the version of the format; the first one never occurs in UTF-8.
const MAGIC: [u8; 4] = [0xF5, b'o', b'U', 1];
const HEAD: usize = 12;
/// A frame is closed once it holds this much, and none that claims more than the second is believed.
const FRAME_FULL: usize = 256 * 1024;
const FRAME_MAX: usize = 1024 * 1024;

/// A log is rewritten once it is longer than this, in bytes, and 4 times as long as after the last rewriting.
#[cfg(not(test))]
const REWRITE_ABOVE: u64 = 64 * 1024 * 1024;
#[cfg(test)]
const REWRITE_ABOVE: u64 = 16 * 1024;

/// The open log.
pub(super) struct Log {
    dir: PathBuf,
    pub(super) file: File,
    /// Up to here it is intact and synced.
    good: u64,
    /// Something may stand beyond `good`.
    torn: bool,
    /// The folder may not know of its latest file yet.
    dir_unsynced: bool,
    rewrite_at: u64,
}

impl Log {
    /// Opens the log in `dir`, makes both where they do not exist, and hands every intact entry to `each`, in order.
    /// Answers how many bytes were damaged, a torn end not counted.
    pub fn open(dir: &Path, each: &mut dyn FnMut(Entry)) -> Result<(Log, u64), UsageError> {
        let path = dir.join(NAME);
        let error = |action, path: &Path| {
            let path = path.to_owned();
            move |source| UsageError { action, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error("make the folder", dir))?;
        match std::fs::remove_file(dir.join(NEW_NAME)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error("remove", &dir.join(NEW_NAME))(e)),
            _ => {}
        }
        let file = open_file(&path, false).map_err(error("open", &path))?;
        let scan = scan(&file, each).map_err(error("read", &path))?;
        let mut log =
            Log { dir: dir.to_owned(), file, good: scan.good, torn: scan.torn > 0, dir_unsynced: true, rewrite_at: REWRITE_ABOVE };
        if scan.torn > 0 {
            tracing::warn!(path = %path.display(), bytes = scan.torn, at = scan.good, "the usage log has a torn end, which is cut off");
        }
        if scan.damaged > 0 {
            tracing::error!(path = %path.display(), bytes = scan.damaged, "the usage log is damaged; sums of usage can be too low by what stood there");
        }
        log.mend().map_err(error("repair", &path))?;
        Ok((log, scan.damaged))
    }

    /// Appends whole frames and waits until the disk has them. After an error the log is as it was before.
    pub fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        self.mend()?;
        if frames.is_empty() {
            return Ok(());
        }
        self.torn = true;
        if let Err(error) = self.file.write_all_at(frames, self.good).and_then(|()| self.file.sync_data()) {
            // If this fails as well, the next flush begins with it.
            let _ = self.mend();
            return Err(error);
        }
        self.torn = false;
        self.good += frames.len() as u64;
        Ok(())
    }

    /// Whether [`Log::rewrite`] is due.
    pub fn has_grown(&self) -> bool {
        self.good > self.rewrite_at
    }

    /// Puts in place of the log one that holds what `fill` writes.
    pub fn rewrite(&mut self, fill: &mut dyn FnMut(&mut Frames<BufWriter<&File>>) -> io::Result<()>) -> io::Result<()> {
        // A failure is not tried again before as much has been added as makes a log worth it.
        self.rewrite_at = self.good + REWRITE_ABOVE;
        let path = self.dir.join(NEW_NAME);
        let file = open_file(&path, true)?;
        let mut frames = Frames::new(BufWriter::new(&file));
        fill(&mut frames)?;
        frames.finish()?.flush()?;
        file.sync_all()?;
        let good = file.metadata()?.len();
        std::fs::rename(&path, self.dir.join(NAME))?;
        let rewrite_at = REWRITE_ABOVE.max(4 * good);
        *self = Log { dir: std::mem::take(&mut self.dir), file, good, torn: false, dir_unsynced: true, rewrite_at };
        self.mend()
    }

    pub fn error(&self, action: &'static str, source: io::Error) -> UsageError {
        UsageError { action, path: self.dir.join(NAME), source }
    }

    /// Brings file and folder into the state that the fields promise.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.good)?;
            self.file.sync_data()?;
            self.torn = false;
        }
        if self.dir_unsynced {
            File::open(&self.dir)?.sync_all()?;
            self.dir_unsynced = false;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Log {
    /// Leaves `bytes` behind as an append does that failed and could not be taken back.
    pub fn tear(&mut self, bytes: &[u8]) {
        self.torn = true;
        self.file.write_all_at(bytes, self.good).unwrap();
    }
}

/// A whole frame with these entries.
#[cfg(test)]
pub(super) fn frame_of(entries: &[u8]) -> Vec<u8> {
    let length = entries.len() as u32;
    [&MAGIC[..], &length.to_le_bytes(), &crc(length, entries).to_le_bytes(), entries].concat()
}

fn open_file(path: &Path, anew: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(anew).mode(0o600).open(path)
}

/// Gathers entries into frames.
pub(super) struct Frames<W> {
    out: W,
    entries: Vec<u8>,
}

impl<W: Write> Frames<W> {
    pub fn new(out: W) -> Frames<W> {
        Frames { out, entries: Vec::new() }
    }

    pub fn key(&mut self, id: KeyId, usage: &KeyUsage) -> io::Result<()> {
        entry::write_key(&mut self.entries, id, usage);
        self.close_if_full()
    }

    pub fn without_key(&mut self, counts: &VerdictCounts) -> io::Result<()> {
        entry::write_without_key(&mut self.entries, counts);
        self.close_if_full()
    }

    pub fn counters(&mut self, owner: BucketOwner, counters: &CalendarCounters) -> io::Result<()> {
        entry::write_counters(&mut self.entries, owner, counters);
        self.close_if_full()
    }

    pub fn operator(&mut self, id: OperatorId, last: &LastUse) -> io::Result<()> {
        entry::write_operator(&mut self.entries, id, last);
        self.close_if_full()
    }

    pub fn watched(&mut self, watched: &Watched) -> io::Result<()> {
        entry::write_watched(&mut self.entries, watched);
        self.close_if_full()
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.close()?;
        Ok(self.out)
    }

    fn close_if_full(&mut self) -> io::Result<()> {
        if self.entries.len() >= FRAME_FULL { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> io::Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        // An entry takes some hundred bytes, so a frame stays far below 4 GiB.
        let length = self.entries.len() as u32;
        self.out.write_all(&MAGIC)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&crc(length, &self.entries).to_le_bytes())?;
        self.out.write_all(&self.entries)?;
        self.entries.clear();
        Ok(())
    }
}

/// Over the length too: a damaged one must not find a frame by chance.
fn crc(length: u32, entries: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(entries);
    hasher.finalize()
}

/// What reading a log through found, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Scan {
    /// The end of the last intact frame.
    good: u64,
    /// Damaged before `good`.
    damaged: u64,
    /// Not intact after it.
    torn: u64,
}

fn scan(file: &File, each: &mut dyn FnMut(Entry)) -> io::Result<Scan> {
    let mut window = Window { file, bytes: Vec::new(), start: 0, at: 0, ended: false };
    let (mut good, mut intact) = (0, 0);
    loop {
        if let Some((length, entries)) = window.frame()? {
            entries.into_iter().for_each(&mut *each);
            window.skip(length);
            good = window.at;
            intact += length as u64;
        } else if !window.skip_to_magic()? {
            return Ok(Scan { good, damaged: good - intact, torn: window.at - good });
        }
    }
}

/// The part of a file that is being looked at.
struct Window<'a> {
    file: &'a File,
    bytes: Vec<u8>,
    /// Where in `bytes` the look begins.
    start: usize,
    /// The same in the file.
    at: u64,
    ended: bool,
}

impl Window<'_> {
    /// The intact frame that begins here, and how long it is.
    fn frame(&mut self) -> io::Result<Option<(usize, Vec<Entry>)>> {
        let Some((magic, rest)) = self.ahead(HEAD)?.split_first_chunk::<4>() else { return Ok(None) };
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let Some(sum) = rest.first_chunk::<4>() else { return Ok(None) };
        let (magic, length, sum) = (*magic, u32::from_le_bytes(*length), u32::from_le_bytes(*sum));
        if magic != MAGIC || length as usize > FRAME_MAX {
            return Ok(None);
        }
        let whole = HEAD + length as usize;
        let Some(entries) = self.ahead(whole)?.get(HEAD..whole) else { return Ok(None) };
        if crc(length, entries) != sum {
            return Ok(None);
        }
        match entry::read_all(entries) {
            Some(entries) => Ok(Some((whole, entries))),
            // Nothing is cut or left out of what somebody else wrote on purpose: quotas stand in there.
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("what stands at byte {} was written by a newer octroi: start the newer one", self.at),
            )),
        }
    }

    /// Moves on, by at least one byte, to where a frame could begin; `false` at the end of the file.
    fn skip_to_magic(&mut self) -> io::Result<bool> {
        let ahead = self.ahead(FRAME_MAX)?;
        if ahead.is_empty() {
            return Ok(false);
        }
        let found = memchr::memmem::find(&ahead[1..], &MAGIC).map(|at| at + 1);
        // A magic number can begin in the last three bytes.
        let step = found.unwrap_or_else(|| ahead.len().saturating_sub(MAGIC.len() - 1).max(1));
        self.skip(step);
        Ok(true)
    }

    /// What comes next: `want` bytes or more, fewer only at the end of the file.
    fn ahead(&mut self, want: usize) -> io::Result<&[u8]> {
        while self.bytes.len() - self.start < want && !self.ended {
            self.bytes.drain(..self.start);
            self.start = 0;
            let mut file = self.file;
            let more = want.max(FRAME_MAX) as u64;
            self.ended = Read::take(&mut file, more).read_to_end(&mut self.bytes)? == 0;
        }
        Ok(&self.bytes[self.start..])
    }

    fn skip(&mut self, by: usize) {
        self.start += by;
        self.at += by as u64;
    }
}
