//! What the decision costs, from the request's head to the charge, as the data plane asks for it: the real gate and registry over a
//! real embedded store. Then its parts, as far as they stand alone, and the refusals.

mod fixture;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use http::request::Parts;
use http::{HeaderValue, Request};
use octroi::clock::Clock;
use octroi::config::Settings;
use octroi::gate::{Call, Gate, Rules};
use octroi::limits::{Brake, Bucket, TierLimits, charge};
use octroi::model::{Environment, PeerIp, Secret, SecretHash};
use octroi::registry::Registry;
use octroi::store::Embedded;

use fixture::{Choice, ONE_WINDOW, PRESENTED, TWO_WINDOWS};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Requests made ready at a time: they stay in the caches, and reading the clock is shared out over them.
const READY: BatchSize = BatchSize::NumIterations(64);

const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// A gate over a store of its own.
struct Bench {
    _dir: tempfile::TempDir,
    clock: Clock,
    settings: Settings,
    registry: Registry,
    gate: Gate,
    rules: Rules,
    values: Vec<String>,
}

impl Bench {
    fn with(keys: usize, routes: usize, tier: &str) -> Bench {
        let dir = tempfile::tempdir().expect("a folder for temporary files");
        let settings = fixture::settings(dir.path(), UPSTREAM, routes, "off");
        let store = Embedded::open(&dir.path().join("store")).expect("a new store opens");
        let values = fixture::populate(&store, keys, tier);
        let clock = Clock::system();
        let registry = Registry::open(Arc::new(store), clock.clone(), "pk".into()).expect("what was just stored is read");
        let gate = Gate::new(registry.clone(), Brake::new(settings.guessing, Brake::CAPACITY));
        Bench { _dir: dir, clock, rules: Rules::new(&settings), settings, registry, gate, values }
    }

    fn call(&self) -> Call {
        Call::new(self.clock.now(), PeerIp(UPSTREAM.ip()))
    }

    /// Measures decisions about requests made by `request`. Making the request and letting go of it do not count.
    fn decisions(&self, c: &mut Criterion, name: &str, mut request: impl FnMut(&mut Choice) -> Parts, admitted: bool) {
        let mut choice = Choice::new(0);
        c.bench_function(name, |b| {
            b.iter_batched_ref(
                || (self.call(), request(&mut choice)),
                |(call, head)| {
                    let verdict = self.gate.admit(&self.rules, call, head);
                    assert_eq!(verdict.is_ok(), admitted);
                    verdict.is_ok()
                },
                READY,
            );
        });
    }
}

/// A request as a small client sends it.
fn request(path: &str, bearer: Option<&str>) -> Parts {
    let mut request = Request::get(path)
        .header("host", "api.example.org")
        .header("user-agent", "python-requests/2.32.3")
        .header("accept-encoding", "gzip, deflate")
        .header("accept", "*/*");
    if let Some(value) = bearer {
        let value = HeaderValue::try_from(format!("Bearer {value}")).expect("values are of visible ASCII");
        request = request.header("authorization", value);
    }
    request.body(()).expect("the request is well formed").into_parts().0
}

const GUARDED: &str = "/v1/sensors/4711";
const PUBLIC: &str = "/open/sensors/4711";

fn admitted(c: &mut Criterion) {
    for keys in [1_000, 100_000] {
        for tier in [ONE_WINDOW, TWO_WINDOWS] {
            let bench = Bench::with(keys, 8, tier);
            let name = format!("admit/bearer, {keys} keys, {tier}");
            bench.decisions(c, &name, |choice| request(GUARDED, Some(choice.of(&bench.values).as_str())), true);
            if keys == 100_000 && tier == TWO_WINDOWS {
                look_up(c, &bench);
                refused(c, &bench);
                charged(c, &bench);
            }
        }
    }
}

/// Without a credential, nothing is left of a decision but settling the target and finding the route.
fn routes(c: &mut Criterion) {
    for routes in [10, 1_000] {
        let bench = Bench::with(10, routes, TWO_WINDOWS);
        bench.decisions(c, &format!("part/public route of {routes}"), |_| request(PUBLIC, None), true);
    }
}

fn refused(c: &mut Criterion, bench: &Bench) {
    bench.decisions(c, "refuse/no key", |_| request(GUARDED, None), false);
    let strangers: Vec<String> = (0..PRESENTED).map(|_| stranger()).collect();
    bench.decisions(c, "refuse/unknown key", |choice| request(GUARDED, Some(choice.of(&strangers).as_str())), false);
    let mistyped = bench.values[0].replace("_prod_", "_prad_");
    bench.decisions(c, "refuse/wrong CRC", |_| request(GUARDED, Some(&mistyped)), false);
}

/// A value of the right shape that nobody was given.
fn stranger() -> String {
    let secret = Secret::generate("pk", &Environment::default(), getrandom::fill).expect("the system has random numbers");
    secret.reveal().to_string()
}

fn look_up(c: &mut Criterion, bench: &Bench) {
    let mut choice = Choice::new(0);
    c.bench_function("part/CRC and SHA-256", |b| b.iter(|| SecretHash::of_presented(choice.of(&bench.values).as_bytes())));
    let hashes: Vec<SecretHash> = bench.values.iter().filter_map(|value| SecretHash::of_presented(value.as_bytes())).collect();
    c.bench_function("part/look-up among 100000", |b| b.iter(|| bench.registry.identify(choice.of(&hashes)).is_some()));
}

fn charged(c: &mut Criterion, bench: &Bench) {
    for tier in [ONE_WINDOW, TWO_WINDOWS] {
        let tier = bench.settings.tiers.iter().find(|t| t.tier.name.as_str() == tier).expect("the settings name both");
        let (limits, bucket) = (TierLimits::new(&tier.tier, bench.settings.limits.timezone.clone()), Bucket::new());
        let name = format!("part/charge, {}", tier.tier.name);
        c.bench_function(&name, |b| {
            b.iter_batched(|| bench.clock.now(), |now| charge(&limits, &bucket, NonZeroU32::MIN, now).is_ok(), READY)
        });
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50)
        .configure_from_args();
    admitted(&mut criterion);
    routes(&mut criterion);
    criterion.final_summary();
}
