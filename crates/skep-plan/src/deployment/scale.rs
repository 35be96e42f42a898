//! How many pods a Deployment may have and must have, and how a change of its size is shared out.

use super::revision::annotation_count;
use super::{Deployment, MAX_REPLICAS, Strategy};
use crate::replicaset::ReplicaSet;

/// How many more than wanted, and how many of those wanted may be missing, in whole pods. Both zero would stop a
/// rollout for good: then one may be missing, for a surplus pod might not be let in.
fn fenceposts(d: &Deployment) -> (i32, i32) {
    let Strategy::RollingUpdate { max_surge, max_unavailable } = d.strategy else { return (0, 0) };
    let surge = max_surge.up(d.replicas);
    let unavailable = max_unavailable.down(d.replicas);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(d: &Deployment) -> i32 {
    fenceposts(d).0
}

pub(super) fn max_unavailable(d: &Deployment) -> i32 {
    if matches!(d.strategy, Strategy::Recreate) || d.replicas == 0 {
        return 0;
    }
    fenceposts(d).1.min(d.replicas)
}

/// The size of the new replica set, where `total` pods are wanted of all of them now.
pub(super) fn new_replicas(d: &Deployment, total: i32, new: i32) -> i32 {
    let Strategy::RollingUpdate { max_surge, .. } = d.strategy else { return d.replicas };
    let most = d.replicas.saturating_add(max_surge.up(d.replicas));
    if total >= most {
        return new;
    }
    new + (most - total).min(d.replicas - new)
}

/// What a replica set gets of `to_add` pods (or loses, if negative), of which `added` are shared out already.
pub(super) fn proportion(d: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if set.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let share = fraction(d, set);
    let left = to_add - added;
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn fraction(d: &Deployment, set: &ReplicaSet) -> i32 {
    if d.replicas == 0 {
        return -set.replicas;
    }
    let most = d.replicas.saturating_add(max_surge(d));
    // Before the change the whole was this large: the replica set has noted it.
    let before = annotation_count(&set.meta, MAX_REPLICAS).filter(|n| *n != 0).unwrap_or(d.status.replicas);
    if before == 0 {
        return 0;
    }
    let size = f64::from(set.replicas) * f64::from(most) / f64::from(before);
    // The result is at most a few times `most`; a cast saturates.
    #[expect(clippy::cast_possible_truncation)]
    let rounded = size.round() as i32;
    rounded - set.replicas
}
