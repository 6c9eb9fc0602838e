//! Which waiting changes go into one sync: those that can all be judged by the state before it.

use std::collections::{HashMap, VecDeque};

use crate::model::{Authority, Change, KeyId, MachineId, OperatorId};

/// Changes in one sync.
const GROUP: usize = 64;

/// What a change reads or writes, so that the changes of one group, all judged by the state before it, do not meet.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Touch {
    Machine(MachineId),
    Key(KeyId),
    Name(String),
    Operator(OperatorId),
    OperatorName(String),
}

/// A change that waits, with what it touches: asked once, however many groups go before it.
pub struct Waiting<J> {
    job: J,
    /// And whether for itself alone.
    touches: Vec<(Touch, bool)>,
}

impl<J> Waiting<J> {
    /// `machine_of` says whose a key is, which never changes.
    pub fn new(job: J, asked: impl Fn(&J) -> (&Authority, &Change), machine_of: impl Fn(KeyId) -> Option<MachineId>) -> Waiting<J> {
        let (authority, change) = asked(&job);
        let touches = asker(authority).into_iter().chain(touches(change, machine_of)).collect();
        Waiting { touches, job }
    }
}

/// Takes from the front what can be judged together: at most one change per machine, key, operator or name. Changes of different keys of
/// one machine go together; a change of the machine itself does not go with them. So do changes by one operator, and a change of that
/// operator does not: it decides what they may still do. The rest waits, in its order.
pub fn next_group<J>(waiting: &mut VecDeque<Waiting<J>>) -> Vec<J> {
    let mut group = Vec::new();
    let mut touched: HashMap<Touch, bool> = HashMap::new();
    let mut rest = Vec::new();
    while group.len() < GROUP
        && let Some(next) = waiting.pop_front()
    {
        let meets = next.touches.iter().any(|(touch, alone)| touched.get(touch).is_some_and(|held| *held || *alone));
        // What a waiting change touches is held too: a later change of the same thing must not overtake it.
        for (touch, alone) in &next.touches {
            *touched.entry(touch.clone()).or_default() |= alone;
        }
        if meets {
            rest.push(next);
        } else {
            group.push(next.job);
        }
    }
    rest.into_iter().rev().for_each(|next| waiting.push_front(next));
    group
}

/// Whoever asks is judged, too.
fn asker(authority: &Authority) -> Option<(Touch, bool)> {
    match authority {
        Authority::Everything => None,
        Authority::Token { operator, .. } => Some((Touch::Operator(*operator), false)),
    }
}

fn touches(change: &Change, machine_of: impl Fn(KeyId) -> Option<MachineId>) -> Vec<(Touch, bool)> {
    let of_key = |id: &KeyId| {
        let machine = machine_of(*id).map(|machine| (Touch::Machine(machine), false));
        [(Touch::Key(*id), true)].into_iter().chain(machine).collect()
    };
    match change {
        Change::CreateMachine(new) => vec![(Touch::Name(new.name.clone()), true)],
        Change::EditMachine(id, edit) => {
            let name = edit.name.iter().map(|name| (Touch::Name(name.clone()), true));
            name.chain([(Touch::Machine(*id), true)]).collect()
        }
        Change::EnableMachine(id) | Change::DisableMachine(id) | Change::DeleteMachine(id) => vec![(Touch::Machine(*id), true)],
        Change::CreateKey(machine, _) => vec![(Touch::Machine(*machine), false)],
        Change::EditKey(id, _)
        | Change::DeactivateKey(id)
        | Change::ReactivateKey(id)
        | Change::RevokeKey(id)
        | Change::RegenerateKey(id, _)
        | Change::EndGrace(id)
        | Change::DeleteKey(id) => of_key(id),
        Change::CreateOperator(new) => vec![(Touch::OperatorName(new.name.clone()), true)],
        Change::EditOperator(id, _)
        | Change::EnableOperator(id)
        | Change::DisableOperator(id)
        | Change::RegenerateOperator(id)
        | Change::DeleteOperator(id) => vec![(Touch::Operator(*id), true)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SecretHash;
    use crate::model::change::{MachineEdit, NewKey, NewMachine};

    const ONE: KeyId = KeyId::from_u128(1);
    const TWO: KeyId = KeyId::from_u128(2);
    const MACHINE: MachineId = MachineId::from_u128(9);
    const OTHER: MachineId = MachineId::from_u128(8);

    /// The places, from 0, of the changes that go into the first, second, … group. Both keys are `MACHINE`'s.
    fn groups(changes: &[Change]) -> Vec<Vec<usize>> {
        groups_of(&changes.iter().map(|change| (Authority::Everything, change.clone())).collect::<Vec<_>>())
    }

    fn groups_of(asked: &[(Authority, Change)]) -> Vec<Vec<usize>> {
        let wait = |(place, (authority, change)): (usize, &(Authority, Change))| {
            Waiting::new((place, *authority, change.clone()), |(_, authority, change)| (authority, change), |_| Some(MACHINE))
        };
        let mut waiting: VecDeque<Waiting<(usize, Authority, Change)>> = asked.iter().enumerate().map(wait).collect();
        let mut groups = Vec::new();
        while !waiting.is_empty() {
            let group = next_group(&mut waiting);
            groups.push(group.into_iter().map(|(place, ..)| place).collect());
        }
        groups
    }

    #[test]
    fn changes_that_meet_wait_for_one_another_and_others_do_not() {
        use Change::*;
        let named = |name: &str| CreateMachine(NewMachine { name: name.into(), ..NewMachine::default() });
        let rename = |id, name: &str| EditMachine(id, MachineEdit { name: Some(name.into()), ..MachineEdit::default() });
        let create = || CreateKey(MACHINE, NewKey::default());
        let cases: Vec<(Vec<Change>, Vec<Vec<usize>>)> = vec![
            (vec![RevokeKey(ONE), RevokeKey(TWO)], vec![vec![0, 1]]),
            (vec![DeactivateKey(ONE), RevokeKey(ONE), RevokeKey(TWO)], vec![vec![0, 2], vec![1]]),
            (vec![create(), create(), RevokeKey(ONE)], vec![vec![0, 1, 2]]),
            (vec![create(), DeleteMachine(MACHINE), create()], vec![vec![0], vec![1], vec![2]]),
            (vec![DisableMachine(MACHINE), RevokeKey(ONE), DisableMachine(OTHER)], vec![vec![0, 2], vec![1]]),
            (vec![named("a"), named("b"), named("a")], vec![vec![0, 1], vec![2]]),
            (vec![named("a"), rename(OTHER, "a"), RevokeKey(ONE)], vec![vec![0, 2], vec![1]]),
        ];
        for (changes, expected) in cases {
            assert_eq!(groups(&changes), expected, "{changes:?}");
        }
    }

    #[test]
    fn what_an_operator_changes_does_not_go_with_a_change_of_that_operator() {
        let [one, two] = [1, 2].map(OperatorId::from_u128);
        let by = |operator| Authority::Token { operator, hash: SecretHash([operator.as_u128() as u8; 32]) };
        let key = |n| Change::RevokeKey(KeyId::from_u128(n));
        let asked = [
            (by(one), key(1)),
            (by(one), key(2)),
            (Authority::Everything, Change::DisableOperator(one)),
            (by(one), key(3)),
            (by(two), key(4)),
            (by(two), Change::DeleteOperator(two)),
        ];
        assert_eq!(groups_of(&asked), vec![vec![0, 1, 4], vec![2, 5], vec![3]]);
    }

    #[test]
    fn what_waits_is_not_overtaken() {
        use Change::*;
        // The third meets only the second, which waits for the first.
        let changes = [DisableMachine(MACHINE), RevokeKey(ONE), DeleteKey(ONE), RevokeKey(TWO)];
        assert_eq!(groups(&changes), vec![vec![0], vec![1, 3], vec![2]]);
    }

    #[test]
    fn a_group_has_a_bound() {
        let changes: Vec<Change> = (0..150).map(|n| Change::RevokeKey(KeyId::from_u128(n))).collect();
        let sizes: Vec<usize> = groups(&changes).iter().map(Vec::len).collect();
        assert_eq!(sizes, [64, 64, 22]);
    }
}
