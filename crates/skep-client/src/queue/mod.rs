//! One shared queue of work for all controllers of a process.
//!
//! - **Keys once.** A key that waits is not queued again; one that is being worked on is queued again afterwards. So no
//!   two workers ever work on one key.
//! - **Levels.** [`Level::Add`] > [`Level::Update`] > [`Level::Delete`] > [`Level::SyncAll`]. A key moves up when something more
//!   urgent happens to it, and never down.
//! - **No starvation.** Of any [`STARVATION_BOUND`] pops in a row each level that waits gets at least one.
//! - **Fair.** Inside a level the tenant is served that has had least for its weight (start-time fair queueing), so a
//!   tenant with a million keys delays one with a single key by one piece of work.
//! - **Retries** of a key come later each time, up to [`LONGEST_RETRY`].
//!
//! The rules are in `core`, without locks or a clock; here they get both.

mod core;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use skep_base::TenantName;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::core::Core;
pub use self::core::{
    DEFAULT_WEIGHT, FIRST_RETRY, LONGEST_RETRY, Level, Outcome, RESERVED_EVERY, STARVATION_BOUND, Work,
    WorkKey,
};
pub use self::metrics::{Metrics, TenantClass};

/// A lock, so that a test can put its own in.
trait Guarded<T>: Send + Sync {
    fn new(value: T) -> Self;
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

impl<T: Send> Guarded<T> for Mutex<T> {
    fn new(value: T) -> Mutex<T> {
        Mutex::new(value)
    }
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.lock())
    }
}

#[derive(Default)]
struct State {
    core: Core,
    /// Workers that wait for something to do.
    waiters: VecDeque<(u64, Waker)>,
    waiter: u64,
    /// Those who wait for the last work to be finished.
    drainers: Vec<Waker>,
}

impl State {
    fn take_waiter(&mut self) -> Option<Waker> {
        self.waiters.pop_front().map(|(_, waker)| waker)
    }
}

struct Shared<G> {
    state: G,
    start: Instant,
    timer: Notify,
}

impl<G: Guarded<State>> Shared<G> {
    fn new() -> Shared<G> {
        Shared { state: G::new(State::default()), start: Instant::now(), timer: Notify::new() }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Changes the state, and wakes a worker for each thing that there is to do more.
    fn change(&self, f: impl FnOnce(&mut Core) -> usize) {
        let wakers: Vec<Waker> = self.state.with(|s| {
            let more = f(&mut s.core);
            (0..more).map_while(|_| s.take_waiter()).collect()
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    fn add(&self, key: WorkKey, level: Level) {
        let now = self.now();
        self.change(|core| usize::from(core.add(key, level, now)));
    }

    fn finish(&self, work: &Work, outcome: Outcome) {
        let now = self.now();
        let mut earlier = false;
        self.change(|core| {
            let (more, sooner) = core.finish(work, outcome, now);
            earlier = sooner;
            usize::from(more)
        });
        if earlier {
            self.timer.notify_one();
        }
        let drainers = self
            .state
            .with(|s| if s.core.working() == 0 { std::mem::take(&mut s.drainers) } else { Vec::new() });
        drainers.into_iter().for_each(Waker::wake);
    }

    fn close(&self) {
        let wakers = self.state.with(|s| {
            s.core.close();
            std::mem::take(&mut s.waiters)
        });
        wakers.into_iter().for_each(|(_, w)| w.wake());
    }

    fn pop(&self) -> Pop<'_, G> {
        Pop { shared: self, waiter: None }
    }
}

/// Waits for work.
struct Pop<'a, G: Guarded<State>> {
    shared: &'a Shared<G>,
    waiter: Option<u64>,
}

impl<G: Guarded<State>> Future for Pop<'_, G> {
    type Output = Option<Work>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        let now = self.shared.now();
        let shared = self.shared;
        let (result, waiter) = shared.state.with(|s| {
            if let Some(id) = self.waiter {
                s.waiters.retain(|(other, _)| *other != id);
            }
            if let Some(work) = s.core.pop(now) {
                return (Poll::Ready(Some(work)), None);
            }
            if s.core.is_closed() {
                return (Poll::Ready(None), None);
            }
            s.waiter += 1;
            s.waiters.push_back((s.waiter, cx.waker().clone()));
            (Poll::Pending, Some(s.waiter))
        });
        self.waiter = waiter;
        result
    }
}

impl<G: Guarded<State>> Drop for Pop<'_, G> {
    fn drop(&mut self) {
        let Some(id) = self.waiter else { return };
        // Who was woken and goes away without having looked passes the call on.
        let next = self.shared.state.with(|s| {
            let before = s.waiters.len();
            s.waiters.retain(|(other, _)| *other != id);
            if s.waiters.len() == before { s.take_waiter() } else { None }
        });
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

/// See the [module](self). Clones are the same queue.
#[derive(Clone)]
pub struct WorkQueue {
    shared: Arc<Shared<Mutex<State>>>,
}

impl Default for WorkQueue {
    fn default() -> WorkQueue {
        WorkQueue::new()
    }
}

impl WorkQueue {
    /// An empty queue. Somebody must run [`WorkQueue::run_timers`].
    #[must_use]
    pub fn new() -> WorkQueue {
        WorkQueue { shared: Arc::new(Shared::new()) }
    }

    /// A key is to be looked at.
    pub fn add(&self, key: WorkKey, level: Level) {
        self.shared.add(key, level);
    }

    /// A key is to be looked at after a while. Of several such requests the earliest counts; a key that is added otherwise
    /// meanwhile still comes once more then.
    pub fn add_after(&self, key: WorkKey, level: Level, after: Duration) {
        if after.is_zero() {
            return self.add(key, level);
        }
        let due = self.shared.now() + after;
        if self.shared.state.with(|s| s.core.add_after(key, level, due)) {
            self.shared.timer.notify_one();
        }
    }

    /// The next piece of work, when there is one; `None` when the queue has been closed. Every piece must be handed back with
    /// [`WorkQueue::finish`].
    pub async fn pop(&self) -> Option<Work> {
        self.shared.pop().await
    }

    /// Work is finished, one way or another.
    pub fn finish(&self, work: &Work, outcome: Outcome) {
        self.shared.finish(work, outcome);
    }

    /// A tenant's share; `None` for the usual one.
    pub fn set_weight(&self, tenant: &TenantName, weight: Option<u32>) {
        self.shared.state.with(|s| s.core.set_weight(tenant.clone(), weight));
    }

    /// Nothing more is given out or taken in.
    pub fn close(&self) {
        self.shared.close();
        self.shared.timer.notify_one();
    }

    /// Returns when nothing is being worked on.
    pub async fn drained(&self) {
        std::future::poll_fn(|cx| {
            self.shared.state.with(|s| {
                if s.core.working() == 0 {
                    return Poll::Ready(());
                }
                s.drainers.push(cx.waker().clone());
                Poll::Pending
            })
        })
        .await;
    }

    /// Queues what becomes due, until the queue is closed.
    pub async fn run_timers(&self) {
        loop {
            let now = self.shared.now();
            self.shared.change(|core| core.release(now));
            let (due, closed) = self.shared.state.with(|s| (s.core.next_due(), s.core.is_closed()));
            if closed {
                return;
            }
            let notified = self.shared.timer.notified();
            match due {
                Some(due) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(self.shared.start + due) => {}
                        () = notified => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// Counters as they are now.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.shared.state.with(|s| {
            let mut metrics = s.core.metrics.clone();
            metrics.depth = Level::ALL.map(|l| s.core.waiting(l));
            metrics.delayed = s.core.delayed();
            metrics.working = s.core.working();
            metrics
        })
    }
}
