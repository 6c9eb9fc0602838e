//! What commands ask of the gateway: options that many share, and JSON bodies made of options.

use std::path::Path;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::client::{Address, Client};
use super::failure::Failure;
use super::locate::Gateway;
use super::output::Format;
use crate::clock::Clock;
use crate::model::Timestamp;

/// Options of every command that speaks to a gateway.
#[derive(Clone, Debug, Args)]
pub struct Shared {
    #[command(flatten)]
    gateway: Gateway,
    /// How to show the result
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Gateway")]
    pub output: Format,
}

impl Shared {
    pub fn client(&self) -> Result<Client, Failure> {
        Client::new(Address::Socket(self.gateway.socket()?))
    }

    /// The settings file that `--config` names: what a stopped gateway can be known by.
    pub fn settings(&self) -> Option<&Path> {
        self.gateway.settings()
    }

    pub fn wants_json(&self) -> bool {
        self.output == Format::Json
    }
}

/// Why a change is made.
#[derive(Clone, Debug, Default, Args)]
pub struct Reason {
    /// Why; kept in the journal, at most 500 characters
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// The options that say what somebody may do, alike for machines and keys.
#[derive(Clone, Debug, Default, Args)]
pub struct Rights {
    /// A permission; repeat it for several. In an edit they replace what was there
    #[arg(long = "permission", value_name = "NAME")]
    pub permissions: Vec<String>,
    /// The id of an organization to be restricted to; repeat it for several. In an edit likewise
    #[arg(long = "organization", value_name = "ID")]
    pub organizations: Vec<String>,
    /// A tier of the settings
    #[arg(long, value_name = "NAME")]
    pub tier: Option<String>,
}

/// A JSON object made of the options that were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body(Map<String, Value>);

impl Body {
    pub fn with(mut self, name: &str, value: Option<impl Into<Value>>) -> Body {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }

    /// A list that was given at least one entry.
    pub fn with_list(self, name: &str, values: &[String]) -> Body {
        self.with(name, (!values.is_empty()).then(|| values.to_vec()))
    }

    pub fn with_rights(self, rights: &Rights) -> Body {
        self.with_list("permissions", &rights.permissions)
            .with_list("organizations", &rights.organizations)
            .with("tier", rights.tier.clone())
    }

    /// Empties fields, each with the value that means so. One that is also set is wrong usage.
    pub fn clearing(mut self, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Result<Body, Failure> {
        for (name, empty) in fields {
            if self.0.insert(name.to_owned(), empty).is_some() {
                return Err(Failure::Usage(format!("{name} cannot be both set and cleared")));
            }
        }
        Ok(self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With the reason, as the API takes it.
    pub fn because(self, reason: &Reason) -> Value {
        Value::Object(self.with("reason", reason.reason.clone()).0)
    }
}

/// A query string of the parameters that are set, with its `?`; empty when none is.
pub fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let set = parameters.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={}", encoded(value))));
    let joined = set.collect::<Vec<_>>().join("&");
    if joined.is_empty() { joined } else { format!("?{joined}") }
}

fn encoded(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}

pub fn now() -> Timestamp {
    Clock::system().now().wall
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_body_holds_what_was_given_and_no_more() {
        let rights = Rights { permissions: vec!["a:read".into()], ..Rights::default() };
        let reason = Reason { reason: Some("audit".into()) };
        let body = Body::default().with("name", Some("Billing")).with("contact", None::<String>).with_rights(&rights);
        assert_eq!(body.clone().because(&Reason::default()), json!({"name": "Billing", "permissions": ["a:read"]}));
        let cleared = body.clone().clearing([("tier", Value::Null)]).unwrap().because(&reason);
        assert_eq!(cleared, json!({"name": "Billing", "permissions": ["a:read"], "tier": null, "reason": "audit"}));
        assert!(matches!(body.clearing([("permissions", json!([]))]), Err(Failure::Usage(_))));
    }

    #[test]
    fn any_text_can_stand_in_a_query() {
        assert_eq!(query(&[("a", None)]), "");
        assert_eq!(query(&[("label", Some("é&a=b #")), ("x", None), ("y", Some("1"))]), "?label=%C3%A9%26a%3Db%20%23&y=1");
    }
}
