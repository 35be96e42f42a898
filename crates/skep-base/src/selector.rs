//! Label selectors and field selectors in the string form that the API takes.
//!
//! Grammar and wording of errors: k8s.io/apimachinery `pkg/labels` and `pkg/fields`.

use std::fmt;

use crate::label;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `a in (x,y)`.
    In,
    /// `a notin (x,y)`; also true without the label.
    NotIn,
    /// `a=x`.
    Equals,
    /// `a==x`: the same.
    DoubleEquals,
    /// `a!=x`; also true without the label.
    NotEquals,
    /// `a`.
    Exists,
    /// `!a`.
    DoesNotExist,
    /// `a>5`, as integers.
    GreaterThan,
    /// `a<5`, as integers.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, each once.
    values: Vec<String>,
}

/// What is wrong with one part of a requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPart {
    /// `key`, `values`, `values[0][app]`; `<nil>` where upstream knows no path.
    pub field: String,
    /// The value, quoted.
    pub value: String,
    /// What is wrong with it.
    pub detail: String,
}

impl fmt::Display for InvalidPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: Invalid value: {}: {}", self.field, self.value, self.detail)
    }
}

/// Why there can be no such requirement: its parts do not go together or are malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRequirement(pub Vec<InvalidPart>);

impl std::error::Error for InvalidRequirement {}

impl fmt::Display for InvalidRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0.as_slice() {
            return one.fmt(f);
        }
        f.write_str("[")?;
        for (i, part) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            part.fmt(f)?;
        }
        f.write_str("]")
    }
}

impl Requirement {
    /// Checks the parts and puts them together.
    ///
    /// # Errors
    /// [`InvalidRequirement`] when the key or a value is no label key or value, or when the number of
    /// values does not fit the operator.
    pub fn new(
        key: impl Into<String>,
        operator: Operator,
        mut values: Vec<String>,
    ) -> Result<Requirement, InvalidRequirement> {
        let key = key.into();
        let mut invalid = Vec::new();
        if let Some(part) = invalid_key(&key, "key") {
            invalid.push(part);
        }
        values.sort();
        values.dedup();
        let mut refuse = |detail: &str| {
            let quoted: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
            let value = if quoted.is_empty() { "null".to_owned() } else { format!("[{}]", quoted.join(",")) };
            invalid.push(InvalidPart { field: "values".to_owned(), value, detail: detail.to_owned() });
        };
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                refuse("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                refuse("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                refuse("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    refuse("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                for (i, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        invalid.push(InvalidPart {
                            field: format!("values[{i}]"),
                            value: format!("{value:?}"),
                            detail: "for 'Gt', 'Lt' operators, the value must be an integer".to_owned(),
                        });
                    }
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let errors = label::value_errors(value);
            if !errors.is_empty() {
                invalid.push(InvalidPart {
                    field: format!("values[{i}][{key}]"),
                    value: format!("{value:?}"),
                    detail: errors.join("; "),
                });
            }
        }
        if invalid.is_empty() {
            Ok(Requirement { key, operator, values })
        } else {
            Err(InvalidRequirement(invalid))
        }
    }

    /// The label.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it is compared.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// With what, sorted.
    #[must_use]
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label with this value (or none) satisfies the requirement.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|own| own == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let integer = |v: &str| v.parse::<i64>().ok();
                let own = self.values.first().and_then(|v| integer(v));
                let (Some(value), Some(own)) = (value.and_then(integer), own) else { return false };
                if self.operator == Operator::GreaterThan { value > own } else { value < own }
            }
        }
    }
}

fn invalid_key(key: &str, field: &str) -> Option<InvalidPart> {
    let errors = label::key_errors(key);
    if errors.is_empty() {
        return None;
    }
    Some(InvalidPart { field: field.to_owned(), value: format!("{key:?}"), detail: errors.join("; ") })
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Conditions that an object's labels must all satisfy.
///
/// ```
/// # use skep_base::selector::LabelSelector;
/// let selector: LabelSelector = "b notin (y, x), a=1, !c".parse().unwrap();
/// assert_eq!(selector.to_string(), "a=1,b notin (x,y),!c");
/// assert!(selector.matches(|key| (key == "a").then_some("1")));
/// assert!(!selector.matches(|_| None));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LabelSelector {
    /// Sorted by key.
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Matches whatever there is.
    #[must_use]
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Matches nothing: what a missing selector in an object means.
    #[must_use]
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// All of these.
    #[must_use]
    pub fn new(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// Labels that must have exactly these values; they are not checked.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> LabelSelector {
        let equals = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::Equals,
            values: vec![value.to_owned()],
        };
        LabelSelector::new(labels.into_iter().map(equals).collect())
    }

    /// Whether it matches whatever there is.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it never matches by definition.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The conditions, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the labels, found by `get`, satisfy all conditions.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }

    /// The one value that a label must have, if there is just one: what an index is asked for.
    #[must_use]
    pub fn exact(&self, key: &str) -> Option<&str> {
        let of_key = |r: &&Requirement| r.key == key;
        let exact = |r: &Requirement| {
            matches!(r.operator, Operator::Equals | Operator::DoubleEquals | Operator::In)
                && r.values.len() == 1
        };
        let found = self.requirements.iter().filter(of_key).find(|r| exact(r))?;
        found.values.first().map(String::as_str)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// Why a text is not a label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelSelectorError {
    /// Something else stands where a requirement should begin or end.
    #[error("found '{found}', expected: {expected}")]
    Unexpected {
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// Something else stands inside a requirement.
    #[error("unable to parse requirement: found '{found}'{}expected: {expected}", if *.comma { ", " } else { " " })]
    InRequirement {
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: &'static str,
        /// Whether the wording has a comma here.
        comma: bool,
    },
    /// A requirement with parts that cannot be.
    #[error("unable to parse requirement: {0}")]
    Invalid(InvalidRequirement),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn keyword(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

fn is_symbol(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// Splits a selector into words. A NUL byte ends the text.
struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Lexer<'a> {
        Lexer { rest: text.split('\0').next().unwrap_or_default() }
    }

    fn next(&mut self) -> (Token, &'a str) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let bytes = self.rest.as_bytes();
        let Some(&first) = bytes.first() else { return (Token::End, "") };
        let len = if is_symbol(first) {
            // The longest operator: two characters if they are one.
            if bytes.len() > 1 && is_symbol(bytes[1]) && keyword(&self.rest[..2]).is_some() { 2 } else { 1 }
        } else {
            bytes.iter().position(|&b| is_symbol(b) || is_space(b)).unwrap_or(bytes.len())
        };
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        (keyword(word).unwrap_or(Token::Identifier), word)
    }
}

struct Parser<'a> {
    words: Vec<(Token, &'a str)>,
    at: usize,
}

impl<'a> Parser<'a> {
    /// The next word; where a key or value may stand, `in` and `notin` are ones.
    fn peek(&self) -> (Token, &'a str) {
        match self.peek_operator() {
            (Token::In | Token::NotIn, word) => (Token::Identifier, word),
            other => other,
        }
    }

    fn peek_operator(&self) -> (Token, &'a str) {
        self.words.get(self.at).copied().unwrap_or((Token::End, ""))
    }

    fn take(&mut self) -> (Token, &'a str) {
        let next = self.peek();
        self.at += 1;
        next
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, LabelSelectorError> {
        let unexpected =
            |found: &str, expected| Err(LabelSelectorError::Unexpected { found: found.to_owned(), expected });
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                (Token::Identifier | Token::Not, _) => {
                    requirements.push(self.requirement()?);
                    match self.take() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => {
                            let (token, word) = self.peek();
                            if !matches!(token, Token::Identifier | Token::Not) {
                                return unexpected(word, "identifier after ','");
                            }
                        }
                        (_, word) => return unexpected(word, "',' or 'end of string'"),
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, word) => return unexpected(word, "!, identifier, or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, LabelSelectorError> {
        let (mut token, mut key) = self.take();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take();
        }
        if token != Token::Identifier {
            return in_requirement(key, "identifier");
        }
        if let Some(part) = invalid_key(key, "<nil>") {
            return Err(LabelSelectorError::Invalid(InvalidRequirement(vec![part])));
        }
        let new =
            |operator, values| Requirement::new(key, operator, values).map_err(LabelSelectorError::Invalid);
        if negated {
            return new(Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return new(Operator::Exists, Vec::new());
        }
        let (token, word) = self.peek_operator();
        self.at += 1;
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return in_requirement(word, "in, notin, =, ==, !=, gt, lt"),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        new(operator, values)
    }

    fn exact_value(&mut self) -> Result<String, LabelSelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take() {
            (Token::Identifier, word) => Ok(word.to_owned()),
            (_, word) => in_requirement(word, "identifier"),
        }
    }

    /// `(x,y)`; values may be empty, `(,x)`, and `()` is one empty value.
    fn values(&mut self) -> Result<Vec<String>, LabelSelectorError> {
        let (token, word) = self.take();
        if token != Token::Open {
            return Err(LabelSelectorError::InRequirement {
                found: word.to_owned(),
                expected: "'('",
                comma: false,
            });
        }
        match self.peek() {
            (Token::Identifier | Token::Comma, _) => {}
            (Token::Close, _) => {
                self.at += 1;
                return Ok(vec![String::new()]);
            }
            (_, word) => return in_requirement(word, "',', ')' or identifier"),
        }
        let mut values = Vec::new();
        loop {
            match self.take() {
                (Token::Identifier, word) => {
                    values.push(word.to_owned());
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => break,
                        (_, word) => return in_requirement(word, "',' or ')'"),
                    }
                }
                (Token::Comma, _) => {
                    let next = self.peek().0;
                    if values.is_empty() || matches!(next, Token::Close | Token::Comma) {
                        values.push(String::new());
                    }
                    if next == Token::Close {
                        break;
                    }
                }
                (_, word) => return in_requirement(word, "',', or identifier"),
            }
        }
        // The closing parenthesis.
        self.at += 1;
        Ok(values)
    }
}

fn in_requirement<T>(found: &str, expected: &'static str) -> Result<T, LabelSelectorError> {
    Err(LabelSelectorError::InRequirement { found: found.to_owned(), expected, comma: true })
}

impl std::str::FromStr for LabelSelector {
    type Err = LabelSelectorError;
    fn from_str(text: &str) -> Result<LabelSelector, LabelSelectorError> {
        let mut lexer = Lexer::new(text);
        let mut words = Vec::new();
        loop {
            let word = lexer.next();
            words.push(word);
            if word.0 == Token::End {
                break;
            }
        }
        Parser { words, at: 0 }.parse().map(LabelSelector::new)
    }
}

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// `spec.nodeName`.
    pub field: String,
    /// Whether the field must differ from the value instead of having it.
    pub negated: bool,
    /// The value, without escapes.
    pub value: String,
}

impl fmt::Display for FieldRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = if self.negated { "!=" } else { "=" };
        write!(f, "{}{operator}", self.field)?;
        for c in self.value.chars() {
            if matches!(c, '\\' | ',' | '=') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

/// Conditions that an object's fields must all satisfy.
///
/// ```
/// # use skep_base::selector::FieldSelector;
/// let selector: FieldSelector = r"spec.nodeName!=,metadata.name=a\,b".parse().unwrap();
/// assert_eq!(selector.exact("metadata.name"), Some("a,b"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// Why a text is not a field selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A term without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The term.
        term: String,
    },
    /// A backslash before something that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A character that needs a backslash. Upstream names it by its number.
    #[error("invalid field selector: unescaped character in value: {}", u32::from(*.0))]
    Unescaped(char),
}

impl FieldSelector {
    /// Matches whatever there is.
    #[must_use]
    pub fn everything() -> FieldSelector {
        FieldSelector::default()
    }

    /// A field that must have this value.
    #[must_use]
    pub fn equals(field: impl Into<String>, value: impl Into<String>) -> FieldSelector {
        let requirement = FieldRequirement { field: field.into(), negated: false, value: value.into() };
        FieldSelector { requirements: vec![requirement] }
    }

    /// The same, and a field must have this value.
    #[must_use]
    pub fn and_equals(mut self, field: impl Into<String>, value: impl Into<String>) -> FieldSelector {
        self.requirements.push(FieldRequirement { field: field.into(), negated: false, value: value.into() });
        self
    }

    /// Whether it matches whatever there is.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The conditions.
    #[must_use]
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether the fields, found by `get`, satisfy all conditions. A field that is not there is empty.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| (get(&r.field).unwrap_or_default() == r.value) != r.negated)
    }

    /// The value that a field must have: what an index is asked for.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        let found = self.requirements.iter().find(|r| r.field == field && !r.negated)?;
        Some(&found.value)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for FieldSelector {
    type Err = FieldSelectorError;
    fn from_str(text: &str) -> Result<FieldSelector, FieldSelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let requirement = || {
                // The first operator ends the field's name: nothing can be escaped there.
                let at = term.char_indices().find(|&(i, c)| c == '=' || term[i..].starts_with("!="))?.0;
                let (field, rest) = term.split_at(at);
                if let Some(value) = rest.strip_prefix("!=") {
                    return Some((field, true, value));
                }
                Some((field, false, rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?))
            };
            let Some((field, negated, value)) = requirement() else {
                return Err(FieldSelectorError::Term { selector: text.to_owned(), term: term.to_owned() });
            };
            requirements.push(FieldRequirement { field: field.to_owned(), negated, value: unescape(value)? });
        }
        Ok(FieldSelector { requirements })
    }
}

/// At the commas that have no backslash.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Result<String, FieldSelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(FieldSelectorError::Escape(format!("\\{c}"))),
                None => return Err(FieldSelectorError::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(FieldSelectorError::Unescaped(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
#[path = "selector_tests.rs"]
mod tests;
