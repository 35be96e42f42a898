//! What the processes that keep pods take of memory, as the kernel counts it.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Context;

/// One process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// `VmRSS`.
    pub(super) resident_kib: u64,
    /// `RssAnon`: what is nobody else's, and not a file's.
    pub(super) anonymous_kib: u64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        write!(f, "{:.1} MiB ({:.1} anonymous)", mib(self.resident_kib), mib(self.anonymous_kib))
    }
}

impl Memory {
    fn parse(status: &str) -> Option<Memory> {
        let of = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Memory { resident_kib: of("VmRSS:")?, anonymous_kib: of("RssAnon:")? })
    }
}

/// Those of a node, and of its host.
pub(super) struct Processes {
    pub(super) agent: Memory,
    /// Those of the agent's machine.
    pub(super) shims: Vec<Memory>,
    /// The daemon of the cloud with that data directory; `None` where it is a part of another process.
    pub(super) daemon: Option<Memory>,
}

struct Process {
    arguments: Vec<String>,
    /// Which PID namespace it is in.
    namespace: std::path::PathBuf,
    memory: Memory,
}

fn read(folder: &Path) -> Option<Process> {
    let line = fs::read(folder.join("cmdline")).ok()?;
    let arguments = line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    let memory = Memory::parse(&fs::read_to_string(folder.join("status")).ok()?)?;
    Some(Process { arguments, namespace: fs::read_link(folder.join("ns/pid")).ok()?, memory })
}

impl Process {
    fn is(&self, role: &str) -> bool {
        self.arguments.get(1).is_some_and(|a| a == role)
    }

    fn has(&self, option: &str, value: &str) -> bool {
        self.arguments.windows(2).any(|pair| pair[0] == option && pair[1] == value)
    }
}

impl Processes {
    pub(super) fn find(node: &str, data: &Path) -> anyhow::Result<Processes> {
        let folders = fs::read_dir("/proc").context("listing processes")?.flatten();
        // Processes come and go meanwhile.
        let all: Vec<Process> = folders.filter_map(|f| read(&f.path())).collect();
        let agent = all.iter().find(|p| p.is("agent") && p.has("--node", node));
        let agent = agent.with_context(|| format!("the agent of {node} is not on this computer"))?;
        let shims = all.iter().filter(|p| p.is("shim") && p.namespace == agent.namespace);
        let data = std::path::absolute(data).context("finding the data directory")?;
        let daemon = all.iter().find(|p| p.is("host") && p.has("--data", &data.to_string_lossy()));
        Ok(Processes {
            agent: agent.memory,
            shims: shims.map(|p| p.memory).collect(),
            daemon: daemon.map(|p| p.memory),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_counts() {
        let status = "Name:\tskep\nVmRSS:\t    9216 kB\nRssAnon:\t    2048 kB\nRssFile:\t    7168 kB\n";
        let memory = Memory::parse(status).unwrap();
        assert_eq!(memory.to_string(), "9.0 MiB (2.0 anonymous)");
        assert!(Memory::parse("Name:\tkthreadd\n").is_none(), "a thread of the kernel has none");
        let own = Memory::parse(&fs::read_to_string("/proc/self/status").unwrap()).unwrap();
        assert!(own.resident_kib >= own.anonymous_kib && own.anonymous_kib > 0);
    }
}
