//! The listeners over real sockets, with a store that cannot be used: what must hold whatever the store does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::super::catalogue::tests::example;
use super::super::{BODY_TIMEOUT, Calls, Care, Doorkeeper, Judge, KeyUse, Readiness, StoreCare, VERIFY};
use super::seats::MAX_OF_ONE;
use super::{Admin, AdminSocket, Arc, Duration, Listeners, SocketAddr, StdTcpListener, serve};
use crate::clock::Clock;
use crate::config;
use crate::gate::{Gate, Rules};
use crate::limits::Brake;
use crate::model::{Key, KeyId, Machine, MachineId, Operator, OperatorId, Timestamp};
use crate::registry::Registry;
use crate::store::{
    Archived, Author, Backup, Entry, Filter, Head, Health, History, Kept, Record, Seq, Store, StoreError, Subject, Verified, Whole,
};
use crate::telemetry::metrics::Metrics;
use crate::usage::Usage;

/// A store on a dead disk: it starts empty and then fails at everything.
struct Dead;

fn dead<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("the disk is dead".into()))
}

impl Store for Dead {
    fn scan(&self, _: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
        Ok(())
    }
    fn machine(&self, _: MachineId) -> Result<Option<Kept<Machine>>, StoreError> {
        dead()
    }
    fn key(&self, _: KeyId) -> Result<Option<Kept<Key>>, StoreError> {
        dead()
    }
    fn machines(&self, _: Option<MachineId>, _: usize) -> Result<Vec<Machine>, StoreError> {
        dead()
    }
    fn keys(&self, _: Option<MachineId>, _: Option<KeyId>, _: usize) -> Result<Vec<Key>, StoreError> {
        dead()
    }
    fn operator(&self, _: OperatorId) -> Result<Option<Kept<Operator>>, StoreError> {
        dead()
    }
    fn operators(&self, _: Option<OperatorId>, _: usize) -> Result<Vec<Operator>, StoreError> {
        dead()
    }
    fn commit(&self, _: Vec<Entry>) -> Result<Vec<Seq>, StoreError> {
        dead()
    }
    fn history(&self, _: &Filter, _: Option<Seq>, _: usize) -> Result<History, StoreError> {
        dead()
    }
    fn entry(&self, _: Seq) -> Result<Option<Value>, StoreError> {
        dead()
    }
    fn was_there(&self, _: Subject) -> Result<Option<bool>, StoreError> {
        dead()
    }
    fn origin(&self) -> Head {
        Head::START
    }
    fn head(&self, _: Option<Seq>) -> Result<Option<Head>, StoreError> {
        dead()
    }
    fn export(&self, _: Head, _: Seq) -> Result<(Vec<u8>, Head), StoreError> {
        dead()
    }
    fn verify(&self, _: &[Head]) -> Result<Verified, StoreError> {
        dead()
    }
    fn health(&self) -> Health {
        Health::Refusing("the disk is dead".into())
    }
    fn recover(&self) {}
}

impl Care for Dead {
    fn backup(&self) -> Result<Backup, StoreError> {
        dead()
    }
    fn verify(&self) -> Result<Whole, StoreError> {
        dead()
    }
    fn archive(&self, _: &Path, _: &Author) -> Result<Archived, StoreError> {
        dead()
    }
}

struct Running {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    tcp: SocketAddr,
    telemetry: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A gate for one public route, and nothing behind it.
fn judge(registry: &Registry, clock: &Clock) -> Judge {
    let text = "upstreams: {u: {targets: ['http://127.0.0.1:1']}}\nroutes: {r: {match: {path: /}, public: true, upstream: u}}\n";
    let settings = config::parse(text, Path::new("o.yaml"), &|_| None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (usage, _) = Usage::open(folder.path()).unwrap();
    Judge {
        gate: Arc::new(Gate::new(registry.clone(), Brake::new(settings.guessing, 8))),
        rules: Arc::new(Rules::new(&settings)),
        calls: Calls::new(Metrics::new(Vec::new(), clock).beside(&[VERIFY]), usage.ledger(), None),
    }
}

fn admin(body_within: Duration) -> Arc<Admin> {
    let clock = Clock::manual(Timestamp(1_800_000_000_000));
    let registry = Registry::open(Arc::new(Dead), clock.clone(), "pk".into()).unwrap();
    Arc::new(Admin {
        judge: judge(&registry, &clock),
        registry,
        clock,
        catalogue: example(),
        hosts: Vec::new(),
        body_within,
        usage: Arc::new(|_| KeyUse::default()),
        store: StoreCare::new(Arc::new(Dead)),
        doorkeeper: Arc::new(Doorkeeper::new(Arc::new(Usage::open(tempfile::tempdir().unwrap().path()).unwrap().0))),
        totals: Arc::new(crate::admin::Totals::default),
        repeats: crate::admin::Repeats::default(),
        readiness: Arc::new(|| Readiness::NotReady { status: "degraded", reasons: vec!["the disk is dead".into()] }),
        metrics: Arc::new(|| "octroi_build_info 1\n".into()),
    })
}

fn start() -> Running {
    start_with(BODY_TIMEOUT)
}

fn start_with(body_within: Duration) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let (tcp, telemetry) = (StdTcpListener::bind("127.0.0.1:0").unwrap(), StdTcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = (tcp.local_addr().unwrap(), telemetry.local_addr().unwrap());
    let listeners = Listeners { socket: Some(AdminSocket::bind(&socket).unwrap()), tcp: Some(tcp), tls: None, telemetry: Some(telemetry) };
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let end = async { stopped.await.unwrap_or_default() };
        runtime.block_on(serve(admin(body_within), listeners, end)).unwrap();
    });
    Running { _folder: folder, socket, tcp: addresses.0, telemetry: addresses.1, stop: Some(stop), thread: Some(thread) }
}

impl Running {
    fn stop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The answer's status, head in lower case, and body.
fn talk(mut stream: impl Read + Write, head: &str, body: &str) -> (u16, String, String) {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "{head}Connection: close\r\n{length}\r\n{body}").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn over_tcp(to: SocketAddr, line: &str, fields: &str) -> (u16, String, String) {
    talk(TcpStream::connect(to).unwrap(), &format!("{line} HTTP/1.1\r\n{fields}"), "")
}

fn over_socket(socket: &Path, line: &str, fields: &str, body: &str) -> (u16, String, Value) {
    let head = format!("{line} HTTP/1.1\r\nHost: octroi\r\n{fields}");
    let (status, head, body) = talk(UnixStream::connect(socket).unwrap(), &head, body);
    (status, head, serde_json::from_str(&body).unwrap_or(Value::Null))
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn over_tcp_only_probes_and_metrics_are_open() {
    let gateway = start();
    let local = "Host: localhost:8090\r\n";
    let token = "Host: 127.0.0.1\r\nAuthorization: Bearer guess\r\n";
    let cases = [
        ("GET /livez", local, 200, "alive"),
        ("GET /readyz", local, 503, "the disk is dead"),
        ("GET /metrics", local, 200, "octroi_build_info"),
        ("GET /v1/keys", local, 401, "token_missing"),
        ("DELETE /v1/keys/key_1", token, 401, "token_invalid"),
        ("POST /v1/nothing", local, 401, "token_missing"),
        ("GET /livez", "Host: rebound.example\r\n", 403, "host_denied"),
        ("GET /nothing", local, 404, "not_found"),
        ("POST /livez", local, 405, "method_not_allowed"),
    ];
    for (line, fields, status, word) in cases {
        let (seen, head, body) = over_tcp(gateway.tcp, line, fields);
        assert_eq!(seen, status, "{line} {fields}: {body}");
        assert!(body.contains(word), "{line}: {body}");
        assert!(!head.contains("access-control") && head.contains("cache-control: no-store") && head.contains("x-request-id: "), "{head}");
        let challenged = head.contains("www-authenticate: bearer");
        assert_eq!(challenged, status == 401, "{head}");
        assert_eq!(head.contains("allow: get,head"), status == 405, "{head}");
    }
}

#[test]
fn a_body_that_stops_coming_ends_its_connection() {
    let gateway = start_with(Duration::from_millis(1));
    for line in ["POST /v1/machines", "POST /v1/verify", "DELETE /v1/keys/key_1"] {
        let mut half = UnixStream::connect(&gateway.socket).unwrap();
        write!(half, "{line} HTTP/1.1\r\nHost: octroi\r\n{JSON}Content-Length: 20\r\n\r\n{{\"name\"").unwrap();
        let mut text = String::new();
        half.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("body_timeout"), "{line}: {text}");
        assert!(text.to_lowercase().contains("\r\nconnection: close\r\n"), "{line}: {text}");
    }
    assert_eq!(over_socket(&gateway.socket, "GET /v1/whoami", "", "").0, 200, "without a body nothing is waited for");
}

#[test]
fn the_telemetry_listener_leads_nowhere_else() {
    let gateway = start();
    for (line, status) in [("GET /metrics", 200), ("GET /livez", 200), ("GET /v1/keys", 404), ("POST /v1/machines", 404)] {
        assert_eq!(over_tcp(gateway.telemetry, line, "Host: any.example\r\n").0, status, "{line}");
    }
}

#[test]
fn a_problem_carries_the_id_of_its_request() {
    let gateway = start();
    let (status, head, body) = over_socket(&gateway.socket, "GET /v1/nothing", "X-Request-Id: abc.1\r\n", "");
    assert_eq!((status, &body["request_id"], &body["code"]), (404, &json!("abc.1"), &json!("not_found")));
    assert!(head.contains("content-type: application/problem+json") && head.contains("x-request-id: abc.1"), "{head}");
    let (_, _, body) = over_socket(&gateway.socket, "GET /v1/nothing", "X-Request-Id: a b\r\n", "");
    assert_eq!(body["request_id"].as_str().map(str::len), Some(32));
}

#[test]
fn a_store_that_fails_is_503_with_a_time_to_come_back() {
    let gateway = start();
    let id = MachineId::from_u128(1);
    let cases = [
        ("GET /v1/machines".to_owned(), ""),
        ("GET /v1/keys?status=active&limit=1".to_owned(), ""),
        ("GET /v1/journal".to_owned(), ""),
        ("POST /v1/machines".to_owned(), r#"{"name":"Billing","tier":null,"permissions":["sensors:read"],"reason":"new"}"#),
        (format!("PATCH /v1/machines/{id}"), r#"{"name":"Billing"}"#),
    ];
    for (line, body) in cases {
        let (status, head, body) = over_socket(&gateway.socket, &line, JSON, body);
        assert_eq!((status, &body["code"]), (503, &json!("store_unavailable")), "{line}: {body}");
        assert!(head.contains("retry-after: 5"), "{head}");
    }
}

#[test]
fn everything_invalid_is_pointed_at_in_one_answer() {
    let gateway = start();
    let id = MachineId::from_u128(1);
    let machines = "POST /v1/machines".to_owned();
    let keys = format!("POST /v1/machines/{id}/keys");
    let cases: [(&str, &str, &[&str]); 6] = [
        (&machines, "{}", &["/name"]),
        (
            &machines,
            r#"{"name":" ","tier":"gold","permissions":["nope"],"colour":"red"}"#,
            &["/name", "/permissions/0", "/tier", "/colour"],
        ),
        (&machines, r#"{"name":"a","permissions":null,"reason":7}"#, &["/permissions", "/reason"]),
        (
            &keys,
            r#"{"label":"a","environment":"PROD","allowed_ips":["10.0.0.1/8"],"expires_at":"soon"}"#,
            &["/environment", "/allowed_ips/0", "/expires_at"],
        ),
        (&keys, r#"{"label":"a","expires_at":"2027-01-31T00:00:00Z","expires_in":"90d","secret":"x"}"#, &["/expires_in", "/secret"]),
        ("GET /v1/keys?status=dead&limit=0&colour=red", "", &["?limit", "?status", "?colour"]),
    ];
    for (line, body, pointers) in cases {
        let (status, _, answer) = over_socket(&gateway.socket, line, JSON, body);
        let seen: Vec<&str> = answer["errors"].as_array().unwrap().iter().filter_map(|e| e["pointer"].as_str()).collect();
        assert_eq!((status, &answer["code"], seen.as_slice()), (400, &json!("invalid"), pointers), "{line} {body}: {answer}");
    }
}

#[test]
fn a_body_must_be_json_and_of_a_bounded_length() {
    let gateway = start();
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(super::super::MAX_BODY));
    let cases = [
        (form, r#"{"name":"a"}"#, 400, "application/json"),
        (JSON, "{", 400, "is not JSON"),
        (JSON, r#"{"name":"a","name":"b"}"#, 400, "/name: stands there twice"),
        (JSON, &long, 413, "longer than 1048576"),
    ];
    for (fields, body, expected, words) in cases {
        let (status, _, answer) = over_socket(&gateway.socket, "POST /v1/machines", fields, body);
        assert_eq!(status, expected, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(words), "{answer}");
    }
}

#[test]
fn what_the_settings_name_is_shown() {
    let gateway = start();
    let (_, _, tiers) = over_socket(&gateway.socket, "GET /v1/tiers", "", "");
    let minute = json!([{"window": "minute", "quota": 60, "burst": 60}]);
    assert_eq!(tiers["data"][0], json!({"name": "free", "label": {"fr": null, "en": null}, "default": true, "limits": minute}));
    let (_, _, permissions) = over_socket(&gateway.socket, "GET /v1/permissions", "", "");
    let built_in = permissions["data"].as_array().unwrap().iter().filter(|row| row["built_in"] == true).map(|row| &row["name"]);
    assert_eq!(built_in.collect::<Vec<_>>(), ["admin"]);
    assert_eq!(over_socket(&gateway.socket, "GET /v1/routes", "", "").2, json!({"data": [], "next_cursor": null}));
}

#[test]
fn stopping_ends_idle_connections_and_removes_the_socket() {
    let mut gateway = start();
    let mut idle = UnixStream::connect(&gateway.socket).unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: octroi\r\n\r\n").unwrap();
    let mut first = [0u8; 12];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    gateway.stop();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert!(!gateway.socket.exists());
}

/// Opens a connection and asks once, without closing it. Whether there was an answer.
fn knock(from: &str, to: SocketAddr) -> Option<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    // Either may fail on one that is closed at once.
    let asked = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answered = asked.and_then(|()| stream.read(&mut [0; 16])).unwrap_or(0);
    (answered > 0).then_some(stream)
}

#[test]
fn one_address_does_not_take_every_seat() {
    let gateway = start();
    let mut held: Vec<TcpStream> = (0..MAX_OF_ONE).map(|_| knock("127.0.0.1", gateway.tcp).unwrap()).collect();
    for _ in 0..3 {
        assert!(knock("127.0.0.1", gateway.tcp).is_none(), "its share is taken");
    }
    assert!(knock("127.0.0.2", gateway.tcp).is_some(), "others are served");
    held.pop();
    while knock("127.0.0.1", gateway.tcp).is_none() {}
}

#[test]
fn the_description_of_the_api_is_made_once() {
    assert!(std::ptr::eq(super::super::openapi(), super::super::openapi()));
}
