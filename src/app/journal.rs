//! The journal of a gateway that is not running, and exports of it: what can be verified with no gateway's help.

use std::path::Path;

use crate::admin::wire::JournalVerified;
use crate::store::{self, Head, NoHead, StoreError};

/// Why a verification could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{0}")]
    Head(#[from] NoHead),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Reads what people note as a head, and gives it as it is written.
pub fn head(text: &str) -> Result<String, NoHead> {
    text.parse::<Head>().map(|head| head.to_string())
}

/// Verifies the journal in a store's folder, which is left as it is. Also says why the mirror beside it could not be asked how far the
/// journal should reach.
pub fn verify_folder(folder: &Path, heads: &[String]) -> Result<(JournalVerified, Option<String>), VerifyError> {
    let stopped = store::verify_stopped(folder, &parsed(heads)?)?;
    Ok((stopped.verified.into(), stopped.mirror))
}

pub fn verify_export(file: &Path, heads: &[String]) -> Result<JournalVerified, VerifyError> {
    Ok(store::verify_export(file, &parsed(heads)?)?.into())
}

fn parsed(heads: &[String]) -> Result<Vec<Head>, NoHead> {
    heads.iter().map(|head| head.parse()).collect()
}
