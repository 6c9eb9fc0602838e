//! What can be asked, noun by noun: a line for each endpoint of the table.

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use super::super::Endpoint;
use super::super::catalogue::{PermissionRow, RouteInfo, TierRow};
use super::super::wire::{JournalLine, KeyChanged, KeyView, List, MachineUsageView, MachineView, TotalsView, UsageView};
use super::shapes;

/// What an endpoint takes and gives, in the words of the document. The parameter `{id}`, the `Idempotency-Key` of a POST that is done once, the
/// right and the problems follow from the table of endpoints and are not repeated here.
pub struct Operation {
    method: Method,
    path: &'static str,
    pub id: &'static str,
    /// A sentence without a full stop.
    pub summary: &'static str,
    /// Parameter objects.
    pub parameters: Vec<Value>,
    /// The schema of the body, an object.
    pub body: Option<Value>,
    /// It can be made to depend on the state of the record (`If-Match`, `If-None-Match`).
    pub conditional: bool,
    /// The answer says which state it shows (`ETag`).
    pub tagged: bool,
    pub status: u16,
    pub gives: Gives,
}

/// The body of a good answer.
pub enum Gives {
    Nothing,
    Json(fn(&mut SchemaGenerator) -> Schema),
}

impl Operation {
    fn new(method: Method, path: &'static str, id: &'static str, summary: &'static str) -> Operation {
        let (parameters, body, gives) = (Vec::new(), None, Gives::Nothing);
        Operation { method, path, id, summary, parameters, body, conditional: false, tagged: false, status: 204, gives }
    }

    fn takes(mut self, parameters: Vec<Value>) -> Operation {
        self.parameters.extend(parameters);
        self
    }

    fn paged(self) -> Operation {
        self.takes(shapes::page())
    }

    fn body(mut self, body: Value) -> Operation {
        self.body = Some(body);
        self
    }

    fn gives<T: JsonSchema>(mut self, status: u16) -> Operation {
        self.status = status;
        self.gives = Gives::Json(|schemas| schemas.subschema_for::<T>());
        self
    }

    fn tagged(mut self) -> Operation {
        self.tagged = true;
        self
    }

    fn conditional(mut self) -> Operation {
        self.conditional = true;
        self
    }

    pub fn describes(&self, endpoint: &Endpoint) -> bool {
        self.method == endpoint.method && self.path == endpoint.path
    }
}

fn get(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::GET, path, id, summary)
}

fn post(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::POST, path, id, summary)
}

fn patch(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::PATCH, path, id, summary).tagged().conditional()
}

fn delete(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation::new(Method::DELETE, path, id, summary).takes(vec![shapes::reason_parameter()]).conditional()
}

/// An action on one record, which takes nothing but the reason.
fn act<T: JsonSchema>(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    post(path, id, summary).body(shapes::action(&[])).gives::<T>(200).tagged().conditional()
}

pub fn operations() -> Vec<Operation> {
    [machines(), keys(), history(), settings()].into_iter().flatten().collect()
}

fn machines() -> Vec<Operation> {
    vec![
        get("/machines", "listMachines", "Machines in the order they were made in")
            .paged()
            .takes(shapes::machine_filters())
            .gives::<List<MachineView>>(200),
        post("/machines", "createMachine", "Makes a machine").body(shapes::new_machine()).gives::<MachineView>(201).tagged(),
        get("/machines/{id}", "showMachine", "One machine").gives::<MachineView>(200).tagged().conditional(),
        patch("/machines/{id}", "editMachine", "Changes what is given and leaves the rest")
            .body(shapes::machine_edit())
            .gives::<MachineView>(200),
        delete("/machines/{id}", "deleteMachine", "Deletes a machine and its keys, for good"),
        act::<MachineView>("/machines/{id}/enable", "enableMachine", "Lets its keys in again"),
        act::<MachineView>("/machines/{id}/disable", "disableMachine", "Refuses all its keys"),
        get("/machines/{id}/usage", "showMachineUsage", "What its keys did, those that were deleted left out")
            .gives::<MachineUsageView>(200),
    ]
}

fn keys() -> Vec<Operation> {
    vec![
        get("/machines/{id}/keys", "listKeysOfMachine", "The keys of one machine")
            .paged()
            .takes(shapes::key_filters())
            .gives::<List<KeyView>>(200),
        post("/machines/{id}/keys", "createKey", "Makes a key; its value is in this one answer")
            .body(shapes::new_key())
            .gives::<KeyChanged>(201)
            .tagged(),
        get("/keys", "listKeys", "The keys of all machines, in the order they were made in")
            .paged()
            .takes(vec![shapes::machine_filter()])
            .takes(shapes::key_filters())
            .gives::<List<KeyView>>(200),
        get("/keys/{id}", "showKey", "One key").gives::<KeyView>(200).tagged().conditional(),
        patch("/keys/{id}", "editKey", "Changes what is given and leaves the rest").body(shapes::key_edit()).gives::<KeyChanged>(200),
        delete("/keys/{id}", "deleteKey", "Deletes a key, for good"),
        act::<KeyChanged>("/keys/{id}/deactivate", "deactivateKey", "Refuses the key until it is reactivated"),
        act::<KeyChanged>("/keys/{id}/reactivate", "reactivateKey", "Lets the key in again, with the same value"),
        act::<KeyChanged>("/keys/{id}/revoke", "revokeKey", "Refuses the key for good"),
        post("/keys/{id}/regenerate", "regenerateKey", "Gives the key a new value, which is in this one answer")
            .body(shapes::action(&[("grace", shapes::span("How long the old value counts beside the new one; not at all without it."))]))
            .gives::<KeyChanged>(200)
            .tagged()
            .conditional(),
        get("/keys/{id}/usage", "showKeyUsage", "What the key did").gives::<UsageView>(200),
    ]
}

fn history() -> Vec<Operation> {
    vec![
        get("/journal", "listJournal", "Who changed what, when and why, newest first").paged().gives::<List<JournalLine>>(200),
        get("/usage", "showUsage", "All calls by how they ended").gives::<TotalsView>(200),
    ]
}

fn settings() -> Vec<Operation> {
    vec![
        get("/tiers", "listTiers", "The tiers of the settings").gives::<List<TierRow>>(200),
        get("/routes", "listRoutes", "The routes of the settings").gives::<List<RouteInfo>>(200),
        get("/permissions", "listPermissions", "The permissions of the settings").gives::<List<PermissionRow>>(200),
        get("/config", "showConfig", "All settings in force, defaults included, laid out as in the settings file")
            .gives::<serde_json::Map<String, Value>>(200),
    ]
}
