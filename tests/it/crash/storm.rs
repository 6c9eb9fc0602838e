//! Eight clients that change machines and keys as fast as they are answered, until the gateway is gone, and what is asked of the next one.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::oracle::{Change, Holdings, Shown};
use crate::support::process::{Served, Talk};

const CLIENTS: usize = 8;
const MACHINES_OF_CLIENT: usize = 3;
const KEYS_OF_CLIENT: usize = 16;
/// A quick check asks for so many of a client's deleted keys, the newest first; a full one for all that ever were.
const RECENTLY_GONE: usize = 25;

/// SplitMix64: the same seed gives the same storm, as far as clients alone decide.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From `OCTROI_SEED`, or never seen before.
    pub fn new() -> (Dice, u64) {
        let given = std::env::var("OCTROI_SEED").ok().map(|seed| seed.parse().expect("OCTROI_SEED is a whole number"));
        let seed = given.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        });
        // Shown with whatever goes wrong.
        eprintln!("OCTROI_SEED={seed}");
        (Dice(seed), seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }
}

/// One client: what it holds for sure, and the change it never got an answer to.
struct Client {
    name: String,
    dice: Dice,
    made: usize,
    held: Holdings,
    pending: Option<Change>,
}

/// All clients, over many lives of one data folder.
pub struct Storm {
    clients: Vec<Client>,
    pub acknowledged: usize,
    /// Changes without an answer that turned out made, and not made.
    pub kept: usize,
    pub lost: usize,
}

impl Storm {
    pub fn new(dice: &mut Dice) -> Storm {
        let client = |n| Client { name: format!("client {n}"), dice: Dice(dice.next()), made: 0, held: Holdings::default(), pending: None };
        Storm { clients: (0..CLIENTS).map(client).collect(), acknowledged: 0, kept: 0, lost: 0 }
    }

    /// Rages until `end`, which is given the gateway, has ended it.
    ///
    /// What is answered once `over` is set counts as not answered: a file system that is shut down takes some time for it, and while it does an
    /// `fdatasync` may succeed whose commit was given up. Seen without any gateway: of the writes that were synced before the cut began, none
    /// was lost; of those that were said to be while it went on, 4 of 25 on ext4 and 1 of 37 on xfs. Behind a real cut nobody could answer.
    pub fn rage(&mut self, served: Served, end: impl FnOnce(Served, &AtomicBool)) {
        let answered = AtomicUsize::new(0);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for client in &mut self.clients {
                let (admin, proxy) = (served.admin(), served.proxy());
                let (answered, over) = (&answered, &over);
                scope.spawn(move || client.rage(admin, proxy, answered, over));
            }
            end(served, &over);
            over.store(true, Ordering::SeqCst);
        });
        self.acknowledged += answered.into_inner();
    }

    /// Asks the next gateway for everything that was ever acknowledged. Says what is wrong.
    pub fn check(&mut self, served: &Served, thorough: bool) -> Result<(), String> {
        let mut shown: Vec<Shown> = self.clients.iter().map(|_| Shown::default()).collect();
        let mut admin = served.admin();
        for machine in all(&mut admin, "/v1/machines") {
            shown[client_in(&machine["name"])].add_machine(&machine);
        }
        for key in all(&mut admin, "/v1/keys") {
            shown[client_in(&key["label"])].add_key(&key);
        }
        let verdicts: Vec<Result<Option<bool>, String>> = thread::scope(|scope| {
            let asked =
                self.clients.iter_mut().zip(&shown).map(|(client, shown)| scope.spawn(move || client.check(served, shown, thorough)));
            asked.collect::<Vec<_>>().into_iter().map(|thread| thread.join().expect("no check panics")).collect()
        });
        for verdict in verdicts {
            match verdict? {
                Some(true) => self.kept += 1,
                Some(false) => self.lost += 1,
                None => {}
            }
        }
        Ok(())
    }

    pub fn keys(&self) -> usize {
        self.clients.iter().map(|client| client.held.keys.len()).sum()
    }

    pub fn gone(&self) -> usize {
        self.clients.iter().map(|client| client.held.gone.len()).sum()
    }
}

/// Names and labels say who made it.
fn client_in(name: &Value) -> usize {
    let name = name.as_str().expect("a name");
    name.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("nobody made {name:?}"))
}

/// Every page of a list.
fn all(admin: &mut Talk<UnixStream>, path: &str) -> Vec<Value> {
    let (mut entries, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) = admin.get(&format!("{path}?limit=500{after}"));
        assert_eq!(status, 200, "{page}");
        entries.extend(page["data"].as_array().expect("a list").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(cursor) => after = format!("&cursor={cursor}"),
            None => return entries,
        }
    }
}

impl Client {
    fn rage(&mut self, mut admin: Talk<UnixStream>, mut proxy: Talk<std::net::TcpStream>, answered: &AtomicUsize, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            let change = self.choose();
            let (method, target, body) = change.request();
            let expected = self.held.status_of(&change);
            let answer = admin.try_ask(method, &target, None, body.as_ref());
            match answer {
                Ok(_) if over.load(Ordering::SeqCst) => return self.pending = Some(change),
                Ok((status, answer)) if status == expected => self.held.make(&change, Some(&answer)),
                Ok(other) => panic!("{change:?} was answered {other:?}"),
                Err(_) => return self.pending = Some(change),
            }
            answered.fetch_add(1, Ordering::Relaxed);
            if self.look_at(&change, &mut proxy).is_err() {
                return;
            }
        }
    }

    /// The very next request is judged by the change. An error when the gateway is gone.
    fn look_at(&mut self, change: &Change, proxy: &mut Talk<std::net::TcpStream>) -> io::Result<()> {
        let (Change::Deactivate { id } | Change::Reactivate { id } | Change::Revoke { id } | Change::Regenerate { id, .. }) = change else {
            return Ok(());
        };
        let key = &self.held.keys[id];
        for held in &key.values {
            if let Some(value) = &held.value {
                assert_eq!(proxy.try_verdict(value)?, self.held.verdict(key, held), "right after {change:?}");
            }
        }
        Ok(())
    }

    fn choose(&mut self) -> Change {
        self.made += 1;
        let (machines, keys) = (&self.held.machines, &self.held.keys);
        let dice = &mut self.dice;
        let machine_ids: Vec<&String> = machines.keys().collect();
        let key_ids: Vec<&String> = keys.keys().collect();
        if machine_ids.is_empty() || (machine_ids.len() < MACHINES_OF_CLIENT && dice.below(20) == 0) {
            return Change::CreateMachine { name: format!("{} machine {}", self.name, self.made) };
        }
        let machine = (*dice.one_of(&machine_ids)).clone();
        if key_ids.is_empty() {
            return Change::CreateKey { machine, label: format!("{} key {}", self.name, self.made) };
        }
        let id = (*dice.one_of(&key_ids)).clone();
        let full = key_ids.len() >= KEYS_OF_CLIENT;
        match dice.below(100) {
            0..30 if full => Change::DeleteKey { id },
            0..30 => Change::CreateKey { machine, label: format!("{} key {}", self.name, self.made) },
            30..42 => Change::Revoke { id },
            42..50 => Change::Deactivate { id },
            50..62 => Change::Reactivate { id },
            62..74 => Change::Regenerate { id, grace: dice.below(2) == 0 },
            74..82 => Change::EditKey { id, label: format!("{} edit {}", self.name, self.made), narrowed: dice.below(3) == 0 },
            82..88 => Change::DeleteKey { id },
            88..93 => Change::EditMachine { id: machine, note: format!("note {}", self.made), permitted: dice.below(4) != 0 },
            93..98 => Change::SwitchMachine { enabled: !machines[&machine].enabled || dice.below(3) == 0, id: machine },
            _ => Change::DeleteMachine { id: machine },
        }
    }

    /// Whether a change without an answer was made, where there was one.
    fn check(&mut self, served: &Served, shown: &Shown, thorough: bool) -> Result<Option<bool>, String> {
        let resolved = self.resolve(shown)?;
        self.ask_for_each_key(served, thorough)?;
        Ok(resolved)
    }

    fn resolve(&mut self, shown: &Shown) -> Result<Option<bool>, String> {
        let without = self.held.clone().agree(shown);
        let Some(pending) = self.pending.take() else {
            self.held = without.map_err(|why| format!("{}: {why}", self.name))?;
            return Ok(None);
        };
        let mut made = self.held.clone();
        made.make(&pending, None);
        // What changes nothing (to revoke again) is seen as not made.
        match (without, made.agree(shown)) {
            (Ok(held), _) => {
                self.held = held;
                Ok(Some(false))
            }
            (_, Ok(held)) => {
                self.held = held;
                Ok(Some(true))
            }
            (Err(without), Err(with)) => Err(format!("{}: {pending:?} is half made: without it, {without}; with it, {with}", self.name)),
        }
    }

    /// Both the API and the proxy itself, for all that is and all that was.
    fn ask_for_each_key(&self, served: &Served, thorough: bool) -> Result<(), String> {
        let (mut admin, mut proxy) = (served.admin(), served.proxy());
        let mut call = |id: &str, value: &str, expected: &str| {
            let met = proxy.verdict(value);
            if met == expected { Ok(()) } else { Err(format!("a call with a value of {id} should meet {expected}, met {met}")) }
        };
        for (id, key) in &self.held.keys {
            let (status, view) = admin.get(&format!("/v1/keys/{id}"));
            let shown = (status, view["status"].as_str());
            if shown != (200, Some(key.status.as_str())) {
                return Err(format!("{id} should be {:?}, is shown as {shown:?}", key.status));
            }
            for held in &key.values {
                held.value.iter().try_for_each(|value| call(id, value, self.held.verdict(key, held)))?;
            }
        }
        let gone = self.held.gone.iter().rev();
        for gone in gone.take(if thorough { usize::MAX } else { RECENTLY_GONE }) {
            if !gone.id.is_empty() {
                let (status, _) = admin.get(&format!("/v1/keys/{}", gone.id));
                if status != 404 {
                    return Err(format!("{} was deleted, and is shown with {status}", gone.id));
                }
            }
            gone.values.iter().try_for_each(|value| call(&gone.id, value, "key_unknown"))?;
        }
        Ok(())
    }
}
