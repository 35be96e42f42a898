//! What was measured.

use std::fmt;
use std::time::Duration;

/// How long each of many things took.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Those of somebody else too.
    pub fn append(&mut self, mut others: Latencies) {
        self.0.append(&mut others.0);
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest of them that at least `share` of all (0 to 1) do not exceed; zero if there are none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank.min(sorted.len()).wrapping_sub(1)).copied().unwrap_or_default()
    }
}

/// Named figures, in the order in which they are shown; the unit stands in the name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(pub Vec<(String, f64)>);

impl Figures {
    /// One more.
    pub fn put(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    /// `count` things in a time, as `NAME_per_s`.
    pub fn rate(&mut self, name: &str, count: usize, took: Duration) {
        self.put(format!("{name}_per_s"), count as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE));
    }

    /// Middle, 99th percentile and worst, as `NAME_p50_ms` and so on.
    pub fn latencies(&mut self, name: &str, latencies: &Latencies) {
        for (suffix, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            self.put(format!("{name}_{suffix}_ms"), latencies.percentile(share).as_secs_f64() * 1e3);
        }
    }
}

/// One `NAME VALUE` a line.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.0 {
            let digits = if *value >= 1000.0 || value.fract() == 0.0 { 0 } else { 2 };
            writeln!(f, "{name} {value:.digits$}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(0.5), Duration::ZERO);
        (1..=100).rev().for_each(|ms| latencies.add(Duration::from_millis(ms)));
        for (share, ms) in [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)] {
            assert_eq!(latencies.percentile(share), Duration::from_millis(ms), "{share}");
        }
    }

    #[test]
    fn figures_are_lines() {
        let mut figures = Figures::default();
        figures.rate("create", 30_000, Duration::from_secs(2));
        figures.put("tenants", 7.0);
        figures.put("p50_ms", 1.255);
        assert_eq!(figures.to_string(), "create_per_s 15000\ntenants 7\np50_ms 1.25\n");
    }
}
