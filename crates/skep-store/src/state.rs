//! All current objects, in order, with their indexes: what the newest visible revision looks like.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::{FxBuildHasher, FxHashMap};
use skep_base::{GroupResource, Key, Revision, Scope};

use crate::ring::Ring;
use crate::txn::Change;
use crate::value::{PathBuf, Value, path_of};

/// The number of a resource's table, given out as resources are first written. Not persisted.
pub(crate) type TableId = u32;

/// Sorts after every path: paths are UTF-8, which has no such byte.
const AFTER_ALL: u8 = 0xff;

/// A contiguous range of paths, `lower` inclusive and `upper` exclusive.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) lower: PathBuf,
    pub(crate) upper: PathBuf,
}

impl Span {
    pub(crate) fn everything() -> Span {
        Span { lower: PathBuf::new(), upper: PathBuf::from_slice(&[AFTER_ALL]) }
    }

    pub(crate) fn of(scope: &Scope) -> Span {
        let mut lower = PathBuf::new();
        match scope {
            Scope::AllTenants(_) => return Span::everything(),
            Scope::Tenant(_, tenant) => {
                lower.extend_from_slice(tenant.as_str().as_bytes());
                lower.push(0);
            }
            Scope::Namespace(_, tenant, namespace) => {
                lower.extend_from_slice(tenant.as_str().as_bytes());
                lower.push(0);
                lower.extend_from_slice(namespace.as_bytes());
                lower.push(0);
            }
            Scope::Object(key) => {
                let lower = path_of(key);
                let mut upper = lower.clone();
                upper.push(0);
                return Span { lower, upper };
            }
        }
        let mut upper = lower.clone();
        if let Some(last) = upper.last_mut() {
            *last = 1;
        }
        Span { lower, upper }
    }

    /// Moves the start to just behind a path.
    pub(crate) fn start_after(&mut self, path: &[u8]) {
        if path >= &*self.lower {
            self.lower.clear();
            self.lower.extend_from_slice(path);
            self.lower.push(0);
        }
    }

    pub(crate) fn contains(&self, path: &[u8]) -> bool {
        path >= &*self.lower && path < &*self.upper
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lower >= self.upper
    }
}

/// A value in a table, ordered by its path. The path lives in the value, so an entry is one pointer.
#[derive(Clone, Debug)]
struct Entry(Arc<Value>);

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.0.path_bytes()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.0.path_bytes() == other.0.path_bytes()
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.0.path_bytes().cmp(other.0.path_bytes())
    }
}

/// A value that is to be deleted at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expiry {
    value: Arc<Value>,
    table: TableId,
}

impl Expiry {
    fn place(&self) -> (u32, TableId, &[u8]) {
        (self.value.header().expires_at_s, self.table, self.value.path_bytes())
    }
}
impl PartialOrd for Expiry {
    fn partial_cmp(&self, other: &Expiry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Expiry {
    fn cmp(&self, other: &Expiry) -> Ordering {
        self.place().cmp(&other.place())
    }
}

/// All objects of one resource.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) resource: Arc<GroupResource>,
    entries: BTreeSet<Entry>,
    /// By index term, `field NUL value`: the objects that have it.
    index: HashMap<Box<[u8]>, BTreeSet<Entry>, FxBuildHasher>,
}

impl Table {
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Arc<Value>> {
        self.entries.get(path).map(|e| &e.0)
    }

    /// The values of a span in path order.
    pub(crate) fn range(&self, span: &Span) -> impl Iterator<Item = &Arc<Value>> {
        range(&self.entries, span)
    }

    /// The values of a span that have an index term, in path order.
    pub(crate) fn range_by_term(
        &self,
        span: &Span,
        field: &str,
        value: &str,
    ) -> impl Iterator<Item = &Arc<Value>> {
        self.index.get(&*term_key(field, value)).into_iter().flat_map(move |entries| range(entries, span))
    }

    fn put(&mut self, value: &Arc<Value>) -> Option<Arc<Value>> {
        let old = self.entries.replace(Entry(value.clone())).map(|e| e.0);
        for (field, term) in value.attrs().indexed() {
            let key = term_key(field, term);
            match self.index.get_mut(&*key) {
                Some(entries) => {
                    entries.replace(Entry(value.clone()));
                }
                None => {
                    self.index.insert((*key).into(), BTreeSet::from([Entry(value.clone())]));
                }
            }
        }
        if let Some(old) = &old {
            self.leave_terms(old, Some(value));
        }
        old
    }

    fn remove(&mut self, path: &[u8]) -> Option<Arc<Value>> {
        let old = self.entries.take(path)?.0;
        self.leave_terms(&old, None);
        Some(old)
    }

    /// Takes a value out of the index where its successor does not replace it.
    fn leave_terms(&mut self, old: &Arc<Value>, new: Option<&Arc<Value>>) {
        for (field, term) in old.attrs().indexed() {
            if new.is_some_and(|new| new.attrs().has_term(field, term)) {
                continue;
            }
            let key = term_key(field, term);
            if let Some(entries) = self.index.get_mut(&*key) {
                entries.remove(old.path_bytes());
                if entries.is_empty() {
                    self.index.remove(&*key);
                }
            }
        }
    }
}

fn range<'a>(entries: &'a BTreeSet<Entry>, span: &Span) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
    let (lower, upper) = (&*span.lower, &*span.upper);
    // An empty range is an error to the standard library when its start is beyond its end.
    let lower = lower.min(upper);
    entries.range::<[u8], _>((Bound::Included(lower), Bound::Excluded(upper))).map(|e| &e.0)
}

fn term_key(field: &str, value: &str) -> PathBuf {
    let mut key = PathBuf::new();
    key.extend_from_slice(field.as_bytes());
    key.push(0);
    key.extend_from_slice(value.as_bytes());
    key
}

/// Everything that changes together under the store's one lock.
#[derive(Debug)]
pub(crate) struct State {
    ids: FxHashMap<Arc<GroupResource>, TableId>,
    tables: Vec<Table>,
    expiries: BTreeSet<Expiry>,
    pub(crate) ring: Ring,
    /// The newest revision that is in.
    pub(crate) applied: Revision,
    pub(crate) objects: usize,
    pub(crate) object_bytes: usize,
}

impl State {
    pub(crate) fn new(ring: Ring) -> State {
        State {
            ids: FxHashMap::default(),
            tables: Vec::new(),
            expiries: BTreeSet::new(),
            ring,
            applied: Revision::ZERO,
            objects: 0,
            object_bytes: 0,
        }
    }

    pub(crate) fn table_id(&self, resource: &GroupResource) -> Option<TableId> {
        self.ids.get(resource).copied()
    }

    pub(crate) fn table(&self, id: TableId) -> Option<&Table> {
        self.tables.get(id as usize)
    }

    pub(crate) fn table_of(&self, resource: &GroupResource) -> Option<&Table> {
        self.table(self.table_id(resource)?)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.table_of(&key.resource)?.get(&path_of(key))
    }

    /// The number of a resource, given out on first use.
    pub(crate) fn number(&mut self, resource: &GroupResource) -> TableId {
        if let Some(id) = self.table_id(resource) {
            return id;
        }
        let id = self.tables.len() as TableId;
        let resource = Arc::new(resource.clone());
        self.ids.insert(resource.clone(), id);
        self.tables.push(Table { resource, entries: BTreeSet::new(), index: HashMap::default() });
        id
    }

    /// The resources that there are objects of.
    pub(crate) fn resources(&self) -> Vec<GroupResource> {
        self.tables.iter().filter(|t| !t.entries.is_empty()).map(|t| (*t.resource).clone()).collect()
    }

    /// Makes a change current. Says which table it is in.
    pub(crate) fn apply(&mut self, change: &Change) -> TableId {
        let table = self.number(&change.key.resource);
        match &change.value {
            Some(value) => self.set(table, value.path_bytes(), Some(value)),
            None => self.set(table, &path_of(&change.key), None),
        };
        self.applied = change.revision;
        table
    }

    /// Sets one object to a value, or to nothing.
    pub(crate) fn set(
        &mut self,
        table_id: TableId,
        path: &[u8],
        value: Option<&Arc<Value>>,
    ) -> Option<Arc<Value>> {
        let table = &mut self.tables[table_id as usize];
        let old = match value {
            Some(value) => table.put(value),
            None => table.remove(path),
        };
        if let Some(old) = &old {
            self.objects -= 1;
            self.object_bytes -= old.size_bytes();
            if old.header().expires_at_s != 0 {
                self.expiries.remove(&Expiry { value: old.clone(), table: table_id });
            }
        }
        if let Some(value) = value {
            self.objects += 1;
            self.object_bytes += value.size_bytes();
            if value.header().expires_at_s != 0 {
                self.expiries.insert(Expiry { value: value.clone(), table: table_id });
            }
        }
        old
    }

    /// When the next object expires, in Unix seconds.
    pub(crate) fn next_expiry_s(&self) -> Option<u64> {
        self.expiries.first()?.value.expires_at_s()
    }

    /// Objects whose time has come, the oldest first.
    pub(crate) fn expired(&self, now_s: u64, limit: usize) -> Vec<(Arc<GroupResource>, Arc<Value>)> {
        self.expiries
            .iter()
            .take_while(|e| e.value.expires_at_s().is_some_and(|at| at <= now_s))
            .take(limit)
            .map(|e| (self.tables[e.table as usize].resource.clone(), e.value.clone()))
            .collect()
    }
}
