//! A key's value, seen once, and its hash, which is all that is kept.
//!
//! `pk_<environment>_` + 30 random base62 characters + 6 characters of CRC-32/ISO-HDLC over all that precedes.
//! The CRC refuses a mistyped value without a look-up and lets scanners recognise a leaked one.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::key::Environment;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_CHARS: usize = 30;
const CRC_CHARS: usize = 6;
const TAIL: usize = RANDOM_CHARS + CRC_CHARS;

/// No value is longer: a prefix of 16, an environment of 12, two underscores and the tail. What exceeds it is
/// refused before anything is computed over it.
pub const MAX_VALUE: usize = 16 + 1 + 12 + 1 + TAIL;

/// The value of a key as its holder knows it. It can be shown once, by whoever takes it out; it can be
/// neither printed, cloned nor serialised by accident, and is wiped when dropped.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Draws a new value. `fill` fills its argument from the operating system's random generator.
    pub fn generate<E>(prefix: &str, environment: &Environment, mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Secret, E> {
        let mut value = Zeroizing::new(String::with_capacity(MAX_VALUE));
        value.push_str(prefix);
        value.push('_');
        value.push_str(environment.as_str());
        value.push('_');
        let mut drawn = 0;
        let mut bytes = Zeroizing::new([0u8; 64]);
        while drawn < RANDOM_CHARS {
            fill(&mut bytes[..])?;
            // 248 = 4 × 62: bytes above it would make some characters likelier than others.
            for byte in bytes.iter().filter(|b| **b < 248).take(RANDOM_CHARS - drawn) {
                value.push(BASE62[(byte % 62) as usize] as char);
                drawn += 1;
            }
        }
        let crc = crc_chars(value.as_bytes());
        value.extend(crc.iter().map(|c| *c as char));
        Ok(Secret(value))
    }

    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.as_bytes())
    }

    /// What lists show of it: the prefix and the last four characters, `pk_prod_…x7Qa`.
    pub fn hint(&self) -> String {
        let random = self.0.len() - TAIL;
        format!("{}…{}", &self.0[..random], &self.0[self.0.len() - 4..])
    }

    /// Takes the value out, to be sent to the one who made the key.
    pub fn reveal(self) -> Zeroizing<String> {
        self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a value. A value carries 178 random bits, so a slow hash would protect nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    fn of(value: &[u8]) -> SecretHash {
        SecretHash(Sha256::digest(value).into())
    }

    /// Checks shape and CRC of what a client presented and hashes it; `None` when it cannot be a value of ours.
    /// The prefix is not compared: a changed setting leaves earlier values valid.
    pub fn of_presented(value: &[u8]) -> Option<SecretHash> {
        has_shape(value).then(|| SecretHash::of(value))
    }

    /// The first eight bytes: what the registry looks up by.
    pub fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// What usage tells the values of one key apart by.
    pub fn mark(&self) -> ValueMark {
        let [a, b, c, d, ..] = self.0;
        ValueMark(u32::from_be_bytes([a, b, c, d]))
    }
}

/// Four bytes of a value's hash: enough to tell the few values of one key apart, too little to look one up or to check a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueMark(pub u32);

/// Shows the first four bytes only: enough to tell two apart in a failing test, too little to look one up.
impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretHash({:02x}{:02x}{:02x}{:02x}…)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// Whether `value` has the shape of a value and a right CRC.
pub fn has_shape(value: &[u8]) -> bool {
    has_form(value) && value[value.len() - CRC_CHARS..] == crc_chars(&value[..value.len() - CRC_CHARS])
}

/// Whether `value` looks like a value, right CRC or not: one that does and has a wrong CRC was mistyped.
pub fn has_form(value: &[u8]) -> bool {
    if value.len() <= TAIL || value.len() > MAX_VALUE {
        return false;
    }
    let (head, tail) = value.split_at(value.len() - TAIL);
    let Some(head) = head.strip_suffix(b"_") else { return false };
    let Some(underscore) = head.iter().position(|b| *b == b'_') else { return false };
    let (prefix, environment) = (&head[..underscore], &head[underscore + 1..]);
    is_prefix(prefix) && Environment::is_valid(environment) && tail.iter().all(u8::is_ascii_alphanumeric)
}

/// `text` with the telling part of every value in it replaced by `…`: what a client put where no key belongs is not kept either.
pub fn masked(text: &[u8]) -> Cow<'_, [u8]> {
    let mut kept = Vec::new();
    let mut rest = text;
    while let Some(tail) = tail_of_a_value(rest) {
        kept.extend_from_slice(&rest[..tail]);
        kept.extend_from_slice("…".as_bytes());
        rest = &rest[tail + TAIL..];
    }
    if rest.len() == text.len() {
        return text.into();
    }
    kept.extend_from_slice(rest);
    kept.into()
}

/// Where the first value in `text` has its random part.
fn tail_of_a_value(text: &[u8]) -> Option<usize> {
    (1..=text.len().checked_sub(TAIL)?).find(|tail| text[tail - 1] == b'_' && ends_a_value(text, *tail))
}

fn ends_a_value(text: &[u8], tail: usize) -> bool {
    let end = tail + TAIL;
    // Whatever stands before it, a value has no more than so many characters.
    text[tail..end].iter().all(u8::is_ascii_alphanumeric) && (end.saturating_sub(MAX_VALUE)..tail).any(|start| has_shape(&text[start..end]))
}

/// A value's prefix is 1 to 16 lower-case letters and digits, so that the first underscore ends it.
pub fn is_prefix(prefix: &[u8]) -> bool {
    (1..=16).contains(&prefix.len()) && prefix.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn crc_chars(of: &[u8]) -> [u8; CRC_CHARS] {
    let mut rest = crc32fast::hash(of);
    let mut chars = [b'0'; CRC_CHARS];
    for c in chars.iter_mut().rev() {
        *c = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    chars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u8) -> Secret {
        let mut next = seed;
        Secret::generate("pk", &Environment::default(), |bytes: &mut [u8]| {
            bytes.iter_mut().for_each(|b| {
                next = next.wrapping_mul(29).wrapping_add(71);
                *b = next;
            });
            Ok::<_, ()>(())
        })
        .unwrap()
    }

    #[test]
    fn a_value_has_the_published_shape() {
        let secret = drawn(3);
        let (hash, hint) = (secret.hash(), secret.hint());
        let value = secret.reveal();
        assert_eq!(value.len(), "pk_prod_".len() + 36);
        assert!(value.starts_with("pk_prod_"));
        assert_eq!(SecretHash::of_presented(value.as_bytes()), Some(hash));
        assert!(hint.starts_with("pk_prod_…") && value.ends_with(hint.trim_start_matches("pk_prod_…")));
    }

    #[test]
    fn the_crc_is_iso_hdlc_in_base62() {
        // CRC-32/ISO-HDLC("123456789") = 0xCBF43926 = 3421780262 = 3·62⁵ + 45·62⁴ + 35·62³ + 13·62² + 50·62 + 50 …
        let mut n = 0u64;
        for c in crc_chars(b"123456789") {
            n = n * 62 + BASE62.iter().position(|b| *b == c).unwrap() as u64;
        }
        assert_eq!(n, 0xCBF4_3926);
    }

    #[test]
    fn any_single_wrong_character_is_seen() {
        let value = drawn(9).reveal();
        for at in 0..value.len() {
            for wrong in [b'0', b'Z', b'_', b' ', 0xff] {
                let mut typo = value.as_bytes().to_vec();
                if typo[at] != wrong {
                    typo[at] = wrong;
                    assert!(!has_shape(&typo), "position {at}");
                }
            }
        }
    }

    #[test]
    fn values_are_masked_wherever_they_stand() {
        let (one, two) = (drawn(4).reveal(), drawn(5).reveal());
        let shown = |text: String| String::from_utf8(masked(text.as_bytes()).into_owned()).unwrap();
        assert_eq!(shown(format!("/a/{}/b", *one)), "/a/pk_prod_…/b");
        assert_eq!(shown(format!("x{}y_{}", *one, *two)), "xpk_prod_…y_pk_prod_…");
        for harmless in ["", "_", "/a_b", &"_".repeat(200), &"a_".repeat(100), &format!("pk_prod_{}", "a".repeat(36))] {
            assert_eq!(shown(harmless.to_owned()), harmless);
        }
    }

    #[test]
    fn odd_shapes_are_refused() {
        for odd in ["", "pk", "pk__", "_", "pk_prod_", &"a".repeat(36), &"x".repeat(70_000)] {
            assert!(!has_shape(odd.as_bytes()));
        }
        assert!(!format!("{:?}", drawn(1)).contains("pk_"));
    }
}
