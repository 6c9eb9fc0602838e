//! What Prometheus scrapes.
//!
//! Every worker counts its calls in memory of its own (`counters`); a scrape adds them up. The number of series is
//! bounded by the settings, not by clients: per route at most 10 methods × 55 statuses, 34 verdicts and two
//! histograms. Counters of a route that has left the settings stay until a restart, as counters must.

mod counters;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use crate::clock::Clock;
use crate::model::{Code, Timestamp, Verdict, Window};

pub use counters::WorkerMetrics;
use counters::{BOUNDS, Counters, DurationSums, METHODS, RouteSums, STATUS_COUNT, Sums, status_label};

/// What the metrics are served as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric that was registered under a name, with labels, or with a help text that does not go with the others.
#[derive(Debug, thiserror::Error)]
#[error("metric {name}: {reason}")]
pub struct MetricsError {
    name: String,
    reason: String,
}

/// All metrics of the gateway.
pub struct Metrics {
    started: Timestamp,
    state: Mutex<State>,
    /// What other rooms let be read at a scrape.
    readings: Registry,
}

/// The lock protects the list of workers; no call ever takes it.
struct State {
    routes: Arc<[String]>,
    workers: Vec<Arc<Counters>>,
    /// The sums of workers that are gone, or gone over to newer settings.
    retired: Sums,
}

impl Metrics {
    /// `routes` are the names of the settings' routes, by their index.
    pub fn new(routes: Vec<String>, clock: &Clock) -> Arc<Metrics> {
        let state = State { routes: routes.into(), workers: Vec::new(), retired: Sums::default() };
        Arc::new(Metrics { started: clock.now().wall, state: Mutex::new(state), readings: Registry::new() })
    }

    /// The routes of newer settings. Workers made before go on counting for the older ones; who follows the
    /// new settings takes a new [`Metrics::worker`].
    pub fn set_routes(&self, routes: Vec<String>) {
        self.state.lock().routes = routes.into();
    }

    /// Counters for one worker under the present settings.
    pub fn worker(&self) -> WorkerMetrics {
        let mut state = self.state.lock();
        let routes = state.routes.clone();
        state.counters(routes)
    }

    /// Counters for calls that take no route of the settings, under names of their own.
    pub fn beside(&self, names: &[&str]) -> WorkerMetrics {
        self.state.lock().counters(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// Lets a value that can rise and fall be read at every scrape.
    pub fn gauge(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) -> Result<(), MetricsError> {
        self.register(name, help, &[], MetricType::GAUGE, Box::new(read))
    }

    /// Lets a value that only rises be read at every scrape. Several can share a name and help with other label values.
    pub fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Result<(), MetricsError> {
        self.register(name, help, labels, MetricType::COUNTER, Box::new(read))
    }

    fn register(&self, name: &str, help: &str, labels: &[(&str, &str)], kind: MetricType, read: Read) -> Result<(), MetricsError> {
        let error = |reason: String| MetricsError { name: name.to_owned(), reason };
        if self.calls().iter().any(|own| own.name() == name) {
            return Err(error("the name is taken".to_owned()));
        }
        let constants: HashMap<String, String> = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), constants).map_err(|e| error(e.to_string()))?;
        let labels = labels.iter().map(|(name, value)| label(name, value)).collect();
        self.readings.register(Box::new(Reading { desc, labels, kind, read })).map_err(|e| error(e.to_string()))
    }

    /// Everything in the text format 0.0.4, to be sent as [`CONTENT_TYPE`].
    pub fn text(&self) -> String {
        let mut families = self.calls();
        families.extend(self.readings.gather());
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            tracing::error!(%error, "metrics cannot be written");
            String::new()
        })
    }

    /// What is counted per call, under the published names.
    fn calls(&self) -> Vec<MetricFamily> {
        let sums = {
            let mut state = self.state.lock();
            state.retire();
            state.sums()
        };
        let each = |of: &dyn Fn(&str, &RouteSums) -> Vec<Metric>| sums.routes.iter().flat_map(|(name, route)| of(name, route)).collect();
        vec![
            family(
                "octroi_build_info",
                "1, with the running version as a label",
                MetricType::GAUGE,
                vec![gauge(vec![label("version", env!("CARGO_PKG_VERSION"))], 1.0)],
            ),
            family(
                "octroi_decisions_total",
                "Calls by how they ended: ok, client_closed, or the code of the refusal",
                MetricType::COUNTER,
                each(&decisions),
            ),
            family(
                "octroi_exchanges_cut_total",
                "Open exchanges that were cut because their key or machine had stopped counting a second before, by why",
                MetricType::COUNTER,
                Code::OF_ENDED_VALUES
                    .iter()
                    .zip(sums.cut)
                    .map(|(code, count)| counter(vec![label("code", code.as_str())], count))
                    .collect(),
            ),
            family(
                "octroi_limited_total",
                "Calls turned away by a used up window; one that several windows turned away counts for each",
                MetricType::COUNTER,
                Window::ALL.iter().zip(sums.limited).map(|(window, count)| counter(vec![label("window", window.name())], count)).collect(),
            ),
            family(
                "octroi_overhead_seconds",
                "Time of forwarded calls that was not spent waiting for the head of the upstream's answer: \
                 the gateway's own work and the way of both bodies through it",
                MetricType::HISTOGRAM,
                histogram(vec![], &sums.overhead),
            ),
            family(
                "octroi_request_bytes_total",
                "Bytes of request bodies received from clients",
                MetricType::COUNTER,
                each(&|name, route| bytes(name, route.received)),
            ),
            family(
                "octroi_request_duration_seconds",
                "From the head of a request to the end of its answer",
                MetricType::HISTOGRAM,
                each(&|name, route| histogram(vec![label("route", name)], &route.duration)),
            ),
            family("octroi_requests_total", "Calls by method and by the status sent to the client", MetricType::COUNTER, each(&requests)),
            family(
                "octroi_response_bytes_total",
                "Bytes of answer bodies sent to clients",
                MetricType::COUNTER,
                each(&|name, route| bytes(name, route.sent)),
            ),
            family(
                "octroi_upstream_duration_seconds",
                "From handing a request to the upstream to the head of its answer",
                MetricType::HISTOGRAM,
                each(&|name, route| histogram(vec![label("route", name)], &route.upstream)),
            ),
            family(
                "process_start_time_seconds",
                "When the process started, in seconds since the Unix epoch",
                MetricType::GAUGE,
                vec![gauge(vec![], self.started.0 as f64 / 1_000.0)],
            ),
        ]
    }
}

impl State {
    fn counters(&mut self, routes: Arc<[String]>) -> WorkerMetrics {
        self.retire();
        let counters = Arc::new(Counters::new(routes));
        self.workers.push(counters.clone());
        WorkerMetrics::new(counters)
    }

    fn sums(&self) -> Sums {
        let mut sums = self.retired.clone();
        self.workers.iter().for_each(|worker| sums.add(worker));
        sums
    }

    /// Adds up, for good, the workers that nobody writes to any more.
    fn retire(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            match Arc::try_unwrap(worker) {
                Ok(counters) => self.retired.add(&counters),
                Err(still_used) => self.workers.push(still_used),
            }
        }
    }
}

type Read = Box<dyn Fn() -> f64 + Send + Sync>;

/// One value of another room.
struct Reading {
    desc: Desc,
    labels: Vec<LabelPair>,
    kind: MetricType,
    read: Read,
}

impl Collector for Reading {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metric = Metric::from_label(self.labels.clone());
        let value = (self.read)();
        match self.kind {
            MetricType::COUNTER => metric.set_counter(counter_value(value)),
            _ => metric.set_gauge(gauge_value(value)),
        }
        vec![family(&self.desc.fq_name, &self.desc.help, self.kind, vec![metric])]
    }
}

fn requests(name: &str, route: &RouteSums) -> Vec<Metric> {
    let mut samples = Vec::new();
    for (method, statuses) in METHODS.iter().zip(route.requests.iter()) {
        for status in (0..STATUS_COUNT).filter(|status| statuses[*status] > 0) {
            let labels = vec![label("route", name), label("method", method), label("status", &status_label(status))];
            samples.push(counter(labels, statuses[status]));
        }
    }
    samples
}

fn decisions(name: &str, route: &RouteSums) -> Vec<Metric> {
    let counted = (0..Verdict::COUNT).filter(|index| route.verdicts[*index] > 0);
    counted
        .filter_map(|index| {
            let verdict = Verdict::from_index(index)?;
            Some(counter(vec![label("route", name), label("verdict", verdict.as_str())], route.verdicts[index]))
        })
        .collect()
}

fn bytes(name: &str, count: u64) -> Vec<Metric> {
    vec![counter(vec![label("route", name)], count)]
}

/// Nothing at all where nothing was measured.
fn histogram(labels: Vec<LabelPair>, sums: &DurationSums) -> Vec<Metric> {
    if sums.count() == 0 {
        return Vec::new();
    }
    let mut cumulated = 0;
    let buckets = BOUNDS.iter().zip(sums.buckets).map(|(bound, count)| {
        cumulated += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e9);
        bucket.set_cumulative_count(cumulated);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(sums.count());
    histogram.set_sample_sum(sums.nanos as f64 / 1e9);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    vec![metric]
}

fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter_value(value as f64));
    metric
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge_value(value));
    metric
}

fn counter_value(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}

fn gauge_value(value: f64) -> Gauge {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    gauge
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

#[cfg(test)]
mod tests;
