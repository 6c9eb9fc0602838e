//! A request's body on its way to the upstream: counted, never kept. What fails in the middle fails for the upstream too, which then never
//! sees a whole request.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::headers::NotInTrailers;
use crate::model::Refusal;
use crate::server::BoxError;

/// What became of a request's body, seen from outside while hyper sends it.
#[derive(Default)]
pub struct Upload {
    state: Cell<UploadState>,
    passed: Cell<u64>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum UploadState {
    #[default]
    Running,
    Done,
    /// The client's part of the fault: it sent what is no body, too much, too slowly, or it left.
    Failed(Fault),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Malformed,
    TooLarge,
    TooSlow,
    Left,
}

impl Upload {
    pub fn is_done(&self) -> bool {
        self.state.get() == UploadState::Done
    }

    /// Bytes of it that have passed so far.
    pub fn passed(&self) -> u64 {
        self.passed.get()
    }

    /// The client went away before the body's end.
    pub fn was_left(&self) -> bool {
        self.state.get() == UploadState::Failed(Fault::Left)
    }

    /// Why the call cannot go on, when the client's body is the reason.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.state.get() {
            UploadState::Running | UploadState::Done => None,
            UploadState::Failed(Fault::TooLarge) => Some(Refusal::BodyTooLarge),
            UploadState::Failed(Fault::TooSlow) => Some(Refusal::RequestTimeout),
            UploadState::Failed(Fault::Malformed | Fault::Left) => {
                Some(Refusal::BadRequest("the body is malformed or was not sent to its end"))
            }
        }
    }
}

/// A request's body on its way to the upstream.
pub enum RequestBody {
    Empty,
    Streaming { inner: Incoming, at_most: u64, upload: Rc<Upload>, no_trailers: Rc<NotInTrailers> },
}

impl RequestBody {
    pub fn new(inner: Incoming, at_most: Option<u64>, upload: Rc<Upload>, no_trailers: Rc<NotInTrailers>) -> RequestBody {
        if inner.is_end_stream() {
            upload.state.set(UploadState::Done);
            return RequestBody::Empty;
        }
        RequestBody::Streaming { inner, at_most: at_most.unwrap_or(u64::MAX), upload, no_trailers }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }

    /// Its length was announced.
    pub fn exact_len(&self) -> Option<u64> {
        self.size_hint().exact()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let RequestBody::Streaming { inner, at_most, upload, no_trailers } = &mut *self else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(&mut *inner).poll_frame(cx)) {
            None => {
                upload.state.set(UploadState::Done);
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                upload.state.set(UploadState::Failed(fault(&error)));
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            upload.passed.set(upload.passed.get() + data.remaining() as u64);
            if upload.passed.get() > *at_most {
                upload.state.set(UploadState::Failed(Fault::TooLarge));
                return Poll::Ready(Some(Err("the body is larger than allowed".into())));
            }
        }
        if inner.is_end_stream() {
            upload.state.set(UploadState::Done);
        }
        Poll::Ready(Some(Ok(no_trailers.clean_frame(frame))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streaming { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Streaming { inner, .. } => inner.size_hint(),
        }
    }
}

/// The edge reports a body it stopped reading as an I/O error of a kind that says why.
fn fault(error: &hyper::Error) -> Fault {
    let kind = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    match kind {
        Some(std::io::ErrorKind::TimedOut) => Fault::TooSlow,
        Some(std::io::ErrorKind::InvalidData) => Fault::Malformed,
        _ => Fault::Left,
    }
}
