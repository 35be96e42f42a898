//! Which user and group ids of the host a machine has for its own. Machine and host have none in common: root in the machine is
//! nobody on the host, and files of two machines belong to different owners.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use crate::driver::MachineId;
use crate::error::Error;
use crate::record::{self, Record};

/// Ids of one machine: those of its own users, and as many for each of 127 pods that are to have users of their own. Fewer would leave
/// pods without; more, and a host could not have 500 machines.
pub(crate) const IDS_PER_MACHINE: u32 = 1 << 23;
/// Ids of a pod that has users of its own: as many as images usually know, and as Kubernetes gives.
pub(crate) const IDS_PER_POD: u32 = 1 << 16;
/// How many pods of a machine can have users of their own: what its own users, who have the first range, leave.
pub(crate) const PODS: u32 = IDS_PER_MACHINE / IDS_PER_POD - 1;
/// The first range is the host's own (and holds what `/etc/subuid` usually hands out), and the last holds -1, which is no id.
const RANGES: u32 = (u32::MAX / IDS_PER_MACHINE) - 1;
/// Chooses a range that no other machine of this directory has, and calls `keep` with its first id before anybody else chooses.
pub(crate) fn choose(
    machines: &Path,
    id: &MachineId,
    keep: impl FnOnce(u32) -> Result<(), Error>,
) -> Result<(), Error> {
    let lock = fs::File::open(machines).map_err(Error::io("open", machines))?;
    lock.lock().map_err(Error::io("lock", machines))?;
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir(machines).map_err(Error::io("list", machines))?.flatten() {
        let record = match record::read::<Record>(&entry.path().join(super::RECORD)) {
            Ok(Some(record)) => record,
            // Nothing was made of it yet.
            Ok(None) | Err(Error::Record { .. }) => continue,
            Err(e) => return Err(e),
        };
        if entry.file_name() == id.as_str() && is_range(record.first_id) {
            return keep(record.first_id);
        }
        taken.insert(record.first_id);
    }
    // Two installations on one computer do not know of each other: they hardly begin at the same place.
    let mut hasher = DefaultHasher::new();
    machines.hash(&mut hasher);
    let first = free(&taken, u32::try_from(hasher.finish() % u64::from(RANGES)).unwrap_or(0));
    keep(first.ok_or_else(|| Error::Start { why: format!("all {RANGES} ranges of user ids are taken") })?)
}

fn is_range(first: u32) -> bool {
    first.is_multiple_of(IDS_PER_MACHINE) && (1..=RANGES).contains(&(first / IDS_PER_MACHINE))
}

fn free(taken: &BTreeSet<u32>, begin: u32) -> Option<u32> {
    (0..RANGES).map(|n| (1 + (begin + n) % RANGES) * IDS_PER_MACHINE).find(|first| !taken.contains(first))
}

/// A `uid_map` or `gid_map` for a range.
pub(crate) fn map(first: u32) -> String {
    format!("0 {first} {IDS_PER_MACHINE}\n")
}

/// The ids of the pods with users of their own, for `uid_map`, by the number of the range in the machine (from 1).
pub(crate) fn pod_maps(first: u32) -> impl Iterator<Item = (u32, String)> {
    (1..=PODS).map(move |n| (n, format!("0 {} {IDS_PER_POD}\n", first + n * IDS_PER_POD)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_ids_of_their_machine() {
        let maps: Vec<(u32, String)> = pod_maps(IDS_PER_MACHINE).collect();
        assert_eq!(maps.len(), 127);
        assert_eq!(maps[0], (1, "0 8454144 65536\n".to_owned()));
        assert_eq!(maps[126], (127, "0 16711680 65536\n".to_owned()), "the last id is the machine's last");
    }

    #[test]
    fn ranges_do_not_overlap_and_run_out_at_the_end() {
        let mut taken = BTreeSet::new();
        while let Some(first) = free(&taken, 77) {
            assert!(is_range(first) && first >= IDS_PER_MACHINE, "{first}");
            assert!(first.checked_add(IDS_PER_MACHINE).is_some_and(|end| end < u32::MAX), "{first}");
            assert!(taken.insert(first));
        }
        assert_eq!(taken.len(), RANGES as usize);
        const { assert!(RANGES > 500) };
        assert!(!is_range(0) && !is_range(IDS_PER_MACHINE + 1));
    }
}
