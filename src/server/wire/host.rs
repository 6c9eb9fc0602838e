//! The shape of a Host field and of the authority in an absolute target (RFC 9112 section 3.2, RFC 3986 section 3.2.2).

use std::net::Ipv6Addr;

use super::bytes::is_host;

/// Whether `value` is a host name, an IPv4 address or a bracketed IPv6 address, with a port or without. Userinfo, an
/// empty name, an empty port, a zone and IPvFuture are none.
pub fn is_well_formed(value: &[u8]) -> bool {
    match value.strip_prefix(b"[") {
        Some(rest) => rest.iter().position(|&b| b == b']').is_some_and(|end| is_ipv6(&rest[..end]) && is_end(&rest[end + 1..])),
        None => {
            let end = value.iter().position(|&b| !is_host(b)).unwrap_or(value.len());
            end > 0 && is_end(&value[end..])
        }
    }
}

fn is_ipv6(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// What may follow the host: nothing, or a colon and a port.
fn is_end(rest: &[u8]) -> bool {
    match rest.strip_prefix(b":") {
        None => rest.is_empty(),
        Some(port) => (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit) && number(port) <= u32::from(u16::MAX),
    }
}

/// At most five digits, so there is no overflow.
fn number(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_at_most_a_port() {
        for good in ["a", "api.example.org", "api.example.org.", "a_b", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "a:0", "a:65535"] {
            assert!(is_well_formed(good.as_bytes()), "{good}");
            assert!(good.parse::<http::uri::Authority>().is_ok(), "{good}");
        }
        let bad = [
            "",
            ":80",
            "a:",
            "a:65536",
            "a:123456",
            "a:+1",
            "a:8 0",
            "u@a",
            "u:p@a",
            "a b",
            "a,b",
            "a/b",
            "[::1",
            "[]",
            "::1",
            "[::1%25eth0]",
            "[v1.a]",
            "[::1]x",
            "a%41",
            "a\\b",
            "é",
        ];
        for bad in bad {
            assert!(!is_well_formed(bad.as_bytes()), "{bad}");
        }
    }
}
