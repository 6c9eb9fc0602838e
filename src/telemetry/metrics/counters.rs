//! The counters of one worker: plain memory with one writer, so that counting a call costs no locked instruction.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;

use crate::model::call::Record;
use crate::model::{Code, Verdict, Window};

/// What stands for the route of a call that found none.
pub(super) const NO_ROUTE: &str = "-";

/// Methods with a name of their own; the last word stands for all others, which clients can invent without end.
pub(super) const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "other"];

/// Statuses with a series of their own, ascending; an upstream's others count under their class.
const STATUSES: [u16; 49] = [
    101, 200, 201, 202, 203, 204, 205, 206, 207, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411,
    412, 413, 414, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431, 451, 500, 501, 502, 503, 504, 505, 507, 511,
];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
pub(super) const STATUS_COUNT: usize = STATUSES.len() + CLASSES.len();

/// The upper bounds of all histograms, in nanoseconds: 10 µs to 10 s. The gateway's own part of a call is tens of
/// microseconds, an API's answer anything.
pub(super) const BOUNDS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The label of the status with the number `index`.
pub(super) fn status_label(index: usize) -> String {
    match STATUSES.get(index) {
        Some(status) => status.to_string(),
        None => CLASSES[(index - STATUSES.len()).min(CLASSES.len() - 1)].to_owned(),
    }
}

fn status_index(status: u16) -> usize {
    let class = || match status / 100 {
        class @ 1..=5 => usize::from(class),
        _ => 0,
    };
    STATUSES.binary_search(&status).unwrap_or_else(|_| STATUSES.len() + class())
}

fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::CONNECT => 8,
        _ => 9,
    }
}

/// A counter with one writer and any number of readers.
#[derive(Default)]
struct Tally(AtomicU64);

impl Tally {
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn tallies<const N: usize>() -> [Tally; N] {
    std::array::from_fn(|_| Tally::default())
}

/// Durations by bucket, not cumulated; the last bucket has no bound.
struct Durations {
    buckets: [Tally; BOUNDS.len() + 1],
    nanos: Tally,
}

impl Durations {
    fn new() -> Durations {
        Durations { buckets: tallies(), nanos: Tally::default() }
    }

    fn add(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // A bound belongs to its bucket: `le` is "at most".
        self.buckets[BOUNDS.partition_point(|bound| *bound < nanos)].add(1);
        self.nanos.add(nanos);
    }
}

/// The counters of one route.
struct RouteCounters {
    requests: Box<[[Tally; STATUS_COUNT]; METHODS.len()]>,
    verdicts: [Tally; Verdict::COUNT],
    duration: Durations,
    upstream: Durations,
    received: Tally,
    sent: Tally,
}

impl RouteCounters {
    fn new() -> RouteCounters {
        RouteCounters {
            requests: Box::new(std::array::from_fn(|_| tallies())),
            verdicts: tallies(),
            duration: Durations::new(),
            upstream: Durations::new(),
            received: Tally::default(),
            sent: Tally::default(),
        }
    }

    fn add(&self, record: &Record, whole: Duration) {
        self.requests[method_index(&record.method)][status_index(record.status)].add(1);
        self.verdicts[record.verdict.index()].add(1);
        self.duration.add(whole);
        if let Some(upstream) = record.upstream {
            self.upstream.add(upstream);
        }
        self.received.add(record.received);
        self.sent.add(record.sent);
    }
}

/// All counters of one worker under one set of routes.
pub(super) struct Counters {
    names: Arc<[String]>,
    /// One per name, and one more for calls without a route.
    routes: Box<[RouteCounters]>,
    overhead: Durations,
    limited: [Tally; Window::ALL.len()],
    cut: [Tally; Code::OF_ENDED_VALUES.len()],
}

impl Counters {
    pub fn new(names: Arc<[String]>) -> Counters {
        let routes = (0..=names.len()).map(|_| RouteCounters::new()).collect();
        Counters { names, routes, overhead: Durations::new(), limited: tallies(), cut: tallies() }
    }
}

/// A worker's own counters, for the settings it was made under. It cannot be shared between threads: that one worker
/// alone writes to it is what makes it cheap.
pub struct WorkerMetrics {
    counters: Arc<Counters>,
    one_writer: PhantomData<Cell<()>>,
}

impl WorkerMetrics {
    pub(super) fn new(counters: Arc<Counters>) -> WorkerMetrics {
        WorkerMetrics { counters, one_writer: PhantomData }
    }

    /// Counts one call that these windows turned away.
    pub fn limited(&self, by: &[Window]) {
        by.iter().for_each(|window| self.counters.limited[*window as usize].add(1));
    }

    /// Counts one open call that was cut because its key or machine stopped counting.
    pub fn cut(&self, why: Code) {
        let place = Code::OF_ENDED_VALUES.iter().position(|code| *code == why);
        place.iter().for_each(|place| self.counters.cut[*place].add(1));
    }

    /// Counts one call. `record.route` is an index into the routes this was made for; one beyond them counts as none.
    pub fn observe(&self, record: &Record) {
        let counters = &*self.counters;
        let none = counters.names.len();
        let place = record.route.map_or(none, |route| route.min(none));
        let whole = record.ended.tick.since(record.began.tick);
        counters.routes[place].add(record, whole);
        if let Some(upstream) = record.upstream {
            counters.overhead.add(whole.saturating_sub(upstream));
        }
    }
}

/// Durations added up over workers.
#[derive(Clone, Default)]
pub(super) struct DurationSums {
    pub buckets: [u64; BOUNDS.len() + 1],
    pub nanos: u64,
}

impl DurationSums {
    fn add(&mut self, durations: &Durations) {
        add_each(&mut self.buckets, &durations.buckets);
        self.nanos = self.nanos.wrapping_add(durations.nanos.get());
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// One route added up over workers.
#[derive(Clone)]
pub(super) struct RouteSums {
    pub requests: Box<[[u64; STATUS_COUNT]; METHODS.len()]>,
    pub verdicts: [u64; Verdict::COUNT],
    pub duration: DurationSums,
    pub upstream: DurationSums,
    pub received: u64,
    pub sent: u64,
}

impl RouteSums {
    fn new() -> RouteSums {
        RouteSums {
            requests: Box::new([[0; STATUS_COUNT]; METHODS.len()]),
            verdicts: [0; Verdict::COUNT],
            duration: DurationSums::default(),
            upstream: DurationSums::default(),
            received: 0,
            sent: 0,
        }
    }

    fn add(&mut self, counters: &RouteCounters) {
        for (sums, tallies) in self.requests.iter_mut().zip(counters.requests.iter()) {
            add_each(sums, tallies);
        }
        add_each(&mut self.verdicts, &counters.verdicts);
        self.duration.add(&counters.duration);
        self.upstream.add(&counters.upstream);
        self.received += counters.received.get();
        self.sent += counters.sent.get();
    }
}

/// Everything added up, by the name of the route, so that it outlives the settings a worker counted under.
#[derive(Clone, Default)]
pub(super) struct Sums {
    pub routes: BTreeMap<String, RouteSums>,
    pub overhead: DurationSums,
    /// In the order of [`Window::ALL`].
    pub limited: [u64; Window::ALL.len()],
    /// In the order of [`Code::OF_ENDED_VALUES`].
    pub cut: [u64; Code::OF_ENDED_VALUES.len()],
}

impl Sums {
    pub fn add(&mut self, counters: &Counters) {
        let names = counters.names.iter().map(String::as_str).chain([NO_ROUTE]);
        for (name, route) in names.zip(counters.routes.iter()) {
            match self.routes.get_mut(name) {
                Some(sums) => sums.add(route),
                None => self.routes.entry(name.to_owned()).or_insert_with(RouteSums::new).add(route),
            }
        }
        self.overhead.add(&counters.overhead);
        add_each(&mut self.limited, &counters.limited);
        add_each(&mut self.cut, &counters.cut);
    }
}

fn add_each<const N: usize>(sums: &mut [u64; N], tallies: &[Tally; N]) {
    for (sum, tally) in sums.iter_mut().zip(tallies) {
        *sum += tally.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t241_invented_methods_and_statuses_share_a_series() {
        assert!(STATUSES.is_sorted());
        for (status, label) in [(200, "200"), (101, "101"), (299, "2xx"), (599, "5xx"), (102, "1xx"), (0, "other"), (999, "other")] {
            assert_eq!(status_label(status_index(status)), label, "{status}");
        }
        for (method, label) in [("GET", "GET"), ("CONNECT", "CONNECT"), ("get", "other"), ("PROPFIND", "other")] {
            assert_eq!(METHODS[method_index(&Method::from_bytes(method.as_bytes()).unwrap())], label);
        }
    }

    #[test]
    fn the_gateways_own_codes_keep_their_status() {
        for code in crate::model::Code::ALL {
            assert_eq!(status_label(status_index(code.status().as_u16())), code.status().as_str(), "{code:?}");
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        for (nanos, bucket) in [(0, 0), (10_000, 0), (10_001, 1), (10_000_000_000, 18), (10_000_000_001, 19)] {
            let durations = Durations::new();
            durations.add(Duration::from_nanos(nanos));
            assert_eq!(durations.buckets[bucket].get(), 1, "{nanos}");
        }
    }
}
