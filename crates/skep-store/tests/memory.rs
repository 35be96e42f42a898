//! What the store costs in memory. One test in a process of its own, so that nothing else is measured.
#![allow(clippy::unwrap_used, reason = "a test")]

use skep_base::{GroupResource, Key, Revision, Scope, TenantName};
use skep_store::engine::memory::Memory;
use skep_store::{AttrsBuilder, Expect, NewValue, Op, RingLimits, Store, StoreOptions};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn put(tenant: &str, name: &str, node: &str, bytes: usize) -> Op {
    let mut attrs = AttrsBuilder::default();
    attrs.label("app", "web").unwrap();
    attrs.field("spec.nodeName", node, true).unwrap();
    let mut body = br#"{"metadata":{"resourceVersion":""},"text":""#.to_vec();
    body.resize(bytes - 2, b'x');
    body.extend_from_slice(br#""}"#);
    let value =
        NewValue { body, revision_at: 32, meta_start: 12, meta_end: 34, attrs: attrs.build().unwrap() };
    let key = Key::new(GroupResource::new("", "pods"), TenantName::new(tenant).unwrap(), "default", name);
    Op::Put { key, value, expect: Expect::Any, ttl_s: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_do_not_read_cost_nothing() {
    let ring = RingLimits { events: 4_000, superseded_bytes: 4 << 20 };
    let store = Store::open(Box::new(Memory), StoreOptions { ring, ..StoreOptions::default() }).unwrap();
    let pods = GroupResource::new("", "pods");
    let write = async |count: usize| {
        for n in 0..count / 10 {
            let ops = (0..10)
                .map(|m| put(&format!("t{m}"), &format!("p{}", n % 100), &format!("n{}", n % 50), 500));
            store.commit(ops.collect()).await.unwrap();
        }
    };
    write(20_000).await;
    // Some never read, some wait in a task and keep up.
    let here = store.revision();
    let silent: Vec<_> = (0..1_000)
        .map(|n| match n % 3 {
            0 => store.watch(Scope::AllTenants(pods.clone()), None, here).unwrap(),
            1 => {
                store.watch(Scope::Tenant(pods.clone(), TenantName::new("t1").unwrap()), None, here).unwrap()
            }
            _ => {
                let scope = Scope::Tenant(pods.clone(), TenantName::new("t2").unwrap());
                store.watch(scope, Some(("spec.nodeName", "n7")), here).unwrap()
            }
        })
        .collect();
    let keeping_up: Vec<_> = (0..100)
        .map(|_| {
            let mut watcher = store.watch(Scope::AllTenants(pods.clone()), None, here).unwrap();
            tokio::spawn(async move {
                let mut last = Revision::ZERO;
                while let Ok(changes) = watcher.next().await {
                    for change in changes {
                        assert!(change.revision > last);
                        last = change.revision;
                    }
                }
                last
            })
        })
        .collect();
    write(20_000).await;
    let before = resident_bytes();
    write(100_000).await;
    let grown = resident_bytes().saturating_sub(before);
    println!("grown by {grown} bytes over 100,000 changes of 500 bytes under 1,100 watchers");
    assert!(grown < 4 << 20, "{grown}");
    assert!(store.stats().ring_superseded_bytes <= 4 << 20);
    drop(silent);
    let end = store.revision();
    store.close();
    for watcher in keeping_up {
        // Debug builds on a busy machine may be too slow for some; whoever was not, has seen everything.
        let last = watcher.await.unwrap();
        assert!(last <= end && last > here);
    }
}
