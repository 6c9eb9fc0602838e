//! Bringing the mirror to where the journal is: judging what is there, replaying what it lacks, or filling a new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::draft::Tail;
use super::effects::{Base, Effects, Failure};
use super::journal::{Journal, SEGMENT_BYTES};
use super::line::{Chain, Facts, Fault, Line};
use super::mirror::{self, Applied, Broken, Mirror, Writes};
use super::segment::Block;
use super::sum::Sum;
use super::{Head, Seq, StoreError, disk, lock, noted, records, restore, stopped, verify};
use crate::clock::Clock;

/// So many mirrors that were moved aside are kept for whoever wants to look at them.
const DAMAGED_KEPT: usize = 2;

/// What sled writes as it opens, in bytes, and some more.
const ROOM: usize = 1024 * 1024;

const NOWHERE: Applied = Applied { seq: 0, chain: Chain::START };

/// What a start found in place of a mirror.
pub enum Found {
    /// It holds what the journal says was so at `applied`.
    Usable {
        mirror: Mirror,
        applied: Seq,
        sum: Sum,
    },
    Missing,
    /// The disk does not let it be opened: nothing is known of it.
    Unreachable(Broken),
    Damaged(Broken),
}

/// Why a replay did not reach the end of the journal.
pub enum Stuck {
    Mirror(Broken),
    Journal(StoreError),
}

impl From<Broken> for Stuck {
    fn from(broken: Broken) -> Stuck {
        Stuck::Mirror(broken)
    }
}

impl From<StoreError> for Stuck {
    fn from(error: StoreError) -> Stuck {
        Stuck::Journal(error)
    }
}

/// Compares the mirror with the journal. Refuses when the mirror knows of changes that the journal does not: then the journal is cut, or an
/// older one, or another one.
pub fn judge(folder: &Path, journal: &Journal) -> Result<Found, StoreError> {
    let sled = folder.join("sled");
    if sled.exists()
        && let Err(error) = room_to_open(folder)
    {
        noted::judge(folder, journal)?;
        return Ok(Found::Unreachable(Broken(format!("open: {error}"))));
    }
    judge_at(&sled, folder, journal)
}

/// Sled ruins its files when it opens them on a full disk, so it is not let near them there.
fn room_to_open(folder: &Path) -> io::Result<()> {
    let path = folder.join("probe");
    let written = disk::Real.create(&path).and_then(|file| disk::Real.write(&file, &[0; ROOM], 0));
    fs::remove_file(&path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    written
}

/// Likewise, with the mirror or a copy of it elsewhere.
pub fn judge_at(place: &Path, folder: &Path, journal: &Journal) -> Result<Found, StoreError> {
    let found = judge_mirror(place, folder, journal)?;
    noted::judge(folder, journal)?;
    Ok(found)
}

fn judge_mirror(place: &Path, folder: &Path, journal: &Journal) -> Result<Found, StoreError> {
    if !place.exists() {
        return Ok(Found::Missing);
    }
    let mirror = match Mirror::open(place) {
        Ok(mirror) => mirror,
        Err(broken) => return held_or_damaged(broken),
    };
    // First of all, and by itself: this must be seen even when the rest of the mirror is damaged.
    let applied = match mirror.applied() {
        Ok(applied) => applied.unwrap_or(NOWHERE),
        Err(broken) => return Ok(Found::of(broken)),
    };
    knows_it_all(folder, journal, applied.seq)?;
    if applied.seq < journal.origin().seq {
        let why = format!("it stands at change {}, and the changes after it were archived", applied.seq);
        return Ok(Found::Damaged(Broken(why)));
    }
    let (chain, state) = standing(journal, applied.seq)?;
    if chain != applied.chain {
        return Err(foreign(folder, applied.seq));
    }
    Ok(match mirror.check() {
        Ok(sum) if sum == state => Found::Usable { mirror, applied: applied.seq, sum },
        Ok(_) => Found::Damaged(Broken(format!("it does not hold what the journal says it should after change {}", applied.seq))),
        Err(broken) => Found::of(broken),
    })
}

impl Found {
    fn of(broken: Broken) -> Found {
        if broken.is_of_the_disk() { Found::Unreachable(broken) } else { Found::Damaged(broken) }
    }
}

/// What [`judge`] could not do where the disk does not let the mirror be opened: a copy of it elsewhere is asked how far the journal should reach.
pub fn judge_by_copy(folder: &Path, journal: &Journal) -> Result<(), StoreError> {
    let sled = folder.join("sled");
    let head = stopped::mirror_head(&sled).map(|head| head.unwrap_or(Head::START)).map_err(|why| {
        StoreError::Unavailable(format!(
            "the disk of {} is full or failing, and a copy of the mirror elsewhere cannot say how far the journal should reach: {why}; make room, or \
             let TMPDIR name a folder that has some. Nothing was changed",
            folder.display()
        ))
    })?;
    knows_it_all(folder, journal, head.seq)?;
    if head.seq >= journal.origin().seq && standing(journal, head.seq)?.0 != head.chain {
        return Err(foreign(folder, head.seq));
    }
    Ok(())
}

fn knows_it_all(folder: &Path, journal: &Journal, applied: Seq) -> Result<(), StoreError> {
    if applied > journal.tail().seq { Err(older(folder, journal, applied)) } else { Ok(()) }
}

fn foreign(folder: &Path, seq: Seq) -> StoreError {
    StoreError::Unusable(format!(
        "change {seq} in {} is not the one that {} was made from: the journal comes from elsewhere, or was changed; bring the right one back. \
         Only if its loss is accepted, and with it that revoked keys may be valid again: octroi store restore --accept-rollback --config SETTINGS",
        folder.join("journal").display(),
        folder.join("sled").display()
    ))
}

/// Makes a mirror that stands where the journal does of what was found. What the disk alone is to blame for leaves everything as it was.
pub fn bring(found: Found, folder: &Path, journal: &Journal, notices: &mut Vec<String>) -> Result<Mirror, StoreError> {
    let (mirror, applied, sum) = match found {
        Found::Usable { mirror, applied, sum } => (mirror, applied, sum),
        Found::Missing => return fill(folder, journal, notices),
        Found::Unreachable(broken) => return Err(unreachable(folder, &broken)),
        Found::Damaged(Broken(why)) => return anew(folder, journal, &why, notices),
    };
    match catch_up(&mirror, journal, applied, sum) {
        Ok(()) => {
            notices.extend(caught_up(&folder.join("sled"), journal, applied));
            Ok(mirror)
        }
        Err(Stuck::Mirror(broken)) if broken.is_of_the_disk() => Err(unreachable(folder, &broken)),
        Err(Stuck::Mirror(Broken(why))) => {
            drop(mirror);
            anew(folder, journal, &why, notices)
        }
        Err(Stuck::Journal(error)) => Err(error),
    }
}

fn unreachable(folder: &Path, Broken(why): &Broken) -> StoreError {
    StoreError::Unavailable(format!("{} cannot be used: {why}", folder.join("sled").display()))
}

/// What stands in for a mirror that the disk does not allow: the same in memory.
pub fn stand_in(journal: &Journal) -> Result<Mirror, StoreError> {
    let mirror = Mirror::in_memory();
    match from_the_beginning(&mirror, journal) {
        Ok(()) => Ok(mirror),
        Err(Stuck::Mirror(Broken(why))) => Err(StoreError::Unavailable(why)),
        Err(Stuck::Journal(error)) => Err(error),
    }
}

/// The lock of the folder is ours, so who still holds sled's can only be somebody who is no octroi.
fn held_or_damaged(broken: Broken) -> Result<Found, StoreError> {
    if broken.0.contains("could not acquire lock") {
        return Err(StoreError::Unusable(format!("another process holds sled's files: {}; stop it", broken.0)));
    }
    Ok(Found::of(broken))
}

fn older(folder: &Path, journal: &Journal, applied: Seq) -> StoreError {
    let tail = journal.tail().seq;
    let folder = folder.join("journal");
    StoreError::Unusable(match journal.damage() {
        Some(damage) => format!(
            "{} is damaged: {}. The mirror holds changes up to {applied}, so change {} was acknowledged; bring the file back from a backup that is \
             as new",
            damage.place(),
            damage.fault,
            tail + 1
        ),
        None => format!(
            "the journal in {} is older than its mirror: it ends with change {tail}, the mirror holds changes up to {applied}. A lost or restored \
             journal would bring revoked keys back; restore the newer journal. Only if the loss is accepted: octroi store restore --accept-rollback --config SETTINGS",
            folder.display()
        ),
    })
}

/// The head of the chain and the sum after a change that the journal holds, or that stood before its first one.
pub fn standing(journal: &Journal, seq: Seq) -> Result<(Chain, Sum), StoreError> {
    let origin = journal.origin();
    if seq == origin.seq {
        return Ok((origin.chain, origin.state));
    }
    let block = journal.block(seq).ok_or_else(|| StoreError::Unusable(format!("the journal has no change {seq}")))?;
    let mut standing = None;
    block.each(|at, line| {
        if at == seq {
            standing = Some((line.chain, facts(&block, seq, line)?.1));
        }
        Ok(())
    })?;
    standing.ok_or_else(|| block.unusable(seq, "it is not there"))
}

fn facts(block: &Block, seq: Seq, line: &Line<'_>) -> Result<(Facts, Sum), StoreError> {
    let facts = Facts::of(line).and_then(|facts| if facts.seq == seq { Ok(facts) } else { Err(Fault::Content) });
    let facts = facts.and_then(|facts| facts.state().map(|state| (facts, state)));
    facts.map_err(|fault| block.unusable(seq, &fault.to_string()))
}

/// Replays the lines after `applied` upon records that sum up to `sum`. The sum is compared with every line's.
pub fn catch_up(base: &dyn Base, journal: &Journal, applied: Seq, mut sum: Sum) -> Result<(), Stuck> {
    if applied == 0 {
        base.fill(&[mirror::all_tombstones()])?;
    }
    let mut next = applied + 1;
    while let Some(block) = journal.block(next) {
        let mut effects = Effects::upon(base, sum);
        let mut broken = None;
        let end = journal.tail().seq;
        let before = next;
        block.each(|seq, line| {
            if seq < next || seq > end || broken.is_some() {
                return Ok(());
            }
            next = seq + 1;
            match replay(&mut effects, &block, seq, line) {
                Err(Stuck::Journal(error)) => Err(error),
                Err(Stuck::Mirror(failed)) => {
                    broken = Some(failed);
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        })?;
        if let Some(broken) = broken {
            return Err(broken.into());
        }
        if next == before {
            return Err(block.unusable(next, "it is not there").into());
        }
        sum = effects.sum;
        base.apply(&effects.into_lines())?;
    }
    Ok(())
}

/// What to say of a mirror that was found empty: sled takes damaged files for a new store as often as it complains, and so
/// does it look after a process was killed in its first moments.
pub fn caught_up(sled: &Path, journal: &Journal, applied: Seq) -> Option<String> {
    let tail = journal.tail().seq;
    (applied == 0 && tail > 0).then(|| format!("sled: {} held nothing; rebuilt from the journal's {tail} changes", sled.display()))
}

fn replay(effects: &mut Effects<'_>, block: &Block, seq: Seq, line: &Line<'_>) -> Result<(), Stuck> {
    let (facts, state) = facts(block, seq, line)?;
    let private = records::read_private(line.private);
    for op in private.map_err(|e| block.unusable(seq, &format!("its private part cannot be read: {e}")))?.ops {
        match effects.perform(seq, &op) {
            Ok(_) => {}
            Err(Failure::Mirror(broken)) => return Err(broken.into()),
            Err(Failure::Record(e)) => return Err(block.unusable(seq, &format!("a record in it cannot be read: {e}")).into()),
        }
    }
    if effects.sum != state {
        return Err(block.unusable(seq, "its changes do not lead to the state it names").into());
    }
    Ok(effects.end_line(seq, line.chain, &facts.actor)?)
}

/// Makes a mirror where there is none.
pub fn fill(folder: &Path, journal: &Journal, notices: &mut Vec<String>) -> Result<Mirror, StoreError> {
    let tail = journal.tail().seq;
    if tail > 0 {
        notices.push(format!("sled: missing in {}; rebuilt from the journal's {tail} changes", folder.display()));
    }
    let sled = folder.join("sled");
    let failed = |Broken(why)| StoreError::Unavailable(format!("{} cannot be filled from the journal: {why}", sled.display()));
    noted::write(folder, journal)?;
    disk::make_folder(&sled).map_err(|e| failed(Broken(e.to_string())))?;
    let filled = Mirror::open(&sled).map_err(Stuck::Mirror).and_then(|mirror| from_the_beginning(&mirror, journal).map(|()| mirror));
    filled.map_err(|stuck| {
        // Nothing is better than a part: the next try begins anew. Where this fails as well, it finds that part damaged.
        let _ = fs::remove_dir_all(&sled);
        match stuck {
            Stuck::Mirror(broken) => failed(broken),
            Stuck::Journal(error) => error,
        }
    })
}

/// Fills what is empty: from the journal's first change, or where that was archived, from the snapshot on.
pub fn from_the_beginning(base: &dyn Base, journal: &Journal) -> Result<(), Stuck> {
    let Some(snapshot) = journal.snapshot().filter(|_| journal.origin().seq > 0) else {
        return catch_up(base, journal, 0, Sum::default());
    };
    let seq = snapshot.before - 1;
    let (chain, state) = standing(journal, seq)?;
    snapshot.load(base, Tail { seq, chain, state })?;
    base.apply(&[Writes { applied: Applied { seq, chain }, writes: Vec::new() }])?;
    catch_up(base, journal, seq, state)
}

/// Throws the mirror of a stopped gateway away and makes another, however good it was. Says how many records it has. A journal that is older than
/// the mirror is refused: nothing else knows of what it lost.
pub fn rebuild(folder: &Path) -> Result<u64, StoreError> {
    if !folder.join("journal").is_dir() {
        return Err(StoreError::Unavailable(format!("there is no store in {}", folder.display())));
    }
    let _lock = lock::take(folder)?;
    restore::settle(folder)?;
    let mut journal = Journal::read(&folder.join("journal"), Arc::new(disk::Real), SEGMENT_BYTES)?;
    if let Found::Unreachable(broken) = judge(folder, &journal)? {
        return Err(unreachable(folder, &broken));
    }
    journal.settle()?;
    noted::write(folder, &journal)?;
    let sled = folder.join("sled");
    let failed = |why: String| StoreError::Unavailable(format!("{} cannot be made anew: {why}", sled.display()));
    if sled.exists() {
        // What cannot be a mirror may as well be a file.
        if sled.is_dir() { fs::remove_dir_all(&sled) } else { fs::remove_file(&sled) }.map_err(|e| failed(e.to_string()))?;
    }
    let mirror = fill(folder, &journal, &mut Vec::new())?;
    verify::count(&mirror).map_err(|Broken(why)| failed(why))
}

/// Moves a mirror that is of no use aside and makes another.
pub fn anew(folder: &Path, journal: &Journal, why: &str, notices: &mut Vec<String>) -> Result<Mirror, StoreError> {
    noted::write(folder, journal)?;
    let aside = move_aside(folder).map_err(|e| {
        StoreError::Unavailable(format!("{} is damaged ({why}) and cannot be moved aside: {e}", folder.join("sled").display()))
    })?;
    let filled = fill(folder, journal, &mut Vec::new());
    match (&filled, aside) {
        (Ok(_), Some(aside)) => {
            forget_oldest(folder).map_err(|e| StoreError::Unavailable(format!("{} cannot be tidied: {e}", folder.display())))?;
            notices.push(format!(
                "sled: moved aside to {}: {why}; rebuilt from the journal's {} changes",
                aside.display(),
                journal.tail().seq
            ));
        }
        // As it was: the next try moves it again.
        (Err(_), Some(aside)) => fs::rename(&aside, folder.join("sled")).unwrap_or_default(),
        (_, None) => {}
    }
    filled
}

fn move_aside(folder: &Path) -> io::Result<Option<PathBuf>> {
    let sled = folder.join("sled");
    if !sled.exists() {
        return Ok(None);
    }
    let seconds = Clock::system().now().wall.0 / 1000;
    let names = (seconds..).map(|n| folder.join(format!("sled.damaged-{n}")));
    let Some(aside) = names.into_iter().find(|name| !name.exists()) else { return Ok(None) };
    fs::rename(&sled, &aside)?;
    disk::sync_folder(folder)?;
    Ok(Some(aside))
}

fn forget_oldest(folder: &Path) -> io::Result<()> {
    let mut damaged = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("sled.damaged-")) {
            damaged.push(path);
        }
    }
    damaged.sort();
    let spare = damaged.len().saturating_sub(DAMAGED_KEPT);
    damaged.iter().take(spare).try_for_each(fs::remove_dir_all)
}
