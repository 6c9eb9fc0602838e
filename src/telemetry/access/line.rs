//! What stands on a line, and how any bytes of a client become JSON that is one line.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::model::Timestamp;
use crate::model::call::Record;
use crate::model::secret::masked;

/// Longer ones are cut, and end in `…`: 2 KiB of a path, 512 bytes of anything else.
const PATH_MAX: usize = 2_048;
const FIELD_MAX: usize = 512;

/// How much of a client's address is kept: it is personal data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    #[default]
    Full,
    /// The network: /24 of IPv4, /48 of IPv6.
    Truncated,
    None,
}

impl Addresses {
    fn of(self, ip: IpAddr) -> Option<IpAddr> {
        match (self, ip) {
            (Addresses::Full, ip) => Some(ip),
            (Addresses::Truncated, IpAddr::V4(v4)) => Some(Ipv4Addr::from_bits(v4.to_bits() & (!0 << 8)).into()),
            (Addresses::Truncated, IpAddr::V6(v6)) => Some(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 80)).into()),
            (Addresses::None, _) => None,
        }
    }
}

/// One call with the words that its record only points to.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub record: &'a Record,
    /// As the client sent it; empty where it sent none.
    pub host: &'a [u8],
    /// The target's path. From a `?` on nothing is logged, since a query can hold a key.
    pub path: &'a [u8],
    pub route: Option<&'a str>,
    pub machine_name: Option<&'a str>,
    pub key_label: Option<&'a str>,
    pub user_agent: Option<&'a [u8]>,
    /// The listener's name in the settings.
    pub listener: &'a str,
}

/// Memory of one thread to write a line in.
pub(super) struct Scratch {
    bytes: Vec<u8>,
    /// The last second whose date was worked out, which costs more than the rest of the line.
    second: i64,
    date: String,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch { bytes: Vec::with_capacity(1_024), second: i64::MIN, date: String::new() }
    }

    /// The line with its line feed. Every field is always there, in this order; `null` where a call has none.
    pub fn write(&mut self, line: &Line<'_>, addresses: Addresses) -> &[u8] {
        self.bytes.clear();
        self.time(line.record.began.wall);
        let (record, out) = (line.record, &mut self.bytes);
        let path = line.path.split(|b| *b == b'?').next().unwrap_or_default();
        field(out, "request_id", Some(record.id.as_str().as_bytes()));
        field(out, "verdict", Some(record.verdict.as_str().as_bytes()));
        number(out, "status", record.status.into());
        field(out, "method", Some(record.method.as_str().as_bytes()));
        field(out, "host", Some(line.host));
        capped(out, "path", Some(path), PATH_MAX);
        field(out, "route", line.route.map(str::as_bytes));
        shown(out, "machine.id", record.caller.as_ref().map(|caller| caller.machine));
        field(out, "machine.name", line.machine_name.map(str::as_bytes));
        shown(out, "key.id", record.caller.as_ref().map(|caller| caller.key));
        field(out, "key.label", line.key_label.map(str::as_bytes));
        shown(out, "client.ip", addresses.of(record.client.0));
        millis(out, "duration_ms", Some(record.ended.tick.since(record.began.tick)));
        millis(out, "upstream_ms", record.upstream);
        number(out, "received_bytes", record.received);
        number(out, "sent_bytes", record.sent);
        field(out, "user_agent", line.user_agent);
        field(out, "listener", Some(line.listener.as_bytes()));
        out.extend_from_slice(b"}\n");
        out
    }

    fn time(&mut self, at: Timestamp) {
        let (second, millis) = (at.0.div_euclid(1_000), at.0.rem_euclid(1_000));
        if second != self.second {
            self.second = second;
            self.date = Timestamp(second.saturating_mul(1_000)).to_string();
            self.date.truncate(self.date.len().saturating_sub(".000Z".len()));
        }
        self.bytes.extend_from_slice(b"{\"time\":\"");
        self.bytes.extend_from_slice(self.date.as_bytes());
        // Writing to memory cannot fail, here and below.
        let _ = write!(self.bytes, ".{millis:03}Z\"");
    }
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn field(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    capped(out, key, value, FIELD_MAX);
}

fn capped(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>, max: usize) {
    name(out, key);
    match value {
        Some(value) => string(out, value, max),
        None => out.extend_from_slice(b"null"),
    }
}

/// A value whose text needs no escaping.
fn shown(out: &mut Vec<u8>, key: &str, value: Option<impl std::fmt::Display>) {
    name(out, key);
    let _ = match value {
        Some(value) => write!(out, "\"{value}\""),
        None => write!(out, "null"),
    };
}

fn number(out: &mut Vec<u8>, key: &str, value: u64) {
    name(out, key);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with the microseconds as decimals.
fn millis(out: &mut Vec<u8>, key: &str, value: Option<Duration>) {
    name(out, key);
    let _ = match value.map(|value| value.as_micros()) {
        Some(micros) => write!(out, "{}.{:03}", micros / 1_000, micros % 1_000),
        None => write!(out, "null"),
    };
}

/// Any bytes as a JSON string (RFC 8259 section 7). What is not UTF-8 becomes U+FFFD.
fn string(out: &mut Vec<u8>, value: &[u8], max: usize) {
    // A key pasted into a path or a name is not to be read in a log either.
    let value = &*masked(value);
    let kept = cut(value, max);
    out.push(b'"');
    if kept.iter().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\')) {
        out.extend_from_slice(kept);
    } else {
        for chunk in kept.utf8_chunks() {
            chunk.valid().chars().for_each(|c| character(out, c));
            if !chunk.invalid().is_empty() {
                character(out, char::REPLACEMENT_CHARACTER);
            }
        }
    }
    if kept.len() < value.len() {
        character(out, '…');
    }
    out.push(b'"');
}

/// At most `max` bytes of `value`, without a torn character at the end.
fn cut(value: &[u8], max: usize) -> &[u8] {
    if value.len() <= max {
        return value;
    }
    // A character has at most three continuation bytes.
    let end = (max.saturating_sub(3)..=max).rev().find(|at| value[*at] & 0xC0 != 0x80);
    &value[..end.unwrap_or(max)]
}

fn character(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        c if is_unsafe(c) => {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// What could end a line, drive a terminal, or make a viewer show another order than was sent. All lie below U+FFFF.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::*;
    use crate::model::call::{Caller, ClientIp, PeerIp, RequestId};
    use crate::model::{Code, KeyId, MachineId, Moment, Tick, ValueMark, Verdict};

    fn record() -> Record {
        let at = |millis: u64| Moment { tick: Tick(millis * 1_000_000), wall: Timestamp(1_800_000_000_123 + millis as i64) };
        let ip = "192.0.2.77".parse().unwrap();
        Record {
            id: RequestId::from_u128(0xabc),
            began: at(0),
            ended: at(12),
            peer: PeerIp(ip),
            client: ClientIp(ip),
            method: Method::GET,
            route: Some(0),
            caller: Some(Caller { key: KeyId::from_u128(1), machine: MachineId::from_u128(2), old_value: false, value: ValueMark(1) }),
            admitted: true,
            verdict: Verdict::Ok,
            status: 200,
            received: 0,
            sent: 1_234,
            upstream: Some(Duration::from_micros(11_040)),
        }
    }

    fn line(record: &Record) -> Line<'_> {
        Line {
            record,
            host: b"api.example.org",
            path: b"/v1/sensors/7",
            route: Some("sensors"),
            machine_name: Some("Service de \"facturation\""),
            key_label: Some("Production - é"),
            user_agent: Some(b"curl/8.5"),
            listener: "public",
        }
    }

    fn json(line: &Line<'_>) -> serde_json::Value {
        let mut scratch = Scratch::new();
        let text = scratch.write(line, Addresses::Full);
        assert!(text.ends_with(b"}\n") && text.iter().filter(|b| **b == b'\n').count() == 1);
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn a_line_has_the_published_fields() {
        let record = record();
        let mut scratch = Scratch::new();
        for _ in 0..2 {
            let text = String::from_utf8(scratch.write(&line(&record), Addresses::Truncated).to_vec()).unwrap();
            assert_eq!(
                text,
                concat!(
                    r#"{"time":"2027-01-15T08:00:00.123Z","request_id":"00000000000000000000000000000abc","verdict":"ok","status":200,"#,
                    r#""method":"GET","host":"api.example.org","path":"/v1/sensors/7","route":"sensors","#,
                    r#""machine.id":"mac_00000000000000000000000002","machine.name":"Service de \"facturation\"","#,
                    r#""key.id":"key_00000000000000000000000001","key.label":"Production - é","client.ip":"192.0.2.0","#,
                    r#""duration_ms":12.000,"upstream_ms":11.040,"received_bytes":0,"sent_bytes":1234,"user_agent":"curl/8.5","#,
                    r#""listener":"public"}"#,
                    "\n"
                )
            );
        }
    }

    #[test]
    fn what_a_call_does_not_have_is_null() {
        let mut record = Record { caller: None, upstream: None, route: None, ..record() };
        record.verdict = Verdict::Refused(Code::KeyMissing);
        let value = json(&Line { route: None, machine_name: None, key_label: None, user_agent: None, ..line(&record) });
        for field in ["route", "machine.id", "machine.name", "key.id", "key.label", "upstream_ms", "user_agent"] {
            assert_eq!(value.get(field), Some(&serde_json::Value::Null), "{field}");
        }
        assert_eq!(value["verdict"], "key_missing");
    }

    #[test]
    fn t239_nothing_of_a_query_is_logged() {
        let record = record();
        for path in ["/a?api_key=secret", "/a?", "/a?x?secret"] {
            assert_eq!(json(&Line { path: path.as_bytes(), ..line(&record) })["path"], "/a");
        }
    }

    #[test]
    fn t240_odd_bytes_stay_one_line_of_ascii_safe_json() {
        let record = record();
        for (sent, written) in [
            (&b"a\r\nb"[..], r#""a\u000d\u000ab""#),
            (b"\x1b[31m", r#""\u001b[31m""#),
            ("\u{2028}\u{85}\u{7f}".as_bytes(), r#""\u2028\u0085\u007f""#),
            ("\u{202e}".as_bytes(), r#""\u202e""#),
            (b"\"},\\", r#""\"},\\""#),
            (b"${jndi:x}", r#""${jndi:x}""#),
            (b"\xff\xc3", "\"\u{fffd}\u{fffd}\""),
            (b"\0", r#""\u0000""#),
        ] {
            let mut out = Vec::new();
            string(&mut out, sent, FIELD_MAX);
            assert_eq!(String::from_utf8(out).unwrap(), written);
            json(&Line { path: sent, host: sent, user_agent: Some(sent), ..line(&record) });
        }
    }

    #[test]
    fn long_fields_are_cut_between_characters() {
        for (sent, max, kept) in [("abcd", 4, "abcd"), ("abcde", 4, "abcd…"), ("aéé", 4, "aé…"), ("ab€", 4, "ab…"), ("😀😀", 7, "😀…")]
        {
            let mut out = Vec::new();
            string(&mut out, sent.as_bytes(), max);
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{kept}\""));
        }
        let record = record();
        let long = json(&Line { path: &[b'p'; 70_000], user_agent: Some(&[b'u'; 70_000]), ..line(&record) });
        assert_eq!(long["path"].as_str().unwrap().chars().count(), 2_049);
        assert_eq!(long["user_agent"].as_str().unwrap().chars().count(), 513);
    }

    #[test]
    fn addresses_are_kept_as_far_as_allowed() {
        for (ip, truncated) in [("192.0.2.77", "192.0.2.0"), ("2001:db8:1:2:3::4", "2001:db8:1::")] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(Addresses::Full.of(ip), Some(ip));
            assert_eq!(Addresses::Truncated.of(ip), Some(truncated.parse().unwrap()));
            assert_eq!(Addresses::None.of(ip), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_one_line_of_valid_json(path in prop::collection::vec(any::<u8>(), 0..3_000), name in any::<String>()) {
            let record = record();
            let value = json(&Line { path: &path, host: &path, user_agent: Some(&path), machine_name: Some(&name), ..line(&record) });
            if name.len() <= FIELD_MAX {
                prop_assert_eq!(value["machine.name"].as_str(), Some(&name[..]));
            }
        }
    }
}
