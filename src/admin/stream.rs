//! A long answer on its way out, a piece at a time: one waits to be sent, one is read, and no more is in memory.
//!
//! It ends well only when whoever makes it says so. One that breaks off has no end on the wire either, so that nobody takes a part for
//! the whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::HeaderName;
use http_body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Names the last change that is in the answer, with its chain: `SEQ:CHAIN`.
pub const HEAD: HeaderName = HeaderName::from_static("octroi-head");
/// Whoever takes nothing for so long is taken for gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// `None` is the end.
type Piece = Option<Bytes>;

/// Why an answer broke off.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Where pieces go.
pub struct Out(Sender<Piece>);

/// Whoever asked is gone, or takes nothing any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody takes it any more")]
pub struct Gone;

impl Out {
    pub async fn send(&self, piece: Vec<u8>) -> Result<(), Gone> {
        self.pass(Some(Bytes::from(piece))).await
    }

    async fn pass(&self, piece: Piece) -> Result<(), Gone> {
        match tokio::time::timeout(PATIENCE, self.0.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

/// A body of what `make` sends. It is whole when that ends well.
pub fn body<F>(make: impl FnOnce(Out) -> F) -> Body
where
    F: Future<Output = Result<(), Broken>> + Send + 'static,
{
    let (sender, receiver) = channel(1);
    let making = make(Out(sender.clone()));
    tokio::spawn(async move {
        match making.await {
            // Who is gone does not need to hear it.
            Ok(()) => drop(Out(sender).pass(None).await),
            Err(reason) => tracing::warn!(%reason, "a long answer broke off"),
        }
    });
    Body::new(Pieces { receiver, over: false })
}

/// A body of what comes through a channel.
struct Pieces {
    receiver: Receiver<Piece>,
    over: bool,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.receiver.poll_recv(context).map(|piece| match piece {
            Some(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            end => {
                self.over = true;
                end.is_none().then(|| Err(io::Error::other("the answer broke off")))
            }
        })
    }
}
