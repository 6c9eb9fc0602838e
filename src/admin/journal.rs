//! The journal as operators read it: who changed what, when, from where and why. Never a value, never a hash: the store
//! hands out the public part of each line only.

mod stream;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderName, HeaderValue, header};
use serde_json::Value;

use super::Admin;
use super::door::Operator;
use super::fields::Read;
use super::page::{Page, Params, cursor};
use super::problem::Problem;
use super::wire::{JournalVerified, List};
use crate::model::Timestamp;
use crate::store::{Filter, Head, Seq, Subject};

/// Names the last change of an export, with its chain.
const HEAD: HeaderName = HeaderName::from_static("octroi-journal-head");
/// The most heads that one verification is asked about.
const MAX_HEADS: usize = 100;
/// The longest name of an actor or of a kind of change, in characters.
const MAX_TEXT: usize = 200;

type Listed = Result<Json<List<Value>>, Problem>;

/// Newest first.
pub async fn list(_: Operator, State(admin): State<Arc<Admin>>, mut params: Params) -> Listed {
    let page = params.page();
    let subject = params.optional("subject", |text| text.parse::<Subject>().map_err(|e| format!("is {e}").into()));
    let filter = Filter { subject, ..conditions(&mut params) };
    params.finish()?;
    answer(&admin, filter, page).await
}

/// What happened to one key, also to one that was deleted.
pub async fn of_key(_: Operator, State(admin): State<Arc<Admin>>, Path(id): Path<String>, params: Params) -> Listed {
    let id = id.parse().map_err(|error| Problem::not_found(format!("{id:?} names no key: {error}")))?;
    activity(&admin, Subject::Key(id), params).await
}

/// What happened to one machine, also to one that was deleted.
pub async fn of_machine(_: Operator, State(admin): State<Arc<Admin>>, Path(id): Path<String>, params: Params) -> Listed {
    let id = id.parse().map_err(|error| Problem::not_found(format!("{id:?} names no machine: {error}")))?;
    activity(&admin, Subject::Machine(id), params).await
}

async fn activity(admin: &Admin, subject: Subject, mut params: Params) -> Listed {
    let page = params.page();
    let filter = Filter { subject: Some(subject), ..conditions(&mut params) };
    params.finish()?;
    let never = || Problem::not_found(format!("nothing has or had the id {subject}"));
    let was_there = admin.ask(move |store| store.was_there(subject)).await?;
    if was_there == Some(false) {
        return Err(never());
    }
    let Json(list) = answer(admin, filter, page).await?;
    // A mirror of an earlier make remembers no deletions: then lines are the only trace, and their absence is the answer.
    let nothing = list.data.is_empty() && list.next_cursor.is_none() && page.after.is_none();
    if nothing && was_there.is_none() { Err(never()) } else { Ok(Json(list)) }
}

fn conditions(params: &mut Params) -> Filter {
    Filter {
        subject: None,
        actor: params.optional("actor", short),
        what: params.optional("what", short),
        since: params.optional("since", time),
        until: params.optional("until", time),
    }
}

fn short(text: String) -> Read<String> {
    let fits = !text.is_empty() && text.chars().count() <= MAX_TEXT;
    if fits { Ok(text) } else { Err(format!("must hold 1 to {MAX_TEXT} characters").into()) }
}

fn time(text: String) -> Read<Timestamp> {
    Timestamp::parse(&text).ok_or_else(|| format!("{text:?} is no RFC 3339 time, such as 2027-01-31T00:00:00Z").into())
}

async fn answer(admin: &Admin, filter: Filter, page: Page) -> Listed {
    let before = page.after.map(|mark| Seq::try_from(mark).unwrap_or(Seq::MAX));
    let history = admin.ask(move |store| store.history(&filter, before, page.limit)).await?;
    Ok(Json(List { data: history.lines, next_cursor: history.next.map(|before| cursor(before.into())) }))
}

pub async fn show(_: Operator, State(admin): State<Arc<Admin>>, Path(seq): Path<String>) -> Result<Json<Value>, Problem> {
    let none = || Problem::not_found(format!("the journal has no change {seq:?}"));
    let number: Seq = seq.parse().map_err(|_| none())?;
    admin.ask(move |store| store.entry(number)).await?.map(Json).ok_or_else(none)
}

/// Reads all of it; changes go on meanwhile.
pub async fn verify(_: Operator, State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Json<JournalVerified>, Problem> {
    let heads = params.optional("head", heads).unwrap_or_default();
    params.finish()?;
    let verified = admin.ask(move |store| store.verify(&heads)).await?;
    Ok(Json(verified.into()))
}

/// Several are separated by commas.
fn heads(text: String) -> Read<Vec<Head>> {
    let heads = text.split(',').map(|head| head.parse::<Head>().map_err(|error| format!("{head:?} is {error}")));
    let heads = heads.collect::<Result<Vec<Head>, String>>()?;
    if heads.len() <= MAX_HEADS { Ok(heads) } else { Err(format!("names more than {MAX_HEADS} heads").into()) }
}

/// All of it as JSON lines, oldest first, as it was when this was asked.
pub async fn export(_: Operator, State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Response, Problem> {
    let since = params.optional("since_seq", number).unwrap_or(1);
    let until = params.optional("until_seq", number).unwrap_or(Seq::MAX);
    params.finish()?;
    let ends = move |store: &dyn crate::store::Store| {
        let tail = store.head(None)?;
        let until = tail.map_or(0, |tail| tail.seq).min(until);
        Ok((store.head(Some(since - 1))?, store.head(Some(until.max(since - 1)))?, tail))
    };
    let (after, head, tail) = admin.ask(ends).await?;
    let (Some(after), Some(head)) = (after, head) else {
        let last = tail.map_or(0, |tail| tail.seq);
        return Err(Problem::invalid_at("?since_seq", format!("change {} is not here; the last one is {last}", since - 1)));
    };
    let mut response = Response::new(stream::lines(admin, after, head.seq));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    fields.extend(HeaderValue::try_from(head.to_string()).ok().map(|head| (HEAD, head)));
    Ok(response)
}

fn number(text: String) -> Read<Seq> {
    text.parse().ok().filter(|seq| *seq > 0).ok_or_else(|| format!("{text:?} is not the number of a change, from 1").into())
}
