//! The store's promises one by one, on the in-memory engine.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use skep_base::{GroupResource, Key, Revision, Scope, TenantName};
use skep_store::engine::memory::Memory;
use skep_store::{
    AttrsBuilder, Change, CommitError, Expect, Expired, ListOptions, Listing, NewValue, Op, RingLimits,
    Store, StoreOptions, TXN_MAX_OPS, Txn,
};

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn key(t: &str, ns: &str, name: &str) -> Key {
    Key::new(pods(), tenant(t), ns, name)
}

fn value(text: &str, node: Option<&str>) -> NewValue {
    let mut attrs = AttrsBuilder::default();
    if let Some(node) = node {
        attrs.field("spec.nodeName", node, true).unwrap();
    }
    let body = format!(r#"{{"metadata":{{"resourceVersion":""}},"spec":"{text}"}}"#).into_bytes();
    NewValue { body, revision_at: 32, meta_start: 12, meta_end: 34, attrs: attrs.build().unwrap() }
}

fn put_if(key: Key, text: &str, expect: Expect) -> Op {
    Op::Put { key, value: value(text, None), expect, ttl_s: None }
}

fn put(key: Key, text: &str) -> Txn {
    Txn::one(put_if(key, text, Expect::Any))
}

fn on_node(key: Key, node: &str) -> Txn {
    Txn::one(Op::Put { key, value: value("", Some(node)), expect: Expect::Any, ttl_s: None })
}

fn delete(key: Key) -> Txn {
    Txn::one(Op::Delete { key, expect: Expect::Any })
}

fn open() -> Store {
    Store::open(Box::new(Memory), StoreOptions::default()).unwrap()
}

fn names(listing: &Listing) -> Vec<String> {
    listing.items.iter().map(|(k, _)| k.name.to_string()).collect()
}

fn revisions(changes: &[Arc<Change>]) -> Vec<u64> {
    changes.iter().map(|c| c.revision.0).collect()
}

#[tokio::test]
async fn conditions_decide() {
    let store = open();
    let k = key("a", "x", "p");
    let attempt = |expect| store.commit(Txn::one(put_if(k.clone(), "", expect)));
    assert!(matches!(attempt(Expect::Exists).await, Err(CommitError::Conflict { current: None, .. })));
    assert!(matches!(attempt(Expect::Revision(Revision(1))).await, Err(CommitError::Conflict { .. })));
    attempt(Expect::Absent).await.unwrap();
    let Err(CommitError::Conflict { index: 0, current: Some(current), key: named }) =
        attempt(Expect::Absent).await
    else {
        panic!("a second create went through")
    };
    assert_eq!((current.revision(), *named), (Revision(1), k.clone()));
    attempt(Expect::Revision(Revision(1))).await.unwrap();
    assert!(matches!(attempt(Expect::Revision(Revision(1))).await, Err(CommitError::Conflict { .. })));
    let removal = Op::Delete { key: k.clone(), expect: Expect::Revision(Revision(2)) };
    store.commit(Txn::one(removal)).await.unwrap();
    assert!(store.get(&k).is_none());
    assert!(store.commit(delete(k.clone())).await.unwrap().is_empty(), "nothing is there to delete");
    let removal = Op::Delete { key: k, expect: Expect::Exists };
    assert!(matches!(store.commit(Txn::one(removal)).await, Err(CommitError::Conflict { .. })));
    assert_eq!(store.revision(), Revision(3), "what is refused takes no revision");
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let store = open();
    store.commit(put(key("a", "x", "one"), "")).await.unwrap();
    let txn = |expect| {
        let ops = [
            put_if(key("a", "x", "two"), "", Expect::Any),
            Op::Delete { key: key("a", "x", "one"), expect: Expect::Any },
            Op::Check { key: key("a", "x", "three"), expect },
        ];
        Txn::from_iter(ops)
    };
    let refused = store.commit(txn(Expect::Exists)).await;
    assert!(matches!(refused, Err(CommitError::Conflict { index: 2, .. })), "{refused:?}");
    assert!(store.get(&key("a", "x", "one")).is_some() && store.get(&key("a", "x", "two")).is_none());
    let changes = store.commit(txn(Expect::Absent)).await.unwrap();
    assert_eq!(revisions(&changes), [2, 3], "each its own");
    assert!(store.get(&key("a", "x", "one")).is_none() && store.get(&key("a", "x", "two")).is_some());
    // A watch resumes between the two.
    let mut watcher = store.watch(Scope::AllTenants(pods()), None, Revision(2)).unwrap();
    assert_eq!(revisions(&watcher.try_next().unwrap()), [3]);
}

#[tokio::test]
async fn what_can_never_be_stored_is_refused_and_harms_nobody() {
    let store = open();
    let with = |value| Txn::one(Op::Put { key: key("a", "x", "p"), value, expect: Expect::Any, ttl_s: None });
    let good = value("", None);
    let twice = [
        put_if(key("a", "x", "p"), "", Expect::Any),
        Op::Delete { key: key("a", "x", "p"), expect: Expect::Any },
    ];
    let many =
        (0..=TXN_MAX_OPS).map(|n| Op::Check { key: key("a", "x", &n.to_string()), expect: Expect::Any });
    let bad = [
        with(NewValue { revision_at: 1000, ..good.clone() }),
        with(NewValue { meta_end: 1000, ..good.clone() }),
        with(NewValue { meta_start: 33, ..good.clone() }),
        with(NewValue { attrs: vec![200, 1], ..good.clone() }),
        with(NewValue { attrs: vec![0, 0xff], ..good }),
        put(key("a", "x\0y", "p"), ""),
        put(key("a", "x", "p\0q"), ""),
        put(key("a", "x", ""), ""),
        put(key("a", "x", &"p".repeat(5000)), ""),
        Txn::from_iter(twice),
        Txn::from_iter(many),
    ];
    for txn in bad {
        let refused = store.commit(txn.clone()).await;
        assert!(matches!(refused, Err(CommitError::Invalid(_))), "{refused:?} of {txn:?}");
    }
    let large = store.commit(put(key("a", "x", "p"), &"x".repeat(9 << 20))).await;
    let limit = StoreOptions::default().value_limit_bytes;
    assert!(
        matches!(large, Err(CommitError::TooLarge { limit_bytes, .. }) if limit_bytes == limit),
        "{large:?}"
    );
    let panicked = store.commit_with(|_| -> Result<Txn, ()> { panic!("on purpose") }).await;
    assert!(matches!(panicked, Err(CommitError::Invalid(_))));
    assert_eq!(store.commit(put(key("a", "x", "p"), "")).await.unwrap()[0].revision, Revision(1));
}

#[tokio::test]
async fn scopes_and_pages() {
    let store = open();
    let all = [
        ("a", "x", "1"),
        ("a", "x", "2"),
        ("a", "x-y", "3"),
        ("a", "y", "4"),
        ("a-b", "x", "5"),
        ("b", "", "6"),
    ];
    for (t, ns, n) in all {
        store.commit(put(key(t, ns, n), "")).await.unwrap();
    }
    let list = |scope: Scope| names(&store.list(&scope, &ListOptions::default()).unwrap());
    assert_eq!(list(Scope::AllTenants(pods())), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(list(Scope::Tenant(pods(), tenant("a"))), ["1", "2", "3", "4"]);
    assert_eq!(list(Scope::Namespace(pods(), tenant("a"), "x".into())), ["1", "2"]);
    assert_eq!(list(Scope::Namespace(pods(), tenant("b"), "".into())), ["6"]);
    assert_eq!(list(Scope::Object(key("a", "x", "2"))), ["2"]);
    assert!(list(Scope::Object(key("a", "x", "3"))).is_empty());
    assert!(list(Scope::Tenant(GroupResource::new("", "nodes"), tenant("a"))).is_empty());
    assert_eq!(store.resources(), [pods()]);

    let scope = Scope::Tenant(pods(), tenant("a"));
    let page = store.list(&scope, &ListOptions { limit: Some(2), ..ListOptions::default() }).unwrap();
    assert_eq!((names(&page), page.more, page.remaining), (vec!["1".into(), "2".into()], true, Some(2)));
    // Between the pages one object goes, one changes, and one appears.
    store.commit(delete(key("a", "x-y", "3"))).await.unwrap();
    store.commit(put(key("a", "y", "4"), "new")).await.unwrap();
    store.commit(put(key("a", "z", "7"), "")).await.unwrap();
    let after = |listing: &Listing| listing.items.last().map(|(k, _)| k.clone());
    let next = ListOptions { limit: Some(1), after: after(&page), at: Some(page.revision), index: None };
    let second = store.list(&scope, &next).unwrap();
    assert_eq!((names(&second), second.more, second.remaining), (vec!["3".into()], true, Some(1)));
    let third = store.list(&scope, &ListOptions { after: after(&second), ..next }).unwrap();
    assert_eq!((names(&third), third.more, third.remaining), (vec!["4".into()], false, None));
    assert_eq!(third.items[0].1.revision(), Revision(4));
    let future = store.list(&scope, &ListOptions { at: Some(Revision(1000)), ..ListOptions::default() });
    assert_eq!(future.unwrap_err(), Expired);
}

#[tokio::test]
async fn an_index_lists_and_watches_what_has_the_term() {
    let store = open();
    let by_node = |node| ListOptions { index: Some(("spec.nodeName", node)), ..ListOptions::default() };
    let scope = Scope::Tenant(pods(), tenant("a"));
    let term = Some(("spec.nodeName", "n1"));
    let mut watcher = store.watch(scope.clone(), term, Revision(0)).unwrap();
    let mut of_all = store.watch(Scope::AllTenants(pods()), term, Revision(0)).unwrap();
    store.commit(on_node(key("a", "x", "p"), "n1")).await.unwrap();
    store.commit(on_node(key("a", "x", "q"), "n2")).await.unwrap();
    store.commit(on_node(key("b", "x", "r"), "n1")).await.unwrap();
    assert_eq!(names(&store.list(&scope, &by_node("n1")).unwrap()), ["p"]);
    assert_eq!(names(&store.list(&Scope::AllTenants(pods()), &by_node("n1")).unwrap()), ["p", "r"]);
    let before = store.revision();
    store.commit(on_node(key("a", "x", "p"), "n2")).await.unwrap();
    store.commit(on_node(key("a", "x", "p"), "n2")).await.unwrap();
    assert!(names(&store.list(&scope, &by_node("n1")).unwrap()).is_empty());
    assert_eq!(names(&store.list(&scope, &by_node("n2")).unwrap()), ["p", "q"]);
    let then = ListOptions { at: Some(before), ..by_node("n1") };
    assert_eq!(names(&store.list(&scope, &then).unwrap()), ["p"], "as it was");
    store.commit(delete(key("a", "x", "p"))).await.unwrap();
    assert_eq!(names(&store.list(&scope, &by_node("n2")).unwrap()), ["q"]);
    assert_eq!(revisions(&watcher.try_next().unwrap()), [1, 4], "coming and going, not what other nodes do");
    assert_eq!(revisions(&of_all.try_next().unwrap()), [1, 3, 4]);
    assert_eq!(watcher.position(), store.revision());
}

#[tokio::test]
async fn watchers_sleep_while_others_are_busy() {
    let store = open();
    let mut a = store.watch(Scope::Tenant(pods(), tenant("a")), None, Revision(0)).unwrap();
    let mut object = store.watch(Scope::Object(key("a", "x", "p")), None, Revision(0)).unwrap();
    for n in 0..50 {
        store.commit(put(key("b", "x", &format!("p{n}")), "")).await.unwrap();
    }
    let changes = {
        let mut waiting = std::pin::pin!(a.next());
        let wakes = Arc::new(Wakes::default());
        let waker = std::task::Waker::from(wakes.clone());
        let mut context = std::task::Context::from_waker(&waker);
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        for n in 0..50 {
            store.commit(put(key("b", "x", &format!("p{n}")), "")).await.unwrap();
        }
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0, "another tenant's changes wake nobody here");
        store.commit(put(key("a", "x", "q"), "")).await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap()
    };
    assert_eq!((changes.len(), &*changes[0].key.name), (1, "q"));
    for n in 0..50 {
        store.commit(put(key("b", "x", &format!("p{n}")), "")).await.unwrap();
    }
    assert_eq!(a.position(), store.revision(), "bookmarks move on all the same");
    assert!(object.try_next().unwrap().is_empty());
    store.commit(put(key("a", "x", "p"), "")).await.unwrap();
    assert_eq!(object.try_next().unwrap().len(), 1);
    store.close();
    assert_eq!(a.next().await.unwrap().len(), 1, "what was there before the end is still delivered");
    assert_eq!(a.next().await.unwrap_err(), Expired);
    assert!(matches!(store.commit(put(key("a", "x", "p"), "")).await, Err(CommitError::Closed)));
    assert!(store.get(&key("a", "x", "p")).is_some(), "reads go on");
    store.close();
}

#[derive(Default)]
struct Wakes(AtomicU64);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_waiting_watcher_ends_with_the_store() {
    let store = open();
    let mut watcher = store.watch(Scope::Tenant(pods(), tenant("a")), None, Revision(0)).unwrap();
    let waiting = tokio::spawn(async move { watcher.next().await });
    tokio::task::yield_now().await;
    drop(store);
    let ended = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err(), Expired);
}

#[tokio::test]
async fn slow_readers_fall_out_and_the_ring_stays_bounded() {
    let ring = RingLimits { superseded_bytes: 64 << 10, ..RingLimits::default() };
    let store = Store::open(Box::new(Memory), StoreOptions { ring, ..StoreOptions::default() }).unwrap();
    let nodes = GroupResource::new("", "nodes");
    let mut slow = store.watch(Scope::Tenant(pods(), tenant("a")), None, Revision(0)).unwrap();
    let mut idle = store.watch(Scope::Tenant(pods(), tenant("b")), None, Revision(0)).unwrap();
    let text = "x".repeat(1000);
    {
        let mut told = std::pin::pin!(slow.expired());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(told.as_mut().poll(&mut context).is_pending());
        for _ in 0..500 {
            store.commit(put(key("a", "x", "p"), &text)).await.unwrap();
        }
        assert!(store.stats().ring_superseded_bytes <= 64 << 10);
        tokio::time::timeout(Duration::from_secs(5), told).await.unwrap();
    }
    assert!(slow.try_next().is_err());
    assert!(slow.next().await.is_err(), "it stays so");
    assert!(idle.try_next().unwrap().is_empty(), "an idle watcher has lost nothing");
    assert!(store.watch(Scope::Tenant(pods(), tenant("b")), None, Revision(0)).is_err());
    let floor = store.compacted(&pods());
    assert!(floor > Revision(400), "{floor}");
    assert!(store.watch(Scope::Tenant(pods(), tenant("b")), None, floor).is_ok());
    // A resource that nobody has changed has lost nothing, however busy others are.
    assert_eq!(store.compacted(&nodes), Revision::ZERO);
    assert!(store.watch(Scope::AllTenants(nodes), None, Revision(0)).is_ok());
    drop((slow, idle));
    assert_eq!(store.stats().watched_streams, 0);
}

static NOW_S: AtomicU64 = AtomicU64::new(1_000_000);

#[tokio::test]
async fn objects_expire() {
    let options = StoreOptions {
        clock: || NOW_S.load(Ordering::SeqCst),
        expiry_period: Duration::from_millis(10),
        ..StoreOptions::default()
    };
    let store = Store::open(Box::new(Memory), options).unwrap();
    let with_ttl = |name: &str, ttl_s| {
        let (key, value) = (key("a", "x", name), value("", None));
        Txn::one(Op::Put { key, value, expect: Expect::Any, ttl_s: Some(ttl_s) })
    };
    for name in ["soon", "renewed", "kept"] {
        store.commit(with_ttl(name, 10)).await.unwrap();
    }
    store.commit(put(key("a", "x", "kept"), "")).await.unwrap();
    assert_eq!(store.get(&key("a", "x", "soon")).unwrap().expires_at_s(), Some(1_000_010));
    NOW_S.store(1_000_009, Ordering::SeqCst);
    let last = store.commit(with_ttl("renewed", 10)).await.unwrap()[0].revision;
    assert!(store.expire().await.unwrap().is_empty());
    NOW_S.store(1_000_010, Ordering::SeqCst);
    let mut watcher = store.watch(Scope::Tenant(pods(), tenant("a")), None, last).unwrap();
    let changes = tokio::time::timeout(Duration::from_secs(5), watcher.next()).await.unwrap().unwrap();
    assert_eq!((changes.len(), &*changes[0].key.name), (1, "soon"), "deleted by itself");
    assert!(changes[0].value.is_none() && changes[0].prev.is_some());
    NOW_S.store(2_000_000, Ordering::SeqCst);
    store.expire().await.unwrap();
    let left = store.list(&Scope::Tenant(pods(), tenant("a")), &ListOptions::default()).unwrap();
    assert_eq!(names(&left), ["kept"]);
}

/// Pairs of objects that far apart in the order are always written together. No list, however long, and no
/// chain of pages may show one without the other, while writers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn long_lists_are_of_one_moment() {
    const PAIRS: usize = 3_000;
    let ring = RingLimits { events: 20_000, superseded_bytes: 64 << 20 };
    let store = Store::open(Box::new(Memory), StoreOptions { ring, ..StoreOptions::default() }).unwrap();
    let pair = |n: usize, counter: usize| {
        let half = |side: &str| put_if(key("a", side, &format!("{n:05}")), &counter.to_string(), Expect::Any);
        Txn::from_iter([half("left"), half("right")])
    };
    for n in 0..PAIRS {
        store.commit(pair(n, 0)).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let mut counter = 1;
                while !stop.load(Ordering::Relaxed) {
                    let n = (counter * 7 + w * 13) % PAIRS;
                    if counter % 5 == 0 {
                        let half = |side: &str| Op::Delete {
                            key: key("a", side, &format!("{n:05}")),
                            expect: Expect::Any,
                        };
                        store.commit(Txn::from_iter([half("left"), half("right")])).await.unwrap();
                    } else {
                        store.commit(pair(n, counter)).await.unwrap();
                    }
                    counter += 1;
                }
                counter
            })
        })
        .collect();
    let scope = Scope::Tenant(pods(), tenant("a"));
    let check = |items: Vec<(Key, Arc<skep_store::Value>)>, at: Revision| {
        let mut sides: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
        for (k, v) in items {
            assert!(v.revision() <= at);
            let text = v.json()[12 + v.meta().len()..].to_vec();
            sides.entry(k.namespace.to_string()).or_default().insert(k.name.to_string(), text);
        }
        assert_eq!(sides.get("left"), sides.get("right"));
    };
    let (mut whole, mut paged) = (0, 0);
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(2) || paged == 0 {
        let listing = store.list(&scope, &ListOptions::default()).unwrap();
        check(listing.items, listing.revision);
        whole += 1;
        let mut options = ListOptions { limit: Some(700), ..ListOptions::default() };
        let mut items = Vec::new();
        // A page may come too late when the writers are fast.
        while let Ok(page) = store.list(&scope, &options) {
            options.at = Some(page.revision);
            options.after = page.items.last().map(|(k, _)| k.clone());
            items.extend(page.items);
            if !page.more {
                check(items, page.revision);
                paged += 1;
                break;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    println!("{whole} lists, {paged} chains of pages, {written} writes meanwhile");
    assert!(written > 500);
}
