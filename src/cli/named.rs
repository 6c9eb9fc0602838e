//! Machines, keys and operators by id or, where there is only one of that name or label, by it.

use std::borrow::Cow;
use std::fmt::Write;

use super::client::Client;
use super::failure::Failure;
use super::output::tame;
use super::request::query;
use crate::admin::wire::{KeyView, List, MachineView, OperatorView};
use crate::model::secret::{has_shape, masked};
use crate::model::{KeyId, MachineId, OperatorId};

/// How many others are listed when nothing has the name.
const SUGGESTIONS: usize = 5;
/// How many keys with one label are listed.
const CANDIDATES: usize = 20;

/// The machine with that id or name.
pub fn machine(client: &Client, text: &str) -> Result<MachineView, Failure> {
    if text.parse::<MachineId>().is_ok() {
        return client.read(&format!("/v1/machines/{text}"));
    }
    let found: List<MachineView> = client.read(&format!("/v1/machines{}", query(&[("name", Some(text))])))?;
    match found.data.into_iter().next() {
        Some(machine) => Ok(machine),
        None => Err(no_machine(client, text)),
    }
}

fn no_machine(client: &Client, text: &str) -> Failure {
    let similar = client.read::<List<MachineView>>(&format!("/v1/machines{}", query(&[("search", Some(text)), ("limit", Some("5"))])));
    let similar = similar.map(|list| list.data.into_iter().map(|machine| (machine.id, machine.name)).collect());
    Failure::Refused(nothing("machine", "name", text, similar.unwrap_or_default()))
}

/// The key with that id or label.
pub fn key(client: &Client, text: &str) -> Result<KeyView, Failure> {
    if text.parse::<KeyId>().is_ok() {
        return client.read(&format!("/v1/keys/{text}"));
    }
    let found: List<KeyView> = client.read(&format!("/v1/keys{}", query(&[("label", Some(text)), ("limit", Some("500"))])))?;
    let more = found.next_cursor.is_some();
    match <[KeyView; 1]>::try_from(found.data) {
        Ok([key]) => Ok(key),
        Err(none) if none.is_empty() => Err(no_key(client, text)),
        Err(several) => Err(Failure::Refused(ambiguous(text, &several, more))),
    }
}

fn no_key(client: &Client, text: &str) -> Failure {
    // A value is found by what lists show of it.
    let end = text.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
    let search = if has_shape(text.as_bytes()) { &text[end..] } else { text };
    let similar = client.read::<List<KeyView>>(&format!("/v1/keys{}", query(&[("search", Some(search)), ("limit", Some("5"))])));
    let similar = similar.map(|list| list.data.into_iter().map(|key| (key.id, key.label)).collect());
    Failure::Refused(nothing("key", "label", text, similar.unwrap_or_default()))
}

/// The operator with that id or name.
pub fn operator(client: &Client, text: &str) -> Result<OperatorView, Failure> {
    if text.parse::<OperatorId>().is_ok() {
        return client.read(&format!("/v1/operators/{text}"));
    }
    // A token must not stand in a target, which somebody may log.
    let asked = match masked(text.as_bytes()) {
        Cow::Borrowed(_) => client.read::<List<OperatorView>>(&format!("/v1/operators{}", query(&[("name", Some(text))])))?.data,
        Cow::Owned(_) => Vec::new(),
    };
    let none = || Failure::Refused(nothing("operator", "name", text, Vec::new()));
    asked.into_iter().next().ok_or_else(none)
}

fn nothing(kind: &str, called: &str, text: &str, similar: Vec<(String, String)>) -> String {
    let mut message = match masked(text.as_bytes()) {
        Cow::Borrowed(_) => format!("no {kind} has the id or {called} {text:?}"),
        Cow::Owned(_) => format!("that is a secret value, which no command takes: name the {kind} by id or {called}"),
    };
    for (index, (id, name)) in similar.iter().take(SUGGESTIONS).enumerate() {
        let intro = if index == 0 { "; similar:" } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(message, "{intro}\n  {}  {}", tame(id), tame(name));
    }
    message
}

/// `more`: whether there are others besides these.
fn ambiguous(text: &str, keys: &[KeyView], more: bool) -> String {
    let count = format!("{}{}", keys.len(), if more { " or more" } else { "" });
    let mut message = format!("{count} keys have the label {text:?}; name one by its id:");
    for key in keys.iter().take(CANDIDATES) {
        let _ = write!(message, "\n  {}  {}, {}, of {:?}", tame(&key.id), tame(&key.environment), tame(&key.status), key.machine_name);
    }
    if keys.len() > CANDIDATES {
        message.push_str("\n  …; octroi key list --label lists all");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_found_is_answered_with_what_is_similar() {
        assert_eq!(nothing("key", "label", "bil", Vec::new()), "no key has the id or label \"bil\"");
        // A value with a right checksum.
        let value = "pk_prod_vC3L7ESxxpuJNWlD7LukzfZWdAyVtN1eypHk";
        let similar = vec![("key_1".to_owned(), "Billing".to_owned())];
        let message = nothing("key", "label", value, similar);
        assert_eq!(message, "that is a secret value, which no command takes: name the key by id or label; similar:\n  key_1  Billing");
        let similar = vec![("key_1".to_owned(), "Billing".to_owned()), ("key_2".to_owned(), "Billing\u{1b}2".to_owned())];
        let message = nothing("key", "label", "bil", similar);
        assert_eq!(message, "no key has the id or label \"bil\"; similar:\n  key_1  Billing\n  key_2  Billing 2");
    }
}
