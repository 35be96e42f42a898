//! Which devices a group may use: rules for version 1, a program for the kernel on version 2.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::error::{AtPath, Error, Result};

/// One allowed kind of device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// `c`, `b`, or `a` for both.
    pub kind: char,
    /// `None` for all.
    pub major: Option<u32>,
    /// `None` for all.
    pub minor: Option<u32>,
    /// Letters of `rwm`.
    pub access: String,
}

impl DeviceRule {
    /// A rule.
    pub fn new(
        kind: char,
        major: impl Into<Option<u32>>,
        minor: impl Into<Option<u32>>,
        access: &str,
    ) -> Self {
        DeviceRule { kind, major: major.into(), minor: minor.into(), access: access.to_owned() }
    }

    /// What every container may do: make any node (a node alone gives nothing), and use the usual ones.
    pub fn usual() -> Vec<DeviceRule> {
        let mut rules = vec![Self::new('c', None, None, "m"), Self::new('b', None, None, "m")];
        // null, zero, full, random, urandom, tty, console, ptmx, and the terminals of devpts.
        for (major, minor) in [
            (1, Some(3)),
            (1, Some(5)),
            (1, Some(7)),
            (1, Some(8)),
            (1, Some(9)),
            (5, Some(0)),
            (5, Some(1)),
            (5, Some(2)),
            (136, None),
        ] {
            rules.push(Self::new('c', major, minor, "rwm"));
        }
        rules
    }

    /// Everything.
    pub fn all() -> Vec<DeviceRule> {
        vec![Self::new('a', None, None, "rwm")]
    }

    pub(super) fn v1_line(&self) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

// The kernel's numbers: instruction classes and fields of linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_REG: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND32: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT32: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_NOT_EQUAL_REG: u8 = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
const EXIT: u8 = 0x95;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    /// Source register in the upper half, destination in the lower.
    registers: u8,
    offset: i16,
    immediate: i32,
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

/// The program: r1 points at (access << 16 | type, major, minor); it returns 1 for allowed.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(AND32, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT32, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut test = Vec::new();
        if rule.kind != 'a' {
            let kind = if rule.kind == 'b' { BLOCK } else { CHARACTER };
            test.push(instruction(JUMP_NOT_EQUAL, 2, 0, 0, kind));
        }
        // mknod 1, read 2, write 4: nothing may be asked beyond what the rule gives.
        let bits = rule.access.chars().fold(0, |bits, c| {
            bits | match c {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => 0,
            }
        });
        if bits != 7 {
            test.push(instruction(MOVE_REG, 0, 3, 0, 0));
            test.push(instruction(AND32, 0, 0, 0, bits));
            test.push(instruction(JUMP_NOT_EQUAL_REG, 0, 3, 0, 0));
        }
        if let Some(major) = rule.major {
            test.push(instruction(JUMP_NOT_EQUAL, 4, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            test.push(instruction(JUMP_NOT_EQUAL, 5, 0, 0, minor as i32));
        }
        test.push(instruction(MOVE, 0, 0, 0, 1));
        test.push(instruction(EXIT, 0, 0, 0, 0));
        let length = test.len();
        for (at, step) in test.iter_mut().enumerate() {
            if matches!(step.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REG) {
                step.offset = (length - at - 1) as i16;
            }
        }
        code.extend(test);
    }
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

#[repr(C)]
#[derive(Default)]
struct LoadArguments {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct AttachArguments {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads the program and puts it on the group.
pub(super) fn attach(directory: &Path, rules: &[DeviceRule]) -> Result<()> {
    let group = File::open(directory).at("open control group", directory)?;
    let code = program(rules);
    let license = c"Apache-2.0";
    let load = LoadArguments {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadArguments::default()
    };
    // SAFETY: the arguments point at `code` and `license`, which outlive the call; the size is that of the structure.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, size_of::<LoadArguments>()) };
    if loaded < 0 {
        return Err(Error::io(
            "the kernel does not take the device rules of a container",
            std::io::Error::last_os_error(),
        ));
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    let program = unsafe { OwnedFd::from_raw_fd(loaded as i32) };
    let arguments = AttachArguments {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: the arguments hold open descriptors; the size is that of the structure.
    let attached =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &arguments, size_of::<AttachArguments>()) };
    match attached {
        0 => Ok(()),
        _ => Err(Error::io(
            format!("cannot restrict the devices of control group {}", directory.display()),
            std::io::Error::last_os_error(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says, by running it.
    fn allowed(rules: &[DeviceRule], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let code = program(rules);
        let mut registers = [0i64; 11];
        let context = [access << 16 | kind, major, minor];
        let mut at = 0;
        loop {
            let step = code[at];
            let (to, from) = ((step.registers & 15) as usize, (step.registers >> 4) as usize);
            at += 1;
            let jump = match step.code {
                LOAD_WORD => {
                    registers[to] = context[step.offset as usize / 4] as i64;
                    false
                }
                MOVE => {
                    registers[to] = step.immediate as i64;
                    false
                }
                MOVE_REG => {
                    registers[to] = registers[from];
                    false
                }
                AND32 => {
                    registers[to] &= step.immediate as i64;
                    false
                }
                SHIFT_RIGHT32 => {
                    registers[to] >>= step.immediate;
                    false
                }
                JUMP_NOT_EQUAL => registers[to] != step.immediate as i64,
                JUMP_NOT_EQUAL_REG => registers[to] != registers[from],
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            };
            if jump {
                at += step.offset as usize;
            }
        }
    }

    #[test]
    fn only_the_usual_devices_are_open() {
        let rules = DeviceRule::usual();
        assert!(allowed(&rules, CHARACTER, 2 | 4, 1, 3), "null");
        assert!(allowed(&rules, CHARACTER, 2, 136, 17), "a terminal");
        assert!(allowed(&rules, BLOCK, 1, 8, 0), "making a node of a disk");
        assert!(!allowed(&rules, BLOCK, 2, 8, 0), "reading a disk");
        assert!(!allowed(&rules, CHARACTER, 2, 1, 1), "memory");
        assert!(!allowed(&rules, CHARACTER, 2 | 1, 1, 1), "memory, with another right that is given");
        assert!(allowed(&DeviceRule::all(), BLOCK, 7, 8, 0));
        assert!(!allowed(&[], CHARACTER, 2, 1, 3));
    }

    #[test]
    fn version_1_lines() {
        assert_eq!(DeviceRule::new('c', 136, None, "rwm").v1_line(), "c 136:* rwm");
        assert_eq!(DeviceRule::all()[0].v1_line(), "a *:* rwm");
    }
}
