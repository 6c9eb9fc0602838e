//! The fields and parameters that requests are made of, as JSON Schemas. Their names, bounds and patterns follow the readers in
//! [`values`](super::super::values) and [`page`](super::super::page).

use serde_json::{Map, Value, json};

use super::super::explain::MAX_URL;
use super::super::keys::bulk;
use super::super::store::MAX_PATH;
use super::super::verify::MAX_COST;
use crate::model::Right;
use crate::model::operator::OperatorStatus;
use crate::model::permission::ADMIN;

/// Text on one line, without control characters.
const ONE_LINE: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";
/// Likewise, without white space at its ends, and not blank.
const NAME: &str = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$";
/// Line ends and tabs are welcome.
const TEXT: &str = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$";
const SPAN: &str = "^([0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,5}h|[0-9]{1,4}d)$";
/// The name of a method or of a header field (RFC 9110 section 5.6.2).
const TOKEN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
/// The value of a header field.
const FIELD: &str = r"^[^\x00-\x08\x0a-\x1f\x7f]*$";
/// A path with its query and fragment, or the whole URL.
const URL: &str = concat!(
    r"^(/[^\x00- #<>?`\x7f]*|[hH][tT][tT][pP][sS]?://[a-zA-Z0-9.-]+(:[0-9]{1,4})?(/[^\x00- #<>?`\x7f]*)?)",
    r"(\?[^\x00- \x22#<>\x7f]*)?(#[\s\S]*)?$"
);
/// Opaque tags between quotes, or `*` (RFC 9110 section 13.1.1).
const TAGS: &str = r#"^(\*|(W/)?"[!#-~]*"( ?, ?(W/)?"[!#-~]*"){0,31})$"#;

/// Schemas that have a name of their own.
pub fn named() -> Map<String, Value> {
    let id = |prefix: &str| json!({"type": "string", "pattern": format!("^{prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$")});
    let named = [
        ("MachineId", id("mac")),
        ("KeyId", id("key")),
        ("OperatorId", id("op")),
        (
            "PermissionName",
            json!({"type": "string", "pattern": "^[a-z0-9:_.-]{1,64}$", "description": "One that the settings name, or `admin`."}),
        ),
        ("TierName", json!({"type": "string", "pattern": "^[a-z0-9_-]{1,32}$", "description": "One that the settings name."})),
        ("Organization", json!({"type": "string", "minLength": 1, "maxLength": 128, "description": "An id of 1 to 128 bytes."})),
        (
            "Url",
            json!({
                "type": "string", "pattern": URL, "maxLength": MAX_URL,
                "description": "A path with its query, or a whole URL: `/v1/sensors?unit=k`, `https://api.example.org/v1/sensors`.",
            }),
        ),
        (
            "Folder",
            json!({
                "type": "string", "pattern": r"^/[^\x00]*$", "maxLength": MAX_PATH,
                "description": "An absolute path on the machine that the gateway runs on.",
            }),
        ),
        ("NewKeyOfMachine", new_key_of_machine()),
        (
            "Network",
            json!({"type": "string", "description": "An address or a range without bits beyond its prefix: `192.0.2.7`, `10.0.0.0/8`, `fd00::/8`."}),
        ),
    ];
    Map::from_iter(named.map(|(name, schema)| (name.to_owned(), schema)))
}

fn to(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn matching(pattern: &str, longest: usize) -> Value {
    json!({"type": "string", "pattern": pattern, "maxLength": longest})
}

fn matching_all(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

fn list(name: &str) -> Value {
    json!({"type": "array", "items": to(name), "maxItems": 1000})
}

/// `schema`, or null.
fn nullable(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

pub fn span(description: &str) -> Value {
    json!({"type": "string", "pattern": SPAN, "description": description})
}

// --- bodies --------------------------------------------------------------------------------------------------------------------

/// The body of a change: it can say why it is made.
fn object(required: &[&str], fields: Vec<(&str, Value)>) -> Value {
    let reason = ("reason", nullable(matching(ONE_LINE, 500)));
    plain(required, fields.into_iter().chain([reason]))
}

fn plain<'a>(required: &[&str], fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let properties: Map<_, _> = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut object = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

/// The body of an action, which may be left out.
pub fn action(fields: &[(&str, Value)]) -> Value {
    object(&[], fields.to_vec())
}

fn machine_fields() -> Vec<(&'static str, Value)> {
    vec![
        ("name", matching(NAME, 200)),
        ("description", matching(TEXT, 2000)),
        ("contact", matching(ONE_LINE, 200)),
        ("permissions", list("PermissionName")),
        ("organizations", nullable(list("Organization"))),
        ("tier", nullable(to("TierName"))),
        ("third_party", json!({"type": "boolean"})),
    ]
}

pub fn new_machine() -> Value {
    object(&["name"], machine_fields())
}

pub fn machine_edit() -> Value {
    object(&[], machine_fields())
}

fn key_fields() -> Vec<(&'static str, Value)> {
    let networks = json!({"type": "array", "items": to("Network"), "minItems": 1, "maxItems": 1000});
    vec![
        ("label", matching(NAME, 200)),
        ("description", matching(TEXT, 2000)),
        ("permissions", nullable(list("PermissionName"))),
        ("organizations", nullable(list("Organization"))),
        ("tier", nullable(to("TierName"))),
        ("allowed_ips", nullable(networks)),
        ("expires_at", nullable(json!({"type": "string", "format": "date-time"}))),
        ("expires_in", span("From now; instead of `expires_at`.")),
    ]
}

fn one_expiry(mut object: Value) -> Value {
    object["not"] = json!({"required": ["expires_at", "expires_in"]});
    object
}

fn new_key_fields() -> impl Iterator<Item = (&'static str, Value)> {
    let environment = ("environment", json!({"type": "string", "pattern": "^[a-z0-9]{2,12}$", "default": "prod"}));
    key_fields().into_iter().chain([environment])
}

pub fn new_key() -> Value {
    one_expiry(object(&["label"], new_key_fields().collect()))
}

fn new_key_of_machine() -> Value {
    let machine = json!({"type": "string", "minLength": 1, "maxLength": 200, "description": "Its id or its name."});
    one_expiry(object(&["machine", "label"], new_key_fields().chain([("machine", machine)]).collect()))
}

pub fn new_keys() -> Value {
    let keys = json!({"type": "array", "items": to("NewKeyOfMachine"), "minItems": 1, "maxItems": bulk::MOST});
    plain(&["keys"], [("keys", keys)])
}

pub fn new_key_lines() -> Value {
    // A line at least has something in it.
    json!({"type": "string", "pattern": r"[^\t\n\f\r ]", "description": "A `NewKeyOfMachine` a line, 1000 at most; blank lines are passed over."})
}

pub fn key_edit() -> Value {
    one_expiry(object(&[], key_fields()))
}

fn token_fields() -> Vec<(&'static str, Value)> {
    vec![
        ("rights", json!({"type": "array", "items": {"enum": Right::ALL.map(Right::as_str)}, "minItems": 1, "maxItems": 1000})),
        ("expires_at", nullable(json!({"type": "string", "format": "date-time"}))),
        ("expires_in", span("From now; instead of `expires_at`.")),
    ]
}

pub fn new_operator() -> Value {
    one_expiry(object(&["name", "rights"], token_fields().into_iter().chain([("name", matching(NAME, 200))]).collect()))
}

pub fn operator_edit() -> Value {
    one_expiry(object(&[], token_fields()))
}

fn value() -> Value {
    json!({"type": "string", "description": "The value of a key. It is neither kept nor told back."})
}

fn address(description: &str) -> Value {
    json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}], "description": description})
}

/// What explain is asked.
pub fn question() -> Value {
    let field = || matching_all(FIELD);
    let headers = json!({
        "type": "object",
        "propertyNames": {"pattern": TOKEN},
        "additionalProperties": {"anyOf": [field(), {"type": "array", "items": field()}]},
        "description": "Header fields, 200 at most; an array for a field that is there several times.",
    });
    let fields = [
        ("key", value()),
        ("key_id", json!({"allOf": [to("KeyId")], "description": "Instead of `key`: asks about the current value of this key."})),
        ("method", matching_all(TOKEN)),
        ("url", to("Url")),
        ("headers", headers),
        ("ip", address("Who sends it: the address that the gateway's listener sees.")),
        ("at", json!({"type": "string", "format": "date-time", "description": "When; otherwise now."})),
    ];
    let mut question = plain(&["method", "url"], fields);
    question["not"] = json!({"required": ["key", "key_id"]});
    question
}

/// What verify is asked.
pub fn verification() -> Value {
    let permission = || json!({"allOf": [to("PermissionName")], "not": {"const": ADMIN}});
    let permissions = json!({
        "anyOf": [permission(), {"type": "array", "items": permission(), "maxItems": 1000}],
        "description": "What the key must be allowed to do; all of it, if these are several.",
    });
    let fields = [
        ("key", value()),
        ("permission", permissions),
        ("organization", to("Organization")),
        ("cost", json!({"type": "integer", "minimum": 1, "maximum": MAX_COST, "default": 1})),
        ("ip", address("Who showed the key to the application; without it addresses are not judged.")),
        ("dry_run", json!({"type": "boolean", "default": false})),
    ];
    plain(&["key"], fields)
}

pub fn archiving() -> Value {
    object(&["to"], vec![("to", to("Folder"))])
}

// --- parameters ----------------------------------------------------------------------------------------------------------------

fn query(name: &str, schema: Value, description: &str) -> Value {
    json!({"name": name, "in": "query", "required": false, "schema": schema, "description": description})
}

fn header(name: &str, schema: Value, description: &str) -> Value {
    json!({"name": name, "in": "header", "required": false, "schema": schema, "description": description})
}

/// The parameter that stands in the path, if there is one.
pub fn in_path(path: &str) -> Option<Value> {
    let name = path.split_once('{')?.1.split('}').next()?;
    let schema = if name == "seq" { json!({"type": "integer", "minimum": 1, "maximum": u64::MAX}) } else { id(path) };
    Some(json!({"name": name, "in": "path", "required": true, "schema": schema}))
}

/// An id of the noun that begins the path.
fn id(path: &str) -> Value {
    let noun = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    to(match noun {
        "machines" => "MachineId",
        "keys" => "KeyId",
        _ => "OperatorId",
    })
}

pub fn idempotency_key() -> Value {
    let says = "Names the request: a repeat by the same operator within 24 hours is answered as the first one was, without the value that it made.";
    header("Idempotency-Key", json!({"type": "string", "pattern": "^[!-~]{1,255}$"}), says)
}

pub fn precondition(name: &str, says: &str) -> Value {
    header(name, json!({"type": "string", "pattern": TAGS}), says)
}

pub fn reason_parameter() -> Value {
    query("reason", matching(ONE_LINE, 500), "Why; kept in the journal.")
}

pub fn page() -> Vec<Value> {
    vec![
        query("limit", json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 50}), "How many entries at most."),
        query(
            "cursor",
            json!({"type": "string", "pattern": "^c[0-9a-f]{1,32}$"}),
            "The `next_cursor` of the page before. A page may be short, or empty, and not be the last one.",
        ),
    ]
}

fn any_text() -> Value {
    json!({"type": "string"})
}

pub fn machine_filters() -> Vec<Value> {
    vec![
        query("name", any_text(), "Has this very name."),
        query("search", any_text(), "Has this in its name, description or contact, in whatever case."),
        query("enabled", json!({"type": "boolean"}), "Is enabled, or is not."),
        query("tier", to("TierName"), "Is counted by this tier, its own or the default one."),
        query("permission", to("PermissionName"), "Holds this permission, or `admin`."),
    ]
}

pub fn machine_filter() -> Value {
    query("machine", to("MachineId"), "Belongs to this machine.")
}

pub fn key_filters() -> Vec<Value> {
    let moment = || json!({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}, {"type": "string", "pattern": SPAN}]});
    vec![
        query("status", json!({"enum": ["revoked", "inactive", "expired", "active"]}), "Has this status now."),
        query("environment", json!({"type": "string", "pattern": "^[a-z0-9]{2,12}$"}), "Is for this environment."),
        query("label", any_text(), "Has this very label."),
        query("search", any_text(), "Has this in its label, description or hint, in whatever case."),
        query("idle", json!({"type": "boolean"}), "Is active and idle for `keys.warn_idle_after` of the settings, or is not."),
        query("tier", to("TierName"), "Is counted by this tier: its own, its machine's, or the default one."),
        query("permission", to("PermissionName"), "May do this: machine and key both hold it, or `admin`."),
        query("expiring_before", moment(), "Expires before this date or time, or within this long; what is expired already is included."),
        query(
            "unused_since",
            moment(),
            "Was not let in since this date or time, or for this long; a key that never was counts from its making.",
        ),
    ]
}

pub fn operator_filters() -> Vec<Value> {
    let statuses = [OperatorStatus::Disabled, OperatorStatus::Expired, OperatorStatus::Active].map(OperatorStatus::as_str);
    vec![query("name", any_text(), "Has this very name."), query("status", json!({"enum": statuses}), "Has this status now.")]
}

pub fn subject_filter() -> Value {
    let subjects = json!({"anyOf": [to("MachineId"), to("KeyId"), to("OperatorId"), {"const": "store"}]});
    query("subject", subjects, "Is about this machine, key or operator, or was done with the store itself.")
}

pub fn journal_filters() -> Vec<Value> {
    let short = || json!({"type": "string", "minLength": 1, "maxLength": 200});
    let time = || json!({"type": "string", "format": "date-time"});
    vec![
        query("actor", short(), "Was made by `operator:NAME`, `socket:USER`, `offline:NUMBER` or the gateway itself."),
        query("what", short(), "Is of this kind, `key.revoked`, or one of this noun's, `key`."),
        query("since", time(), "Was made at this time or later."),
        query("until", time(), "Was made before this time."),
    ]
}

pub fn heads() -> Value {
    let head = "[0-9]{1,19}:[0-9a-f]{64}";
    let heads = matching_all(&format!("^{head}(,{head}){{0,99}}$"));
    query(
        "head",
        heads,
        "`SEQ:CHAIN` as an export or an earlier verification gave it, or several between commas: are they part of the journal?",
    )
}

pub fn export_range() -> Vec<Value> {
    let seq = || json!({"type": "integer", "minimum": 1, "maximum": u64::MAX});
    vec![
        query("since_seq", seq(), "The first change; otherwise the first that is here. 404 where it is not here, nor the next to be made."),
        query("until_seq", seq(), "The last change; otherwise the last that is here."),
    ]
}
