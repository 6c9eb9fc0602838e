//! `octroi machine …`.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, understand};
use super::confirm::Consent;
use super::failure::{Failure, Outcome};
use super::named;
use super::output::{self, Table, card, listed};
use super::request::{Body, Reason, Rights, Shared, at_most, now, query};
use super::when::relative;
use crate::admin::wire::MachineView;
use crate::model::Timestamp;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a machine
    Create(Create),
    /// List machines
    List(ListArgs),
    /// Show one machine
    Show(One),
    /// Change what a machine is and may do
    Edit(Edit),
    /// Let a machine's keys in again
    Enable(Change),
    /// Refuse all keys of a machine until it is enabled again
    Disable(Change),
    /// Delete a machine and all its keys, for good
    Delete(Delete),
}

#[derive(Debug, Args)]
pub struct Create {
    /// What the machine is called; unique
    name: String,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whom to tell when something is odd
    #[arg(long, value_name = "TEXT")]
    contact: Option<String>,
    #[command(flatten)]
    rights: Rights,
    /// It is run by somebody outside
    #[arg(long)]
    third_party: bool,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only machines with this text in name, description or contact
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// How many machines to show at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct One {
    /// Its id or name
    machine: String,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Edit {
    /// Its id or name
    machine: String,
    /// A new name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whom to tell when something is odd
    #[arg(long, value_name = "TEXT")]
    contact: Option<String>,
    #[command(flatten)]
    rights: Rights,
    /// Whether it is run by somebody outside
    #[arg(long, value_name = "BOOL")]
    third_party: Option<bool>,
    /// Take away: permissions (none), organizations (not restricted), tier (the default one)
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
}

impl Clearable {
    fn emptied(self) -> (&'static str, Value) {
        match self {
            Clearable::Permissions => ("permissions", json!([])),
            Clearable::Organizations => ("organizations", Value::Null),
            Clearable::Tier => ("tier", Value::Null),
        }
    }
}

#[derive(Debug, Args)]
pub struct Change {
    /// Its id or name
    machine: String,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Its id or name
    machine: String,
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
            Command::Show(One { machine, shared }) => {
                let client = shared.client()?;
                let found = named::machine(&client, &machine)?;
                show(&shared, client.get(&target(&found, ""))?)
            }
            Command::Edit(args) => args.run(),
            Command::Enable(args) => args.run("enable"),
            Command::Disable(args) => args.run("disable"),
            Command::Delete(args) => args.run(),
        }
    }
}

impl Create {
    fn run(self) -> Outcome {
        let body = Body::default()
            .with("name", Some(self.name))
            .with("description", self.description)
            .with("contact", self.contact)
            .with("third_party", self.third_party.then_some(true))
            .with_rights(&self.rights)
            .because(&self.reason);
        show(&self.shared, self.shared.client()?.ask("POST", "/v1/machines", Some(&body))?)
    }
}

impl ListArgs {
    fn run(self) -> Outcome {
        let search = query(&[("search", self.search.as_deref())]);
        let rows = self.shared.client()?.all("/v1/machines", &search, at_most(self.limit))?;
        if self.shared.wants_json() {
            return output::print_json(&json!({"data": rows}));
        }
        let machines = rows.into_iter().map(understand).collect::<Result<Vec<MachineView>, Failure>>()?;
        table(&machines, now()).print_or("no machines")
    }
}

impl Edit {
    fn run(self) -> Outcome {
        let body = Body::default()
            .with("name", self.name)
            .with("description", self.description)
            .with("contact", self.contact)
            .with("third_party", self.third_party)
            .with_rights(&self.rights)
            .clearing(self.clear.into_iter().map(Clearable::emptied))?;
        if body.is_empty() {
            return Err(Failure::Usage("nothing to change: name at least one field, octroi machine edit --help lists them".into()));
        }
        let client = self.shared.client()?;
        let machine = named::machine(&client, &self.machine)?;
        show(&self.shared, client.ask("PATCH", &target(&machine, ""), Some(&body.because(&self.reason)))?)
    }
}

impl Change {
    fn run(self, verb: &str) -> Outcome {
        let client = self.shared.client()?;
        let machine = named::machine(&client, &self.machine)?;
        let body = Body::default().because(&self.reason);
        show(&self.shared, client.ask("POST", &target(&machine, &format!("/{verb}")), Some(&body))?)
    }
}

impl Delete {
    fn run(self) -> Outcome {
        let client = self.shared.client()?;
        let machine = named::machine(&client, &self.machine)?;
        self.consent.to(|| Ok(format!("delete the machine {:?} and {}, for good", machine.name, keys_of(&client, &machine)?)))?;
        let reason = query(&[("reason", self.reason.reason.as_deref())]);
        client.ask("DELETE", &target(&machine, &reason), None)?;
        if self.shared.wants_json() { Ok(()) } else { output::print(&format!("Machine {} was deleted.\n", machine.id)) }
    }
}

fn keys_of(client: &Client, machine: &MachineView) -> Result<String, Failure> {
    /// Nobody needs to know it more exactly.
    const MANY: usize = 1_000;
    Ok(match client.all(&format!("/v1/machines/{}/keys", machine.id), "", MANY)?.len() {
        0 => "no keys".to_owned(),
        1 => "its 1 key".to_owned(),
        MANY => format!("its {MANY} or more keys"),
        count => format!("its {count} keys"),
    })
}

fn target(machine: &MachineView, rest: &str) -> String {
    format!("/v1/machines/{}{rest}", machine.id)
}

fn show(shared: &Shared, machine: Value) -> Outcome {
    if shared.wants_json() {
        return output::print_json(&machine);
    }
    output::print(&details(&understand(machine)?, now()))
}

fn table(machines: &[MachineView], now: Timestamp) -> Table {
    let mut table = Table::new(&["ID", "NAME", "TIER", "PERMISSIONS", "STATE", "MADE"]);
    for m in machines {
        table.row([
            m.id.clone(),
            m.name.clone(),
            m.tier.clone().unwrap_or_else(|| "default".to_owned()),
            listed(Some(&m.permissions), "", "none"),
            state(m).to_owned(),
            relative(Some(&m.created_at), "", now),
        ]);
    }
    table
}

fn details(m: &MachineView, now: Timestamp) -> String {
    card(&[
        ("Id", m.id.clone()),
        ("Name", m.name.clone()),
        ("Description", m.description.clone()),
        ("Contact", m.contact.clone()),
        ("Permissions", listed(Some(&m.permissions), "", "none")),
        ("Organizations", listed(m.organizations.as_deref(), "not restricted", "none at all")),
        ("Tier", m.tier.clone().unwrap_or_else(|| "the default one".to_owned())),
        ("Third party", if m.third_party { "yes" } else { "no" }.to_owned()),
        ("State", state(m).to_owned()),
        ("Made", format!("{} ({})", relative(Some(&m.created_at), "", now), m.created_at)),
    ])
}

fn state(machine: &MachineView) -> &'static str {
    if machine.enabled { "enabled" } else { "disabled" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_shown_in_words() {
        let machine: MachineView = serde_json::from_value(json!({
            "id": "mac_1", "name": "Service de facturation", "description": "", "contact": "", "permissions": ["a:read", "b"],
            "organizations": [], "tier": null, "third_party": false, "enabled": false, "created_at": "2027-01-15T08:00:00.000Z",
        }))
        .unwrap();
        let now = Timestamp::parse("2027-01-15T08:03:00Z").unwrap();
        let expected = "ID     NAME                    TIER     PERMISSIONS  STATE     MADE\n\
                        mac_1  Service de facturation  default  a:read, b    disabled  3 min ago\n";
        assert_eq!(table(std::slice::from_ref(&machine), now).or("no machines"), expected);
        assert_eq!(table(&[], now).or("no machines"), "no machines\n");
        assert!(details(&machine, now).contains("Organizations  none at all\n"));
    }
}
