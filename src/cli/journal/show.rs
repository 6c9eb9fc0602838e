//! `octroi journal show`: one change, field by field.

use clap::Args;
use serde_json::{Map, Value};

use super::super::client::understand;
use super::super::failure::Outcome;
use super::super::output::{self, Table, card};
use super::super::request::{Shared, now};
use super::super::when::relative;
use crate::admin::wire::{JournalLine, RecordChange};
use crate::model::Timestamp;

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The number of the change, as shown under NO
    #[arg(value_name = "NO")]
    seq: u64,
    #[command(flatten)]
    shared: Shared,
}

impl ShowArgs {
    pub fn run(self) -> Outcome {
        let line = self.shared.client()?.get(&format!("/v1/journal/{}", self.seq))?;
        if self.shared.wants_json() {
            return output::print_json(&line);
        }
        output::print(&shown(&understand(line)?, now()))
    }
}

fn shown(line: &JournalLine, now: Timestamp) -> String {
    let mut text = card(&[
        ("No", line.seq.to_string()),
        ("When", format!("{} ({})", line.time, relative(Some(&line.time), "", now))),
        ("Who", line.actor.clone()),
        ("From", line.address.clone().unwrap_or_else(|| "this machine".to_owned())),
        ("What", line.what.clone()),
        ("Subject", line.subject.clone()),
        ("Reason", line.reason.clone().unwrap_or_else(|| "none given".to_owned())),
    ]);
    for change in &line.changes {
        text.push('\n');
        text.push_str(&title(change));
        text.push_str(&fields(change));
    }
    if let Some(store) = &line.store {
        text.push('\n');
        let facts: Vec<(&str, String)> = store.iter().map(|(name, fact)| (name.as_str(), value(Some(fact)))).collect();
        text.push_str(&card(&facts));
    }
    text
}

fn title(change: &RecordChange) -> String {
    let became = match (&change.before, &change.after) {
        (None, _) => ", created",
        (_, None) => ", deleted",
        _ => "",
    };
    let records = change.record.iter().map(|(kind, id)| output::tame(&format!("{kind} {}", value(Some(id)))));
    format!("{}{became}\n", records.collect::<Vec<_>>().join(" "))
}

fn fields(change: &RecordChange) -> String {
    let nothing = Map::new();
    let (before, after) = (change.before.as_ref().unwrap_or(&nothing), change.after.as_ref().unwrap_or(&nothing));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let mut table = Table::new(&["FIELD", "BEFORE", "AFTER"]);
    for name in names.into_iter().filter(|name| before.get(*name) != after.get(*name)) {
        table.row([name.clone(), value(before.get(name)), value(after.get(name))]);
    }
    table.or("no field that is shown differs")
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::Null) => "none".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_changed_field_is_shown_before_and_after() {
        let line = json!({
            "seq": 7, "time": "2027-01-15T07:57:00.000Z", "actor": "socket:root", "address": null, "reason": null,
            "what": "key.edited", "subject": "key_1",
            "changes": [{
                "key": "key_1",
                "before": {"label": "a", "tier": null, "permissions": ["x:y"]},
                "after": {"label": "b", "tier": "free", "permissions": ["x:y"]},
            }],
        });
        let now = Timestamp::parse("2027-01-15T08:00:00Z").unwrap();
        let expected = "No       7\nWhen     2027-01-15T07:57:00.000Z (3 min ago)\nWho      socket:root\nFrom     this machine\n\
                        What     key.edited\nSubject  key_1\nReason   none given\n\n\
                        key key_1\nFIELD  BEFORE  AFTER\nlabel  a       b\ntier   none    free\n";
        assert_eq!(shown(&understand(line).unwrap(), now), expected);
    }

    #[test]
    fn what_was_done_with_the_store_is_shown() {
        let line = json!({
            "seq": 9, "time": "2027-01-15T07:57:00.000Z", "actor": "offline:root", "address": null, "reason": null,
            "what": "store.restored", "subject": "store", "changes": [],
            "store": {"head": "7:ab", "replaced": null, "source": "/backups/a.octroi"},
        });
        let now = Timestamp::parse("2027-01-15T08:00:00Z").unwrap();
        let shown = shown(&understand(line).unwrap(), now);
        assert!(shown.ends_with("\n\nhead      7:ab\nreplaced  none\nsource    /backups/a.octroi\n"), "{shown}");
    }
}
