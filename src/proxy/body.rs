//! An answer's body on its way to the client: counted, never kept. What fails in the middle ends the message without its proper end, so
//! that the client sees a broken message and never a short one.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Plane;
use super::exchange::Exchange;
use super::headers::NotInTrailers;
use super::pool::Lease;
use super::upload::Upload;
use crate::model::{Code, Verdict};
use crate::server::{BoxError, Deadline, Timers};

/// An answer's body on its way to the client. It keeps the exchange, which is recorded when the last byte has gone or the client has.
pub struct AnswerBody {
    source: Source,
    exchange: Option<Exchange>,
}

enum Source {
    Own(Option<Bytes>),
    Upstream(Box<Relay>),
}

struct Relay {
    inner: Incoming,
    /// hyper's own word for it holds only where the length was announced.
    ended: bool,
    /// Given back to its pool when the answer and the request have both been carried to their ends.
    lease: Option<Lease>,
    upload: Rc<Upload>,
    no_trailers: Rc<NotInTrailers>,
    silence: Silence,
}

/// Bounds how long an upstream may say nothing in the middle of an answer.
struct Silence {
    timers: Timers,
    longest: Duration,
    running: Option<Deadline>,
}

impl AnswerBody {
    /// A body of the gateway's own.
    pub fn of(bytes: Bytes) -> AnswerBody {
        AnswerBody { source: Source::Own((!bytes.is_empty()).then_some(bytes)), exchange: None }
    }

    pub fn relay(inner: Incoming, lease: Lease, upload: Rc<Upload>, plane: &Plane, longest_silence: Duration) -> AnswerBody {
        let silence = Silence { timers: plane.timers.clone(), longest: longest_silence, running: None };
        let relay =
            Relay { ended: inner.is_end_stream(), inner, lease: Some(lease), upload, no_trailers: plane.no_trailers.clone(), silence };
        AnswerBody { source: Source::Upstream(Box::new(relay)), exchange: None }
    }

    pub fn on_behalf_of(mut self, exchange: Exchange) -> AnswerBody {
        self.exchange = Some(exchange);
        self
    }

    /// Ends the answer when its call was cut, and with it the upstream's connection.
    fn cut(&mut self) -> Option<Cut> {
        let exchange = self.exchange.as_mut().filter(|exchange| exchange.is_cut())?;
        exchange.leave();
        if let Source::Upstream(relay) = &mut self.source {
            relay.lease = None;
        }
        Some(Cut)
    }

    fn ends_as(&mut self, verdict: Verdict) {
        if let Some(exchange) = &mut self.exchange {
            exchange.ends_as(verdict);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(error) = self.cut() {
            return Poll::Ready(Some(Err(error.into())));
        }
        let frame = match &mut self.source {
            Source::Own(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Source::Upstream(relay) => ready!(relay.poll_frame(cx)),
        };
        match &frame {
            None => self.ends_as(Verdict::Ok),
            Some(Err(Broken::Silent)) => self.ends_as(Verdict::Refused(Code::UpstreamTimeout)),
            Some(Err(Broken::Upstream(_))) => self.ends_as(Verdict::Refused(Code::UpstreamInvalid)),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining);
                self.exchange.iter_mut().for_each(|exchange| exchange.sent(bytes));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Upstream(relay) => relay.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Source::Upstream(relay) => relay.inner.size_hint(),
        }
    }
}

/// hyper asks no further once the announced length has been sent, so the end may show only here.
impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.ends_as(Verdict::Ok);
        }
    }
}

/// An answer that the upstream did not bring to its end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the upstream fell silent in the middle of its answer")]
    Silent,
    #[error("the upstream broke off its answer: {0}")]
    Upstream(#[source] hyper::Error),
}

/// An answer whose caller may not have the rest of it.
#[derive(Debug, thiserror::Error)]
#[error("the key or its machine stopped counting")]
struct Cut;

impl Relay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => {
                ready!(self.silence.poll_broken(cx));
                self.lease = None;
                Poll::Ready(Some(Err(Broken::Silent)))
            }
            Poll::Ready(frame) => {
                self.silence.running = None;
                self.ended = frame.is_none() || self.inner.is_end_stream();
                Poll::Ready(frame.map(|frame| frame.map(|frame| self.no_trailers.clean_frame(frame)).map_err(Broken::Upstream)))
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let whole = self.ended && self.upload.is_done();
        if let Some(lease) = self.lease.take().filter(|_| whole) {
            lease.give_back();
        }
    }
}

impl Silence {
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Silence { timers, longest, running } = self;
        let deadline = running.get_or_insert_with(|| timers.after(*longest));
        Pin::new(deadline).poll(cx)
    }
}
