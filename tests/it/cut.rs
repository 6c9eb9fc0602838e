//! Exchanges still open a second after their key or machine stopped counting are cut, whatever they wait for; those that are over by then,
//! and those of other callers, are not touched.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use octroi::clock::Clock;
use octroi::model::change::{KeyEdit, MachineEdit, NewKey};
use octroi::model::{Change, PermissionSet, TierName, Timestamp};

use crate::support::client::{Connection, eventually};
use crate::support::gateway::{Holder, NOON};
use crate::support::{Gateway, gateway};

/// The length of a download that never gets there.
const LENGTH: usize = 1_000_000_000;
/// Between two pieces of an endless answer or upload.
const PACE: Duration = Duration::from_millis(10);
/// Several of the worker's sweeps.
const SWEEPS: Duration = Duration::from_millis(400);

/// An upstream whose answers do not end by themselves: what it does is the last segment of the path. Every piece it sends is the time
/// since it began, in eight digits of milliseconds.
struct Endless {
    address: SocketAddr,
    began: Instant,
    /// Connections that the gateway has ended.
    ended: Arc<AtomicUsize>,
    /// Requests whose head has come.
    heads: Arc<AtomicUsize>,
    /// Lets one request to `/late` be answered.
    release: mpsc::Sender<()>,
}

impl Endless {
    fn start() -> Endless {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (release, released) = mpsc::channel();
        let released = Arc::new(std::sync::Mutex::new(released));
        let endless = Endless { address, began: Instant::now(), ended: Arc::default(), heads: Arc::default(), release };
        let (began, ended, heads) = (endless.began, endless.ended.clone(), endless.heads.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (ended, heads, released) = (ended.clone(), heads.clone(), released.clone());
                std::thread::spawn(move || {
                    while let Some(path) = request(&stream) {
                        heads.fetch_add(1, Ordering::SeqCst);
                        if path.ends_with("/late") {
                            // The test is over, or lets the answer go.
                            let _ = released.lock().unwrap().recv();
                        }
                        answer(&stream, &path, began);
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        endless
    }

    fn now(&self) -> u128 {
        self.began.elapsed().as_millis()
    }
}

/// The path of the next request; `None` at the end of the connection.
fn request(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(head).unwrap();
    Some(head.split(' ').nth(1).unwrap().to_owned())
}

fn answer(mut stream: &TcpStream, path: &str, began: Instant) {
    let (head, frame): (&[u8], fn(String) -> String) = match path.rsplit('/').next().unwrap() {
        "events" => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", |piece| format!("8\r\n{piece}\r\n")),
        "download" => (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", |piece| piece),
        "flood" => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", |_| format!("8000\r\n{}\r\n", "x".repeat(0x8000))),
        "late" | "short" => return drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
        // Takes an upload, or keeps its caller waiting, for as long as the gateway stays.
        _ => return drop(std::io::copy(&mut stream, &mut std::io::sink())),
    };
    let mut alive = stream.write_all(head).is_ok();
    while alive {
        alive = stream.write_all(frame(format!("{:08}", began.elapsed().as_millis())).as_bytes()).is_ok();
        if !path.ends_with("flood") {
            std::thread::sleep(PACE);
        }
    }
}

/// One worker, so that what one of its connections shows holds for all of them; and no bound that the moving clock could run into.
fn patient(upstream: &Endless) -> Gateway {
    let settings = gateway::settings(upstream.address)
        .replace("timeouts: {connect: 1s, response: 1s, idle: 2s}", "timeouts: {connect: 60s, response: 60s, idle: 60s}")
        .replace(
            "workers: 2, head: 500ms, first_byte: 2s, idle: 2s, body: 500ms, write: 2s",
            "workers: 1, write: 60s, body: 60s, idle: 60s",
        );
    Gateway::with(settings, Clock::manual(NOON))
}

/// The exchanges of one key that do not end by themselves, each on a connection of its own.
struct Open {
    events: Connection,
    download: Connection,
    waiting: Connection,
    uploads: Vec<Upload>,
}

/// A client that sends without end.
struct Upload {
    connection: Connection,
    sending: std::thread::JoinHandle<()>,
}

impl Upload {
    fn start(gateway: &Gateway, bearer: &str, framing: &str, piece: &'static str) -> Upload {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        let head = format!("POST /any/sink HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let connection = Connection::of(stream.try_clone().unwrap());
        let sending = std::thread::spawn(move || {
            while stream.write_all(piece.as_bytes()).is_ok() {
                std::thread::sleep(PACE);
            }
        });
        Upload { connection, sending }
    }
}

const UNFINISHED: usize = 5;

impl Open {
    /// Once all of them have reached the upstream.
    fn start(gateway: &Gateway, upstream: &Endless, value: &str) -> Open {
        let before = upstream.heads.load(Ordering::SeqCst);
        let bearer = format!("Bearer {value}");
        let get = |target: &str| {
            let mut connection = gateway.connect();
            connection.request("GET", target, &[("Authorization", &bearer)], None);
            connection
        };
        let (mut events, mut download, waiting) = (get("/any/events"), get("/any/download"), get("/any/wait"));
        let uploads = vec![
            Upload::start(gateway, &bearer, "Transfer-Encoding: chunked", "4\r\nmore\r\n"),
            Upload::start(gateway, &bearer, &format!("Content-Length: {LENGTH}"), "more"),
        ];
        for connection in [&mut events, &mut download] {
            assert!(connection.head().unwrap().starts_with("HTTP/1.1 200"));
        }
        eventually("the upstream's requests", || (upstream.heads.load(Ordering::SeqCst) == before + UNFINISHED).then_some(()));
        Open { events, download, waiting, uploads }
    }

    /// Both answers go on for several sweeps of their worker from now on, and nothing else has come to an end.
    fn go_on(&mut self, upstream: &Endless) {
        let until = upstream.now() + SWEEPS.as_millis();
        let is_later = |piece: &[u8]| std::str::from_utf8(piece).unwrap().parse::<u128>().unwrap() > until;
        while !is_later(&self.events.chunk().expect("events go on")) {}
        while !is_later(&self.download.exactly(8).expect("the download goes on")) {}
        for connection in [&mut self.waiting].into_iter().chain(self.uploads.iter_mut().map(|upload| &mut upload.connection)) {
            assert!(connection.is_silent(), "nothing was answered");
        }
    }

    /// Everything ends: what had begun breaks off, what waited is told why.
    fn are_cut(mut self, gateway: &Gateway, code: &str) {
        while let Some(chunk) = self.events.chunk() {
            assert!(!chunk.is_empty(), "the end of a whole answer");
        }
        assert!(self.download.rest().len() < LENGTH);
        for connection in [&mut self.waiting].into_iter().chain(self.uploads.iter_mut().map(|upload| &mut upload.connection)) {
            let answer = connection.answer();
            answer.refused(401, code);
            assert_eq!(answer.header("connection"), Some("close"));
            assert_eq!(connection.rest(), b"");
        }
        // A connection with bytes on their way is read a little longer, so that its client sees the answer.
        gateway.wait(Duration::from_secs(3));
        for upload in self.uploads {
            upload.sending.join().unwrap();
        }
    }
}

fn edit(holder: &Holder, edit: KeyEdit) -> Change {
    Change::EditKey(holder.key.id, edit)
}

fn expiring(at: i64) -> KeyEdit {
    KeyEdit { expires_at: Some(Some(Timestamp(at))), ..KeyEdit::default() }
}

/// Has the value stop counting by `end`, and follows what was open.
fn ends_by(code: &str, end: impl FnOnce(&Gateway, &Holder)) {
    let upstream = Endless::start();
    let gateway = patient(&upstream);
    let holder = gateway.holder("caller");
    let mut bystander = gateway.connect();
    bystander.request("GET", "/any/events", &[("Authorization", &format!("Bearer {}", gateway.holder("another").value))], None);
    assert!(bystander.head().unwrap().starts_with("HTTP/1.1 200"));

    let mut open = Open::start(&gateway, &upstream, &holder.value);
    open.go_on(&upstream);
    end(&gateway, &holder);
    gateway.get_as(&holder, "/any/short").refused(401, code);
    open.go_on(&upstream);
    gateway.wait(Duration::from_millis(999));
    open.go_on(&upstream);
    gateway.wait(Duration::from_millis(1));
    open.are_cut(&gateway, code);

    eventually("the end of the upstream's connections", || (upstream.ended.load(Ordering::SeqCst) == UNFINISHED).then_some(()));
    let lines = gateway.log_lines(UNFINISHED + 1);
    assert_eq!(lines.len(), UNFINISHED + 1, "each is recorded once, and the bystander's is open");
    assert!(lines.iter().all(|line| line["verdict"] == code), "{lines:?}");
    let metric = format!("octroi_exchanges_cut_total{{code=\"{code}\"}} {UNFINISHED}");
    assert!(gateway.metrics().lines().any(|line| line == metric), "{metric}");
    let after = upstream.now();
    while std::str::from_utf8(&bystander.chunk().expect("another's events go on")).unwrap().parse::<u128>().unwrap() < after + 100 {}
    assert_eq!(upstream.ended.load(Ordering::SeqCst), UNFINISHED);
}

#[test]
fn t020_what_is_open_a_second_after_its_key_was_deactivated_is_cut() {
    ends_by("key_inactive", |gateway, holder| drop(gateway.commit(Change::DeactivateKey(holder.key.id)).unwrap()));
}

#[test]
fn t020_what_is_open_a_second_after_its_key_was_revoked_is_cut() {
    ends_by("key_revoked", |gateway, holder| drop(gateway.commit(Change::RevokeKey(holder.key.id)).unwrap()));
}

#[test]
fn what_is_open_a_second_after_its_key_was_regenerated_is_cut() {
    ends_by("key_replaced", |gateway, holder| drop(gateway.commit(Change::RegenerateKey(holder.key.id, Duration::ZERO)).unwrap()));
}

#[test]
fn what_is_open_a_second_after_its_values_grace_is_over_is_cut() {
    ends_by("key_replaced", |gateway, holder| {
        gateway.commit(Change::RegenerateKey(holder.key.id, Duration::from_secs(10))).unwrap();
        gateway.wait(Duration::from_secs(10));
    });
}

#[test]
fn what_is_open_a_second_after_its_key_was_deleted_is_cut() {
    ends_by("key_unknown", |gateway, holder| drop(gateway.commit(Change::DeleteKey(holder.key.id)).unwrap()));
}

#[test]
fn what_is_open_a_second_after_its_key_was_made_to_have_expired_is_cut() {
    ends_by("key_expired", |gateway, holder| drop(gateway.commit(edit(holder, expiring(NOON.0 - 1))).unwrap()));
}

#[test]
fn what_is_open_a_second_after_its_keys_date_is_cut() {
    ends_by("key_expired", |gateway, holder| {
        gateway.commit(edit(holder, expiring(NOON.0 + 10_000))).unwrap();
        gateway.wait(Duration::from_secs(10));
    });
}

#[test]
fn what_is_open_a_second_after_its_machine_was_disabled_is_cut() {
    ends_by("machine_disabled", |gateway, holder| drop(gateway.commit(Change::DisableMachine(holder.machine.id)).unwrap()));
}

#[test]
fn what_is_open_a_second_after_its_machine_was_deleted_is_cut() {
    ends_by("key_unknown", |gateway, holder| drop(gateway.commit(Change::DeleteMachine(holder.machine.id)).unwrap()));
}

#[test]
fn a_key_whose_date_was_known_when_the_call_came_ends_it_too() {
    let upstream = Endless::start();
    let gateway = patient(&upstream);
    let machine = gateway.machine("caller", &[], None);
    let new = NewKey { expires_at: Some(Timestamp(NOON.0 + 5_000)), ..NewKey::default() };
    let holder = gateway.key(&machine, new);
    let mut open = Open::start(&gateway, &upstream, &holder.value);
    gateway.wait(Duration::from_secs(5));
    open.go_on(&upstream);
    gateway.wait(Duration::from_secs(1));
    open.are_cut(&gateway, "key_expired");
}

#[test]
fn edits_that_bind_later_calls_only_and_ends_that_were_taken_back_cut_nothing() {
    let upstream = Endless::start();
    let gateway = patient(&upstream);
    let holder = gateway.holder("caller");
    let (key, machine) = (holder.key.id, holder.machine.id);
    let mut open = Open::start(&gateway, &upstream, &holder.value);
    let tier = || Some(TierName::parse("free"));
    for change in [
        edit(&holder, KeyEdit { permissions: Some(Some(PermissionSet::default())), ..KeyEdit::default() }),
        edit(&holder, KeyEdit { allowed_ips: Some(Some(vec!["192.0.2.1/32".parse().unwrap()])), ..KeyEdit::default() }),
        edit(&holder, KeyEdit { organizations: Some(Some(["o".to_owned()].into_iter().collect())), ..KeyEdit::default() }),
        edit(&holder, KeyEdit { tier: tier(), ..KeyEdit::default() }),
        edit(&holder, expiring(NOON.0 + 3_600_000)),
        Change::EditMachine(machine, MachineEdit { permissions: Some(PermissionSet::default()), tier: tier(), ..MachineEdit::default() }),
        Change::RegenerateKey(key, Duration::from_secs(3_600)),
    ] {
        gateway.commit(change).unwrap();
    }
    open.go_on(&upstream);
    for (end, back) in [
        (Change::DeactivateKey(key), Change::ReactivateKey(key)),
        (Change::DisableMachine(machine), Change::EnableMachine(machine)),
        (edit(&holder, expiring(NOON.0)), edit(&holder, expiring(NOON.0 + 3_600_000))),
    ] {
        gateway.commit(end).unwrap();
        open.go_on(&upstream);
        gateway.wait(Duration::from_millis(900));
        gateway.commit(back).unwrap();
        open.go_on(&upstream);
        gateway.wait(Duration::from_secs(5));
        open.go_on(&upstream);
    }
    // The second begins anew with each end.
    gateway.commit(Change::RevokeKey(key)).unwrap();
    open.go_on(&upstream);
    gateway.wait(Duration::from_secs(1));
    open.are_cut(&gateway, "key_revoked");
}

#[test]
fn an_ordinary_answer_within_the_second_completes() {
    let upstream = Endless::start();
    let gateway = patient(&upstream);
    let holder = gateway.holder("caller");
    let mut connection = gateway.connect();
    connection.request("GET", "/any/late", &[("Authorization", &format!("Bearer {}", holder.value))], None);
    eventually("the upstream's request", || (upstream.heads.load(Ordering::SeqCst) == 1).then_some(()));
    gateway.commit(Change::RevokeKey(holder.key.id)).unwrap();
    gateway.wait(Duration::from_millis(999));
    upstream.release.send(()).unwrap();
    let answer = connection.answer();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    assert_eq!(gateway.log_lines(1)[0]["verdict"], "ok");
    assert!(gateway.metrics().contains("octroi_exchanges_cut_total{code=\"key_revoked\"} 0"));
}

#[test]
fn a_client_that_takes_nothing_is_cut_as_well() {
    let upstream = Endless::start();
    let gateway = patient(&upstream);
    let holder = gateway.holder("caller");
    let mut connection = gateway.connect();
    connection.request("GET", "/any/flood", &[("Authorization", &format!("Bearer {}", holder.value))], None);
    assert!(connection.head().is_some());
    gateway.commit(Change::DeactivateKey(holder.key.id)).unwrap();
    let line = eventually("the cut", || {
        // However late the worker first sees the change: a second later it is over.
        gateway.wait(Duration::from_millis(1));
        std::fs::read_to_string(gateway.dir().join("access.log")).ok().filter(|log| !log.is_empty())
    });
    assert!(line.contains("\"key_inactive\""), "{line}");
    eventually("the end of the upstream's connection", || (upstream.ended.load(Ordering::SeqCst) == 1).then_some(()));
}

#[test]
fn an_answer_that_ends_with_its_connection_is_not_cut_to_a_whole_one() {
    let upstream = Endless::start();
    let gateway = patient(&upstream);
    let holder = gateway.holder("caller");
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(format!("GET /any/events HTTP/1.0\r\nHost: a\r\nX-API-Key: {}\r\n\r\n", holder.value).as_bytes()).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 1);
    gateway.commit(Change::RevokeKey(holder.key.id)).unwrap();
    let mut buffer = [0; 4096];
    let end = loop {
        // Each read shows that the worker went on; the clock follows it.
        gateway.wait(Duration::from_millis(20));
        match stream.read(&mut buffer) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset), "a reset, not an end");
}
