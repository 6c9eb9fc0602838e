//! Speaks to the gateway: one request, one connection, one answer.

mod download;
mod tls;
mod token;
mod url;

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::failure::Failure;
use crate::admin::wire::ProblemBody;
use tls::Tls;
pub use url::{Trust, Url};

/// A gateway that cannot be connected to by then counts as not reachable, and most answers come sooner.
const PATIENCE: Duration = Duration::from_secs(60);
/// What reads or copies a whole journal takes as long as its disk does.
const LONG_PATIENCE: Duration = Duration::from_secs(30 * 60);
/// When nothing came for so long, the other machine is asked whether the connection is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes: a page of 500 keys is far below.
const MAX_ANSWER: usize = 64 << 20;

/// Where the admin API is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Socket(PathBuf),
    /// `host:port`, for what needs no token.
    Tcp(String),
    Url(Url),
}

/// One gateway.
pub struct Client {
    address: Address,
    /// For `https`.
    tls: Option<Tls>,
    /// The operator's token.
    bearer: Option<HeaderValue>,
    /// How long an answer is waited for.
    patience: Duration,
    runtime: tokio::runtime::Runtime,
}

/// Status and JSON body of an answer; `Null` where there was none.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// A page of any list.
#[derive(Deserialize)]
struct Page {
    data: Vec<Value>,
    next_cursor: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Client {
    /// A client that says nothing of who asks: enough on the socket, and for probes.
    pub fn new(address: Address) -> Result<Client, Failure> {
        let tls = match &address {
            Address::Url(url) if url.https => Some(Tls::to(url)?),
            _ => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Refused(format!("cannot start: {error}")))?;
        Ok(Client { address, tls, bearer: None, patience: PATIENCE, runtime })
    }

    /// A client that shows the operator's token where the address takes one.
    pub fn of_operator(address: Address) -> Result<Client, Failure> {
        let bearer = match &address {
            Address::Url(_) => Some(token::bearer()?),
            Address::Socket(_) | Address::Tcp(_) => None,
        };
        Ok(Client { bearer, ..Client::new(address)? })
    }

    /// The same, for what takes the gateway long.
    pub fn patient(self) -> Client {
        Client { patience: LONG_PATIENCE, ..self }
    }

    /// Whether the gateway is named by a URL: it may run on another machine, with other folders.
    pub fn is_remote(&self) -> bool {
        matches!(self.address, Address::Url(_))
    }

    pub fn get(&self, target: &str) -> Result<Value, Failure> {
        self.ask("GET", target, None)
    }

    /// What the gateway answers when it does as asked; a problem is a failure.
    pub fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.send(method, target, body)?;
        if (200..300).contains(&answer.status) { Ok(answer.body) } else { Err(self.refusal(&answer)) }
    }

    /// Like [`Client::ask`], for a known shape.
    pub fn read<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        understand(self.get(target)?)
    }

    /// Every page of a list, up to `most` entries. `query` begins with `?` or is empty.
    pub fn all(&self, path: &str, query: &str, most: usize) -> Result<Vec<Value>, Failure> {
        self.pages(path, query, most).map(|(entries, _)| entries)
    }

    /// Likewise, with what else the last page said.
    pub fn pages(&self, path: &str, query: &str, most: usize) -> Result<(Vec<Value>, Map<String, Value>), Failure> {
        let mut entries = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let limit = (most - entries.len()).min(500);
            let join = if query.is_empty() { '?' } else { '&' };
            let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let page: Page = self.read(&format!("{path}{query}{join}limit={limit}{after}"))?;
            entries.extend(page.data);
            cursor = page.next_cursor;
            if cursor.is_none() || entries.len() >= most {
                return Ok((entries, page.rest));
            }
        }
    }

    /// Any answer at all, whatever its status.
    pub fn send(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let request = self.request(method, target, body)?;
        let late = |_| Failure::Unanswered(format!("{} did not answer within {:?}{}", self.place(), self.patience, in_doubt(method)));
        let (status, bytes) = self.runtime.block_on(async {
            let stream = self.connect().await?;
            let answered = timeout(self.patience, exchange(stream, request)).await.map_err(late)?;
            answered.map_err(|error| self.silent(method, &*error))
        })?;
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).map_err(|_| self.babble(status))? };
        Ok(Answer { status, body })
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let late = |_| Err(io::Error::from(ErrorKind::TimedOut));
        timeout(PATIENCE, self.stream()).await.unwrap_or_else(late).map_err(|error| self.unreachable(&error))
    }

    async fn stream(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            Address::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(to) => Box::new(TcpStream::connect(to).await?),
            Address::Url(url) => {
                let to: Vec<_> = lookup_host((url.host(), url.port())).await?.collect();
                match &self.tls {
                    Some(tls) => Box::new(tls.connector.connect(tls.host.clone(), kept_alive(TcpStream::connect(&*to).await?)?).await?),
                    None if to.iter().all(|address| address.ip().is_loopback()) => Box::new(TcpStream::connect(&*to).await?),
                    None => return Err(io::Error::other("the name leads to another machine, which http must not do")),
                }
            }
        })
    }

    fn request(&self, method: &str, target: &str, body: Option<&Value>) -> Result<http::Request<Full<Bytes>>, Failure> {
        let host = match &self.address {
            Address::Url(url) => url.authority.as_str(),
            Address::Socket(_) | Address::Tcp(_) => "localhost",
        };
        let mut request = http::Request::builder().method(method).uri(target).header(http::header::HOST, host);
        if body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        if let Some(bearer) = &self.bearer {
            request = request.header(http::header::AUTHORIZATION, bearer);
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        request.body(Full::from(bytes)).map_err(|error| Failure::Refused(format!("cannot ask for {target}: {error}")))
    }

    /// What the gateway says against it; who says something else is no gateway.
    fn refusal(&self, answer: &Answer) -> Failure {
        match ProblemBody::deserialize(&answer.body) {
            Ok(problem) => Failure::from_problem(&problem),
            Err(_) => self.babble(answer.status),
        }
    }

    fn place(&self) -> String {
        match &self.address {
            Address::Socket(path) => format!("the gateway on {}", path.display()),
            Address::Tcp(to) => format!("the gateway on {to}"),
            Address::Url(url) => format!("the gateway on {url}"),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let remedy = match (error.kind(), &self.address) {
            (_, Address::Url(_)) => tls::remedy(error).unwrap_or("is it running, and is this its admin listener?"),
            (ErrorKind::PermissionDenied, _) => "run this as root or as the user that the gateway runs as",
            (_, Address::Socket(_)) => "is it running? octroi serve starts it; --socket or --config name another one",
            (_, Address::Tcp(_)) => "is it running, and is this its admin listener?",
        };
        Failure::Unreachable(format!("{} cannot be reached: {error}; {remedy}", self.place()))
    }

    fn silent(&self, method: &str, error: &(dyn std::error::Error + Send + Sync)) -> Failure {
        let who = match self.address {
            Address::Socket(_) => "; only root and the user that it runs as are answered",
            Address::Tcp(_) => "",
            Address::Url(_) => "; is this its admin listener, and is the certificate shown one that it takes?",
        };
        Failure::Unanswered(format!("{} ended the exchange without a whole answer ({error}){who}{}", self.place(), in_doubt(method)))
    }

    fn babble(&self, status: u16) -> Failure {
        Failure::Unanswered(format!("{} answered {status} and not as octroi does: is it octroi's admin listener?", self.place()))
    }
}

/// A machine that went away without a word is noticed long before the patience ends.
fn kept_alive(stream: TcpStream) -> io::Result<TcpStream> {
    let asking = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&asking)?;
    Ok(stream)
}

/// What is not known when a request for a change was sent and no answer came.
fn in_doubt(method: &str) -> &'static str {
    if method == "GET" { "" } else { "; whether the change was made is not known" }
}

/// What HTTP can be spoken over.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(stream: Box<dyn Stream>, request: http::Request<Full<Bytes>>) -> Result<(u16, Bytes), Broken> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        Ok::<_, Broken>((status, body))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        // The gateway closed: what it had sent is read to its end, and its absence is the error.
        _ = connection => answer.await,
    }
}

/// Reads an answer as what this version of the command knows.
pub fn understand<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|error| Failure::Refused(format!("the gateway's answer cannot be read ({error}): do its version and this one differ?")))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};

    use super::*;
    use serde_json::json;

    /// Answers each connection with the next text, and hands back the requests' first lines.
    fn gateway(answers: &'static [&'static str]) -> (Client, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let thread = std::thread::spawn(move || {
            let serve = |answer: &&str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut length) = (String::new(), 0);
                reader.read_line(&mut first).unwrap();
                for line in reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
                    length = line.to_lowercase().strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap());
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                format!("{} {}", first.trim_end(), String::from_utf8(body).unwrap())
            };
            answers.iter().map(serve).collect()
        });
        (Client::new(address).unwrap(), thread)
    }

    #[test]
    fn every_page_of_a_list_is_fetched() {
        let (client, seen) = gateway(&[
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"data\":[1,2],\"next_cursor\":\"c2\"}",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"data\":[3],\"next_cursor\":null}",
        ]);
        assert_eq!(client.all("/v1/keys", "?status=active", 600).unwrap(), [json!(1), json!(2), json!(3)]);
        let lines = seen.join().unwrap();
        assert_eq!(lines[0].trim_end(), "GET /v1/keys?status=active&limit=500 HTTP/1.1");
        assert_eq!(lines[1].trim_end(), "GET /v1/keys?status=active&limit=500&cursor=c2 HTTP/1.1");
    }

    #[test]
    fn a_problem_is_a_refusal_and_silence_is_unreachable() {
        let (client, seen) = gateway(&[
            "HTTP/1.1 409 Conflict\r\nConnection: close\r\n\r\n{\"type\":\"urn:octroi:conflict\",\"title\":\"t\",\"status\":409,\"detail\":\"taken\",\"code\":\"conflict\",\"request_id\":\"r\"}",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html",
            "HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n{\"error\": 404}",
            "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"data\":",
            "no HTTP at all",
            "",
        ]);
        let body = json!({"name": "a"});
        assert_eq!(client.ask("POST", "/v1/machines", Some(&body)), Err(Failure::Refused("taken".into())));
        assert_eq!(client.ask("DELETE", "/v1/keys/k", None), Ok(Value::Null));
        for _ in ["<html", "301", "404"] {
            assert!(matches!(client.get("/"), Err(Failure::Unanswered(text)) if text.contains("is it octroi's admin listener?")));
        }
        assert!(
            matches!(client.get("/"), Err(Failure::Unanswered(text)) if text.contains("a whole answer") && !text.contains("the change"))
        );
        for _ in ["no HTTP", "nothing"] {
            let failed = client.ask("POST", "/", Some(&body));
            assert!(matches!(failed, Err(Failure::Unanswered(text)) if text.contains("whether the change was made is not known")));
        }
        assert!(seen.join().unwrap()[0].ends_with("{\"name\":\"a\"}"));
    }

    #[test]
    fn who_never_answers_is_not_waited_for_without_end() {
        // It is connected to by the kernel alone.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let patient = Client::new(Address::Tcp(listener.local_addr().unwrap().to_string())).unwrap();
        let client = Client { patience: Duration::from_millis(50), ..patient };
        assert!(matches!(client.get("/"), Err(Failure::Unanswered(text)) if text.contains("did not answer within 50ms")));
    }

    #[test]
    fn nobody_there_is_unreachable_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(Address::Socket(folder.path().join("admin.sock"))).unwrap();
        assert!(matches!(client.get("/"), Err(Failure::Unreachable(text)) if text.contains("octroi serve")));
    }
}
