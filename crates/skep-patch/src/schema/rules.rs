//! The facts of one field: how a list or map merges under strategic merge patch and under
//! server-side apply.

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

/// How one field merges. `None` in an option means that the API does not declare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldRule {
    /// Declared list type.
    pub list_type: Option<ListType>,
    /// The keys that identify an element of a [`ListType::Map`].
    pub list_map_keys: &'static [&'static str],
    /// Declared map type.
    pub map_type: Option<MapType>,
    /// Declared patch strategy.
    pub strategy: Strategy,
    /// Whether clients may send `$retainKeys` here. Applying a patch does not depend on it: the
    /// directive is obeyed wherever it stands.
    pub retain_keys: bool,
    /// The key by which strategic merge finds an element.
    pub patch_merge_key: Option<&'static str>,
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
}

/// A field about which nothing is declared.
pub const NONE: FieldRule = FieldRule {
    list_type: None,
    list_map_keys: &[],
    map_type: None,
    strategy: Strategy::Unspecified,
    retain_keys: false,
    patch_merge_key: None,
};

pub(super) const ATOMIC: FieldRule = FieldRule { list_type: Some(ListType::Atomic), ..NONE };

pub(super) const SET: FieldRule = FieldRule { list_type: Some(ListType::Set), ..NONE };

pub(super) const fn map_by(keys: &'static [&'static str]) -> FieldRule {
    FieldRule { list_type: Some(ListType::Map), list_map_keys: keys, ..NONE }
}
