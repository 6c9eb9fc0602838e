//! Which bytes may stand where, as tables made at compile time, and the scans over them.

const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const HOST: u8 = 8;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        let alphanumeric = b.is_ascii_alphanumeric();
        if alphanumeric || one_of(b, b"!#$%&'*+-.^_`|~") {
            table[byte] |= TOKEN;
        }
        if alphanumeric || one_of(b, b"-._~!$&'()*+,;=:@%/") {
            table[byte] |= PATH;
        }
        // Beyond RFC 3986 what browsers send bare and the `http` crate takes: `[ ] { } | \ ^` and the backtick.
        if b > b' ' && b != 0x7f && !one_of(b, b"\"#<>") {
            table[byte] |= QUERY;
        }
        if alphanumeric || one_of(b, b"-._~") {
            table[byte] |= HOST;
        }
        byte += 1;
    }
    table
}

const fn one_of(byte: u8, set: &[u8]) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == byte {
            return true;
        }
        i += 1;
    }
    false
}

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// A `tchar` (RFC 9110 section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// A byte of a path: a `pchar` or `/` (RFC 3986 section 3.3).
pub fn is_path(byte: u8) -> bool {
    is(byte, PATH)
}

/// A byte of a query, `?` included.
pub fn is_query(byte: u8) -> bool {
    is(byte, QUERY)
}

/// A byte of a host name; sub-delims and percent-encoding, which no resolvable name has, are left out.
pub fn is_host(byte: u8) -> bool {
    is(byte, HOST)
}

/// How many bytes at the start of `bytes` are token bytes.
pub fn token_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !is_token(b)).unwrap_or(bytes.len())
}

/// How many bytes at the start of `bytes` may stand in a field's value: visible, space, tab, or 0x80 and above.
/// Eight at a time, since values are most of a head.
pub fn value_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        while let Some(chunk) = bytes[at..].first_chunk::<8>() {
            match first_control(u64::from_le_bytes(*chunk)) {
                None => at += 8,
                Some(offset) => {
                    at += offset;
                    break;
                }
            }
        }
        match bytes.get(at) {
            Some(&b) if b == b'\t' || (b >= b' ' && b != 0x7f) => at += 1,
            _ => return at,
        }
    }
}

/// How many bytes at the start of `bytes` are visible ASCII.
pub fn visible_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let eight = u64::from_le_bytes(*chunk);
        let marks = (below(eight, 0x21) | delete(eight) | eight) & HIGH;
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + bytes[at..].iter().position(|b| !b.is_ascii_graphic()).unwrap_or(bytes.len() - at)
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The high bit of each byte that is below `bound` (at most 0x80). A borrow can also mark a byte after such a one,
/// never before: only the first mark counts.
fn below(eight: u64, bound: u64) -> u64 {
    eight.wrapping_sub(ONES * bound) & !eight
}

/// Likewise for each byte that is 0x7f.
fn delete(eight: u64) -> u64 {
    below(eight ^ (ONES * 0x7f), 1)
}

/// Where the first byte below 0x20, or equal to 0x7f, stands in eight bytes.
fn first_control(eight: u64) -> Option<usize> {
    let marks = (below(eight, 0x20) | delete(eight)) & HIGH;
    (marks != 0).then_some((marks.trailing_zeros() / 8) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_ends_a_value_or_does_not() {
        for byte in 0..=255u8 {
            for place in 0..20 {
                let mut value = [b'a'; 20];
                value[place] = byte;
                let allowed = byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
                assert_eq!(value_len(&value), if allowed { 20 } else { place }, "byte {byte} at {place}");
                assert_eq!(visible_len(&value), if byte.is_ascii_graphic() { 20 } else { place }, "byte {byte} at {place}");
            }
        }
        assert_eq!(value_len(b""), 0);
        assert_eq!(value_len(b"\t\t\t\t\t\t\t\t\t\t\x7f"), 10);
    }
}
