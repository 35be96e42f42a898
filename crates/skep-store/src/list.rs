//! Listing a scope exactly as it was at one revision, without holding up writers.
//!
//! There are no old versions to read. What was there at revision R is what is there now with the changes
//! after R undone, and the ring keeps with every change what was there before it. So a long list reads the
//! state in short pieces, and undoes what came in between.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use skep_base::{Key, Revision, Scope};

use crate::core::{Core, Expired};
use crate::ring::stream_key;
use crate::state::{Span, State, TableId};
use crate::value::{Keys, Value, path_of};

/// Entries that are read in one go under the lock: some ten microseconds.
const LIST_CHUNK: usize = 512;
/// Entries counted in one go.
const COUNT_CHUNK: usize = 16 * 1024;
/// How often a list at the newest revision starts anew when the ring has moved past it meanwhile, before
/// it holds the lock from end to end.
const LIST_RETRIES: usize = 3;

/// How a list is read.
#[derive(Clone, Debug, Default)]
pub struct ListOptions<'a> {
    /// Only what comes behind this key.
    pub after: Option<Key>,
    /// At most so many objects.
    pub limit: Option<usize>,
    /// As it was at this revision, that of the first page; the newest when `None`.
    pub at: Option<Revision>,
    /// Only objects whose indexed field has this value.
    pub index: Option<(&'a str, &'a str)>,
}

/// A part of a scope at one revision.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The objects, in order.
    pub items: Vec<(Key, Arc<Value>)>,
    /// The revision at which they are exact.
    pub revision: Revision,
    /// Whether the limit left more.
    pub more: bool,
    /// How many more, when the limit left more and no index was given.
    pub remaining: Option<usize>,
}

/// As [`Listing`], for those who need no keys: keys of ten thousand objects take longer than the objects.
#[derive(Clone, Debug)]
pub struct Values {
    /// The objects, in the order of their keys.
    pub items: Vec<Arc<Value>>,
    /// The revision at which they are exact.
    pub revision: Revision,
    /// Whether the limit left more.
    pub more: bool,
    /// How many more, when the limit left more and no index was given.
    pub remaining: Option<usize>,
}

/// What keys looked like at the listed revision, for those that have changed since.
type Undo = BTreeMap<Box<[u8]>, Option<Arc<Value>>>;

pub(crate) fn list(core: &Core, scope: &Scope, options: &ListOptions<'_>) -> Result<Listing, Expired> {
    let Values { items, revision, more, remaining } = values(core, scope, options)?;
    let mut keys = Keys::new(scope.resource());
    let items = items.into_iter().map(|value| (keys.of(&value), value)).collect();
    Ok(Listing { items, revision, more, remaining })
}

pub(crate) fn values(core: &Core, scope: &Scope, options: &ListOptions<'_>) -> Result<Values, Expired> {
    for attempt in 0.. {
        let hold_lock = attempt >= LIST_RETRIES;
        match (List { core, scope, options, hold_lock }).run() {
            Err(_) if options.at.is_none() && !hold_lock => {}
            result => return result,
        }
    }
    unreachable!("the last attempt returns")
}

struct List<'a> {
    core: &'a Core,
    scope: &'a Scope,
    options: &'a ListOptions<'a>,
    hold_lock: bool,
}

impl List<'_> {
    fn run(&self) -> Result<Values, Expired> {
        let mut state = self.core.state();
        let table = state.table_id(self.scope.resource());
        let at = self.options.at.unwrap_or(state.applied);
        if at > state.applied || at < state.ring.floor(table) {
            return Err(Expired);
        }
        let mut listing = Values { items: Vec::new(), revision: at, more: false, remaining: None };
        let mut span = Span::of(self.scope);
        if let Some(after) = &self.options.after {
            span.start_after(&path_of(after));
        }
        let Some(table) = table else { return Ok(listing) };
        let stream = stream_key(table, self.scope, self.options.index);
        let limit = self.options.limit.unwrap_or(usize::MAX);

        let mut undo = Undo::new();
        let mut undone = at;
        let mut values: Vec<Arc<Value>> = Vec::new();
        let mut chunk = Vec::new();
        while !span.is_empty() {
            // One more than asked for, to know whether there is more.
            let want = (limit - values.len()).saturating_add(1).min(LIST_CHUNK);
            self.fold_in(&state, &stream, &span, &mut undone, &mut undo);
            chunk.clear();
            match (state.table(table), self.options.index) {
                (None, _) => {}
                (Some(t), None) => chunk.extend(t.range(&span).take(want).cloned()),
                (Some(t), Some((f, v))) => chunk.extend(t.range_by_term(&span, f, v).take(want).cloned()),
            }
            let exhausted = chunk.len() < want;
            let mut piece = span.clone();
            if let (false, Some(last)) = (exhausted, chunk.last()) {
                piece.upper.clear();
                piece.upper.extend_from_slice(last.path_bytes());
                piece.upper.push(0);
            }
            merge(&mut values, &mut chunk, &undo, &piece);
            span.lower = piece.upper;
            if values.len() > limit {
                listing.more = true;
                if self.options.index.is_none() {
                    let mut rest = Span::of(self.scope);
                    // Counting starts with the first value that the limit cuts off.
                    rest.lower = values[limit].path_bytes().into();
                    listing.remaining = Some(self.count(state, at, table, &stream, rest)?);
                }
                values.truncate(limit);
                break;
            }
            if exhausted {
                break;
            }
            state = self.give_way(state, at, table)?;
        }
        listing.items = values;
        Ok(listing)
    }

    /// Lets waiting writers in, and makes sure that the revision can still be reached.
    fn give_way<'s>(
        &self,
        mut state: RwLockReadGuard<'s, State>,
        at: Revision,
        table: TableId,
    ) -> Result<RwLockReadGuard<'s, State>, Expired> {
        if !self.hold_lock {
            RwLockReadGuard::bump(&mut state);
            if at < state.ring.floor(Some(table)) {
                return Err(Expired);
            }
        }
        Ok(state)
    }

    /// Brings `undo` up to what is applied now.
    fn fold_in(&self, state: &State, stream: &[u8], span: &Span, undone: &mut Revision, undo: &mut Undo) {
        if *undone == state.applied {
            return;
        }
        state.ring.each_after(stream, *undone, |change| {
            let path = path_of(&change.key);
            // The first change after the revision tells; later ones are of no interest.
            if span.contains(&path) && !undo.contains_key(&*path) {
                let before = change.prev.clone().filter(|v| {
                    self.options.index.is_none_or(|(field, value)| v.attrs().has_term(field, value))
                });
                undo.insert((*path).into(), before);
            }
            true
        });
        *undone = state.applied;
    }

    fn count(
        &self,
        mut state: RwLockReadGuard<'_, State>,
        at: Revision,
        table: TableId,
        stream: &[u8],
        mut rest: Span,
    ) -> Result<usize, Expired> {
        let mut undo = Undo::new();
        let mut undone = at;
        let mut total = 0usize;
        let mut counted_to = rest.lower.clone();
        while !rest.is_empty() {
            self.fold_in(&state, stream, &rest, &mut undone, &mut undo);
            let Some(t) = state.table(table) else { break };
            let mut seen = 0;
            let mut last = None;
            let mut each = |v: &Arc<Value>| {
                seen += 1;
                if seen == COUNT_CHUNK {
                    last = Some(v.clone());
                }
            };
            t.range(&rest).take(COUNT_CHUNK).for_each(&mut each);
            total += seen;
            match last {
                Some(last) => rest.start_after(last.path_bytes()),
                None => rest.lower = rest.upper.clone(),
            }
            // What this piece holds now and held then.
            let piece = (Bound::Included(&*counted_to), Bound::Excluded(&*rest.lower));
            for (path, before) in undo.range::<[u8], _>(piece) {
                total = total + usize::from(before.is_some()) - usize::from(t.get(path).is_some());
            }
            counted_to = rest.lower.clone();
            state = self.give_way(state, at, table)?;
        }
        Ok(total)
    }
}

/// Appends a piece of the current state, as it was before the changes to be undone.
fn merge(items: &mut Vec<Arc<Value>>, chunk: &mut Vec<Arc<Value>>, undo: &Undo, piece: &Span) {
    let bounds = (Bound::Included(&*piece.lower), Bound::Excluded(&*piece.upper));
    let mut undo = undo.range::<[u8], _>(bounds).peekable();
    if undo.peek().is_none() {
        items.append(chunk);
        return;
    }
    for value in chunk.drain(..) {
        while let Some((_, before)) = undo.next_if(|(path, _)| &***path < value.path_bytes()) {
            items.extend(before.clone());
        }
        match undo.next_if(|(path, _)| &***path == value.path_bytes()) {
            Some((_, before)) => items.extend(before.clone()),
            None => items.push(value),
        }
    }
    for (_, before) in undo {
        items.extend(before.clone());
    }
}
