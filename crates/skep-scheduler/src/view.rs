//! What is kept of a pod: its template, which equal pods share, and the little that is its own.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use skep_base::SharedStr;
use skep_sched::views::PodView;
use skep_sched::{PodFacts, Template};

/// What is read of a pod, compiled while it is read.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub template: Arc<Template>,
    pub node: Option<SharedStr>,
    pub scheduler: SharedStr,
    pub nominated: Option<SharedStr>,
    pub facts: PodFacts,
    /// Still closed to scheduling.
    pub gated: bool,
    /// Has run to its end.
    pub terminal: bool,
    /// What its condition `PodScheduled` says, if it says no.
    pub unschedulable: Option<Box<str>>,
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pod, D::Error> {
        Ok(Pod::new(&PodView::deserialize(deserializer)?))
    }
}

impl Pod {
    fn new(view: &PodView) -> Pod {
        let some = |text: &str| (!text.is_empty()).then(|| SharedStr::new(text));
        let condition = view.status.conditions.iter().find(|c| &*c.r#type == "PodScheduled");
        Pod {
            template: shared(Template::compile(view)),
            node: some(&view.spec.node_name),
            scheduler: SharedStr::new(&view.spec.scheduler_name),
            nominated: some(&view.status.nominated_node_name),
            facts: PodFacts::of(view),
            gated: !view.spec.scheduling_gates.is_empty(),
            terminal: view.is_terminal(),
            unschedulable: condition.filter(|c| &*c.status == "False").map(|c| c.message.clone()),
        }
    }
}

/// How many recent templates a thread remembers: more than the workloads of which pods come in one burst.
const SLOTS: usize = 1024;

thread_local! {
    static RECENT: RefCell<(RandomState, Vec<Option<Arc<Template>>>)> = RefCell::default();
}

/// The template, sharing its memory with an equal one that this thread met recently.
fn shared(template: Template) -> Arc<Template> {
    RECENT.with_borrow_mut(|(state, recent)| {
        if recent.is_empty() {
            recent.resize(SLOTS, None);
        }
        let place = &mut recent[state.hash_one(&template) as usize % SLOTS];
        match place {
            Some(known) if **known == template => known.clone(),
            _ => place.insert(Arc::new(template)).clone(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_pods_share_what_they_mean() {
        let pod = |name: &str, cpu: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"},
                "spec": {"schedulerName": "default-scheduler",
                    "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
            .unwrap()
        };
        let (a, b, c) = (pod("a", "1"), pod("b", "1"), pod("c", "2"));
        assert!(Arc::ptr_eq(&a.template, &b.template));
        assert!(!Arc::ptr_eq(&a.template, &c.template));
        assert_eq!((a.node, &*a.scheduler, a.gated, a.terminal), (None, "default-scheduler", false, false));
    }
}
