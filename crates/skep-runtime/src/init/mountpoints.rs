//! The mount points of containers, as a layer below their image's.
//!
//! Images seldom have all directories and files onto which a container's volumes are mounted. Made in the writable layer they are a dozen files on a disk for
//! each container, made when it starts and removed when it ends, and were a third of the work of starting one. Containers that are alike share one directory
//! that has them instead. It lies below everything else: what the image has counts.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Such directories of one machine. A tenant chooses where its volumes are mounted; containers beyond this many kinds have their mount points in
/// their writable layers.
const MOST: usize = 256;

/// What a layer holds: paths below the root, and whether each is a directory.
pub(super) type Points = BTreeSet<(PathBuf, bool)>;

/// The layer that holds these in `folder`, made if it is not there; `None` where there are too many. `unique` is a name that nobody else uses now.
pub(super) fn layer(folder: &Path, points: &Points, unique: &str) -> io::Result<Option<PathBuf>> {
    let mut hasher = DefaultHasher::new();
    points.hash(&mut hasher);
    let name = format!("{:016x}", hasher.finish());
    let place = folder.join(&name);
    if place.is_dir() {
        return Ok(Some(place));
    }
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    if fs::read_dir(folder)?.count() >= MOST {
        return Ok(None);
    }
    // It appears whole, or not at all.
    let new = folder.join(format!("{name}.{unique}"));
    let made = fill(&new, points).and_then(|()| fs::rename(&new, &place));
    if made.is_err() {
        fs::remove_dir_all(&new)?;
    }
    match made {
        // Somebody else was faster.
        Err(_) if place.is_dir() => Ok(Some(place)),
        made => made.map(|()| Some(place)),
    }
}

fn fill(root: &Path, points: &Points) -> io::Result<()> {
    let folder = |path: &Path| DirBuilder::new().recursive(true).mode(0o755).create(path);
    folder(root)?;
    for (path, is_folder) in points {
        let path = root.join(path);
        if *is_folder {
            folder(&path)?;
            continue;
        }
        folder(path.parent().unwrap_or(root))?;
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(paths: &[(&str, bool)]) -> Points {
        paths.iter().map(|(path, folder)| (PathBuf::from(path), *folder)).collect()
    }

    #[test]
    fn those_that_are_alike_share_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("mountpoints");
        let one = points(&[("etc/hosts", false), ("var/run/secrets", true), ("proc", true)]);
        let first = layer(&at, &one, "a").unwrap().unwrap();
        assert!(first.join("etc/hosts").is_file() && first.join("var/run/secrets").is_dir());
        assert_eq!(layer(&at, &one, "b").unwrap(), Some(first.clone()));
        let other = layer(&at, &points(&[("etc/hosts", true)]), "c").unwrap().unwrap();
        assert!(other != first && other.join("etc/hosts").is_dir());
        assert_eq!(fs::read_dir(&at).unwrap().count(), 2, "nothing half done is left");
    }

    #[test]
    fn what_cannot_be_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let below_a_file = points(&[("a", false), ("a/b", true)]);
        assert!(layer(folder.path(), &below_a_file, "x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn their_number_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..MOST {
            assert!(layer(folder.path(), &points(&[(&n.to_string(), true)]), "x").unwrap().is_some());
        }
        assert_eq!(layer(folder.path(), &points(&[("one-more", true)]), "x").unwrap(), None);
        assert!(
            layer(folder.path(), &points(&[("7", true)]), "x").unwrap().is_some(),
            "those that are there serve"
        );
    }
}
