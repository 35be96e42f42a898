//! Users of pods' own (`hostUsers: false`): which range of the machine's ids each such pod has. A range is a pod's for as long as anything of
//! the pod is here, and is written down, for files on disk belong to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use skep_runtime::spec::{IdMap, Ids, UserNamespace};

/// Ids of a pod: as many as images usually know; upstream's default.
const IDS_PER_POD: u32 = 1 << 16;

/// The ids of one pod: those of the machine from `first` on are its 0 and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    number: u32,
}

impl IdRange {
    /// What the pod's root is in the machine.
    #[must_use]
    pub fn first(self) -> u32 {
        self.number * IDS_PER_POD
    }

    /// What an id of the pod's is in the machine; nothing when it has no such id.
    #[must_use]
    pub fn outside(self, id: u32) -> Option<u32> {
        (id < IDS_PER_POD).then(|| self.first() + id)
    }

    /// As the runtime wants it.
    #[must_use]
    pub fn namespace(self) -> UserNamespace {
        let map = IdMap { inside: 0, outside: self.first(), count: IDS_PER_POD };
        UserNamespace { uids: vec![map], gids: vec![map] }
    }
}

/// See the module. Calls are a few of the file system's.
#[derive(Debug)]
pub struct PodUsers {
    records: PathBuf,
    ranges: u32,
    /// The images' directory, and where it is shown once more for each range, where ids can't be mapped here.
    images: Option<(PathBuf, PathBuf)>,
    taken: Mutex<BTreeMap<String, u32>>,
}

/// How many ranges there are behind the machine's own users, by `/proc/self/uid_map`. Only what begins at 0 counts.
fn ranges(uid_map: &str) -> u32 {
    let first = uid_map.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "0").then(|| words.nth(1)?.parse::<u32>().ok()).flatten()
    });
    (first.unwrap_or(0) / IDS_PER_POD).saturating_sub(1)
}

impl PodUsers {
    /// Takes up what the last agent wrote down. `images` and `shown` are the images' directory, and where it is shown once more for each range.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn open(
        records: PathBuf,
        images: &Path,
        shown: Option<&Path>,
        max_pods: u32,
    ) -> std::io::Result<PodUsers> {
        std::fs::create_dir_all(&records)?;
        let mut taken = BTreeMap::new();
        for entry in std::fs::read_dir(&records)?.flatten() {
            let number = std::fs::read_to_string(entry.path()).ok().and_then(|t| t.trim().parse().ok());
            match number {
                Some(number) => {
                    taken.insert(entry.file_name().to_string_lossy().into_owned(), number);
                }
                // A write that was cut off: nothing has been made with it.
                None => std::fs::remove_file(entry.path())?,
            }
        }
        let mut count = ranges(&std::fs::read_to_string("/proc/self/uid_map")?).min(max_pods);
        if let Some(shown) = shown {
            let there = std::fs::read_dir(shown).map_or(0, Iterator::count);
            count = count.min(u32::try_from(there).unwrap_or(u32::MAX));
        }
        let images = shown.map(|shown| (images.to_owned(), shown.to_owned()));
        Ok(PodUsers { records, ranges: count, images, taken: Mutex::new(taken) })
    }

    /// Whether pods can have users of their own here.
    #[must_use]
    pub fn available(&self) -> bool {
        self.ranges > 0
    }

    /// The pod's range, the same whenever it is asked for.
    ///
    /// # Errors
    /// A sentence, when there is none left.
    pub fn take(&self, uid: &str) -> Result<IdRange, String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = taken.get(uid) {
            return Ok(IdRange { number: *number });
        }
        let free = (1..=self.ranges).find(|n| !taken.values().any(|t| t == n));
        let number = free.ok_or_else(|| match self.ranges {
            0 => "hostUsers: false needs ids for users of the pod's own, and this node has none to give"
                .to_owned(),
            all => format!("all {all} ranges of ids for pods with hostUsers: false are in use on this node"),
        })?;
        let (path, new) = (self.records.join(uid), self.records.join(format!(".{uid}")));
        std::fs::write(&new, number.to_string())
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|e| format!("writing {}: {e}", path.display()))?;
        taken.insert(uid.to_owned(), number);
        Ok(IdRange { number })
    }

    /// Nothing of the pod is left.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn release(&self, uid: &str) -> std::io::Result<()> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.contains_key(uid) {
            match std::fs::remove_file(self.records.join(uid)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => taken.remove(uid),
            };
        }
        Ok(())
    }

    /// Where layers are seen with the ids of a range, and whose those are.
    #[must_use]
    pub fn layers(&self, range: Option<IdRange>, layers: &[PathBuf]) -> (Vec<PathBuf>, Ids) {
        let (Some(range), Some((images, shown))) = (range, &self.images) else {
            return (layers.to_vec(), Ids::Machine);
        };
        let place = shown.join(range.number.to_string());
        let show =
            |layer: &PathBuf| layer.strip_prefix(images).map_or_else(|_| layer.clone(), |l| place.join(l));
        (layers.iter().map(show).collect(), Ids::Pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_what_the_machines_own_users_leave() {
        assert_eq!(ranges("         0          0 4294967295\n"), 65534);
        assert_eq!(ranges("0 8388608 8388608\n"), 127);
        assert_eq!(ranges("0 1000 1\n"), 0);
        assert_eq!(ranges(""), 0);
    }

    #[test]
    fn a_range_is_one_pods_until_nothing_of_it_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let open = || PodUsers::open(dir.path().join("users"), Path::new("/images"), None, 2).unwrap();
        let users = open();
        let first = users.take("a").unwrap();
        assert_eq!((first.first(), first.outside(33), first.outside(65536)), (65536, Some(65569), None));
        assert_eq!(users.take("b").unwrap().first(), 131_072);
        assert!(users.take("c").unwrap_err().contains("all 2 ranges"));
        // The next agent knows.
        let users = open();
        assert_eq!(users.take("a").unwrap(), first);
        users.release("a").unwrap();
        users.release("a").unwrap();
        assert_eq!(users.take("c").unwrap(), first);
        assert_eq!(
            users.layers(Some(first), &["/images/l".into()]),
            (vec!["/images/l".into()], Ids::Machine)
        );
    }

    #[test]
    fn layers_are_seen_with_the_pods_ids_where_somebody_shows_them_so() {
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().join("shown");
        std::fs::create_dir_all(shown.join("1")).unwrap();
        let users =
            PodUsers::open(dir.path().join("users"), Path::new("/images"), Some(&shown), 110).unwrap();
        let range = users.take("a").unwrap();
        assert!(users.take("b").is_err(), "one is shown");
        let (layers, ids) = users.layers(Some(range), &["/images/layers/x".into()]);
        assert_eq!((layers, ids), (vec![shown.join("1/layers/x")], Ids::Pod));
        let (layers, ids) = users.layers(None, &["/images/layers/x".into()]);
        assert_eq!((layers, ids), (vec![PathBuf::from("/images/layers/x")], Ids::Machine));
    }
}
