//! One view of the target: route, permission, limit, log and upstream see the same bytes.
//!
//! Percent-encoded unreserved characters are decoded first, other escapes get capital digits (RFC 3986 section 6.2.2) and that form replaces the target. What
//! two servers could read differently is refused: it is how a request for one path reaches another one.

use std::borrow::Cow;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode;

use crate::model::Refusal;

/// Puts the target's one form, in origin form, in the place of `request.uri`, or says why there is none.
pub fn settle(request: &mut Parts) -> Result<(), Refusal> {
    agree_on_host(request)?;
    if request.uri.path() == "*" {
        return Err(Refusal::BadRequest("the asterisk form of a target leads to no route"));
    }
    let path = canonical_path(request.uri.path())?;
    let rewritten = match path {
        Cow::Owned(path) => Some(path),
        Cow::Borrowed(path) => request.uri.authority().is_some().then(|| path.to_owned()),
    };
    if let Some(path) = rewritten {
        request.uri = origin_form(&path, request.uri.query())?;
    }
    Ok(())
}

/// The host that a settled request is for: lower case, without port and trailing dot; `None` where an HTTP/1.0 request names none.
pub fn host(request: &Parts) -> Result<Option<Cow<'_, str>>, Refusal> {
    request.headers.get(HOST).map(|field| field.to_str().map_err(|_| MALFORMED_HOST).and_then(normal_host)).transpose()
}

const MALFORMED_HOST: Refusal = Refusal::BadRequest("the Host field is malformed");

/// A target of path and query alone.
pub fn origin_form(path: &str, query: Option<&str>) -> Result<Uri, Refusal> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let target = PathAndQuery::try_from(text).map_err(|_| Refusal::BadRequest("the target holds characters that no target may hold"))?;
    Ok(Uri::from(target))
}

/// A target with a host of its own must agree with the Host field. RFC 9112 section 3.2.2 would let it win; two servers of
/// which only one does so would disagree.
fn agree_on_host(request: &mut Parts) -> Result<(), Refusal> {
    let mut fields = request.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Refusal::BadRequest("more than one Host field"));
    }
    let Some(authority) = request.uri.authority() else { return Ok(()) };
    match field {
        Some(field) if field.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => Ok(()),
        Some(_) => Err(Refusal::BadRequest("the target names another host than the Host field")),
        None => {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| MALFORMED_HOST)?;
            request.headers.insert(HOST, host);
            Ok(())
        }
    }
}

fn normal_host(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let host = match text.rfind(':') {
        Some(colon) if !text.ends_with(']') => {
            let port = &text[colon + 1..];
            if !port.bytes().all(|b| b.is_ascii_digit()) {
                return Err(MALFORMED_HOST);
            }
            &text[..colon]
        }
        _ => text,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~[]:%!$&'()*+,;=".contains(&b);
    if host.is_empty() || !host.bytes().all(good) {
        return Err(MALFORMED_HOST);
    }
    let upper = host.bytes().any(|b| b.is_ascii_uppercase());
    Ok(if upper { host.to_ascii_lowercase().into() } else { host.into() })
}

/// The one form of a path, or why two servers could disagree about it.
fn canonical_path(raw: &str) -> Result<Cow<'_, str>, Refusal> {
    if !raw.starts_with('/') {
        return Err(Refusal::BadRequest("the path does not begin with a slash"));
    }
    if !raw.is_ascii() {
        return Err(Refusal::BadRequest("the path holds raw non-ASCII characters: percent-encode them"));
    }
    let path = if raw.contains('%') { decode_unreserved(raw)? } else { Cow::Borrowed(raw) };
    if path.contains(';') {
        return Err(Refusal::BadRequest("the path holds a semicolon"));
    }
    if path.contains('\\') {
        return Err(Refusal::BadRequest("the path holds a backslash"));
    }
    if path.contains("//") {
        return Err(Refusal::BadRequest("the path holds an empty segment (//)"));
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(Refusal::BadRequest("the path holds a dot segment"));
    }
    Ok(path)
}

fn decode_unreserved(raw: &str) -> Result<Cow<'_, str>, Refusal> {
    let mut path = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        path.push_str(&rest[..at]);
        let byte = escaped(&rest.as_bytes()[at..]).ok_or(Refusal::BadRequest("the path holds a % that begins no encoded character"))?;
        match byte {
            b'/' => return Err(Refusal::BadRequest("the path holds an encoded slash (%2F)")),
            b'\\' => return Err(Refusal::BadRequest("the path holds an encoded backslash (%5C)")),
            b';' => return Err(Refusal::BadRequest("the path holds an encoded semicolon (%3B)")),
            0..=0x1f | 0x7f => return Err(Refusal::BadRequest("the path holds an encoded control character")),
            b'-' | b'.' | b'_' | b'~' => path.push(byte as char),
            _ if byte.is_ascii_alphanumeric() => path.push(byte as char),
            // Case of hexadecimal digits means nothing (section 6.2.2.1), but a literal of a route is compared by its bytes.
            _ => path.push_str(&rest[at..at + 3].to_ascii_uppercase()),
        }
        rest = &rest[at + 3..];
    }
    path.push_str(rest);
    let decoded: Vec<u8> = percent_decode(path.as_bytes()).collect();
    // Overlong forms of dots and slashes are the invalid UTF-8 that some servers accept.
    if std::str::from_utf8(&decoded).is_err() {
        return Err(Refusal::BadRequest("the path is not UTF-8 when decoded"));
    }
    // A server that decodes twice would see another path.
    if (0..decoded.len()).any(|at| escaped(&decoded[at..]).is_some()) {
        return Err(Refusal::BadRequest("the path is percent-encoded twice"));
    }
    Ok(if path == raw { Cow::Borrowed(raw) } else { Cow::Owned(path) })
}

/// The byte that `%xx` at the beginning of `text` stands for.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |b: u8| (b as char).to_digit(16);
    Some((digit(*high)? * 16 + digit(*low)?) as u8)
}

/// The raw values of every parameter of a query whose percent-decoded name is `name`.
pub fn parameters<'a>(query: &'a str, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let is_named = move |raw: &str| percent_decode(raw.as_bytes()).eq(name.bytes());
    query.split('&').filter_map(move |pair| {
        let (raw, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_named(raw).then_some(value.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_has_one_form() {
        for (raw, form) in [
            ("/", "/"),
            ("/v1/sensors", "/v1/sensors"),
            ("/%61dmin", "/admin"),
            ("/a%2Db%7e%5F", "/a-b~_"),
            ("/caf%c3%A9", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/100%25", "/100%25"),
            ("/100%25/a", "/100%25/a"),
            ("/a/", "/a/"),
            ("/ADMIN", "/ADMIN"),
            ("/a.b/..c", "/a.b/..c"),
        ] {
            assert_eq!(canonical_path(raw).as_deref(), Ok(form), "{raw}");
        }
    }

    #[test]
    fn what_two_servers_could_read_differently_is_refused() {
        for raw in [
            "",
            "admin",
            "http:/admin",
            "//admin",
            "/a//b",
            "/./a",
            "/a/..",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/%2e",
            "/a%2fb",
            "/a%2F..%2fb",
            "/a%5cb",
            "/a\\b",
            "/a;x",
            "/;/a",
            "/a%3bx",
            "/a%00",
            "/a%0a",
            "/a%0D",
            "/a%7f",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%252e",
            "/a%25%32%65",
            "/a/%252e%252e/b",
            "/%c0%ae%c0%ae/",
            "/%e0%80%af",
            "/%ff",
            "/é",
        ] {
            let verdict = canonical_path(raw);
            assert!(verdict.is_err(), "{raw:?} became {verdict:?}");
        }
    }

    #[test]
    fn hosts_lose_case_port_and_trailing_dot() {
        for (raw, host) in [
            ("API.Example.ORG", "api.example.org"),
            ("a.b:8080", "a.b"),
            ("a.b.", "a.b"),
            ("a.b.:80", "a.b"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(normal_host(raw).as_deref(), Ok(host));
        }
        for raw in ["", ":80", "a/evil?x", "u@a", "a b", "a:b", "a:80x"] {
            assert!(normal_host(raw).is_err(), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn the_form_of_the_form_is_the_form(raw in "/[a-c%0-9/.;2eEfF]{0,24}") {
            if let Ok(form) = canonical_path(&raw) {
                prop_assert_eq!(canonical_path(&form), Ok(form.clone()));
                // No server that decodes, merges slashes or resolves dots finds another path in it.
                let decoded = percent_decode(form.as_bytes()).decode_utf8().unwrap().into_owned();
                prop_assert!(!decoded.contains("//") && !decoded.split('/').any(|s| s == "." || s == ".."));
                prop_assert_eq!(decoded.matches('/').count(), form.matches('/').count());
            }
        }
    }
}
