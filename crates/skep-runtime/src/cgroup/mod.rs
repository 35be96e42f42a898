//! Control groups, on version 1, version 2, and version 1 with an empty version 2 beside it ("hybrid").
//!
//! A [`Tree`] knows where the hierarchies are mounted and where in them we may make groups; a group is named by its
//! path relative to that base and is the same on both versions. All operations are plain reads and writes of
//! files: safe to call from anywhere, quick, and nothing is remembered between calls, so a restart loses nothing.

mod devices;
mod stats;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub use self::devices::DeviceRule;
pub use self::stats::{GroupStats, GroupUsage};
use crate::error::{AtPath, Error, ErrorKind, Result};
use crate::spec::Resources;

/// How long to wait for killed processes to go. Longer means that a process is stuck in the kernel (a dead NFS
/// server): the group then stays behind and the next clean-up tries again.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The control groups that we may use.
#[derive(Debug, Clone)]
pub struct Tree {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The base directory of each mounted controller.
    V1(BTreeMap<String, PathBuf>),
    V2(PathBuf),
}

/// Where in the hierarchies our groups begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// At the root of what is mounted. In a control group namespace that is the namespace's root.
    Root,
    /// In the group of this process.
    Own,
}

impl Tree {
    /// Looks at what is mounted.
    pub fn detect(base: Base) -> Result<Tree> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| Error::io("cannot read which filesystems are mounted", e))?;
        let own = fs::read_to_string("/proc/self/cgroup")
            .map_err(|e| Error::io("cannot read this process's control groups", e))?;
        Self::from_proc(&mounts, &own, base).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "no control groups are mounted: mount cgroup2 at /sys/fs/cgroup, with the memory and pids controllers",
            )
        })
    }

    /// A version 2 tree at a directory.
    pub fn v2_at(base: impl Into<PathBuf>) -> Tree {
        Tree { kind: Kind::V2(base.into()) }
    }

    /// A version 1 tree with each controller's base directory.
    pub fn v1_at(controllers: impl IntoIterator<Item = (String, PathBuf)>) -> Tree {
        Tree { kind: Kind::V1(controllers.into_iter().collect()) }
    }

    fn from_proc(mountinfo: &str, own: &str, base: Base) -> Option<Tree> {
        let own_path = |wanted: Option<&str>| -> Option<&str> {
            own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':');
                let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
                let matches = match wanted {
                    Some(name) => controllers.split(',').any(|c| c == name),
                    None => id == "0",
                };
                matches.then_some(path)
            })
        };
        let at = |mount: &MountLine<'_>, wanted: Option<&str>| -> PathBuf {
            let own = match base {
                Base::Root => None,
                Base::Own => own_path(wanted),
            };
            let below = own.and_then(|p| Path::new(p).strip_prefix(mount.root).ok());
            match below {
                Some(below) => PathBuf::from(mount.point).join(below),
                None => PathBuf::from(mount.point),
            }
        };
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for mount in mountinfo.lines().filter_map(MountLine::parse) {
            match mount.kind {
                "cgroup2" if v2.is_none() => v2 = Some(at(&mount, None)),
                "cgroup" => {
                    for option in mount.options.split(',').filter(|o| v1::USED.contains(o)) {
                        v1.entry(option.to_owned()).or_insert_with(|| at(&mount, Some(option)));
                    }
                }
                _ => {}
            }
        }
        // Memory decides: where version 1 has it, version 2 cannot.
        match (v1.contains_key("memory"), v2) {
            (true, _) => Some(Tree { kind: Kind::V1(v1) }),
            (false, Some(base)) => Some(Tree { kind: Kind::V2(base) }),
            (false, None) => None,
        }
    }

    /// For a shim's command line.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let pair = |name: &str, path: &Path| {
            let mut text = OsString::from(name);
            text.push("=");
            text.push(path);
            text
        };
        match &self.kind {
            Kind::V1(bases) => bases.iter().map(|(name, path)| pair(name, path)).collect(),
            Kind::V2(base) => vec![pair("unified", base)],
        }
    }

    /// From a shim's command line.
    pub(crate) fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Option<Tree> {
        use std::os::unix::ffi::OsStringExt;
        let mut v1 = BTreeMap::new();
        for argument in arguments {
            let bytes = argument.into_vec();
            let at = bytes.iter().position(|b| *b == b'=')?;
            let name = std::str::from_utf8(&bytes[..at]).ok()?.to_owned();
            let path = PathBuf::from(OsString::from_vec(bytes[at + 1..].to_vec()));
            if name == "unified" {
                return Some(Self::v2_at(path));
            }
            v1.insert(name, path);
        }
        (!v1.is_empty()).then_some(Tree { kind: Kind::V1(v1) })
    }

    /// Version 2?
    pub fn is_v2(&self) -> bool {
        matches!(self.kind, Kind::V2(_))
    }

    /// The directories of a group: one on version 2, one per controller on version 1.
    pub fn directories(&self, group: &Path) -> Vec<PathBuf> {
        match &self.kind {
            Kind::V1(bases) => bases.values().map(|b| b.join(group)).collect(),
            Kind::V2(base) => vec![base.join(group)],
        }
    }

    /// As [`Tree::directories`], with the controllers' names; version 2 has no name.
    pub(crate) fn named_directories(&self, group: &Path) -> Vec<(String, PathBuf)> {
        match &self.kind {
            Kind::V1(bases) => bases.iter().map(|(name, b)| (name.clone(), b.join(group))).collect(),
            Kind::V2(base) => vec![(String::new(), base.join(group))],
        }
    }

    /// Makes a group, and those above it, with its limits. It may exist already: then its limits are changed.
    pub fn create(&self, group: &Path, resources: &Resources) -> Result<()> {
        check(group)?;
        match &self.kind {
            Kind::V1(bases) => v1::create(bases, group, resources),
            Kind::V2(base) => v2::create(base, group, resources),
        }
    }

    /// Changes the limits of a group, also of running containers.
    pub fn update(&self, group: &Path, resources: &Resources) -> Result<()> {
        check(group)?;
        match &self.kind {
            Kind::V1(bases) => v1::apply(bases, group, resources),
            Kind::V2(base) => v2::apply(&base.join(group), resources),
        }
    }

    /// Lets the group use these devices and no others. In a machine with users of its own the host decides that for all groups of the machine, and no device
    /// node can be made.
    pub fn restrict_devices(&self, group: &Path, rules: &[DeviceRule]) -> Result<()> {
        if !crate::sys::initial_user_namespace() {
            return Ok(());
        }
        match &self.kind {
            Kind::V1(bases) => v1::restrict_devices(bases, group, rules),
            Kind::V2(base) => devices::attach(&base.join(group), rules),
        }
    }

    /// The files through which a process moves *itself* into the group, by writing `0` to each: it is
    /// then a matter of that one thread and needs no lock over all processes of the machine, which costs milliseconds.
    pub fn entrances(&self, group: &Path) -> Vec<PathBuf> {
        match &self.kind {
            Kind::V1(bases) => bases
                .values()
                .map(|b| b.join(group))
                .filter(|d| d.is_dir())
                .map(|d| d.join("tasks"))
                .collect(),
            Kind::V2(base) => vec![base.join(group).join("cgroup.procs")],
        }
    }

    /// Moves a process into the group.
    pub fn add(&self, group: &Path, pid: u32) -> Result<()> {
        for directory in self.directories(group).iter().filter(|d| d.is_dir()) {
            let file = directory.join("cgroup.procs");
            fs::write(&file, pid.to_string()).at("move a process to", &file)?;
        }
        Ok(())
    }

    /// Is there such a group?
    pub fn exists(&self, group: &Path) -> bool {
        self.directories(group).iter().any(|d| d.is_dir())
    }

    /// The processes of a group and of all below it.
    pub fn processes(&self, group: &Path) -> Vec<u32> {
        let mut found = Vec::new();
        for directory in self.directories(group) {
            walk(&directory, &mut |d| {
                let pids = fs::read_to_string(d.join("cgroup.procs")).unwrap_or_default();
                found.extend(pids.lines().filter_map(|l| l.parse::<u32>().ok()).filter(|p| *p != 0));
            });
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// How often the kernel killed something in the group because its memory was used up.
    pub fn oom_kills(&self, group: &Path) -> u64 {
        match &self.kind {
            Kind::V1(bases) => bases
                .get("memory")
                .and_then(|b| stats::keyed(&b.join(group).join("memory.oom_control"), "oom_kill")),
            Kind::V2(base) => stats::keyed(&base.join(group).join("memory.events"), "oom_kill"),
        }
        .unwrap_or(0)
    }

    /// What the group uses now.
    pub fn stats(&self, group: &Path) -> Result<GroupStats> {
        if !self.exists(group) {
            return Err(Error::not_found(format!("there is no control group {}", group.display())));
        }
        Ok(match &self.kind {
            Kind::V1(bases) => stats::v1(bases, group),
            Kind::V2(base) => stats::v2(&base.join(group)),
        })
    }

    /// Only what changes all the time and is asked for all the time: a third of the cost of [`Tree::stats`].
    pub fn usage(&self, group: &Path) -> Result<GroupUsage> {
        if !self.exists(group) {
            return Err(Error::not_found(format!("there is no control group {}", group.display())));
        }
        Ok(match &self.kind {
            Kind::V1(bases) => stats::v1_usage(bases, group),
            Kind::V2(base) => stats::v2_usage(&base.join(group)),
        })
    }

    /// How many tasks the group has, and how many it may have; nothing where there is no limit.
    pub fn tasks(&self, group: &Path) -> Option<(u64, u64)> {
        let directory = match &self.kind {
            Kind::V1(bases) => bases.get("pids")?.join(group),
            Kind::V2(base) => base.join(group),
        };
        let number = |name: &str| fs::read_to_string(directory.join(name)).ok()?.trim().parse().ok();
        Some((number("pids.current")?, number("pids.max")?))
    }

    /// Kills every process of the group and of all below it, and waits until they are gone. A fork bomb does not escape: the
    /// group is killed as one (version 2), or frozen first (version 1).
    pub fn kill(&self, group: &Path) -> Result<()> {
        check(group)?;
        let deadline = Instant::now() + KILL_TIMEOUT;
        let mut pause = Duration::from_micros(200);
        loop {
            if self.processes(group).is_empty() {
                return Ok(());
            }
            self.kill_once(group);
            if Instant::now() > deadline {
                return Err(Error::new(
                    ErrorKind::Failed,
                    format!(
                        "processes of control group {} do not die: look for hung storage in the kernel's log",
                        group.display()
                    ),
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Sends `SIGKILL` to all, without waiting.
    pub fn kill_once(&self, group: &Path) {
        if let Kind::V2(base) = &self.kind
            && fs::write(base.join(group).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        let freezer = match &self.kind {
            Kind::V1(bases) => bases.get("freezer").map(|b| b.join(group).join("freezer.state")),
            Kind::V2(_) => None,
        };
        // A frozen group cannot fork while we count it. It need not be fully frozen: what escapes is met next time.
        if let Some(state) = &freezer {
            let _ = fs::write(state, "FROZEN");
        }
        for pid in self.processes(group) {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if let Some(state) = &freezer {
            let _ = fs::write(state, "THAWED");
        }
    }

    /// Removes the group and all below it. It must be empty: see [`Tree::kill`].
    pub fn remove(&self, group: &Path) -> Result<()> {
        check(group)?;
        for directory in self.directories(group) {
            let mut below = Vec::new();
            walk(&directory, &mut |d| below.push(d.to_owned()));
            // Parents come first in a walk.
            for directory in below.iter().rev() {
                remove_empty(directory)?;
            }
        }
        Ok(())
    }
}

/// A group that has just become empty may be busy for a moment.
fn remove_empty(directory: &Path) -> Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && pause < Duration::from_millis(100) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            result => return result.at("remove control group", directory),
        }
    }
}

/// Groups are below the base, and not the base itself.
fn check(group: &Path) -> Result<()> {
    let normal = group.components().all(|c| matches!(c, Component::Normal(_)));
    match normal && group.components().next().is_some() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "control group {:?} must be a relative path without `.` and `..`",
            group.display().to_string()
        ))),
    }
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    visit(directory);
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}

/// Writes a value, and says which file of which group did not take it.
fn set(directory: &Path, file: &str, value: impl AsRef<str>) -> Result<()> {
    let path = directory.join(file);
    fs::write(&path, value.as_ref()).map_err(|e| {
        Error::io(format!("cannot set {} of a control group to {:?}", path.display(), value.as_ref()), e)
    })
}

/// One line of `mountinfo`, as far as we need it.
struct MountLine<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> MountLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let kind = right.next()?;
        Some(MountLine { root, point, kind, options: right.nth(1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 /slice /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const OWN: &str = "5:memory:/slice/me\n4:pids:/\n3:cpu,cpuacct:/c\n1:name=systemd:/\n0::/\n";

    #[test]
    fn hybrid_is_version_1_with_each_controllers_own_base() {
        let tree = Tree::from_proc(HYBRID, OWN, Base::Own).unwrap();
        assert!(!tree.is_v2());
        let mut found = tree.directories(Path::new("g"));
        found.sort();
        let expected = [
            "/sys/fs/cgroup/cpu,cpuacct/c/g",
            "/sys/fs/cgroup/cpu,cpuacct/c/g",
            "/sys/fs/cgroup/memory/me/g",
            "/sys/fs/cgroup/pids/g",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        let root = Tree::from_proc(HYBRID, OWN, Base::Root).unwrap();
        assert!(root.directories(Path::new("g")).contains(&PathBuf::from("/sys/fs/cgroup/memory/g")));
    }

    #[test]
    fn unified_is_version_2() {
        let mounts = "31 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let tree = Tree::from_proc(mounts, "0::/machine/a\n", Base::Own).unwrap();
        assert!(tree.is_v2());
        assert_eq!(tree.directories(Path::new("g")), [PathBuf::from("/sys/fs/cgroup/machine/a/g")]);
        assert!(Tree::from_proc("", "", Base::Root).is_none());
    }

    #[test]
    fn groups_stay_below_the_base() {
        for bad in ["", "/", "/a", "../a", "a/../..", "./a"] {
            assert!(check(Path::new(bad)).is_err(), "{bad}");
        }
        assert!(check(Path::new("a/b.c")).is_ok());
    }
}
