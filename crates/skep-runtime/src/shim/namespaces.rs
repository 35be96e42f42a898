//! The namespaces of a pod: made by short-lived processes, held by the shim's descriptors.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::{AtPath, Error, ErrorKind, Result};
use crate::init::{self, PodNamespaces, Stdio};
use crate::runtime::SHM;
use crate::spec::{IdMap, Network, SandboxSpec, UserNamespace};
use crate::sys::{self, Fork};

/// Makes all namespaces of a pod. Returns with them the process 1 of a pod that shares its processes.
pub(super) fn make(
    spec: &SandboxSpec,
    pod: &Path,
    entrances: &[std::path::PathBuf],
) -> Result<(PodNamespaces, Option<u32>)> {
    check_sysctls(spec)?;
    let mut made = PodNamespaces::default();
    let mut flags = 0;
    if spec.user_namespace.is_some() {
        flags |= libc::CLONE_NEWUSER;
    }
    if !spec.host_ipc {
        flags |= libc::CLONE_NEWIPC;
    }
    if !spec.host_uts {
        flags |= libc::CLONE_NEWUTS;
    }
    if matches!(spec.network, Network::New { .. }) {
        flags |= libc::CLONE_NEWNET;
    }
    let own = flags & !(libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) == 0 && spec.sysctls.is_empty();
    if own {
        step_out(spec, flags, &mut made)?;
    } else if flags != 0 {
        hatch(spec, flags, &mut made)?;
    }
    if let Network::Path(path) = &spec.network {
        made.network = Some(File::open(path).at("open network namespace", path)?.into());
    }
    if let (Network::New { pin: Some(pin) }, Some(network)) = (&spec.network, &made.network) {
        self::pin(network, pin)?;
    }
    if !own {
        settle(spec, &made)?;
    }
    shared_memory(spec, pod)?;
    let mut reaper = None;
    if init::is_process_one_needed(spec) {
        let (namespace, pid) = start_reaper(&made, pod, entrances)?;
        made.pid = Some(namespace);
        reaper = Some(pid);
    }
    Ok((made, reaper))
}

fn failed(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::io(doing, e)
}

/// The shim itself steps into new namespaces and back: where nothing else is to be made or set there, no process need be born for it.
fn step_out(spec: &SandboxSpec, flags: i32, made: &mut PodNamespaces) -> Result<()> {
    let open = |name: &str| -> Result<OwnedFd> {
        let path = format!("/proc/self/ns/{name}");
        Ok(File::open(&path).at("open namespace", Path::new(&path))?.into())
    };
    let kinds = [
        (libc::CLONE_NEWIPC, UnshareFlags::NEWIPC, "ipc", LinkNameSpaceType::InterProcessCommunication),
        (libc::CLONE_NEWUTS, UnshareFlags::NEWUTS, "uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ];
    for (flag, unshare, name, kind) in kinds {
        if flags & flag == 0 {
            continue;
        }
        let before = open(name)?;
        // SAFETY: the shim has one thread, and neither namespace has to do with its memory or files.
        unsafe { rustix::thread::unshare_unsafe(unshare) }
            .map_err(|e| failed("cannot make a namespace of the pod")(e.into()))?;
        let new = open(name)?;
        if flag == libc::CLONE_NEWUTS {
            if !spec.hostname.is_empty() {
                rustix::system::sethostname(spec.hostname.as_bytes())
                    .map_err(|e| failed("cannot set the pod's host name")(e.into()))?;
            }
            made.uts = Some(new);
        } else {
            made.ipc = Some(new);
        }
        // What fails here ends the shim.
        move_into_link_name_space(before.as_fd(), Some(kind))
            .map_err(|e| failed("cannot return from a namespace of the pod")(e.into()))?;
    }
    Ok(())
}

/// A process is born into the new namespaces; we open them and let it go.
fn hatch(spec: &SandboxSpec, flags: i32, made: &mut PodNamespaces) -> Result<()> {
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| failed("cannot make a pipe")(e.into()))?;
    // SAFETY: the shim has one thread.
    let pid = match unsafe { sys::fork(flags) } {
        Ok(Fork::Child) => {
            drop(go);
            let mut byte = [0];
            let _ = rustix::io::read(&wait, &mut byte);
            // SAFETY: ends this process, which must not run what the shim would.
            unsafe { libc::_exit(0) }
        }
        Ok(Fork::Parent(pid)) => pid,
        Err(e) => return Err(failed("cannot make namespaces")(e)),
    };
    let opened = (|| {
        let open = |name: &str| -> Result<OwnedFd> {
            let path = format!("/proc/{pid}/ns/{name}");
            Ok(File::open(&path).at("open namespace", Path::new(&path))?.into())
        };
        if let Some(map) = &spec.user_namespace {
            for (file, ranges) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
                let path = format!("/proc/{pid}/{file}");
                fs::write(&path, id_map(ranges)).at("write ids to", Path::new(&path))?;
            }
            made.user = Some(open("user")?);
        }
        if flags & libc::CLONE_NEWIPC != 0 {
            made.ipc = Some(open("ipc")?);
        }
        if flags & libc::CLONE_NEWUTS != 0 {
            made.uts = Some(open("uts")?);
        }
        if flags & libc::CLONE_NEWNET != 0 {
            made.network = Some(open("net")?);
        }
        Ok(())
    })();
    drop(go);
    reap(pid);
    opened
}

fn reap(pid: u32) -> Option<i32> {
    let pid = Pid::from_raw(pid as i32)?;
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.ok()??.1.exit_status(),
        }
    }
}

fn id_map(ranges: &[IdMap]) -> String {
    ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect()
}

fn pin(network: &OwnedFd, pin: &Path) -> Result<()> {
    if let Some(folder) = pin.parent() {
        fs::create_dir_all(folder).at("make", folder)?;
    }
    File::create(pin).at("make", pin)?;
    let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(network));
    rustix::mount::mount_bind(source, pin).at("bind a network namespace to", pin)
}

/// Host name, kernel parameters, the loopback device: done in the namespaces, by a process that sees them as its own.
fn settle(spec: &SandboxSpec, made: &PodNamespaces) -> Result<()> {
    let new_network = matches!(spec.network, Network::New { .. });
    let named = made.uts.is_some() && !spec.hostname.is_empty();
    if !new_network && !named && spec.sysctls.is_empty() {
        return Ok(());
    }
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| failed("cannot make a pipe")(e.into()))?;
    // SAFETY: the shim has one thread.
    let pid = match unsafe { sys::fork(0) } {
        Ok(Fork::Child) => {
            let code = match settle_inside(spec, made, named, new_network) {
                Ok(()) => 0,
                Err(error) => {
                    let _ = rustix::io::write(&write, error.full().as_bytes());
                    1
                }
            };
            // SAFETY: ends this process, which must not run what the shim would.
            unsafe { libc::_exit(code) }
        }
        Ok(Fork::Parent(pid)) => pid,
        Err(e) => return Err(failed("cannot set up the pod's namespaces")(e)),
    };
    drop(write);
    let mut said = String::new();
    let _ = std::io::Read::read_to_string(&mut File::from(read), &mut said);
    match reap(pid) {
        Some(0) => Ok(()),
        _ => Err(Error::new(ErrorKind::Failed, format!("cannot set up the pod's namespaces: {said}"))),
    }
}

fn settle_inside(spec: &SandboxSpec, made: &PodNamespaces, named: bool, new_network: bool) -> Result<()> {
    for (fd, kind) in [
        (&made.network, LinkNameSpaceType::Network),
        (&made.ipc, LinkNameSpaceType::InterProcessCommunication),
        (&made.uts, LinkNameSpaceType::HostNameAndNISDomainName),
    ] {
        if let Some(fd) = fd {
            move_into_link_name_space(fd.as_fd(), Some(kind))
                .map_err(|e| failed("cannot enter a namespace of the pod")(e.into()))?;
        }
    }
    if named {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .map_err(|e| failed("cannot set the pod's host name")(e.into()))?;
    }
    if new_network {
        loopback_up().map_err(failed("cannot bring up the loopback device"))?;
    }
    for (name, value) in &spec.sysctls {
        let file = Path::new("/proc/sys").join(sysctl_file(name));
        fs::write(&file, value).at("set kernel parameter", &file)?;
    }
    Ok(())
}

/// `net.ipv4.ip_forward` and `net/ipv4/ip_forward` name the same; with slashes, dots belong to names of devices.
fn sysctl_file(name: &str) -> String {
    match name.contains('/') {
        true => name.to_owned(),
        false => name.replace('.', "/"),
    }
}

/// Only parameters that a namespace of the pod has for itself: all others would change the machine.
fn check_sysctls(spec: &SandboxSpec) -> Result<()> {
    for name in spec.sysctls.keys() {
        let file = sysctl_file(name);
        let ipc =
            ["kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"].iter().any(|p| file.starts_with(p));
        let net = file.starts_with("net/");
        let clean = file.split('/').all(|part| !part.is_empty() && part != ".." && part != ".");
        let own = (ipc && !spec.host_ipc) || (net && spec.network != Network::Host);
        if !own || !clean {
            return Err(Error::invalid(format!(
                "kernel parameter {name:?} cannot be set for pod {}: it does not belong to a namespace of the pod's own",
                spec.id
            )));
        }
    }
    Ok(())
}

fn loopback_up() -> std::io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero request is a valid one; the name is shorter than its field.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the request is initialised and lives through the call.
    match unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The one mount that a pod has among the machine's mounts.
fn shared_memory(spec: &SandboxSpec, pod: &Path) -> Result<()> {
    if spec.host_ipc {
        return Ok(());
    }
    let doing = "cannot make the pod's shared memory";
    let step = |e: rustix::io::Errno| failed(doing)(e.into());
    let place = pod.join(SHM);
    fs::create_dir_all(&place).at("make", &place)?;
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(step)?;
    rustix::mount::fsconfig_set_string(&context, "mode", "1777").map_err(step)?;
    rustix::mount::fsconfig_set_string(&context, "size", spec.shm_size_bytes.to_string()).map_err(step)?;
    if let Some(users) = &spec.user_namespace {
        let (uid, gid) = users.root();
        rustix::mount::fsconfig_set_string(&context, "uid", uid.to_string()).map_err(step)?;
        rustix::mount::fsconfig_set_string(&context, "gid", gid.to_string()).map_err(step)?;
    }
    rustix::mount::fsconfig_create(&context).map_err(step)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(step)?;
    rustix::mount::move_mount(&mount, "", rustix::fs::CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(step)
}

/// The writable layer's root belongs to the user namespace's root.
pub(super) fn own_upper(upper: &Path, namespace: Option<&UserNamespace>) -> Result<()> {
    if let Some(namespace) = namespace {
        let (uid, gid) = namespace.root();
        std::os::unix::fs::chown(upper, Some(uid), Some(gid)).at("give to its user namespace", upper)?;
    }
    Ok(())
}

/// Gives a process's pipes to root of its user namespace, who may then give them to the process's user: `/dev/stdout` is opened by name.
pub(super) fn own_stdio(stdio: &Stdio, namespace: Option<&UserNamespace>) {
    let (Stdio::Pipes { stdin, stdout, stderr }, Some(namespace)) = (stdio, namespace) else { return };
    let (uid, gid) = namespace.root();
    for fd in stdin.iter().chain([stdout, stderr]) {
        // What it already has open it can use in any case.
        let _ = rustix::fs::fchown(
            fd,
            Some(rustix::fs::Uid::from_raw(uid)),
            Some(rustix::fs::Gid::from_raw(gid)),
        );
    }
}

fn start_reaper(
    made: &PodNamespaces,
    pod: &Path,
    entrances: &[std::path::PathBuf],
) -> Result<(OwnedFd, u32)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| failed("cannot make a pipe")(e.into()))?;
    // With a user namespace the process namespace must be made inside it: by a process in between, which has the shim as parent
    // of its child.
    // SAFETY: the shim has one thread.
    let first = match unsafe { sys::fork(if made.user.is_some() { 0 } else { libc::CLONE_NEWPID }) } {
        Ok(Fork::Child) => {
            for file in entrances {
                let _ = fs::write(file, "0");
            }
            if let Some(user) = &made.user {
                let entered = move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User));
                // SAFETY: this process has one thread.
                match entered.map(|()| unsafe { sys::fork(libc::CLONE_NEWPID | libc::CLONE_PARENT) }) {
                    Ok(Ok(Fork::Child)) => init::run_reaper(pod, write.as_fd()),
                    Ok(Ok(Fork::Parent(pid))) => {
                        let _ = rustix::io::write(&write, &pid.to_le_bytes());
                    }
                    _ => {}
                }
                // SAFETY: ends this process, which must not run what the shim would.
                unsafe { libc::_exit(0) }
            }
            init::run_reaper(pod, write.as_fd())
        }
        Ok(Fork::Parent(pid)) => pid,
        Err(e) => return Err(failed("cannot start the pod's process 1")(e)),
    };
    drop(write);
    let failure = || Error::new(ErrorKind::Failed, "the pod's process 1 did not come up");
    let mut pid = first;
    if made.user.is_some() {
        reap(first);
        let mut bytes = [0; 4];
        if rustix::io::read(&read, &mut bytes) != Ok(4) {
            return Err(failure());
        }
        pid = u32::from_le_bytes(bytes);
    }
    let mut ready = [0];
    if rustix::io::read(&read, &mut ready) != Ok(1) {
        return Err(failure());
    }
    let path = format!("/proc/{pid}/ns/pid");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open(&path, flags, Mode::empty()).at("open namespace", Path::new(&path))?;
    Ok((namespace, pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn spec(name: &str) -> SandboxSpec {
        let json = r#"{"id":"p","network":{"new":{"pin":null}},"cgroup":"g"}"#;
        let mut spec: SandboxSpec = serde_json::from_str(json).unwrap();
        spec.sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        spec
    }

    #[test]
    fn only_parameters_of_the_pods_own_namespaces_are_set() {
        for good in [
            "net.ipv4.ip_unprivileged_port_start",
            "kernel.shmmax",
            "kernel.msgmnb",
            "fs.mqueue.msg_max",
            "net/ipv4/conf/eth0.1/forwarding",
        ] {
            assert!(check_sysctls(&spec(good)).is_ok(), "{good}");
        }
        for bad in ["kernel.panic", "vm.swappiness", "net/../kernel/panic", "net..x", "kernel.core_pattern"] {
            assert!(check_sysctls(&spec(bad)).is_err(), "{bad}");
        }
        let mut host = spec("net.ipv4.ip_forward");
        host.network = Network::Host;
        assert!(check_sysctls(&host).is_err());
        let mut ipc = spec("kernel.shmmax");
        ipc.host_ipc = true;
        assert!(check_sysctls(&ipc).is_err());
    }
}
