//! An upstream of raw sockets: it remembers every byte it was sent, reads requests by a strict parser of its own, and answers what the test
//! told it to, also what no server should.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What to do with a request.
#[derive(Clone)]
pub enum Reply {
    /// These bytes, then wait for the next request.
    Bytes(Vec<u8>),
    /// These bytes, then close.
    ThenClose(Vec<u8>),
    /// These bytes, then reset the connection.
    ThenReset(Vec<u8>),
    /// These bytes, then nothing for as long as the gateway stays.
    ThenHang(Vec<u8>),
}

impl Reply {
    pub fn ok(body: &str) -> Reply {
        Reply::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name).into_iter();
        let first = values.next();
        assert!(values.next().is_none(), "more than one {name}: {:?}", self.headers);
        first
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
}

type Script = dyn Fn(&Received) -> Reply + Send + Sync;

pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    received: Mutex<Vec<Received>>,
    raw: Mutex<Vec<u8>>,
    connections: Mutex<usize>,
    /// Answers as soon as the head is there, without reading the body.
    early: bool,
}

impl Upstream {
    /// Answers each request, once it is there with its body, as `script` says.
    pub fn answering(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Upstream {
        Upstream::start(State::default(), script)
    }

    /// Answers with `bytes` as soon as a head is there and closes, the body unread.
    pub fn early(bytes: &'static [u8]) -> Upstream {
        Upstream::start(State { early: true, ..State::default() }, |_| Reply::ThenClose(bytes.to_vec()))
    }

    fn start(state: State, script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(state);
        let script: Arc<Script> = Arc::new(script);
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                *shared.connections.lock().unwrap() += 1;
                let (state, script) = (shared.clone(), script.clone());
                thread::spawn(move || serve(stream, &state, &*script));
            }
        });
        Upstream { address, state }
    }

    /// Answers 200 with a short body to everything.
    pub fn plain() -> Upstream {
        Upstream::answering(|_| Reply::ok("hello"))
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// The only request that came.
    pub fn only(&self) -> Received {
        let mut received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        received.remove(0)
    }

    /// Every byte that ever came.
    pub fn raw(&self) -> Vec<u8> {
        self.state.raw.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.state.connections.lock().unwrap()
    }
}

/// An address nobody listens on.
pub fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

struct Reader<'a> {
    stream: &'a TcpStream,
    unread: Vec<u8>,
    state: &'a State,
}

fn serve(stream: TcpStream, state: &State, script: &Script) {
    let mut reader = Reader { stream: &stream, unread: Vec::new(), state };
    while let Some((line, headers)) = reader.head() {
        let mut request = Received { line, headers, body: Vec::new(), trailers: Vec::new() };
        if !state.early && !reader.body(&mut request) {
            return;
        }
        let reply = script(&request);
        state.received.lock().unwrap().push(request);
        if !finish(&stream, &reply) {
            return;
        }
    }
}

/// False when the connection is over.
fn finish(mut stream: &TcpStream, reply: &Reply) -> bool {
    match reply {
        Reply::Bytes(bytes) => stream.write_all(bytes).is_ok(),
        Reply::ThenClose(bytes) => {
            let _ = stream.write_all(bytes);
            false
        }
        Reply::ThenReset(bytes) => {
            let _ = stream.write_all(bytes);
            let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
            false
        }
        Reply::ThenHang(bytes) => {
            let _ = stream.write_all(bytes);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
            false
        }
    }
}

impl Reader<'_> {
    fn head(&mut self) -> Option<(String, Vec<(String, String)>)> {
        let line = self.line()?;
        Some((line, self.fields()?))
    }

    fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(": ").or_else(|| line.split_once(':')).unwrap_or_else(|| panic!("upstream got {line:?}"));
            fields.push((name.to_owned(), value.to_owned()));
        }
    }

    /// False when the connection ended first: such a request never happened.
    fn body(&mut self, request: &mut Received) -> bool {
        let chunked = request.header("transfer-encoding").map(str::to_owned);
        let length = request.header("content-length").map(|n| n.parse::<usize>().unwrap());
        match (chunked, length) {
            (None, None) => true,
            (None, Some(length)) => self.exactly(length).map(|body| request.body = body).is_some(),
            (Some(te), None) => {
                assert_eq!(te, "chunked");
                self.chunks(request).is_some()
            }
            (Some(_), Some(_)) => panic!("upstream got Content-Length and Transfer-Encoding: {request:?}"),
        }
    }

    fn chunks(&mut self, request: &mut Received) -> Option<()> {
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).unwrap();
            if size == 0 {
                request.trailers = self.fields()?;
                return Some(());
            }
            request.body.extend(self.exactly(size)?);
            assert_eq!(self.exactly(2)?, b"\r\n");
        }
    }

    fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.more()?;
        }
        Some(self.unread.drain(..length).collect())
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                assert!(end > 0 && self.unread[end - 1] == b'\r', "upstream got a bare LF");
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line[..end - 1]).into_owned());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) | Err(_) => None,
            Ok(n) => {
                self.state.raw.lock().unwrap().extend(&buffer[..n]);
                self.unread.extend(&buffer[..n]);
                Some(())
            }
        }
    }
}
