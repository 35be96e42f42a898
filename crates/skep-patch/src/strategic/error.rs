//! Why a strategic merge patch was refused.

use serde_json::{Map, Value};

use crate::Rejection;
use crate::go_format::{self, GoKind};
use crate::limits::MAX_NESTING_DEPTH;

/// Why a strategic merge patch was refused, with upstream's messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// A key begins with `$deleteFromPrimitiveList` but names no field.
    #[error("invalid patch format of primitive list")]
    BadPrimitiveListFormat,
    /// `$retainKeys` is no list of strings, or lacks a key that the patch sets.
    #[error("invalid patch format of retainKeys")]
    BadRetainKeysFormat,
    /// A key begins with `$setElementOrder` but names no field.
    #[error("invalid patch format of setElementOrder list")]
    BadSetElementOrderFormat,
    /// A list that merges has lists as elements.
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// An element of a list that merges by key lacks the key.
    #[error("map: {map} does not contain declared merge key: {key}")]
    MissingMergeKey {
        /// The element.
        map: String,
        /// The merge key.
        key: String,
    },
    /// A value has the wrong JSON type.
    #[error("expected a {expected}, but received a {received}")]
    BadType {
        /// The Go type that was needed.
        expected: &'static str,
        /// The Go type that was there.
        received: &'static str,
    },
    /// `$patch` is neither `replace` nor `delete`.
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective {
        /// The value of `$patch`.
        directive: String,
        /// The object that it stands in.
        map: String,
    },
    /// `$patch: merge` in an element of a list.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirectiveInList,
    /// The elements of the lists to merge have different types.
    #[error("list element types are not identical: {lists}")]
    MixedElementTypes {
        /// The lists.
        lists: String,
    },
    /// There is nothing in the lists to merge, so that their type can't be told.
    #[error("no elements in any of the given slices")]
    NoElements,
    /// A list merges, has objects as elements, and has no merge key.
    #[error("cannot merge lists without merge key for {kind}")]
    NoMergeKeyDeclared {
        /// The Go kind of the elements.
        kind: &'static str,
    },
    /// An element of `$setElementOrder` is no object.
    #[error("value for key {index} is not a map")]
    ElementNotAMap {
        /// Which element.
        index: usize,
    },
    /// The patch has elements in another order than its `$setElementOrder`, or more of them.
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    OrderMismatch {
        /// The list in the patch.
        patch: String,
        /// The list in the directive.
        order: String,
    },
    /// The type has no such field.
    #[error("unable to find api field in struct {type_name} for the json field {}", go_format::quote(field))]
    UnknownField {
        /// The type, by its short name.
        type_name: String,
        /// The field.
        field: String,
    },
    /// Something is to be merged into a value whose type has no fields.
    #[error("merging an object in json but data type is not struct, instead is: {kind}")]
    NotAStruct {
        /// The Go kind of the value.
        kind: &'static str,
    },
    /// A list is to be merged into a field that is none.
    #[error("expected slice or array type, but got: {kind}")]
    NotAList {
        /// The Go kind of the type that has the field.
        kind: &'static str,
    },
    /// The type has a list of lists.
    #[error("unexpected slice of slice")]
    ListOfListsType,
    /// Elements can't be told apart because what identifies them is an object or list. (Upstream
    /// panics.)
    #[error("list elements can not be compared by values of type {kind}")]
    NotComparable {
        /// The Go type.
        kind: &'static str,
    },
    /// The patch nests deeper than [`MAX_NESTING_DEPTH`].
    #[error("the patch nests deeper than {MAX_NESTING_DEPTH} levels")]
    TooDeep,
}

impl StrategicError {
    /// How the API server has to answer.
    pub const fn rejection(&self) -> Rejection {
        match self {
            Self::BadPrimitiveListFormat
            | Self::BadRetainKeysFormat
            | Self::BadSetElementOrderFormat
            | Self::TooDeep => Rejection::BadRequest,
            Self::ListOfLists | Self::NotComparable { .. } => Rejection::Unprocessable,
            Self::MissingMergeKey { .. }
            | Self::BadType { .. }
            | Self::UnknownDirective { .. }
            | Self::MergeDirectiveInList
            | Self::MixedElementTypes { .. }
            | Self::NoElements
            | Self::NoMergeKeyDeclared { .. }
            | Self::ElementNotAMap { .. }
            | Self::OrderMismatch { .. }
            | Self::UnknownField { .. }
            | Self::NotAStruct { .. }
            | Self::NotAList { .. }
            | Self::ListOfListsType => Rejection::Internal,
        }
    }

    pub(super) fn bad_type(expected: GoKind, received: &Value) -> Self {
        Self::BadType { expected: expected.type_name(), received: GoKind::of(received).type_name() }
    }

    pub(super) fn missing_merge_key(map: &Value, key: &str) -> Self {
        Self::MissingMergeKey { map: go_format::value(map), key: key.to_owned() }
    }

    pub(super) fn unknown_directive(directive: &Value, map: &Map<String, Value>) -> Self {
        Self::UnknownDirective {
            directive: go_format::value_as_string(directive),
            map: go_format::value(&Value::Object(map.clone())),
        }
    }

    pub(super) fn not_comparable(value: &Value) -> Self {
        Self::NotComparable { kind: GoKind::of(value).type_name() }
    }
}
