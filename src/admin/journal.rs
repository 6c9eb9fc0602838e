//! The journal as operators read it: who changed what, when, from where and why. Never a value, never a hash: the store
//! hands out the public part of each line only.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::Admin;
use super::page::{Params, cursor};
use super::problem::Problem;
use super::wire::List;
use crate::store::Seq;

/// Newest first.
pub async fn list(State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Json<List<Value>>, Problem> {
    let page = params.page();
    params.finish()?;
    let before = page.after.map(|mark| Seq::try_from(mark).unwrap_or(Seq::MAX));
    let mut lines = admin.ask(move |store| store.journal(before, page.limit + 1)).await?;
    let more = lines.len() > page.limit;
    lines.truncate(page.limit);
    let last = lines.last().and_then(|line| line.get("seq")).and_then(Value::as_u64);
    Ok(Json(List { next_cursor: last.filter(|_| more).map(|seq| cursor(seq.into())), data: lines }))
}
