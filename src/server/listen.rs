//! Listening sockets: one per worker and address, all of an address sharing its port by `SO_REUSEPORT`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use super::StartError;

/// Connections whose handshake is done and that wait to be accepted; the kernel's `somaxconn` bounds it further.
const BACKLOG: i32 = 4096;

/// A socket that listens under a listener's name.
pub struct Bound {
    pub listener: Arc<str>,
    pub socket: TcpListener,
}

/// Where each listener can be reached: port 0 in the settings has become a real one.
pub type Addresses = Vec<(Arc<str>, SocketAddr)>;

/// Listens on every address once for each worker. Fails when anybody, another gateway included, listens there already.
pub fn listen(listeners: Vec<(Arc<str>, SocketAddr)>, workers: usize) -> Result<(Addresses, Vec<Vec<Bound>>), StartError> {
    let mut addresses = Vec::new();
    let mut per_worker: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    for (listener, wanted) in listeners {
        let (address, sockets) =
            share(wanted, workers).map_err(|source| StartError::Bind { listener: listener.clone(), address: wanted, source })?;
        for (bounds, socket) in per_worker.iter_mut().zip(sockets) {
            bounds.push(Bound { listener: listener.clone(), socket });
        }
        addresses.push((listener, address));
    }
    Ok((addresses, per_worker))
}

/// The first socket is bound alone and shares its port only afterwards: with `SO_REUSEPORT` from the start, a second
/// gateway on the same port by mistake would bind as well and take half of the connections.
fn share(wanted: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = socket(wanted)?;
    first.bind(&wanted.into())?;
    first.set_reuse_port(true)?;
    let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        let next = socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        sockets.push(next);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok((address, sockets.into_iter().map(TcpListener::from).collect()))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart does not wait for the last run's connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // What is accepted inherits it on Linux, which saves a system call per connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(address: SocketAddr) -> Vec<(Arc<str>, SocketAddr)> {
        vec![("public".into(), address)]
    }

    #[test]
    fn workers_share_a_port_and_nobody_else_gets_it() {
        let (addresses, workers) = listen(on(([127, 0, 0, 1], 0).into()), 3).unwrap();
        let address = addresses[0].1;
        assert_ne!(address.port(), 0);
        assert!(workers.iter().all(|bounds| bounds.len() == 1 && bounds[0].socket.local_addr().unwrap() == address));
        for others in [1, 2] {
            let error = listen(on(address), others).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("listener public: cannot bind {address}: address in use")), "{error}");
        }
        drop(workers);
        assert!(listen(on(address), 2).is_ok(), "it is free again once nobody listens");
    }

    #[test]
    fn a_foreign_address_is_a_clear_error() {
        let error = listen(on("192.0.2.1:80".parse().unwrap()), 1).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("listener public: cannot bind 192.0.2.1:80: "), "{error}");
    }
}
