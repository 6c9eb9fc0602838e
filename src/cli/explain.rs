//! `octroi explain`: why a request would be let in or turned away.

use std::fmt::Write as _;
use std::io::Read;
use std::net::IpAddr;

use clap::Args;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::client::{Client, understand};
use super::failure::{Failure, Outcome};
use super::named;
use super::output::{self, tame};
use super::request::{Body, Reason, Shared, now};
use super::when::{Side, meant};
use crate::admin::wire::decision::{ExplainView, StepView, WindowView};
use crate::model::KeyId;
use crate::model::secret::has_form;

/// No value is longer; what a file holds beyond is not read.
const MAX_VALUE: u64 = 4_096;

#[derive(Debug, Args)]
pub struct Explain {
    /// A URL with the host that clients call, or a path
    url: String,
    /// The key: its id, label or value; - reads a value from standard input, where no list of processes shows it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// Where the request comes from
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// Judge another time than now: 30d from now, a day, or an RFC 3339 time
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// A header field of the request, 'Name: value'; repeat it for several
    #[arg(long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    #[command(flatten)]
    shared: Shared,
}

impl Explain {
    pub fn run(self) -> Outcome {
        let at = self.at.as_deref().map(|text| meant("--at", text, Side::Future, now())).transpose()?;
        let body = Body::default()
            .with("method", Some(self.method))
            .with("url", Some(self.url))
            .with("ip", self.ip.map(|ip| ip.to_string()))
            .with("at", at.map(|at| at.to_string()))
            .with("headers", headers(&self.headers)?);
        let client = self.shared.client()?;
        let body = match &self.key {
            Some(key) => with_key(body, &client, key)?,
            None => body,
        };
        let explained = client.ask("POST", "/v1/explain", Some(&body.because(&Reason::default())))?;
        if self.shared.wants_json() {
            return output::print_json(&explained);
        }
        output::print(&shown(&understand(explained)?))
    }
}

fn with_key(body: Body, client: &Client, key: &str) -> Result<Body, Failure> {
    match key {
        "-" => Ok(body.with("key", Some(piped()?.as_str()))),
        value if has_form(value.as_bytes()) => Ok(body.with("key", Some(value))),
        id if id.parse::<KeyId>().is_ok() => Ok(body.with("key_id", Some(id))),
        label => Ok(body.with("key_id", Some(named::key(client, label)?.id))),
    }
}

fn piped() -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().take(MAX_VALUE).read_to_string(&mut text);
    read.map_err(|error| Failure::Refused(format!("cannot read the key from standard input: {error}")))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// The fields by name; one that is given several times is a list.
fn headers(given: &[String]) -> Result<Option<Value>, Failure> {
    let mut fields = Map::new();
    for field in given {
        let (name, value) = field.split_once(':').ok_or_else(|| Failure::Usage("a header is written 'Name: value'".into()))?;
        let values = fields.entry(name.trim()).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(value.trim().into());
        }
    }
    Ok((!fields.is_empty()).then_some(Value::Object(fields)))
}

fn shown(explained: &ExplainView) -> String {
    let mut text = String::new();
    for StepView { step, outcome, code, detail } in &explained.steps {
        let mark = match outcome.as_str() {
            "passed" => "✓",
            "failed" => "✗",
            _ => "·",
        };
        let code = code.as_ref().map(|code| format!("{code}: ")).unwrap_or_default();
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "{mark} {step:<13}{code}{}", tame(detail));
    }
    let _ = match (&explained.code, explained.status) {
        (Some(code), Some(status)) => writeln!(text, "\nRefused: {code} ({status})"),
        _ => writeln!(text, "\nLet in"),
    };
    for WindowView { window, quota, remaining, reset_after } in &explained.limits {
        let more = if *reset_after > 0 { format!(", more in {reset_after} s") } else { String::new() };
        let _ = writeln!(text, "Left: {remaining} of {quota} per {window}{more}");
    }
    for note in &explained.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_steps_are_shown_with_their_marks_and_what_follows_from_them() {
        let explained = json!({
            "verdict": "key_inactive", "code": "key_inactive", "status": 401, "at": "2027-01-15T08:00:00.000Z",
            "steps": [
                {"step": "route", "outcome": "passed", "detail": "sensors: /v1/sensors, demands sensors:read"},
                {"step": "status", "outcome": "failed", "code": "key_inactive", "detail": "deactivated"},
                {"step": "limits", "outcome": "skipped", "detail": "not\u{1b} reached"},
            ],
            "limits": [{"window": "minute", "quota": 60, "remaining": 41, "reset_after": 1}, {"window": "day", "quota": 9, "remaining": 9, "reset_after": 0}],
            "key": null, "machine": null, "route": "sensors", "notes": ["the time lies ahead"],
        });
        let expected = "✓ route        sensors: /v1/sensors, demands sensors:read\n\
                        ✗ status       key_inactive: deactivated\n\
                        · limits       not  reached\n\
                        \nRefused: key_inactive (401)\n\
                        Left: 41 of 60 per minute, more in 1 s\n\
                        Left: 9 of 9 per day\n\
                        Note: the time lies ahead\n";
        assert_eq!(shown(&understand(explained).unwrap()), expected);
    }

    #[test]
    fn headers_keep_every_value_of_a_name() {
        let given = ["X-Org: a".to_owned(), "X-Org:b".to_owned(), "Accept: a:b".to_owned()];
        assert_eq!(headers(&given).unwrap(), Some(json!({"X-Org": ["a", "b"], "Accept": ["a:b"]})));
        assert_eq!(headers(&[]).unwrap(), None);
        assert!(matches!(headers(&["X-Org".to_owned()]), Err(Failure::Usage(_))));
    }
}
