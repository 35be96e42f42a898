//! The mechanism by itself: what `skep` does for process machines, without the rest of `skep`. The tests start machines
//! with it, and use it as the program that runs in them.

use std::ffi::OsString;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some((word, rest)) = args.split_first() else {
        eprintln!("usage: skep-machine boot|init|report|sleep …");
        return ExitCode::from(2);
    };
    let done = match word.to_str() {
        Some("boot") => skep_machine::process::boot::main(rest).map_err(|e| e.story()),
        Some("init") => skep_machine::process::init::main(rest).map_err(|e| e.story()),
        Some("report") => report().map_err(|e| e.to_string()),
        Some("sleep") => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        _ => Err(format!("{word:?} is not known")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep-machine: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes down what a program sees in a machine, leaves two orphans behind, and ends when a file says so.
fn report() -> std::io::Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|e| format!("{e}\n"));
    let mut names: Vec<String> =
        fs::read_dir("/")?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let mut text = String::new();
    for (what, value) in [
        ("hostname", read("/proc/sys/kernel/hostname")),
        ("root", names.join(" ")),
        ("control", read("/run/skep/word")),
        ("shared", read("/shared/word")),
        ("interfaces", read("/proc/net/dev")),
        ("status", read("/proc/self/status")),
        ("pid", std::process::id().to_string()),
        (
            "write /proc/sys/vm",
            outcome(fs::write("/proc/sys/vm/swappiness", read("/proc/sys/vm/swappiness"))),
        ),
        ("write /proc/sys/net", outcome(fs::write("/proc/sys/net/ipv4/ip_forward", "1"))),
        ("write control", outcome(fs::write("/run/skep/mine", ""))),
        ("write shared", outcome(fs::write("/shared/mine", ""))),
        ("write root", outcome(fs::write("/var/lib/mine", ""))),
        ("null", outcome(fs::write("/dev/null", "x"))),
        ("mounts", read("/proc/self/mountinfo")),
    ] {
        text.push_str(&format!("== {what}\n{}\n", value.trim_end()));
    }
    let own = std::env::current_exe()?;
    for _ in 0..2 {
        Command::new(&own).arg("sleep").spawn()?;
    }
    fs::write("/var/lib/report.new", text)?;
    fs::rename("/var/lib/report.new", "/var/lib/report")?;
    while !fs::exists("/run/skep/end")? {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn outcome(result: std::io::Result<()>) -> String {
    result.map_or_else(|e| e.to_string(), |()| "done".to_owned())
}
