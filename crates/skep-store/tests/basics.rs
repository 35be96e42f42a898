//! The store's everyday behaviour, on both engines.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use skep_base::{GroupResource, Key, Revision, Scope, TenantName};
use skep_store::engine::{Engine, log::Log, memory::Memory};
use skep_store::{AttrsBuilder, CommitError, Expect, ListOptions, NewValue, Op, Store, StoreOptions, Txn};

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

fn key(t: &str, name: &str) -> Key {
    Key::new(pods(), tenant(t), "default", name)
}

fn value(node: &str, text: &str) -> NewValue {
    let mut attrs = AttrsBuilder::default();
    attrs.label("text", text).unwrap();
    attrs.field("spec.nodeName", node, !node.is_empty()).unwrap();
    let body = format!(r#"{{"metadata":{{"resourceVersion":""}},"text":"{text}"}}"#).into_bytes();
    NewValue { revision_at: 32, meta_start: 12, meta_end: 34, body, attrs: attrs.build().unwrap() }
}

fn put(t: &str, name: &str, node: &str, expect: Expect) -> Op {
    Op::Put { key: key(t, name), value: value(node, name), expect, ttl_s: None }
}

fn delete(t: &str, name: &str) -> Op {
    Op::Delete { key: key(t, name), expect: Expect::Exists }
}

async fn commit(store: &Store, op: Op) -> Revision {
    store.commit(Txn::one(op)).await.unwrap()[0].revision
}

fn engines() -> Vec<(&'static str, Box<dyn Engine>, Option<tempfile::TempDir>)> {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::open(directory.path()).unwrap();
    vec![("memory", Box::new(Memory), None), ("log", Box::new(log), Some(directory))]
}

fn names(store: &Store, scope: &Scope, options: &ListOptions<'_>) -> Vec<String> {
    store.list(scope, options).unwrap().items.iter().map(|(k, _)| k.name.to_string()).collect()
}

#[tokio::test]
async fn writes_conditions_and_old_pages() {
    for (_, engine, _directory) in engines() {
        let store = Store::open(engine, StoreOptions::default()).unwrap();
        for n in ["a", "b", "c"] {
            commit(&store, put("t", n, "", Expect::Absent)).await;
        }
        commit(&store, put("other", "x", "", Expect::Absent)).await;
        let scope = Scope::Tenant(pods(), tenant("t"));
        let first = store.list(&scope, &ListOptions { limit: Some(2), ..Default::default() }).unwrap();
        assert!(first.more);
        assert_eq!(first.remaining, Some(1));
        // Changes between two pages are not seen by the second.
        commit(&store, delete("t", "c")).await;
        commit(&store, put("t", "d", "", Expect::Absent)).await;
        let after = first.items.last().map(|(k, _)| k.clone());
        let options = ListOptions { after, at: Some(first.revision), limit: Some(2), ..Default::default() };
        assert_eq!(names(&store, &scope, &options), ["c"]);
        assert_eq!(names(&store, &scope, &ListOptions::default()), ["a", "b", "d"]);
        let taken = store.commit(Txn::one(put("t", "a", "", Expect::Absent))).await.unwrap_err();
        assert!(matches!(taken, CommitError::Conflict { index: 0, current: Some(_), .. }));
        let a = store.get(&key("t", "a")).unwrap();
        assert_eq!(
            a.json(),
            format!(r#"{{"metadata":{{"resourceVersion":"{}"}},"text":"a"}}"#, a.revision()).as_bytes()
        );
        // All or nothing.
        let both = [put("t", "e", "", Expect::Absent), put("t", "a", "", Expect::Absent)];
        assert!(store.commit(both.into_iter().collect()).await.is_err());
        assert!(store.get(&key("t", "e")).is_none());
        store.close();
    }
}

#[tokio::test]
async fn watches_see_their_scope_and_only_that() {
    let store = Store::open(Box::new(Memory), StoreOptions::default()).unwrap();
    let begin = store.revision();
    let mut all = store.watch(Scope::AllTenants(pods()), None, begin).unwrap();
    let mut one = store.watch(Scope::Tenant(pods(), tenant("t")), None, begin).unwrap();
    let mut node =
        store.watch(Scope::Tenant(pods(), tenant("t")), Some(("spec.nodeName", "n1")), begin).unwrap();
    commit(&store, put("t", "a", "", Expect::Any)).await;
    commit(&store, put("u", "b", "n1", Expect::Any)).await;
    commit(&store, put("t", "a", "n1", Expect::Any)).await;
    commit(&store, put("t", "a", "n2", Expect::Any)).await;
    commit(&store, delete("t", "a")).await;
    let kinds = |changes: Vec<Arc<skep_store::Change>>| -> Vec<(String, bool, bool)> {
        changes.iter().map(|c| (c.key.name.to_string(), c.prev.is_some(), c.value.is_some())).collect()
    };
    assert_eq!(all.next().await.unwrap().len(), 5);
    let a = |prev, value| ("a".to_owned(), prev, value);
    assert_eq!(
        kinds(one.next().await.unwrap()),
        [a(false, true), a(true, true), a(true, true), a(true, false)]
    );
    assert_eq!(kinds(node.next().await.unwrap()), [a(true, true), a(true, true)]);
    // A late watcher catches up from the resource's list.
    let mut late = store.watch(Scope::Tenant(pods(), tenant("u")), None, begin).unwrap();
    assert_eq!(kinds(late.next().await.unwrap()), [("b".to_owned(), false, true)]);
    let waiting = tokio::spawn(async move { late.next().await });
    tokio::task::yield_now().await;
    commit(&store, delete("u", "b")).await;
    assert_eq!(kinds(waiting.await.unwrap().unwrap()), [("b".to_owned(), true, false)]);
    assert_eq!(one.position(), store.revision().min(one.position()));
    drop((all, one, node));
    assert_eq!(store.stats().watched_streams, 0);
    store.close();
}

#[tokio::test]
async fn a_watcher_that_falls_out_is_told() {
    let limits = skep_store::RingLimits { events: 4, superseded_bytes: 1 << 20 };
    let store = Store::open(Box::new(Memory), StoreOptions { ring: limits, ..Default::default() }).unwrap();
    let mut slow = store.watch(Scope::Tenant(pods(), tenant("t")), None, Revision::ZERO).unwrap();
    let mut quiet = store.watch(Scope::Tenant(pods(), tenant("quiet")), None, Revision::ZERO).unwrap();
    for i in 0..10 {
        commit(&store, put("t", &format!("p{i}"), "", Expect::Any)).await;
    }
    assert!(slow.next().await.is_err());
    // A watcher that nothing happened for has missed nothing.
    assert!(quiet.try_next().unwrap().is_empty());
    assert!(store.watch(Scope::Tenant(pods(), tenant("t")), None, Revision(2)).is_err());
    let options = ListOptions { at: Some(Revision(2)), ..Default::default() };
    assert!(store.list(&Scope::Tenant(pods(), tenant("t")), &options).is_err());
    store.close();
}

#[tokio::test]
async fn everything_survives_a_restart_and_watches_resume() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let log = Log::open(directory.path()).unwrap().snapshot_after(2_000);
        Store::open(Box::new(log), StoreOptions::default()).unwrap()
    };
    let mut expected: std::collections::BTreeMap<String, Revision> = std::collections::BTreeMap::new();
    let mut last = Revision::ZERO;
    for round in 0..20 {
        let store = open();
        assert!(store.revision() >= last, "revisions are never given out twice");
        let listing = store.list(&Scope::AllTenants(pods()), &ListOptions::default()).unwrap();
        let found: std::collections::BTreeMap<String, Revision> =
            listing.items.iter().map(|(k, v)| (k.name.to_string(), v.revision())).collect();
        assert_eq!(found, expected, "round {round}");
        if last > store.compacted(&pods()) {
            let mut watcher = store.watch(Scope::AllTenants(pods()), None, last).unwrap();
            assert!(watcher.try_next().unwrap().is_empty());
        }
        for i in 0..15 {
            let name = format!("p{}", (round * 7 + i) % 40);
            if i % 5 == 4 && expected.contains_key(&name) {
                last = commit(&store, delete("t", &name)).await;
                expected.remove(&name);
            } else {
                last = commit(&store, put("t", &name, "n", Expect::Any)).await;
                expected.insert(name, last);
            }
        }
        store.close();
    }
}

#[tokio::test]
async fn plans_are_exact_under_concurrency() {
    let store = Store::open(Box::new(Memory), StoreOptions::default()).unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .commit_with(move |view| {
                        let there = view.list(&Scope::Tenant(pods(), tenant("t"))).len();
                        if there >= 10 {
                            Err("full")
                        } else {
                            Ok(Txn::one(put("t", &format!("p{i}"), "", Expect::Absent)))
                        }
                    })
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += usize::from(task.await.unwrap().is_ok());
    }
    assert_eq!(accepted, 10);
    store.close();
}

#[tokio::test]
async fn values_expire() {
    let options = StoreOptions {
        clock: || 1_000,
        expiry_period: std::time::Duration::from_millis(10),
        ..Default::default()
    };
    let store = Store::open(Box::new(Memory), options).unwrap();
    let op = |name: &str, ttl_s| Op::Put {
        key: key("t", name),
        value: value("", name),
        expect: Expect::Any,
        ttl_s,
    };
    commit(&store, op("a-stays", Some(5))).await;
    let written = commit(&store, op("goes", Some(0))).await;
    let mut watcher = store.watch(Scope::AllTenants(pods()), None, written).unwrap();
    let gone = watcher.next().await.unwrap();
    assert_eq!(&*gone[0].key.name, "goes");
    assert!(store.get(&key("t", "a-stays")).is_some());
    store.close();
}
