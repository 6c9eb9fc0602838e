//! Keys as people read them.

use super::super::output::{Table, card, listed};
use super::super::when::{relative, with_date};
use crate::admin::wire::{KeyView, OldValueView};
use crate::model::Timestamp;

pub fn table(keys: &[KeyView], now: Timestamp) -> Table {
    let notes: Vec<String> = keys.iter().map(|key| note(key, now)).collect();
    let mut headings = vec!["ID", "MACHINE", "LABEL", "ENV", "STATUS", "EXPIRES", "LAST USED"];
    headings.extend(notes.iter().any(|note| !note.is_empty()).then_some("NOTE"));
    let mut table = Table::new(&headings);
    for (key, note) in keys.iter().zip(notes) {
        table.row([
            key.id.clone(),
            key.machine_name.clone(),
            key.label.clone(),
            key.environment.clone(),
            key.status.clone(),
            relative(key.expires_at.as_deref(), "never", now),
            relative(key.last_used_at.as_deref(), "never", now),
            note,
        ]);
    }
    table
}

/// What somebody should look at; mostly nothing.
fn note(key: &KeyView, now: Timestamp) -> String {
    let idle = key.idle.then(|| format!("idle since {}", relative(Some(&key.idle_since), "", now)));
    let old = key.old_values.iter().find(|old| old.counts).map(|old| format!("old value {}", use_of(old, now)));
    idle.into_iter().chain(old).collect::<Vec<_>>().join("; ")
}

fn use_of(old: &OldValueView, now: Timestamp) -> String {
    let used = match &old.last_used_at {
        Some(at) => format!("last used {}", relative(Some(at), "", now)),
        None => "not used since".to_owned(),
    };
    if old.safe_to_end { used + ", safe to end" } else { used }
}

pub fn details(key: &KeyView, now: Timestamp) -> String {
    let old = |old: &OldValueView| ("Old value", replaced(old, now));
    let mut lines = vec![
        ("Id", key.id.clone()),
        ("Machine", format!("{} ({})", key.machine_name, key.machine_id)),
        ("Label", key.label.clone()),
        ("Description", key.description.clone()),
        ("Environment", key.environment.clone()),
        ("Value", key.hint.clone()),
        ("Status", key.status.clone()),
        ("Permissions", permissions(key)),
        ("Organizations", listed(key.organizations.as_deref(), "the machine's", "none at all")),
        ("Tier", key.tier.clone().unwrap_or_else(|| "the machine's, counted together with its other keys".to_owned())),
        ("Addresses", listed(key.allowed_ips.as_deref(), "any", "none at all")),
        ("Expires", with_date(key.expires_at.as_deref(), now)),
        ("Made", format!("{} by {}", with_date(Some(&key.created_at), now), key.created_by)),
        ("Last used", last_used(key, now)),
        ("Last refused", with_date(key.last_refused_at.as_deref(), now)),
    ];
    lines.extend(key.idle.then(|| ("Idle", format!("since {}", with_date(Some(&key.idle_since), now)))));
    lines.extend(key.old_values.iter().map(old));
    card(&lines)
}

/// A key with its value, on a line of its own so that it can be copied whole.
pub fn revealed(key: &KeyView, secret: &str, now: Timestamp) -> String {
    format!("{}\n{secret}\n\nThis value is shown only this once: keep it now, where its machine will find it.\n", details(key, now))
}

fn permissions(key: &KeyView) -> String {
    let effective = listed(Some(&key.effective_permissions), "", "none");
    match &key.permissions {
        None => format!("{effective} (the machine's)"),
        Some(own) if *own == key.effective_permissions => effective,
        Some(own) => format!("{effective} (the key names {}; what the machine holds as well counts)", listed(Some(own), "", "none")),
    }
}

fn last_used(key: &KeyView, now: Timestamp) -> String {
    let from = key.last_used_ip.as_ref().map(|ip| format!(" from {ip}")).unwrap_or_default();
    with_date(key.last_used_at.as_deref(), now) + &from
}

fn replaced(old: &OldValueView, now: Timestamp) -> String {
    let end = if old.counts { format!(", counts until {}, {}", old.counts_until, use_of(old, now)) } else { String::new() };
    format!("{}, replaced {}{end}", old.hint, relative(Some(&old.replaced_at), "", now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> KeyView {
        serde_json::from_value(json!({
            "id": "key_1", "machine_id": "mac_1", "machine_name": "Facturation", "label": "Production - Facturation", "description": "",
            "environment": "prod", "hint": "pk_prod_…x7Qa", "permissions": ["a", "b"], "effective_permissions": ["a"],
            "organizations": null, "tier": null, "allowed_ips": null, "expires_at": "2027-01-27T08:00:00.000Z", "status": "active",
            "created_at": "2027-01-15T07:00:00.000Z", "created_by": "socket:root", "last_used_at": "2027-01-15T07:57:00.000Z",
            "last_used_ip": "192.0.2.7", "value_last_used_at": "2027-01-15T07:57:00.000Z", "value_last_used_ip": "192.0.2.7",
            "last_refused_at": null, "exposed_at": null, "idle_since": "2027-01-15T07:57:00.000Z", "idle": false, "old_values": [],
        }))
        .unwrap()
    }

    fn rotated() -> KeyView {
        let old_values = serde_json::from_value(json!([
            {"hint": "pk_prod_…aaaa", "replaced_at": "2027-01-11T08:00:00.000Z", "counts_until": "2027-01-18T08:00:00.000Z", "counts": true,
             "last_used_at": "2027-01-12T08:00:00.000Z", "last_used_ip": "192.0.2.7", "safe_to_end": true},
            {"hint": "pk_prod_…bbbb", "replaced_at": "2027-01-01T08:00:00.000Z", "counts_until": "2027-01-01T08:00:00.000Z", "counts": false,
             "last_used_at": null, "last_used_ip": null, "safe_to_end": false},
        ]));
        KeyView { old_values: old_values.unwrap(), ..key() }
    }

    fn now() -> Timestamp {
        Timestamp::parse("2027-01-15T08:00:00Z").unwrap()
    }

    #[test]
    fn keys_are_shown_in_words() {
        let expected = "ID     MACHINE      LABEL                     ENV   STATUS  EXPIRES     LAST USED\n\
                        key_1  Facturation  Production - Facturation  prod  active  in 12 days  3 min ago\n";
        assert_eq!(table(&[key()], now()).or("no keys"), expected);
        let text = details(&rotated(), now());
        for line in [
            "Permissions    a (the key names a, b; what the machine holds as well counts)\n",
            "Last used      3 min ago (2027-01-15T07:57:00.000Z) from 192.0.2.7\n",
            "Last refused   never\n",
            "Old value      pk_prod_…aaaa, replaced 4 days ago, counts until 2027-01-18T08:00:00.000Z, last used 3 days ago, safe to end\n",
            "Old value      pk_prod_…bbbb, replaced 14 days ago\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn the_list_says_what_to_look_at() {
        let text = table(&[key(), rotated()], now()).or("");
        let mut lines = text.lines();
        assert!(lines.next().is_some_and(|headings| headings.ends_with("NOTE")), "{text}");
        assert!(lines.next().is_some_and(|line| line.ends_with("3 min ago")), "{text}");
        assert!(lines.next().is_some_and(|line| line.ends_with("  old value last used 3 days ago, safe to end")), "{text}");
        let idle = KeyView { idle: true, idle_since: "2026-11-15T08:00:00.000Z".into(), ..key() };
        assert!(table(&[idle], now()).or("").ends_with("idle since 61 days ago\n"));
    }

    #[test]
    fn a_value_stands_on_a_line_of_its_own_and_is_said_to_be_shown_once() {
        let text = revealed(&key(), "pk_prod_0", now());
        assert!(text.lines().any(|line| line == "pk_prod_0") && text.contains("only this once"), "{text}");
    }
}
