//! What the admin API says of the store and of the journal in it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::JournalLine;
use crate::store::{Archived, Flaw, Judged, Verified, Whole};

/// What a look through the store found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreVerified {
    pub intact: bool,
    /// The first thing that is bad; `null` when nothing is.
    pub finding: Option<String>,
    /// Where the journal ends: `SEQ:CHAIN`.
    pub head: Option<String>,
    /// The first change that is here; those before were archived.
    pub first: Option<u64>,
    pub files: Option<u64>,
    pub records: Option<u64>,
    /// What is not as it could be, but does no harm.
    pub notes: Vec<String>,
}

impl StoreVerified {
    pub fn bad(finding: String) -> StoreVerified {
        StoreVerified { intact: false, finding: Some(finding), head: None, first: None, files: None, records: None, notes: Vec::new() }
    }
}

impl From<Whole> for StoreVerified {
    fn from(Whole { journal, records, notes }: Whole) -> StoreVerified {
        StoreVerified {
            intact: true,
            finding: None,
            head: Some(journal.head.to_string()),
            first: Some(journal.first),
            files: Some(journal.files),
            records: Some(records),
            notes,
        }
    }
}

/// A page of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JournalPage {
    #[schemars(with = "Vec<JournalLine>")]
    pub data: Vec<Value>,
    /// As in any list.
    pub next_cursor: Option<String>,
    /// The list ends with this change, the first one that is here: those before were archived. `null` where nothing is missing, or pages
    /// are left.
    pub archived_before: Option<u64>,
}

/// What a verification of the journal found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalVerified {
    /// Nothing is wrong with what was read, and every head that was asked about is part of it.
    pub valid: bool,
    pub files: u64,
    /// The first change that is here; those before were archived.
    pub first: u64,
    /// Changes that are as they were written.
    pub entries: u64,
    /// `SEQ:CHAIN` of the last of them: to be kept elsewhere, and asked about later.
    pub head: String,
    pub first_bad: Option<BadEntry>,
    /// An end that a crash left and that was never acknowledged: the next start cuts it off.
    pub unfinished: Option<BadEntry>,
    pub heads: Vec<HeadJudged>,
}

/// The first entry of the journal that is not right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BadEntry {
    pub file: String,
    /// In the file, from 1.
    pub line: u64,
    /// The change that should stand there; `null` for what is before all changes of a file.
    pub seq: Option<u64>,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeadJudged {
    pub head: String,
    /// Whether it is part of the journal.
    pub kept: bool,
    /// Why not.
    pub message: Option<String>,
}

impl From<&Flaw> for BadEntry {
    fn from(flaw: &Flaw) -> BadEntry {
        BadEntry { file: flaw.file.display().to_string(), line: flaw.line, seq: flaw.seq, message: flaw.why.clone() }
    }
}

impl From<&Judged> for HeadJudged {
    fn from(judged: &Judged) -> HeadJudged {
        HeadJudged { head: judged.head.to_string(), kept: judged.missing.is_none(), message: judged.missing.clone() }
    }
}

impl From<Verified> for JournalVerified {
    fn from(verified: Verified) -> JournalVerified {
        JournalVerified {
            valid: verified.is_good(),
            files: verified.files,
            first: verified.first,
            entries: verified.entries,
            head: verified.head.to_string(),
            first_bad: verified.flaw.as_ref().map(BadEntry::from),
            unfinished: verified.unfinished.as_ref().map(BadEntry::from),
            heads: verified.heads.iter().map(HeadJudged::from).collect(),
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
