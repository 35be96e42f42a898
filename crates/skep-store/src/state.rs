//! All current objects, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use skep_base::{GroupResource, Key, Scope, TenantName};

use crate::txn::Change;
use crate::value::Value;

/// The objects of one resource, by [`Key::path`], and the index of the fields that are selected on.
#[derive(Default)]
struct Collection {
    objects: BTreeMap<Box<str>, Arc<Value>>,
    /// `tenant NUL field NUL value` → paths.
    index: FxHashMap<Box<str>, BTreeSet<Box<str>>>,
}

/// All current objects.
#[derive(Default)]
pub(crate) struct State {
    collections: FxHashMap<GroupResource, Collection>,
    count: usize,
    bytes: usize,
}

fn term(tenant: &str, field: &str, value: &str) -> String {
    format!("{tenant}\0{field}\0{value}")
}

/// Paths are made by [`Key::path`]; this takes one apart again, sharing what repeats.
#[derive(Default)]
pub(crate) struct Parser {
    tenant: Option<TenantName>,
    namespace: Option<Arc<str>>,
}

impl Parser {
    pub(crate) fn key(&mut self, resource: &GroupResource, path: &str) -> Option<Key> {
        let (tenant, rest) = path.split_once('\0')?;
        let (namespace, name) = rest.split_once('\0')?;
        if self.tenant.as_ref().is_none_or(|t| t.as_str() != tenant) {
            self.tenant = Some(TenantName::new(tenant).ok()?);
        }
        if self.namespace.as_deref() != Some(namespace) {
            self.namespace = Some(namespace.into());
        }
        Some(Key {
            resource: resource.clone(),
            tenant: self.tenant.clone()?,
            namespace: self.namespace.clone()?,
            name: name.into(),
        })
    }
}

/// The paths that a scope covers begin with this.
pub(crate) fn prefix(scope: &Scope) -> String {
    match scope {
        Scope::AllTenants(_) => String::new(),
        Scope::Tenant(_, t) => format!("{t}\0"),
        Scope::Namespace(_, t, n) => format!("{t}\0{n}\0"),
        Scope::Object(k) => k.path(),
    }
}

impl State {
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.collections.get(&key.resource)?.objects.get(key.path().as_str())
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The size of all values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn resources(&self) -> Vec<GroupResource> {
        self.collections.keys().cloned().collect()
    }

    /// Makes a change current.
    pub(crate) fn apply(&mut self, change: &Change) {
        self.set(&change.key, change.value.clone());
    }

    /// Sets or removes one object; what was there comes back.
    pub(crate) fn set(&mut self, key: &Key, value: Option<Arc<Value>>) -> Option<Arc<Value>> {
        let collection = match self.collections.get_mut(&key.resource) {
            Some(c) => c,
            None if value.is_none() => return None,
            None => self.collections.entry(key.resource.clone()).or_default(),
        };
        let path = key.path();
        let tenant = key.tenant.as_str();
        let prev = match &value {
            Some(v) => {
                self.bytes += v.size_bytes();
                match collection.objects.get_mut(path.as_str()) {
                    Some(slot) => Some(std::mem::replace(slot, v.clone())),
                    None => collection.objects.insert(path.as_str().into(), v.clone()),
                }
            }
            None => collection.objects.remove(path.as_str()),
        };
        if let Some(p) = &prev {
            self.bytes -= p.size_bytes();
        }
        match (&prev, &value) {
            (None, Some(_)) => self.count += 1,
            (Some(_), None) => self.count -= 1,
            _ => {}
        }
        let before = prev.as_ref().map(|v| v.attrs());
        let after = value.as_ref().map(|v| v.attrs());
        for (field, value) in before.into_iter().flat_map(crate::Attrs::indexed) {
            if after.and_then(|a| a.field(field)) != Some(value)
                && let Some(paths) = collection.index.get_mut(term(tenant, field, value).as_str())
            {
                paths.remove(path.as_str());
                if paths.is_empty() {
                    collection.index.remove(term(tenant, field, value).as_str());
                }
            }
        }
        for (field, value) in after.into_iter().flat_map(crate::Attrs::indexed) {
            let paths = collection.index.entry(term(tenant, field, value).into()).or_default();
            paths.insert(path.as_str().into());
        }
        prev
    }

    /// Calls `visit` with the objects of a scope in order, from behind `after` on, until it says `false`.
    pub(crate) fn scan(
        &self,
        scope: &Scope,
        after: Option<&str>,
        visit: &mut dyn FnMut(Key, &Arc<Value>) -> bool,
    ) {
        let mut parser = Parser::default();
        self.scan_paths(scope, after, &mut |path, value| match parser.key(scope.resource(), path) {
            Some(key) => visit(key, value),
            None => true,
        });
    }

    /// As [`State::scan`], with paths in place of keys.
    pub(crate) fn scan_paths(
        &self,
        scope: &Scope,
        after: Option<&str>,
        visit: &mut dyn FnMut(&str, &Arc<Value>) -> bool,
    ) {
        let Some(collection) = self.collections.get(scope.resource()) else { return };
        let prefix = prefix(scope);
        if let Scope::Object(_) = scope {
            if after.is_none_or(|a| a < prefix.as_str())
                && let Some(value) = collection.objects.get(prefix.as_str())
            {
                visit(&prefix, value);
            }
            return;
        }
        let start = match after {
            Some(a) if a >= prefix.as_str() => Bound::Excluded(a),
            _ => Bound::Included(prefix.as_str()),
        };
        for (path, value) in collection.objects.range::<str, _>((start, Bound::Unbounded)) {
            if !path.starts_with(prefix.as_str()) || !visit(path, value) {
                return;
            }
        }
    }

    /// As [`State::scan_paths`], for the objects of a tenant whose indexed field has a value.
    pub(crate) fn scan_index(
        &self,
        scope: &Scope,
        (field, value): (&str, &str),
        after: Option<&str>,
        visit: &mut dyn FnMut(&str, &Arc<Value>) -> bool,
    ) {
        let (Some(collection), Some(tenant)) = (self.collections.get(scope.resource()), scope.tenant())
        else {
            return;
        };
        let Some(paths) = collection.index.get(term(tenant.as_str(), field, value).as_str()) else { return };
        let prefix = prefix(scope);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        for path in paths.range::<str, _>((start, Bound::Unbounded)) {
            if path.starts_with(prefix.as_str())
                && let Some(value) = collection.objects.get(path)
                && !visit(path, value)
            {
                return;
            }
        }
    }
}
