//! The care of the store: backup, a look through it, and moving the older journal out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Admin;
use super::door::{Pass, Requester};
use super::fields::{Fields, Read};
use super::machines::take_reason;
use super::problem::{Code, Problem};
use super::stream::{self, Broken, Out};
use super::wire::{ArchivedView, StoreVerified};
use crate::store::{Archived, Author, Backup, StoreError, Whole};

/// The longest name of a folder, in bytes, as Linux has it. The folders on the way to it are made one by one.
pub const MAX_PATH: usize = 4_095;
/// Backups that are read at a time.
const BACKUPS: usize = 2;

/// What can be done with the store of a running gateway. All of it blocks on the disk.
pub trait Care: Send + Sync + 'static {
    fn backup(&self) -> Result<Backup, StoreError>;
    fn verify(&self) -> Result<Whole, StoreError>;
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
pub async fn backup(pass: Pass, State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let busy = |_| Problem::new(Code::Conflict, format!("{BACKUPS} backups are being read already; wait for one to end"));
    let seat = admin.store.backups.clone().try_acquire_owned().map_err(busy)?;
    let backup = admin.store.ask(|care| care.backup()).await??;
    let head = HeaderValue::from_str(&backup.manifest.head.to_string());
    let mut response = Response::new(stream::body(move || pass.rights().map(drop), |out| send(backup, out, seat)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    head.into_iter().for_each(|head| drop(response.headers_mut().insert(stream::HEAD, head)));
    Ok(response)
}

async fn send(mut backup: Backup, out: Out, _seat: OwnedSemaphorePermit) -> Result<(), Broken> {
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let chunk = backup.chunk();
            (backup, chunk)
        });
        let (rest, chunk) = read.await?;
        backup = rest;
        match chunk? {
            Some(chunk) => out.send(chunk).await?,
            None => return Ok(()),
        }
    }
}

/// Looks the store through. What is bad is told in the answer, which is none of a failure.
pub async fn verify(State(admin): State<Arc<Admin>>) -> Result<Json<StoreVerified>, Problem> {
    match admin.store.ask(|care| care.verify()).await? {
        Ok(whole) => Ok(Json(StoreVerified::from(whole))),
        Err(StoreError::Unusable(finding)) => Ok(Json(StoreVerified::bad(finding))),
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
