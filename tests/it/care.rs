//! The care of the store with the real program: backup under load, restore, archive, and a process that is killed meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::process::{Served, Site};
use crate::support::program::{BINARY, Ran, octroi, run};

/// Clients that make changes while a backup is taken.
const WRITERS: usize = 64;
/// Times that a restore and an archiving are killed.
const KILLS: u64 = 25;

/// A site with keys, and commands on it.
struct Kept {
    site: Site,
    machine: String,
}

impl Kept {
    /// Served once, with a machine.
    fn new() -> (Kept, Served) {
        let site = Site::new();
        let served = site.start();
        let (status, machine) =
            served.admin().ask("POST", "/v1/machines", Some(&json!({"name": "keeper", "permissions": ["sensors:read"]})));
        assert_eq!(status, 201, "{machine}");
        (Kept { site, machine: machine["id"].as_str().unwrap().to_owned() }, served)
    }

    fn home(&self) -> PathBuf {
        self.site.socket().parent().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let settings = self.home().join("octroi.yaml");
        octroi(&self.home(), &[args, &["--config", settings.to_str().unwrap()]].concat())
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(self.command(args))
    }

    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--output", "json"]].concat()).json()
    }

    /// Its id and value.
    fn key(&self, served: &Served, label: &str) -> (String, String) {
        let (status, key) = served.admin().ask("POST", &format!("/v1/machines/{}/keys", self.machine), Some(&json!({"label": label})));
        assert_eq!(status, 201, "{key}");
        (key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
    }
}

fn revoke(served: &Served, key: &str) {
    assert_eq!(served.admin().ask("POST", &format!("/v1/keys/{key}/revoke"), None).0, 200);
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

#[test]
fn t188_a_backup_under_load_holds_all_that_was_acknowledged_before_it_began() {
    let (kept, served) = Kept::new();
    let over = AtomicBool::new(false);
    let (mut before, mut all) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let write = |n: usize| {
            let (kept, served, over) = (&kept, &served, &over);
            move || {
                let mut made = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    made.push(kept.key(served, &format!("load - writer {n} key {}", made.len())));
                    if made.len() % 3 == 0 {
                        revoke(served, &made[made.len() - 1].0);
                    }
                }
                made
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(write(n))).collect();
        before.extend((0..20).map(|n| kept.key(&served, &format!("before - key {n}"))));
        revoke(&served, &before[0].0);
        let backup = kept.json(&["store", "backup", "b.octroi"]);
        assert!(backup["head"].as_str().unwrap().contains(':'), "{backup}");
        over.store(true, Ordering::SeqCst);
        all.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
    });
    assert!(all.len() > WRITERS, "that was no load: {}", all.len());
    served.kill();

    let refused = kept.run(&["store", "restore", "b.octroi"]);
    assert!(refused.failed(1).contains("is newer") && refused.err.contains("--accept-rollback"), "{refused:?}");
    let other = Kept { site: Site::new(), machine: kept.machine.clone() };
    let backup = kept.home().join("b.octroi");
    other.run(&["store", "restore", backup.to_str().unwrap()]).done();
    let served = other.site.start();
    let mut proxy = served.proxy();
    for (n, (id, value)) in before.iter().enumerate() {
        assert_eq!(proxy.verdict(value), if n == 0 { "key_revoked" } else { "ok" }, "{id}");
    }
    // Of the rest a prefix, each key whole or not at all.
    for (id, value) in &all {
        let known = served.admin().get(&format!("/v1/keys/{id}")).0 == 200;
        assert_eq!(proxy.verdict(value) == "key_unknown", !known, "{id}");
    }
    served.stop();
    assert_eq!(other.json(&["store", "verify"])["intact"], true);
}

#[test]
fn t185_an_older_backup_needs_consent_and_the_loss_is_journalled() {
    let (kept, served) = Kept::new();
    let (id, value) = kept.key(&served, "prod - leaked");
    kept.run(&["store", "backup", "old"]).done();
    revoke(&served, &id);
    assert!(kept.run(&["store", "restore", "old", "--accept-rollback"]).failed(1).contains("another octroi"), "while it runs");
    served.stop();
    let refused = kept.run(&["store", "restore", "old"]);
    assert!(refused.failed(1).contains("is newer"), "{refused:?}");
    let served = kept.site.start();
    assert_eq!(served.proxy().verdict(&value), "key_revoked", "a refusal changes nothing");
    served.stop();

    let told = kept.json(&["store", "restore", "old", "--accept-rollback", "--reason", "drill"]);
    assert!(told["lost"].as_str().unwrap().contains("is newer"), "{told}");
    let served = kept.site.start();
    assert_eq!(served.proxy().verdict(&value), "ok", "as the operator accepted");
    let (_, page) = served.admin().get("/v1/journal?limit=1");
    let line = &page["data"][0];
    assert_eq!((&line["what"], &line["reason"], &line["store"]["head"]), (&json!("store.restored"), &json!("drill"), &told["head"]));
    assert!(kept.run(&["journal", "list"]).done().contains("store.restored"));
    served.stop();
    assert!(Path::new(told["replaced"].as_str().unwrap()).join("journal").is_dir());
    let restored = kept.run(&["store", "restore", "--accept-rollback"]);
    assert!(restored.failed(1).contains("nothing to accept"), "{restored:?}");
    assert!(kept.run(&["store", "restore"]).failed(2).contains("--accept-rollback"));
}

#[test]
fn a_flipped_byte_in_a_backup_is_refused_and_a_backup_overwrites_nothing() {
    let (kept, served) = Kept::new();
    kept.run(&["store", "backup", "b"]).done();
    let bytes = fs::read(kept.home().join("b")).unwrap();
    assert!(kept.run(&["store", "backup", "b"]).failed(1).contains("is there already"));
    served.stop();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(kept.home().join("b")).unwrap().permissions().mode() & 0o777, 0o600);
    for at in [0, 40, bytes.len() / 2, bytes.len() - 2] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(kept.home().join("b"), flipped).unwrap();
        assert!(kept.run(&["store", "restore", "b", "--accept-rollback"]).failed(1).contains("is no intact backup"), "{at}");
    }
    // Stopped as well.
    kept.run(&["store", "backup", "c"]).done();
    kept.run(&["store", "restore", "c"]).done();
    kept.site.start().stop();
}

#[test]
fn usage_comes_back_with_a_restore() {
    let (kept, served) = Kept::new();
    let (id, value) = kept.key(&served, "prod - caller");
    (0..5).for_each(|_| assert_eq!(served.proxy().verdict(&value), "ok"));
    kept.run(&["store", "backup", "b"]).done();
    served.kill();
    let other = Kept { site: Site::new(), machine: kept.machine.clone() };
    other.run(&["store", "restore", kept.home().join("b").to_str().unwrap()]).done();
    let served = other.site.start();
    let (_, usage) = served.admin().get(&format!("/v1/keys/{id}/usage"));
    assert_eq!(usage["calls"]["total"], 5, "{usage}");
    assert!(usage["last_used_at"].is_string(), "{usage}");
    served.stop();
}

#[test]
fn the_mirror_is_made_anew_and_what_is_bad_is_named() {
    let (kept, served) = Kept::new();
    let (_, value) = kept.key(&served, "prod - caller");
    let online = kept.json(&["store", "verify"]);
    assert_eq!((&online["intact"], &online["records"], &online["first"]), (&json!(true), &json!(2), &json!(1)), "{online}");
    assert!(kept.run(&["store", "rebuild"]).failed(1).contains("another octroi"));
    served.stop();
    assert_eq!(kept.json(&["store", "verify"]), online, "stopped as running");
    assert!(kept.run(&["store", "rebuild"]).done().contains("2 records"));
    let log = kept.site.data().join("journal/00000001.log");
    let bytes = fs::read(&log).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    fs::write(&log, flipped).unwrap();
    let bad = kept.run(&["store", "verify"]);
    assert!(bad.failed(1).contains("00000001.log line ") && bad.err.contains("its checksum does not match"), "{bad:?}");
    fs::write(&log, bytes).unwrap();
    let served = kept.site.start();
    assert_eq!(served.proxy().verdict(&value), "ok");
    served.stop();
}

#[test]
fn an_archived_journal_goes_on_and_is_served() {
    let (kept, served) = Kept::new();
    let (id, value) = kept.key(&served, "prod - caller");
    let (_, other) = kept.key(&served, "prod - other");
    revoke(&served, &id);
    let archived = kept.json(&["journal", "archive", "--to", "old", "--reason", "yearly"]);
    assert_eq!(
        (&archived["files"], &archived["first"], &archived["records"]),
        (&json!(["00000001.log"]), &json!(5), &json!(3)),
        "{archived}"
    );
    assert!(kept.home().join("old/00000001.log").exists());
    let lines = kept.json(&["journal", "list"]);
    assert_eq!(lines["data"].as_array().unwrap().len(), 1, "{lines}");
    assert_eq!((&lines["data"][0]["what"], &lines["data"][0]["reason"]), (&json!("journal.archived"), &json!("yearly")));
    let (_, later) = kept.key(&served, "prod - later");
    for problem in [json!({"to": "relative"}), json!({}), json!({"to": "/tmp", "x": 1})] {
        assert_eq!(served.admin().ask("POST", "/v1/journal/archive", Some(&problem)).0, 400, "{problem}");
    }
    served.kill();
    for mirror in [true, false] {
        if !mirror {
            fs::remove_dir_all(kept.site.data().join("sled")).unwrap();
        }
        assert_eq!(kept.json(&["store", "verify"])["records"], 4);
        let served = kept.site.start();
        let verdicts = [&value, &other, &later].map(|value| served.proxy().verdict(value));
        assert_eq!(verdicts, ["key_revoked", "ok", "ok"]);
        served.stop();
    }
    // On a stopped gateway, too.
    assert!(kept.run(&["journal", "archive", "--to", "old"]).done().contains("begins with change 7"));
    kept.site.start().stop();
}

/// Starts a command and kills it after a while.
fn killed(mut command: Command, after: Duration) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(after);
    // It may have ended before.
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn t187_a_restore_killed_at_any_moment_leaves_the_old_store_or_the_new_one() {
    let (kept, served) = Kept::new();
    let (id, leaked) = kept.key(&served, "prod - leaked");
    kept.run(&["store", "backup", "old"]).done();
    revoke(&served, &id);
    served.stop();
    let (mut old, mut new) = (0, 0);
    for n in 0..KILLS {
        let other = Kept { site: Site::new(), machine: kept.machine.clone() };
        copy_folder(kept.site.data(), other.site.data());
        let backup = kept.home().join("old");
        killed(other.command(&["store", "restore", backup.to_str().unwrap(), "--accept-rollback"]), Duration::from_millis(n * 6));
        let served = other.site.start();
        match served.proxy().verdict(&leaked).as_str() {
            "key_revoked" => old += 1,
            "ok" => {
                new += 1;
                let (_, page) = served.admin().get("/v1/journal?limit=1");
                assert_eq!(page["data"][0]["what"], "store.restored");
            }
            verdict => panic!("neither the old nor the new store: {verdict}"),
        }
        served.stop();
        assert_eq!(other.json(&["store", "verify"])["intact"], true);
    }
    assert!(old + new == KILLS && old > 0, "{old} old, {new} new");
}

#[test]
fn t187_an_archiving_killed_at_any_moment_loses_nothing() {
    let (kept, served) = Kept::new();
    let keys: Vec<_> = (0..30).map(|n| kept.key(&served, &format!("prod - key {n}"))).collect();
    keys.iter().step_by(2).for_each(|(id, _)| revoke(&served, id));
    served.stop();
    for n in 0..KILLS {
        killed(kept.command(&["journal", "archive", "--to", "old"]), Duration::from_millis(n * 4));
        let served = kept.site.start();
        let mut proxy = served.proxy();
        for (n, (_, value)) in keys.iter().enumerate() {
            assert_eq!(proxy.verdict(value), if n % 2 == 0 { "key_revoked" } else { "ok" });
        }
        kept.key(&served, &format!("prod - made after {n}"));
        served.kill();
        if n % 5 == 0 {
            fs::remove_dir_all(kept.site.data().join("sled")).unwrap();
        }
        assert_eq!(kept.json(&["store", "verify"])["intact"], true);
    }
    // Archived and left together are the whole history.
    kept.run(&["journal", "archive", "--to", "old"]).done();
    let whole = Kept { site: Site::new(), machine: kept.machine.clone() };
    copy_folder(&kept.home().join("old"), &whole.site.data().join("journal"));
    copy_folder(&kept.site.data().join("journal"), &whole.site.data().join("journal"));
    let found = whole.json(&["store", "verify"]);
    assert_eq!((&found["intact"], &found["first"]), (&json!(true), &json!(1)), "{found}");
}

#[test]
fn a_command_without_a_gateway_says_what_would_help() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(BINARY);
    command.args(["store", "verify", "--socket", "none.sock"]).current_dir(folder.path());
    assert!(run(command).failed(3).contains("--config FILE"));
}
