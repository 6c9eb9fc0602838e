//! The last use of each operator's token. As many as operators ever used one: few, and the admin plane alone notes and asks.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use super::log::Frames;
use super::sums::{LastUse, is_leap};
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

    /// Notes a use of just now. Of two that end in another order than they began in, the later one stays.
    pub fn note(&mut self, id: OperatorId, last: LastUse) {
        let known = self.last.entry(id).or_insert(last);
        if known.at <= last.at || is_leap(known.at, last.at) {
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::Usage;
    use super::*;
    use crate::model::Timestamp;

    fn used(at: i64) -> LastUse {
        LastUse { at: Timestamp(at), from: "2001:db8::7".parse().unwrap(), value: None }
    }

    #[test]
    fn the_later_use_stays_and_is_found_again_after_restarts_and_rewritings() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (OperatorId::from_u128(1), OperatorId::from_u128(2));
        let (usage, _) = Usage::open(dir.path()).unwrap();
        // The wall clock had leapt ahead.
        usage.operator_used(second, used(100 * 86_400_000));
        usage.operator_used(second, used(7));
        for n in 1..=2_000 {
            usage.operator_used(first, used(n));
            usage.operator_used(first, used(n - 1));
            usage.flush(&mut |_| ()).unwrap();
        }
        let length = || dir.path().join("usage.log").metadata().unwrap().len();
        let written = length();
        assert!(written < 20 * 1024, "it was rewritten on the way: {written} bytes");
        usage.flush(&mut |_| ()).unwrap();
        assert_eq!(length(), written, "nothing is written when nothing changed");
        let (again, _) = Usage::open(dir.path()).unwrap();
        let found = [first, second, OperatorId::from_u128(3)].map(|id| again.of_operator(id));
        assert_eq!(found, [Some(used(2_000)), Some(used(7)), None]);
    }

    #[test]
    fn a_use_that_the_disk_refused_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let id = OperatorId::from_u128(1);
        let (usage, _) = Usage::open(dir.path()).unwrap();
        usage.operator_used(id, used(1));
        // A handle that cannot be written to stands for a disk that refuses.
        let refusing = File::open(dir.path().join("usage.log")).unwrap();
        let writable = std::mem::replace(&mut usage.disk.lock().log.file, refusing);
        assert!(usage.flush(&mut |_| ()).is_err());
        assert_eq!(usage.of_operator(id), Some(used(1)));
        usage.disk.lock().log.file = writable;
        usage.flush(&mut |_| ()).unwrap();
        assert_eq!(Usage::open(dir.path()).unwrap().0.of_operator(id), Some(used(1)));
    }
}
