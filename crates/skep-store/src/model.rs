//! The naive reference that the store is checked against, and a store that runs in step with a test.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use skep_base::{GroupResource, Key, Revision, Scope, TenantName};
use tokio::sync::oneshot;

use crate::AttrsBuilder;
use crate::core::{Core, Expired};
use crate::engine::{Engine, Loader, OpenError};
use crate::list::{self, ListOptions, Listing};
use crate::ring::{Ring, RingLimits, Wake};
use crate::sequencer::{Outcome, Queue, Request, Sequencer, Work};
use crate::state::State;
use crate::store::StoreOptions;
use crate::txn::{Change, Changes, CommitError, Expect, Op, Txn};
use crate::value::{NewValue, Value};
use crate::watch::Watcher;

/// The index term of the tests.
pub(crate) const FIELD: &str = "spec.nodeName";

/// What the reference knows of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thing {
    pub(crate) revision: Revision,
    pub(crate) text: String,
    pub(crate) node: Option<String>,
}

impl Thing {
    pub(crate) fn of(value: &Value) -> Thing {
        let json = std::str::from_utf8(value.json()).unwrap();
        let head = format!(r#"{{"metadata":{{"resourceVersion":"{}"}},"text":""#, value.revision());
        let text = json.strip_prefix(&head).unwrap().strip_suffix(r#""}"#).unwrap();
        Thing {
            revision: value.revision(),
            text: text.to_owned(),
            node: value.attrs().field(FIELD).map(str::to_owned),
        }
    }
}

pub(crate) fn new_value(text: &str, node: Option<&str>) -> NewValue {
    let mut attrs = AttrsBuilder::default();
    attrs.label("app", text.get(..3).unwrap_or("short")).unwrap();
    if let Some(node) = node {
        attrs.field(FIELD, node, true).unwrap();
    }
    let body = format!(r#"{{"metadata":{{"resourceVersion":""}},"text":"{text}"}}"#).into_bytes();
    NewValue { body, revision_at: 32, meta_start: 12, meta_end: 34, attrs: attrs.build().unwrap() }
}

/// One change as the reference remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    pub(crate) value: Option<Thing>,
    pub(crate) prev: Option<Thing>,
}

impl Event {
    pub(crate) fn of(change: &Change) -> Event {
        let thing = |v: &Option<Arc<Value>>| v.as_deref().map(Thing::of);
        Event {
            key: change.key.clone(),
            revision: change.revision,
            value: thing(&change.value),
            prev: thing(&change.prev),
        }
    }
}

fn has_node(thing: Option<&Thing>, node: Option<&str>) -> bool {
    node.is_none_or(|n| thing.is_some_and(|t| t.node.as_deref() == Some(n)))
}

/// Everything that ever happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) history: Vec<Event>,
}

impl Model {
    pub(crate) fn revision(&self) -> Revision {
        self.history.last().map_or(Revision::ZERO, |e| e.revision)
    }

    pub(crate) fn at(&self, revision: Revision) -> BTreeMap<Key, Thing> {
        let mut state = BTreeMap::new();
        for event in self.history.iter().take_while(|e| e.revision <= revision) {
            match &event.value {
                Some(thing) => state.insert(event.key.clone(), thing.clone()),
                None => state.remove(&event.key),
            };
        }
        state
    }

    pub(crate) fn list(&self, scope: &Scope, node: Option<&str>, at: Revision) -> Vec<(Key, Thing)> {
        self.at(at).into_iter().filter(|(k, t)| scope.contains(k) && has_node(Some(t), node)).collect()
    }

    pub(crate) fn watch(&self, scope: &Scope, node: Option<&str>, from: Revision) -> Vec<Event> {
        self.history
            .iter()
            .filter(|e| e.revision > from && scope.contains(&e.key))
            .filter(|e| has_node(e.value.as_ref(), node) || has_node(e.prev.as_ref(), node))
            .cloned()
            .collect()
    }

    /// What a transaction would do with revisions from `first` on; `Err` is the step that conflicts.
    pub(crate) fn run(&mut self, txn: &Txn, first: Revision) -> Result<Vec<Event>, usize> {
        let state = self.at(self.revision());
        for (index, op) in txn.0.iter().enumerate() {
            let current = state.get(op.key());
            let holds = match op.expect() {
                Expect::Any => true,
                Expect::Absent => current.is_none(),
                Expect::Exists => current.is_some(),
                Expect::Revision(r) => current.is_some_and(|t| t.revision == r),
            };
            if !holds {
                return Err(index);
            }
        }
        let mut events = Vec::new();
        let mut revision = first;
        for op in &txn.0 {
            let prev = state.get(op.key()).cloned();
            let value = match op {
                Op::Put { value, .. } => Some(Thing::of(&Value::unstored(value, revision))),
                Op::Delete { .. } if prev.is_some() => None,
                Op::Delete { .. } | Op::Check { .. } => continue,
            };
            events.push(Event { key: op.key().clone(), revision, value, prev });
            revision = revision.next();
        }
        self.history.extend(events.iter().cloned());
        Ok(events)
    }
}

pub(crate) fn resources() -> [GroupResource; 2] {
    [GroupResource::new("", "pods"), GroupResource::new("apps", "deployments")]
}

fn pick<T: Clone>(rng: &mut StdRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())].clone()
}

/// Names of which one is another's prefix, in few enough combinations that writes meet.
pub(crate) fn random_key(rng: &mut StdRng) -> Key {
    let tenant = TenantName::new(pick(rng, &["a", "a-b", "b"])).unwrap();
    let namespace = pick(rng, &["", "x", "x-y"]);
    Key::new(pick(rng, &resources()), tenant, namespace, pick(rng, &["p", "p-q", "q", "r"]))
}

pub(crate) fn random_node(rng: &mut StdRng) -> Option<&'static str> {
    pick(rng, &[None, Some("n1"), Some("n2"), Some("n1-2")])
}

pub(crate) fn random_scope(rng: &mut StdRng) -> Scope {
    let key = random_key(rng);
    match rng.random_range(0..5) {
        0 => Scope::AllTenants(key.resource),
        1 | 2 => Scope::Tenant(key.resource, key.tenant),
        3 => Scope::Namespace(key.resource, key.tenant, key.namespace),
        _ => Scope::Object(key),
    }
}

/// A transaction of a few steps, whose conditions often hold.
pub(crate) fn random_txn(rng: &mut StdRng, model: &Model) -> Txn {
    let state = model.at(model.revision());
    let mut ops: Vec<Op> = Vec::new();
    for _ in 0..pick(rng, &[1, 1, 1, 1, 2, 3, 6]) {
        let key = random_key(rng);
        if ops.iter().any(|op| *op.key() == key) {
            continue;
        }
        let current = state.get(&key).map(|t| t.revision);
        let any = Expect::Revision(Revision(rng.random_range(0..50)));
        let expect = match (rng.random_range(0..8), current) {
            (0, _) => pick(rng, &[Expect::Absent, Expect::Exists, any]),
            (1..4, Some(r)) => Expect::Revision(r),
            (4, Some(_)) => Expect::Exists,
            (1..5, None) => Expect::Absent,
            _ => Expect::Any,
        };
        ops.push(match rng.random_range(0..10) {
            0..6 => {
                let len = pick(rng, &[1, 10, 100, 700]);
                let text: String = (0..len).map(|_| rng.random_range('a'..='z')).collect();
                Op::Put { key, value: new_value(&text, random_node(rng)), expect, ttl_s: None }
            }
            6..9 => Op::Delete { key, expect },
            _ => Op::Check { key, expect },
        });
    }
    ops.into_iter().collect()
}

/// A store without a thread: the test moves it.
pub(crate) struct Stepper {
    pub(crate) core: Arc<Core>,
    sequencer: Sequencer,
}

impl Stepper {
    pub(crate) fn open(mut engine: Box<dyn Engine>, ring: RingLimits) -> Result<Stepper, OpenError> {
        let mut state = State::new(Ring::new(ring));
        let mut loader = Loader::new(&mut state);
        let revision = engine.load(&mut loader)?;
        loader.finish();
        state.applied = revision;
        let core = Arc::new(Core::new(state));
        let options = StoreOptions { ring, clock: || 1_000_000, ..StoreOptions::default() };
        let sequencer = Sequencer::new(core.clone(), Arc::new(Queue::default()), options, engine, revision);
        Ok(Stepper { core, sequencer })
    }

    /// Does all of it in one batch.
    pub(crate) fn commit(&mut self, txns: Vec<Txn>) -> Vec<Result<Changes, CommitError>> {
        let mut requests = Vec::new();
        let mut answers: Vec<oneshot::Receiver<Outcome>> = Vec::new();
        for txn in txns {
            let (reply, answer) = oneshot::channel();
            requests.push(Request { work: Work::Txn(txn), reply });
            answers.push(answer);
        }
        self.sequencer.step(&mut requests, &mut Wake::default());
        answers.into_iter().map(|mut a| a.try_recv().unwrap().map(Option::unwrap_or_default)).collect()
    }

    pub(crate) fn list(&self, scope: &Scope, options: &ListOptions<'_>) -> Result<Listing, Expired> {
        list::list(&self.core, scope, options)
    }

    pub(crate) fn watch(
        &self,
        scope: &Scope,
        node: Option<&str>,
        from: Revision,
    ) -> Result<Watcher, Expired> {
        Watcher::new(self.core.clone(), scope, node.map(|n| (FIELD, n)), from)
    }

    pub(crate) fn floor(&self, resource: &GroupResource) -> Revision {
        let state = self.core.state();
        state.ring.floor(state.table_id(resource))
    }

    /// The newest revision given out, durable or not.
    pub(crate) fn given_out(&self) -> Revision {
        self.sequencer.revision
    }

    /// Closes the engine; the store takes no writes after it, but can be looked at.
    pub(crate) fn close_in_place(&mut self) {
        self.sequencer.finish();
    }

    /// Everything that is there, as the reference has it.
    pub(crate) fn everything(&self) -> BTreeMap<Key, Thing> {
        let mut all = BTreeMap::new();
        for resource in resources() {
            let listing = self.list(&Scope::AllTenants(resource), &ListOptions::default()).unwrap();
            all.extend(listing.items.into_iter().map(|(k, v)| (k, Thing::of(&v))));
        }
        all
    }
}
