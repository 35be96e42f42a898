use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::time::Time;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn set(spec: Value) -> StatefulSet {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "db"}});
    spec["serviceName"] = json!("svc");
    if spec.get("template").is_none() {
        spec["template"] = template("v1");
    }
    serde_json::from_value(
        json!({"metadata": {"name": "db", "namespace": "ns", "uid": "set", "generation": 1}, "spec": spec}),
    )
    .unwrap()
}

/// A StatefulSet and what belongs to it, as the API server has it.
struct World {
    set: StatefulSet,
    pods: BTreeMap<String, Value>,
    revisions: BTreeMap<String, Value>,
    claims: BTreeMap<String, Value>,
    /// What was done, in order.
    log: Vec<String>,
    made: usize,
}

impl World {
    fn new(set: StatefulSet) -> World {
        World {
            set,
            pods: BTreeMap::new(),
            revisions: BTreeMap::new(),
            claims: BTreeMap::new(),
            log: Vec::new(),
            made: 0,
        }
    }

    fn sync(&mut self) -> bool {
        let read = |m: &BTreeMap<String, Value>| m.values().cloned().collect::<Vec<_>>();
        let pods: Vec<Pod> =
            read(&self.pods).into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
        let revisions: Vec<Revision> =
            read(&self.revisions).into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
        let claims: BTreeMap<String, Claim> = self
            .claims
            .iter()
            .map(|(k, v)| (k.clone(), serde_json::from_value(v.clone()).unwrap()))
            .collect();
        let find = |name: &str| claims.get(name);
        let p = plan(
            now(),
            &self.set,
            &pods.iter().collect::<Vec<_>>(),
            &revisions.iter().collect::<Vec<_>>(),
            &find,
        );
        let mut changed = p.status.is_some();
        match p.newest {
            Some(Newest::New(new)) => {
                let mut body = new.body;
                body["metadata"]["uid"] = json!(new.name);
                self.revisions.insert(new.name, body);
                changed = true;
            }
            Some(Newest::Again { name, revision, .. }) => {
                self.revisions.get_mut(&*name).unwrap()["revision"] = json!(revision);
                changed = true;
            }
            _ => {}
        }
        let put_claims = |all: &mut BTreeMap<String, Value>, made: &mut usize, new: Vec<(String, Value)>| {
            for (name, mut body) in new {
                *made += 1;
                body["metadata"]["uid"] = json!(format!("c{made}"));
                all.insert(name, body);
            }
        };
        for action in p.actions {
            changed = true;
            match action {
                Action::Create { name, claims, body } => {
                    put_claims(&mut self.claims, &mut self.made, claims);
                    let mut pod: Value = serde_json::from_str(&body).unwrap();
                    self.made += 1;
                    pod["metadata"]["uid"] = json!(format!("u{}", self.made));
                    pod["status"] = json!({"phase": "Pending"});
                    self.log.push(format!("+{name}"));
                    assert!(self.pods.insert(name, pod).is_none());
                }
                Action::CreateClaims { claims, .. } => put_claims(&mut self.claims, &mut self.made, claims),
                Action::Delete(pod) => {
                    self.log.push(format!("-{}", pod.name));
                    self.pods.get_mut(&*pod.name).unwrap()["metadata"]["deletionTimestamp"] =
                        json!(Time::of(now()));
                }
                Action::Label { pod, patch } => {
                    let labels = patch["metadata"]["labels"].as_object().unwrap().clone();
                    self.pods.get_mut(&*pod.name).unwrap()["metadata"]["labels"]
                        .as_object_mut()
                        .unwrap()
                        .extend(labels);
                }
                Action::OwnClaim { name, patch } => {
                    self.claims.get_mut(name).unwrap()["metadata"]["ownerReferences"] =
                        patch["metadata"]["ownerReferences"].clone();
                }
            }
        }
        for r in p.delete_revisions {
            changed = true;
            self.revisions.remove(&*r.meta.name);
        }
        if let Some(status) = p.status {
            self.set.status = status;
        }
        changed
    }

    fn ready(&mut self, name: &str) {
        let pod = self.pods.get_mut(name).unwrap();
        pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    }

    /// Pods that were deleted go, others become ready.
    fn kubelet(&mut self) {
        self.pods.retain(|_, p| !p["metadata"]["deletionTimestamp"].is_string());
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.ready(&name);
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let changed = self.sync();
            let before = self.pods.clone();
            self.kubelet();
            if !changed && self.pods == before {
                return;
            }
        }
        panic!("does not settle: {:?} {:#?}", self.log, self.set.status);
    }

    fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    fn image(&self, pod: &str) -> &str {
        self.pods[pod]["spec"]["containers"][0]["image"].as_str().unwrap()
    }
}

#[test]
fn pods_come_and_go_in_order() {
    let mut w = World::new(set(json!({"replicas": 3})));
    w.sync();
    w.sync();
    assert_eq!(w.take_log(), "+db-0", "the next one waits for the first to be ready");
    let pod = &w.pods["db-0"];
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-0"), &json!("svc")));
    assert_eq!(pod["metadata"]["labels"][POD_NAME], "db-0");
    assert_eq!(pod["metadata"]["labels"][POD_INDEX], "0");
    assert_eq!(pod["metadata"]["labels"][POD_REVISION], *w.revisions.keys().next().unwrap());
    w.settle();
    assert_eq!(w.take_log(), "+db-1 +db-2");
    let s = &w.set.status;
    assert_eq!(
        (s.replicas, s.ready_replicas, s.available_replicas, s.current_replicas, s.updated_replicas),
        (3, 3, 3, 3, 3)
    );
    w.set.replicas = 1;
    w.sync();
    w.sync();
    assert_eq!(w.take_log(), "-db-2", "the next one waits for the last to be gone");
    w.settle();
    assert_eq!(w.take_log(), "-db-1");
}

#[test]
fn parallel_ones_do_not_wait() {
    let mut w =
        World::new(set(json!({"replicas": 3, "podManagementPolicy": "Parallel", "ordinals": {"start": 5}})));
    w.sync();
    assert_eq!(w.take_log(), "+db-5 +db-6 +db-7");
    w.set.replicas = 1;
    w.sync();
    assert_eq!(w.take_log(), "-db-7 -db-6");
}

#[test]
fn updates_go_from_the_last_to_the_first() {
    let mut w = World::new(set(json!({"replicas": 3})));
    w.settle();
    w.take_log();
    w.set.template = Template::from_value(&template("v2"));
    w.sync();
    assert_ne!(w.set.status.current_revision, w.set.status.update_revision);
    assert_eq!((w.take_log().as_str(), w.set.status.current_replicas), ("-db-2", 2));
    w.settle();
    assert_eq!(w.take_log(), "+db-2 -db-1 +db-1 -db-0 +db-0");
    assert_eq!(w.set.status.current_revision, w.set.status.update_revision);
    assert_eq!(w.image("db-0"), "v2");
    // Back to the first template: its revision is found again, and is the newest.
    w.set.template = Template::from_value(&template("v1"));
    w.settle();
    assert_eq!(w.revisions.len(), 2);
    assert_eq!(w.revisions[&w.set.status.update_revision]["revision"], 3);
}

#[test]
fn a_partition_holds_the_others_back() {
    let mut w = World::new(set(
        json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
    ));
    w.settle();
    w.take_log();
    w.set.template = Template::from_value(&template("v2"));
    w.settle();
    assert_eq!(w.take_log(), "-db-2 +db-2");
    assert_eq!((w.image("db-0"), w.image("db-2")), ("v1", "v2"));
    // One that dies below comes back as it was.
    w.pods.remove("db-0");
    w.settle();
    assert_eq!(w.image("db-0"), "v1");
    assert_eq!((w.set.status.current_replicas, w.set.status.updated_replicas), (2, 1));
}

#[test]
fn several_may_be_missing_if_allowed() {
    let mut w = World::new(set(
        json!({"replicas": 4, "podManagementPolicy": "Parallel", "updateStrategy": {"rollingUpdate": {"partition": 0, "maxUnavailable": 2}}}),
    ));
    w.settle();
    w.take_log();
    w.set.template = Template::from_value(&template("v2"));
    w.sync();
    assert_eq!(w.take_log(), "-db-3 -db-2");
    w.sync();
    assert_eq!(w.take_log(), "");
    w.settle();
    assert_eq!(w.image("db-0"), "v2");
}

#[test]
fn on_delete_waits_for_somebody() {
    let mut w = World::new(set(json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"}})));
    w.settle();
    w.take_log();
    w.set.template = Template::from_value(&template("v2"));
    w.settle();
    assert_eq!(w.take_log(), "");
    w.pods.remove("db-0");
    w.settle();
    assert_eq!((w.image("db-0"), w.image("db-1")), ("v2", "v1"));
}

#[test]
fn a_pod_that_ended_is_replaced() {
    let mut w = World::new(set(json!({"replicas": 2})));
    w.settle();
    w.take_log();
    w.pods.get_mut("db-0").unwrap()["status"] = json!({"phase": "Failed"});
    w.sync();
    w.settle();
    assert_eq!(w.take_log(), "-db-0 +db-0");
}

#[test]
fn claims_are_made_kept_and_given_to_their_owners() {
    let claim = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}}]);
    let mut w = World::new(set(json!({"replicas": 2, "volumeClaimTemplates": claim})));
    w.settle();
    assert_eq!(w.claims.keys().collect::<Vec<_>>(), ["data-db-0", "data-db-1"]);
    assert_eq!(w.claims["data-db-0"]["metadata"]["labels"], json!({"app": "db"}));
    assert_eq!(
        w.pods["db-1"]["spec"]["volumes"],
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}])
    );
    w.set.replicas = 1;
    w.settle();
    assert_eq!((w.claims.len(), &w.claims["data-db-1"]["metadata"]["ownerReferences"]), (2, &Value::Null));

    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    let mut w = World::new(set(
        json!({"replicas": 2, "volumeClaimTemplates": claim, "persistentVolumeClaimRetentionPolicy": policy}),
    ));
    w.settle();
    let owner = |w: &World, name: &str| w.claims[name]["metadata"]["ownerReferences"][0]["kind"].clone();
    assert_eq!(owner(&w, "data-db-1"), "StatefulSet");
    w.set.replicas = 1;
    w.sync();
    assert_eq!((owner(&w, "data-db-0"), owner(&w, "data-db-1")), (json!("StatefulSet"), json!("Pod")));
    // Until the garbage collector has taken the claim, the pod does not come back.
    w.kubelet();
    w.take_log();
    w.set.replicas = 2;
    w.sync();
    assert_eq!(w.take_log(), "");
    w.claims.remove("data-db-1");
    w.settle();
    assert_eq!(w.take_log(), "+db-1");
}

#[test]
fn old_revisions_go() {
    let mut w = World::new(set(json!({"replicas": 1, "revisionHistoryLimit": 1})));
    for i in 0..5 {
        w.set.template = Template::from_value(&template(&format!("v{i}")));
        w.settle();
    }
    assert_eq!(w.revisions.len(), 2, "the current one, and one before");
}

#[test]
fn pods_that_are_none_of_its_are_left_alone() {
    let mut w = World::new(set(json!({"replicas": 1})));
    let foreign = json!({"metadata": {"name": "db-0", "uid": "x", "labels": {"app": "db"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "o", "controller": true}]}, "status": {"phase": "Running"}});
    let stranger = json!({"metadata": {"name": "web-7", "uid": "y", "labels": {"app": "db"}}, "status": {"phase": "Running"}});
    let pods: Vec<Pod> =
        [foreign, stranger].into_iter().map(|v| serde_json::from_value(v).unwrap()).collect();
    let p = plan(now(), &w.set, &pods.iter().collect::<Vec<_>>(), &[], &|_| None);
    assert!(p.adopt.is_empty() && p.release.is_empty());
    assert!(matches!(p.actions.as_slice(), [Action::Create { name, .. }] if name == "db-0"));
    w.set.meta.deleted = Some(Time(1));
    assert!(plan(now(), &w.set, &[], &[], &|_| None).actions.is_empty());
}

/// Whatever happens to pods: never two of one name, in order never more than one that is not ready, and the end is as
/// asked for.
#[test]
fn any_course_of_things_ends_as_asked_for() {
    for seed in 0..150_u64 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let parallel = rng.random_bool(0.3);
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        let mut w =
            World::new(set(json!({"replicas": rng.random_range(0..5), "podManagementPolicy": policy})));
        let mut image = 0;
        for _ in 0..80 {
            let names: Vec<String> = w.pods.keys().cloned().collect();
            let some = names.choose(&mut rng).cloned();
            match (rng.random_range(0..10), some) {
                (0, _) => w.set.replicas = rng.random_range(0..5),
                (1, _) => {
                    image = rng.random_range(0..3);
                    w.set.template = Template::from_value(&template(&format!("v{image}")));
                }
                (2, Some(name)) => w.pods.get_mut(&name).unwrap()["status"] = json!({"phase": "Failed"}),
                (3, Some(name)) => drop(w.pods.remove(&name)),
                (4 | 5, Some(name)) => {
                    if w.pods[&name]["metadata"]["deletionTimestamp"].is_string() {
                        w.pods.remove(&name);
                    } else if w.pods[&name]["status"]["phase"] == "Pending" {
                        w.ready(&name);
                    }
                }
                _ => drop(w.sync()),
            }
        }
        w.settle();
        let n = w.set.replicas;
        assert_eq!(w.pods.len(), usize::try_from(n).unwrap(), "seed {seed}");
        assert!(
            (0..n).all(|i| n == 0
                || image == 0 && w.image(&format!("db-{i}")) == "v1"
                || w.image(&format!("db-{i}")) == format!("v{image}")),
            "seed {seed}"
        );
        assert_eq!((w.set.status.ready_replicas, w.set.status.updated_replicas), (n, n), "seed {seed}");
    }
}
