//! What every answer of the admin plane carries, and the answers for places and methods that do not exist.

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, Uri, header};

use super::problem::{Code, Problem};
use super::revision::not_modified;
use crate::model::RequestId;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives each request its id, which handlers find among its extensions, writes problems out, and forbids caches to keep what may hold a key's value. There are
/// no CORS headers, on purpose: no page of another site has any business here.
pub async fn complete(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(X_REQUEST_ID).and_then(RequestId::from_client).unwrap_or_else(new_id);
    request.extensions_mut().insert(id.clone());
    let asked = (request.method() == Method::GET).then(|| request.headers().clone());
    let mut response = next.run(request).await;
    if let Some(asked) = asked {
        response = not_modified(&asked, response);
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        write_problem(&problem, &id, &mut response);
    }
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.header().clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn write_problem(problem: &Problem, id: &RequestId, response: &mut Response) {
    *response.body_mut() = Json(problem.body(id.as_str())).into_response().into_body();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    match problem.code {
        Code::TokenMissing => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"octroi admin\""));
        }
        Code::TokenInvalid => {
            let value = HeaderValue::from_static("Bearer realm=\"octroi admin\", error=\"invalid_token\"");
            headers.insert(header::WWW_AUTHENTICATE, value);
        }
        Code::TooManyFailures => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(problem.retry_after.unwrap_or(1)));
        }
        // What is left of the body may still come, and is no next request.
        Code::BodyTimeout => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Code::StoreUnavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        Code::HostDenied
        | Code::RightMissing
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::Conflict
        | Code::PreconditionFailed
        | Code::IdempotencyKeyReused
        | Code::Invalid
        | Code::BodyTooLarge
        | Code::InternalError => {}
    }
}

/// Names a request in its answer; nothing rests on its being unpredictable.
fn new_id() -> RequestId {
    let mut raw = [0u8; 16];
    match getrandom::fill(&mut raw) {
        Ok(()) => RequestId::from_u128(u128::from_be_bytes(raw)),
        Err(_) => RequestId::from_u128(0),
    }
}

pub async fn nothing_there(uri: Uri) -> Problem {
    Problem::not_found(format!("the admin API has nothing at {}", uri.path()))
}

/// The `Allow` field is added by the router, which knows the methods.
pub async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("{} does not take {method}; the Allow field names what it takes", uri.path()))
}

/// 204: done, and nothing is left to show.
pub fn nothing_left() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::NO_CONTENT;
    response
}
