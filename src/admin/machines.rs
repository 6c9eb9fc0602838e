//! `/v1/machines`: the programs that call.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::Value;

use super::catalogue::Catalogue;
use super::door::Requester;
use super::fields::{Faults, Fields};
use super::page::{Page, Params, cursor};
use super::problem::{Code, Problem};
use super::revision::{IfMatch, Tagged};
use super::wire::{List, MachineUsageView, MachineView};
use super::{Admin, answer, values};
use crate::model::change::{MachineEdit, NewMachine};
use crate::model::{Change, Machine, MachineId, Origin, PermissionName, TierName};
use crate::registry::{Committed, Left};
use crate::store::{Kept, Store, StoreError};

/// How many records are read from the store at a time while a filter looks for matches.
pub const CHUNK: usize = 500;
/// The most records that one page looks at, so that a filter that nothing matches does not read the whole store for one request.
pub const MOST_LOOKED_AT: usize = 40 * CHUNK;

type Shown = Result<Tagged<MachineView>, Problem>;

/// Which machines are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    name: Option<String>,
    /// In lower case; matches anywhere in name, description or contact.
    search: Option<String>,
    enabled: Option<bool>,
    /// What its calls are counted by: its own tier or, without one, the settings' default.
    tier: Option<TierName>,
    permission: Option<PermissionName>,
}

impl Filter {
    fn take(params: &mut Params, catalogue: &Catalogue) -> Filter {
        Filter {
            name: params.optional("name", Ok),
            search: params.optional("search", |text| Ok(text.to_lowercase())),
            enabled: params.optional("enabled", |text| text.parse().map_err(|_| "must be true or false".into())),
            tier: params.optional("tier", |text| catalogue.tier(&text).map_err(Faults::from)),
            permission: params.optional("permission", |text| catalogue.permission(&text).map_err(Faults::from)),
        }
    }

    fn matches(&self, machine: &Machine, default_tier: &TierName) -> bool {
        let found = |sought: &String| {
            [&machine.name, &machine.description, &machine.contact].iter().any(|text| text.to_lowercase().contains(sought))
        };
        self.name.as_ref().is_none_or(|name| *name == machine.name)
            && self.search.as_ref().is_none_or(found)
            && self.enabled.is_none_or(|enabled| enabled == machine.enabled)
            && self.tier.as_ref().is_none_or(|tier| tier == machine.tier.as_ref().unwrap_or(default_tier))
            && self.permission.as_ref().is_none_or(|name| machine.permissions.grants(name))
    }
}

pub async fn list(State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Json<List<MachineView>>, Problem> {
    let (page, filter) = (params.page(), Filter::take(&mut params, &admin.catalogue));
    params.finish()?;
    let default_tier = admin.catalogue.default_tier.clone();
    let (machines, last) = admin.ask(move |store| matching(store, &filter, &default_tier, page)).await?;
    let next_cursor = last.map(|last| cursor(last.as_u128()));
    Ok(Json(List { data: machines.iter().map(MachineView::from).collect(), next_cursor }))
}

/// The page, and the last machine that was looked at, if there may be more behind it.
fn matching(
    store: &dyn Store,
    filter: &Filter,
    default_tier: &TierName,
    page: Page,
) -> Result<(Vec<Machine>, Option<MachineId>), StoreError> {
    let (mut found, mut last) = (Vec::new(), page.after.map(MachineId::from_u128));
    for _ in 0..MOST_LOOKED_AT / CHUNK {
        let chunk = store.machines(last, CHUNK)?;
        let is_end = chunk.len() < CHUNK;
        for machine in chunk {
            if found.len() == page.limit {
                return Ok((found, last));
            }
            last = Some(machine.id);
            if filter.matches(&machine, default_tier) {
                found.push(machine);
            }
        }
        if is_end {
            return Ok((found, None));
        }
    }
    Ok((found, last))
}

/// What its keys did, those that were deleted left out.
pub async fn usage(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Result<Json<MachineUsageView>, Problem> {
    let id = parse_id(&id)?;
    find(&admin, id).await?;
    let asked = admin.clone();
    let sum = admin.ask(move |store| {
        let keys = store.keys(Some(id), None, usize::MAX)?;
        Ok(MachineUsageView::of(id.to_string(), keys.iter().map(|key| (asked.usage)(key.id))))
    });
    sum.await.map(Json)
}

pub async fn show(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Shown {
    let Kept { seq, record } = find(&admin, parse_id(&id)?).await?;
    Ok(Tagged::new(seq, MachineView::from(&record)))
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
    let made = commit(&admin, operator.origin(reason), Change::CreateMachine(new), IfMatch::Whatever).await?;
    let location = format!("/v1/machines/{}", made.body.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], made).into_response())
}

pub async fn edit(
    operator: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    mut fields: Fields,
) -> Shown {
    let id = parse_id(&id)?;
    let Kept { seq, record } = find(&admin, id).await?;
    demanded.permits(seq)?;
    let current = MachineView::from(&record);
    let edit = take_edit(&mut fields, &admin);
    let reason = take_reason(&mut fields);
    refuse_fixed(&mut fields, &current);
    fields.finish()?;
    commit(&admin, operator.origin(reason), Change::EditMachine(id, edit), demanded).await
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

pub async fn enable(op: Requester, State(admin): State<Arc<Admin>>, Path(id): Path<String>, demanded: IfMatch, fields: Fields) -> Shown {
    act(&admin, op, &id, demanded, fields, Change::EnableMachine).await
}

pub async fn disable(op: Requester, State(admin): State<Arc<Admin>>, Path(id): Path<String>, demanded: IfMatch, fields: Fields) -> Shown {
    act(&admin, op, &id, demanded, fields, Change::DisableMachine).await
}

async fn act(
    admin: &Admin,
    operator: Requester,
    id: &str,
    demanded: IfMatch,
    mut fields: Fields,
    change: fn(MachineId) -> Change,
) -> Shown {
    let id = parse_id(id)?;
    let reason = take_reason(&mut fields);
    fields.finish()?;
    commit(admin, operator.origin(reason), change(id), demanded).await
}

/// Its keys go with it.
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
    admin.commit(operator.origin(reason), Change::DeleteMachine(id), demanded).await?;
    Ok(answer::nothing_left())
}

async fn commit(admin: &Admin, origin: Origin, change: Change, demanded: IfMatch) -> Shown {
    let Committed { revision, left, .. } = admin.commit(origin, change, demanded).await?;
    match left {
        Left::Machine(machine) => Ok(Tagged::new(revision, MachineView::from(&machine))),
        Left::Key(_) | Left::Operator(_) | Left::Nothing => {
            Err(Problem::new(Code::InternalError, "the change was made, and left something else than a machine"))
        }
    }
}

/// An id that cannot be one names nothing.
pub fn parse_id(text: &str) -> Result<MachineId, Problem> {
    text.parse().map_err(|error| Problem::not_found(format!("{text:?} names no machine: {error}")))
}

pub async fn find(admin: &Admin, id: MachineId) -> Result<Kept<Machine>, Problem> {
    let machine = admin.ask(move |store| store.machine(id)).await?;
    machine.ok_or_else(|| Problem::not_found(format!("no machine has the id {id}")))
}

pub fn take_reason(fields: &mut Fields) -> Option<String> {
    fields.nullable("reason", values::reason).flatten()
}
