//! What the admin plane shows of the use of keys; the gateway fills it from its usage sums.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Admin;
use super::problem::Problem;
use super::wire::{CallsView, TotalsView};
use crate::model::{Timestamp, Verdict};

/// What is known of one key's use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// The last call that was let in.
    pub last_used_at: Option<Timestamp>,
    pub last_used_ip: Option<IpAddr>,
    /// The last call that was turned away.
    pub last_refused_at: Option<Timestamp>,
    /// How many calls ended in each verdict; verdicts that never occurred may be left out.
    pub calls: Vec<(Verdict, u64)>,
}

/// What is known of all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many calls ended in each verdict.
    pub calls: Vec<(Verdict, u64)>,
    /// Those of them that no key can answer for.
    pub without_key: Vec<(Verdict, u64)>,
}

/// Adds up every key, so it is done where waiting harms nobody.
pub async fn totals(State(admin): State<Arc<Admin>>) -> Result<Json<TotalsView>, Problem> {
    let sums = admin.totals.clone();
    let Totals { calls, without_key } = admin.ask(move |_| Ok(sums())).await?;
    Ok(Json(TotalsView { calls: CallsView::of(&calls), without_key: CallsView::of(&without_key) }))
}
