//! Probes: when they run and what their results mean is pure ([`Gauge`]); asking is in [`ask`].

pub mod ask;
pub mod grpc;

use k8s_openapi::api::core::v1::{Container, Probe};

use crate::state::ProbeResult;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Whether the container has started.
    Startup,
    /// Whether it must be restarted.
    Liveness,
    /// Whether it can serve.
    Readiness,
}

impl ProbeKind {
    /// As in events: `Liveness probe failed`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    /// The container's probe of this kind.
    #[must_use]
    pub fn of(self, c: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => c.startup_probe.as_ref(),
            ProbeKind::Liveness => c.liveness_probe.as_ref(),
            ProbeKind::Readiness => c.readiness_probe.as_ref(),
        }
    }

    /// What is true of a run that has not been asked yet.
    #[must_use]
    pub fn initial(self) -> ProbeResult {
        match self {
            ProbeKind::Startup => ProbeResult::Unknown,
            ProbeKind::Liveness => ProbeResult::Success,
            ProbeKind::Readiness => ProbeResult::Failure,
        }
    }

    /// All of them.
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
}

/// Turns single answers into results: only so many in a row count.
#[derive(Clone, Debug)]
pub struct Gauge {
    kind: ProbeKind,
    failure_threshold: u32,
    success_threshold: u32,
    last: Option<bool>,
    run: u32,
    done: bool,
}

impl Gauge {
    /// For one run of a container.
    #[must_use]
    pub fn new(kind: ProbeKind, probe: &Probe) -> Gauge {
        let threshold = |given: Option<i32>, default| {
            given.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
        };
        Gauge {
            kind,
            failure_threshold: threshold(probe.failure_threshold, 3),
            success_threshold: threshold(probe.success_threshold, 1),
            last: None,
            run: 0,
            done: false,
        }
    }

    /// Takes an answer; gives a result when the threshold is reached.
    pub fn take(&mut self, success: bool) -> Option<ProbeResult> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold {
            return None;
        }
        // A container that failed its liveness is about to be killed, and one that has started has started.
        self.done = self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && !success);
        Some(if success { ProbeResult::Success } else { ProbeResult::Failure })
    }

    /// Whether this run of the container needs no more asking.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        use ProbeResult::{Failure, Success};
        let probe = |failures, successes| Probe {
            failure_threshold: Some(failures),
            success_threshold: Some(successes),
            ..Probe::default()
        };
        type Case = (ProbeKind, Probe, &'static [bool], &'static [Option<ProbeResult>], bool);
        let cases: [Case; 4] = [
            (
                ProbeKind::Readiness,
                probe(2, 2),
                &[true, true, true, false, true, false, false],
                &[None, Some(Success), Some(Success), None, None, None, Some(Failure)],
                false,
            ),
            (
                ProbeKind::Liveness,
                probe(3, 1),
                &[false, false, true, false, false, false],
                &[None, None, Some(Success), None, None, Some(Failure)],
                true,
            ),
            (ProbeKind::Startup, probe(3, 1), &[false, true], &[None, Some(Success)], true),
            (ProbeKind::Startup, probe(1, 1), &[false], &[Some(Failure)], true),
        ];
        for (kind, probe, answers, expected, done) in cases {
            let mut gauge = Gauge::new(kind, &probe);
            let got: Vec<_> = answers.iter().map(|a| gauge.take(*a)).collect();
            assert_eq!(got, expected, "{kind:?}");
            assert_eq!(gauge.is_done(), done, "{kind:?}");
        }
    }
}
