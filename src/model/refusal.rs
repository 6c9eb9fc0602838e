//! Why a call was turned away. [`Code`] is one word with four readers: the answer's body, the metric label,
//! the access log and the usage sums.

use http::{Method, StatusCode};

use super::permission::PermissionName;
use super::tier::Window;

macro_rules! codes {
    ($($variant:ident $text:literal $status:literal $title:literal,)*) => {
        /// The published codes, in order of precedence as far as one request can meet several.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($variant,)* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            pub fn status(self) -> StatusCode {
                let status = match self { $(Code::$variant => $status,)* };
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// A short English sentence, the same for every occurrence (RFC 9457 section 3.1.4).
            pub fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }
        }
    };
}

codes! {
    BadRequest "bad_request" 400 "The request is malformed or ambiguous",
    RequestTimeout "request_timeout" 408 "The request did not arrive in time",
    UriTooLong "uri_too_long" 414 "The request target is too long",
    HeadersTooLarge "headers_too_large" 431 "The request's header section is too large",
    RouteNotFound "route_not_found" 404 "No route leads there",
    MethodNotAllowed "method_not_allowed" 405 "The route does not take this method",
    ExpectationFailed "expectation_failed" 417 "The expectation cannot be met",
    BodyTooLarge "body_too_large" 413 "The request's body is too large",
    TlsRequired "tls_required" 403 "This gateway is reached over TLS only",
    TooManyFailures "too_many_failures" 429 "Too many attempts without a valid key",
    KeyAmbiguous "key_ambiguous" 400 "More than one API key was sent",
    KeyMissing "key_missing" 401 "An API key is required",
    KeyMalformed "key_malformed" 401 "The API key is malformed",
    KeyUnknown "key_unknown" 401 "The API key is not known",
    KeyReplaced "key_replaced" 401 "The API key has been replaced",
    KeyRevoked "key_revoked" 401 "The API key has been revoked",
    KeyInactive "key_inactive" 401 "The API key is inactive",
    KeyExpired "key_expired" 401 "The API key has expired",
    MachineDisabled "machine_disabled" 401 "The machine is disabled",
    AddressDenied "address_denied" 403 "The API key may not be used from this address",
    PermissionDenied "permission_denied" 403 "A permission is missing",
    OrganizationDenied "organization_denied" 403 "The API key is not valid for this organization",
    QuotaExceeded "quota_exceeded" 429 "The quota is used up",
    RateLimited "rate_limited" 429 "Too many requests",
    Overloaded "overloaded" 503 "The gateway is overloaded",
    Draining "draining" 503 "The gateway is shutting down",
    StateStale "state_stale" 503 "The gateway does not yet know its keys",
    InternalError "internal_error" 500 "The gateway failed",
    UpstreamUnreachable "upstream_unreachable" 502 "The API behind the gateway cannot be reached",
    UpstreamInvalid "upstream_invalid" 502 "The API behind the gateway gave no valid answer",
    UpstreamUnavailable "upstream_unavailable" 503 "The API behind the gateway is not available",
    UpstreamTimeout "upstream_timeout" 504 "The API behind the gateway did not answer in time",
}

impl Code {
    /// Why a value that was let in can stop counting while its call is still open.
    pub const OF_ENDED_VALUES: [Code; 6] =
        [Code::KeyUnknown, Code::KeyReplaced, Code::KeyRevoked, Code::KeyInactive, Code::KeyExpired, Code::MachineDisabled];
}

/// A window that a call found used up, for the answer's `violated-policies`.
pub type Violated = Vec<Window>;

/// One refusal with what its answer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What was wrong with the request, in words that help its sender.
    BadRequest(&'static str),
    RequestTimeout,
    UriTooLong,
    HeadersTooLarge,
    RouteNotFound,
    /// The methods that would be taken.
    MethodNotAllowed(Vec<Method>),
    ExpectationFailed,
    BodyTooLarge,
    TlsRequired,
    TooManyFailures {
        retry_after: u64,
    },
    KeyAmbiguous,
    KeyMissing,
    KeyMalformed,
    KeyUnknown,
    KeyReplaced,
    KeyRevoked,
    KeyInactive,
    KeyExpired,
    MachineDisabled,
    AddressDenied,
    PermissionDenied(PermissionName),
    OrganizationDenied,
    /// A calendar quota (or it and others) is used up. `retry_after` is in whole seconds, at least 1, and true:
    /// who waits that long, sharing the bucket with nobody, is let in.
    QuotaExceeded {
        retry_after: u64,
        violated: Violated,
    },
    RateLimited {
        retry_after: u64,
        violated: Violated,
    },
    Overloaded,
    Draining,
    StateStale,
    InternalError,
    UpstreamUnreachable,
    UpstreamInvalid,
    UpstreamUnavailable,
    UpstreamTimeout,
}

impl Refusal {
    pub fn code(&self) -> Code {
        match self {
            Refusal::BadRequest(_) => Code::BadRequest,
            Refusal::RequestTimeout => Code::RequestTimeout,
            Refusal::UriTooLong => Code::UriTooLong,
            Refusal::HeadersTooLarge => Code::HeadersTooLarge,
            Refusal::RouteNotFound => Code::RouteNotFound,
            Refusal::MethodNotAllowed(_) => Code::MethodNotAllowed,
            Refusal::ExpectationFailed => Code::ExpectationFailed,
            Refusal::BodyTooLarge => Code::BodyTooLarge,
            Refusal::TlsRequired => Code::TlsRequired,
            Refusal::TooManyFailures { .. } => Code::TooManyFailures,
            Refusal::KeyAmbiguous => Code::KeyAmbiguous,
            Refusal::KeyMissing => Code::KeyMissing,
            Refusal::KeyMalformed => Code::KeyMalformed,
            Refusal::KeyUnknown => Code::KeyUnknown,
            Refusal::KeyReplaced => Code::KeyReplaced,
            Refusal::KeyRevoked => Code::KeyRevoked,
            Refusal::KeyInactive => Code::KeyInactive,
            Refusal::KeyExpired => Code::KeyExpired,
            Refusal::MachineDisabled => Code::MachineDisabled,
            Refusal::AddressDenied => Code::AddressDenied,
            Refusal::PermissionDenied(_) => Code::PermissionDenied,
            Refusal::OrganizationDenied => Code::OrganizationDenied,
            Refusal::QuotaExceeded { .. } => Code::QuotaExceeded,
            Refusal::RateLimited { .. } => Code::RateLimited,
            Refusal::Overloaded => Code::Overloaded,
            Refusal::Draining => Code::Draining,
            Refusal::StateStale => Code::StateStale,
            Refusal::InternalError => Code::InternalError,
            Refusal::UpstreamUnreachable => Code::UpstreamUnreachable,
            Refusal::UpstreamInvalid => Code::UpstreamInvalid,
            Refusal::UpstreamUnavailable => Code::UpstreamUnavailable,
            Refusal::UpstreamTimeout => Code::UpstreamTimeout,
        }
    }

    /// The windows that turned the call away.
    pub fn violated(&self) -> &[Window] {
        match self {
            Refusal::QuotaExceeded { violated, .. } | Refusal::RateLimited { violated, .. } => violated,
            _ => &[],
        }
    }

    /// Whole seconds after which another try makes sense, where that is known.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Refusal::TooManyFailures { retry_after }
            | Refusal::QuotaExceeded { retry_after, .. }
            | Refusal::RateLimited { retry_after, .. } => Some(*retry_after),
            Refusal::Overloaded | Refusal::Draining | Refusal::StateStale => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_one_lower_case_word_with_an_error_status() {
        for code in Code::ALL {
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code:?}");
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
            assert_eq!(Code::ALL.iter().filter(|c| c.as_str() == code.as_str()).count(), 1, "{code:?}");
        }
    }
}
