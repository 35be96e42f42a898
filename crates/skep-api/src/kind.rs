//! What a kind is, and the trait that describes one.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ListableResource, Metadata, NamespaceResourceScope, Resource};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::field::Errors;
use crate::table::{Cell, Column};

/// A verb as discovery and RBAC name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// Everything that a stored kind usually offers, in discovery's (alphabetical) order.
    pub const ALL: &'static [Verb] = &[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];
    /// What a `status` subresource offers.
    pub const READ_WRITE: &'static [Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
    /// A resource that answers a question and stores nothing.
    pub const CREATE: &'static [Verb] = &[Verb::Create];
    /// Streams and proxies: any method.
    pub const CONNECT: &'static [Verb] = &[Verb::Create, Verb::Get];

    /// The verb as written in rules and discovery.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A subresource, as discovery lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, `eviction`, …
    pub name: &'static str,
    /// Group of the body's kind, when it is not the object itself.
    pub group: &'static str,
    /// Version of the body's kind; empty when the body is the object itself.
    pub version: &'static str,
    /// The body's kind; empty when the body is the object itself.
    pub kind: &'static str,
    /// What it offers.
    pub verbs: &'static [Verb],
}

impl Subresource {
    /// The status, read and written apart from the rest of the object.
    pub const STATUS: Subresource = Subresource::of_self("status", Verb::READ_WRITE);
    /// `autoscaling/v1` Scale. The kind must implement [`Kind::scale`] and [`Kind::set_scale`].
    pub const SCALE: Subresource = Subresource {
        name: "scale",
        group: "autoscaling",
        version: "v1",
        kind: "Scale",
        verbs: Verb::READ_WRITE,
    };

    /// A part of the object itself, with the object as its body.
    #[must_use]
    pub const fn of_self(name: &'static str, verbs: &'static [Verb]) -> Subresource {
        Subresource { name, group: "", version: "", kind: "", verbs }
    }
}

/// How strictly an object's name is checked; the wording of errors is in [`crate::meta`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces, tenants.
    Label,
    /// RFC 1035 label: services.
    Label1035,
    /// Anything that fits into one path segment: RBAC kinds.
    PathSegment,
}

/// Names, scope and behaviour of a kind. Made by [`KindInfo::of`] and the builder methods.
#[derive(Clone, Debug)]
pub struct KindInfo {
    /// API group; empty for core.
    pub group: Cow<'static, str>,
    /// Version.
    pub version: Cow<'static, str>,
    /// `Pod`.
    pub kind: Cow<'static, str>,
    /// `PodList`; empty for kinds that are never listed.
    pub list_kind: Cow<'static, str>,
    /// `pods`: the resource in paths and rules.
    pub plural: Cow<'static, str>,
    /// `pod`.
    pub singular: Cow<'static, str>,
    /// `po`.
    pub short_names: Vec<Cow<'static, str>>,
    /// `all`.
    pub categories: Vec<Cow<'static, str>>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What the resource itself offers.
    pub verbs: &'static [Verb],
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// What its names look like.
    pub name_rule: NameRule,
    /// Fields that `fieldSelector` may name beyond `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<Cow<'static, str>>,
    /// Whether an update of a name that does not exist creates it (leases, endpoints, …).
    pub create_on_update: bool,
    /// Whether an update may come without a resourceVersion.
    pub unconditional_update: bool,
    /// Events and the like: deleted by themselves after this long, in seconds.
    pub ttl_s: Option<u32>,
    /// What clients are warned of on every request, reads included: `v1 Endpoints is deprecated in v1.33+; …`.
    pub deprecated: Option<&'static str>,
    /// Whether a delete that says nothing of dependents leaves them: what old clients expect of a few
    /// workloads.
    pub orphans_dependents: bool,
    /// Its objects are made when they are asked for, and not stored.
    pub computed: bool,
}

impl KindInfo {
    /// The names that the type itself carries, and the defaults: all verbs, no subresources, singular in
    /// lower case, subdomain names, unconditional updates allowed.
    #[must_use]
    pub fn of<T: ListableResource>() -> KindInfo
    where
        T::Scope: 'static,
    {
        KindInfo { list_kind: T::LIST_KIND.into(), verbs: Verb::ALL, ..KindInfo::of_unlisted::<T>() }
    }

    /// As [`KindInfo::of`], for kinds that answer a question and are never listed: they can only be created.
    #[must_use]
    pub fn of_unlisted<T: Resource>() -> KindInfo
    where
        T::Scope: 'static,
    {
        KindInfo {
            group: T::GROUP.into(),
            version: T::VERSION.into(),
            kind: T::KIND.into(),
            list_kind: "".into(),
            plural: T::URL_PATH_SEGMENT.into(),
            singular: T::KIND.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: TypeId::of::<T::Scope>() == TypeId::of::<NamespaceResourceScope>(),
            verbs: Verb::CREATE,
            subresources: Vec::new(),
            name_rule: NameRule::Subdomain,
            selectable: Vec::new(),
            create_on_update: false,
            unconditional_update: true,
            ttl_s: None,
            deprecated: None,
            orphans_dependents: false,
            computed: false,
        }
    }

    /// `apps/v1`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// A short name for the command line.
    #[must_use]
    pub fn short(mut self, name: &'static str) -> KindInfo {
        self.short_names.push(name.into());
        self
    }

    /// A category such as `all`.
    #[must_use]
    pub fn category(mut self, name: &'static str) -> KindInfo {
        self.categories.push(name.into());
        self
    }

    /// Other verbs than all.
    #[must_use]
    pub fn verbs(mut self, verbs: &'static [Verb]) -> KindInfo {
        self.verbs = verbs;
        self
    }

    /// A subresource.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "a builder method; nobody subtracts kinds")]
    pub fn sub(mut self, sub: Subresource) -> KindInfo {
        self.subresources.push(sub);
        self
    }

    /// The `status` subresource.
    #[must_use]
    pub fn status(self) -> KindInfo {
        self.sub(Subresource::STATUS)
    }

    /// Another name rule.
    #[must_use]
    pub fn names(mut self, rule: NameRule) -> KindInfo {
        self.name_rule = rule;
        self
    }

    /// A field for `fieldSelector`; [`Kind::fields`] must yield it.
    #[must_use]
    pub fn select(mut self, field: &'static str) -> KindInfo {
        self.selectable.push(field.into());
        self
    }

    /// An update of a name that does not exist creates it.
    #[must_use]
    pub fn create_on_update(mut self) -> KindInfo {
        self.create_on_update = true;
        self
    }

    /// Updates must name the resourceVersion that they replace.
    #[must_use]
    pub fn conditional_update_only(mut self) -> KindInfo {
        self.unconditional_update = false;
        self
    }

    /// Objects go by themselves after this many seconds.
    #[must_use]
    pub fn ttl_s(mut self, seconds: u32) -> KindInfo {
        self.ttl_s = Some(seconds);
        self
    }

    /// Clients are warned of this on every request.
    #[must_use]
    pub fn deprecated(mut self, warning: &'static str) -> KindInfo {
        self.deprecated = Some(warning);
        self
    }

    /// A delete that says nothing of dependents leaves them.
    #[must_use]
    pub fn orphans_dependents(mut self) -> KindInfo {
        self.orphans_dependents = true;
        self
    }

    /// Objects are made when they are asked for.
    #[must_use]
    pub fn computed(mut self) -> KindInfo {
        self.computed = true;
        self
    }

    /// Whether objects of the kind are stored at all.
    #[must_use]
    pub fn stored(&self) -> bool {
        self.verbs.contains(&Verb::Get) && !self.computed
    }

    /// The subresource of a name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// Collects the selectable fields of an object.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Name, value, and whether the store keeps an index of it.
    pub values: Vec<(&'static str, String, bool)>,
}

impl Fields {
    /// A field that selectors may name.
    pub fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.values.push((name, value.into(), false));
    }

    /// A field that agents select on all the time (`spec.nodeName`): the store keeps an index.
    /// Empty values are not indexed.
    pub fn add_indexed(&mut self, name: &'static str, value: impl Into<String>) {
        let value = value.into();
        let indexed = !value.is_empty();
        self.values.push((name, value, indexed));
    }
}

/// What the `scale` subresource of an object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScaleView {
    /// `spec.replicas`.
    pub spec_replicas: i32,
    /// `status.replicas`.
    pub status_replicas: i32,
    /// The label selector in its string form.
    pub selector: String,
}

/// A kind of object: its names and everything that happens when one is written.
///
/// The order on create is: decode, [`default`](Kind::set_defaults), admission,
/// [`prepare_create`](Kind::prepare_create), [`validate`](Kind::validate). On update: decode, default,
/// admission, [`prepare_update`](Kind::prepare_update), [`validate_update`](Kind::validate_update).
/// Metadata (names, labels, finalizers, owner references, immutable fields) is checked for every kind by
/// [`crate::meta`], and `generation` is kept by [`generation_changed`](Kind::generation_changed): an
/// implementation does neither.
pub trait Kind:
    Resource<Scope: 'static>
    + Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + JsonSchema
    + Clone
    + Default
    + PartialEq
    + Debug
    + Send
    + Sync
    + 'static
{
    /// Names, verbs, subresources.
    fn info() -> KindInfo;

    /// Fills in what the user left out. Idempotent. Also brings quantities into their canonical form.
    fn set_defaults(&mut self) {}

    /// Clears what a creator may not set (the status) and sets what the server decides.
    fn prepare_create(&mut self, cx: &Context<'_>) {
        let _ = cx;
    }

    /// Takes from `old` what this write may not touch: a write to the object keeps the old status, a
    /// write to `status` keeps everything else.
    fn prepare_update(&mut self, old: &Self, cx: &Context<'_>) {
        let _ = (old, cx);
    }

    /// Checks a whole object as if new (metadata apart).
    fn validate(&self, cx: &Context<'_>, errors: &mut Errors);

    /// Checks a change. The default checks the new object alone, as [`validate`](Kind::validate) does.
    fn validate_update(&self, old: &Self, cx: &Context<'_>, errors: &mut Errors) {
        let _ = old;
        self.validate(cx, errors);
    }

    /// Whether `metadata.generation` is kept for this kind, and whether it rises with this change.
    /// `None`: the kind has no generation. On create, `old` is `None` and `Some(_)` sets it to 1.
    fn generation_changed(&self, old: Option<&Self>) -> Option<bool> {
        let _ = old;
        None
    }

    /// Advice for the client, sent as `Warning` headers.
    fn warnings(&self, old: Option<&Self>, cx: &Context<'_>) -> Vec<String> {
        let _ = (old, cx);
        Vec::new()
    }

    /// The values of the fields that [`KindInfo::select`] names.
    fn fields(&self, fields: &mut Fields) {
        let _ = fields;
    }

    /// The columns of `kubectl get`.
    fn columns() -> Vec<Column> {
        vec![Column::NAME, Column::AGE]
    }

    /// The cells of one row, one for each column.
    fn row(&self, now: Timestamp) -> Vec<Cell> {
        crate::meta::default_row(self.metadata(), now)
    }

    /// What `scale` shows; `None` when the kind has none.
    fn scale(&self) -> Option<ScaleView> {
        None
    }

    /// Sets `spec.replicas` through `scale`.
    fn set_scale(&mut self, replicas: i32) {
        let _ = replicas;
    }
}
