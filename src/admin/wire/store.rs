//! What the admin API says of the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::{Archived, Verified};

/// What a look through the store found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerifiedView {
    pub intact: bool,
    /// The first thing that is bad; `null` when nothing is.
    pub finding: Option<String>,
    /// Where the journal ends: `SEQ:CHAIN`.
    pub head: Option<String>,
    /// The first change that is here; those before were archived.
    pub first: Option<u64>,
    pub files: Option<usize>,
    pub records: Option<u64>,
    /// What is not as it could be, but does no harm.
    pub notes: Vec<String>,
}

impl VerifiedView {
    pub fn bad(finding: String) -> VerifiedView {
        VerifiedView { intact: false, finding: Some(finding), head: None, first: None, files: None, records: None, notes: Vec::new() }
    }
}

impl From<Verified> for VerifiedView {
    fn from(verified: Verified) -> VerifiedView {
        VerifiedView {
            intact: true,
            finding: None,
            head: Some(verified.head.to_string()),
            first: Some(verified.first),
            files: Some(verified.files),
            records: Some(verified.records),
            notes: verified.notes,
        }
    }
}

/// What was moved out of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchivedView {
    /// On the machine that the gateway runs on.
    pub to: String,
    /// The files that are there now and in the journal no more.
    pub files: Vec<String>,
    /// The first change that is still in the journal; `null` before there is any.
    pub first: Option<u64>,
    /// Records in the snapshot that stands for the changes before.
    pub records: u64,
}

impl From<Archived> for ArchivedView {
    fn from(archived: Archived) -> ArchivedView {
        ArchivedView { to: archived.folder.display().to_string(), files: archived.files, first: archived.first, records: archived.records }
    }
}
