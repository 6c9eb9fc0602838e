//! By which door a request came in, and what that alone permits.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Uri, header, request};

use super::problem::{Code, Problem};
use crate::model::{Actor, Origin};

/// Set by the listener on every request before the router sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// The Unix socket: `user` was named by the kernel and is root or the gateway's own user. Holds every right.
    Socket { user: String },
    /// The loopback listener.
    Tcp { peer: SocketAddr },
    /// The telemetry listener, which leads nowhere but to probes and metrics.
    Telemetry,
}

/// Who makes a request that may change things: handlers get one only behind [`guard`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    actor: Actor,
    address: Option<IpAddr>,
}

impl Operator {
    /// Where a change by this operator comes from.
    pub fn origin(self, reason: Option<String>) -> Origin {
        Origin { actor: self.actor, address: self.address, reason }
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Operator, Problem> {
        match parts.extensions.get::<Door>() {
            Some(Door::Socket { user }) => Ok(Operator { actor: Actor(format!("socket:{user}")), address: None }),
            Some(Door::Tcp { .. } | Door::Telemetry) | None => Err(token_problem(&parts.headers)),
        }
    }
}

/// Lets a request through to the handlers, or turns it away. A request of which the door is not known has no rights.
pub async fn guard(request: Request, next: Next) -> Result<Response, Infallible> {
    let judged = match request.extensions().get::<Door>() {
        Some(Door::Socket { .. } | Door::Telemetry) => Ok(()),
        Some(Door::Tcp { .. }) | None => judge_tcp(request.uri(), request.headers()),
    };
    Ok(match judged {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    })
}

fn judge_tcp(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    if !asks_for_this_machine(uri, headers) {
        let detail = "the admin listener answers to localhost, 127.0.0.1 and [::1] only; use one of these in the URL";
        return Err(Problem::new(Code::HostDenied, detail));
    }
    let guarded = uri.path() == "/v1" || uri.path().starts_with("/v1/");
    if guarded { Err(token_problem(headers)) } else { Ok(()) }
}

/// There are no operators' tokens yet, so any that is sent is a wrong one.
fn token_problem(headers: &HeaderMap) -> Problem {
    let remedy = "use the admin socket, as the octroi command does";
    if headers.contains_key(header::AUTHORIZATION) {
        Problem::new(Code::TokenInvalid, format!("no operator has this token; {remedy}"))
    } else {
        Problem::new(Code::TokenMissing, format!("over TCP this needs an operator's token; {remedy}"))
    }
}

/// Against DNS rebinding: a page whose own name was made to resolve to 127.0.0.1 still sends that name as Host.
fn asks_for_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let single = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_loopback_name),
        _ => false,
    };
    single && uri.authority().is_none_or(|authority| is_loopback_name(authority.as_str()))
}

fn is_loopback_name(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    };
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn judge(target: &str, fields: &[(&'static str, &str)]) -> Result<(), Code> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        judge_tcp(&target.parse().unwrap(), &headers).map_err(|problem| problem.code)
    }

    #[test]
    fn only_loopback_names_are_answered_to() {
        for host in ["localhost", "LocalHost:8090", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8090"] {
            assert_eq!(judge("/livez", &[("host", host)]), Ok(()), "{host}");
        }
        let foreign = [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8090",
            "evil@localhost",
            "localhost:80:90",
            "127.0.0.2",
            "::1",
            "localhost:",
        ];
        for host in foreign {
            assert_eq!(judge("/livez", &[("host", host)]), Err(Code::HostDenied), "{host}");
        }
        assert_eq!(judge("/livez", &[]), Err(Code::HostDenied));
        assert_eq!(judge("/livez", &[("host", "localhost"), ("host", "localhost")]), Err(Code::HostDenied));
        assert_eq!(judge("http://evil.example/livez", &[("host", "localhost")]), Err(Code::HostDenied));
    }

    #[test]
    fn over_tcp_nothing_below_v1_is_open() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], Result<(), Code>);
        let cases: [Case; 5] = [
            ("/v1/keys", &[("host", "localhost")], Err(Code::TokenMissing)),
            ("/v1", &[("host", "localhost")], Err(Code::TokenMissing)),
            ("/v1/nothing", &[("host", "localhost"), ("authorization", "Bearer x")], Err(Code::TokenInvalid)),
            ("/v1/keys", &[("host", "evil.example"), ("authorization", "Bearer x")], Err(Code::HostDenied)),
            ("/readyz", &[("host", "localhost")], Ok(())),
        ];
        for (target, fields, expected) in cases {
            assert_eq!(judge(target, fields), expected, "{target} {fields:?}");
        }
    }
}
