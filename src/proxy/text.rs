//! Field values that are made for one call. They are written side by side into memory that a worker uses again once no value in it is
//! in use any more: no allocation each, and copying one is counting a reference.

use std::cell::RefCell;

use bytes::{BufMut, BytesMut};
use http::HeaderValue;

/// How much is taken at a time. A value pins all of it, so it must stay small: a call in progress holds no more than this.
const CHUNK: usize = 4 * 1024;

/// One worker's memory for field values.
#[derive(Default)]
pub struct Texts(RefCell<BytesMut>);

impl Texts {
    /// The value that `write` writes; `None` if it is none, or empty. `write` must make no other value meanwhile.
    pub fn value(&self, write: impl FnOnce(&mut BytesMut)) -> Option<HeaderValue> {
        let mut memory = self.0.borrow_mut();
        if memory.capacity() < ROOM {
            memory.reserve(CHUNK);
        }
        write(&mut memory);
        let text = memory.split().freeze();
        (!text.is_empty()).then(|| HeaderValue::from_maybe_shared(text).ok()).flatten()
    }
}

/// Most values are shorter; a longer one makes more room for itself.
const ROOM: usize = 128;

/// Sixteen hexadecimal digits.
pub fn put_hex(into: &mut BytesMut, number: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits: [u8; 16] = std::array::from_fn(|place| DIGITS[(number >> (60 - 4 * place)) as usize & 15]);
    into.put_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_as_they_were_written() {
        let texts = Texts::default();
        let values: Vec<HeaderValue> = (0..1_000).filter_map(|n| texts.value(|text| put_hex(text, n))).collect();
        let expected: Vec<String> = (0..1_000).map(|n| format!("{n:016x}")).collect();
        assert_eq!(values, expected);
        let long = "x".repeat(3 * CHUNK);
        assert_eq!(texts.value(|text| text.put_slice(long.as_bytes())).unwrap(), long);
        assert_eq!(texts.value(|text| put_hex(text, u64::MAX - 1)).unwrap(), "fffffffffffffffe");
    }

    #[test]
    fn what_is_no_value_is_none() {
        let texts = Texts::default();
        assert_eq!(texts.value(|_| ()), None);
        assert_eq!(texts.value(|text| text.put_slice(b"a\r\nb: c")), None);
        assert_eq!(texts.value(|text| text.put_slice(b"d")).unwrap(), "d");
    }
}
