//! The little that is read from `/proc`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::record::InitRecord;

/// A line of `/proc/PID/stat`, as far as it says whether a process is the one that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// It has ended, and its parent has not asked yet.
    pub(crate) dead: bool,
    /// When it was started, in ticks since boot.
    pub(crate) start_ticks: u64,
}

/// Takes a `stat` line apart. The name in brackets may hold anything, brackets and blanks included.
pub(crate) fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // The state is field 3 and the start time field 22.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { dead: matches!(state, "Z" | "X"), start_ticks })
}

pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

pub(crate) fn boot_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).map_err(Error::io("read", path))?.trim().to_owned())
}

/// Whether the process of a record is still there and alive.
pub(crate) fn is_alive(record: &InitRecord) -> bool {
    boot_id().is_ok_and(|id| id == record.boot_id)
        && stat(record.pid).is_some_and(|s| !s.dead && s.start_ticks == record.start_ticks)
}

/// A mount, as `/proc/self/mountinfo` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountPoint {
    /// Where.
    pub(crate) target: PathBuf,
    /// Of what type.
    pub(crate) fstype: String,
    /// The options of the file system itself.
    pub(crate) options: String,
}

/// Takes a `mountinfo` apart; lines that are not understood are left out.
pub(crate) fn parse_mounts(text: &str) -> Vec<MountPoint> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let target = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let fstype = after.next()?.to_owned();
        let options = after.nth(1)?.to_owned();
        Some(MountPoint { target: PathBuf::from(unescape(target)), fstype, options })
    };
    text.lines().filter_map(line).collect()
}

pub(crate) fn mounts() -> Result<Vec<MountPoint>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    Ok(parse_mounts(&fs::read_to_string(path).map_err(Error::io("read", path))?))
}

/// The kernel writes blanks, tabs, line ends and backslashes as `\ooo`.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\').then(|| bytes.get(at + 1..at + 4)).flatten();
        let code = octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The files that this very program is made of: the binary, its interpreter and its shared libraries, wherever the
/// distribution keeps them.
pub(crate) fn own_files() -> Result<Vec<PathBuf>, Error> {
    let path = Path::new("/proc/self/maps");
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(parse_libraries(&text))
}

/// The shared libraries in a `maps`, without the binary itself.
pub(crate) fn parse_libraries(maps: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(5))
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .filter(|path| path.file_name().is_some_and(|n| is_library(&n.to_string_lossy())))
        .collect();
    found.sort();
    found.dedup();
    found
}

fn is_library(name: &str) -> bool {
    name.ends_with(".so") || name.contains(".so.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_survives_a_hostile_name() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3";
        let plain = parse_stat(&format!("42 (init) {tail}")).unwrap();
        assert_eq!(plain, Stat { dead: false, start_ticks: 98765 });
        assert_eq!(parse_stat(&format!("42 (a) Z 1 (b c) {tail}")), Some(plain));
        assert!(parse_stat(&format!("42 (x) {}", tail.replacen('S', "Z", 1))).unwrap().dead);
        assert_eq!(parse_stat("42 (x) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_is_alive_and_an_older_one_of_its_number_is_not() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let record =
            InitRecord { pid, start_ticks: stat(pid).unwrap().start_ticks, boot_id: boot_id().unwrap() };
        assert!(is_alive(&record));
        assert!(!is_alive(&InitRecord { start_ticks: record.start_ticks - 1, ..record.clone() }));
        assert!(!is_alive(&InitRecord { boot_id: "another".to_owned(), ..record }));
    }

    #[test]
    fn mounts_are_read_with_blanks_in_their_names() {
        let text = "36 35 98:0 /a /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                    40 35 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\nbroken\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].target, Path::new("/mnt/a b"));
        assert_eq!((mounts[1].fstype.as_str(), mounts[1].options.as_str()), ("cgroup", "rw,cpu,cpuacct"));
    }

    #[test]
    fn libraries_are_found_in_maps() {
        let text = "55-56 r-xp 00 08:01 12 /usr/bin/skep\n\
                    57-58 r-xp 00 08:01 13 /usr/lib/libc.so.6\n59-60 r-xp 00 08:01 13 /usr/lib/libc.so.6\n\
                    61-62 r-xp 00 08:01 14 /lib64/ld-linux-x86-64.so.2\n63-64 rw-p 00 00:00 0 [stack]\n";
        assert_eq!(
            parse_libraries(text),
            [PathBuf::from("/lib64/ld-linux-x86-64.so.2"), PathBuf::from("/usr/lib/libc.so.6")]
        );
    }
}
