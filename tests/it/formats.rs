//! What an earlier version kept stays readable: records, hashes, journal and usage, from the folder it wrote.

use std::fs;
use std::path::Path;

use octroi::clock::Clock;
use octroi::model::SecretHash;
use octroi::store::{Author, Restore, restore, verify};
use serde_json::Value;

use crate::support::admin::text;
use crate::support::gateway::NOON;
use crate::support::{Admin, Gateway, Upstream, gateway};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Whether `shown` says all that `expected` says: later versions may say more.
fn says(shown: &Value, expected: &Value) -> bool {
    match (shown, expected) {
        (Value::Object(shown), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| shown.get(name).is_some_and(|shown| says(shown, value)))
        }
        (Value::Array(shown), Value::Array(expected)) => {
            shown.len() == expected.len() && shown.iter().zip(expected).all(|(shown, expected)| says(shown, expected))
        }
        _ => shown == expected,
    }
}

fn hex(hash: SecretHash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_store_of_version_1_is_read_for_ever() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v1");
    let expected: Value = serde_json::from_str(&fs::read_to_string(fixture.join("expected.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    for part in ["journal", "usage"] {
        copy(&fixture.join(part), &store.join(part));
    }
    let upstream = Upstream::plain();
    let settings = format!("{}store: {{path: '{}'}}\n", gateway::settings(upstream.address), store.display());
    let mut gateway = Gateway::with(settings, Clock::manual(NOON));
    let admin = Admin::at(store.join("admin.sock"));
    // Without the mirror at first, then with the one that was made from the journal.
    for start in ["rebuilt", "mirrored"] {
        for list in ["machines", "keys", "journal"] {
            let shown = Value::Array(admin.all(&format!("/v1/{list}"), 500));
            assert!(says(&shown, &expected[list]), "{start}: {list}: {shown:#}");
        }
        gateway.restart();
    }
    for value in expected["values"].as_array().unwrap() {
        let (of, secret) = (text(&value["of"]), text(&value["value"]));
        assert_eq!(hex(SecretHash::of_presented(secret.as_bytes()).unwrap()), text(&value["sha256"]), "{of}");
        let answer = gateway.get("/v1/sensors", &[("X-API-Key", &secret)]);
        match value["answer"].as_str() {
            Some(code) => assert_eq!(answer.code(), code, "{of}"),
            None => assert_eq!(answer.status, 200, "{of}: {answer:?}"),
        }
    }
    assert!(expected["values"].as_array().unwrap().len() >= 10, "every status there is");
    // And goes on from there.
    let machine = admin.machine(serde_json::json!({"name": "later"}));
    let before = expected["journal"][0]["seq"].as_u64().unwrap();
    let line = &admin.get("/v1/journal?limit=1")["data"][0];
    assert_eq!((line["seq"].as_u64(), &line["subject"]), (Some(before + 1), &machine["id"]));
}

#[test]
fn a_backup_of_version_1_with_a_snapshot_in_it_is_restored_for_ever() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backup-v1");
    let expected: Value = serde_json::from_str(&fs::read_to_string(fixture.join("expected.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let author = Author { time: NOON, actor: "test".into(), address: None, reason: None };
    let store = folder.path().join("store");
    let source = fixture.join("backup.octroi");
    let request = Restore { folder: &store, source: Some(&source), accept_rollback: false, author: &author };
    assert_eq!(restore(&request).unwrap().head.to_string(), text(&expected["head"]));
    let verified = verify(&store).unwrap();
    assert_eq!((Some(verified.first), Some(verified.records)), (expected["first"].as_u64(), expected["records"].as_u64()));
    let upstream = Upstream::plain();
    let settings = format!("{}store: {{path: '{}'}}\n", gateway::settings(upstream.address), store.display());
    let gateway = Gateway::with(settings, Clock::manual(NOON));
    for value in expected["values"].as_array().unwrap() {
        let answer = gateway.get("/v1/sensors", &[("X-API-Key", &text(&value["value"]))]);
        match value["answer"].as_str() {
            Some(code) => assert_eq!(answer.code(), code, "{value}"),
            None => assert_eq!(answer.status, 200, "{value}: {answer:?}"),
        }
    }
}
