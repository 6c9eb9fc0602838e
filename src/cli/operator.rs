//! `octroi operator …`.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::understand;
use super::confirm::Consent;
use super::failure::{Failure, Outcome};
use super::key::with_expiry;
use super::named;
use super::output::{self, Table, card, json, listed};
use super::request::{Body, Reason, Shared, now, query};
use super::when::{relative, with_date};
use crate::admin::wire::{OperatorChanged, OperatorView};
use crate::model::{Right, Timestamp};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an operator and print their token, this once
    Create(Create),
    /// List operators
    List(ListArgs),
    /// Show one operator
    Show(One),
    /// Change what an operator may do, and until when
    Edit(Edit),
    /// Let an operator's token in again
    Enable(Change),
    /// Refuse an operator's token until they are enabled again
    Disable(Change),
    /// Give an operator a new token and print it, this once; the one they had ends at once
    Regenerate(Regenerate),
    /// Delete an operator, for good
    Delete(Delete),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Who it is: a person or a program; unique, and what the journal names
    name: String,
    /// What they may do; repeat it for several. Writing includes reading
    #[arg(long = "right", value_name = "RIGHT", required = true, value_parser = rights())]
    rights: Vec<String>,
    /// When the token stops counting: 90d, 24h, an RFC 3339 time, or never [default: never]
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Print the token and nothing else
    #[arg(long, conflicts_with = "output")]
    quiet: bool,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

fn rights() -> PossibleValuesParser {
    PossibleValuesParser::new(Right::ALL.map(Right::as_str))
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct One {
    /// Their id or name
    operator: String,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Edit {
    /// Their id or name
    operator: String,
    /// What they may do, in place of what they might; repeat it for several
    #[arg(long = "right", value_name = "RIGHT", value_parser = rights())]
    rights: Vec<String>,
    /// When the token stops counting: 90d, 24h, an RFC 3339 time, or never
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Change {
    /// Their id or name
    operator: String,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Regenerate {
    /// Their id or name
    operator: String,
    /// Print the token and nothing else
    #[arg(long, conflicts_with = "output")]
    quiet: bool,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Their id or name
    operator: String,
    #[command(flatten)]
    consent: Consent,
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
            Command::Show(One { operator, shared }) => {
                let client = shared.client()?;
                let found = named::operator(&client, &operator)?;
                show(&shared, client.get(&target(&found, ""))?)
            }
            Command::Edit(args) => args.run(),
            Command::Enable(args) => args.run("enable"),
            Command::Disable(args) => args.run("disable"),
            Command::Regenerate(args) => args.run(),
            Command::Delete(args) => args.run(),
        }
    }
}

impl Create {
    fn run(self) -> Outcome {
        let body = Body::default().with("name", Some(self.name)).with_list("rights", &self.rights);
        let body = with_expiry(body, self.expires.as_deref())?.because(&self.reason);
        reveal(&self.shared, self.quiet, self.shared.client()?.ask("POST", "/v1/operators", Some(&body))?)
    }
}

impl ListArgs {
    fn run(self) -> Outcome {
        let rows = self.shared.client()?.all("/v1/operators", "", usize::MAX)?;
        if self.shared.wants_json() {
            return output::print_json(&json!({"data": rows}));
        }
        let operators = rows.into_iter().map(understand).collect::<Result<Vec<OperatorView>, Failure>>()?;
        output::print(&table(&operators, now()))
    }
}

impl Edit {
    fn run(self) -> Outcome {
        let body = with_expiry(Body::default().with_list("rights", &self.rights), self.expires.as_deref())?;
        if body.is_empty() {
            return Err(Failure::Usage("nothing to change: name --right or --expires".into()));
        }
        let client = self.shared.client()?;
        let operator = named::operator(&client, &self.operator)?;
        show(&self.shared, client.ask("PATCH", &target(&operator, ""), Some(&body.because(&self.reason)))?)
    }
}

impl Change {
    fn run(self, verb: &str) -> Outcome {
        let client = self.shared.client()?;
        let operator = named::operator(&client, &self.operator)?;
        let body = Body::default().because(&self.reason);
        show(&self.shared, client.ask("POST", &target(&operator, &format!("/{verb}")), Some(&body))?)
    }
}

impl Regenerate {
    fn run(self) -> Outcome {
        let client = self.shared.client()?;
        let operator = named::operator(&client, &self.operator)?;
        let body = Body::default().because(&self.reason);
        reveal(&self.shared, self.quiet, client.ask("POST", &target(&operator, "/regenerate"), Some(&body))?)
    }
}

impl Delete {
    fn run(self) -> Outcome {
        let client = self.shared.client()?;
        let operator = named::operator(&client, &self.operator)?;
        self.consent.to(|| Ok(format!("delete the operator {:?}, for good", operator.name)))?;
        client.ask("DELETE", &target(&operator, &query(&[("reason", self.reason.reason.as_deref())])), None)?;
        if self.shared.wants_json() { Ok(()) } else { output::print(&format!("Operator {} was deleted.\n", operator.id)) }
    }
}

fn target(operator: &OperatorView, rest: &str) -> String {
    format!("/v1/operators/{}{rest}", operator.id)
}

fn show(shared: &Shared, operator: Value) -> Outcome {
    if shared.wants_json() {
        return output::print_json(&operator);
    }
    let warnings = output::warnings(&operator)?;
    output::print(&details(&understand(operator)?, now()))?;
    output::warn(&warnings);
    Ok(())
}

/// Shows an operator with their new token, which stands on a line of its own so that it can be copied whole.
fn reveal(shared: &Shared, quiet: bool, made: Value) -> Outcome {
    if shared.wants_json() {
        return output::print_once(&(json(&made)? + "\n"));
    }
    let OperatorChanged { operator, secret, warnings } = understand(made)?;
    let token = secret.ok_or_else(|| Failure::Refused("the gateway made the token and did not send it: regenerate it".into()))?;
    let advice = "This token is shown only this once: keep it now. Commands take it from OCTROI_TOKEN.";
    let text = if quiet { format!("{token}\n") } else { format!("{}\n{token}\n\n{advice}\n", details(&operator, now())) };
    output::print_once(&text)?;
    output::warn(&warnings);
    Ok(())
}

fn table(operators: &[OperatorView], now: Timestamp) -> String {
    let mut table = Table::new(&["ID", "NAME", "RIGHTS", "STATUS", "EXPIRES", "LAST USED"]);
    for operator in operators {
        table.row([
            operator.id.clone(),
            operator.name.clone(),
            listed(Some(&operator.rights), "", "none"),
            operator.status.clone(),
            relative(operator.expires_at.as_deref(), "never", now),
            relative(operator.last_used_at.as_deref(), "never", now),
        ]);
    }
    table.or("no operators")
}

fn details(operator: &OperatorView, now: Timestamp) -> String {
    let from = operator.last_used_ip.as_ref().map(|ip| format!(" from {ip}")).unwrap_or_default();
    card(&[
        ("Id", operator.id.clone()),
        ("Name", operator.name.clone()),
        ("Rights", listed(Some(&operator.rights), "", "none")),
        ("Token", operator.hint.clone()),
        ("Status", operator.status.clone()),
        ("Expires", with_date(operator.expires_at.as_deref(), now)),
        ("Made", format!("{} by {}", with_date(Some(&operator.created_at), now), operator.created_by)),
        ("Last used", with_date(operator.last_used_at.as_deref(), now) + &from),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_shown_in_words() {
        let operator: OperatorView = serde_json::from_value(json!({
            "id": "op_1", "name": "Console", "rights": ["machines:read", "keys:verify"], "status": "expired", "enabled": true,
            "expires_at": "2027-01-15T07:00:00.000Z", "hint": "octroi_op_…x7Qa", "created_at": "2027-01-14T08:03:00.000Z",
            "created_by": "socket:root", "last_used_at": "2027-01-15T08:00:00.000Z", "last_used_ip": "192.0.2.7",
        }))
        .unwrap();
        let now = Timestamp::parse("2027-01-15T08:03:00Z").unwrap();
        let expected = "ID    NAME     RIGHTS                      STATUS   EXPIRES  LAST USED\n\
                        op_1  Console  machines:read, keys:verify  expired  1 h ago  3 min ago\n";
        assert_eq!(table(std::slice::from_ref(&operator), now), expected);
        assert_eq!(table(&[], now), "no operators\n");
        let shown = details(&operator, now);
        assert!(shown.contains("Last used  3 min ago (2027-01-15T08:00:00.000Z) from 192.0.2.7\n"), "{shown}");
        assert!(shown.contains("Made       1 day ago (2027-01-14T08:03:00.000Z) by socket:root\n"), "{shown}");
    }
}
