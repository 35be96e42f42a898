//! Limits, and who runs into them.

use std::time::Duration;

use skep_runtime::spec::*;

use crate::harness::Machine;

#[tokio::test]
async fn memory_that_is_used_up_kills_the_container_and_says_so() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("oom").await;
    let mut spec = machine.sh("hog", "exec tail /dev/zero");
    spec.resources.memory_limit_bytes = Some(16 << 20);
    let (exit, output) = machine.run(&pod, spec).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)), "{output}");
    assert!(exit.oom_killed);
    // Killed by somebody is something else.
    pod.create(machine.sh("killed", "exec sleep 1000")).await.unwrap();
    pod.start("killed").await.unwrap();
    pod.kill("killed", 9, false).await.unwrap();
    let exit = pod.wait("killed").await.unwrap();
    assert_eq!((exit.code, exit.oom_killed), (137, false));
    machine.finish().await;
}

#[tokio::test]
async fn a_fork_bomb_stays_inside_and_dies_at_once() {
    let Some(machine) = Machine::new() else { return };
    let mut spec = machine.sandbox_spec("bomb");
    // Without a process namespace of its own: only the control group knows who belongs to it.
    spec.pid = PidNamespace::Pod;
    let pod = machine.runtime.create(spec).await.unwrap();
    let mut spec = machine.sh("bomb", "b() { b | b & }; b; while :; do :; done");
    spec.resources.pids_limit = Some(60);
    pod.create(spec).await.unwrap();
    pod.start("bomb").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stats = pod.stats("bomb").unwrap();
    assert!(stats.pids > 10 && stats.pids <= 60, "{stats:?}");
    pod.kill("bomb", 9, true).await.unwrap();
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(20), pod.wait("bomb")).await.unwrap().unwrap().code,
        137
    );
    machine.finish().await;
}

#[tokio::test]
async fn limits_are_set_and_changed_while_it_runs() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("limits").await;
    let mut spec = machine.sh("c", "ulimit -n; exec sleep 1000");
    spec.process.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 123, hard: 456 }];
    spec.process.oom_score_adj = Some(500);
    spec.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(32 << 20),
        pids_limit: Some(50),
        ..Resources::default()
    };
    pod.create(spec).await.unwrap();
    let pid = pod.start("c").await.unwrap();
    let begun = std::time::Instant::now();
    while !machine.output("c").starts_with("123\n") {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", machine.output("c"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(), "500\n");
    assert_eq!(pod.stats("c").unwrap().memory_limit_bytes, Some(32 << 20));
    let read = |file: &str| {
        let found = machine.runtime.tree().directories(&pod.cgroup("c")).into_iter().map(|d| d.join(file));
        found.filter_map(|f| std::fs::read_to_string(f).ok()).next().map(|t| t.trim().to_owned())
    };
    if !machine.runtime.tree().is_v2() {
        assert_eq!(read("cpu.shares").as_deref(), Some("512"));
        assert_eq!(read("cpu.cfs_quota_us").as_deref(), Some("20000"));
    }
    assert_eq!(read("pids.max").as_deref(), Some("50"));
    // Up and down again, with time in another period.
    for (bytes, quota, period) in [(64 << 20, 50_000, 50_000), (24 << 20, -1, 100_000)] {
        let resources = Resources {
            memory_limit_bytes: Some(bytes),
            cpu_quota_us: Some(quota),
            cpu_period_us: Some(period),
            ..Resources::default()
        };
        pod.update("c", &resources).unwrap();
        assert_eq!(pod.stats("c").unwrap().memory_limit_bytes, Some(bytes as u64));
    }
    let stats = pod.stats("c").unwrap();
    assert!(stats.cpu_usage_ns > 0 && stats.memory_usage_bytes > 0 && stats.pids == 1, "{stats:?}");
    let network = skep_runtime::stats::network_stats(pid).unwrap();
    assert!(network.devices.is_empty(), "only loopback: {network:?}");
    machine.finish().await;
}
