//! An answer that is too long for memory: written out as it comes.

use std::io::{self, Write};
use std::pin::pin;

use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::{Answer, Broken, Client, MAX_ANSWER, PATIENCE};
use crate::cli::failure::Failure;

impl Client {
    /// Asks, writes the body of the answer to `out`, and gives its fields. It may take as long as it likes, but for its pauses.
    pub fn download(&self, method: &str, target: &str, out: &mut dyn Write) -> Result<HeaderMap, Failure> {
        let request = self.request(method, target, None)?;
        let answered = self.runtime.block_on(async {
            let stream = self.connect().await?;
            fetch(stream, request, out).await.map_err(|error| match error.downcast::<Unwritten>() {
                Ok(unwritten) => Failure::Refused(unwritten.to_string()),
                Err(error) => self.silent(method, &*error),
            })
        })?;
        answered.map_err(|answer| self.refusal(&answer))
    }
}

/// The fault is ours and none of the gateway's.
#[derive(Debug, thiserror::Error)]
#[error("what the gateway sends cannot be written: {0}")]
struct Unwritten(io::Error);

/// The fields of an answer of success, or the answer.
async fn fetch<S>(stream: S, request: Request<Full<Bytes>>, out: &mut dyn Write) -> Result<Result<HeaderMap, Answer>, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = timeout(PATIENCE, sender.send_request(request)).await??;
        let status = response.status().as_u16();
        let (head, mut body) = response.into_parts();
        if status != 200 {
            let bytes = timeout(PATIENCE, Limited::new(body, MAX_ANSWER).collect()).await??.to_bytes();
            return Ok(Err(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }));
        }
        while let Some(frame) = timeout(PATIENCE, body.frame()).await? {
            if let Ok(bytes) = frame?.into_data() {
                out.write_all(&bytes).map_err(Unwritten)?;
            }
        }
        Ok::<_, Broken>(Ok(head.headers))
    };
    let mut answer = pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        // The gateway closed: what it had sent is read to its end, and its absence is the error.
        _ = connection => answer.await,
    }
}
