//! Sending an admitted call to its upstream, and again where that is safe.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::Plane;
use super::body::AnswerBody;
use super::exchange::Exchange;
use super::headers::{self, Told};
use super::pool::{Lease, Pool};
use super::upload::{RequestBody, Upload};
use crate::config::{HostHeader, Upstream};
use crate::gate::Admitted;
use crate::model::{Refusal, Verdict};

/// Sends the call to the upstream of its route and returns the answer as soon as its head is there.
pub async fn send(
    plane: &Plane,
    pass: &Admitted,
    exchange: &mut Exchange,
    mut head: Parts,
    body: Incoming,
) -> Result<Response<AnswerBody>, Refusal> {
    let live = plane.live();
    let route = live.rules.route(pass.route());
    let upstream = &live.settings.upstreams[route.upstream];
    let peer_is_trusted = live.rules.trusts(exchange.call().peer);
    let id = exchange.id().clone();
    let told =
        Told { settings: &live.settings, route, call: exchange.call(), id: &id, ids: &plane.ids, texts: &plane.texts, peer_is_trusted };
    headers::to_upstream(&mut head, &told);

    let upload = exchange.upload();
    let body = RequestBody::new(body, live.settings.connections.body_size, upload.clone(), plane.no_trailers.clone());
    frame(&mut head, &body);
    let host = headers::host_for(&head.headers, &upstream.host);
    let mut attempts = Attempts { plane, upstream, index: route.upstream, host, left: upstream.retries, upload: &upload };
    let sent = plane.now().tick;
    let outcome = attempts.run(Request::from_parts(head, body)).await;
    exchange.waited_for_upstream(plane.now().tick.since(sent));
    if upload.was_left() {
        exchange.ends_as(Verdict::ClientClosed);
    }
    let (response, lease) = outcome?;
    let (mut head, inner) = response.into_parts();
    headers::to_client(&mut head.headers);
    if head.status == StatusCode::NO_CONTENT {
        // A client that believed it would wait for a body that never comes (RFC 9110 section 8.6 forbids the field here).
        head.headers.remove(CONTENT_LENGTH);
    }
    head.version = Version::HTTP_11;
    Ok(Response::from_parts(head, AnswerBody::relay(inner, lease, upload, plane, upstream.timeouts.idle)))
}

/// Says how the body is framed. hyper would drop a GET's body of unknown length silently if nobody did.
fn frame(head: &mut Parts, body: &RequestBody) {
    head.version = Version::HTTP_11;
    if !body.is_empty() && body.exact_len().is_none() {
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The tries at one call.
struct Attempts<'a> {
    plane: &'a Plane,
    upstream: &'a Upstream,
    /// The upstream's place in the settings.
    index: usize,
    host: &'a HostHeader,
    left: u32,
    upload: &'a Upload,
}

/// What one try came to.
enum Failed {
    /// Not a byte of the request was written: another try cannot make it happen twice.
    Unsent(Box<Request<RequestBody>>, Refusal),
    /// The upstream may have acted on it.
    Sent(Refusal),
}

impl Attempts<'_> {
    async fn run(&mut self, mut request: Request<RequestBody>) -> Result<(Response<Incoming>, Lease), Refusal> {
        loop {
            // What may be repeated even after it was written is kept: it has no body, and repeating it changes nothing.
            let again = (self.left > 0 && request.body().is_empty() && is_idempotent(request.method())).then(|| copy(&request));
            let (failed, refusal) = match self.once(request).await {
                Ok(answered) => return Ok(answered),
                Err(Failed::Unsent(request, refusal)) => (Some(*request), refusal),
                Err(Failed::Sent(refusal)) => (again.filter(|_| refusal != Refusal::UpstreamTimeout), refusal),
            };
            match failed.filter(|_| self.left > 0 && self.upload.refusal().is_none()) {
                Some(next) => request = next,
                None => return Err(self.upload.refusal().unwrap_or(refusal)),
            }
            self.left -= 1;
        }
    }

    /// One try at the next target, on idle connections as long as they turn out to be closed, then on a new one.
    async fn once(&self, mut request: Request<RequestBody>) -> Result<(Response<Incoming>, Lease), Failed> {
        let pool = self.plane.pools.of(self.index).next();
        headers::host(request.headers_mut(), self.host, pool.target());
        while let Some(lease) = pool.idle() {
            match self.on(lease, request).await {
                Err(Failed::Unsent(unsent, _)) => request = *unsent,
                settled => return settled,
            }
        }
        match self.connect(&pool).await {
            Ok(lease) => self.on(lease, request).await,
            Err(refusal) => Err(Failed::Unsent(Box::new(request), refusal)),
        }
    }

    async fn connect(&self, pool: &Rc<Pool>) -> Result<Lease, Refusal> {
        pool.connect(self.upstream.timeouts.connect).await.map_err(|error| {
            tracing::warn!(upstream = %self.upstream.name, target_host = %pool.target().host, target_port = pool.target().port, %error, "upstream unreachable");
            Refusal::UpstreamUnreachable
        })
    }

    async fn on(&self, mut lease: Lease, request: Request<RequestBody>) -> Result<(Response<Incoming>, Lease), Failed> {
        // A connection that is not ready soon is as good as closed; nothing was written to it.
        let ready = self.within(self.upstream.timeouts.connect, lease.sender().ready()).await;
        if !matches!(ready, Some(Ok(()))) {
            return Err(Failed::Unsent(Box::new(request), Refusal::UpstreamUnreachable));
        }
        let mut answer = pin!(lease.sender().try_send_request(request));
        let answered = loop {
            let before = self.upload_mark();
            match self.within(self.upstream.timeouts.response, answer.as_mut()).await {
                Some(answer) => break answer,
                // A body that still comes in is no silence of the upstream's.
                None if self.upload_mark() != before => {}
                None => return Err(Failed::Sent(Refusal::UpstreamTimeout)),
            }
        };
        match answered {
            Ok(response) if is_valid(&response) => Ok((response, lease)),
            Ok(_) => Err(Failed::Sent(Refusal::UpstreamInvalid)),
            Err(mut failure) => {
                let refusal = failure_of(failure.error());
                if refusal == Refusal::UpstreamInvalid || !lease.reused {
                    tracing::warn!(upstream = %self.upstream.name, error = %failure.error(), "upstream failed");
                }
                match failure.take_message() {
                    Some(request) => Err(Failed::Unsent(Box::new(request), refusal)),
                    None => Err(Failed::Sent(refusal)),
                }
            }
        }
    }

    /// What `future` comes to, or `None` when `time` was over first.
    async fn within<F: Future>(&self, time: Duration, future: F) -> Option<F::Output> {
        let (mut future, mut deadline) = (pin!(future), pin!(self.plane.timers.after(time)));
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => deadline.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Changes whenever more of the request's body has been read.
    fn upload_mark(&self) -> (bool, u64) {
        (self.upload.is_done(), self.upload.passed())
    }
}

/// An answer that two readers could frame differently, or that switches protocols unasked, is none. A coding but `chunked` was not asked
/// for, and goes with the hop: what it coded could not be read beyond it.
fn is_valid(response: &Response<Incoming>) -> bool {
    let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let mut codings = response.headers().get_all(TRANSFER_ENCODING).iter().map(HeaderValue::as_bytes);
    let framed = match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => !length.is_empty() && length.iter().all(u8::is_ascii_digit),
        (None, Some(coding)) => coding.eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let once = lengths.next().is_none() && codings.next().is_none();
    framed && once && response.status() != StatusCode::SWITCHING_PROTOCOLS
}

fn failure_of(error: &hyper::Error) -> Refusal {
    if error.is_parse() { Refusal::UpstreamInvalid } else { Refusal::UpstreamUnreachable }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
