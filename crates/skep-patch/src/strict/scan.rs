//! One fast pass over JSON bytes that bounds nesting and notices keys that may occur twice.

use std::collections::HashSet;

use memchr::{memchr, memchr2};
use smallvec::SmallVec;

use crate::limits::MAX_NESTING_DEPTH;

/// Up to this many keys of one object are compared with each other; beyond it they go into a hash
/// set, so that a huge object costs no quadratic time.
const COMPARED_KEYS: usize = 32;

/// What a [`scan`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Some object may have a key twice: its keys have equal hashes. [`duplicate_fields`] makes
    /// certain.
    ///
    /// [`duplicate_fields`]: super::duplicate_fields
    pub suspect_duplicates: bool,
}

/// Why bytes should not even be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Nested too deeply.
    #[error("invalid character '{}' exceeded max depth", char::from(*bracket))]
    TooDeep {
        /// Where the bracket that went too deep is.
        offset: usize,
        /// The bracket.
        bracket: u8,
    },
}

struct Frame {
    object: bool,
    /// Where this object's hashes begin in the common list.
    keys_start: usize,
    /// The hashes of an object with many keys.
    set: Option<HashSet<u64>>,
}

/// Looks through `raw` once, refusing what nests deeper than
/// [`MAX_NESTING_DEPTH`].
///
/// It does not validate: what is no JSON gives any result, and the parser finds it afterwards.
pub fn scan(raw: &[u8]) -> Result<Scan, ScanError> {
    scan_to_depth(raw, MAX_NESTING_DEPTH)
}

/// As [`scan`], with another limit.
pub fn scan_to_depth(raw: &[u8], max_depth: usize) -> Result<Scan, ScanError> {
    let mut frames: SmallVec<[Frame; 16]> = SmallVec::new();
    let mut hashes: SmallVec<[u64; 64]> = SmallVec::new();
    let mut suspect = false;
    // Whether the next string is a key.
    let mut at_key = false;
    let mut i = 0;
    while let Some(&byte) = raw.get(i) {
        i += 1;
        match byte {
            b'"' => {
                let start = i;
                let Some((end, escaped)) = string_end(raw, start) else { break };
                i = end + 1;
                if !at_key {
                    continue;
                }
                at_key = false;
                // Most values are strings, too.
                if let Some([b':', b'"']) = raw.get(i..i + 2) {
                    match string_end(raw, i + 2) {
                        Some((value_end, _)) => i = value_end + 1,
                        None => break,
                    }
                }
                if suspect {
                    continue;
                }
                let hash = key_hash(raw, start, end, escaped);
                let Some(frame) = frames.last_mut() else { continue };
                if let Some(set) = &mut frame.set {
                    suspect = !set.insert(hash);
                } else {
                    let keys = &hashes[frame.keys_start..];
                    suspect = keys.contains(&hash);
                    if keys.len() == COMPARED_KEYS {
                        frame.set = Some(keys.iter().copied().chain([hash]).collect());
                    }
                    hashes.push(hash);
                }
            }
            b',' => at_key = frames.last().is_some_and(|f| f.object),
            b'{' | b'[' => {
                if frames.len() == max_depth {
                    return Err(ScanError::TooDeep { offset: i - 1, bracket: byte });
                }
                at_key = byte == b'{';
                frames.push(Frame { object: at_key, keys_start: hashes.len(), set: None });
            }
            b'}' | b']' => {
                if let Some(frame) = frames.pop() {
                    hashes.truncate(frame.keys_start);
                }
                at_key = false;
            }
            _ => {}
        }
    }
    Ok(Scan { suspect_duplicates: suspect })
}

/// Refuses JSON that nests deeper than `max_depth`; a little cheaper than [`scan_to_depth`].
pub fn validate_depth(raw: &[u8], max_depth: usize) -> Result<(), ScanError> {
    let mut depth = 0usize;
    let mut i = 0;
    while let Some(&byte) = raw.get(i) {
        i += 1;
        match byte {
            b'"' => match string_end(raw, i) {
                Some((end, _)) => i = end + 1,
                None => break,
            },
            b'{' | b'[' => {
                if depth == max_depth {
                    return Err(ScanError::TooDeep { offset: i - 1, bracket: byte });
                }
                depth += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The offset of the quote that ends the string whose first character is at `start`, and whether
/// there are escapes before it.
pub(super) fn string_end(raw: &[u8], start: usize) -> Option<(usize, bool)> {
    // Most strings are short, and a few words are looked through before a vector search has started.
    const SHORT_WORDS: usize = 4;
    let (words, _) = raw.get(start..)?.as_chunks::<8>();
    let near = words.iter().take(SHORT_WORDS).enumerate().find_map(|(i, word)| {
        let found = quotes_and_backslashes(u64::from_le_bytes(*word));
        (found != 0).then(|| start + 8 * i + found.trailing_zeros() as usize / 8)
    });
    let first = match near {
        Some(at) => at,
        None => {
            let from = start + 8 * words.len().min(SHORT_WORDS);
            from + memchr2(b'"', b'\\', &raw[from..])?
        }
    };
    if raw[first] == b'"' {
        return Some((first, false));
    }
    let mut at = first;
    loop {
        if raw[at] == b'"' {
            return Some((at, true));
        }
        // A backslash: whatever follows it does not end the string.
        at += 2;
        at += memchr2(b'"', b'\\', raw.get(at..)?)?;
    }
}

/// The highest bit of each byte of `word` that is a quote or a backslash. Only the lowest such bit is
/// reliable, which is the first in memory if the word was read as little endian.
const fn quotes_and_backslashes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES << 7;
    let quotes = word ^ (ONES * b'"' as u64);
    let backslashes = word ^ (ONES * b'\\' as u64);
    let zero_quotes = quotes.wrapping_sub(ONES) & !quotes;
    let zero_backslashes = backslashes.wrapping_sub(ONES) & !backslashes;
    (zero_quotes | zero_backslashes) & HIGH
}

/// A string as the parser would read it, for keys written with escapes. `None` if it is no string.
pub(super) fn unescape(raw: &[u8], start: usize, end: usize) -> Option<String> {
    serde_json::from_slice(raw.get(start.checked_sub(1)?..=end)?).ok()
}

fn key_hash(raw: &[u8], start: usize, end: usize, escaped: bool) -> u64 {
    if escaped && let Some(key) = unescape(raw, start, end) {
        return hash(key.as_bytes());
    }
    hash(&raw[start..end])
}

/// A quick hash by folded multiplication. Someone who makes keys collide on purpose only sends his
/// own request down the exact path.
fn hash(bytes: &[u8]) -> u64 {
    const K0: u64 = 0x9e37_79b9_7f4a_7c15;
    const K1: u64 = 0xd6e8_feb8_6659_fd93;
    fn fold(a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ ((product >> 64) as u64)
    }
    let mut state = K0.wrapping_add((bytes.len() as u64).wrapping_mul(K1));
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        state = fold(state ^ u64::from_le_bytes(*chunk), K1);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(state ^ u64::from_le_bytes(last), K1)
}

/// Whether `raw` contains a quote at all, i.e. whether there can be a key.
pub(super) fn has_strings(raw: &[u8]) -> bool {
    memchr(b'"', raw).is_some()
}
