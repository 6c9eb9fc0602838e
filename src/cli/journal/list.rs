//! `octroi journal list`: which changes there were.

use clap::Args;
use serde_json::{Value, json};

use super::super::client::{Client, understand};
use super::super::failure::{Failure, Outcome};
use super::super::named;
use super::super::output::{self, Table};
use super::super::request::{Shared, now, query};
use super::super::when::{Side, meant, relative};
use crate::admin::wire::JournalLine;
use crate::model::{KeyId, MachineId, OperatorId, Timestamp};

/// The subject of what was done with the store itself.
const STORE: &str = "store";

/// How many lines people are shown when they do not say.
const USUAL: usize = 50;

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only what happened to this machine, key or operator: an id, also of something deleted, or the name of a machine or the label of a
    /// key; `store` for what was done with the store itself
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// Only what this one did, as shown under WHO
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only this kind: key.revoked, or key for all about keys
    #[arg(long, value_name = "KIND")]
    what: Option<String>,
    /// Only since then: 7d, a day or an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before then, likewise
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How many changes to show [default: 50 in a table, all as JSON]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    shared: Shared,
}

impl ListArgs {
    pub fn run(self) -> Outcome {
        let usual = if self.shared.wants_json() { usize::MAX } else { USUAL };
        let most = self.limit.map_or(usual, |limit| limit as usize);
        let now = now();
        let time = |option, text: &Option<String>| text.as_deref().map(|text| meant(option, text, Side::Past, now)).transpose();
        let since = time("--since", &self.since)?.map(|time| time.to_string());
        let until = time("--until", &self.until)?.map(|time| time.to_string());
        let client = self.shared.client()?;
        let subject = self.subject.as_deref().map(|text| subject(&client, text)).transpose()?;
        let query = query(&[
            ("subject", subject.as_deref()),
            ("actor", self.actor.as_deref()),
            ("what", self.what.as_deref()),
            ("since", since.as_deref()),
            ("until", until.as_deref()),
        ]);
        let (lines, rest) = client.pages("/v1/journal", &query, most)?;
        // To stderr: it is about what is not in the list.
        if let Some(first) = rest.get("archived_before").and_then(Value::as_u64) {
            output::note(&format!("note: the changes before {first} were archived and are not here"));
        }
        if self.shared.wants_json() {
            return output::print_json(&json!({"data": lines}));
        }
        let lines = lines.into_iter().map(understand).collect::<Result<Vec<JournalLine>, Failure>>()?;
        output::print(&table(&lines, now))
    }
}

/// The id of what was named. What was deleted has nothing left but its id.
fn subject(client: &Client, text: &str) -> Result<String, Failure> {
    let is_id = text.parse::<MachineId>().is_ok() || text.parse::<KeyId>().is_ok() || text.parse::<OperatorId>().is_ok();
    if is_id || text == STORE {
        return Ok(text.to_owned());
    }
    match (named::machine(client, text), named::key(client, text)) {
        (Ok(machine), Ok(key)) => Err(Failure::Refused(format!(
            "both a machine and a key are called {text:?}; name one by its id:\n  {}\n  {}",
            machine.id, key.id
        ))),
        (Ok(machine), Err(Failure::Refused(_))) => Ok(machine.id),
        (Err(Failure::Refused(_)), Ok(key)) => Ok(key.id),
        (Err(_), Err(failure)) | (Err(failure), _) | (_, Err(failure)) => Err(failure),
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
