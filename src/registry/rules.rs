//! What a change does, if the rules of the domain allow it. Judged by the writer alone, by the state before its group.

use std::time::Duration;

use super::writer::{Desk, Judged};
use super::{Committed, Left};
use crate::model::change::{KeyEdit, MachineEdit, NewKey, NewMachine, NewOperator, OperatorEdit};
use crate::model::key::RevokedForGood;
use crate::model::operator::{TOKEN_ENVIRONMENT, TOKEN_PREFIX};
use crate::model::{
    Actor, Change, ChangeError, Environment, Key, KeyId, KeyState, Machine, MachineId, Operator, OperatorId, Origin, Right, Rights, Secret,
    Timestamp,
};
use crate::store::{Entry, Kept, Op, Seq, StoreError, Subject};

impl Desk {
    /// `expected` is the last change that whoever asks has seen of the subject; `None` where they do not care.
    pub(super) fn judge(&self, origin: Origin, change: Change, expected: Option<Seq>, now: Timestamp) -> Result<Judged, ChangeError> {
        let what = change.what();
        let asker = Asker { actor: &origin.actor, rights: self.known.rights(&origin.authority, now)? };
        needs(change.right(), "this", &asker)?;
        let Verdict { subject, ops, left, secret, before, revision } = self.verdict(change, &asker, now)?;
        if expected.is_some_and(|expected| expected != revision) {
            return Err(ChangeError::Stale { subject: subject.to_string() });
        }
        let entry = (!ops.is_empty()).then_some(Entry {
            time: now,
            actor: origin.actor.0,
            address: origin.address,
            reason: origin.reason,
            what,
            subject,
            ops,
        });
        Ok(Judged { entry, committed: Committed { seq: None, revision, left, secret }, before })
    }

    fn verdict(&self, change: Change, asker: &Asker<'_>, now: Timestamp) -> Result<Verdict, ChangeError> {
        match change {
            Change::CreateMachine(new) => self.create_machine(new, asker, now),
            Change::EditMachine(id, edit) => self.edit_machine(id, edit, asker),
            Change::EnableMachine(id) => self.switch_machine(id, true, asker),
            Change::DisableMachine(id) => self.switch_machine(id, false, asker),
            Change::DeleteMachine(id) => self.delete_machine(id, asker),
            Change::CreateKey(machine, new) => self.create_key(machine, new, asker, now),
            Change::EditKey(id, edit) => self.change_key(id, asker, |key| apply_edit(key, edit, now)),
            Change::DeactivateKey(id) => self.change_key(id, asker, Key::deactivate),
            Change::ReactivateKey(id) => self.change_key(id, asker, |key| key.reactivate(now)),
            Change::RevokeKey(id) => self.change_key(id, asker, |key| {
                key.revoke();
                Ok(())
            }),
            Change::RegenerateKey(id, grace) => self.regenerate_key(id, grace, asker, now),
            Change::EndGrace(id) => self.change_key(id, asker, Key::end_grace),
            Change::DeleteKey(id) => self.delete_key(id, asker),
            Change::CreateOperator(new) => self.create_operator(new, asker, now),
            Change::EditOperator(id, edit) => self.edit_operator(id, edit, asker),
            Change::EnableOperator(id) => self.switch_operator(id, true, asker),
            Change::DisableOperator(id) => self.switch_operator(id, false, asker),
            Change::RegenerateOperator(id) => self.regenerate_operator(id, asker),
            Change::DeleteOperator(id) => self.delete_operator(id),
        }
    }

    fn create_machine(&self, new: NewMachine, asker: &Asker<'_>, now: Timestamp) -> Result<Verdict, ChangeError> {
        may_touch(new.third_party, asker)?;
        self.name_is_free(&new.name, None)?;
        let NewMachine { name, description, contact, permissions, organizations, tier, third_party } = new;
        let id = MachineId::new(now, random()?);
        Ok(Verdict::machine(
            Machine { id, name, description, contact, permissions, organizations, tier, third_party, enabled: true, created_at: now },
            0,
        ))
    }

    fn edit_machine(&self, id: MachineId, edit: MachineEdit, asker: &Asker<'_>) -> Result<Verdict, ChangeError> {
        may_touch(edit.third_party == Some(true), asker)?;
        let before = self.machine_to_touch(id, asker)?;
        if let Some(name) = &edit.name {
            self.name_is_free(name, Some(id))?;
        }
        let MachineEdit { name, description, contact, permissions, organizations, tier, third_party } = edit;
        let mut machine = before.record.clone();
        set(&mut machine.name, name);
        set(&mut machine.description, description);
        set(&mut machine.contact, contact);
        set(&mut machine.permissions, permissions);
        set(&mut machine.organizations, organizations);
        set(&mut machine.tier, tier);
        set(&mut machine.third_party, third_party);
        Ok(Verdict::machine_after(&before, machine))
    }

    fn switch_machine(&self, id: MachineId, enabled: bool, asker: &Asker<'_>) -> Result<Verdict, ChangeError> {
        let before = self.machine_to_touch(id, asker)?;
        let machine = Machine { enabled, ..before.record.clone() };
        Ok(Verdict::machine_after(&before, machine))
    }

    fn delete_machine(&self, id: MachineId, asker: &Asker<'_>) -> Result<Verdict, ChangeError> {
        let revision = self.machine_to_touch(id, asker)?.seq;
        let before = self.store.keys(Some(id), None, usize::MAX).map_err(unavailable)?;
        let keys = before.iter().map(|key| Op::DeleteKey(key.id));
        let ops = keys.chain([Op::DeleteMachine(id)]).collect();
        Ok(Verdict { subject: Subject::Machine(id), ops, left: Left::Nothing, secret: None, before, revision })
    }

    fn create_key(&self, machine: MachineId, new: NewKey, asker: &Asker<'_>, now: Timestamp) -> Result<Verdict, ChangeError> {
        self.machine_to_touch(machine, asker)?;
        let secret = self.draw(&new.environment)?;
        let NewKey { label, description, environment, permissions, organizations, tier, allowed_ips, expires_at } = new;
        let key = Key {
            id: KeyId::new(now, random()?),
            machine,
            label,
            description,
            environment,
            permissions,
            organizations,
            tier,
            allowed_ips,
            expires_at,
            state: KeyState::Active,
            created_at: now,
            created_by: asker.actor.0.clone(),
            hash: secret.hash(),
            hint: secret.hint(),
            old_values: Vec::new(),
            renewed_at: None,
        };
        Ok(Verdict { secret: Some(secret), ..Verdict::key(key, Vec::new(), 0) })
    }

    fn change_key(
        &self,
        id: KeyId,
        asker: &Asker<'_>,
        change: impl FnOnce(&mut Key) -> Result<(), RevokedForGood>,
    ) -> Result<Verdict, ChangeError> {
        let Kept { seq, record: before } = self.key_to_touch(id, asker)?;
        let mut key = before.clone();
        change(&mut key).map_err(|RevokedForGood| ChangeError::Revoked(id))?;
        if key == before {
            return Ok(Verdict { ops: Vec::new(), ..Verdict::key(key, Vec::new(), seq) });
        }
        Ok(Verdict::key(key, vec![before], seq))
    }

    fn regenerate_key(&self, id: KeyId, grace: Duration, asker: &Asker<'_>, now: Timestamp) -> Result<Verdict, ChangeError> {
        let secret = self.draw(&self.stored_key(id)?.record.environment)?;
        let verdict = self.change_key(id, asker, |key| key.regenerate(secret.hash(), secret.hint(), grace, now))?;
        Ok(Verdict { secret: Some(secret), ..verdict })
    }

    fn delete_key(&self, id: KeyId, asker: &Asker<'_>) -> Result<Verdict, ChangeError> {
        let Kept { seq, record } = self.key_to_touch(id, asker)?;
        Ok(Verdict {
            subject: Subject::Key(id),
            ops: vec![Op::DeleteKey(id)],
            left: Left::Nothing,
            secret: None,
            before: vec![record],
            revision: seq,
        })
    }

    fn create_operator(&self, new: NewOperator, asker: &Asker<'_>, now: Timestamp) -> Result<Verdict, ChangeError> {
        let NewOperator { name, rights, expires_at } = new;
        may_grant(rights, asker)?;
        if let Some(holder) = self.known.operator_named(&name) {
            return Err(ChangeError::OperatorNameTaken { name, holder });
        }
        let token = draw_token()?;
        let operator = Operator {
            id: OperatorId::new(now, random()?),
            name,
            rights,
            enabled: true,
            expires_at,
            created_at: now,
            created_by: asker.actor.0.clone(),
            hash: token.hash(),
            hint: token.hint(),
        };
        Ok(Verdict { secret: Some(token), ..Verdict::operator(operator, 0) })
    }

    /// Rights that somebody has may be left or taken by who lacks them, but not given.
    fn edit_operator(&self, id: OperatorId, edit: OperatorEdit, asker: &Asker<'_>) -> Result<Verdict, ChangeError> {
        let before = self.stored_operator(id)?;
        if let Some(rights) = edit.rights {
            may_grant(rights.without(before.record.rights), asker)?;
        }
        let mut operator = before.record.clone();
        set(&mut operator.rights, edit.rights);
        if edit.expires_at.is_some_and(|at| at != operator.expires_at) {
            // Moving the date can bring a token back to life.
            may_grant(operator.rights, asker)?;
        }
        set(&mut operator.expires_at, edit.expires_at);
        Ok(Verdict::operator_after(&before, operator))
    }

    fn switch_operator(&self, id: OperatorId, enabled: bool, asker: &Asker<'_>) -> Result<Verdict, ChangeError> {
        let before = self.stored_operator(id)?;
        if enabled {
            may_grant(before.record.rights, asker)?;
        }
        let operator = Operator { enabled, ..before.record.clone() };
        Ok(Verdict::operator_after(&before, operator))
    }

    /// Who regenerates holds the new token, and with it its rights.
    fn regenerate_operator(&self, id: OperatorId, asker: &Asker<'_>) -> Result<Verdict, ChangeError> {
        let before = self.stored_operator(id)?;
        may_grant(before.record.rights, asker)?;
        let token = draw_token()?;
        let operator = Operator { hash: token.hash(), hint: token.hint(), ..before.record.clone() };
        Ok(Verdict { secret: Some(token), ..Verdict::operator_after(&before, operator) })
    }

    fn delete_operator(&self, id: OperatorId) -> Result<Verdict, ChangeError> {
        let revision = self.stored_operator(id)?.seq;
        let ops = vec![Op::DeleteOperator(id)];
        Ok(Verdict { subject: Subject::Operator(id), ops, left: Left::Nothing, secret: None, before: Vec::new(), revision })
    }

    fn machine_to_touch(&self, id: MachineId, asker: &Asker<'_>) -> Result<Kept<Machine>, ChangeError> {
        let machine = self.store.machine(id).map_err(unavailable)?.ok_or(ChangeError::NoSuchMachine(id))?;
        may_touch(machine.record.third_party, asker)?;
        Ok(machine)
    }

    fn key_to_touch(&self, id: KeyId, asker: &Asker<'_>) -> Result<Kept<Key>, ChangeError> {
        let key = self.stored_key(id)?;
        self.machine_to_touch(key.record.machine, asker)?;
        Ok(key)
    }

    fn stored_key(&self, id: KeyId) -> Result<Kept<Key>, ChangeError> {
        self.store.key(id).map_err(unavailable)?.ok_or(ChangeError::NoSuchKey(id))
    }

    fn stored_operator(&self, id: OperatorId) -> Result<Kept<Operator>, ChangeError> {
        self.store.operator(id).map_err(unavailable)?.ok_or(ChangeError::NoSuchOperator(id))
    }

    fn name_is_free(&self, name: &str, but_for: Option<MachineId>) -> Result<(), ChangeError> {
        match self.known.named(name) {
            Some(holder) if Some(holder) != but_for => Err(ChangeError::NameTaken { name: name.into(), holder }),
            _ => Ok(()),
        }
    }

    /// A new value whose hash begins like no other's: the registry looks up by the first eight bytes.
    fn draw(&self, environment: &Environment) -> Result<Secret, ChangeError> {
        loop {
            let secret = Secret::generate(&self.key_prefix, environment, getrandom::fill).map_err(no_randomness)?;
            if !self.known.is_taken(&secret.hash()) {
                return Ok(secret);
            }
        }
    }
}

/// A machine that somebody outside runs, and its keys, are changed by who configures the platform only.
fn may_touch(third_party: bool, asker: &Asker<'_>) -> Result<(), ChangeError> {
    if third_party { needs(Right::PlatformConfigure, "changing a third-party machine or its keys", asker) } else { Ok(()) }
}

/// Nobody grants a right they lack.
fn may_grant(rights: Rights, asker: &Asker<'_>) -> Result<(), ChangeError> {
    match asker.rights.lacking(rights) {
        Some(right) => Err(ChangeError::RightMissing { right, needed_for: "granting it" }),
        None => Ok(()),
    }
}

fn needs(right: Right, needed_for: &'static str, asker: &Asker<'_>) -> Result<(), ChangeError> {
    if asker.rights.allow(right) { Ok(()) } else { Err(ChangeError::RightMissing { right, needed_for }) }
}

/// Who makes a change, with the rights that they have while it is judged.
struct Asker<'a> {
    actor: &'a Actor,
    rights: Rights,
}

/// What a rule made of a change.
struct Verdict {
    subject: Subject,
    ops: Vec<Op>,
    left: Left,
    secret: Option<Secret>,
    before: Vec<Key>,
    /// The last change of the subject before this one; 0 when it is new.
    revision: Seq,
}

impl Verdict {
    fn machine(machine: Machine, revision: Seq) -> Verdict {
        let ops = vec![Op::PutMachine(Box::new(machine.clone()))];
        Verdict { subject: Subject::Machine(machine.id), ops, left: Left::Machine(machine), secret: None, before: Vec::new(), revision }
    }

    /// Writes nothing when nothing is different.
    fn machine_after(before: &Kept<Machine>, machine: Machine) -> Verdict {
        let same = before.record == machine;
        let verdict = Verdict::machine(machine, before.seq);
        if same { Verdict { ops: Vec::new(), ..verdict } } else { verdict }
    }

    fn key(key: Key, before: Vec<Key>, revision: Seq) -> Verdict {
        let ops = vec![Op::PutKey(Box::new(key.clone()))];
        Verdict { subject: Subject::Key(key.id), ops, left: Left::Key(key), secret: None, before, revision }
    }

    fn operator(operator: Operator, revision: Seq) -> Verdict {
        let ops = vec![Op::PutOperator(Box::new(operator.clone()))];
        Verdict { subject: Subject::Operator(operator.id), ops, left: Left::Operator(operator), secret: None, before: Vec::new(), revision }
    }

    fn operator_after(before: &Kept<Operator>, operator: Operator) -> Verdict {
        let same = before.record == operator;
        let verdict = Verdict::operator(operator, before.seq);
        if same { Verdict { ops: Vec::new(), ..verdict } } else { verdict }
    }
}

fn apply_edit(key: &mut Key, edit: KeyEdit, now: Timestamp) -> Result<(), RevokedForGood> {
    let key = if edit.is_cosmetic() { key } else { key.unless_revoked()? };
    let KeyEdit { label, description, permissions, organizations, tier, allowed_ips, expires_at } = edit;
    set(&mut key.label, label);
    set(&mut key.description, description);
    set(&mut key.permissions, permissions);
    set(&mut key.organizations, organizations);
    set(&mut key.tier, tier);
    set(&mut key.allowed_ips, allowed_ips);
    if let Some(expires_at) = expires_at {
        key.set_expiry(expires_at, now);
    }
    Ok(())
}

fn set<T>(field: &mut T, to: Option<T>) {
    if let Some(value) = to {
        *field = value;
    }
}

fn random() -> Result<u128, ChangeError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(no_randomness)?;
    Ok(u128::from_be_bytes(bytes))
}

fn draw_token() -> Result<Secret, ChangeError> {
    let environment = Environment::parse(TOKEN_ENVIRONMENT).unwrap_or_default();
    Secret::generate(TOKEN_PREFIX, &environment, getrandom::fill).map_err(no_randomness)
}

fn no_randomness(error: getrandom::Error) -> ChangeError {
    ChangeError::StoreUnavailable(format!("the operating system's random generator failed: {error}"))
}

fn unavailable(error: StoreError) -> ChangeError {
    ChangeError::StoreUnavailable(error.to_string())
}
