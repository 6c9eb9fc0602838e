//! The fields and parameters that requests are made of, as JSON Schemas. Their names, bounds and patterns follow the readers in
//! [`values`](super::super::values) and [`page`](super::super::page).

use serde_json::{Map, Value, json};

/// Text on one line, without control characters.
const ONE_LINE: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";
/// Likewise, without white space at its ends, and not blank.
const NAME: &str = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$";
/// Line ends and tabs are welcome.
const TEXT: &str = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$";
const SPAN: &str = "^([0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,5}h|[0-9]{1,4}d)$";
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

fn object(required: &[&str], fields: Vec<(&str, Value)>) -> Value {
    let reason = ("reason", nullable(matching(ONE_LINE, 500)));
    let properties: Map<_, _> = fields.into_iter().chain([reason]).map(|(name, schema)| (name.to_owned(), schema)).collect();
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

pub fn new_key() -> Value {
    let environment = ("environment", json!({"type": "string", "pattern": "^[a-z0-9]{2,12}$", "default": "prod"}));
    one_expiry(object(&["label"], key_fields().into_iter().chain([environment]).collect()))
}

pub fn key_edit() -> Value {
    one_expiry(object(&[], key_fields()))
}

// --- parameters ----------------------------------------------------------------------------------------------------------------

fn query(name: &str, schema: Value, description: &str) -> Value {
    json!({"name": name, "in": "query", "required": false, "schema": schema, "description": description})
}

fn header(name: &str, schema: Value, description: &str) -> Value {
    json!({"name": name, "in": "header", "required": false, "schema": schema, "description": description})
}

/// The parameter that stands in the path, after the noun that begins it.
pub fn id(path: &str) -> Value {
    let noun = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let name = match noun {
        "machines" => "MachineId",
        "keys" => "KeyId",
        _ => "OperatorId",
    };
    json!({"name": "id", "in": "path", "required": true, "schema": to(name)})
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
