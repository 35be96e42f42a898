//! A machine's control group: in every hierarchy of the host, on version 1, version 2, or both beside each other.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::procfs::{self, MountPoint};
use crate::driver::MachineSpec;
use crate::error::Error;

/// The period over which CPU time is shared out, the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// What version 1 calls one CPU's share.
const SHARES_PER_CPU: u64 = 1024;
/// What version 2 calls the share of a group that says nothing, and its range.
const WEIGHT_PER_CPU: u64 = 100;
const WEIGHT_MAX: u64 = 10_000;
/// The kernel takes no quota below this.
const CPU_QUOTA_MIN_US: u64 = 1_000;
/// How long a killed process may take to be gone; more means that it hangs in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often is looked.
const KILL_POLL: Duration = Duration::from_millis(5);
/// Below the machine's group, on version 2: its first process. A group that hands out controllers may hold no
/// processes itself, and what runs inside hands them out.
const INIT_LEAF: &str = "init";
/// Beside it: what the host does for this machine.
const HOST_LEAF: &str = "host";

/// What a machine may open: null, zero, full, random, urandom, tty, console, ptmx, terminals, tun. Making device files
/// is harmless as long as they cannot be opened.
const DEVICES: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
];

/// The controllers that version 2 hands down, where it has them.
const V2_CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// With these controllers, or a name.
    V1(Vec<String>),
    V2,
}

/// One hierarchy of control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where the host has it mounted.
    pub(crate) mount: PathBuf,
    pub(crate) version: Version,
}

const V1_CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// The hierarchies among the mounts, each once.
pub(crate) fn hierarchies(mounts: &[MountPoint]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mounts {
        let version = match mount.fstype.as_str() {
            "cgroup2" => Version::V2,
            "cgroup" => {
                let known = |o: &&str| V1_CONTROLLERS.contains(o) || o.starts_with("name=");
                Version::V1(mount.options.split(',').filter(known).map(str::to_owned).collect())
            }
            _ => continue,
        };
        if found.iter().all(|h| h.version != version) {
            found.push(Hierarchy { mount: mount.target.clone(), version });
        }
    }
    found
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        match &self.version {
            Version::V1(list) => list.iter().any(|c| c == controller),
            Version::V2 => fs::read_to_string(self.mount.join("cgroup.controllers"))
                .is_ok_and(|text| text.split_ascii_whitespace().any(|c| c == controller)),
        }
    }
}

/// A machine's group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    hierarchies: Vec<Hierarchy>,
    parent: String,
    name: String,
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io("write", path))
}

/// Writes where the file exists: not every kernel has everything.
fn write_if_there(path: &Path, text: &str) -> Result<(), Error> {
    if path.exists() { write(path, text) } else { Ok(()) }
}

fn make(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(Error::io("create the control group", path)(e)),
    }
}

impl Group {
    /// The group of a name below a parent, which is made when needed.
    pub(crate) fn new(parent: &str, name: &str) -> Result<Group, Error> {
        let hierarchies = hierarchies(&procfs::mounts()?);
        Ok(Group { hierarchies, parent: parent.to_owned(), name: name.to_owned() })
    }

    fn dirs(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.hierarchies.iter().map(|h| (h, h.mount.join(&self.parent).join(&self.name)))
    }

    /// Whether there are control groups that can limit memory and CPU.
    pub(crate) fn can_limit(&self) -> bool {
        ["memory", "cpu"].iter().all(|c| self.hierarchies.iter().any(|h| h.has(c)))
    }

    /// The hierarchies, for whoever mounts them inside the machine.
    pub(crate) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// Makes the group, empty, with the machine's limits. `owner`, the machine's root, may make groups below it and move its processes between those; the
    /// limits are not its own.
    pub(crate) fn create(&self, spec: &MachineSpec, owner: u32) -> Result<(), Error> {
        for (hierarchy, dir) in self.dirs() {
            // Groups of an earlier start, with limits and rules of their own.
            remove_children(&dir)?;
            let parent = hierarchy.mount.join(&self.parent);
            make(&parent)?;
            if hierarchy.version == Version::V2 {
                hand_down(&hierarchy.mount)?;
                hand_down(&parent)?;
            } else if hierarchy.has("cpuset") {
                inherit_cpuset(&parent, &hierarchy.mount)?;
            }
            make(&dir)?;
            match &hierarchy.version {
                Version::V2 => {
                    take_back(&dir)?;
                    limit_v2(&dir, spec)?;
                }
                Version::V1(_) => {
                    if hierarchy.has("cpuset") {
                        inherit_cpuset(&dir, &parent)?;
                    }
                    limit_v1(hierarchy, &dir, spec)?;
                }
            }
            hand_over(&dir, owner)?;
        }
        Ok(())
    }

    /// Puts a process into the group, in every hierarchy.
    pub(crate) fn join(&self, pid: u32) -> Result<(), Error> {
        for (_, dir) in self.dirs() {
            write(&dir.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Puts a process of the host into the group, which is not one of the machine's own: on version 2 into a leaf beside those.
    pub(crate) fn adopt(&self, pid: u32) -> Result<(), Error> {
        for (hierarchy, dir) in self.dirs() {
            let dir = if hierarchy.version == Version::V2 { dir.join(HOST_LEAF) } else { dir };
            if hierarchy.version == Version::V2 {
                make(&dir)?;
            }
            write(&dir.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// On version 2, moves a process of the group into a leaf below it, which is `owner`'s too.
    pub(crate) fn settle(&self, pid: u32, owner: u32) -> Result<(), Error> {
        for (_, dir) in self.dirs().filter(|(h, _)| h.version == Version::V2) {
            let leaf = dir.join(INIT_LEAF);
            make(&leaf)?;
            hand_over(&leaf, owner)?;
            write(&leaf.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Every process in it and below it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = BTreeSet::new();
        for (_, dir) in self.dirs() {
            collect(&dir, &mut found);
        }
        found.into_iter().collect()
    }

    /// Kills everything in it. Gives how many are left in the end.
    pub(crate) fn kill(&self) -> usize {
        let end = Instant::now() + KILL_TIMEOUT;
        loop {
            let processes = self.processes();
            if processes.is_empty() || Instant::now() > end {
                return processes.len();
            }
            for (_, dir) in self.dirs().filter(|(h, _)| h.version == Version::V2) {
                // All at once, newborn ones included; older kernels do not have it.
                let _ = write_if_there(&dir.join("cgroup.kill"), "1");
            }
            for pid in processes {
                // Gone meanwhile is as good.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            sleep(KILL_POLL);
        }
    }

    /// Removes the group and all below it; it must be empty of processes.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for (_, dir) in self.dirs() {
            remove_tree(&dir)?;
        }
        Ok(())
    }

    /// Whether anything of it is there.
    pub(crate) fn exists(&self) -> bool {
        self.dirs().any(|(_, dir)| dir.exists())
    }
}

/// The names of the groups below a parent, in any hierarchy.
pub(crate) fn names(parent: &str) -> Result<BTreeSet<String>, Error> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies(&procfs::mounts()?) {
        for dir in children(&hierarchy.mount.join(parent)) {
            found.extend(dir.file_name().map(|n| n.to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

/// Removes the parent where nothing is left in it.
pub(crate) fn remove_parent(parent: &str) -> Result<(), Error> {
    for hierarchy in hierarchies(&procfs::mounts()?) {
        // Another machine is still in it, or it is gone already.
        let _ = fs::remove_dir(hierarchy.mount.join(parent));
    }
    Ok(())
}

fn collect(dir: &Path, found: &mut BTreeSet<i32>) {
    // A group that goes while it is read holds nothing.
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that this one cannot see.
    found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
    for child in children(dir) {
        collect(&child, found);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn remove_children(dir: &Path) -> Result<(), Error> {
    children(dir).iter().try_for_each(|child| remove_tree(child))
}

fn remove_tree(dir: &Path) -> Result<(), Error> {
    remove_children(dir)?;
    let end = Instant::now() + KILL_TIMEOUT;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The last process is dead, but not yet forgotten.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => sleep(KILL_POLL),
            Err(e) => return Err(Error::io("remove the control group", dir)(e)),
        }
    }
}

/// Gives a group to somebody as the kernel's documentation of delegation has it: the directory, and the files that move processes.
fn hand_over(dir: &Path, owner: u32) -> Result<(), Error> {
    let files = ["", "cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"];
    for path in files.map(|file| dir.join(file)).into_iter().filter(|path| path.exists()) {
        std::os::unix::fs::chown(&path, Some(owner), Some(owner))
            .map_err(Error::io("change the owner of", &path))?;
    }
    Ok(())
}

fn inherit_cpuset(dir: &Path, parent: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        if fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty()) {
            let from = parent.join(file);
            let text = fs::read_to_string(&from).map_err(Error::io("read", &from))?;
            write(&own, text.trim())?;
        }
    }
    // What is made inside the machine inherits too.
    write_if_there(&dir.join("cgroup.clone_children"), "1")
}

/// Lets the children of a version 2 group have its controllers.
fn hand_down(dir: &Path) -> Result<(), Error> {
    let path = dir.join("cgroup.controllers");
    let there = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    for controller in there.split_ascii_whitespace().filter(|c| V2_CONTROLLERS.contains(c)) {
        write(&dir.join("cgroup.subtree_control"), &format!("+{controller}"))?;
    }
    Ok(())
}

/// Undoes what ran inside a machine did with its own group, so that it can hold processes again.
fn take_back(dir: &Path) -> Result<(), Error> {
    let path = dir.join("cgroup.subtree_control");
    let handed = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    for controller in handed.split_ascii_whitespace() {
        write(&path, &format!("-{controller}"))?;
    }
    Ok(())
}

fn quota_us(spec: &MachineSpec) -> u64 {
    (spec.cpu_millis * CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US)
}

fn limit_v1(hierarchy: &Hierarchy, dir: &Path, spec: &MachineSpec) -> Result<(), Error> {
    if hierarchy.has("memory") {
        let bytes = spec.memory_bytes.to_string();
        write(&dir.join("memory.limit_in_bytes"), &bytes)?;
        // Memory and swap together: no swap.
        write_if_there(&dir.join("memory.memsw.limit_in_bytes"), &bytes)?;
    }
    if hierarchy.has("cpu") {
        write(&dir.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
        write(&dir.join("cpu.cfs_quota_us"), &quota_us(spec).to_string())?;
        let shares = (spec.cpu_millis * SHARES_PER_CPU / 1000).max(2);
        write(&dir.join("cpu.shares"), &shares.to_string())?;
    }
    if hierarchy.has("pids") {
        write(&dir.join("pids.max"), &spec.pids_max.to_string())?;
    }
    if hierarchy.has("devices") {
        write(&dir.join("devices.deny"), "a")?;
        for device in DEVICES {
            write(&dir.join("devices.allow"), device)?;
        }
    }
    Ok(())
}

fn limit_v2(dir: &Path, spec: &MachineSpec) -> Result<(), Error> {
    write_if_there(&dir.join("memory.max"), &spec.memory_bytes.to_string())?;
    write_if_there(&dir.join("memory.swap.max"), "0")?;
    write_if_there(&dir.join("cpu.max"), &format!("{} {CPU_PERIOD_US}", quota_us(spec)))?;
    let weight = (spec.cpu_millis * WEIGHT_PER_CPU / 1000).clamp(1, WEIGHT_MAX);
    write_if_there(&dir.join("cpu.weight"), &weight.to_string())?;
    write_if_there(&dir.join("pids.max"), &spec.pids_max.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_layouts_are_understood() {
        let text = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                    34 25 0:27 / /other/memory rw - cgroup cgroup rw,memory\n";
        let found = hierarchies(&procfs::parse_mounts(text));
        let v1 = |names: &[&str]| Version::V1(names.iter().map(|n| (*n).to_owned()).collect());
        let want = [
            ("/sys/fs/cgroup/cpu,cpuacct", v1(&["cpu", "cpuacct"])),
            ("/sys/fs/cgroup/memory", v1(&["memory"])),
            ("/sys/fs/cgroup/systemd", v1(&["name=systemd"])),
            ("/sys/fs/cgroup/unified", Version::V2),
        ];
        let want: Vec<Hierarchy> =
            want.into_iter().map(|(m, version)| Hierarchy { mount: m.into(), version }).collect();
        assert_eq!(found, want);
    }
}
