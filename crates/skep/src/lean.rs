//! Roles that run on every node and mostly wait, and those of the control plane, give back what they do not need.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use skep_runtime::lean;
use tokio::sync::Notify;
use tokio::time::Instant;

/// So long nothing happens before a role that mostly waits gives back what it took. Shorter, a pod's start would have it mapped several times; longer,
/// it is kept for nothing.
const QUIET: Duration = Duration::from_millis(40);

/// After so long it is given back in any case. What a lease, a look around or a pod's start maps is 10 MB and more where the kernel maps 16 pages for one that is
/// needed; what is needed of it is mapped again from the page cache, some hundred faults.
const LONGEST: Duration = Duration::from_millis(500);

/// So often the thread has nothing to do while [`keep`] sleeps and nothing else happens: timers wake it once or twice before their time.
const OWN_PARKS: u64 = 4;

/// How often a role of the control plane does: it has work at any time, and takes up again what that needs.
const EVERY_OF_MANY: Duration = Duration::from_secs(20);

/// How often the thread had nothing to do.
static PARKS: AtomicU64 = AtomicU64::new(0);
/// What [`parked`] is to do.
static THEN: AtomicU8 = AtomicU8::new(TELL);
/// Nothing: [`keep`] looks at [`PARKS`].
const NOTHING: u8 = 0;
/// Tell [`keep`] that something has been done.
const TELL: u8 = 1;
/// Give back what was taken: all that was ready to be done has been.
const GIVE_BACK: u8 = 2;
static DONE: Notify = Notify::const_new();

/// To be called whenever the only thread of a runtime has nothing to do: so nothing looks at a clock while nothing happens.
pub(crate) fn parked() {
    PARKS.fetch_add(1, Ordering::Relaxed);
    match THEN.load(Ordering::Relaxed) {
        TELL => {
            THEN.store(NOTHING, Ordering::Relaxed);
            DONE.notify_one();
        }
        GIVE_BACK => {
            THEN.store(TELL, Ordering::Relaxed);
            lean::let_go_of_heap();
            lean::let_go_of_code();
        }
        _ => {}
    }
}

/// For a role that mostly waits, on a runtime that calls [`parked`]. Never returns.
pub(crate) async fn keep() {
    lean::map_code_by_pages();
    loop {
        DONE.notified().await;
        let begun = Instant::now();
        loop {
            let before = PARKS.load(Ordering::Relaxed);
            tokio::time::sleep(QUIET).await;
            let quiet = PARKS.load(Ordering::Relaxed).wrapping_sub(before) <= OWN_PARKS;
            if quiet || begun.elapsed() >= LONGEST {
                break;
            }
        }
        THEN.store(GIVE_BACK, Ordering::Relaxed);
    }
}

/// For a role of the control plane. Never returns.
pub(crate) async fn keep_busy() {
    // Not before: a start is to be fast, and touches much that is next to each other.
    tokio::time::sleep(EVERY_OF_MANY).await;
    lean::map_code_by_pages();
    loop {
        lean::let_go_of_code();
        tokio::time::sleep(EVERY_OF_MANY).await;
    }
}
