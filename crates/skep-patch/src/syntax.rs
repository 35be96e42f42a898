//! What is wrong with bytes that are no JSON, in the words of Go's decoder, which clients know.
//!
//! Only looked at once a parser has refused the bytes, so it is written for clarity.

use crate::go_format::quote;
use crate::limits::MAX_NESTING_DEPTH;

/// Where and why bytes are no JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Go's message, e.g. `invalid character '}' looking for beginning of value`.
    pub message: String,
    /// How many bytes were read, with the one that is wrong.
    pub offset: usize,
}

/// The first syntax error in `raw`, if there is one. Nesting deeper than [`MAX_NESTING_DEPTH`] is one.
///
/// Go also takes some bytes for JSON that `serde_json` refuses: invalid UTF-8, lone surrogates and
/// numbers out of range. Those have no syntax error.
pub fn syntax_error(raw: &[u8]) -> Option<SyntaxError> {
    Reader { raw, at: 0 }.document().err()
}

/// What may come next, between tokens.
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    AfterValue,
}

struct Reader<'a> {
    raw: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn document(mut self) -> Result<(), SyntaxError> {
        // The containers around the current place: whether each is an object.
        let mut within: Vec<bool> = Vec::new();
        let mut expect = Expect::Value;
        loop {
            self.skip_space();
            let Some(byte) = self.peek() else {
                return match expect {
                    Expect::AfterValue if within.is_empty() => Ok(()),
                    _ => Err(self.end()),
                };
            };
            expect = match (expect, byte) {
                (Expect::Value | Expect::ValueOrEnd, b'{' | b'[') => {
                    if within.len() == MAX_NESTING_DEPTH {
                        return Err(self.wrong("exceeded max depth"));
                    }
                    self.at += 1;
                    within.push(byte == b'{');
                    if byte == b'{' { Expect::KeyOrEnd } else { Expect::ValueOrEnd }
                }
                (Expect::ValueOrEnd, b']') | (Expect::KeyOrEnd, b'}') => {
                    self.at += 1;
                    within.pop();
                    Expect::AfterValue
                }
                (Expect::Value | Expect::ValueOrEnd, _) => {
                    self.scalar(byte)?;
                    Expect::AfterValue
                }
                (Expect::Key | Expect::KeyOrEnd, b'"') => {
                    self.string()?;
                    self.skip_space();
                    match self.peek() {
                        Some(b':') => self.at += 1,
                        Some(_) => return Err(self.wrong("after object key")),
                        None => return Err(self.end()),
                    }
                    Expect::Value
                }
                (Expect::Key | Expect::KeyOrEnd, _) => {
                    return Err(self.wrong("looking for beginning of object key string"));
                }
                (Expect::AfterValue, _) => match (within.last(), byte) {
                    (Some(object), b',') => {
                        self.at += 1;
                        if *object { Expect::Key } else { Expect::Value }
                    }
                    (Some(true), b'}') | (Some(false), b']') => {
                        self.at += 1;
                        within.pop();
                        Expect::AfterValue
                    }
                    (Some(true), _) => return Err(self.wrong("after object key:value pair")),
                    (Some(false), _) => return Err(self.wrong("after array element")),
                    (None, _) => return Err(self.wrong("after top-level value")),
                },
            };
        }
    }

    fn scalar(&mut self, first: u8) -> Result<(), SyntaxError> {
        match first {
            b'"' => self.string(),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(self.wrong("looking for beginning of value")),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), SyntaxError> {
        self.at += 1;
        for letter in word.bytes().skip(1) {
            if self.peek() != Some(letter) {
                let letter = char::from(letter);
                return Err(self.wrong(&format!("in literal {word} (expecting '{letter}')")));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    /// At least one digit.
    fn digits(&mut self, context: &str) -> Result<(), SyntaxError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.wrong(context)) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<(), SyntaxError> {
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.end()),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(byte) if byte < b' ' => return Err(self.wrong("in string literal")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return Err(self.wrong("in \\u hexadecimal character escape"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.wrong("in string escape code")),
        }
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.raw.get(self.at).copied()
    }

    /// The byte here is wrong. Go takes the end of the bytes for a space where that is wrong, too.
    fn wrong(&self, context: &str) -> SyntaxError {
        let byte = char::from(self.peek().unwrap_or(b' '));
        let shown = match byte {
            '\'' => "\\'".to_owned(),
            '"' => "\"".to_owned(),
            other => quote(&other.to_string()).trim_matches('"').to_owned(),
        };
        SyntaxError {
            message: format!("invalid character '{shown}' {context}"),
            offset: self.raw.len().min(self.at + 1),
        }
    }

    fn end(&self) -> SyntaxError {
        SyntaxError { message: "unexpected end of JSON input".into(), offset: self.raw.len() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, proptest};

    use super::*;

    #[test]
    fn messages_are_gos() {
        for (raw, want) in [
            ("", "unexpected end of JSON input"),
            ("  ", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a\"", "unexpected end of JSON input"),
            ("{\"a\":1", "unexpected end of JSON input"),
            ("\"a", "unexpected end of JSON input"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\":2}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("1 2", "invalid character '2' after top-level value"),
            ("{}}", "invalid character '}' after top-level value"),
            ("apiVersion: v1", "invalid character 'a' looking for beginning of value"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\", "invalid character ' ' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("trie", "invalid character 'i' in literal true (expecting 'u')"),
            ("nul", "invalid character ' ' in literal null (expecting 'l')"),
            ("-", "invalid character ' ' in numeric literal"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.", "invalid character ' ' after decimal point in numeric literal"),
            ("1e+x", "invalid character 'x' in exponent of numeric literal"),
            ("01", "invalid character '1' after top-level value"),
            ("\u{e9}", "invalid character '\u{c3}' looking for beginning of value"),
            ("\x01", "invalid character '\\x01' looking for beginning of value"),
        ] {
            assert_eq!(syntax_error(raw.as_bytes()).map(|e| e.message).as_deref(), Some(want), "{raw:?}");
        }
        let deep = "[".repeat(MAX_NESTING_DEPTH + 1);
        let error = syntax_error(deep.as_bytes()).unwrap();
        assert_eq!(error.message, "invalid character '[' exceeded max depth");
        assert_eq!(error.offset, MAX_NESTING_DEPTH + 1);
        assert_eq!(syntax_error(b"[1, x]").unwrap().offset, 5);
    }

    proptest! {
        #[test]
        fn agrees_with_the_parser(raw in prop::collection::vec(prop::sample::select(br#"{}[]",:\u0018-+.eE tfn"#.to_vec()), 0..24)) {
            let parsed = serde_json::from_slice::<serde_json::Value>(&raw);
            match (parsed, syntax_error(&raw)) {
                (Ok(_), None) | (Err(_), Some(_)) => {}
                // Out of range, or a lone surrogate.
                (Err(e), None) if e.to_string().contains("number out of range") || e.to_string().contains("surrogate") => {}
                (parsed, error) => panic!("{:?}: {parsed:?} {error:?}", String::from_utf8_lossy(&raw)),
            }
        }

        #[test]
        fn junk_does_not_panic(raw in prop::collection::vec(0u8..255, 0..64)) {
            let _ = syntax_error(&raw);
        }
    }
}
