//! The one thread that changes anything: takes what waits, judges each change by the rules, has the store keep the group
//! with one sync, applies it to memory, then answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::group::next_group;
use super::{Committed, Known, Left};
use crate::clock::Clock;
use crate::model::change::{KeyEdit, MachineEdit, NewKey, NewMachine};
use crate::model::key::RevokedForGood;
use crate::model::{Change, ChangeError, Environment, Key, KeyId, KeyState, Machine, MachineId, Origin, Secret, Timestamp};
use crate::store::{Entry, Health, Op, Store, StoreError, Subject};

/// Changes that may wait in the queue, and as many again at the desk; what comes on top is refused rather than kept.
const WAITING: usize = 1_024;
/// What is said when the thread died of a fault of ours.
const GONE: &str = "the writer thread is gone; restart the gateway";
/// How often a store that refuses is asked to get well.
const RECOVERY: Duration = Duration::from_secs(1);

/// The handle on the thread. Dropping it lets the thread finish what waits, and waits for that.
pub(super) struct Writer {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

struct Job {
    origin: Origin,
    change: Change,
    answer: oneshot::Sender<Result<Committed, ChangeError>>,
}

impl Writer {
    pub(super) fn start(known: Arc<Known>, store: Arc<dyn Store>, clock: Clock, key_prefix: String) -> Result<Writer, StoreError> {
        let (queue, jobs) = sync_channel(WAITING);
        let desk = Desk { known, store, clock, key_prefix };
        let thread = std::thread::Builder::new()
            .name("octroi-writer".into())
            .spawn(move || desk.run(&jobs))
            .map_err(|error| StoreError::Unavailable(format!("cannot start the writer thread: {error}")))?;
        Ok(Writer { queue: Some(queue), thread: Some(thread) })
    }

    pub(super) async fn submit(&self, origin: Origin, change: Change) -> Result<Committed, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let job = Job { origin, change, answer };
        let gone = || ChangeError::StoreUnavailable(GONE.into());
        match self.queue.as_ref().ok_or_else(gone)?.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(ChangeError::StoreUnavailable(format!("{WAITING} changes already wait; try again"))),
            Err(TrySendError::Disconnected(_)) => return Err(gone()),
        }
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

struct Desk {
    known: Arc<Known>,
    store: Arc<dyn Store>,
    clock: Clock,
    key_prefix: String,
}

/// A change that the rules allow, before it is stored.
struct Judged {
    /// `None` when nothing has to be written.
    entry: Option<Entry>,
    committed: Committed,
    /// Keys as they were: their values leave memory before the new ones come.
    before: Vec<Key>,
}

impl Desk {
    fn run(&self, jobs: &Receiver<Job>) {
        let mut waiting = VecDeque::new();
        let mut looked = self.clock.now().tick;
        loop {
            if waiting.is_empty() {
                match jobs.recv_timeout(RECOVERY) {
                    Ok(job) => waiting.push_back(job),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            // Not only in a pause: who asks again and again for a change would keep the store from getting well.
            let now = self.clock.now().tick;
            if waiting.is_empty() || now.since(looked) >= RECOVERY {
                looked = now;
                self.look_after_store();
            }
            take_in(&mut waiting, jobs);
            let group = next_group(&mut waiting, |job| &job.change, |key| self.machine_of(key));
            if !group.is_empty() {
                self.make(group);
            }
        }
    }

    fn look_after_store(&self) {
        if self.store.health() != Health::Ready {
            self.store.recover();
            if self.store.health() == Health::Ready {
                tracing::info!("the store takes changes again");
            }
        }
    }

    fn machine_of(&self, key: KeyId) -> Option<MachineId> {
        self.store.key(key).ok().flatten().map(|key| key.machine)
    }

    fn make(&self, group: Vec<Job>) {
        let now = self.clock.now().wall;
        let mut allowed = Vec::with_capacity(group.len());
        let mut entries = Vec::with_capacity(group.len());
        for Job { origin, change, answer } in group {
            match self.judge(origin, change, now) {
                Ok(Judged { entry: None, committed, .. }) => drop(answer.send(Ok(committed))),
                Ok(Judged { entry: Some(entry), committed, before }) => {
                    allowed.push((committed, before, entry.ops.clone(), answer));
                    entries.push(entry);
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        if entries.is_empty() {
            return;
        }
        match self.store.commit(entries) {
            Ok(seqs) => {
                for ((mut committed, before, ops, answer), seq) in allowed.into_iter().zip(seqs) {
                    self.apply(&before, &ops);
                    committed.seq = Some(seq);
                    // Whoever asked may be gone; the change stands.
                    drop(answer.send(Ok(committed)));
                }
            }
            Err(error) => {
                tracing::error!(%error, "changes refused: the store could not keep them");
                for (.., answer) in allowed {
                    drop(answer.send(Err(ChangeError::StoreUnavailable(error.to_string()))));
                }
            }
        }
    }

    /// Memory follows the store. Values that end leave first, so that no moment has more of them than before and after.
    fn apply(&self, before: &[Key], ops: &[Op]) {
        for op in ops {
            match op {
                Op::PutMachine(machine) => self.known.put_machine(machine),
                Op::DeleteMachine(id) => self.known.remove_machine(*id),
                Op::DeleteKey(id) => before.iter().filter(|key| key.id == *id).for_each(|key| self.known.remove_key(key)),
                Op::PutKey(key) => {
                    let kept = |hash| key.hash == hash || key.old_values.iter().any(|old| old.hash == hash);
                    let forgotten = before.iter().flat_map(|b| &b.old_values).filter(|old| !kept(old.hash));
                    forgotten.for_each(|old| self.known.remove_value(&old.hash));
                    self.known.put_key(key);
                }
            }
        }
    }

    fn judge(&self, origin: Origin, change: Change, now: Timestamp) -> Result<Judged, ChangeError> {
        let what = change.what();
        let verdict = match change {
            Change::CreateMachine(new) => self.create_machine(new, now),
            Change::EditMachine(id, edit) => self.edit_machine(id, edit),
            Change::EnableMachine(id) => self.switch_machine(id, true),
            Change::DisableMachine(id) => self.switch_machine(id, false),
            Change::DeleteMachine(id) => self.delete_machine(id),
            Change::CreateKey(machine, new) => self.create_key(machine, new, &origin, now),
            Change::EditKey(id, edit) => self.change_key(id, |key| apply_edit(key, edit)),
            Change::DeactivateKey(id) => self.change_key(id, Key::deactivate),
            Change::ReactivateKey(id) => self.change_key(id, |key| key.reactivate(now)),
            Change::RevokeKey(id) => self.change_key(id, |key| {
                key.revoke();
                Ok(())
            }),
            Change::RegenerateKey(id, grace) => self.regenerate_key(id, grace, now),
            Change::DeleteKey(id) => self.delete_key(id),
        }?;
        let Verdict { subject, ops, left, secret, before } = verdict;
        let entry = (!ops.is_empty()).then_some(Entry {
            time: now,
            actor: origin.actor.0,
            address: origin.address,
            reason: origin.reason,
            what,
            subject,
            ops,
        });
        Ok(Judged { entry, committed: Committed { seq: None, left, secret }, before })
    }

    fn create_machine(&self, new: NewMachine, now: Timestamp) -> Result<Verdict, ChangeError> {
        self.name_is_free(&new.name, None)?;
        let NewMachine { name, description, contact, permissions, organizations, tier, third_party } = new;
        let id = MachineId::new(now, random()?);
        Ok(Verdict::machine(Machine {
            id,
            name,
            description,
            contact,
            permissions,
            organizations,
            tier,
            third_party,
            enabled: true,
            created_at: now,
        }))
    }

    fn edit_machine(&self, id: MachineId, edit: MachineEdit) -> Result<Verdict, ChangeError> {
        let before = self.stored_machine(id)?;
        if let Some(name) = &edit.name {
            self.name_is_free(name, Some(id))?;
        }
        let MachineEdit { name, description, contact, permissions, organizations, tier, third_party } = edit;
        let mut machine = before.clone();
        set(&mut machine.name, name);
        set(&mut machine.description, description);
        set(&mut machine.contact, contact);
        set(&mut machine.permissions, permissions);
        set(&mut machine.organizations, organizations);
        set(&mut machine.tier, tier);
        set(&mut machine.third_party, third_party);
        Ok(Verdict::machine_after(&before, machine))
    }

    fn switch_machine(&self, id: MachineId, enabled: bool) -> Result<Verdict, ChangeError> {
        let before = self.stored_machine(id)?;
        let machine = Machine { enabled, ..before.clone() };
        Ok(Verdict::machine_after(&before, machine))
    }

    fn delete_machine(&self, id: MachineId) -> Result<Verdict, ChangeError> {
        self.stored_machine(id)?;
        let before = self.store.keys(Some(id), None, usize::MAX).map_err(unavailable)?;
        let keys = before.iter().map(|key| Op::DeleteKey(key.id));
        let ops = keys.chain([Op::DeleteMachine(id)]).collect();
        Ok(Verdict { subject: Subject::Machine(id), ops, left: Left::Nothing, secret: None, before })
    }

    fn create_key(&self, machine: MachineId, new: NewKey, origin: &Origin, now: Timestamp) -> Result<Verdict, ChangeError> {
        self.stored_machine(machine)?;
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
            created_by: origin.actor.0.clone(),
            hash: secret.hash(),
            hint: secret.hint(),
            old_values: Vec::new(),
            renewed_at: None,
        };
        Ok(Verdict { secret: Some(secret), ..Verdict::key(key, Vec::new()) })
    }

    fn change_key(&self, id: KeyId, change: impl FnOnce(&mut Key) -> Result<(), RevokedForGood>) -> Result<Verdict, ChangeError> {
        let before = self.stored_key(id)?;
        let mut key = before.clone();
        change(&mut key).map_err(|RevokedForGood| ChangeError::Revoked(id))?;
        if key == before {
            return Ok(Verdict { ops: Vec::new(), ..Verdict::key(key, Vec::new()) });
        }
        Ok(Verdict::key(key, vec![before]))
    }

    fn regenerate_key(&self, id: KeyId, grace: Duration, now: Timestamp) -> Result<Verdict, ChangeError> {
        let secret = self.draw(&self.stored_key(id)?.environment)?;
        let verdict = self.change_key(id, |key| key.regenerate(secret.hash(), secret.hint(), grace, now))?;
        Ok(Verdict { secret: Some(secret), ..verdict })
    }

    fn delete_key(&self, id: KeyId) -> Result<Verdict, ChangeError> {
        let before = vec![self.stored_key(id)?];
        Ok(Verdict { subject: Subject::Key(id), ops: vec![Op::DeleteKey(id)], left: Left::Nothing, secret: None, before })
    }

    fn stored_machine(&self, id: MachineId) -> Result<Machine, ChangeError> {
        self.store.machine(id).map_err(unavailable)?.ok_or(ChangeError::NoSuchMachine(id))
    }

    fn stored_key(&self, id: KeyId) -> Result<Key, ChangeError> {
        self.store.key(id).map_err(unavailable)?.ok_or(ChangeError::NoSuchKey(id))
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

/// Takes in what came meanwhile. What there is no room for stays in the queue, which refuses once it is full, too.
fn take_in<J>(waiting: &mut VecDeque<J>, jobs: &Receiver<J>) {
    waiting.extend(jobs.try_iter().take(WAITING.saturating_sub(waiting.len())));
}

/// What a rule made of a change.
struct Verdict {
    subject: Subject,
    ops: Vec<Op>,
    left: Left,
    secret: Option<Secret>,
    before: Vec<Key>,
}

impl Verdict {
    fn machine(machine: Machine) -> Verdict {
        let ops = vec![Op::PutMachine(Box::new(machine.clone()))];
        Verdict { subject: Subject::Machine(machine.id), ops, left: Left::Machine(machine), secret: None, before: Vec::new() }
    }

    /// Writes nothing when nothing is different.
    fn machine_after(before: &Machine, machine: Machine) -> Verdict {
        let same = *before == machine;
        let verdict = Verdict::machine(machine);
        if same { Verdict { ops: Vec::new(), ..verdict } } else { verdict }
    }

    fn key(key: Key, before: Vec<Key>) -> Verdict {
        let ops = vec![Op::PutKey(Box::new(key.clone()))];
        Verdict { subject: Subject::Key(key.id), ops, left: Left::Key(key), secret: None, before }
    }
}

fn apply_edit(key: &mut Key, edit: KeyEdit) -> Result<(), RevokedForGood> {
    let key = if edit.is_cosmetic() { key } else { key.unless_revoked()? };
    let KeyEdit { label, description, permissions, organizations, tier, allowed_ips, expires_at } = edit;
    set(&mut key.label, label);
    set(&mut key.description, description);
    set(&mut key.permissions, permissions);
    set(&mut key.organizations, organizations);
    set(&mut key.tier, tier);
    set(&mut key.allowed_ips, allowed_ips);
    set(&mut key.expires_at, expires_at);
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

fn no_randomness(error: getrandom::Error) -> ChangeError {
    ChangeError::StoreUnavailable(format!("the operating system's random generator failed: {error}"))
}

fn unavailable(error: StoreError) -> ChangeError {
    ChangeError::StoreUnavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::model::Actor;
    use crate::registry::Registry;
    use crate::store::{Filter, Head, History, Record, Seq, Verified};

    /// Refuses changes until it was asked to get well.
    #[derive(Default)]
    struct Sick {
        recovered: AtomicBool,
    }

    impl Store for Sick {
        fn scan(&self, _: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
            Ok(())
        }

        fn machine(&self, _: MachineId) -> Result<Option<Machine>, StoreError> {
            Ok(None)
        }

        fn key(&self, _: KeyId) -> Result<Option<Key>, StoreError> {
            Ok(None)
        }

        fn machines(&self, _: Option<MachineId>, _: usize) -> Result<Vec<Machine>, StoreError> {
            Ok(Vec::new())
        }

        fn keys(&self, _: Option<MachineId>, _: Option<KeyId>, _: usize) -> Result<Vec<Key>, StoreError> {
            Ok(Vec::new())
        }

        fn commit(&self, group: Vec<Entry>) -> Result<Vec<Seq>, StoreError> {
            match self.health() {
                Health::Ready => Ok((1..).take(group.len()).collect()),
                Health::Refusing(why) => Err(StoreError::Unavailable(why)),
            }
        }

        fn history(&self, _: &Filter, _: Option<Seq>, _: usize) -> Result<History, StoreError> {
            Ok(History::default())
        }

        fn entry(&self, _: Seq) -> Result<Option<serde_json::Value>, StoreError> {
            Ok(None)
        }

        fn was_there(&self, _: Subject) -> Result<Option<bool>, StoreError> {
            Ok(Some(false))
        }

        fn head(&self, _: Option<Seq>) -> Result<Option<Head>, StoreError> {
            Ok(Some(Head::START))
        }

        fn export(&self, after: Head, _: Seq) -> Result<(Vec<u8>, Head), StoreError> {
            Ok((Vec::new(), after))
        }

        fn verify(&self, _: &[Head]) -> Result<Verified, StoreError> {
            Err(StoreError::Unavailable("nothing is kept here".into()))
        }

        fn health(&self) -> Health {
            if self.recovered.load(Ordering::Relaxed) { Health::Ready } else { Health::Refusing("sick".into()) }
        }

        fn recover(&self) {
            self.recovered.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_store_recovers_however_often_it_is_asked_for_changes() {
        let clock = Clock::manual(Timestamp(0));
        let registry = Registry::open(Arc::new(Sick::default()), clock.clone(), "pk".into()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let well = (0..3).any(|_| {
            let origin = Origin { actor: Actor("test".into()), address: None, reason: None };
            let made = runtime.block_on(registry.commit(origin, Change::CreateMachine(NewMachine::default())));
            clock.advance(RECOVERY);
            made.is_ok()
        });
        assert!(well);
    }

    #[test]
    fn what_waits_has_a_bound() {
        let (queue, jobs) = sync_channel(WAITING);
        let mut waiting = VecDeque::new();
        let taken = (0..10 * WAITING).filter(|job| {
            take_in(&mut waiting, &jobs);
            queue.try_send(*job).is_ok()
        });
        assert_eq!(taken.count(), 2 * WAITING);
    }
}
