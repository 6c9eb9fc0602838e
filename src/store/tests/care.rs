//! Backup, restore, archive and verification on real files.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use super::world::*;
use crate::model::Timestamp;
use crate::store::{
    Author, Backup, Embedded, Restore, Restored, Store, StoreError, check_backup, disk, rebuild, restore, verify_journal, verify_store,
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn author() -> Author {
    Author { time: NOW, actor: "offline:0".into(), address: None, reason: Some("drill".into()) }
}

fn small(folder: &Path) -> Embedded {
    Embedded::open_on(folder, Arc::new(disk::Real), 3000).unwrap()
}

/// Goes on with a story in a store.
fn go_on(store: &Embedded, world: &mut World, actions: &[Action]) {
    for action in actions {
        if let Some(entry) = world.act(*action) {
            store.commit(vec![entry]).unwrap();
        }
    }
}

fn write_backup(mut backup: Backup, to: &Path) -> PathBuf {
    let mut bytes = Vec::new();
    backup.read_to_end(&mut bytes).unwrap();
    fs::write(to, bytes).unwrap();
    to.to_owned()
}

fn put_back(folder: &Path, source: Option<&Path>, accept_rollback: bool) -> Result<Restored, StoreError> {
    restore(&Restore { folder, source, accept_rollback, author: &author() })
}

/// What is in a closed store.
fn reopened(folder: &Path) -> World {
    let store = small(folder);
    assert_eq!(store.notices(), Vec::<String>::new());
    held(&store)
}

struct Case {
    folder: TempDir,
    backup: PathBuf,
    /// As of the backup, and as of the end.
    then: World,
    now: World,
}

/// A store that went on after its backup.
fn went_on() -> Case {
    let folder = tempdir().unwrap();
    let (at, backup) = (folder.path().join("data"), folder.path().join("backup"));
    let store = small(&at);
    let mut world = World::default();
    go_on(&store, &mut world, &story(40));
    let then = world.settled();
    let taken = store.backup(NOW).unwrap();
    go_on(&store, &mut world, &story(15));
    // Read only now: nothing that came after it was begun is in it.
    write_backup(taken, &backup);
    Case { folder, backup, then, now: world.settled() }
}

impl Case {
    fn at(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

#[test]
fn a_backup_comes_back_as_it_was_in_an_empty_place() {
    let case = went_on();
    let empty = case.folder.path().join("empty");
    let restored = put_back(&empty, Some(&case.backup), false).unwrap();
    assert_eq!((restored.lost, &restored.head), (None, &check_backup(&case.backup).unwrap().head));
    assert_eq!(reopened(&empty), case.then);
    // Nothing was lost, so nothing is added: the history goes on where it was.
    assert_eq!(journal(&small(&empty), None, 1).unwrap()[0]["seq"], restored.head.seq);
    assert!(verify_store(&empty).unwrap().notes.is_empty());
}

#[test]
fn an_older_backup_over_a_newer_store_needs_consent_and_leaves_a_line() {
    let case = went_on();
    let why = put_back(&case.at(), Some(&case.backup), false).unwrap_err().to_string();
    assert!(why.contains("is newer") && why.contains("--accept-rollback"), "{why}");
    assert_eq!(reopened(&case.at()), case.now, "a refusal changes nothing");
    let restored = put_back(&case.at(), Some(&case.backup), true).unwrap();
    let store = small(&case.at());
    assert_holds(&store, &case.then);
    let line = &journal(&store, None, 1).unwrap()[0];
    assert_eq!((&line["what"], &line["actor"], &line["reason"]), (&"store.restored".into(), &"offline:0".into(), &"drill".into()));
    assert_eq!(line["store"]["head"], restored.head.to_string());
    assert!(line["store"]["head_before"].as_str().unwrap() > restored.head.to_string().as_str());
    drop(store);
    // What was there is kept, and can be put back in turn.
    let kept = restored.replaced.unwrap();
    assert_eq!(reopened(&kept), case.now);
}

#[test]
fn a_backup_over_its_own_past_loses_nothing() {
    let case = went_on();
    let older = case.folder.path().join("older");
    put_back(&older, Some(&case.backup), false).unwrap();
    let newer = write_backup(Backup::of_stopped(&case.at(), NOW).unwrap(), &case.folder.path().join("newer"));
    assert_eq!(put_back(&older, Some(&newer), false).unwrap().lost, None);
    assert_eq!(reopened(&older), case.now);
    // And over itself.
    assert_eq!(put_back(&older, Some(&newer), false).unwrap().lost, None);
}

#[test]
fn a_backup_of_another_gateway_needs_consent() {
    let (case, other) = (went_on(), tempdir().unwrap());
    told(&small(other.path()), &story(60).split_off(3));
    let mut world = World::default();
    go_on(&small(&other.path().join("b")), &mut world, &[Action::CreateMachine, Action::CreateMachine, Action::CreateKey(1)]);
    let why = put_back(&other.path().join("b"), Some(&case.backup), false).unwrap_err().to_string();
    assert!(why.contains("another history"), "{why}");
    put_back(&other.path().join("b"), Some(&case.backup), true).unwrap();
    assert_eq!(reopened(&other.path().join("b")), case.then);
}

#[test]
fn a_lost_end_of_the_journal_is_accepted_by_restore_alone() {
    let case = went_on();
    let older = case.folder.path().join("older");
    put_back(&older, Some(&case.backup), false).unwrap();
    fs::remove_dir_all(case.at().join("journal")).unwrap();
    copy_folder(&older.join("journal"), &case.at().join("journal"));
    let refusals = [
        Embedded::open(&case.at()).map(drop).unwrap_err(),
        rebuild(&case.at()).map(drop).unwrap_err(),
        verify_store(&case.at()).map(drop).unwrap_err(),
        put_back(&case.at(), None, false).map(drop).unwrap_err(),
    ];
    refusals.iter().for_each(|why| assert!(why.to_string().contains("--accept-rollback"), "{why}"));
    assert!(put_back(&case.at(), None, true).unwrap().lost.unwrap().contains("is newer"));
    let store = small(&case.at());
    assert_holds(&store, &case.then);
    assert_eq!(journal(&store, None, 1).unwrap()[0]["what"], "store.restored");
    drop(store);
    let why = put_back(&case.at(), None, true).unwrap_err().to_string();
    assert!(why.contains("nothing to accept"), "{why}");
}

#[test]
fn a_flipped_or_missing_byte_in_a_backup_is_refused() {
    let case = went_on();
    let bytes = fs::read(&case.backup).unwrap();
    let empty = case.folder.path().join("empty");
    let damaged = case.folder.path().join("damaged");
    let ends = (bytes.len() - 80..bytes.len()).chain((0..bytes.len()).step_by(997));
    for at in ends {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        for bad in [&flipped[..], &bytes[..at]] {
            fs::write(&damaged, bad).unwrap();
            let why = check_backup(&damaged).unwrap_err().to_string();
            assert!(why.contains("is no intact backup"), "{at}: {why}");
        }
    }
    fs::write(&damaged, [&bytes[..], b"x"].concat()).unwrap();
    assert!(check_backup(&damaged).is_err());
    let mut flipped = bytes;
    flipped[2000] ^= 1;
    fs::write(&damaged, flipped).unwrap();
    assert!(put_back(&empty, Some(&damaged), true).unwrap_err().to_string().contains("is no intact backup"));
    assert_eq!(files(&empty), ["lock"], "nothing of it was put there");
}

#[test]
fn names_in_a_backup_lead_nowhere_else() {
    use sha2::{Digest, Sha256};
    let folder = tempdir().unwrap();
    let head = format!("0:{}", "0".repeat(64));
    for name in ["../x", "journal/../../x", "/etc/x", "journal/.x", "journal/", "sled/db", "journal/a/b"] {
        let text =
            format!("octroi-backup 1\n{{\"head\":\"{head}\",\"first\":1,\"created_at\":\"2027-01-15T08:00:00Z\"}}\nfile {name} 1\nx\n");
        let digest = crate::store::hex::encode(&Sha256::digest(text.as_bytes()));
        let path = folder.path().join("backup");
        fs::write(&path, format!("{text}end {digest}\n")).unwrap();
        let why = check_backup(&path).unwrap_err().to_string();
        assert!(why.contains("none of a store"), "{name}: {why}");
    }
}

#[test]
fn a_restore_cut_off_at_any_step_leaves_the_old_store_or_the_new_one() {
    let case = went_on();
    let done = case.folder.path().join("done");
    put_back(&done, Some(&case.backup), false).unwrap();
    // Before the commit point: whatever lies in restore.new is forgotten.
    let before = case.folder.path().join("before");
    copy_folder(&case.at(), &before);
    copy_folder(&done, &before.join("restore.new"));
    fs::remove_dir_all(before.join("restore.new/journal")).unwrap();
    assert_eq!(reopened(&before), case.now);
    assert!(!before.join("restore.new").exists());
    // After it: as many of the renamings done as you like.
    for steps in 0..=6 {
        let at = case.folder.path().join(format!("after-{steps}"));
        copy_folder(&case.at(), &at);
        copy_folder(&done, &at.join("restore.ready"));
        fs::remove_file(at.join("restore.ready/lock")).unwrap();
        fs::create_dir(at.join("restore.ready/replaced")).unwrap();
        let renamings: Vec<(PathBuf, PathBuf)> = ["journal", "sled"]
            .iter()
            .flat_map(|part| {
                let aside = at.join("restore.ready/replaced").join(part);
                [(at.join(part), aside), (at.join("restore.ready").join(part), at.join(part))]
            })
            .collect();
        renamings.iter().take(steps).for_each(|(from, to)| fs::rename(from, to).unwrap());
        assert!(verify_store(&at).is_err(), "who only looks does not end it");
        assert!(verify_journal(&at, &[]).is_err());
        let store = small(&at);
        assert_holds(&store, &case.then);
        let notices = store.notices();
        assert!(notices[0].contains("a restore that was cut off has been completed"), "{notices:?}");
        drop(store);
        let kept = fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().contains("replaced-")).unwrap();
        assert_eq!(reopened(&kept), case.now, "{steps}");
        assert!(!at.join("restore.ready").exists());
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_archived_journal_leaves_and_the_rest_stands_by_itself() {
    let folder = tempdir().unwrap();
    let (at, to) = (folder.path().join("data"), folder.path().join("archive"));
    let mut world = World::default();
    for round in 0..3 {
        let store = small(&at);
        go_on(&store, &mut world, &story(35));
        let archived = store.archive(&to, &author()).unwrap();
        assert!(archived.files.len() > 2, "{archived:?}");
        assert_eq!(archived.records, world.records());
        let line = &journal(&store, None, 1).unwrap()[0];
        assert_eq!((&line["what"], line["seq"].as_u64()), (&"journal.archived".into(), archived.first));
        assert_eq!(journal(&store, None, usize::MAX).unwrap().len(), 1, "the list goes as far back as there are files");
        assert_holds(&store, &world.settled());
        assert!(store.verify_whole().unwrap().notes.is_empty());
        go_on(&store, &mut world, &story(5));
        // Nothing is older than the last archiving, or it is moved again.
        assert!(store.archive(&to, &author()).unwrap().files.len() >= 2, "a file and its snapshot");
        assert_eq!(store.archive(&to, &author()).unwrap().files, Vec::<String>::new());
        drop(store);
        assert_eq!(reopened(&at), world.settled());
        if round > 0 {
            fs::remove_dir_all(at.join("sled")).unwrap();
            let store = small(&at);
            assert_holds(&store, &world.settled());
            assert!(store.notices()[0].starts_with("sled: missing"));
        }
        let records = world.records();
        assert_eq!((rebuild(&at).unwrap(), verify_store(&at).unwrap().records), (records, records));
    }
    // All of it together is the whole history.
    let whole = folder.path().join("whole");
    copy_folder(&to, &whole.join("journal"));
    copy_folder(&at.join("journal"), &whole.join("journal"));
    assert_eq!(verify_store(&whole).unwrap().journal.first, 1);
    assert_eq!(held(&small(&whole)), world.settled());
    // And what was archived is a history of its own.
    let old = folder.path().join("old");
    copy_folder(&to, &old.join("journal"));
    assert_eq!(verify_store(&old).unwrap().journal.head.seq + 1, verify_store(&at).unwrap().journal.first);
}

#[test]
fn an_archiving_cut_off_at_any_step_leaves_a_whole_store() {
    let folder = tempdir().unwrap();
    let (at, to) = (folder.path().join("data"), folder.path().join("archive"));
    let mut world = World::default();
    let store = small(&at);
    go_on(&store, &mut world, &story(40));
    drop(store);
    let all = folder.path().join("all");
    copy_folder(&at, &all);
    small(&at).archive(&to, &author()).unwrap();
    let left = files(&at.join("journal"));
    let (log, snapshot) = (left[0].clone(), left[1].clone());
    assert!(log.ends_with(".log") && snapshot.ends_with(".snapshot"));
    let copied = |names: &[String], name: &str| {
        let here = folder.path().join(name);
        copy_folder(&all, &here);
        for name in names {
            fs::copy(at.join("journal").join(name), here.join("journal").join(name)).unwrap();
        }
        here
    };
    // 1: the snapshot alone. It is forgotten, and a change takes its number.
    let here = copied(std::slice::from_ref(&snapshot), "1");
    let store = small(&here);
    assert!(!here.join("journal").join(&snapshot).exists());
    go_on(&store, &mut world.clone(), &[Action::CreateMachine]);
    drop(store);
    // 2 to 4: the new file is begun, its line is there, some older files are gone.
    let older: Vec<String> = files(&all.join("journal"));
    for removed in 0..=older.len() {
        let here = copied(&[snapshot.clone(), log.clone()], &format!("2-{removed}"));
        older[..removed].iter().for_each(|name| fs::remove_file(here.join("journal").join(name)).unwrap());
        for mirror in [true, false] {
            if !mirror {
                fs::remove_dir_all(here.join("sled")).unwrap();
            }
            let store = small(&here);
            assert_holds(&store, &world.settled());
            drop(store);
            verify_store(&here).unwrap();
        }
        // Taken up again where it was.
        let store = small(&here);
        store.archive(&to, &author()).unwrap();
        assert_eq!(files(&here.join("journal")).len(), 2);
        assert_holds(&store, &world.settled());
    }
}

#[test]
fn a_snapshot_is_vouched_for_by_the_chain() {
    let folder = tempdir().unwrap();
    let (at, to) = (folder.path().join("data"), folder.path().join("archive"));
    let store = small(&at);
    let world = told(&store, &story(30)).pop().unwrap();
    store.archive(&to, &author()).unwrap();
    drop(store);
    let snapshot = at.join("journal").join(&files(&at.join("journal"))[1]);
    let text = fs::read_to_string(&snapshot).unwrap();
    for changed in [text.replace("\"state\":\"revoked\"", "\"state\":\"active\""), text[..text.len() / 2].to_owned(), String::new()] {
        assert_ne!(changed, text);
        fs::write(&snapshot, &changed).unwrap();
        let why = verify_store(&at).unwrap_err().to_string();
        assert!(why.contains(".snapshot"), "{why}");
        // A good mirror still serves; without one there is nothing to trust.
        assert_eq!(reopened(&at), world);
        let mirror = at.join("sled");
        fs::rename(&mirror, at.join("sled.away")).unwrap();
        assert!(Embedded::open(&at).map(drop).unwrap_err().to_string().contains(".snapshot"));
        let _ = fs::remove_dir_all(&mirror);
        fs::rename(at.join("sled.away"), &mirror).unwrap();
    }
    fs::remove_file(&snapshot).unwrap();
    let why = Embedded::open(&at).map(drop).unwrap_err().to_string();
    assert!(why.contains("begins with change") && why.contains("snapshot"), "{why}");
}

#[test]
fn an_archive_is_not_made_where_it_would_be_lost_or_overwrite() {
    let folder = tempdir().unwrap();
    let (at, to) = (folder.path().join("data"), folder.path().join("archive"));
    let store = small(&at);
    assert_eq!(store.archive(&to, &author()).unwrap().first, None, "no change yet");
    told(&store, &story(20));
    let why = store.archive(&at.join("journal/old"), &author()).unwrap_err().to_string();
    assert!(why.contains("name a folder outside"), "{why}");
    fs::write(to.join("00000001.log"), "somebody else's").unwrap();
    let why = store.archive(&to, &author()).unwrap_err().to_string();
    assert!(why.contains("is there already and differs"), "{why}");
    assert!(at.join("journal/00000001.log").exists());
    fs::remove_file(to.join("00000001.log")).unwrap();
    assert!(!store.archive(&to, &author()).unwrap().files.is_empty());
}

#[test]
fn a_backup_of_an_archived_store_stands_by_itself() {
    let folder = tempdir().unwrap();
    let (at, to) = (folder.path().join("data"), folder.path().join("archive"));
    let store = small(&at);
    let mut world = World::default();
    go_on(&store, &mut world, &story(30));
    store.archive(&to, &author()).unwrap();
    go_on(&store, &mut world, &story(10));
    let backup = write_backup(store.backup(NOW).unwrap(), &folder.path().join("backup"));
    drop(store);
    assert!(check_backup(&backup).unwrap().first > 1);
    put_back(&folder.path().join("other"), Some(&backup), false).unwrap();
    assert_eq!(reopened(&folder.path().join("other")), world.settled());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// What was meant, what the store holds, what a replay in memory leaves, what a backup brings back and what an archived journal leads to.
    #[test]
    fn replay_reload_backup_and_archive_agree(
        groups in prop::collection::vec(prop::collection::vec(action(), 1..5), 1..10),
        care in prop::collection::vec(0u8..6, 10),
    ) {
        let folder = tempdir().unwrap();
        let (at, to) = (folder.path().join("data"), folder.path().join("archive"));
        let mut world = World::default();
        let mut store = small(&at);
        for (n, (group, care)) in groups.into_iter().zip(care).enumerate() {
            store.commit(group.into_iter().filter_map(|a| world.act(a)).collect()).unwrap();
            match care {
                0 => drop(store.archive(&to, &author()).unwrap()),
                1 => {
                    let backup = write_backup(store.backup(NOW).unwrap(), &folder.path().join("backup"));
                    let other = folder.path().join(format!("other-{n}"));
                    put_back(&other, Some(&backup), false).unwrap();
                    prop_assert_eq!(held(&small(&other)), world.settled());
                }
                2 => {
                    drop(store);
                    rebuild(&at).unwrap();
                    store = small(&at);
                }
                _ => {}
            }
            assert_holds(&store, &world.settled());
        }
        let online = store.verify_whole().unwrap();
        drop(store);
        let offline = verify_store(&at).unwrap();
        prop_assert_eq!(&online, &offline);
        prop_assert_eq!(offline.records, world.records());
    }
}

#[test]
fn a_backup_lacks_no_change_that_the_mirror_knows_of() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    told(&store, &story(20));
    let tail = store.head(None).unwrap().unwrap();
    drop(store);
    assert_eq!(Backup::of_stopped(folder.path(), NOW).unwrap().manifest.head, tail);
    let log = folder.path().join("journal/00000001.log");
    let mut bytes = fs::read(&log).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    fs::write(&log, bytes).unwrap();
    let told = |error: Option<StoreError>| error.unwrap().to_string();
    let why = told(Backup::of_stopped(folder.path(), NOW).err());
    assert!(why.contains(&format!("change {} was acknowledged", tail.seq)), "{why}");
    assert_eq!(why, told(Embedded::open(folder.path()).err()), "as a start says it");
}
