//! A model of what the store should hold, and changes to drive both with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use crate::model::{
    Environment, Key, KeyId, KeyState, Machine, MachineId, Operator, OperatorId, PermissionName, Rights, SecretHash, TierName, Timestamp,
};
use crate::store::{Embedded, Entry, Filter, Op, Record, Seq, Store, StoreError, Subject};

/// What was told to be done; numbers choose among what is there.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    CreateMachine,
    Rename(usize),
    DeleteMachine(usize),
    CreateKey(usize),
    Revoke(usize),
    Regenerate(usize),
    DeleteKey(usize),
    CreateOperator,
    SwitchOperator(usize),
    DeleteOperator(usize),
}

pub fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::CreateMachine),
        2 => any::<usize>().prop_map(Action::Rename),
        1 => any::<usize>().prop_map(Action::DeleteMachine),
        6 => any::<usize>().prop_map(Action::CreateKey),
        3 => any::<usize>().prop_map(Action::Revoke),
        3 => any::<usize>().prop_map(Action::Regenerate),
        2 => any::<usize>().prop_map(Action::DeleteKey),
        1 => Just(Action::CreateOperator),
        1 => any::<usize>().prop_map(Action::SwitchOperator),
        1 => any::<usize>().prop_map(Action::DeleteOperator),
    ]
}

/// Some of every kind, always the same.
pub fn story(length: usize) -> Vec<Action> {
    use Action::*;
    let verse = [
        CreateMachine,
        CreateKey(0),
        CreateKey(1),
        Revoke(0),
        CreateMachine,
        CreateKey(1),
        Regenerate(1),
        Rename(0),
        DeleteKey(2),
        CreateKey(0),
        DeleteMachine(1),
        CreateOperator,
        SwitchOperator(0),
        DeleteOperator(1),
    ];
    verse.into_iter().cycle().take(length).collect()
}

/// What is expected of a store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    pub machines: BTreeMap<MachineId, Machine>,
    pub keys: BTreeMap<KeyId, Key>,
    pub operators: BTreeMap<OperatorId, Operator>,
    drawn: u32,
}

impl World {
    /// Does the action here and says what to hand to the store; `None` where there is nothing to do it to.
    pub fn act(&mut self, action: Action) -> Option<Entry> {
        self.drawn += 1;
        let now = Timestamp(1_000 * i64::from(self.drawn));
        match action {
            Action::CreateMachine => {
                let machine = machine(MachineId::new(now, 7 * u128::from(self.drawn)), self.drawn);
                Some(self.put_machine("machine.created", machine))
            }
            Action::Rename(n) => {
                let mut machine = nth(&self.machines, n)?;
                machine.name = format!("Renommée {} \"\t\n", self.drawn);
                Some(self.put_machine("machine.edited", machine))
            }
            Action::DeleteMachine(n) => {
                let machine = nth(&self.machines, n)?.id;
                self.machines.remove(&machine);
                self.keys.retain(|_, key| key.machine != machine);
                Some(self.entry("machine.deleted", Subject::Machine(machine), Op::DeleteMachine(machine)))
            }
            Action::CreateKey(n) => {
                let machine = nth(&self.machines, n)?.id;
                let key = key(KeyId::new(now, 5 * u128::from(self.drawn)), machine, self.drawn);
                Some(self.put_key("key.created", key))
            }
            Action::Revoke(n) => {
                let mut key = nth(&self.keys, n)?;
                key.revoke();
                Some(self.put_key("key.revoked", key))
            }
            Action::Regenerate(n) => {
                let mut key = nth(&self.keys, n)?;
                key.regenerate(hash(self.drawn), format!("pk_prod_…{:04}", self.drawn % 10_000), Duration::from_secs(60), now).ok()?;
                Some(self.put_key("key.regenerated", key))
            }
            Action::DeleteKey(n) => {
                let key = nth(&self.keys, n)?.id;
                self.keys.remove(&key);
                Some(self.entry("key.deleted", Subject::Key(key), Op::DeleteKey(key)))
            }
            Action::CreateOperator => {
                let operator = operator(OperatorId::new(now, 3 * u128::from(self.drawn)), self.drawn);
                Some(self.put_operator("operator.created", operator))
            }
            Action::SwitchOperator(n) => {
                let mut operator = nth(&self.operators, n)?;
                operator.enabled = !operator.enabled;
                Some(self.put_operator("operator.disabled", operator))
            }
            Action::DeleteOperator(n) => {
                let operator = nth(&self.operators, n)?.id;
                self.operators.remove(&operator);
                Some(self.entry("operator.deleted", Subject::Operator(operator), Op::DeleteOperator(operator)))
            }
        }
    }

    fn put_machine(&mut self, what: &'static str, machine: Machine) -> Entry {
        self.machines.insert(machine.id, machine.clone());
        self.entry(what, Subject::Machine(machine.id), Op::PutMachine(Box::new(machine)))
    }

    fn put_key(&mut self, what: &'static str, key: Key) -> Entry {
        self.keys.insert(key.id, key.clone());
        self.entry(what, Subject::Key(key.id), Op::PutKey(Box::new(key)))
    }

    fn put_operator(&mut self, what: &'static str, operator: Operator) -> Entry {
        self.operators.insert(operator.id, operator.clone());
        self.entry(what, Subject::Operator(operator.id), Op::PutOperator(Box::new(operator)))
    }

    fn entry(&self, what: &'static str, subject: Subject, op: Op) -> Entry {
        Entry {
            time: Timestamp(1_800_000_000_000 + i64::from(self.drawn)),
            actor: ["socket:root", "socket:élodie"][self.drawn as usize % 2].into(),
            address: self.drawn.is_multiple_of(3).then(|| "2001:db8::7".parse().unwrap()),
            reason: self.drawn.is_multiple_of(2).then(|| "parce que\t\n\"".into()),
            what,
            subject,
            ops: vec![op],
        }
    }
}

fn nth<K: Ord, V: Clone>(of: &BTreeMap<K, V>, n: usize) -> Option<V> {
    of.values().nth(n.checked_rem(of.len())?).cloned()
}

fn machine(id: MachineId, n: u32) -> Machine {
    Machine {
        id,
        name: format!("Service {n} \u{1F5DD}"),
        description: String::new(),
        contact: "équipe".into(),
        permissions: PermissionName::parse("sensors:read").into_iter().collect(),
        organizations: n.is_multiple_of(2).then(|| ["org-1".to_owned(), "ørg".to_owned()].into_iter().collect()),
        tier: TierName::parse("free").filter(|_| n.is_multiple_of(3)),
        third_party: n.is_multiple_of(5),
        enabled: true,
        created_at: Timestamp(i64::from(n)),
    }
}

fn key(id: KeyId, machine: MachineId, n: u32) -> Key {
    Key {
        id,
        machine,
        label: format!("Production - {n}"),
        description: "\0\u{2028}".into(),
        environment: Environment::default(),
        permissions: n.is_multiple_of(2).then(|| PermissionName::parse("a:b").into_iter().collect()),
        organizations: None,
        tier: None,
        allowed_ips: n.is_multiple_of(3).then(|| vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::1/128".parse().unwrap()]),
        expires_at: n.is_multiple_of(4).then_some(Timestamp(i64::MAX)),
        state: KeyState::Active,
        created_at: Timestamp(i64::from(n)),
        created_by: "socket:root".into(),
        hash: hash(n),
        hint: "pk_prod_…abcd".into(),
        old_values: Vec::new(),
        renewed_at: None,
    }
}

fn operator(id: OperatorId, n: u32) -> Operator {
    Operator {
        id,
        name: format!("équipe-{n}"),
        rights: Rights::ALL,
        enabled: true,
        expires_at: n.is_multiple_of(2).then_some(Timestamp(i64::from(n))),
        created_at: Timestamp(i64::from(n)),
        created_by: "socket:root".into(),
        hash: hash(n),
        hint: "octroi_op_…abcd".into(),
    }
}

/// No two alike, and easy to search a file for.
pub fn hash(n: u32) -> SecretHash {
    let mut bytes = [0xEE; 32];
    bytes[28..].copy_from_slice(&n.to_be_bytes());
    SecretHash(bytes)
}

/// Everything that a store shows must be what is expected.
#[track_caller]
pub fn assert_holds(store: &Embedded, world: &World) {
    assert_eq!(&held(store), world);
    let keys = |machine| world.keys.values().filter(|k| k.machine == machine).cloned().collect::<Vec<_>>();
    for machine in world.machines.values() {
        assert_eq!(store.machine(machine.id).unwrap().map(|kept| kept.record).as_ref(), Some(machine));
        assert_eq!(store.keys(Some(machine.id), None, usize::MAX).unwrap(), keys(machine.id));
    }
    assert_eq!(store.operators(None, usize::MAX).unwrap(), world.operators.values().cloned().collect::<Vec<_>>());
}

/// What is in a store. The count of draws is no part of it.
pub fn held(store: &Embedded) -> World {
    let mut held = World::default();
    let mut keys_begun = false;
    store
        .scan(&mut |record| match record {
            Record::Machine(machine) => {
                assert!(!keys_begun, "machines come first");
                held.machines.insert(machine.id, machine);
            }
            Record::Key(key) => {
                keys_begun = true;
                held.keys.insert(key.id, key);
            }
            Record::Operator(operator) => {
                held.operators.insert(operator.id, operator);
            }
        })
        .unwrap();
    held
}

impl World {
    pub fn records(&self) -> u64 {
        (self.machines.len() + self.keys.len() + self.operators.len()) as u64
    }

    /// Without what only the drawing of further changes needs.
    pub fn settled(&self) -> World {
        World { drawn: 0, ..self.clone() }
    }
}

/// Commits a story, one change a group, and hands out what was expected after each.
pub fn told(store: &Embedded, actions: &[Action]) -> Vec<World> {
    let mut world = World::default();
    let mut states = vec![world.settled()];
    for action in actions {
        if let Some(entry) = world.act(*action) {
            store.commit(vec![entry]).unwrap();
            states.push(world.settled());
        }
    }
    states
}

/// The public part of every line, newest first.
pub fn journal(store: &Embedded, before: Option<Seq>, limit: usize) -> Result<Vec<serde_json::Value>, StoreError> {
    Ok(store.history(&Filter::default(), before, limit)?.lines)
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
