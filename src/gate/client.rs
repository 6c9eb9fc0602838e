//! Where a call came from. `X-Forwarded-For` is believed only from trusted proxies, and only as far as they vouch for it.

use http::HeaderMap;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

use crate::model::{ClientIp, PeerIp, Refusal};

/// The client's address: the peer's, unless the peer is a trusted proxy; then the right-most address in
/// `X-Forwarded-For` that is not a trusted proxy itself. An entry on the way that is no address cannot be vouched for: refused.
pub fn behind_proxies(trusted: &[IpNet], peer: PeerIp, headers: &HeaderMap) -> Result<ClientIp, Refusal> {
    let mut client = peer.0.to_canonical();
    if trusted.is_empty() || !is_trusted(trusted, client) {
        return Ok(ClientIp(client));
    }
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    for entry in lines.flat_map(|line| line.as_bytes().rsplit(|b| *b == b',')) {
        client = address(entry.trim_ascii()).ok_or(Refusal::BadRequest("X-Forwarded-For holds something that is no address"))?;
        if !is_trusted(trusted, client) {
            break;
        }
    }
    Ok(ClientIp(client))
}

pub(super) fn is_trusted(trusted: &[IpNet], ip: IpAddr) -> bool {
    trusted.iter().any(|net| net.contains(&ip))
}

/// `192.0.2.1`, `2001:db8::1`, and the spellings with a port or brackets that proxies in the field write.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let plain = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = plain.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_say_where_a_call_came_from() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"].iter().map(|n| n.parse().unwrap()).collect();
        let cases: [(&str, &[&str], Option<&str>); 11] = [
            ("192.0.2.9", &["1.1.1.1"], Some("192.0.2.9")),
            ("10.0.0.1", &[], Some("10.0.0.1")),
            ("10.0.0.1", &["192.0.2.1"], Some("192.0.2.1")),
            ("10.0.0.1", &["6.6.6.6, 192.0.2.1"], Some("192.0.2.1")),
            ("10.0.0.1", &["6.6.6.6", "192.0.2.1, 10.9.9.9"], Some("192.0.2.1")),
            ("10.0.0.1", &["10.1.1.1, 10.2.2.2"], Some("10.1.1.1")),
            ("::ffff:10.0.0.1", &["192.0.2.1:4711"], Some("192.0.2.1")),
            ("2001:db8::1", &["[2001:4860::1]:443"], Some("2001:4860::1")),
            ("10.0.0.1", &["192.0.2.1, unknown"], None),
            ("10.0.0.1", &["192.0.2.1,"], None),
            ("10.0.0.1", &["garbage, 192.0.2.1"], Some("192.0.2.1")),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|line| {
                headers.append("x-forwarded-for", line.parse().unwrap());
            });
            let got = behind_proxies(&trusted, PeerIp(peer.parse().unwrap()), &headers).ok();
            assert_eq!(got, expected.map(|ip| ClientIp(ip.parse().unwrap())), "{peer} {lines:?}");
        }
    }
}
