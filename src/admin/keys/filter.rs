//! Which keys a list shows: by what the key says itself, by what follows from its machine, and by its last use.

use super::super::catalogue::Catalogue;
use super::super::fields::Faults;
use super::super::page::Params;
use super::super::values;
use crate::model::{Environment, Key, KeyStatus, Machine, MachineId, PermissionName, TierName, Timestamp};

/// Every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub machine: Option<MachineId>,
    status: Option<KeyStatus>,
    environment: Option<Environment>,
    label: Option<String>,
    /// In lower case; matches anywhere in label, description or hint.
    search: Option<String>,
    /// Judged apart: it takes the key's use and the settings.
    pub idle: Option<bool>,
    /// What the key is counted by: its own tier or, without one, its machine's.
    tier: Option<TierName>,
    /// What the key may do after all.
    permission: Option<PermissionName>,
    /// Expires before this, or did.
    expiring_before: Option<Timestamp>,
    /// Was not let in since; a key that never was counts from its making.
    unused_since: Option<Timestamp>,
}

const STATUSES: [KeyStatus; 4] = [KeyStatus::Revoked, KeyStatus::Inactive, KeyStatus::Expired, KeyStatus::Active];

impl Filter {
    /// Reads the filters; `machine` is set where the path names it already.
    pub fn take(params: &mut Params, machine: Option<MachineId>, catalogue: &Catalogue, now: Timestamp) -> Filter {
        Filter {
            machine: machine.or_else(|| params.optional("machine", |text| text.parse().map_err(|e| Faults::from(format!("is {e}"))))),
            status: params.optional("status", |text| {
                status(&text).ok_or_else(|| format!("is no status; known: {}", STATUSES.map(KeyStatus::as_str).join(", ")).into())
            }),
            environment: params.optional("environment", |text| values::environment(text.into())),
            label: params.optional("label", Ok),
            search: params.optional("search", |text| Ok(text.to_lowercase())),
            idle: params.optional("idle", |text| text.parse().map_err(|_| "must be true or false".into())),
            tier: params.optional("tier", |text| catalogue.tier(&text).map_err(Faults::from)),
            permission: params.optional("permission", |text| catalogue.permission(&text).map_err(Faults::from)),
            expiring_before: params.optional("expiring_before", |text| values::before(&text, now)),
            unused_since: params.optional("unused_since", |text| values::since(&text, now)),
        }
    }

    /// Whether what stands in the key itself is as asked.
    pub fn matches(&self, key: &Key, now: Timestamp) -> bool {
        let found = |sought: &String| [&key.label, &key.description, &key.hint].iter().any(|text| text.to_lowercase().contains(sought));
        self.machine.is_none_or(|machine| machine == key.machine)
            && self.status.is_none_or(|status| status == key.status(now))
            && self.environment.as_ref().is_none_or(|environment| *environment == key.environment)
            && self.label.as_ref().is_none_or(|label| *label == key.label)
            && self.search.as_ref().is_none_or(found)
            && self.expiring_before.is_none_or(|before| key.expires_at.is_some_and(|at| at < before))
    }

    /// Whether what the key has from its machine is as asked.
    pub fn matches_with(&self, key: &Key, machine: &Machine, default_tier: &TierName) -> bool {
        let tier = || key.tier.as_ref().or(machine.tier.as_ref()).unwrap_or(default_tier);
        let granted =
            |name: &PermissionName| machine.permissions.grants(name) && key.permissions.as_ref().is_none_or(|set| set.grants(name));
        self.tier.as_ref().is_none_or(|asked| asked == tier()) && self.permission.as_ref().is_none_or(granted)
    }

    /// Whether its last use, asked for only where it matters, is as long ago as asked.
    pub fn matches_use(&self, key: &Key, last_used: impl FnOnce() -> Option<Timestamp>) -> bool {
        self.unused_since.is_none_or(|since| last_used().unwrap_or(key.created_at) < since)
    }
}

fn status(text: &str) -> Option<KeyStatus> {
    STATUSES.into_iter().find(|status| status.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::super::warn::tests::key;
    use super::*;

    #[test]
    fn dates_are_compared_with_what_the_key_knows() {
        let key = Key { created_at: Timestamp(10), expires_at: Some(Timestamp(100)), ..key() };
        let expiring = |before| Filter { expiring_before: Some(Timestamp(before)), ..Filter::default() }.matches(&key, Timestamp(50));
        assert!(!expiring(100) && expiring(101));
        assert!(
            !Filter { expiring_before: Some(Timestamp(101)), ..Filter::default() }
                .matches(&Key { expires_at: None, ..key.clone() }, Timestamp(50))
        );
        let unused = |since, used: Option<i64>| {
            Filter { unused_since: Some(Timestamp(since)), ..Filter::default() }.matches_use(&key, || used.map(Timestamp))
        };
        assert!(!unused(10, None) && unused(11, None));
        assert!(!unused(11, Some(11)) && unused(12, Some(11)));
    }

    #[test]
    fn every_condition_must_hold() {
        let key = Key { label: "Production - Facturation".into(), expires_at: Some(Timestamp(100)), ..key() };
        let filter = |status, label: Option<&str>, search: Option<&str>| Filter {
            status,
            label: label.map(str::to_owned),
            search: search.map(str::to_owned),
            ..Filter::default()
        };
        let cases = [
            (Filter::default(), 50, true),
            (filter(Some(KeyStatus::Active), None, None), 50, true),
            (filter(Some(KeyStatus::Active), None, None), 100, false),
            (filter(Some(KeyStatus::Expired), None, Some("fact")), 100, true),
            (filter(None, Some("Production"), None), 50, false),
            (filter(None, Some("Production - Facturation"), Some("nothing")), 50, false),
            (Filter { machine: Some(MachineId::from_u128(9)), ..Filter::default() }, 50, false),
            (Filter { environment: Environment::parse("staging"), ..Filter::default() }, 50, false),
        ];
        for (filter, now, expected) in cases {
            assert_eq!(filter.matches(&key, Timestamp(now)), expected, "{filter:?} at {now}");
        }
        assert_eq!(STATUSES.map(|s| status(s.as_str())), STATUSES.map(Some));
    }
}
