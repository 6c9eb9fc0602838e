//! The care of the store: backup, a look through it, and moving the older journal out.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use http_body::Frame;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Admin;
use super::door::Requester;
use super::fields::{Fields, Read};
use super::machines::take_reason;
use super::problem::{Code, Problem};
use super::wire::{ArchivedView, VerifiedView};
use crate::store::{Archived, Author, Backup, StoreError, Verified};

/// The longest name of a folder, in bytes, as Linux has it. The folders on the way to it are made one by one.
pub const MAX_PATH: usize = 4_095;
/// Backups that are read at a time.
const BACKUPS: usize = 2;
/// A client that takes nothing for so long has its backup ended.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where the backup ends, before it is read: `SEQ:CHAIN`.
const OCTROI_HEAD: HeaderName = HeaderName::from_static("octroi-head");

/// What can be done with the store of a running gateway. All of it blocks on the disk.
pub trait Care: Send + Sync + 'static {
    fn backup(&self) -> Result<Backup, StoreError>;
    fn verify(&self) -> Result<Verified, StoreError>;
    fn archive(&self, to: &Path, author: &Author) -> Result<Archived, StoreError>;
}

/// The care that a gateway's store gets, and how much of it at a time.
pub struct StoreCare {
    care: Arc<dyn Care>,
    backups: Arc<Semaphore>,
}

impl StoreCare {
    pub fn new(care: Arc<dyn Care>) -> StoreCare {
        StoreCare { care, backups: Arc::new(Semaphore::new(BACKUPS)) }
    }

    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&dyn Care) -> T + Send + 'static) -> Result<T, Problem> {
        let care = self.care.clone();
        // The mirror is known to panic on damaged files; that must cost one request only.
        let failed = |_| Problem::store_unavailable("the store failed while it was read; its log says why");
        tokio::task::spawn_blocking(move || ask(&*care)).await.map_err(failed)
    }
}

/// Streams a backup: everything that was acknowledged before this was asked for is in it.
pub async fn backup(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let busy = |_| Problem::new(Code::Conflict, format!("{BACKUPS} backups are being read already; wait for one to end"));
    let seat = admin.store.backups.clone().try_acquire_owned().map_err(busy)?;
    let backup = admin.store.ask(|care| care.backup()).await??;
    let head = HeaderValue::from_str(&backup.manifest.head.to_string());
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(send(backup, sender, seat));
    let mut response = Body::new(Chunks(receiver)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    head.into_iter().for_each(|head| drop(response.headers_mut().insert(OCTROI_HEAD, head)));
    Ok(response)
}

type Chunk = std::io::Result<Bytes>;

async fn send(mut backup: Backup, sender: mpsc::Sender<Chunk>, _seat: OwnedSemaphorePermit) {
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let chunk = backup.chunk();
            (backup, chunk)
        });
        let Ok((rest, chunk)) = read.await else { return };
        backup = rest;
        let Some(chunk) = chunk.transpose() else { return };
        let failed = chunk.is_err();
        // Whoever asked is gone, or takes nothing any more.
        let sent = tokio::time::timeout(PATIENCE, sender.send(chunk.map(Bytes::from))).await;
        if failed || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// A body that comes in parts. One that breaks off has no end mark, so a client sees that.
struct Chunks(mpsc::Receiver<Chunk>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

/// Looks the store through. What is bad is told in the answer, which is none of a failure.
pub async fn verify(State(admin): State<Arc<Admin>>) -> Result<Json<VerifiedView>, Problem> {
    match admin.store.ask(|care| care.verify()).await? {
        Ok(verified) => Ok(Json(VerifiedView::from(verified))),
        Err(StoreError::Unusable(finding)) => Ok(Json(VerifiedView::bad(finding))),
        Err(error) => Err(error.into()),
    }
}

/// Moves the older journal to a folder of the machine that the gateway runs on.
pub async fn archive(operator: Requester, State(admin): State<Arc<Admin>>, mut fields: Fields) -> Result<Json<ArchivedView>, Problem> {
    let to = fields.required("to", folder).unwrap_or_default();
    let reason = take_reason(&mut fields);
    fields.finish()?;
    let origin = operator.origin(reason);
    let author = Author { time: admin.clock.now().wall, actor: origin.actor.0, address: origin.address, reason: origin.reason };
    let archived = admin.store.ask(move |care| care.archive(&to, &author)).await?;
    Ok(Json(ArchivedView::from(archived?)))
}

/// A folder of the gateway's machine. It may run anywhere, so a relative path would mean nothing to whoever asks.
fn folder(value: Value) -> Read<PathBuf> {
    match value.as_str() {
        Some(path) if path.len() > MAX_PATH => Err(format!("is longer than {MAX_PATH} bytes").into()),
        Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(path.into()),
        _ => Err("must be the absolute path of a folder, such as \"/var/backups/octroi\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_folder_is_an_absolute_path_that_the_system_could_take() {
        assert_eq!(folder(json!("/var/backups/octroi")), Ok("/var/backups/octroi".into()));
        let long = format!("/{}", "a/".repeat(MAX_PATH / 2));
        assert!(folder(json!(&long[..MAX_PATH])).is_ok());
        for bad in [json!(""), json!("old"), json!("./old"), json!("/a\0b"), json!(long + "a"), json!(["/old"])] {
            assert!(folder(bad.clone()).is_err(), "{bad}");
        }
    }
}
