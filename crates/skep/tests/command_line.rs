//! What somebody sees who mistypes, in a process of its own.
//!
//! That there are tests here at all has a second use: they make cargo build the program along with everybody's tests,
//! with the same features, where the whole-system tests find it.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn skep(arguments: &[&str]) -> (i32, String) {
    let home = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_skep"))
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap();
    let shown = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code().unwrap(), shown)
}

#[test]
fn wrong_use_is_told_from_failure() {
    let empty = tempfile::tempdir().unwrap();
    let nothing = empty.path().join("nothing");
    let nothing = nothing.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--version"], 0, env!("CARGO_PKG_VERSION")),
        (&[], 2, "Usage: skep"),
        (&["tenent"], 2, "'tenant'"),
        (&["tenant", "create"], 2, "<NAME>"),
        (&["--log", "a=b=c", "status"], 2, "is not a filter"),
        (&["tenant", "list", "--kubeconfig", nothing], 5, nothing),
        (&["status", "--data", nothing], 5, "`skep up` starts it"),
        (&["--config", nothing, "status"], 2, nothing),
        (&["apiserver", "--data", nothing, "--listen", "256.0.0.1:1"], 2, "--listen"),
    ];
    for (arguments, code, says) in cases {
        let (got, shown) = skep(arguments);
        assert_eq!(got, code, "{arguments:?}: {shown}");
        assert!(shown.contains(says), "{arguments:?}: {shown}");
    }
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "nothing was made");
}
