//! `/v1/machines`: the programs that call.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::Value;

use super::door::Requester;
use super::fields::Fields;
use super::page::{Page, Params, cursor};
use super::problem::{Code, Problem};
use super::wire::{List, MachineView};
use super::{Admin, answer, values};
use crate::model::change::{MachineEdit, NewMachine};
use crate::model::{Change, Machine, MachineId};
use crate::registry::Left;
use crate::store::{Store, StoreError};

/// How many records are read from the store at a time while a filter looks for matches.
pub const CHUNK: usize = 500;

/// Which machines are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    name: Option<String>,
    /// In lower case; matches anywhere in name, description or contact.
    search: Option<String>,
}

impl Filter {
    fn take(params: &mut Params) -> Filter {
        Filter { name: params.optional("name", Ok), search: params.optional("search", |text| Ok(text.to_lowercase())) }
    }

    fn matches(&self, machine: &Machine) -> bool {
        let found = |sought: &String| {
            [&machine.name, &machine.description, &machine.contact].iter().any(|text| text.to_lowercase().contains(sought))
        };
        self.name.as_ref().is_none_or(|name| *name == machine.name) && self.search.as_ref().is_none_or(found)
    }
}

pub async fn list(State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Json<List<MachineView>>, Problem> {
    let (page, filter) = (params.page(), Filter::take(&mut params));
    params.finish()?;
    let (machines, more) = admin.ask(move |store| matching(store, &filter, page)).await?;
    let next_cursor = machines.last().filter(|_| more).map(|last| cursor(last.id.as_u128()));
    Ok(Json(List { data: machines.iter().map(MachineView::from).collect(), next_cursor }))
}

/// The page, and whether there is more behind it.
fn matching(store: &dyn Store, filter: &Filter, page: Page) -> Result<(Vec<Machine>, bool), StoreError> {
    let (mut found, mut after) = (Vec::new(), page.after.map(MachineId::from_u128));
    loop {
        let chunk = store.machines(after, CHUNK)?;
        let last_chunk = chunk.len() < CHUNK;
        after = chunk.last().map(|machine| machine.id);
        found.extend(chunk.into_iter().filter(|machine| filter.matches(machine)));
        if last_chunk || found.len() > page.limit {
            let more = found.len() > page.limit;
            found.truncate(page.limit);
            return Ok((found, more));
        }
    }
}

pub async fn show(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Result<Json<MachineView>, Problem> {
    let machine = find(&admin, parse_id(&id)?).await?;
    Ok(Json(MachineView::from(&machine)))
}

pub async fn create(operator: Requester, State(admin): State<Arc<Admin>>, mut fields: Fields) -> Result<Response, Problem> {
    let new = NewMachine {
        name: fields.required("name", values::name).unwrap_or_default(),
        description: fields.optional("description", values::description).unwrap_or_default(),
        contact: fields.optional("contact", values::contact).unwrap_or_default(),
        permissions: fields.optional("permissions", |value| values::permissions(value, &admin.catalogue)).unwrap_or_default(),
        organizations: fields.nullable("organizations", values::organizations).flatten(),
        tier: fields.nullable("tier", |value| values::tier(value, &admin.catalogue)).flatten(),
        third_party: fields.optional("third_party", values::boolean).unwrap_or_default(),
    };
    let reason = take_reason(&mut fields);
    fields.finish()?;
    let Json(view) = commit(&admin, operator, reason, Change::CreateMachine(new)).await?;
    let location = format!("/v1/machines/{}", view.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(view)).into_response())
}

pub async fn edit(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    mut fields: Fields,
) -> Result<Json<MachineView>, Problem> {
    let id = parse_id(&id)?;
    let current = MachineView::from(&find(&admin, id).await?);
    let edit = take_edit(&mut fields, &admin);
    let reason = take_reason(&mut fields);
    refuse_fixed(&mut fields, &current);
    fields.finish()?;
    commit(&admin, operator, reason, Change::EditMachine(id, edit)).await
}

fn take_edit(fields: &mut Fields, admin: &Admin) -> MachineEdit {
    MachineEdit {
        name: fields.optional("name", values::name),
        description: fields.optional("description", values::description),
        contact: fields.optional("contact", values::contact),
        permissions: fields.optional("permissions", |value| values::permissions(value, &admin.catalogue)),
        organizations: fields.nullable("organizations", values::organizations),
        tier: fields.nullable("tier", |value| values::tier(value, &admin.catalogue)),
        third_party: fields.optional("third_party", values::boolean),
    }
}

fn refuse_fixed(fields: &mut Fields, current: &MachineView) {
    fields.unchangeable("id", &Value::from(current.id.as_str()), "it names the machine for its whole life");
    fields.unchangeable("created_at", &Value::from(current.created_at.as_str()), "it is history");
    fields.unchangeable("enabled", &Value::from(current.enabled), "use POST …/enable or …/disable");
}

pub async fn enable(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Json<MachineView>, Problem> {
    act(&admin, operator, &id, fields, Change::EnableMachine).await
}

pub async fn disable(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Json<MachineView>, Problem> {
    act(&admin, operator, &id, fields, Change::DisableMachine).await
}

async fn act(
    admin: &Admin,
    operator: Requester,
    id: &str,
    mut fields: Fields,
    change: fn(MachineId) -> Change,
) -> Result<Json<MachineView>, Problem> {
    let id = parse_id(id)?;
    let reason = take_reason(&mut fields);
    fields.finish()?;
    commit(admin, operator, reason, change(id)).await
}

/// Its keys go with it.
pub async fn delete(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    mut params: Params,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let reason = params.reason();
    params.finish()?;
    admin.registry.commit(operator.origin(reason), Change::DeleteMachine(id)).await?;
    Ok(answer::nothing_left())
}

async fn commit(admin: &Admin, operator: Requester, reason: Option<String>, change: Change) -> Result<Json<MachineView>, Problem> {
    match admin.registry.commit(operator.origin(reason), change).await?.left {
        Left::Machine(machine) => Ok(Json(MachineView::from(&machine))),
        Left::Key(_) | Left::Operator(_) | Left::Nothing => {
            Err(Problem::new(Code::InternalError, "the change was made, and left something else than a machine"))
        }
    }
}

/// An id that cannot be one names nothing.
pub fn parse_id(text: &str) -> Result<MachineId, Problem> {
    text.parse().map_err(|error| Problem::not_found(format!("{text:?} names no machine: {error}")))
}

pub async fn find(admin: &Admin, id: MachineId) -> Result<Machine, Problem> {
    let machine = admin.ask(move |store| store.machine(id)).await?;
    machine.map(|kept| kept.record).ok_or_else(|| Problem::not_found(format!("no machine has the id {id}")))
}

pub fn take_reason(fields: &mut Fields) -> Option<String> {
    fields.nullable("reason", values::reason).flatten()
}
