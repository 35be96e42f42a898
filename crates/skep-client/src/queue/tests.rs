use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::object::ObjectKey;

fn key(tenant: u8, name: u8) -> WorkKey {
    let tenant = TenantName::new(&format!("t{tenant}")).unwrap();
    WorkKey { controller: "c", object: ObjectKey::new(&tenant, "ns", &format!("n{name}")) }
}

/// The same rules by looking through everything each time.
#[derive(Default)]
struct Model {
    /// In the order in which they came to their level.
    waiting: Vec<(Level, WorkKey)>,
    working: BTreeMap<WorkKey, (Level, Option<Level>)>,
    failures: BTreeMap<WorkKey, u32>,
    delayed: BTreeMap<WorkKey, (Duration, Level, u64)>,
    tickets: u64,
    weights: BTreeMap<TenantName, u32>,
    served: BTreeMap<(Level, TenantName), u64>,
    now: BTreeMap<Level, u64>,
    pops: u64,
    turn: usize,
}

impl Model {
    fn tenants(&self, level: Level) -> BTreeSet<TenantName> {
        self.waiting.iter().filter(|(l, _)| *l == level).map(|(_, k)| k.object.tenant.clone()).collect()
    }

    fn add(&mut self, key: WorkKey, level: Level) {
        if let Some((_, again)) = self.working.get_mut(&key) {
            *again = Some(again.map_or(level, |l| l.min(level)));
            return;
        }
        if let Some(at) = self.waiting.iter().position(|(_, k)| *k == key) {
            if self.waiting[at].0 <= level {
                return;
            }
            let (old, _) = self.waiting.remove(at);
            if !self.tenants(old).contains(&key.object.tenant) {
                self.served.remove(&(old, key.object.tenant.clone()));
            }
        }
        let now = self.now.get(&level).copied().unwrap_or(0);
        let served = self.served.entry((level, key.object.tenant.clone())).or_default();
        *served = (*served).max(now);
        self.waiting.push((level, key));
    }

    fn pop(&mut self, now: Duration) -> Option<(WorkKey, Level, u32)> {
        let mut due: Vec<_> = self
            .delayed
            .iter()
            .filter(|(_, (due, ..))| *due <= now)
            .map(|(key, (due, level, ticket))| (*due, *ticket, *level, key.clone()))
            .collect();
        due.sort();
        for (_, _, level, key) in due {
            self.delayed.remove(&key);
            self.add(key, level);
        }
        let present: BTreeSet<Level> = self.waiting.iter().map(|(l, _)| *l).collect();
        let top = *present.first()?;
        self.pops += 1;
        let mut level = top;
        if self.pops.is_multiple_of(RESERVED_EVERY) {
            for step in 0..3 {
                let candidate = Level::ALL[1 + (self.turn + step) % 3];
                if candidate > top && present.contains(&candidate) {
                    self.turn = (self.turn + step + 1) % 3;
                    level = candidate;
                    break;
                }
            }
        }
        let tenant =
            self.tenants(level).into_iter().min_by_key(|t| (self.served[&(level, t.clone())], t.clone()))?;
        let at = self.waiting.iter().position(|(l, k)| *l == level && k.object.tenant == tenant)?;
        let (_, key) = self.waiting.remove(at);
        let served = self.served[&(level, tenant.clone())];
        let clock = self.now.entry(level).or_default();
        *clock = (*clock).max(served);
        let weight = self.weights.get(&tenant).copied().unwrap_or(DEFAULT_WEIGHT);
        self.served.insert((level, tenant.clone()), served + 1_000_000 / u64::from(weight));
        if !self.tenants(level).contains(&tenant) {
            self.served.remove(&(level, tenant));
        }
        self.working.insert(key.clone(), (level, None));
        let failures = self.failures.get(&key).copied().unwrap_or(0);
        Some((key, level, failures))
    }

    fn finish(&mut self, key: &WorkKey, outcome: Outcome, now: Duration) {
        let (level, again) = self.working.remove(key).unwrap();
        match outcome {
            Outcome::Failed => *self.failures.entry(key.clone()).or_default() += 1,
            _ => drop(self.failures.remove(key)),
        }
        let after = match outcome {
            Outcome::Done => None,
            Outcome::Again(after) => Some((now + after, Level::SyncAll)),
            Outcome::Failed if again.is_some() => None,
            Outcome::Failed => {
                let doublings = self.failures[key].min(21) - 1;
                Some((now + (FIRST_RETRY * 2u32.pow(doublings)).min(LONGEST_RETRY), level))
            }
        };
        if let Some((due, level)) = after {
            self.add_after(key.clone(), level, due);
        }
        if let Some(level) = again {
            self.add(key.clone(), level);
        }
    }

    fn add_after(&mut self, key: WorkKey, level: Level, due: Duration) {
        self.tickets += 1;
        let entry = self.delayed.entry(key).or_insert((due, level, self.tickets));
        entry.1 = entry.1.min(level);
        if due < entry.0 {
            (entry.0, entry.2) = (due, self.tickets);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, u8, Level),
    After(u8, u8, Level, u64),
    Pop,
    Finish(usize, u8),
    Tick(u64),
    Weight(u8, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let level = || (0usize..4).prop_map(|l| Level::ALL[l]);
    prop_oneof![
        6 => (0u8..3, 0u8..4, level()).prop_map(|(t, n, l)| Step::Add(t, n, l)),
        1 => (0u8..3, 0u8..4, level(), 1u64..40).prop_map(|(t, n, l, d)| Step::After(t, n, l, d)),
        5 => Just(Step::Pop),
        4 => (any::<usize>(), 0u8..4).prop_map(|(i, o)| Step::Finish(i, o)),
        2 => (1u64..20).prop_map(Step::Tick),
        1 => (0u8..3, prop_oneof![Just(50u32), Just(100), Just(300)]).prop_map(|(t, w)| Step::Weight(t, w)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever happens, the queue gives out what the model gives out, in its order.
    #[test]
    fn the_queue_is_the_model(steps in proptest::collection::vec(step(), 0..150)) {
        let (mut core, mut model) = (Core::default(), Model::default());
        let mut now = Duration::ZERO;
        let mut working: Vec<Work> = Vec::new();
        for step in steps {
            match step {
                Step::Add(t, n, level) => {
                    core.add(key(t, n), level, now);
                    model.add(key(t, n), level);
                }
                Step::After(t, n, level, after) => {
                    let due = now + Duration::from_millis(after);
                    core.add_after(key(t, n), level, due);
                    model.add_after(key(t, n), level, due);
                }
                Step::Pop => {
                    let work = core.pop(now);
                    prop_assert_eq!(work.clone().map(|w| (w.key, w.level, w.failures)), model.pop(now));
                    working.extend(work);
                }
                Step::Finish(which, how) if !working.is_empty() => {
                    let work = working.swap_remove(which % working.len());
                    let outcome = match how {
                        0 | 1 => Outcome::Done,
                        2 => Outcome::Failed,
                        _ => Outcome::Again(Duration::from_millis(7)),
                    };
                    core.finish(&work, outcome, now);
                    model.finish(&work.key, outcome, now);
                }
                Step::Finish(..) => {}
                Step::Tick(ms) => now += Duration::from_millis(ms),
                Step::Weight(t, weight) => {
                    core.set_weight(key(t, 0).object.tenant, Some(weight));
                    model.weights.insert(key(t, 0).object.tenant, weight);
                }
            }
            for level in Level::ALL {
                prop_assert_eq!(core.waiting(level), model.waiting.iter().filter(|(l, _)| *l == level).count());
            }
            prop_assert_eq!(core.working(), working.len());
        }
        // Everything comes to an end, and nothing is left behind.
        for _ in 0..1000 {
            now += Duration::from_secs(300);
            working.extend(core.pop(now));
            match working.pop() {
                Some(work) => drop(core.finish(&work, Outcome::Done, now)),
                None => break,
            }
        }
        prop_assert!(core.is_empty());
    }
}

/// A level that waits gets its share whatever comes in above it.
#[test]
fn no_level_starves() {
    let mut core = Core::default();
    let now = Duration::ZERO;
    for level in &Level::ALL[1..] {
        for n in 0..10 {
            core.add(key(*level as u8, n), *level, now);
        }
    }
    let mut since = BTreeMap::from([(Level::Update, 0u64), (Level::Delete, 0), (Level::SyncAll, 0)]);
    for n in 0..100u32 {
        core.add(key(0, u8::try_from(n).unwrap()), Level::Add, now);
        let work = core.pop(now).unwrap();
        since.values_mut().for_each(|s| *s += 1);
        if let Some(s) = since.get_mut(&work.level) {
            assert!(*s <= STARVATION_BOUND, "{:?} waited {s} pops", work.level);
            *s = 0;
        }
        core.finish(&work, Outcome::Done, now);
        core.add(key(1, 0), Level::Update, now);
        core.add(key(2, 0), Level::Delete, now);
        core.add(key(3, 0), Level::SyncAll, now);
    }
}

/// Void places of keys that moved up do not pile up in a level that is hardly ever served.
#[test]
fn moving_up_again_and_again_takes_no_memory() {
    let mut core = Core::default();
    let now = Duration::ZERO;
    // Another key keeps the tenant's queue in being.
    core.add(key(0, 1), Level::SyncAll, now);
    for _ in 0..20_000 {
        core.add(key(0, 0), Level::SyncAll, now);
        core.add(key(0, 0), Level::Add, now);
        let work = core.pop(now).unwrap();
        core.finish(&work, Outcome::Done, now);
    }
    assert!(core.voids() <= 2 * 1024, "{}", core.voids());
}

#[tokio::test(start_paused = true)]
async fn delays_retries_and_the_end() {
    let queue = WorkQueue::new();
    let timers = tokio::spawn({
        let queue = queue.clone();
        async move { queue.run_timers().await }
    });
    let begun = Instant::now();
    queue.add_after(key(0, 1), Level::Update, Duration::from_secs(5));
    queue.add_after(key(0, 1), Level::Update, Duration::from_secs(2));
    let work = queue.pop().await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 2);
    for failures in 1..=3 {
        let before = Instant::now();
        queue.finish(&work, Outcome::Failed);
        let again = queue.pop().await.unwrap();
        assert_eq!(again.failures, failures);
        assert!(before.elapsed() >= FIRST_RETRY * 2u32.pow(failures - 1));
    }
    queue.add(key(0, 1), Level::Add);
    assert_eq!(queue.metrics().depth(Level::Add), 0, "a key being worked on waits for its worker");
    let draining = tokio::spawn({
        let queue = queue.clone();
        async move { queue.drained().await }
    });
    tokio::task::yield_now().await;
    queue.close();
    assert!(queue.pop().await.is_none());
    assert!(!draining.is_finished());
    queue.finish(&work, Outcome::Done);
    draining.await.unwrap();
    timers.await.unwrap();
    let mut text = String::new();
    queue.metrics().render(&mut text);
    assert!(text.contains("skep_queue_failures_total 3"), "{text}");
}

/// A lock that the scheduler of `shuttle` knows.
struct Shuttled<T>(shuttle::sync::Mutex<T>);

impl<T: Send> Guarded<T> for Shuttled<T> {
    fn new(value: T) -> Shuttled<T> {
        Shuttled(shuttle::sync::Mutex::new(value))
    }
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }
}

/// In every interleaving that is tried: no key is in two hands, each added key is worked on after it was added, no wake-up
/// is lost (that would be a deadlock), also when a waiting worker goes away.
#[test]
fn interleavings() {
    shuttle::check_random(
        || {
            let queue: shuttle::sync::Arc<Shared<Shuttled<State>>> = shuttle::sync::Arc::new(Shared::new());
            let hands: Arc<[AtomicUsize; 2]> = Arc::default();
            let looked: Arc<[AtomicUsize; 2]> = Arc::default();
            let state: Arc<[AtomicUsize; 2]> = Arc::default();
            let workers: Vec<_> = (0..2)
                .map(|_| {
                    let (queue, hands, looked, state) =
                        (queue.clone(), hands.clone(), looked.clone(), state.clone());
                    shuttle::future::spawn(async move {
                        while let Some(work) = queue.pop().await {
                            let n = usize::from(work.key.object.name.as_bytes()[1] - b'0');
                            assert_eq!(hands[n].fetch_add(1, Ordering::SeqCst), 0, "a key in two hands");
                            let seen = state[n].load(Ordering::SeqCst);
                            shuttle::future::yield_now().await;
                            looked[n].fetch_max(seen, Ordering::SeqCst);
                            hands[n].fetch_sub(1, Ordering::SeqCst);
                            queue.finish(&work, Outcome::Done);
                        }
                    })
                })
                .collect();
            // One that waits and goes away at once, perhaps just when it was woken.
            let fickle = shuttle::future::spawn({
                let queue = queue.clone();
                async move {
                    let mut pop = Box::pin(queue.pop());
                    let first = std::future::poll_fn(|cx| Poll::Ready(pop.as_mut().poll(cx))).await;
                    shuttle::future::yield_now().await;
                    if let Poll::Ready(Some(work)) = first {
                        queue.finish(&work, Outcome::Failed);
                        queue.add(work.key, Level::Update);
                    }
                }
            });
            shuttle::future::block_on(async {
                for round in 1..=2 {
                    for n in 0..2 {
                        state[n].store(round, Ordering::SeqCst);
                        queue.add(key(0, u8::try_from(n).unwrap()), Level::ALL[n]);
                    }
                    shuttle::future::yield_now().await;
                }
                fickle.await.unwrap();
                while (0..2).any(|n| looked[n].load(Ordering::SeqCst) < 2) {
                    shuttle::future::yield_now().await;
                }
                queue.close();
                for worker in workers {
                    worker.await.unwrap();
                }
            });
        },
        2000,
    );
}
