//! Writing a container's log: CRI's line format, in as few system calls as the container makes, with rotation.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::sibling;
use crate::logs::format_time;
use crate::spec::LogSpec;

/// A line longer than this is written in parts, as all CRI runtimes do: readers put them together again.
pub(super) const MAX_LINE_BYTES: usize = 16 << 10;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout = 0,
    Stderr = 1,
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
        }
    }
}

/// A container's log file.
#[derive(Debug)]
pub(super) struct LogWriter {
    spec: LogSpec,
    file: Option<File>,
    size: u64,
    /// The beginning of a line whose end has not come yet.
    pending: [Vec<u8>; 2],
    batch: Vec<u8>,
}

impl LogWriter {
    pub(super) fn open(spec: LogSpec) -> io::Result<LogWriter> {
        let mut log =
            LogWriter { spec, file: None, size: 0, pending: [Vec::new(), Vec::new()], batch: Vec::new() };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the file by its name again, which may be another file by now.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        // A link in its place would let a container's owner have any file of the machine written.
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.spec.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes what the container has written.
    pub(super) fn write(&mut self, output: Output, mut data: &[u8], now_ns: u64) {
        let mut time = String::with_capacity(36);
        format_time(now_ns, &mut time);
        let mut pending = std::mem::take(&mut self.pending[output as usize]);
        while !data.is_empty() {
            let room = MAX_LINE_BYTES - pending.len();
            let window = &data[..data.len().min(room)];
            // A line of just the limit is whole if its end follows at once.
            let end = memchr::memchr(b'\n', &data[..data.len().min(room + 1)]);
            match end {
                Some(end) => {
                    self.line(&time, output, 'F', &pending, &data[..end]);
                    data = &data[end + 1..];
                    pending.clear();
                }
                None if window.len() == room && data.len() > room => {
                    self.line(&time, output, 'P', &pending, window);
                    data = &data[room..];
                    pending.clear();
                }
                None => {
                    pending.extend_from_slice(data);
                    data = &[];
                }
            }
        }
        if pending.is_empty() {
            pending = Vec::new();
        }
        self.pending[output as usize] = pending;
        self.flush();
    }

    /// The output has ended: what has no line end is a line too.
    pub(super) fn finish(&mut self, output: Output, now_ns: u64) {
        let pending = std::mem::take(&mut self.pending[output as usize]);
        if !pending.is_empty() {
            let mut time = String::with_capacity(36);
            format_time(now_ns, &mut time);
            self.line(&time, output, 'F', &pending, &[]);
            self.flush();
        }
    }

    fn line(&mut self, time: &str, output: Output, tag: char, first: &[u8], second: &[u8]) {
        let batch = &mut self.batch;
        batch.extend_from_slice(time.as_bytes());
        batch.push(b' ');
        batch.extend_from_slice(output.name().as_bytes());
        batch.push(b' ');
        batch.push(tag as u8);
        batch.push(b' ');
        batch.extend_from_slice(first);
        batch.extend_from_slice(second);
        batch.push(b'\n');
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.size > 0 && self.size + self.batch.len() as u64 > self.spec.max_bytes {
            self.rotate();
        }
        // A full disk loses lines and does not stop the container. A failed open is tried again with the next lines.
        if self.file.is_none() {
            let _ = self.reopen();
        }
        if let Some(file) = &mut self.file {
            match file.write_all(&self.batch) {
                Ok(()) => self.size += self.batch.len() as u64,
                Err(_) => self.size = file.metadata().map_or(self.size, |m| m.len()),
            }
        }
        self.batch.clear();
        if self.batch.capacity() > BATCH_KEPT_BYTES {
            self.batch = Vec::new();
        }
    }

    /// Moves the file away under the time, keeps as many as are wanted, and begins a new one.
    fn rotate(&mut self) {
        let mut time = String::new();
        format_time(crate::sys::now_ns(), &mut time);
        // 20260102-030405.123456789: sorts by time, and is what log collectors expect of rotated CRI logs.
        let stamp: String = time[..29]
            .chars()
            .filter(|c| *c != '-' && *c != ':')
            .map(|c| if c == 'T' { '-' } else { c })
            .collect();
        let old = sibling(&self.spec.path, &format!(".{stamp}"));
        if fs::rename(&self.spec.path, old).is_ok() {
            self.file = None;
            self.size = 0;
            self.remove_old();
        }
    }

    fn remove_old(&self) {
        let mut old = rotated(&self.spec.path);
        let keep = (self.spec.max_files.max(2) - 1) as usize;
        while old.len() > keep {
            let _ = fs::remove_file(old.remove(0));
        }
    }
}

/// Most of the batch buffer that is kept between writes. A loud container fills more; a quiet one should cost nothing.
const BATCH_KEPT_BYTES: usize = 16 << 10;

/// The rotated files of a log, oldest first.
pub(crate) fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| {
            e.file_name().to_str().and_then(|n| n.strip_prefix(&prefix)).is_some_and(|s| s.starts_with("20"))
        })
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(folder: &Path, max_bytes: u64, max_files: u32) -> LogWriter {
        LogWriter::open(LogSpec { path: folder.join("0.log"), max_bytes, max_files }).unwrap()
    }

    const NOW: u64 = 1_767_323_045_123_456_789;

    #[test]
    fn lines_are_cut_as_cri_says() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 1 << 20, 5);
        log.write(Output::Stdout, b"one\ntw", NOW);
        log.write(Output::Stderr, b"oops\n", NOW);
        log.write(Output::Stdout, b"o\n\nend", NOW);
        log.finish(Output::Stdout, NOW);
        let text = fs::read_to_string(folder.path().join("0.log")).unwrap();
        let t = "2026-01-02T03:04:05.123456789Z";
        assert_eq!(
            text,
            format!(
                "{t} stdout F one\n{t} stderr F oops\n{t} stdout F two\n{t} stdout F \n{t} stdout F end\n"
            )
        );
    }

    #[test]
    fn long_lines_come_in_parts_wherever_reads_cut_them() {
        for piece in [1000, 16384, 20000, 65536] {
            let folder = tempfile::tempdir().unwrap();
            let mut log = writer(folder.path(), 1 << 20, 5);
            let mut data = vec![b'x'; MAX_LINE_BYTES];
            data.push(b'\n');
            data.extend(vec![b'y'; 2 * MAX_LINE_BYTES + 10]);
            data.push(b'\n');
            for chunk in data.chunks(piece) {
                log.write(Output::Stdout, chunk, NOW);
            }
            let text = fs::read_to_string(folder.path().join("0.log")).unwrap();
            let lines: Vec<(&str, usize)> = text
                .lines()
                .map(|l| {
                    let mut words = l.splitn(4, ' ').skip(2);
                    (words.next().unwrap(), words.next().unwrap().len())
                })
                .collect();
            assert_eq!(lines, [("F", 16384), ("P", 16384), ("P", 16384), ("F", 10)], "pieces of {piece}");
        }
    }

    #[test]
    fn files_are_rotated_and_old_ones_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 1000, 3);
        for number in 0..200 {
            log.write(Output::Stdout, format!("line {number}\n").as_bytes(), NOW);
        }
        let old = rotated(&folder.path().join("0.log"));
        assert_eq!(old.len(), 2);
        for file in old.iter().chain([&folder.path().join("0.log")]) {
            assert!(fs::metadata(file).unwrap().len() <= 1000);
        }
        let last = fs::read_to_string(folder.path().join("0.log")).unwrap();
        assert!(last.ends_with("line 199\n"));
        let before = fs::read_to_string(&old[1]).unwrap();
        let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap();
        assert_eq!(
            number(before.lines().last().unwrap()) + 1,
            number(last.lines().next().unwrap()),
            "nothing lost"
        );
    }
}
