//! `octroi key …`.

mod bulk;
mod results;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, understand};
use super::confirm::Consent;
use super::failure::{Failure, Outcome};
use super::named;
use super::output::{self, json};
use super::request::{Body, Reason, Rights, Shared, at_most, now, query};
use super::when::{Side, checked_span, is_span, meant};
use crate::admin::wire::{KeyChanged, KeyView};
use crate::model::Timestamp;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key and print its value, this once
    Create(Create),
    /// List keys
    List(ListArgs),
    /// Show one key
    Show(One),
    /// Change what a key is called and may do
    Edit(Edit),
    /// Refuse a key until it is reactivated
    Deactivate(Change),
    /// Let a deactivated key in again, with the same value
    Reactivate(Change),
    /// Refuse a key for good
    Revoke(Final),
    /// Give a key a new value and print it, this once
    Regenerate(Regenerate),
    /// End the grace of a regenerated key's old value, because everybody has the new one
    EndGrace(Change),
    /// Delete a key, for good
    Delete(Final),
}

#[derive(Debug, Args)]
pub struct Create {
    /// The machine that will use it: id or name
    #[arg(long, value_name = "MACHINE", required_unless_present = "from")]
    machine: Option<String>,
    /// What tells it from other keys: environment, system, version
    #[arg(long, value_name = "TEXT", required_unless_present = "from")]
    label: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Where it is used, part of the value: 2 to 12 of a-z and 0-9 [default: prod]
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    #[command(flatten)]
    rights: Rights,
    /// An address or range to be used from; repeat it for several
    #[arg(long = "allow-ip", value_name = "CIDR")]
    allow_ips: Vec<String>,
    /// When it stops counting: 90d, 24h, an RFC 3339 time, or never [default: never]
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Print the value and nothing else
    #[arg(long, conflicts_with = "output")]
    quiet: bool,
    /// Make many: a file with a JSON object a line, {"machine": …, "label": …} with the API's fields; - for standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["machine", "label", "description", "env", "permissions", "organizations", "tier", "allow_ips", "expires", "quiet"]
    )]
    from: Option<PathBuf>,
    /// Where the values go, with --from: a JSON object a line, in a file of mode 0600 [default: standard output]
    #[arg(long, value_name = "FILE", requires = "from")]
    output_file: Option<PathBuf>,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only keys of this machine: id or name
    #[arg(long, value_name = "MACHINE")]
    machine: Option<String>,
    /// Only keys with this status
    #[arg(long, value_enum, value_name = "STATUS")]
    status: Option<Status>,
    /// Only keys of this environment
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Only keys with exactly this label
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Only keys with this text in label, description or hint
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only keys not used for so long, or since this day or RFC 3339 time: 30d
    #[arg(long, value_name = "WHEN")]
    unused_since: Option<String>,
    /// Only keys that expire within so long, or before this day or RFC 3339 time: 14d
    #[arg(long, value_name = "WHEN")]
    expiring_before: Option<String>,
    /// How many keys to show at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only active keys that nobody used for the settings' keys.warn_idle_after
    #[arg(long)]
    idle: bool,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Status {
    Active,
    Inactive,
    Expired,
    Revoked,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::Inactive => "inactive",
            Status::Expired => "expired",
            Status::Revoked => "revoked",
        }
    }
}

#[derive(Debug, Args)]
pub struct One {
    /// Its id or label
    key: String,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Edit {
    /// Its id or label
    key: String,
    /// A new label
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    rights: Rights,
    /// An address or range to be used from; repeat it for several
    #[arg(long = "allow-ip", value_name = "CIDR")]
    allow_ips: Vec<String>,
    /// When it stops counting: 90d, 24h, an RFC 3339 time, or never
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Take away, so that the machine's own hold: permissions, organizations, tier; or allowed-ips (from anywhere)
    #[arg(long, value_enum, value_name = "FIELD", value_delimiter = ',')]
    clear: Vec<Clearable>,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Clearable {
    #[value(alias = "permission")]
    Permissions,
    #[value(alias = "organization")]
    Organizations,
    Tier,
    #[value(alias = "allow-ip")]
    AllowedIps,
}

impl Clearable {
    fn emptied(self) -> (&'static str, Value) {
        let name = match self {
            Clearable::Permissions => "permissions",
            Clearable::Organizations => "organizations",
            Clearable::Tier => "tier",
            Clearable::AllowedIps => "allowed_ips",
        };
        (name, Value::Null)
    }
}

#[derive(Debug, Args)]
pub struct Change {
    /// Its id or label
    key: String,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Final {
    /// Its id or label
    key: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Regenerate {
    /// Its id or label
    key: String,
    /// How long the old value counts as well: 24h, 7d [default: not at all]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// Print the value and nothing else
    #[arg(long, conflicts_with = "output")]
    quiet: bool,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

impl Command {
    pub fn run(self) -> Outcome {
        match self {
            Command::Create(args) => args.run(),
            Command::List(args) => args.run(),
            Command::Show(One { key, shared }) => {
                let client = shared.client()?;
                let found = named::key(&client, &key)?;
                present(&shared, client.get(&target(&found, ""))?)
            }
            Command::Edit(args) => args.run(),
            Command::Deactivate(args) => args.run("deactivate"),
            Command::Reactivate(args) => args.run("reactivate"),
            Command::Revoke(args) => args.revoke(),
            Command::Regenerate(args) => args.run(),
            Command::EndGrace(args) => args.run("end-grace"),
            Command::Delete(args) => args.delete(),
        }
    }
}

impl Create {
    fn run(self) -> Outcome {
        if let Some(from) = &self.from {
            return bulk::run(&self.shared.client()?, from, self.output_file.as_deref(), &self.reason);
        }
        let body = Body::default()
            .with("label", self.label)
            .with("description", self.description)
            .with("environment", self.env)
            .with_rights(&self.rights)
            .with_list("allowed_ips", &self.allow_ips);
        let body = with_expiry(body, self.expires.as_deref())?.because(&self.reason);
        let client = self.shared.client()?;
        let machine = named::machine(&client, &self.machine.unwrap_or_default())?;
        let made = client.ask("POST", &format!("/v1/machines/{}/keys", machine.id), Some(&body))?;
        reveal(&self.shared, self.quiet, made)
    }
}

/// `never`, a length of time, or a time.
pub fn with_expiry(body: Body, expires: Option<&str>) -> Result<Body, Failure> {
    Ok(match expires {
        None => body,
        Some("never") => body.with("expires_at", Some(Value::Null)),
        Some(text) if is_span(text) => body.with("expires_in", Some(text)),
        Some(text) if Timestamp::parse(text).is_some() => body.with("expires_at", Some(text)),
        Some(text) => {
            return Err(Failure::Usage(format!("--expires: {text:?} is no time; write 90d, 24h, 2027-01-31T00:00:00Z, or never")));
        }
    })
}

impl ListArgs {
    fn run(self) -> Outcome {
        let now = now();
        let time = |option, text: &Option<String>, side| text.as_deref().map(|text| meant(option, text, side, now)).transpose();
        let unused_since = time("--unused-since", &self.unused_since, Side::Past)?.map(|time| time.to_string());
        let expiring_before = time("--expiring-before", &self.expiring_before, Side::Future)?.map(|time| time.to_string());
        let client = self.shared.client()?;
        let machine = self.machine.map(|machine| named::machine(&client, &machine)).transpose()?;
        let filters = query(&[
            ("machine", machine.as_ref().map(|machine| machine.id.as_str())),
            ("status", self.status.map(Status::word)),
            ("environment", self.env.as_deref()),
            ("label", self.label.as_deref()),
            ("search", self.search.as_deref()),
            ("unused_since", unused_since.as_deref()),
            ("expiring_before", expiring_before.as_deref()),
            ("idle", self.idle.then_some("true")),
        ]);
        let rows = client.all("/v1/keys", &filters, at_most(self.limit))?;
        if self.shared.wants_json() {
            return output::print_json(&json!({"data": rows}));
        }
        let keys = rows.into_iter().map(understand).collect::<Result<Vec<KeyView>, Failure>>()?;
        show::table(&keys, now).print_or("no keys")
    }
}

impl Edit {
    fn run(self) -> Outcome {
        let body = Body::default()
            .with("label", self.label)
            .with("description", self.description)
            .with_rights(&self.rights)
            .with_list("allowed_ips", &self.allow_ips);
        let body = with_expiry(body, self.expires.as_deref())?.clearing(self.clear.into_iter().map(Clearable::emptied))?;
        if body.is_empty() {
            return Err(Failure::Usage("nothing to change: name at least one field, octroi key edit --help lists them".into()));
        }
        let client = self.shared.client()?;
        let key = named::key(&client, &self.key)?;
        present(&self.shared, client.ask("PATCH", &target(&key, ""), Some(&body.because(&self.reason)))?)
    }
}

impl Change {
    fn run(self, verb: &str) -> Outcome {
        let client = self.shared.client()?;
        let key = named::key(&client, &self.key)?;
        present(&self.shared, act(&client, &key, verb, Body::default(), &self.reason)?)
    }
}

impl Final {
    fn revoke(self) -> Outcome {
        let client = self.shared.client()?;
        let key = named::key(&client, &self.key)?;
        self.consent.to(|| Ok(format!("revoke the key {:?} of {:?}, for good", key.label, key.machine_name)))?;
        present(&self.shared, act(&client, &key, "revoke", Body::default(), &self.reason)?)
    }

    fn delete(self) -> Outcome {
        let client = self.shared.client()?;
        let key = named::key(&client, &self.key)?;
        self.consent.to(|| Ok(format!("delete the key {:?} of {:?}, for good", key.label, key.machine_name)))?;
        client.ask("DELETE", &target(&key, &query(&[("reason", self.reason.reason.as_deref())])), None)?;
        if self.shared.wants_json() { Ok(()) } else { output::print(&format!("Key {} was deleted.\n", key.id)) }
    }
}

impl Regenerate {
    fn run(self) -> Outcome {
        self.grace.as_deref().map(|text| checked_span("--grace", text)).transpose()?;
        let client = self.shared.client()?;
        let key = named::key(&client, &self.key)?;
        let made = act(&client, &key, "regenerate", Body::default().with("grace", self.grace), &self.reason)?;
        reveal(&self.shared, self.quiet, made)
    }
}

fn act(client: &Client, key: &KeyView, verb: &str, body: Body, reason: &Reason) -> Result<Value, Failure> {
    client.ask("POST", &target(key, &format!("/{verb}")), Some(&body.because(reason)))
}

fn target(key: &KeyView, rest: &str) -> String {
    format!("/v1/keys/{}{rest}", key.id)
}

/// Shows a key, and what its maker should think about.
fn present(shared: &Shared, key: Value) -> Outcome {
    if shared.wants_json() {
        return output::print_json(&key);
    }
    let warnings = output::warnings(&key)?;
    output::print(&show::details(&understand(key)?, now()))?;
    output::warn(&warnings);
    Ok(())
}

/// Shows a key with its new value.
fn reveal(shared: &Shared, quiet: bool, made: Value) -> Outcome {
    if shared.wants_json() {
        return output::print_once(&(json(&made)? + "\n"));
    }
    let KeyChanged { key, secret, warnings } = understand(made)?;
    let secret = secret.ok_or_else(|| Failure::Refused("the gateway made the key and sent no value: regenerate it".into()))?;
    if quiet {
        output::print_once(&format!("{secret}\n"))?;
    } else {
        output::print_once(&show::revealed(&key, &secret, now()))?;
    }
    output::warn(&warnings);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_length_a_time_or_never() {
        let cases = [
            (None, json!({})),
            (Some("never"), json!({"expires_at": null})),
            (Some("90d"), json!({"expires_in": "90d"})),
            (Some("2027-01-31T00:00:00Z"), json!({"expires_at": "2027-01-31T00:00:00Z"})),
        ];
        for (expires, body) in cases {
            assert_eq!(with_expiry(Body::default(), expires).unwrap().because(&Reason::default()), body, "{expires:?}");
        }
        for wrong in ["10", "tomorrow", "2027-01-31", "-1d", ""] {
            assert!(
                matches!(with_expiry(Body::default(), Some(wrong)), Err(Failure::Usage(why)) if why.starts_with("--expires: ")),
                "{wrong}"
            );
        }
    }
}
