//! A POST that is sent again because its answer was lost: done once, answered twice.
//!
//! As the IETF's draft on the `Idempotency-Key` field says it: the client names its request; a repeat by the same requester with the same
//! method, target and body gets the first one's answer, without the value that it made. What is remembered is in memory, and a restart forgets it.
//! Only what was done is remembered: a request that was refused may be corrected and sent again under its name. What only asks
//! (verify, explain, backup) does not come by here: its answer holds for the moment in which it was given.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::door::Requester;
use super::problem::{Code, Problem};
use super::{Admin, fields};
use crate::model::Tick;

/// How long an answer is remembered.
const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// The most answers that are remembered, and the most bytes of them; the oldest go first.
const MAX_KEPT: usize = 10_000;
const MAX_BYTES: usize = 32 << 20;
/// Of a longer answer it is remembered only that it was given. A thousand keys, as one request can make them, fit.
const MAX_ANSWER: usize = 4 << 20;
/// The longest name of a request, in characters.
const MAX_NAME: usize = 255;

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A SHA-256: of a requester and the name they gave a request, or of the request.
type Print = [u8; 32];

/// The requests that were done, or are being done, under a name. A handle; clones share one memory.
#[derive(Clone, Default)]
pub struct Repeats(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    named: HashMap<Print, Named>,
    /// Those that are done, oldest first.
    done: VecDeque<(Tick, Print)>,
    /// Of the answers in `named`.
    bytes: usize,
}

struct Named {
    request: Print,
    /// `None` while it is being done.
    answer: Option<Kept>,
}

/// What a repeat is answered with.
#[derive(Clone)]
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    /// `None` where it was too long, or nothing from which a value could be taken out.
    body: Option<Bytes>,
}

/// Runs a POST once for each name that its requester gives.
pub async fn once(State(admin): State<Arc<Admin>>, who: Requester, request: Request, next: Next) -> Response {
    let answered = match name_of(request.headers(), &owner(&who)) {
        Ok(None) => return next.run(request).await,
        Ok(Some(name)) => run_named(&admin, name, request, next).await,
        Err(problem) => Err(problem),
    };
    answered.unwrap_or_else(IntoResponse::into_response)
}

async fn run_named(admin: &Admin, name: Print, request: Request, next: Next) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let body = Bytes::from_request(Request::from_parts(head.clone(), body), &()).await.map_err(fields::unread)?;
    let print = digest(&[head.method.as_str().as_bytes(), head.uri.to_string().as_bytes(), &body]);
    let Some(turn) = admin.repeats.begin(name, print, admin.clock.now().tick)? else {
        return admin.repeats.replay(&name);
    };
    let (request, clock) = (Request::from_parts(head, Body::from(body)), admin.clock.clone());
    // A task of its own: the change is made even when its client is gone, and must not be made again then.
    let work = tokio::spawn(async move {
        let response = next.run(request).await;
        turn.end(response, clock.now().tick).await
    });
    work.await.map_err(|_| Problem::new(Code::InternalError, "the request failed inside the gateway; its log says why"))
}

/// Whose names they are: an operator's who is gone are not those of another one with the same name.
fn owner(who: &Requester) -> String {
    who.operator().map_or_else(|| who.actor.0.clone(), |operator| operator.to_string())
}

/// Who names the request, and how. With or without the quotes of the draft's syntax it is the same name.
fn name_of(headers: &HeaderMap, owner: &str) -> Result<Option<Print>, Problem> {
    let mut fields = headers.get_all(IDEMPOTENCY_KEY).iter();
    let wrong = |message: String| Err(Problem::invalid_at("idempotency-key:", message));
    let field = match (fields.next(), fields.next()) {
        (None, _) => return Ok(None),
        (Some(field), None) => field.to_str().unwrap_or_default().trim(),
        (Some(_), Some(_)) => return wrong("is given twice".into()),
    };
    if !(1..=MAX_NAME).contains(&field.len()) || !field.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong(format!("must be 1 to {MAX_NAME} printable ASCII characters without white space, for example a UUID"));
    }
    let unquoted = field.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(field);
    Ok(Some(digest(&[owner.as_bytes(), unquoted.as_bytes()])))
}

fn digest(parts: &[&[u8]]) -> Print {
    let mut sum = Sha256::new();
    for part in parts {
        sum.update((part.len() as u64).to_be_bytes());
        sum.update(part);
    }
    sum.finalize().into()
}

impl Repeats {
    /// The turn to do it, or `None` where it was done already.
    fn begin(&self, name: Print, request: Print, now: Tick) -> Result<Option<Turn>, Problem> {
        let mut memory = self.0.lock();
        memory.forget_old(now);
        match memory.named.get(&name) {
            Some(named) if named.request != request => {
                let detail = "this Idempotency-Key was used for another request; give each request a key of its own";
                Err(Problem::new(Code::IdempotencyKeyReused, detail))
            }
            Some(Named { answer: None, .. }) => {
                Err(Problem::new(Code::Conflict, "the request with this Idempotency-Key is still being done"))
            }
            Some(Named { answer: Some(_), .. }) => Ok(None),
            None => {
                memory.named.insert(name, Named { request, answer: None });
                Ok(Some(Turn { repeats: self.clone(), name }))
            }
        }
    }

    fn replay(&self, name: &Print) -> Result<Response, Problem> {
        let kept = self.0.lock().named.get(name).and_then(|named| named.answer.clone());
        let Some(Kept { status, headers, body: Some(body) }) = kept else {
            return Err(Problem::new(Code::Conflict, "the request with this Idempotency-Key was done; its answer is not kept"));
        };
        let mut response = (status, headers, body).into_response();
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        Ok(response)
    }
}

/// Somebody is doing the request. Dropped without an end, as a panic does, it gives the name free.
struct Turn {
    repeats: Repeats,
    name: Print,
}

impl Turn {
    /// Remembers what was done. What was refused is forgotten, and so is what is still being made.
    async fn end(self, response: Response, now: Tick) -> Response {
        if !response.status().is_success() || response.body().size_hint().exact().is_none() {
            return response;
        }
        let (head, body) = response.into_parts();
        // What is done once answers with a body that stands in memory whole and cannot fail.
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let names = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];
        let headers = names.into_iter().filter_map(|name| head.headers.get(&name).map(|value| (name.clone(), value.clone()))).collect();
        self.repeats.0.lock().keep(self.name, Kept { status: head.status, headers, body: without_values(&body) }, now);
        Response::from_parts(head, Body::from(body))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut memory = self.repeats.0.lock();
        if memory.named.get(&self.name).is_some_and(|named| named.answer.is_none()) {
            memory.named.remove(&self.name);
        }
    }
}

impl Memory {
    fn keep(&mut self, name: Print, answer: Kept, now: Tick) {
        let Some(named) = self.named.get_mut(&name) else { return };
        self.bytes += answer.size();
        named.answer = Some(answer);
        self.done.push_back((now, name));
        while self.done.len() > MAX_KEPT || self.bytes > MAX_BYTES {
            self.forget_oldest();
        }
    }

    fn forget_old(&mut self, now: Tick) {
        while self.done.front().is_some_and(|(at, _)| now.since(*at) >= KEPT_FOR) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.done.pop_front().and_then(|(_, name)| self.named.remove(&name));
        self.bytes -= oldest.and_then(|named| named.answer).map_or(0, |answer| answer.size());
    }
}

impl Kept {
    fn size(&self) -> usize {
        self.body.as_ref().map_or(0, Bytes::len)
    }
}

/// The answer with `null` in every place of a value.
fn without_values(body: &Bytes) -> Option<Bytes> {
    if body.is_empty() || body.len() > MAX_ANSWER {
        return body.is_empty().then(Bytes::new);
    }
    let mut json = serde_json::from_slice(body).ok()?;
    take_values_out(&mut json);
    serde_json::to_vec(&json).ok().map(Bytes::from)
}

fn take_values_out(json: &mut Value) {
    match json {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| match name.as_str() {
            "secret" => *value = Value::Null,
            _ => take_values_out(value),
        }),
        Value::Array(entries) => entries.iter_mut().for_each(take_values_out),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::model::Timestamp;

    fn named(field: &[u8], owner: &str) -> Option<Print> {
        let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, HeaderValue::from_bytes(field).unwrap())]);
        name_of(&headers, owner).ok().flatten()
    }

    fn kept(length: usize) -> Kept {
        Kept { status: StatusCode::OK, headers: HeaderMap::new(), body: Some(Bytes::from(vec![b' '; length])) }
    }

    #[test]
    fn a_name_is_printable_and_belongs_to_its_requester() {
        assert_eq!(named(b"\"a-1\"", "x"), named(b"a-1", "x"));
        assert_ne!(named(b"a-1", "x"), named(b"a-1", "y"));
        assert!(named("a".repeat(MAX_NAME).as_bytes(), "x").is_some());
        for bad in [&b""[..], b" ", b"a b", b"a\tb", "é".as_bytes(), "a".repeat(MAX_NAME + 1).as_bytes()] {
            assert!(named(bad, "x").is_none(), "{bad:?}");
        }
    }

    #[test]
    fn no_value_is_remembered() {
        let body = Bytes::from(r#"{"id":"k","secret":"pk_1","data":[{"secret":"pk_2","hint":"h"}]}"#);
        let kept: Value = serde_json::from_slice(&without_values(&body).unwrap()).unwrap();
        assert_eq!(kept, serde_json::json!({"id": "k", "secret": null, "data": [{"secret": null, "hint": "h"}]}));
        assert_eq!(without_values(&Bytes::new()), Some(Bytes::new()));
        assert!(without_values(&Bytes::from("pk_1")).is_none() && without_values(&Bytes::from(vec![b' '; MAX_ANSWER + 1])).is_none());
    }

    #[test]
    fn memory_is_bounded_in_time_in_number_and_in_bytes() {
        let (repeats, clock) = (Repeats::default(), Clock::manual(Timestamp(0)));
        let now = || clock.now().tick;
        let done = |n: u64, length| {
            let turn = repeats.begin(digest(&[&n.to_be_bytes()]), [0; 32], now()).ok().flatten().unwrap();
            repeats.0.lock().keep(turn.name, kept(length), now());
        };
        let count = || repeats.0.lock().named.len();
        (0..MAX_KEPT as u64 + 5).for_each(|n| done(n, 10));
        assert_eq!((count(), repeats.0.lock().bytes), (MAX_KEPT, 10 * MAX_KEPT));
        (20_000..20_040).for_each(|n| done(n, MAX_ANSWER));
        assert!(repeats.0.lock().bytes <= MAX_BYTES && count() == MAX_BYTES / MAX_ANSWER, "{}", count());
        clock.advance(KEPT_FOR);
        done(1, 1);
        assert_eq!((count(), repeats.0.lock().bytes), (1, 1));
    }

    #[test]
    fn who_does_not_finish_gives_the_name_free() {
        let repeats = Repeats::default();
        let now = Clock::manual(Timestamp(0)).now().tick;
        let turn = repeats.begin([1; 32], [2; 32], now).unwrap();
        assert_eq!(repeats.begin([1; 32], [2; 32], now).err().unwrap().code, Code::Conflict);
        assert_eq!(repeats.begin([1; 32], [3; 32], now).err().unwrap().code, Code::IdempotencyKeyReused);
        drop(turn);
        assert!(repeats.begin([1; 32], [3; 32], now).unwrap().is_some());
    }
}
