//! Requests shared fairly between tenants.
//!
//! So many requests are worked on at once; what comes on top waits in a queue of its tenant. When a place
//! becomes free it goes to the waiting tenant that has had least for its weight (start-time fair queueing:
//! Goyal, Vin and Cheng, 1996), so a tenant that floods waits for itself. A queue that is full answers 429.
//! What the operator's controllers do for a tenant is its share too, but has a queue of its own, served in turn with what its own clients ask:
//! a Deployment of thousands of pods must not have its tenant's nodes and users turned away.
//! Watches hold a place only while they begin.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skep_base::TenantName;
use tokio::sync::oneshot;

use crate::status::ApiError;

/// Requests worked on at once, for each processor. Half of a request's time is waiting for the disk, together with others: much
/// fewer places would make commit groups smaller; more would only move the queue to where nobody is fair, for whoever has a
/// place shares the processors with all others that have one.
const PLACES_PER_PROCESSOR: usize = 32;

/// Places on a computer with one processor or two.
const PLACES_MIN: usize = 64;

/// Requests worked on at once.
#[must_use]
pub fn places() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    (processors * PLACES_PER_PROCESSOR).max(PLACES_MIN)
}

/// Waiting requests of one tenant's clients, and as many of who works for it. At some 10,000 requests a second these are served in well under a second;
/// a client that waits longer is better told to come back.
pub const QUEUE: usize = 1024;

/// What a client that is turned away is told to wait.
const RETRY_AFTER_S: u32 = 1;

/// The virtual time that one request of a tenant of weight 1 takes.
const UNIT: u64 = 1_000_000;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The tenant's own clients, its nodes among them.
    Tenant,
    /// The operator's system, in the tenant's name.
    System,
}

#[derive(Default)]
struct Queue {
    /// By [`Asker`].
    waiting: [VecDeque<oneshot::Sender<()>>; 2],
    /// Whose turn it is, if both wait.
    turn: usize,
    /// The virtual time up to which the tenant has been served.
    served: u64,
    weight: u32,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    fn pop(&mut self) -> Option<oneshot::Sender<()>> {
        let first = self.turn;
        self.turn = 1 - first;
        self.waiting[first].pop_front().or_else(|| self.waiting[1 - first].pop_front())
    }
}

#[derive(Default)]
struct State {
    busy: usize,
    now: u64,
    queues: FxHashMap<TenantName, Queue>,
    /// Tenants that wait, by the virtual time of their next request.
    next: BTreeSet<(u64, TenantName)>,
}

/// See the module.
pub struct Fair {
    places: usize,
    queue: usize,
    state: Mutex<State>,
}

/// A place; free again when dropped.
pub struct Place(Arc<Fair>);

impl Fair {
    /// With so many places, and queues so long.
    #[must_use]
    pub fn new(places: usize, queue: usize) -> Arc<Fair> {
        Arc::new(Fair { places, queue, state: Mutex::default() })
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// 429 when the queue is full.
    pub async fn enter(
        self: &Arc<Fair>,
        tenant: &TenantName,
        weight: u32,
        asker: Asker,
    ) -> Result<Place, ApiError> {
        let turn = {
            let mut state = self.state.lock();
            let state = &mut *state;
            if state.busy < self.places && state.next.is_empty() {
                state.busy += 1;
                return Ok(Place(self.clone()));
            }
            let now = state.now;
            let queue = state.queues.entry(tenant.clone()).or_default();
            if queue.waiting[asker as usize].len() >= self.queue {
                return Err(ApiError::too_many_requests(
                    "too many requests of this tenant are waiting, please try again later",
                    RETRY_AFTER_S,
                ));
            }
            queue.weight = weight.max(1);
            if queue.is_empty() {
                // Who comes anew has no claim on the past.
                queue.served = queue.served.max(now);
                state.next.insert((queue.served, tenant.clone()));
            }
            let (sender, turn) = oneshot::channel();
            queue.waiting[asker as usize].push_back(sender);
            turn
        };
        match turn.await {
            Ok(()) => Ok(Place(self.clone())),
            Err(_) => Err(ApiError::unavailable("the server is shutting down")),
        }
    }

    /// How many requests have a place, and how many wait.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.busy, state.queues.values().map(Queue::len).sum())
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        let state = &mut *state;
        // Who has gone away while waiting is passed over.
        while let Some((time, tenant)) = state.next.pop_first() {
            let Some(queue) = state.queues.get_mut(&tenant) else { continue };
            let turn = queue.pop();
            state.now = state.now.max(time);
            queue.served = time + UNIT / u64::from(queue.weight.max(1));
            if queue.is_empty() {
                // Kept out of the map, a tenant costs nothing; its debt is at most one request.
                state.queues.remove(&tenant);
            } else {
                let served = queue.served;
                state.next.insert((served, tenant));
            }
            if turn.is_some_and(|t| t.send(()).is_ok()) {
                return;
            }
        }
        state.busy -= 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    /// One place; a greedy tenant queues 50 requests, then a quiet one comes: it is served next but one.
    #[tokio::test]
    async fn a_flood_waits_for_itself() {
        let fair = Fair::new(1, 100);
        let first = fair.enter(&tenant("greedy"), 100, Asker::Tenant).await.unwrap();
        let order: Arc<Mutex<Vec<&str>>> = Arc::default();
        let mut tasks = Vec::new();
        for name in std::iter::repeat_n("greedy", 50).chain(["quiet"]) {
            let (fair, order) = (fair.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let place = fair.enter(&tenant(name), 100, Asker::Tenant).await.unwrap();
                order.lock().push(name);
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(fair.load(), (1, 51));
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        let at = order.lock().iter().position(|n| *n == "quiet").unwrap();
        assert!(at <= 1, "the quiet tenant was served as number {at}");
        assert_eq!(fair.load(), (0, 0));
    }

    /// Two tenants that always have requests waiting are served in the ratio of their weights.
    #[tokio::test]
    async fn weights_are_kept() {
        let fair = Fair::new(1, 1000);
        let first = fair.enter(&tenant("x"), 1, Asker::Tenant).await.unwrap();
        let order: Arc<Mutex<Vec<&str>>> = Arc::default();
        let mut tasks = Vec::new();
        for (name, weight) in std::iter::repeat_n([("heavy", 300), ("light", 100)], 200).flatten() {
            let (fair, order) = (fair.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let place = fair.enter(&tenant(name), weight, Asker::Tenant).await.unwrap();
                order.lock().push(name);
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        let heavy = order.lock().iter().take(200).filter(|n| **n == "heavy").count();
        assert!(
            (145..=155).contains(&heavy),
            "{heavy} of the first 200 were of the tenant with three times the weight"
        );
    }

    #[tokio::test]
    async fn a_full_queue_says_so_and_waiters_that_go_away_leave_no_trace() {
        let fair = Fair::new(1, 2);
        let first = fair.enter(&tenant("a"), 1, Asker::Tenant).await.unwrap();
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let fair = fair.clone();
                tokio::spawn(async move { fair.enter(&tenant("a"), 1, Asker::Tenant).await.map(|_| ()) })
            })
            .collect();
        tokio::task::yield_now().await;
        let Err(refused) = fair.enter(&tenant("a"), 1, Asker::Tenant).await else {
            panic!("the queue is full")
        };
        assert_eq!(refused.code, 429);
        waiters.iter().for_each(|w| w.abort());
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(fair.load(), (0, 0));
        assert!(fair.enter(&tenant("a"), 1, Asker::Tenant).await.is_ok());
    }

    /// A tenant whose controllers have filled their queue is served itself, every other time.
    #[tokio::test]
    async fn controllers_do_not_turn_the_tenant_away() {
        let fair = Fair::new(1, 10);
        let first = fair.enter(&tenant("a"), 1, Asker::System).await.unwrap();
        let order: Arc<Mutex<Vec<Asker>>> = Arc::default();
        let mut tasks = Vec::new();
        for asker in std::iter::repeat_n(Asker::System, 10).chain([Asker::Tenant, Asker::Tenant]) {
            let (fair, order) = (fair.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let place = fair.enter(&tenant("a"), 1, asker).await.unwrap();
                order.lock().push(asker);
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        let Err(refused) = fair.enter(&tenant("a"), 1, Asker::System).await else { panic!("it is full") };
        assert_eq!(refused.code, 429);
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        let own = order.lock().iter().rposition(|asker| *asker == Asker::Tenant);
        assert!(own < Some(4), "the tenant's own were served as late as number {own:?}");
        assert_eq!(fair.load(), (0, 0));
    }
}
