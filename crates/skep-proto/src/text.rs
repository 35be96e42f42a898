//! How JSON and Kubernetes write strings, numbers and times.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};

/// The second that Go calls the zero time: the beginning of year 1.
const ZERO_TIME_S: i64 = -62_135_596_800;

/// The last second that RFC 3339 can name: the end of year 9999.
const LAST_TIME_S: i64 = 253_402_300_799;

/// Writes formatted text; memory takes all of it.
fn print(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "a vector takes every write");
}

pub(crate) fn number(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    print(out, format_args!("{number}"));
}

/// A string with quotes and escapes.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(bytes.get(plain..at).unwrap_or_default());
        plain = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => print(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(bytes.get(plain..).unwrap_or_default());
    out.push(b'"');
}

/// Bytes as a base64 string.
pub(crate) fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

/// A floating number; whole ones without a point, as Go writes them. False when JSON has no name for it.
pub(crate) fn double(out: &mut Vec<u8>, value: f64) -> bool {
    /// Beyond it, whole numbers are not exact any more.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[allow(clippy::cast_possible_truncation, reason = "whole and in range")]
        number(out, value as i64);
        return true;
    }
    let Some(value) = serde_json::Number::from_f64(value) else { return false };
    number(out, value);
    true
}

/// A time in whole seconds. `None` when it has no name; false when it is the zero time, and nothing is written.
pub(crate) fn time(out: &mut Vec<u8>, seconds: i64) -> Option<bool> {
    if seconds == ZERO_TIME_S {
        return Some(false);
    }
    if !(ZERO_TIME_S..=LAST_TIME_S).contains(&seconds) {
        return None;
    }
    let time = Timestamp::from_second(seconds).ok()?;
    print(out, format_args!("\"{time}\""));
    Some(true)
}

/// A time in microseconds, all six digits; otherwise as [`time`].
pub(crate) fn micro_time(out: &mut Vec<u8>, seconds: i64, nanoseconds: i32) -> Option<bool> {
    let microseconds = i64::from(nanoseconds / 1000);
    if seconds == ZERO_TIME_S && microseconds == 0 {
        return Some(false);
    }
    let time = Timestamp::from_second(seconds).ok()?;
    let time = time.checked_add(SignedDuration::from_micros(microseconds)).ok()?;
    if !(ZERO_TIME_S..=LAST_TIME_S).contains(&time.as_second()) {
        return None;
    }
    print(out, format_args!("\"{}\"", time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")));
    Some(true)
}

/// A duration as Go prints it: `1h0m0.5s`, `1.5ms`, `0s`.
pub(crate) fn duration(out: &mut Vec<u8>, nanoseconds: i64) {
    const SECOND: u64 = 1_000_000_000;
    out.push(b'"');
    let total = nanoseconds.unsigned_abs();
    if nanoseconds < 0 {
        out.push(b'-');
    }
    if total >= SECOND {
        let seconds = total / SECOND;
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            print(out, format_args!("{hours}h"));
        }
        if hours > 0 || minutes > 0 {
            print(out, format_args!("{minutes}m"));
        }
        fraction(out, seconds % 60, total % SECOND, 9);
        out.push(b's');
    } else {
        match total {
            0 => out.extend_from_slice(b"0s"),
            1..1000 => print(out, format_args!("{total}ns")),
            1000..1_000_000 => {
                fraction(out, total / 1000, total % 1000, 3);
                out.extend_from_slice("µs".as_bytes());
            }
            _ => {
                fraction(out, total / 1_000_000, total % 1_000_000, 6);
                out.extend_from_slice(b"ms");
            }
        }
    }
    out.push(b'"');
}

/// A number with so many digits behind the point, without zeros at the end.
fn fraction(out: &mut Vec<u8>, whole: u64, part: u64, digits: usize) {
    print(out, format_args!("{whole}"));
    if part > 0 {
        print(out, format_args!(".{part:0digits$}"));
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}
