//! `cargo xtask tidy`: what a reviewer would otherwise have to look for every time.
//!
//! **Job.** Dependencies between crates point down only; files stay short; crates say what they are for.
//! **State.** None. **Tasks.** None. **Must not know.** What the crates do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The layers of ARCHITECTURE.md, lowest first. A crate may depend on crates of lower layers, and of its own
/// layer only when it stands behind them in the list.
const LAYERS: &[&[&str]] = &[
    &["skep-base", "skep-proto"],
    &["skep-patch", "skep-api"],
    &["skep-plan", "skep-sched", "skep-netplan"],
    &["skep-net", "skep-dns", "skep-runtime", "skep-volume", "skep-machine"],
    &[
        "skep-stream",
        "skep-store",
        "skep-auth",
        "skep-admission",
        "skep-client",
        "skep-nodenet",
        "skep-hostnet",
    ],
    ROLES,
    &["skep-sim"],
    &["skep-bench"],
    &["skep"],
    &["skep-e2e", "xtask"],
];

/// One role each: they meet over the API only, and never depend on each other.
const ROLES: &[&str] =
    &["skep-apiserver", "skep-controllers", "skep-scheduler", "skep-host", "skep-agent", "skep-registry"];

/// Who may name the store: invariant 1.
const STORE_USERS: &[&str] = &["skep-store", "skep-apiserver", "skep"];

/// Crates that only compute: the lints of `clippy-pure.toml` forbid them the clock, randomness and IO.
const PURE: &[&str] = &["skep-base", "skep-proto", "skep-patch", "skep-api", "skep-admission"];

/// Longest file without its tests: longer ones hold more than one thing.
const MAX_LINES: usize = 800;

/// What each crate's documentation must say.
const CRATE_DOC_WORDS: [&str; 4] = ["**Job.", "**State", "**Tasks", "**Must not know"];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy(),
        _ => {
            eprintln!("usage: cargo xtask tidy");
            ExitCode::from(2)
        }
    }
}

fn tidy() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut problems = Vec::new();
    match check(&root, &mut problems) {
        Ok(files) if problems.is_empty() => {
            println!("tidy: {files} files are in order");
            ExitCode::SUCCESS
        }
        Ok(_) => {
            problems.iter().for_each(|p| eprintln!("tidy: {p}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(root: &Path, problems: &mut Vec<String>) -> std::io::Result<usize> {
    let mut files = 0;
    let mut crates: Vec<PathBuf> =
        fs::read_dir(root.join("crates"))?.filter_map(|e| Some(e.ok()?.path())).collect();
    crates.sort();
    let ranks: BTreeMap<&str, (usize, usize)> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(layer, names)| names.iter().enumerate().map(move |(i, n)| (*n, (layer, i))))
        .collect();
    for folder in crates {
        let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
        let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
        dependencies(&name, &manifest, &ranks, problems);
        crate_docs(&name, &folder, problems);
        if PURE.contains(&name.as_str()) && !links_to(&folder.join("clippy.toml"), "../../clippy-pure.toml") {
            problems.push(format!(
                "{name} must only compute: make crates/{name}/clippy.toml a link to ../../clippy-pure.toml"
            ));
        }
        for file in rust_files(&folder.join("src"))? {
            files += 1;
            let text = fs::read_to_string(&file)?;
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            let lines = lines_without_tests(&text);
            if lines > MAX_LINES && !is_test(&file) && !is_table(&text) {
                problems.push(format!("{shown} has {lines} lines without its tests, more than {MAX_LINES}: split it by what it does"));
            }
        }
    }
    Ok(files)
}

fn dependencies(
    name: &str,
    manifest: &str,
    ranks: &BTreeMap<&str, (usize, usize)>,
    problems: &mut Vec<String>,
) {
    let Some(own) = ranks.get(name) else {
        return problems
            .push(format!("{name} stands in no layer: add it to LAYERS in xtask and to ARCHITECTURE.md"));
    };
    let normal = manifest.split("\n[dev-dependencies]").next().unwrap_or(manifest);
    for line in normal.lines() {
        let dependency = line.split([' ', '=', '.']).next().unwrap_or("");
        if dependency == name {
            continue;
        }
        if let Some(other) = ranks.get(dependency)
            && other >= own
        {
            problems.push(format!("{name} depends on {dependency}, which does not stand below it"));
        }
        if ROLES.contains(&name) && ROLES.contains(&dependency) {
            problems.push(format!("{name} depends on {dependency}: roles meet over the API only"));
        }
        if dependency == "skep-store" && !STORE_USERS.contains(&name) {
            problems.push(format!("{name} depends on skep-store: only the API server touches the store"));
        }
    }
}

fn links_to(path: &Path, target: &str) -> bool {
    fs::read_link(path).is_ok_and(|t| t == Path::new(target))
}

fn crate_docs(name: &str, folder: &Path, problems: &mut Vec<String>) {
    let text = ["src/lib.rs", "src/main.rs"]
        .iter()
        .find_map(|f| fs::read_to_string(folder.join(f)).ok())
        .unwrap_or_default();
    let docs: String = text.lines().take_while(|l| l.starts_with("//!")).collect::<Vec<_>>().join("\n");
    for word in CRATE_DOC_WORDS {
        if !docs.contains(word) {
            problems.push(format!("{name}: the crate's documentation does not say {word:?}"));
        }
    }
}

fn rust_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Tests may be as long as they need.
fn is_test(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str() == "tests")
        || path
            .file_stem()
            .and_then(|s| s.to_str())
            .is_some_and(|s| s == "tests" || s.ends_with("_tests") || s == "testing")
}

/// A table of facts says so in its first line.
fn is_table(text: &str) -> bool {
    text.lines().next().is_some_and(|l| l.contains("Table of facts"))
}

fn lines_without_tests(text: &str) -> usize {
    text.lines().position(|l| l == "#[cfg(test)]").unwrap_or_else(|| text.lines().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_point_down() {
        let ranks = BTreeMap::from([("a", (0, 0)), ("b", (1, 0)), ("c", (1, 1))]);
        let problems_of = |name: &str, manifest: &str| {
            let mut problems = Vec::new();
            dependencies(name, manifest, &ranks, &mut problems);
            problems.len()
        };
        assert_eq!(problems_of("b", "[dependencies]\na = { workspace = true }\nserde.workspace = true"), 0);
        assert_eq!(problems_of("a", "[dependencies]\nb = { workspace = true }"), 1);
        assert_eq!(problems_of("b", "[dependencies]\nc.workspace = true"), 1);
        assert_eq!(problems_of("c", "[dependencies]\nb.workspace = true"), 0);
        assert_eq!(problems_of("a", "[dependencies]\n\n[dev-dependencies]\nb = \"1\""), 0);
        assert_eq!(problems_of("d", ""), 1);
    }

    #[test]
    fn roles_and_the_store_are_apart() {
        let ranks: BTreeMap<&str, (usize, usize)> = LAYERS
            .iter()
            .enumerate()
            .flat_map(|(layer, names)| names.iter().enumerate().map(move |(i, n)| (*n, (layer, i))))
            .collect();
        let problems_of = |name: &str, manifest: &str| {
            let mut problems = Vec::new();
            dependencies(name, manifest, &ranks, &mut problems);
            problems.len()
        };
        assert_eq!(problems_of("skep-agent", "skep-host = { workspace = true }"), 1);
        assert_eq!(problems_of("skep-agent", "skep-client = { workspace = true }"), 0);
        assert_eq!(problems_of("skep-controllers", "skep-store.workspace = true"), 1);
        assert_eq!(problems_of("skep-apiserver", "skep-store.workspace = true"), 0);
    }

    #[test]
    fn tests_do_not_count() {
        assert_eq!(lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
        assert!(is_test(Path::new("crates/x/src/foo_tests.rs")));
        assert!(!is_test(Path::new("crates/x/src/foo.rs")));
    }
}
