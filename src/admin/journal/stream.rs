//! An export on its way out, some lines at a time: one piece waits to be sent, one is read, and no more is in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::super::Admin;
use crate::store::{Head, Seq};

/// Whoever takes nothing for so long is taken for gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// An empty one says that all was sent: without it the end is an error, so that nobody takes a part for the whole.
type Piece = io::Result<Bytes>;

/// The lines after `after` up to `until`, as a body. One that breaks off was not complete, and says so by its missing end.
pub fn lines(admin: Arc<Admin>, after: Head, until: Seq) -> Body {
    let (sender, receiver) = channel(1);
    tokio::spawn(feed(admin, after, until, sender));
    Body::new(Pieces { receiver, over: false })
}

async fn feed(admin: Arc<Admin>, mut after: Head, until: Seq, pieces: Sender<Piece>) {
    while after.seq < until {
        let read = admin.ask(move |store| store.export(after, until)).await;
        let piece = match read {
            Ok((bytes, head)) if head.seq > after.seq => {
                after = head;
                Ok(Bytes::from(bytes))
            }
            Ok(_) => Err(io::Error::other(format!("the journal has no change {}", after.seq + 1))),
            Err(problem) => Err(io::Error::other(problem.detail)),
        };
        let broken = piece.as_ref().err().map(ToString::to_string);
        if let Some(reason) = &broken {
            tracing::warn!(reason, "an export of the journal broke off");
        }
        let sent = tokio::time::timeout(PATIENCE, pieces.send(piece)).await;
        if broken.is_some() || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
    // Who is gone does not need to hear it.
    let _ = pieces.send(Ok(Bytes::new())).await;
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
        self.receiver.poll_recv(context).map(|piece| {
            let piece = piece.unwrap_or_else(|| Err(io::Error::other("the export broke off")));
            self.over = piece.as_ref().map_or(true, Bytes::is_empty);
            Some(piece.map(Frame::data)).filter(|piece| !self.over || piece.is_err())
        })
    }
}
