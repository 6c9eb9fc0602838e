//! `/v1/keys/bulk`: many keys in one request. Each stands for itself: what is wrong with one is its own answer and keeps none of the
//! others from being made.

use std::collections::{HashMap, hash_map};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use serde_json::Value;

use super::super::door::Requester;
use super::super::fields::{self, Fields, Read};
use super::super::machines::{self, take_reason};
use super::super::openapi::NDJSON;
use super::super::problem::{Code, Problem};
use super::super::wire::{BulkItem, BulkProblem, KeyChanged, KeyView, List};
use super::super::{Admin, values};
use super::{take_new, warn};
use crate::model::{Change, Machine, MachineId};
use crate::registry::{Committed, Left};

/// The most keys of one request.
pub const MOST: usize = 1_000;

/// What is asked for, each with its line from 1.
pub struct Asked(Vec<(u64, Result<Fields, Problem>)>);

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Asked, Problem> {
        if fields::is_type(request.headers(), NDJSON) {
            let body = Bytes::from_request(request, state).await.map_err(fields::unread)?;
            return Asked::lines(&body);
        }
        let mut body = Fields::from_request(request, state).await?;
        let keys = body.required("keys", array).unwrap_or_default();
        body.finish()?;
        Asked::bounded(keys.into_iter().map(Fields::of).zip(1..).map(|(fields, line)| (line, fields)).collect())
    }
}

impl Asked {
    /// One JSON object a line; blank ones count and are passed over.
    fn lines(body: &[u8]) -> Result<Asked, Problem> {
        let lines = body.split(|byte| *byte == b'\n').zip(1..);
        let full = lines.filter(|(line, _)| !line.trim_ascii().is_empty());
        Asked::bounded(full.map(|(line, number)| (number, Fields::parse(line))).collect())
    }

    fn bounded(asked: Vec<(u64, Result<Fields, Problem>)>) -> Result<Asked, Problem> {
        match asked.len() {
            0 => Err(Problem::invalid_at("", "holds no key to make")),
            1..=MOST => Ok(Asked(asked)),
            count => Err(Problem::invalid_at("", format!("holds {count} keys; the most in one request is {MOST}"))),
        }
    }
}

fn array(value: Value) -> Read<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(format!("must be an array of keys, not {}", fields::kind(&other)).into()),
    }
}

/// 200, whatever became of the single keys: each item says so.
pub async fn create(operator: Requester, State(admin): State<Arc<Admin>>, Asked(asked): Asked) -> Result<Json<List<BulkItem>>, Problem> {
    let mut items = Vec::with_capacity(asked.len());
    let (mut lines, mut changes) = (Vec::new(), Vec::new());
    for (line, fields) in asked {
        match fields.and_then(|fields| read(&admin, fields)) {
            Ok((change, reason)) => {
                lines.push(line);
                changes.push((operator.clone().origin(reason), change, None));
            }
            Err(problem) => items.push(refused(line, &problem)),
        }
    }
    let made = admin.registry.commit_all(changes).await;
    let mut machines = HashMap::new();
    for (line, outcome) in lines.into_iter().zip(made) {
        items.push(match outcome {
            Ok(committed) => shown(&admin, line, committed, &mut machines).await,
            Err(error) => refused(line, &error.into()),
        });
    }
    items.sort_by_key(|item| item.line);
    Ok(Json(List::whole(items)))
}

fn read(admin: &Admin, mut fields: Fields) -> Result<(Change, Option<String>), Problem> {
    let machine = fields.required("machine", |value| machine(admin, value));
    let new = take_new(&mut fields, admin);
    let reason = take_reason(&mut fields);
    fields.finish()?;
    // Without a fault there is a machine.
    let machine = machine.ok_or_else(|| Problem::invalid_at("/machine", "is required"))?;
    Ok((Change::CreateKey(machine, new), reason))
}

/// By its id or its name.
fn machine(admin: &Admin, value: Value) -> Read<MachineId> {
    let text = values::string(value)?;
    let found = text.parse().ok().or_else(|| admin.registry.machine_named(&text));
    found.filter(|id| admin.registry.machine(*id).is_some()).ok_or_else(|| format!("no machine has the id or name {text:?}").into())
}

/// A new value is shown this once, so it must reach its owner even when the machine cannot be read back.
async fn shown(admin: &Admin, line: u64, made: Committed, machines: &mut HashMap<MachineId, Option<Machine>>) -> BulkItem {
    let Left::Key(key) = made.left else {
        return refused(line, &Problem::new(Code::InternalError, "the change was made, and left something else than a key"));
    };
    let machine = match machines.entry(key.machine) {
        hash_map::Entry::Occupied(known) => known.into_mut(),
        hash_map::Entry::Vacant(place) => place.insert(machines::find(admin, key.machine).await.ok().map(|kept| kept.record)),
    };
    let machine = machine.as_ref();
    let now = admin.clock.now().wall;
    let changed = KeyChanged {
        // Nobody can have used it yet.
        key: KeyView::of(&key, machine, &Default::default(), &admin.catalogue, now),
        secret: made.secret.map(|secret| secret.reveal().to_string()),
        warnings: warn::about(&key, machine, now),
    };
    BulkItem { line, key: Some(changed), problem: None }
}

fn refused(line: u64, problem: &Problem) -> BulkItem {
    let Problem { code, detail, errors, .. } = problem;
    let problem = BulkProblem { code: code.as_str().to_owned(), detail: detail.clone(), errors: errors.clone() };
    BulkItem { line, key: None, problem: Some(problem) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_with_the_blank_ones_and_bounded() {
        let lines =
            |text: &str| Asked::lines(text.as_bytes()).map(|Asked(asked)| asked.into_iter().map(|(line, f)| (line, f.is_ok())).collect());
        assert_eq!(lines("{}\n\n{}\r\nx\n[]"), Ok(vec![(1, true), (3, true), (4, false), (5, false)]));
        assert!(lines("\n \n").is_err());
        assert!(lines(&"{}\n".repeat(MOST)).is_ok());
        assert!(lines(&"{}\n".repeat(MOST + 1)).is_err());
    }
}
