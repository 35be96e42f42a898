//! What a container sees as its files.
//!
//! Everything is mounted by descriptor: opened first (as far as possible where the container cannot reach), then attached.
//! Targets are resolved inside the container's root by the kernel (`RESOLVE_IN_ROOT`), so links in an image lead nowhere else.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use super::mountpoints::{self, Points};
use super::{InitTask, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{MOUNT_POINTS, ROOTFS, state_of};
use crate::spec::{Access, Device, Devices, Ids, Mount, MountSource, Network, Propagation, UserNamespace};
use crate::sys::{
    self, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
    MountAttributes, mount_setattr,
};

/// The writable layer, in the container's directory or where the spec says.
const UPPER: &str = "upper";
/// What the overlay needs beside it.
const WORK: &str = "work";

/// The nodes that every container has.
const USUAL_DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The group of terminals, in all images by convention.
const TTY_GROUP: u32 = 5;

/// A volume, opened and not attached yet.
pub(super) struct Source {
    pub(super) target: PathBuf,
    pub(super) mount: OwnedFd,
    pub(super) directory: bool,
}

/// What is opened before the machine's mounts are left.
pub(super) struct Sources {
    /// Shallower first: what is mounted later is on top.
    pub(super) volumes: Vec<Source>,
    shm: OwnedFd,
    groups: Vec<(String, OwnedFd)>,
    devices: Vec<Source>,
}

pub(super) fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd> {
    clone_at(CWD, path, recursive, OpenTreeFlags::empty())
}

pub(super) fn clone_fd(fd: impl AsFd, recursive: bool) -> std::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(fd, "", flags)?)
}

fn clone_at(at: impl AsFd, path: &Path, recursive: bool, extra: OpenTreeFlags) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | extra;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(at, path, flags).map_err(failed(format!("cannot open {} for mounting", path.display())))
}

pub(super) fn is_directory(fd: impl AsFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
}

/// Opens volumes, shared memory, devices and control groups among the machine's mounts.
pub(super) fn open_sources(task: &InitTask<'_>, idmap: Option<BorrowedFd<'_>>) -> Result<Sources> {
    let mut volumes = Vec::new();
    for mount in &task.spec.mounts {
        check_target(&mount.target)?;
        let opened = match &mount.source {
            MountSource::Bind { path, sub_path } => {
                let users = task.sandbox.user_namespace.as_ref();
                let owner = users.filter(|_| mount.ids == Ids::Pod).map(UserNamespace::root);
                let opened = open_volume(path, sub_path.as_deref(), owner)?;
                set_volume(&opened, mount, idmap.filter(|_| mount.ids == Ids::Machine))?;
                opened
            }
            // Once the machine's mounts are left.
            MountSource::Image { .. } => continue,
            MountSource::Tmpfs { size_bytes, mode } => {
                let mut options = vec![("mode", format!("{mode:o}"))];
                if let Some(size) = size_bytes {
                    options.push(("size", size.to_string()));
                }
                let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                if mount.access != Access::Write {
                    attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
                }
                new_mount("tmpfs", &options, attributes)?
            }
        };
        let directory = is_directory(&opened);
        volumes.push(Source { target: mount.target.clone(), mount: opened, directory });
    }
    let shm = match task.sandbox.host_ipc {
        true => clone_tree(Path::new("/dev/shm"), false)?,
        false => clone_tree(&task.pod.join(crate::runtime::SHM), false)?,
    };
    let mut groups = Vec::new();
    for (name, directory) in task.groups {
        let mount = clone_tree(directory, false)?;
        let mut set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        if !task.spec.writable_sys {
            set |= MOUNT_ATTR_RDONLY;
        }
        change(&mount, false, set, libc::MS_PRIVATE)?;
        groups.push((name.clone(), mount));
    }
    let mut devices = Vec::new();
    if task.namespaces.user.is_some() || !sys::initial_user_namespace() {
        for (name, ..) in USUAL_DEVICES {
            let mount = clone_tree(&Path::new("/dev").join(name), false)?;
            devices.push(Source { target: Path::new("/dev").join(name), mount, directory: false });
        }
    }
    match &task.spec.devices {
        Devices::Usual => {}
        Devices::Some(some) => {
            for Device { source, target, .. } in some {
                check_target(target)?;
                let mount = clone_tree(source, false)?;
                devices.push(Source { target: target.clone(), mount, directory: false });
            }
        }
        Devices::All => devices.extend(all_devices()?),
    }
    for device in &devices {
        change(&device.mount, false, 0, libc::MS_PRIVATE)?;
    }
    Ok(Sources { volumes, shm, groups, devices })
}

/// All device nodes of the machine that are not the terminal's or the runtime's own.
fn all_devices() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/dev")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(failed("cannot list the machine's devices"))?.flatten() {
            use std::os::unix::fs::FileTypeExt;
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            let skip = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/hugepages"];
            let usual = USUAL_DEVICES.iter().any(|(name, ..)| path == Path::new("/dev").join(name));
            if usual || skip.iter().any(|s| path == Path::new(s)) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_char_device() || kind.is_block_device() {
                let mount = clone_tree(&path, false)?;
                found.push(Source { target: path, mount, directory: false });
            }
        }
    }
    Ok(found)
}

/// `/proc` is where the kernel believes what it reads: nothing may be laid over it. And mounts have names.
fn check_target(target: &Path) -> Result<()> {
    let normal = target.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !target.is_absolute() || !normal || target == Path::new("/") {
        return Err(Error::invalid(format!(
            "cannot mount at {:?}: the path must be absolute, without `..`, and not the root itself",
            target.display().to_string()
        )));
    }
    if target.starts_with("/proc") {
        return Err(Error::invalid(format!(
            "cannot mount at {}: nothing may be mounted in /proc",
            target.display()
        )));
    }
    Ok(())
}

fn open_volume(path: &Path, sub_path: Option<&Path>, owner: Option<(u32, u32)>) -> Result<OwnedFd> {
    let volume =
        sys::open_path(path).map_err(failed(format!("cannot open the volume at {}", path.display())))?;
    let named = match sub_path {
        None => volume,
        Some(below) => {
            let show = || {
                format!("cannot open {:?} in the volume at {}", below.display().to_string(), path.display())
            };
            make_beneath(&volume, below, owner).map_err(failed(show()))?
        }
    };
    clone_fd(&named, true).map_err(failed(format!("cannot open {} for mounting", path.display())))
}

/// Opens a sub-path, and makes what is missing of it. Links may be followed as long as they stay in the volume; the kernel
/// refuses (`EXDEV`) when they leave, also when somebody changes them at this moment. What is made is `owner`'s.
fn make_beneath(volume: &OwnedFd, below: &Path, owner: Option<(u32, u32)>) -> std::io::Result<OwnedFd> {
    use std::io::ErrorKind::NotFound;
    match sys::open_beneath(volume, below, OFlags::PATH) {
        Err(e) if e.kind() == NotFound => {}
        result => return result,
    }
    let mut so_far = PathBuf::new();
    for component in below.components() {
        let Component::Normal(name) = component else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        let above = sys::open_beneath(volume, &so_far, OFlags::PATH | OFlags::DIRECTORY)?;
        so_far.push(name);
        match sys::open_beneath(volume, &so_far, OFlags::PATH) {
            Err(e) if e.kind() == NotFound => {
                match (rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o750)), owner) {
                    (Ok(()), Some((uid, gid))) => {
                        // A directory that hands its group down has done so.
                        let stat = rustix::fs::fstat(&above)?;
                        let inherits = Mode::from_raw_mode(stat.st_mode).contains(Mode::SGID);
                        let gid = (!inherits).then(|| Gid::from_raw(gid));
                        // Whatever has the name by now: a link is not followed.
                        let flags = AtFlags::SYMLINK_NOFOLLOW;
                        rustix::fs::chownat(&above, name, Some(Uid::from_raw(uid)), gid, flags)?;
                    }
                    (Ok(()) | Err(rustix::io::Errno::EXIST), _) => {}
                    (Err(e), _) => return Err(e.into()),
                }
            }
            result => drop(result?),
        }
    }
    sys::open_beneath(volume, &so_far, OFlags::PATH)
}

fn set_volume(volume: &OwnedFd, mount: &Mount, idmap: Option<BorrowedFd<'_>>) -> Result<()> {
    let propagation = match mount.propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        Propagation::Bidirectional => libc::MS_SHARED,
    };
    // Device nodes in volumes are never needed; nodes that a container makes there must not work on the next machine.
    change(volume, true, 0, propagation)?;
    match mount.access {
        Access::Write => {}
        Access::ReadOnly => change(volume, false, MOUNT_ATTR_RDONLY, 0)?,
        Access::RecursiveReadOnly => change(volume, true, MOUNT_ATTR_RDONLY, 0)?,
    }
    if let Some(namespace) = idmap {
        map_ids(volume, namespace, &mount.target)?;
    }
    Ok(())
}

fn map_ids(mount: &OwnedFd, namespace: BorrowedFd<'_>, what: &Path) -> Result<()> {
    let attributes = MountAttributes {
        set: MOUNT_ATTR_IDMAP,
        user_namespace: namespace.as_raw_fd() as u64,
        ..MountAttributes::default()
    };
    mount_setattr(mount, false, &attributes).map_err(|e| Error {
        kind: ErrorKind::Unsupported,
        message: format!(
            "cannot give {} to a pod with a user namespace: its filesystem does not map ids on this kernel",
            what.display()
        ),
        source: Some(e),
    })
}

fn change(mount: &OwnedFd, recursive: bool, set: u64, propagation: u64) -> Result<()> {
    let attributes = MountAttributes { set, propagation, ..MountAttributes::default() };
    mount_setattr(mount, recursive, &attributes).map_err(failed("cannot set the options of a mount"))
}

fn new_mount(kind: &str, options: &[(&str, String)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let doing = || format!("cannot make a {kind} filesystem");
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed(doing()))?;
    for (name, value) in options {
        match value.is_empty() {
            true => fsconfig_set_flag(&context, *name),
            false => fsconfig_set_string(&context, *name, value.as_str()),
        }
        .map_err(failed(format!("{} with {name}={value}", doing())))?;
    }
    fsconfig_create(&context).map_err(failed(doing()))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed(doing()))
}

pub(super) fn attach(mount: &OwnedFd, target: &OwnedFd, shown: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).map_err(failed(format!("cannot mount at {}", shown.display())))
}

/// Makes the overlay. Attached nowhere yet.
pub(super) fn open_overlay(
    task: &InitTask<'_>,
    sources: &Sources,
    idmap: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    let rootfs = &task.spec.rootfs;
    let (upper, work) = match &rootfs.upper {
        Some(folder) => (folder.join(UPPER), folder.join(WORK)),
        None => (task.directory.join(UPPER), task.directory.join(WORK)),
    };
    let mut layers: Vec<PathBuf> = rootfs.layers.iter().rev().cloned().collect();
    if let Some(namespace) = idmap.filter(|_| rootfs.ids == Ids::Machine) {
        layers = mapped(task.directory, &layers, namespace)?;
    }
    layers.extend(mount_points(task, sources));
    let userxattr = !sys::initial_user_namespace();
    let doing = || "cannot mount the container's root filesystem".to_owned();
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed(doing()))?;
    let mut whole = true;
    for layer in &layers {
        whole &= fsconfig_set_string(&context, "lowerdir+", layer.as_path()).is_ok();
    }
    if !whole {
        // Kernels before 6.7 take all layers in one option of limited length.
        return old_overlay(task, &layers, &upper, &work, userxattr);
    }
    fsconfig_set_string(&context, "upperdir", upper.as_path()).map_err(failed(doing()))?;
    fsconfig_set_string(&context, "workdir", work.as_path()).map_err(failed(doing()))?;
    if userxattr {
        fsconfig_set_flag(&context, "userxattr").map_err(failed(doing()))?;
    }
    // A container's root is thrown away with it: syncing it to disk would only wait.
    if rootfs.upper.is_none() {
        let _ = fsconfig_set_flag(&context, "volatile");
        let _ = fs::remove_dir_all(work.join("work/incompat"));
    }
    fsconfig_create(&context).map_err(|e| {
        let mut message = [0u8; 512];
        let read = rustix::io::read(&context, &mut message).unwrap_or(0);
        let said = String::from_utf8_lossy(&message[..read]).trim().to_owned();
        failed(if said.is_empty() { doing() } else { format!("{} ({said})", doing()) })(e)
    })?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(failed(doing()))
}

/// Layers that belong to the machine's ids, shown below a directory through mounts that map them: an overlay needs them attached.
pub(super) fn mapped(
    directory: &Path,
    layers: &[PathBuf],
    namespace: BorrowedFd<'_>,
) -> Result<Vec<PathBuf>> {
    let show = |(number, layer): (usize, &PathBuf)| {
        let place = directory.join(format!("layer{number}"));
        fs::create_dir_all(&place).map_err(failed("cannot make a mount point for a layer"))?;
        let mount = clone_tree(layer, false)?;
        map_ids(&mount, namespace, layer)?;
        let target = sys::open_path(&place).map_err(failed("cannot open a mount point for a layer"))?;
        attach(&mount, &target, &place)?;
        Ok(place)
    };
    layers.iter().enumerate().map(show).collect()
}

/// What the image may lack for the container's mounts, as a layer that others have too. Where that cannot be had, they are made in the writable layer.
fn mount_points(task: &InitTask<'_>, sources: &Sources) -> Option<PathBuf> {
    // It belongs to the machine's root, who is nobody in a pod with users of its own. And an overlay has at most 500 layers.
    if task.namespaces.user.is_some() || task.spec.rootfs.layers.len() > 400 {
        return None;
    }
    let own = ["proc", "dev", "sys"];
    let mut points: Points = own.iter().map(|name| (PathBuf::from(name), true)).collect();
    for source in &sources.volumes {
        let path = source.target.strip_prefix("/").unwrap_or(&source.target);
        if !own.iter().any(|name| path.starts_with(name)) {
            points.insert((path.to_owned(), source.directory));
        }
    }
    mountpoints::layer(&state_of(task.pod).join(MOUNT_POINTS), &points, &task.spec.id).ok()?
}

fn old_overlay(
    task: &InitTask<'_>,
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    userxattr: bool,
) -> Result<OwnedFd> {
    let list: Vec<String> = layers.iter().map(|l| l.display().to_string()).collect();
    let mut options =
        format!("lowerdir={},upperdir={},workdir={}", list.join(":"), upper.display(), work.display());
    if userxattr {
        options.push_str(",userxattr");
    }
    let options = std::ffi::CString::new(options).map_err(|e| Error::invalid(e.to_string()))?;
    let place = state_of(task.pod).join(ROOTFS);
    rustix::mount::mount(
        "overlay",
        &place,
        "overlay",
        rustix::mount::MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .map_err(failed("cannot mount the container's root filesystem"))?;
    clone_tree(&place, false)
}

/// Puts everything together and makes it this process's root.
pub(super) fn enter(task: &InitTask<'_>, overlay: OwnedFd, sources: &mut Sources) -> Result<()> {
    let target = sys::open_path(Path::new("."))
        .map_err(failed("cannot open the mount point of the root filesystem"))?;
    attach(&overlay, &target, Path::new("/"))?;
    let root = overlay;
    let safe = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;

    let proc = new_mount("proc", &[], safe)?;
    attach_own(&root, "proc", &proc)?;
    let dev = new_mount(
        "tmpfs",
        &[("mode", "755".into()), ("size", "64m".into())],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME,
    )?;
    attach_own(&root, "dev", &dev)?;
    devices(task, &dev)?;
    let pts_options = [
        ("newinstance", String::new()),
        ("ptmxmode", "0666".into()),
        ("mode", "0620".into()),
        ("gid", TTY_GROUP.to_string()),
    ];
    let no_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = new_mount("devpts", &pts_options, no_exec)
        // The group may have no meaning in the user namespace.
        .or_else(|_| new_mount("devpts", &pts_options[..3], no_exec))?;
    attach_own(&dev, "pts", &pts)?;
    attach_own(&dev, "mqueue", &new_mount("mqueue", &[], safe)?)?;
    change(&sources.shm, false, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, libc::MS_PRIVATE)?;
    attach_own(&dev, "shm", &sources.shm)?;
    sys_filesystem(task, &root, safe, &sources.groups)?;

    for device in sources.devices.drain(..) {
        attach_in(&root, &device)?;
    }
    for volume in sources.volumes.drain(..) {
        attach_in(&root, &volume)?;
    }

    rustix::process::fchdir(&root).map_err(failed("cannot enter the root filesystem"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("cannot change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("cannot leave the machine's files"))?;
    rustix::process::chdir("/").map_err(failed("cannot enter the root"))?;

    for path in &task.spec.read_only_paths {
        read_only(path)?;
    }
    for path in &task.spec.masked_paths {
        mask(path)?;
    }
    if task.spec.read_only_root {
        // What is mounted on it stays as it is.
        change(&root, false, MOUNT_ATTR_RDONLY, 0)?;
    }
    Ok(())
}

/// Attaches what belongs to the runtime. The directory may be missing in the image, but may not be a link.
fn attach_own(folder: &OwnedFd, name: &str, mount: &OwnedFd) -> Result<()> {
    match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(failed(format!("cannot make the mount point /{name}"))(e)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(folder, name, flags, Mode::empty())
        .map_err(failed(format!("/{name} of the image is not a directory")))?;
    attach(mount, &target, &Path::new("/").join(name))
}

/// Attaches a volume or device where links of the image say, inside the container's root.
fn attach_in(root: &OwnedFd, source: &Source) -> Result<()> {
    let shown = &source.target;
    let relative = shown.strip_prefix("/").unwrap_or(shown);
    let doing = || format!("cannot make the mount point {}", shown.display());
    let target = match sys::open_in_root(root, relative, OFlags::PATH, Mode::empty()) {
        Ok(found) => found,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match source.directory {
            true => sys::make_directories_in_root(root, relative, 0o755).map_err(failed(doing()))?,
            false => {
                let above = relative.parent().unwrap_or(Path::new(""));
                sys::make_directories_in_root(root, above, 0o755).map_err(failed(doing()))?;
                let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NONBLOCK;
                drop(
                    sys::open_in_root(root, relative, flags, Mode::from_raw_mode(0o644))
                        .map_err(failed(doing()))?,
                );
                sys::open_in_root(root, relative, OFlags::PATH, Mode::empty()).map_err(failed(doing()))?
            }
        },
        Err(e) => return Err(failed(doing())(e)),
    };
    if is_directory(&target) != source.directory {
        return Err(Error::new(
            ErrorKind::StartFailed,
            format!(
                "cannot mount at {}: {} is mounted onto {}; are you trying to mount a directory onto a file (or vice-versa)?",
                shown.display(),
                if source.directory { "a directory" } else { "a file" },
                if source.directory { "a file" } else { "a directory" },
            ),
        ));
    }
    attach(&source.mount, &target, shown)
}

fn devices(task: &InitTask<'_>, dev: &OwnedFd) -> Result<()> {
    if task.namespaces.user.is_none() && sys::initial_user_namespace() {
        for (name, major, minor) in USUAL_DEVICES {
            rustix::fs::mknodat(
                dev,
                *name,
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                rustix::fs::makedev(*major, *minor),
            )
            .map_err(failed(format!("cannot make /dev/{name}")))?;
        }
    }
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        rustix::fs::symlinkat(target, dev, link).map_err(failed(format!("cannot make /dev/{link}")))?;
    }
    Ok(())
}

fn sys_filesystem(
    task: &InitTask<'_>,
    root: &OwnedFd,
    safe: MountAttrFlags,
    groups: &[(String, OwnedFd)],
) -> Result<()> {
    let mut attributes = safe;
    if !task.spec.writable_sys {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let sys = match new_mount("sysfs", &[], attributes) {
        Ok(made) => made,
        // With the machine's network, a user namespace has no right to a sysfs of its own.
        Err(_) if task.sandbox.network == Network::Host => {
            let bound = clone_tree(Path::new("/sys"), true)?;
            change(&bound, true, MOUNT_ATTR_RDONLY, libc::MS_PRIVATE)?;
            bound
        }
        Err(e) => return Err(e),
    };
    attach_own(root, "sys", &sys)?;
    let Ok(place) =
        sys::open_in_root(root, Path::new("sys/fs/cgroup"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    else {
        return Ok(());
    };
    if let [(name, only)] = groups
        && name.is_empty()
    {
        return attach(only, &place, Path::new("/sys/fs/cgroup"));
    }
    let folder = new_mount("tmpfs", &[("mode", "755".into())], safe)?;
    attach(&folder, &place, Path::new("/sys/fs/cgroup"))?;
    for (name, mount) in groups {
        attach_own(&folder, name, mount)?;
    }
    let set = if task.spec.writable_sys { 0 } else { MOUNT_ATTR_RDONLY };
    change(&folder, false, set, 0)
}

/// Opens a path of the new root for being covered; `None` when there is no such thing.
fn to_cover(path: &Path) -> Result<Option<OwnedFd>> {
    match rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(e) => Err(failed(format!("cannot cover {}", path.display()))(e)),
    }
}

fn read_only(path: &Path) -> Result<()> {
    let Some(place) = to_cover(path)? else { return Ok(()) };
    let copy = clone_fd(&place, true).map_err(failed(format!("cannot protect {}", path.display())))?;
    change(&copy, true, MOUNT_ATTR_RDONLY, libc::MS_PRIVATE)?;
    attach(&copy, &place, path)
}

fn mask(path: &Path) -> Result<()> {
    let Some(place) = to_cover(path)? else { return Ok(()) };
    let cover = match is_directory(&place) {
        true => new_mount(
            "tmpfs",
            &[("size", "4k".into()), ("nr_inodes", "2".into())],
            MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        )
        .or_else(|_| new_mount("tmpfs", &[], MountAttrFlags::MOUNT_ATTR_RDONLY))?,
        false => clone_tree(Path::new("/dev/null"), false)?,
    };
    attach(&cover, &place, path)
}

/// Shows a terminal as the console. Runs after the root was changed; `/dev` is still ours.
pub(super) fn mount_console(peer: &OwnedFd) -> Result<()> {
    let console = Path::new("/dev/console");
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let _ = rustix::fs::open(console, flags, Mode::from_raw_mode(0o600));
    let Some(place) = to_cover(console)? else { return Ok(()) };
    let copy = clone_fd(peer, false).map_err(failed("cannot show the terminal as /dev/console"))?;
    attach(&copy, &place, console)
}

/// Changes the root of this process to an empty, read-only directory.
pub(super) fn into_nothing(pod: &Path) -> Result<()> {
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .map_err(failed("cannot shut the mount namespace"))?;
    let nothing = new_mount("tmpfs", &[("mode", "555".into())], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    let place = sys::open_path(pod).map_err(failed("cannot open the pod's directory"))?;
    attach(&nothing, &place, pod)?;
    rustix::process::fchdir(&nothing).map_err(failed("cannot enter an empty directory"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("cannot change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("cannot leave the machine's files"))?;
    rustix::process::chdir("/").map_err(failed("cannot enter the root"))
}
