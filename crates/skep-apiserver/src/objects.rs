//! All objects as requests see them: the store, and below it the default policy that every tenant has.
//!
//! A new tenant has about 150 default objects: cluster roles, bindings, priority classes, flow schemas. They
//! are the same for all tenants, so they exist once, as *templates*, and are shown in each tenant with that
//! tenant's uid and times until somebody changes one: only then does the tenant have a copy of its own. A
//! deleted default leaves a tombstone. The view across all tenants shows only what is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use skep_base::{GroupResource, Key, Revision, Scope};
use skep_store::{Change, Expect, Expired, ListOptions, Listing, Op, Store, Value, Values, Watcher};

use crate::seed::{Seed, time_text};
use crate::tenants::{TenantRecord, Tenants};

/// The selectable field that marks a tombstone.
const TOMBSTONE_FIELD: &str = "skep.io/tombstone";

type ByName = BTreeMap<(String, String), Seed>;

/// See the module.
#[derive(Clone)]
pub struct Objects {
    store: Store,
    tenants: Arc<Tenants>,
    templates: Arc<FxHashMap<GroupResource, ByName>>,
}

/// A write that cannot go through, found before it reaches the store.
pub struct Taken;

impl Objects {
    /// Puts the default objects below the store's.
    #[must_use]
    pub fn new(store: Store, tenants: Arc<Tenants>, templates: Vec<Seed>) -> Objects {
        let mut by_resource: FxHashMap<GroupResource, ByName> = FxHashMap::default();
        for template in templates {
            let (namespace, name) = template.place();
            let place = (namespace.to_owned(), name.to_owned());
            by_resource.entry(template.resource().clone()).or_default().insert(place, template);
        }
        Objects { store, tenants, templates: Arc::new(by_resource) }
    }

    /// The store itself, for those who must not see defaults.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The newest visible revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.store.revision()
    }

    fn template(&self, key: &Key) -> Option<(&Seed, Arc<TenantRecord>)> {
        let template =
            self.templates.get(&key.resource)?.get(&(key.namespace.to_string(), key.name.to_string()))?;
        Some((template, self.tenants.get(&key.tenant)?))
    }

    /// Whether a key is that of a default object. Such objects count in no quota, in whatever form a tenant has them: as
    /// the default itself, as a copy of its own, or deleted.
    #[must_use]
    pub fn is_default(&self, key: &Key) -> bool {
        self.templates
            .get(&key.resource)
            .is_some_and(|t| t.contains_key(&(key.namespace.to_string(), key.name.to_string())))
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        if let Some(value) = self.store.get(key) {
            return (!is_tombstone(&value)).then_some(value);
        }
        let (template, tenant) = self.template(key)?;
        Some(render(template, &tenant))
    }

    /// The objects of a scope.
    ///
    /// # Errors
    /// [`Expired`] when the revision asked for is no longer held.
    pub fn list(&self, scope: &Scope, options: &ListOptions<'_>) -> Result<Listing, Expired> {
        let (Some(templates), Some(tenant)) = (self.templates.get(scope.resource()), scope.tenant()) else {
            return self.store.list(scope, options);
        };
        let Some(tenant) = self.tenants.get(tenant) else { return self.store.list(scope, options) };
        // There are few objects of these kinds in a tenant: all of them are read, and the page cut after.
        let unlimited = ListOptions { limit: None, ..options.clone() };
        let mut listing = self.store.list(scope, &unlimited)?;
        let mut all: BTreeMap<Key, Option<Arc<Value>>> =
            listing.items.drain(..).map(|(k, v)| (k, (!is_tombstone(&v)).then_some(v))).collect();
        for ((namespace, name), template) in templates {
            let key = Key::new(scope.resource().clone(), tenant.name.clone(), namespace, name);
            if scope.contains(&key) && options.after.as_ref().is_none_or(|a| *a < key) {
                all.entry(key).or_insert_with(|| Some(render(template, &tenant)));
            }
        }
        let mut items: Vec<(Key, Arc<Value>)> = all.into_iter().filter_map(|(k, v)| Some((k, v?))).collect();
        let total = items.len();
        if let Some(limit) = options.limit.filter(|l| *l < total) {
            items.truncate(limit);
            listing.more = true;
            listing.remaining = Some(total - limit);
        }
        Ok(Listing { items, ..listing })
    }

    /// As [`Objects::list`], without keys; `None` for kinds of which there are default objects.
    ///
    /// # Errors
    /// As for [`Objects::list`].
    pub fn values(&self, scope: &Scope, options: &ListOptions<'_>) -> Option<Result<Values, Expired>> {
        (!self.templates.contains_key(scope.resource())).then(|| self.store.values(scope, options))
    }

    /// The objects of a scope that are stored, changed default objects among them: for those who look for what no default
    /// object has.
    ///
    /// # Errors
    /// As for [`Objects::list`].
    pub fn list_stored(&self, scope: &Scope) -> Result<Vec<Arc<Value>>, Expired> {
        let mut items = self.store.values(scope, &ListOptions::default())?.items;
        items.retain(|value| !is_tombstone(value));
        Ok(items)
    }

    /// Follows a scope.
    ///
    /// # Errors
    /// [`Expired`] when the changes since the revision are no longer held.
    pub fn watch(
        &self,
        scope: Scope,
        index: Option<(&str, &str)>,
        from: Revision,
    ) -> Result<ObjectWatcher, Expired> {
        let layered = self.templates.contains_key(scope.resource()).then(|| self.clone());
        Ok(ObjectWatcher { watcher: self.store.watch(scope, index, from)?, layered })
    }

    /// What a write means for the store, where a default object may lie below.
    ///
    /// # Errors
    /// [`Taken`] when its condition does not hold of what requests see.
    pub fn translate(&self, op: Op) -> Result<Op, Taken> {
        if !self.templates.contains_key(&op.key().resource) {
            return Ok(op);
        }
        let Some((_, tenant)) = self.template(op.key()) else { return Ok(op) };
        let stored = self.store.get(op.key());
        let below = match (&stored, op.expect()) {
            (None, Expect::Absent) => return Err(Taken),
            (None, Expect::Revision(r)) if r == tenant.revision => Expect::Absent,
            (None, Expect::Any | Expect::Exists) => Expect::Absent,
            (None, Expect::Revision(_)) => return Err(Taken),
            (Some(v), Expect::Absent) if is_tombstone(v) => Expect::Revision(v.revision()),
            (Some(_), other) => other,
        };
        Ok(match op {
            Op::Put { key, value, ttl_s, .. } => Op::Put { key, value, expect: below, ttl_s },
            Op::Check { key, .. } => Op::Check { key, expect: below },
            Op::Delete { key, .. } => Op::Put { key, value: tombstone(), expect: below, ttl_s: None },
        })
    }
}

fn render(template: &Seed, tenant: &TenantRecord) -> Arc<Value> {
    // The same object of the same tenant has the same uid whenever it is shown.
    let (namespace, name) = template.place();
    let path = format!("{}/{namespace}/{name}", template.resource());
    let uid = uuid::Uuid::new_v5(&tenant.uid, path.as_bytes());
    Arc::new(Value::unstored(&template.copy(&uid, &time_text(tenant.created)), tenant.revision))
}

fn tombstone() -> skep_store::NewValue {
    let mut attrs = skep_store::AttrsBuilder::default();
    // A constant of a few bytes: it always fits.
    let _ = attrs.field(TOMBSTONE_FIELD, "true", false);
    let body = br#"{"metadata":{"resourceVersion":""}}"#.to_vec();
    skep_store::NewValue {
        body,
        revision_at: 32,
        meta_start: 12,
        meta_end: 34,
        attrs: attrs.build().unwrap_or_default(),
    }
}

/// Whether a stored value only says that a default object is deleted.
pub(crate) fn is_tombstone(value: &Value) -> bool {
    value.attrs().field(TOMBSTONE_FIELD).is_some()
}

/// A watcher that knows of defaults and tombstones.
pub struct ObjectWatcher {
    watcher: Watcher,
    layered: Option<Objects>,
}

impl ObjectWatcher {
    /// See [`Watcher::position`].
    #[must_use]
    pub fn position(&self) -> Revision {
        self.watcher.position()
    }

    /// See [`Watcher::next`].
    ///
    /// # Errors
    /// [`Expired`] when changes were dropped before this watcher read them.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        let changes = self.watcher.next().await?;
        let Some(objects) = &self.layered else { return Ok(changes) };
        Ok(changes.into_iter().map(|c| seen(objects, c)).collect())
    }
}

/// A change as requests see it: the first write of a default is a modification, a tombstone a deletion.
fn seen(objects: &Objects, change: Arc<Change>) -> Arc<Change> {
    let visible = |v: &Option<Arc<Value>>| v.as_ref().filter(|v| !is_tombstone(v)).cloned();
    let prev = match &change.prev {
        Some(_) => visible(&change.prev),
        None => objects.template(&change.key).map(|(template, tenant)| render(template, &tenant)),
    };
    Arc::new(Change {
        key: change.key.clone(),
        revision: change.revision,
        value: visible(&change.value),
        prev,
    })
}
