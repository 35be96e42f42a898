//! All current objects, in order, with their indexes: what the newest visible revision looks like.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use rustc_hash::FxHashMap;
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

/// Something with a place in the index: an entry, or a bound to search for.
trait InIndex {
    /// Field, value, path.
    fn place(&self) -> (&str, &str, &[u8]);
}

/// A value in an index, ordered by field, value and path.
#[derive(Clone, Debug)]
struct TermEntry {
    value: Arc<Value>,
    /// Where in the value's attributes the term is spelled out.
    offset: u32,
}

impl InIndex for TermEntry {
    fn place(&self) -> (&str, &str, &[u8]) {
        let (field, value) = self.value.attrs().term_at(self.offset);
        (field, value, self.value.path_bytes())
    }
}

struct TermBound<'a> {
    field: &'a str,
    value: &'a str,
    path: &'a [u8],
}

impl InIndex for TermBound<'_> {
    fn place(&self) -> (&str, &str, &[u8]) {
        (self.field, self.value, self.path)
    }
}

impl<'a> Borrow<dyn InIndex + 'a> for TermEntry {
    fn borrow(&self) -> &(dyn InIndex + 'a) {
        self
    }
}

impl PartialEq for dyn InIndex + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}
impl Eq for dyn InIndex + '_ {}
impl PartialOrd for dyn InIndex + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for dyn InIndex + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialEq for TermEntry {
    fn eq(&self, other: &TermEntry) -> bool {
        self.place() == other.place()
    }
}
impl Eq for TermEntry {}
impl PartialOrd for TermEntry {
    fn partial_cmp(&self, other: &TermEntry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for TermEntry {
    fn cmp(&self, other: &TermEntry) -> Ordering {
        self.place().cmp(&other.place())
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
    index: BTreeSet<TermEntry>,
}

impl Table {
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Arc<Value>> {
        self.entries.get(path).map(|e| &e.0)
    }

    /// The values of a span in path order.
    pub(crate) fn range(&self, span: &Span) -> impl Iterator<Item = &Arc<Value>> {
        let (lower, upper) = (&*span.lower, &*span.upper);
        // An empty range is an error to the standard library when its start is beyond its end.
        let lower = lower.min(upper);
        self.entries.range::<[u8], _>((Bound::Included(lower), Bound::Excluded(upper))).map(|e| &e.0)
    }

    /// The values of a span that have an index term, in path order.
    pub(crate) fn range_by_term(
        &self,
        span: &Span,
        field: &str,
        value: &str,
    ) -> impl Iterator<Item = &Arc<Value>> {
        let upper = TermBound { field, value, path: &span.upper };
        let lower = TermBound { field, value, path: (&*span.lower).min(&*span.upper) };
        let (lower, upper): (&dyn InIndex, &dyn InIndex) = (&lower, &upper);
        self.index.range::<dyn InIndex, _>((Bound::Included(lower), Bound::Excluded(upper))).map(|e| &e.value)
    }

    fn put(&mut self, value: &Arc<Value>) -> Option<Arc<Value>> {
        let old = self.entries.replace(Entry(value.clone())).map(|e| e.0);
        for offset in value.attrs().term_offsets() {
            self.index.replace(TermEntry { value: value.clone(), offset });
        }
        if let Some(old) = &old {
            for offset in old.attrs().term_offsets() {
                let (field, term) = old.attrs().term_at(offset);
                if !value.attrs().has_term(field, term) {
                    self.index.remove(&TermEntry { value: old.clone(), offset });
                }
            }
        }
        old
    }

    fn remove(&mut self, path: &[u8]) -> Option<Arc<Value>> {
        let old = self.entries.take(path)?.0;
        for offset in old.attrs().term_offsets() {
            self.index.remove(&TermEntry { value: old.clone(), offset });
        }
        Some(old)
    }
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
        self.tables.push(Table { resource, entries: BTreeSet::new(), index: BTreeSet::new() });
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
