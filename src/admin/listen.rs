//! The admin plane's sockets: who may connect, and serving them until the end.
//!
//! It has its own small server, apart from the data plane's: few connections, a bound on each listener and on each address, heads that
//! must arrive within [`HEAD_TIMEOUT`] and bodies within [`BODY_TIMEOUT`](super::BODY_TIMEOUT), and answers that must be read
//! ([`WRITE_TIMEOUT`]).

mod seats;
mod socket;
mod steady;

use std::future::{Ready, ready};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::door::Door;
use super::tls::Tls;
use super::{Admin, router, telemetry_router};
use seats::Seats;
use socket::SocketGuard;
pub use socket::{AdminSocket, BindError};
use steady::Steady;

/// A head that is not complete after this long ends its connection; so does idling between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection of which no byte could be written for this long is closed: its other side does not read its answers.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests that are being answered may take to finish once the end has come.
const DRAIN: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors left, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the admin plane listens; each is bound already, so that a port in use is known at start.
#[derive(Default)]
pub struct Listeners {
    pub socket: Option<AdminSocket>,
    /// Must be bound to a loopback address where there is no `tls`: it is plain HTTP then.
    pub tcp: Option<StdTcpListener>,
    /// What encrypts `tcp`.
    pub tls: Option<Tls>,
    /// Probes and metrics only, plain, on any address.
    pub telemetry: Option<StdTcpListener>,
}

/// One that came in.
struct Visitor<Greeting> {
    /// Who has none is closed without a word.
    door: Option<Door>,
    /// `None` over the socket.
    peer: Option<IpAddr>,
    greeting: Greeting,
}

/// One way in.
trait Entrance: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What has to be agreed with the other side before HTTP is spoken; each connection takes its own time for it.
    type Greeting: Future<Output = io::Result<Self::Stream>> + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Visitor<Self::Greeting>>> + Send;
    /// Nobody is let in any more.
    fn close(self);
}

struct Guarded {
    listener: UnixListener,
    guard: SocketGuard,
}

impl Entrance for Guarded {
    type Stream = Steady<UnixStream>;
    type Greeting = Ready<io::Result<Steady<UnixStream>>>;

    async fn accept(&self) -> io::Result<Visitor<Self::Greeting>> {
        let (stream, _) = self.listener.accept().await?;
        let door = self.guard.door(&stream);
        Ok(Visitor { door, peer: None, greeting: ready(Ok(Steady::new(stream, WRITE_TIMEOUT))) })
    }

    fn close(self) {
        self.guard.remove_file();
    }
}

struct Plain {
    listener: TcpListener,
    door: fn(SocketAddr) -> Door,
}

impl Plain {
    fn new(listener: StdTcpListener, door: fn(SocketAddr) -> Door) -> io::Result<Plain> {
        listener.set_nonblocking(true)?;
        Ok(Plain { listener: TcpListener::from_std(listener)?, door })
    }
}

impl Entrance for Plain {
    type Stream = Steady<TcpStream>;
    type Greeting = Ready<io::Result<Steady<TcpStream>>>;

    async fn accept(&self) -> io::Result<Visitor<Self::Greeting>> {
        let (stream, peer) = self.listener.accept().await?;
        let greeting = ready(Ok(Steady::new(stream, WRITE_TIMEOUT)));
        Ok(Visitor { door: Some((self.door)(peer)), peer: Some(peer.ip()), greeting })
    }

    fn close(self) {}
}

struct Encrypted {
    plain: Plain,
    tls: Tls,
}

impl Entrance for Encrypted {
    type Stream = TlsStream<Steady<TcpStream>>;
    type Greeting = Pin<Box<dyn Future<Output = io::Result<TlsStream<Steady<TcpStream>>>> + Send>>;

    async fn accept(&self) -> io::Result<Visitor<Self::Greeting>> {
        let (stream, peer) = self.plain.listener.accept().await?;
        let greeting = Box::pin(self.tls.clone().shake_hands(Steady::new(stream, WRITE_TIMEOUT)));
        Ok(Visitor { door: Some((self.plain.door)(peer)), peer: Some(peer.ip()), greeting })
    }

    fn close(self) {}
}

/// Serves every listener until `shutdown` is ready, lets open requests finish for five seconds at most, and removes the
/// socket's file. An error means that a listener could not be handed to the runtime.
pub async fn serve(admin: Arc<Admin>, listeners: Listeners, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut loops = JoinSet::new();
    if let Some(socket) = listeners.socket {
        let (listener, guard) = socket.into_tokio()?;
        loops.spawn(accept_until_stopped(Guarded { listener, guard }, router(admin.clone()), stopped.clone()));
    }
    if let Some(listener) = listeners.tcp {
        let plain = Plain::new(listener, |peer| Door::Tcp { peer })?;
        let (routes, stopped) = (router(admin.clone()), stopped.clone());
        match listeners.tls {
            Some(tls) => loops.spawn(accept_until_stopped(Encrypted { plain, tls }, routes, stopped)),
            None => loops.spawn(accept_until_stopped(plain, routes, stopped)),
        };
    }
    if let Some(listener) = listeners.telemetry {
        let entrance = Plain::new(listener, |_| Door::Telemetry)?;
        loops.spawn(accept_until_stopped(entrance, telemetry_router(admin), stopped));
    }
    shutdown.await;
    // A send fails only when nobody listens any more, which is what it is for.
    let _ = stop.send(true);
    while loops.join_next().await.is_some() {}
    Ok(())
}

async fn accept_until_stopped(entrance: impl Entrance, routes: Router, mut stopped: watch::Receiver<bool>) {
    let seats = Seats::new();
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let free = seats.free().await;
            (free, entrance.accept().await)
        };
        let (free, accepted) = tokio::select! {
            next = next => next,
            () = told_to_stop(&mut stopped) => break,
        };
        match accepted {
            Ok(Visitor { door: Some(door), peer, greeting }) => {
                if let Some(seat) = seats.take(free, peer) {
                    let connection = serve_one(greeting, door, routes.clone(), stopped.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(seat);
                    });
                }
            }
            Ok(Visitor { door: None, .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "the admin plane could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    entrance.close();
    // Whoever is still connected after that is cut when the set is dropped.
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// One connection from its greeting to its end. Strangers who never finish the greeting leave when the gateway does.
async fn serve_one<S>(greeting: impl Future<Output = io::Result<S>>, door: Door, routes: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let greeted = tokio::select! {
        greeted = greeting => greeted,
        () = told_to_stop(&mut stopped) => return,
    };
    match greeted {
        Ok(stream) => converse(stream, door, routes, stopped).await,
        Err(error) => tracing::debug!(%error, "no TLS was agreed on with a client of the admin plane"),
    }
}

async fn converse<S>(stream: S, door: Door, routes: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(door.clone());
        routes.call(request)
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told_to_stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin plane ended early");
    }
}

#[cfg(test)]
mod tests;
