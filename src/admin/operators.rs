//! `/v1/operators`: who manages the gateway, and `/v1/whoami`: who asks. A token is shown in one answer, the one to its making.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::door::{Pass, Requester};
use super::fields::Fields;
use super::keys::{take_expiry, warn};
use super::machines::{CHUNK, take_reason};
use super::page::{Page, Params, cursor};
use super::problem::{Code, Problem};
use super::revision::{IfMatch, Tag, Tagged};
use super::wire::{List, OperatorChanged, OperatorView, WhoamiView};
use super::{Admin, answer, values};
use crate::model::change::{NewOperator, OperatorEdit};
use crate::model::operator::OperatorStatus;
use crate::model::{Change, Operator, OperatorId, Origin, Timestamp};
use crate::registry::Left;
use crate::store::{Kept, Store, StoreError};

/// Which operators are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    name: Option<String>,
    status: Option<OperatorStatus>,
}

impl Filter {
    fn take(params: &mut Params) -> Filter {
        Filter { name: params.optional("name", Ok), status: params.optional("status", values::operator_status) }
    }

    fn matches(&self, operator: &Operator, now: Timestamp) -> bool {
        self.name.as_ref().is_none_or(|name| *name == operator.name) && self.status.is_none_or(|status| status == operator.status(now))
    }
}

pub async fn list(State(admin): State<Arc<Admin>>, mut params: Params) -> Result<Json<List<OperatorView>>, Problem> {
    let (page, filter) = (params.page(), Filter::take(&mut params));
    params.finish()?;
    let now = admin.clock.now().wall;
    let (operators, more) = admin.ask(move |store| matching(store, &filter, page, now)).await?;
    let next_cursor = operators.last().filter(|_| more).map(|last| cursor(last.id.as_u128()));
    Ok(Json(List { data: operators.iter().map(|operator| admin.operator_view(operator)).collect(), next_cursor }))
}

/// The page, and whether there is more behind it.
fn matching(store: &dyn Store, filter: &Filter, page: Page, now: Timestamp) -> Result<(Vec<Operator>, bool), StoreError> {
    let (mut found, mut after) = (Vec::new(), page.after.map(OperatorId::from_u128));
    loop {
        let chunk = store.operators(after, CHUNK)?;
        let last_chunk = chunk.len() < CHUNK;
        after = chunk.last().map(|operator| operator.id);
        found.extend(chunk.into_iter().filter(|operator| filter.matches(operator, now)));
        if last_chunk || found.len() > page.limit {
            let more = found.len() > page.limit;
            found.truncate(page.limit);
            return Ok((found, more));
        }
    }
}

pub async fn show(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Result<Tagged<OperatorView>, Problem> {
    let Kept { seq, record } = find(&admin, parse_id(&id)?).await?;
    Ok(Tagged::new(seq, admin.operator_view(&record)))
}

pub async fn whoami(requester: Requester, pass: Pass, State(admin): State<Arc<Admin>>) -> Result<Json<WhoamiView>, Problem> {
    let operator = match requester.operator() {
        Some(id) => Some(admin.operator_view(&find(&admin, id).await?.record)),
        None => None,
    };
    Ok(Json(WhoamiView { actor: requester.actor.0, rights: pass.rights()?.iter().map(|right| right.to_string()).collect(), operator }))
}

pub async fn create(requester: Requester, State(admin): State<Arc<Admin>>, mut fields: Fields) -> Result<Response, Problem> {
    let new = NewOperator {
        name: fields.required("name", values::name).unwrap_or_default(),
        rights: fields.required("rights", values::rights).unwrap_or_default(),
        expires_at: take_expiry(&mut fields, admin.clock.now().wall).flatten(),
    };
    let reason = take_reason(&mut fields);
    fields.finish()?;
    let made = commit(&admin, requester.origin(reason), Change::CreateOperator(new), IfMatch::Whatever).await?;
    let location = format!("/v1/operators/{}", made.body.operator.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], made).into_response())
}

pub async fn edit(
    requester: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    mut fields: Fields,
) -> Changed {
    let id = parse_id(&id)?;
    let Kept { seq, record } = find(&admin, id).await?;
    demanded.permits(seq)?;
    let current = admin.operator_view(&record);
    let edit =
        OperatorEdit { rights: fields.optional("rights", values::rights), expires_at: take_expiry(&mut fields, admin.clock.now().wall) };
    let reason = take_reason(&mut fields);
    refuse_fixed(&mut fields, &current);
    fields.finish()?;
    commit(&admin, requester.origin(reason), Change::EditOperator(id, edit), demanded).await
}

fn refuse_fixed(fields: &mut Fields, current: &OperatorView) {
    let own = |text: &str| Value::from(text);
    fields.unchangeable("id", &own(&current.id), "it names the operator for its whole life");
    fields.unchangeable("name", &own(&current.name), "it names the operator in the journal: create another operator");
    fields.unchangeable("enabled", &json!(current.enabled), "use POST …/enable or …/disable");
    fields.unchangeable("status", &own(&current.status), "use POST …/enable or …/disable, or move expires_at");
    fields.unchangeable("hint", &own(&current.hint), "use POST …/regenerate for another token");
    fields.unchangeable("created_at", &own(&current.created_at), "it is history");
    fields.unchangeable("created_by", &own(&current.created_by), "it is history");
    fields.unchangeable("secret", &Value::Null, "tokens are made by the gateway: use POST …/regenerate for another one");
    fields.unchangeable("warnings", &json!([]), "they are the gateway's");
    // These move with every use, also between a client's GET and its PATCH.
    for name in ["last_used_at", "last_used_ip"] {
        fields.disregard(name);
    }
}

pub async fn enable(op: Requester, State(admin): State<Arc<Admin>>, Path(id): Path<String>, demanded: IfMatch, fields: Fields) -> Changed {
    act(&admin, op, &id, demanded, fields, Change::EnableOperator).await
}

pub async fn disable(op: Requester, State(admin): State<Arc<Admin>>, Path(id): Path<String>, demanded: IfMatch, fields: Fields) -> Changed {
    act(&admin, op, &id, demanded, fields, Change::DisableOperator).await
}

pub async fn regenerate(
    op: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    fields: Fields,
) -> Changed {
    act(&admin, op, &id, demanded, fields, Change::RegenerateOperator).await
}

type Changed = Result<Tagged<OperatorChanged>, Problem>;

async fn act(
    admin: &Admin,
    requester: Requester,
    id: &str,
    demanded: IfMatch,
    mut fields: Fields,
    change: fn(OperatorId) -> Change,
) -> Changed {
    let id = parse_id(id)?;
    let reason = take_reason(&mut fields);
    fields.finish()?;
    commit(admin, requester.origin(reason), change(id), demanded).await
}

/// The last one too: the socket remains.
pub async fn delete(
    requester: Requester,
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    demanded: IfMatch,
    mut params: Params,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let reason = params.reason();
    params.finish()?;
    admin.commit(requester.origin(reason), Change::DeleteOperator(id), demanded).await?;
    Ok(answer::nothing_left())
}

async fn commit(admin: &Admin, origin: Origin, change: Change, demanded: IfMatch) -> Changed {
    let is_expiry = match &change {
        Change::CreateOperator(_) => true,
        Change::EditOperator(_, edit) => edit.expires_at.is_some(),
        _ => false,
    };
    let committed = admin.commit(origin, change, demanded).await?;
    let Left::Operator(operator) = committed.left else {
        return Err(Problem::new(Code::InternalError, "the change was made, and left something else than an operator"));
    };
    let view = admin.operator_view(&operator);
    // The tag is that of the operator, as a GET shows it: without the token.
    let tag = Tag::of(committed.revision, &view);
    let secret = committed.secret.map(|token| token.reveal().to_string());
    let past = warn::token_past(&operator, admin.clock.now().wall).filter(|_| is_expiry);
    Ok(Tagged { body: OperatorChanged { operator: view, secret, warnings: Vec::from_iter(past) }, tag })
}

impl Admin {
    fn operator_view(&self, operator: &Operator) -> OperatorView {
        OperatorView::of(operator, self.doorkeeper.last_use(operator.id), self.clock.now().wall)
    }
}

fn parse_id(text: &str) -> Result<OperatorId, Problem> {
    text.parse().map_err(|error| Problem::not_found(format!("{text:?} names no operator: {error}")))
}

async fn find(admin: &Admin, id: OperatorId) -> Result<Kept<Operator>, Problem> {
    let operator = admin.ask(move |store| store.operator(id)).await?;
    operator.ok_or_else(|| Problem::not_found(format!("no operator has the id {id}")))
}
