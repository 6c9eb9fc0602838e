//! A call: one request and what became of it, as metrics, access log and usage all read it.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderValue, Method};

use super::ids::{KeyId, MachineId};
use super::refusal::Code;
use super::secret::{ValueMark, masked};
use super::time::Moment;

/// The address at the other end of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIp(pub IpAddr);

/// The address the call came from: the peer's, or what trusted proxies say. IPv4-mapped IPv6 is plain IPv4 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientIp(pub IpAddr);

/// Names one call in the answer, the logs and at the upstream. A client's own is kept when it matches
/// `[A-Za-z0-9._-]{1,128}`.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    pub const MAX: usize = 128;

    /// Takes what a client sent, unless a key's value is in it, copied: a kept header value would pin the whole buffer it was read into.
    pub fn from_client(value: &HeaderValue) -> Option<RequestId> {
        let bytes = value.as_bytes();
        let good = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let harmless = |bytes: &[u8]| matches!(masked(bytes), Cow::Borrowed(_));
        ((1..=Self::MAX).contains(&bytes.len()) && bytes.iter().all(good) && harmless(bytes))
            .then(|| HeaderValue::from_bytes(bytes).ok().map(RequestId))
            .flatten()
    }

    /// 32 hexadecimal characters made of `raw`.
    pub fn from_u128(raw: u128) -> RequestId {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let text: [u8; 32] = std::array::from_fn(|i| HEX[((raw >> (4 * (31 - i))) & 15) as usize]);
        RequestId::from_hex(HeaderValue::from_bytes(&text).ok())
    }

    /// An id that the gateway made and wrote itself.
    pub fn from_hex(written: Option<HeaderValue>) -> RequestId {
        RequestId(written.unwrap_or(HeaderValue::from_static("0")))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose key the call carried, whether or not it was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub key: KeyId,
    pub machine: MachineId,
    /// The call used a value that a regeneration has replaced.
    pub old_value: bool,
    /// Which of the key's values it used.
    pub value: ValueMark,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Answered by the upstream, in full.
    Ok,
    /// The client went away before the end of the answer.
    ClientClosed,
    /// Turned away, or failed for the reason named.
    Refused(Code),
}

impl Verdict {
    pub const COUNT: usize = Code::ALL.len() + 2;

    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::ClientClosed => "client_closed",
            Verdict::Refused(code) => code.as_str(),
        }
    }

    /// A dense number below [`Verdict::COUNT`], for arrays of counters.
    pub fn index(self) -> usize {
        match self {
            Verdict::Ok => 0,
            Verdict::ClientClosed => 1,
            Verdict::Refused(code) => 2 + code as usize,
        }
    }

    pub fn from_index(index: usize) -> Option<Verdict> {
        match index {
            0 => Some(Verdict::Ok),
            1 => Some(Verdict::ClientClosed),
            _ => Code::ALL.get(index - 2).map(|code| Verdict::Refused(*code)),
        }
    }

    pub fn parse(text: &str) -> Option<Verdict> {
        (0..Self::COUNT).filter_map(Verdict::from_index).find(|v| v.as_str() == text)
    }
}

/// Everything that is recorded of one call, once, at its end.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: RequestId,
    pub began: Moment,
    pub ended: Moment,
    pub peer: PeerIp,
    pub client: ClientIp,
    pub method: Method,
    /// The index of the route in the settings this call was judged by; `None` where no route was found.
    pub route: Option<usize>,
    pub caller: Option<Caller>,
    /// The gate let the call in (its verdict can still be a failure of the upstream).
    pub admitted: bool,
    pub verdict: Verdict,
    /// The status sent to the client.
    pub status: u16,
    /// Bytes of the request's and of the answer's body.
    pub received: u64,
    pub sent: u64,
    /// From the moment the request was handed to the upstream until its answer's head arrived.
    pub upstream: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_dense_numbers_and_read_back() {
        for index in 0..Verdict::COUNT {
            let verdict = Verdict::from_index(index).unwrap();
            assert_eq!(verdict.index(), index);
            assert_eq!(Verdict::parse(verdict.as_str()), Some(verdict));
        }
        assert_eq!(Verdict::from_index(Verdict::COUNT), None);
    }

    #[test]
    fn a_client_chooses_a_request_id_only_of_safe_characters() {
        let id = |text: &str| RequestId::from_client(&HeaderValue::from_str(text).unwrap());
        assert_eq!(id("a-B.9_").unwrap().as_str(), "a-B.9_");
        for bad in ["", "a b", "a\"b", "é", &"x".repeat(129)] {
            assert!(id(bad).is_none(), "{bad}");
        }
        assert_eq!(RequestId::from_u128(0xabc).as_str(), "00000000000000000000000000000abc");
    }
}
