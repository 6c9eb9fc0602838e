//! Whatever is done, the live registry, the store opened anew, and a replay of the journal say the same of every value there ever was.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use octroi::clock::Clock;
use octroi::model::change::{KeyEdit, MachineEdit, NewKey, NewMachine, NewOperator, OperatorEdit};
use octroi::model::{
    Actor, Authority, Change, KeyId, MachineId, OperatorId, Organizations, Origin, PermissionName, PermissionSet, Right, Rights,
    SecretHash, TierName,
};
use octroi::registry::{Left, Registry};
use octroi::store::{Author, Embedded, verify_store};
use proptest::prelude::*;
use tempfile::tempdir;
use tokio::runtime::Builder;

use crate::support::client::eventually;
use crate::support::gateway::NOON;

/// What to do; numbers choose among all that was ever made, also of what is gone.
#[derive(Clone, Debug)]
enum Step {
    Machine,
    EditMachine(usize, u8),
    SwitchMachine(usize, bool),
    DeleteMachine(usize),
    Key(usize, u8),
    EditKey(usize, u8),
    SwitchKey(usize, bool),
    Revoke(usize),
    Regenerate(usize, u16),
    DeleteKey(usize),
    Operator,
    EditOperator(usize, u8),
    SwitchOperator(usize, bool),
    RegenerateOperator(usize),
    DeleteOperator(usize),
    Wait(u16),
    Archive,
}

fn step() -> impl Strategy<Value = Step> {
    let n = any::<usize>;
    prop_oneof![
        3 => Just(Step::Machine),
        2 => (n(), any::<u8>()).prop_map(|(n, to)| Step::EditMachine(n, to)),
        1 => (n(), any::<bool>()).prop_map(|(n, on)| Step::SwitchMachine(n, on)),
        1 => n().prop_map(Step::DeleteMachine),
        8 => (n(), any::<u8>()).prop_map(|(n, to)| Step::Key(n, to)),
        3 => (n(), any::<u8>()).prop_map(|(n, to)| Step::EditKey(n, to)),
        4 => (n(), any::<bool>()).prop_map(|(n, on)| Step::SwitchKey(n, on)),
        1 => n().prop_map(Step::Revoke),
        6 => (n(), 0u16..100).prop_map(|(n, grace)| Step::Regenerate(n, grace)),
        1 => n().prop_map(Step::DeleteKey),
        1 => Just(Step::Operator),
        1 => (n(), any::<u8>()).prop_map(|(n, to)| Step::EditOperator(n, to)),
        1 => (n(), any::<bool>()).prop_map(|(n, on)| Step::SwitchOperator(n, on)),
        1 => n().prop_map(Step::RegenerateOperator),
        1 => n().prop_map(Step::DeleteOperator),
        4 => (0u16..100).prop_map(Step::Wait),
        1 => Just(Step::Archive),
    ]
}

/// Everything that was ever made.
#[derive(Default)]
struct Made {
    machines: Vec<MachineId>,
    keys: Vec<KeyId>,
    operators: Vec<OperatorId>,
    values: Vec<SecretHash>,
    steps: usize,
}

impl Made {
    /// The change that a step asks for; `None` where there is nothing to make it to.
    fn change(&mut self, step: &Step) -> Option<Change> {
        self.steps += 1;
        let nth = |ids: &[MachineId], n: usize| ids.get(n.checked_rem(ids.len())?).copied();
        let machine = |n: &usize| nth(&self.machines, *n);
        let key = |n: &usize| self.keys.get(n.checked_rem(self.keys.len())?).copied();
        let operator = |n: &usize| self.operators.get(n.checked_rem(self.operators.len())?).copied();
        Some(match step {
            Step::Machine => Change::CreateMachine(NewMachine {
                name: format!("Service {}", self.steps),
                permissions: permissions(self.steps as u8),
                ..NewMachine::default()
            }),
            Step::EditMachine(n, to) => {
                let tier = (to % 3 == 0).then(|| tier(*to));
                Change::EditMachine(machine(n)?, MachineEdit { permissions: Some(permissions(*to)), tier, ..MachineEdit::default() })
            }
            Step::SwitchMachine(n, true) => Change::EnableMachine(machine(n)?),
            Step::SwitchMachine(n, false) => Change::DisableMachine(machine(n)?),
            Step::DeleteMachine(n) => Change::DeleteMachine(machine(n)?),
            Step::Key(n, to) => {
                let new = NewKey { label: format!("prod - {to}"), tier: tier(*to), organizations: organizations(*to), ..NewKey::default() };
                Change::CreateKey(machine(n)?, new)
            }
            Step::EditKey(n, to) => {
                let expires_at = to.is_multiple_of(2).then(|| (to % 4 == 0).then(|| NOON.plus(Duration::from_secs(60 * u64::from(*to)))));
                let edit = KeyEdit {
                    label: Some(format!("prod - {to}")),
                    permissions: Some((to % 5 > 0).then(|| permissions(*to))),
                    expires_at,
                    ..KeyEdit::default()
                };
                Change::EditKey(key(n)?, edit)
            }
            Step::SwitchKey(n, true) => Change::ReactivateKey(key(n)?),
            Step::SwitchKey(n, false) => Change::DeactivateKey(key(n)?),
            Step::Revoke(n) => Change::RevokeKey(key(n)?),
            Step::Regenerate(n, minutes) => Change::RegenerateKey(key(n)?, Duration::from_secs(60 * u64::from(*minutes))),
            Step::DeleteKey(n) => Change::DeleteKey(key(n)?),
            Step::Operator => {
                Change::CreateOperator(NewOperator { name: format!("équipe {}", self.steps), rights: Rights::ALL, expires_at: None })
            }
            Step::EditOperator(n, to) => {
                let rights = [Right::MachinesRead, Right::KeysVerify].into_iter().take(1 + usize::from(to % 2)).collect();
                Change::EditOperator(operator(n)?, OperatorEdit { rights: Some(rights), ..OperatorEdit::default() })
            }
            Step::SwitchOperator(n, true) => Change::EnableOperator(operator(n)?),
            Step::SwitchOperator(n, false) => Change::DisableOperator(operator(n)?),
            Step::RegenerateOperator(n) => Change::RegenerateOperator(operator(n)?),
            Step::DeleteOperator(n) => Change::DeleteOperator(operator(n)?),
            Step::Wait(_) | Step::Archive => return None,
        })
    }
}

fn permissions(to: u8) -> PermissionSet {
    ["sensors:read", "events:read", "admin"]
        .iter()
        .enumerate()
        .filter(|(n, _)| to >> n & 1 == 1)
        .filter_map(|(_, p)| PermissionName::parse(p))
        .collect()
}

fn organizations(to: u8) -> Option<Organizations> {
    to.is_multiple_of(7).then(|| [format!("org-{to}")].into_iter().collect())
}

fn tier(to: u8) -> Option<TierName> {
    ["free", "premium"].get(usize::from(to % 4)).and_then(|name| TierName::parse(name))
}

/// All that a registry says of all values.
fn told(registry: &Registry, values: &[SecretHash], clock: &Clock) -> String {
    let mut told = String::new();
    for (n, hash) in values.iter().enumerate() {
        let entry = registry.identify(hash).map(|entry| {
            let narrowed = entry.narrowed().map(|n| {
                format!("{:?} {:?} {:?} {:?}", n.permissions, n.organizations, n.allowed_ips, n.tier.as_ref().map(|(tier, _)| tier))
            });
            let machine = entry.machine.state();
            let verdict = entry.judge(&machine, clock.now().wall).map_err(|refusal| refusal.code());
            let replaced = entry.is_replaced();
            format!("{} {} {:?} {replaced} {verdict:?} {narrowed:?} {machine:?}", entry.key, entry.label, entry.environment)
        });
        writeln!(told, "value {n}: {entry:?} {:?}", registry.operator(hash)).unwrap();
    }
    told
}

struct Opened {
    registry: Registry,
    store: Arc<Embedded>,
}

fn open(folder: &Path, clock: &Clock) -> Opened {
    // The writer of a registry that was just dropped lets go of the folder a moment later.
    let store = Arc::new(eventually("the folder", || Embedded::open(folder).ok()));
    Opened { registry: Registry::open(store.clone(), clock.clone(), "pk".into()).unwrap(), store }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn j_the_live_registry_the_store_and_the_journal_say_the_same_of_every_value(steps in prop::collection::vec(step(), 1..60)) {
        let (folder, clock, runtime) = (tempdir().unwrap(), Clock::manual(NOON), Builder::new_current_thread().build().unwrap());
        let at = folder.path().join("data");
        let origin = || Origin { actor: Actor("test".into()), authority: Authority::Everything, address: None, reason: None };
        let author = Author { time: NOON, actor: "test".into(), address: None, reason: None };
        let live = open(&at, &clock);
        let mut made = Made::default();
        for step in &steps {
            match step {
                Step::Wait(minutes) => clock.advance(Duration::from_secs(60 * u64::from(*minutes))),
                Step::Archive => drop(live.store.archive(&folder.path().join("old"), &author).unwrap()),
                step => {
                    let Some(change) = made.change(step) else { continue };
                    // Of what is gone or revoked it is refused; that, too, must leave the same everywhere.
                    let Ok(committed) = runtime.block_on(live.registry.commit(origin(), change)) else { continue };
                    match committed.left {
                        Left::Machine(machine) => made.machines.push(machine.id),
                        Left::Key(key) => made.keys.push(key.id),
                        Left::Operator(operator) => made.operators.push(operator.id),
                        Left::Nothing => {}
                    }
                    made.values.extend(committed.secret.map(|secret| secret.hash()));
                }
            }
        }
        let mut expected = told(&live.registry, &made.values, &clock);
        clock.advance(Duration::from_secs(30 * 60));
        expected.push_str(&told(&live.registry, &made.values, &clock));
        drop(live);
        clock.step_wall(-30 * 60 * 1000);

        for how in ["reloaded", "replayed"] {
            if how == "replayed" {
                eventually("the folder", || verify_store(&at).ok());
                std::fs::remove_dir_all(at.join("sled")).unwrap();
            }
            let again = open(&at, &clock);
            let mut found = told(&again.registry, &made.values, &clock);
            clock.step_wall(30 * 60 * 1000);
            found.push_str(&told(&again.registry, &made.values, &clock));
            clock.step_wall(-30 * 60 * 1000);
            prop_assert_eq!(&found, &expected, "{}", how);
        }
    }
}
