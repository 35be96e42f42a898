//! The store against the reference: random transactions, lists at old revisions, watches resumed anywhere,
//! crashes at every disk operation, full and broken disks.
//!
//! Everything follows from a seed, which a failure prints. `SKEP_MODEL_SEED` runs that one;
//! `SKEP_MODEL_ROUNDS` says how many to run.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_base::{Key, Revision, Scope};

use crate::engine::log::Log;
use crate::engine::sim::{Full, SimDisk};
use crate::engine::{Engine, memory::Memory};
use crate::list::ListOptions;
use crate::model::{Event, FIELD, Model, Stepper, Thing, random_node, random_scope, random_txn};
use crate::ring::RingLimits;
use crate::txn::{CommitError, Txn};
use crate::watch::Watcher;

fn seeds(default_rounds: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse().expect("a number"));
    match number("SKEP_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SKEP_MODEL_ROUNDS").unwrap_or(default_rounds)).collect(),
    }
}

/// Says which seed failed.
fn with_seed(seed: u64, run: impl FnOnce()) {
    struct Say(u64);
    impl Drop for Say {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with SKEP_MODEL_SEED={}", self.0);
            }
        }
    }
    let _say = Say(seed);
    run();
}

/// A watcher and what it ought to have seen.
struct Watching {
    scope: Scope,
    node: Option<&'static str>,
    watcher: Watcher,
    seen: Revision,
}

/// A list that is read page by page.
struct Paging {
    scope: Scope,
    node: Option<&'static str>,
    at: Revision,
    after: Option<Key>,
    limit: usize,
    items: Vec<(Key, Thing)>,
}

struct Check {
    rng: StdRng,
    store: Stepper,
    model: Model,
    /// The newest revision that anybody was told of, or that was ever refused.
    given: Revision,
    watches: Vec<Watching>,
    paging: Option<Paging>,
    ring: RingLimits,
    /// What may or may not have happened, because the store did not say.
    uncertain: Option<Model>,
    pages: usize,
    delivered: usize,
    expired: usize,
}

impl Check {
    fn new(seed: u64, engine: Box<dyn Engine>) -> Check {
        let mut rng = StdRng::seed_from_u64(seed);
        let ring = match rng.random_range(0..3) {
            0 => RingLimits { events: 8, superseded_bytes: 1 << 20 },
            1 => RingLimits { events: 1000, superseded_bytes: 20_000 },
            _ => RingLimits::default(),
        };
        Check {
            rng,
            store: Stepper::open(engine, ring).unwrap(),
            model: Model::default(),
            given: Revision::ZERO,
            watches: Vec::new(),
            paging: None,
            ring,
            uncertain: None,
            pages: 0,
            delivered: 0,
            expired: 0,
        }
    }

    /// One random step. Says false when the store takes no more writes.
    fn step(&mut self) -> bool {
        let alive = self.write();
        self.begin_something();
        self.read_watches();
        self.read_page();
        alive
    }

    fn write(&mut self) -> bool {
        let txns: Vec<Txn> =
            (0..self.rng.random_range(1..4)).map(|_| random_txn(&mut self.rng, &self.model)).collect();
        let mut next = self.store.given_out().next();
        let answers = self.store.commit(txns.clone());
        let mut after = self.model.clone();
        for (txn, answer) in txns.iter().zip(&answers) {
            match answer {
                Ok(changes) => {
                    let first = changes.first().map_or(after.revision().next(), |c| c.revision);
                    assert!(
                        first > self.given || changes.is_empty(),
                        "revision {first} was given out before"
                    );
                    let events = after.run(txn, first).expect("the reference refuses it");
                    assert_eq!(changes.iter().map(|c| Event::of(c)).collect::<Vec<_>>(), events);
                }
                Err(CommitError::Conflict { index, key, current }) => {
                    assert_eq!(after.clone().run(txn, after.revision().next()), Err(*index), "{key}");
                    let there = after.at(after.revision()).remove(&**key);
                    assert_eq!(current.as_deref().map(Thing::of), there);
                }
                Err(CommitError::NoSpace) => {
                    assert!(answers.iter().all(|a| matches!(a, Err(CommitError::NoSpace))), "all or none");
                }
                Err(CommitError::Uncertain(_)) => {
                    // The whole batch may have happened: with the revisions that come next.
                    if after.run(txn, next).is_ok_and(|events| !events.is_empty()) {
                        next = after.revision().next();
                    }
                }
                Err(CommitError::Failed(_)) => {}
                Err(other) => panic!("{other}"),
            }
            self.given = self.given.max(after.revision());
        }
        match answers.first() {
            Some(Err(CommitError::Uncertain(_))) => {
                self.uncertain = Some(after);
                false
            }
            Some(Err(CommitError::Failed(_))) => false,
            Some(Err(CommitError::NoSpace)) => {
                // Its revisions are not given out again.
                self.given = self.store.given_out();
                true
            }
            _ => {
                self.model = after;
                assert_eq!(self.store.core.revision(), self.model.revision());
                true
            }
        }
    }

    fn begin_something(&mut self) {
        if self.rng.random_bool(0.3) && self.watches.len() < 12 {
            let (scope, node) = (random_scope(&mut self.rng), random_node(&mut self.rng));
            let from = Revision(self.rng.random_range(0..=self.model.revision().0 + 3));
            match self.store.watch(&scope, node, from) {
                Ok(watcher) => self.watches.push(Watching { scope, node, watcher, seen: from }),
                Err(_) => assert!(from < self.store.floor(scope.resource()), "refused without need"),
            }
        }
        if self.rng.random_bool(0.1) && !self.watches.is_empty() {
            let which = self.rng.random_range(0..self.watches.len());
            self.watches.swap_remove(which);
        }
        if self.paging.is_none() && self.rng.random_bool(0.3) {
            let at = Revision(self.rng.random_range(0..=self.model.revision().0));
            self.paging = Some(Paging {
                scope: random_scope(&mut self.rng),
                node: random_node(&mut self.rng),
                at: if self.rng.random_bool(0.5) { at } else { self.model.revision() },
                after: None,
                limit: self.rng.random_range(1..4),
                items: Vec::new(),
            });
        }
    }

    fn read_watches(&mut self) {
        let mut keep = Vec::new();
        for mut w in std::mem::take(&mut self.watches) {
            if self.rng.random_bool(0.4) {
                keep.push(w);
                continue;
            }
            loop {
                match w.watcher.try_next() {
                    Ok(changes) if changes.is_empty() => {
                        let missed = self.model.watch(&w.scope, w.node, w.seen);
                        assert_eq!(missed, [], "not delivered to {:?} {:?}", w.scope, w.node);
                        let position = w.watcher.position();
                        assert!(position >= self.model.revision(), "a bookmark lags");
                        w.seen = position;
                        keep.push(w);
                        break;
                    }
                    Ok(changes) => {
                        self.delivered += changes.len();
                        let got: Vec<Event> = changes.iter().map(|c| Event::of(c)).collect();
                        let mut want = self.model.watch(&w.scope, w.node, w.seen);
                        want.truncate(got.len());
                        assert_eq!(got, want, "{:?} {:?} after {}", w.scope, w.node, w.seen);
                        w.seen = got.last().map_or(w.seen, |e| e.revision);
                    }
                    Err(_) => {
                        self.expired += 1;
                        assert!(w.seen < self.store.floor(w.scope.resource()), "expired without need");
                        // Namespaces and objects read their tenant's stream, and fall out with it.
                        let exact = matches!(w.scope, Scope::Tenant(..))
                            || w.node.is_none() && w.scope.tenant().is_none();
                        let lost = self.model.watch(&w.scope, w.node, w.seen);
                        assert!(!exact || !lost.is_empty(), "{:?} lost nothing", w.scope);
                        break;
                    }
                }
            }
        }
        self.watches = keep;
    }

    fn read_page(&mut self) {
        let Some(mut p) = self.paging.take() else { return };
        let index = p.node.map(|n| (FIELD, n));
        let options = ListOptions { after: p.after.clone(), limit: Some(p.limit), at: Some(p.at), index };
        let Ok(page) = self.store.list(&p.scope, &options) else {
            assert!(p.at < self.store.floor(p.scope.resource()), "a page expired without need");
            return;
        };
        self.pages += 1;
        assert_eq!(page.revision, p.at);
        p.after = page.items.last().map(|(k, _)| k.clone());
        p.items.extend(page.items.iter().map(|(k, v)| (k.clone(), Thing::of(v))));
        let want = self.model.list(&p.scope, p.node, p.at);
        if page.more {
            assert_eq!(page.items.len(), p.limit);
            assert!(want.starts_with(&p.items), "{:?} {:?} at {}", p.scope, p.node, p.at);
            let rest = want.len() - p.items.len();
            assert!(rest > 0);
            assert_eq!(page.remaining, p.node.is_none().then_some(rest));
            self.paging = Some(p);
        } else {
            assert_eq!(p.items, want, "{:?} {:?} at {}", p.scope, p.node, p.at);
            assert_eq!(page.remaining, None);
        }
    }

    /// Opens the store again, checks that everything is there, and goes on with the watches.
    fn reopen(&mut self, engine: Box<dyn Engine>) {
        let uncertain = self.uncertain.take();
        self.store = Stepper::open(engine, self.ring).expect("what a crash leaves can be opened");
        let found = self.store.everything();
        let revision = self.store.core.revision();
        if let Some(other) = uncertain
            && revision != self.model.revision()
        {
            self.model = other;
        }
        assert_eq!(
            revision,
            self.model.revision(),
            "an acknowledged write is lost, or a refused one is there"
        );
        assert_eq!(found, self.model.at(revision));
        self.given = revision;
        let mut watches = Vec::new();
        for w in std::mem::take(&mut self.watches) {
            // Nobody was told of revisions that did not become durable.
            let seen = w.seen.min(revision);
            match self.store.watch(&w.scope, w.node, seen) {
                Ok(watcher) => watches.push(Watching { watcher, seen, ..w }),
                Err(_) => assert!(seen < self.store.floor(w.scope.resource())),
            }
        }
        self.watches = watches;
        self.paging = None;
    }
}

#[test]
fn the_memory_engine_does_what_the_reference_does() {
    let (mut pages, mut delivered, mut expired) = (0, 0, 0);
    for seed in seeds(40) {
        with_seed(seed, || {
            let mut check = Check::new(seed, Box::new(Memory));
            for _ in 0..60 {
                assert!(check.step());
            }
            pages += check.pages;
            delivered += check.delivered;
            expired += check.expired;
        });
    }
    if std::env::var_os("SKEP_MODEL_SEED").is_none() {
        assert!(pages > 50 && delivered > 1000 && expired > 5, "{pages} {delivered} {expired}");
    }
}

fn log_on(disk: &SimDisk) -> Box<Log> {
    Box::new(Log::on(Arc::new(disk.clone())).snapshot_after(4_000).in_step())
}

/// What goes wrong, counted in disk operations from the first write on.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    CrashAt(usize),
    FailFrom(usize, usize),
}

/// The same random life with some trouble in it, and a power failure at its end. Says how many disk operations
/// there were.
fn live(seed: u64, trouble: Trouble) -> usize {
    let salt = match trouble {
        Trouble::None => 0,
        Trouble::CrashAt(n) => n as u64,
        Trouble::FailFrom(n, count) => (n * 10 + count) as u64,
    };
    let disk = SimDisk::new(seed ^ salt);
    let mut check = Check::new(seed, log_on(&disk));
    match trouble {
        Trouble::None => {}
        Trouble::CrashAt(n) => disk.crash_after(n),
        Trouble::FailFrom(n, count) => disk.fail_some(n, count),
    }
    let mut alive = true;
    for _ in 0..12 {
        alive = check.step();
        if !alive {
            break;
        }
    }
    let operations = disk.operations();
    assert!(alive || !matches!(trouble, Trouble::None));
    // A crash while it starts again, and then a start that works.
    let mut disk = disk.power_cycle();
    disk.crash_after(check.rng.random_range(1..10));
    let interrupted = Stepper::open(log_on(&disk), RingLimits::default());
    assert!(interrupted.is_ok() || disk.has_crashed(), "{:?}", interrupted.err());
    drop(interrupted);
    disk = disk.power_cycle();
    check.reopen(log_on(&disk));
    for _ in 0..4 {
        assert!(check.step());
    }
    check.store.close_in_place();
    check.reopen(log_on(&disk.power_cycle()));
    operations
}

#[test]
fn a_crash_at_any_disk_operation_loses_nothing() {
    for seed in seeds(6) {
        with_seed(seed, || {
            let operations = live(seed, Trouble::None);
            assert!(operations > 20);
            for n in 1..=operations {
                with_trouble(Trouble::CrashAt(n), || {
                    live(seed, Trouble::CrashAt(n));
                });
            }
        });
    }
}

#[test]
fn a_failure_of_any_disk_operation_loses_nothing() {
    for seed in seeds(3) {
        with_seed(seed, || {
            let operations = live(seed, Trouble::None);
            for (n, count) in (0..operations).flat_map(|n| [(n, 1), (n, 2), (n, 3)]) {
                with_trouble(Trouble::FailFrom(n, count), || {
                    live(seed, Trouble::FailFrom(n, count));
                });
            }
        });
    }
}

/// Says what went wrong before a failure.
fn with_trouble(trouble: Trouble, run: impl FnOnce()) {
    struct Say(Trouble);
    impl Drop for Say {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("with {:?}", self.0);
            }
        }
    }
    let _say = Say(trouble);
    run();
}

#[test]
fn many_lives_with_crashes_full_and_broken_disks() {
    let (mut refused, mut crashes, mut broken) = (0, 0, 0);
    for seed in seeds(30) {
        with_seed(seed, || {
            let mut disk = SimDisk::new(seed);
            let mut check = Check::new(seed, log_on(&disk));
            for _ in 0..10 {
                match check.rng.random_range(0..7) {
                    0 => disk.crash_after(check.rng.random_range(1..40)),
                    1 => {
                        let how = if check.rng.random_bool(0.5) { Full::AtWrite } else { Full::AtSync };
                        disk.limit(Some((disk.used() + check.rng.random_range(0..3_000), how)));
                    }
                    2 => disk.fail_next_sync(),
                    3 | 4 => disk.fail_some(check.rng.random_range(0..25), check.rng.random_range(1..4)),
                    _ => {}
                }
                let mut alive = true;
                for _ in 0..15 {
                    let before = check.store.core.revision();
                    alive = check.step();
                    refused += usize::from(alive && check.store.core.revision() == before);
                    if !alive {
                        break;
                    }
                }
                disk.limit(None);
                disk.fail_some(0, 0);
                if alive && !disk.has_crashed() && check.rng.random_bool(0.5) {
                    // Space is back: writes succeed again without a restart.
                    for _ in 0..3 {
                        alive = check.step();
                    }
                    assert!(alive || disk.has_crashed() || check.uncertain.is_some());
                }
                crashes += usize::from(disk.has_crashed());
                broken += usize::from(!alive && !disk.has_crashed());
                if check.rng.random_bool(0.5) {
                    check.store.close_in_place();
                }
                disk = disk.power_cycle();
                check.reopen(log_on(&disk));
            }
        });
    }
    if std::env::var_os("SKEP_MODEL_SEED").is_none() {
        assert!(refused > 20 && crashes > 20 && broken > 10, "{refused} {crashes} {broken}");
    }
}
