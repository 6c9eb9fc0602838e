//! `octroi key create --from`: many keys, one JSON object a line.
//!
//! What became of each line is written down before the next ones are asked for, so that nothing that was made is lost. With an
//! `--output-file` the same command goes on where an earlier one ended: lines that have their value in the file are passed over, and
//! of those that the earlier one may have asked for without reading the answer it is looked up whether their keys exist. Refusals of lines
//! that are no JSON are written at once, before answers to earlier lines: so every line counts for itself, and none for those before it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Value, json};

use super::super::client::{Client, understand};
use super::super::failure::{Failure, Outcome};
use super::super::named;
use super::super::output;
use super::super::request::Reason;
use super::results::{Earlier, IN_DOUBT, Results, Row};
use crate::admin::wire::{BulkItem, KeyView, List, json};

/// Lines in one request: few enough that little is unsure after an interruption.
const BATCH: usize = 500;
/// Bytes of the lines in one request; the gateway reads 1 MiB.
const BATCH_BYTES: usize = 512 << 10;
/// The longest line, in bytes.
const MAX_LINE: usize = 64 << 10;

pub fn run(client: &Client, from: &Path, to: Option<&Path>, reason: &Reason) -> Outcome {
    let input: Box<dyn Read> = match from.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(from).map_err(|error| Failure::Usage(format!("cannot read {}: {error}", from.display())))?),
    };
    let mut run = Run { client, reason, results: Results::open(to)?, existing: HashMap::new(), tally: Tally::default(), unsure: BATCH };
    let outcome = run.all(&mut BufReader::new(input));
    run.tally.tell(outcome, to)
}

/// One line that is to become a key.
struct Line {
    number: u64,
    key: Value,
}

impl Line {
    fn text(&self, name: &str) -> &str {
        self.key.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

struct Run<'a> {
    client: &'a Client,
    reason: &'a Reason,
    results: Results,
    /// By machine as the input names it, then by label and environment: the ids of keys that were there before.
    existing: HashMap<String, HashMap<(String, String), String>>,
    tally: Tally,
    /// As many of the next lines without a result may have been asked for by an earlier run that did not read the answer.
    unsure: usize,
}

impl Run<'_> {
    fn all(&mut self, input: &mut impl BufRead) -> Outcome {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut number = 0;
        while let Some(text) = next_line(input, number + 1)? {
            number += 1;
            if text.trim_ascii().is_empty() {
                continue;
            }
            let Some(line) = self.read(number, &text)? else { continue };
            bytes += text.len();
            batch.push(line);
            if batch.len() == BATCH || bytes > BATCH_BYTES - MAX_LINE {
                self.make(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.make(batch)
    }

    /// The line, unless it is dealt with already.
    fn read(&mut self, number: u64, text: &[u8]) -> Result<Option<Line>, Failure> {
        let mut line = match json::parse(text) {
            Ok(key) => Line { number, key },
            Err(errors) => {
                let row = Row::refused(
                    number,
                    "",
                    "invalid",
                    errors
                        .iter()
                        .map(|e| format!("{}: {}", e.pointer, e.message).trim_start_matches(": ").to_owned())
                        .collect::<Vec<_>>()
                        .join("; "),
                );
                return self.record(&[row]).map(|()| None);
            }
        };
        if let Some(Earlier::Made(label)) = self.results.earlier(number) {
            if label != line.text("label") {
                let text = format!(
                    "line {number} has the label {:?} and the results say {label:?}: they belong to another input",
                    line.text("label")
                );
                return Err(Failure::Refused(text));
            }
            self.tally.there += 1;
            return Ok(None);
        }
        if self.is_in_doubt(number)
            && let Some(id) = self.find(&line)?
        {
            let detail = format!(
                "a key with this label and environment exists, and the results do not have its value: \
                 octroi key regenerate {id} gives it another one"
            );
            return self.record(&[Row::refused(number, line.text("label"), IN_DOUBT, detail)]).map(|()| None);
        }
        if let (Some(reason), Value::Object(fields)) = (&self.reason.reason, &mut line.key) {
            fields.entry("reason").or_insert_with(|| json!(reason));
        }
        Ok(Some(line))
    }

    /// Whether an earlier run may have made this line's key although the results do not have its value.
    fn is_in_doubt(&mut self, number: u64) -> bool {
        match self.results.earlier(number) {
            Some(Earlier::InDoubt) => true,
            Some(Earlier::Made(_) | Earlier::Refused) => false,
            None if self.results.go_on() && self.unsure > 0 => {
                self.unsure -= 1;
                true
            }
            None => false,
        }
    }

    /// The key that the line asks for, if there is one already.
    fn find(&mut self, line: &Line) -> Result<Option<&String>, Failure> {
        let machine = line.text("machine");
        if !self.existing.contains_key(machine) {
            let keys = keys_of(self.client, machine)?;
            self.existing.insert(machine.to_owned(), keys);
        }
        let environment = Some(line.text("environment")).filter(|e| !e.is_empty()).unwrap_or("prod");
        let wanted = (line.text("label").to_owned(), environment.to_owned());
        Ok(self.existing.get(machine).and_then(|keys| keys.get(&wanted)))
    }

    fn make(&mut self, batch: Vec<Line>) -> Outcome {
        if batch.is_empty() {
            return Ok(());
        }
        let keys: Vec<&Value> = batch.iter().map(|line| &line.key).collect();
        let List { data, .. } = understand::<List<BulkItem>>(self.client.ask("POST", "/v1/keys/bulk", Some(&json!({"keys": keys})))?)?;
        let row = |item: BulkItem| {
            let line = usize::try_from(item.line).ok().and_then(|place| batch.get(place.checked_sub(1)?))?;
            Some(Row::of(line.number, line.text("label"), item))
        };
        let rows: Vec<Row> = data.into_iter().filter_map(row).collect();
        self.record(&rows)
    }

    fn record(&mut self, rows: &[Row]) -> Outcome {
        self.results.write(rows)?;
        let made = rows.iter().filter(|row| row.is_made()).count();
        self.tally.made += made;
        self.tally.refused += rows.len() - made;
        Ok(())
    }
}

/// What is told at the end.
#[derive(Default)]
struct Tally {
    made: usize,
    refused: usize,
    /// Made by an earlier run.
    there: usize,
}

impl Tally {
    fn tell(&self, outcome: Outcome, to: Option<&Path>) -> Outcome {
        let Tally { made, refused, there } = self;
        let earlier = if *there > 0 { format!(", {there} had been made before") } else { String::new() };
        let were = |count: &usize, what: &str| if *count == 1 { format!("1 {what} was") } else { format!("{count} {what}s were") };
        let text = format!("{} made, {} refused{earlier}", were(made, "key"), were(refused, "line"));
        let again = if to.is_some() { "; the same command goes on from there" } else { "" };
        match outcome {
            Ok(()) if *refused == 0 => {
                output::note(&text);
                Ok(())
            }
            Ok(()) => Err(Failure::Refused(format!("{text}: the results say why"))),
            Err(Failure::Refused(why)) => Err(Failure::Refused(format!("{why}; {text}{again}"))),
            Err(Failure::Unreachable(why)) => Err(Failure::Unreachable(format!("{why}; {text}{again}"))),
            Err(Failure::Unanswered(why)) => Err(Failure::Unanswered(format!("{why}; {text}{again}"))),
            Err(Failure::Usage(why)) => Err(Failure::Usage(why)),
        }
    }
}

fn next_line(input: &mut impl BufRead, number: u64) -> Result<Option<Vec<u8>>, Failure> {
    let mut text = Vec::new();
    let read = input.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut text);
    read.map_err(|error| Failure::Refused(format!("cannot read line {number}: {error}")))?;
    match text.len() {
        0 => Ok(None),
        1..=MAX_LINE => Ok(Some(text)),
        _ => Err(Failure::Refused(format!("line {number} is longer than {MAX_LINE} bytes: one JSON object a line is read"))),
    }
}

/// A machine that cannot be found has none: the gateway says so of its lines.
fn keys_of(client: &Client, machine: &str) -> Result<HashMap<(String, String), String>, Failure> {
    let machine = match named::machine(client, machine) {
        Ok(machine) => machine,
        Err(Failure::Refused(_)) => return Ok(HashMap::new()),
        Err(failure) => return Err(failure),
    };
    let keys = client.all(&format!("/v1/machines/{}/keys", machine.id), "", usize::MAX)?;
    let named = keys.into_iter().map(|key| understand::<KeyView>(key).map(|key| ((key.label, key.environment), key.id)));
    named.collect()
}
