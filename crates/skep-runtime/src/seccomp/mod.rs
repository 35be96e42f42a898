//! System call filters: profiles in the JSON form that container engines share, and the program the kernel runs.
//!
//! The filter is made here and not by `libseccomp`, which is LGPL and a C library that every node would need. On x86-64
//! programs of 32 bits are filtered by the same profile; those of the x32 ABI, which nothing uses, are refused.

mod default;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

pub use self::default::runtime_default;
use crate::caps::Capability;
use crate::error::{Error, Result};

/// A profile, as in the files that `Localhost` profiles are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// What happens to calls that no rule names.
    pub default_action: Action,
    /// The error for [`Action::Errno`]; `EPERM` when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u16>,
    /// The first rule that matches decides.
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

/// What happens to some calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The calls; names that this machine does not have are passed over.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// The error for [`Action::Errno`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u16>,
    /// All must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Condition>,
    /// The rule counts only for containers that have all of these.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub includes: Filter,
    /// The rule does not count for containers that have any of these.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub excludes: Filter,
}

/// For which containers a rule counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Capabilities, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// Architectures, as `amd64`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.caps.is_empty() && self.arches.is_empty()
    }
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // seccomp(2) describes each.
pub enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
}

/// A condition on an argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which argument, from 0.
    pub index: u8,
    /// What it is compared with.
    pub value: u64,
    /// With [`Compare::MaskedEqual`]: what remains under the mask `value`.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: Compare,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The names say it.
pub enum Compare {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// A filter as the kernel takes it.
#[derive(Debug, Clone)]
pub struct Program(Vec<libc::sock_filter>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arch {
    X86_64,
    X86,
    Aarch64,
}

impl Arch {
    fn native() -> &'static [Arch] {
        if cfg!(target_arch = "x86_64") { &[Arch::X86_64, Arch::X86] } else { &[Arch::Aarch64] }
    }

    /// The kernel's AUDIT_ARCH_*.
    fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::X86 => "x86",
            Arch::Aarch64 => "arm64",
        }
    }

    fn number(self, name: &str) -> Option<u32> {
        let at = table::CALLS.binary_search_by(|c| c.0.cmp(name)).ok()?;
        let (_, x86_64, x86, aarch64) = table::CALLS[at];
        let number = match self {
            Arch::X86_64 => x86_64,
            Arch::X86 => x86,
            Arch::Aarch64 => aarch64,
        };
        u32::try_from(number).ok()
    }
}

/// Calls of the x32 ABI have this bit.
const X32_BIT: u32 = 0x4000_0000;

// Where the kernel puts things for a filter: struct seccomp_data.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const GREATER_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Longest program that the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn answer(action: Action, errno: Option<u16>) -> u32 {
    match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno => libc::SECCOMP_RET_ERRNO | u32::from(errno.unwrap_or(libc::EPERM as u16)),
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Log => libc::SECCOMP_RET_LOG,
    }
}

impl Profile {
    /// The filter for a process that may have these capabilities.
    pub fn compile(&self, capabilities: &BTreeSet<Capability>) -> Result<Program> {
        let mut code = vec![step(LOAD, ARCH_AT)];
        let default = answer(self.default_action, self.default_errno_ret);
        for arch in Arch::native() {
            let block = self.block(*arch, capabilities, default);
            // Conditional jumps reach 255 instructions, blocks are longer: jump over a jump.
            code.push(branch(EQUAL, arch.audit(), 1, 0));
            code.push(step(JUMP, block.len() as u32));
            code.extend(block);
        }
        // Another architecture than the kernel's own ones.
        code.push(step(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
        if code.len() > MAX_INSTRUCTIONS {
            return Err(Error::invalid(format!(
                "the seccomp profile needs {} instructions and the kernel takes {MAX_INSTRUCTIONS}: use fewer rules",
                code.len()
            )));
        }
        Ok(Program(code))
    }

    fn block(&self, arch: Arch, capabilities: &BTreeSet<Capability>, default: u32) -> Vec<libc::sock_filter> {
        let mut code = vec![step(LOAD, NUMBER_AT)];
        if arch == Arch::X86_64 {
            code.push(branch(GREATER_EQUAL, X32_BIT, 0, 1));
            code.push(step(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
        }
        let holds = |filter: &Filter, all: bool| {
            let cap = |name: &String| Capability::from_name(name).is_some_and(|c| capabilities.contains(&c));
            let native = |name: &String| name == Arch::native()[0].name() || name == arch.name();
            match all {
                true => {
                    filter.caps.iter().all(cap)
                        && (filter.arches.is_empty() || filter.arches.iter().any(native))
                }
                false => filter.caps.iter().any(cap) || filter.arches.iter().any(native),
            }
        };
        let mut calls: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
        for rule in self.syscalls.iter().filter(|r| holds(&r.includes, true) && !holds(&r.excludes, false)) {
            for number in rule.names.iter().filter_map(|name| arch.number(name)) {
                calls.entry(number).or_default().push(rule);
            }
        }
        // Calls with the same plain answer are ranges: the kernel caches what is always allowed, so a linear
        // program costs nothing when it runs.
        let mut ranges: Vec<(u32, u32, u32)> = Vec::new();
        for (number, rules) in &calls {
            if rules[0].args.is_empty() {
                let says = answer(rules[0].action, rules[0].errno_ret);
                match ranges.last_mut() {
                    Some((_, last, same)) if *last + 1 == *number && *same == says => *last = *number,
                    _ => ranges.push((*number, *number, says)),
                }
                continue;
            }
            let mut block = Vec::new();
            let mut decided = false;
            for rule in rules {
                let says = answer(rule.action, rule.errno_ret);
                block.extend(conditions(&rule.args, says));
                if rule.args.is_empty() {
                    decided = true;
                    break;
                }
            }
            if !decided {
                block.push(step(RETURN, default));
            }
            code.push(branch(EQUAL, *number, 1, 0));
            code.push(step(JUMP, block.len() as u32));
            code.extend(block);
        }
        for (first, last, says) in ranges {
            match first == last {
                true => code.push(branch(EQUAL, first, 0, 1)),
                false => {
                    code.push(branch(GREATER_EQUAL, first, 0, 2));
                    code.push(branch(GREATER, last, 1, 0));
                }
            }
            code.push(step(RETURN, says));
        }
        code.push(step(RETURN, default));
        code
    }
}

/// Returns the answer if all conditions hold, and otherwise goes on behind its end.
fn conditions(all: &[Condition], says: u32) -> Vec<libc::sock_filter> {
    let mut tests: Vec<Vec<libc::sock_filter>> = Vec::new();
    for condition in all {
        let low = ARGUMENTS_AT + 8 * u32::from(condition.index.min(5));
        let high = low + 4;
        let (value_high, value_low) = ((condition.value >> 32) as u32, condition.value as u32);
        let load = |at| step(LOAD, at);
        // In each, PASS goes on to the next condition and FAIL leaves; both are filled in below.
        tests.push(match condition.op {
            Compare::Equal => vec![
                load(high),
                branch(EQUAL, value_high, 0, FAIL),
                load(low),
                branch(EQUAL, value_low, 0, FAIL),
            ],
            Compare::NotEqual => vec![
                load(high),
                branch(EQUAL, value_high, 0, PASS),
                load(low),
                branch(EQUAL, value_low, FAIL, 0),
            ],
            Compare::Greater => vec![
                load(high),
                branch(GREATER, value_high, PASS, 0),
                branch(EQUAL, value_high, 0, FAIL),
                load(low),
                branch(GREATER, value_low, 0, FAIL),
            ],
            Compare::GreaterOrEqual => vec![
                load(high),
                branch(GREATER, value_high, PASS, 0),
                branch(EQUAL, value_high, 0, FAIL),
                load(low),
                branch(GREATER_EQUAL, value_low, 0, FAIL),
            ],
            Compare::Less => vec![
                load(high),
                branch(GREATER, value_high, FAIL, 0),
                branch(EQUAL, value_high, 0, PASS),
                load(low),
                branch(GREATER_EQUAL, value_low, FAIL, 0),
            ],
            Compare::LessOrEqual => vec![
                load(high),
                branch(GREATER, value_high, FAIL, 0),
                branch(EQUAL, value_high, 0, PASS),
                load(low),
                branch(GREATER, value_low, FAIL, 0),
            ],
            Compare::MaskedEqual => vec![
                load(high),
                step(AND, value_high),
                branch(EQUAL, (condition.value_two >> 32) as u32, 0, FAIL),
                load(low),
                step(AND, value_low),
                branch(EQUAL, condition.value_two as u32, 0, FAIL),
            ],
        });
    }
    let total: usize = tests.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(total + 1);
    for test in tests {
        let end = code.len() + test.len();
        for mut one in test {
            let next = code.len() + 1;
            for target in [&mut one.jt, &mut one.jf] {
                match *target {
                    PASS => *target = (end - next) as u8,
                    FAIL => *target = (total - next) as u8,
                    _ => {}
                }
            }
            code.push(one);
        }
    }
    code.push(step(RETURN, says));
    // The next rule, or the next call, compares the number again.
    code.push(step(LOAD, NUMBER_AT));
    code
}

/// Marks of jumps whose distance is not known yet. Real distances are shorter: six conditions are 36 instructions.
const PASS: u8 = 254;
const FAIL: u8 = 255;

impl Program {
    /// Puts the filter on this thread and all that it starts. It cannot be taken off.
    pub(crate) fn install(&self) -> io::Result<()> {
        let program =
            libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr() as *mut libc::sock_filter };
        // SAFETY: the program points at instructions that outlive the call; the kernel copies and checks them.
        let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests;
