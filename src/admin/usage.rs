//! What the admin plane shows of the use of keys; the gateway fills it from its usage sums.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Admin;
use super::problem::Problem;
use super::wire::{CallsView, TotalsView};
use crate::model::{Timestamp, ValueMark, Verdict};

/// What is known of one key's use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// The last call that was let in.
    pub last_used_at: Option<Timestamp>,
    pub last_used_ip: Option<IpAddr>,
    /// The last calls that were let in, of each of the values that were used last.
    pub by_value: Vec<ValueUse>,
    /// The last call that was turned away.
    pub last_refused_at: Option<Timestamp>,
    /// How many calls ended in each verdict; verdicts that never occurred may be left out.
    pub calls: Vec<(Verdict, u64)>,
    /// A call with the value in grace is not over.
    pub old_value_is_open: bool,
}

/// The last call that was let in with one value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueUse {
    /// `None` where values were not told apart then.
    pub value: Option<ValueMark>,
    pub at: Timestamp,
    pub from: IpAddr,
}

impl KeyUse {
    /// The last use of one value, which was the key's current one from `made` until `replaced`. A use that names no value is that of the
    /// one which was current then.
    pub fn of_value(&self, value: ValueMark, made: Timestamp, replaced: Timestamp) -> Option<ValueUse> {
        let known = self.by_value.iter().find(|used| used.value == Some(value));
        known.or_else(|| self.by_value.iter().find(|used| used.value.is_none() && made <= used.at && used.at < replaced)).copied()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_without_a_value_is_that_of_the_value_of_its_time() {
        let used =
            |value: Option<u32>, at: i64| ValueUse { value: value.map(ValueMark), at: Timestamp(at), from: IpAddr::from([192, 0, 2, 1]) };
        let known = KeyUse { by_value: vec![used(Some(2), 90), used(None, 50)], ..KeyUse::default() };
        let at =
            |value: u32, made: i64, replaced: i64| known.of_value(ValueMark(value), Timestamp(made), Timestamp(replaced)).map(|u| u.at.0);
        assert_eq!(at(2, 60, i64::MAX), Some(90));
        assert_eq!(at(1, 10, 60), Some(50));
        assert_eq!(at(3, 60, i64::MAX), None);
        assert_eq!(at(1, 10, 50), None);
    }
}
