use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::tempdir;

use super::world::*;
use crate::store::journal::Journal;
use crate::store::{Embedded, Store, StoreError, disk};

const LOG: &str = "journal/00000001.log";

/// A closed store whose last group has three lines, taken apart: the bytes of its journal, where that group begins, and what was held
/// before the group and after each of its lines.
struct Written {
    bytes: Vec<u8>,
    group: usize,
    states: Vec<World>,
    folder: tempfile::TempDir,
}

fn written() -> Written {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let mut world = World::default();
    for action in story(4) {
        store.commit(vec![world.act(action).unwrap()]).unwrap();
    }
    let group_begins = fs::metadata(folder.path().join(LOG)).unwrap().len() as usize;
    let mut states = vec![world.settled()];
    let mut group = Vec::new();
    for action in [Action::Revoke(1), Action::CreateMachine, Action::DeleteKey(0)] {
        group.push(world.act(action).unwrap());
        states.push(world.settled());
    }
    store.commit(group).unwrap();
    drop(store);
    Written { bytes: fs::read(folder.path().join(LOG)).unwrap(), group: group_begins, states, folder }
}

impl Written {
    /// The same journal with other bytes, and no mirror that could know better.
    fn with(&self, bytes: &[u8]) -> tempfile::TempDir {
        let folder = tempdir().unwrap();
        fs::create_dir(folder.path().join("journal")).unwrap();
        fs::write(folder.path().join(LOG), bytes).unwrap();
        folder
    }

    /// How many lines of the last group end at or before `end`.
    fn lines_until(&self, end: usize) -> usize {
        self.bytes[self.group..end].iter().filter(|b| **b == b'\n').count()
    }
}

fn refusal(folder: &Path) -> String {
    match Embedded::open(folder) {
        Err(StoreError::Unusable(why)) => why,
        Err(other) => panic!("another error: {other}"),
        Ok(store) => panic!("opened: {:?}", store.notices()),
    }
}

#[test]
fn a_last_group_torn_at_any_byte_is_cut_off_and_told() {
    let written = written();
    // The header torn, then every byte of the last group.
    for end in (0..written.bytes.iter().position(|b| *b == b'\n').unwrap()).step_by(17).chain(written.group..=written.bytes.len()) {
        let folder = written.with(&written.bytes[..end]);
        let store = Embedded::open(folder.path()).unwrap();
        let told: Vec<_> = store.notices().into_iter().filter(|n| n.starts_with("journal: cut an unacknowledged tail of")).collect();
        if end < written.group {
            assert_holds(&store, &World::default());
            assert_eq!(told.len(), 1);
            continue;
        }
        assert_holds(&store, &written.states[written.lines_until(end)]);
        let torn = end > written.group && written.bytes[end - 1] != b'\n';
        assert_eq!(told.len(), usize::from(torn), "cut at {end}: {told:?}");
    }
}

#[test]
fn sectors_of_an_unsynced_group_may_be_missing_anywhere() {
    let written = written();
    for hole in (written.group..written.bytes.len()).step_by(61) {
        for garbage in [0u8, b'\n', b'\t', 0xff] {
            let mut bytes = written.bytes.clone();
            let end = (hole + 100).min(bytes.len());
            bytes[hole..end].fill(garbage);
            let folder = written.with(&bytes);
            let store = Embedded::open(folder.path()).unwrap();
            assert_holds(&store, &written.states[written.lines_until(hole)]);
            assert_eq!(store.notices().len(), 2, "cut, and the mirror was missing");
        }
    }
}

#[test]
fn what_was_cut_off_is_gone_and_changes_go_on_behind_the_cut() {
    let written = written();
    let folder = written.with(&written.bytes[..written.bytes.len() - 1]);
    let mut world = written.states[2].clone();
    let store = Embedded::open(folder.path()).unwrap();
    let seq = store.commit(vec![world.act(Action::CreateMachine).unwrap()]).unwrap();
    assert_eq!(seq, [7]);
    drop(store);
    let store = Embedded::open(folder.path()).unwrap();
    assert_holds(&store, &world.settled());
    assert_eq!(store.notices(), Vec::<String>::new());
}

#[test]
fn a_mirror_that_has_seen_a_damaged_line_proves_that_it_was_acknowledged() {
    let written = written();
    for bytes in [&written.bytes[..written.bytes.len() - 1], &written.bytes[..written.group], b""] {
        fs::write(written.folder.path().join(LOG), bytes).unwrap();
        let why = refusal(written.folder.path());
        assert!(why.contains("line 8") || why.contains("older than its mirror") || why.contains("line 1 "), "{why}");
        assert_eq!(fs::read(written.folder.path().join(LOG)).unwrap(), bytes, "a refused journal is left as it is");
    }
    fs::remove_dir_all(written.folder.path().join("journal")).unwrap();
    let why = refusal(written.folder.path());
    assert!(why.contains("older than its mirror") && why.contains("restore the newer journal"), "{why}");
}

#[test]
fn a_journal_from_elsewhere_is_refused() {
    let written = written();
    let other = tempdir().unwrap();
    let store = Embedded::open(other.path()).unwrap();
    told(&store, &story(20));
    drop(store);
    // As long as needed, intact, and not the one.
    let mut bytes = fs::read(other.path().join(LOG)).unwrap();
    fs::write(written.folder.path().join(LOG), &bytes).unwrap();
    let why = refusal(written.folder.path());
    assert!(why.contains("change 7") && why.contains("comes from elsewhere"), "{why}");
    // Intact lines in another order.
    let begins: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    bytes[begins[2]..begins[4]].rotate_left(begins[3] - begins[2]);
    let why = refusal(written_over(&other, &bytes));
    assert!(why.contains("00000001.log line 4 ") && why.contains("does not follow"), "{why}");
}

fn written_over<'f>(folder: &'f tempfile::TempDir, bytes: &[u8]) -> &'f Path {
    fs::write(folder.path().join(LOG), bytes).unwrap();
    folder.path()
}

#[test]
fn every_flipped_bit_is_refused_by_name_or_cut_off_the_end() {
    let written = written();
    let folder = written.with(&written.bytes);
    let lines = written.bytes[..written.group].iter().filter(|b| **b == b'\n').count();
    let file = OpenOptions::new().write(true).open(folder.path().join(LOG)).unwrap();
    // The journal alone is asked: without a mirror that knows better it is what decides.
    for bit in 0..written.bytes.len() * 8 {
        let byte = written.bytes[bit / 8];
        file.write_all_at(&[byte ^ (1 << (bit % 8))], bit as u64 / 8).unwrap();
        let read = Journal::read(&folder.path().join("journal"), Arc::new(disk::Real), u64::MAX);
        file.write_all_at(&[byte], bit as u64 / 8).unwrap();
        match read {
            Err(StoreError::Unusable(why)) => {
                assert!(bit / 8 < written.group, "bit {bit} of the last group: {why}");
                let line = lines_before(&written.bytes, bit / 8) + 1;
                assert!(why.contains(&format!("{LOG} line {line} ")), "bit {bit} in line {line}: {why}");
            }
            Err(other) => panic!("bit {bit}: {other}"),
            Ok(journal) => {
                assert!(bit / 8 >= written.group, "bit {bit} of acknowledged lines went unseen");
                let seq = (lines + written.lines_until(bit / 8)) as u64 - 1;
                assert_eq!((journal.tail().seq, journal.damage().is_some()), (seq, true), "bit {bit}");
            }
        }
    }
}

fn lines_before(bytes: &[u8], at: usize) -> usize {
    bytes[..at].iter().filter(|b| **b == b'\n').count()
}

#[test]
fn damage_in_an_earlier_file_and_a_missing_file_are_refused() {
    let folder = tempdir().unwrap();
    let small = |folder: &Path| Embedded::open_on(folder, Arc::new(disk::Real), 3000);
    let states = told(&small(folder.path()).unwrap(), &story(30));
    let mut files: Vec<PathBuf> = fs::read_dir(folder.path().join("journal")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3);
    fs::remove_dir_all(folder.path().join("sled")).unwrap();

    // A file is begun only when all before it is durable: not even its last line may be damaged.
    let bytes = fs::read(&files[1]).unwrap();
    fs::write(&files[1], &bytes[..bytes.len() - 1]).unwrap();
    let name = files[1].file_name().unwrap().to_str().unwrap();
    let why = refusal(folder.path());
    assert!(why.contains(name) && why.contains("it has no end"), "{why}");
    fs::remove_file(&files[1]).unwrap();
    let why = refusal(folder.path());
    assert!(why.contains("a file of the journal is missing"), "{why}");
    fs::write(&files[1], &bytes).unwrap();

    // A file whose header was never finished holds nothing.
    let next = folder.path().join("journal/00000099.log");
    fs::write(&next, b"00").unwrap();
    let store = small(folder.path()).unwrap();
    assert_holds(&store, states.last().unwrap());
    assert!(store.notices()[0].contains("cut an unacknowledged tail of 2 bytes"), "{:?}", store.notices());
    assert!(!next.exists());
}

#[test]
fn a_damaged_mirror_is_rebuilt_and_told() {
    let origin = tempdir().unwrap();
    let store = Embedded::open(origin.path()).unwrap();
    let expected = told(&store, &story(150)).pop().unwrap();
    drop(store);
    let mut files = Vec::new();
    files_below(&origin.path().join("sled"), &mut files);
    assert!(!files.is_empty());
    let mut rebuilt = 0;
    for file in files {
        let length = fs::metadata(&file).unwrap().len();
        let offsets = [0, 1, 17, length / 3, length / 2, length.saturating_sub(40)];
        for (i, damage) in [garble as fn(&File, u64, u64), zero, cut].into_iter().enumerate() {
            for offset in offsets {
                let folder = tempdir().unwrap();
                copy_folder(origin.path(), folder.path());
                let damaged = folder.path().join(file.strip_prefix(origin.path()).unwrap());
                damage(&OpenOptions::new().write(true).open(&damaged).unwrap(), offset, length);
                let store = Embedded::open(folder.path()).unwrap();
                assert_holds(&store, &expected);
                let notices = store.notices();
                let aside = fs::read_dir(folder.path())
                    .unwrap()
                    .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"))
                    .count();
                assert_eq!(notices.iter().filter(|n| n.starts_with("sled: moved aside to")).count(), aside, "{i} {offset}: {notices:?}");
                rebuilt += aside;
            }
        }
    }
    assert!(rebuilt > 10, "only {rebuilt} were bad enough");
}

fn garble(file: &File, offset: u64, length: u64) {
    let noise: Vec<u8> = (0..200u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    file.write_all_at(&noise[..noise.len().min((length - offset.min(length)) as usize)], offset).unwrap();
}

fn zero(file: &File, offset: u64, length: u64) {
    file.write_all_at(&vec![0; (length - offset.min(length)) as usize], offset).unwrap();
}

fn cut(file: &File, offset: u64, _: u64) {
    file.set_len(offset).unwrap();
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

#[test]
fn an_older_mirror_catches_up_without_being_rebuilt() {
    let folder = tempdir().unwrap();
    let old = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let mut world = World::default();
    for action in story(20) {
        store.commit(world.act(action).into_iter().collect()).unwrap();
    }
    drop(store);
    copy_folder(&folder.path().join("sled"), old.path());
    let store = Embedded::open(folder.path()).unwrap();
    for action in story(80) {
        store.commit(world.act(action).into_iter().collect()).unwrap();
    }
    drop(store);
    fs::remove_dir_all(folder.path().join("sled")).unwrap();
    copy_folder(old.path(), &folder.path().join("sled"));
    let store = Embedded::open(folder.path()).unwrap();
    assert_holds(&store, &world.settled());
    assert_eq!(store.notices(), Vec::<String>::new());
}

#[test]
fn a_mirror_with_a_record_too_many_too_few_or_too_old_is_rebuilt() {
    use crate::store::line::Chain;
    use crate::store::mirror::{Applied, Mirror, Writes, index_name, key_name, key_value, machine_name};
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let world = told(&store, &story(30)).pop().unwrap();
    drop(store);
    let key = world.keys.values().next().unwrap().clone();
    let lies: [(Vec<u8>, Option<Vec<u8>>); 7] = [
        (machine_name(key.machine), None),
        // What the index knows nothing of: the right key of the right machine, as it once was.
        (key_name(key.id), Some(key_value(1, key.machine, b"{}"))),
        (key_name(key.id), None),
        (key_name(key.id), Some(vec![0; 40])),
        (key_name(crate::model::KeyId::from_u128(1)), Some(vec![0; 40])),
        (index_name(key.machine, key.id), None),
        (b"x".to_vec(), Some(vec![])),
    ];
    for (n, lie) in lies.into_iter().enumerate() {
        let mirror = Mirror::open(&folder.path().join("sled")).unwrap();
        let applied: Applied = mirror.applied().unwrap().unwrap();
        assert_ne!(applied.chain, Chain::START);
        mirror.apply(&[Writes { applied, writes: vec![lie] }]).unwrap();
        drop(mirror);
        let store = Embedded::open(folder.path()).unwrap();
        assert_holds(&store, &world);
        assert!(store.notices()[0].starts_with("sled: moved aside"), "lie {n}: {:?}", store.notices());
    }
    let kept =
        fs::read_dir(folder.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("damaged")).count();
    assert_eq!(kept, 2, "no more than two mirrors are kept aside");
}

#[test]
fn a_journal_that_lost_changes_is_noticed_without_its_mirror_too() {
    let emptied = |sled: &Path| {
        fs::remove_dir_all(sled).unwrap();
        fs::create_dir(sled).unwrap();
    };
    let ruined = |sled: &Path| {
        let db = OpenOptions::new().write(true).open(sled.join("db")).unwrap();
        let length = db.metadata().unwrap().len();
        db.write_all_at(&vec![0x5A; length as usize], 0).unwrap();
        fs::remove_file(sled.join("conf")).unwrap();
    };
    let gone = |sled: &Path| fs::remove_dir_all(sled).unwrap();
    for harm in [&emptied as &dyn Fn(&Path), &ruined, &gone] {
        let written = written();
        let folder = written.folder.path();
        harm(&folder.join("sled"));
        fs::write(folder.join(LOG), &written.bytes[..written.group]).unwrap();
        for _ in 0..2 {
            let why = refusal(folder);
            assert!(why.contains("ends with change 4, and") && why.contains("notes that it went on to change 7"), "{why}");
        }
        fs::write(folder.join(LOG), &written.bytes).unwrap();
        assert_holds(&Embedded::open(folder).unwrap(), written.states.last().unwrap());
    }
}
