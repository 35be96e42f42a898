//! Roles that run on every node and mostly wait, and those of the control plane, give back what they do not need.

use std::time::Duration;

/// How often. What a lease, a look around or a pod's start maps (10 MB and more, for the kernel maps 16 pages where one is needed) is back half a second
/// later. What is needed meanwhile is mapped again from the page cache: some dozen faults where nothing happens, a fifth of a thousandth of a
/// processor.
const EVERY: Duration = Duration::from_millis(500);

/// How often a role of the control plane does: it has work at any time, and takes up again what that needs.
const EVERY_OF_MANY: Duration = Duration::from_secs(20);

/// For a role that mostly waits. Never returns.
pub(crate) async fn keep() {
    each(EVERY).await;
}

/// For a role of the control plane. Never returns.
pub(crate) async fn keep_busy() {
    each(EVERY_OF_MANY).await;
}

async fn each(period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        skep_runtime::lean::let_go_of_code();
    }
}
