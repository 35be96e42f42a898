//! What an informer holds: objects by tenant, and inside each tenant by name and by index.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use skep_base::{Revision, TenantName};

use crate::object::ObjectKey;

/// An object as a role sees it: its address, its identity, its revision, and what the role reads of it. The
/// view is reached by dereferencing.
#[derive(Debug, PartialEq, Eq)]
pub struct Object<V> {
    /// Where it is.
    pub key: ObjectKey,
    /// Which one it is: another object of the same name has another uid.
    pub uid: Box<str>,
    /// How new this state of it is.
    pub revision: Revision,
    /// What the role reads.
    pub view: V,
}

impl<V> Deref for Object<V> {
    type Target = V;
    fn deref(&self) -> &V {
        &self.view
    }
}

/// An object in a set by its key: eight bytes a place, where a map would hold the key once more.
struct ByKey<V>(Arc<Object<V>>);

impl<V> PartialEq for ByKey<V> {
    fn eq(&self, other: &ByKey<V>) -> bool {
        self.0.key == other.0.key
    }
}
impl<V> Eq for ByKey<V> {}
impl<V> Hash for ByKey<V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}
impl<V> Borrow<ObjectKey> for ByKey<V> {
    fn borrow(&self) -> &ObjectKey {
        &self.0.key
    }
}

/// Says under which values of an index an object is found.
pub type IndexFn<V> = Box<dyn Fn(&Object<V>, &mut dyn FnMut(&str)) + Send + Sync>;

type Group<V> = FxHashSet<ByKey<V>>;

struct Part<V> {
    objects: Group<V>,
    /// One for each index, in the order of [`Store::indexes`].
    groups: Vec<FxHashMap<Box<str>, Group<V>>>,
}

/// See the module.
pub(crate) struct Store<V> {
    indexes: Vec<(&'static str, IndexFn<V>)>,
    parts: FxHashMap<TenantName, Part<V>>,
    len: usize,
}

/// What a change did.
#[derive(Debug)]
pub(crate) struct Put<V> {
    /// What was there before.
    pub(crate) old: Option<Arc<Object<V>>>,
    /// What is there now.
    pub(crate) new: Arc<Object<V>>,
}

impl<V> Store<V> {
    pub(crate) fn new(indexes: Vec<(&'static str, IndexFn<V>)>) -> Store<V> {
        Store { indexes, parts: FxHashMap::default(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<Object<V>>> {
        self.parts.get(&key.tenant)?.objects.get(key).map(|o| &o.0)
    }

    pub(crate) fn tenant(&self, tenant: &TenantName) -> Vec<Arc<Object<V>>> {
        self.parts.get(tenant).map_or_else(Vec::new, |p| p.objects.iter().map(|o| o.0.clone()).collect())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Object<V>>> {
        self.parts.values().flat_map(|p| p.objects.iter().map(|o| &o.0))
    }

    /// `None` when there is no such index.
    pub(crate) fn group(
        &self,
        index: &str,
        tenant: &TenantName,
        value: &str,
    ) -> Option<impl Iterator<Item = &Arc<Object<V>>>> {
        let position = self.indexes.iter().position(|(name, _)| *name == index)?;
        let group = self.parts.get(tenant).and_then(|p| p.groups[position].get(value));
        Some(group.into_iter().flatten().map(|o| &o.0))
    }

    /// Puts an object in place of what has its key, unless that is the same or newer.
    pub(crate) fn put(&mut self, new: Arc<Object<V>>) -> Option<Put<V>> {
        if let Some(old) = self.get(&new.key)
            && old.revision >= new.revision
        {
            return None;
        }
        let old = self.remove(&new.key);
        let indexes = self.indexes.len();
        let part = self.parts.entry(new.key.tenant.clone()).or_insert_with(|| Part {
            objects: FxHashSet::default(),
            groups: (0..indexes).map(|_| FxHashMap::default()).collect(),
        });
        for ((_, index), groups) in self.indexes.iter().zip(&mut part.groups) {
            index(&new, &mut |value| {
                if let Some(group) = groups.get_mut(value) {
                    group.insert(ByKey(new.clone()));
                } else {
                    let mut group = FxHashSet::default();
                    group.insert(ByKey(new.clone()));
                    groups.insert(value.into(), group);
                }
            });
        }
        part.objects.insert(ByKey(new.clone()));
        self.len += 1;
        Some(Put { old, new })
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<Object<V>>> {
        let part = self.parts.get_mut(&key.tenant)?;
        let old = part.objects.take(key)?.0;
        for ((_, index), groups) in self.indexes.iter().zip(&mut part.groups) {
            index(&old, &mut |value| {
                if let Some(group) = groups.get_mut(value) {
                    group.remove(key);
                    if group.is_empty() {
                        groups.remove(value);
                    } else if group.capacity() > 64 && group.capacity() > 8 * group.len() {
                        group.shrink_to_fit();
                    }
                }
            });
        }
        self.len -= 1;
        if part.objects.is_empty() {
            self.parts.remove(&key.tenant);
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    type View = Vec<String>;

    fn object(tenant: u8, name: u8, revision: u64, view: View) -> Arc<Object<View>> {
        let tenant = TenantName::new(&format!("t{tenant}")).unwrap();
        Arc::new(Object {
            key: ObjectKey::new(&tenant, "ns", &format!("n{name}")),
            uid: "u".into(),
            revision: Revision(revision),
            view,
        })
    }

    proptest! {
        /// Objects and index groups are those of a map that is looked through each time.
        #[test]
        fn indexes_agree_with_a_scan(
            steps in proptest::collection::vec(
                (0u8..3, 0u8..6, proptest::option::of((0u64..40, proptest::collection::vec("[a-c]", 0..3)))), 0..80)
        ) {
            let index: IndexFn<View> = Box::new(|o, emit| o.view.iter().for_each(|v| emit(v)));
            let mut store = Store::new(vec![("letter", index)]);
            let mut model: BTreeMap<ObjectKey, Arc<Object<View>>> = BTreeMap::new();
            for (tenant, name, step) in steps {
                match step {
                    Some((revision, view)) => {
                        let new = object(tenant, name, revision, view);
                        let newer = model.get(&new.key).is_none_or(|o| o.revision < new.revision);
                        prop_assert_eq!(store.put(new.clone()).is_some(), newer);
                        if newer {
                            model.insert(new.key.clone(), new);
                        }
                    }
                    None => {
                        let key = object(tenant, name, 0, Vec::new()).key.clone();
                        prop_assert_eq!(store.remove(&key), model.remove(&key));
                    }
                }
                prop_assert_eq!(store.len(), model.len());
                for t in 0..3 {
                    let tenant = TenantName::new(&format!("t{t}")).unwrap();
                    prop_assert_eq!(store.tenant(&tenant).len(), model.keys().filter(|k| k.tenant == tenant).count());
                    for letter in ["a", "b", "c"] {
                        let found: BTreeSet<_> =
                            store.group("letter", &tenant, letter).unwrap().map(|o| o.key.clone()).collect();
                        let expected: BTreeSet<_> = model
                            .values()
                            .filter(|o| o.key.tenant == tenant && o.view.iter().any(|v| v == letter))
                            .map(|o| o.key.clone())
                            .collect();
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }
}
