//! Roles that run on every node and mostly wait give back what they do not need for waiting.

use std::time::Duration;

/// How often. What is needed meanwhile is mapped again from the page cache, some hundred pages.
const EVERY: Duration = Duration::from_secs(20);

/// Never returns.
pub(crate) async fn keep() {
    loop {
        tokio::time::sleep(EVERY).await;
        skep_runtime::lean::let_go_of_code();
    }
}
