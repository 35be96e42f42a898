//! Nulls where a value belongs: Go reads them as the zero value, and clients rely on it
//! (`labels: {a: }` in YAML). `serde` refuses them one at a time, saying where and what it expected; so a
//! zero value is put there, and the whole is read again.

/// The most nulls that are replaced: each costs another reading. Nobody writes so many by hand.
const MAX_NULLS: usize = 64;

/// JSON in which nulls are replaced by zero values, as errors ask for it.
pub(super) struct Zeroing {
    json: Vec<u8>,
    replaced: usize,
}

impl Zeroing {
    pub(super) fn new(json: &[u8]) -> Zeroing {
        Zeroing { json: json.to_vec(), replaced: 0 }
    }

    /// What has been made of the JSON so far.
    pub(super) fn json(&self) -> &[u8] {
        &self.json
    }

    /// Replaces the null that an error is about; says whether there was one.
    pub(super) fn replace(&mut self, error: &serde_json::Error) -> bool {
        const NULL: &[u8] = b"null";
        if !error.is_data() || self.replaced == MAX_NULLS {
            return false;
        }
        let Some(zero) = zero_value(&error.to_string()) else { return false };
        let line_start = match error.line() {
            0 | 1 => 0,
            line => {
                let mut ends = memchr::memchr_iter(b'\n', &self.json);
                let Some(end) = ends.nth(line - 2) else { return false };
                end + 1
            }
        };
        // The error stands at the last byte of what was read.
        let end = line_start + error.column();
        let Some(start) = end.checked_sub(NULL.len()).filter(|s| self.json.get(*s..end) == Some(NULL)) else {
            return false;
        };
        self.json.splice(start..end, zero.bytes());
        self.replaced += 1;
        true
    }
}

/// The zero value of the type that was expected; `None` if the error is not about a null.
fn zero_value(error: &str) -> Option<&'static str> {
    let expected = error.strip_prefix("invalid type: null, expected ")?;
    let is = |words: &[&str]| words.iter().any(|w| expected.starts_with(w));
    Some(if is(&["a string", "string", "str "]) {
        "\"\""
    } else if is(&["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64", "integer"]) {
        "0"
    } else if is(&["a boolean"]) {
        "false"
    } else if is(&["a sequence", "a list", "an array"]) {
        "[]"
    } else {
        // Types of their own: they name themselves.
        "{}"
    })
}
