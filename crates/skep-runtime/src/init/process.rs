//! The last steps before a program: input and output, limits, user, capabilities, filter, `execve`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Uid};
use rustix::termios::Winsize;

use super::users::{self, Identity};
use super::{REPORT_TERMINAL, Stdio, failed};
use crate::caps::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::seccomp::Program;
use crate::spec::{ProcessSpec, Rlimit, TtySize};
use crate::sys;

/// The search path of a process that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Of the machine's own `/proc`, or the container's.
pub(super) fn set_oom_score(value: i32) -> Result<()> {
    match std::fs::write("/proc/self/oom_score_adj", value.to_string()) {
        // Among the machine's processes the rest still have higher ones.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !sys::initial_user_namespace() => {
            Ok(())
        }
        result => result.map_err(failed(format!("cannot set the OOM score to {value}"))),
    }
}

/// Sets the size of a terminal.
pub(crate) fn set_window_size(terminal: impl AsFd, size: TtySize) -> std::io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Puts pipes or a terminal where programs expect them. Runs inside the container's mounts.
pub(super) fn connect_stdio(
    stdio: &Stdio,
    report: &OwnedFd,
    process: &ProcessSpec,
    first: bool,
) -> Result<()> {
    match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => {
            let null;
            let stdin = match stdin {
                Some(fd) => fd.as_fd(),
                None => {
                    null = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty())
                        .map_err(failed("cannot open /dev/null"))?;
                    null.as_fd()
                }
            };
            onto(stdin, 0)?;
            onto(stdout.as_fd(), 1)?;
            onto(stderr.as_fd(), 2)
        }
        Stdio::Terminal => terminal(report, process, first),
    }
}

fn onto(fd: BorrowedFd<'_>, target: i32) -> Result<()> {
    // SAFETY: both are numbers of descriptors; what was at `target` is meant to be replaced.
    match unsafe { libc::dup2(fd.as_raw_fd(), target) } {
        -1 => Err(failed("cannot connect input and output")(std::io::Error::last_os_error())),
        _ => Ok(()),
    }
}

fn terminal(report: &OwnedFd, process: &ProcessSpec, first: bool) -> Result<()> {
    use rustix::pty::OpenptFlags;
    // Named through the mount that this runtime made: `/dev/ptmx` is the container's to replace.
    let master =
        rustix::fs::open("/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("cannot open a terminal in the container"))?;
    let kind = rustix::fs::fstatfs(&master).map_err(failed("cannot look at the terminal"))?.f_type;
    if kind as i64 != DEVPTS_MAGIC {
        return Err(Error::new(
            ErrorKind::StartFailed,
            "/dev/pts of the container is not what the runtime mounted there: no terminal can be made",
        ));
    }
    rustix::pty::unlockpt(&master).map_err(failed("cannot unlock the terminal"))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = rustix::pty::ioctl_tiocgptpeer(&master, flags)
        .map_err(failed("cannot open the terminal's inner end"))?;
    if let Some(size) = process.tty_size {
        set_window_size(&master, size).map_err(failed("cannot set the terminal's size"))?;
    }
    if first {
        super::rootfs::mount_console(&peer)?;
    }
    sys::send(report, &[REPORT_TERMINAL], &[master.as_fd()])
        .map_err(failed("cannot hand the terminal over"))?;
    rustix::process::ioctl_tiocsctty(&peer)
        .map_err(failed("cannot make the terminal the controlling one"))?;
    for target in 0..=2 {
        onto(peer.as_fd(), target)?;
    }
    Ok(())
}

const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Makes this process the program. Only returns an error.
pub(super) fn become_program(
    process: &ProcessSpec,
    filter: Option<&Program>,
    report: BorrowedFd<'_>,
    first: bool,
) -> Result<Infallible> {
    for limit in &process.rlimits {
        set_limit(limit)?;
    }
    let passwd = users::read_file("/etc/passwd");
    let group = users::read_file("/etc/group");
    let identity = users::resolve(&process.user, &passwd, &group)?;
    let environment = environment(process, &identity)?;
    let arguments = strings(process.args.iter().cloned(), "argument")?;
    let Some(program) = process.args.first() else {
        return Err(Error::new(ErrorKind::StartFailed, "no command specified"));
    };
    if first {
        let root = sys::open_root().map_err(failed("cannot open the container's root"))?;
        sys::make_directories_in_root(&root, relative(&process.cwd), 0o755)
            .map_err(failed(format!("cannot make the working directory {}", process.cwd.display())))?;
    }
    let enter_directory = || {
        rustix::process::chdir(process.cwd.as_path())
            .map_err(failed(format!("cannot enter the working directory {}", process.cwd.display())))
    };
    // As root first: a directory that its user may not enter is still where the image says to begin. Where root
    // may not either (network storage), the user may.
    let entered = enter_directory();
    own_stdio(&identity);
    if let Some(profile) = &process.apparmor {
        apparmor(profile)?;
    }
    // Everything that is open closes when the program begins; until then the report stays.
    // SAFETY: only marks descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC) };

    // Without no-new-privileges only a privileged process may take on a filter, so it comes before the user.
    if let (Some(filter), false) = (filter, process.no_new_privileges) {
        filter.install().map_err(failed("cannot install the system call filter"))?;
    }
    become_user(&identity, &process.capabilities)?;
    if entered.is_err() {
        enter_directory()?;
    }
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(failed("cannot renounce new privileges"))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let candidates = candidates(program, &environment);
    // Seen by the program as its children's death otherwise.
    if let (Some(filter), true) = (filter, process.no_new_privileges) {
        filter.install().map_err(failed("cannot install the system call filter"))?;
    }
    let _ = report;
    Err(execute(program, &candidates, &arguments, &environment))
}

const CLOSE_RANGE_CLOEXEC: u32 = 4;

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn strings(all: impl Iterator<Item = String>, what: &str) -> Result<Vec<CString>> {
    all.map(|text| {
        CString::new(text)
            .map_err(|e| Error::new(ErrorKind::StartFailed, format!("an {what} contains a NUL byte: {e}")))
    })
    .collect()
}

fn environment(process: &ProcessSpec, identity: &Identity) -> Result<Vec<CString>> {
    let has = |name: &str| process.env.iter().any(|(n, _)| n == name);
    let mut all: Vec<String> = process.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
    if !has("PATH") {
        all.insert(0, format!("PATH={DEFAULT_PATH}"));
    }
    if !has("HOME") {
        all.push(format!("HOME={}", identity.home));
    }
    if process.tty && !has("TERM") {
        all.push("TERM=xterm".to_owned());
    }
    strings(all.into_iter(), "environment variable")
}

/// Where the program may be.
fn candidates(program: &str, environment: &[CString]) -> Vec<CString> {
    if program.contains('/') {
        return CString::new(program).into_iter().collect();
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|e| e.to_bytes().strip_prefix(b"PATH="))
        .map(|p| String::from_utf8_lossy(p).into_owned())
        .unwrap_or_default();
    path.split(':')
        .map(|folder| if folder.is_empty() { "." } else { folder })
        .filter_map(|folder| CString::new(format!("{folder}/{program}")).ok())
        .collect()
}

fn execute(program: &str, candidates: &[CString], arguments: &[CString], environment: &[CString]) -> Error {
    let pointers = |all: &[CString]| -> Vec<*const libc::c_char> {
        all.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    let mut denied = None;
    for candidate in candidates {
        // SAFETY: the strings and the null-terminated lists of them live until the call is over.
        unsafe { libc::execve(candidate.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            _ => denied = Some(error),
        }
    }
    let why = match denied {
        Some(error) => os_text(&error),
        None if program.contains('/') => format!("stat {program}: no such file or directory"),
        None => "executable file not found in $PATH".to_owned(),
    };
    Error::new(ErrorKind::StartFailed, format!("exec: {program:?}: {why}"))
}

/// The system's words, without Rust's "(os error N)".
fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn set_limit(limit: &Rlimit) -> Result<()> {
    const KINDS: &[(&str, libc::__rlimit_resource_t)] = &[
        ("RLIMIT_AS", libc::RLIMIT_AS),
        ("RLIMIT_CORE", libc::RLIMIT_CORE),
        ("RLIMIT_CPU", libc::RLIMIT_CPU),
        ("RLIMIT_DATA", libc::RLIMIT_DATA),
        ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
        ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
        ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
        ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        ("RLIMIT_NICE", libc::RLIMIT_NICE),
        ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
        ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
        ("RLIMIT_RSS", libc::RLIMIT_RSS),
        ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
        ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
        ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
        ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ];
    let kind = KINDS
        .iter()
        .find(|(name, _)| *name == limit.kind)
        .ok_or_else(|| Error::invalid(format!("there is no resource limit {:?}", limit.kind)))?;
    let value = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: `value` lives through the call.
    match unsafe { libc::setrlimit(kind.1, &value) } {
        0 => Ok(()),
        _ => Err(failed(format!("cannot set {} to {}/{}", limit.kind, limit.soft, limit.hard))(
            std::io::Error::last_os_error(),
        )),
    }
}

/// A program that is not root may open `/dev/stdout` only if the pipe behind it is its own.
fn own_stdio(identity: &Identity) {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let Ok(stat) = rustix::fs::fstat(fd) else { continue };
        // Not devices that others share, such as the null device.
        let pipe = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo;
        let terminal = rustix::termios::isatty(fd);
        if pipe || terminal {
            let group = if terminal { None } else { Some(gid) };
            let _ = rustix::fs::fchown(fd, Some(uid), group);
        }
    }
}

fn apparmor(profile: &str) -> Result<()> {
    let text = format!("exec {profile}");
    let files = ["/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"];
    match files.iter().find(|f| Path::new(f).exists()) {
        Some(file) if Path::new("/sys/kernel/security/apparmor").exists() || file.contains("apparmor") => {
            std::fs::write(file, text).map_err(failed(format!("cannot apply AppArmor profile {profile:?}")))
        }
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!("AppArmor profile {profile:?} cannot be applied: this kernel has no AppArmor"),
        )),
    }
}

/// The bits of the kernel's capability sets.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

fn set_capabilities(bits: u64) -> Result<()> {
    // What this machine itself was not given cannot be given on.
    let own = rustix::thread::capabilities(None).map_err(failed("cannot read capabilities"))?;
    let bits = bits & own.permitted.bits();
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |bits: u32| CapabilityData { effective: bits, permitted: bits, inheritable: 0 };
    let data = [half(bits as u32), half((bits >> 32) as u32)];
    // SAFETY: version 3 takes two data structures, and both live through the call.
    match unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(failed("cannot set capabilities")(std::io::Error::last_os_error())),
    }
}

/// Highest capability that this kernel may know: those beyond are refused with `EINVAL`, and that is the end.
const MAX_CAPABILITY: u32 = 63;

fn limit_bounding_set(bits: u64) -> Result<()> {
    for number in 0..=MAX_CAPABILITY {
        if bits & (1u64 << number) != 0 {
            continue;
        }
        // SAFETY: plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(failed("cannot drop capabilities")(error));
        }
    }
    Ok(())
}

fn become_user(identity: &Identity, capabilities: &BTreeSet<Capability>) -> Result<()> {
    let bits = capabilities.iter().fold(0, |bits, c| bits | c.bit());
    limit_bounding_set(bits)?;
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let groups: Vec<Gid> = identity.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(failed("cannot set the process's groups"))?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .map_err(failed(format!("cannot become group {}", identity.gid)))?;
    // Changing the user drops all capabilities unless they are kept for a moment; `execve` then gives a user that is not root none.
    rustix::thread::set_keep_capabilities(true).map_err(failed("cannot keep capabilities"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .map_err(failed(format!("cannot become user {}", identity.uid)))?;
    rustix::thread::set_keep_capabilities(false).map_err(failed("cannot settle capabilities"))?;
    set_capabilities(bits)
}

/// For a process that works with what strangers have written: gives up all capabilities but these, for good. Must be called before any
/// thread is started.
///
/// # Errors
/// When the kernel refuses.
pub fn renounce(keep: &[Capability]) -> Result<()> {
    let bits = keep.iter().fold(0, |bits, c| bits | c.bit());
    limit_bounding_set(bits)?;
    set_capabilities(bits)?;
    rustix::thread::set_no_new_privs(true).map_err(failed("cannot renounce new privileges"))
}

/// For a process that needs nothing at all.
pub(super) fn drop_everything() -> Result<()> {
    limit_bounding_set(0)?;
    set_capabilities(0)?;
    rustix::thread::set_no_new_privs(true).map_err(failed("cannot renounce new privileges"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_containers_path() {
        let spec = ProcessSpec { env: vec![("PATH".into(), "/a::/b".into())], ..ProcessSpec::new(["x"]) };
        let identity = Identity { uid: 0, gid: 0, groups: vec![], home: "/root".into() };
        let env = environment(&spec, &identity).unwrap();
        assert_eq!(env, [c"PATH=/a::/b", c"HOME=/root"].map(CString::from));
        assert_eq!(candidates("x", &env), [c"/a/x", c"./x", c"/b/x"].map(CString::from));
        assert_eq!(candidates("/x", &env), [c"/x"].map(CString::from));
        let bare = environment(&ProcessSpec::new(["x"]), &identity).unwrap();
        assert!(bare[0].to_bytes().starts_with(b"PATH=/usr/local/sbin:"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = execute("nope", &[c"/nonexistent/nope".into()], &[], &[]);
        assert_eq!(error.message, "exec: \"nope\": executable file not found in $PATH");
        assert_eq!(error.kind, ErrorKind::StartFailed);
    }
}
