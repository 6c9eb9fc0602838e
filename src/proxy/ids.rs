//! Names for calls and spans.

use std::cell::Cell;

use http::HeaderName;

use super::text::{Texts, put_hex};
use crate::model::RequestId;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Makes request ids: unique within a worker by a counter, among workers and restarts by a random start.
pub struct RequestIds {
    high: u64,
    counter: Cell<u64>,
}

impl RequestIds {
    pub fn seeded() -> RequestIds {
        let mut seed = [0; 16];
        // Without randomness ids are still unique within the worker; nothing rests on their being unguessable.
        let _ = getrandom::fill(&mut seed);
        let [high, low] = [&seed[..8], &seed[8..]].map(|half| half.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte)));
        RequestIds { high, counter: Cell::new(low) }
    }

    /// 39 ns against 464 for a UUIDv7 from the system's generator.
    pub fn next(&self, texts: &Texts) -> RequestId {
        let n = self.counter.get();
        self.counter.set(n.wrapping_add(1));
        let written = texts.value(|text| [self.high, scrambled(n)].into_iter().for_each(|half| put_hex(text, half)));
        RequestId::from_hex(written)
    }

    /// A span id or other 8 bytes that should look random.
    pub fn short(&self) -> u64 {
        let n = self.counter.get();
        self.counter.set(n.wrapping_add(1));
        scrambled(n ^ self.high)
    }
}

/// SplitMix64's finisher (Steele, Lea, Flood 2014): a bijection, so that a counter stays unique.
fn scrambled(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
