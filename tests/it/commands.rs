//! The program as people use it: every command against a running gateway, `serve` and `demo` as processes of their own, and the exit codes
//! that scripts rely on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::{Connection, eventually};
use crate::support::program::{BINARY, Program, Ran, command, octroi, run};
use crate::support::{self, admin::text};
use crate::support::{Admin, Gateway, Reply, Upstream, gateway};

/// Runs commands against one gateway's socket.
struct Shell {
    socket: PathBuf,
}

impl Shell {
    fn of(gateway: &Gateway) -> Shell {
        Shell { socket: Admin::of(gateway).socket().to_owned() }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let args = [args, &["--socket", self.socket.to_str().unwrap()]].concat();
        run(octroi(self.socket.parent().unwrap(), &args))
    }

    fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--output", "json"]].concat()).json()
    }
}

fn ask(to: SocketAddr, target: &str, key: Option<&str>) -> crate::support::client::Answer {
    let headers: Vec<(&str, &str)> = key.map(|key| ("X-API-Key", key)).into_iter().collect();
    Connection::open(to).get(target, &headers)
}

#[test]
fn a_machine_and_a_key_live_by_commands_alone() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let shell = Shell::of(&gateway);
    let name = "Service de facturation";
    let status = |value: &str| ask(gateway.address(), "/v1/sensors", Some(value));

    let made = shell.run(&["machine", "create", name, "--tier", "standard", "--permission", "sensors:read", "--reason", "ticket 7"]);
    assert!(made.done().contains(name) && made.out.contains("standard") && made.err.is_empty(), "{made:?}");
    let machine = shell.json(&["machine", "show", name]);
    assert_eq!((&machine["tier"], &machine["permissions"]), (&json!("standard"), &json!(["sensors:read"])));
    assert_eq!(shell.json(&["machine", "show", &text(&machine["id"])]), machine, "by its id as by its name");

    let label = "Production - Facturation v2";
    let made = shell.run(&["key", "create", "--machine", name, "--label", label, "--env", "prod", "--expires", "90d"]);
    let value = made.done().lines().find(|line| line.starts_with("pk_prod_")).unwrap().to_owned();
    assert!(made.out.contains("in 90 days") && made.err.is_empty(), "{made:?}");
    assert_eq!(status(&value).status, 200);

    let table = shell.run(&["key", "list"]);
    let (heading, row) = table.done().split_once('\n').unwrap();
    assert!(heading.starts_with("ID ") && row.contains(label) && row.contains(name) && row.contains("active"), "{table:?}");
    let listed = shell.json(&["key", "list", "--machine", name, "--status", "active", "--env", "prod"]);
    let key = listed["data"][0].clone();
    assert_eq!((&key["label"], listed["data"].as_array().unwrap().len()), (&json!(label), 1));
    assert_eq!(shell.run(&["key", "list", "--status", "revoked"]).done(), "no keys\n");
    let shown = shell.run(&["key", "show", label]);
    assert!(shown.done().contains(&text(&key["hint"])) && !shown.out.contains(&value), "{shown:?}");

    let edited = shell.json(&["key", "edit", label, "--description", "nightly", "--allow-ip", "127.0.0.0/8", "--tier", "premium"]);
    assert_eq!(
        (&edited["description"], &edited["allowed_ips"], &edited["tier"]),
        (&json!("nightly"), &json!(["127.0.0.0/8"]), &json!("premium"))
    );
    let edited = shell.json(&["key", "edit", label, "--clear", "allowed-ips,tier", "--expires", "never"]);
    assert_eq!((&edited["allowed_ips"], &edited["tier"], &edited["expires_at"]), (&Value::Null, &Value::Null, &Value::Null));

    shell.run(&["key", "deactivate", label, "--reason", "suspect"]).done();
    status(&value).refused(401, "key_inactive");
    shell.run(&["key", "reactivate", label]).done();
    assert_eq!(status(&value).status, 200);
    shell.run(&["machine", "disable", name]).done();
    status(&value).refused(401, "machine_disabled");
    shell.run(&["machine", "enable", name]).done();

    let second = shell.run(&["key", "regenerate", label, "--grace", "1h", "--quiet"]);
    let second = second.done().trim_end();
    assert_eq!((status(&value).status, status(second).status), (200, 200), "both in grace");
    let third = text(&shell.json(&["key", "regenerate", label])["secret"]);
    status(second).refused(401, "key_replaced");
    assert_eq!(status(&third).status, 200);

    shell.run(&["key", "revoke", label, "--yes", "--reason", "leaked"]).done();
    status(&third).refused(401, "key_revoked");
    assert!(shell.run(&["key", "reactivate", label]).failed(1).contains("revoked"));
    shell.run(&["key", "delete", label, "--yes"]).done();
    status(&third).refused(401, "key_unknown");
    shell.run(&["machine", "delete", name, "--yes"]).done();
    assert_eq!(shell.run(&["machine", "list"]).done(), "no machines\n");

    let journal = shell.run(&["journal", "list"]);
    for word in ["key.revoked", "leaked", "machine.created", "ticket 7", "key.deactivated", "suspect"] {
        assert!(journal.done().contains(word), "{word}: {journal:?}");
    }
    assert!(!journal.out.contains(&third[..30]));
    assert_eq!(shell.json(&["journal", "list", "--limit", "3"])["data"].as_array().unwrap().len(), 3);
}

#[test]
fn machines_are_edited_and_cleared() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let shell = Shell::of(&gateway);
    shell.run(&["machine", "create", "caller", "--organization", "o1", "--organization", "o2", "--tier", "free", "--third-party"]).done();
    let edited = shell.json(&[
        "machine",
        "edit",
        "caller",
        "--name",
        "other",
        "--permission",
        "admin",
        "--contact",
        "ops",
        "--third-party",
        "false",
    ]);
    let expected = (&json!("other"), &json!(["admin"]), &json!("ops"), &json!(false), &json!(["o1", "o2"]));
    assert_eq!((&edited["name"], &edited["permissions"], &edited["contact"], &edited["third_party"], &edited["organizations"]), expected);
    let edited = shell.json(&["machine", "edit", "other", "--clear", "permissions,organizations", "--clear", "tier"]);
    assert_eq!((&edited["permissions"], &edited["organizations"], &edited["tier"]), (&json!([]), &Value::Null, &Value::Null));
    assert!(shell.run(&["machine", "edit", "other"]).failed(2).contains("nothing to change"));
    assert!(shell.run(&["machine", "edit", "other", "--tier", "free", "--clear", "tier"]).failed(2).contains("both set and cleared"));
    assert!(shell.run(&["machine", "show", "othe"]).failed(1).contains("similar:"));
    assert!(shell.run(&["machine", "create", "other"]).failed(1).contains("already named"));
}

#[test]
fn a_label_that_two_keys_have_names_neither() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let shell = Shell::of(&gateway);
    shell.run(&["machine", "create", "caller", "--permission", "sensors:read"]).done();
    let create = || shell.run(&["key", "create", "--machine", "caller", "--label", "prod - billing v1", "--quiet"]);
    let (first, second) = (create(), create());
    let refused = shell.run(&["key", "revoke", "prod - billing v1", "--yes"]);
    let message = refused.failed(1);
    assert!(message.contains("2 keys have the label"), "{message}");
    let id = message.split_whitespace().find(|word| word.starts_with("key_")).unwrap();
    let revoked = shell.json(&["key", "revoke", id, "--yes"]);
    assert_eq!((&revoked["id"], &revoked["status"]), (&json!(id), &json!("revoked")));
    let mut statuses = [first, second].map(|made| ask(gateway.address(), "/v1/sensors", Some(made.done().trim_end())).status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401], "the one that was named by its id");
    assert!(shell.run(&["key", "show", "prod - biling v1"]).failed(1).contains("no key has the id or label"));
}

#[test]
fn quiet_prints_the_value_alone_and_doubts_go_to_standard_error() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let shell = Shell::of(&gateway);
    shell.run(&["machine", "create", "caller"]).done();
    let made = shell.run(&["key", "create", "--machine", "caller", "--label", "Clé 1", "--permission", "config:write", "--quiet"]);
    let value = made.done().strip_suffix('\n').unwrap();
    assert!(
        value.starts_with("pk_prod_") && value.len() == 44 && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
        "{made:?}"
    );
    assert_eq!(made.err.matches("warning: ").count(), 2, "{made:?}");
    shell.run(&["key", "create", "--machine", "caller", "--label", "x", "--quiet", "--output", "json"]).failed(2);
}

#[test]
fn exit_codes_say_what_kind_of_no_it_was() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::on_real_time(upstream.address);
    let shell = Shell::of(&gateway);
    shell.run(&["machine", "create", "caller"]).done();
    shell.run(&["key", "create", "--machine", "caller", "--label", "prod - billing v1"]).done();
    let refused = shell.run(&["machine", "create", " ", "--tier", "gold", "--permission", "no:such"]);
    for words in ["/name: must not be blank", "/tier: no tier is named \"gold\"; known: free", "/permissions/0: no permission"] {
        assert!(refused.failed(1).contains(words), "{refused:?}");
    }
    for wrong in [&["key", "create"][..], &["key", "frobnicate"], &["machine", "list", "--output", "xml"], &["nonsense"], &[]] {
        assert!(!shell.run(wrong).failed(2).is_empty(), "{wrong:?}");
    }
    let label = "prod - billing v1";
    let misspelt: [(&str, &[&str]); 7] = [
        ("--expires", &["key", "edit", label, "--expires", "10"]),
        ("--expires", &["operator", "create", "new", "--right", "machines:read", "--expires", "2027-01-31"]),
        ("--grace", &["key", "regenerate", label, "--grace", "abc"]),
        ("--ip", &["explain", "/v1/sensors", "--ip", "999"]),
        ("--at", &["explain", "/v1/sensors", "--at", "tomorrow"]),
        ("--since", &["journal", "list", "--since", "yesterday"]),
        ("--until", &["journal", "list", "--until", "soon"]),
    ];
    for (option, args) in misspelt {
        assert!(shell.run(args).failed(2).contains(option), "{args:?}");
    }
    for option in ["--unused-since", "--expiring-before"] {
        shell.run(&["key", "list", option, "2026-01-01"]).done();
    }
    let nothing = shell.run(&["key", "end-grace", label]);
    assert!(nothing.done().contains(label) && nothing.err.contains("nothing to end"), "{nothing:?}");
    let past = shell.run(&["operator", "create", "late", "--right", "machines:read", "--expires", "2020-01-01T00:00:00Z", "--quiet"]);
    assert!(!past.done().is_empty() && past.err.contains("warning: 2020-01-01"), "{past:?}");
    for verb in ["revoke", "delete"] {
        let asked = shell.run(&["key", verb, "prod - billing v1"]);
        assert!(asked.failed(2).contains("say --yes"), "{asked:?}");
    }
    assert!(shell.run(&["machine", "delete", "caller"]).failed(2).contains("and its 1 key, for good"));
    assert_eq!(shell.json(&["key", "list", "--status", "active"])["data"].as_array().unwrap().len(), 1, "nothing was done unasked");
    assert_eq!(shell.run(&["health"]).done(), "ready\n");
    let by_url = format!("http://{}", gateway.admin_address());
    assert_eq!(run(octroi(gateway.dir(), &["health", "--url", &by_url])).done(), "ready\n");
    let by_config = gateway.dir().join("octroi.yaml");
    std::fs::write(&by_config, gateway::settings(upstream.address)).unwrap();
    let listed = run(octroi(gateway.dir(), &["machine", "list", "--config", by_config.to_str().unwrap()]));
    assert!(listed.done().contains("caller"));
    let usual = run(octroi(gateway.dir(), &["machine", "list"]));
    assert_eq!(usual.done(), listed.out, "and without being told where");
    gateway.stop();
    for command in [&["machine", "list"][..], &["key", "revoke", "x", "--yes"], &["health"], &["journal", "list"]] {
        let failed = shell.run(command);
        assert!(failed.failed(3).contains("cannot be reached"), "{failed:?}");
    }
    run(octroi(gateway.dir(), &["health", "--url", &by_url])).failed(3);
    let nowhere = tempfile::tempdir().unwrap();
    assert!(run(octroi(nowhere.path(), &["machine", "list"])).failed(3).contains("--socket"));
}

#[test]
fn t226_a_value_that_nobody_reads_is_a_failure() {
    let upstream = Upstream::plain();
    let gateway = Gateway::on_real_time(upstream.address);
    let shell = Shell::of(&gateway);
    shell.run(&["machine", "create", "caller"]).done();
    let line = format!(
        "'{BINARY}' key create --machine caller --label 'prod - billing v1' --socket '{}' > /dev/full; echo $?",
        shell.socket.display()
    );
    let ran = run(command("sh", gateway.dir(), &["-c", &line]));
    assert_eq!(ran.done(), "1\n");
    assert!(ran.err.contains("regenerate the key"), "{ran:?}");
}

#[test]
fn check_is_content_with_what_we_ship_and_says_where_others_are_wrong() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["config/octroi.yaml", "config/minimal.yaml"] {
        let ran = run(octroi(root, &["check", "--config", file]));
        assert!(ran.done().contains(&format!("{file} is fine")), "{ran:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yaml");
    std::fs::write(
        &broken,
        "upstreams: {u: {targets: ['http://127.0.0.1:1']}}\nroutes:\n  r: {match: {path: /}, public: true, upstream: v}\n  s: {}\n",
    )
    .unwrap();
    for verb in ["check", "serve"] {
        let ran = run(octroi(folder.path(), &[verb, "--config", "broken.yaml"]));
        let message = ran.failed(2);
        assert!(message.contains("broken.yaml:3:") && message.contains("broken.yaml:4:") && message.contains("known: u"), "{message}");
    }
    assert!(run(octroi(folder.path(), &["check", "--config", "absent.yaml"])).failed(2).contains("absent.yaml"));
    run(octroi(folder.path(), &["check"])).failed(2);
}

/// A settings file in a folder of its own.
struct Place {
    dir: tempfile::TempDir,
    file: PathBuf,
}

impl Place {
    fn with(settings: &str) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("octroi.yaml");
        std::fs::write(&file, settings).unwrap();
        Place { dir, file }
    }

    fn before(upstream: &Upstream) -> Place {
        Place::with(&gateway::settings(upstream.address).replace("response: 1s", "response: 60s").replace("drain: 2s", "drain: 60s"))
    }
}

/// An upstream that answers when it is told to.
fn patient() -> (Upstream, Sender<()>) {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let upstream = Upstream::answering(move |_| {
        // An error means that the test is over.
        let _ = released.lock().unwrap().recv();
        Reply::ok("late")
    });
    (upstream, release)
}

#[test]
fn a_second_gateway_on_the_same_folder_or_port_is_told_so() {
    let upstream = Upstream::plain();
    let place = Place::before(&upstream);
    let (first, address) = Program::serving(&place.file);
    let second = run(octroi(place.dir.path(), &["serve", "--config", "octroi.yaml"]));
    let message = second.failed(1);
    assert!(message.contains("cannot start") && message.contains("another octroi (pid ") && message.contains("holds"), "{message}");
    let other = Place::with(&gateway::settings(upstream.address).replacen("127.0.0.1:0", &address.to_string(), 1));
    let third = run(octroi(other.dir.path(), &["serve", "--config", "octroi.yaml"]));
    let message = third.err.as_str();
    assert!(third.code == Some(1) && message.contains(&format!("cannot bind {address}")), "{third:?}");
    assert_eq!(ask(address, "/status/x", None).status, 200, "the first goes on");
    first.signal(Signal::TERM);
    assert_eq!(first.end().code, Some(0));
    let (again, _) = Program::serving(&place.file);
    again.signal(Signal::INT);
    assert_eq!(again.end().code, Some(0));
}

#[test]
fn t208_sigterm_lets_calls_in_flight_finish_and_health_says_so() {
    let (upstream, release) = patient();
    let place = Place::before(&upstream);
    let (mut gateway, address) = Program::serving(&place.file);
    let health = || run(octroi(place.dir.path(), &["health", "--config", "octroi.yaml"]));
    assert_eq!(health().done(), "ready\n");
    let mut connection = Connection::open(address);
    connection.request("GET", "/status/x", &[], None);
    eventually("the call at the upstream", || (!upstream.raw().is_empty()).then_some(()));
    gateway.signal(Signal::TERM);
    gateway.logged("\"draining\"");
    let draining = eventually("draining", || Some(health()).filter(|ran| ran.code != Some(0)));
    assert!(draining.failed(1).contains("draining (503)"), "{draining:?}");
    release.send(()).unwrap();
    let answer = connection.answer();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"late"[..]));
    let ran = gateway.end();
    assert!(ran.code == Some(0) && ran.err.contains("\"drained\""), "{ran:?}");
    health().failed(3);
}

#[test]
fn t208_a_second_sigterm_ends_it_at_once() {
    let (upstream, _release) = patient();
    let place = Place::before(&upstream);
    let (mut gateway, address) = Program::serving(&place.file);
    let mut connection = Connection::open(address);
    connection.request("GET", "/status/x", &[], None);
    eventually("the call at the upstream", || (!upstream.raw().is_empty()).then_some(()));
    gateway.signal(Signal::TERM);
    gateway.logged("\"draining\"");
    gateway.signal(Signal::TERM);
    gateway.logged("stopped without draining");
    // The drain would last until the upstream answers, which it never does.
    let ran = gateway.end();
    assert!(ran.code.is_some(), "it ended by itself: {ran:?}");
    assert!(connection.try_answer_to("GET").is_none_or(|answer| answer.status != 200));
}

/// `octroi demo` on free ports and the folder `store`.
fn demo(folder: &Path, store: &str) -> (Program, Vec<String>) {
    let mut program = Program::start(octroi(folder, &["demo", "--dir", store, "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0"]));
    let page = program.printed("Ctrl-C");
    (program, page)
}

/// Runs a line as it is pasted from the page.
fn paste(folder: &Path, line: &str) -> Ran {
    run(command("sh", folder, &["-c", line]))
}

fn curls(page: &[String]) -> Vec<&String> {
    let curls: Vec<&String> = page.iter().filter(|line| line.trim_start().starts_with("curl ")).collect();
    assert_eq!(curls.len(), 3, "{page:?}");
    // An interactive zsh knows no comments: the rest of the line would be more words for curl.
    assert!(curls.iter().all(|line| !line.contains(" # ")), "{curls:?}");
    curls
}

fn has_curl() -> bool {
    Command::new("curl").arg("--version").output().is_ok_and(|ran| ran.status.success())
}

#[test]
fn the_demonstrations_lines_work_when_pasted() {
    if !has_curl() {
        return support::skip("the_demonstrations_lines_work_when_pasted", "curl is missing (Debian package curl)");
    }
    let folder = tempfile::tempdir().unwrap();
    // A blank and a quote, as folders of people have them.
    let store = "l'été 2027";
    let (program, page) = demo(folder.path(), store);
    let value = page.iter().map(|line| line.trim()).find(|line| line.starts_with("pk_")).expect("the value").to_owned();
    let [admitted, refused, limited] = curls(&page)[..] else { unreachable!() };
    assert!(paste(folder.path(), admitted).done().starts_with("HTTP/1.1 200 OK"));
    assert!(paste(folder.path(), refused).done().starts_with("HTTP/1.1 401 Unauthorized"));
    let codes = paste(folder.path(), limited);
    let codes: Vec<&str> = codes.done().lines().collect();
    assert!(codes.first() == Some(&"200") && codes.last() == Some(&"429"), "{codes:?}");
    program.signal(Signal::INT);
    let ran = program.end();
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "nothing to complain about");

    let (program, page) = demo(folder.path(), store);
    assert!(page.iter().any(|line| line.contains("cannot be shown again")), "{page:?}");
    assert!(!page.iter().any(|line| line.contains(&value)));
    let regenerate = page.iter().find(|line| line.contains(" key regenerate ")).unwrap();
    // As in one terminal: the line that regenerates, then the first of those to try.
    let ran = paste(folder.path(), &format!("{regenerate}\n{}", curls(&page)[0]));
    assert!(ran.done().starts_with("HTTP/1.1 200 OK"), "{regenerate}: {ran:?}");
    let old = format!("{}\n{}", format_args!("OCTROI_KEY={value}"), curls(&page)[0]);
    assert!(paste(folder.path(), &old).done().starts_with("HTTP/1.1 401 "), "the old value is replaced");
    let socket = folder.path().join(store).join("admin.sock");
    let keys = run(octroi(folder.path(), &["key", "list", "--output", "json", "--socket", socket.to_str().unwrap()])).json();
    let id = text(&keys["data"][0]["id"]);
    run(octroi(folder.path(), &["key", "revoke", &id, "--yes", "--socket", socket.to_str().unwrap()])).done();
    program.signal(Signal::TERM);
    assert_eq!(program.end().code, Some(0));

    let (program, page) = demo(folder.path(), store);
    let third = page.iter().map(|line| line.trim()).find(|line| line.starts_with("pk_")).expect("a new value after the revocation");
    assert_ne!(third, value);
    assert!(paste(folder.path(), curls(&page)[0]).done().starts_with("HTTP/1.1 200 OK"));
    program.signal(Signal::INT);
    assert_eq!(program.end().code, Some(0));

    let (program, page) = demo(folder.path(), store);
    let regenerate = page.iter().find(|line| line.contains(" key regenerate ")).unwrap();
    let ran = paste(folder.path(), &format!("{regenerate}\n{}", curls(&page)[0]));
    assert!(ran.done().starts_with("HTTP/1.1 200 OK"), "also where a revoked key has the same label: {ran:?}");
    program.signal(Signal::INT);
    assert_eq!(program.end().code, Some(0));
}

#[test]
fn a_second_demonstration_is_told_what_is_in_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let (program, page) = demo(folder.path(), "one");
    let taken = page.iter().find_map(|line| line.trim().strip_prefix("gateway")).unwrap().trim().trim_start_matches("http://").to_owned();
    let second =
        |store: &str, public: &str| run(octroi(folder.path(), &["demo", "--dir", store, "--public", public, "--admin", "127.0.0.1:0"]));
    assert!(second("one", "127.0.0.1:0").failed(1).contains("another octroi (pid "));
    assert!(second("two", &taken).failed(1).contains(&format!("cannot bind {taken}")));
    assert!(second("two", "nonsense").failed(2).contains("--public"));
    program.signal(Signal::TERM);
    assert_eq!(program.end().code, Some(0));
}
