//! What the queue counts. Tenants appear as classes: their number has no bound.

use std::fmt::Write;
use std::time::Duration;

use skep_base::TenantName;

use super::core::{DEFAULT_WEIGHT, Level};

/// Upper bounds of the wait histogram's buckets, in seconds.
const BUCKETS_S: [f64; 9] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 1.0, 5.0, 30.0];

/// Tenants as metrics know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantClass {
    /// The operator's own.
    System,
    /// Those with more than the usual weight.
    Heavy,
    /// Those with the usual weight.
    Normal,
    /// Those with less.
    Light,
}

impl TenantClass {
    const ALL: [TenantClass; 4] =
        [TenantClass::System, TenantClass::Heavy, TenantClass::Normal, TenantClass::Light];

    pub(crate) fn of(tenant: &TenantName, weight: u32) -> TenantClass {
        match weight.cmp(&DEFAULT_WEIGHT) {
            _ if tenant.is_system() => TenantClass::System,
            std::cmp::Ordering::Greater => TenantClass::Heavy,
            std::cmp::Ordering::Equal => TenantClass::Normal,
            std::cmp::Ordering::Less => TenantClass::Light,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            TenantClass::System => "system",
            TenantClass::Heavy => "heavy",
            TenantClass::Normal => "normal",
            TenantClass::Light => "light",
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS_S.len()],
    count: u64,
    sum_s: f64,
}

/// Counters of a queue.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) added: [u64; 4],
    pub(crate) failed: u64,
    waits: [[Histogram; 4]; 4],
    /// Filled in when they are read: what waits in each level.
    pub(crate) depth: [usize; 4],
    /// Likewise: what waits for its time.
    pub(crate) delayed: usize,
    /// Likewise: what is being worked on.
    pub(crate) working: usize,
}

impl Metrics {
    pub(crate) fn waited(&mut self, level: Level, class: TenantClass, wait: Duration) {
        let histogram = &mut self.waits[level as usize][class as usize];
        let wait_s = wait.as_secs_f64();
        histogram.count += 1;
        histogram.sum_s += wait_s;
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS_S) {
            *bucket += u64::from(wait_s <= bound);
        }
    }

    /// How many keys wait in a level.
    #[must_use]
    pub fn depth(&self, level: Level) -> usize {
        self.depth[level as usize]
    }

    /// How many keys are being worked on.
    #[must_use]
    pub fn working(&self) -> usize {
        self.working
    }

    /// In Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = self.write(out);
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# TYPE skep_queue_depth gauge")?;
        for level in Level::ALL {
            writeln!(out, "skep_queue_depth{{level=\"{}\"}} {}", level.as_str(), self.depth[level as usize])?;
        }
        writeln!(out, "# TYPE skep_queue_adds_total counter")?;
        for level in Level::ALL {
            let added = self.added[level as usize];
            writeln!(out, "skep_queue_adds_total{{level=\"{}\"}} {added}", level.as_str())?;
        }
        writeln!(out, "# TYPE skep_queue_delayed gauge\nskep_queue_delayed {}", self.delayed)?;
        writeln!(out, "# TYPE skep_queue_working gauge\nskep_queue_working {}", self.working)?;
        writeln!(out, "# TYPE skep_queue_failures_total counter\nskep_queue_failures_total {}", self.failed)?;
        writeln!(out, "# TYPE skep_queue_wait_seconds histogram")?;
        for level in Level::ALL {
            for class in TenantClass::ALL {
                let h = &self.waits[level as usize][class as usize];
                if h.count == 0 {
                    continue;
                }
                let labels = format!("level=\"{}\",class=\"{}\"", level.as_str(), class.as_str());
                for (bucket, bound) in h.buckets.iter().zip(BUCKETS_S) {
                    writeln!(out, "skep_queue_wait_seconds_bucket{{{labels},le=\"{bound}\"}} {bucket}")?;
                }
                writeln!(out, "skep_queue_wait_seconds_bucket{{{labels},le=\"+Inf\"}} {}", h.count)?;
                writeln!(out, "skep_queue_wait_seconds_sum{{{labels}}} {}", h.sum_s)?;
                writeln!(out, "skep_queue_wait_seconds_count{{{labels}}} {}", h.count)?;
            }
        }
        Ok(())
    }
}
