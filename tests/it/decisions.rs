//! An explanation is the decision: for random settings, keys, requests and times the code that is explained is the code that is decided right
//! after, and a history in which explanations were asked for is the history in which nobody asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, Request};
use octroi::clock::Clock;
use octroi::config;
use octroi::gate::{Call, Gate, Outcome, Presented, Question, Rules};
use octroi::limits::Brake;
use octroi::model::change::{KeyEdit, MachineEdit, NewKey, NewMachine};
use octroi::model::{Actor, Change, Key, KeyId, Machine, MachineId, Origin, PeerIp, PermissionName, TierName, Timestamp};
use octroi::registry::{Left, Registry};
use octroi::store::Embedded;
use tokio::runtime::Runtime;

use crate::support::gateway::NOON;
use crate::support::note;

/// Every code that the gate gives, and `ok`.
const REACHABLE: [&str; 21] = [
    "ok",
    "bad_request",
    "route_not_found",
    "method_not_allowed",
    "expectation_failed",
    "body_too_large",
    "too_many_failures",
    "key_ambiguous",
    "key_missing",
    "key_malformed",
    "key_unknown",
    "key_replaced",
    "key_revoked",
    "key_inactive",
    "key_expired",
    "machine_disabled",
    "address_denied",
    "permission_denied",
    "organization_denied",
    "quota_exceeded",
    "rate_limited",
];

/// The settings of world `n`: all have these routes, and differ in what else is refused.
fn settings(n: usize) -> config::Settings {
    let underscores = ["drop", "refuse", "pass"][n % 3];
    let proxies = ["[]", "[10.0.0.0/8]", "[10.0.0.0/8, 'fd00::/8']"][n % 3];
    let credentials = ["", "credentials: {bearer: false}\n", "credentials: {query: key}\n", ""][n % 4];
    let text = format!(
        "trusted_proxies: {proxies}
underscore_headers: {underscores}
{credentials}guessing: {{failures: 3/min}}
permissions: {{sensors:read: {{}}, config:write: {{}}}}
connections: {{body_size: 1KiB}}
upstreams: {{api: {{targets: ['http://127.0.0.1:1']}}}}
routes:
  sensors: {{match: {{path: '/v1/sensors/{{*rest}}', methods: [GET, POST]}}, permission: sensors:read, upstream: api}}
  config: {{match: {{path: '/v1/sensors/{{id}}/config', methods: [PUT]}}, permission: [sensors:read, config:write], upstream: api}}
  hosted: {{match: {{host: api.test, path: '/v1/sensors/{{id}}', methods: [GET]}}, permission: config:write, upstream: api}}
  anyone: {{match: {{path: '/any/{{*rest}}'}}, permission: any, upstream: api}}
  header_only: {{match: {{path: '/strict/{{*rest}}'}}, permission: any, credentials: {{query: false, bearer: false}}, upstream: api}}
  in_path: {{match: {{path: '/orgs/{{organization}}/{{*rest}}'}}, permission: any, organization: {{path: organization}}, upstream: api}}
  in_header: {{match: {{path: '/horg/{{*rest}}'}}, permission: any, organization: {{header: X-Org}}, upstream: api}}
  in_query: {{match: {{path: '/qorg/{{*rest}}'}}, permission: any, organization: {{query: org}}, upstream: api}}
  whichever: {{match: {{path: '/all/{{*rest}}'}}, permission: any, organization: any, upstream: api}}
  status: {{match: {{path: '/status/{{*rest}}'}}, public: true, upstream: api}}
tiers:
  free: {{per_second: 1, per_minute: 4}}
  daily: {{per_minute: 6, per_day: 25}}
  monthly: {{per_hour: 200, per_month: 400, per_day: 120}}
  unmetered: {{unlimited: true}}
default_tier: free
"
    );
    config::parse(&text, Path::new("world.yaml"), &|_| None).unwrap_or_else(|findings| panic!("{findings}"))
}

/// The same numbers in every run (xorshift64, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

/// A registry and a gate, and what their world knows of its keys.
struct World {
    _dir: tempfile::TempDir,
    runtime: Runtime,
    clock: Clock,
    registry: Registry,
    gate: Gate,
    rules: Rules,
    machines: Vec<MachineId>,
    keys: Vec<KeyId>,
    /// By key, every value it ever had.
    values: Vec<(usize, String)>,
}

fn tier(name: &str) -> Option<TierName> {
    TierName::parse(name)
}

fn organizations(ids: &[&str]) -> octroi::model::Organizations {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

impl World {
    fn new(n: usize, random: &mut Random) -> World {
        let settings = settings(n);
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOON);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let registry = Registry::open(Arc::new(Embedded::open(dir.path()).unwrap()), clock.clone(), "pk".into()).unwrap();
        let gate = Gate::new(registry.clone(), Brake::new(settings.guessing, 4));
        let rules = Rules::new(&settings);
        let mut world = World { _dir: dir, runtime, clock, registry, gate, rules, machines: vec![], keys: vec![], values: vec![] };
        (0..8).for_each(|index| world.make_machine(index, random));
        for index in 0..40 {
            world.make_key(index, random);
        }
        world
    }

    fn commit(&self, change: Change) -> Option<(Left, Option<String>)> {
        let origin = Origin { actor: Actor("test".into()), authority: octroi::model::Authority::Everything, address: None, reason: None };
        let made = self.runtime.block_on(self.registry.commit(origin, change)).ok()?;
        Some((made.left, made.secret.map(|secret| secret.reveal().to_string())))
    }

    fn make_machine(&mut self, index: usize, random: &mut Random) {
        let sets: [&[&str]; 5] = [&["sensors:read"], &["sensors:read", "config:write"], &["admin"], &[], &["sensors:read"]];
        let new = NewMachine {
            name: format!("machine {index}"),
            permissions: random.of(&sets).iter().filter_map(|name| PermissionName::parse(name)).collect(),
            organizations: random.one_in(3).then(|| organizations(&["o1", "A b"])),
            tier: random.of(&[None, tier("daily"), tier("daily"), tier("monthly"), tier("unmetered")]),
            ..NewMachine::default()
        };
        let Some((Left::Machine(Machine { id, .. }), _)) = self.commit(Change::CreateMachine(new)) else { panic!("no machine") };
        self.machines.push(id);
    }

    fn make_key(&mut self, index: usize, random: &mut Random) {
        let sets: [Option<&[&str]>; 5] = [None, None, None, Some(&["sensors:read"]), Some(&["config:write"])];
        let permissions = random.of(&sets).map(|names| names.iter().filter_map(|name| PermissionName::parse(name)).collect());
        let nets = ["192.0.2.0/24", "2001:db8::/32"].map(|net| net.parse().unwrap());
        let new = NewKey {
            label: format!("test - key v{index}"),
            permissions,
            organizations: random.one_in(4).then(|| organizations(&["o1", "o2", "A+b"])),
            tier: random.of(&[None, None, None, tier("free"), tier("daily"), tier("unmetered")]),
            allowed_ips: random.one_in(4).then(|| nets.to_vec()),
            expires_at: random.one_in(4).then(|| self.later(random)),
            ..NewKey::default()
        };
        let Some((Left::Key(Key { id, .. }), Some(value))) = self.commit(Change::CreateKey(random.of(&self.machines), new)) else {
            panic!("no key")
        };
        self.keys.push(id);
        self.values.push((index, value));
    }

    /// Some time within the next hours.
    fn later(&self, random: &mut Random) -> Timestamp {
        self.clock.now().wall.plus(Duration::from_secs(random.below(20_000) as u64))
    }

    /// Something an operator does. Refused changes are none.
    fn change(&mut self, random: &mut Random) {
        let index = random.below(self.keys.len());
        let (key, machine) = (self.keys[index], random.of(&self.machines));
        let enabled = MachineEdit { tier: Some(random.of(&[None, tier("free"), tier("unmetered")])), ..MachineEdit::default() };
        let edit = KeyEdit { expires_at: Some(random.one_in(2).then(|| self.later(random))), ..KeyEdit::default() };
        let grace = Duration::from_secs(random.below(2) as u64 * 3_000);
        let change = match random.below(12) {
            0 | 1 => Change::DeactivateKey(key),
            2..=4 => Change::ReactivateKey(key),
            5 if random.one_in(4) => Change::RevokeKey(key),
            5..=7 => Change::RegenerateKey(key, grace),
            8 => Change::DisableMachine(machine),
            9 | 10 => Change::EnableMachine(machine),
            _ if random.one_in(2) => Change::EditKey(key, edit),
            _ => Change::EditMachine(machine, enabled),
        };
        if let Some((_, Some(value))) = self.commit(change) {
            self.values.push((index, value));
        }
        if self.values.len() > 120 {
            self.values.remove(random.below(60));
        }
    }

    fn pass_time(&self, random: &mut Random) {
        let millis = match random.below(1_000) {
            0 => 3_600_000 * random.below(12),
            1..=2 => random.below(30_000),
            _ => random.below(80),
        };
        self.clock.advance(Duration::from_millis(millis as u64));
    }

    fn peer(&self, random: &mut Random) -> PeerIp {
        let peers: [&str; 9] = [
            "192.0.2.7",
            "192.0.2.8",
            "::ffff:192.0.2.9",
            "198.51.100.1",
            "198.51.100.2",
            "2001:db8::1",
            "10.0.0.1",
            "10.0.0.2",
            "fd00::1",
        ];
        PeerIp(random.of(&peers).parse().unwrap())
    }
}

/// A request without its key, and the key.
fn request(world: &World, random: &mut Random) -> (Parts, String) {
    let targets = [
        "/v1/sensors",
        "/v1/sensors/7",
        "/v1/sensors/7/config",
        "/v1/%73ensors/7",
        "/any/x",
        "/any/x",
        "/any/x?a=1&b=%20",
        "/strict/x",
        "/orgs/o1/x",
        "/orgs/%6F1/x",
        "/orgs/O1/x",
        "/orgs/A%20b/x",
        "/orgs/A%2Bb/x",
        "/horg/x",
        "/horg/x",
        "/qorg/x",
        "/qorg/x?org=o1",
        "/qorg/x?org=o%31&y=1",
        "/qorg/x?org=o1&org=o2",
        "/qorg/x?org=A+b",
        "/all/x",
        "/status/x",
        "/nowhere",
        "/v1//sensors",
        "/any/%2e%2e/x",
        "/any/a%2Fb",
        "http://api.test/v1/sensors/7",
    ];
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.uri = random.of(&targets).parse().unwrap();
    parts.method = random.of(&[Method::GET, Method::GET, Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE]);
    let mut field = |name: &'static str, values: &[&'static str]| {
        if let value @ 1.. = random.below(values.len() + 1) {
            parts.headers.append(name, HeaderValue::from_static(values[value - 1]));
        }
    };
    field("host", &["api.test", "API.test:80", "other.test", "other.test"]);
    if parts.uri.path().starts_with("/horg") {
        field("x-org", &["o1", "o2", "o%31", "A b", "O1", ""]);
        field("x-org", &["o1"]);
    }
    for (name, value, often) in [
        ("host", "a/b", 200),
        ("expect", "100-continue", 20),
        ("expect", "miracles", 60),
        ("content-length", "1025", 60),
        ("content-length", "1024", 20),
        ("x_odd", "1", 40),
        ("x-forwarded-for", "192.0.2.50", 3),
        ("x-forwarded-for", "203.0.113.1, 10.9.9.9", 6),
        ("x-forwarded-for", "unknown", 60),
    ] {
        if random.one_in(often) {
            parts.headers.append(name, HeaderValue::from_static(value));
        }
    }
    let value = match random.below(40) {
        0 | 1 => String::new(),
        2 => "pk_prod_short".to_owned(),
        3 => random.of(&world.values).1.replace("_prod_", "_prad_"),
        4 => "pk_prod_vC3L7ESxxpuJNWlD7LukzfZWdAyVtN1eypHk".to_owned(),
        _ => random.of(&world.values).1,
    };
    (parts, value)
}

/// Puts a key where clients put it, sometimes twice.
fn carry(parts: &mut Parts, value: &str, random: &mut Random) {
    // The header is looked at by nearly all.
    let mut put = |place: usize| match place {
        0 => drop(parts.headers.append("authorization", format!("Bearer {value}").parse().unwrap())),
        1..=5 => drop(parts.headers.append("x-api-key", value.parse().unwrap())),
        _ => {
            let path_and_query = parts.uri.to_string();
            let (join, name) = (if path_and_query.contains('?') { '&' } else { '?' }, ["api_key", "key"][place - 6]);
            parts.uri = format!("{path_and_query}{join}{name}={value}").parse().unwrap();
        }
    };
    put(random.below(8));
    if random.one_in(8) {
        put(random.below(8));
    }
}

/// One history: every request is decided, and explained before where `asking`.
fn history(n: usize, steps: usize, asking: bool) -> Vec<&'static str> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (n as u64 + 1).wrapping_mul(0xD134_2543_DE82_EF95));
    let mut world = World::new(n, &mut random);
    let mut codes = Vec::with_capacity(steps);
    for step in 0..steps {
        world.pass_time(&mut random);
        if random.one_in(100) {
            world.change(&mut random);
        }
        let (bare, value) = request(&world, &mut random);
        let mut request = bare.clone();
        carry(&mut request, &value, &mut random);
        let peer = world.peer(&mut random);
        // The time that passes before the request comes: the question is then about the future.
        let ahead = Duration::from_millis([0, 0, 0, 0, 700, 60_000, 3_000_000][random.below(7)]);
        let ahead = if random.one_in(20) { ahead } else { Duration::ZERO };
        let explained = asking.then(|| explain(&world, request.clone(), peer, ahead));
        world.clock.advance(ahead);
        let mut call = Call::new(world.clock.now(), peer);
        let decided = world.gate.admit(&world.rules, &mut call, &mut request);
        let code = decided.as_ref().map_or_else(|turned| turned.refusal.code().as_str(), |_| "ok");
        if let Some(explained) = explained {
            assert_eq!(explained, code, "world {n}, step {step}: {peer:?} {} {} {:?}", bare.method, bare.uri, bare.headers);
        }
        codes.push(code);
    }
    codes
}

/// What is explained; asked twice, with the same answer.
fn explain(world: &World, request: Parts, peer: PeerIp, ahead: Duration) -> &'static str {
    let now = world.clock.now();
    let at = (!ahead.is_zero()).then(|| now.wall.plus(ahead));
    let ask = || {
        let question = Question { request: request.clone(), presented: None, peer: Some(peer), at };
        world.gate.explain(&world.rules, question, now)
    };
    let (first, second) = (ask(), ask());
    assert_eq!((&first.verdict, &first.steps), (&second.verdict, &second.steps));
    let failed = first.steps.iter().find_map(|finding| match finding.outcome {
        Outcome::Failed(code) => Some(code.as_str()),
        Outcome::Passed | Outcome::Skipped => None,
    });
    let code = first.verdict.as_ref().map_or_else(|refusal| refusal.code().as_str(), |()| "ok");
    assert_eq!(failed.unwrap_or("ok"), code, "the code is that of the first step that failed");
    code
}

#[test]
fn for_100_000_random_requests_the_explanation_is_the_decision() {
    const WORLDS: usize = 12;
    const STEPS: usize = 100_000_usize.div_ceil(WORLDS);
    let mut met: BTreeMap<&str, usize> = BTreeMap::new();
    for n in 0..WORLDS {
        let codes = history(n, STEPS, true);
        codes.iter().for_each(|code| *met.entry(code).or_default() += 1);
        if n < 2 {
            assert_eq!(codes, history(n, STEPS, false), "world {n}: what nobody asked about goes the same way");
        }
    }
    note(&format!("decisions that were explained: {met:?}"));
    for code in REACHABLE {
        assert!(met.get(code).is_some_and(|count| *count >= 20), "{code}: {met:?}");
    }
    assert_eq!(met.len(), REACHABLE.len(), "{met:?}");
}

#[test]
fn a_key_that_is_asked_about_beside_the_request_is_judged_like_one_in_it() {
    let mut random = Random(77);
    let world = World::new(0, &mut random);
    let now = world.clock.now();
    let verdict = |request: Parts, presented: Option<Presented>| {
        let question = Question { request, presented, peer: Some(PeerIp(IpAddr::from([192, 0, 2, 7]))), at: None };
        world.gate.explain(&world.rules, question, now).verdict
    };
    for _ in 0..2_000 {
        let (bare, value) = request(&world, &mut random);
        let mut carrying = bare.clone();
        // Every route looks at this header.
        carrying.headers.append("x-api-key", value.parse().unwrap());
        let in_it = verdict(carrying.clone(), None);
        assert_eq!(verdict(bare.clone(), Some(Presented::value(&value))), in_it, "{} {value:?}", bare.uri);
        assert_eq!(verdict(carrying, Some(Presented::value(&value))), in_it, "the same value in two places is one");
    }
}
