//! The last use of each operator's token. As many as operators ever used one: few, and the admin plane alone notes and asks.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use super::log::Frames;
use super::sums::LastUse;
use crate::model::OperatorId;

#[derive(Default)]
pub(super) struct Operators {
    last: HashMap<OperatorId, LastUse>,
    /// What is not in the log yet.
    changed: HashSet<OperatorId>,
}

impl Operators {
    /// Takes over what the log says.
    pub fn restore(&mut self, id: OperatorId, last: LastUse) {
        self.last.insert(id, last);
    }

    /// Of two uses that end in another order than they began in, the later one stays.
    pub fn note(&mut self, id: OperatorId, last: LastUse) {
        let known = self.last.entry(id).or_insert(last);
        if known.at <= last.at {
            *known = last;
            self.changed.insert(id);
        }
    }

    pub fn last(&self, id: OperatorId) -> Option<LastUse> {
        self.last.get(&id).copied()
    }

    /// Writes what changed, and answers whom it is about.
    pub fn write_changed<W: Write>(&mut self, frames: &mut Frames<W>) -> io::Result<Vec<OperatorId>> {
        let pending: Vec<OperatorId> = self.changed.drain().collect();
        pending.iter().filter_map(|id| Some((*id, self.last.get(id)?))).try_for_each(|(id, last)| frames.operator(id, last))?;
        Ok(pending)
    }

    /// What was written did not reach the disk.
    pub fn put_back(&mut self, pending: Vec<OperatorId>) {
        self.changed.extend(pending);
    }

    /// Writes everything.
    pub fn write<W: Write>(&self, frames: &mut Frames<W>) -> io::Result<()> {
        self.last.iter().try_for_each(|(id, last)| frames.operator(*id, last))
    }
}
