//! The sum over all live records that every journal line carries: how a start finds out whether the mirror holds exactly
//! what the journal says it should, without reading the journal from its beginning.
//!
//! Four wrapping `u64` words of SHA-256 are added for each record and taken away again when it changes, so the sum after a
//! change costs two hashes, whatever the number of records. It finds loss and mix-ups; against somebody who forges
//! records it proves nothing, which is what the chain is for.

use std::fmt;

use sha2::{Digest, Sha256};

use super::hex;

/// The sum over a set of records, in no order. Nothing at all sums up to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum([u64; 4]);

impl Sum {
    /// Counts a record in, by its name in the mirror and its bytes there.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        self.combine(name, value, u64::wrapping_add);
    }

    /// Takes a record out that was counted in before.
    pub fn take(&mut self, name: &[u8], value: &[u8]) {
        self.combine(name, value, u64::wrapping_sub);
    }

    fn combine(&mut self, name: &[u8], value: &[u8], with: fn(u64, u64) -> u64) {
        let digest = Sha256::new().chain_update(name).chain_update(value).finalize();
        for (word, bytes) in self.0.iter_mut().zip(digest.as_chunks::<8>().0) {
            *word = with(*word, u64::from_be_bytes(*bytes));
        }
    }

    /// Reads the 64 characters that [`Sum`] is shown as.
    pub fn parse(text: &str) -> Option<Sum> {
        let bytes = hex::decode::<32>(text.as_bytes())?;
        let (words, _) = bytes.as_chunks::<8>();
        Some(Sum(std::array::from_fn(|i| u64::from_be_bytes(words[i]))))
    }
}

/// 64 lower-case hexadecimal characters.
impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_changes_leaves_no_trace_in_the_sum() {
        let (mut one, mut other) = (Sum::default(), Sum::default());
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        other.add(b"b", b"old");
        other.add(b"a", b"1");
        assert_ne!(one, other);
        other.take(b"b", b"old");
        other.add(b"b", b"2");
        assert_eq!(one, other);
        assert_eq!(Sum::parse(&one.to_string()), Some(one));
        one.take(b"a", b"1");
        one.take(b"b", b"2");
        assert_eq!(one, Sum::default());
    }

    #[test]
    fn what_is_no_sum_is_refused() {
        for text in ["", "00", &"g".repeat(64), &"A".repeat(64), &"0".repeat(65)] {
            assert_eq!(Sum::parse(text), None, "{text}");
        }
    }
}
