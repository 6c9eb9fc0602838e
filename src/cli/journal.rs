//! `octroi journal …`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::understand;
use super::failure::{Failure, Outcome};
use super::output::{self, Table};
use super::request::{Shared, now};
use super::when::relative;
use crate::admin::wire::JournalLine;
use crate::model::Timestamp;

/// How many lines people are shown when they do not say.
const USUAL: usize = 50;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List changes, newest first
    List(ListArgs),
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
        let Command::List(args) = self;
        args.run()
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
