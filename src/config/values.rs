//! How single values are written: durations, sizes, rates, addresses, names. Each function takes the text and answers
//! with the value, or with what is wrong in words that follow the quoted text: `"10 seconds" is not a duration; …`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::{IpNet, Ipv4Net};

use crate::model::{Limit, Window};

const DURATION_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
const RATE_UNITS: [(&str, Window); 3] = [("s", Window::Second), ("min", Window::Minute), ("h", Window::Hour)];

/// `500ms`, `10s`, `5m`, `1h`, `90d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "is not a duration; write a whole number and its unit: 500ms, 10s, 5m, 1h or 90d".to_owned();
    let (number, unit) = split_unit(text);
    let (_, millis) = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*millis).map(Duration::from_millis).ok_or_else(|| "is too long a duration".to_owned())
}

/// A duration as [`duration`] reads it, in the largest unit that divides it.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (unit, length) =
        DURATION_UNITS.iter().rev().find(|(_, length)| millis.is_multiple_of(u128::from(*length))).unwrap_or(&DURATION_UNITS[0]);
    if millis == 0 { "0s".to_owned() } else { format!("{}{unit}", millis / u128::from(*length)) }
}

/// Bytes: `65536`, `64KiB`, `10MiB`, `1GiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "is not a size; write bytes as a whole number, or 64KiB, 10MiB, 1GiB".to_owned();
    let (number, unit) = split_unit(text);
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*bytes).ok_or_else(|| "is too large a size".to_owned())
}

/// A size as [`size`] reads it, in the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let (unit, size) = SIZE_UNITS.iter().take(3).rev().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size)).unwrap_or(&SIZE_UNITS[3]);
    format!("{}{unit}", bytes / size)
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `60/min`, `5/s`, `1000/h`; all of it may come at once.
pub(super) fn rate(text: &str) -> Result<Limit, String> {
    let wrong = || "is not a rate; write 60/min, 5/s or 1000/h".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let (_, window) = RATE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let quota = quota(number)?;
    Ok(Limit { window: *window, quota, burst: quota })
}

/// How many calls: 1 to 4 294 967 295.
pub(super) fn quota(text: &str) -> Result<NonZeroU32, String> {
    match whole(text)? {
        0 => Err("would let no call in; write at least 1".to_owned()),
        number => u32::try_from(number).ok().and_then(NonZeroU32::new).ok_or_else(|| "is too large; the most is 4294967295".to_owned()),
    }
}

/// A whole number of plain digits.
pub(super) fn whole(text: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("is not a whole number; write digits only, without sign, space or separator".to_owned());
    }
    text.parse().map_err(|_| "is too large a number".to_owned())
}

/// An IP address and a port to listen on.
pub(super) fn bind(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "is not an address to listen on; write an IP address and a port: 127.0.0.1:8080, 0.0.0.0:8080 or \"[::]:8080\"".to_owned()
    })
}

/// A range of addresses, `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let net: IpNet = text.parse().map_err(|_| "is not a range of addresses; write 10.0.0.0/8, fd00::/8 or a single address".to_owned())?;
    match net.trunc() {
        trunc if trunc == net => Ok(plain(net)),
        trunc => Err(format!("has bits set beyond its prefix length; for the whole range write {trunc}, for one address {}", net.addr())),
    }
}

/// A range of IPv4-mapped addresses is one of IPv4: calls over IPv4 are seen by their IPv4 address, however a listener writes it.
fn plain(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    mapped.and_then(|(v4, length)| Ipv4Net::new(v4, length).ok()).map_or(net, IpNet::V4)
}

/// The name of a header field (RFC 9110 section 5.1).
pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| "is not the name of a header; write letters, digits and hyphens, for example X-API-Key".to_owned())
}

/// The name of a query parameter, as it is after percent-decoding.
pub(super) fn query_name(text: &str) -> Result<String, String> {
    let good = text.bytes().all(|b| b.is_ascii_graphic() && !b"&=#%+".contains(&b));
    if good && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err("is not the name of a query parameter; write 1 to 64 letters, digits, - and _".to_owned())
    }
}

/// The name of a listener, upstream or route: it stands in logs and metrics.
pub(super) fn name(text: &str) -> Result<String, String> {
    let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if good && (1..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("is not a name; write 1 to 64 of A-Z a-z 0-9 _ . -".to_owned())
    }
}

/// A request method (RFC 9110 section 9.1: case matters).
pub(super) fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| "is not a method; write GET, POST, PUT, PATCH, DELETE, …".to_owned())?;
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(format!("is not in capital letters, and in methods case matters; write {}", text.to_ascii_uppercase()));
    }
    if method == Method::CONNECT {
        return Err("cannot be routed by a path; leave it out".to_owned());
    }
    Ok(method)
}

/// A host without a port, in lower case, without a trailing dot; IPv6 in brackets.
pub(super) fn host(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    if host.contains('*') {
        return Err("holds a wildcard, which is not taken; name the host, or leave it out for every host".to_owned());
    }
    if !host.is_ascii() {
        return Err("is not ASCII; write the host as it stands in requests (xn--…)".to_owned());
    }
    match host_and_port(host)? {
        (host, None) if host.contains(':') => Ok(format!("[{host}]")),
        (host, None) => Ok(host),
        (_, Some(_)) => Err("holds a port; write the host alone: requests to any port of it are meant".to_owned()),
    }
}

/// Splits `host`, `host:port` and `[IPv6]:port`; the host comes back without brackets and in lower case.
pub(super) fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || "is not a host; write a name, an IPv4 address, or an IPv6 address in brackets".to_owned();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
            let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
            (address.to_string(), if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => return Err("holds an IPv6 address without brackets; write [::1]".to_owned()),
            Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
            None => (text.to_ascii_lowercase(), None),
        },
    };
    if !host.contains(':') && !is_host_name(&host) {
        return Err(wrong());
    }
    Ok((host, port.map(port_number).transpose()?))
}

fn port_number(text: &str) -> Result<u16, String> {
    match whole(text).map(u16::try_from) {
        Ok(Ok(port)) if port > 0 => Ok(port),
        _ => Err("holds no port after the colon; a port is a number from 1 to 65535".to_owned()),
    }
}

/// A DNS name (RFC 1123 section 2.1, and underscores, which container networks use) or an IPv4 address. What ends in a
/// number is an IPv4 address in four parts or nothing: some resolvers read `127.1` and `0x7f.1` as 127.0.0.1.
fn is_host_name(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    host.len() <= 253 && host.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let good = label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    good && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        let ok = [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("90d", 7_776_000_000), ("0s", 0)];
        for (text, millis) in ok {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(duration(&show_duration(Duration::from_millis(millis))), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "10", "s", "-1s", "1.5s", "10 s", "10S", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_binary_multiples() {
        let ok = [("0", 0), ("65536", 65_536), ("8KiB", 8_192), ("10MiB", 10_485_760), ("1GiB", 1 << 30)];
        for (text, bytes) in ok {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
        for text in ["", "KiB", "8KB", "8k", "8 KiB", "-1", "1.5MiB", "18446744073709551615GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_count_in_a_window() {
        let limit = rate("60/min").unwrap();
        assert_eq!((limit.window, limit.quota.get(), limit.burst.get()), (Window::Minute, 60, 60));
        assert_eq!(rate("5/s").unwrap().window, Window::Second);
        for text in ["60", "0/min", "60/day", "/min", "-1/min", "60 / min", "5000000000/h"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_have_no_bits_beyond_their_prefix() {
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(network("fd00::/8").unwrap().to_string(), "fd00::/8");
        assert!(network("10.0.0.1/8").unwrap_err().contains("write 10.0.0.0/8"));
        for text in ["10.0.0.0/33", "10.0.0/8", "all", "", "10.0.0.0/-1"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_are_lower_case_and_without_a_port() {
        let ok = [
            ("API.Example.org.", "api.example.org"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("my_service", "my_service"),
        ];
        for (text, expected) in ok {
            assert_eq!(host(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            ".",
            "a..b",
            "a:80",
            "*.example.org",
            "bücher.example",
            "::1",
            "[::1",
            "a/b",
            "a b",
            "-a",
            "127.1",
            "1.2.3.4.5",
            "0x7f.1",
            "a@b",
        ] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_from_1_to_65535() {
        assert_eq!(host_and_port("[0:0::1]:8080"), Ok(("::1".to_owned(), Some(8080))));
        assert_eq!(host_and_port("A:1"), Ok(("a".to_owned(), Some(1))));
        for text in ["a:", "a:0", "a:65536", "a:+1", "[::1]8080", "[::1]:"] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn methods_are_tokens_in_capital_letters() {
        assert_eq!(method("PROPFIND").unwrap().as_str(), "PROPFIND");
        for text in ["get", "Get", "", "GET POST", "CONNECT"] {
            assert!(method(text).is_err(), "{text}");
        }
    }
}
