//! The gateway's own answers: a refusal as a problem document (RFC 9457), and the fields that tell of limits.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use serde::Serialize;

use super::body::AnswerBody;
use super::text::Texts;
use super::{wants_ietf, wants_legacy};
use crate::config::LimitHeaders;
use crate::gate::Turned;
use crate::limits::Charged;
use crate::model::{Code, Refusal, RequestId};

/// The document's type for the two limits: what the IETF draft "RateLimit header fields for HTTP" registers.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    permission: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(rename = "violated-policies", skip_serializing_if = "Option::is_none")]
    violated_policies: Option<Vec<&'a str>>,
}

pub fn refusal(turned: &Turned, id: &RequestId, headers: LimitHeaders, texts: &Texts) -> Response<AnswerBody> {
    let refusal = &turned.refusal;
    let code = refusal.code();
    let problem = Problem {
        r#type: problem_type(code),
        title: code.title(),
        status: code.status().as_u16(),
        detail: detail(refusal),
        code: code.as_str(),
        request_id: id.as_str(),
        permission: match refusal {
            Refusal::PermissionDenied(name) => Some(name.as_str()),
            _ => None,
        },
        retry_after: refusal.retry_after(),
        violated_policies: (!refusal.violated().is_empty()).then(|| refusal.violated().iter().map(|w| w.name()).collect()),
    };
    // A structure of strings and numbers always has a JSON form.
    let document = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(AnswerBody::of(document.into()));
    *response.status_mut() = code.status();
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = challenge(refusal) {
        fields.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = refusal.retry_after() {
        fields.insert(RETRY_AFTER, seconds.into());
    }
    if let Refusal::MethodNotAllowed(methods) = refusal {
        let list = methods.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ");
        fields.extend(HeaderValue::from_str(&list).ok().map(|list| (ALLOW, list)));
    }
    if let Some(charged) = &turned.charged {
        limit_fields(charged, headers, texts).add_to(fields);
    }
    response
}

fn problem_type(code: Code) -> String {
    match code {
        Code::QuotaExceeded | Code::RateLimited => QUOTA_EXCEEDED.to_owned(),
        _ => format!("urn:octroi:{}", code.as_str()),
    }
}

/// What the client can do about it. Nothing in here tells of any key but the one presented, nor of what stands behind the gateway.
fn detail(refusal: &Refusal) -> String {
    match refusal {
        Refusal::BadRequest(what) => format!("{what}."),
        Refusal::RequestTimeout => "The request did not arrive in time. Send it again.".into(),
        Refusal::UriTooLong => "The request target is longer than this gateway takes.".into(),
        Refusal::HeadersTooLarge => "The request's header section is larger, or has more fields, than this gateway takes.".into(),
        Refusal::RouteNotFound => "No route of this gateway matches the host and path.".into(),
        Refusal::MethodNotAllowed(_) => "The path exists, but not with this method. See the Allow field.".into(),
        Refusal::ExpectationFailed => "The only expectation this gateway can meet is 100-continue.".into(),
        Refusal::BodyTooLarge => "The request's body is larger than this gateway takes.".into(),
        Refusal::TlsRequired => "Send the request over TLS, and replace a key that was sent in the clear.".into(),
        Refusal::TooManyFailures { retry_after } => {
            format!("Too many attempts without a valid API key came from this address. Wait {retry_after} s, or send a valid key.")
        }
        Refusal::KeyAmbiguous => "Send one API key, once: as Authorization: Bearer, as a header or as a query parameter.".into(),
        Refusal::KeyMissing => "Send an API key, for instance as Authorization: Bearer <key>.".into(),
        Refusal::KeyMalformed => "What was sent is not an API key of this gateway: check that it was copied whole.".into(),
        Refusal::KeyUnknown => "No such API key. Ask the operator of this API for one.".into(),
        Refusal::KeyReplaced => "The key has a new value: this one no longer counts. Ask the key's owner for the new one.".into(),
        Refusal::KeyRevoked => "The key was revoked for good. Ask the operator of this API for another one.".into(),
        Refusal::KeyInactive => "The key is switched off. Ask the operator of this API to reactivate it.".into(),
        Refusal::KeyExpired => "The key's expiry date has passed. Ask the operator of this API to extend it.".into(),
        Refusal::MachineDisabled => "All keys of this machine are switched off. Ask the operator of this API.".into(),
        Refusal::AddressDenied => "The key may be used from certain addresses only, and not from this one.".into(),
        Refusal::PermissionDenied(name) => format!("The key lacks the permission {name}."),
        Refusal::OrganizationDenied => {
            "The key is restricted to certain organizations, and the request names none of them, exactly once.".into()
        }
        Refusal::QuotaExceeded { retry_after, .. } => format!("The quota of the period is used up. More is available in {retry_after} s."),
        Refusal::RateLimited { retry_after, .. } => {
            format!("More calls than the tier allows. The next one is let in after {retry_after} s.")
        }
        Refusal::Overloaded => "The gateway has more to do than it can. Try again shortly.".into(),
        Refusal::Draining => "The gateway is shutting down. Try again shortly.".into(),
        Refusal::StateStale => "The gateway does not know its keys yet. Try again shortly.".into(),
        Refusal::InternalError => "The gateway failed to handle the request. The request id tells its operator where to look.".into(),
        Refusal::UpstreamUnreachable => "The API behind this gateway could not be reached.".into(),
        Refusal::UpstreamInvalid => "The API behind this gateway gave an answer that is not valid HTTP.".into(),
        Refusal::UpstreamUnavailable => "The API behind this gateway is not available. Try again shortly.".into(),
        Refusal::UpstreamTimeout => "The API behind this gateway did not answer in time.".into(),
    }
}

/// `WWW-Authenticate` (RFC 6750 section 3). A request without any credential gets no error code.
fn challenge(refusal: &Refusal) -> Option<HeaderValue> {
    let code = refusal.code();
    let error = match refusal {
        Refusal::KeyMissing => None,
        Refusal::KeyAmbiguous => Some("error=\"invalid_request\"".to_owned()),
        Refusal::PermissionDenied(name) => Some(format!("error=\"insufficient_scope\", scope=\"{name}\"")),
        _ if code.status() == http::StatusCode::UNAUTHORIZED => {
            Some(format!("error=\"invalid_token\", error_description=\"{}\"", code.title()))
        }
        _ => return None,
    };
    let text = match error {
        None => "Bearer realm=\"octroi\"".to_owned(),
        Some(error) => format!("Bearer realm=\"octroi\", {error}"),
    };
    HeaderValue::from_str(&text).ok()
}

/// The limit fields, made before the upstream is asked.
pub struct LimitFields([Option<(HeaderName, HeaderValue)>; 5]);

impl LimitFields {
    /// An upstream's own fields of the same name stay.
    pub fn add_to(self, headers: &mut HeaderMap) {
        for (name, value) in self.0.into_iter().flatten() {
            headers.append(name, value);
        }
    }
}

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

pub fn limit_fields(charged: &Charged, wanted: LimitHeaders, texts: &Texts) -> LimitFields {
    let mut fields = LimitFields([const { None }; 5]);
    let [policy, limit, legacy @ ..] = &mut fields.0;
    if wants_ietf(wanted) {
        *policy = texts.value(|text| charged.write_policy(text)).map(|value| (POLICY, value));
        *limit = texts.value(|text| charged.write_limit(text)).map(|value| (LIMIT, value));
    }
    if wants_legacy(wanted)
        && let Some(tightest) = charged.tightest()
    {
        let numbers = [(LEGACY_LIMIT, tightest.quota), (LEGACY_REMAINING, tightest.remaining), (LEGACY_RESET, tightest.more_in)];
        *legacy = numbers.map(|(name, number)| Some((name, HeaderValue::from(number))));
    }
    fields
}
