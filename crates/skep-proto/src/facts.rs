//! The table of facts: which message has which field under which number.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::ProtoError;

/// How often a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    List,
    /// With string keys.
    Map,
    /// One message whose fields stand in its parent.
    Inline,
}

/// What a field's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    String,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Bool,
    Bytes,
    Double,
    Quantity,
    IntOrString,
    /// A message around bytes that hold JSON, or an object in an envelope of its own.
    Raw,
    Time,
    MicroTime,
    Duration,
    /// A message around a list of strings, which is just the list in JSON.
    Wrapped,
    SchemaOrArray(MessageId),
    SchemaOrBool(MessageId),
    SchemaOrStrings(MessageId),
    Message(MessageId),
}

/// A message's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageId(u16);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) form: Form,
    /// Go's json leaves it out when it is zero, though it always stands on the wire.
    pub(crate) omit_zero: bool,
}

/// All messages. Fields of one message stand together, by number.
#[derive(Debug)]
pub(crate) struct Facts {
    fields: Box<[Field]>,
    /// Where each message's fields begin in `fields`, and one more: the end.
    starts: Box<[u16]>,
    /// By `apiVersion/Kind`.
    kinds: HashMap<(&'static str, &'static str), MessageId>,
}

/// Kinds that every group version has, whatever `apiVersion` the client writes.
const COMMON_KINDS: &[&str] = &["DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions"];

/// Where they are described.
const COMMON_VERSION: &str = "meta.k8s.io/v1";

/// What the wrappers of apiextensions wrap.
const SCHEMA: &str = "apiextensions/v1.JSONSchemaProps";

impl Facts {
    /// The one table.
    pub(crate) fn get() -> Result<&'static Facts, ProtoError> {
        static FACTS: LazyLock<Result<Facts, String>> =
            LazyLock::new(|| Facts::parse(include_str!("facts.txt")));
        FACTS.as_ref().map_err(|e| ProtoError::Facts(e.clone()))
    }

    /// The message of a kind.
    pub(crate) fn kind(&self, api_version: &str, kind: &str) -> Option<MessageId> {
        let version = if COMMON_KINDS.contains(&kind) { COMMON_VERSION } else { api_version };
        // The keys live for ever and the question does not, which the map's type cannot tell apart.
        let kinds: &HashMap<(&str, &str), MessageId> = &self.kinds;
        kinds.get(&(version, kind)).copied()
    }

    /// A message's fields by number.
    pub(crate) fn fields(&self, message: MessageId) -> &[Field] {
        let index = usize::from(message.0);
        match (self.starts.get(index), self.starts.get(index + 1)) {
            (Some(&start), Some(&end)) => {
                self.fields.get(usize::from(start)..usize::from(end)).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// Every kind with its message, for tests.
    #[cfg(test)]
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (&'static str, &'static str, MessageId)> + '_ {
        self.kinds.iter().map(|(&(v, k), &m)| (v, k, m))
    }

    fn parse(text: &'static str) -> Result<Facts, String> {
        let names = names(text)?;
        let id = |name: &str| names.get(name).copied().ok_or_else(|| format!("no message {name}"));
        let schema = id(SCHEMA)?;
        let (mut fields, mut starts) = (Vec::new(), Vec::new());
        let mut kinds = HashMap::new();
        let (mut section, mut version) = ("", "");
        for line in lines(text) {
            match line {
                Line::Section(name, api_version) => (section, version) = (name, api_version),
                Line::Message(name) => {
                    starts.push(index(fields.len())?);
                    kinds.insert((version, name), id(&format!("{section}.{name}"))?);
                }
                Line::Field(text) => {
                    let field = field(text, |name| match name {
                        "schemaorarray" => Ok(Form::SchemaOrArray(schema)),
                        "schemaorbool" => Ok(Form::SchemaOrBool(schema)),
                        "schemaorstrings" => Ok(Form::SchemaOrStrings(schema)),
                        _ if name.contains('.') => id(name).map(Form::Message),
                        _ => id(&format!("{section}.{name}")).map(Form::Message),
                    })?;
                    fields.push(field);
                }
            }
        }
        starts.push(index(fields.len())?);
        for pair in starts.windows(2) {
            if let [start, end] = pair
                && let Some(own) = fields.get_mut(usize::from(*start)..usize::from(*end))
            {
                own.sort_unstable_by_key(|f: &Field| f.number);
            }
        }
        kinds.shrink_to_fit();
        Ok(Facts { fields: fields.into(), starts: starts.into(), kinds })
    }
}

enum Line {
    Section(&'static str, &'static str),
    Message(&'static str),
    Field(&'static str),
}

fn lines(text: &'static str) -> impl Iterator<Item = Line> {
    text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(|line| {
        if let Some(field) = line.strip_prefix(' ') {
            Line::Field(field)
        } else if let Some((section, version)) =
            line.strip_prefix('[').and_then(|l| l.strip_suffix(']')).and_then(|l| l.split_once(' '))
        {
            Line::Section(section, version)
        } else {
            Line::Message(line)
        }
    })
}

fn index(at: usize) -> Result<u16, String> {
    u16::try_from(at).map_err(|_| "too many entries".to_owned())
}

/// Every message's place, by `section.Name`.
fn names(text: &'static str) -> Result<HashMap<String, MessageId>, String> {
    let mut names = HashMap::new();
    let mut current = "";
    for line in lines(text) {
        match line {
            Line::Section(name, _) => current = name,
            Line::Message(name) => {
                let id = MessageId(index(names.len())?);
                if names.insert(format!("{current}.{name}"), id).is_some() {
                    return Err(format!("message {name} is there twice"));
                }
            }
            Line::Field(_) => {}
        }
    }
    Ok(names)
}

fn field(text: &'static str, message: impl Fn(&str) -> Result<Form, String>) -> Result<Field, String> {
    let bad = || format!("cannot read {text:?}");
    let mut parts = text.split(' ');
    let (Some(number), Some(name), Some(what), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let (shape, what) = match (what.strip_prefix('*'), what.strip_prefix('%')) {
        (Some(rest), _) => (Shape::List, rest),
        (_, Some(rest)) => (Shape::Map, rest),
        _ if name == "." => (Shape::Inline, what),
        _ => (Shape::One, what),
    };
    let (omit_zero, what) = match what.strip_suffix('?') {
        Some(rest) => (true, rest),
        None => (false, what),
    };
    let form = match what {
        "string" => Form::String,
        "int32" => Form::Int32,
        "int64" => Form::Int64,
        "uint32" => Form::Uint32,
        "uint64" => Form::Uint64,
        "bool" => Form::Bool,
        "bytes" => Form::Bytes,
        "double" => Form::Double,
        "quantity" => Form::Quantity,
        "intorstring" => Form::IntOrString,
        "raw" => Form::Raw,
        "time" => Form::Time,
        "microtime" => Form::MicroTime,
        "duration" => Form::Duration,
        "wrapped" => Form::Wrapped,
        name => message(name)?,
    };
    Ok(Field { number: number.parse().map_err(|_| bad())?, name, shape, form, omit_zero })
}
