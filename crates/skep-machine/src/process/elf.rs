//! Which interpreter a program names: without it, a dynamically linked program does not start.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::Error;

const MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
/// Linkers put the headers and the interpreter's name first. A whole program would count as the machine's memory, and
/// might be more than it has.
const HEAD_BYTES: u64 = 64 * 1024;
/// The type of the program header that names the interpreter.
const PT_INTERP: u32 = 3;

/// The interpreter of a program; `None` for one that is linked statically.
pub(crate) fn interpreter(program: &Path) -> Result<Option<PathBuf>, Error> {
    let mut bytes = Vec::new();
    let file = File::open(program).map_err(Error::io("open", program))?;
    file.take(HEAD_BYTES).read_to_end(&mut bytes).map_err(Error::io("read", program))?;
    Ok(parse(&bytes))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads the name out of a 64-bit little-endian program: what Skep is built for.
fn parse(bytes: &[u8]) -> Option<PathBuf> {
    if !bytes.starts_with(MAGIC) || bytes.get(4) != Some(&CLASS_64) || bytes.get(5) != Some(&LITTLE_ENDIAN) {
        return None;
    }
    let long = |at| usize::try_from(u64::from_le_bytes(number(bytes, at)?)).ok();
    let table = long(0x20)?;
    let entry_bytes = usize::from(u16::from_le_bytes(number(bytes, 0x36)?));
    let entries = usize::from(u16::from_le_bytes(number(bytes, 0x38)?));
    let header = (0..entries)
        .map(|i| table.checked_add(i.checked_mul(entry_bytes)?))
        .find(|at| at.is_some_and(|at| number(bytes, at).map(u32::from_le_bytes) == Some(PT_INTERP)))??;
    let (offset, length) = (long(header.checked_add(8)?)?, long(header.checked_add(32)?)?);
    let name = bytes.get(offset..offset.checked_add(length)?)?;
    let name = name.split(|b| *b == 0).next()?;
    Some(PathBuf::from(std::str::from_utf8(name).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_own_interpreter_and_refuses_rubbish() {
        let own = std::env::current_exe().unwrap();
        if let Some(interpreter) = interpreter(&own).unwrap() {
            assert!(interpreter.is_absolute() && interpreter.exists(), "{interpreter:?}");
        }
        let whole = std::fs::read(&own).unwrap();
        for length in (0..4096).step_by(7) {
            // A program that is cut off anywhere has no interpreter, or the right one; it never breaks anything.
            let _ = parse(&whole[..length]);
        }
        assert_eq!(parse(b"#!/bin/sh"), None);
    }
}
