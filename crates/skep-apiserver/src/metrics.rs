//! Counters, in Prometheus' text form.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::app::App;

/// Upper bounds of the latency histogram, in seconds: upstream's range, fewer steps.
const BUCKETS_S: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Verbs, in the order of [`Metrics::verb`].
const VERBS: [&str; 9] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "other"];

/// What is counted. No label carries a tenant's or an object's name: their number has no bound.
#[derive(Default)]
pub struct Metrics {
    /// Roles in this process that add figures of their own.
    sources: Mutex<Vec<Source>>,
    verbs: [Verb; VERBS.len()],
    /// Requests under way, watches included.
    pub in_flight: AtomicU64,
    /// Answers by status code.
    codes: Mutex<std::collections::BTreeMap<u16, u64>>,
}

type Source = Box<dyn Fn(&mut String) + Send + Sync>;

#[derive(Debug, Default)]
struct Verb {
    buckets: [AtomicU64; BUCKETS_S.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Metrics {
    fn verb(&self, verb: &str) -> &Verb {
        let index = VERBS.iter().position(|v| *v == verb).unwrap_or(VERBS.len() - 1);
        &self.verbs[index]
    }

    /// Has a role in the same process add its figures.
    pub fn add_source(&self, render: impl Fn(&mut String) + Send + Sync + 'static) {
        self.sources.lock().push(Box::new(render));
    }

    /// Counts an answer.
    pub fn answered(&self, verb: &str, code: u16, took: Duration) {
        let v = self.verb(verb);
        v.count.fetch_add(1, Ordering::Relaxed);
        v.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(i) = BUCKETS_S.iter().position(|b| took.as_secs_f64() <= *b) {
            v.buckets[i].fetch_add(1, Ordering::Relaxed);
        }
        *self.codes.lock().entry(code).or_default() += 1;
    }
}

/// The text that `/metrics` answers with.
#[must_use]
pub fn render(app: &App) -> String {
    let mut out = String::new();
    let m = &app.metrics;
    let mut write = |text: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = out.write_fmt(text);
        out.push('\n');
    };
    write(format_args!("# HELP apiserver_request_total Answers by status code."));
    write(format_args!("# TYPE apiserver_request_total counter"));
    for (code, n) in m.codes.lock().iter() {
        write(format_args!("apiserver_request_total{{code=\"{code}\"}} {n}"));
    }
    write(format_args!("# HELP apiserver_request_duration_seconds Time to answer; for watches, to begin."));
    write(format_args!("# TYPE apiserver_request_duration_seconds histogram"));
    for (name, v) in VERBS.iter().zip(&m.verbs) {
        let mut sum = 0;
        for (bound, n) in BUCKETS_S.iter().zip(&v.buckets) {
            sum += n.load(Ordering::Relaxed);
            write(format_args!(
                "apiserver_request_duration_seconds_bucket{{verb=\"{name}\",le=\"{bound}\"}} {sum}"
            ));
        }
        let count = v.count.load(Ordering::Relaxed);
        write(format_args!(
            "apiserver_request_duration_seconds_bucket{{verb=\"{name}\",le=\"+Inf\"}} {count}"
        ));
        let seconds = Duration::from_micros(v.micros.load(Ordering::Relaxed)).as_secs_f64();
        write(format_args!("apiserver_request_duration_seconds_sum{{verb=\"{name}\"}} {seconds}"));
        write(format_args!("apiserver_request_duration_seconds_count{{verb=\"{name}\"}} {count}"));
    }
    if let Some(audit) = app.audit.get() {
        for (name, help, counter) in [
            ("apiserver_audit_event_total", "Audit events taken up.", &audit.counters().events),
            ("apiserver_audit_error_total", "Audit events lost.", &audit.counters().dropped),
        ] {
            write(format_args!("# HELP {name} {help}"));
            write(format_args!("# TYPE {name} counter"));
            write(format_args!("{name} {}", counter.load(Ordering::Relaxed)));
        }
    }
    let stats = app.objects.store().stats();
    let (busy, waiting) = app.fair.load();
    for (name, help, value) in [
        (
            "apiserver_current_inflight_requests",
            "Requests under way, watches included.",
            m.in_flight.load(Ordering::Relaxed),
        ),
        ("skep_requests_busy", "Requests that are worked on.", busy as u64),
        ("skep_requests_waiting", "Requests that wait for their tenant's turn.", waiting as u64),
        ("skep_tenants", "Tenants, the operator's own included.", app.tenants.len() as u64),
        ("skep_store_objects", "Stored objects.", stats.objects as u64),
        ("skep_store_object_bytes", "Bytes of stored objects.", stats.object_bytes as u64),
        ("skep_store_ring_events", "Changes that the ring remembers.", stats.ring_events as u64),
        (
            "skep_store_ring_superseded_bytes",
            "Bytes that only the ring still holds.",
            stats.ring_superseded_bytes as u64,
        ),
        ("skep_store_watched_streams", "Streams that somebody watches.", stats.watched_streams as u64),
        ("skep_store_revision", "The newest revision.", stats.revision.0),
    ] {
        write(format_args!("# HELP {name} {help}"));
        write(format_args!("# TYPE {name} gauge"));
        write(format_args!("{name} {value}"));
    }
    m.sources.lock().iter().for_each(|source| source(&mut out));
    out
}
