//! What a call costs the whole gateway on loopback: CPU time of its threads per call, with admission and as a bare public route in
//! the same run. Calls per second and latencies are printed too, but they say as much about the client and the machine.
//!
//! `cargo bench --bench gateway [-- <words of scenarios>]`. The gateway runs in this process with one worker; a client and an
//! upstream of raw sockets run on threads of their own, which are not counted. Where there are two cores and `taskset`, the worker
//! has one for itself. Scenarios take turns of a second, so that a noisy machine disturbs all alike; medians of the rounds are shown.

mod fixture;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use octroi::app::Gateway;
use octroi::clock::Clock;
use octroi::store::Embedded;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use fixture::{Choice, TIGHT, TWO_WINDOWS};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: usize = 100_000;
const CONNECTIONS: usize = 32;
const ROUNDS: usize = 7;
const TURN: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_millis(500);
/// A run that hangs ends itself: no scenario waits longer for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the client sends, and what must come back.
struct Scenario {
    name: &'static str,
    requests: Vec<Vec<u8>>,
    status: &'static str,
}

/// One turn of one scenario.
struct Turn {
    calls: usize,
    /// Nanoseconds of the worker, the share of them spent in the kernel, and nanoseconds of the threads that work for it.
    cpu: u64,
    kernel: f64,
    helpers: u64,
    elapsed: Duration,
    /// Microseconds, sorted.
    latencies: Vec<u32>,
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    // Asked before anything is pinned: a pinned thread sees its own cores only.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let upstream = upstream();
    for access_log in ["off", "access.log"] {
        run(upstream, access_log, &wanted, cores);
    }
}

fn run(upstream: SocketAddr, access_log: &str, wanted: &[String], cores: usize) {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let settings = fixture::settings(dir.path(), upstream, 8, access_log);
    let scenarios = scenarios(&settings.store, wanted);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let gateway = {
        let _inside = runtime.enter();
        Gateway::start(settings, Clock::system()).expect("the gateway starts")
    };
    let pinned = pin(cores);
    println(&format!(
        "\naccess log {access_log}, {KEYS} keys, {CONNECTIONS} connections, 1 worker{}",
        if pinned { ", pinned" } else { "" }
    ));
    let address = gateway.addresses()[0].1;
    let client = client();
    for scenario in &scenarios {
        client.block_on(turn(address, scenario, WARM_UP));
    }
    let mut turns: Vec<Vec<Turn>> = scenarios.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (scenario, turns) in scenarios.iter().zip(&mut turns) {
            turns.push(client.block_on(turn(address, scenario, TURN)));
        }
    }
    report(&scenarios, &turns);
    runtime.block_on(gateway.drain());
}

fn scenarios(store: &Path, wanted: &[String]) -> Vec<Scenario> {
    let store = Embedded::open(store).expect("a new store opens");
    let values = fixture::populate(&store, KEYS, TWO_WINDOWS);
    let tight = fixture::populate(&store, 10, TIGHT);
    let all = [
        Scenario { name: "public", requests: vec![get("/open/sensors/4711", None)], status: "200" },
        Scenario { name: "admitted", requests: each("/v1/sensors/4711", &values), status: "200" },
        Scenario { name: "401", requests: vec![get("/v1/sensors/4711", None)], status: "401" },
        Scenario { name: "429", requests: each("/v1/sensors/4711", &tight), status: "429" },
    ];
    all.into_iter().filter(|scenario| wanted.is_empty() || wanted.iter().any(|word| word == scenario.name)).collect()
}

fn each(path: &str, values: &[String]) -> Vec<Vec<u8>> {
    values.iter().map(|value| get(path, Some(value))).collect()
}

fn get(path: &str, bearer: Option<&str>) -> Vec<u8> {
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nHost: api.example.org\r\nUser-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate\r\nAccept: */*\r\n"
    );
    if let Some(value) = bearer {
        let _ = write!(text, "Authorization: Bearer {value}\r\n");
    }
    text += "\r\n";
    text.into_bytes()
}

/// A closed loop: every connection sends its next request when it has the answer to the last.
async fn turn(address: SocketAddr, scenario: &Scenario, length: Duration) -> Turn {
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("a socket takes its options");
        connections.push(stream);
    }
    let (cpu, helpers, modes, began) = (cpu_nanos(WORKER), cpu_nanos(HELPERS), ticks_by_mode(), Instant::now());
    let local = tokio::task::LocalSet::new();
    let mut latencies = local
        .run_until(async {
            let (requests, until) = (std::rc::Rc::new(scenario.requests.clone()), began + length);
            let tasks: Vec<_> = connections
                .into_iter()
                .enumerate()
                .map(|(seed, stream)| tokio::task::spawn_local(converse(stream, requests.clone(), seed, scenario.status, until)))
                .collect();
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.extend(task.await.expect("every answer is the expected one"));
            }
            latencies
        })
        .await;
    let elapsed = began.elapsed();
    latencies.sort_unstable();
    Turn {
        calls: latencies.len(),
        cpu: cpu_nanos(WORKER) - cpu,
        kernel: (ticks_by_mode() - modes).share(),
        helpers: cpu_nanos(HELPERS) - helpers,
        elapsed,
        latencies,
    }
}

async fn converse(
    mut stream: TcpStream,
    requests: std::rc::Rc<Vec<Vec<u8>>>,
    seed: usize,
    status: &'static str,
    until: Instant,
) -> Vec<u32> {
    let mut choice = Choice::new(seed);
    let (mut latencies, mut answer) = (Vec::new(), Vec::with_capacity(4_096));
    while Instant::now() < until {
        let began = Instant::now();
        stream.write_all(choice.of::<Vec<u8>>(&requests)).await.expect("the gateway takes requests");
        answer.clear();
        while !is_whole(&answer) {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await;
            assert!(read.expect("an answer in time").expect("no reset") > 0, "the gateway closed the connection");
        }
        let got = std::str::from_utf8(&answer[9..12]).unwrap_or("?");
        assert!(got == status || (status == "429" && got == "200"), "{}", String::from_utf8_lossy(&answer));
        latencies.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    latencies
}

/// Head and body, the latter as long as announced.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(answer, b"\r\n\r\n") else { return false };
    const FIELD: &[u8] = b"content-length: ";
    let lower = answer[..head].to_ascii_lowercase();
    let at = memchr::memmem::find(&lower, FIELD).expect("every answer announces its length") + FIELD.len();
    let digits = lower[at..].iter().take_while(|b| b.is_ascii_digit());
    let length = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    answer.len() >= head + 4 + length
}

/// Answers every request, however it looks, with the same small document.
fn upstream() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket takes its options");
    let address = listener.local_addr().expect("it is bound");
    let serve = move || {
        client().block_on(tokio::task::LocalSet::new().run_until(async {
            let listener = TcpListener::from_std(listener).expect("it does not block");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(respond(stream));
            }
        }));
    };
    std::thread::Builder::new().name("upstream".into()).spawn(serve).expect("a thread");
    address
}

async fn respond(mut stream: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n{\"id\":4711,\"celsius\":21.53}";
    let mut unread = Vec::with_capacity(4_096);
    let _ = stream.set_nodelay(true);
    while stream.read_buf(&mut unread).await.is_ok_and(|n| n > 0) {
        while let Some(end) = memchr::memmem::find(&unread, b"\r\n\r\n") {
            unread.drain(..end + 4);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

fn client() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The thread that serves calls.
const WORKER: &[&str] = &["worker-"];
/// Those that work for it: they write usage and the access log.
const HELPERS: &[&str] = &["octroi-", "access-log"];

fn threads(of: &[&str]) -> impl Iterator<Item = (String, std::path::PathBuf)> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux shows the threads of a process");
    tasks.flatten().map(|task| task.path()).filter_map(|path| {
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        of.iter().any(|ours| name.starts_with(ours)).then(|| (name.trim().to_owned(), path))
    })
}

/// Time on a core so far, as the scheduler knows it.
fn cpu_nanos(of: &[&str]) -> u64 {
    let nanos = |path: std::path::PathBuf| std::fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok();
    threads(of).filter_map(|(_, path)| nanos(path)).sum()
}

/// Clock ticks of the worker in user and in kernel mode.
#[derive(Clone, Copy, Default)]
struct Modes {
    user: u64,
    system: u64,
}

impl Modes {
    fn share(self) -> f64 {
        self.system as f64 / (self.user + self.system).max(1) as f64
    }
}

impl std::ops::Sub for Modes {
    type Output = Modes;

    fn sub(self, earlier: Modes) -> Modes {
        Modes { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

fn ticks_by_mode() -> Modes {
    let mut sum = Modes::default();
    for stat in threads(WORKER).filter_map(|(_, path)| std::fs::read_to_string(path.join("stat")).ok()) {
        // Behind the name, which may hold anything, utime and stime are fields 12 and 13.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        sum.user += ticks(11);
        sum.system += ticks(12);
    }
    sum
}

/// Gives the worker a core and everything else the other ones; false where that cannot be done.
fn pin(cores: usize) -> bool {
    if cores < 2 {
        return false;
    }
    let to = |list: &str, task: &str| {
        let done = Command::new("taskset").args(["-p", "-c", list, task]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    let worker = threads(WORKER).next();
    let worker = worker.and_then(|(_, path)| Some(path.file_name()?.to_string_lossy().into_owned()));
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux shows the threads of a process");
    let others = format!("1-{}", cores - 1);
    let tasks = tasks.flatten().map(|task| task.file_name().to_string_lossy().into_owned());
    // A thread that has ended meanwhile is in nobody's way.
    tasks.filter(|task| Some(task) != worker.as_ref()).for_each(|task| {
        to(&others, &task);
    });
    worker.is_some_and(|worker| to("0", &worker))
}

fn report(scenarios: &[Scenario], turns: &[Vec<Turn>]) {
    let mut text = format!(
        "{:<10}{:>10}{:>16}{:>8}{:>8}{:>9}{:>10}{:>8}{:>8}{:>8}",
        "", "µs/call", "(least–most)", "user", "system", "helpers", "calls/s", "p50 µs", "p99 µs", "ratio"
    );
    let micros = |turn: &Turn| turn.cpu as f64 / 1_000.0 / turn.calls.max(1) as f64;
    let public = scenarios.iter().position(|scenario| scenario.name == "public").map(|at| &turns[at]);
    for (scenario, turns) in scenarios.iter().zip(turns) {
        let cpu = median(turns.iter().map(micros));
        let least = turns.iter().map(micros).fold(f64::MAX, f64::min);
        let most = turns.iter().map(micros).fold(0.0, f64::max);
        let system = median(turns.iter().map(|turn| micros(turn) * turn.kernel));
        let helpers = median(turns.iter().map(|turn| turn.helpers as f64 / 1_000.0 / turn.calls.max(1) as f64));
        let rate = median(turns.iter().map(|turn| turn.calls as f64 / turn.elapsed.as_secs_f64()));
        let at = |share: f64| median(turns.iter().map(|turn| f64::from(turn.latencies[(turn.latencies.len() as f64 * share) as usize])));
        // Of turns of the same round: what slowed one down most likely slowed the other too.
        let ratio = public.map_or(f64::NAN, |public| median(turns.iter().zip(public).map(|(turn, public)| micros(turn) / micros(public))));
        let _ = write!(
            text,
            "\n{:<10}{cpu:>10.2}{:>16}{:>8.2}{system:>8.2}{helpers:>9.2}{rate:>10.0}{:>8.0}{:>8.0}{ratio:>8.3}",
            scenario.name,
            format!("({least:.2}–{most:.2})"),
            cpu - system,
            at(0.5),
            at(0.99),
        );
    }
    println(&text);
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout, reason = "a benchmark's output is what it is for")]
fn println(text: &str) {
    println!("{text}");
}
