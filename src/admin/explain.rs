//! `/v1/explain`: why a request would be let in or turned away. Asking leaves nothing behind, and no value that is asked about is told back.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use serde_json::Value;

use super::fields::{Faults, Fields, Read, kind};
use super::problem::Problem;
use super::wire::FieldError;
use super::wire::decision::ExplainView;
use super::{Admin, keys, values};
use crate::gate::{Presented, Question};
use crate::model::{KeyId, PeerIp};

/// The most header fields of a request that is asked about.
const MAX_HEADERS: usize = 200;
/// The longest URL that is asked about, in characters.
pub const MAX_URL: usize = 16_000;

pub async fn explain(State(admin): State<Arc<Admin>>, mut fields: Fields) -> Result<Json<ExplainView>, Problem> {
    let value = fields.optional("key", text);
    let id = fields.optional("key_id", key_id);
    let method = fields.required("method", method).unwrap_or_default();
    let target = fields.required("url", target).unwrap_or_default();
    let headers = fields.optional("headers", headers).unwrap_or_default();
    let peer = fields.optional("ip", address).map(PeerIp);
    let at = fields.optional("at", values::timestamp);
    if value.is_some() && id.is_some() {
        fields.fault("/key_id".into(), "cannot be given together with key; name one of them".into());
    }
    fields.finish()?;
    let presented = match (value, id) {
        (Some(value), _) => Some(Presented::value(&value)),
        (None, Some(id)) => Some(Presented::of_key(keys::find(&admin, id).await?.0.record.hash)),
        (None, None) => None,
    };
    let question = Question { request: request(method, target, headers), presented, peer, at };
    let judge = &admin.judge;
    let explanation = judge.gate.explain(&judge.rules, question, admin.clock.now());
    Ok(Json(ExplainView::of(&explanation, &judge.rules)))
}

/// As a client sends it: the host of a whole URL becomes the Host field. Where there is one already, the target keeps its host, and the gate
/// says what it thinks of two.
fn request(method: Method, target: Uri, mut headers: HeaderMap) -> Parts {
    let mut target = target;
    if let Some(authority) = target.authority().filter(|_| !headers.contains_key(HOST)) {
        // An authority is made of characters that a field may hold.
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            headers.insert(HOST, host);
            target = target.path_and_query().cloned().map(Uri::from).unwrap_or_default();
        }
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.headers) = (method, target, headers);
    parts
}

/// A text that is neither kept nor told back, and may therefore be a key's value.
pub(super) fn text(value: Value) -> Read<String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("must be a string, not {}", kind(&other)).into()),
    }
}

fn key_id(value: Value) -> Read<KeyId> {
    text(value)?.parse().map_err(|error: crate::model::ids::InvalidId| error.to_string().into())
}

fn method(value: Value) -> Read<Method> {
    Method::from_bytes(text(value)?.as_bytes()).map_err(|_| "is not a method; write GET, POST, …".into())
}

fn target(value: Value) -> Read<Uri> {
    let text = text(value)?;
    if text.chars().count() > MAX_URL {
        return Err(format!("is longer than {MAX_URL} characters").into());
    }
    let url = text.split('#').next().unwrap_or_default();
    let is_whole = ["http://", "https://"].iter().any(|scheme| url.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)));
    if !is_whole && !url.starts_with('/') {
        return Err("is neither a whole URL nor a path; write https://api.example.org/v1/sensors or /v1/sensors".into());
    }
    url.parse().map_err(|_| "holds characters that no URL may hold; percent-encode them".into())
}

/// `{"Name": "value", "Other": ["first", "second"]}`.
fn headers(value: Value) -> Read<HeaderMap> {
    let Value::Object(fields) = value else { return Err(format!("must be an object, not {}", kind(&value)).into()) };
    let (mut headers, mut faults) = (HeaderMap::new(), Vec::new());
    for (name, value) in fields {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            match header(&name, value) {
                Ok((name, value)) if headers.len() < MAX_HEADERS => drop(headers.append(name, value)),
                Ok(_) => return Err(format!("holds more than {MAX_HEADERS} fields").into()),
                Err(message) => faults.push(FieldError { pointer: format!("/{}", name.replace('~', "~0").replace('/', "~1")), message }),
            }
        }
    }
    if faults.is_empty() { Ok(headers) } else { Err(Faults(faults)) }
}

fn header(name: &str, value: Value) -> Result<(HeaderName, HeaderValue), String> {
    let Value::String(value) = value else { return Err(format!("must be a string or an array of strings, not {}", kind(&value))) };
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not the name of a header field")?;
    // White space around a value is none of it (RFC 9110 section 5.5); a line end is no white space.
    let value = HeaderValue::from_bytes(value.trim_matches([' ', '\t']).as_bytes())
        .map_err(|_| "holds characters that no header field may hold")?;
    Ok((name, value))
}

pub(super) fn address(value: Value) -> Read<IpAddr> {
    text(value)?.parse().map_err(|_| "is not an address; write 192.0.2.7 or 2001:db8::7".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_url_is_a_path_or_whole_and_its_host_is_the_host_field() {
        for (url, host, path) in [
            ("/v1/a?b=c", None, "/v1/a?b=c"),
            ("http://API.test/v1", Some("API.test"), "/v1"),
            ("HTTPS://api.test:8443", Some("api.test:8443"), "/"),
            ("https://api.test/a#fragment", Some("api.test"), "/a"),
        ] {
            let parts = request(Method::GET, target(json!(url)).unwrap(), HeaderMap::new());
            assert_eq!(parts.headers.get(HOST).map(|host| host.to_str().unwrap()), host, "{url}");
            assert_eq!(parts.uri.to_string(), path, "{url}");
        }
        for bad in ["", "v1/a", "api.test/v1", "ftp://a/b", "/a b", "http://", "*", "mailto:a@b"] {
            assert!(target(json!(bad)).is_err(), "{bad}");
        }
        assert!(
            target(json!(format!("/{}", "é".repeat(MAX_URL - 1)))).is_ok() && target(json!(format!("/{}", "a".repeat(MAX_URL)))).is_err()
        );
        let both = headers(json!({"Host": "other.test"})).unwrap();
        assert_eq!(request(Method::GET, target(json!("http://api.test/v1")).unwrap(), both).uri.host(), Some("api.test"));
    }

    #[test]
    fn each_header_that_cannot_be_one_is_pointed_at() {
        let two = headers(json!({"X-A": ["1", "2"], "b": " 3 "})).unwrap();
        assert_eq!((two.get_all("x-a").iter().count(), two["b"].to_str().unwrap()), (2, "3"));
        let Err(Faults(faults)) = headers(json!({"a b": "1", "c/d": "1", "e": 5, "f": "x\ny", "g": "\n"})) else { panic!("accepted") };
        let places: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(places, ["/a b", "/c~1d", "/e", "/f", "/g"]);
        assert!(headers(json!({"a": vec!["1"; MAX_HEADERS + 1]})).is_err() && headers(json!([])).is_err());
    }
}
