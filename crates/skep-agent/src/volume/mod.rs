//! A pod's volumes on this machine: made before its containers, kept up to date, removed after them.
//!
//! Everything here blocks on the file system and runs on the blocking pool.

pub mod atomic;
pub mod payload;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use skep_base::quantity::Quantity;

use crate::spec;
use payload::Material;

use crate::pod_users::IdRange;

/// Where things lie on this machine.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The agent's own directory.
    pub data: PathBuf,
    /// The directory tree that pods know as their host's.
    pub host_root: PathBuf,
}

impl Layout {
    /// All pods' directories.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// A pod's own directory.
    #[must_use]
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// Files that must never reach a disk: secrets and tokens of all pods.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.data.join("memory")
    }

    /// Where a volume's files lie.
    #[must_use]
    pub fn volume(&self, uid: &str, volume: &Volume) -> PathBuf {
        if volume.secret.is_some() || volume.projected.is_some() {
            self.memory().join(uid).join(&volume.name)
        } else {
            self.pod(uid).join("volumes").join(&volume.name)
        }
    }

    /// A pod's logs.
    #[must_use]
    pub fn logs(&self, pod: &Pod) -> PathBuf {
        self.data.join("logs").join(format!(
            "{}_{}_{}",
            spec::namespace(pod),
            spec::name(pod),
            spec::uid(pod)
        ))
    }

    /// A container's log.
    #[must_use]
    pub fn log(&self, pod: &Pod, container: &str, restart_count: u32) -> PathBuf {
        self.logs(pod).join(container).join(format!("{restart_count}.log"))
    }

    /// Seccomp profiles that pods may name.
    #[must_use]
    pub fn seccomp(&self) -> PathBuf {
        self.data.join("seccomp")
    }
}

/// A volume that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
pub struct VolumeError {
    /// Its name.
    pub volume: String,
    /// What happened.
    pub why: String,
}

/// A volume that is ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where it is.
    pub path: PathBuf,
    /// A path below that leads to it and must be walked without leaving it: for `hostPath`.
    pub below: Option<PathBuf>,
    /// Containers may only read it.
    pub read_only: bool,
    /// It is the machine's, and not made for the pod.
    pub of_machine: bool,
}

/// A pod's volumes by name.
pub type Volumes = BTreeMap<String, Ready>;

/// Mounts the memory that secrets lie in, if a former agent has not done so already.
///
/// # Errors
/// What the kernel says.
pub fn prepare(layout: &Layout) -> io::Result<()> {
    /// Secrets and tokens of some hundred pods; an object has 1 MiB at most. Too small: pods with secrets do not start.
    const MEMORY_BYTES: u64 = 256 << 20;
    fs::create_dir_all(layout.pods())?;
    let memory = layout.memory();
    fs::create_dir_all(&memory)?;
    if !is_mount_point(&memory)? {
        let options = format!("size={MEMORY_BYTES},mode=0700");
        mount_tmpfs(&memory, &options)?;
    }
    Ok(())
}

fn mount_tmpfs(at: &Path, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    mount("tmpfs", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
    Ok(())
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(mount_points(path)?.iter().any(|p| p == path))
}

/// Mount points at and below a path, deepest first.
fn mount_points(below: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(below))
        .collect();
    points.sort();
    points.reverse();
    Ok(points)
}

/// The kernel writes blanks and the like as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Makes all volumes of a pod, or brings their files up to date. They belong to the pod's users, if it has its own. `stamp` names new
/// versions of files.
///
/// # Errors
/// The first volume that cannot be made.
pub fn set_up(
    layout: &Layout,
    pod: &Pod,
    material: &Material<'_>,
    users: Option<IdRange>,
    stamp: &str,
) -> Result<Volumes, VolumeError> {
    let uid = spec::uid(pod);
    let owner = Owner { users, group: fs_group(pod) };
    let mut ready = Volumes::new();
    for volume in pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default() {
        let fail = |why: String| VolumeError { volume: volume.name.clone(), why };
        if volume.image.is_some() {
            // Nothing lies here of it: a container's layers are looked for when it is made.
            continue;
        }
        let path = layout.volume(uid, volume);
        let one = if let Some(host) = &volume.host_path {
            host_path(&layout.host_root, host).map_err(fail)?
        } else if let Some(files) =
            payload::payload(pod, volume, material).map_err(|e| fail(e.to_string()))?
        {
            make_files(&path, &files, stamp, owner).map_err(|e| fail(e.to_string()))?;
            nested(pod, volume, &path).map_err(|e| fail(e.to_string()))?;
            Ready { path, below: None, read_only: true, of_machine: false }
        } else if let Some(source) = &volume.empty_dir {
            let size = source.size_limit.as_ref().and_then(|q| q.0.parse::<Quantity>().ok());
            let medium = match source.medium.as_deref().unwrap_or_default() {
                "" => Medium::Disk,
                "Memory" => Medium::Memory(size.filter(|q| q.value() > 0)),
                huge => Medium::HugePages(huge_page_bytes(pod, huge).map_err(fail)?),
            };
            empty_dir(&path, &medium, owner).map_err(|e| fail(e.to_string()))?;
            Ready { path, below: None, read_only: false, of_machine: false }
        } else {
            return Err(fail(format!("{} is not supported by this node", kind(volume))));
        };
        ready.insert(volume.name.clone(), one);
    }
    Ok(ready)
}

fn kind(volume: &Volume) -> &'static str {
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        "a persistent volume claim"
    } else if volume.csi.is_some() {
        "a CSI volume"
    } else if volume.nfs.is_some() {
        "an NFS volume"
    } else {
        "a volume of this kind"
    }
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Whose a pod's files are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner {
    /// The pod's own users; without them, ids are the machine's.
    pub users: Option<IdRange>,
    /// The group that shares them, as the pod knows it.
    pub group: Option<u32>,
}

impl Owner {
    /// What an id of the pod's is here.
    fn outside(self, id: u32) -> io::Result<u32> {
        let Some(users) = self.users else { return Ok(id) };
        let none = || {
            let why = format!("the pod has no id {id}: with hostUsers: false it has those below 65536");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        };
        users.outside(id).ok_or_else(none)
    }

    /// Gives a file to the pod, or to one of its users; its group, if any, gets it too.
    fn give(self, path: &Path, user: Option<u32>) -> io::Result<()> {
        let user = match user {
            Some(user) => Some(self.outside(user)?),
            None => self.users.map(IdRange::first),
        };
        let group = match self.group {
            Some(group) => Some(self.outside(group)?),
            None => self.users.map(IdRange::first),
        };
        // Of a link itself: what it leads to has its own.
        lchown(path, user, group)
    }
}

fn make_files(path: &Path, files: &payload::Payload, stamp: &str, owner: Owner) -> io::Result<()> {
    /// Who may enter is decided by the pod's directory above, which only root can.
    const VOLUME_MODE: u32 = 0o777;
    if !path.exists() {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(VOLUME_MODE))?;
        owner.give(path, None)?;
        if owner.group.is_some() {
            fs::set_permissions(path, fs::Permissions::from_mode(VOLUME_MODE | 0o2000))?;
        }
    }
    atomic::write(path, files, stamp, owner)?;
    Ok(())
}

/// A read-only volume must hold the directories on which other volumes of a container are mounted.
fn nested(pod: &Pod, volume: &Volume, path: &Path) -> io::Result<()> {
    for c in spec::init_containers(pod).iter().chain(spec::containers(pod)) {
        let mounts = c.volume_mounts.as_deref().unwrap_or_default();
        for own in mounts
            .iter()
            .filter(|m| m.name == volume.name && m.sub_path.is_none() && m.sub_path_expr.is_none())
        {
            for other in mounts {
                let below = Path::new(&other.mount_path)
                    .strip_prefix(&own.mount_path)
                    .ok()
                    .filter(|b| !b.as_os_str().is_empty());
                if let Some(below) = below
                    && below.components().all(|c| matches!(c, std::path::Component::Normal(_)))
                    && !path.join(below).exists()
                {
                    fs::create_dir_all(path.join(below))?;
                }
            }
        }
    }
    Ok(())
}

/// What an empty directory lies in.
enum Medium {
    Disk,
    /// As much of it, if that is limited.
    Memory(Option<Quantity>),
    /// Of this size.
    HugePages(i64),
}

/// The size of pages that a medium (`HugePages`, `HugePages-2Mi`) means: what the pod asks for itself. As upstream, init containers count too.
fn huge_page_bytes(pod: &Pod, medium: &str) -> Result<i64, String> {
    let asked: Option<i64> = match medium.strip_prefix("HugePages") {
        Some("") => None,
        Some(size) => {
            let size = size.strip_prefix('-').and_then(|s| s.parse::<Quantity>().ok());
            Some(size.ok_or_else(|| format!("medium: {medium} not of expected format"))?.value())
        }
        None => return Err(format!("unknown storage medium {medium:?}")),
    };
    let of_pod = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let of_containers =
        spec::containers(pod).iter().chain(spec::init_containers(pod)).filter_map(|c| c.resources.as_ref());
    let mut sizes: Vec<i64> = of_pod
        .into_iter()
        .chain(of_containers)
        .flat_map(|r| r.requests.iter().flatten())
        .filter_map(|(name, _)| name.strip_prefix("hugepages-")?.parse::<Quantity>().ok())
        .map(|size| size.value())
        .filter(|size| asked.is_none_or(|asked| asked == *size))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    match sizes[..] {
        [size] => Ok(size),
        [] => Err(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        )),
        _ => Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes")),
    }
}

fn empty_dir(path: &Path, medium: &Medium, owner: Owner) -> io::Result<()> {
    /// As upstream: any user of the pod may write.
    const MODE: u32 = 0o777;
    let fresh = !path.exists();
    if fresh {
        fs::create_dir_all(path)?;
    }
    match medium {
        // Its owner and mode are the containers' to change.
        Medium::Disk if !fresh => return Ok(()),
        Medium::Disk => {}
        Medium::Memory(_) | Medium::HugePages(_) if is_mount_point(path)? => return Ok(()),
        Medium::Memory(size) => {
            let limit = size.map(|size| format!(",size={}", size.value())).unwrap_or_default();
            mount_tmpfs(path, &format!("mode=0777{limit}"))?;
        }
        Medium::HugePages(bytes) => {
            let options = std::ffi::CString::new(format!("pagesize={bytes}")).map_err(io::Error::other)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("hugetlbfs", path, "hugetlbfs", flags, Some(options.as_c_str())).map_err(|e| {
                let e = io::Error::from(e);
                io::Error::new(e.kind(), format!("huge pages of {bytes} bytes cannot be mounted here: {e}"))
            })?;
        }
    }
    owner.give(path, None)?;
    let mode = if owner.group.is_some() { MODE | 0o2000 } else { MODE };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Opens what a path means inside a tree: links are followed inside it only, and `/` in them is the tree's root.
fn open_in_root(
    root: &OwnedFd,
    below: &Path,
    flags: rustix::fs::OFlags,
) -> Result<OwnedFd, rustix::io::Errno> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    rustix::fs::openat2(
        root,
        below,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC | flags,
        rustix::fs::Mode::empty(),
        rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS,
    )
}

/// Makes the directories of a path inside a tree that are missing. Its pods write there: a link must not have anything made elsewhere.
fn make_in_root(root: &OwnedFd, below: &Path) -> io::Result<OwnedFd> {
    let directory = rustix::fs::OFlags::DIRECTORY;
    let mut so_far = PathBuf::new();
    let mut found = open_in_root(root, &so_far, directory)?;
    for name in below {
        so_far.push(name);
        found = match open_in_root(root, &so_far, directory) {
            Err(rustix::io::Errno::NOENT) => {
                match rustix::fs::mkdirat(&found, name, rustix::fs::Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                open_in_root(root, &so_far, directory)?
            }
            other => other?,
        };
    }
    Ok(found)
}

fn host_path(root: &Path, source: &HostPathVolumeSource) -> Result<Ready, String> {
    let wanted = source.type_.as_deref().unwrap_or_default();
    let relative: PathBuf = Path::new(&source.path)
        .components()
        .filter(|c| matches!(c, std::path::Component::Normal(_)))
        .collect();
    let shown = &source.path;
    let directory = rustix::fs::open(
        root,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|e| format!("{shown}: {}", io::Error::from(e)))?;
    let meta = match open_in_root(&directory, &relative, rustix::fs::OFlags::empty()) {
        Ok(file) => {
            let file = fs::File::from(file);
            Some(file.metadata().map_err(|e| e.to_string())?)
        }
        Err(rustix::io::Errno::NOENT) => None,
        Err(e) => return Err(format!("{shown}: {}", io::Error::from(e))),
    };
    let check = |what: &str, is: fn(&fs::Metadata) -> bool| match &meta {
        Some(m) if is(m) => Ok(()),
        _ => Err(format!("hostPath type check failed: {shown} is not {what}")),
    };
    match wanted {
        "" | "DirectoryOrCreate" if meta.is_none() => {
            make_in_root(&directory, &relative).map_err(|e| format!("{shown}: {e}"))?;
        }
        "" => {}
        "Directory" | "DirectoryOrCreate" => check("a directory", fs::Metadata::is_dir)?,
        "FileOrCreate" if meta.is_none() => {
            let (above, name) = (relative.parent().unwrap_or(Path::new("")), relative.file_name());
            let flags = rustix::fs::OFlags::CREATE
                | rustix::fs::OFlags::WRONLY
                | rustix::fs::OFlags::NOFOLLOW
                | rustix::fs::OFlags::NONBLOCK
                | rustix::fs::OFlags::CLOEXEC;
            make_in_root(&directory, above)
                .and_then(|above| {
                    let mode = rustix::fs::Mode::from_raw_mode(0o644);
                    rustix::fs::openat(&above, name.unwrap_or_default(), flags, mode).map_err(io::Error::from)
                })
                .map_err(|e| format!("{shown}: {e}"))?;
        }
        "File" | "FileOrCreate" => check("a file", fs::Metadata::is_file)?,
        "Socket" => check("a socket file", |m| m.file_type().is_socket())?,
        "CharDevice" => check("a character device", |m| m.file_type().is_char_device())?,
        "BlockDevice" => check("a block device", |m| m.file_type().is_block_device())?,
        other => return Err(format!("hostPath type {other:?} is not known")),
    }
    Ok(Ready {
        of_machine: true,
        path: root.to_owned(),
        below: (!relative.as_os_str().is_empty()).then_some(relative),
        read_only: false,
    })
}

/// Removes a pod's volumes and directories. What is mounted there is unmounted first, and while anything still is,
/// nothing is deleted: it could be somebody's data.
///
/// # Errors
/// What the kernel says; it can be tried again.
pub fn tear_down(layout: &Layout, uid: &str) -> io::Result<()> {
    for root in [layout.pod(uid), layout.memory().join(uid)] {
        if !root.exists() {
            continue;
        }
        for point in mount_points(&root)? {
            unmount(&point, UnmountFlags::DETACH)?;
        }
        if let Some(left) = mount_points(&root)?.first() {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is still mounted", left.display()),
            ));
        }
        fs::remove_dir_all(&root)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downward::FieldContext;
    use crate::env::Objects;
    use crate::state::testing::pod;
    use serde_json::{Value, json};
    use std::os::unix::fs::MetadataExt;

    fn layout(dir: &Path) -> Layout {
        let host_root = dir.join("host");
        fs::create_dir_all(&host_root).unwrap();
        Layout { data: dir.join("data"), host_root }
    }

    fn up(layout: &Layout, spec: Value) -> Result<Volumes, VolumeError> {
        let (objects, tokens, fields) = (Objects::default(), BTreeMap::new(), FieldContext::default());
        let material = Material { objects: &objects, tokens: &tokens, fields: &fields };
        set_up(layout, &pod(spec), &material, None, "1")
    }

    #[test]
    fn host_paths_are_checked_and_stay_in_their_tree() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let host = &layout.host_root;
        fs::create_dir(host.join("d")).unwrap();
        fs::write(host.join("f"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", host.join("link")).unwrap();
        let of = |path: &str, kind: &str| {
            up(&layout, json!({"volumes": [{"name": "v", "hostPath": {"path": path, "type": kind}}]}))
        };
        for (path, kind) in [
            ("/d", "Directory"),
            ("/f", "File"),
            ("/d", ""),
            ("/n", "DirectoryOrCreate"),
            ("/m/g", "FileOrCreate"),
            ("/x/y", ""),
        ] {
            let ready = of(path, kind).unwrap_or_else(|e| panic!("{path} {kind}: {e}"));
            assert_eq!(ready["v"].path, *host);
            assert!(host.join(&path[1..]).exists());
        }
        for (path, kind, message) in [
            ("/f", "Directory", "hostPath type check failed: /f is not a directory"),
            ("/d", "File", "hostPath type check failed: /d is not a file"),
            ("/none", "Directory", "hostPath type check failed: /none is not a directory"),
            ("/f", "Socket", "hostPath type check failed: /f is not a socket file"),
            ("/link", "File", "hostPath type check failed: /link is not a file"),
        ] {
            assert_eq!(of(path, kind).unwrap_err().why, message, "{path} {kind}");
        }
        // What pods have left in the tree has nothing made outside of it.
        let outside = dir.path().join("outside");
        std::os::unix::fs::symlink(&outside, host.join("dangling")).unwrap();
        for (path, kind) in [
            ("/dangling", ""),
            ("/dangling", "DirectoryOrCreate"),
            ("/dangling/x", "DirectoryOrCreate"),
            ("/dangling", "FileOrCreate"),
            ("/dangling/x", "FileOrCreate"),
        ] {
            assert!(of(path, kind).is_err(), "{path} {kind}");
            assert!(!outside.exists(), "{path} {kind}");
        }
        assert_eq!(of("/../d", "Directory").unwrap()["v"].below.as_deref(), Some(Path::new("d")));
    }

    #[test]
    fn empty_dirs_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let spec = json!({"securityContext": {"fsGroup": 4711}, "volumes": [{"name": "disk", "emptyDir": {}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]});
        let ready = up(&layout, spec.clone()).unwrap();
        for name in ["disk", "mem"] {
            let meta = fs::metadata(&ready[name].path).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.gid()), (0o2777, 4711), "{name}");
        }
        fs::write(ready["mem"].path.join("kept"), "x").unwrap();
        assert!(fs::write(ready["mem"].path.join("big"), vec![0; 2 << 20]).is_err(), "its size is limited");
        up(&layout, spec).unwrap();
        assert!(ready["mem"].path.join("kept").exists(), "a second look changes nothing");
        tear_down(&layout, "uid-1").unwrap();
        assert!(!layout.pod("uid-1").exists());
        assert!(mount_points(dir.path()).unwrap().is_empty());
        tear_down(&layout, "uid-1").unwrap();
    }

    #[test]
    fn huge_pages_are_mounted_once_and_go() {
        /// What the kernel calls their file system.
        const HUGETLBFS: i64 = 0x9584_58f6;
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            eprintln!("skipped: mounting needs root");
            return;
        }
        if !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
            eprintln!("skipped: this kernel has no huge pages of 2 MiB");
            return;
        }
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"hugepages-2Mi": "4Mi"}}}],
            "volumes": [{"name": "v", "emptyDir": {"medium": "HugePages"}}]});
        for _ in 0..2 {
            let ready = up(&layout, spec.clone()).unwrap();
            let found = rustix::fs::statfs(&ready["v"].path).unwrap();
            assert_eq!((found.f_type, found.f_bsize), (HUGETLBFS, 2 << 20));
            assert_eq!(fs::metadata(&ready["v"].path).unwrap().mode() & 0o777, 0o777);
            assert_eq!(mount_points(dir.path()).unwrap().len(), 1);
        }
        tear_down(&layout, "uid-1").unwrap();
        assert!(mount_points(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn pages_are_those_that_the_pod_asks_for() {
        let asking = |lists: Value| {
            let of = |(n, list): (usize, &Value)| json!({"name": format!("c{n}"), "resources": {"requests": list}});
            let containers: Vec<Value> = lists.as_array().unwrap().iter().enumerate().map(of).collect();
            pod(json!({"containers": containers[..1], "initContainers": containers[1..]}))
        };
        let none = |medium: &str| {
            Err(format!(
                "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
            ))
        };
        let (small, large) = (json!({"hugepages-2Mi": "4Mi"}), json!({"hugepages-1Gi": "1Gi"}));
        for (lists, medium, expected) in [
            (json!([small]), "HugePages", Ok(2 << 20)),
            (json!([small]), "HugePages-2Mi", Ok(2 << 20)),
            (json!([small, small]), "HugePages", Ok(2 << 20)),
            (json!([{}, large]), "HugePages", Ok(1 << 30)),
            (json!([small, large]), "HugePages-1Gi", Ok(1 << 30)),
            (json!([small]), "HugePages-1Gi", none("HugePages-1Gi")),
            (json!([{"memory": "1Gi"}]), "HugePages", none("HugePages")),
            (
                json!([small, large]),
                "HugePages",
                Err("medium: HugePages can't be used if container requests multiple huge page sizes"
                    .to_owned()),
            ),
            (json!([small]), "HugePages-x", Err("medium: HugePages-x not of expected format".to_owned())),
        ] {
            assert_eq!(huge_page_bytes(&asking(lists.clone()), medium), expected, "{lists} {medium}");
        }
    }

    #[test]
    fn unknown_volumes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            up(&layout(dir.path()), json!({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}));
        assert_eq!(
            error.unwrap_err().to_string(),
            "MountVolume.SetUp failed for volume \"v\" : an NFS volume is not supported by this node"
        );
    }

    #[test]
    fn escapes_of_the_mount_table() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/plain"), "/plain");
    }
}
