//! `octroi journal …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::understand;
use super::failure::{Failure, Outcome};
use super::output::{self, Table};
use super::request::{Body, Reason, Shared, now};
use super::store;
use super::when::relative;
use crate::admin::wire::{ArchivedView, JournalLine};
use crate::app::care;
use crate::model::Timestamp;

/// How many lines people are shown when they do not say.
const USUAL: usize = 50;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List changes, newest first
    List(ListArgs),
    /// Move the older files of the journal to a folder, so that they can leave the machine
    Archive(ArchiveArgs),
}

#[derive(Debug, Args)]
pub struct ArchiveArgs {
    /// The folder, on the machine that the gateway runs on; made if need be
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// How many changes to show [default: 50 in a table, all as JSON]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    shared: Shared,
}

impl Command {
    pub fn run(self) -> Outcome {
        match self {
            Command::List(args) => args.run(),
            Command::Archive(args) => args.run(),
        }
    }
}

impl ArchiveArgs {
    fn run(self) -> Outcome {
        let to = std::path::absolute(&self.to).map_err(|error| Failure::Usage(format!("{}: {error}", self.to.display())))?;
        let body = Body::default().with("to", Some(to.display().to_string())).because(&self.reason);
        let online =
            || -> Result<ArchivedView, Failure> { understand(self.shared.client()?.ask("POST", "/v1/journal/archive", Some(&body))?) };
        let archived = store::on_or_off(&self.shared, online, |settings| {
            care::archive(settings, &to, self.reason.reason.clone()).map_err(store::failed)
        })?;
        if self.shared.wants_json() {
            return output::print_json(&archived);
        }
        output::print(&told(&archived))
    }
}

fn told(archived: &ArchivedView) -> String {
    match (archived.files.as_slice(), archived.first) {
        ([], _) => "There is nothing to archive: no change is older than the last archiving.\n".to_owned(),
        (files, first) => format!(
            "Moved to {}: {}.\nThe journal now begins with change {}, and a snapshot of {} records.\n",
            output::tame(&archived.to),
            files.join(", "),
            first.unwrap_or_default(),
            archived.records
        ),
    }
}

impl ListArgs {
    fn run(self) -> Outcome {
        let usual = if self.shared.wants_json() { usize::MAX } else { USUAL };
        let most = self.limit.map_or(usual, |limit| limit as usize);
        let lines = self.shared.client()?.all("/v1/journal", "", most)?;
        if self.shared.wants_json() {
            return output::print_json(&json!({"data": lines}));
        }
        let lines = lines.into_iter().map(understand).collect::<Result<Vec<JournalLine>, Failure>>()?;
        output::print(&table(&lines, now()))
    }
}

fn table(lines: &[JournalLine], now: Timestamp) -> String {
    let mut table = Table::new(&["NO", "WHEN", "WHO", "WHAT", "SUBJECT", "REASON"]);
    for line in lines {
        let from = line.address.as_ref().map(|address| format!(" from {address}")).unwrap_or_default();
        table.row([
            line.seq.to_string(),
            relative(Some(&line.time), "", now),
            format!("{}{from}", line.actor),
            line.what.clone(),
            line.subject.clone(),
            line.reason.clone().unwrap_or_default(),
        ]);
    }
    table.or("no changes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_who_and_why() {
        let line: JournalLine = serde_json::from_value(json!({
            "seq": 7, "time": "2027-01-15T07:57:00.000Z", "actor": "socket:root", "address": null, "reason": "leaked",
            "what": "key.revoked", "subject": "key_1", "changes": [],
        }))
        .unwrap();
        let now = Timestamp::parse("2027-01-15T08:00:00Z").unwrap();
        let expected = "NO  WHEN       WHO          WHAT         SUBJECT  REASON\n\
                        7   3 min ago  socket:root  key.revoked  key_1    leaked\n";
        assert_eq!(table(&[line], now), expected);
    }
}
