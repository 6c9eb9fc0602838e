//! What is accepted although it is probably not what was meant.

use super::super::wire::{Message, Warning};
use crate::model::key::OldValue;
use crate::model::key::is_vague;
use crate::model::{Key, KeyId, Machine, Operator, PermissionName, Timestamp};

/// Everything about `key` that its maker should look at again.
pub fn about(key: &Key, machine: Option<&Machine>, now: Timestamp) -> Vec<Warning> {
    let lacking = machine.map(|machine| not_held(key, machine)).unwrap_or_default();
    vague(key).into_iter().chain(lacking).chain(past(key, now)).collect()
}

fn vague(key: &Key) -> Option<Warning> {
    let message = || Message {
        fr: format!(
            "le libellé « {} » ne distinguera pas cette clé de la suivante ; un bon libellé nomme l'environnement, le système et la \
             version, par exemple « Production - Facturation v2 »",
            key.label
        ),
        en: format!(
            "the label {:?} will not tell this key from the next one; a good label names environment, system and version, \
             for example \"Production - Billing v2\"",
            key.label
        ),
    };
    is_vague(&key.label).then(|| warning("label_vague", "/label", message()))
}

fn not_held(key: &Key, machine: &Machine) -> Vec<Warning> {
    let named = key.permissions.iter().flat_map(|set| set.names()).filter_map(PermissionName::parse);
    let lacking = named.filter(|name| !machine.permissions.grants(name));
    let message = |name| Message {
        fr: format!("la machine n'a pas la permission {name} : la clé ne l'aura pas non plus tant que la machine ne l'a pas reçue"),
        en: format!("the machine does not hold {name}, so the key does not either until the machine is granted it"),
    };
    lacking.map(|name| warning("permission_not_held", "/permissions", message(name))).collect()
}

/// The value in grace that was to count for longer and ended, since `before` got another value. Whoever has it was promised more.
pub fn grace_ended(before: &Key, now: Timestamp) -> Option<Warning> {
    let OldValue { hint, counts_until, .. } = before.in_grace().filter(|old| old.counts_until > now)?;
    let message = Message {
        fr: format!(
            "l'ancienne valeur {hint}, promise jusqu'au {counts_until}, est refusée dès maintenant : une seule ancienne valeur compte"
        ),
        en: format!(
            "the old value {hint}, which had been promised until {counts_until}, is refused from now on: one old value counts at a time"
        ),
    };
    Some(warning("grace_ended", "/grace", message))
}

/// An old value counts no longer than its key.
pub fn grace_beyond_expiry(key: &Key) -> Option<Warning> {
    let at = key.expires_at.filter(|at| key.in_grace().is_some_and(|old| old.counts_until > *at))?;
    let message = Message {
        fr: format!("la clé expire le {at}, avant la fin du délai accordé à l'ancienne valeur : les deux sont alors refusées"),
        en: format!("the key expires at {at}, before the grace of the old value ends: both are refused from then on"),
    };
    Some(warning("grace_beyond_expiry", "/grace", message))
}

pub fn no_grace(before: &Key, now: Timestamp) -> Option<Warning> {
    let message = Message {
        fr: "il n'y avait rien à terminer : aucune ancienne valeur de cette clé ne compte".to_owned(),
        en: "there was nothing to end: no old value of this key counts".to_owned(),
    };
    let is_over = before.in_grace().is_none_or(|old| old.counts_until <= now);
    is_over.then(|| warning("no_grace", "", message))
}

/// `other` has the label too.
pub fn label_taken(label: &str, other: KeyId) -> Warning {
    let message = Message {
        fr: format!(
            "la clé {other} de cette machine porte aussi le libellé « {label} » : les commandes devront les nommer par leur identifiant"
        ),
        en: format!("the key {other} of this machine has the label {label:?} too: commands will have to name either by its id"),
    };
    warning("label_taken", "/label", message)
}

/// An operator's token that is refused from the beginning.
pub fn token_past(operator: &Operator, now: Timestamp) -> Option<Warning> {
    let at = operator.expires_at.filter(|at| *at <= now)?;
    let message = Message {
        fr: format!("{at} est passé : le jeton est refusé comme expiré"),
        en: format!("{at} is past: the token is refused as expired"),
    };
    Some(warning("expires_in_past", "/expires_at", message))
}

fn past(key: &Key, now: Timestamp) -> Option<Warning> {
    let at = key.expires_at.filter(|at| *at <= now)?;
    let message = Message {
        fr: format!("{at} est passé : la clé est refusée comme expirée"),
        en: format!("{at} is past: the key is refused as expired"),
    };
    Some(warning("expires_in_past", "/expires_at", message))
}

fn warning(code: &str, pointer: &str, message: Message) -> Warning {
    Warning { code: code.to_owned(), pointer: pointer.to_owned(), message }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::{Environment, KeyState, MachineId, PermissionSet, SecretHash};

    /// An active key with a good label and no limits of its own.
    pub fn key() -> Key {
        Key {
            id: KeyId::from_u128(1),
            machine: MachineId::from_u128(2),
            label: "Production - Billing v2".into(),
            description: String::new(),
            environment: Environment::default(),
            permissions: None,
            organizations: None,
            tier: None,
            allowed_ips: None,
            expires_at: None,
            state: KeyState::Active,
            created_at: Timestamp(0),
            created_by: "socket:root".into(),
            hash: SecretHash([1; 32]),
            hint: "pk_prod_…aaaa".into(),
            old_values: Vec::new(),
            renewed_at: None,
        }
    }

    fn set(names: &[&str]) -> PermissionSet {
        names.iter().map(|name| PermissionName::parse(name).unwrap()).collect()
    }

    fn machine(permissions: &[&str]) -> Machine {
        Machine {
            id: MachineId::from_u128(2),
            name: "Billing".into(),
            description: String::new(),
            contact: String::new(),
            permissions: set(permissions),
            organizations: None,
            tier: None,
            third_party: false,
            enabled: true,
            created_at: Timestamp(0),
        }
    }

    #[test]
    fn each_doubt_is_named_and_good_keys_raise_none() {
        let codes = |key: &Key, machine: &Machine| about(key, Some(machine), Timestamp(50)).into_iter().map(|w| w.code).collect::<Vec<_>>();
        let plain = machine(&["a:read"]);
        assert!(codes(&key(), &plain).is_empty());
        assert_eq!(codes(&Key { label: "Clé 1".into(), ..key() }, &plain), ["label_vague"]);
        let greedy = Key { permissions: Some(set(&["a:read", "b:write", "c"])), ..key() };
        assert_eq!(codes(&greedy, &plain), ["permission_not_held"; 2]);
        assert!(codes(&greedy, &machine(&["admin"])).is_empty());
        assert_eq!(codes(&Key { expires_at: Some(Timestamp(50)), ..key() }, &plain), ["expires_in_past"]);
        assert!(codes(&Key { expires_at: Some(Timestamp(51)), ..key() }, &plain).is_empty());
    }
}
