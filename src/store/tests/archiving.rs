//! What may not happen when a journal is archived, whatever the folder is that it is to go to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::{TempDir, tempdir};

use super::world::*;
use crate::model::Timestamp;
use crate::store::{Author, Embedded, Store, StoreError, disk};

fn author() -> Author {
    Author { time: Timestamp(1_800_000_000_000), actor: "offline:0".into(), address: None, reason: None }
}

/// A store whose journal has some files, in `data`.
fn store() -> (TempDir, Embedded) {
    let folder = tempdir().unwrap();
    let store = Embedded::open_on(&folder.path().join("data"), Arc::new(disk::Real), 3000).unwrap();
    told(&store, &story(40));
    (folder, store)
}

/// What the files hold, by name.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

fn refusal(store: &Embedded, to: &Path) -> String {
    match store.archive(to, &author()) {
        Err(StoreError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_journal_is_not_archived_to_itself_by_whatever_name() {
    let (folder, store) = store();
    let here = folder.path().join("data/journal");
    let before = files(&here);
    let why = refusal(&store, &folder.path().join("nowhere/../data/journal"));
    assert!(why.contains("it goes up with \"..\""), "{why}");
    assert!(!folder.path().join("nowhere").exists(), "nothing was made");
    let link = folder.path().join("link");
    symlink(folder.path().join("data"), &link).unwrap();
    for name in ["data", "data/journal", "data/./journal", "data/later/journal", "link", "link/journal", "link/later"] {
        let why = refusal(&store, &folder.path().join(name));
        assert!(why.contains("it lies in the store's own folder"), "{name}: {why}");
    }
    assert_eq!(files(&here), before);
}

#[test]
fn another_name_of_a_file_is_no_copy_of_it() {
    let (folder, store) = store();
    let (here, to) = (folder.path().join("data/journal"), folder.path().join("old"));
    fs::create_dir(&to).unwrap();
    let first = &files(&here)[0].0;
    let name = to.join(first.file_name().unwrap());
    for link in [fs::hard_link::<&Path, &Path>, |first, name| symlink(first, name)] {
        link(first, &name).unwrap();
        let why = refusal(&store, &to);
        assert!(why.contains("is the same file, not a copy of it"), "{why}");
        assert!(first.exists());
        fs::remove_file(&name).unwrap();
    }
}

#[test]
fn an_archive_is_for_its_owner_whatever_was_there() {
    let (folder, store) = store();
    let (to, elsewhere) = (folder.path().join("old"), folder.path().join("elsewhere"));
    fs::create_dir(&to).unwrap();
    fs::write(&elsewhere, "").unwrap();
    let logs = files(&folder.path().join("data/journal"));
    let parts: Vec<PathBuf> = logs.iter().map(|(path, _)| to.join(path.file_name().unwrap()).with_extension("log.part")).collect();
    for part in &parts[1..] {
        fs::write(part, "").unwrap();
        fs::set_permissions(part, fs::Permissions::from_mode(0o666)).unwrap();
    }
    symlink(&elsewhere, &parts[0]).unwrap();
    store.archive(&to, &author()).unwrap();
    let archived = files(&to);
    assert_eq!(archived.len(), logs.len(), "no part is left");
    for (path, _) in archived {
        let kind = fs::symlink_metadata(&path).unwrap();
        assert!(kind.is_file() && kind.permissions().mode() & 0o777 == 0o600, "{}: {kind:?}", path.display());
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), b"");
}

#[test]
fn an_archiving_that_the_folder_refuses_is_not_journalled() {
    let (folder, store) = store();
    let (here, to) = (folder.path().join("data/journal"), folder.path().join("old"));
    let (before, head) = (files(&here), store.head(None).unwrap());
    fs::create_dir(&to).unwrap();
    // The first of the closed files, and the one that is written.
    for (log, _) in [before.first().unwrap(), before.last().unwrap()] {
        let other = to.join(log.file_name().unwrap());
        fs::write(&other, "somebody else's").unwrap();
        let why = refusal(&store, &to);
        assert!(why.contains("is there already and differs"), "{why}");
        assert_eq!((files(&here), store.head(None).unwrap()), (before.clone(), head));
        fs::remove_file(&other).unwrap();
    }
    store.archive(&to, &author()).unwrap();
    assert_eq!(store.head(None).unwrap().unwrap().seq, head.unwrap().seq + 1);
}
