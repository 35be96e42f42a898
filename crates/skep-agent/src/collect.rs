//! Images that no container uses go when the disk is full: upstream's thresholds, events and order. How much has to go is a pure function.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::context::Node;
use crate::events::Level;
use crate::store_images::StoreImages;

/// How often is looked: upstream's.
const EVERY: Duration = Duration::from_secs(300);
/// In percent of the disk: above this images go, until it is below that. Upstream's.
const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;

/// How many bytes have to go.
fn excess(capacity: u64, available: u64) -> Option<(u64, u64)> {
    // A disk that tells nothing of itself is not full.
    if capacity == 0 {
        return None;
    }
    let used = capacity.saturating_sub(available);
    let percent = used.saturating_mul(100) / capacity;
    let allowed = capacity / 100 * LOW_PERCENT;
    (percent >= HIGH_PERCENT).then_some((percent, used.saturating_sub(allowed)))
}

/// Looks from time to time. Never ends.
pub(crate) async fn run(images: Arc<StoreImages>, node: Arc<Node>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let full = match images.disk().await {
            Ok((capacity, available)) => excess(capacity, available),
            Err(error) => {
                tracing::warn!(%error, "the disk of images cannot be looked at");
                continue;
            }
        };
        let Some((percent, bytes)) = full else { continue };
        match images.free(bytes, &BTreeSet::new()).await {
            Ok(freed) if freed >= bytes => {}
            Ok(freed) => {
                let message = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only \
                     found {freed} bytes eligible to free. Disk usage is at {percent}% which exceeds the limit."
                );
                node.events.node(&node.name, Level::Warning, "FreeDiskSpaceFailed", &message);
            }
            Err(error) => {
                node.events.node(&node.name, Level::Warning, "ImageGCFailed", error.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_go() {
        assert_eq!(excess(1000, 500), None);
        assert_eq!(excess(1000, 151), None);
        assert_eq!(excess(1000, 150), Some((85, 50)));
        assert_eq!(excess(1000, 0), Some((100, 200)));
        assert_eq!(excess(0, 0), None);
    }
}
