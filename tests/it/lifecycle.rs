//! The life of machines and keys: every change binds the very next request and survives a restart.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use octroi::clock::Clock;
use octroi::model::change::{KeyEdit, MachineEdit, NewKey};
use octroi::model::{Change, ChangeError, TierName, Timestamp};

use crate::support::gateway::NOON;
use crate::support::{Gateway, Upstream, gateway};

#[test]
fn each_change_binds_the_very_next_request() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    let (key, machine) = (holder.key.id, holder.machine.id);
    let edit = |edit: KeyEdit| Change::EditKey(key, edit);
    let past = Some(Some(Timestamp(NOON.0 - 1)));
    let steps: Vec<(Change, u16, &str)> = vec![
        (Change::DeactivateKey(key), 401, "key_inactive"),
        (Change::DeactivateKey(key), 401, "key_inactive"),
        (Change::ReactivateKey(key), 200, ""),
        (Change::DisableMachine(machine), 401, "machine_disabled"),
        (Change::EnableMachine(machine), 200, ""),
        (edit(KeyEdit { expires_at: past, ..KeyEdit::default() }), 401, "key_expired"),
        (edit(KeyEdit { expires_at: Some(None), ..KeyEdit::default() }), 200, ""),
        (edit(KeyEdit { permissions: Some(Some(Default::default())), ..KeyEdit::default() }), 403, "permission_denied"),
        (edit(KeyEdit { permissions: Some(None), ..KeyEdit::default() }), 200, ""),
        (edit(KeyEdit { allowed_ips: Some(Some(vec!["192.0.2.1/32".parse().unwrap()])), ..KeyEdit::default() }), 403, "address_denied"),
        (edit(KeyEdit { allowed_ips: Some(None), ..KeyEdit::default() }), 200, ""),
        (
            Change::EditMachine(machine, MachineEdit { permissions: Some(Default::default()), ..MachineEdit::default() }),
            403,
            "permission_denied",
        ),
        (Change::RevokeKey(key), 401, "key_revoked"),
        (Change::RevokeKey(key), 401, "key_revoked"),
    ];
    let bearer = format!("Bearer {}", holder.value);
    for (change, status, code) in steps {
        let what = format!("{change:?}");
        let mut connection = gateway.connect();
        gateway.commit(change).unwrap();
        for round in ["at once", "after a restart"] {
            let answer = connection.get("/v1/sensors", &[("Authorization", &bearer)]);
            assert_eq!(answer.status, status, "{what} {round}: {answer:?}");
            if status != 200 {
                answer.refused(status, code);
            }
            if round == "at once" {
                gateway.restart();
                connection = gateway.connect();
            }
        }
    }
    for final_change in [Change::ReactivateKey(key), Change::DeactivateKey(key), Change::RegenerateKey(key, Duration::ZERO)] {
        assert_eq!(gateway.commit(final_change).unwrap_err(), ChangeError::Revoked(key));
    }
    let label = KeyEdit { label: Some("prod - retired v1".into()), ..KeyEdit::default() };
    gateway.commit(Change::EditKey(key, label)).unwrap();
    gateway.commit(Change::DeleteKey(key)).unwrap();
    gateway.get_as(&holder, "/v1/sensors").refused(401, "key_unknown");
    gateway.restart();
    gateway.get_as(&holder, "/v1/sensors").refused(401, "key_unknown");
}

#[test]
fn of_several_reasons_the_first_in_the_published_order_is_told() {
    let upstream = Upstream::plain();
    let settings = gateway::settings(upstream.address)
        .replace("free: {per_minute: 60, per_day: 10000}", "free: {per_minute: 3, per_day: 3}\n  daily: {per_minute: 3, per_day: 9}");
    let gateway = Gateway::with(settings, Clock::manual(NOON));
    let machine = gateway.machine("caller", &["sensors:read"], Some("free"));
    let holder = gateway.key(&machine, NewKey::default());
    for _ in 0..3 {
        assert_eq!(gateway.get_as(&holder, "/v1/sensors").status, 200);
    }
    let (key, machine) = (holder.key.id, holder.machine.id);
    let key_edit = |edit: KeyEdit| Change::EditKey(key, edit);
    let tier = |name: &str| Change::EditMachine(machine, MachineEdit { tier: Some(TierName::parse(name)), ..MachineEdit::default() });
    let wrong = key_edit(KeyEdit {
        permissions: Some(Some(Default::default())),
        organizations: Some(Some(["acme".to_owned()].into_iter().collect())),
        allowed_ips: Some(Some(vec!["192.0.2.1/32".parse().unwrap()])),
        expires_at: Some(Some(Timestamp(NOON.0 - 1))),
        ..KeyEdit::default()
    });
    for change in [wrong.clone(), Change::DisableMachine(machine), Change::DeactivateKey(key)] {
        gateway.commit(change).unwrap();
    }
    let repairs = [
        (401, "key_inactive", Change::ReactivateKey(key)),
        (401, "key_expired", key_edit(KeyEdit { expires_at: Some(None), ..KeyEdit::default() })),
        (401, "machine_disabled", Change::EnableMachine(machine)),
        (403, "address_denied", key_edit(KeyEdit { allowed_ips: Some(None), ..KeyEdit::default() })),
        (403, "permission_denied", key_edit(KeyEdit { permissions: Some(None), ..KeyEdit::default() })),
        (403, "organization_denied", key_edit(KeyEdit { organizations: Some(None), ..KeyEdit::default() })),
        (429, "quota_exceeded", tier("daily")),
        (429, "rate_limited", tier("unmetered")),
    ];
    for (status, code, repair) in repairs {
        gateway.get_as(&holder, "/v1//sensors").refused(400, "bad_request");
        gateway.get_as(&holder, "/nowhere").refused(404, "route_not_found");
        gateway.get_as(&holder, "/v1/sensors").refused(status, code);
        gateway.commit(repair).unwrap();
    }
    assert_eq!(gateway.get_as(&holder, "/v1/sensors").status, 200);
    for change in [wrong, Change::DisableMachine(machine), Change::DeactivateKey(key), Change::RevokeKey(key)] {
        gateway.commit(change).unwrap();
    }
    gateway.get_as(&holder, "/v1/sensors").refused(401, "key_revoked");
    let bearer = format!("Bearer {}", holder.value);
    gateway.get("/v1/sensors", &[("Authorization", &bearer), ("X-API-Key", "x")]).refused(400, "key_ambiguous");
}

#[test]
fn a_regenerated_key_has_one_new_value_and_keeps_the_rest() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    let regenerate = |gateway: &Gateway, grace| {
        let made = gateway.commit(Change::RegenerateKey(holder.key.id, grace)).unwrap();
        made.secret.unwrap().reveal().to_string()
    };
    let second = regenerate(&gateway, Duration::ZERO);
    let with = |gateway: &Gateway, value: &str| gateway.get("/v1/sensors", &[("X-API-Key", value)]);
    with(&gateway, &holder.value).refused(401, "key_replaced");
    assert_eq!(with(&gateway, &second).status, 200);

    let third = regenerate(&gateway, Duration::from_secs(3_600));
    assert_eq!((with(&gateway, &second).status, with(&gateway, &third).status), (200, 200), "both in grace");
    gateway.restart();
    assert_eq!((with(&gateway, &second).status, with(&gateway, &third).status), (200, 200), "also after a restart");
    gateway.wait(Duration::from_secs(3_600));
    with(&gateway, &second).refused(401, "key_replaced");
    assert_eq!(with(&gateway, &third).status, 200);
    with(&gateway, &holder.value).refused(401, "key_replaced");
    gateway.commit(Change::RevokeKey(holder.key.id)).unwrap();
    with(&gateway, &third).refused(401, "key_revoked");
}

#[test]
fn t021_a_key_expires_when_it_says_and_no_clock_brings_it_back() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("premium"));
    let holder = gateway.key(&machine, NewKey { expires_at: Some(Timestamp(NOON.0 + 10_000)), ..NewKey::default() });
    gateway.wait(Duration::from_millis(9_999));
    assert_eq!(gateway.get_as(&holder, "/any/x").status, 200);
    gateway.wait(Duration::from_millis(1));
    gateway.get_as(&holder, "/any/x").refused(401, "key_expired");
    gateway.clock.step_wall(-3_600_000);
    gateway.get_as(&holder, "/any/x").refused(401, "key_expired");
    let later = KeyEdit { expires_at: Some(Some(Timestamp(NOON.0 + 1_000_000))), ..KeyEdit::default() };
    gateway.commit(Change::EditKey(holder.key.id, later)).unwrap();
    assert_eq!(gateway.get_as(&holder, "/any/x").status, 200, "moving the date revives it");
}

#[test]
fn a_new_value_of_an_expired_key_is_expired_whatever_the_clock_says() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("premium"));
    let holder = gateway.key(&machine, NewKey { expires_at: Some(Timestamp(NOON.0 + 10_000)), ..NewKey::default() });
    gateway.wait(Duration::from_secs(10));
    gateway.get_as(&holder, "/any/x").refused(401, "key_expired");
    gateway.clock.step_wall(-3_600_000);
    let made = gateway.commit(Change::RegenerateKey(holder.key.id, Duration::ZERO)).unwrap();
    let fresh = made.secret.unwrap().reveal().to_string();
    gateway.get("/any/x", &[("X-API-Key", &fresh)]).refused(401, "key_expired");
}

#[test]
fn a_value_that_died_at_once_stays_dead_when_the_clock_goes_back() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let holder = gateway.holder("caller");
    let regenerate = |gateway: &Gateway, grace| {
        let made = gateway.commit(Change::RegenerateKey(holder.key.id, grace)).unwrap();
        made.secret.unwrap().reveal().to_string()
    };
    let with = |gateway: &Gateway, value: &str| gateway.get("/v1/sensors", &[("X-API-Key", value)]);
    let second = regenerate(&gateway, Duration::from_secs(7_200));
    gateway.wait(Duration::from_secs(60));
    let third = regenerate(&gateway, Duration::ZERO);
    gateway.clock.step_wall(-30_000);
    for _ in 0..2 {
        with(&gateway, &holder.value).refused(401, "key_replaced");
        with(&gateway, &second).refused(401, "key_replaced");
        assert_eq!(with(&gateway, &third).status, 200);
        gateway.restart();
    }
}

#[test]
fn an_old_value_of_an_expired_key_is_expired_however_often_it_asks() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("premium"));
    let holder = gateway.key(&machine, NewKey { expires_at: Some(Timestamp(NOON.0 + 10_000)), ..NewKey::default() });
    gateway.commit(Change::RegenerateKey(holder.key.id, Duration::from_secs(3_600))).unwrap();
    gateway.wait(Duration::from_secs(10));
    for _ in 0..2 {
        gateway.get_as(&holder, "/any/x").refused(401, "key_expired");
    }
    gateway.clock.step_wall(-5_000);
    let label = KeyEdit { label: Some("prod - renamed v1".into()), ..KeyEdit::default() };
    gateway.commit(Change::EditKey(holder.key.id, label)).unwrap();
    gateway.get_as(&holder, "/any/x").refused(401, "key_expired");
    gateway.wait(Duration::from_secs(3_600));
    gateway.get_as(&holder, "/any/x").refused(401, "key_replaced");
}

#[test]
fn deleting_a_machine_deletes_its_keys() {
    let upstream = Upstream::plain();
    let mut gateway = Gateway::before(upstream.address);
    let (gone, stays) = (gateway.holder("gone"), gateway.holder("stays"));
    gateway.commit(Change::DeleteMachine(gone.machine.id)).unwrap();
    for _ in 0..2 {
        gateway.get_as(&gone, "/v1/sensors").refused(401, "key_unknown");
        assert_eq!(gateway.get_as(&stays, "/v1/sensors").status, 200);
        gateway.restart();
    }
    assert!(matches!(gateway.commit(Change::CreateKey(gone.machine.id, NewKey::default())), Err(ChangeError::NoSuchMachine(_))));
    gateway.machine("gone", &[], None);
}

#[test]
fn names_are_unique() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let (one, two) = (gateway.machine("one", &[], None), gateway.machine("two", &[], None));
    let rename = |name: &str| Change::EditMachine(two.id, MachineEdit { name: Some(name.into()), ..MachineEdit::default() });
    assert_eq!(gateway.commit(rename("one")).unwrap_err(), ChangeError::NameTaken { name: "one".into(), holder: one.id });
    gateway.commit(rename("three")).unwrap();
    gateway.commit(rename("three")).unwrap();
    gateway.machine("two", &[], None);
}

#[test]
fn t019_no_request_sent_after_the_answer_to_a_revocation_is_let_in() {
    let upstream = Upstream::plain();
    let gateway = Gateway::before(upstream.address);
    let machine = gateway.machine("caller", &["admin"], Some("unmetered"));
    let noise = gateway.key(&machine, NewKey::default());
    let stop = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let bearer = format!("Bearer {}", noise.value);
                let mut connection = gateway.connect();
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(connection.get("/any/x", &[("Authorization", &bearer)]).status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut connection = gateway.connect();
        for round in 0..300 {
            let holder = gateway.key(&machine, NewKey::default());
            let bearer = format!("Bearer {}", holder.value);
            assert_eq!(connection.get("/any/x", &[("Authorization", &bearer)]).status, 200, "{round}");
            gateway.commit(Change::RevokeKey(holder.key.id)).unwrap();
            connection.get("/any/x", &[("Authorization", &bearer)]).refused(401, "key_revoked");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(served.into_inner() > 0, "under load");
}
