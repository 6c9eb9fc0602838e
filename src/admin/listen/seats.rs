//! Who is served at a time: so many on one listener, and no address all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most connections one listener serves at a time; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 256;
/// The most of them from one address (IPv6: one /64); more are closed without a word.
pub const MAX_OF_ONE: usize = MAX_CONNECTIONS / 4;

/// The seats of one listener.
pub struct Seats {
    free: Arc<Semaphore>,
    /// By network; whoever has none is not in it.
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Seats {
    pub fn new() -> Seats {
        Seats { free: Arc::new(Semaphore::new(MAX_CONNECTIONS)), taken: Arc::default() }
    }

    /// Waits for a seat, whoever it will be for.
    pub async fn free(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().acquire_owned().await.ok()
    }

    /// Gives it away, unless `peer` has its share. Who comes over the socket has no address and may have all.
    pub fn take(&self, free: Option<OwnedSemaphorePermit>, peer: Option<IpAddr>) -> Option<Seat> {
        let of = peer.map(network);
        if let Some(of) = of {
            let mut taken = self.taken.lock();
            let count = taken.entry(of).or_default();
            if *count >= MAX_OF_ONE {
                return None;
            }
            *count += 1;
        }
        Some(Seat { _free: free, of, taken: self.taken.clone() })
    }
}

/// Held while a connection is served.
pub struct Seat {
    _free: Option<OwnedSemaphorePermit>,
    of: Option<IpAddr>,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(of) = self.of else { return };
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&of);
            }
        }
    }
}

/// What one subscriber has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_gives_it_back() {
        let seats = Seats::new();
        let take = |peer: &str| seats.take(None, Some(peer.parse().unwrap()));
        let mut held: Vec<Seat> = (0..MAX_OF_ONE).map(|n| take(&format!("2001:db8::{n:x}")).unwrap()).collect();
        assert!(take("2001:db8::ffff:1").is_none(), "the same /64");
        assert!(take("2001:db8:0:1::1").is_some() && take("192.0.2.1").is_some() && seats.take(None, None).is_some());
        held.pop();
        held.push(take("2001:db8::1").unwrap());
        assert!(take("2001:db8::1").is_none());
        drop(held);
        assert!(seats.taken.lock().is_empty());
    }
}
