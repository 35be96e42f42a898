//! What everything must be like once nothing happens any more.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;
use skep_base::TenantName;

use crate::world::{
    BUDGETS, CLAIMS, CRON_JOBS, DAEMON_SETS, DEPLOYMENTS, History, JOBS, NODES, PODS, REPLICA_SETS, SERVICES,
    SLICES, STATEFUL_SETS, controller, count, is_active, is_available, is_deleting, is_over, is_ready,
    owners, uid,
};

/// What is not yet as it must be.
pub(crate) fn wrong(history: &History, tenant: &TenantName) -> Vec<String> {
    let mut wrong = Vec::new();
    let look = Look { history, tenant };
    look.owners(&mut wrong);
    look.deployments(&mut wrong);
    look.replica_sets(&mut wrong);
    look.stateful_sets(&mut wrong);
    look.daemon_sets(&mut wrong);
    look.jobs(&mut wrong);
    look.cron_jobs(&mut wrong);
    look.nodes(&mut wrong);
    look.services(&mut wrong);
    look.budgets(&mut wrong);
    wrong
}

struct Look<'a> {
    history: &'a History,
    tenant: &'a TenantName,
}

fn observed(object: &Value) -> bool {
    count(object, "/status/observedGeneration") == count(object, "/metadata/generation")
}

/// Whether labels are what a selector with `matchLabels` only asks for.
fn selects(selector: &Value, object: &Value) -> bool {
    let Some(wanted) = selector.as_object() else { return false };
    wanted.iter().all(|(k, v)| object["metadata"]["labels"][k] == *v)
}

impl Look<'_> {
    fn all(&self, resource: &skep_client::Resource) -> Vec<&Value> {
        self.history.all(self.tenant, resource).map(|(_, o)| o).collect()
    }

    fn pods_of(&self, owner: &Value) -> Vec<&Value> {
        let pods = self.history.all(self.tenant, &PODS).map(|(_, p)| p);
        pods.filter(|p| controller(p) == Some(uid(owner))).collect()
    }

    /// Nobody has an owner that is gone, and nobody is still on its way out.
    fn owners(&self, wrong: &mut Vec<String>) {
        let there: BTreeSet<&str> =
            self.history.objects().filter(|(k, _)| k.tenant == *self.tenant).map(|(_, o)| uid(o)).collect();
        for (key, object) in self.history.objects().filter(|(k, _)| k.tenant == *self.tenant) {
            if is_deleting(object) {
                wrong.push(format!("{key} is still being deleted: {}", object["metadata"]["finalizers"]));
            }
            let mut named = owners(object).peekable();
            // Nodes and the like are not followed here.
            if named.peek().is_some() && !named.any(|o| there.contains(o["uid"].as_str().unwrap())) {
                wrong.push(format!("{key} is an orphan of {}", object["metadata"]["ownerReferences"]));
            }
        }
    }

    fn deployments(&self, wrong: &mut Vec<String>) {
        for deployment in self.all(&DEPLOYMENTS) {
            let name = deployment["metadata"]["name"].as_str().unwrap();
            let wanted = count(deployment, "/spec/replicas");
            let status = &deployment["status"];
            for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
                if count(status, &format!("/{field}")) != wanted {
                    wrong.push(format!("deployment {name}: {field} is not {wanted}: {status}"));
                }
            }
            if count(status, "/unavailableReplicas") != 0 || !observed(deployment) {
                wrong.push(format!("deployment {name}: {status}"));
            }
            let sets: Vec<&Value> = self
                .all(&REPLICA_SETS)
                .into_iter()
                .filter(|s| controller(s) == Some(uid(deployment)))
                .collect();
            let live: Vec<&&Value> = sets.iter().filter(|s| count(s, "/spec/replicas") != 0).collect();
            if live.len() > 1 {
                wrong.push(format!("deployment {name} has {} sets that want pods", live.len()));
            }
            let version = &deployment["spec"]["template"]["metadata"]["annotations"]["v"];
            for set in live {
                if set["spec"]["template"]["metadata"]["annotations"]["v"] != *version {
                    wrong.push(format!("deployment {name} runs another version than {version}"));
                }
            }
            let limit = count(deployment, "/spec/revisionHistoryLimit");
            if sets.len() as i64 > limit + 1 {
                wrong
                    .push(format!("deployment {name} keeps {} sets, more than {limit} old ones", sets.len()));
            }
            let revisions: BTreeSet<String> = sets
                .iter()
                .map(|s| s["metadata"]["annotations"]["deployment.kubernetes.io/revision"].to_string())
                .collect();
            if revisions.len() != sets.len() {
                wrong.push(format!("deployment {name} has revisions twice: {revisions:?}"));
            }
        }
    }

    fn replica_sets(&self, wrong: &mut Vec<String>) {
        for set in self.all(&REPLICA_SETS) {
            let name = set["metadata"]["name"].as_str().unwrap();
            let wanted = count(set, "/spec/replicas");
            let pods = self.pods_of(set);
            let active = pods.iter().filter(|p| is_active(p)).count() as i64;
            let ready = pods.iter().filter(|p| is_available(p)).count() as i64;
            let status = &set["status"];
            if active != wanted
                || count(status, "/replicas") != wanted
                || count(status, "/readyReplicas") != ready
                || count(status, "/availableReplicas") != ready
                || !observed(set)
            {
                wrong.push(format!(
                    "replica set {name} has {active} of {wanted} pods, {ready} ready: {status}"
                ));
            }
            // Those that it would take are taken.
            let loose = self.all(&PODS).into_iter().find(|p| {
                is_active(p) && controller(p).is_none() && selects(&set["spec"]["selector"]["matchLabels"], p)
            });
            if let Some(pod) = loose {
                wrong.push(format!("replica set {name} does not take the pod {}", pod["metadata"]["name"]));
            }
            // Those that have ended are nobody's concern.
            for pod in pods.into_iter().filter(|p| is_active(p)) {
                if !selects(&set["spec"]["selector"]["matchLabels"], pod) {
                    wrong.push(format!("replica set {name} does not let go of {}", pod["metadata"]["name"]));
                }
            }
        }
    }

    fn stateful_sets(&self, wrong: &mut Vec<String>) {
        for set in self.all(&STATEFUL_SETS) {
            let name = set["metadata"]["name"].as_str().unwrap();
            let wanted = count(set, "/spec/replicas");
            let start = count(set, "/spec/ordinals/start");
            let pods: BTreeMap<String, &Value> = self
                .pods_of(set)
                .into_iter()
                .map(|p| (p["metadata"]["name"].as_str().unwrap().to_owned(), p))
                .collect();
            let names: BTreeSet<String> = (start..start + wanted).map(|n| format!("{name}-{n}")).collect();
            let status = &set["status"];
            if pods.keys().cloned().collect::<BTreeSet<_>>() != names
                || !pods.values().all(|p| is_available(p))
            {
                wrong.push(format!(
                    "stateful set {name} should have {wanted} pods: {:?} {status}",
                    pods.keys()
                ));
                continue;
            }
            let partition = count(set, "/spec/updateStrategy/rollingUpdate/partition");
            let version = &set["spec"]["template"]["metadata"]["annotations"]["v"];
            for (n, pod) in
                (start..start + wanted).filter_map(|n| Some((n, pods.get(&format!("{name}-{n}"))?)))
            {
                if n >= partition && pod["metadata"]["annotations"]["v"] != *version {
                    wrong.push(format!("stateful set {name}: pod {n} is not of version {version}"));
                }
                for template in set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
                    let claim = format!("{}-{name}-{n}", template["metadata"]["name"].as_str().unwrap());
                    if self.history.get(self.tenant, &CLAIMS, &claim).is_none() {
                        wrong.push(format!("stateful set {name}: the claim {claim} is missing"));
                    }
                }
            }
            for field in ["replicas", "readyReplicas", "availableReplicas"] {
                if count(status, &format!("/{field}")) != wanted {
                    wrong.push(format!("stateful set {name}: {field} is not {wanted}: {status}"));
                }
            }
            if !observed(set) || (partition == 0 && status["currentRevision"] != status["updateRevision"]) {
                wrong.push(format!("stateful set {name}: {status}"));
            }
            // Claims of replicas that are not wanted are as the policy says.
            if set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Delete" {
                for (claim, _) in self.history.all(self.tenant, &CLAIMS) {
                    let ordinal =
                        claim.strip_prefix(&format!("data-{name}-")).and_then(|n| n.parse::<i64>().ok());
                    if ordinal.is_some_and(|n| n < start || n >= start + wanted) {
                        wrong.push(format!("stateful set {name}: the claim {claim} should be gone"));
                    }
                }
            }
        }
    }

    fn daemon_sets(&self, wrong: &mut Vec<String>) {
        for set in self.all(&DAEMON_SETS) {
            let name = set["metadata"]["name"].as_str().unwrap();
            let selector = &set["spec"]["template"]["spec"]["nodeSelector"];
            let nodes: BTreeSet<&str> = self
                .all(&NODES)
                .into_iter()
                .filter(|n| selector.is_null() || selects(selector, n))
                .map(|n| n["metadata"]["name"].as_str().unwrap())
                .collect();
            let mut on: Vec<&str> = Vec::new();
            let version = &set["spec"]["template"]["metadata"]["annotations"]["v"];
            for pod in self.pods_of(set) {
                on.push(pod["spec"]["nodeName"].as_str().unwrap_or("nowhere"));
                if !is_available(pod) {
                    wrong.push(format!("daemon set {name}: {} is not ready", pod["metadata"]["name"]));
                }
                if pod["metadata"]["annotations"]["v"] != *version {
                    wrong.push(format!("daemon set {name}: {} is old", pod["metadata"]["name"]));
                }
            }
            on.sort_unstable();
            if on != nodes.iter().copied().collect::<Vec<_>>() {
                wrong.push(format!("daemon set {name} is on {on:?} and should be on {nodes:?}"));
            }
            let status = &set["status"];
            for field in [
                "currentNumberScheduled",
                "desiredNumberScheduled",
                "numberReady",
                "updatedNumberScheduled",
                "numberAvailable",
            ] {
                if count(status, &format!("/{field}")) != nodes.len() as i64 {
                    wrong.push(format!("daemon set {name}: {field} is not {}: {status}", nodes.len()));
                }
            }
            if count(status, "/numberMisscheduled") != 0 || !observed(set) {
                wrong.push(format!("daemon set {name}: {status}"));
            }
        }
    }

    fn jobs(&self, wrong: &mut Vec<String>) {
        for job in self.all(&JOBS) {
            let name = job["metadata"]["name"].as_str().unwrap();
            let status = &job["status"];
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let is = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
            let ended = is("Complete") || is("Failed");
            if !ended {
                wrong.push(format!("job {name} has not ended: {status}"));
            }
            if count(status, "/active") != 0 || count(status, "/terminating") != 0 {
                wrong.push(format!("job {name} has active pods: {status}"));
            }
            for pod in self.pods_of(job) {
                let held = pod["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
                if held || !is_over(pod) {
                    wrong.push(format!("job {name}: its pod {} is not let go", pod["metadata"]["name"]));
                }
            }
            if !job["spec"]["ttlSecondsAfterFinished"].is_null() && ended {
                wrong.push(format!("job {name} has ended and should be gone"));
            }
            if is("Complete") && count(status, "/succeeded") != count(job, "/spec/completions") {
                wrong.push(format!("job {name} is complete without enough successes: {status}"));
            }
        }
    }

    fn cron_jobs(&self, wrong: &mut Vec<String>) {
        for cron in self.all(&CRON_JOBS) {
            let name = cron["metadata"]["name"].as_str().unwrap();
            let (status, time) = (&cron["status"], |t: &Value| t.as_str().and_then(|t| t.parse().ok()));
            let last: Option<Timestamp> = time(&status["lastScheduleTime"]);
            let made: Timestamp = time(&cron["metadata"]["creationTimestamp"]).unwrap();
            // Every minute, and what is missed is made up for once.
            let minute = Timestamp::now().as_second() / 60 * 60;
            let due = last.unwrap_or(made).as_second() < minute;
            if due && cron["spec"]["suspend"] != true {
                wrong.push(format!("cron job {name} has not done what was due: {status}"));
            }
            let jobs: Vec<&Value> =
                self.all(&JOBS).into_iter().filter(|j| controller(j) == Some(uid(cron))).collect();
            let of = |kind: &str| {
                let is = |job: &Value| {
                    let conditions = job["status"]["conditions"].as_array();
                    conditions
                        .is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == "True"))
                };
                jobs.iter().filter(|j| is(j)).count() as i64
            };
            for (kind, limit) in
                [("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")]
            {
                let limit = count(cron, &format!("/spec/{limit}"));
                if of(kind) > limit {
                    wrong.push(format!(
                        "cron job {name} keeps {} jobs that are {kind}, more than {limit}",
                        of(kind)
                    ));
                }
            }
            if status["active"].as_array().is_some_and(|all| !all.is_empty()) {
                wrong.push(format!("cron job {name} has active jobs, and all have ended: {status}"));
            }
        }
    }

    /// What is well is no longer said to be unwell.
    fn nodes(&self, wrong: &mut Vec<String>) {
        for node in self.all(&NODES) {
            if node["spec"]["taints"].as_array().is_some_and(|t| !t.is_empty()) {
                wrong.push(format!(
                    "node {} has taints: {}",
                    node["metadata"]["name"], node["spec"]["taints"]
                ));
            }
        }
    }

    fn services(&self, wrong: &mut Vec<String>) {
        for service in self.all(&SERVICES) {
            let name = service["metadata"]["name"].as_str().unwrap();
            let selector = &service["spec"]["selector"];
            if selector.is_null() {
                continue;
            }
            let expected: BTreeMap<&str, bool> = self
                .all(&PODS)
                .into_iter()
                .filter(|p| !is_over(p) && selects(selector, p))
                .filter_map(|p| Some((p["status"]["podIP"].as_str()?, is_ready(p) && !is_deleting(p))))
                .collect();
            let mut found: BTreeMap<&str, bool> = BTreeMap::new();
            for slice in self.all(&SLICES) {
                if slice["metadata"]["labels"]["kubernetes.io/service-name"] != *name {
                    continue;
                }
                for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                    let address = endpoint["addresses"][0].as_str().unwrap();
                    if found.insert(address, endpoint["conditions"]["ready"] == true).is_some() {
                        wrong.push(format!("service {name} has {address} twice"));
                    }
                }
            }
            if found != expected {
                wrong.push(format!("service {name} leads to {found:?} and should to {expected:?}"));
            }
        }
    }

    fn budgets(&self, wrong: &mut Vec<String>) {
        for budget in self.all(&BUDGETS) {
            let name = budget["metadata"]["name"].as_str().unwrap();
            let selector = &budget["spec"]["selector"]["matchLabels"];
            // Those that have ended count as expected too.
            let pods: Vec<&Value> = self.all(&PODS).into_iter().filter(|p| selects(selector, p)).collect();
            let healthy = pods.iter().filter(|p| is_available(p)).count() as i64;
            let allowed = (healthy - count(budget, "/spec/minAvailable")).max(0);
            let status = &budget["status"];
            if count(status, "/currentHealthy") != healthy
                || count(status, "/disruptionsAllowed") != allowed
                || count(status, "/expectedPods") != pods.len() as i64
                || !observed(budget)
            {
                wrong.push(format!("budget {name}: {healthy} of {} are healthy: {status}", pods.len()));
            }
        }
    }
}
