//! An informer against a server that loses connections, forgets history and cuts bytes anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::*;
use crate::transport::{Body, Request, Response, Transport};

#[derive(Clone, Debug, PartialEq)]
struct Stored {
    uid: u64,
    revision: u64,
    value: u64,
}

#[derive(Default)]
struct State {
    revision: u64,
    uid: u64,
    objects: BTreeMap<(String, String), Stored>,
    /// Revision and line of each change.
    log: Vec<(u64, String)>,
    /// Changes up to here are forgotten.
    forgotten: u64,
}

fn text(tenant: &str, name: &str, o: &Stored) -> String {
    json!({"metadata": {
        "name": name, "namespace": "ns", "uid": format!("u{}", o.uid), "resourceVersion": o.revision.to_string(),
        "annotations": {"tenancy.skep.io/tenant": tenant},
    }, "value": o.value})
    .to_string()
}

fn line(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

impl State {
    fn put(&mut self, tenant: &str, name: &str, value: u64) {
        self.revision += 1;
        let key = (tenant.to_owned(), name.to_owned());
        let known = self.objects.get(&key).map(|o| o.uid);
        self.uid += u64::from(known.is_none());
        let stored = Stored { uid: known.unwrap_or(self.uid), revision: self.revision, value };
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        self.log.push((self.revision, line(kind, &text(tenant, name, &stored))));
        self.objects.insert(key, stored);
    }

    fn delete(&mut self, tenant: &str, name: &str) -> Option<Stored> {
        let mut last = self.objects.remove(&(tenant.to_owned(), name.to_owned()))?;
        self.revision += 1;
        last.revision = self.revision;
        self.log.push((self.revision, line("DELETED", &text(tenant, name, &last))));
        Some(last)
    }
}

struct Server {
    state: Mutex<State>,
    changed: signal::Sender<u64>,
    rng: Mutex<StdRng>,
    /// Whether watches break and history is forgotten.
    faulty: AtomicBool,
    /// Whether lists come as streams.
    streams: bool,
}

impl Server {
    fn chance(&self, percent: u32) -> bool {
        self.faulty.load(Ordering::Relaxed) && self.rng.lock().random_range(0..100) < percent
    }

    fn answer(self: &Arc<Server>, path: &str) -> Result<(u16, Body), Error> {
        let broken = || Error::Unreachable { server: "fake".into(), why: "broken".into() };
        if self.chance(10) {
            return Err(broken());
        }
        let query: BTreeMap<&str, &str> = path
            .split_once('?')
            .map_or("", |(_, q)| q)
            .split('&')
            .filter_map(|p| p.split_once('='))
            .collect();
        let state = self.state.lock();
        let whole = |text: String| -> Body { Box::pin(stream::iter([Ok(Bytes::from(text))])) };
        if !query.contains_key("watch") {
            let all: Vec<_> = state.objects.iter().map(|((t, n), o)| text(t, n, o)).collect();
            let limit: usize = 3;
            let from: usize = query.get("continue").map_or(0, |c| c.parse().unwrap());
            let to = (from + limit).min(all.len());
            // Pages are of one moment in the real server; here nothing happens between them in the same turn.
            let next = if to < all.len() { to.to_string() } else { String::new() };
            let body = format!(
                "{{\"metadata\":{{\"resourceVersion\":\"{}\",\"continue\":\"{next}\"}},\"items\":[{}]}}",
                state.revision,
                all[from..to].join(",")
            );
            return Ok((200, whole(body)));
        }
        let mut first = String::new();
        let position = if query.contains_key("sendInitialEvents") {
            if !self.streams {
                return Ok((422, whole("{}".into())));
            }
            for ((tenant, name), object) in &state.objects {
                first.push_str(&line("ADDED", &text(tenant, name, object)));
            }
            let end = json!({"metadata": {"resourceVersion": state.revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}});
            first.push_str(&line("BOOKMARK", &end.to_string()));
            state.revision
        } else {
            query["resourceVersion"].parse().unwrap()
        };
        if position < state.forgotten {
            let gone = r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#;
            return Ok(if self.rng.lock().random() {
                (410, whole(gone.into()))
            } else {
                (200, whole(line("ERROR", gone)))
            });
        }
        drop(state);
        let server = self.clone();
        let begin = (first.into_bytes(), position, self.changed.subscribe());
        let body = stream::unfold(Some(begin), move |state| {
            let server = server.clone();
            async move {
                let (mut waiting, mut position, mut changed) = state?;
                while waiting.is_empty() {
                    {
                        let state = server.state.lock();
                        let since = position;
                        for (revision, line) in state.log.iter().filter(|(r, _)| *r > since) {
                            waiting.extend_from_slice(line.as_bytes());
                            position = *revision;
                        }
                    }
                    if waiting.is_empty() && changed.changed().await.is_err() {
                        return None;
                    }
                }
                if server.chance(8) {
                    return server
                        .rng
                        .lock()
                        .random::<bool>()
                        .then(|| (Err(Error::Answer("cut".into())), None));
                }
                let cut = server.rng.lock().random_range(1..=waiting.len());
                let rest = waiting.split_off(cut);
                Some((Ok(Bytes::from(waiting)), Some((rest, position, changed))))
            }
        });
        Ok((200, Box::pin(body)))
    }
}

struct Fake(Arc<Server>);

impl Transport for Fake {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Error>> {
        let answer = self.0.answer(&request.path);
        Box::pin(async move {
            let (status, body) = answer?;
            Ok(Response { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body })
        })
    }
    fn server(&self) -> &str {
        "fake"
    }
}

#[derive(Debug, serde::Deserialize)]
struct Small {
    value: u64,
}

type Seen = BTreeMap<ObjectKey, (String, u64)>;

async fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let server = Arc::new(Server {
        state: Mutex::default(),
        changed: signal::Sender::new(0),
        rng: Mutex::new(StdRng::seed_from_u64(seed + 1)),
        faulty: AtomicBool::new(true),
        streams: rng.random(),
    });
    let client = Client::over(Arc::new(Fake(server.clone())), TenantName::system());
    let informer =
        Informer::<Small>::builder(&client, Selection::all(Resource::new("", "v1", "things"), Tenants::All))
            .index("odd", |o, emit| {
                if o.value % 2 == 1 {
                    emit("yes")
                }
            })
            .build();
    // What the handlers were told, put together again.
    let told: Arc<Mutex<Seen>> = Arc::default();
    let collect = told.clone();
    informer.on_event(move |event| {
        let mut told = collect.lock();
        let now = |o: &Object<Small>| (o.uid.to_string(), o.value);
        match event {
            Event::Added(new) => {
                assert_eq!(told.insert(new.key.clone(), now(new)), None, "added twice: {}", new.key);
            }
            Event::Changed { old, new } => {
                assert_eq!(old.uid, new.uid);
                assert!(old.revision < new.revision, "time goes forward");
                assert_eq!(
                    told.insert(new.key.clone(), now(new)),
                    Some(now(old)),
                    "the old is what was told before"
                );
            }
            Event::Deleted(old) => {
                assert_eq!(told.remove(&old.key), Some(now(old)), "only what was there goes");
            }
        }
    });
    let running = tokio::spawn({
        let informer = informer.clone();
        async move { informer.run().await }
    });
    for _ in 0..rng.random_range(5..60) {
        {
            let mut state = server.state.lock();
            let tenant = ["a", "b"][rng.random_range(0..2)];
            let name = format!("n{}", rng.random_range(0..6));
            match rng.random_range(0..10) {
                0..=4 => state.put(tenant, &name, rng.random_range(0..100)),
                5..=6 => drop(state.delete(tenant, &name)),
                7 => state.forgotten = state.revision,
                // Own writes: their answers are taken up at once, in whatever order with the watch.
                8 => {
                    state.put(tenant, &name, rng.random_range(0..100));
                    let answer = text(tenant, &name, &state.objects[&(tenant.to_owned(), name.clone())]);
                    drop(state);
                    informer.record(&TenantName::new(tenant).unwrap(), answer.as_bytes()).unwrap();
                }
                _ => {
                    let last = state.delete(tenant, &name);
                    drop(state);
                    if let Some(last) = last {
                        let key = ObjectKey::new(&TenantName::new(tenant).unwrap(), "ns", &name);
                        informer.forget(&key, &format!("u{}", last.uid));
                    }
                }
            }
        }
        server.changed.send_modify(|n| *n += 1);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
    }
    // The trouble ends: the copy becomes what is there.
    server.faulty.store(false, Ordering::Relaxed);
    server.changed.send_modify(|n| *n += 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(informer.has_synced());
    let truth: Seen = server
        .state
        .lock()
        .objects
        .iter()
        .map(|((t, n), o)| {
            (ObjectKey::new(&TenantName::new(t).unwrap(), "ns", n), (format!("u{}", o.uid), o.value))
        })
        .collect();
    let mut held = Seen::new();
    informer.for_each(|o| drop(held.insert(o.key.clone(), (o.uid.to_string(), o.value))));
    assert_eq!(held, truth, "the copy");
    assert_eq!(*told.lock(), truth, "what handlers were told");
    for tenant in ["a", "b"] {
        let tenant = TenantName::new(tenant).unwrap();
        let odd = truth.iter().filter(|(k, (_, v))| k.tenant == tenant && v % 2 == 1).count();
        assert_eq!(informer.by_index("odd", &tenant, "yes").len(), odd);
    }
    running.abort();
}

/// A failing seed is named in the message and can be run alone.
#[test]
fn the_copy_becomes_the_truth_whatever_happens() {
    for seed in 0..300 {
        let outcome = std::panic::catch_unwind(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap()
                .block_on(run(seed));
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// A view such as a scheduler's or a controller's.
#[derive(Debug, serde::Deserialize)]
#[allow(dead_code, reason = "only its cost is of interest")]
struct PodLike {
    metadata: PodLikeMeta,
    spec: PodLikeSpec,
}

#[derive(Debug, serde::Deserialize)]
#[allow(dead_code, reason = "only its cost is of interest")]
struct PodLikeMeta {
    labels: BTreeMap<skep_base::SharedStr, skep_base::SharedStr>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its cost is of interest")]
struct PodLikeSpec {
    node_name: skep_base::SharedStr,
}

fn pod_text(n: usize) -> String {
    let container = json!({
        "name": "app", "image": "registry.example.com/shop/app:1.2.3", "imagePullPolicy": "IfNotPresent",
        "env": (0..8).map(|v| json!({"name": format!("VARIABLE_{v}"), "value": "some value of usual length"})).collect::<Vec<_>>(),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
    });
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "resourceVersion": "NUMBER", "annotations": {"tenancy.skep.io/tenant": format!("t{n}")},
            "name": "web-7d4b9c6f5-NUMBER", "namespace": format!("ns{}", n % 7), "uid": "0NUMBER-0000-4000-8000-000000000000",
            "labels": {"app": format!("web{}", n % 50), "pod-template-hash": "7d4b9c6f5", "tier": "front"},
        },
        "spec": {"nodeName": format!("node-{n}"), "containers": [container], "serviceAccountName": "default"},
        "status": {"phase": "Running", "podIP": "10.1.2.3", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    })
    .to_string()
}

/// Answers every watch with the same many pods.
struct Flood(usize);

impl Transport for Flood {
    fn send(&self, _: Request) -> BoxFuture<'_, Result<Response, Error>> {
        let pods = self.0;
        // A thousand different ones, and in each a number that is put in as it is sent.
        let templates: Vec<String> = (0..1000).map(|n| line("ADDED", &pod_text(n))).collect();
        let body = (0..=pods).map(move |n| {
            if n < pods {
                return Ok(Bytes::from(templates[n % 1000].replace("NUMBER", &format!("{:07}", n + 1))));
            }
            let end = json!({"metadata": {"resourceVersion": "9999999", "annotations": {"k8s.io/initial-events-end": "true"}}});
            Ok(Bytes::from(line("BOOKMARK", &end.to_string())))
        });
        let body: Body = Box::pin(stream::iter(body).chain(stream::pending()));
        Box::pin(async { Ok(Response { status: StatusCode::OK, headers: HeaderMap::new(), body }) })
    }
    fn server(&self) -> &str {
        "flood"
    }
}

/// `cargo test --release -p skep-client -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement: it says something in a release build only"]
fn speed_and_size_of_an_informer() {
    const PODS: usize = 200_000;
    let resident_kib = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let client = Client::over(Arc::new(Flood(PODS)), TenantName::system());
        let before = resident_kib();
        let selection = Selection::all(Resource::new("", "v1", "pods"), Tenants::All);
        let informer = Informer::<PodLike>::builder(&client, selection)
            .index("node", |o, emit| emit(&o.spec.node_name))
            .build();
        let running = tokio::spawn({
            let informer = informer.clone();
            async move { informer.run().await }
        });
        let begun = std::time::Instant::now();
        informer.synced().await;
        let took = begun.elapsed();
        running.abort();
        let _ = running.await;
        assert_eq!(informer.len(), PODS);
        println!(
            "{:.0} events/s, making them included; {} bytes of memory for a pod",
            PODS as f64 / took.as_secs_f64(),
            (resident_kib().saturating_sub(before)) * 1024 / PODS as u64,
        );
    });
}
