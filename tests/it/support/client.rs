//! A byte-exact HTTP/1.1 client. It checks of every answer what holds for all: a known framing, no hop-by-hop field that is not ours to
//! send, a request id, a problem document with every refusal.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longer than anything a test waits for; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before the message did.
    pub truncated: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let first = values.next();
        assert!(values.next().is_none(), "more than one {name}: {:?}", self.headers);
        first
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The refusal's code, whose document must say the same as the status line.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem["code"].as_str().unwrap().to_owned()
    }

    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self:?}");
    }
}

impl Connection {
    pub fn open(to: SocketAddr) -> Connection {
        Connection::of(TcpStream::connect(to).unwrap())
    }

    pub fn of(stream: TcpStream) -> Connection {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Connection { stream, unread: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends what may meet a connection that the gateway has closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    pub fn finish_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: Option<&[u8]>) {
        let mut text = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text += "Host: gateway.test\r\n";
        }
        headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
        if let Some(body) = body {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        self.send(text);
        self.send(body.unwrap_or_default());
    }

    pub fn get(&mut self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", target, headers, None);
        self.answer()
    }

    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// Reads one final answer; the method decides whether it has a body.
    pub fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer_to(method).expect("an answer before the connection ends")
    }

    /// `None` when the connection ends before an answer begins.
    pub fn try_answer_to(&mut self, method: &str) -> Option<Answer> {
        loop {
            let head = self.head()?;
            let (status, headers) = parse(&head);
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new(), truncated: false };
            if method != "HEAD" && status != 204 && status != 304 {
                self.body(&mut answer);
            }
            check(&answer);
            return Some(answer);
        }
    }

    /// The raw head of the next answer, interim ones included; `None` at the end of the connection.
    pub fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more() {
                assert!(self.unread.is_empty(), "half a head: {:?}", String::from_utf8_lossy(&self.unread));
                return None;
            }
        }
    }

    /// Waits for the end of the connection and returns what came before it.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.unread)
    }

    fn body(&mut self, answer: &mut Answer) {
        if answer.header("transfer-encoding").is_some_and(|te| te.eq_ignore_ascii_case("chunked")) {
            while let Some(chunk) = self.chunk() {
                if chunk.is_empty() {
                    return;
                }
                answer.body.extend(chunk);
            }
            answer.truncated = true;
        } else if let Some(length) = answer.header("content-length").map(|n| n.parse::<usize>().unwrap()) {
            while self.unread.len() < length && self.more() {}
            answer.truncated = self.unread.len() < length;
            let have = length.min(self.unread.len());
            answer.body = self.unread.drain(..have).collect();
        } else {
            answer.body = self.rest();
        }
    }

    /// The next chunk's bytes, empty for the last one (its trailers are dropped); `None` when the connection ended before.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
        if size == 0 {
            while !self.line()?.is_empty() {}
            return Some(Vec::new());
        }
        while self.unread.len() < size + 2 {
            if !self.more() {
                return None;
            }
        }
        let chunk = self.unread.drain(..size).collect();
        assert_eq!(self.unread.drain(..2).collect::<Vec<_>>(), b"\r\n");
        Some(chunk)
    }

    /// So many bytes; `None` when the connection ended before.
    pub fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            if !self.more() {
                return None;
            }
        }
        Some(self.unread.drain(..count).collect())
    }

    /// Whether nothing has come that was not read, no end of the connection either.
    pub fn is_silent(&mut self) -> bool {
        // Not by making the socket non-blocking: whoever sends on it meanwhile would feel that.
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let flags = (rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT).bits() as i32;
        let peeked = socket2::SockRef::from(&self.stream).recv_with_flags(&mut byte, flags);
        self.unread.is_empty() && peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.unread, b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// Reads once; false at the end of the connection, however it came.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.unread.extend(&buffer[..n]);
                true
            }
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe) => false,
            Err(e) => panic!("nothing within {PATIENCE:?}: {e}"),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse(head: &str) -> (u16, Vec<(String, String)>) {
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"))).map(|(n, v)| (n.to_owned(), v.to_owned()));
    (status, headers.collect())
}

/// What holds for every answer of the gateway.
fn check(answer: &Answer) {
    for hop_by_hop in ["keep-alive", "proxy-connection", "proxy-authenticate", "te", "upgrade"] {
        assert_eq!(answer.header(hop_by_hop), None, "{answer:?}");
    }
    assert!(answer.header("content-length").is_none() || answer.header("transfer-encoding").is_none(), "{answer:?}");
    if answer.status == 401 {
        assert!(answer.header("www-authenticate").is_some_and(|c| c.starts_with("Bearer realm=\"octroi\"")), "{answer:?}");
    }
    if answer.status == 429 {
        assert!(answer.header("retry-after").is_some_and(|s| s.parse::<u64>().is_ok_and(|s| s >= 1)), "{answer:?}");
    }
}

/// Asks again and again until there is an answer. For what happens on another thread and has no event to wait for.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        std::thread::yield_now();
    }
}
