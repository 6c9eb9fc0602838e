//! What a client of the admin API knows for sure: every change that was answered holds; one that was not may hold, whole or not at all.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Stands for an id or the end of a value that the answer would have told.
const UNTOLD: &str = "";
/// How many replaced values a key remembers.
const OLD_VALUES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Active,
    Inactive,
    Revoked,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Inactive => "inactive",
            Status::Revoked => "revoked",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub name: String,
    pub note: String,
    pub permitted: bool,
    pub enabled: bool,
}

/// A value that a key has or had. The value itself is missing where the answer that showed it never came.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub value: Option<String>,
    pub hint: String,
    /// Replaced, and in grace.
    pub counts: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub machine: String,
    pub label: String,
    pub status: Status,
    /// With a permission list of its own, that is empty.
    pub narrowed: bool,
    /// The current one first.
    pub values: Vec<Held>,
}

/// Something that does not exist any more: its id and its values must stay unknown for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Gone {
    pub id: String,
    pub values: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum Change {
    CreateMachine { name: String },
    EditMachine { id: String, note: String, permitted: bool },
    SwitchMachine { id: String, enabled: bool },
    DeleteMachine { id: String },
    CreateKey { machine: String, label: String },
    EditKey { id: String, label: String, narrowed: bool },
    Deactivate { id: String },
    Reactivate { id: String },
    Revoke { id: String },
    Regenerate { id: String, grace: bool },
    DeleteKey { id: String },
}

impl Change {
    /// Method, target and body of the request.
    pub fn request(&self) -> (&'static str, String, Option<Value>) {
        let permissions = |permitted: &bool| if *permitted { json!(["sensors:read"]) } else { json!([]) };
        match self {
            Change::CreateMachine { name } => {
                ("POST", "/v1/machines".into(), Some(json!({"name": name, "permissions": ["sensors:read"], "tier": "unmetered"})))
            }
            Change::EditMachine { id, note, permitted } => {
                ("PATCH", format!("/v1/machines/{id}"), Some(json!({"description": note, "permissions": permissions(permitted)})))
            }
            Change::SwitchMachine { id, enabled: true } => ("POST", format!("/v1/machines/{id}/enable"), None),
            Change::SwitchMachine { id, enabled: false } => ("POST", format!("/v1/machines/{id}/disable"), None),
            Change::DeleteMachine { id } => ("DELETE", format!("/v1/machines/{id}"), None),
            Change::CreateKey { machine, label } => ("POST", format!("/v1/machines/{machine}/keys"), Some(json!({"label": label}))),
            Change::EditKey { id, label, narrowed } => {
                let permissions = if *narrowed { json!([]) } else { Value::Null };
                ("PATCH", format!("/v1/keys/{id}"), Some(json!({"label": label, "permissions": permissions})))
            }
            Change::Deactivate { id } => ("POST", format!("/v1/keys/{id}/deactivate"), None),
            Change::Reactivate { id } => ("POST", format!("/v1/keys/{id}/reactivate"), None),
            Change::Revoke { id } => ("POST", format!("/v1/keys/{id}/revoke"), None),
            Change::Regenerate { id, grace } => {
                ("POST", format!("/v1/keys/{id}/regenerate"), Some(json!({"grace": if *grace { "24h" } else { "0s" }})))
            }
            Change::DeleteKey { id } => ("DELETE", format!("/v1/keys/{id}"), None),
        }
    }
}

/// Everything one client made and still knows of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holdings {
    pub machines: BTreeMap<String, Machine>,
    pub keys: BTreeMap<String, Key>,
    pub gone: Vec<Gone>,
}

impl Holdings {
    /// The status that the answer to a change must have.
    pub fn status_of(&self, change: &Change) -> u16 {
        let is_revoked = |id: &String| self.keys[id].status == Status::Revoked;
        match change {
            Change::CreateMachine { .. } | Change::CreateKey { .. } => 201,
            Change::DeleteMachine { .. } | Change::DeleteKey { .. } => 204,
            Change::Deactivate { id } | Change::Reactivate { id } | Change::Regenerate { id, .. } | Change::EditKey { id, .. }
                if is_revoked(id) =>
            {
                409
            }
            _ => 200,
        }
    }

    /// What is held once a change was made. Without its answer, ids and values it told stay open.
    pub fn make(&mut self, change: &Change, answer: Option<&Value>) {
        if self.status_of(change) == 409 {
            return;
        }
        let told = |name: &str| answer.and_then(|a| a[name].as_str()).map(str::to_owned);
        let id_told = || told("id").unwrap_or_else(|| UNTOLD.into());
        let value_told = || Held { value: told("secret"), hint: told("hint").unwrap_or_else(|| UNTOLD.into()), counts: true };
        match change {
            Change::CreateMachine { name } => {
                let machine = Machine { name: name.clone(), note: String::new(), permitted: true, enabled: true };
                self.machines.insert(id_told(), machine);
            }
            Change::EditMachine { id, note, permitted } => {
                let machine = self.machine(id);
                (machine.note, machine.permitted) = (note.clone(), *permitted);
            }
            Change::SwitchMachine { id, enabled } => self.machine(id).enabled = *enabled,
            Change::DeleteMachine { id } => {
                self.machines.remove(id);
                let keys: Vec<String> = self.keys_of(id).map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| self.bury(key));
            }
            Change::CreateKey { machine, label } => {
                let values = vec![value_told()];
                let key = Key { machine: machine.clone(), label: label.clone(), status: Status::Active, narrowed: false, values };
                self.keys.insert(id_told(), key);
            }
            Change::EditKey { id, label, narrowed } => {
                let key = self.key(id);
                (key.label, key.narrowed) = (label.clone(), *narrowed);
            }
            Change::Deactivate { id } => self.key(id).status = Status::Inactive,
            Change::Reactivate { id } => self.key(id).status = Status::Active,
            Change::Revoke { id } => self.key(id).status = Status::Revoked,
            Change::Regenerate { id, grace } => {
                let new = value_told();
                let key = self.key(id);
                key.values.iter_mut().for_each(|old| old.counts = false);
                key.values[0].counts = *grace;
                key.values.insert(0, new);
                let forgotten: Vec<String> =
                    key.values.drain((OLD_VALUES + 1).min(key.values.len())..).filter_map(|old| old.value).collect();
                // The key lives on, but these values are as unknown as those of a deleted one.
                self.gone.extend(forgotten.into_iter().map(|value| Gone { id: UNTOLD.into(), values: vec![value] }));
            }
            Change::DeleteKey { id } => self.bury(id),
        }
    }

    pub fn keys_of(&self, machine: &str) -> impl Iterator<Item = (&String, &Key)> {
        self.keys.iter().filter(move |(_, key)| key.machine == machine)
    }

    fn machine(&mut self, id: &str) -> &mut Machine {
        self.machines.get_mut(id).expect("changes are made to machines that are held")
    }

    fn key(&mut self, id: &str) -> &mut Key {
        self.keys.get_mut(id).expect("changes are made to keys that are held")
    }

    fn bury(&mut self, id: &str) {
        let key = self.keys.remove(id).expect("keys that are held are deleted");
        self.gone.push(Gone { id: id.into(), values: key.values.into_iter().filter_map(|held| held.value).collect() });
    }

    /// What a call with one of a key's values must meet.
    pub fn verdict(&self, key: &Key, held: &Held) -> &'static str {
        let machine = &self.machines[&key.machine];
        match key.status {
            _ if !held.counts => "key_replaced",
            Status::Revoked => "key_revoked",
            Status::Inactive => "key_inactive",
            Status::Active if !machine.enabled => "machine_disabled",
            Status::Active if key.narrowed || !machine.permitted => "permission_denied",
            Status::Active => "ok",
        }
    }

    /// Compares with what the gateway shows, and learns from it what answers that never came would have told.
    pub fn agree(mut self, shown: &Shown) -> Result<Holdings, String> {
        self.adopt(shown);
        let same_names = self.machines.keys().eq(shown.machines.keys()) && self.keys.keys().eq(shown.keys.keys());
        if !same_names {
            let ids = |there: Vec<&String>, other: &dyn Fn(&String) -> bool| {
                there.into_iter().filter(|id| !other(id)).cloned().collect::<Vec<_>>()
            };
            let held = self.machines.keys().chain(self.keys.keys()).collect();
            let seen = shown.machines.keys().chain(shown.keys.keys()).collect();
            return Err(format!(
                "missing: {:?}, too many: {:?}",
                ids(held, &|id| shown.machines.contains_key(id) || shown.keys.contains_key(id)),
                ids(seen, &|id| self.machines.contains_key(id) || self.keys.contains_key(id))
            ));
        }
        for (id, machine) in &self.machines {
            same(id, &machine_as_shown(machine), &shown.machines[id])?;
        }
        for (id, key) in &mut self.keys {
            let seen = &shown.keys[id];
            // A value that was never told can at least not be the one before it.
            if key.values[0].hint == UNTOLD && key.values.get(1).is_none_or(|old| seen["hint"] != *old.hint) {
                key.values[0].hint = seen["hint"].as_str().unwrap_or(UNTOLD).into();
            }
            same(id, &key_as_shown(key), &pick_key(seen))?;
        }
        Ok(self)
    }

    /// Gives what was made without an answer the one id that nobody else has.
    fn adopt(&mut self, shown: &Shown) {
        let one = |ids: Vec<&String>| if let [id] = ids[..] { Some(id.clone()) } else { None };
        if self.machines.contains_key(UNTOLD)
            && let Some(id) = one(shown.machines.keys().filter(|id| !self.machines.contains_key(*id)).collect())
            && let Some(machine) = self.machines.remove(UNTOLD)
        {
            self.machines.insert(id, machine);
        }
        if self.keys.contains_key(UNTOLD)
            && let Some(id) = one(shown.keys.keys().filter(|id| !self.keys.contains_key(*id)).collect())
            && let Some(key) = self.keys.remove(UNTOLD)
        {
            self.keys.insert(id, key);
        }
    }
}

/// What the gateway shows of one client's machines and keys, by id.
#[derive(Debug, Default)]
pub struct Shown {
    pub machines: BTreeMap<String, Value>,
    pub keys: BTreeMap<String, Value>,
}

impl Shown {
    pub fn add_machine(&mut self, view: &Value) {
        let machine = json!({"name": view["name"], "description": view["description"], "permissions": view["permissions"], "enabled": view["enabled"]});
        self.machines.insert(view["id"].as_str().expect("an id").into(), machine);
    }

    pub fn add_key(&mut self, view: &Value) {
        self.keys.insert(view["id"].as_str().expect("an id").into(), view.clone());
    }
}

fn machine_as_shown(machine: &Machine) -> Value {
    let permissions = if machine.permitted { json!(["sensors:read"]) } else { json!([]) };
    json!({"name": machine.name, "description": machine.note, "permissions": permissions, "enabled": machine.enabled})
}

fn key_as_shown(key: &Key) -> Value {
    let permissions = if key.narrowed { json!([]) } else { Value::Null };
    let old: Vec<&str> = key.values[1..].iter().map(|old| old.hint.as_str()).collect();
    json!({
        "machine_id": key.machine, "label": key.label, "status": key.status.as_str(), "permissions": permissions,
        "hint": key.values[0].hint, "old_values": old,
    })
}

/// Of a key as the API shows it, what [`key_as_shown`] knows.
fn pick_key(view: &Value) -> Value {
    let old: Vec<&Value> = view["old_values"].as_array().into_iter().flatten().map(|old| &old["hint"]).collect();
    json!({
        "machine_id": view["machine_id"], "label": view["label"], "status": view["status"], "permissions": view["permissions"],
        "hint": view["hint"], "old_values": old,
    })
}

fn same(id: &str, expected: &Value, seen: &Value) -> Result<(), String> {
    if expected == seen { Ok(()) } else { Err(format!("{id} should be {expected}, is {seen}")) }
}
