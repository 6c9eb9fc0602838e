//! The door for applications that ask about a key instead of being proxied. What a route would demand, they name themselves.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::credential::Taken;
use super::permit::Demand;
use super::trace::{Binding, Rehearsal};
use super::{Asked, Gate, Rules, Turned};
use crate::limits::Charged;
use crate::model::{ClientIp, Moment, PermissionName, Refusal};
use crate::registry::Entry;

/// What an application asks.
pub struct Verification<'a> {
    /// The value that the application was shown.
    pub value: &'a str,
    /// All of these are needed.
    pub permissions: &'a [PermissionName],
    /// A key restricted to organizations passes only where one of its own is named.
    pub organization: Option<&'a str>,
    pub cost: NonZeroU32,
    /// Who showed the value. Without it a key bound to addresses does not pass, and no guess is counted: they would all be the
    /// application's.
    pub client: Option<ClientIp>,
    /// Nothing is spent or counted.
    pub rehearsal: bool,
}

/// The answer.
pub struct Verified {
    /// Whose value it is, also where it does not pass.
    pub entry: Option<Arc<Entry>>,
    /// What is left of its limits.
    pub outcome: Result<Charged, Turned>,
}

/// A cost that the key's tier could never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostTooHigh {
    /// What it admits at once.
    pub most: NonZeroU32,
}

impl Gate {
    /// Decides about a key for an application. A cost that can never be met is no call, and nothing is judged.
    pub fn verify(&self, rules: &Rules, asked: &Verification<'_>, now: Moment) -> Result<Verified, CostTooHigh> {
        let identified = Taken::of(asked.value.as_bytes()).hash().and_then(|hash| {
            let entry = self.registry.identify(&hash);
            entry.ok_or(Refusal::KeyUnknown)
        });
        let entry = identified.as_ref().ok().cloned();
        if let Some(most) = entry.as_deref().and_then(|entry| most_at_once(rules, entry)).filter(|most| asked.cost > *most) {
            return Err(CostTooHigh { most });
        }
        let Verification { permissions, organization, cost, client, rehearsal, .. } = *asked;
        let asked = Asked { now, client, demand: Demand::Named { permissions, organization }, cost };
        let judged = match rehearsal {
            false => self.judge(rules, identified, &asked, &mut Binding),
            true => self.judge(rules, identified, &asked, &mut Rehearsal),
        };
        let outcome = judged.and_then(|charged| charged.ok_or_else(|| Refusal::InternalError.into()));
        Ok(Verified { entry, outcome })
    }
}

fn most_at_once(rules: &Rules, entry: &Entry) -> Option<NonZeroU32> {
    let machine = entry.machine.state();
    rules.limits(entry, &machine).and_then(|(limits, _)| limits.most_at_once())
}
