//! kill -9 of the server under load: no acknowledged write is lost, no revision is given out twice, watches
//! resume.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use skep_e2e::Server;
use tokio::sync::Mutex;

/// Rounds in an ordinary run; SKEP_CRASH_ROUNDS asks for more.
const ROUNDS: u64 = 5;
const WRITERS: usize = 16;

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let rounds = std::env::var("SKEP_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(ROUNDS);
    let seed =
        std::env::var("SKEP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| rand::rng().random());
    println!("SKEP_SEED={seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut server = Server::start();
    let acknowledged: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let mut newest = 0;
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let counter = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (client, stop, counter, acknowledged) =
                    (server.admin(), stop.clone(), counter.clone(), acknowledged.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let n = counter.fetch_add(1, Ordering::Relaxed);
                        let name = format!("r{round}-w{writer}-{n}");
                        let body = json!({"metadata": {"name": name}, "data": {"n": n.to_string()}});
                        // A write that was not answered may or may not have happened: only answers count.
                        if let Ok(object) =
                            client.post::<Value>("/api/v1/namespaces/default/configmaps", &body).await
                        {
                            acknowledged.lock().await.insert(name, revision(&object));
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(rng.random_range(30..400))).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        server.restart();
        let admin = server.admin();
        let list: Value = admin.get("/api/v1/namespaces/default/configmaps").await.unwrap();
        let found: BTreeMap<&str, u64> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| (o["metadata"]["name"].as_str().unwrap(), revision(o)))
            .collect();
        let acknowledged = acknowledged.lock().await;
        for (name, revision) in acknowledged.iter() {
            assert_eq!(found.get(name.as_str()), Some(revision), "round {round}: {name} was acknowledged");
        }
        let mut revisions: Vec<u64> = found.values().copied().collect();
        revisions.sort_unstable();
        assert!(revisions.windows(2).all(|w| w[0] < w[1]), "round {round}: a revision was given out twice");
        // A watch from before the crash sees what was written after that point.
        let from = acknowledged.values().max().copied().unwrap_or(0).max(newest);
        let path = format!(
            "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1&resourceVersion={newest}"
        );
        if newest > 0 {
            let events =
                admin.request(http::Method::GET, &path, "application/json", Vec::new()).await.unwrap();
            let text = String::from_utf8(events.to_vec()).unwrap();
            let seen = text.lines().filter(|l| l.starts_with(r#"{"type":"ADDED""#)).count();
            let expected = found.values().filter(|r| **r > newest).count();
            assert_eq!(seen, expected, "round {round}: the watch from {newest} on");
        }
        newest = from.max(revisions.last().copied().unwrap_or(0));
    }
    println!("{} acknowledged writes over {rounds} crashes, none lost", acknowledged.lock().await.len());
}
