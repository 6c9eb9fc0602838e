//! `/v1/keys`: what machines call with. A value is shown in one answer, the one to its making.

pub mod bulk;
mod filter;
pub(super) mod warn;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::door::Requester;
use super::fields::Fields;
use super::machines::{self, take_reason};
use super::page::{Page, Params, cursor};
use super::problem::{Code, Problem};
use super::revision::{IfMatch, Tag, Tagged};
use super::usage::KeyUse;
use super::wire::{KeyChanged, KeyView, List, OldValueView, UsageView};
use super::{Admin, answer, values};
use crate::model::change::{KeyEdit, NewKey};
use crate::model::{Change, Key, KeyId, Machine, MachineId, Origin, Timestamp};
use crate::registry::Left;
use crate::store::{Kept, Store, StoreError};
use filter::Filter;

pub async fn list(State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Json<List<KeyView>>, Problem> {
    let page = params.page();
    let now = admin.clock.now().wall;
    let filter = Filter::take(&mut params, None, &admin.catalogue, now);
    params.finish()?;
    listed(&admin, filter, page, now).await
}

pub async fn list_of_machine(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    mut params: Params,
) -> Result<Json<List<KeyView>>, Problem> {
    let id = machines::parse_id(&id)?;
    machines::find(&admin, id).await?;
    let page = params.page();
    let now = admin.clock.now().wall;
    let filter = Filter::take(&mut params, Some(id), &admin.catalogue, now);
    params.finish()?;
    listed(&admin, filter, page, now).await
}

async fn listed(admin: &Arc<Admin>, filter: Filter, page: Page, now: Timestamp) -> Result<Json<List<KeyView>>, Problem> {
    let asked = admin.clone();
    let (found, last) = admin.ask(move |store| matching(&asked, store, &filter, page, now)).await?;
    let data = found.iter().map(|(key, machine)| admin.key_view(key, Some(machine), now)).collect();
    Ok(Json(List { data, next_cursor: last.map(|last| cursor(last.as_u128())) }))
}

/// A page of keys, each with its machine, and the last key that was looked at, if there may be more behind it.
type Found = (Vec<(Key, Arc<Machine>)>, Option<KeyId>);

/// Looks at [`machines::MOST_LOOKED_AT`] keys at most: who filters sharply gets short pages rather than a slow one.
fn matching(admin: &Admin, store: &dyn Store, filter: &Filter, page: Page, now: Timestamp) -> Result<Found, StoreError> {
    let mut machines = HashMap::new();
    let mut found: Vec<(Key, Arc<Machine>)> = Vec::new();
    let mut last = page.after.map(KeyId::from_u128);
    for _ in 0..machines::MOST_LOOKED_AT / machines::CHUNK {
        let chunk = store.keys(filter.machine, last, machines::CHUNK)?;
        let is_end = chunk.len() < machines::CHUNK;
        for key in chunk {
            if found.len() == page.limit {
                return Ok((found, last));
            }
            last = Some(key.id);
            let used = || (admin.usage)(key.id).last_used_at;
            let idle = || admin.is_idle(&key, now);
            if !filter.matches(&key, now) || !filter.matches_use(&key, used) || filter.idle.is_some_and(|wanted| wanted != idle()) {
                continue;
            }
            // A key whose machine is gone was read while both were being deleted.
            if let Some(machine) = machine_of(store, &mut machines, key.machine)?
                && filter.matches_with(&key, &machine, &admin.catalogue.default_tier)
            {
                found.push((key, machine));
            }
        }
        if is_end {
            return Ok((found, None));
        }
    }
    Ok((found, last))
}

fn machine_of(
    store: &dyn Store,
    seen: &mut HashMap<MachineId, Option<Arc<Machine>>>,
    id: MachineId,
) -> Result<Option<Arc<Machine>>, StoreError> {
    if let Some(machine) = seen.get(&id) {
        return Ok(machine.clone());
    }
    let machine = store.machine(id)?.map(|kept| Arc::new(kept.record));
    seen.insert(id, machine.clone());
    Ok(machine)
}

pub async fn show(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Result<Tagged<KeyView>, Problem> {
    let (Kept { seq, record: key }, machine) = find(&admin, parse_id(&id)?).await?;
    Ok(Tagged::new(seq, admin.key_view(&key, Some(&machine), admin.clock.now().wall)))
}

pub async fn usage(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Result<Json<UsageView>, Problem> {
    let (Kept { record: key, .. }, _) = find(&admin, parse_id(&id)?).await?;
    Ok(Json(UsageView::of(key.id.to_string(), &(admin.usage)(key.id))))
}

pub async fn create(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    mut fields: Fields,
) -> Result<Response, Problem> {
    let machine = machines::parse_id(&id)?;
    let new = take_new(&mut fields, &admin);
    let reason = take_reason(&mut fields);
    fields.finish()?;
    let made = commit(&admin, operator.origin(reason), Change::CreateKey(machine, new), IfMatch::Whatever).await?;
    let location = format!("/v1/keys/{}", made.body.key.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], made).into_response())
}

fn take_new(fields: &mut Fields, admin: &Admin) -> NewKey {
    NewKey {
        label: fields.required("label", values::name).unwrap_or_default(),
        description: fields.optional("description", values::description).unwrap_or_default(),
        environment: fields.optional("environment", values::environment).unwrap_or_default(),
        permissions: fields.nullable("permissions", |value| values::permissions(value, &admin.catalogue)).flatten(),
        organizations: fields.nullable("organizations", values::organizations).flatten(),
        tier: fields.nullable("tier", |value| values::tier(value, &admin.catalogue)).flatten(),
        allowed_ips: fields.nullable("allowed_ips", values::networks).flatten(),
        expires_at: take_expiry(fields, admin.clock.now().wall).flatten(),
    }
}

pub async fn edit(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    mut fields: Fields,
) -> Changed {
    let id = parse_id(&id)?;
    let (Kept { seq, record: key }, machine) = find(&admin, id).await?;
    demanded.permits(seq)?;
    let now = admin.clock.now().wall;
    let edit = take_edit(&mut fields, &admin, now);
    let reason = take_reason(&mut fields);
    refuse_fixed(&mut fields, &admin.key_view(&key, Some(&machine), now));
    fields.finish()?;
    commit(&admin, operator.origin(reason), Change::EditKey(id, edit), demanded).await
}

fn take_edit(fields: &mut Fields, admin: &Admin, now: Timestamp) -> KeyEdit {
    KeyEdit {
        label: fields.optional("label", values::name),
        description: fields.optional("description", values::description),
        permissions: fields.nullable("permissions", |value| values::permissions(value, &admin.catalogue)),
        organizations: fields.nullable("organizations", values::organizations),
        tier: fields.nullable("tier", |value| values::tier(value, &admin.catalogue)),
        allowed_ips: fields.nullable("allowed_ips", values::networks),
        expires_at: take_expiry(fields, now),
    }
}

/// `expires_at` is a date or null, `expires_in` a length of time from now; one of them at most.
pub fn take_expiry(fields: &mut Fields, now: Timestamp) -> Option<Option<Timestamp>> {
    let at = fields.nullable("expires_at", values::timestamp);
    let span = fields.optional("expires_in", values::span);
    if at.is_some() && span.is_some() {
        fields.fault("/expires_in".to_owned(), "stands beside expires_at; send one of them".to_owned());
    }
    at.or_else(|| span.map(|span| Some(now.plus(span))))
}

/// Everything that a key shows and an edit cannot change, so that a client may send back what it was shown.
fn refuse_fixed(fields: &mut Fields, current: &KeyView) {
    let own = |text: &str| Value::from(text);
    fields.unchangeable("id", &own(&current.id), "it names the key for its whole life");
    fields.unchangeable("machine_id", &own(&current.machine_id), "a key stays with its machine: create another key");
    fields.unchangeable("machine_name", &own(&current.machine_name), "PATCH the machine");
    fields.unchangeable("environment", &own(&current.environment), "it is part of the value: create another key");
    fields.unchangeable("created_at", &own(&current.created_at), "it is history");
    fields.unchangeable("created_by", &own(&current.created_by), "it is history");
    fields.unchangeable("hint", &own(&current.hint), "use POST …/regenerate for another value");
    fields.unchangeable("status", &own(&current.status), "use POST …/deactivate, …/reactivate or …/revoke, or move expires_at");
    fields.unchangeable("effective_permissions", &json!(current.effective_permissions), "they follow from the machine's and the key's");
    fields.unchangeable("exposed_at", &json!(current.exposed_at), "it is history");
    fields.disregard_in("old_values", &["counts", "last_used_at", "last_used_ip", "safe_to_end"]);
    let lasting = |old: &OldValueView| json!({"hint": old.hint, "replaced_at": old.replaced_at, "counts_until": old.counts_until});
    let old_values = current.old_values.iter().map(lasting).collect();
    fields.unchangeable("old_values", &Value::Array(old_values), "they are history; POST …/end-grace ends the grace of one that counts");
    fields.unchangeable("warnings", &json!([]), "they are the gateway's");
    for name in ["value", "secret"] {
        fields.unchangeable(name, &Value::Null, "values are made by the gateway: use POST …/regenerate for another one");
    }
    // These move with every call, also between a client's GET and its PATCH.
    for name in ["last_used_at", "last_used_ip", "value_last_used_at", "value_last_used_ip", "last_refused_at", "idle_since", "idle"] {
        fields.disregard(name);
    }
}

pub async fn deactivate(
    op: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    fields: Fields,
) -> Changed {
    act(&admin, op, &id, demanded, fields, Change::DeactivateKey).await
}

pub async fn reactivate(
    op: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    fields: Fields,
) -> Changed {
    act(&admin, op, &id, demanded, fields, Change::ReactivateKey).await
}

pub async fn revoke(op: Requester, State(admin): State<Arc<Admin>>, Path(id): Path<String>, demanded: IfMatch, fields: Fields) -> Changed {
    act(&admin, op, &id, demanded, fields, Change::RevokeKey).await
}

type Changed = Result<Tagged<KeyChanged>, Problem>;

async fn act(admin: &Admin, operator: Requester, id: &str, demanded: IfMatch, mut fields: Fields, change: fn(KeyId) -> Change) -> Changed {
    let id = parse_id(id)?;
    let reason = take_reason(&mut fields);
    fields.finish()?;
    commit(admin, operator.origin(reason), change(id), demanded).await
}

pub async fn regenerate(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    mut fields: Fields,
) -> Changed {
    let id = parse_id(&id)?;
    let grace = fields.optional("grace", values::span).unwrap_or_default();
    let reason = take_reason(&mut fields);
    fields.finish()?;
    let before = grace_before(&admin, id).await;
    let mut made = commit(&admin, operator.origin(reason), Change::RegenerateKey(id, grace), demanded).await?;
    let ended = before.and_then(|(key, now)| warn::grace_ended(&key, now));
    made.body.warnings.splice(0..0, ended);
    Ok(made)
}

/// The key as it is, for what is said of a grace afterwards. Whatever keeps it from being read keeps nobody from stopping a value.
async fn grace_before(admin: &Admin, id: KeyId) -> Option<(Key, Timestamp)> {
    let (kept, _) = find(admin, id).await.ok()?;
    Some((kept.record, admin.clock.now().wall))
}

/// The old value that counts in grace ends now, because everybody has the new one.
pub async fn end_grace(
    State(admin): State<Arc<Admin>>,
    op: Requester,
    Path(id): Path<String>,
    demanded: IfMatch,
    fields: Fields,
) -> Changed {
    let before = grace_before(&admin, parse_id(&id)?).await;
    let mut made = act(&admin, op, &id, demanded, fields, Change::EndGrace).await?;
    made.body.warnings.extend(before.and_then(|(key, now)| warn::no_grace(&key, now)));
    Ok(made)
}

pub async fn delete(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    mut params: Params,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let reason = params.reason();
    params.finish()?;
    admin.commit(operator.origin(reason), Change::DeleteKey(id), demanded).await?;
    Ok(answer::nothing_left())
}

async fn commit(admin: &Admin, origin: Origin, change: Change, demanded: IfMatch) -> Changed {
    // Warnings are for whoever chose a label, permissions or a grace just now, not for whoever stops a key in a hurry.
    let is_labelled = match &change {
        Change::CreateKey(..) => true,
        Change::EditKey(_, edit) => edit.label.is_some(),
        _ => false,
    };
    let is_about = matches!(change, Change::CreateKey(..) | Change::EditKey(..));
    let is_rotated = matches!(change, Change::RegenerateKey(..));
    let committed = admin.commit(origin, change, demanded).await?;
    let Left::Key(key) = committed.left else {
        return Err(Problem::new(Code::InternalError, "the change was made, and left something else than a key"));
    };
    // A new value is shown this once, so it must reach its owner even when the machine cannot be read back.
    let machine = machines::find(admin, key.machine).await.ok().map(|kept| kept.record);
    let now = admin.clock.now().wall;
    let view = admin.key_view(&key, machine.as_ref(), now);
    // The tag is that of the key, as a GET shows it: without value and warnings.
    let tag = Tag::of(committed.revision, &view);
    let secret = committed.secret.map(|secret| secret.reveal().to_string());
    let mut warnings = if is_about { warn::about(&key, machine.as_ref(), now) } else { Vec::new() };
    if is_labelled {
        warnings.extend(namesake(admin, &key).await.map(|other| warn::label_taken(&key.label, other)));
    }
    if is_rotated {
        warnings.extend(warn::grace_beyond_expiry(&key));
    }
    Ok(Tagged { body: KeyChanged { key: view, secret, warnings }, tag })
}

/// Another key of the same machine with the same label, among the first [`machines::MOST_LOOKED_AT`] of its keys.
async fn namesake(admin: &Admin, key: &Key) -> Option<KeyId> {
    let (id, machine, label) = (key.id, key.machine, key.label.clone());
    let found = admin.ask(move |store| {
        let mut last = None;
        for _ in 0..machines::MOST_LOOKED_AT / machines::CHUNK {
            let chunk = store.keys(Some(machine), last, machines::CHUNK)?;
            if let Some(other) = chunk.iter().find(|other| other.label == label && other.id != id) {
                return Ok(Some(other.id));
            }
            if chunk.len() < machines::CHUNK {
                break;
            }
            last = chunk.last().map(|key| key.id);
        }
        Ok(None)
    });
    found.await.ok().flatten()
}

impl Admin {
    /// Whether a key is idle; asks for its use only where that can decide.
    fn is_idle(&self, key: &Key, now: Timestamp) -> bool {
        let limit = self.catalogue.warn_idle_after;
        limit.is_some_and(|limit| key.is_idle(None, limit, now) && key.is_idle((self.usage)(key.id).last_used_at, limit, now))
    }

    fn key_view(&self, key: &Key, machine: Option<&Machine>, now: Timestamp) -> KeyView {
        let old_value_is_open = key.in_grace().is_some_and(|old| self.registry.is_being_used(&old.hash));
        let used = KeyUse { old_value_is_open, ..(self.usage)(key.id) };
        KeyView::of(key, machine, &used, &self.catalogue, now)
    }
}

fn parse_id(text: &str) -> Result<KeyId, Problem> {
    text.parse().map_err(|error| Problem::not_found(format!("{text:?} names no key: {error}")))
}

pub(super) async fn find(admin: &Admin, id: KeyId) -> Result<(Kept<Key>, Machine), Problem> {
    let both = admin.ask(move |store| {
        let Some(key) = store.key(id)? else { return Ok(None) };
        Ok(store.machine(key.record.machine)?.map(|machine| (key, machine.record)))
    });
    both.await?.ok_or_else(|| Problem::not_found(format!("no key has the id {id}")))
}
