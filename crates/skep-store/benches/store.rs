//! The store's figures, on a real disk: `cargo bench -p skep-store [-- NAME…]`.
//!
//! `SKEP_BENCH_DIR` says where the log goes (the temporary directory if not set). Memory is measured in
//! processes of their own: the bench starts itself again.
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_base::{GroupResource, Key, Revision, Scope, TenantName};
use skep_store::engine::log::Log;
use skep_store::engine::memory::Memory;
use skep_store::{AttrsBuilder, Expect, ListOptions, NewValue, Op, Store, StoreOptions, Txn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Bench = fn(&tokio::runtime::Runtime);

const BENCHES: [(&str, Bench); 10] = [
    ("commit-1", |rt| commits(rt, 1, 500)),
    ("commit-64", |rt| commits(rt, 64, 500)),
    ("commit-64-pods", |rt| commits(rt, 64, 1_700)),
    ("list-10000", list),
    ("watch-1000", watch),
    ("restart-1000000", restart),
    ("memory-small", memory_small),
    ("memory-tenants", memory_tenants),
    ("memory-pods", memory_pods),
    ("memory-pods-restarted", memory_pods_restarted),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let alone = std::env::var_os("SKEP_BENCH_ALONE").is_some();
    for (name, bench) in BENCHES {
        if !wanted.is_empty()
            && !wanted.iter().any(|w| name == *w || (!alone && name.starts_with(w.as_str())))
        {
            continue;
        }
        if alone {
            let rt =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            bench(&rt);
        } else {
            let this = std::env::current_exe().unwrap();
            let status =
                std::process::Command::new(this).arg(name).env("SKEP_BENCH_ALONE", "1").status().unwrap();
            assert!(status.success(), "{name} failed");
        }
    }
}

fn directory() -> tempfile::TempDir {
    match std::env::var_os("SKEP_BENCH_DIR") {
        Some(at) => tempfile::tempdir_in(PathBuf::from(at)).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn value(bytes: usize, node: Option<&str>) -> NewValue {
    let mut attrs = AttrsBuilder::default();
    attrs.label("app", "web").unwrap();
    if let Some(node) = node {
        attrs.label("pod-template-hash", "5d8f7c9b6d").unwrap();
        for (field, value, indexed) in [
            ("spec.nodeName", node, true),
            ("spec.restartPolicy", "Always", false),
            ("spec.schedulerName", "default-scheduler", false),
            ("spec.serviceAccountName", "default", false),
            ("status.phase", "Running", false),
        ] {
            attrs.field(field, value, indexed).unwrap();
        }
    }
    let mut body = br#"{"metadata":{"resourceVersion":""},"text":""#.to_vec();
    body.resize(bytes - 2, b'x');
    body.extend_from_slice(br#""}"#);
    NewValue { body, revision_at: 32, meta_start: 12, meta_end: 34, attrs: attrs.build().unwrap() }
}

fn key(resource: &GroupResource, tenant: &TenantName, name: &str) -> Key {
    Key::new(resource.clone(), tenant.clone(), "default", name)
}

fn put(key: Key, value: NewValue) -> Op {
    Op::Put { key, value, expect: Expect::Any, ttl_s: None }
}

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn commits(rt: &tokio::runtime::Runtime, committers: usize, bytes: usize) {
    let directory = directory();
    let store = Store::open(Box::new(Log::open(directory.path()).unwrap()), StoreOptions::default()).unwrap();
    let time = Duration::from_secs(5);
    let done = Arc::new(AtomicU64::new(0));
    let before = cpu();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..committers)
        .map(|c| {
            let (store, done) = (store.clone(), done.clone());
            rt.spawn(async move {
                let (resource, tenant, new) = (pods(), tenant(&format!("t{c}")), value(bytes, None));
                let mut latencies_us = Vec::new();
                let mut n = 0;
                while begun.elapsed() < time {
                    let at = Instant::now();
                    let op = Op::Put {
                        key: key(&resource, &tenant, &format!("p{n}")),
                        value: new.clone(),
                        expect: Expect::Absent,
                        ttl_s: None,
                    };
                    store.commit(Txn::one(op)).await.unwrap();
                    latencies_us.push(at.elapsed().as_micros() as u32);
                    n += 1;
                }
                done.fetch_add(n, Ordering::Relaxed);
                latencies_us
            })
        })
        .collect();
    let mut latencies_us: Vec<u32> = tasks.into_iter().flat_map(|t| rt.block_on(t).unwrap()).collect();
    let took = begun.elapsed();
    latencies_us.sort_unstable();
    let at = |q: f64| latencies_us[((latencies_us.len() - 1) as f64 * q) as usize];
    let count = done.load(Ordering::Relaxed);
    println!(
        "{committers} committers, {bytes} bytes, durable: {:.0} commits/s, p50 {} us, p99 {} us, p99.9 {} us, {:.1} us cpu each",
        count as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
        (cpu() - before).as_secs_f64() * 1e6 / count as f64,
    );
}

fn fill(rt: &tokio::runtime::Runtime, store: &Store, objects: impl Iterator<Item = Op>) {
    let mut objects = objects.peekable();
    while objects.peek().is_some() {
        let txn: Txn = objects.by_ref().take(50).collect();
        rt.block_on(store.commit(txn)).unwrap();
    }
}

fn memory_store() -> Store {
    Store::open(Box::new(Memory), StoreOptions::default()).unwrap()
}

fn list(rt: &tokio::runtime::Runtime) {
    let store = memory_store();
    let t = tenant("t");
    fill(rt, &store, (0..10_000).map(|n| put(key(&pods(), &t, &format!("p{n}")), value(1_700, Some("n1")))));
    let scope = Scope::Tenant(pods(), t);
    let timed = |what: &str, options: ListOptions<'_>| {
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let begun = Instant::now();
            let listing = store.list(&scope, &options).unwrap();
            best = best.min(begun.elapsed());
            assert!(!listing.items.is_empty());
        }
        println!("{what}: {best:?}");
    };
    timed("list 10,000 objects", ListOptions::default());
    timed(
        "list a page of 500 of 10,000, with the number of the rest",
        ListOptions { limit: Some(500), ..Default::default() },
    );
    timed(
        "list 10,000 by an indexed field",
        ListOptions { index: Some(("spec.nodeName", "n1")), ..Default::default() },
    );
    let at = Some(store.revision());
    let t = tenant("t");
    fill(
        rt,
        &store,
        (0..5_000).map(|n| put(key(&pods(), &t, &format!("p{}", n * 2)), value(1_700, Some("n2")))),
    );
    timed("list 10,000 as before 5,000 changes", ListOptions { at, ..Default::default() });
}

fn watch(rt: &tokio::runtime::Runtime) {
    let store = memory_store();
    let seen = Arc::new(AtomicU64::new(0));
    let watchers: Vec<_> = (0..1_000)
        .map(|_| {
            let (mut watcher, seen) =
                (store.watch(Scope::AllTenants(pods()), None, Revision::ZERO).unwrap(), seen.clone());
            rt.spawn(async move {
                while let Ok(changes) = watcher.next().await {
                    seen.fetch_add(changes.len() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // Other tenants' and nodes' watchers, which must cost nothing.
    let idle: Vec<_> = (0..10_000)
        .map(|n| {
            store.watch(Scope::Tenant(pods(), tenant(&format!("idle{n}"))), None, Revision::ZERO).unwrap()
        })
        .collect();
    let before = cpu();
    let begun = Instant::now();
    let mut written = 0u64;
    let (t, resource) = (tenant("t"), pods());
    while begun.elapsed() < Duration::from_secs(3) {
        let op = put(key(&resource, &t, &format!("p{}", written % 1_000)), value(1_700, None));
        rt.block_on(store.commit(Txn::one(op))).unwrap();
        written += 1;
    }
    let took = begun.elapsed();
    let all = written * 1_000;
    while seen.load(Ordering::Relaxed) < all && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!(
        "1,000 watchers and 10,000 idle ones: {:.0} writes/s, {:.0} deliveries/s, {} of {all} delivered {:?} after the last write, {:.2} us cpu each",
        written as f64 / took.as_secs_f64(),
        all as f64 / begun.elapsed().as_secs_f64(),
        seen.load(Ordering::Relaxed),
        begun.elapsed() - took,
        (cpu() - before).as_secs_f64() * 1e6 / all as f64,
    );
    store.close();
    for watcher in watchers {
        rt.block_on(watcher).unwrap();
    }
    drop(idle);
}

fn restart(rt: &tokio::runtime::Runtime) {
    const OBJECTS: usize = 1_000_000;
    let directory = directory();
    let open = || {
        let (begun, before) = (Instant::now(), cpu());
        let log = Log::open(directory.path()).unwrap();
        let store = Store::open(Box::new(log), StoreOptions::default()).unwrap();
        (store, begun.elapsed(), cpu() - before)
    };
    let (store, ..) = open();
    let tenants: Vec<TenantName> = (0..1_000).map(|n| tenant(&format!("tenant-{n}"))).collect();
    fill(
        rt,
        &store,
        (0..OBJECTS).map(|n| {
            put(key(&pods(), &tenants[n % 1_000], &format!("object-{n}")), value(500, Some("node-1")))
        }),
    );
    // Without its clean end, and with whatever snapshots it has made.
    store.close();
    drop(store);
    let disk: u64 =
        std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    let (store, took, busy) = open();
    assert_eq!(store.stats().objects, OBJECTS);
    println!(
        "restart with {OBJECTS} objects of 500 bytes: {took:?}, of it {busy:?} on the cpu ({} MiB on disk, {} MiB resident)",
        disk >> 20,
        resident_bytes() >> 20
    );
}

fn memory_small(rt: &tokio::runtime::Runtime) {
    const OBJECTS: usize = 300_000;
    let ring = skep_store::RingLimits { events: 1, ..Default::default() };
    let store = Store::open(Box::new(Memory), StoreOptions { ring, ..Default::default() }).unwrap();
    let t = tenant("t");
    let before = resident_bytes();
    fill(
        rt,
        &store,
        (0..OBJECTS).map(|n| put(key(&pods(), &t, &format!("p{}", n * 7_919 % OBJECTS)), value(300, None))),
    );
    let each = (resident_bytes() - before) / OBJECTS;
    println!("a small object of 300 bytes of JSON: {each} bytes resident");
}

fn memory_tenants(rt: &tokio::runtime::Runtime) {
    const TENANTS: usize = 10_000;
    let store = memory_store();
    let resources: Vec<GroupResource> =
        ["namespaces", "serviceaccounts", "configmaps", "services", "endpoints"]
            .map(|r| GroupResource::new("", r))
            .into_iter()
            .collect();
    let before = resident_bytes();
    let begun = Instant::now();
    for n in 0..TENANTS {
        let t = tenant(&format!("tenant-{n:05}"));
        let txn: Txn = (0..17)
            .map(|o| {
                put(
                    key(&resources[o % 5], &t, ["kubernetes", "default", "kube-root-ca"][o % 3]),
                    value(350, None),
                )
            })
            .enumerate()
            .map(|(o, op)| match op {
                Op::Put { mut key, value, expect, ttl_s } => {
                    key.namespace =
                        ["default", "kube-system", "kube-public", "kube-node-lease"][o % 4].into();
                    key.name = format!("{}-{o}", key.name).into();
                    Op::Put { key, value, expect, ttl_s }
                }
                other => other,
            })
            .collect();
        rt.block_on(store.commit(txn)).unwrap();
    }
    let took = begun.elapsed();
    let grown = resident_bytes() - before;
    println!(
        "10,000 tenants of 17 objects of 350 bytes: {} bytes resident each, {} MiB with the ring, {:.0} tenants/s",
        (grown.saturating_sub(store.stats().ring_superseded_bytes)) / TENANTS,
        grown >> 20,
        TENANTS as f64 / took.as_secs_f64()
    );
}

fn say(what: &str, store: &Store) {
    let stats = store.stats();
    println!(
        "{what}: {} MiB resident, {} MiB of it values, {} MiB the ring",
        resident_bytes() >> 20,
        stats.object_bytes >> 20,
        stats.ring_superseded_bytes >> 20,
    );
}

/// A quiet second, in which the allocator gives back what it keeps for a burst.
fn settle(rt: &tokio::runtime::Runtime, store: &Store) {
    let leases = GroupResource::new("coordination.k8s.io", "leases");
    for n in 0..50 {
        let store = store.clone();
        let op = put(key(&leases, &tenant("t"), &format!("lease-{}", n % 5)), value(300, None));
        rt.block_on(rt.spawn(async move { store.commit(Txn::one(op)).await.map(drop) })).unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// 30,000 pods of 100 tenants on 1,000 nodes, created, bound and run.
fn cluster(rt: &tokio::runtime::Runtime, store: &Store) {
    let nodes = GroupResource::new("", "nodes");
    let tenants: Vec<TenantName> = (0..100).map(|n| tenant(&format!("tenant-{n}"))).collect();
    let node = |n: usize| put(key(&nodes, &tenants[n % 100], &format!("node-{n}")), value(1_700, None));
    fill(rt, store, (0..1_000).map(node));
    for node in ["", "node", "node"] {
        let pod = |n: usize| {
            let node = if node.is_empty() { String::new() } else { format!("node-{}", n % 1_000) };
            put(key(&pods(), &tenants[n % 100], &format!("web-5d8f7c9b6d-{n:05}")), value(1_700, Some(&node)))
        };
        fill(rt, store, (0..30_000).map(pod));
    }
}

fn memory_pods(rt: &tokio::runtime::Runtime) {
    println!("before anything: {} MiB resident", resident_bytes() >> 20);
    let directory = directory();
    let store = Store::open(Box::new(Log::open(directory.path()).unwrap()), StoreOptions::default()).unwrap();
    cluster(rt, &store);
    say("30,000 pods and 1,000 nodes of 1,700 bytes, just written", &store);
    settle(rt, &store);
    say("a second later", &store);
}

fn memory_pods_restarted(rt: &tokio::runtime::Runtime) {
    const AGAIN: &str = "SKEP_BENCH_REOPEN";
    if let Some(directory) = std::env::var_os(AGAIN) {
        let log = Log::open(&PathBuf::from(directory)).unwrap();
        let store = Store::open(Box::new(log), StoreOptions::default()).unwrap();
        settle(rt, &store);
        say("30,000 pods and 1,000 nodes after a restart", &store);
        return;
    }
    let directory = directory();
    let store = Store::open(Box::new(Log::open(directory.path()).unwrap()), StoreOptions::default()).unwrap();
    cluster(rt, &store);
    store.close();
    drop(store);
    let this = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(this);
    child.arg("memory-pods-restarted").env("SKEP_BENCH_ALONE", "1").env(AGAIN, directory.path());
    assert!(child.status().unwrap().success());
}
