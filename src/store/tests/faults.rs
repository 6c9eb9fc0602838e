use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tempfile::tempdir;

use super::world::*;
use crate::model::Timestamp;
use crate::store::disk::{Disk, Real};
use crate::store::mirror::Broken;
use crate::store::{Author, Embedded, Health, Store, StoreError, verify_journal, verify_store};

/// A disk that fails from its n-th use on, for so many uses.
#[derive(Default)]
struct Faulty {
    used: AtomicU32,
    from: AtomicU32,
    until: AtomicU32,
    /// Whether what was written before a failing write or sync stays in the file.
    whole: AtomicBool,
}

impl Faulty {
    fn fails(&self) -> bool {
        let n = self.used.fetch_add(1, Ordering::Relaxed);
        (self.from.load(Ordering::Relaxed)..self.until.load(Ordering::Relaxed)).contains(&n)
    }

    fn error<T>(number: i32) -> io::Result<T> {
        Err(io::Error::from_raw_os_error(number))
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<File> {
        if self.fails() { Faulty::error(ENOSPC) } else { Real.create(path) }
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.fails() {
            return Real.write(file, bytes, offset);
        }
        let part = if self.whole.load(Ordering::Relaxed) { bytes } else { &bytes[..bytes.len() / 2] };
        Real.write(file, part, offset)?;
        Faulty::error(ENOSPC)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.fails() { Faulty::error(EIO) } else { Real.sync(file) }
    }

    fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        if self.fails() { Faulty::error(EIO) } else { Real.cut(file, length) }
    }
}

/// What a disk that fails did to it is told, and is no refusal.
fn archive(store: &Embedded, to: &Path) -> Result<(), String> {
    let author = Author { time: Timestamp(1_800_000_000_000), actor: "offline:0".into(), address: None, reason: None };
    match store.archive(to, &author) {
        Ok(_) => Ok(()),
        Err(StoreError::Unavailable(why)) => {
            assert_eq!(store.health(), Health::Refusing(why.clone()));
            Err(why)
        }
        Err(StoreError::Unusable(why) | StoreError::Refused(why)) => panic!("{why}"),
    }
}

/// Runs a story, with an archiving in it, on a disk that fails, recovering after each refusal, and says whether anything failed.
fn run(from: u32, failures: u32, whole: bool) -> bool {
    let disk = Arc::new(Faulty { whole: whole.into(), ..Faulty::default() });
    let folder = tempdir().unwrap();
    let old = tempdir().unwrap();
    let store = Embedded::open_on(folder.path(), disk.clone(), 2500).unwrap();
    disk.from.store(disk.used.load(Ordering::Relaxed) + from, Ordering::Relaxed);
    disk.until.store(disk.from.load(Ordering::Relaxed) + failures, Ordering::Relaxed);
    let mut world = World::default();
    let mut refused = 0;
    for (n, action) in story(14).into_iter().enumerate() {
        if n == 7 && archive(&store, old.path()).is_err() {
            refused += 1;
            store.recover();
        }
        let mut next = world.clone();
        let Some(entry) = next.act(action) else { continue };
        match store.commit(vec![entry]) {
            Ok(_) => {
                assert_eq!(store.health(), Health::Ready);
                world = next;
            }
            Err(StoreError::Unavailable(why)) => {
                assert_eq!(store.health(), Health::Refusing(why));
                refused += 1;
                // The same change is not tried again: it must be gone.
                store.recover();
            }
            Err(StoreError::Unusable(why) | StoreError::Refused(why)) => panic!("{why}"),
        }
        assert_holds(&store, &world.settled());
    }
    let context = format!("{failures} failures from use {from}, whole: {whole}");
    while store.health() != Health::Ready {
        assert!(refused < 20, "{context}: never well again");
        refused += 1;
        store.recover();
    }
    store.commit(vec![world.act(Action::CreateMachine).unwrap()]).unwrap();
    let pages = journal(&store, None, usize::MAX).unwrap();
    assert_eq!(Some(pages.len() as u64 + store.origin().seq), pages[0]["seq"].as_u64(), "{context}");
    drop(store);
    let store = Embedded::open(folder.path()).unwrap();
    assert_holds(&store, &world.settled());
    assert!(!store.notices().iter().any(|n| n.starts_with("sled")), "{context}: {:?}", store.notices());
    refused > 0
}

#[test]
fn whichever_use_of_the_disk_fails_what_was_answered_is_true() {
    for (failures, whole) in [(1, false), (1, true), (2, true), (5, false)] {
        let failed = (0..40).filter(|n| run(*n, failures, whole)).count();
        assert!(failed > 25, "{failed}");
    }
}

/// Lets the start of each file fail that has not this name, and leaves there what is hard to remove.
struct Stubborn;

impl Disk for Stubborn {
    fn create(&self, path: &Path) -> io::Result<File> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("00000001.log" | "probe") => Real.create(path),
            _ => fs::create_dir(path).and_then(|()| Faulty::error(EIO)),
        }
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        Real.write(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        Real.sync(file)
    }

    fn cut(&self, file: &File, length: u64) -> io::Result<()> {
        Real.cut(file, length)
    }
}

#[test]
fn nothing_is_written_while_a_file_that_was_begun_in_vain_is_there() {
    let (folder, old) = (tempdir().unwrap(), tempdir().unwrap());
    let store = Embedded::open_on(folder.path(), Arc::new(Stubborn), 1 << 20).unwrap();
    let mut world = told(&store, &story(6)).pop().unwrap();
    let last = store.head(None).unwrap().unwrap().seq;
    archive(&store, old.path()).unwrap_err();
    let begun = folder.path().join(format!("journal/{:08}.log", last + 1));
    assert!(begun.is_dir());
    store.recover();
    let entry = world.clone().act(Action::CreateMachine).unwrap();
    assert!(matches!(store.commit(vec![entry]), Err(StoreError::Unavailable(_))));
    assert_ne!(store.health(), Health::Ready);
    fs::remove_dir(&begun).unwrap();
    store.recover();
    assert_eq!(store.health(), Health::Ready);
    store.commit(vec![world.act(Action::CreateMachine).unwrap()]).unwrap();
    drop(store);
    assert_holds(&Embedded::open(folder.path()).unwrap(), &world.settled());
}

#[test]
fn a_file_that_was_begun_in_vain_does_not_keep_a_store_from_starting() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let mut world = told(&store, &story(10)).pop().unwrap();
    let tail = store.head(None).unwrap().unwrap();
    drop(store);
    let log = folder.path().join("journal/00000001.log");
    let (begun, later) = (folder.path().join("journal/00000006.log"), folder.path().join(format!("journal/{:08}.log", tail.seq)));
    let header = fs::read(&log).unwrap().split_inclusive(|b| *b == b'\n').next().unwrap().to_vec();
    for (whole, torn) in [(&header[..], &header[..0]), (&header[..9], &header[..])] {
        fs::write(&begun, whole).unwrap();
        fs::write(&later, torn).unwrap();
        let found = verify_journal(folder.path(), &[tail]).unwrap().verified;
        assert!(found.is_good() && found.files == 1, "{found:?}");
        verify_store(folder.path()).unwrap();
        let store = Embedded::open(folder.path()).unwrap();
        assert!(!begun.exists() && !later.exists());
        assert_holds(&store, &world.settled());
    }
    // One line more, and it is another journal's.
    fs::write(&begun, [&header[..], b"x"].concat()).unwrap();
    assert!(matches!(Embedded::open(folder.path()), Err(StoreError::Unusable(_))));
    assert!(!verify_journal(folder.path(), &[]).unwrap().verified.is_good());
    fs::remove_file(&begun).unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    store.commit(vec![world.act(Action::CreateMachine).unwrap()]).unwrap();
}

#[test]
fn a_change_holds_and_is_answered_although_the_mirror_failed_behind_it() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let mut world = told(&store, &story(6)).pop().unwrap();
    let key = world.keys.values().next_back().unwrap().id;
    store.serving().unwrap().fail_writes();
    let revoked = world.act(Action::Revoke(world.keys.len() - 1)).unwrap();
    assert_eq!(store.commit(vec![revoked]).unwrap(), [7]);
    let Health::Refusing(why) = store.health() else { panic!("well") };
    assert!(why.contains("sled failed and must be refilled"), "{why}");
    assert_eq!(journal(&store, None, 1).unwrap()[0]["subject"], key.to_string());
    store.recover();
    assert_eq!(store.health(), Health::Ready);
    assert_holds(&store, &world.settled());
    assert_eq!(store.key(key).unwrap().unwrap().record.state, crate::model::KeyState::Revoked);
    drop(store);
    assert_holds(&Embedded::open(folder.path()).unwrap(), &world.settled());
}

#[test]
fn a_mirror_that_is_being_read_is_not_moved_away() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let mut world = World::default();
    for action in story(10) {
        store.commit(world.act(action).into_iter().collect()).unwrap();
    }
    let reader = store.serving().unwrap();
    store.retire(&reader, &Broken("write: no".into()));
    let Health::Refusing(why) = store.health() else { panic!("well") };
    assert!(why.contains("must be refilled from the journal: write: no"), "{why}");
    assert!(matches!(store.machines(None, 1), Err(StoreError::Unavailable(_))));
    let entry = world.clone().act(Action::CreateMachine).unwrap();
    assert!(matches!(store.commit(vec![entry]), Err(StoreError::Unavailable(_))));
    assert!(journal(&store, None, 1).is_ok(), "the journal does not need the mirror");
    store.recover();
    assert_ne!(store.health(), Health::Ready, "not while somebody reads in the old one");
    drop(reader);
    store.recover();
    assert_eq!(store.health(), Health::Ready);
    assert_holds(&store, &world.settled());
    assert!(store.notices()[0].starts_with("sled: moved aside to"));
    store.commit(vec![world.act(Action::CreateMachine).unwrap()]).unwrap();
    drop(store);
    assert_holds(&Embedded::open(folder.path()).unwrap(), &world.settled());
}
