//! Which keys a list shows.

use super::super::fields::Faults;
use super::super::page::Params;
use super::super::values;
use crate::model::{Environment, Key, KeyStatus, MachineId, Timestamp};

/// Every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub machine: Option<MachineId>,
    status: Option<KeyStatus>,
    environment: Option<Environment>,
    label: Option<String>,
    /// In lower case; matches anywhere in label, description or hint.
    search: Option<String>,
    /// Judged apart: it takes the key's use.
    pub idle: Option<bool>,
}

const STATUSES: [KeyStatus; 4] = [KeyStatus::Revoked, KeyStatus::Inactive, KeyStatus::Expired, KeyStatus::Active];

impl Filter {
    /// Reads the filters; `machine` is set where the path names it already.
    pub fn take(params: &mut Params, machine: Option<MachineId>) -> Filter {
        Filter {
            machine: machine.or_else(|| params.optional("machine", |text| text.parse().map_err(|e| Faults::from(format!("is {e}"))))),
            status: params.optional("status", |text| status(&text).ok_or_else(|| "must be active, inactive, expired or revoked".into())),
            environment: params.optional("environment", |text| values::environment(text.into())),
            label: params.optional("label", Ok),
            search: params.optional("search", |text| Ok(text.to_lowercase())),
            idle: params.optional("idle", |text| text.parse().map_err(|_| "must be true or false".into())),
        }
    }

    pub fn matches(&self, key: &Key, now: Timestamp) -> bool {
        let found = |sought: &String| [&key.label, &key.description, &key.hint].iter().any(|text| text.to_lowercase().contains(sought));
        self.machine.is_none_or(|machine| machine == key.machine)
            && self.status.is_none_or(|status| status == key.status(now))
            && self.environment.as_ref().is_none_or(|environment| *environment == key.environment)
            && self.label.as_ref().is_none_or(|label| *label == key.label)
            && self.search.as_ref().is_none_or(found)
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
