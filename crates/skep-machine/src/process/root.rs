//! What a machine sees as its file system: a private tree on the host's disk, with the kernel's own file systems and a
//! few things of the host mounted into it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::cgroup::{Hierarchy, Version};
use super::{CONTROL_DIR, PROGRAM, elf, procfs};
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
/// What of `/proc` would reach the host's kernel rather than the machine's namespaces. Whoever is root in the machine
/// and may mount could undo this: it guards against accidents.
const READ_ONLY_PROC: [&str; 3] = ["proc/sys", "proc/sysrq-trigger", "proc/irq"];

/// Makes the private tree; what is there already stays.
pub(crate) fn create(root: &Path, spec: &MachineSpec) -> Result<(), Error> {
    make_dir(root, 0o755)?;
    for (name, mode) in DIRECTORIES {
        make_dir(&root.join(name), mode)?;
    }
    let name = &spec.hostname;
    write_new(root, "etc/hostname", &format!("{name}\n"))?;
    write_new(root, "etc/hosts", &format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n"))?;
    write_new(
        root,
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    )?;
    write_new(root, "etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    write_new(root, "etc/os-release", "NAME=Skep\nID=skep\nPRETTY_NAME=\"Skep process machine\"\n")?;
    for file in HOST_FILES {
        // A host without one has machines without one.
        let Ok(bytes) = fs::read(Path::new("/").join(file)) else { continue };
        write(root, file, &bytes)?;
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("look at", path)(e)),
    }
    fs::create_dir(path).map_err(Error::io("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("set the mode of", path))
}

fn write_new(root: &Path, file: &str, text: &str) -> Result<(), Error> {
    if fs::symlink_metadata(root.join(file)).is_ok() { Ok(()) } else { write(root, file, text.as_bytes()) }
}

/// Writes a file of the tree from outside, where nobody has yet run in it, or may have: never through a link.
fn write(root: &Path, file: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = place(root, Path::new(file), true)?;
    fs::write(&path, bytes).map_err(Error::io("write", &path))
}

/// Where something of the machine is on the host, made as an empty file or directory if it is not there. Links on the
/// way are replaced: whoever was root in the machine may have laid them.
fn place(root: &Path, target: &Path, is_file: bool) -> Result<PathBuf, Error> {
    let parts: Vec<&std::ffi::OsStr> = target
        .components()
        .filter_map(|c| if let Component::Normal(part) = c { Some(part) } else { None })
        .collect();
    let mut path = root.to_owned();
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
    }
    Ok(path)
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

/// Lets the machine see something of the host.
fn bind(root: &Path, source: &Path, target: &Path, writable: bool) -> Result<(), Error> {
    let is_file = !fs::metadata(source).map_err(Error::io("look at", source))?.is_dir();
    let at = place(root, target, is_file)?;
    mount(Some(source), &at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(Error::errno("mount", &at))?;
    if !writable {
        remount_read_only(&at)?;
    }
    Ok(())
}

fn remount_read_only(at: &Path) -> Result<(), Error> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).map_err(Error::errno("make read-only", at))
}

/// Puts everything in its place and makes the tree the root of this process, which must have mount, PID, network, UTS,
/// IPC and control group namespaces of its own.
pub(crate) fn enter(
    root: &Path,
    control: &Path,
    mounts: &[Mount],
    hierarchies: &[Hierarchy],
) -> Result<(), Error> {
    let slash = Path::new("/");
    // Nothing that is mounted here may show up on the host.
    mount(None::<&str>, slash, None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(Error::errno("make private", slash))?;
    mount(Some(root), root, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(Error::errno("mount", root))?;
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    attach("proc", &root.join("proc"), Some("proc"), guarded, None)?;
    // Not every kernel is built with all of them.
    for path in READ_ONLY_PROC.map(|path| root.join(path)).into_iter().filter(|path| path.exists()) {
        attach(&path.to_string_lossy(), &path, None, MsFlags::MS_BIND, None)?;
        remount_read_only(&path)?;
    }
    // The network's part of it is the machine's own.
    let own = root.join("proc/sys/net");
    attach("proc", &root.join("mnt"), Some("proc"), guarded, None)?;
    attach(&root.join("mnt/sys/net").to_string_lossy(), &own, None, MsFlags::MS_BIND, None)?;
    umount2(&root.join("mnt"), MntFlags::MNT_DETACH).map_err(Error::errno("unmount", &root.join("mnt")))?;
    attach("sysfs", &root.join("sys"), Some("sysfs"), guarded, None)?;
    devices(root)?;
    attach(
        "tmpfs",
        &root.join("run"),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=755"),
    )?;
    control_groups(&root.join("sys/fs/cgroup"), hierarchies)?;
    remount_sysfs(&root.join("sys"))?;
    let program = Path::new("/proc/self/exe");
    let binary = fs::read_link(program).map_err(Error::io("read", program))?;
    // The binary may have been replaced since this process was started; what is running is still there by this name.
    bind(root, if binary.exists() { &binary } else { program }, Path::new(PROGRAM), false)?;
    if let Some(interpreter) = elf::interpreter(program)? {
        // Often reached through links that the machine does not have.
        let real = fs::canonicalize(&interpreter).map_err(Error::io("find", &interpreter))?;
        bind(root, &real, &interpreter, false)?;
    }
    for library in procfs::own_files()? {
        bind(root, &library, &library, false)?;
    }
    bind(root, control, Path::new(CONTROL_DIR), false)?;
    for mount in mounts {
        bind(root, &mount.source, &mount.target, mount.writable)?;
    }
    chdir(root).map_err(Error::errno("go to", root))?;
    // The old root lands on top of the new one, and is taken off: no directory is needed for it.
    pivot_root(".", ".").map_err(Error::errno("make the root", root))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(Error::errno("let go of the host's root for", root))?;
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

fn devices(root: &Path) -> Result<(), Error> {
    let dev = root.join("dev");
    attach(
        "tmpfs",
        &dev,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("mode=755,size=65536k"),
    )?;
    for name in DEVICES {
        let (source, target) = (Path::new("/dev").join(name), dev.join(name));
        fs::File::create(&target).map_err(Error::io("create", &target))?;
        attach(&source.to_string_lossy(), &target, None, MsFlags::MS_BIND, None)?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    for (name, fstype, flags, data) in [
        ("pts", "devpts", quiet, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("shm", "tmpfs", quiet | MsFlags::MS_NODEV, "mode=1777"),
        ("mqueue", "mqueue", quiet | MsFlags::MS_NODEV, ""),
    ] {
        let target = dev.join(name);
        make_dir(&target, 0o755)?;
        attach(fstype, &target, Some(fstype), flags, Some(data))?;
    }
    for (to, name) in DEVICE_LINKS {
        let link = dev.join(name);
        symlink(to, &link).map_err(Error::io("link", &link))?;
    }
    Ok(())
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
        make_dir(&target, 0o755)?;
        attach(fstype, &target, Some(fstype), guarded, data.as_deref())?;
        // `cpu,cpuacct` is found as `cpu` too.
        for alias in name.split(',').filter(|a| *a != name) {
            let link = at.join(alias);
            symlink(&name, &link).map_err(Error::io("link", &link))?;
        }
    }
    Ok(())
}
