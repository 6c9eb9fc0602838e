//! Names of things that octroi made: `mac_…`, `key_…`, `op_…`.
//!
//! The text form follows TypeID 0.3: a type prefix and 128 bits of UUIDv7 (RFC 9562 section 5.7) in Crockford
//! base32, 26 lower-case characters. They sort by the time they were made, so that a list in id order is a list in
//! order of creation.

use std::fmt;
use std::str::FromStr;

use super::time::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The text was not an id of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidId {
    pub expected: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an id of the form {}_ followed by 26 characters of [0-9a-hjkmnp-tv-z]", self.expected)
    }
}

impl std::error::Error for InvalidId {}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A new id made at `at`; `random` is 74 bits or more from the operating system's generator.
            pub fn new(at: Timestamp, random: u128) -> Self {
                Self(uuid_v7(at, random))
            }

            pub fn as_u128(self) -> u128 {
                self.0
            }

            pub const fn from_u128(raw: u128) -> Self {
                Self(raw)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&encode(self.0)).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(decode)
                    .map(Self)
                    .ok_or(InvalidId { expected: $prefix })
            }
        }
    };
}

id!(
    /// Names a machine for its whole life.
    MachineId,
    "mac"
);
id!(
    /// Names a key for its whole life, whatever its value.
    KeyId,
    "key"
);
id!(
    /// Names an operator for its whole life.
    OperatorId,
    "op"
);

fn uuid_v7(at: Timestamp, random: u128) -> u128 {
    let millis = (at.0.max(0) as u128) & ((1 << 48) - 1);
    let rand_a = (random >> 62) & 0xfff;
    let rand_b = random & ((1 << 62) - 1);
    (millis << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b
}

fn encode(raw: u128) -> [u8; 26] {
    std::array::from_fn(|i| ALPHABET[((raw >> (5 * (25 - i))) & 31) as usize])
}

fn decode(text: &str) -> Option<u128> {
    let bytes: &[u8; 26] = text.as_bytes().try_into().ok()?;
    // 26 characters hold 130 bits: the first may carry three only.
    if bytes[0] > b'7' {
        return None;
    }
    bytes.iter().try_fold(0u128, |raw, byte| {
        let digit = ALPHABET.iter().position(|c| c == byte)?;
        Some((raw << 5) | digit as u128)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_sort_by_time() {
        let early = KeyId::new(Timestamp(1_000), u128::MAX);
        let late = KeyId::new(Timestamp(1_001), 0);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(late.to_string().parse(), Ok(late));
        assert_eq!(late.to_string().len(), 30);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "key_", "mac_00000000000000000000000000", "key_80000000000000000000000000", "key_0000000000000000000000000U"] {
            assert_eq!(text.parse::<KeyId>(), Err(InvalidId { expected: "key" }), "{text}");
        }
    }
}
