//! From the wire to JSON, straight: no tree of values in between.

use crate::facts::{Facts, Field, Form, MessageId, Shape};
use crate::wire::{Reader, Value};
use crate::{MAGIC, MEDIA_TYPE, ProtoError, text};

/// Deepest nesting of messages, protobuf's own usual limit: pods need about 10, JSON schemas in CRDs some more.
/// It bounds the stack.
pub const MAX_DEPTH: usize = 100;

/// An object in JSON, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// As the envelope says.
    pub api_version: String,
    /// As the envelope says.
    pub kind: String,
    /// The object with `kind` and `apiVersion`, as Go's json would write the typed object.
    pub json: Vec<u8>,
}

/// Reads a body in Kubernetes' envelope.
///
/// A value that Go's json would leave out (`omitempty`) is left out, and so are zero times: the wire always
/// carries them, and they mean nothing.
///
/// # Errors
/// When the body is not well-formed, or of a type that is not known.
pub fn decode(body: &[u8]) -> Result<Decoded, ProtoError> {
    let mut decoder = Decoder { facts: Facts::get()?, out: Vec::with_capacity(body.len() * 2) };
    let (api_version, kind) = decoder.envelope(body, 0)?;
    Ok(Decoded { api_version: api_version.to_owned(), kind: kind.to_owned(), json: decoder.out })
}

/// What came of writing one value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Value,
    /// Its type's zero value.
    Zero,
    /// `null`: JSON has nothing to say about it.
    Null,
}

/// A field found on the wire: its place in the message's facts, and its value.
type Found<'a> = (usize, Value<'a>);

struct Decoder {
    facts: &'static Facts,
    out: Vec<u8>,
}

impl Decoder {
    /// Writes the object in an envelope; returns its `apiVersion` and kind.
    fn envelope<'a>(&mut self, body: &'a [u8], depth: usize) -> Result<(&'a str, &'a str), ProtoError> {
        let message = body.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?;
        let (mut api_version, mut kind, mut raw, mut encoding, mut content_type) = ("", "", &[][..], "", "");
        let mut fields = Reader::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => {
                    let mut fields = Reader::new(as_bytes("typeMeta", value)?);
                    while let Some((number, value)) = fields.next()? {
                        match number {
                            1 => api_version = as_str("apiVersion", value)?,
                            2 => kind = as_str("kind", value)?,
                            _ => {}
                        }
                    }
                }
                2 => raw = as_bytes("raw", value)?,
                3 => encoding = as_str("contentEncoding", value)?,
                4 => content_type = as_str("contentType", value)?,
                _ => {}
            }
        }
        if encoding.is_empty() && content_type == "application/json" {
            self.json("raw", raw)?;
            return Ok((api_version, kind));
        }
        if !encoding.is_empty() || !(content_type.is_empty() || content_type == MEDIA_TYPE) {
            return Err(ProtoError::UnknownContent {
                encoding: encoding.to_owned(),
                content_type: content_type.to_owned(),
            });
        }
        if kind.is_empty() {
            return Err(ProtoError::NoKind);
        }
        let id = self.facts.kind(api_version, kind).ok_or_else(|| ProtoError::UnknownKind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        })?;
        self.out.extend_from_slice(b"{\"kind\":");
        text::string(&mut self.out, kind);
        self.out.extend_from_slice(b",\"apiVersion\":");
        text::string(&mut self.out, api_version);
        self.fields(id, "raw", &[(0, Value::Bytes(raw))], &mut false, depth)?;
        self.out.push(b'}');
        Ok((api_version, kind))
    }

    /// Writes a message's fields. The message may come in parts, which count as one: that is how protobuf
    /// merges a field that occurs twice.
    fn fields(
        &mut self,
        id: MessageId,
        name: &'static str,
        parts: &[Found<'_>],
        first: &mut bool,
        depth: usize,
    ) -> Result<(), ProtoError> {
        if depth >= MAX_DEPTH {
            return Err(ProtoError::TooDeep);
        }
        let facts = self.facts.fields(id);
        let mut found: Vec<Found<'_>> = Vec::new();
        for &(_, part) in parts {
            let mut reader = Reader::new(as_bytes(name, part)?);
            while let Some((number, value)) = reader.next()? {
                if let Ok(index) = facts.binary_search_by_key(&number, |f| f.number) {
                    found.push((index, value));
                }
            }
        }
        if !found.is_sorted_by_key(|&(index, _)| index) {
            found.sort_by_key(|&(index, _)| index);
        }
        for same in found.chunk_by(|a, b| a.0 == b.0) {
            if let Some(field) = same.first().and_then(|&(index, _)| facts.get(index)) {
                self.field(field, same, first, depth)?;
            }
        }
        Ok(())
    }

    /// Writes everything there is of one field, with its name.
    fn field(
        &mut self,
        field: &Field,
        same: &[Found<'_>],
        first: &mut bool,
        depth: usize,
    ) -> Result<(), ProtoError> {
        let begin = (self.out.len(), *first);
        if field.shape == Shape::Inline {
            let Form::Message(id) = field.form else {
                return Err(ProtoError::Facts(format!("field {} cannot be inline", field.name)));
            };
            return self.fields(id, field.name, same, first, depth + 1);
        }
        if !std::mem::take(first) {
            self.out.push(b',');
        }
        text::string(&mut self.out, field.name);
        self.out.push(b':');
        match field.shape {
            Shape::Inline | Shape::One => {
                let written = self.value(field, same, depth)?;
                if written == Written::Null || (written == Written::Zero && field.omit_zero) {
                    self.out.truncate(begin.0);
                    *first = begin.1;
                }
            }
            Shape::List => self.list(field, same, depth)?,
            Shape::Map => self.map(field, same, depth)?,
        }
        Ok(())
    }

    fn list(&mut self, field: &Field, same: &[Found<'_>], depth: usize) -> Result<(), ProtoError> {
        let numeric =
            matches!(field.form, Form::Int32 | Form::Int64 | Form::Uint32 | Form::Uint64 | Form::Bool);
        self.out.push(b'[');
        for item in same {
            match item.1 {
                Value::Bytes(packed) if numeric => {
                    let mut numbers = Reader::new(packed);
                    while let Some(number) = numbers.packed()? {
                        self.item(field, &[(item.0, Value::Number(number))], depth)?;
                        self.out.push(b',');
                    }
                }
                _ => {
                    self.item(field, std::slice::from_ref(item), depth)?;
                    self.out.push(b',');
                }
            }
        }
        self.close(b']');
        Ok(())
    }

    fn map(&mut self, field: &Field, same: &[Found<'_>], depth: usize) -> Result<(), ProtoError> {
        let mut entries = Vec::with_capacity(same.len());
        for &(index, entry) in same {
            let (mut key, mut value) = ("", None);
            let mut reader = Reader::new(as_bytes(field.name, entry)?);
            while let Some((number, part)) = reader.next()? {
                match number {
                    1 => key = as_str(field.name, part)?,
                    2 => value = Some((index, part)),
                    _ => {}
                }
            }
            // What is not there is the zero value.
            let zero = match field.form {
                Form::Int32 | Form::Int64 | Form::Uint32 | Form::Uint64 | Form::Bool => Value::Number(0),
                Form::Double => Value::Fixed64(0),
                _ => Value::Bytes(&[]),
            };
            entries.push((key, value.unwrap_or((index, zero))));
        }
        // The last of several entries with one key counts.
        entries.sort_by_key(|&(key, _)| key);
        self.out.push(b'{');
        for equal in entries.chunk_by(|a, b| a.0 == b.0) {
            if let Some((key, value)) = equal.last() {
                text::string(&mut self.out, key);
                self.out.push(b':');
                self.item(field, std::slice::from_ref(value), depth)?;
                self.out.push(b',');
            }
        }
        self.close(b'}');
        Ok(())
    }

    /// Ends a list whose items all have a comma behind them.
    fn close(&mut self, bracket: u8) {
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
        self.out.push(bracket);
    }

    /// A value where there has to be one.
    fn item(&mut self, field: &Field, value: &[Found<'_>], depth: usize) -> Result<(), ProtoError> {
        if self.value(field, value, depth)? == Written::Null {
            self.out.extend_from_slice(b"null");
        }
        Ok(())
    }

    /// Writes one value: the last one given, or the sum of all parts of a message.
    fn value(&mut self, field: &Field, parts: &[Found<'_>], depth: usize) -> Result<Written, ProtoError> {
        let name = field.name;
        let Some(&(_, last)) = parts.last() else { return Ok(Written::Null) };
        let zero = |zero: bool| if zero { Written::Zero } else { Written::Value };
        let named = |named: Option<bool>| match named {
            Some(true) => Ok(Written::Value),
            Some(false) => Ok(Written::Null),
            None => Err(ProtoError::OutOfRange { field: name }),
        };
        Ok(match field.form {
            Form::String => {
                let value = as_str(name, last)?;
                text::string(&mut self.out, value);
                zero(value.is_empty())
            }
            Form::Bytes => {
                let value = as_bytes(name, last)?;
                text::bytes(&mut self.out, value);
                zero(value.is_empty())
            }
            Form::Bool => {
                let value = as_number(name, last)? != 0;
                self.out.extend_from_slice(if value { b"true" } else { b"false" });
                zero(!value)
            }
            #[allow(clippy::cast_possible_truncation, reason = "that is how protobuf narrows numbers")]
            Form::Int32 => {
                let value = as_number(name, last)? as i32;
                text::number(&mut self.out, value);
                zero(value == 0)
            }
            Form::Int64 => {
                let value = as_number(name, last)?.cast_signed();
                text::number(&mut self.out, value);
                zero(value == 0)
            }
            #[allow(clippy::cast_possible_truncation, reason = "that is how protobuf narrows numbers")]
            Form::Uint32 => {
                let value = as_number(name, last)? as u32;
                text::number(&mut self.out, value);
                zero(value == 0)
            }
            Form::Uint64 => {
                let value = as_number(name, last)?;
                text::number(&mut self.out, value);
                zero(value == 0)
            }
            Form::Double => {
                let Value::Fixed64(bits) = last else {
                    return Err(ProtoError::WrongWireType { field: name });
                };
                let value = f64::from_bits(bits);
                if !text::double(&mut self.out, value) {
                    return Err(ProtoError::OutOfRange { field: name });
                }
                zero(value == 0.0)
            }
            Form::Time => match timestamp(name, parts)? {
                None => Written::Null,
                Some((seconds, _)) => named(text::time(&mut self.out, seconds))?,
            },
            Form::MicroTime => match timestamp(name, parts)? {
                None => Written::Null,
                Some((seconds, nanoseconds)) => named(text::micro_time(&mut self.out, seconds, nanoseconds))?,
            },
            Form::Duration => {
                let [nanoseconds] = inner(name, parts, [1])?;
                let value = nanoseconds.map_or(Ok(0), |v| as_number(name, v))?.cast_signed();
                text::duration(&mut self.out, value);
                zero(value == 0)
            }
            Form::Quantity => {
                let [value] = inner(name, parts, [1])?;
                text::string(&mut self.out, value.map_or(Ok("0"), |v| as_str(name, v))?);
                Written::Value
            }
            Form::IntOrString => self.int_or_string(name, parts)?,
            Form::Raw => {
                let [raw] = inner(name, parts, [1])?;
                let raw = raw.map_or(Ok(&[][..]), |v| as_bytes(name, v))?;
                if raw.is_empty() {
                    Written::Null
                } else if raw.starts_with(MAGIC) {
                    if depth + 1 >= MAX_DEPTH {
                        return Err(ProtoError::TooDeep);
                    }
                    self.envelope(raw, depth + 1)?;
                    Written::Value
                } else {
                    self.json(name, raw)?;
                    Written::Value
                }
            }
            Form::Wrapped => self.strings(name, parts, 1)?,
            Form::SchemaOrArray(id) => {
                let (schema, list) = (each(name, parts, 1)?, each(name, parts, 2)?);
                if !list.is_empty() {
                    self.out.push(b'[');
                    for item in &list {
                        self.message(id, name, std::slice::from_ref(item), depth)?;
                        self.out.push(b',');
                    }
                    self.close(b']');
                    Written::Value
                } else if schema.is_empty() {
                    Written::Null
                } else {
                    self.message(id, name, &schema, depth)?
                }
            }
            Form::SchemaOrBool(id) => {
                let ([allows], schema) = (inner(name, parts, [1])?, each(name, parts, 2)?);
                if schema.is_empty() {
                    let allows = allows.map_or(Ok(0), |v| as_number(name, v))? != 0;
                    self.out.extend_from_slice(if allows { b"true" } else { b"false" });
                    Written::Value
                } else {
                    self.message(id, name, &schema, depth)?
                }
            }
            Form::SchemaOrStrings(id) => {
                let schema = each(name, parts, 1)?;
                match self.strings(name, parts, 2)? {
                    Written::Zero if schema.is_empty() => {
                        self.unwrite(2);
                        Written::Null
                    }
                    Written::Zero => {
                        self.unwrite(2);
                        self.message(id, name, &schema, depth)?
                    }
                    written => written,
                }
            }
            Form::Message(id) => self.message(id, name, parts, depth)?,
        })
    }

    fn message(
        &mut self,
        id: MessageId,
        name: &'static str,
        parts: &[Found<'_>],
        depth: usize,
    ) -> Result<Written, ProtoError> {
        let begin = self.out.len();
        self.out.push(b'{');
        self.fields(id, name, parts, &mut true, depth + 1)?;
        self.out.push(b'}');
        Ok(if self.out.len() == begin + 2 { Written::Zero } else { Written::Value })
    }

    /// The strings of a field as a list; `Zero` when there are none.
    fn strings(
        &mut self,
        name: &'static str,
        parts: &[Found<'_>],
        number: u32,
    ) -> Result<Written, ProtoError> {
        let items = each(name, parts, number)?;
        self.out.push(b'[');
        for &(_, item) in &items {
            text::string(&mut self.out, as_str(name, item)?);
            self.out.push(b',');
        }
        self.close(b']');
        Ok(if items.is_empty() { Written::Zero } else { Written::Value })
    }

    fn unwrite(&mut self, bytes: usize) {
        self.out.truncate(self.out.len().saturating_sub(bytes));
    }

    fn int_or_string(&mut self, name: &'static str, parts: &[Found<'_>]) -> Result<Written, ProtoError> {
        let [kind, number, string] = inner(name, parts, [1, 2, 3])?;
        let is_zero = match kind.map_or(Ok(0), |v| as_number(name, v))? {
            0 => {
                #[allow(clippy::cast_possible_truncation, reason = "that is how protobuf narrows numbers")]
                let value = number.map_or(Ok(0), |v| as_number(name, v))? as i32;
                text::number(&mut self.out, value);
                value == 0
            }
            1 => {
                let value = string.map_or(Ok(""), |v| as_str(name, v))?;
                text::string(&mut self.out, value);
                value.is_empty()
            }
            _ => return Err(ProtoError::OutOfRange { field: name }),
        };
        Ok(if is_zero { Written::Zero } else { Written::Value })
    }

    /// Copies bytes that must be JSON.
    fn json(&mut self, name: &'static str, raw: &[u8]) -> Result<(), ProtoError> {
        let text = std::str::from_utf8(raw).map_err(|_| ProtoError::NotUtf8 { field: name })?;
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|_| ProtoError::NotJson { field: name })?;
        self.out.extend_from_slice(raw);
        Ok(())
    }
}

/// The last values of some fields of a small message.
fn inner<'a, const N: usize>(
    name: &'static str,
    parts: &[Found<'a>],
    numbers: [u32; N],
) -> Result<[Option<Value<'a>>; N], ProtoError> {
    let mut values = [None; N];
    for &(_, part) in parts {
        let mut reader = Reader::new(as_bytes(name, part)?);
        while let Some((number, value)) = reader.next()? {
            for (wanted, place) in numbers.iter().zip(&mut values) {
                if *wanted == number {
                    *place = Some(value);
                }
            }
        }
    }
    Ok(values)
}

/// All values of one field.
fn each<'a>(name: &'static str, parts: &[Found<'a>], number: u32) -> Result<Vec<Found<'a>>, ProtoError> {
    let mut values = Vec::new();
    for &(index, part) in parts {
        let mut reader = Reader::new(as_bytes(name, part)?);
        while let Some((found, value)) = reader.next()? {
            if found == number {
                values.push((index, value));
            }
        }
    }
    Ok(values)
}

/// Seconds and nanoseconds; nothing for a message without any fields, which is how Go sends the zero time.
fn timestamp(name: &'static str, parts: &[Found<'_>]) -> Result<Option<(i64, i32)>, ProtoError> {
    let mut is_empty = true;
    for &(_, part) in parts {
        is_empty &= as_bytes(name, part)?.is_empty();
    }
    if is_empty {
        return Ok(None);
    }
    let [seconds, nanoseconds] = inner(name, parts, [1, 2])?;
    let seconds = seconds.map_or(Ok(0), |v| as_number(name, v))?.cast_signed();
    #[allow(clippy::cast_possible_truncation, reason = "that is how protobuf narrows numbers")]
    let nanoseconds = nanoseconds.map_or(Ok(0), |v| as_number(name, v))? as i32;
    Ok(Some((seconds, nanoseconds)))
}

fn as_number(field: &'static str, value: Value<'_>) -> Result<u64, ProtoError> {
    match value {
        Value::Number(number) => Ok(number),
        _ => Err(ProtoError::WrongWireType { field }),
    }
}

fn as_bytes<'a>(field: &'static str, value: Value<'a>) -> Result<&'a [u8], ProtoError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(ProtoError::WrongWireType { field }),
    }
}

fn as_str<'a>(field: &'static str, value: Value<'a>) -> Result<&'a str, ProtoError> {
    std::str::from_utf8(as_bytes(field, value)?).map_err(|_| ProtoError::NotUtf8 { field })
}
