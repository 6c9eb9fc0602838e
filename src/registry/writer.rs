//! The one thread that changes anything: takes what waits, judges each change by the rules, has the store keep the group
//! with one sync, applies it to memory, then answers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::group::{Waiting, next_group};
use super::{Committed, Known};
use crate::clock::Clock;
use crate::model::{Change, ChangeError, Key, KeyId, MachineId, Origin};
use crate::store::{Entry, Health, Op, Seq, Store, StoreError};

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
    /// Only if that is still the last change of what it is about.
    expected: Option<Seq>,
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

    /// Whether the thread is at work; it ends before its handle only by a fault of ours.
    pub(super) fn is_at_work(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    pub(super) async fn submit(&self, origin: Origin, change: Change, expected: Option<Seq>) -> Result<Committed, ChangeError> {
        answer(self.queue(origin, change, expected)).await
    }

    /// Has the change wait for its turn; [`answer`] says what became of it.
    pub(super) fn queue(&self, origin: Origin, change: Change, expected: Option<Seq>) -> Result<Queued, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let job = Job { origin, change, expected, answer };
        match self.queue.as_ref().ok_or_else(gone)?.try_send(job) {
            Ok(()) => Ok(answered),
            Err(TrySendError::Full(_)) => Err(ChangeError::StoreUnavailable(format!("{WAITING} changes already wait; try again"))),
            Err(TrySendError::Disconnected(_)) => Err(gone()),
        }
    }
}

/// Where the answer to a change that waits will come.
type Queued = oneshot::Receiver<Result<Committed, ChangeError>>;

pub(super) async fn answer(queued: Result<Queued, ChangeError>) -> Result<Committed, ChangeError> {
    queued?.await.unwrap_or_else(|_| Err(gone()))
}

fn gone() -> ChangeError {
    ChangeError::StoreUnavailable(GONE.into())
}

/// Where changes are judged, by the rules in `rules`, and carried out.
pub(super) struct Desk {
    pub(super) known: Arc<Known>,
    pub(super) store: Arc<dyn Store>,
    clock: Clock,
    pub(super) key_prefix: String,
}

/// A change that the rules allow, before it is stored.
pub(super) struct Judged {
    /// `None` when nothing has to be written.
    pub(super) entry: Option<Entry>,
    pub(super) committed: Committed,
    /// Keys as they were: their values leave memory before the new ones come.
    pub(super) before: Vec<Key>,
}

impl Desk {
    fn run(&self, jobs: &Receiver<Job>) {
        let mut waiting = VecDeque::new();
        let mut looked = self.clock.now().tick;
        loop {
            if waiting.is_empty() {
                match jobs.recv_timeout(RECOVERY) {
                    Ok(job) => waiting.push_back(self.admit(job)),
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
            take_in(&mut waiting, jobs, |job| self.admit(job));
            let group = next_group(&mut waiting);
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

    fn admit(&self, job: Job) -> Waiting<Job> {
        Waiting::new(job, |job| (&job.origin.authority, &job.change), |key| self.machine_of(key))
    }

    fn machine_of(&self, key: KeyId) -> Option<MachineId> {
        self.store.key(key).ok().flatten().map(|key| key.record.machine)
    }

    fn make(&self, group: Vec<Job>) {
        let now = self.clock.now().wall;
        let mut allowed = Vec::with_capacity(group.len());
        let mut entries = Vec::with_capacity(group.len());
        for Job { origin, change, expected, answer } in group {
            match self.judge(origin, change, expected, now) {
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
                    committed.revision = seq;
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
        // A machine may have very many keys, and everybody waits here.
        let by_id: HashMap<KeyId, &Key> = before.iter().map(|key| (key.id, key)).collect();
        for op in ops {
            match op {
                Op::PutMachine(machine) => self.known.put_machine(machine),
                Op::DeleteMachine(id) => self.known.remove_machine(*id),
                Op::PutOperator(operator) => self.known.put_operator(operator),
                Op::DeleteOperator(id) => self.known.remove_operator(*id),
                Op::DeleteKey(id) => by_id.get(id).into_iter().for_each(|key| self.known.remove_key(key)),
                Op::PutKey(key) => {
                    let kept = |hash| key.hash == hash || key.old_values.iter().any(|old| old.hash == hash);
                    let forgotten = before.iter().flat_map(|b| &b.old_values).filter(|old| !kept(old.hash));
                    forgotten.for_each(|old| self.known.remove_value(&old.hash));
                    self.known.put_key(key);
                }
            }
        }
    }
}

/// Takes in what came meanwhile. What there is no room for stays in the queue, which refuses once it is full, too.
fn take_in<J, W>(waiting: &mut VecDeque<W>, jobs: &Receiver<J>, admit: impl FnMut(J) -> W) {
    waiting.extend(jobs.try_iter().take(WAITING.saturating_sub(waiting.len())).map(admit));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::model::change::NewMachine;
    use crate::model::{Actor, Authority, Machine, Operator, OperatorId, Timestamp};
    use crate::registry::Registry;
    use crate::store::{Filter, Head, History, Kept, Record, Seq, Subject, Verified};

    /// Refuses changes until it was asked to get well.
    #[derive(Default)]
    struct Sick {
        recovered: AtomicBool,
        /// Its next commit takes the writer with it.
        is_fatal: bool,
    }

    impl Store for Sick {
        fn scan(&self, _: &mut dyn FnMut(Record)) -> Result<(), StoreError> {
            Ok(())
        }

        fn machine(&self, _: MachineId) -> Result<Option<Kept<Machine>>, StoreError> {
            Ok(None)
        }

        fn key(&self, _: KeyId) -> Result<Option<Kept<Key>>, StoreError> {
            Ok(None)
        }

        fn machines(&self, _: Option<MachineId>, _: usize) -> Result<Vec<Machine>, StoreError> {
            Ok(Vec::new())
        }

        fn keys(&self, _: Option<MachineId>, _: Option<KeyId>, _: usize) -> Result<Vec<Key>, StoreError> {
            Ok(Vec::new())
        }

        fn operator(&self, _: OperatorId) -> Result<Option<Kept<Operator>>, StoreError> {
            Ok(None)
        }

        fn operators(&self, _: Option<OperatorId>, _: usize) -> Result<Vec<Operator>, StoreError> {
            Ok(Vec::new())
        }

        fn commit(&self, group: Vec<Entry>) -> Result<Vec<Seq>, StoreError> {
            if self.is_fatal {
                std::panic::resume_unwind(Box::new("a fault"));
            }
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

        fn origin(&self) -> Head {
            Head::START
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
            let origin = Origin { actor: Actor("test".into()), authority: Authority::Everything, address: None, reason: None };
            let made = runtime.block_on(registry.commit(origin, Change::CreateMachine(NewMachine::default())));
            clock.advance(RECOVERY);
            made.is_ok()
        });
        assert!(well);
    }

    #[test]
    fn a_writer_that_died_shows() {
        let store = Sick { is_fatal: true, ..Sick::default() };
        let registry = Registry::open(Arc::new(store), Clock::manual(Timestamp(0)), "pk".into()).unwrap();
        assert!(registry.takes_changes());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // The second is refused once the first has been the end of the thread.
        while registry.takes_changes() {
            let origin = Origin { actor: Actor("test".into()), authority: Authority::Everything, address: None, reason: None };
            let made = runtime.block_on(registry.commit(origin, Change::CreateMachine(NewMachine::default())));
            assert_eq!(made.unwrap_err(), ChangeError::StoreUnavailable(GONE.into()));
        }
    }

    #[test]
    fn what_waits_has_a_bound() {
        let (queue, jobs) = sync_channel(WAITING);
        let mut waiting = VecDeque::new();
        let taken = (0..10 * WAITING).filter(|job| {
            take_in(&mut waiting, &jobs, |job| job);
            queue.try_send(*job).is_ok()
        });
        assert_eq!(taken.count(), 2 * WAITING);
    }
}
