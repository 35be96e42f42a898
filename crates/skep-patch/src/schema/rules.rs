//! The facts of one field: how a list or map merges under strategic merge patch and under
//! server-side apply.

use std::borrow::Cow;

use serde_json::Value;

/// How server-side apply merges a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListType {
    /// Replaced as a whole, owned as a whole. Also what an undeclared list is.
    Atomic,
    /// Each value is owned by itself.
    Set,
    /// Each element is found by its keys and merged by itself.
    Map,
}

impl ListType {
    /// The value of `x-kubernetes-list-type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Atomic => "atomic",
            Self::Set => "set",
            Self::Map => "map",
        }
    }
}

/// How server-side apply merges an object (`x-kubernetes-map-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MapType {
    /// Each key is owned by itself. Also what an undeclared object is.
    Granular,
    /// Replaced and owned as a whole.
    Atomic,
}

impl MapType {
    /// The value of `x-kubernetes-map-type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Granular => "granular",
            Self::Atomic => "atomic",
        }
    }
}

/// What strategic merge patch does with a list or object that both sides have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Nothing is declared: objects merge, lists are replaced.
    Unspecified,
    /// Lists merge too, by the merge key if their elements are objects.
    Merge,
    /// Objects are replaced too.
    Replace,
}

/// The keys that identify an element of a list.
#[derive(Debug, Clone)]
pub enum Names {
    /// Those of a built-in type.
    Static(&'static [&'static str]),
    /// Those that a JSON schema declares.
    Owned(Box<[Box<str>]>),
}

impl Names {
    /// The names, in the order of their declaration.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (fixed, owned): (&[&str], &[Box<str>]) = match self {
            Self::Static(names) => (names, &[]),
            Self::Owned(names) => (&[], names),
        };
        fixed.iter().copied().chain(owned.iter().map(|n| &**n))
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        match self {
            Self::Static(names) => names.len(),
            Self::Owned(names) => names.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Names {}

/// How one field merges. `None` in an option means that the API does not declare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRule {
    /// Declared list type.
    pub list_type: Option<ListType>,
    /// The keys that identify an element of a [`ListType::Map`].
    pub list_map_keys: Names,
    /// Declared map type.
    pub map_type: Option<MapType>,
    /// Declared patch strategy.
    pub strategy: Strategy,
    /// Whether clients may send `$retainKeys` here. Applying a patch does not depend on it: the
    /// directive is obeyed wherever it stands.
    pub retain_keys: bool,
    /// The key by which strategic merge finds an element.
    pub patch_merge_key: Option<Cow<'static, str>>,
}

impl FieldRule {
    /// The value of `x-kubernetes-patch-strategy`, if there is one.
    pub const fn patch_strategy_extension(&self) -> Option<&'static str> {
        match (self.strategy, self.retain_keys) {
            (Strategy::Unspecified, false) => None,
            (Strategy::Unspecified, true) => Some("retainKeys"),
            (Strategy::Merge, false) => Some("merge"),
            (Strategy::Merge, true) => Some("merge,retainKeys"),
            (Strategy::Replace, false) => Some("replace"),
            (Strategy::Replace, true) => Some("replace,retainKeys"),
        }
    }

    /// The OpenAPI extensions that declare this rule, in upstream's order.
    pub fn extensions(&self) -> Vec<(&'static str, Value)> {
        let mut out = Vec::new();
        if !self.list_map_keys.is_empty() {
            out.push((LIST_MAP_KEYS, self.list_map_keys.iter().collect()));
        }
        if let Some(list) = self.list_type {
            out.push((LIST_TYPE, list.as_str().into()));
        }
        if let Some(map) = self.map_type {
            out.push((MAP_TYPE, map.as_str().into()));
        }
        if let Some(key) = &self.patch_merge_key {
            out.push((PATCH_MERGE_KEY, (&**key).into()));
        }
        if let Some(strategy) = self.patch_strategy_extension() {
            out.push((PATCH_STRATEGY, strategy.into()));
        }
        out
    }

    /// The rule that the OpenAPI extensions of a JSON schema declare; [`NONE`] if there are none.
    /// What is not understood counts as not declared.
    pub fn from_extensions(schema: &Value) -> Cow<'static, Self> {
        let text = |name: &str| schema.get(name).and_then(Value::as_str);
        let mut strategies = text(PATCH_STRATEGY).unwrap_or_default().split(',');
        let rule = Self {
            list_type: match text(LIST_TYPE) {
                Some("atomic") => Some(ListType::Atomic),
                Some("set") => Some(ListType::Set),
                Some("map") => Some(ListType::Map),
                _ => None,
            },
            list_map_keys: match schema.get(LIST_MAP_KEYS).and_then(Value::as_array) {
                Some(keys) => Names::Owned(keys.iter().filter_map(Value::as_str).map(Into::into).collect()),
                None => Names::Static(&[]),
            },
            map_type: match text(MAP_TYPE) {
                Some("atomic") => Some(MapType::Atomic),
                Some("granular") => Some(MapType::Granular),
                _ => None,
            },
            strategy: match strategies.clone().find(|s| *s != "retainKeys") {
                Some("merge") => Strategy::Merge,
                Some("replace") => Strategy::Replace,
                _ => Strategy::Unspecified,
            },
            retain_keys: strategies.any(|s| s == "retainKeys"),
            patch_merge_key: text(PATCH_MERGE_KEY).map(|k| Cow::Owned(k.to_owned())),
        };
        if rule == NONE { Cow::Borrowed(&NONE) } else { Cow::Owned(rule) }
    }
}

const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_MAP_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const PATCH_MERGE_KEY: &str = "x-kubernetes-patch-merge-key";
const PATCH_STRATEGY: &str = "x-kubernetes-patch-strategy";

/// A field about which nothing is declared.
pub const NONE: FieldRule = FieldRule {
    list_type: None,
    list_map_keys: Names::Static(&[]),
    map_type: None,
    strategy: Strategy::Unspecified,
    retain_keys: false,
    patch_merge_key: None,
};

/// The notation of the table of built-in types.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    list_type: Option<ListType>,
    list_map_keys: &'static [&'static str],
    map_type: Option<MapType>,
    strategy: Strategy,
    retain_keys: bool,
    patch_merge_key: Option<&'static str>,
}

pub(super) const UNDECLARED: Rule = Rule {
    list_type: None,
    list_map_keys: &[],
    map_type: None,
    strategy: Strategy::Unspecified,
    retain_keys: false,
    patch_merge_key: None,
};

pub(super) const ATOMIC: Rule = Rule { list_type: Some(ListType::Atomic), ..UNDECLARED };

pub(super) const SET: Rule = Rule { list_type: Some(ListType::Set), ..UNDECLARED };

pub(super) const fn map_by(keys: &'static [&'static str]) -> Rule {
    Rule { list_type: Some(ListType::Map), list_map_keys: keys, ..UNDECLARED }
}

impl Rule {
    pub(super) const fn atomic_map(mut self) -> Self {
        self.map_type = Some(MapType::Atomic);
        self
    }

    pub(super) const fn granular_map(mut self) -> Self {
        self.map_type = Some(MapType::Granular);
        self
    }

    pub(super) const fn merge(mut self) -> Self {
        self.strategy = Strategy::Merge;
        self
    }

    pub(super) const fn replace(mut self) -> Self {
        self.strategy = Strategy::Replace;
        self
    }

    pub(super) const fn retain_keys(mut self) -> Self {
        self.retain_keys = true;
        self
    }

    pub(super) const fn by(mut self, key: &'static str) -> Self {
        self.patch_merge_key = Some(key);
        self
    }

    /// The rule in full.
    pub(super) const fn rule(self) -> FieldRule {
        FieldRule {
            list_type: self.list_type,
            list_map_keys: Names::Static(self.list_map_keys),
            map_type: self.map_type,
            strategy: self.strategy,
            retain_keys: self.retain_keys,
            patch_merge_key: match self.patch_merge_key {
                Some(key) => Some(Cow::Borrowed(key)),
                None => None,
            },
        }
    }
}
