//! What a journal line does to the mirror. A commit and a replay both ask here, so that they cannot differ.

use std::collections::BTreeMap;

use super::line::Chain;
use super::mirror::{self, Applied, Broken, Mirror, Tombstone, Writes};
use super::records::{self, StoredOp, Unreadable};
use super::sum::Sum;
use super::{Seq, Subject};
use crate::model::{Key, KeyId, Machine, MachineId};

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

/// A record as it was and as it is, by its values in the mirror.
pub struct Touched {
    pub record: Subject,
    pub before: Option<Vec<u8>>,
    pub after: Option<Vec<u8>>,
}

/// The effects of some lines in order, not written yet; each line sees what the ones before it did.
pub struct Effects<'m> {
    mirror: &'m Mirror,
    /// Over all live records after what was done so far.
    pub sum: Sum,
    changed: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    current: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    lines: Vec<Writes>,
}

impl<'m> Effects<'m> {
    /// `sum` is that over the records in the mirror now.
    pub fn upon(mirror: &'m Mirror, sum: Sum) -> Effects<'m> {
        Effects { mirror, sum, changed: BTreeMap::new(), current: Vec::new(), lines: Vec::new() }
    }

    /// Does one op of line `seq`. `None` when it changes nothing: what is to be deleted is not there.
    pub fn perform(&mut self, seq: Seq, op: &StoredOp) -> Result<Option<Touched>, Failure> {
        match op {
            StoredOp::PutMachine(stored) => {
                let id = records::machine_id(stored)?;
                self.put_machine(id, Some(mirror::machine_value(seq, stored.to_string().as_bytes())))
            }
            StoredOp::PutKey(stored) => {
                let (id, machine) = records::key_ids(stored)?;
                self.put_key(id, Some((machine, mirror::key_value(seq, machine, stored.to_string().as_bytes()))))
            }
            StoredOp::DeleteMachine(id) => {
                let touched = self.put_machine(id.parse().map_err(|_| Unreadable::Field("delete_machine"))?, None)?;
                self.remember(seq, touched)
            }
            StoredOp::DeleteKey(id) => {
                let touched = self.put_key(id.parse().map_err(|_| Unreadable::Field("delete_key"))?, None)?;
                self.remember(seq, touched)
            }
        }
    }

    /// Leaves a tombstone, so that the lines about a deleted record can still be found.
    fn remember(&mut self, seq: Seq, touched: Option<Touched>) -> Result<Option<Touched>, Failure> {
        if let Some(Touched { record, before: Some(before), .. }) = &touched {
            let before = mirror::split_machine(before).map(|(seq, _)| seq);
            let name = mirror::tombstone_name(&name_of(*record));
            self.set(name, Some(mirror::tombstone_value(Tombstone { deleted: seq, before })))?;
        }
        Ok(touched)
    }

    fn put_machine(&mut self, id: MachineId, after: Option<Vec<u8>>) -> Result<Option<Touched>, Failure> {
        let before = self.set(mirror::machine_name(id), after.clone())?;
        Ok(touched(Subject::Machine(id), before, after))
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

    /// The keys that a machine has now.
    pub fn keys_of(&self, machine: MachineId) -> Result<Vec<KeyId>, Broken> {
        let prefix = mirror::index_prefix(machine);
        let mut keys = Vec::new();
        self.mirror.walk(&prefix, None, |name, _| {
            if !self.changed.contains_key(name) {
                keys.extend(mirror::indexed_key(name));
            }
            true
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
        Ok(self.get(name)?.as_deref().and_then(mirror::split_machine).map(|(seq, _)| seq))
    }

    /// Ends a line: what was done since the last one is its doing.
    pub fn end_line(&mut self, seq: Seq, chain: Chain, actor: &str) -> Result<(), Broken> {
        self.set(mirror::actor_name(actor), Some(seq.to_be_bytes().to_vec()))?;
        self.lines.push(Writes { applied: Applied { seq, chain }, writes: std::mem::take(&mut self.current) });
        Ok(())
    }

    /// What is to be written.
    pub fn into_lines(self) -> Vec<Writes> {
        self.lines
    }

    fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        match self.changed.get(name) {
            Some(value) => Ok(value.clone()),
            None => self.mirror.get(name),
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
    }
}

fn touched(record: Subject, before: Option<Vec<u8>>, after: Option<Vec<u8>>) -> Option<Touched> {
    (before.is_some() || after.is_some()).then_some(Touched { record, before, after })
}

/// Reads a machine out of its value in the mirror.
pub fn machine_in(value: &[u8]) -> Result<Machine, Unreadable> {
    mirror::split_machine(value).ok_or(Unreadable::Field("seq")).and_then(|(_, stored)| records::read_machine(stored))
}

/// Reads a key out of its value in the mirror.
pub fn key_in(value: &[u8]) -> Result<Key, Unreadable> {
    mirror::split_key(value).ok_or(Unreadable::Field("seq")).and_then(|(_, _, stored)| records::read_key(stored))
}
