//! What goes wrong on the admin plane, in the shape of RFC 9457, the same as the data plane's refusals.

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::wire::{FieldError, ProblemBody};
use crate::model::operator::TokenInvalid;
use crate::model::{ChangeError, Right};
use crate::store::StoreError;

/// The published codes of the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    TokenMissing,
    TokenInvalid,
    /// The client's address presented too many wrong tokens.
    TooManyFailures,
    /// The Host header names none of the listener's own names: a page on another site may be behind it.
    HostDenied,
    /// The operator lacks a right.
    RightMissing,
    NotFound,
    MethodNotAllowed,
    Conflict,
    /// `If-Match` names another revision than the one that is there.
    PreconditionFailed,
    /// The `Idempotency-Key` named another request before.
    IdempotencyKeyReused,
    Invalid,
    /// The rest of a body did not come.
    BodyTimeout,
    /// The body is longer than [`super::MAX_BODY`].
    BodyTooLarge,
    StoreUnavailable,
    InternalError,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        self.facts().0
    }

    pub fn status(self) -> StatusCode {
        self.facts().1
    }

    /// A short sentence, the same for every occurrence.
    pub fn title(self) -> &'static str {
        self.facts().2
    }

    fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Code::TokenMissing => ("token_missing", StatusCode::UNAUTHORIZED, "An operator's token is required"),
            Code::TokenInvalid => ("token_invalid", StatusCode::UNAUTHORIZED, "The token is not valid"),
            Code::TooManyFailures => ("too_many_failures", StatusCode::TOO_MANY_REQUESTS, "Too many attempts without a valid token"),
            Code::HostDenied => ("host_denied", StatusCode::FORBIDDEN, "The admin listener does not answer to this name"),
            Code::RightMissing => ("right_missing", StatusCode::FORBIDDEN, "The operator lacks a right"),
            Code::NotFound => ("not_found", StatusCode::NOT_FOUND, "There is nothing here"),
            Code::MethodNotAllowed => ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, "This method is not taken here"),
            Code::Conflict => ("conflict", StatusCode::CONFLICT, "The change conflicts with what is there"),
            Code::PreconditionFailed => ("precondition_failed", StatusCode::PRECONDITION_FAILED, "It was changed since"),
            Code::IdempotencyKeyReused => {
                ("idempotency_key_reused", StatusCode::UNPROCESSABLE_ENTITY, "This Idempotency-Key names another request")
            }
            Code::Invalid => ("invalid", StatusCode::BAD_REQUEST, "The request is not valid"),
            Code::BodyTimeout => ("body_timeout", StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time"),
            Code::BodyTooLarge => ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The request's body is too large"),
            Code::StoreUnavailable => ("store_unavailable", StatusCode::SERVICE_UNAVAILABLE, "The store cannot be used now"),
            Code::InternalError => ("internal_error", StatusCode::INTERNAL_SERVER_ERROR, "The gateway failed"),
        }
    }
}

/// One request that was not served, and why. Becomes an answer's body in [`super::answer::complete`], which knows the
/// request's id.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub code: Code,
    /// What happened this time, for a person.
    pub detail: String,
    /// Each thing that is not valid, with the place it stands at.
    pub errors: Vec<FieldError>,
    /// With the code `right_missing`: the right.
    pub right: Option<Right>,
    /// With the code `too_many_failures`: after how many seconds another attempt is heard.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem { code, detail: detail.into(), errors: Vec::new(), right: None, retry_after: None }
    }

    /// `needed_for` is what was asked, as the beginning of a sentence.
    pub fn right_missing(right: Right, needed_for: &str) -> Problem {
        let detail = format!("{needed_for} needs the right {right}, which this operator does not hold");
        Problem { right: Some(right), ..Problem::new(Code::RightMissing, detail) }
    }

    /// `seconds` until another attempt is heard, at least 1.
    pub fn too_many_failures(seconds: u64) -> Problem {
        let detail =
            format!("too many tokens from this address were not valid; a valid one passes at once, another attempt in {seconds} s");
        Problem { retry_after: Some(seconds), ..Problem::new(Code::TooManyFailures, detail) }
    }

    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(Code::NotFound, detail)
    }

    pub fn store_unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(Code::StoreUnavailable, detail)
    }

    /// `errors` must hold at least one.
    pub fn invalid(errors: Vec<FieldError>) -> Problem {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", place(&one.pointer), one.message),
            many => format!("{} things are not valid", many.len()),
        };
        Problem { errors, ..Problem::new(Code::Invalid, detail) }
    }

    /// One thing is not valid, at `pointer` (RFC 6901; empty = the whole body; `?name` = a query parameter, `name:` = a header field).
    pub fn invalid_at(pointer: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem::invalid(vec![FieldError { pointer: pointer.into(), message: message.into() }])
    }

    /// The JSON body (RFC 9457 section 3).
    pub fn body(&self, request_id: &str) -> ProblemBody {
        ProblemBody {
            kind: format!("urn:octroi:{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            detail: self.detail.clone(),
            code: self.code.as_str().to_owned(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
            right: self.right.map(|right| right.to_string()),
        }
    }
}

fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "body" } else { pointer.trim_end_matches(':') }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Problem {
        let code = match &error {
            ChangeError::NoSuchMachine(_) | ChangeError::NoSuchKey(_) | ChangeError::NoSuchOperator(_) => Code::NotFound,
            ChangeError::NameTaken { .. } | ChangeError::OperatorNameTaken { .. } | ChangeError::Revoked(_) => Code::Conflict,
            ChangeError::TokenInvalid(_) => Code::TokenInvalid,
            ChangeError::RightMissing { right, needed_for } => return Problem::right_missing(*right, needed_for),
            ChangeError::Stale { .. } => Code::PreconditionFailed,
            ChangeError::StoreUnavailable(_) => Code::StoreUnavailable,
        };
        Problem::new(code, error.to_string())
    }
}

impl From<TokenInvalid> for Problem {
    fn from(why: TokenInvalid) -> Problem {
        Problem::new(Code::TokenInvalid, why.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        if let StoreError::Refused(why) = error {
            return Problem::new(Code::Conflict, why);
        }
        Problem::store_unavailable(format!("the store cannot be read now: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyId, MachineId};

    #[test]
    fn every_refused_change_has_its_published_code() {
        let (machine, key) = (MachineId::from_u128(1), KeyId::from_u128(2));
        let cases = [
            (ChangeError::NoSuchMachine(machine), "not_found", 404),
            (ChangeError::NoSuchKey(key), "not_found", 404),
            (ChangeError::NameTaken { name: "a".into(), holder: machine }, "conflict", 409),
            (ChangeError::Revoked(key), "conflict", 409),
            (ChangeError::StoreUnavailable("disk full".into()), "store_unavailable", 503),
        ];
        for (error, code, status) in cases {
            let body = Problem::from(error.clone()).body("r1");
            assert_eq!((body.code.as_str(), body.status), (code, status), "{error}");
            assert_eq!((body.kind, body.detail), (format!("urn:octroi:{code}"), error.to_string()));
        }
    }

    #[test]
    fn the_detail_of_a_single_fault_says_all() {
        assert_eq!(Problem::invalid_at("/tier", "no such tier").detail, "/tier: no such tier");
        assert_eq!(Problem::invalid_at("if-match:", "is no tag").detail, "if-match: is no tag");
        assert_eq!(Problem::invalid_at("", "must be an object").detail, "body: must be an object");
    }
}
