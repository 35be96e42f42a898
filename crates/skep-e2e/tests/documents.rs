//! What README.md and docs/ show is executed as written: every block that begins with ```sh, in the order in which it stands, one shell for
//! each page, on a computer that is this one but for its network and some folders. A block behind the comment `<!-- not run: REASON -->` is not; one that is
//! neither run nor has a reason does not exist. Needs root; without it only the reasons are checked.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skep_e2e::cloud::is_root;
use skep_e2e::{end_of, skep, succeed, tool};

/// A reason says something.
const REASON_MIN: usize = 15;

struct Block {
    page: String,
    line: usize,
    text: String,
    /// Why it is not run.
    reason: Option<String>,
}

fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let (mut reason, mut inside): (Option<String>, Option<Block>) = (None, None);
    for (number, line) in text.lines().enumerate() {
        if let Some(block) = &mut inside {
            match line {
                "```" => found.extend(inside.take()),
                line => writeln!(block.text, "{line}").unwrap(),
            }
        } else if line == "```sh" {
            let text = String::new();
            inside = Some(Block { page: page.to_owned(), line: number + 1, text, reason: reason.take() });
        } else if let Some(rest) = line.strip_prefix("<!-- not run: ") {
            reason = Some(rest.strip_suffix("-->").unwrap().trim().to_owned());
        } else if !line.is_empty() {
            assert_eq!(reason.take(), None, "{page}:{number}: a reason stands right before a block");
        }
        // Another mark for a shell would be a way around this test.
        for other in ["```bash", "```shell", "```console", "``` sh"] {
            assert!(!line.starts_with(other), "{page}:{number}: write ```sh");
        }
    }
    assert!(inside.is_none(), "{page}: a block does not end");
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// README first, then the pages by name.
fn pages() -> Vec<(String, Vec<Block>)> {
    let mut paths = vec!["README.md".to_owned(), "examples/README.md".to_owned()];
    let docs = fs::read_dir(root().join("docs")).unwrap().flatten();
    let mut names: Vec<String> = docs.map(|e| format!("docs/{}", e.file_name().to_string_lossy())).collect();
    names.sort();
    paths.extend(names.into_iter().filter(|n| n.ends_with(".md")));
    let read = |path: String| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let all = blocks(&path, &text);
        (path, all)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn what_is_not_run_says_why() {
    let all = pages();
    let count = all.iter().map(|(_, blocks)| blocks.len()).sum::<usize>();
    let run = all.iter().flat_map(|(_, blocks)| blocks).filter(|b| b.reason.is_none()).count();
    assert!(run >= 12 && run * 2 >= count, "only {run} of {count} blocks are run");
    for block in all.iter().flat_map(|(_, blocks)| blocks) {
        let Some(reason) = &block.reason else { continue };
        assert!(reason.len() >= REASON_MIN, "{}:{}: {reason:?} is no reason", block.page, block.line);
    }
}

#[test]
fn every_example_is_run() {
    let all = pages();
    let run: String =
        all.iter().flat_map(|(_, b)| b).filter(|b| b.reason.is_none()).map(|b| b.text.as_str()).collect();
    for entry in fs::read_dir(root().join("examples")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "README.md" {
            assert!(run.contains(&format!("-f examples/{name}")), "no page runs examples/{name}");
        }
    }
}

/// The cells of a row of a table.
fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split(" | ").map(str::trim).collect()
}

#[test]
fn the_first_screen_repeats_figures_that_were_measured() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (readme, specification) = (read("README.md"), read("SPECIFICATION.md"));
    let start = readme.find("| | | Figure |").expect("the table of figures");
    let mut compared = 0;
    for line in readme[start..].lines().skip(2).take_while(|l| l.starts_with('|')) {
        let row = cells(line);
        for (value, figure) in row[1].split("; ").zip(row[2].split("; ")) {
            let promised = specification.lines().map(cells).find(|c| c[0] == figure);
            let promised = promised.unwrap_or_else(|| panic!("{figure} is no figure of SPECIFICATION.md"));
            let measured = promised.last().unwrap();
            assert!(
                measured.contains(value),
                "{figure}: README.md says {value}, SPECIFICATION.md {measured}"
            );
            compared += 1;
        }
    }
    assert!(compared >= 6, "only {compared} figures are compared");
}

/// A computer for the shells: a network of its own with nothing behind it, and folders of its own where a newcomer's computer has none.
fn preamble(folder: &Path) -> String {
    let f = folder.display();
    format!(
        "set -euo pipefail\n\
         mount --make-rprivate /\n\
         ip link set lo up\n\
         ip link add eth0 type veth peer name eth1\n\
         ip link set eth1 up\n\
         ip addr add 192.0.2.2/24 dev eth0\n\
         ip link set eth0 up\n\
         ip route add default via 192.0.2.1\n\
         mkdir -p {f}/lib /var/lib/skep {f}/containers\n\
         mount --bind {f}/lib /var/lib/skep\n\
         for d in /etc /usr/local /root; do\n\
           mkdir -p {f}/up$d {f}/work$d\n\
           mount -t overlay overlay -o lowerdir=$d,upperdir={f}/up$d,workdir={f}/work$d $d\n\
         done\n\
         export HOME=/root\n\
         rm -rf /etc/skep\n\
         # Not removed but covered: other tests' clients may be writing there.\n\
         for d in .kube .config .docker; do\n\
           mkdir -p /root/$d {f}/home/$d\n\
           mount --bind {f}/home/$d /root/$d\n\
         done\n\
         mkdir -p /etc/bash_completion.d\n\
         export PATH={f}/bin:$PATH\n\
         unset KUBECONFIG SKEP_DATA SKEP_CONFIG XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR || true\n\
         cd {f}/work-here\n\
         # However it ends, nothing stays.\n\
         trap 'skep down > {f}/down.log 2>&1 || cat {f}/down.log' EXIT\n"
    )
}

/// All pages, one shell each. What runs is printed, so that a failure shows its line.
fn script(folder: &Path, pages: &[(String, Vec<Block>)]) -> String {
    let mut text = preamble(folder);
    writeln!(text, "skep up").unwrap();
    for (number, (page, blocks)) in pages.iter().enumerate() {
        let mut shell = String::from("set -Eeuo pipefail\nshopt -s expand_aliases\n");
        // Whoever reads of a failure sees how things stood.
        shell.push_str(
            "trap '{ df -h /var/lib/skep; kubectl get pods,machines,events -A; } >&2 || true' ERR\n",
        );
        for block in blocks.iter().filter(|b| b.reason.is_none()) {
            writeln!(shell, "echo \">>> {}:{} after $SECONDS s\"\n{}", block.page, block.line, block.text)
                .unwrap();
        }
        let file = folder.join(format!("{number}.sh"));
        fs::write(&file, shell).unwrap();
        if blocks.iter().any(|b| b.reason.is_none()) {
            writeln!(text, "echo '=== {page}'; start=$SECONDS").unwrap();
            // Each page begins with a cloud that is up and empty, and with the operator's credential.
            writeln!(text, "skep up > /dev/null").unwrap();
            writeln!(text, "( eval \"$(skep env)\"; bash {} < /dev/null )", file.display()).unwrap();
            writeln!(
                text,
                "tenants=$(skep tenant list -o name); [ -z \"$tenants\" ] || skep tenant delete $tenants"
            )
            .unwrap();
            writeln!(text, "echo \"=== {page}: $((SECONDS - start)) s\"").unwrap();
        }
    }
    text
}

#[test]
fn what_the_pages_show_works_as_written() {
    if !is_root() {
        eprintln!("SKIPPED: a computer of one's own in a namespace needs root");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    for name in ["bin", "work-here"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    // Images are made of the program: without debuggers' tables it is a fifth.
    let program = folder.join("bin/skep");
    succeed(Command::new("strip").arg("-o").arg(&program).arg(skep()));
    symlink(tool("kubectl"), folder.join("bin/kubectl")).unwrap();
    for name in ["examples", "docs", "Makefile"] {
        symlink(root().join(name), folder.join("work-here").join(name)).unwrap();
    }
    let file = folder.join("all.sh");
    fs::write(&file, script(folder, &pages())).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--net", "bash"])
        .arg(&file)
        .env("SKEP_EVICTION_HARD", "nodefs.available<1%,nodefs.inodesFree<1%")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    let log = fs::read_to_string(folder.join("lib/skep.log")).unwrap_or_default();
    remove_groups(&folder.join("lib"));
    assert!(
        output.status.success(),
        "{}\n--- complaints\n{}\n--- log\n{}",
        end_of(&said, 30),
        end_of(&complaints, 60),
        end_of(&log, 40)
    );
    for line in said.lines().filter(|l| l.starts_with("=== ")) {
        println!("{line}");
    }
}

/// Control groups outlive namespaces.
fn remove_groups(data: &Path) {
    fn remove(dir: &Path) {
        for child in fs::read_dir(dir).into_iter().flatten().flatten().filter(|c| c.path().is_dir()) {
            remove(&child.path());
        }
        let _ = fs::remove_dir(dir);
    }
    let Ok(id) = fs::read_to_string(data.join("host-id")) else { return };
    let name = format!("skep-{}", id.trim());
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    for dir in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        remove(&dir.join(&name));
    }
}
