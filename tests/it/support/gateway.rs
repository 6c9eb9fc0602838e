//! The real gateway, in this process, on free ports and a folder of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use octroi::clock::Clock;
use octroi::config;
use octroi::model::change::{NewKey, NewMachine};
use octroi::model::{Actor, Authority, Change, ChangeError, Key, Machine, Origin, PermissionName, TierName, Timestamp};
use octroi::registry::{Committed, Left};
use tokio::runtime::Runtime;

use super::client::{Answer, Connection};

pub struct Gateway {
    pub clock: Clock,
    settings: String,
    dir: tempfile::TempDir,
    runtime: Runtime,
    inner: Option<octroi::app::Gateway>,
}

/// A machine's key as a test holds it.
pub struct Holder {
    pub machine: Machine,
    pub key: Key,
    pub value: String,
}

/// The start of every manual clock: a Friday noon, far from any day's end.
pub const NOON: Timestamp = Timestamp(1_800_014_400_000);

/// Routes that most tests use, in front of one upstream.
pub fn settings(upstream: SocketAddr) -> String {
    format!(
        "listeners: {{public: {{bind: '127.0.0.1:0'}}}}
admin: {{bind: '127.0.0.1:0'}}
permissions:
  sensors:read: {{}}
  config:write: {{}}
upstreams:
  api: {{targets: ['http://{upstream}'], timeouts: {{connect: 1s, response: 1s, idle: 2s}}}}
routes:
  sensors: {{match: {{path: '/v1/sensors/{{*rest}}'}}, permission: sensors:read, upstream: api}}
  config: {{match: {{path: '/v1/sensors/{{id}}/config', methods: [PUT]}}, permission: config:write, upstream: api}}
  anyone: {{match: {{path: '/any/{{*rest}}'}}, permission: any, upstream: api}}
  tenant: {{match: {{path: '/orgs/{{organization}}/{{*rest}}'}}, permission: any, organization: {{path: organization}}, upstream: api}}
  status: {{match: {{path: '/status/{{*rest}}'}}, public: true, upstream: api}}
connections: {{workers: 2, head: 500ms, first_byte: 2s, idle: 2s, body: 500ms, write: 2s, drain: 2s, head_size: 16KiB}}
tiers:
  free: {{per_minute: 60, per_day: 10000}}
  standard: {{per_minute: 300, per_day: 100000}}
  premium: {{per_minute: 1000}}
  unmetered: {{unlimited: true}}
usage: {{flush: 100ms}}
logs: {{access: access.log}}
"
    )
}

impl Gateway {
    /// In front of `upstream`, with a clock that only the test moves.
    pub fn before(upstream: SocketAddr) -> Gateway {
        Gateway::with(settings(upstream), Clock::manual(NOON))
    }

    /// The same on the real clock, for what deadlines decide.
    pub fn on_real_time(upstream: SocketAddr) -> Gateway {
        Gateway::with(settings(upstream), Clock::system())
    }

    pub fn with(settings: String, clock: Clock) -> Gateway {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new_for_tests();
        let mut gateway = Gateway { clock, settings, dir, runtime, inner: None };
        gateway.start();
        gateway
    }

    fn start(&mut self) {
        let file = self.dir.path().join("octroi.yaml");
        let settings = config::parse(&self.settings, &file, &|_| None).unwrap_or_else(|findings| panic!("{findings}"));
        let _inside = self.runtime.enter();
        // Other tests start processes: between its fork and its exec a child has every descriptor of this one, the lock of a folder that
        // was just let go among them.
        self.inner =
            Some(super::client::eventually("the folder", || match octroi::app::Gateway::start(settings.clone(), self.clock.clone()) {
                Err(error) if error.to_string().contains(&format!("(pid {})", std::process::id())) => None,
                started => Some(started.unwrap()),
            }));
    }

    fn inner(&self) -> &octroi::app::Gateway {
        self.inner.as_ref().unwrap()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn address(&self) -> SocketAddr {
        self.inner().addresses()[0].1
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.inner().admin_address().unwrap()
    }

    /// Drains, and starts again on the same folder.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    pub fn stop(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.runtime.block_on(inner.drain());
        }
    }

    /// Drains in another thread; the handle gives the number of connections cut.
    pub fn drain(mut self) -> std::thread::JoinHandle<usize> {
        let inner = self.inner.take().unwrap();
        std::thread::spawn(move || self.runtime.block_on(inner.drain()))
    }

    pub fn commit(&self, change: Change) -> Result<Committed, ChangeError> {
        self.commit_by(Authority::Everything, change)
    }

    pub fn commit_by(&self, authority: Authority, change: Change) -> Result<Committed, ChangeError> {
        let origin = Origin { actor: Actor("test".into()), authority, address: None, reason: None };
        self.runtime.block_on(self.inner().registry().commit(origin, change))
    }

    pub fn machine(&self, name: &str, permissions: &[&str], tier: Option<&str>) -> Machine {
        let permissions = permissions.iter().map(|p| PermissionName::parse(p).unwrap()).collect();
        let new = NewMachine { name: name.into(), permissions, tier: tier.map(|t| TierName::parse(t).unwrap()), ..NewMachine::default() };
        match self.commit(Change::CreateMachine(new)).unwrap().left {
            Left::Machine(machine) => machine,
            other => panic!("{other:?}"),
        }
    }

    pub fn key(&self, machine: &Machine, new: NewKey) -> Holder {
        let new = if new.label.is_empty() { NewKey { label: "test - holder v1".into(), ..new } } else { new };
        let made = self.commit(Change::CreateKey(machine.id, new)).unwrap();
        match (made.left, made.secret) {
            (Left::Key(key), Some(secret)) => Holder { machine: machine.clone(), key, value: secret.reveal().to_string() },
            other => panic!("{other:?}"),
        }
    }

    /// A machine that may read sensors, with one key, on the premium tier.
    pub fn holder(&self, name: &str) -> Holder {
        let machine = self.machine(name, &["sensors:read"], Some("premium"));
        self.key(&machine, NewKey::default())
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address())
    }

    /// One request on a connection of its own.
    pub fn get(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.connect().get(target, headers)
    }

    /// The same with the key as bearer.
    pub fn get_as(&self, holder: &Holder, target: &str) -> Answer {
        self.get(target, &[("Authorization", &format!("Bearer {}", holder.value))])
    }

    pub fn metrics(&self) -> String {
        let answer = Connection::open(self.admin_address()).get("/metrics", &[("Host", "localhost")]);
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).unwrap()
    }

    /// The access log's lines, once there are `count` of them.
    pub fn log_lines(&self, count: usize) -> Vec<serde_json::Value> {
        let path = self.dir().join("access.log");
        super::client::eventually("the access log's lines", || {
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            // The last line may not be there whole yet.
            let text = written.rsplit_once('\n').map_or("", |(whole, _)| whole);
            (text.lines().count() >= count).then(|| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
        })
    }

    /// Moves the manual clock.
    pub fn wait(&self, by: Duration) {
        self.clock.advance(by);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}

trait ForTests {
    fn new_for_tests() -> Runtime;
}

impl ForTests for Runtime {
    fn new_for_tests() -> Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }
}
