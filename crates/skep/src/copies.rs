//! How the C library copies memory.
//!
//! glibc copies anything of a few kilobytes with `rep movsb` where a processor says that this is fast. Zen 3 and its successors say so, and are
//! several times slower with it than with vector registers where source and destination lie unfavourably (glibc bug 30994, mended in
//! glibc 2.39, after which this changes nothing). Of what a long list costs the server that was a third. The library reads its settings before
//! `main`, so a program that wants other ones starts itself again.

/// Where glibc reads its settings.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// From so many bytes on `rep movsb` may be used: more than anything here copies at once.
const NEVER: &str = "glibc.cpu.x86_rep_movsb_threshold=4294967296";

/// Those that send and receive much: control plane, registry, and what measures them. Others would only start later.
const ROLES: [&str; 5] = ["apiserver", "bench", "control-plane", "registry", "up"];

/// Family of Zen 3 and Zen 4; Zen 5 follows it.
const ZEN_3_FAMILY: u32 = 25;

/// Starts a role that copies much anew with settings that suit the processor. Returns where that is not needed, or not possible.
pub(crate) fn settle() {
    let role = std::env::args_os().nth(1);
    let copies = role.is_some_and(|role| ROLES.iter().any(|r| role == *r));
    // Whoever has set something knows better.
    if !copies || std::env::var_os(TUNABLES).is_some() {
        return;
    }
    if !std::fs::File::open("/proc/cpuinfo").is_ok_and(|file| is_slow(&beginning(file))) {
        return;
    }
    again();
}

#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
fn again() {
    use std::os::unix::process::CommandExt;
    let Ok(own) = std::env::current_exe() else { return };
    let mut args = std::env::args_os();
    let mut command = std::process::Command::new(own);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    // Without it, it is slower and nothing else.
    let _ = command.args(args).env(TUNABLES, NEVER).exec();
}

#[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
fn again() {}

/// What the kernel says of the first processor; others' lines are made when they are read.
fn beginning(file: std::fs::File) -> String {
    use std::io::Read;
    const FIRST_LINES_BYTES: u64 = 512;
    let mut text = Vec::new();
    let _ = file.take(FIRST_LINES_BYTES).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn is_slow(cpuinfo: &str) -> bool {
    let value = |name: &str| {
        let line = cpuinfo.lines().find(|l| l.split(':').next().is_some_and(|n| n.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    value("vendor_id") == Some("AuthenticAMD")
        && value("cpu family").and_then(|f| f.parse().ok()).is_some_and(|f: u32| f >= ZEN_3_FAMILY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_apart() {
        let of = |vendor: &str, family: u32| {
            format!("processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 1\n")
        };
        assert!(is_slow(&of("AuthenticAMD", 25)) && is_slow(&of("AuthenticAMD", 26)));
        assert!(!is_slow(&of("AuthenticAMD", 23)) && !is_slow(&of("GenuineIntel", 6)));
        assert!(!is_slow("") && !is_slow("CPU implementer\t: 0x41\n"));
    }
}
