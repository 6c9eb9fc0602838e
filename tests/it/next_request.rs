//! Every change binds the very next request: 64 clients hammer one key while it is changed again and again, and not one request that began
//! after a change's answer is judged by the state before it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use octroi::clock::Clock;
use octroi::model::change::{KeyEdit, MachineEdit, NewKey};
use octroi::model::{Change, Organizations, PermissionName, PermissionSet, TierName, Timestamp};

use crate::support::client::{Answer, Connection};
use crate::support::gateway::{Holder, NOON};
use crate::support::{Gateway, Upstream, gateway};

const CLIENTS: usize = 64;
const ROUNDS: usize = 200;

/// What holds from one change's answer to the beginning of the next change.
struct Phase {
    number: usize,
    bearer: String,
    expected: String,
}

/// What the clients and who changes the key know of each other.
struct Storm {
    phase: RwLock<Arc<Phase>>,
    /// The number of the phase that the change under way, or the last one, leads to.
    begun: AtomicUsize,
    /// Told by each client, once a phase, when a request of its has begun and ended in it.
    first: (Sender<usize>, Mutex<Receiver<usize>>),
    judged: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Storm {
    fn new() -> Storm {
        let (first, firsts) = channel();
        let nothing = Phase { number: 0, bearer: "Bearer none".into(), expected: "key_malformed".into() };
        Storm {
            phase: RwLock::new(Arc::new(nothing)),
            begun: AtomicUsize::new(0),
            first: (first, Mutex::new(firsts)),
            judged: AtomicUsize::new(0),
            wrong: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    fn hammer(&self, mut connection: Connection) {
        let first = self.first.0.clone();
        let mut told = 0;
        while !self.over.load(Ordering::SeqCst) {
            // Read before the first byte is sent: the change that led here had been answered.
            let phase = self.phase.read().unwrap().clone();
            let found = outcome(&connection.get("/v1/sensors", &[("Authorization", &phase.bearer)]));
            if self.begun.load(Ordering::SeqCst) != phase.number {
                // The next change may have come first.
                continue;
            }
            self.judged.fetch_add(1, Ordering::SeqCst);
            if found != phase.expected {
                self.wrong.lock().unwrap().push(format!("phase {}: {found} instead of {}", phase.number, phase.expected));
            }
            if told != phase.number {
                told = phase.number;
                first.send(told).unwrap();
            }
        }
    }

    /// Makes a change, then waits until every client was judged by what it left.
    fn turn(&self, change: impl FnOnce(), value: &str, expected: &str) {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        change();
        *self.phase.write().unwrap() = Arc::new(Phase { number, bearer: format!("Bearer {value}"), expected: expected.into() });
        let firsts = self.first.1.lock().unwrap();
        for _ in 0..CLIENTS {
            assert_eq!(firsts.recv_timeout(Duration::from_secs(20)).unwrap(), number, "nobody is ahead or behind");
        }
    }
}

/// How a call was judged: the refusal's code, or the tier it was counted in.
fn outcome(answer: &Answer) -> String {
    match answer.status {
        200 => answer.header("ratelimit-policy").unwrap_or("no limit").to_owned(),
        _ => answer.code(),
    }
}

const WIDE: &str = "\"minute\";q=1000000;w=60";
const WIDER: &str = "\"minute\";q=2000000;w=60";

fn tier(name: &str) -> Option<Option<TierName>> {
    Some(TierName::parse(name))
}

fn sensors() -> Option<PermissionSet> {
    Some(PermissionName::parse("sensors:read").into_iter().collect())
}

/// A change of a key or machine, what is then told to who uses the key, and what undoes it.
fn edits(holder: &Holder) -> Vec<(Change, &'static str, Change)> {
    let (id, machine) = (holder.key.id, holder.machine.id);
    let key = |edit: KeyEdit, told: &'static str, back: KeyEdit| (Change::EditKey(id, edit), told, Change::EditKey(id, back));
    let of_machine = |edit: MachineEdit, told: &'static str, back: MachineEdit| {
        (Change::EditMachine(machine, edit), told, Change::EditMachine(machine, back))
    };
    let (edit, machine_edit) = (KeyEdit::default, MachineEdit::default);
    let elsewhere: Organizations = ["elsewhere".to_owned()].into_iter().collect();
    let addresses = vec!["192.0.2.1/32".parse().unwrap()];
    vec![
        (Change::DeactivateKey(id), "key_inactive", Change::ReactivateKey(id)),
        (Change::DisableMachine(machine), "machine_disabled", Change::EnableMachine(machine)),
        key(
            KeyEdit { permissions: Some(Some(PermissionSet::default())), ..edit() },
            "permission_denied",
            KeyEdit { permissions: Some(None), ..edit() },
        ),
        key(
            KeyEdit { organizations: Some(Some(elsewhere.clone())), ..edit() },
            "organization_denied",
            KeyEdit { organizations: Some(None), ..edit() },
        ),
        key(KeyEdit { allowed_ips: Some(Some(addresses)), ..edit() }, "address_denied", KeyEdit { allowed_ips: Some(None), ..edit() }),
        key(KeyEdit { tier: tier("wider"), ..edit() }, WIDER, KeyEdit { tier: Some(None), ..edit() }),
        key(
            KeyEdit { expires_at: Some(Some(Timestamp(NOON.0 - 1))), ..edit() },
            "key_expired",
            KeyEdit { expires_at: Some(Some(Timestamp(NOON.0 + 60_000))), ..edit() },
        ),
        of_machine(
            MachineEdit { permissions: Some(PermissionSet::default()), ..machine_edit() },
            "permission_denied",
            MachineEdit { permissions: sensors(), ..machine_edit() },
        ),
        of_machine(MachineEdit { tier: tier("wider"), ..machine_edit() }, WIDER, MachineEdit { tier: tier("wide"), ..machine_edit() }),
        of_machine(
            MachineEdit { organizations: Some(Some(elsewhere)), ..machine_edit() },
            "organization_denied",
            MachineEdit { organizations: Some(None), ..machine_edit() },
        ),
    ]
}

struct Changes<'a> {
    gateway: &'a Gateway,
    storm: &'a Storm,
    holder: Holder,
    rounds: usize,
}

impl Changes<'_> {
    /// One round of each kind of change.
    fn all(&mut self) {
        for (change, told, back) in edits(&self.holder) {
            self.round(change, told);
            self.storm.turn(|| self.commit(back), &self.holder.value, WIDE);
        }
        self.regenerate();
        self.round(Change::RevokeKey(self.holder.key.id), "key_revoked");
        self.another_key();
        self.round(Change::DeleteKey(self.holder.key.id), "key_unknown");
        self.another_key();
        self.round(Change::DeleteMachine(self.holder.machine.id), "key_unknown");
        self.another_machine();
    }

    fn commit(&self, change: Change) {
        self.gateway.commit(change).unwrap();
    }

    fn round(&mut self, change: Change, told: &str) {
        self.rounds += 1;
        self.storm.turn(|| self.commit(change), &self.holder.value, told);
    }

    fn regenerate(&mut self) {
        let mut value = String::new();
        let made = || {
            let made = self.gateway.commit(Change::RegenerateKey(self.holder.key.id, Duration::ZERO)).unwrap();
            value = made.secret.unwrap().reveal().to_string();
        };
        self.storm.turn(made, &self.holder.value, "key_replaced");
        self.rounds += 1;
        self.holder.value = value;
        self.storm.turn(|| (), &self.holder.value, WIDE);
    }

    fn another_key(&mut self) {
        self.holder = self.gateway.key(&self.holder.machine, NewKey::default());
        self.storm.turn(|| (), &self.holder.value, WIDE);
    }

    fn another_machine(&mut self) {
        let machine = self.gateway.machine(&format!("caller {}", self.rounds), &["sensors:read"], Some("wide"));
        self.holder = self.gateway.key(&machine, NewKey::default());
        self.storm.turn(|| (), &self.holder.value, WIDE);
    }
}

#[test]
fn no_request_that_begins_after_a_changes_answer_is_judged_by_the_old_state() {
    let upstream = Upstream::plain();
    let settings = gateway::settings(upstream.address).replace(
        "unmetered: {unlimited: true}",
        "wide: {per_minute: 1000000}\n  wider: {per_minute: 2000000}\nguessing: {failures: 1000000/min}",
    );
    let gateway = Gateway::with(settings, Clock::manual(NOON));
    let machine = gateway.machine("caller", &["sensors:read"], Some("wide"));
    let holder = gateway.key(&machine, NewKey::default());
    let storm = Storm::new();
    let rounds = std::thread::scope(|scope| {
        let storm = &storm;
        for _ in 0..CLIENTS {
            let connection = gateway.connect();
            scope.spawn(move || storm.hammer(connection));
        }
        // A failing change must not leave the clients hammering for ever.
        let _end = OnEnd(&storm.over);
        let mut changes = Changes { gateway: &gateway, storm, holder, rounds: 0 };
        storm.turn(|| (), &changes.holder.value, WIDE);
        while changes.rounds < ROUNDS {
            changes.all();
        }
        changes.rounds
    });
    let judged = storm.judged.load(Ordering::SeqCst);
    assert!(judged >= rounds * CLIENTS, "{judged}");
    let wrong = storm.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} of {judged}: {:?} …", wrong.len(), &wrong[..wrong.len().min(5)]);
    println!("{rounds} rounds, {judged} requests judged, none by the old state");
}

struct OnEnd<'a>(&'a AtomicBool);

impl Drop for OnEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
