//! Figures, under upstream's names.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the histogram's buckets, in milliseconds: from a quiet server to one that is in trouble.
const BUCKETS_MS: [u64; 12] = [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000];

/// How pods fared.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub ready: AtomicBool,
    pub scheduled: AtomicU64,
    pub unschedulable: AtomicU64,
    pub errors: AtomicU64,
    pub preemptions: AtomicU64,
    pub victims: AtomicU64,
    pub tenants: AtomicI64,
    /// Active, backing off, parked, of all tenants.
    pub pending: [AtomicI64; 3],
    took: [AtomicU64; BUCKETS_MS.len() + 1],
    took_us: AtomicU64,
}

impl Metrics {
    /// A pod was bound, so long after it was first seen.
    pub(crate) fn bound(&self, took: Duration) {
        self.scheduled.fetch_add(1, Ordering::Relaxed);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MS.iter().position(|most| ms <= *most).unwrap_or(BUCKETS_MS.len());
        self.took[bucket].fetch_add(1, Ordering::Relaxed);
        self.took_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What a scheduler tells about itself. Clones share it.
#[derive(Clone, Debug)]
pub struct Figures(pub(crate) Arc<Metrics>);

impl Figures {
    /// Whether it knows all pods and nodes.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let m = &self.0;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "# HELP scheduler_schedule_attempts_total Number of attempts to schedule pods, by the result.\n# TYPE scheduler_schedule_attempts_total counter"
        );
        for (result, count) in
            [("scheduled", &m.scheduled), ("unschedulable", &m.unschedulable), ("error", &m.errors)]
        {
            let _ = writeln!(
                out,
                "scheduler_schedule_attempts_total{{profile=\"default-scheduler\",result=\"{result}\"}} {}",
                get(count)
            );
        }
        let _ = writeln!(
            out,
            "# HELP scheduler_pending_pods Number of pending pods, by the queue type.\n# TYPE scheduler_pending_pods gauge"
        );
        for (queue, count) in ["active", "backoff", "unschedulable"].iter().zip(&m.pending) {
            let _ = writeln!(
                out,
                "scheduler_pending_pods{{queue=\"{queue}\"}} {}",
                count.load(Ordering::Relaxed)
            );
        }
        for (name, help, count) in [
            ("scheduler_preemption_attempts_total", "Attempts to make room for a pod.", &m.preemptions),
            ("scheduler_preemption_victims_total", "Pods that were removed to make room.", &m.victims),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", get(count));
        }
        let _ = writeln!(
            out,
            "# HELP scheduler_tenants Tenants with pods to place, or a moment ago.\n# TYPE scheduler_tenants gauge\nscheduler_tenants {}",
            m.tenants.load(Ordering::Relaxed)
        );
        let name = "scheduler_pod_scheduling_sli_duration_seconds";
        let _ = writeln!(
            out,
            "# HELP {name} From when a pod was first seen until it was bound.\n# TYPE {name} histogram"
        );
        let mut sum = 0;
        for (most, count) in BUCKETS_MS.iter().zip(&m.took) {
            sum += get(count);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {sum}", *most as f64 / 1e3);
        }
        sum += get(&m.took[BUCKETS_MS.len()]);
        let _ = writeln!(
            out,
            "{name}_bucket{{le=\"+Inf\"}} {sum}\n{name}_sum {}\n{name}_count {sum}",
            get(&m.took_us) as f64 / 1e6
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let figures = Figures(Arc::new(Metrics::default()));
        for ms in [3, 30, 30, 100_000] {
            figures.0.bound(Duration::from_millis(ms));
        }
        let mut text = String::new();
        figures.render(&mut text);
        let line = |start: &str| text.lines().find_map(|l| l.strip_prefix(start)).unwrap().trim().to_owned();
        assert_eq!(line("scheduler_pod_scheduling_sli_duration_seconds_bucket{le=\"0.05\"}"), "3");
        assert_eq!(line("scheduler_pod_scheduling_sli_duration_seconds_bucket{le=\"+Inf\"}"), "4");
        assert_eq!(
            line("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"}"),
            "4"
        );
    }
}
