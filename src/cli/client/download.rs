//! An answer that is too long for memory: written out as it comes.

use std::io::Write;
use std::pin::pin;

use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::{Answer, Broken, Client, MAX_ANSWER, PATIENCE};
use crate::cli::failure::Failure;

impl Client {
    /// Asks, and writes the body of the answer to `out`. It may take as long as it likes, but for its pauses.
    pub fn download(&self, method: &str, target: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let request = self.request(method, target, None)?;
        let answered = self.runtime.block_on(async {
            let stream = self.connect().await.map_err(|error| self.unreachable(&error))?;
            fetch(stream, request, out).await.map_err(|error| self.silent(method, &*error))
        })?;
        answered.map_or(Ok(()), |answer| Err(self.refusal(&answer)))
    }
}

/// The answer, where it is none of success.
async fn fetch<S>(stream: S, request: http::Request<http_body_util::Full<Bytes>>, out: &mut dyn Write) -> Result<Option<Answer>, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = timeout(PATIENCE, sender.send_request(request)).await??;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if status != 200 {
            let bytes = timeout(PATIENCE, Limited::new(body, MAX_ANSWER).collect()).await??.to_bytes();
            return Ok(Some(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }));
        }
        while let Some(frame) = timeout(PATIENCE, body.frame()).await? {
            if let Ok(bytes) = frame?.into_data() {
                out.write_all(&bytes)?;
            }
        }
        Ok::<_, Broken>(None)
    };
    let mut answer = pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        // The gateway closed: what it had sent is read to its end, and its absence is the error.
        _ = connection => answer.await,
    }
}
