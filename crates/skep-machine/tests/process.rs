//! Process machines in the real kernel. They need root; without, each test says so and does nothing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use skep_machine::process::{PROGRAM, Point, Removal};
use skep_machine::{
    Driver, Error, Found, MachineId, MachineSpec, Mount, Phase, ProcessDriver, Program, Step,
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A driver of its own, which leaves nothing behind whatever happens.
struct World {
    dir: tempfile::TempDir,
    parent: String,
}

impl World {
    fn new() -> Option<World> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let world = World {
            dir: tempfile::tempdir().unwrap(),
            parent: format!("skep-test-{}-{number}", std::process::id()),
        };
        match world.driver().probe() {
            Ok(()) => Some(world),
            Err(error) => {
                eprintln!("SKIPPED: {}", error.story());
                None
            }
        }
    }

    fn machines(&self) -> PathBuf {
        self.dir.path().join("machines")
    }

    fn driver(&self) -> ProcessDriver {
        let launcher = vec![env!("CARGO_BIN_EXE_skep-machine").into()];
        ProcessDriver::new(self.machines(), &self.parent, launcher)
    }

    fn spec(&self, id: &str) -> MachineSpec {
        let shared = self.dir.path().join("shared");
        fs::create_dir_all(&shared).unwrap();
        fs::write(shared.join("word"), "from the host").unwrap();
        MachineSpec {
            id: MachineId::new(id).unwrap(),
            hostname: "node-1".to_owned(),
            cpu_millis: 500,
            memory_bytes: 256 << 20,
            disk_bytes: None,
            pids_max: 200,
            program: Program { args: vec![PROGRAM.to_owned(), "report".to_owned()], env: BTreeMap::new() },
            mounts: vec![Mount { source: shared, target: "/shared".into(), writable: false }],
        }
    }

    fn root(&self, id: &str) -> PathBuf {
        self.machines().join(id).join("root")
    }

    /// Everything on the host that has to do with this world's machines.
    fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let machines = self.machines();
        if let Ok(entries) = fs::read_dir(&machines) {
            found.extend(entries.flatten().map(|e| format!("file {}", e.path().display())));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = machines.display().to_string();
        found.extend(mounts.lines().filter(|l| l.contains(&below)).map(|l| format!("mount {l}")));
        for mount in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for dir in [mount.path().join(&self.parent), Path::new("/sys/fs/cgroup").join(&self.parent)] {
                if dir.exists() {
                    found.push(format!("group {}", dir.display()));
                }
            }
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let groups = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            // A dead one waits for the host's own first process to ask after it.
            let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            if groups.contains(&self.parent) && !stat.contains(") Z ") {
                found.push(format!("process {}", process.path().display()));
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let driver = self.driver();
        for found in driver.list().unwrap_or_default() {
            if let Err(error) = driver.remove(&found.id) {
                eprintln!("{}", error.story());
            }
        }
    }
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn running(driver: &ProcessDriver, id: &MachineId) -> Option<i32> {
    match driver.inspect(id).unwrap() {
        Some(Found { phase: Phase::Running { pid }, .. }) => Some(pid),
        _ => None,
    }
}

fn up(world: &World, driver: &ProcessDriver, spec: &MachineSpec) -> i32 {
    driver.prepare(spec).map_err(|e| e.story()).unwrap();
    driver.start(&spec.id).map_err(|e| e.story()).unwrap();
    let _ = world;
    running(driver, &spec.id).unwrap()
}

fn section<'a>(report: &'a str, name: &str) -> &'a str {
    let (_, rest) =
        report.split_once(&format!("== {name}\n")).unwrap_or_else(|| panic!("{name} in {report}"));
    rest.split("\n== ").next().unwrap().trim_end()
}

#[test]
fn a_machine_sees_itself_and_not_its_host() {
    let Some(world) = World::new() else { return };
    let (driver, spec) = (world.driver(), world.spec("m1"));
    driver.prepare(&spec).map_err(|e| e.story()).unwrap();
    fs::write(driver.control_dir(&spec.id).join("word"), "told").unwrap();
    driver.start(&spec.id).map_err(|e| e.story()).unwrap();
    let path = world.root("m1").join("var/lib/report");
    let report = wait("the report", || fs::read_to_string(&path).ok());
    assert_eq!(section(&report, "hostname"), "node-1");
    assert_eq!(section(&report, "control"), "told");
    assert_eq!(section(&report, "shared"), "from the host");
    assert_eq!(section(&report, "pid"), "2", "right after the first process");
    let bounding = section(&report, "status").lines().find_map(|l| l.strip_prefix("CapBnd:\t")).unwrap();
    let bounding = u64::from_str_radix(bounding, 16).unwrap();
    assert_eq!(bounding & (1 << 16 | 1 << 22 | 1 << 25), 0, "no modules, no reboot, no clock");
    assert_ne!(bounding & (1 << 21), 0, "mounting is what agents do");
    let names = section(&report, "root");
    assert!(names.contains("proc") && !names.contains("work") && !names.contains("boot"), "{names}");
    let interfaces = section(&report, "interfaces");
    assert_eq!(interfaces.lines().count(), 3, "two lines of heading, and lo: {interfaces}");
    for refused in ["write control", "write shared"] {
        let outcome = section(&report, refused);
        assert!(outcome.contains("Read-only file system"), "{refused}: {outcome}");
    }
    let outcome = section(&report, "write /proc/sys/vm");
    assert!(outcome.contains("Permission denied"), "{outcome}");
    for allowed in ["write /proc/sys/net", "write root", "null"] {
        assert_eq!(section(&report, allowed), "done", "{allowed}");
    }
    let mounts = section(&report, "mounts");
    let machines = world.machines().display().to_string();
    for line in mounts.lines() {
        let target = line.split(' ').nth(4).unwrap();
        assert!(!target.starts_with(&machines), "the host's tree is out of sight: {line}");
    }
    // The host sees the machine's own name nowhere, and still has its own.
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(own.trim(), "node-1");
}

#[test]
fn its_limits_hold_on_whatever_control_groups_there_are() {
    let Some(world) = World::new() else { return };
    let (driver, spec) = (world.driver(), world.spec("m1"));
    up(&world, &driver, &spec);
    let read = |paths: [&str; 2]| {
        let found = paths.iter().find_map(|p| {
            let path = p.replace("GROUP", &format!("{}/m1", world.parent));
            fs::read_to_string(path).ok()
        });
        found.unwrap_or_else(|| panic!("none of {paths:?}")).trim().to_owned()
    };
    let memory =
        read(["/sys/fs/cgroup/GROUP/memory.max", "/sys/fs/cgroup/memory/GROUP/memory.limit_in_bytes"]);
    assert_eq!(memory, (256 << 20).to_string());
    assert_eq!(read(["/sys/fs/cgroup/GROUP/pids.max", "/sys/fs/cgroup/pids/GROUP/pids.max"]), "200");
    let cpu = read(["/sys/fs/cgroup/GROUP/cpu.max", "/sys/fs/cgroup/cpu/GROUP/cpu.cfs_quota_us"]);
    assert_eq!(cpu.split(' ').next().unwrap(), "50000");
}

#[test]
fn it_is_found_again_and_started_again() {
    let Some(world) = World::new() else { return };
    let spec = world.spec("m1");
    let first = up(&world, &world.driver(), &spec);
    // Another daemon, another driver: everything is on disk and in the kernel.
    let driver = world.driver();
    let found = driver.list().unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].spec.as_ref(), Some(&spec));
    assert_eq!(found[0].phase, Phase::Running { pid: first });
    assert_eq!(up(&world, &driver, &spec), first, "what runs is left alone");
    // The first process dies, and everything in the machine with it.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait("the machine's end", || running(&driver, &spec.id).is_none().then_some(()));
    fs::write(world.root("m1").join("var/lib/kept"), "kept").unwrap();
    let network =
        fs::metadata(driver.network(&spec.id)).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
    let second = up(&world, &driver, &spec);
    assert_ne!(second, first);
    assert_eq!(fs::read_to_string(world.root("m1").join("var/lib/kept")).unwrap(), "kept");
    let after =
        fs::metadata(driver.network(&spec.id)).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
    assert_eq!(network, after, "the network stays plugged in");
}

#[test]
fn its_program_is_started_again_and_orphans_are_reaped() {
    let Some(world) = World::new() else { return };
    let (driver, spec) = (world.driver(), world.spec("m1"));
    up(&world, &driver, &spec);
    let report = world.root("m1").join("var/lib/report");
    wait("the first report", || report.exists().then_some(()));
    fs::remove_file(&report).unwrap();
    driver.reload(&spec.id).unwrap();
    wait("the report after a reload", || report.exists().then_some(()));
    fs::remove_file(&report).unwrap();
    let end = driver.control_dir(&spec.id).join("end");
    fs::write(&end, "").unwrap();
    // It ends at once as long as the file is there; then it is there for good again.
    wait("another report", || report.exists().then_some(()));
    fs::remove_file(&end).unwrap();
    let console = fs::read_to_string(world.machines().join("m1/console.log")).unwrap();
    assert!(console.contains("it is started again"), "{console}");
    let (begin, grace) = (Instant::now(), Duration::from_secs(10));
    driver.stop(&spec.id, grace).unwrap();
    assert!(begin.elapsed() < grace, "SIGTERM is enough");
    assert_eq!(driver.inspect(&spec.id).unwrap().unwrap().phase, Phase::Stopped);
    driver.remove(&spec.id).unwrap();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

/// Fails at a point a number of times.
fn failing(world: &World, at: Point, times: u32) -> (ProcessDriver, Arc<AtomicU32>) {
    let left = Arc::new(AtomicU32::new(times));
    let counter = left.clone();
    let driver = world.driver().with_faults(move |point| {
        point == at && counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    });
    (driver, left)
}

fn creation_points() -> impl Iterator<Item = Point> {
    Step::ALL.into_iter().flat_map(|s| [Point::Before(s), Point::After(s)])
}

#[test]
fn every_step_of_the_creation_may_fail_once_and_twice() {
    let Some(world) = World::new() else { return };
    for (i, at) in creation_points().enumerate() {
        for times in [1, 2] {
            let spec = world.spec(&format!("m{i}-{times}"));
            let (driver, left) = failing(&world, at, times);
            let mut failures = 0;
            while let Err(error) = driver.prepare(&spec).and_then(|()| driver.start(&spec.id)) {
                assert!(error.story().ends_with("failed on purpose"), "{at:?}: {}", error.story());
                failures += 1;
                assert!(failures <= times, "{at:?}");
            }
            // A start that failed after it was done has started the machine: the next call finds it.
            assert!(failures >= 1 && running(&driver, &spec.id).is_some(), "{at:?} {failures}");
            assert!(left.load(Ordering::SeqCst) <= 1);
            driver.remove(&spec.id).unwrap();
            assert_eq!(world.leftovers(), Vec::<String>::new(), "{at:?}");
        }
    }
}

#[test]
fn what_was_half_made_can_be_removed() {
    let Some(world) = World::new() else { return };
    for (i, at) in creation_points().enumerate() {
        let spec = world.spec(&format!("m{i}"));
        let (driver, _) = failing(&world, at, 1);
        driver.prepare(&spec).and_then(|()| driver.start(&spec.id)).unwrap_err();
        driver.remove(&spec.id).unwrap();
        assert_eq!(world.leftovers(), Vec::<String>::new(), "{at:?}");
    }
}

#[test]
fn every_step_of_the_removal_may_fail_once_and_twice() {
    let Some(world) = World::new() else { return };
    use Removal::{Files, Kill, Limits, Mark, Record, Unmount};
    for removal in [Mark, Kill, Unmount, Limits, Files, Record] {
        for times in [1, 2] {
            let spec = world.spec(&format!("m-{removal:?}-{times}"));
            let (driver, _) = failing(&world, Point::Removal(removal), times);
            up(&world, &driver, &spec);
            let mut failures = 0;
            while let Err(error) = driver.remove(&spec.id) {
                assert!(matches!(error, Error::Injected), "{}", error.story());
                failures += 1;
                if removal > Mark {
                    let found = driver.inspect(&spec.id).unwrap().unwrap();
                    assert_eq!(found.phase, Phase::Removing, "{removal:?}: it is no machine any more");
                }
            }
            assert_eq!(failures, times);
            assert_eq!(world.leftovers(), Vec::<String>::new(), "{removal:?}");
        }
    }
}

#[test]
fn a_removal_that_was_begun_ends_before_the_machine_is_made_anew() {
    let Some(world) = World::new() else { return };
    let spec = world.spec("m1");
    let (driver, _) = failing(&world, Point::Removal(Removal::Files), 1);
    up(&world, &driver, &spec);
    fs::write(world.root("m1").join("var/lib/old"), "").unwrap();
    driver.remove(&spec.id).unwrap_err();
    up(&world, &driver, &spec);
    assert!(!world.root("m1").join("var/lib/old").exists(), "another machine, with files of its own");
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    let Some(world) = World::new() else { return };
    let driver = world.driver();
    driver.remove(&MachineId::new("never").unwrap()).unwrap();
    assert_eq!(driver.list().unwrap(), Vec::new());
    let error = driver.start(&MachineId::new("never").unwrap()).unwrap_err();
    assert!(error.story().contains("it has not been prepared"), "{}", error.story());
}

#[test]
fn links_in_the_tree_lead_nowhere_outside() {
    let Some(world) = World::new() else { return };
    let (driver, spec) = (world.driver(), world.spec("m1"));
    driver.prepare(&spec).unwrap();
    // What root in the machine may leave behind before it is started again.
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let root = world.root("m1");
    for name in ["shared", "run"] {
        let _ = fs::remove_dir_all(root.join(name));
    }
    std::os::unix::fs::symlink(&outside, root.join("shared")).unwrap();
    fs::remove_file(root.join("etc/hostname")).unwrap();
    std::os::unix::fs::symlink(outside.join("hostname"), root.join("etc/hostname")).unwrap();
    let _ = fs::remove_file(root.join("etc/resolv.conf"));
    std::os::unix::fs::symlink(outside.join("resolv.conf"), root.join("etc/resolv.conf")).unwrap();
    up(&world, &driver, &spec);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing was written through them");
}
