use super::*;

/// Runs a filter as the kernel would.
fn run(program: &Program, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (i, a) in arguments.iter().enumerate() {
        data[16 + 8 * i..24 + 8 * i].copy_from_slice(&a.to_ne_bytes());
    }
    let (mut at, mut value) = (0usize, 0u32);
    loop {
        let one = program.0[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { one.jt } else { one.jf });
        match one.code {
            LOAD => value = u32::from_ne_bytes(data[one.k as usize..one.k as usize + 4].try_into().unwrap()),
            AND => value &= one.k,
            EQUAL => at += jump(value == one.k),
            GREATER => at += jump(value > one.k),
            GREATER_EQUAL => at += jump(value >= one.k),
            JUMP => at += one.k as usize,
            RETURN => return one.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn native(program: &Program, name: &str, arguments: &[u64]) -> u32 {
    let arch = Arch::native()[0];
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(program, arch.audit(), arch.number(name).unwrap_or_else(|| panic!("no call {name}")), all)
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

#[test]
fn the_table_is_sorted_and_right() {
    assert!(table::CALLS.windows(2).all(|w| w[0].0 < w[1].0));
    for (name, number) in
        [("read", libc::SYS_read), ("openat2", libc::SYS_openat2), ("mount_setattr", libc::SYS_mount_setattr)]
    {
        assert_eq!(Arch::native()[0].number(name), Some(number as u32), "{name}");
    }
}

#[test]
fn the_default_profile_names_only_calls_that_exist() {
    for rule in runtime_default().syscalls {
        for name in rule.names {
            assert!(table::CALLS.binary_search_by(|c| c.0.cmp(&name)).is_ok(), "{name} is in no table");
        }
    }
}

#[test]
fn the_default_profile_allows_work_and_refuses_mischief() {
    let plain = runtime_default().compile(&crate::caps::default_set()).unwrap();
    for name in ["read", "openat", "execve", "futex", "clock_gettime", "ptrace", "rseq", "statx", "chroot"] {
        assert_eq!(native(&plain, name, &[]), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "kexec_load",
        "bpf",
        "setns",
        "unshare",
        "init_module",
        "io_uring_setup",
        "keyctl",
        "add_key",
    ] {
        assert_eq!(native(&plain, name, &[]), EPERM, "{name}");
    }
    // clone3 hides its flags from a filter: C libraries fall back to clone, whose flags can be seen.
    assert_eq!(native(&plain, "clone3", &[]), ENOSYS);
    assert_eq!(native(&plain, "clone", &[libc::SIGCHLD as u64]), ALLOW);
    assert_eq!(native(&plain, "clone", &[libc::CLONE_NEWUSER as u64]), EPERM);
    assert_eq!(native(&plain, "personality", &[0]), ALLOW);
    assert_eq!(native(&plain, "personality", &[0x4_0000]), EPERM);
    assert_eq!(native(&plain, "socket", &[libc::AF_INET as u64]), ALLOW);
    assert_eq!(native(&plain, "socket", &[libc::AF_VSOCK as u64]), EPERM);
    assert_eq!(native(&plain, "socket", &[libc::AF_XDP as u64]), ALLOW);

    let admin = runtime_default().compile(&Capability::ALL.iter().copied().collect()).unwrap();
    for name in ["mount", "bpf", "setns", "unshare", "clone3", "init_module", "reboot"] {
        assert_eq!(native(&admin, name, &[]), ALLOW, "{name} with all capabilities");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_architectures_do_not_slip_through() {
    let plain = runtime_default().compile(&crate::caps::default_set()).unwrap();
    assert_eq!(run(&plain, Arch::X86.audit(), 21, [0; 6]), EPERM, "32-bit mount");
    assert_eq!(run(&plain, Arch::X86.audit(), 3, [0; 6]), ALLOW, "32-bit read");
    assert_eq!(run(&plain, Arch::X86_64.audit(), X32_BIT, [0; 6]), ENOSYS, "x32 read");
    assert_eq!(run(&plain, Arch::Aarch64.audit(), 63, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn conditions_compare_all_64_bits() {
    let big = 0x1_0000_0005u64;
    let cases: &[(Compare, &[(u64, bool)])] = &[
        (Compare::Equal, &[(big, true), (5, false), (big + 1, false)]),
        (Compare::NotEqual, &[(big, false), (5, true), (big + 1, true)]),
        (Compare::Less, &[(big - 1, true), (big, false), (4, true), (u64::MAX, false)]),
        (Compare::LessOrEqual, &[(big, true), (big + 1, false), (0, true)]),
        (Compare::Greater, &[(big, false), (big + 1, true), (6, false), (u64::MAX, true)]),
        (Compare::GreaterOrEqual, &[(big, true), (big - 1, false)]),
    ];
    for (op, values) in cases {
        let profile = Profile {
            default_action: Action::Errno,
            default_errno_ret: None,
            syscalls: vec![Rule {
                names: vec!["read".into()],
                action: Action::Allow,
                errno_ret: None,
                args: vec![Condition { index: 2, value: big, value_two: 0, op: *op }],
                includes: Filter::default(),
                excludes: Filter::default(),
            }],
        };
        let program = profile.compile(&BTreeSet::new()).unwrap();
        for (value, allowed) in *values {
            let got = native(&program, "read", &[0, 0, *value]);
            assert_eq!(got == ALLOW, *allowed, "{op:?} {value:#x}");
        }
    }
}

#[test]
fn profiles_are_read_from_the_usual_json() {
    let profile: Profile = serde_json::from_str(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
                        {"names":["no_such_call"],"action":"SCMP_ACT_KILL"}]}"#,
    )
    .unwrap();
    let program = profile.compile(&BTreeSet::new()).unwrap();
    assert_eq!(native(&program, "mkdirat", &[]), libc::SECCOMP_RET_ERRNO | 13);
    assert_eq!(native(&program, "read", &[]), ALLOW);
}
