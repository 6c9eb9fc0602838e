//! The journal as something that can be trusted: searched, exported and verified with the real program, on a running gateway and on one that was
//! stopped, and with every kind of damage named where it stands.

use std::fs;
use std::path::{Path, PathBuf};

use octroi::model::{Environment, Key, KeyId, KeyState, Machine, MachineId, PermissionSet, SecretHash, Timestamp};
use octroi::store::{Embedded, Entry, Op, Store, Subject, verify_journal};
use serde_json::{Value, json};

use crate::support::admin::{labelled, over_tcp, text};
use crate::support::client::eventually;
use crate::support::program::{Ran, octroi, run};
use crate::support::{self, Admin, Gateway, Upstream, gateway};

const LOG: &str = "data/journal/00000001.log";

struct World {
    _upstream: Upstream,
    gateway: Gateway,
    admin: Admin,
}

impl World {
    /// A gateway with its settings file beside its data, as on a machine of its own.
    fn new() -> World {
        let upstream = Upstream::plain();
        let gateway = Gateway::before(upstream.address);
        fs::write(gateway.dir().join("octroi.yaml"), gateway::settings(upstream.address)).unwrap();
        let admin = Admin::of(&gateway);
        World { _upstream: upstream, gateway, admin }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let args = [&["journal"], args, &["--config", "octroi.yaml"]].concat();
        run(octroi(self.gateway.dir(), &args))
    }

    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--output", "json"]].concat()).json()
    }

    fn log(&self) -> PathBuf {
        self.gateway.dir().join(LOG)
    }

    /// Every kind of change there is, each with a reason; the machine and the keys that took part.
    fn lives(&self) -> (Value, Vec<Value>) {
        let admin = &self.admin;
        let why = |n: u32| json!({"reason": format!("ticket {n}")});
        let machine = admin.machine(json!({"name": "caller", "reason": "ticket 1"}));
        let at = format!("/v1/machines/{}", text(&machine["id"]));
        let key = |label: &str| admin.key(&machine, json!({"label": label, "reason": "ticket 2"}));
        let keys = vec![key("prod - billing v1"), key("prod - billing v2"), key("prod - billing v3")];
        let of = |n: usize, verb: &str| format!("/v1/keys/{}{verb}", text(&keys[n]["id"]));
        admin.done("PATCH", &at, json!({"name": "Service de facturation", "reason": "ticket 3"}));
        admin.done("POST", &format!("{at}/disable"), why(4));
        admin.done("POST", &format!("{at}/enable"), why(5));
        admin.done("PATCH", &of(0, ""), json!({"label": "prod - billing v4", "tier": "free", "reason": "ticket 6"}));
        admin.done("POST", &of(0, "/deactivate"), why(7));
        admin.done("POST", &of(0, "/reactivate"), why(8));
        let regenerated = admin.done("POST", &of(0, "/regenerate"), json!({"grace": "1h", "reason": "ticket 9"}));
        admin.done("POST", &of(1, "/revoke"), why(10));
        assert_eq!(admin.ask("DELETE", &of(1, "?reason=ticket%2011"), None).status, 204);
        assert_eq!(admin.ask("DELETE", &format!("{at}?reason=ticket%2012"), None).status, 204);
        (machine, [keys, vec![regenerated]].concat())
    }

    /// Stops the gateway; its files stay.
    fn stop(&mut self) {
        self.gateway.stop();
        // A process that another test starts has every descriptor of this one for a moment, the folder's lock among them.
        eventually("the folder", || (!self.run(&["verify"]).err.contains("holds")).then_some(()));
    }
}

fn whats(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| text(&line["what"])).collect()
}

// --- what it says ---------------------------------------------------------------------------------------------------------------

#[test]
fn j_every_kind_of_change_says_who_from_where_why_before_and_after() {
    let world = World::new();
    let (machine, _) = world.lives();
    let lines = world.admin.all("/v1/journal", 500);
    let kinds = [
        "machine.created",
        "machine.edited",
        "machine.disabled",
        "machine.enabled",
        "machine.deleted",
        "key.created",
        "key.edited",
        "key.deactivated",
        "key.reactivated",
        "key.regenerated",
        "key.revoked",
        "key.deleted",
    ];
    for kind in kinds {
        let of_kind: Vec<&Value> = lines.iter().filter(|line| line["what"] == kind).collect();
        assert!(!of_kind.is_empty(), "{kind}");
        for line in of_kind {
            assert!(text(&line["actor"]).starts_with("socket:"), "{line}");
            assert!(text(&line["reason"]).starts_with("ticket "), "{line}");
            assert!(line.as_object().unwrap().contains_key("address"), "{line}");
            for change in line["changes"].as_array().unwrap() {
                let (created, deleted) = (kind.ends_with(".created"), kind.ends_with(".deleted"));
                assert_eq!((change["before"].is_null(), change["after"].is_null()), (created, deleted), "{line}");
                assert_ne!(change["before"], change["after"], "{line}");
            }
        }
    }
    let end = &lines[0];
    assert_eq!((text(&end["what"]), &end["subject"]), ("machine.deleted".into(), &machine["id"]));
    assert_eq!(end["changes"].as_array().unwrap().len(), 3, "with the two keys that were left");
}

#[test]
fn j_filters_and_activity_find_the_living_and_the_deleted() {
    let world = World::new();
    let (machine, keys) = world.lives();
    let other = world.admin.machine(json!({"name": "other"}));
    let admin = &world.admin;
    let activity = |kind: &str, thing: &Value| admin.all(&format!("/v1/{kind}/{}/activity", text(&thing["id"])), 2);
    assert_eq!(
        whats(&activity("keys", &keys[0])),
        ["machine.deleted", "key.regenerated", "key.reactivated", "key.deactivated", "key.edited", "key.created"]
    );
    assert_eq!(whats(&activity("keys", &keys[1])), ["key.deleted", "key.revoked", "key.created"]);
    let of_machine = ["machine.deleted", "machine.enabled", "machine.disabled", "machine.edited", "machine.created"];
    assert_eq!(whats(&activity("machines", &machine)), of_machine);
    assert_eq!(whats(&activity("machines", &other)), ["machine.created"]);
    for (target, code) in [
        (format!("/v1/keys/{}/activity", KeyId::from_u128(7)), "not_found"),
        (format!("/v1/machines/{}/activity", MachineId::from_u128(7)), "not_found"),
        (format!("/v1/keys/{}/activity", text(&machine["id"])), "not_found"),
        ("/v1/journal/0".into(), "not_found"),
        ("/v1/journal/99".into(), "not_found"),
        ("/v1/journal/x".into(), "not_found"),
    ] {
        assert_eq!(admin.ask("GET", &target, None).json()["code"], code, "{target}");
    }
    let count = |query: &str| admin.all(&format!("/v1/journal?{query}"), 100).len();
    assert_eq!(count(""), 15);
    assert_eq!((count("what=key"), count("what=machine"), count("what=key.created"), count("what=key.cre")), (9, 6, 3, 0));
    let actor = text(&admin.get("/v1/journal/1")["actor"]).replace(':', "%3A");
    assert_eq!((count(&format!("actor={actor}")), count("actor=nobody")), (15, 0));
    assert_eq!((count("since=2000-01-01T00:00:00Z"), count("until=2000-01-01T00:00:00Z")), (15, 0));
    assert_eq!(count(&format!("subject={}&what=key", text(&keys[1]["id"]))), 3);
    let faults = admin.faults("GET", "/v1/journal?subject=x&actor=&since=yesterday&until=1&whatever=1", json!({}));
    assert_eq!(faults, ["?subject", "?actor", "?since", "?until", "?whatever"]);
    assert_eq!(admin.faults("GET", "/v1/journal/verify?head=7", json!({})), ["?head"]);
    assert_eq!(admin.faults("GET", "/v1/journal/export?since_seq=0&until_seq=x", json!({})), ["?since_seq", "?until_seq"]);
    admin.ask("GET", "/v1/journal/export?since_seq=99", None).refused(404, "not_found");
}

#[test]
fn j_list_takes_ids_and_names_and_show_tells_each_field() {
    let world = World::new();
    let (machine, keys) = world.lives();
    let made = world.admin.machine(json!({"name": "newer"}));
    world.admin.key(&made, labelled("prod - reports v1"));
    let kinds = |args: &[&str]| whats(world.json(&[&["list"], args].concat())["data"].as_array().unwrap());
    assert_eq!(kinds(&["--subject", &text(&keys[1]["id"])]), ["key.deleted", "key.revoked", "key.created"]);
    assert_eq!(kinds(&["--subject", "newer"]), ["machine.created"]);
    assert_eq!(kinds(&["--subject", "prod - reports v1", "--what", "key"]), ["key.created"]);
    assert!(world.run(&["list", "--subject", "prod - billing v2"]).failed(1).contains("no key has the id or label"));
    assert_eq!(kinds(&["--what", "machine", "--limit", "2"]), ["machine.created", "machine.deleted"]);
    assert!(world.run(&["list", "--since", "soon"]).failed(2).contains("--since"));
    let edited = world.json(&["list", "--what", "key.edited"])["data"][0]["seq"].to_string();
    let shown = world.run(&["show", &edited]);
    for words in ["Reason   ticket 6", "label  prod - billing v1  prod - billing v4", "tier   none               free"] {
        assert!(shown.done().contains(words), "{words}: {shown:?}");
    }
    assert_eq!(world.json(&["show", "1"])["subject"], machine["id"]);
    assert!(world.run(&["show", "99"]).failed(1).contains("no change"));
}

#[test]
fn j_over_tcp_nothing_of_the_journal_is_shown_without_a_token() {
    let world = World::new();
    let (machine, keys) = world.lives();
    let targets = [
        "/v1/journal".to_owned(),
        "/v1/journal/1".into(),
        "/v1/journal/verify".into(),
        "/v1/journal/export".into(),
        format!("/v1/keys/{}/activity", text(&keys[0]["id"])),
        format!("/v1/machines/{}/activity", text(&machine["id"])),
    ];
    for target in targets {
        over_tcp(world.gateway.admin_address(), "GET", &target, "localhost", "", "").refused(401, "token_missing");
    }
}

// --- that nothing was changed ------------------------------------------------------------------------------------------------------

#[test]
fn j_a_running_gateway_verifies_and_an_export_verifies_without_it() {
    let mut world = World::new();
    world.lives();
    let verified = world.json(&["verify"]);
    assert_eq!((&verified["valid"], &verified["entries"], &verified["first_bad"]), (&json!(true), &json!(14), &Value::Null));
    let head = text(&verified["head"]);
    assert!(head.starts_with("14:") && world.run(&["verify"]).done().contains(&head));

    let exported = world.run(&["export", "--output-file", "all.ndjson"]);
    assert!(world.run(&["export", "--output-file", "all.ndjson"]).failed(1).contains("is there already"));
    std::fs::write(world.gateway.dir().join("empty.ndjson"), "").unwrap();
    let empty = run(octroi(world.gateway.dir(), &["journal", "verify", "--file", "empty.ndjson"]));
    assert!(empty.failed(1).contains("there is nothing in it"), "{empty:?}");
    assert_eq!((exported.done(), exported.err.as_str()), ("", format!("head {head}\n").as_str()));
    let all = fs::read_to_string(world.gateway.dir().join("all.ndjson")).unwrap();
    assert_eq!(world.run(&["export"]).done(), all);
    let part = world.run(&["export", "--since-seq", "3", "--until-seq", "5"]);
    assert_eq!(part.done().lines().collect::<Vec<_>>(), all.lines().skip(2).take(3).collect::<Vec<_>>());
    assert!(world.run(&["export", "--since-seq", "15"]).done().is_empty(), "nothing new is no failure");

    world.admin.machine(json!({"name": "later"}));
    let later = text(&world.json(&["verify", "--head", &head])["head"]);
    let missing = format!("14:{}", "0".repeat(64));
    let failed = world.run(&["verify", "--head", &head, "--head", &missing]);
    assert!(failed.failed(1).contains("change 14 was rewritten"), "{failed:?}");
    world.run(&["verify", "--head", "14"]).failed(2);
    world.stop();
    assert!(world.run(&["verify", "--head", &head, "--head", &later]).done().contains("15 changes in 1 file"));

    // With neither gateway nor settings.
    let alone = tempfile::tempdir().unwrap();
    let file = alone.path().join("export.ndjson");
    let verify = |args: &[&str]| run(octroi(alone.path(), &[&["journal", "verify", "--file", "export.ndjson"], args].concat()));
    fs::write(&file, &all).unwrap();
    assert!(verify(&["--head", &head]).done().contains("holds the head that was noted"));
    assert!(verify(&["--head", &later]).failed(1).contains("the last change is 14"));
    fs::write(&file, all.replacen("ticket 7", "ticket 8", 1)).unwrap();
    let tampered = verify(&[]);
    assert!(tampered.failed(1).contains("export.ndjson line 9, change 9: its chain does not match its content"), "{tampered:?}");
    let found = verify(&["--output", "json"]);
    let told: Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!((found.code, &told["valid"], &told["first_bad"]["line"]), (Some(1), &json!(false), &json!(9)));
    fs::write(&file, all.lines().filter(|line| !line.contains("ticket 7")).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert!(verify(&[]).failed(1).contains("line 9, change 9: change 9 is missing"));
}

#[test]
fn j_damage_on_a_stopped_gateway_is_named_by_file_line_and_number() {
    let mut world = World::new();
    world.lives();
    world.stop();
    let good = fs::read_to_string(world.log()).unwrap();
    let head = text(&world.json(&["verify"])["head"]);
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    let swapped = [&lines[..5], &[lines[6], lines[5]], &lines[7..]].concat().concat();
    let damages = [
        ("a flipped byte", good.replacen("ticket 7", "ticket 8", 1), "line 10, change 9: its checksum does not match"),
        ("a removed line", [&lines[..5], &lines[6..]].concat().concat(), "line 6, change 5: change 5 is missing"),
        ("swapped lines", swapped, "line 6, change 5: change 5 is missing or stands elsewhere: this is change 6"),
        ("a cut end", lines[..12].concat(), "line 13, change 12: the end is cut: the journal ends with change 11, but the mirror"),
        ("a torn end", good[..good.len() - 9].to_owned(), "line 15, change 14: it has no end"),
        ("a changed header", good.replacen("\"first\":1", "\"first\":2", 1), "line 1: its checksum does not match"),
    ];
    for (damage, text, place) in damages {
        fs::write(world.log(), &text).unwrap();
        let told = world.run(&["verify"]);
        assert!(told.failed(1).contains("00000001.log ") && told.err.contains(place), "{damage}: {told:?}");
        assert_eq!(fs::read_to_string(world.log()).unwrap(), text, "{damage}: a verification changes nothing");
    }
    // Who cuts the journal takes the mirror away as well.
    fs::write(world.log(), lines[..12].concat()).unwrap();
    fs::remove_dir_all(world.gateway.dir().join("data/sled")).unwrap();
    let unaware = world.run(&["verify"]);
    assert!(unaware.done().contains("11 changes") && unaware.err.contains("--head can tell"), "{unaware:?}");
    assert!(world.run(&["verify", "--head", &head]).failed(1).contains("the end was cut after this head was noted"));
    assert!(!world.gateway.dir().join("data/sled").exists());
    fs::remove_dir_all(world.gateway.dir().join("data/journal")).unwrap();
    world.run(&["verify"]).failed(1);
}

#[test]
fn j_verification_and_export_do_not_keep_changes_waiting() {
    let world = World::new();
    let machine = world.admin.machine(json!({"name": "caller"}));
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| (0..40).for_each(|n| drop(world.admin.key(&machine, labelled(&format!("prod - billing v{n}"))))));
        while !changes.is_finished() {
            let verified = world.admin.ask("GET", "/v1/journal/verify", None);
            assert_eq!(verified.status, 200, "{verified:?}");
            assert_eq!(verified.json()["valid"], true, "{verified:?}");
            let _ = std::fs::remove_file(world.gateway.dir().join("all.ndjson"));
            world.run(&["export", "--output-file", "all.ndjson"]).done();
            assert!(
                run(octroi(world.gateway.dir(), &["journal", "verify", "--file", "all.ndjson"])).done().contains("as they were written")
            );
        }
    });
}

// --- that nothing leaks --------------------------------------------------------------------------------------------------------------

fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let bits = |chunk: &[u8]| chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
    let digits =
        |chunk: &[u8]| (0..=chunk.len()).map(|n| alphabet[(bits(chunk) >> (18 - 6 * n)) as usize & 63] as char).collect::<String>();
    bytes.chunks(3).map(digits).collect()
}

/// The ways in which a hash could be written.
fn spellings(hash: SecretHash) -> Vec<String> {
    let plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let url = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![hex.to_uppercase(), hex, base64(&hash.0, plain), base64(&hash.0, url)]
}

#[test]
fn j_no_hash_no_value_and_no_private_part_leaves_the_journal() {
    let world = World::new();
    let (machine, keys) = world.lives();
    let values: Vec<String> = keys.iter().map(|key| text(&key["secret"])).collect();
    let hashes: Vec<String> = values.iter().flat_map(|value| spellings(SecretHash::of_presented(value.as_bytes()).unwrap())).collect();
    assert!(hashes.iter().any(|hash| fs::read_to_string(world.log()).unwrap().contains(hash)), "the journal itself has them");
    let id = |thing: &Value| text(&thing["id"]);
    let mut said: Vec<String> = [
        "/v1/journal?limit=500".to_owned(),
        "/v1/journal/2".into(),
        "/v1/journal/verify".into(),
        "/v1/journal/export".into(),
        format!("/v1/keys/{}/activity", id(&keys[0])),
        format!("/v1/machines/{}/activity", id(&machine)),
    ]
    .iter()
    .map(|target| String::from_utf8(world.admin.ask("GET", target, None).body).unwrap())
    .collect();
    for args in [&["list"][..], &["list", "--output", "json"], &["show", "2"], &["verify"], &["export"]] {
        let ran = world.run(args);
        said.push(format!("{}{}", ran.done(), ran.err));
    }
    said.push(fs::read_to_string(world.gateway.dir().join("access.log")).unwrap());
    for text in &said {
        for secret in values.iter().chain(&hashes) {
            assert!(!text.contains(secret.as_str()), "{secret} in {text}");
        }
        assert!(!text.contains("\"ops\"") && !text.contains("put_key") && !text.contains("\"hash\""), "{text}");
    }
}

// --- that it stays quick -------------------------------------------------------------------------------------------------------------

/// How many keys a long journal is about.
const KEYS: usize = 2_000;

/// Fills a store with so many changes of a few thousand keys, in groups as a busy gateway has them.
fn fill(folder: &Path, changes: usize) -> KeyId {
    let store = Embedded::open(folder).unwrap();
    let machine = MachineId::from_u128(1);
    let now = |n: usize| Timestamp(1_700_000_000_000 + n as i64);
    let entry = |n: usize, what, subject, op| Entry {
        time: now(n),
        actor: format!("socket:user{}", n % 7),
        address: None,
        reason: Some("measured".into()),
        what,
        subject,
        ops: vec![op],
    };
    let owner = Machine {
        id: machine,
        name: "caller".into(),
        description: String::new(),
        contact: String::new(),
        permissions: PermissionSet::default(),
        organizations: None,
        tier: None,
        third_party: false,
        enabled: true,
        created_at: now(0),
    };
    store.commit(vec![entry(0, "machine.created", Subject::Machine(machine), Op::PutMachine(Box::new(owner)))]).unwrap();
    let key = |n: usize| {
        let (id, round) = (n % KEYS, n / KEYS);
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&(id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        Key {
            id: KeyId::from_u128(id as u128 + 1),
            machine,
            label: format!("Production - {round}"),
            description: String::new(),
            environment: Environment::default(),
            permissions: None,
            organizations: None,
            tier: None,
            allowed_ips: None,
            expires_at: None,
            state: KeyState::Active,
            created_at: now(0),
            created_by: "socket:root".into(),
            hash: SecretHash(hash),
            hint: "pk_prod_…abcd".into(),
            old_values: Vec::new(),
            renewed_at: None,
        }
    };
    let numbers: Vec<usize> = (0..changes - 1).collect();
    for group in numbers.chunks(500) {
        let entries = group.iter().map(|n| {
            let key = key(*n);
            let what = if *n < KEYS { "key.created" } else { "key.edited" };
            entry(n + 1, what, Subject::Key(key.id), Op::PutKey(Box::new(key)))
        });
        store.commit(entries.collect()).unwrap();
    }
    KeyId::from_u128(KEYS as u128 / 2)
}

/// 20 000 changes; a million with `OCTROI_LONG=1`. What a page takes is told, not judged.
#[test]
fn j_a_long_journal_is_paged_from_any_place() {
    let changes = if support::times() > 1 { 1_000_000 } else { 20_000 };
    let mut world = World::new();
    world.gateway.stop();
    fs::remove_dir_all(world.gateway.dir().join("data")).unwrap();
    fs::create_dir(world.gateway.dir().join("data")).unwrap();
    let key = fill(&world.gateway.dir().join("data"), changes);
    world.gateway.restart();
    let page = |what: &str, target: &str| {
        let began = std::time::Instant::now();
        let answer = world.admin.get(target);
        support::note(&format!("{what} of {changes} changes: {} ms", began.elapsed().as_millis()));
        answer
    };
    let cursor = |before: usize| format!("/v1/journal?limit=50&cursor=c{before:x}");
    for (what, before) in [("the newest page", changes + 1), ("a page in the middle", changes / 2), ("the oldest page", 51)] {
        let lines = page(what, &cursor(before))["data"].as_array().unwrap().clone();
        let seqs: Vec<usize> = lines.iter().map(|line| line["seq"].as_u64().unwrap() as usize).collect();
        assert_eq!(seqs, (before - 50..before).rev().collect::<Vec<_>>());
    }
    let rounds = |list: &Value| list["data"].as_array().unwrap().len();
    let activity = format!("/v1/keys/{key}/activity");
    let mine = page("a page of a key's activity", &format!("{activity}?limit=50"));
    let expected = (changes - 1 + KEYS / 2) / KEYS;
    assert_eq!(rounds(&mine), expected.min(50));
    assert!(mine["data"].as_array().unwrap().iter().all(|line| line["subject"] == key.to_string()));
    assert_eq!(world.admin.all(&activity, 50).len(), expected);
    let oldest = page("a page from a place that no page ended at", &format!("{activity}?limit=5&cursor=c{:x}", 5 * KEYS / 2));
    assert_eq!(rounds(&oldest), 2);
    assert_eq!(rounds(&page("a page of an actor's changes", "/v1/journal?actor=socket%3Auser3&limit=50")), 50);
    page("a page that matches nothing", "/v1/journal?what=nothing");
    // Of the files: no client of a test waits as long as a million entries may take where nothing is optimised.
    world.gateway.stop();
    let data = world.gateway.dir().join("data");
    // Another test's process may hold a copy of the lock for a moment.
    let verified = eventually("the folder", || verify_journal(&data, &[]).ok()).verified;
    assert!(verified.is_good() && verified.entries == changes as u64, "{verified:?}");
}
