//! The journal: an append-only chain of lines in files of 64 MiB, `journal/00000001.log` and on, each named by its first line.
//!
//! One `write` and one `fdatasync` for a group decide whether its changes happened. What can go wrong:
//! - *Power is cut before the `fdatasync`*: any part of the group may be missing. It was not acknowledged; the next start cuts it off.
//! - *The write or the `fdatasync` fails*: what of it reached the disk is unknown, and after a failed `fdatasync` the page cache lies about it.
//!   The file is cut back to the end of the group before, and that is synced.
//! - *That fails, too*: nothing more is written until the file was opened anew, cut, synced and its last lines were read back.
//!
//! Files that were archived are missing at the front. The first one that is left is then vouched for by a [snapshot](super::snapshot): all
//! records as they were before its first line, whose digest stands in that line.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::Extent;
use super::disk::{self, Disk};
use super::draft::Tail;
use super::line::{self, FORMAT, Header, PLAIN_FORMAT};
use super::segment::{self, Block, Damage, Segment};
use super::snapshot::Snapshot;
use super::{Seq, StoreError};

/// A new file is begun by the first group that finds the last one this long.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

const PROBE_BYTES: usize = 64 * 1024;

/// Whether the next group may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Good,
    /// The last group could not be written and left no trace. The next one may fare better.
    Failing(String),
    /// What the last group left behind could not be cut off.
    Unsure(String),
}

/// The open journal. There is one writer; readers take [`Block`]s, which never reach beyond what is durable.
pub struct Journal {
    folder: PathBuf,
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    segments: Vec<Segment>,
    file: Option<File>,
    /// What stood before the first line that is here: nothing, unless older files were archived.
    origin: Tail,
    /// The newest one that the journal vouches for.
    snapshot: Option<Snapshot>,
    tail: Tail,
    damage: Option<Damage>,
    condition: Condition,
    /// Files that were begun in vain. A change that they could have held must not be written while they are there.
    leftovers: Vec<PathBuf>,
}

impl Journal {
    /// Reads what is there and changes nothing. Damage that is no unfinished end is refused.
    pub fn read(folder: &Path, disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<Journal, StoreError> {
        let paths = files_in(folder)?;
        let begun = paths.first().map(|first| Segment::origin(first)).transpose()?.flatten();
        let origin = begun.unwrap_or_else(Tail::start);
        let mut tail = origin;
        let mut segments: Vec<Segment> = Vec::new();
        let (mut found, mut leftovers) = (None, Vec::new());
        for (i, path) in paths.iter().enumerate() {
            if segment::is_leftover(path, tail.seq)? {
                leftovers.push(path.clone());
                continue;
            }
            let (segment, damage) = Segment::read(path, &mut tail)?;
            match damage {
                // A file is begun only when all before it is durable.
                Some(damage) if damage.acknowledged || goes_on(&paths[i + 1..], tail.seq)? => return Err(refuse(&damage)),
                damage => found = damage,
            }
            if !found.as_ref().is_some_and(Damage::is_whole) {
                segments.push(segment);
            }
        }
        let mut snapshot = None;
        for segment in segments.iter().rev().filter(|segment| segment.lines > 0) {
            snapshot = Snapshot::vouched_for(&segment.path)?;
            if snapshot.is_some() {
                break;
            }
        }
        if origin.seq > 0 && snapshot.is_none() {
            return Err(begins_nowhere(folder, &paths, origin.seq));
        }
        let folder = folder.to_owned();
        let (damage, condition) = (found, Condition::Good);
        Ok(Journal { folder, disk, segment_bytes, segments, file: None, origin, snapshot, tail, damage, condition, leftovers })
    }

    /// What stood before the first line that is here.
    pub fn origin(&self) -> Tail {
        self.origin
    }

    /// From where a mirror can be filled when the first changes are no longer here.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files in their order, each with its first line's number and how much of it is durable.
    pub fn files(&self) -> impl Iterator<Item = (Seq, &Path, u64)> {
        self.segments.iter().map(|segment| (segment.first, segment.path.as_path(), segment.end))
    }

    /// An end that was never acknowledged, as far as the journal alone can tell.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    pub fn tail(&self) -> Tail {
        self.tail
    }

    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Cuts off an unfinished end, makes all that was read durable (a killed process may have left lines that are in the page cache
    /// only), and opens the journal for writing. Says what was cut.
    pub fn settle(&mut self) -> Result<Option<String>, StoreError> {
        let notice = match self.damage.take() {
            Some(damage) => Some(self.cut_off(&damage).map_err(|e| unwritable(&damage.path, &e))?),
            None => None,
        };
        self.remove_leftovers().and_then(|()| self.remove_strays()).map_err(|e| unwritable(&self.folder, &e))?;
        match self.segments.last() {
            Some(last) => {
                let file = open_to_write(&last.path).map_err(|e| unwritable(&last.path, &e))?;
                file.sync_all().and_then(|()| disk::sync_folder(&self.folder)).map_err(|e| unwritable(&last.path, &e))?;
                self.file = Some(file);
            }
            None => {
                self.begin_segment(PLAIN_FORMAT).map_err(|e| unwritable(&self.folder, &e))?;
            }
        }
        Ok(notice)
    }

    /// A snapshot that no line vouches for is what an archiving left behind that was cut off.
    fn remove_strays(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let number = name.strip_suffix(".snapshot").and_then(|n| n.parse::<Seq>().ok());
            let segment = self.segments.iter().find(|segment| Some(segment.first) == number && segment.lines > 0);
            let vouched = segment.is_some_and(|segment| Snapshot::vouched_for(&segment.path).is_ok_and(|snapshot| snapshot.is_some()));
            if name.ends_with(".snapshot.new") || (number.is_some() && !vouched) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn cut_off(&self, damage: &Damage) -> io::Result<String> {
        if damage.is_whole() {
            std::fs::remove_file(&damage.path)?;
            disk::sync_folder(&self.folder)?;
        } else {
            let file = open_to_write(&damage.path)?;
            file.set_len(damage.offset)?;
            file.sync_all()?;
        }
        Ok(format!("journal: cut an unacknowledged tail of {} bytes at {}: {}", damage.length, damage.place(), damage.fault))
    }

    /// Where the next group will begin. Begins a new file when the last one is full.
    pub fn begin(&mut self) -> Result<u64, StoreError> {
        if let Condition::Unsure(why) = &self.condition {
            return Err(StoreError::Unavailable(why.clone()));
        }
        self.remove_leftovers().map_err(|error| self.failing(&error))?;
        let end = self.segments.last().map_or(u64::MAX, |last| last.end);
        if end < self.segment_bytes {
            return Ok(end);
        }
        self.begin_segment(PLAIN_FORMAT).map_err(|error| self.failing(&error))
    }

    /// Begins a file whose first line will vouch for a snapshot. One that has no line yet will do.
    pub fn begin_after_snapshot(&mut self) -> Result<u64, StoreError> {
        match self.segments.last() {
            Some(last) if last.lines == 0 => self.begin(),
            _ if matches!(self.condition, Condition::Unsure(_)) => self.begin(),
            _ => self.begin_segment(FORMAT).map_err(|error| self.failing(&error)),
        }
    }

    /// From now on the journal rests on this snapshot, which the line `before` vouches for.
    pub fn rest_on(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// Lets go of the files before the one that begins with `first`, whose header says `origin`.
    pub fn forget_before(&mut self, origin: Tail) {
        self.segments.retain(|segment| segment.first > origin.seq);
        self.origin = origin;
    }

    /// The file exists, with a header, for good, before anything is acknowledged in it. Of an attempt that fails nothing may stay: the next
    /// change may go to the file before, and this one would then begin with a change that stands there already.
    fn begin_segment(&mut self, format: u32) -> io::Result<u64> {
        self.remove_leftovers()?;
        let first = self.tail.seq + 1;
        let path = self.folder.join(format!("{first:08}.log"));
        let mut bytes = Vec::new();
        let header = Header { journal: format, first, state: self.tail.state.to_string() };
        line::encode(&self.tail.chain, &serde_json::to_vec(&header).map_err(io::Error::other)?, b"{}", &mut bytes);
        let begun = self.disk.create(&path).and_then(|file| {
            self.disk.write(&file, &bytes, 0)?;
            self.disk.sync(&file)?;
            disk::sync_folder(&self.folder)?;
            Ok(file)
        });
        match begun {
            Ok(file) => self.file = Some(file),
            Err(error) => {
                self.leftovers.push(path);
                if let Err(second) = self.remove_leftovers() {
                    tracing::debug!(error = %second, "a file that could not be begun cannot be removed yet");
                }
                return Err(error);
            }
        }
        let end = bytes.len() as u64;
        self.segments.push(Segment::new(path, first, end));
        Ok(end)
    }

    fn remove_leftovers(&mut self) -> io::Result<()> {
        if self.leftovers.is_empty() {
            return Ok(());
        }
        for path in &self.leftovers {
            disk::remove(path)?;
        }
        // Until then a power cut can bring them back.
        disk::sync_folder(&self.folder)?;
        self.leftovers.clear();
        Ok(())
    }

    /// Makes a group durable: `bytes` are lines that begin at `starts`, and lead to `tail`. When this fails nothing of them is left, or
    /// the journal takes no more.
    pub fn append(&mut self, bytes: &[u8], starts: &[usize], tail: Tail) -> Result<(), StoreError> {
        let (Some(file), Some(last)) = (&self.file, self.segments.last_mut()) else {
            return Err(StoreError::Unavailable("the journal is not open".into()));
        };
        let base = last.end;
        if let Err(error) = self.disk.write(file, bytes, base).and_then(|()| self.disk.sync(file)) {
            return Err(self.cut_back(&error));
        }
        let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
        ends.for_each(|end| last.push(base + end as u64));
        self.tail = tail;
        self.condition = Condition::Good;
        Ok(())
    }

    /// Undoes what of a group was written. Cutting comes even where the file has not grown: a failed `fdatasync` is not to be trusted
    /// with anything.
    fn cut_back(&mut self, error: &io::Error) -> StoreError {
        let (Some(file), Some(last)) = (&self.file, self.segments.last()) else { return self.failing(error) };
        match self.disk.cut(file, last.end).and_then(|()| self.disk.sync(file)) {
            Ok(()) => self.failing(error),
            Err(second) => {
                let why = format!(
                    "{} cannot be written ({error}), nor could what is unfinished be cut off at byte {} ({second})",
                    last.path.display(),
                    last.end
                );
                self.condition = Condition::Unsure(why.clone());
                StoreError::Unavailable(why)
            }
        }
    }

    fn failing(&mut self, error: &io::Error) -> StoreError {
        let why = format!("the journal in {} cannot be written: {error}", self.folder.display());
        self.condition = Condition::Failing(why.clone());
        StoreError::Unavailable(why)
    }

    /// Tries whether the disk can be written again.
    pub fn recover(&mut self) {
        if let Condition::Unsure(_) = self.condition
            && let Err(error) = self.reopen()
        {
            tracing::debug!(%error, "the journal still cannot be cut back");
            return;
        }
        if self.condition != Condition::Good {
            match self.remove_leftovers().and_then(|()| self.probe()) {
                Ok(()) => self.condition = Condition::Good,
                Err(error) => drop(self.failing(&error)),
            }
        }
    }

    /// What a restart would do, but for taking a group that was answered with an error for one that happened.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let Some(last) = self.segments.last() else { return Ok(()) };
        let file = open_to_write(&last.path).map_err(|e| unwritable(&last.path, &e))?;
        self.disk.cut(&file, last.end).and_then(|()| self.disk.sync(&file)).map_err(|e| unwritable(&last.path, &e))?;
        let mut chain = None;
        if let Some(block) = last.block(self.tail.seq) {
            block.each(|_, line| {
                chain = Some(line.chain);
                Ok(())
            })?;
        }
        if last.lines > 0 && chain != Some(self.tail.chain) {
            return Err(StoreError::Unavailable(format!("{} does not end in change {}", last.path.display(), self.tail.seq)));
        }
        self.file = Some(file);
        self.condition = Condition::Failing("the journal was cut back".into());
        Ok(())
    }

    /// Takes no change before [`Journal::recover`] made sure of what is on the disk.
    pub fn doubt(&mut self, why: String) {
        self.condition = Condition::Unsure(why);
    }

    /// Whether something as large as a change can be written.
    pub fn probe(&self) -> io::Result<()> {
        let path = self.folder.join("probe");
        let tried = self.disk.create(&path).and_then(|file| {
            self.disk.write(&file, &[0; PROBE_BYTES], 0)?;
            self.disk.sync(&file)
        });
        // A probe that stays behind disturbs nobody: the next one overwrites it, and a start reads only `.log` files.
        disk::remove(&path)?;
        tried
    }

    /// Its files, each up to where its last durable line ends.
    pub fn extents(&self) -> Vec<Extent> {
        self.segments.iter().map(|segment| Extent { path: segment.path.clone(), end: segment.end }).collect()
    }

    /// The lines around `seq`, if there is such a line.
    pub fn block(&self, seq: Seq) -> Option<Block> {
        if seq > self.tail.seq {
            return None;
        }
        let segment = self.segments.partition_point(|s| s.first <= seq).checked_sub(1)?;
        self.segments[segment].block(seq)
    }
}

/// The files of a journal in their order.
pub fn files_in(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let unreadable = |e: io::Error| StoreError::Unavailable(format!("{} cannot be read: {e}", folder.display()));
    let mut files = Vec::new();
    if !folder.exists() {
        return Ok(Vec::new());
    }
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        files.extend(segment::named(&path).map(|first| (first, path)));
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Whether the journal goes on in any of these files after change `last`.
fn goes_on(paths: &[PathBuf], last: Seq) -> Result<bool, StoreError> {
    for path in paths {
        if !segment::is_leftover(path, last)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn begins_nowhere(folder: &Path, paths: &[PathBuf], before: Seq) -> StoreError {
    let first = paths.first().map_or(folder, PathBuf::as_path);
    StoreError::Unusable(format!(
        "{} begins with change {}: the files of the journal before it are missing, and so is a snapshot to begin with; bring the whole folder back \
         from one backup",
        first.display(),
        before + 1
    ))
}

fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn refuse(damage: &Damage) -> StoreError {
    StoreError::Unusable(format!(
        "{} is damaged: {}. Acknowledged changes stand behind it or in it, so it is no unfinished end that could be cut off. \
         Bring the file back from a backup that is as new; to start without these changes could bring revoked keys back",
        damage.place(),
        damage.fault
    ))
}

fn unwritable(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("{} cannot be written: {error}", path.display()))
}
