//! The body of a change, read field by field: everything that is not valid is said at once, each with its pointer.
//!
//! A reader takes each field it knows, then calls [`Fields::finish`]; what is left over then was unknown. Absent and null
//! are told apart, as PATCH needs (RFC 7396 section 1).

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use http::{HeaderMap, header};
use serde_json::{Map, Value};

use super::MAX_BODY;
use super::problem::{Code, Problem};
use super::wire::{FieldError, json};

/// What a single value was read as, or what is wrong with it and where in it.
pub type Read<T> = Result<T, Faults>;

/// Faults of one value; the pointers are relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<FieldError>);

impl<S: Into<String>> From<S> for Faults {
    fn from(message: S) -> Faults {
        Faults(vec![FieldError { pointer: String::new(), message: message.into() }])
    }
}

/// A JSON object of which fields are taken one by one.
#[derive(Debug, Default)]
pub struct Fields {
    left: Map<String, Value>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// An empty text is an empty object: most actions need no body.
    pub fn parse(body: &[u8]) -> Result<Fields, Problem> {
        if body.is_empty() {
            return Ok(Fields::default());
        }
        json::parse(body).map_err(Problem::invalid).and_then(Fields::of)
    }

    pub fn of(value: Value) -> Result<Fields, Problem> {
        match value {
            Value::Object(left) => Ok(Fields { left, ..Fields::default() }),
            other => Err(Problem::invalid_at("", format!("must be a JSON object, not {}", kind(&other)))),
        }
    }

    /// A field that may be left out, and must not be null.
    pub fn optional<T>(&mut self, name: &'static str, read: impl FnOnce(Value) -> Read<T>) -> Option<T> {
        match self.take(name)? {
            Value::Null => self.keep(name, Err("must not be null; leave it out to leave it as it is".into())),
            value => self.keep(name, read(value)),
        }
    }

    /// A field that may be left out (`None`) or null (`Some(None)`).
    pub fn nullable<T>(&mut self, name: &'static str, read: impl FnOnce(Value) -> Read<T>) -> Option<Option<T>> {
        match self.take(name)? {
            Value::Null => Some(None),
            value => self.keep(name, read(value)).map(Some),
        }
    }

    /// A field that must be there. `None` only when a fault was noted.
    pub fn required<T>(&mut self, name: &'static str, read: impl FnOnce(Value) -> Read<T>) -> Option<T> {
        match self.take(name) {
            Some(Value::Null) | None => self.keep(name, Err("is required".into())),
            Some(value) => self.keep(name, read(value)),
        }
    }

    /// A field of the object that this request cannot change: fine when it says what is there already, so that a client
    /// can send back what it was shown. `remedy` says what changes it instead.
    pub fn unchangeable(&mut self, name: &'static str, current: &Value, remedy: &str) {
        if self.left.remove(name).is_some_and(|value| value != *current) {
            self.fault(format!("/{name}"), format!("cannot be edited; {remedy}"));
        }
    }

    /// Members that move by themselves in the objects of a list.
    pub fn disregard_in(&mut self, name: &str, members: &[&str]) {
        let objects = self.left.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut);
        objects.for_each(|object| object.retain(|member, _| !members.contains(&member.as_str())));
    }

    /// A field that moves by itself: whatever a client sends back of it is as good as nothing.
    pub fn disregard(&mut self, name: &'static str) {
        self.left.remove(name);
    }

    /// Notes what is wrong with fields taken together.
    pub fn fault(&mut self, pointer: String, message: String) {
        self.errors.push(FieldError { pointer, message });
    }

    /// Everything that was not valid, unknown fields included.
    pub fn finish(mut self) -> Result<(), Problem> {
        for name in self.left.keys() {
            let pointer = format!("/{}", json::escaped(name));
            let message = format!("is not a field of this request; known: {}", self.known.join(", "));
            self.errors.push(FieldError { pointer, message });
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid(self.errors)) }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.remove(name)
    }

    fn keep<T>(&mut self, name: &str, read: Read<T>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(Faults(faults)) => {
                let below = faults.into_iter().map(|f| FieldError { pointer: format!("/{name}{}", f.pointer), message: f.message });
                self.errors.extend(below);
                None
            }
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Fields, Problem> {
        let is_json = is_json(request.headers());
        let body = Bytes::from_request(request, state).await.map_err(unread)?;
        // A form or text/plain body is what a browser sends across sites without asking first.
        if !body.is_empty() && !is_json {
            return Err(Problem::invalid_at("", "must be sent with Content-Type: application/json"));
        }
        Fields::parse(&body)
    }
}

/// What is said of a body that could not be read to its end.
pub fn unread(rejection: BytesRejection) -> Problem {
    match rejection.status() {
        http::StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::BodyTooLarge, format!("the body is longer than {MAX_BODY} bytes")),
        _ => Problem::invalid_at("", "did not arrive whole"),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    is_type(headers, "application/json") || is_type(headers, "application/merge-patch+json")
}

/// Whether the body is said to be of that media type, whatever its parameters.
pub fn is_type(headers: &HeaderMap, essence: &str) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(essence)
}

/// What a JSON value is, with its article.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::super::values;
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    fn pointers(fields: Fields) -> Vec<String> {
        fields.finish().map_or_else(|problem| problem.errors.into_iter().map(|e| e.pointer).collect(), |()| Vec::new())
    }

    #[test]
    fn absent_null_and_set_are_told_apart() {
        let cases = [("{}", None), (r#"{"x":null}"#, Some(None)), (r#"{"x":true}"#, Some(Some(true)))];
        for (json, expected) in cases {
            let mut f = fields(json);
            assert_eq!(f.nullable("x", values::boolean), expected, "{json}");
            assert!(f.finish().is_ok(), "{json}");
        }
        let mut f = fields(r#"{"x":null}"#);
        assert_eq!(f.optional("x", values::boolean), None);
        assert_eq!(pointers(f), ["/x"]);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let mut f = fields(r#"{"a":1,"unknown~/field":2,"id":"other"}"#);
        f.optional("a", values::boolean);
        f.required("b", values::boolean);
        f.unchangeable("id", &Value::from("mine"), "make another");
        let problem = f.finish().unwrap_err();
        let seen: Vec<&str> = problem.errors.iter().map(|e| e.pointer.as_str()).collect();
        assert_eq!(seen, ["/a", "/b", "/id", "/unknown~0~1field"]);
        assert!(problem.errors[3].message.ends_with("known: a, b"), "{}", problem.errors[3].message);
    }

    #[test]
    fn what_is_sent_back_unchanged_is_no_edit() {
        let mut f = fields(r#"{"id":"mine"}"#);
        f.unchangeable("id", &Value::from("mine"), "make another");
        assert!(f.finish().is_ok());
    }

    #[test]
    fn a_body_is_an_object_or_nothing() {
        assert!(Fields::parse(b"").is_ok());
        for bad in ["[]", "null", "\"x\"", "{", "{}{}", " ", "{\"a\":1,}"] {
            let problem = Fields::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(problem.errors[0].pointer, "", "{bad}");
        }
    }

    #[test]
    fn only_json_is_json() {
        let of = |value: &'static str| is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(value))]));
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(of(good), "{good}");
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "text/json", ""] {
            assert!(!of(bad), "{bad}");
        }
    }
}
