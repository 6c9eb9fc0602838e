use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::tempdir;

use super::world::*;
use crate::store::records::{self, StoredOp};
use crate::store::{Embedded, Health, Op, Store, StoreError, disk, hex};

fn small_segments(folder: &std::path::Path) -> Embedded {
    Embedded::open_on(folder, Arc::new(disk::Real), 4096).unwrap()
}

#[test]
fn an_empty_folder_is_a_fresh_store_and_says_nothing() {
    let folder = tempdir().unwrap();
    for _ in 0..2 {
        let store = Embedded::open(&folder.path().join("a/b")).unwrap();
        assert_holds(&store, &World::default());
        assert_eq!((store.health(), store.notices()), (Health::Ready, vec![]));
        assert_eq!(journal(&store, None, 10).unwrap(), Vec::<serde_json::Value>::new());
    }
}

#[test]
fn what_was_committed_is_there_after_a_reopening() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let states = told(&store, &story(40));
    assert_holds(&store, states.last().unwrap());
    drop(store);
    let store = Embedded::open(folder.path()).unwrap();
    assert_holds(&store, states.last().unwrap());
    assert_eq!(store.notices(), Vec::<String>::new());
}

#[test]
fn a_second_process_is_told_who_holds_the_folder() {
    let folder = tempdir().unwrap();
    let _store = Embedded::open(folder.path()).unwrap();
    let Err(StoreError::Unusable(why)) = Embedded::open(folder.path()).map(drop) else { panic!("opened twice") };
    let expected =
        format!("another octroi (pid {}) holds {}; stop it, or point store.path elsewhere", std::process::id(), folder.path().display());
    assert_eq!(why, expected);
}

#[test]
fn files_are_for_their_owner_only() {
    let folder = tempdir().unwrap();
    drop(Embedded::open(folder.path()).unwrap());
    let journal = folder.path().join("journal/00000001.log");
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o644)).unwrap();
    let _store = Embedded::open(folder.path()).unwrap();
    for (path, mode) in
        [("", 0o700), ("journal", 0o700), ("sled", 0o700), ("journal/00000001.log", 0o600), ("lock", 0o600), ("sled/db", 0o600)]
    {
        let has = fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(has, mode, "{path}: {has:o}");
    }
}

#[test]
fn lists_are_paged_in_id_order() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let world = told(&store, &story(60)).pop().unwrap();
    let machines: Vec<_> = world.machines.values().cloned().collect();
    let keys: Vec<_> = world.keys.values().cloned().collect();
    assert!(machines.len() > 3 && keys.len() > 5);
    assert_eq!(store.machines(None, 2).unwrap(), machines[..2]);
    assert_eq!(store.machines(Some(machines[1].id), 100).unwrap(), machines[2..]);
    assert_eq!(store.keys(None, None, 3).unwrap(), keys[..3]);
    assert_eq!(store.keys(None, Some(keys[2].id), 100).unwrap(), keys[3..]);
    assert_eq!(store.keys(None, None, 0).unwrap(), []);
    for machine in &machines {
        let of: Vec<_> = keys.iter().filter(|k| k.machine == machine.id).cloned().collect();
        let mut paged = Vec::new();
        while let Some(key) = store.keys(Some(machine.id), paged.last().map(|k: &crate::model::Key| k.id), 1).unwrap().pop() {
            paged.push(key);
        }
        assert_eq!(paged, of);
    }
}

#[test]
fn the_journal_shows_who_what_before_and_after_and_links_back() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let mut world = World::default();
    let mut commit = |action| store.commit(vec![world.act(action).unwrap()]).unwrap();
    assert_eq!(commit(Action::CreateMachine), [1]);
    assert_eq!(commit(Action::CreateKey(0)), [2]);
    assert_eq!(commit(Action::CreateKey(0)), [3]);
    assert_eq!(commit(Action::Revoke(0)), [4]);
    let lines = journal(&store, None, 1).unwrap();
    let line = &lines[0];
    assert_eq!((&line["seq"], &line["what"], &line["actor"]), (&4.into(), &"key.revoked".into(), &"socket:root".into()));
    assert_eq!((&line["time"], &line["reason"]), (&"2027-01-15T08:00:00.004Z".into(), &"parce que\t\n\"".into()));
    assert_eq!(line["previous"], serde_json::json!({"subject": 2, "actor": 2}));
    let change = &line["changes"][0];
    assert_eq!(change["key"], line["subject"]);
    assert_eq!((&change["before"]["state"], &change["after"]["state"]), (&"active".into(), &"revoked".into()));
    // Deleting a machine takes its keys along, named or not.
    assert_eq!(commit(Action::DeleteMachine(0)), [5]);
    let lines = journal(&store, None, 1).unwrap();
    let changes = lines[0]["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|c| c["after"].is_null() && c["before"].is_object()));
    assert_holds(&store, &World::default());
}

#[test]
fn changes_of_one_group_see_each_other() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let mut world = World::default();
    let actions = [Action::CreateMachine, Action::CreateKey(0), Action::CreateKey(0), Action::Revoke(1), Action::Rename(0)];
    let group: Vec<_> = actions.into_iter().filter_map(|a| world.act(a)).collect();
    assert_eq!(store.commit(group).unwrap(), [1, 2, 3, 4, 5]);
    assert_holds(&store, &world.settled());
    let lines = journal(&store, None, 9).unwrap();
    assert!(lines.iter().all(|l| l["base"] == lines[0]["base"]));
    assert_eq!(lines[1]["changes"][0]["before"]["state"], "active");
    let gone: Vec<_> = [Action::CreateKey(0), Action::DeleteMachine(0)].into_iter().filter_map(|a| world.act(a)).collect();
    store.commit(gone).unwrap();
    assert_holds(&store, &World::default());
    drop(store);
    assert_holds(&Embedded::open(folder.path()).unwrap(), &World::default());
}

#[test]
fn no_hash_stands_anywhere_but_in_the_private_part() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    told(&store, &story(30));
    let shown = serde_json::to_string(&journal(&store, None, 100).unwrap()).unwrap();
    let text = hex::encode(&hash(2).0);
    assert!(!shown.contains(&text[..16]) && !shown.contains("hash"));
    let journal = fs::read_to_string(folder.path().join("journal/00000001.log")).unwrap();
    assert!(journal.contains(&text));
    for line in journal.lines() {
        let public = line.split('\t').nth(2).unwrap();
        assert!(!public.contains(&text[..16]), "{public}");
    }
}

#[test]
fn the_journal_is_paged_newest_first_across_files() {
    let folder = tempdir().unwrap();
    let store = small_segments(folder.path());
    let count = told(&store, &story(300)).len() as u64 - 1;
    let files = fs::read_dir(folder.path().join("journal")).unwrap().count();
    assert!(files > 10, "{files}");
    let seqs = |before, limit| journal(&store, before, limit).unwrap().iter().map(|l| l["seq"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(seqs(None, usize::MAX), (1..=count).rev().collect::<Vec<_>>());
    for before in 1..=count + 2 {
        let top = (before - 1).min(count);
        assert_eq!(seqs(Some(before), 70), (top.saturating_sub(69).max(1)..=top).rev().collect::<Vec<_>>(), "before {before}");
    }
    drop(store);
    let store = small_segments(folder.path());
    assert_eq!(journal(&store, None, usize::MAX).unwrap().len() as u64, count);
}

#[test]
fn a_long_file_is_paged_by_its_offsets() {
    let folder = tempdir().unwrap();
    let store = Embedded::open(folder.path()).unwrap();
    let count = told(&store, &story(400)).len() as u64 - 1;
    drop(store);
    let store = Embedded::open(folder.path()).unwrap();
    for before in [2, 63, 64, 65, 66, 128, 129, 130, 200, count] {
        let page = journal(&store, Some(before), 1).unwrap();
        assert_eq!(page[0]["seq"], before - 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Replay = scan = what was meant, through reopenings with and without a mirror, in groups of any size and files of any length.
    #[test]
    fn journal_mirror_and_model_agree(
        groups in prop::collection::vec(prop::collection::vec(action(), 1..6), 1..24),
        reopen in prop::collection::vec(0u8..8, 24),
    ) {
        let folder = tempdir().unwrap();
        let mut store = small_segments(folder.path());
        let mut world = World::default();
        for (group, reopen) in groups.into_iter().zip(reopen) {
            let entries: Vec<_> = group.into_iter().filter_map(|a| world.act(a)).collect();
            let count = entries.len();
            prop_assert_eq!(store.commit(entries).unwrap().len(), count);
            if reopen < 2 {
                drop(store);
                if reopen == 0 {
                    fs::remove_dir_all(folder.path().join("sled")).unwrap();
                }
                store = small_segments(folder.path());
                prop_assert_eq!(store.notices().iter().filter(|n| !n.starts_with("sled: missing")).count(), 0);
            }
            assert_holds(&store, &world.settled());
        }
    }

    #[test]
    fn records_read_back_as_they_were(actions in prop::collection::vec(action(), 1..40)) {
        let mut world = World::default();
        for op in actions.into_iter().filter_map(|a| world.act(a)).flat_map(|entry| entry.ops) {
            match (&op, StoredOp::from(&op)) {
                (Op::PutMachine(machine), StoredOp::PutMachine(stored)) => {
                    prop_assert_eq!(records::read_machine(stored.to_string().as_bytes()), Ok((**machine).clone()));
                }
                (Op::PutKey(key), StoredOp::PutKey(stored)) => {
                    prop_assert_eq!(records::read_key(stored.to_string().as_bytes()), Ok((**key).clone()));
                }
                (Op::PutOperator(operator), StoredOp::PutOperator(stored)) => {
                    prop_assert_eq!(records::read_operator(stored.to_string().as_bytes()), Ok((**operator).clone()));
                }
                (Op::DeleteMachine(_), StoredOp::DeleteMachine(_))
                | (Op::DeleteKey(_), StoredOp::DeleteKey(_))
                | (Op::DeleteOperator(_), StoredOp::DeleteOperator(_)) => {}
                _ => prop_assert!(false, "another op came out"),
            }
        }
    }
}

#[test]
fn a_record_of_a_newer_version_is_refused_and_no_message_quotes_a_hash() {
    let mut world = World::default();
    world.act(Action::CreateMachine);
    let entry = world.act(Action::CreateKey(0)).unwrap();
    let StoredOp::PutKey(stored) = StoredOp::from(&entry.ops[0]) else { panic!("no key") };
    for (field, value, says) in [
        ("v", serde_json::json!(2), "newer octroi"),
        ("hash", serde_json::json!("eeee"), "no valid value in the field hash"),
        ("hash", serde_json::json!([1, 2]), "unexpected JSON"),
        ("rule", serde_json::json!(1), "unexpected JSON"),
        ("state", serde_json::json!("eeee"), "unexpected JSON"),
        ("permissions", serde_json::json!(["A b"]), "no valid value in the field permissions"),
        ("allowed_ips", serde_json::json!(["x"]), "no valid value in the field allowed_ips"),
    ] {
        let mut changed = stored.clone();
        changed[field] = value;
        if says.contains("newer") {
            changed["rule"] = 1.into();
        }
        let error = records::read_key(changed.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("eeee"), "{field}: {error}");
    }
}
