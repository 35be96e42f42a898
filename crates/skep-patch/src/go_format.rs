//! Renders JSON values the way Go's `fmt` prints them, because upstream's error messages quote
//! values that way and clients show and match those messages.

use std::fmt::Write as _;

use serde_json::{Number, Value};

use crate::limits::{MAX_QUOTED_BYTES, truncate};

/// What Go's dynamic type of a decoded JSON value is. Integers and other numbers are different
/// types there, which decides whether list elements are "the same type".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GoKind {
    /// `nil`
    Nil,
    /// `bool`
    Bool,
    /// A number without fraction or exponent that fits in 64 signed bits.
    Int64,
    /// Any other number.
    Float64,
    /// `string`
    String,
    /// `[]interface{}`
    Slice,
    /// `map[string]interface{}`
    Map,
}

impl GoKind {
    /// The kind of `value`.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nil,
            Value::Bool(_) => Self::Bool,
            Value::Number(n) if n.is_i64() => Self::Int64,
            Value::Number(_) => Self::Float64,
            Value::String(_) => Self::String,
            Value::Array(_) => Self::Slice,
            Value::Object(_) => Self::Map,
        }
    }

    /// The type as Go's `%s` prints it.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Nil => "%!s(<nil>)",
            Self::Bool => "bool",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::String => "string",
            Self::Slice => "[]interface {}",
            Self::Map => "map[string]interface {}",
        }
    }
}

/// `%v` (and `%+v`, which prints JSON values alike): `map[a:1 b:[x y]]`, keys sorted. Cut at
/// [`MAX_QUOTED_BYTES`].
pub fn value(v: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, v, false);
    truncate(&mut out, MAX_QUOTED_BYTES);
    out
}

/// `%s`: as [`value`], but whatever is no string prints as Go's complaint about the verb.
pub fn value_as_string(v: &Value) -> String {
    // Only at the top; inside, a nil prints as ever.
    if v.is_null() {
        return GoKind::Nil.type_name().to_owned();
    }
    let mut out = String::new();
    write_value(&mut out, v, true);
    truncate(&mut out, MAX_QUOTED_BYTES);
    out
}

/// `%v` of a list.
pub fn list(items: &[Value]) -> String {
    let mut out = String::new();
    write_list(&mut out, items, false);
    truncate(&mut out, MAX_QUOTED_BYTES);
    out
}

/// `%v` of several lists in one slice: `[[a b] [c]]`.
pub fn lists(lists: &[&[Value]]) -> String {
    let mut out = String::from("[");
    for (i, list) in lists.iter().enumerate() {
        if i > 0 {
            out.push(' ');
        }
        write_list(&mut out, list, false);
    }
    out.push(']');
    truncate(&mut out, MAX_QUOTED_BYTES);
    out
}

fn write_list(out: &mut String, items: &[Value], verb_s: bool) {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        if out.len() > MAX_QUOTED_BYTES {
            break;
        }
        if i > 0 {
            out.push(' ');
        }
        write_value(out, item, verb_s);
    }
    out.push(']');
}

fn write_value(out: &mut String, v: &Value, verb_s: bool) {
    // Past the cut nothing will be shown, so nothing need be rendered.
    if out.len() > MAX_QUOTED_BYTES {
        return;
    }
    match v {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(b) if verb_s => {
            let _ = write!(out, "%!s(bool={b})");
        }
        Value::Bool(b) => {
            let _ = write!(out, "{b}");
        }
        Value::Number(n) if verb_s => {
            let _ = write!(out, "%!s({}=", GoKind::of(v).type_name());
            write_number(out, n);
            out.push(')');
        }
        Value::Number(n) => write_number(out, n),
        Value::String(s) => out.push_str(s),
        Value::Array(items) => write_list(out, items, verb_s),
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push_str("map[");
            for (i, key) in keys.into_iter().enumerate() {
                if out.len() > MAX_QUOTED_BYTES {
                    break;
                }
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                write_value(out, &map[key], verb_s);
            }
            out.push(']');
        }
    }
}

fn write_number(out: &mut String, n: &Number) {
    match (n.as_i64(), n.as_f64()) {
        (Some(i), _) => {
            let _ = write!(out, "{i}");
        }
        (None, Some(f)) => out.push_str(&float(f)),
        (None, None) => {
            let _ = write!(out, "{n}");
        }
    }
}

/// A `float64` as Go's `%v` prints it: shortest digits, exponent form below 1e-4 and from 1e6.
pub fn float(f: f64) -> String {
    /// From this decimal exponent on, `%v` of a float switches to exponent form.
    const EXPONENT_FORM: i32 = 6;
    if f == 0.0 {
        return if f.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let scientific = format!("{f:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let Ok(exponent) = exponent.parse::<i32>() else {
        return scientific;
    };
    if (-4..EXPONENT_FORM).contains(&exponent) {
        return format!("{f}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// A string as Go's `strconv.Quote` writes it.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            ' '..='~' => out.push(c),
            c if c < ' ' || c == '\x7f' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if is_print(c) => out.push(c),
            c if (c as u32) < 0x1_0000 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
        }
    }
    out.push('"');
    out
}

/// Whether Go would print `c` (above ASCII) as it is. Rust's own escaping rule draws the same line,
/// apart from combining marks, which it escapes only at the start of a string.
fn is_print(c: char) -> bool {
    let mut buffer = String::from("a");
    buffer.push(c);
    buffer.escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_print_as_in_go() {
        for (v, want) in [
            (json!(null), "<nil>"),
            (json!(true), "true"),
            (json!(-3), "-3"),
            (json!(18446744073709551615u64), "1.8446744073709552e+19"),
            (json!(1.0), "1"),
            (json!(1.5), "1.5"),
            (json!(100000.0), "100000"),
            (json!(1234567.5), "1.2345675e+06"),
            (json!(1.25e-5), "1.25e-05"),
            (json!(0.0001), "0.0001"),
            (json!("x y"), "x y"),
            (json!([1, "a", [], {}]), "[1 a [] map[]]"),
            (json!({"b": 1, "a": {"c": null}}), "map[a:map[c:<nil>] b:1]"),
        ] {
            assert_eq!(value(&v), want);
        }
        assert_eq!(value_as_string(&json!("x")), "x");
        assert_eq!(value_as_string(&json!(5)), "%!s(int64=5)");
        assert_eq!(value_as_string(&json!({"a": [1.5, null]})), "map[a:[%!s(float64=1.5) <nil>]]");
        assert_eq!(lists(&[&[json!("a")], &[]]), "[[a] []]");
    }

    #[test]
    fn long_values_are_cut() {
        let text = value(&json!(vec!["é"; 100_000]));
        assert!(text.len() <= MAX_QUOTED_BYTES + 3 && text.ends_with("..."));
    }

    #[test]
    fn quoting_follows_strconv() {
        assert_eq!(quote("a\"b\\c\n\x01\x7f"), r#""a\"b\\c\n\x01\x7f""#);
        assert_eq!(quote("é世\u{301}"), "\"é世\u{301}\"");
        assert_eq!(quote("\u{200b}\u{e000}\u{10ffff}"), r#""\u200b\ue000\U0010ffff""#);
    }
}
