//! A store that was damaged, cut, replaced, filled up or is in use: what can be cured is cured and said, what cannot is not served.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::disk::{Disk, Kind};
use crate::support::client::eventually;
use crate::support::process::{Served, Site};
use crate::support::skip;

const LOG: &str = "journal/00000001.log";

/// A stopped gateway's folder with keys in every state.
struct Kept {
    site: Site,
    /// Values and what calls with them meet.
    values: Vec<(String, &'static str)>,
    machine: String,
}

impl Kept {
    fn new() -> Kept {
        Kept::at(Site::new())
    }

    fn at(site: Site) -> Kept {
        let served = site.start();
        let machine = make_machine(&served, "keeper");
        let mut values = Vec::new();
        for n in 0..6 {
            let (id, value) = make_key(&served, &machine, &format!("prod - key {n}"));
            let verdict = match n % 3 {
                0 => "ok",
                1 => change(&served, &id, "revoke", "key_revoked"),
                _ => change(&served, &id, "deactivate", "key_inactive"),
            };
            values.push((value, verdict));
        }
        let (id, value) = make_key(&served, &machine, "prod - soon gone");
        let (status, _) = served.admin().ask("DELETE", &format!("/v1/keys/{id}"), None);
        assert_eq!(status, 204);
        values.push((value, "key_unknown"));
        let kept = Kept { site, values, machine };
        kept.holds(&served, "before anything happened");
        served.stop();
        kept
    }

    /// A copy to damage.
    fn copy(&self) -> Kept {
        let site = Site::new();
        copy_folder(self.site.data(), site.data());
        Kept { site, values: self.values.clone(), machine: self.machine.clone() }
    }

    fn holds(&self, served: &Served, when: &str) {
        let mut proxy = served.proxy();
        for (n, (value, verdict)) in self.values.iter().enumerate() {
            assert_eq!(proxy.verdict(value), *verdict, "key {n} {when}: {}", served.stderr());
        }
    }

    /// Starts with every key as before, and says `says`.
    fn starts(&self, says: &[&str], when: &str) {
        let served = self.site.start();
        let said = served.stderr();
        says.iter().for_each(|word| assert!(said.contains(word), "{when}: should say {word:?}, said {said}"));
        self.holds(&served, when);
        make_key(&served, &self.machine, "prod - made afterwards");
        served.stop();
    }

    /// Does not start, and says `says`.
    fn refuses(&self, says: &[&str], when: &str) {
        match self.site.try_start() {
            Ok(served) => panic!("{when}: it started: {}", served.stderr()),
            Err(refused) => {
                assert_eq!(refused.code, Some(1), "{when}: {refused:?}");
                says.iter().for_each(|word| assert!(refused.stderr.contains(word), "{when}: should say {word:?}, said {}", refused.stderr));
                assert!(!refused.stderr.contains("panicked"), "{when}: {}", refused.stderr);
            }
        }
    }

    fn log(&self) -> PathBuf {
        self.site.data().join(LOG)
    }
}

fn make_machine(served: &Served, name: &str) -> String {
    let (status, machine) = served.admin().ask("POST", "/v1/machines", Some(&json!({"name": name, "permissions": ["sensors:read"]})));
    assert_eq!(status, 201, "{machine}");
    machine["id"].as_str().unwrap().to_owned()
}

fn make_key(served: &Served, machine: &str, label: &str) -> (String, String) {
    let (status, key) = served.admin().ask("POST", &format!("/v1/machines/{machine}/keys"), Some(&json!({"label": label})));
    assert_eq!(status, 201, "{key}");
    (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
}

/// Sled can have kept an error of the full disk for its next write. The change that meets it holds, and those behind it are refused until the
/// mirror is there anew, without a restart.
fn done_in_the_end(served: &Served, target: &str, body: Option<&Value>, status: u16) -> Value {
    eventually("a change after space returned", || match served.admin().ask("POST", target, body) {
        (503, refused) if refused["code"] == "store_unavailable" => None,
        (got, answer) if got == status => Some(answer),
        (got, answer) => panic!("{got}: {answer}"),
    })
}

fn made_in_the_end(served: &Served, machine: &str, label: &str) -> (String, String) {
    let key = done_in_the_end(served, &format!("/v1/machines/{machine}/keys"), Some(&json!({"label": label})), 201);
    (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
}

fn changed_in_the_end(served: &Served, key: &str, verb: &str) {
    done_in_the_end(served, &format!("/v1/keys/{key}/{verb}"), None, 200);
}

fn change(served: &Served, key: &str, verb: &str, leads_to: &'static str) -> &'static str {
    let (status, key) = served.admin().ask("POST", &format!("/v1/keys/{key}/{verb}"), None);
    assert_eq!(status, 200, "{key}");
    leads_to
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_folder(&entry.path(), &target),
            kind if kind.is_file() => drop(fs::copy(entry.path(), target).unwrap()),
            _ => {}
        }
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_in(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

#[test]
fn t180_damaged_sled_files_lead_to_a_rebuild_with_every_key_as_before() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 5] = [
        ("garbled", |bytes| bytes.iter_mut().enumerate().for_each(|(n, b)| *b ^= (n % 251) as u8 | 1)),
        ("zeroed", |bytes| bytes.fill(0)),
        ("emptied", |bytes| bytes.clear()),
        ("cut in the middle", |bytes| bytes.truncate(bytes.len() / 2)),
        ("with a garbled beginning", |bytes| bytes.iter_mut().take(4096).for_each(|b| *b = !*b)),
    ];
    let kept = Kept::new();
    let sled = kept.site.data().join("sled");
    let mut said_so = 0;
    for (name, harm) in harms {
        for path in files_in(&sled) {
            let mut bytes = fs::read(&path).unwrap();
            if bytes.is_empty() {
                continue;
            }
            harm(&mut bytes);
            let damaged = kept.copy();
            let file = path.strip_prefix(kept.site.data()).unwrap();
            fs::write(damaged.site.data().join(file), bytes).unwrap();
            let when = format!("with {} {name}", file.display());
            let served = damaged.site.start();
            damaged.holds(&served, &when);
            let said = served.stderr();
            // A file whose loss costs sled nothing needs no word; one that holds the records does.
            let is_told = said.contains("sled: ") && said.contains("rebuilt from the journal's");
            assert!(is_told || !file.ends_with("db") || name == "cut in the middle", "{when}: {said}");
            said_so += usize::from(is_told);
            make_key(&served, &damaged.machine, "prod - made afterwards");
            served.stop();
            damaged.starts(&[], &format!("{when}, at the next start"));
        }
    }
    assert!(said_so >= 3);
}

#[test]
fn a_missing_mirror_is_rebuilt() {
    let kept = Kept::new();
    fs::remove_dir_all(kept.site.data().join("sled")).unwrap();
    kept.starts(&["sled: missing", "rebuilt from the journal's"], "without sled");
}

#[test]
fn t210_a_garbled_journal_line_is_refused_by_file_and_line() {
    let kept = Kept::new();
    let bytes = fs::read(kept.log()).unwrap();
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    for mirror in ["beside its mirror", "alone"] {
        for line in 1..lines.len() - 1 {
            let damaged = kept.copy();
            let offset = lines[..line].concat().len() + lines[line].len() / 2;
            let mut garbled = bytes.clone();
            garbled[offset] ^= 0x20;
            fs::write(damaged.log(), garbled).unwrap();
            if mirror == "alone" {
                fs::remove_dir_all(damaged.site.data().join("sled")).unwrap();
            }
            damaged.refuses(&[LOG, &format!("line {}", line + 1)], &format!("line {} garbled, {mirror}", line + 1));
        }
    }
}

#[test]
fn t179_a_torn_end_is_cut_off_and_told() {
    let kept = Kept::new();
    let bytes = fs::read(kept.log()).unwrap();
    let last = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let length = bytes.len() - last;
    // What a group leaves behind whose write was cut short: some of it, nothing but zeros, or the end of a block of something else.
    let ends: [Vec<u8>; 4] = [bytes[last..last + 1].to_vec(), bytes[last..last + length / 2].to_vec(), vec![0; 4096], vec![0xA5; 700]];
    for end in ends {
        let torn = kept.copy();
        OpenOptions::new().append(true).open(torn.log()).unwrap().write_all(&end).unwrap();
        torn.starts(&[LOG, "cut an unacknowledged tail", &format!("{} bytes", end.len())], &format!("with {} torn bytes", end.len()));
        assert!(fs::read(torn.log()).unwrap().starts_with(&bytes), "nothing else was cut");
    }
}

#[test]
fn t179_an_acknowledged_change_that_was_cut_off_is_refused_while_the_mirror_knows_of_it() {
    let kept = Kept::new();
    let bytes = fs::read(kept.log()).unwrap();
    let last = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for length in [last, last + 1, last + 200, bytes.len() - 1] {
        let cut = kept.copy();
        fs::write(cut.log(), &bytes[..length]).unwrap();
        let remedy = if length == last { "restore the newer journal" } else { "bring the file back" };
        cut.refuses(&["journal", remedy], &format!("cut at {length}"));
        fs::write(cut.log(), &bytes).unwrap();
        cut.starts(&[], "with the right journal again");
    }
}

#[test]
fn t185_an_older_journal_is_refused_and_told_what_to_do() {
    let kept = Kept::new();
    let older = kept.copy();
    let served = kept.site.start();
    let (id, value) = make_key(&served, &kept.machine, "prod - revoked after the backup");
    change(&served, &id, "revoke", "key_revoked");
    served.stop();
    for missing in [false, true] {
        let restored = kept.copy();
        fs::remove_dir_all(restored.site.data().join("journal")).unwrap();
        if !missing {
            copy_folder(&older.site.data().join("journal"), &restored.site.data().join("journal"));
        }
        let says =
            ["older than its mirror", "bring revoked keys back", "restore the newer journal", "octroi store restore --accept-rollback"];
        restored.refuses(&says, if missing { "without journal" } else { "with an older journal" });
        let again = restored.site.try_start().err().map(|refused| refused.code);
        assert_eq!(again, Some(Some(1)), "nor by trying again");
        copy_folder(&kept.site.data().join("journal"), &restored.site.data().join("journal"));
        let served = restored.site.start();
        assert_eq!(served.proxy().verdict(&value), "key_revoked");
        restored.holds(&served, "with the right journal");
    }
}

#[test]
fn a_second_process_on_the_same_folder_is_refused_and_the_first_one_undisturbed() {
    let kept = Kept::new();
    let first = kept.site.start();
    let holder = format!("another octroi (pid {}) holds", first.id());
    kept.refuses(&[&holder, "stop it, or point store.path elsewhere"], "the same settings twice");
    // With other settings, so that nothing but the folder is shared.
    let other = Site::with_data(kept.site.data());
    let refused = other.try_start().err().expect("refused");
    assert!(refused.code == Some(1) && refused.stderr.contains(&holder), "{refused:?}");
    kept.holds(&first, "after others tried");
    let (id, value) = make_key(&first, &kept.machine, "prod - made meanwhile");
    change(&first, &id, "revoke", "key_revoked");
    first.kill();
    let next = kept.site.start();
    kept.holds(&next, "after the first one's end");
    assert_eq!(next.proxy().verdict(&value), "key_revoked");
}

#[test]
fn t181_on_a_full_disk_changes_are_refused_and_calls_go_on_until_space_returns() {
    const NAME: &str = "t181_on_a_full_disk_changes_are_refused_and_calls_go_on_until_space_returns";
    let disk = match Disk::make(Kind::Ext4, 16) {
        Ok(disk) => disk,
        Err(reason) => return skip(NAME, &reason),
    };
    let mut kept = Kept::at(Site::with_data(&disk.folder().join("data")));
    let mut served = kept.site.start();
    // So much stays free at first that another write than the round before is the one that fails.
    for spare in (0..8).map(|n| n * 12 * 1024) {
        fill(&disk.folder().join("filler"), spare);
        let refused = fill_up_with_changes(&served, &mut kept);
        assert_eq!(refused["code"], "store_unavailable", "{refused}");
        let (status, ready) = served.admin().get("/readyz");
        assert_eq!(status, 503, "{ready}");
        assert!(ready["reasons"][0].as_str().unwrap().contains("changes are refused"), "{ready}");
        kept.holds(&served, "while the disk is full");

        fs::remove_file(disk.folder().join("filler")).unwrap();
        eventually("readiness after space returned", || (served.admin().get("/readyz").0 == 200).then_some(()));
        kept.holds(&served, "with space again");
        let (id, value) = made_in_the_end(&served, &kept.machine, "prod - with space again");
        changed_in_the_end(&served, &id, "revoke");
        kept.values.push((value, "key_revoked"));
        if spare % (24 * 1024) == 0 {
            served.kill();
            served = kept.site.start();
            kept.holds(&served, "after a restart");
        }
    }
    served.stop();
}

#[test]
fn a_start_on_a_full_disk_serves_from_the_journal_and_keeps_the_mirror_as_a_witness() {
    const NAME: &str = "a_start_on_a_full_disk_serves_from_the_journal_and_keeps_the_mirror_as_a_witness";
    let disk = match Disk::in_memory(16) {
        Ok(disk) => disk,
        Err(reason) => return skip(NAME, &reason),
    };
    let mut kept = Kept::at(Site::with_data(&disk.folder().join("data")));
    let served = kept.site.start();
    let (id, value) = make_key(&served, &kept.machine, "prod - revoked last");
    change(&served, &id, "revoke", "key_revoked");
    kept.values.push((value, "key_revoked"));
    served.stop();
    let filler = disk.folder().join("filler");
    let journal = fs::read(kept.log()).unwrap();
    let last = journal[..journal.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;

    fill(&filler, 0);
    let sled = kept.site.data().join("sled/db");
    let before = fs::read(&sled).unwrap();
    let verified =
        Command::new(env!("CARGO_BIN_EXE_octroi")).args(["store", "verify", "--config"]).arg(kept.site.settings()).output().unwrap();
    assert!(verified.status.success(), "a sound store on a full disk: {verified:?}");
    assert!(fs::read(&sled).unwrap() == before, "it only looks");
    let served = kept.site.try_start_unready().unwrap();
    kept.holds(&served, "started on a full disk");
    let (status, ready) = served.admin().get("/readyz");
    assert_eq!(status, 503, "{ready}");
    assert!(ready["reasons"][0].as_str().unwrap().contains("No space left"), "{ready}");
    let body = json!({"label": "prod - no room"});
    let (status, refused) = served.admin().ask("POST", &format!("/v1/machines/{}/keys", kept.machine), Some(&body));
    assert_eq!((status, &refused["code"]), (503, &json!("store_unavailable")), "{refused}");
    fs::remove_file(&filler).unwrap();
    eventually("readiness after space returned", || (served.admin().get("/readyz").0 == 200).then_some(()));
    let (id, value) = make_key(&served, &kept.machine, "prod - with space again");
    change(&served, &id, "revoke", "key_revoked");
    kept.values.push((value, "key_revoked"));
    kept.holds(&served, "recovered");
    assert!(!served.stop().contains("moved aside"), "the mirror was sound all the time");
    let served = kept.site.start();
    kept.holds(&served, "after a restart");
    served.stop();

    fill(&filler, 0);
    // A journal that lost the revocation is refused while the disk is full, and afterwards.
    fs::write(kept.log(), &journal[..last]).unwrap();
    kept.refuses(&["bring revoked keys back"], "on a full disk");
    fs::remove_file(&filler).unwrap();
    kept.refuses(&["bring revoked keys back"], "with space again");
}

/// Takes all space but `spare` bytes.
fn fill(path: &Path, spare: u64) {
    let mut file = fs::File::create(path).unwrap();
    let block = [0x5A; 4096];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(spare)).unwrap();
    file.sync_all().unwrap();
}

/// Makes keys until one is refused, and notes those that were not. One that was refused was not made.
fn fill_up_with_changes(served: &Served, kept: &mut Kept) -> serde_json::Value {
    for n in 0..2_000 {
        let body = json!({"label": format!("prod - on a full disk {n}")});
        let (status, answer) = served.admin().ask("POST", &format!("/v1/machines/{}/keys", kept.machine), Some(&body));
        match status {
            201 => kept.values.push((answer["secret"].as_str().unwrap().to_owned(), "ok")),
            503 => return answer,
            _ => panic!("{status} {answer}"),
        }
    }
    panic!("the disk never filled up")
}
