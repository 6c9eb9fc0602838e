//! A long answer on its way out, a piece at a time: one waits to be sent, one is read, and no more is in memory.
//!
//! It ends well only when whoever makes it says so, and whoever asked may still have it. One that breaks off has no end on the wire either, so that nobody takes a part for
//! the whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::HeaderName;
use http_body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::problem::Problem;

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

/// A body of what `make` sends. It is whole when that ends well, and `may_go_on` had no objection to any piece.
pub fn body<F>(may_go_on: impl Fn() -> Result<(), Problem> + Send + Unpin + 'static, make: impl FnOnce(Out) -> F) -> Body
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
    Body::new(Pieces { receiver, may_go_on, over: false })
}

/// A body of what comes through a channel.
struct Pieces<M> {
    receiver: Receiver<Piece>,
    /// Asked of each piece when it leaves: whoever is slow in taking them may not be allowed the rest any more.
    may_go_on: M,
    over: bool,
}

impl<M: Fn() -> Result<(), Problem> + Unpin> http_body::Body for Pieces<M> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let piece = ready!(self.receiver.poll_recv(context));
        if let Err(problem) = (self.may_go_on)() {
            self.over = true;
            self.receiver.close();
            return Poll::Ready(Some(Err(io::Error::other(problem.detail))));
        }
        Poll::Ready(match piece {
            Some(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            end => {
                self.over = true;
                end.is_none().then(|| Err(io::Error::other("the answer broke off")))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::BodyExt;

    use super::super::problem::Code;
    use super::*;

    #[test]
    fn what_is_no_longer_allowed_breaks_off_before_the_next_piece_and_has_no_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // With how many pieces taken the permission goes; with both, what is refused is the end.
        for taken in 0..=2 {
            let allowed = Arc::new(AtomicBool::new(true));
            let asked = allowed.clone();
            let may_go_on = move || if asked.load(Ordering::Relaxed) { Ok(()) } else { Err(Problem::new(Code::TokenInvalid, "no more")) };
            runtime.block_on(async {
                let mut body = body(may_go_on, async |out: Out| {
                    out.send(vec![1]).await?;
                    Ok(out.send(vec![2]).await?)
                });
                for _ in 0..taken {
                    assert!(body.frame().await.is_some_and(|piece| piece.is_ok()));
                }
                allowed.store(false, Ordering::Relaxed);
                assert_eq!(body.frame().await.map(|piece| piece.map_err(|error| error.to_string()).err()), Some(Some("no more".into())));
                assert!(body.frame().await.is_none());
            });
        }
    }
}
