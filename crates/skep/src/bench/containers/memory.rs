//! What the processes that keep pods take of memory, as the kernel counts it.
//!
//! A process that waits has more mapped for some milliseconds whenever it looks around, and gives that back: one look may meet that moment, in which much
//! begins at full tens of seconds at once, or none of them. So there are many looks, and what nine of ten stay below counts; median and worst are said too.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// How often it is looked, and at what distance: 10 s are long enough to meet whatever a node does regularly.
const LOOKS: usize = 41;
const BETWEEN: Duration = Duration::from_millis(250);

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

/// Several looks at the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Looks {
    /// In the middle, by what is resident.
    median: Memory,
    /// What is resident in nine of ten at most.
    pub(super) mostly_kib: u64,
    worst_kib: u64,
}

impl Looks {
    fn of(mut looks: Vec<Memory>) -> Option<Looks> {
        looks.sort_unstable_by_key(|m| m.resident_kib);
        let (median, mostly) = (*looks.get(looks.len() / 2)?, looks.get(looks.len() * 9 / 10)?.resident_kib);
        Some(Looks { median, mostly_kib: mostly, worst_kib: looks.last()?.resident_kib })
    }
}

impl fmt::Display for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        write!(f, "{}, 9 of 10 {:.1}, worst {:.1}", self.median, mib(self.mostly_kib), mib(self.worst_kib))
    }
}

/// Those of a node, and of its host, while nothing is asked of them.
pub(super) struct Idle {
    pub(super) agent: Looks,
    /// How many shims there are in the agent's machine.
    pub(super) shims: usize,
    /// The largest of them in each look.
    pub(super) largest_shim: Option<Looks>,
    /// The daemon of the cloud with that data directory; `None` where it is a part of another process.
    pub(super) daemon: Option<Looks>,
}

impl Idle {
    /// Looks at them for some seconds. A node whose agent is not on this computer is an error.
    pub(super) async fn watch(node: &str, data: &Path) -> anyhow::Result<Idle> {
        let mut looks = Vec::with_capacity(LOOKS);
        for _ in 0..LOOKS {
            looks.push(Processes::find(node, data)?);
            tokio::time::sleep(BETWEEN).await;
        }
        let largest = |p: &Processes| p.shims.iter().copied().max_by_key(|m| m.resident_kib);
        Ok(Idle {
            agent: Looks::of(looks.iter().map(|p| p.agent).collect()).context("nothing was looked at")?,
            shims: looks.last().map_or(0, |p| p.shims.len()),
            largest_shim: Looks::of(looks.iter().filter_map(largest).collect()),
            daemon: Looks::of(looks.iter().filter_map(|p| p.daemon).collect()),
        })
    }
}

/// One look.
struct Processes {
    agent: Memory,
    shims: Vec<Memory>,
    daemon: Option<Memory>,
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
    fn find(node: &str, data: &Path) -> anyhow::Result<Processes> {
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
        let looks =
            [9, 30, 3, 8, 20, 9, 9, 9, 9, 9, 9].map(|mib| Memory { resident_kib: mib << 10, ..memory });
        let looks = Looks::of(looks.to_vec()).unwrap();
        assert_eq!(looks.to_string(), "9.0 MiB (2.0 anonymous), 9 of 10 20.0, worst 30.0");
        assert_eq!(Looks::of(Vec::new()), None);
        let own = Memory::parse(&fs::read_to_string("/proc/self/status").unwrap()).unwrap();
        assert!(own.resident_kib >= own.anonymous_kib && own.anonymous_kib > 0);
    }
}
