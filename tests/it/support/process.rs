//! The real program as a process of its own, and blocking clients that take the end of a connection for an answer: whoever kills a gateway
//! meets that all the time.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// Longer than anything a test waits for; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A settings file and where its gateway keeps its data: started and ended as often as a test likes.
pub struct Site {
    home: tempfile::TempDir,
    data: PathBuf,
}

/// A start that failed.
#[derive(Debug)]
pub struct Refused {
    pub code: Option<i32>,
    pub stderr: String,
}

/// A running gateway. Killed when dropped.
pub struct Served {
    child: Child,
    stderr: Arc<Stderr>,
    socket: PathBuf,
    pub public: SocketAddr,
}

impl Site {
    /// With its data in a folder of its own.
    pub fn new() -> Site {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        Site::write(home, data)
    }

    /// With its data elsewhere; the settings, the socket and the logs stay where nothing fails.
    pub fn with_data(data: &Path) -> Site {
        Site::write(tempfile::tempdir().unwrap(), data.to_owned())
    }

    fn write(home: tempfile::TempDir, data: PathBuf) -> Site {
        let text = format!(
            "listeners: {{public: {{bind: '127.0.0.1:0'}}}}
admin: {{bind: false, socket: admin.sock}}
store: {{path: '{}'}}
guessing: false
permissions: {{sensors:read: {{}}}}
tiers: {{unmetered: {{unlimited: true}}}}
default_tier: unmetered
upstreams: {{api: {{targets: ['http://{}']}}}}
routes: {{sensors: {{match: {{path: '/v1/sensors'}}, permission: sensors:read, upstream: api}}}}
connections: {{workers: 2, drain: 5s}}
usage: {{flush: 100ms}}
logs: {{access: access.log}}
",
            data.display(),
            upstream()
        );
        std::fs::write(home.path().join("octroi.yaml"), text).unwrap();
        Site { home, data }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn settings(&self) -> PathBuf {
        self.home.path().join("octroi.yaml")
    }

    pub fn socket(&self) -> PathBuf {
        self.home.path().join("admin.sock")
    }

    /// Starts the program and leaves it to itself.
    pub fn launch(&self) -> Launched {
        let child = Command::new(env!("CARGO_BIN_EXE_octroi"))
            .args(["serve", "--config"])
            .arg(self.settings())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Launched(child)
    }

    pub fn start(&self) -> Served {
        self.try_start().unwrap_or_else(|refused| panic!("the gateway did not start: {refused:?}"))
    }

    /// Starts the program and waits until it serves, or ends.
    pub fn try_start(&self) -> Result<Served, Refused> {
        let served = self.try_start_unready()?;
        assert_eq!(served.admin().get("/readyz").0, 200, "{}", served.stderr());
        Ok(served)
    }

    /// Likewise, whether it takes changes or not.
    pub fn try_start_unready(&self) -> Result<Served, Refused> {
        let Launched(mut child) = self.launch();
        let stderr = Stderr::of(&mut child);
        match stderr.until(address_in) {
            Some(public) => Ok(Served { child, stderr, socket: self.socket(), public }),
            None => {
                let status = child.wait().unwrap();
                Err(Refused { code: status.code(), stderr: stderr.text() })
            }
        }
    }
}

/// A process that nobody has waited for yet.
pub struct Launched(Child);

impl Launched {
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Served {
    /// SIGKILL.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it had ended by itself: {}", self.stderr());
        self.stderr.until_end()
    }

    /// SIGTERM: drained and ended in order.
    pub fn stop(mut self) -> String {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.stderr());
        self.stderr.until_end()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub fn admin(&self) -> Talk<UnixStream> {
        Talk::with(UnixStream::connect(&self.socket)).unwrap()
    }

    pub fn proxy(&self) -> Talk<TcpStream> {
        Talk::with(TcpStream::connect(self.public)).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address_in(stderr: &str) -> Option<SocketAddr> {
    let line = stderr.lines().find(|line| line.contains("\"message\":\"listening\""))?;
    let event: Value = serde_json::from_str(line).ok()?;
    event["address"].as_str()?.parse().ok()
}

/// What a process says, as it says it.
#[derive(Default)]
struct Stderr {
    said: Mutex<(String, bool)>,
    more: Condvar,
}

impl Stderr {
    fn of(child: &mut Child) -> Arc<Stderr> {
        let stderr = Arc::new(Stderr::default());
        let (into, from) = (stderr.clone(), child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                into.said.lock().unwrap().0 += &(line + "\n");
                into.more.notify_all();
            }
            into.said.lock().unwrap().1 = true;
            into.more.notify_all();
        });
        stderr
    }

    fn text(&self) -> String {
        self.said.lock().unwrap().0.clone()
    }

    /// Waits until `found` finds something; `None` when the process ended without saying it.
    fn until<T>(&self, found: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut said = self.said.lock().unwrap();
        loop {
            if let Some(thing) = found(&said.0) {
                return Some(thing);
            }
            if said.1 {
                return None;
            }
            let (more, timeout) = self.more.wait_timeout(said, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "nothing more within {PATIENCE:?}: {}", more.0);
            said = more;
        }
    }

    fn until_end(&self) -> String {
        self.until(|_| None::<()>);
        self.text()
    }
}

/// One connection, one request after the other. Every error means that no answer came.
pub struct Talk<S: Read + Write>(BufReader<S>);

pub trait Patient {
    fn be_patient(&self) -> io::Result<()>;
}

impl Patient for UnixStream {
    fn be_patient(&self) -> io::Result<()> {
        self.set_read_timeout(Some(PATIENCE))
    }
}

impl Patient for TcpStream {
    fn be_patient(&self) -> io::Result<()> {
        self.set_nodelay(true).and_then(|()| self.set_read_timeout(Some(PATIENCE)))
    }
}

impl<S: Read + Write + Patient> Talk<S> {
    fn with(stream: io::Result<S>) -> io::Result<Talk<S>> {
        let stream = stream?;
        stream.be_patient()?;
        Ok(Talk(BufReader::new(stream)))
    }

    /// Sends a request and reads the whole answer.
    pub fn try_ask(&mut self, method: &str, target: &str, key: Option<&str>, body: Option<&Value>) -> io::Result<(u16, Value)> {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        key.iter().for_each(|value| text += &format!("X-API-Key: {value}\r\n"));
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        self.0.get_mut().write_all((text + "\r\n" + &body).as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<(u16, Value)> {
        let head = self.line()?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| Error::other(format!("no status: {head:?}")))?;
        let mut length = 0;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            assert!(!line.starts_with("transfer-encoding"), "answers here are short and have a length");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().map_err(Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    pub fn ask(&mut self, method: &str, target: &str, body: Option<&Value>) -> (u16, Value) {
        self.try_ask(method, target, None, body).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    pub fn get(&mut self, target: &str) -> (u16, Value) {
        self.ask("GET", target, None)
    }

    /// What the gateway thinks of a call with this value: `ok` when it reached the upstream and came back, else the refusal's code.
    pub fn try_verdict(&mut self, value: &str) -> io::Result<String> {
        let (status, body) = self.try_ask("GET", "/v1/sensors", Some(value), None)?;
        match (status, body["code"].as_str()) {
            (200, None) => Ok("ok".into()),
            (_, Some(code)) => Ok(code.into()),
            other => panic!("neither let in nor refused: {other:?}"),
        }
    }

    pub fn verdict(&mut self, value: &str) -> String {
        self.try_verdict(value).unwrap_or_else(|error| panic!("no answer at the proxy: {error}"))
    }
}

/// An upstream that answers 200 to everything and remembers nothing, however long the storm.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|n| n > 0) {
                    if line == "\r\n" && stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}
