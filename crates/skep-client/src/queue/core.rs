//! The queue's rules, without locks, tasks or a clock.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use rustc_hash::FxHashMap;
use skep_base::TenantName;

use super::metrics::{Metrics, TenantClass};
use crate::object::ObjectKey;

/// How urgent a piece of work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something new: somebody waits for it.
    Add,
    /// Something changed.
    Update,
    /// Something went away.
    Delete,
    /// Nothing happened: a look for what may have been missed.
    SyncAll,
}

impl Level {
    /// All, the most urgent first.
    pub const ALL: [Level; 4] = [Level::Add, Level::Update, Level::Delete, Level::SyncAll];

    /// For metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Add => "add",
            Level::Update => "update",
            Level::Delete => "delete",
            Level::SyncAll => "sync_all",
        }
    }
}

/// A piece of work: one object in the eyes of one controller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkKey {
    /// Which controller is to look.
    pub controller: &'static str,
    /// At what.
    pub object: ObjectKey,
}

/// Every so many pops, one is for a level below the most urgent that has work, and these take turns: of twelve pops in a
/// row each level that waits gets at least one, whatever comes in above it. Smaller, and urgent work loses more; larger,
/// and deletions wait longer behind a flood of creations.
pub const RESERVED_EVERY: u64 = 4;

/// The bound that follows.
pub const STARVATION_BOUND: u64 = RESERVED_EVERY * 3;

/// The virtual time that one piece of work of a tenant of weight 1 takes.
const UNIT: u64 = 1_000_000;

/// What a tenant without a weight of its own has.
pub const DEFAULT_WEIGHT: u32 = 100;

/// The first wait of a key that failed, as upstream's; it doubles with each failure.
pub const FIRST_RETRY: Duration = Duration::from_millis(5);
/// The longest. Upstream waits up to 1000 s, which is long after a cause has been repaired; 200 keys that fail forever
/// cost one attempt a second with this.
pub const LONGEST_RETRY: Duration = Duration::from_secs(200);

/// Places of a level's queues that may be void (their key has moved up) before they are swept out.
const MAX_VOID: usize = 1024;

struct Waiting {
    level: Level,
    ticket: u64,
    since: Duration,
}

struct Delayed {
    due: Duration,
    level: Level,
    ticket: u64,
}

#[derive(Default)]
struct Entry {
    waiting: Option<Waiting>,
    /// Being worked on; and at which level to queue it afterwards, if anything has happened meanwhile.
    working: Option<Option<Level>>,
    delayed: Option<Delayed>,
    failures: u32,
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.working.is_none() && self.delayed.is_none() && self.failures == 0
    }
}

#[derive(Default)]
struct TenantQueue {
    places: VecDeque<(u64, WorkKey)>,
    /// Places that are not void.
    live: usize,
    /// The virtual time up to which the tenant has been served in this level.
    served: u64,
}

#[derive(Default)]
struct LevelQueue {
    tenants: FxHashMap<TenantName, TenantQueue>,
    /// Tenants with places, by the virtual time of their next.
    next: BTreeSet<(u64, TenantName)>,
    now: u64,
    waiting: usize,
    void: usize,
}

impl LevelQueue {
    fn push(&mut self, ticket: u64, key: WorkKey) {
        let tenant = key.object.tenant.clone();
        let queue = self.tenants.entry(tenant.clone()).or_default();
        if queue.places.is_empty() {
            // Who comes anew has no claim on the past.
            queue.served = queue.served.max(self.now);
            self.next.insert((queue.served, tenant));
        }
        queue.places.push_back((ticket, key));
        queue.live += 1;
        self.waiting += 1;
    }

    /// A key of this tenant has moved up; its place is void.
    fn leave(&mut self, tenant: &TenantName) {
        self.waiting -= 1;
        self.void += 1;
        let Some(queue) = self.tenants.get_mut(tenant) else { return };
        queue.live -= 1;
        if queue.live == 0 {
            self.void -= queue.places.len();
            self.next.remove(&(queue.served, tenant.clone()));
            self.tenants.remove(tenant);
        }
    }

    /// The next place whose key `is_live`, of the tenant that has had least for its weight.
    fn pop(
        &mut self,
        weights: &FxHashMap<TenantName, u32>,
        is_live: impl Fn(u64, &WorkKey) -> bool,
    ) -> Option<WorkKey> {
        while let Some((time, tenant)) = self.next.pop_first() {
            let Some(queue) = self.tenants.get_mut(&tenant) else { continue };
            let mut found = None;
            while let Some((ticket, key)) = queue.places.pop_front() {
                if is_live(ticket, &key) {
                    found = Some(key);
                    break;
                }
                self.void -= 1;
            }
            if found.is_some() {
                let weight = weights.get(&tenant).copied().unwrap_or(DEFAULT_WEIGHT).max(1);
                self.now = self.now.max(time);
                queue.served = time + UNIT / u64::from(weight);
            }
            queue.live -= usize::from(found.is_some());
            if queue.live == 0 {
                // Out of the map, a quiet tenant costs nothing; its debt is at most one piece of work.
                self.void -= queue.places.len();
                self.tenants.remove(&tenant);
            } else {
                self.next.insert((queue.served, tenant));
            }
            if found.is_some() {
                self.waiting -= 1;
                return found;
            }
        }
        None
    }

    fn sweep(&mut self, is_live: impl Fn(u64, &WorkKey) -> bool) {
        for queue in self.tenants.values_mut() {
            queue.places.retain(|(ticket, key)| is_live(*ticket, key));
        }
        self.void = 0;
    }
}

/// Work that somebody has been given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// What to look at.
    pub key: WorkKey,
    /// How urgent it was.
    pub level: Level,
    /// How often it has failed in a row.
    pub failures: u32,
}

/// What became of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well done: its failures are forgotten.
    Done,
    /// Well done, and to be looked at again after a while.
    Again(Duration),
    /// Not done: to be tried again, later each time.
    Failed,
}

/// See the module. Times are since any fixed point.
#[derive(Default)]
pub(crate) struct Core {
    entries: FxHashMap<WorkKey, Entry>,
    levels: [LevelQueue; 4],
    delayed: BinaryHeap<Reverse<(Duration, u64, WorkKey)>>,
    weights: FxHashMap<TenantName, u32>,
    ticket: u64,
    pops: u64,
    turn: usize,
    working: usize,
    closed: bool,
    pub(crate) metrics: Metrics,
}

impl Core {
    pub(crate) fn set_weight(&mut self, tenant: TenantName, weight: Option<u32>) {
        match weight {
            Some(weight) if weight != DEFAULT_WEIGHT => self.weights.insert(tenant, weight),
            _ => self.weights.remove(&tenant),
        };
    }

    fn class(&self, tenant: &TenantName) -> TenantClass {
        TenantClass::of(tenant, self.weights.get(tenant).copied().unwrap_or(DEFAULT_WEIGHT))
    }

    /// Returns whether there is now one more thing to be popped.
    pub(crate) fn add(&mut self, key: WorkKey, level: Level, now: Duration) -> bool {
        if self.closed {
            return false;
        }
        self.metrics.added[level as usize] += 1;
        let entry = self.entries.entry(key.clone()).or_default();
        if let Some(again) = &mut entry.working {
            *again = Some(again.map_or(level, |l| l.min(level)));
            return false;
        }
        let mut since = now;
        if let Some(waiting) = &entry.waiting {
            if waiting.level <= level {
                return false;
            }
            since = waiting.since;
            self.levels[waiting.level as usize].leave(&key.object.tenant);
        }
        let moved = entry.waiting.is_some();
        self.ticket += 1;
        entry.waiting = Some(Waiting { level, ticket: self.ticket, since });
        self.levels[level as usize].push(self.ticket, key);
        if moved {
            self.sweep();
        }
        !moved
    }

    fn sweep(&mut self) {
        let entries = &self.entries;
        for queue in &mut self.levels {
            if queue.void > MAX_VOID && queue.void > queue.waiting {
                queue.sweep(|ticket, key| is_live(entries, ticket, key));
            }
        }
    }

    /// Returns whether the next due time is now earlier.
    pub(crate) fn add_after(&mut self, key: WorkKey, level: Level, due: Duration) -> bool {
        if self.closed {
            return false;
        }
        let entry = self.entries.entry(key.clone()).or_default();
        let mut level = level;
        if let Some(delayed) = &mut entry.delayed {
            delayed.level = delayed.level.min(level);
            if delayed.due <= due {
                return false;
            }
            level = delayed.level;
        }
        self.ticket += 1;
        entry.delayed = Some(Delayed { due, level, ticket: self.ticket });
        let earliest = self.next_due();
        self.delayed.push(Reverse((due, self.ticket, key)));
        earliest.is_none_or(|e| due < e)
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.delayed.peek().map(|Reverse((due, _, _))| *due)
    }

    /// Queues what is due; returns how many more there are to be popped.
    pub(crate) fn release(&mut self, now: Duration) -> usize {
        let mut more = 0;
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse((_, ticket, key))) = self.delayed.pop() else { break };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            match &entry.delayed {
                Some(delayed) if delayed.ticket == ticket => {
                    let level = delayed.level;
                    entry.delayed = None;
                    more += usize::from(self.add(key, level, now));
                }
                // Overtaken by an earlier time.
                _ => {}
            }
        }
        more
    }

    fn choose(&mut self) -> Option<Level> {
        let has = |level: &Level| self.levels[*level as usize].waiting > 0;
        let top = Level::ALL.into_iter().find(has)?;
        if !self.pops.is_multiple_of(RESERVED_EVERY) {
            return Some(top);
        }
        // The levels below Add take turns; one that has nothing passes its turn on.
        for step in 0..3 {
            let level = Level::ALL[1 + (self.turn + step) % 3];
            if level > top && has(&level) {
                self.turn = (self.turn + step + 1) % 3;
                return Some(level);
            }
        }
        Some(top)
    }

    pub(crate) fn pop(&mut self, now: Duration) -> Option<Work> {
        self.release(now);
        if self.closed {
            return None;
        }
        self.pops += 1;
        let Some(level) = self.choose() else {
            self.pops -= 1;
            return None;
        };
        let entries = &self.entries;
        let key =
            self.levels[level as usize].pop(&self.weights, |ticket, key| is_live(entries, ticket, key))?;
        let class = self.class(&key.object.tenant);
        let entry = self.entries.entry(key.clone()).or_default();
        if let Some(waiting) = entry.waiting.take() {
            self.metrics.waited(level, class, now.saturating_sub(waiting.since));
        }
        entry.working = Some(None);
        let failures = entry.failures;
        self.working += 1;
        Some(Work { key, level, failures })
    }

    /// Returns whether there is now one more thing to be popped, and whether the next due time is earlier.
    pub(crate) fn finish(&mut self, work: &Work, outcome: Outcome, now: Duration) -> (bool, bool) {
        let Some(entry) = self.entries.get_mut(&work.key) else { return (false, false) };
        let Some(again) = entry.working.take() else { return (false, false) };
        self.working -= 1;
        let after = match outcome {
            Outcome::Done => {
                entry.failures = 0;
                None
            }
            Outcome::Again(after) => {
                entry.failures = 0;
                Some((after, Level::SyncAll))
            }
            Outcome::Failed => {
                self.metrics.failed += 1;
                entry.failures = entry.failures.saturating_add(1);
                Some((retry_wait(entry.failures), work.level))
            }
        };
        let mut earlier = false;
        match (after, again) {
            // What has happened meanwhile is looked at now; a failure need not be remembered beside it.
            (Some((after, level)), None) => {
                earlier = self.add_after(work.key.clone(), level, now + after);
            }
            (Some((after, level)), Some(_)) if outcome != Outcome::Failed => {
                earlier = self.add_after(work.key.clone(), level, now + after);
            }
            _ => {}
        }
        let more = again.is_some_and(|level| self.add(work.key.clone(), level, now));
        if self.entries.get(&work.key).is_some_and(Entry::is_idle) {
            self.entries.remove(&work.key);
        }
        (more, earlier)
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.entries.retain(|_, e| e.working.is_some());
        self.levels = Default::default();
        self.delayed.clear();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn working(&self) -> usize {
        self.working
    }

    pub(crate) fn waiting(&self, level: Level) -> usize {
        self.levels[level as usize].waiting
    }

    pub(crate) fn delayed(&self) -> usize {
        self.delayed.len()
    }

    #[cfg(test)]
    pub(crate) fn voids(&self) -> usize {
        self.levels.iter().map(|l| l.void).sum()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.levels.iter().all(|l| l.waiting == 0)
    }
}

fn is_live(entries: &FxHashMap<WorkKey, Entry>, ticket: u64, key: &WorkKey) -> bool {
    entries.get(key).and_then(|e| e.waiting.as_ref()).is_some_and(|w| w.ticket == ticket)
}

fn retry_wait(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    (FIRST_RETRY * (1_u32 << doublings)).min(LONGEST_RETRY)
}
