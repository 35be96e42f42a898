//! `skep bench` measures what it says, and leaves nothing.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use skep_client::{ListParams, Resource, Tenants};
use skep_e2e::Server;

/// Runs a benchmark and returns its figures.
fn bench(server: &Server, arguments: &[&str]) -> Vec<(String, f64)> {
    let kubeconfig = server.kubeconfig();
    let output = skep_e2e::command()
        .args(["bench", "--kubeconfig", kubeconfig.to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    let figure = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    text.lines().map(figure).collect()
}

fn named(figures: &[(String, f64)], name: &str) -> f64 {
    figures.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name} in {figures:?}")).1
}

#[tokio::test(flavor = "multi_thread")]
async fn benchmarks_measure_and_clean_up() {
    let server = Server::control_plane();
    let figures = bench(&server, &["writes", "40", "--concurrency", "8"]);
    for phase in ["create", "update", "delete"] {
        assert!(named(&figures, &format!("{phase}_per_s")) > 0.0);
        let (middle, worst) =
            (named(&figures, &format!("{phase}_p50_ms")), named(&figures, &format!("{phase}_max_ms")));
        assert!(0.0 < middle && middle <= worst, "{figures:?}");
    }
    // A watcher that missed, repeated or reordered something would make it fail.
    let figures = bench(&server, &["watch", "60", "--writes", "100"]);
    assert!(named(&figures, "events_per_s") > 0.0);
    let figures = bench(&server, &["list", "/api/v1/namespaces", "--times", "3"]);
    assert!(named(&figures, "list_bytes") > 500.0);
    let figures = bench(&server, &["tenants", "5"]);
    assert!(named(&figures, "create_per_s") > 0.0);
    let pods = ["pods", "--group", "a=2x6@6", "--group", "b=1x2@1", "--nodes", "2", "--fill", "3"];
    let figures = bench(&server, &[pods.as_slice(), &["--until", "running"]].concat());
    assert!(named(&figures, "a_running_per_s") > 0.0 && named(&figures, "b_until_running_p99_ms") > 0.0);

    let client = server.admin();
    let tenants = Resource::new("tenancy.skep.io", "v1", "tenants").at(Tenants::Own);
    let maps = Resource::new("", "v1", "configmaps").at(Tenants::Own).namespace("default");
    for (at, ours) in [(tenants, "bench-"), (maps, "skep-bench-")] {
        let left = client.list_all::<Value>(&at, ListParams::default()).await.unwrap().items;
        let left: Vec<_> =
            left.iter().filter(|o| o["metadata"]["name"].as_str().unwrap().starts_with(ours)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    // Nodes are wanted and none come: it says so, and how long it waited.
    let output = skep_e2e::command()
        .args(["bench", "pods", "--group", "c=1x1@1", "--nodes", "0", "--within-s", "1"])
        .env("KUBECONFIG", server.kubeconfig())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("1 of 1 pods of c are not Bound"), "{error}");
}
