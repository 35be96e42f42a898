//! Reading containers' logs, across rotated files: the last lines, since a time, up to a size, and what comes later.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::shim::rotated;

/// Which part of a log, and how it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines written at or after this time (nanoseconds since 1970).
    pub since_ns: Option<u64>,
    /// No more than this many bytes are given out.
    pub limit_bytes: Option<u64>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Only one of the outputs.
    pub stream: Option<LogStream>,
}

/// One of a container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How far a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read now.
    More,
    /// Everything that has been written was read. Who follows waits a little ([`FOLLOW_INTERVAL_MS`]) and reads again,
    /// until the container has ended and this comes once more.
    AtEnd,
    /// The limit is reached: there is nothing more to give.
    LimitReached,
}

/// How often a follower looks. Shorter costs processor time per follower, longer is seen by people.
pub const FOLLOW_INTERVAL_MS: u64 = 100;

/// How much is read from a file at once.
const CHUNK_BYTES: usize = 64 << 10;

/// A reader of one container's log.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    options: LogOptions,
    /// Older files that come before the current one.
    files: VecDeque<PathBuf>,
    current: Option<File>,
    /// Bytes of a line whose end was not read yet.
    rest: Vec<u8>,
    left_bytes: Option<u64>,
    at_line_start: bool,
}

impl LogReader {
    /// Opens a log. It need not exist yet.
    pub fn open(path: &Path, options: LogOptions) -> io::Result<LogReader> {
        let mut files: VecDeque<PathBuf> = rotated(path).into();
        files.push_back(path.to_owned());
        let left_bytes = options.limit_bytes;
        let mut reader = LogReader {
            path: path.to_owned(),
            options,
            files,
            current: None,
            rest: Vec::new(),
            left_bytes,
            at_line_start: true,
        };
        if let Some(lines) = reader.options.tail_lines {
            reader.seek_tail(lines)?;
        }
        Ok(reader)
    }

    /// Goes back from the end, over as many files as it takes.
    fn seek_tail(&mut self, lines: u64) -> io::Result<()> {
        let mut wanted = lines;
        let mut later = VecDeque::new();
        while let Some(path) = self.files.pop_back() {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let (offset, found) = offset_of_tail(&file, wanted)?;
            wanted -= found.min(wanted);
            if wanted == 0 || self.files.is_empty() {
                file.seek(SeekFrom::Start(offset))?;
                self.current = Some(file);
                self.files = later;
                return Ok(());
            }
            later.push_front(path);
        }
        // Not one file could be opened: wait for the first.
        self.files = VecDeque::from([self.path.clone()]);
        Ok(())
    }

    /// Reads on, and puts what is to be shown behind `out`.
    pub fn read(&mut self, out: &mut Vec<u8>) -> io::Result<Progress> {
        if self.left_bytes == Some(0) {
            return Ok(Progress::LimitReached);
        }
        let mut chunk = [0u8; 8192];
        let target = out.len() + CHUNK_BYTES;
        while out.len() < target {
            if self.current.is_none() && !self.open_next()? {
                return Ok(Progress::AtEnd);
            }
            let count = match &mut self.current {
                Some(file) => file.read(&mut chunk)?,
                None => 0,
            };
            if count == 0 {
                if !self.has_successor()? {
                    return Ok(Progress::AtEnd);
                }
                // A crash may have left a line without its end.
                self.rest.clear();
                self.current = None;
                continue;
            }
            self.rest.extend_from_slice(&chunk[..count]);
            let rest = std::mem::take(&mut self.rest);
            let mut from = 0;
            while let Some(length) = memchr::memchr(b'\n', &rest[from..]) {
                self.show(&rest[from..from + length], out);
                from += length + 1;
                if self.left_bytes == Some(0) {
                    return Ok(Progress::LimitReached);
                }
            }
            self.rest = rest[from..].to_vec();
        }
        Ok(Progress::More)
    }

    fn open_next(&mut self) -> io::Result<bool> {
        while let Some(path) = self.files.pop_front() {
            match File::open(&path) {
                Ok(file) => {
                    self.current = Some(file);
                    return Ok(true);
                }
                // An old one was removed meanwhile; the current one is about to be made.
                Err(e) if e.kind() == io::ErrorKind::NotFound && path != self.path => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    self.files.push_front(path);
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// The current file is at its end: is there a later one?
    fn has_successor(&mut self) -> io::Result<bool> {
        if !self.files.is_empty() {
            return Ok(true);
        }
        let Some(current) = &self.current else { return Ok(false) };
        let own = current.metadata()?;
        let now = match std::fs::metadata(&self.path) {
            Ok(now) => now,
            // Between moving a file away and making the next.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        if now.ino() == own.ino() && now.dev() == own.dev() {
            return Ok(false);
        }
        // It was rotated under us, perhaps more than once: go on with the files behind it.
        let mut all = rotated(&self.path);
        let at = all.iter().position(|p| std::fs::metadata(p).is_ok_and(|m| m.ino() == own.ino()));
        self.files = all.split_off(at.map_or(0, |at| at + 1)).into();
        self.files.push_back(self.path.clone());
        Ok(true)
    }

    fn show(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(record) = Record::parse(line) else { return };
        let wanted = self.options.stream.is_none_or(|s| {
            record.stream == if s == LogStream::Stdout { b"stdout" as &[u8] } else { b"stderr" }
        });
        let recent = self
            .options
            .since_ns
            .is_none_or(|since| parse_time(record.time).is_none_or(|written| written >= since));
        if !wanted || !recent {
            return;
        }
        let before = out.len();
        if self.options.timestamps && self.at_line_start {
            out.extend_from_slice(record.time);
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if record.whole {
            out.push(b'\n');
        }
        self.at_line_start = record.whole;
        if let Some(left) = &mut self.left_bytes {
            let added = (out.len() - before) as u64;
            if added > *left {
                out.truncate(before + *left as usize);
            }
            *left -= added.min(*left);
        }
    }
}

/// Where the last `lines` lines of a file begin, and how many there are of them.
fn offset_of_tail(file: &File, lines: u64) -> io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    if lines == 0 || end == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    // The last byte is a line's end, and not the beginning of one more.
    let mut skip_last = true;
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES as u64);
        let piece = &mut buffer[..(end - start) as usize];
        file.read_exact_at(piece, start)?;
        for (at, byte) in piece.iter().enumerate().rev() {
            if std::mem::take(&mut skip_last) {
                continue;
            }
            if *byte == b'\n' {
                found += 1;
                if found == lines {
                    return Ok((start + at as u64 + 1, found));
                }
            }
        }
        end = start;
    }
    Ok((0, found + 1))
}

/// One line of the file.
struct Record<'a> {
    time: &'a [u8],
    stream: &'a [u8],
    whole: bool,
    text: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (time, stream, tags, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Record { time, stream, whole: tags.split(|b| *b == b':').next() != Some(b"P"), text })
    }
}

/// RFC 3339 in UTC with nanoseconds, as CRI logs have it.
pub fn format_time(ns: u64, out: &mut String) {
    use std::fmt::Write;
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    // Writing to a string does not fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{nanos:09}Z", second % 60);
}

/// The date so many days after 1970-01-01, by the usual shift of the year's beginning to March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Nanoseconds since 1970 of a time as [`format_time`] writes it (any number of decimals).
pub fn parse_time(text: &[u8]) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        std::str::from_utf8(text.get(from..to)?).ok()?.parse().ok()
    };
    let days = days_of(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let mut nanos = 0;
    if text.get(19) == Some(&b'.') {
        let mut scale = 100_000_000;
        for digit in text[20..].iter().take_while(|b| b.is_ascii_digit()).take(9) {
            nanos += u64::from(digit - b'0') * scale;
            scale /= 10;
        }
    }
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests;
