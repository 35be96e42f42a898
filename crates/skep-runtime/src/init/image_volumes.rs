//! Images as volumes: their layers laid over one another, to be read only.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount,
};

use super::rootfs::{Source, attach, clone_fd, clone_tree, is_directory, mapped};
use super::{InitTask, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{Ids, Mount, MountSource};
use crate::sys;

/// Opens the images that are the container's volumes. The machine's mounts must have been left: an overlay needs its layers attached.
pub(super) fn open(task: &InitTask<'_>, idmap: Option<BorrowedFd<'_>>) -> Result<Vec<Source>> {
    let mut all = Vec::new();
    for (number, wanted) in task.spec.mounts.iter().enumerate() {
        if let MountSource::Image { layers, sub_path } = &wanted.source {
            let place = task.directory.join(format!("image{number}"));
            let mount = open_one(&place, wanted, layers, sub_path.as_deref(), idmap)?;
            let directory = is_directory(&mount);
            all.push(Source { target: wanted.target.clone(), mount, directory });
        }
    }
    Ok(all)
}

fn open_one(
    place: &Path,
    wanted: &Mount,
    layers: &[PathBuf],
    sub_path: Option<&Path>,
    idmap: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let doing = || format!("cannot mount the image volume at {}", wanted.target.display());
    // What is only read has two layers at least, and the lowest of them nothing in it.
    let (empty, root) = (place.join("empty"), place.join("root"));
    for folder in [&empty, &root] {
        fs::create_dir_all(folder).map_err(failed(doing()))?;
    }
    let mut lower: Vec<PathBuf> = layers.iter().rev().cloned().collect();
    if let Some(namespace) = idmap.filter(|_| wanted.ids == Ids::Machine) {
        lower = mapped(place, &lower, namespace)?;
    }
    lower.push(empty);
    let overlay = overlay(&lower, &root).map_err(failed(doing()))?;
    let Some(below) = sub_path else { return Ok(overlay) };
    // Only what is attached can be attached in parts.
    let target = sys::open_path(&root).map_err(failed(doing()))?;
    attach(&overlay, &target, &root)?;
    let found = sys::open_beneath(&overlay, below, OFlags::PATH).map_err(|e| Error {
        kind: ErrorKind::StartFailed,
        message: format!("{}: cannot open {:?} in the image", doing(), below.display().to_string()),
        source: Some(e),
    })?;
    clone_fd(&found, false).map_err(failed(doing()))
}

/// Nothing of an image that is a volume is executed: it brings data.
const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

fn overlay(lower: &[PathBuf], place: &Path) -> std::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let userxattr = !sys::initial_user_namespace();
    let mut whole = true;
    for layer in lower {
        whole &= fsconfig_set_string(&context, "lowerdir+", layer.as_path()).is_ok();
    }
    if !whole {
        // Kernels before 6.7 take all layers in one option of limited length.
        let list: Vec<String> = lower.iter().map(|l| l.display().to_string()).collect();
        let user = if userxattr { ",userxattr" } else { "" };
        let options = std::ffi::CString::new(format!("lowerdir={}{user}", list.join(":")))?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("overlay", place, "overlay", flags, Some(options.as_c_str()))?;
        return clone_tree(place, false).map_err(std::io::Error::other);
    }
    if userxattr {
        fsconfig_set_flag(&context, "userxattr")?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, ATTRIBUTES)?)
}
