//! What a journal line does to the mirror. A commit and a replay both ask here, so that they cannot differ.

use std::collections::BTreeMap;

use super::line::Chain;
use super::mirror::{self, Applied, Broken, Mirror, Tombstone, Write, Writes};
use super::records::{self, StoredOp, Unreadable};
use super::sum::Sum;
use super::{Kept, Seq, Subject};
use crate::model::{Key, KeyId, Machine, MachineId, Operator, OperatorId};

/// Why an op has no effect that could be told.
#[derive(Debug)]
pub enum Failure {
    Mirror(Broken),
    Record(Unreadable),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Failure {
        Failure::Mirror(broken)
    }
}

impl From<Unreadable> for Failure {
    fn from(unreadable: Unreadable) -> Failure {
        Failure::Record(unreadable)
    }
}

/// What effects build upon, and what is brought forward by them: records by their names in the mirror.
pub trait Base {
    fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Broken>;
    /// Visits the names that begin with `prefix`, in order.
    fn names(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Broken>;
    /// Writes lines in order.
    fn apply(&self, lines: &[Writes]) -> Result<(), Broken>;
    /// Puts what belongs to no line yet.
    fn fill(&self, writes: &[Write]) -> Result<(), Broken>;
}

impl Base for Mirror {
    fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        Mirror::get(self, name)
    }

    fn names(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Broken> {
        self.walk(prefix, None, |name, _| {
            each(name);
            true
        })
    }

    fn apply(&self, lines: &[Writes]) -> Result<(), Broken> {
        Mirror::apply(self, lines)
    }

    fn fill(&self, writes: &[Write]) -> Result<(), Broken> {
        Mirror::fill(self, writes)
    }
}

/// A record as it was and as it is, by its values in the mirror.
pub struct Touched {
    pub record: Subject,
    pub before: Option<Vec<u8>>,
    pub after: Option<Vec<u8>>,
}

/// The effects of some lines in order, not written yet; each line sees what the ones before it did.
pub struct Effects<'m> {
    base: &'m dyn Base,
    /// Over all live records after what was done so far.
    pub sum: Sum,
    changed: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    current: Vec<Write>,
    lines: Vec<Writes>,
}

impl<'m> Effects<'m> {
    /// `sum` is that over the records there now.
    pub fn upon(base: &'m dyn Base, sum: Sum) -> Effects<'m> {
        Effects { base, sum, changed: BTreeMap::new(), current: Vec::new(), lines: Vec::new() }
    }

    /// Does one op of line `seq`. `None` when it changes nothing: what is to be deleted is not there.
    pub fn perform(&mut self, seq: Seq, op: &StoredOp) -> Result<Option<Touched>, Failure> {
        match op {
            StoredOp::PutMachine(stored) => {
                let id = records::machine_id(stored)?;
                self.put_machine(id, Some(mirror::plain_value(seq, stored.to_string().as_bytes())))
            }
            StoredOp::PutOperator(stored) => {
                let id = records::operator_id(stored)?;
                self.put_operator(id, Some(mirror::plain_value(seq, stored.to_string().as_bytes())))
            }
            StoredOp::PutKey(stored) => {
                let (id, machine) = records::key_ids(stored)?;
                self.put_key(id, Some((machine, mirror::key_value(seq, machine, stored.to_string().as_bytes()))))
            }
            StoredOp::DeleteMachine(id) => {
                let touched = self.put_machine(id.parse().map_err(|_| Unreadable::Field("delete_machine"))?, None)?;
                self.bury(seq, touched)
            }
            StoredOp::DeleteKey(id) => {
                let touched = self.put_key(id.parse().map_err(|_| Unreadable::Field("delete_key"))?, None)?;
                self.bury(seq, touched)
            }
            StoredOp::DeleteOperator(id) => {
                let touched = self.put_operator(id.parse().map_err(|_| Unreadable::Field("delete_operator"))?, None)?;
                self.bury(seq, touched)
            }
        }
    }

    /// Leaves a tombstone, so that the lines about a deleted record can still be found.
    fn bury(&mut self, seq: Seq, touched: Option<Touched>) -> Result<Option<Touched>, Failure> {
        if let Some(Touched { record, before: Some(before), .. }) = &touched {
            let before = mirror::split_plain(before).map(|(seq, _)| seq);
            self.set_tombstone(*record, Tombstone { deleted: seq, before })?;
        }
        Ok(touched)
    }

    /// Puts a tombstone in place.
    pub fn set_tombstone(&mut self, record: Subject, tombstone: Tombstone) -> Result<(), Broken> {
        self.set(mirror::tombstone_name(&name_of(record)), Some(mirror::tombstone_value(tombstone))).map(drop)
    }

    fn put_machine(&mut self, id: MachineId, after: Option<Vec<u8>>) -> Result<Option<Touched>, Failure> {
        let before = self.set(mirror::machine_name(id), after.clone())?;
        Ok(touched(Subject::Machine(id), before, after))
    }

    fn put_operator(&mut self, id: OperatorId, after: Option<Vec<u8>>) -> Result<Option<Touched>, Failure> {
        let before = self.set(mirror::operator_name(id), after.clone())?;
        Ok(touched(Subject::Operator(id), before, after))
    }

    fn put_key(&mut self, id: KeyId, after: Option<(MachineId, Vec<u8>)>) -> Result<Option<Touched>, Failure> {
        let (machine, after) = after.unzip();
        let before = self.set(mirror::key_name(id), after.clone())?;
        let had = before.as_deref().and_then(mirror::split_key).map(|(_, machine, _)| machine);
        if had != machine {
            had.map(|machine| self.set(mirror::index_name(machine, id), None)).transpose()?;
            machine.map(|machine| self.set(mirror::index_name(machine, id), Some(Vec::new()))).transpose()?;
        }
        Ok(touched(Subject::Key(id), before, after))
    }

    /// Says that no tombstone is missing.
    pub fn set_all_tombstones(&mut self) -> Result<(), Broken> {
        let (name, value) = mirror::all_tombstones();
        self.set(name, value).map(drop)
    }

    /// The keys that a machine has now.
    pub fn keys_of(&self, machine: MachineId) -> Result<Vec<KeyId>, Broken> {
        let prefix = mirror::index_prefix(machine);
        let mut keys = Vec::new();
        self.base.names(&prefix, &mut |name| {
            if !self.changed.contains_key(name) {
                keys.extend(mirror::indexed_key(name));
            }
        })?;
        let ours = self.changed.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        keys.extend(ours.filter(|(_, value)| value.is_some()).filter_map(|(name, _)| mirror::indexed_key(name)));
        Ok(keys)
    }

    /// The number of the last change of a record that is there.
    pub fn last_of(&self, subject: Subject) -> Result<Option<Seq>, Broken> {
        self.seq_in(&name_of(subject))
    }

    /// The number of the last change by an actor.
    pub fn last_by(&self, actor: &str) -> Result<Option<Seq>, Broken> {
        self.seq_in(&mirror::actor_name(actor))
    }

    fn seq_in(&self, name: &[u8]) -> Result<Option<Seq>, Broken> {
        Ok(self.get(name)?.as_deref().and_then(mirror::split_plain).map(|(seq, _)| seq))
    }

    /// Ends a line: what was done since the last one is its doing.
    pub fn end_line(&mut self, seq: Seq, chain: Chain, actor: &str) -> Result<(), Broken> {
        self.remember(actor, seq)?;
        self.lines.push(Writes { applied: Applied { seq, chain }, writes: std::mem::take(&mut self.current) });
        Ok(())
    }

    /// What is to be written.
    pub fn into_lines(self) -> Vec<Writes> {
        self.lines
    }

    /// Puts the number of an actor's last change in place.
    pub fn remember(&mut self, actor: &str, seq: Seq) -> Result<(), Broken> {
        self.set(mirror::actor_name(actor), Some(seq.to_be_bytes().to_vec())).map(drop)
    }

    /// What was done since the last line ended, to be written without one.
    pub fn into_writes(self) -> Vec<Write> {
        self.current
    }

    fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        match self.changed.get(name) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(name),
        }
    }

    fn set(&mut self, name: Vec<u8>, value: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Broken> {
        let before = self.get(&name)?;
        if mirror::is_record(&name) {
            before.iter().for_each(|before| self.sum.take(&name, before));
            value.iter().for_each(|value| self.sum.add(&name, value));
        }
        self.current.push((name.clone(), value.clone()));
        self.changed.insert(name, value);
        Ok(before)
    }
}

/// The name of a record in the mirror.
pub fn name_of(subject: Subject) -> Vec<u8> {
    match subject {
        Subject::Machine(id) => mirror::machine_name(id),
        Subject::Key(id) => mirror::key_name(id),
        Subject::Operator(id) => mirror::operator_name(id),
    }
}

fn touched(record: Subject, before: Option<Vec<u8>>, after: Option<Vec<u8>>) -> Option<Touched> {
    (before.is_some() || after.is_some()).then_some(Touched { record, before, after })
}

/// A record, an actor's last change, or what is left of a deleted record, as it stands in the mirror.
pub enum Standing {
    Record(Seq, StoredOp),
    Actor(String, Seq),
    Deleted(Subject, Tombstone),
}

/// Reads a name and value of the mirror; `None` for what follows from others: the index, and how far it stands.
pub fn standing_in(name: &[u8], value: &[u8]) -> Result<Option<Standing>, Unreadable> {
    let unreadable = Unreadable::Field("seq");
    let stored = |stored: &[u8]| serde_json::from_slice(stored).map_err(|e| Unreadable::Json(e.column()));
    match name.first() {
        Some(b'm') => {
            let (seq, bytes) = mirror::split_plain(value).ok_or(unreadable)?;
            Ok(Some(Standing::Record(seq, StoredOp::PutMachine(stored(bytes)?))))
        }
        Some(b'o') => {
            let (seq, bytes) = mirror::split_plain(value).ok_or(unreadable)?;
            Ok(Some(Standing::Record(seq, StoredOp::PutOperator(stored(bytes)?))))
        }
        Some(b'k') => {
            let (seq, _, bytes) = mirror::split_key(value).ok_or(unreadable)?;
            Ok(Some(Standing::Record(seq, StoredOp::PutKey(stored(bytes)?))))
        }
        Some(b'a') => {
            let actor = String::from_utf8(name[1..].to_vec()).map_err(|_| Unreadable::Field("actor"))?;
            let seq = value.try_into().map(Seq::from_be_bytes).map_err(|_| unreadable)?;
            Ok(Some(Standing::Actor(actor, seq)))
        }
        Some(b'd') => {
            let record = mirror::record_named(&name[1..]).ok_or(Unreadable::Field("tombstone"))?;
            let tombstone = mirror::split_tombstone(value).ok_or(unreadable)?;
            Ok(Some(Standing::Deleted(record, tombstone)))
        }
        // A record of a kind that is not written here would show in the sum.
        _ => Ok(None),
    }
}

/// Reads a machine out of its value in the mirror.
pub fn machine_in(value: &[u8]) -> Result<Kept<Machine>, Unreadable> {
    plain_in(value, records::read_machine)
}

/// Reads an operator out of its value in the mirror.
pub fn operator_in(value: &[u8]) -> Result<Kept<Operator>, Unreadable> {
    plain_in(value, records::read_operator)
}

fn plain_in<T>(value: &[u8], read: fn(&[u8]) -> Result<T, Unreadable>) -> Result<Kept<T>, Unreadable> {
    let (seq, stored) = mirror::split_plain(value).ok_or(Unreadable::Field("seq"))?;
    Ok(Kept { seq, record: read(stored)? })
}

/// Reads a key out of its value in the mirror.
pub fn key_in(value: &[u8]) -> Result<Kept<Key>, Unreadable> {
    let (seq, _, stored) = mirror::split_key(value).ok_or(Unreadable::Field("seq"))?;
    Ok(Kept { seq, record: records::read_key(stored)? })
}
