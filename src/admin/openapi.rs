//! The description of the admin API that programs read: OpenAPI 3.1, at `/openapi.json` and by `octroi openapi`.
//!
//! Which endpoints there are and which right each takes comes from the [table](super::endpoints), what each takes and gives from
//! [`operations`]; answers are described by the very types that are sent. It holds nothing of a gateway's settings or state, so it is
//! served to everybody. A request's fields and parameters are read one by one, so [`shapes`] describe them, and a test asks the running
//! gateway whether it knows the same ones.

mod operations;
mod shapes;

use std::sync::OnceLock;

use axum::response::{IntoResponse, Response};
use http::{Method, header};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::wire::ProblemBody;
use super::{Endpoint, endpoints};
use operations::{Gives, Operation, operations};

/// The media type of JSON lines.
pub const NDJSON: &str = "application/x-ndjson";

pub async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text()).into_response()
}

/// The document, with a line end at its end. Made once: everybody may ask for it, also who has no token.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    // Cannot fail: every name in it is a text.
    TEXT.get_or_init(|| serde_json::to_string_pretty(&whole()).unwrap_or_default() + "\n")
}

fn whole() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let problem = schemas.subschema_for::<ProblemBody>().to_value();
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let Some(operation) = operations().into_iter().find(|operation| operation.describes(&endpoint)) else { continue };
        let place = paths.entry(format!("/v1{}", endpoint.path)).or_insert_with(|| json!({}));
        place[endpoint.method.as_str().to_lowercase()] = described(&endpoint, &operation, &mut schemas);
    }
    let mut definitions = schemas.take_definitions(true);
    definitions.extend(shapes::named());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "octroi admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Machines, their keys and their use; the operators who manage them; the journal of all changes and the store that keeps \
                it; what the settings name; and the gate's own answers: why a request is let in or turned away, and whether a key may do \
                something. Times are RFC 3339 in UTC.",
        },
        "servers": [{"url": "/"}],
        "security": [{"operator": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer", "description": "An operator's token."}},
            "responses": {"Problem": {
                "description": "It was not done. `code` says why in one word: `invalid` (400; `errors` has everything that is wrong), \
                    `token_missing` or `token_invalid` (401), `right_missing` (403; `right` names it), `host_denied` (403), `not_found` (404), \
                    `method_not_allowed` (405), `conflict` (409), `precondition_failed` (412), `idempotency_key_reused` (422), \
                    `too_many_failures` (429, with `Retry-After`), `body_too_large` (413), `internal_error` (500), `store_unavailable` (503, with `Retry-After`).",
                "content": {"application/problem+json": {"schema": problem}},
            }},
            "schemas": definitions,
        },
    })
}

fn described(endpoint: &Endpoint, operation: &Operation, schemas: &mut SchemaGenerator) -> Value {
    let mut parameters = operation.parameters.clone();
    parameters.splice(0..0, shapes::in_path(endpoint.path));
    if endpoint.once {
        parameters.push(shapes::idempotency_key());
    }
    let mut responses = json!({"default": {"$ref": "#/components/responses/Problem"}});
    responses[operation.status.to_string()] = given(operation, schemas);
    if operation.conditional {
        let (parameter, failed) = match endpoint.method {
            Method::GET => (shapes::precondition("If-None-Match", "Answer only if it is none of these states (`ETag`), or `*`."), 304),
            _ => (shapes::precondition("If-Match", "Do it only if it is in one of these states (`ETag`), or `*`."), 412),
        };
        parameters.push(parameter);
        responses[failed.to_string()] = match failed {
            304 => json!({"description": "It still is in that state."}),
            _ => json!({"$ref": "#/components/responses/Problem"}),
        };
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "description": format!("{} {}", right(endpoint), operation.notes).trim_end(),
        "tags": [endpoint.path.trim_start_matches('/').split('/').next()],
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = &operation.body {
        let mut content = json!({"application/json": {"schema": body}});
        if let Some(lines) = &operation.lines {
            content[NDJSON] = json!({"schema": lines});
        }
        described["requestBody"] = json!({"required": body.get("required").is_some(), "content": content});
    }
    described
}

fn right(endpoint: &Endpoint) -> String {
    match endpoint.right {
        Some(right) => format!("Needs the right `{right}`; without it 403 `right_missing`."),
        None => "Takes any operator's token.".to_owned(),
    }
}

fn given(operation: &Operation, schemas: &mut SchemaGenerator) -> Value {
    let mut headers = Map::new();
    let mut header = |name: &str, says: &str| headers.insert(name.to_owned(), json!({"description": says, "schema": {"type": "string"}}));
    if operation.tagged {
        header("ETag", "The state it is in: the number of its last change, and a checksum of what is shown.");
    }
    if operation.status == 201 {
        header("Location", "Where it is.");
    }
    if let Gives::Stream(_) = operation.gives {
        header("Octroi-Head", "The last change that is in it, with its place in the chain: `SEQ:CHAIN`.");
    }
    let content = match &operation.gives {
        Gives::Nothing => json!({}),
        Gives::Json(schema) => json!({"application/json": {"schema": schema(schemas).to_value()}}),
        Gives::Stream(media) => json!({*media: {}}),
    };
    let description = match operation.gives {
        Gives::Nothing => "Done.",
        Gives::Json(_) | Gives::Stream(_) => operation.summary,
    };
    let mut given = json!({"description": description});
    if !headers.is_empty() {
        given["headers"] = Value::Object(headers);
    }
    if content != json!({}) {
        given["content"] = content;
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_of_the_table_is_described_and_nothing_else() {
        let (table, operations) = (endpoints(), operations());
        let lacking = |endpoint: &&Endpoint| !operations.iter().any(|operation| operation.describes(endpoint));
        let lacking: Vec<_> = table.iter().filter(lacking).map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)).collect();
        assert!(lacking.is_empty(), "not in openapi/operations.rs: {lacking:?}");
        let foreign = operations.iter().filter(|operation| !table.iter().any(|endpoint| operation.describes(endpoint)));
        assert_eq!(foreign.map(|operation| operation.id).collect::<Vec<_>>(), Vec::<&str>::new(), "not in the table of endpoints");
        let mut ids: Vec<_> = operations.iter().map(|operation| operation.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), table.len(), "each operation has an id of its own");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, into: &mut Vec<String>) {
            match value {
                Value::Object(members) => members.iter().for_each(|(name, value)| match (name.as_str(), value) {
                    ("$ref", Value::String(to)) => into.push(to.clone()),
                    _ => references(value, into),
                }),
                Value::Array(entries) => entries.iter().for_each(|entry| references(entry, into)),
                _ => {}
            }
        }
        let (document, mut found) = (whole(), Vec::new());
        references(&document, &mut found);
        assert!(found.len() > 50);
        for to in found {
            assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
        }
    }
}
