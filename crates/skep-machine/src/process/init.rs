//! A machine's first process: keeps the machine's program running and reaps what others leave behind. It listens to nobody but
//! signals: SIGTERM ends the machine, SIGHUP the program, which is then started again.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout};

use crate::driver::Program;
use crate::error::Error;

/// What it says when the machine is up.
pub(crate) const READY: &[u8] = b"ready\n";

/// How long after its end the program is started again: at first, at most, and after how long a life it counts as
/// having worked. A program that cannot start must not keep the machine's CPU busy.
const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(10);
const WORKED_AFTER: Duration = Duration::from_secs(30);
/// Capabilities that nothing in a machine has. In a user namespace of its own they would open nothing; this holds if the kernel ever thinks otherwise, and
/// tells programs the truth. Immutable files
/// (which could not be removed with the machine), kernel modules, raw ports and memory, accounting, reboot, the clock,
/// auditing, security modules, the kernel's log, waking the computer up or keeping it awake, performance counters, restoring
/// processes under chosen pids.
const DROPPED: [libc::c_ulong; 14] = [9, 16, 17, 20, 22, 25, 30, 32, 33, 34, 35, 36, 38, 40];

/// Runs with the argument that [`boot`](super::boot) gave, the program as JSON, in a machine that is otherwise up. Returns when
/// the machine is to end. Must be called before any thread is started.
///
/// # Errors
/// What kept the machine from coming up; the same is written to standard output.
pub fn main(args: &[OsString]) -> Result<(), Error> {
    let program = match put_up(args) {
        Ok(program) => program,
        Err(error) => {
            println!("{}", error.reason());
            return Err(error);
        }
    };
    let signals = listen()?;
    let pipe = Path::new("standard output");
    std::io::stdout()
        .write_all(READY)
        .and_then(|()| std::io::stdout().flush())
        .map_err(Error::io("write to", pipe))?;
    let console = std::io::stderr();
    // Whoever waits for the end of the pipe learns now that nothing more comes.
    dup2_stdout(console.as_fd()).map_err(Error::errno("let go of", pipe))?;
    let null = Path::new("/dev/null");
    let nothing = std::fs::File::open(null).map_err(Error::io("open", null))?;
    dup2_stdin(nothing).map_err(Error::errno("let go of standard input for", null))?;
    keep_running(&program, &signals)
}

fn put_up(args: &[OsString]) -> Result<Program, Error> {
    let [program] = args else {
        return Err(Error::Start { why: "init takes a program".to_owned() });
    };
    let program = serde_json::from_slice(program.as_bytes())
        .map_err(|source| Error::Record { path: "its first argument".into(), source })?;
    loopback_up().map_err(Error::io("start the loopback device of", Path::new("/")))?;
    drop_capabilities().map_err(Error::io("drop capabilities in", Path::new("/")))?;
    Ok(program)
}

/// Takes them out of what any program started from here on can ever get.
fn drop_capabilities() -> std::io::Result<()> {
    for capability in DROPPED {
        // SAFETY: PR_CAPBSET_DROP takes a number and no pointers.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        let error = std::io::Error::last_os_error();
        // An older kernel does not know the newest ones.
        if done != 0 && error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
    }
    Ok(())
}

fn loopback_up() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an `ifreq` of zeroes is a valid one: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: SIOCSIFFLAGS reads an `ifreq` with a name and flags, which lives until the call returns; the descriptor
    // is the open socket's.
    let done = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &request) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Takes signals from a descriptor instead of being interrupted by them.
fn listen() -> Result<SignalFd, Error> {
    let mut set = SigSet::empty();
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|s| set.add(s));
    let what = Path::new("signals");
    set.thread_block().map_err(Error::errno("block", what))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(Error::errno("listen to", what))
}

/// The program and its restarts.
struct Keeper<'a> {
    program: &'a Program,
    running: Option<(Pid, Instant)>,
    next_start: Instant,
    delay: Duration,
}

impl Keeper<'_> {
    fn start(&mut self) {
        let now = Instant::now();
        let Some((path, args)) = self.program.args.split_first() else { return };
        let mut command = Command::new(path);
        command.args(args).env_clear().envs(&self.program.env);
        let take_signals = || SigSet::empty().thread_set_mask().map_err(std::io::Error::from);
        // SAFETY: between fork and exec only what is safe in a signal handler may be called: this sets the signal mask
        // by one system call, and neither allocates nor locks.
        unsafe { command.pre_exec(take_signals) };
        match command.spawn() {
            Ok(child) => {
                // A pid is below 2^22.
                let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
                self.running = Some((Pid::from_raw(pid), now));
            }
            Err(error) => {
                eprintln!("skep init: cannot start {path}: {error}");
                self.ended(now);
            }
        }
    }

    fn reload(&mut self) {
        // Its end is wanted: the next start need not wait.
        self.delay = RESTART_MIN;
        if let Some((pid, _)) = self.running {
            // Ended by itself is as good.
            let _ = kill(pid, Signal::SIGTERM);
        }
    }

    fn ended(&mut self, began: Instant) {
        let now = Instant::now();
        if now.duration_since(began) >= WORKED_AFTER {
            self.delay = RESTART_MIN;
        }
        self.running = None;
        self.next_start = now + self.delay;
        self.delay = (self.delay * 2).min(RESTART_MAX);
    }

    /// Asks after everybody who has ended. Gives whether anybody is left.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return true,
                Ok(status) => {
                    if let (Some(pid), Some((own, began))) = (status.pid(), self.running)
                        && pid == own
                    {
                        eprintln!("skep init: the program ended: {status:?}; it is started again");
                        self.ended(began);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }
}

fn keep_running(program: &Program, signals: &SignalFd) -> Result<(), Error> {
    let now = Instant::now();
    let mut keeper = Keeper { program, running: None, next_start: now, delay: RESTART_MIN };
    let mut ending = false;
    loop {
        let anybody = keeper.reap();
        if ending && !anybody {
            return Ok(());
        }
        if !ending && keeper.running.is_none() && Instant::now() >= keeper.next_start {
            keeper.start();
        }
        let timeout = if ending || keeper.running.is_some() {
            PollTimeout::NONE
        } else {
            let wait = keeper.next_start.saturating_duration_since(Instant::now());
            // A moment longer, so that it is not looked again too early.
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO)
        };
        let mut wanted = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::errno("wait for", Path::new("signals"))(e)),
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            if number == Signal::SIGHUP as i32 {
                keeper.reload();
            } else if number != Signal::SIGCHLD as i32 && !ending {
                ending = true;
                // Everybody in this PID namespace but this process.
                let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
            }
        }
    }
}
