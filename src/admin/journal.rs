//! The journal as operators read it: who changed what, when, from where and why. Never a value, never a hash: the store
//! hands out the public part of each line only. The lines about operators are for who manages them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::Value;

use super::Admin;
use super::door::Pass;
use super::fields::Read;
use super::openapi::NDJSON;
use super::page::{Page, Params, cursor};
use super::problem::Problem;
use super::stream::{self, Broken, Out};
use super::wire::{JournalPage, JournalVerified};
use crate::model::{Right, Timestamp};
use crate::store::{About, Filter, Head, Seq, Store, StoreError, Subject, is_of_operator};

/// The most heads that one verification is asked about.
const MAX_HEADS: usize = 100;
/// The longest name of an actor or of a kind of change, in characters.
const MAX_TEXT: usize = 200;

type Listed = Result<Json<JournalPage>, Problem>;

/// Newest first.
pub async fn list(pass: Pass, State(admin): State<Arc<Admin>>, mut params: Params) -> Listed {
    let page = params.page();
    let subject = params.optional("subject", |text| text.parse::<About>().map_err(|e| format!("is {e}").into()));
    let without_operators = !manages_operators(&pass)?;
    let filter = Filter { subject, without_operators, ..conditions(&mut params) };
    params.finish()?;
    if without_operators && matches!(subject, Some(About::Record(Subject::Operator(_)))) {
        return Err(of_an_operator());
    }
    answer(&admin, filter, page).await
}

/// What happened to one key, also to one that was deleted.
pub async fn of_key(State(admin): State<Arc<Admin>>, Path(id): Path<String>, params: Params) -> Listed {
    let id = id.parse().map_err(|error| Problem::not_found(format!("{id:?} names no key: {error}")))?;
    activity(&admin, Subject::Key(id), params).await
}

/// What happened to one machine, also to one that was deleted.
pub async fn of_machine(State(admin): State<Arc<Admin>>, Path(id): Path<String>, params: Params) -> Listed {
    let id = id.parse().map_err(|error| Problem::not_found(format!("{id:?} names no machine: {error}")))?;
    activity(&admin, Subject::Machine(id), params).await
}

/// What happened to one operator, also to one that was deleted.
pub async fn of_operator(State(admin): State<Arc<Admin>>, Path(id): Path<String>, params: Params) -> Listed {
    let id = id.parse().map_err(|error| Problem::not_found(format!("{id:?} names no operator: {error}")))?;
    activity(&admin, Subject::Operator(id), params).await
}

async fn activity(admin: &Admin, subject: Subject, mut params: Params) -> Listed {
    let page = params.page();
    let filter = Filter { subject: Some(About::Record(subject)), ..conditions(&mut params) };
    params.finish()?;
    let never = || Problem::not_found(format!("nothing has or had the id {subject}"));
    let was_there = admin.ask(move |store| store.was_there(subject)).await?;
    if was_there == Some(false) {
        return Err(never());
    }
    let Json(listed) = answer(admin, filter, page).await?;
    // A mirror of an earlier make remembers no deletions: then lines are the only trace, and their absence is the answer.
    let nothing = listed.data.is_empty() && listed.next_cursor.is_none() && page.after.is_none();
    if nothing && was_there.is_none() { Err(never()) } else { Ok(Json(listed)) }
}

fn conditions(params: &mut Params) -> Filter {
    Filter {
        subject: None,
        actor: params.optional("actor", short),
        what: params.optional("what", short),
        since: params.optional("since", time),
        until: params.optional("until", time),
        without_operators: false,
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
    let (history, origin) = admin.ask(move |store| Ok((store.history(&filter, before, page.limit)?, store.origin()))).await?;
    let archived_before = (history.next.is_none() && origin.seq > 0).then_some(origin.seq + 1);
    let next_cursor = history.next.map(|before| cursor(before.into()));
    Ok(Json(JournalPage { data: history.lines, next_cursor, archived_before }))
}

fn manages_operators(pass: &Pass) -> Result<bool, Problem> {
    Ok(pass.rights()?.allow(Right::PlatformConfigure))
}

fn of_an_operator() -> Problem {
    Problem::right_missing(Right::PlatformConfigure, "what was done to an operator")
}

pub async fn show(pass: Pass, State(admin): State<Arc<Admin>>, Path(seq): Path<String>) -> Result<Json<Value>, Problem> {
    let none = || Problem::not_found(format!("the journal has no change {seq:?}"));
    let number: Seq = seq.parse().map_err(|_| none())?;
    let (entry, origin) = admin.ask(move |store| Ok((store.entry(number)?, store.origin()))).await?;
    match entry {
        Some(entry) if !manages_operators(&pass)? && entry["subject"].as_str().is_some_and(is_of_operator) => Err(of_an_operator()),
        Some(entry) => Ok(Json(entry)),
        None if (1..=origin.seq).contains(&number) => Err(Problem::not_found(archived(number, origin))),
        None => Err(none()),
    }
}

fn archived(seq: Seq, origin: Head) -> String {
    format!("change {seq} was archived: the journal here begins with change {}", origin.seq + 1)
}

/// Reads all of it; changes go on meanwhile.
pub async fn verify(State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Json<JournalVerified>, Problem> {
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

/// All that is here as JSON lines, oldest first, as it was when this was asked.
pub async fn export(pass: Pass, State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Response, Problem> {
    let since = params.optional("since_seq", number);
    let until = params.optional("until_seq", number).unwrap_or(Seq::MAX);
    params.finish()?;
    let (after, head) = admin.ask(move |store| ends(store, since, until)).await?.map_err(Problem::not_found)?;
    let mut response = Response::new(stream::body(move || pass.rights().map(drop), |out| feed(admin, after, head.seq, out)));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    fields.extend(HeaderValue::try_from(head.to_string()).ok().map(|head| (Some(stream::HEAD), head)));
    Ok(response)
}

/// What an export follows, and what it ends with; or why it cannot begin where it should.
fn ends(store: &dyn Store, since: Option<Seq>, until: Seq) -> Result<Result<(Head, Head), String>, StoreError> {
    let origin = store.origin();
    let before = since.map_or(origin.seq, |since| since - 1);
    let Some(after) = store.head(Some(before))? else {
        let last = store.head(None)?.map_or(0, |tail| tail.seq);
        let why =
            if before < origin.seq { archived(before + 1, origin) } else { format!("change {before} is not here; the last one is {last}") };
        return Ok(Err(why));
    };
    let last = store.head(None)?.map_or(before, |tail| tail.seq.min(until).max(before));
    Ok(Ok((after, store.head(Some(last))?.unwrap_or(after))))
}

async fn feed(admin: Arc<Admin>, mut after: Head, until: Seq, out: Out) -> Result<(), Broken> {
    while after.seq < until {
        let (lines, head) = admin.ask(move |store| store.export(after, until)).await.map_err(|problem| problem.detail)?;
        if head.seq <= after.seq {
            return Err(format!("the journal has no change {}", after.seq + 1).into());
        }
        after = head;
        out.send(lines).await?;
    }
    Ok(())
}

fn number(text: String) -> Read<Seq> {
    text.parse().ok().filter(|seq| *seq > 0).ok_or_else(|| format!("{text:?} is not the number of a change, from 1").into())
}
