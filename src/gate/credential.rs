//! Taking the credential: it leaves the request here, and only its hash goes on, so that nothing later can log or forward it.

use http::header::{AUTHORIZATION, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode;

use super::target;
use crate::config::Credentials;
use crate::model::secret::{has_form, has_shape};
use crate::model::{Refusal, SecretHash};

/// What a request presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Missing,
    /// Two different values, or a header or parameter given twice.
    Ambiguous,
    /// Not the shape of a value, or a wrong CRC.
    Malformed,
    Value(SecretHash),
}

impl Taken {
    pub fn hash(self) -> Result<SecretHash, Refusal> {
        match self {
            Taken::Missing => Err(Refusal::KeyMissing),
            Taken::Ambiguous => Err(Refusal::KeyAmbiguous),
            Taken::Malformed => Err(Refusal::KeyMalformed),
            Taken::Value(hash) => Ok(hash),
        }
    }

    pub fn of(value: &[u8]) -> Taken {
        if value.is_empty() {
            return Taken::Missing;
        }
        SecretHash::of_presented(value).map_or(Taken::Malformed, Taken::Value)
    }
}

/// Takes the credential out of `request`, from every source that is switched on. The same value in two places is one value.
/// Hashes only what has the shape of a value, however much a client sends.
pub fn take(sources: &Credentials, request: &mut Parts) -> Taken {
    let bearer = if sources.bearer { take_bearer(&mut request.headers) } else { Source::Empty };
    let header = sources.header.as_ref().map_or(Source::Empty, |name| take_header(&mut request.headers, name));
    let query = sources.query.as_ref().map_or(Source::Empty, |name| take_query(request, name));

    let found = [bearer, header, query];
    if found.contains(&Source::Repeated) {
        return Taken::Ambiguous;
    }
    let mut values = found.iter().filter_map(Source::value).filter(|value| !value.is_empty());
    match values.next() {
        // `Authorization: Bearer` alone announces a value and has none.
        None if found[0] == Source::One(Vec::new()) => Taken::Malformed,
        None => Taken::Missing,
        Some(first) if values.all(|other| other == first) => Taken::of(first),
        Some(_) => Taken::Ambiguous,
    }
}

/// On public routes nothing is judged, but a value of ours that came by mistake does not travel on: each source that is switched on is
/// cleared where it holds one, and left as it is where it does not.
pub fn clear(sources: &Credentials, request: &mut Parts) -> Taken {
    if sources.bearer && request.headers.get_all(AUTHORIZATION).iter().any(|v| bearer_token(v).is_some_and(has_shape)) {
        request.headers.remove(AUTHORIZATION);
    }
    if let Some(name) = &sources.header
        && request.headers.get_all(name).iter().any(|v| has_shape(v.as_bytes()))
    {
        request.headers.remove(name);
    }
    if let Some(name) = &sources.query
        && target::parameters(request.uri.query().unwrap_or_default(), name).any(|raw| has_shape(&decoded(raw)))
    {
        take_query(request, name);
    }
    Taken::Missing
}

/// The places of a request that are looked at and hold something, in words.
pub fn places(sources: &Credentials, request: &Parts) -> Vec<String> {
    let bearer = sources.bearer && request.headers.get_all(AUTHORIZATION).iter().any(|value| bearer_token(value).is_some());
    let header = sources.header.as_ref().filter(|name| request.headers.get_all(*name).iter().any(|value| !value.is_empty()));
    let query = request.uri.query().unwrap_or_default();
    let query = sources.query.as_ref().filter(|name| target::parameters(query, name).any(|value| !value.is_empty()));
    let bearer = bearer.then(|| "Authorization: Bearer".to_owned());
    bearer.into_iter().chain(header.map(|name| format!("the header {name}"))).chain(query.map(|name| format!("?{name}="))).collect()
}

/// Whether a value that is looked at was one of ours but for its checksum.
pub fn is_mistyped(sources: &Credentials, request: &Parts) -> bool {
    let bearer = request.headers.get_all(AUTHORIZATION).iter().filter_map(bearer_token).filter(|_| sources.bearer);
    let header = sources.header.iter().flat_map(|name| request.headers.get_all(name)).map(HeaderValue::as_bytes);
    let query = request.uri.query().unwrap_or_default();
    let query = sources.query.iter().flat_map(|name| target::parameters(query, name));
    bearer.chain(header).any(has_form) || query.map(decoded).any(|value| has_form(&value))
}

#[derive(PartialEq, Eq)]
enum Source {
    Empty,
    One(Vec<u8>),
    Repeated,
}

impl Source {
    fn value(&self) -> Option<&[u8]> {
        match self {
            Source::One(value) => Some(value),
            Source::Empty | Source::Repeated => None,
        }
    }
}

/// Takes `Authorization: Bearer <value>`. Other schemes are no credential of ours and stay, unless a Bearer stands beside them.
fn take_bearer(headers: &mut HeaderMap) -> Source {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = values.next() else { return Source::Empty };
    let repeated = values.next().is_some();
    if repeated && headers.get_all(AUTHORIZATION).iter().any(|v| bearer_token(v).is_some()) {
        headers.remove(AUTHORIZATION);
        return Source::Repeated;
    }
    let Some(value) = bearer_token(first).map(<[u8]>::to_vec) else { return Source::Empty };
    headers.remove(AUTHORIZATION);
    Source::One(value)
}

/// What follows the scheme (case-insensitive, RFC 9110 section 11.1) and exactly one space. A second space belongs to the value, which
/// then has not the shape of one.
fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = value.as_bytes().split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return None;
    }
    match rest {
        [] => Some(rest),
        [b' ', token @ ..] => Some(token),
        [b'\t', ..] => Some(rest),
        _ => None,
    }
}

fn take_header(headers: &mut HeaderMap, name: &HeaderName) -> Source {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Source::Empty };
    let source = if values.next().is_some() { Source::Repeated } else { Source::One(first.as_bytes().to_vec()) };
    headers.remove(name);
    source
}

/// Takes every parameter of that name out of the query; the others keep their bytes and order.
fn take_query(request: &mut Parts, name: &str) -> Source {
    let Some(query) = request.uri.query() else { return Source::Empty };
    let source = {
        let mut values = target::parameters(query, name);
        let Some(first) = values.next().map(decoded) else { return Source::Empty };
        if values.next().is_some() { Source::Repeated } else { Source::One(first) }
    };

    let is_other = |pair: &&str| target::parameters(pair, name).next().is_none();
    let others: Vec<&str> = query.split('&').filter(is_other).collect();
    let rest = (!others.is_empty()).then(|| others.join("&"));
    // Path and the remaining parameters were a valid target together with the value, and are one without it.
    if let Ok(uri) = target::origin_form(request.uri.path(), rest.as_deref()) {
        request.uri = uri;
    }
    source
}

fn decoded(raw: &[u8]) -> Vec<u8> {
    percent_decode(raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Environment, Secret};
    use http::Request;

    fn value(seed: u8) -> String {
        let secret = Secret::generate("pk", &Environment::default(), |bytes: &mut [u8]| {
            bytes.iter_mut().enumerate().for_each(|(i, b)| *b = seed.wrapping_add(i as u8));
            Ok::<_, ()>(())
        });
        secret.unwrap().reveal().to_string()
    }

    fn sources() -> Credentials {
        Credentials { bearer: true, query: Some("api_key".into()), header: Some(HeaderName::from_static("x-api-key")) }
    }

    fn request(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_value_is_taken_from_one_place_and_no_trace_stays() {
        let (good, other) = (value(1), value(2));
        let hash = Taken::Value(SecretHash::of_presented(good.as_bytes()).unwrap());
        let bearer = format!("Bearer {good}");
        let cases: Vec<(String, Vec<(&str, String)>, Taken)> = vec![
            ("/".into(), vec![], Taken::Missing),
            ("/".into(), vec![("authorization", bearer.clone())], hash),
            ("/".into(), vec![("authorization", format!("bEARER {good}"))], hash),
            ("/".into(), vec![("authorization", format!("Bearer  {good}"))], Taken::Malformed),
            ("/".into(), vec![("authorization", format!("Bearer\t{good}"))], Taken::Malformed),
            ("/".into(), vec![("authorization", "Bearer".into())], Taken::Malformed),
            ("/".into(), vec![("authorization", "Bearer ".into())], Taken::Malformed),
            ("/".into(), vec![("authorization", format!("Token {good}"))], Taken::Missing),
            ("/".into(), vec![("authorization", "Basic YTpi".into())], Taken::Missing),
            ("/".into(), vec![("x-api-key", good.clone())], hash),
            ("/".into(), vec![("x-api-key", String::new())], Taken::Missing),
            ("/".into(), vec![("x-api-key", format!("{good}, {other}"))], Taken::Malformed),
            ("/".into(), vec![("x-api-key", good.clone()), ("x-api-key", good.clone())], Taken::Ambiguous),
            ("/".into(), vec![("x-api-key", good.clone()), ("x-api-key", "bad".into())], Taken::Ambiguous),
            ("/".into(), vec![("authorization", bearer.clone()), ("authorization", bearer.clone())], Taken::Ambiguous),
            ("/".into(), vec![("authorization", bearer.clone()), ("authorization", "Basic YTpi".into())], Taken::Ambiguous),
            (format!("/?api_key={good}"), vec![], hash),
            (format!("/?a=1&api_key={good}&b=2"), vec![], hash),
            (format!("/?api%5Fkey={}", good.replace('_', "%5F")), vec![], hash),
            (format!("/?api_key={good}&api_key={good}"), vec![], Taken::Ambiguous),
            (format!("/?API_KEY={good}"), vec![], Taken::Missing),
            ("/?api_key".into(), vec![], Taken::Missing),
            (format!("/?api_key={good}"), vec![("x-api-key", good.clone()), ("authorization", bearer.clone())], hash),
            (format!("/?api_key={good}"), vec![("x-api-key", other.clone())], Taken::Ambiguous),
            ("/".into(), vec![("x-api-key", other), ("authorization", bearer)], Taken::Ambiguous),
            ("/?api_key=short".into(), vec![], Taken::Malformed),
            ("/".into(), vec![("x-api-key", "k".repeat(65_000))], Taken::Malformed),
        ];
        for (target, headers, expected) in cases {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let mut parts = request(&target, &headers);
            assert_eq!(take(&sources(), &mut parts), expected, "{target} {headers:?}");
            let left = format!("{:?}", parts.headers) + &parts.uri.to_string();
            let upper_case_parameter = target.contains("API_KEY") || headers.iter().any(|(_, v)| v.starts_with("Token"));
            assert!(upper_case_parameter || !left.contains(&good), "{left}");
            assert!(!left.contains("x-api-key") && !left.contains("api_key"), "{left}");
        }
    }

    #[test]
    fn other_parameters_keep_their_bytes_and_order() {
        let good = value(1);
        for (before, after) in
            [("/p?b=%20x&api_key=K&a=+&&c", "/p?b=%20x&a=+&&c"), ("/p?api_key=K", "/p"), ("/p?api_key=K&", "/p?"), ("/p?x", "/p?x")]
        {
            let mut parts = request(&before.replace('K', &good), &[]);
            take(&sources(), &mut parts);
            assert_eq!(parts.uri.to_string(), after);
        }
    }

    #[test]
    fn a_source_that_is_off_passes_untouched() {
        let good = value(1);
        let only_header = Credentials { bearer: false, query: None, ..sources() };
        let bearer = format!("Bearer {good}");
        let mut parts = request(&format!("/?api_key={good}"), &[("authorization", &bearer)]);
        assert_eq!(take(&only_header, &mut parts), Taken::Missing);
        assert_eq!(parts.headers["authorization"], bearer);
        assert!(parts.uri.query().unwrap().contains(&good));
    }

    #[test]
    fn public_routes_lose_values_of_ours_and_nothing_else() {
        let good = value(1);
        let bearer = format!("Bearer {good}");
        let mut ours = request(&format!("/?api_key={good}&a=1"), &[("authorization", &bearer), ("x-api-key", &good)]);
        clear(&sources(), &mut ours);
        assert!(ours.headers.is_empty());
        assert_eq!(ours.uri.to_string(), "/?a=1");

        let mut theirs = request("/?api_key=their-own", &[("authorization", "Bearer eyJh.e30.x"), ("x-api-key", "abc")]);
        clear(&sources(), &mut theirs);
        assert_eq!((theirs.headers.len(), theirs.uri.query()), (2, Some("api_key=their-own")));
    }
}
