//! By which door a request came in, and what that alone permits.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Uri, header, request};

use super::problem::{Code, Problem};
use super::{Admin, fields};
use crate::model::operator::TokenInvalid;
use crate::model::{Actor, Authority, Moment, Operator, OperatorId, Origin, Right, Rights, SecretHash, Timestamp};
use crate::usage::LastUse;

/// Set by the listener on every request before the router sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// The Unix socket: `user` was named by the kernel and is root or the gateway's own user. Holds every right.
    Socket { user: String },
    /// The TCP listener: on a loopback address, or encrypted.
    Tcp { peer: SocketAddr },
    /// The telemetry listener, which leads nowhere but to probes and metrics.
    Telemetry,
}

/// Who makes a request: known once [`guard`] has let it through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    pub actor: Actor,
    pub authority: Authority,
    /// `None` over the socket.
    pub address: Option<IpAddr>,
}

impl Requester {
    /// Whose token it is; `None` over the socket.
    pub fn operator(&self) -> Option<OperatorId> {
        match self.authority {
            Authority::Everything => None,
            Authority::Token { operator, .. } => Some(operator),
        }
    }

    /// What is noted of a token that is used now.
    fn token_use(&self, at: Timestamp) -> Option<(OperatorId, LastUse)> {
        self.operator().zip(self.address).map(|(operator, from)| (operator, LastUse { at, from, value: None }))
    }

    /// Where a change by this requester comes from.
    pub fn origin(self, reason: Option<String>) -> Origin {
        Origin { actor: self.actor, address: self.address, authority: self.authority, reason }
    }
}

impl<S: Sync> FromRequestParts<S> for Requester {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Requester, Problem> {
        parts.extensions.get().cloned().ok_or_else(token_missing)
    }
}

/// Lets a request through to the handlers, or turns it away: below `/v1` only somebody who is known passes. A request of which the
/// door is not known is treated as one from outside.
pub async fn guard(State(admin): State<Arc<Admin>>, mut request: Request, next: Next) -> Response {
    let now = admin.clock.now();
    let response = match requester(&admin, &request, now) {
        Ok(requester) => {
            let mut used = admin.doorkeeper.used(requester.as_ref().and_then(|requester| requester.token_use(now.wall)));
            if let Some(requester) = requester {
                request.extensions_mut().insert(requester);
            }
            let response = next.run(request).await;
            if matches!(ended(&response), Some(Code::RightMissing | Code::TokenInvalid)) {
                used.refused();
            }
            response
        }
        Err(problem) => problem.into_response(),
    };
    admin.doorkeeper.count(ended(&response));
    response
}

/// The code of the problem that a request ended in, if it did.
fn ended(response: &Response) -> Option<Code> {
    response.extensions().get::<Problem>().map(|problem| problem.code)
}

fn requester(admin: &Admin, request: &Request, now: Moment) -> Result<Option<Requester>, Problem> {
    let peer = match request.extensions().get::<Door>() {
        Some(Door::Telemetry) => return Ok(None),
        Some(Door::Socket { user }) => {
            let actor = Actor(format!("socket:{user}"));
            return Ok(Some(Requester { actor, authority: Authority::Everything, address: None }));
        }
        Some(Door::Tcp { peer }) => Some(peer.ip()),
        None => None,
    };
    if !asks_for_this_machine(request.uri(), request.headers(), &admin.hosts) {
        let detail = "the admin listener answers to localhost, 127.0.0.1, [::1] and the names in its setting admin.hosts; use one of these in the URL";
        return Err(Problem::new(Code::HostDenied, detail));
    }
    if !is_guarded(request.uri().path()) {
        return Ok(None);
    }
    let operator = operator(admin, request.headers(), now.wall).map_err(|problem| match peer {
        Some(peer) => admin.doorkeeper.refusal(problem, peer, now),
        None => problem,
    })?;
    let actor = Actor(format!("operator:{}", operator.name));
    let authority = Authority::Token { operator: operator.id, hash: operator.hash };
    Ok(Some(Requester { actor, authority, address: peer }))
}

fn is_guarded(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

/// Whose token this is, if it is worth anything now. Found by its SHA-256: how long that takes says nothing about a token that is
/// nearly right.
fn operator(admin: &Admin, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Operator>, Problem> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let token = match (fields.next(), fields.next()) {
        (None, _) => return Err(token_missing()),
        (Some(field), None) => bearer(field.as_bytes()),
        (Some(_), Some(_)) => None,
    };
    let hash = token.and_then(SecretHash::of_presented).ok_or(TokenInvalid::Unknown)?;
    Ok(admin.registry.bearer(&hash, now)?)
}

/// The token after the scheme (RFC 6750 section 2.1; the scheme's case does not matter, RFC 9110 section 11.1).
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

fn token_missing() -> Problem {
    let detail =
        "over TCP this needs an operator's token: Authorization: Bearer …; `octroi operator create` on the gateway's machine makes one";
    Problem::new(Code::TokenMissing, detail)
}

/// What stands before an endpoint.
#[derive(Clone)]
pub struct Barrier {
    pub admin: Arc<Admin>,
    /// `None`: it opens to everybody who is known.
    pub right: Option<Right>,
}

/// Somebody who was let through to an endpoint. Whether they still would be can be asked at any time.
#[derive(Clone)]
pub struct Pass {
    authority: Authority,
    barrier: Barrier,
}

impl Pass {
    /// What its holder may do now, if that still suffices for the endpoint.
    pub fn rights(&self) -> Result<Rights, Problem> {
        let Barrier { admin, right } = &self.barrier;
        let rights = admin.registry.rights(&self.authority, admin.clock.now().wall)?;
        match right.filter(|right| !rights.allow(*right)) {
            Some(missing) => Err(Problem::right_missing(missing, "this")),
            None => Ok(rights),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Pass {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Pass, Problem> {
        parts.extensions.get().cloned().ok_or_else(token_missing)
    }
}

/// Lets who holds the right through to the endpoint behind, with a body that has come whole. A body can be long in coming, so they are
/// looked at again once it is there.
pub async fn permit(State(barrier): State<Barrier>, who: Requester, request: Request, next: Next) -> Result<Response, Problem> {
    let within = barrier.admin.body_within;
    let pass = Pass { authority: who.authority, barrier };
    pass.rights()?;
    let mut request = whole(request, within).await?;
    pass.rights()?;
    request.extensions_mut().insert(pass);
    Ok(next.run(request).await)
}

async fn whole(request: Request, within: Duration) -> Result<Request, Problem> {
    let (head, body) = request.into_parts();
    let body = Bytes::from_request(Request::from_parts(head.clone(), body), &());
    let late = |_| Problem::new(Code::BodyTimeout, format!("the body was not here whole after {} s", within.as_secs()));
    let body = tokio::time::timeout(within, body).await.map_err(late)?.map_err(fields::unread)?;
    Ok(Request::from_parts(head, Body::from(body)))
}

/// Against DNS rebinding: a page whose own name was made to resolve to this machine still sends that name as Host. `hosts` are
/// the names that the settings add to those of the loopback interface.
fn asks_for_this_machine(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> bool {
    let mut fields = headers.get_all(header::HOST).iter();
    let single = match (fields.next(), fields.next()) {
        (Some(host), None) => host.to_str().is_ok_and(|host| is_own_name(host, hosts)),
        _ => false,
    };
    single && uri.authority().is_none_or(|authority| is_own_name(authority.as_str(), hosts))
}

fn is_own_name(authority: &str, hosts: &[String]) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    };
    let loopback = ["localhost", "127.0.0.1", "[::1]"].into_iter();
    loopback.chain(hosts.iter().map(String::as_str)).any(|own| name.eq_ignore_ascii_case(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn answered_to(target: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append("host", HeaderValue::from_str(host).unwrap());
        }
        asks_for_this_machine(&target.parse().unwrap(), &headers, &["admin.example.org".to_owned(), "[fd00::7]".to_owned()])
    }

    #[test]
    fn only_loopback_names_and_those_of_the_settings_are_answered_to() {
        for host in
            ["localhost", "LocalHost:8090", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8090", "Admin.example.org:8443", "[fd00::7]:1"]
        {
            assert!(answered_to("/livez", &[host]), "{host}");
        }
        let foreign = [
            "",
            "evil.example",
            "localhost.evil.example",
            "admin.example.org.evil.example",
            "example.org",
            "127.0.0.1.evil.example:8090",
            "evil@localhost",
            "localhost:80:90",
            "127.0.0.2",
            "::1",
            "localhost:",
        ];
        for host in foreign {
            assert!(!answered_to("/livez", &[host]), "{host}");
        }
        assert!(!answered_to("/livez", &[]));
        assert!(!answered_to("/livez", &["localhost", "localhost"]));
        assert!(!answered_to("http://evil.example/livez", &["localhost"]));
    }

    #[test]
    fn everything_below_v1_is_guarded_and_nothing_else() {
        for guarded in ["/v1", "/v1/", "/v1/keys", "/v1/nothing"] {
            assert!(is_guarded(guarded), "{guarded}");
        }
        for open in ["/", "/livez", "/readyz", "/metrics", "/v10", "/V1/keys"] {
            assert!(!is_guarded(open), "{open}");
        }
    }

    #[test]
    fn a_token_follows_its_scheme_and_one_space() {
        let cases: [(&str, Option<&str>); 6] =
            [("Bearer t", Some("t")), ("bEARER t", Some("t")), ("Bearer", None), ("Basic t", None), ("", None), ("Bearer  t", Some(" t"))];
        for (field, token) in cases {
            assert_eq!(bearer(field.as_bytes()), token.map(str::as_bytes), "{field}");
        }
    }
}
