//! What a machine sees as its file system: a private tree on the host's disk, with the kernel's own file systems and a
//! few things of the host mounted into it.
//!
//! It is put together twice. The host's root ([`build`]) attaches what comes from the host, with ids mapped to the machine's and read-only; when
//! the machine's own user namespace gets a copy of these mounts, the kernel locks them: nobody in the machine can take one off or write through it.
//! The machine's root ([`enter`]) then mounts what belongs to its namespaces, and makes the tree its root.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, fchdir, pivot_root};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::cgroup::{Hierarchy, Version};
use super::{
    CONTROL, CONTROL_DIR, IMAGES, IMAGES_DIR, POD_IMAGES_DIR, PROGRAM, ROOT, USERS, elf, ids, namespaces,
    procfs,
};
use crate::driver::{MachineSpec, Mount};
use crate::error::Error;

/// The directories of an empty machine, and their modes.
const DIRECTORIES: [(&str, u32); 22] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("var", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
    ("var/run", 0o755),
];
/// Device files that are the host's own: the kernel's, the same for everybody.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
/// Links that programs expect in `/dev`.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
/// Files of the host's `/etc` without which nothing on the network is found or trusted. Copies, made at each start.
const HOST_FILES: [&str; 3] = ["etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt", "etc/localtime"];
/// The tree of a machine, and whom its files belong to.
#[derive(Clone, Copy)]
struct Tree<'a> {
    root: &'a Path,
    owner: u32,
}

/// Makes the private tree; what is there already stays.
pub(crate) fn create(root: &Path, spec: &MachineSpec, owner: u32) -> Result<(), Error> {
    let tree = Tree { root, owner };
    let top = tree.make_dir(Path::new(""), 0o755)?;
    // A disk of the machine's own comes with a top that is the host's, whom nobody in the machine is.
    if fs::symlink_metadata(&top).map_err(Error::io("look at", &top))?.uid() == 0 {
        tree.own(&top)?;
    }
    for (name, mode) in DIRECTORIES {
        tree.make_dir(Path::new(name), mode)?;
    }
    let name = &spec.hostname;
    tree.write_new("etc/hostname", &format!("{name}\n"))?;
    tree.write_new("etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"))?;
    tree.write_new(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    )?;
    tree.write_new("etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    tree.write_new("etc/os-release", "NAME=Skep\nID=skep\nPRETTY_NAME=\"Skep process machine\"\n")?;
    for file in HOST_FILES {
        // A host without one has machines without one.
        let Ok(bytes) = fs::read(Path::new("/").join(file)) else { continue };
        tree.write(file, &bytes)?;
    }
    Ok(())
}

impl Tree<'_> {
    fn own(self, path: &Path) -> Result<(), Error> {
        lchown(path, Some(self.owner), Some(self.owner)).map_err(Error::io("change the owner of", path))
    }

    fn make_dir(self, name: &Path, mode: u32) -> Result<PathBuf, Error> {
        let path = self.root.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("look at", &path)(e)),
        }
        fs::create_dir(&path).map_err(Error::io("create", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(Error::io("set the mode of", &path))?;
        self.own(&path)?;
        Ok(path)
    }

    fn write_new(self, file: &str, text: &str) -> Result<(), Error> {
        match fs::symlink_metadata(self.root.join(file)) {
            Ok(_) => Ok(()),
            Err(_) => self.write(file, text.as_bytes()),
        }
    }

    /// Writes a file of the tree from outside, where nobody has yet run in it, or may have: never through a link.
    fn write(self, file: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.place(Path::new(file), true)?;
        fs::write(&path, bytes).map_err(Error::io("write", &path))
    }

    /// Where something of the machine is on the host, made as an empty file or directory if it is not there. Links on the
    /// way are replaced: whoever was root in the machine may have laid them.
    fn place(self, target: &Path, is_file: bool) -> Result<PathBuf, Error> {
        let parts: Vec<&std::ffi::OsStr> = target
            .components()
            .filter_map(|c| if let Component::Normal(part) = c { Some(part) } else { None })
            .collect();
        let mut path = self.root.to_owned();
        for (i, part) in parts.iter().enumerate() {
            path.push(part);
            let want_file = is_file && i + 1 == parts.len();
            let there = fs::symlink_metadata(&path).ok();
            match there {
                Some(meta) if meta.is_dir() != want_file && !meta.is_symlink() => continue,
                Some(meta) if meta.is_dir() => {
                    fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
                }
                Some(_) => fs::remove_file(&path).map_err(Error::io("remove", &path))?,
                None => {}
            }
            if want_file {
                fs::File::create(&path).map_err(Error::io("create", &path))?;
            } else {
                fs::create_dir(&path).map_err(Error::io("create", &path))?;
            }
            self.own(&path)?;
        }
        Ok(path)
    }

    /// Lets the machine see something of the host. With `users`, what belongs to the host's root belongs to the machine's there.
    fn bind(self, source: &Path, target: &Path, set: u64, users: Option<&OwnedFd>) -> Result<(), Error> {
        let is_file = !fs::metadata(source).map_err(Error::io("look at", source))?.is_dir();
        let at = self.place(target, is_file)?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, source, clone).map_err(|e| Error::io("open", source)(e.into()))?;
        map_ids(&tree, set, users, source)?;
        move_mount(&tree, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|e| Error::io("mount", &at)(e.into()))
    }
}

fn map_ids(tree: &OwnedFd, set: u64, users: Option<&OwnedFd>, source: &Path) -> Result<(), Error> {
    let map = if users.is_some() { MOUNT_ATTR_IDMAP } else { 0 };
    let attributes = MountAttributes {
        set: set | map,
        clear: 0,
        propagation: libc::MS_PRIVATE,
        user_namespace: users.map_or(0, |u| u.as_raw_fd().unsigned_abs().into()),
    };
    let doing = match users {
        Some(_) => "map ids (which takes a file system that can, such as ext4, xfs or btrfs) of",
        None => "set the options of",
    };
    set_attributes(tree, &attributes).map_err(Error::io(doing, source))
}

/// As the kernel has it.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

fn set_attributes(mount: &OwnedFd, attributes: &MountAttributes) -> std::io::Result<()> {
    let empty = c"";
    // SAFETY: path and attributes live through the call, and the size given is theirs.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn attach(
    source: &str,
    target: &Path,
    fstype: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), Error> {
    mount(Some(source), target, fstype, flags, data).map_err(Error::errno("mount", target))
}

/// Attaches what comes from the host to the machine's tree, in the mount namespace of this process, which must be nobody else's. `owner` is
/// the machine's root as the host knows it, `users` the machine's user namespace.
pub(crate) fn build(dir: &Path, mounts: &[Mount], owner: u32, users: &OwnedFd) -> Result<(), Error> {
    let root = &dir.join(ROOT);
    let tree = Tree { root, owner };
    let slash = Path::new("/");
    // Nothing that is mounted here may show up on the host.
    mount(None::<&str>, slash, None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(Error::errno("make private", slash))?;
    mount(Some(root), root, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(Error::errno("mount", root))?;
    let whose = format!("mode=755,uid={owner},gid={owner}");
    let run = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    attach("tmpfs", &tree.place(Path::new("run"), false)?, Some("tmpfs"), run, Some(&whose))?;
    let dev = tree.place(Path::new("dev"), false)?;
    // Device files are the host's: no others can be made in a user namespace.
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    attach("tmpfs", &dev, Some("tmpfs"), quiet, Some(&format!("{whose},size=65536k")))?;
    for name in DEVICES {
        let source = Path::new("/dev").join(name);
        tree.bind(&source, &source, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, None)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        tree.make_dir(&Path::new("dev").join(name), 0o755)?;
    }
    for (to, name) in DEVICE_LINKS {
        let link = dev.join(name);
        symlink(to, &link).map_err(Error::io("link", &link))?;
    }
    let read_only = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    let program = Path::new("/proc/self/exe");
    let binary = fs::read_link(program).map_err(Error::io("read", program))?;
    // The binary may have been replaced since this process was started; what is running is still there by this name.
    tree.bind(if binary.exists() { &binary } else { program }, Path::new(PROGRAM), read_only, None)?;
    if let Some(interpreter) = elf::interpreter(program)? {
        // Often reached through links that the machine does not have.
        let real = fs::canonicalize(&interpreter).map_err(Error::io("find", &interpreter))?;
        tree.bind(&real, &interpreter, read_only, None)?;
    }
    for library in procfs::own_files()? {
        tree.bind(&library, &library, read_only, None)?;
    }
    let data = read_only | MOUNT_ATTR_NOEXEC;
    tree.bind(&dir.join(CONTROL), Path::new(CONTROL_DIR), data, Some(users))?;
    // Layers hold set-user-id programs: only containers execute them.
    tree.bind(&dir.join(IMAGES), Path::new(IMAGES_DIR), data, Some(users))?;
    // The same once more for each pod that may have users of its own: nobody in the machine can map the ids of the host's files. Here the mount's
    // ids count, so what is read-only stays so whoever asks.
    for (number, map) in ids::pod_maps(owner) {
        let users = namespaces::users(&map)?;
        let target = Path::new(POD_IMAGES_DIR).join(number.to_string());
        tree.bind(&dir.join(IMAGES), &target, data, Some(&users))?;
    }
    for mount in mounts {
        let set = if mount.writable { MOUNT_ATTR_NODEV } else { read_only };
        tree.bind(&mount.source, &mount.target, set, Some(users))?;
    }
    Ok(())
}

/// Whether ids can be mapped where machines lie, found out on a directory with a machine's namespaces.
pub(crate) fn try_mapping(dir: &Path) -> Result<(), Error> {
    let path = dir.join(USERS);
    let users = OwnedFd::from(fs::File::open(&path).map_err(Error::io("open", &path))?);
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, dir, clone).map_err(|e| Error::io("open", dir)(e.into()))?;
    map_ids(&tree, 0, Some(&users), dir)
}

/// Makes the built tree, which is this process's working directory, its root, with the kernel's file systems in it. This process must be root
/// of the machine's user namespace, with all its other namespaces made there.
pub(crate) fn enter(hierarchies: &[Hierarchy]) -> Result<(), Error> {
    let here = Path::new(".");
    let kernel = |doing| move |e: rustix::io::Errno| Error::io(doing, here)(e.into());
    // What was attached as root of the host can't be a root here, but a copy can.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let root = open_tree(CWD, "", clone).map_err(kernel("copy the mounts of"))?;
    move_mount(&root, "", CWD, here, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(kernel("mount"))?;
    fchdir(root.as_fd()).map_err(Error::errno("go to", here))?;
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Nothing in it is covered: what speaks of the host belongs to the host's root, whom nobody here can become. A covered one could not be
    // mounted again by a pod that has users of its own.
    attach("proc", Path::new("proc"), Some("proc"), guarded, None)?;
    attach("sysfs", Path::new("sys"), Some("sysfs"), guarded, None)?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    for (name, fstype, flags, data) in [
        ("pts", "devpts", quiet, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("shm", "tmpfs", quiet | MsFlags::MS_NODEV, "mode=1777"),
        ("mqueue", "mqueue", quiet | MsFlags::MS_NODEV, ""),
    ] {
        attach(fstype, &Path::new("dev").join(name), Some(fstype), flags, Some(data))?;
    }
    control_groups(Path::new("sys/fs/cgroup"), hierarchies)?;
    remount_sysfs(Path::new("sys"))?;
    // The old root lands on top of the new one, and is taken off: no directory is needed for it.
    pivot_root(".", ".").map_err(Error::errno("make the root", here))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(Error::errno("let go of the host's root for", here))?;
    let slash = Path::new("/");
    // As on any node: what is mounted in the machine later, volumes show that ask for it (`mountPropagation`).
    mount(None::<&str>, slash, None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .map_err(Error::errno("share the mounts of", slash))?;
    chdir(slash).map_err(Error::errno("go to", slash))
}

fn remount_sysfs(at: &Path) -> Result<(), Error> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).map_err(Error::errno("make read-only", at))
}

/// Mounts the machine's own part of the control groups where programs look for them. The machine has a control group
/// namespace: its own group is the root of what it sees.
fn control_groups(at: &Path, hierarchies: &[Hierarchy]) -> Result<(), Error> {
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let only_v2 = hierarchies.iter().all(|h| h.version == Version::V2);
    if only_v2 {
        return attach("cgroup2", at, Some("cgroup2"), guarded, None);
    }
    attach("tmpfs", at, Some("tmpfs"), guarded, Some("mode=755"))?;
    for hierarchy in hierarchies {
        let (name, fstype, data) = match &hierarchy.version {
            Version::V2 => ("unified".to_owned(), "cgroup2", None),
            Version::V1(controllers) => {
                let name = controllers.join(",");
                let dir = name.strip_prefix("name=").unwrap_or(&name).to_owned();
                // A named hierarchy has no controllers, and says so.
                let data = if name.starts_with("name=") { format!("none,{name}") } else { name };
                (dir, "cgroup", Some(data))
            }
        };
        let target = at.join(&name);
        fs::create_dir(&target).map_err(Error::io("create", &target))?;
        attach(fstype, &target, Some(fstype), guarded, data.as_deref())?;
        // `cpu,cpuacct` is found as `cpu` too.
        for alias in name.split(',').filter(|a| *a != name) {
            let link = at.join(alias);
            symlink(&name, &link).map_err(Error::io("link", &link))?;
        }
    }
    Ok(())
}
