//! A journal whose older files have left: searched, verified and exported from where it begins.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::world::*;
use crate::model::{KeyId, MachineId, OperatorId, Timestamp};
use crate::store::{
    About, Author, Embedded, Filter, Head, Restore, Seq, Store, Subject, disk, rebuild, restore, verify_export, verify_journal,
    verify_store,
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A store that was archived, and went on.
struct Archived {
    folder: TempDir,
    world: World,
    /// Every line that there was before, newest first.
    before: Vec<Value>,
    /// Where the journal stood after each of them, in order.
    heads: Vec<Head>,
}

fn author() -> Author {
    Author { time: NOW, actor: "offline:0".into(), address: None, reason: None }
}

fn open(folder: &Path) -> Embedded {
    Embedded::open_on(folder, Arc::new(disk::Real), 3000).unwrap()
}

fn archived() -> Archived {
    let folder = tempdir().unwrap();
    let store = open(&folder.path().join("data"));
    let mut world = World::default();
    let mut go_on = |store: &Embedded, length| {
        story(length).into_iter().filter_map(|action| world.act(action)).for_each(|entry| drop(store.commit(vec![entry]).unwrap()));
    };
    go_on(&store, 80);
    let before = journal(&store, None, usize::MAX).unwrap();
    let heads = (0..=before.len() as Seq).map(|seq| store.head(Some(seq)).unwrap().unwrap()).collect();
    store.archive(&folder.path().join("old"), &author()).unwrap();
    go_on(&store, 30);
    Archived { folder, world: world.settled(), before, heads }
}

impl Archived {
    fn at(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What was deleted before the archiving, by the lines that left.
    fn gone(&self) -> Vec<Subject> {
        let subjects = self.before.iter().map(|line| line["subject"].as_str().unwrap().parse().unwrap());
        let lives = |subject: &Subject| match subject {
            Subject::Machine(id) => self.world.machines.contains_key(id),
            Subject::Key(id) => self.world.keys.contains_key(id),
            Subject::Operator(id) => self.world.operators.contains_key(id),
        };
        subjects.filter(|subject| !lives(subject)).collect()
    }

    fn first(&self) -> Seq {
        self.before.len() as Seq + 1
    }
}

fn seqs(store: &Embedded, filter: &Filter) -> Vec<Seq> {
    let page = store.history(filter, None, usize::MAX).unwrap();
    assert_eq!(page.next, None);
    page.lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect()
}

#[test]
fn what_was_deleted_is_known_after_an_archiving_a_rebuild_and_a_restore() {
    let case = archived();
    let gone = case.gone();
    let kinds: [fn(&Subject) -> bool; 3] =
        [|id| matches!(id, Subject::Machine(_)), |id| matches!(id, Subject::Key(_)), |id| matches!(id, Subject::Operator(_))];
    assert!(kinds.iter().all(|kind| gone.iter().any(kind)), "some of each kind");
    let judge = |store: &Embedded, how: &str| {
        for subject in &gone {
            assert_eq!(store.was_there(*subject).unwrap(), Some(true), "{subject} {how}");
            let lines = seqs(store, &Filter { subject: Some(About::Record(*subject)), ..Filter::default() });
            assert!(lines.iter().all(|seq| *seq >= case.first()), "{subject} {how}: {lines:?}");
        }
        for never in
            [Subject::Machine(MachineId::from_u128(9)), Subject::Key(KeyId::from_u128(9)), Subject::Operator(OperatorId::from_u128(9))]
        {
            assert_eq!(store.was_there(never).unwrap(), Some(false), "{never} {how}");
        }
    };
    let store = open(&case.at());
    judge(&store, "archived");
    let (mut backup, mut bytes) = (store.backup(NOW).unwrap(), Vec::new());
    backup.read_to_end(&mut bytes).unwrap();
    drop(store);
    rebuild(&case.at()).unwrap();
    let store = open(&case.at());
    judge(&store, "rebuilt");
    // Out of a snapshot into the next one.
    store.archive(&case.folder.path().join("old"), &author()).unwrap();
    drop(store);
    rebuild(&case.at()).unwrap();
    judge(&open(&case.at()), "archived and rebuilt again");
    let (source, other) = (case.folder.path().join("backup"), case.folder.path().join("other"));
    fs::write(&source, bytes).unwrap();
    restore(&Restore { folder: &other, source: Some(&source), accept_rollback: false, author: &author() }).unwrap();
    judge(&open(&other), "restored");
}

#[test]
fn pages_end_where_the_journal_begins() {
    let case = archived();
    let store = open(&case.at());
    let tail = store.head(None).unwrap().unwrap();
    let expected: Vec<Seq> = (case.first()..=tail.seq).rev().collect();
    assert_eq!(seqs(&store, &Filter::default()), expected);
    assert_eq!(store.origin(), case.heads[case.before.len()]);
    assert_eq!(store.entry(case.first() - 1).unwrap(), None);
    assert_eq!(store.entry(case.first()).unwrap().unwrap()["what"], "journal.archived");
    for filter in [
        Filter { actor: Some("socket:root".into()), ..Filter::default() },
        Filter { what: Some("key".into()), ..Filter::default() },
        Filter { since: Some(Timestamp(0)), ..Filter::default() },
    ] {
        let lines = seqs(&store, &filter);
        assert!(!lines.is_empty() && lines.iter().all(|seq| *seq >= case.first()), "{filter:?}: {lines:?}");
    }
    // Also of what lived on, whose links lead to lines that left.
    for id in case.world.machines.keys() {
        let lines = seqs(&store, &Filter { subject: Some(About::Record(Subject::Machine(*id))), ..Filter::default() });
        assert!(lines.iter().all(|seq| *seq >= case.first()), "{id}: {lines:?}");
    }
    let of_store = Filter { subject: Some(About::Store), ..Filter::default() };
    assert_eq!(seqs(&store, &of_store), [case.first()], "lines about the store");
    store.archive(&case.folder.path().join("old"), &author()).unwrap();
    assert_eq!(seqs(&store, &of_store), [tail.seq + 1]);
}

#[test]
fn verification_begins_where_the_journal_does() {
    let case = archived();
    let store = open(&case.at());
    let tail = store.head(None).unwrap().unwrap();
    let heads = [case.heads[3], store.origin(), tail];
    let found = store.verify(&heads).unwrap();
    assert_eq!((found.first, found.entries, found.head), (case.first(), tail.seq - case.first() + 1, tail));
    assert!(found.flaw.is_none() && found.files > 1, "{found:?}");
    let missing: Vec<bool> = found.heads.iter().map(|judged| judged.missing.is_some()).collect();
    assert_eq!(missing, [true, false, false], "what left is to be verified on what left");
    drop(store);
    let stopped = verify_journal(&case.at(), &heads).unwrap();
    assert_eq!((stopped.verified, stopped.mirror), (found, None));

    let journal = case.at().join("journal");
    let log = journal.join(format!("{:08}.log", case.first()));
    let bytes = fs::read(&log).unwrap();
    let mut flipped = bytes.clone();
    let at = bytes.iter().position(|b| *b == b'\n').unwrap() + 200;
    flipped[at] ^= 1;
    fs::write(&log, flipped).unwrap();
    let flaw = verify_journal(&case.at(), &[]).unwrap().verified.flaw.unwrap();
    assert_eq!((flaw.line, flaw.seq), (2, Some(case.first())), "{flaw}");
    let why = verify_store(&case.at()).unwrap_err().to_string();
    assert!(why.contains(&flaw.to_string()), "one notion of verification: {why}");
    fs::write(&log, bytes).unwrap();
    // A snapshot of another name, and then none: nothing stands for what is missing any more.
    let later =
        fs::read_dir(&journal).unwrap().map(|e| e.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "log")).max();
    fs::rename(log.with_extension("snapshot"), later.unwrap().with_extension("snapshot")).unwrap();
    let flaw = verify_journal(&case.at(), &[]).unwrap().verified.flaw.unwrap();
    assert!(flaw.line == 1 && flaw.why.contains("no entry vouches"), "{flaw}");
    let snapshots =
        fs::read_dir(&journal).unwrap().map(|e| e.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "snapshot"));
    snapshots.for_each(|path| fs::remove_file(path).unwrap());
    let flaw = verify_journal(&case.at(), &[]).unwrap().verified.flaw.unwrap();
    assert!(flaw.line == 1 && flaw.why.contains("a file is missing"), "{flaw}");
}

#[test]
fn what_left_verifies_by_itself_and_together_with_what_stayed() {
    let case = archived();
    let (old, whole) = (case.folder.path().join("a"), case.folder.path().join("b"));
    copy_folder(&case.folder.path().join("old"), &old.join("journal"));
    let left = verify_journal(&old, &[case.heads[3], case.heads[case.before.len()]]).unwrap().verified;
    assert!(left.is_good() && left.entries == case.first() - 1, "{left:?}");
    copy_folder(&old, &whole);
    copy_folder(&case.at().join("journal"), &whole.join("journal"));
    let all = verify_journal(&whole, &case.heads).unwrap().verified;
    assert!(all.is_good() && all.first == 1, "{all:?}");
}

#[test]
fn an_export_begins_where_the_journal_does() {
    let case = archived();
    let store = open(&case.at());
    assert_eq!(store.head(Some(case.first() - 2)).unwrap(), None, "archived");
    let (origin, tail) = (store.origin(), store.head(None).unwrap().unwrap());
    let (mut after, mut file) = (origin, tempfile::NamedTempFile::new().unwrap());
    while after != tail {
        let (lines, head) = store.export(after, tail.seq).unwrap();
        assert!(head.seq > after.seq);
        file.write_all(&lines).unwrap();
        after = head;
    }
    let found = verify_export(file.path(), &[origin, tail]).unwrap();
    assert!(found.is_good() && found.first == case.first(), "{found:?}");
}

#[test]
fn an_end_that_was_never_acknowledged_is_told_and_is_no_flaw() {
    let case = archived();
    let good = verify_journal(&case.at(), &[]).unwrap().verified;
    let mut logs: Vec<PathBuf> = fs::read_dir(case.at().join("journal")).unwrap().map(|e| e.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|kind| kind == "log"));
    logs.sort();
    let last = logs.pop().unwrap();
    let lines = fs::read(&last).unwrap();
    let torn = &lines[..40];
    OpenOptions::new().append(true).open(&last).unwrap().write_all(torn).unwrap();
    let found = verify_journal(&case.at(), &[]).unwrap().verified;
    let end = found.unfinished.clone().unwrap();
    assert_eq!((&end.file, end.seq), (&last, Some(good.head.seq + 1)), "{end}");
    assert!(found.is_good() && found.head == good.head, "{found:?}");
    let notes = verify_store(&case.at()).unwrap().notes;
    assert!(notes[0].contains("never acknowledged") && notes[0].contains(&end.to_string()), "{notes:?}");
    // Where nobody can tell, it is one.
    fs::remove_dir_all(case.at().join("sled")).unwrap();
    assert_eq!(verify_journal(&case.at(), &[]).unwrap().verified.flaw, Some(end));
    let store = open(&case.at());
    assert!(store.notices().iter().any(|notice| notice.contains("cut an unacknowledged tail")), "{:?}", store.notices());
    assert!(store.verify(&[good.head]).unwrap().is_good());
}

#[test]
fn a_flipped_bit_in_the_snapshot_is_found() {
    let case = archived();
    let log = case.at().join(format!("journal/{:08}.log", case.first()));
    let snapshot = log.with_extension("snapshot");
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&snapshot, bytes).unwrap();
    let store = open(&case.at());
    let online = store.verify(&[]).unwrap().flaw.unwrap();
    assert_eq!((&online.file, online.line, online.seq), (&log, 2, Some(case.first())), "{online}");
    assert!(online.why.contains("is not the snapshot that it names"), "{online}");
    assert!(store.verify_whole().unwrap_err().to_string().contains(&online.to_string()));
    drop(store);
    assert_eq!(verify_journal(&case.at(), &[]).unwrap().verified.flaw, Some(online));
}

#[test]
fn a_mirror_older_than_what_is_here_is_no_sign_of_a_cut_end() {
    let case = archived();
    let (young, begun) = (case.folder.path().join("young"), case.folder.path().join("begun"));
    copy_folder(&case.folder.path().join("old"), &begun.join("journal"));
    fs::remove_file(begun.join("journal").join(last_log(&begun))).unwrap();
    let store = open(&begun);
    let behind = store.head(None).unwrap().unwrap();
    drop(store);
    copy_folder(&case.at().join("journal"), &young.join("journal"));
    copy_folder(&begun.join("sled"), &young.join("sled"));
    let found = verify_journal(&young, &[]).unwrap();
    assert!(found.verified.is_good(), "{:?}", found.verified);
    let why = found.mirror.unwrap();
    assert!(why.contains(&format!("stands at change {}, and what is here begins with change {}", behind.seq, case.first())), "{why}");
    assert_holds(&open(&young), &case.world);
}

fn last_log(at: &Path) -> PathBuf {
    let names = fs::read_dir(at.join("journal")).unwrap().map(|e| PathBuf::from(e.unwrap().file_name()));
    names.filter(|name| name.extension().is_some_and(|kind| kind == "log")).max().unwrap()
}
