//! What can be asked, noun by noun: a line for each endpoint of the table.

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use super::super::Endpoint;
use super::super::catalogue::{PermissionRow, RouteInfo, TierRow};
use super::super::wire::decision::{ExplainView, VerifyView};
use super::super::wire::{
    ArchivedView, BulkItem, JournalLine, JournalPage, JournalVerified, KeyChanged, KeyView, List, MachineUsageView, MachineView,
    OperatorChanged, OperatorView, StoreVerified, TotalsView, UsageView, WhoamiView,
};
use super::{NDJSON, shapes};

/// What an endpoint takes and gives, in the words of the document. The parameter `{id}`, the `Idempotency-Key` of a POST that is done once, the
/// right and the problems follow from the table of endpoints and are not repeated here.
pub struct Operation {
    method: Method,
    path: &'static str,
    pub id: &'static str,
    /// A sentence without a full stop.
    pub summary: &'static str,
    /// More about it: sentences.
    pub notes: &'static str,
    /// Parameter objects.
    pub parameters: Vec<Value>,
    /// The schema of the body, an object.
    pub body: Option<Value>,
    /// The schema of a body of JSON lines, which may be sent instead.
    pub lines: Option<Value>,
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
    /// Something long of this media type, made while it is sent. Its head says in `Octroi-Head` with which change it ends.
    Stream(&'static str),
}

impl Operation {
    fn new(method: Method, path: &'static str, id: &'static str, summary: &'static str) -> Operation {
        Operation {
            method,
            path,
            id,
            summary,
            notes: "",
            parameters: Vec::new(),
            body: None,
            lines: None,
            conditional: false,
            tagged: false,
            status: 204,
            gives: Gives::Nothing,
        }
    }

    fn notes(mut self, notes: &'static str) -> Operation {
        self.notes = notes;
        self
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

    fn lines(mut self, lines: Value) -> Operation {
        self.lines = Some(lines);
        self
    }

    fn gives<T: JsonSchema>(mut self, status: u16) -> Operation {
        self.status = status;
        self.gives = Gives::Json(|schemas| schemas.subschema_for::<T>());
        self
    }

    fn streams(mut self, media: &'static str) -> Operation {
        self.status = 200;
        self.gives = Gives::Stream(media);
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

/// A part of the journal.
fn activity(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    get(path, id, summary).paged().takes(shapes::journal_filters()).gives::<JournalPage>(200)
}

pub fn operations() -> Vec<Operation> {
    [machines(), keys(), decisions(), operators(), history(), store(), settings()].into_iter().flatten().collect()
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
        post("/keys/bulk", "createKeys", "Makes up to 1000 keys; their values are in this one answer")
            .notes("Each key stands for itself: what is wrong with one is told in its place of the answer and keeps none of the others from being made.")
            .body(shapes::new_keys())
            .lines(shapes::new_key_lines())
            .gives::<List<BulkItem>>(200),
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
        act::<KeyChanged>("/keys/{id}/end-grace", "endGrace", "Ends the old value that still counts, because everybody has the new one"),
        get("/keys/{id}/usage", "showKeyUsage", "What the key did").gives::<UsageView>(200),
    ]
}

fn decisions() -> Vec<Operation> {
    vec![
        post("/explain", "explain", "Why a request would be let in or turned away, step by step")
            .notes("Asking spends nothing, and no value that is asked about is told back.")
            .body(shapes::question())
            .gives::<ExplainView>(200),
        post("/verify", "verify", "Whether a key may do something, for applications that ask instead of being proxied")
            .notes("It counts as a call of that key, unless it is a dry run. A key that may not is an answer like any other: 200, with `valid` false.")
            .body(shapes::verification())
            .gives::<VerifyView>(200),
    ]
}

fn operators() -> Vec<Operation> {
    vec![
        get("/operators", "listOperators", "Operators in the order they were made in")
            .paged()
            .takes(shapes::operator_filters())
            .gives::<List<OperatorView>>(200),
        post("/operators", "createOperator", "Makes an operator; the token is in this one answer")
            .notes("Nobody grants a right that they lack.")
            .body(shapes::new_operator())
            .gives::<OperatorChanged>(201)
            .tagged(),
        get("/operators/{id}", "showOperator", "One operator").gives::<OperatorView>(200).tagged().conditional(),
        patch("/operators/{id}", "editOperator", "Changes what is given and leaves the rest")
            .notes("Nobody grants a right that they lack, and nobody but who holds an operator's rights makes its token last longer.")
            .body(shapes::operator_edit())
            .gives::<OperatorChanged>(200),
        delete("/operators/{id}", "deleteOperator", "Deletes an operator, for good"),
        act::<OperatorChanged>("/operators/{id}/enable", "enableOperator", "Lets the operator's token count again"),
        act::<OperatorChanged>("/operators/{id}/disable", "disableOperator", "Refuses the operator's token until it is enabled again"),
        act::<OperatorChanged>(
            "/operators/{id}/regenerate",
            "regenerateOperator",
            "Gives the operator a new token, which is in this one answer",
        )
        .notes("The token before ends at once."),
        get("/whoami", "whoami", "Who asks, and what they may do").gives::<WhoamiView>(200),
    ]
}

fn history() -> Vec<Operation> {
    vec![
        activity("/machines/{id}/activity", "listMachineActivity", "What happened to one machine, also to one that was deleted"),
        activity("/keys/{id}/activity", "listKeyActivity", "What happened to one key, also to one that was deleted"),
        activity("/operators/{id}/activity", "listOperatorActivity", "What happened to one operator, also to one that was deleted"),
        activity("/journal", "listJournal", "Who changed what, when and why, newest first").takes(vec![shapes::subject_filter()]),
        get("/journal/{seq}", "showJournalLine", "One change").gives::<JournalLine>(200),
        get("/journal/verify", "verifyJournal", "Whether the journal is as it was written, and the first entry that is not")
            .takes(vec![shapes::heads()])
            .gives::<JournalVerified>(200),
        get("/journal/export", "exportJournal", "The journal as JSON lines, oldest first, each with its place in the chain")
            .notes("One that breaks off has no end, so that nobody takes a part for the whole.")
            .takes(shapes::export_range())
            .streams(NDJSON),
        get("/usage", "showUsage", "All calls by how they ended").gives::<TotalsView>(200),
    ]
}

fn store() -> Vec<Operation> {
    vec![
        post("/journal/archive", "archiveJournal", "Moves the journal's older files to a folder of the gateway's machine")
            .body(shapes::archiving())
            .gives::<ArchivedView>(200),
        post("/store/backup", "backupStore", "A backup of everything that was acknowledged before this was asked for")
            .notes(
                "One that breaks off has no end, so that nobody takes a part for the whole. Two are read at a time: more are answered 409.",
            )
            .streams("application/octet-stream"),
        get("/store/verify", "verifyStore", "Looks the store through, and says what is bad").gives::<StoreVerified>(200),
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
