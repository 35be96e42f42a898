//! System calls that nothing in a machine may make, root and privileged containers included: those that speak of the host's kernel as a whole, and those
//! in which its holes are found. What tells namespaces apart itself is left to the user namespace.

use std::io;

/// Refused, with their numbers on x86-64, on 32-bit x86 and on 64-bit ARM; -1 where there is none. Modules and kernels; swap, clock,
/// accounting and quotas of the host; its log; programs in the kernel and its counters; faults handled by a user (the usual help of exploits); files by
/// handle, which no mount bounds; keyrings, which count for the host; ports of devices; 16-bit mode.
const REFUSED: [[i32; 3]; 24] = [
    [175, 128, 105], // init_module
    [313, 350, 273], // finit_module
    [176, 129, 106], // delete_module
    [246, 283, 104], // kexec_load
    [320, -1, 294],  // kexec_file_load
    [167, 87, 224],  // swapon
    [168, 115, 225], // swapoff
    [164, 79, 170],  // settimeofday
    [227, 264, 112], // clock_settime
    [163, 51, 89],   // acct
    [179, 131, 60],  // quotactl
    [443, 443, 443], // quotactl_fd
    [103, 103, 116], // syslog
    [321, 357, 280], // bpf
    [298, 336, 241], // perf_event_open
    [323, 374, 282], // userfaultfd
    [304, 342, 265], // open_by_handle_at
    [248, 286, 217], // add_key
    [249, 287, 218], // request_key
    [250, 288, 219], // keyctl
    [172, 110, -1],  // iopl
    [173, 101, -1],  // ioperm
    [-1, 166, -1],   // vm86
    [-1, 113, -1],   // vm86old
];

/// Not there: programs that would use them do without. (io_uring: a second way to most system calls, past every filter.)
const ABSENT: [[i32; 3]; 3] = [[425; 3], [426; 3], [427; 3]];

/// On x86-64 the numbers of the "x32" calls begin here. Nobody uses them, and they would go around the list.
const X32: u32 = 0x4000_0000;

// Offsets in `seccomp_data`, and the kernel's names of architectures (linux/audit.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

fn code(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn refuse(errno: i32) -> libc::sock_filter {
    code(RETURN, 0, 0, ERRNO | (errno as u32 & 0xffff))
}

/// The program: for each architecture its own list. What is of none is not there.
fn program() -> Vec<libc::sock_filter> {
    let mut program = vec![code(LOAD, 0, 0, ARCHITECTURE)];
    for (column, architecture) in [AUDIT_X86_64, AUDIT_I386, AUDIT_AARCH64].into_iter().enumerate() {
        let mut own = vec![code(LOAD, 0, 0, NUMBER)];
        if architecture == AUDIT_X86_64 {
            own.push(code(JUMP_AT_LEAST, 0, 1, X32));
            own.push(refuse(libc::ENOSYS));
        }
        for (list, errno) in [(REFUSED.as_slice(), libc::EPERM), (ABSENT.as_slice(), libc::ENOSYS)] {
            for number in list.iter().filter_map(|row| u32::try_from(row[column]).ok()) {
                own.push(code(JUMP_EQUAL, 0, 1, number));
                own.push(refuse(errno));
            }
        }
        own.push(code(RETURN, 0, 0, ALLOW));
        program.push(code(JUMP_EQUAL, 1, 0, architecture));
        // A list is longer than the short jump of a comparison could ever need to be.
        program.push(code(JUMP, 0, 0, own.len() as u32));
        program.extend(own);
    }
    program.push(refuse(libc::ENOSYS));
    program
}

/// Puts the filter on this process and on all that it will ever start.
pub(crate) fn install() -> io::Result<()> {
    let mut program = program();
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let all = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives through the call, and checks it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&all), 0, 0)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn verdict(architecture: u32, number: u32) -> u32 {
        let program = program();
        let (mut at, mut register) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            match step.code {
                LOAD => register = if step.k == NUMBER { number } else { architecture },
                JUMP_EQUAL => at += jump(register == step.k),
                JUMP_AT_LEAST => at += jump(register >= step.k),
                JUMP => at += step.k as usize,
                RETURN => return step.k,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn each_architecture_has_its_own_list() {
        let refused = ERRNO | libc::EPERM as u32;
        let absent = ERRNO | libc::ENOSYS as u32;
        for (column, architecture) in [AUDIT_X86_64, AUDIT_I386, AUDIT_AARCH64].into_iter().enumerate() {
            for row in REFUSED {
                if let Ok(number) = u32::try_from(row[column]) {
                    assert_eq!(verdict(architecture, number), refused, "{number}");
                }
            }
            assert_eq!(verdict(architecture, 425), absent);
            assert_eq!(verdict(architecture, 0), ALLOW);
            assert_eq!(verdict(architecture, 20), ALLOW);
        }
        assert_eq!(verdict(AUDIT_X86_64, 128), ALLOW, "a number of another architecture");
        assert_eq!(verdict(AUDIT_X86_64, X32 | 175), absent);
        assert_eq!(verdict(0x1234, 0), absent);
    }
}
