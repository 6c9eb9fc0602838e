use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::world::*;
use crate::model::{KeyId, MachineId, OperatorId, Timestamp};
use crate::store::check::{self, Extent, Verified};
use crate::store::draft::Tail;
use crate::store::history::Trace;
use crate::store::{
    About, Embedded, Filter, Head, Seq, Store, StoreError, Subject, disk, history, mirror, verify_export, verify_journal, verify_store,
};

const LOG: &str = "journal/00000001.log";

fn store_with(changes: usize) -> (TempDir, Embedded, World) {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let world = told(&store, &story(changes)).pop().unwrap();
    (folder, store, world)
}

fn seqs(lines: &[Value]) -> Vec<Seq> {
    lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect()
}

/// Every line that a filter lets through, page by page.
fn paged(store: &Embedded, filter: &Filter, limit: usize) -> Vec<Seq> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = store.history(filter, before, limit).unwrap();
        assert!(page.lines.len() <= limit);
        all.extend(seqs(&page.lines));
        match page.next {
            Some(next) => before = Some(next),
            None => return all,
        }
    }
}

fn concerns(line: &Value, id: &str) -> bool {
    let changes = line["changes"].as_array().unwrap();
    line["subject"] == id || changes.iter().any(|change| ["machine", "key", "operator"].iter().any(|kind| change[*kind] == id))
}

// --- pages ---------------------------------------------------------------------------------------------------------------------

#[test]
fn every_filter_gives_the_lines_that_it_says_and_no_others() {
    let (_folder, store, _) = store_with(300);
    let all = journal(&store, None, usize::MAX).unwrap();
    let expected = |is: &dyn Fn(&Value) -> bool| seqs(&all.iter().filter(|line| is(line)).cloned().collect::<Vec<_>>());
    let mut ids: Vec<String> = all.iter().map(|line| line["subject"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert!(ids.len() > 50);
    for id in &ids {
        let filter = Filter { subject: Some(id.parse().unwrap()), ..Filter::default() };
        let found = expected(&|line| concerns(line, id));
        assert!(!found.is_empty());
        for limit in [1, 3, 500] {
            assert_eq!(paged(&store, &filter, limit), found, "{id} by {limit}");
        }
        let both = Filter { actor: Some("socket:élodie".into()), what: Some("key".into()), ..filter };
        let found =
            expected(&|line| concerns(line, id) && line["actor"] == "socket:élodie" && line["what"].as_str().unwrap().starts_with("key."));
        assert_eq!(paged(&store, &both, 2), found, "{id}");
    }
    for actor in ["socket:root", "socket:élodie", "socket:nobody"] {
        let filter = Filter { actor: Some(actor.into()), ..Filter::default() };
        assert_eq!(paged(&store, &filter, 7), expected(&|line| line["actor"] == actor), "{actor}");
    }
    for what in ["key", "machine", "key.revoked", "key.rev", "operator", "store", ""] {
        let is = |line: &Value| line["what"].as_str().unwrap().split('.').next() == Some(what) || line["what"] == what;
        let filter = Filter { what: Some(what.into()), ..Filter::default() };
        assert_eq!(paged(&store, &filter, 5), expected(&is), "{what}");
    }
    let (since, until) = (Timestamp(1_800_000_000_050), Timestamp(1_800_000_000_070));
    let filter = Filter { since: Some(since), until: Some(until), ..Filter::default() };
    let is = |line: &Value| (since..until).contains(&Timestamp::parse(line["time"].as_str().unwrap()).unwrap());
    assert!(!expected(&is).is_empty());
    assert_eq!(paged(&store, &filter, 4), expected(&is));
}

#[test]
fn a_deleted_things_lines_are_found_after_a_restart_and_a_refill() {
    let (folder, store, world) = store_with(200);
    let all = journal(&store, None, usize::MAX).unwrap();
    let gone = |line: &Value| {
        let id = line["subject"].as_str()?.parse().ok()?;
        let lives = match id {
            Subject::Machine(id) => world.machines.contains_key(&id),
            Subject::Key(id) => world.keys.contains_key(&id),
            Subject::Operator(id) => world.operators.contains_key(&id),
        };
        (!lives).then_some(id)
    };
    let gone: Vec<Subject> = all.iter().filter_map(gone).collect();
    let kinds: [fn(&Subject) -> bool; 3] =
        [|id| matches!(id, Subject::Machine(_)), |id| matches!(id, Subject::Key(_)), |id| matches!(id, Subject::Operator(_))];
    assert!(kinds.iter().all(|kind| gone.iter().any(kind)), "some of each kind");
    let judge = |store: &Embedded| {
        for id in &gone {
            let filter = Filter { subject: Some(About::Record(*id)), ..Filter::default() };
            let expected: Vec<Value> = all.iter().filter(|line| concerns(line, &id.to_string())).cloned().collect();
            assert_eq!(paged(store, &filter, 3), seqs(&expected), "{id}");
            assert_eq!(store.was_there(*id).unwrap(), Some(true));
        }
        let never =
            [Subject::Key(KeyId::from_u128(9)), Subject::Machine(MachineId::from_u128(9)), Subject::Operator(OperatorId::from_u128(9))];
        for never in never {
            assert_eq!(store.was_there(never).unwrap(), Some(false));
            let filter = Filter { subject: Some(About::Record(never)), ..Filter::default() };
            assert_eq!(store.history(&filter, None, 9).unwrap(), history::History::default());
        }
    };
    judge(&store);
    drop(store);
    judge(&Embedded::open(folder.path()).unwrap());
    fs::remove_dir_all(folder.path().join("sled")).unwrap();
    judge(&Embedded::open(folder.path()).unwrap());
}

#[test]
fn a_mirror_without_tombstones_opens_and_lines_are_found_all_the_same() {
    let (folder, store, _) = store_with(120);
    let all = journal(&store, None, usize::MAX).unwrap();
    drop(store);
    // As the make before wrote it.
    let old = mirror::Mirror::open(&folder.path().join("sled")).unwrap();
    let applied = old.applied().unwrap().unwrap();
    let mut writes = vec![(b"!tombstones".to_vec(), None)];
    old.walk(b"d", None, |name, _| {
        writes.push((name.to_vec(), None));
        true
    })
    .unwrap();
    assert!(writes.len() > 10);
    old.apply(&[mirror::Writes { applied, writes }]).unwrap();
    drop(old);

    let store = Embedded::open(folder.path()).unwrap();
    assert_eq!(store.notices(), Vec::<String>::new());
    for id in all.iter().map(|line| line["subject"].as_str().unwrap()) {
        let filter = Filter { subject: Some(id.parse().unwrap()), ..Filter::default() };
        let expected: Vec<Value> = all.iter().filter(|line| concerns(line, id)).cloned().collect();
        assert_eq!(paged(&store, &filter, 3), seqs(&expected), "{id}");
    }
    let never = Subject::Key(KeyId::from_u128(9));
    assert_eq!(store.was_there(never).unwrap(), None, "only its lines could tell");
    assert_eq!(history::trace(&store.serving().unwrap(), never).unwrap(), Trace::Unknown);
}

#[test]
fn the_journal_is_searched_and_verified_without_a_mirror() {
    let (_folder, store, _) = store_with(120);
    let all = journal(&store, None, usize::MAX).unwrap();
    store.retire(&store.serving().unwrap(), &mirror::Broken("read: no".into()));
    for id in all.iter().map(|line| line["subject"].as_str().unwrap()) {
        let subject = id.parse().unwrap();
        let filter = Filter { subject: Some(About::Record(subject)), actor: Some("socket:root".into()), ..Filter::default() };
        let is = |line: &&Value| concerns(line, id) && line["actor"] == "socket:root";
        let expected: Vec<Value> = all.iter().filter(is).cloned().collect();
        assert_eq!(paged(&store, &filter, 3), seqs(&expected), "{id}");
        assert_eq!(store.was_there(subject).unwrap(), None);
    }
    assert!(store.verify(&[]).unwrap().is_good());
}

// --- verification --------------------------------------------------------------------------------------------------------------

/// What the files alone say.
fn read(folder: &Path, heads: &[Head]) -> Verified {
    let path = folder.join(LOG);
    check::files(Tail::start(), &[Extent { path, end: u64::MAX }], heads, None).unwrap()
}

fn head_of(store: &Embedded) -> Head {
    store.head(None).unwrap().unwrap()
}

#[test]
fn a_journal_as_it_was_written_is_good_in_every_file_and_online() {
    let folder = tempdir().unwrap();
    let store = Embedded::open_on(folder.path(), Arc::new(disk::Real), 3000).unwrap();
    assert!(store.verify(&[Head::START]).unwrap().is_good(), "nothing is good as well");
    told(&store, &story(60));
    let heads: Vec<Head> = (0..=head_of(&store).seq).map(|seq| store.head(Some(seq)).unwrap().unwrap()).collect();
    let online = store.verify(&heads).unwrap();
    assert!(online.is_good() && online.files > 3, "{online:?}");
    assert_eq!((online.entries, online.head), (head_of(&store).seq, head_of(&store)));
    assert!(matches!(verify_journal(folder.path(), &heads), Err(StoreError::Unusable(why)) if why.contains("holds")));
    drop(store);
    let stopped = verify_journal(folder.path(), &heads).unwrap();
    assert_eq!((stopped.verified, stopped.mirror), (online, None));
}

#[test]
fn every_flipped_bit_is_found_and_placed() {
    let (folder, store, _) = store_with(5);
    let heads = [Head::START, head_of(&store)];
    drop(store);
    let bytes = fs::read(folder.path().join(LOG)).unwrap();
    let good = read(folder.path(), &heads);
    assert!(good.is_good());
    let file = OpenOptions::new().write(true).open(folder.path().join(LOG)).unwrap();
    for bit in 0..bytes.len() * 8 {
        let byte = bytes[bit / 8];
        file.write_all_at(&[byte ^ (1 << (bit % 8))], bit as u64 / 8).unwrap();
        let found = read(folder.path(), &heads);
        file.write_all_at(&[byte], bit as u64 / 8).unwrap();
        let line = 1 + bytes[..bit / 8].iter().filter(|b| **b == b'\n').count() as u64;
        let flaw = found.flaw.unwrap_or_else(|| panic!("bit {bit} of line {line} went unseen"));
        assert_eq!((flaw.line, flaw.seq), (line, line.checked_sub(1).filter(|seq| *seq > 0)), "bit {bit}: {}", flaw.why);
        assert_eq!(found.entries, line.saturating_sub(2));
    }
    assert_eq!(read(folder.path(), &heads), good);
}

/// A journal with other bytes, and the mirror that it had.
fn with(folder: &Path, bytes: &[u8]) -> TempDir {
    let other = tempdir().unwrap();
    copy_folder(folder, other.path());
    fs::write(other.path().join(LOG), bytes).unwrap();
    other
}

#[test]
fn removed_and_swapped_lines_are_found_and_placed() {
    let (folder, store, _) = store_with(12);
    drop(store);
    let bytes = fs::read(folder.path().join(LOG)).unwrap();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    for n in 0..lines.len() - 1 {
        let removed = [&lines[..n], &lines[n + 1..]].concat().concat();
        let mut swapped = lines.clone();
        swapped.swap(n, n + 1);
        for bytes in [removed, swapped.concat()] {
            let flaw = verify_journal(with(folder.path(), &bytes).path(), &[]).unwrap().verified.flaw.unwrap();
            assert_eq!((flaw.line, flaw.seq), (n as u64 + 1, (n > 0).then_some(n as u64)), "{}", flaw.why);
        }
    }
}

#[test]
fn an_end_cut_at_any_line_is_told_by_the_mirror_and_by_a_head() {
    let (folder, store, _) = store_with(12);
    let last = head_of(&store);
    let first = store.head(Some(1)).unwrap().unwrap();
    drop(store);
    let bytes = fs::read(folder.path().join(LOG)).unwrap();
    let ends: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
    for (n, end) in ends[..ends.len() - 1].iter().enumerate() {
        let cut = with(folder.path(), &bytes[..*end]);
        let before = fs::metadata(cut.path().join(LOG)).unwrap().len();
        let found = verify_journal(cut.path(), &[]).unwrap().verified;
        let flaw = found.flaw.unwrap();
        assert_eq!((flaw.line, flaw.seq, found.entries), (n as u64 + 2, Some(n as u64 + 1), n as u64), "{}", flaw.why);
        assert!(flaw.why.contains(&format!("holds changes up to {}", last.seq)), "{}", flaw.why);
        assert_eq!(fs::metadata(cut.path().join(LOG)).unwrap().len(), before, "a verification changes nothing");

        // Without the mirror nothing is left in the folder that could tell.
        fs::remove_dir_all(cut.path().join("sled")).unwrap();
        let alone = verify_journal(cut.path(), &[first, last]).unwrap();
        assert!(alone.verified.flaw.is_none() && alone.mirror.is_some());
        let kept: Vec<bool> = alone.verified.heads.iter().map(|judged| judged.missing.is_none()).collect();
        assert_eq!(kept, [n >= 1, false], "cut after change {n}");
        assert!(!alone.verified.is_good());
        // Nor does one that holds nothing.
        fs::create_dir(cut.path().join("sled")).unwrap();
        let empty = verify_journal(cut.path(), &[first, last]).unwrap();
        assert_eq!((empty.verified, empty.mirror.is_some()), (alone.verified, n > 0), "{:?}", empty.mirror);
    }
}

#[test]
fn a_mirror_that_holds_nothing_says_so() {
    let (folder, store, _) = store_with(12);
    drop(store);
    let sled = folder.path().join("sled");
    fs::remove_dir_all(&sled).unwrap();
    fs::create_dir(&sled).unwrap();
    let found = verify_journal(folder.path(), &[]).unwrap();
    assert_eq!(found.mirror, Some(format!("{} holds nothing", sled.display())));
    assert_eq!(verify_store(folder.path()).unwrap().notes, ["sled holds nothing; the next start fills it from the journal"]);
    // As does that of a store without changes, which is nothing to tell.
    let fresh = tempdir().unwrap();
    drop(Embedded::open(fresh.path()).unwrap());
    let found = verify_journal(fresh.path(), &[]).unwrap();
    assert_eq!((found.verified.is_good(), found.mirror), (true, None));
}

#[test]
fn a_journal_rewritten_after_a_head_was_noted_is_named() {
    let (folder, store, _) = store_with(12);
    let heads = [store.head(Some(5)).unwrap().unwrap(), head_of(&store)];
    drop(store);
    // Another one, whole and with a mirror of its own, that has as many changes.
    let other = tempdir().unwrap();
    let store = Embedded::open(other.path()).unwrap();
    told(&store, &story(41)[4..]);
    let found = store.verify(&heads).unwrap();
    assert!(found.flaw.is_none() && !found.is_good());
    assert!(found.heads.iter().all(|judged| judged.missing.as_ref().unwrap().contains("rewritten")), "{found:?}");
    drop(store);
    // And under the mirror of the first.
    fs::remove_dir_all(other.path().join("sled")).unwrap();
    copy_folder(&folder.path().join("sled"), &other.path().join("sled"));
    let flaw = verify_journal(other.path(), &[]).unwrap().verified.flaw.unwrap();
    assert!(flaw.why.contains("is not the one that the mirror"), "{}", flaw.why);
}

#[test]
fn damage_under_a_running_store_is_found() {
    let (folder, store, _) = store_with(12);
    let file = OpenOptions::new().write(true).open(folder.path().join(LOG)).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - 700).unwrap();
    let flaw = store.verify(&[]).unwrap().flaw.unwrap();
    assert!(flaw.seq.unwrap() >= 11, "{flaw:?}");
}

// --- exports -------------------------------------------------------------------------------------------------------------------

fn export(store: &Embedded, since: Seq, until: Seq) -> Vec<u8> {
    let (mut bytes, mut after) = (Vec::new(), store.head(Some(since - 1)).unwrap().unwrap());
    loop {
        let (lines, head) = store.export(after, until).unwrap();
        if head == after {
            return bytes;
        }
        bytes.extend(lines);
        after = head;
    }
}

fn verified(bytes: &[u8], heads: &[Head]) -> Verified {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    verify_export(file.path(), heads).unwrap()
}

#[test]
fn an_export_verifies_whole_or_in_part_and_holds_no_private_part() {
    let (folder, store, _) = store_with(200);
    let last = head_of(&store);
    let all = export(&store, 1, last.seq);
    let found = verified(&all, &[Head::START, last]);
    assert!(found.is_good(), "{found:?}");
    assert_eq!((found.entries, found.head), (last.seq, last));
    for (since, until) in [(1, 1), (64, 65), (65, 130), (100, last.seq)] {
        let part = export(&store, since, until);
        let (before, end) = (store.head(Some(since - 1)).unwrap().unwrap(), store.head(Some(until)).unwrap().unwrap());
        let found = verified(&part, &[before, end]);
        assert!(found.is_good() && found.entries == until - since + 1, "{found:?}");
        let older = verified(&part, &[store.head(Some(1)).unwrap().unwrap()]);
        assert_eq!(older.is_good(), since == 1, "what came before is not in it");
    }
    let public = journal(&store, None, usize::MAX).unwrap();
    for (line, expected) in all.split_inclusive(|b| *b == b'\n').zip(public.iter().rev()) {
        let mut line: Value = serde_json::from_slice(line).unwrap();
        let added = ["previous_chain", "chain", "private_sha256"].map(|name| line.as_object_mut().unwrap().remove(name).unwrap());
        assert!(added.iter().all(|digest| digest.as_str().unwrap().len() == 64));
        assert_eq!(line, *expected);
    }
    let text = String::from_utf8(all).unwrap();
    assert!(fs::read_to_string(folder.path().join(LOG)).unwrap().contains("eeeeeeeeeeeeeeee"));
    assert!(!text.contains("eeeeeeeeeeeeeeee") && !text.contains("\"hash\"") && !text.contains("\"ops\""));
}

#[test]
fn a_tampered_export_is_named_by_its_line() {
    let (_folder, store, _) = store_with(4);
    let last = head_of(&store);
    let bytes = export(&store, 1, last.seq);
    let line_of = |at: usize| 1 + bytes[..at].iter().filter(|b| **b == b'\n').count() as u64;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let flaw = verified(&flipped, &[]).flaw.unwrap_or_else(|| panic!("bit {bit} went unseen"));
        assert_eq!(flaw.line, line_of(bit / 8), "bit {bit}: {}", flaw.why);
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    let removed = [&lines[..2], &lines[3..]].concat().concat();
    let flaw = verified(&removed, &[]).flaw.unwrap();
    assert_eq!((flaw.line, flaw.seq), (3, Some(3)));
    let cut = lines[..lines.len() - 1].concat();
    assert!(verified(&cut, &[]).is_good(), "what is there is right");
    assert!(!verified(&cut, &[last]).is_good(), "and the head shows what is not");
}

#[test]
fn an_export_never_hands_out_what_does_not_follow() {
    let (_folder, store, _) = store_with(12);
    assert!(store.export(Head::START, 3).is_ok());
    let wrong = Head { seq: 2, ..Head::START };
    assert!(matches!(store.export(wrong, 9), Err(StoreError::Unusable(why)) if why.contains("line 4")));
}
