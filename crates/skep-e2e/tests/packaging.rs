//! The release archive: made, checked, installed, taken away again; and the units as systemd reads them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use skep_e2e::{skep, succeed};

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("SKIPPED in part: {program} is not installed");
    }
    found
}

fn files(folder: &Path) -> Vec<String> {
    let all = succeed(
        Command::new("find")
            .arg(folder)
            .args(["(", "-type", "f", "-o", "-type", "l", ")", "-printf", "%P\n"]),
    );
    let mut all: Vec<String> = all.lines().map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn a_release_is_whole_installs_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut dist = Command::new(tree().join("scripts/dist.sh"));
    dist.arg(skep()).arg(dir.path()).env("SKEP_CONFIG", "").env("COMPRESSION", "1");
    let archive = PathBuf::from(succeed(&mut dist).trim());
    succeed(
        Command::new("sha256sum")
            .arg("--check")
            .arg(format!("{}.sha256", archive.display()))
            .current_dir(dir.path()),
    );
    succeed(Command::new("tar").arg("xzf").arg(&archive).current_dir(dir.path()));
    let name = archive.file_name().unwrap().to_string_lossy().replace(".tar.gz", "");
    let unpacked = dir.path().join(name);
    let inside = files(&unpacked);
    for file in [
        "bin/skep",
        "LICENSE",
        "LICENSES-OF-OTHERS.txt",
        "README.md",
        "SHA256SUMS",
        "completions/_skep",
        "config.toml.example",
        "docs/install.md",
        "install.sh",
        "systemd/skep.service",
        "uninstall.sh",
    ] {
        assert!(inside.iter().any(|f| f == file), "{file} is missing: {inside:?}");
    }
    let others = fs::read_to_string(unpacked.join("LICENSES-OF-OTHERS.txt")).unwrap();
    assert!(others.lines().any(|l| l.starts_with("rustls ") && l.contains("MIT")), "{others}");
    assert!(!others.contains("GPL-3.0-only"), "{others}");

    // Installed elsewhere, it runs from there, and leaves nothing.
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let script = |name: &str| {
        let mut command = Command::new("sh");
        command.arg(unpacked.join(name)).env("DESTDIR", &root).env("PREFIX", "/opt/skep");
        succeed(&mut command)
    };
    script("install.sh");
    let version =
        succeed(Command::new(root.join("opt/skep/bin/skep")).arg("--version").env("SKEP_CONFIG", ""));
    assert!(version.starts_with("skep "), "{version}");
    let plugin =
        succeed(Command::new(root.join("opt/skep/bin/kubectl-skep")).arg("--help").env("SKEP_CONFIG", ""));
    assert!(plugin.contains("kubectl skep"), "{plugin}");
    let unit = fs::read_to_string(root.join("etc/systemd/system/skep.service")).unwrap();
    assert!(unit.contains("ExecStart=/opt/skep/bin/skep up --foreground"), "{unit}");
    // A second time is an upgrade.
    script("install.sh");
    script("uninstall.sh");
    assert_eq!(files(&root), Vec::<String>::new());

    // What was changed on the way is not installed.
    fs::write(unpacked.join("README.md"), "else").unwrap();
    let changed = Command::new("sh").arg(unpacked.join("install.sh")).env("DESTDIR", &root).output().unwrap();
    assert!(!changed.status.success());
    assert_eq!(files(&root), Vec::<String>::new());
}

#[test]
fn systemd_understands_the_units() {
    if !there("systemd-analyze") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("skep");
    std::os::unix::fs::symlink(skep(), &program).unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(tree().join("packaging/systemd")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace("/usr/local/bin/skep", program.to_str().unwrap());
        // Nothing but what the programs of this very version take.
        for line in text.lines().filter_map(|l| l.strip_prefix("ExecStart=")) {
            let command = line.split(' ').nth(1).unwrap();
            let help = succeed(Command::new(&program).args([command, "--help"]).env("SKEP_CONFIG", ""));
            for option in line.split(' ').filter(|w| w.starts_with("--")) {
                assert!(help.contains(option), "{line}: {option}");
            }
        }
        let unit = dir.path().join(entry.file_name());
        fs::write(&unit, text).unwrap();
        units.push(unit);
    }
    assert_eq!(units.len(), 4);
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Of the units of this computer it may say what it likes.
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("skep")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}
