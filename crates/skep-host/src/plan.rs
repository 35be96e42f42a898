//! What is to be done next about one machine: a pure function of what is wanted and what is.

use jiff::Timestamp;
use skep_api::compute::{HOST_FINALIZER, Machine};
use skep_machine::{Found, MachineSpec, Phase};

/// What is, as far as it matters for the next step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// What the driver found.
    pub(crate) found: Option<Found>,
    /// Whether this daemon has gone through the machine's preparation, for this very spec.
    pub(crate) prepared: Option<MachineSpec>,
    /// When the credential in the machine must be renewed; `None` if there is none.
    pub(crate) renew_at: Option<Timestamp>,
    /// Whether the machine runs with an older credential than the one that lies there.
    pub(crate) stale: bool,
    /// Whether this daemon has connected it to its tenant's network.
    pub(crate) attached: bool,
    /// Whether the way to the API server is open.
    pub(crate) connected: bool,
}

/// The next thing to do. After it, everything is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Do the steps that come before the start.
    Prepare,
    /// Get a credential and lay it into the machine.
    Credential,
    /// Connect it to its tenant's network.
    Attach,
    /// Open the way to the API server.
    Connect,
    /// Start it.
    Start,
    /// Have its agent read its credential anew.
    Reload,
    /// Take it down with everything in it.
    Remove,
    /// Tell the API server that nothing of it is left.
    Release,
    /// All is well until then, unless something happens.
    Wait(Option<Timestamp>),
    /// There is nothing to do about it any more.
    Done,
}

/// What is to be done next. `machine` is the object, and `spec` what it means for the driver.
pub(crate) fn next(machine: &Machine, spec: &MachineSpec, observed: &Observed, now: Timestamp) -> Action {
    let found = observed.found.as_ref();
    if machine.metadata.deletion_timestamp.is_some() {
        let ours = machine.metadata.finalizers.iter().flatten().any(|f| f == HOST_FINALIZER);
        return match (found, ours) {
            (Some(_), _) => Action::Remove,
            (None, true) => Action::Release,
            (None, false) => Action::Done,
        };
    }
    let due = observed.renew_at.is_none_or(|at| at <= now);
    let running = found.is_some_and(|f| matches!(f.phase, Phase::Running { .. }));
    if found.is_some_and(|f| f.phase == Phase::Removing) {
        return Action::Remove;
    }
    if !running && observed.prepared.as_ref() != Some(spec) {
        Action::Prepare
    } else if !observed.attached {
        // Before it starts: its agent looks once for the way out.
        Action::Attach
    } else if due {
        Action::Credential
    } else if !observed.connected {
        Action::Connect
    } else if !running {
        Action::Start
    } else if observed.stale {
        Action::Reload
    } else {
        Action::Wait(observed.renew_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skep_machine::{MachineId, Program};

    fn spec() -> MachineSpec {
        MachineSpec {
            id: MachineId::new("u1").unwrap(),
            hostname: "n1".to_owned(),
            cpu_millis: 500,
            memory_bytes: 1 << 30,
            disk_bytes: None,
            pids_max: 100,
            program: Program::default(),
            mounts: Vec::new(),
        }
    }

    fn machine(deleted: bool, finalizers: &[&str]) -> Machine {
        let mut json = json!({"metadata": {"name": "m", "finalizers": finalizers}});
        if deleted {
            json["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(json).unwrap()
    }

    fn found(phase: Phase) -> Option<Found> {
        Some(Found { id: spec().id, spec: Some(spec()), phase })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// What the actions do when they go well.
    fn apply(observed: &mut Observed, action: Action, now: Timestamp) {
        match action {
            Action::Prepare => {
                observed.prepared = Some(spec());
                if observed.found.is_none() {
                    observed.found = found(Phase::Stopped);
                }
            }
            Action::Credential => {
                let runs = matches!(observed.found, Some(Found { phase: Phase::Running { .. }, .. }));
                observed.stale = runs;
                observed.renew_at = Some(now + jiff::SignedDuration::from_secs(60));
            }
            Action::Attach => observed.attached = true,
            Action::Connect => observed.connected = true,
            Action::Start => {
                observed.found = found(Phase::Running { pid: 7 });
                observed.stale = false;
            }
            Action::Reload => observed.stale = false,
            Action::Remove => observed.found = None,
            Action::Release | Action::Wait(_) | Action::Done => {}
        }
    }

    fn run(machine: &Machine, observed: &mut Observed, now: Timestamp) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..10 {
            let action = next(machine, &spec(), observed, now);
            done.push(action);
            if matches!(action, Action::Wait(_) | Action::Done | Action::Release) {
                return done;
            }
            apply(observed, action, now);
        }
        panic!("{done:?} does not come to an end");
    }

    #[test]
    fn a_new_machine_is_made_step_by_step_and_then_left_alone() {
        let mut observed = Observed::default();
        let done = run(&machine(false, &[HOST_FINALIZER]), &mut observed, at(0));
        use Action::{Attach, Connect, Credential, Prepare, Start, Wait};
        assert_eq!(done, [Prepare, Attach, Credential, Connect, Start, Wait(Some(at(60)))]);
    }

    #[test]
    fn a_daemon_that_comes_back_touches_nothing_that_runs() {
        let renew_at = Some(at(60));
        let mut observed =
            Observed { found: found(Phase::Running { pid: 7 }), renew_at, ..Observed::default() };
        let done = run(&machine(false, &[]), &mut observed, at(0));
        assert_eq!(done, [Action::Attach, Action::Connect, Action::Wait(renew_at)]);
        // Later the credential grows old: the agent gets a new one, and nothing else happens.
        let done = run(&machine(false, &[]), &mut observed, at(60));
        assert_eq!(done, [Action::Credential, Action::Reload, Action::Wait(Some(at(120)))]);
    }

    #[test]
    fn what_stopped_is_started_and_what_was_half_removed_is_made_anew() {
        let ready = Observed {
            renew_at: Some(at(60)),
            attached: true,
            connected: true,
            found: found(Phase::Stopped),
            ..Observed::default()
        };
        let done = run(&machine(false, &[]), &mut ready.clone(), at(0));
        assert_eq!(done, [Action::Prepare, Action::Start, Action::Wait(Some(at(60)))]);
        let mut half = Observed { found: found(Phase::Removing), ..ready };
        let done = run(&machine(false, &[]), &mut half, at(0));
        assert_eq!(done[..3], [Action::Remove, Action::Prepare, Action::Start]);
    }

    #[test]
    fn a_deleted_machine_goes_before_the_api_hears_of_it() {
        let mut observed = Observed { found: found(Phase::Running { pid: 7 }), ..Observed::default() };
        let done = run(&machine(true, &["other", HOST_FINALIZER]), &mut observed, at(0));
        assert_eq!(done, [Action::Remove, Action::Release]);
        assert_eq!(run(&machine(true, &["other"]), &mut observed, at(0)), [Action::Done]);
    }
}
