//! A client of the admin plane, over its Unix socket or TCP: one request, one connection. It checks of every answer what holds for all:
//! a length that is right, no cache, no sniffing, no page of another site.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Gateway;
use super::client::Answer;

/// Longer than anything a test waits for; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// Speaks to one gateway's admin socket.
#[derive(Clone)]
pub struct Admin(PathBuf);

impl Admin {
    pub fn of(gateway: &Gateway) -> Admin {
        Admin::at(gateway.dir().join("data/admin.sock"))
    }

    pub fn at(socket: impl AsRef<Path>) -> Admin {
        Admin(socket.as_ref().to_owned())
    }

    pub fn socket(&self) -> &Path {
        &self.0
    }

    pub fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> Answer {
        self.try_ask(method, target, body).expect("an answer before the connection ends")
    }

    /// `None` when nobody is there, or goes away without an answer.
    pub fn try_ask(&self, method: &str, target: &str, body: Option<&Value>) -> Option<Answer> {
        let body = body.map(Value::to_string);
        self.send(&request(method, target, "localhost", "Content-Type: application/json\r\n", body.as_deref().unwrap_or_default()))
    }

    /// These bytes as the request.
    pub fn send(&self, request: &str) -> Option<Answer> {
        let stream = UnixStream::connect(&self.0).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, request)
    }

    /// The body of a 200.
    pub fn get(&self, target: &str) -> Value {
        let answer = self.ask("GET", target, None);
        assert_eq!(answer.status, 200, "{target}: {answer:?} {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// The body of an answer to something that was done.
    pub fn done(&self, method: &str, target: &str, body: Value) -> Value {
        let answer = self.ask(method, target, Some(&body));
        assert!((200..300).contains(&answer.status), "{method} {target} {body}: {}", String::from_utf8_lossy(&answer.body));
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    pub fn machine(&self, body: Value) -> Value {
        self.done("POST", "/v1/machines", body)
    }

    /// The key as it was made, `secret` included.
    pub fn key(&self, machine: &Value, body: Value) -> Value {
        self.done("POST", &format!("/v1/machines/{}/keys", text(&machine["id"])), body)
    }

    /// The pointers of everything that is wrong with a request, in order.
    pub fn faults(&self, method: &str, target: &str, body: Value) -> Vec<String> {
        let answer = self.ask(method, target, Some(&body));
        answer.refused(400, "invalid");
        let errors = answer.json()["errors"].clone();
        let pointers = errors.as_array().unwrap().iter().map(|error| {
            assert!(!text(&error["message"]).is_empty());
            text(&error["pointer"])
        });
        pointers.collect()
    }

    /// Every entry of a list, page by page.
    pub fn all(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut entries, mut cursor) = (Vec::new(), String::new());
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{join}limit={limit}{cursor}"));
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= limit, "{} entries on a page of {limit}", data.len());
            entries.extend(data.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => {
                    assert_eq!(data.len(), limit, "a page that is not the last one is full");
                    cursor = format!("&cursor={next}");
                }
                None => return entries,
            }
        }
    }
}

/// One request over TCP, as a page in a browser on this machine could send it.
pub fn over_tcp(to: SocketAddr, method: &str, target: &str, host: &str, headers: &str, body: &str) -> Answer {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(stream, &request(method, target, host, headers, body)).expect("an answer before the connection ends")
}

pub fn request(method: &str, target: &str, host: &str, headers: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{length}\r\n{body}")
}

/// A JSON text without its quotes.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// What most tests make keys with.
pub fn labelled(label: &str) -> Value {
    json!({"label": label})
}

/// What is answered once this was sent, too.
pub fn exchange(mut stream: impl Read + Write, request: &str) -> Option<Answer> {
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let answer = Answer { status, headers, body: bytes[end + 4..].to_vec(), truncated: false };
    check(&answer, request.starts_with("HEAD "));
    Some(answer)
}

fn check(answer: &Answer, head_only: bool) {
    if let Some(length) = answer.header("content-length").filter(|_| !head_only) {
        assert_eq!(length.parse::<usize>().unwrap(), answer.body.len(), "{answer:?}");
    }
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{answer:?}");
    assert!(!answer.headers.iter().any(|(name, _)| name.to_lowercase().starts_with("access-control")), "{answer:?}");
    if answer.status == 401 {
        assert!(answer.header("www-authenticate").is_some_and(|c| c.starts_with("Bearer realm=\"octroi admin\"")), "{answer:?}");
    }
}
