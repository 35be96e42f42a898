//! Roles that run on every node and mostly wait, and those of the control plane, give back what they do not need.

use std::time::Duration;

/// How often. What a lease, a look around or a pod's start maps (10 MB and more, for the kernel maps 16 pages where one is needed) is back half a second
/// later. What is needed meanwhile is mapped again from the page cache: some dozen faults where nothing happens, a fifth of a thousandth of a
/// processor.
const EVERY: Duration = Duration::from_millis(500);

/// Never returns.
pub(crate) async fn keep() {
    loop {
        tokio::time::sleep(EVERY).await;
        skep_runtime::lean::let_go_of_code();
    }
}
