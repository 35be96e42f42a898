use std::collections::BTreeMap;

use k8s_openapi::ListableResource;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{ConfigMap, Event, PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skep_api::Object;
use skep_base::{GroupResource, TenantName};

use super::*;
use crate::testing::{Bare, Request, World};

fn quota(name: &str, spec: Value, used: Value) -> String {
    let hard = spec["hard"].clone();
    json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": {"hard": hard, "used": used}})
        .to_string()
}

fn world(spec: Value, used: Value) -> World {
    let mut world = World::new();
    world.put("", "resourcequotas", &quota("q", spec, used));
    world
}

/// Charges a change and settles it against the same world: the new usage by quota, or the refusal.
fn run<T>(request: &Request, old: Option<&Value>, new: Option<&Value>) -> Result<Vec<(String, Value)>, String>
where
    T: ListableResource<Scope: 'static>
        + Metadata<Ty = ObjectMeta>
        + Clone
        + PartialEq
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let object = |v: Option<&Value>| v.map(|v| Bare::<T>(serde_json::from_value(v.clone()).unwrap()));
    let (old, new) = (object(old), object(new));
    let old = old.as_ref().map(|o| o as &dyn Object);
    let new = new.as_ref().map(|o| o as &dyn Object);
    let charged = request.review::<T, _>("x", old, |r| charges(r, new)).map_err(|r| r.message)?;
    let read = |key: &Key| {
        request.world.0.get(&(key.resource.clone(), key.namespace.to_string(), key.name.to_string()))
    };
    let settled = settle(&charged, read).map_err(|r| r.message)?;
    assert_eq!(charged.is_empty(), settled.is_empty());
    Ok(settled
        .into_iter()
        .map(|(key, account)| {
            let used = match account {
                Account::Namespace(q) => serde_json::to_value(q.status.unwrap().used).unwrap(),
                Account::Tenant(t) => serde_json::to_value(t.status.used).unwrap(),
            };
            (key.name.to_string(), used)
        })
        .collect())
}

fn pod(requests: Value, limits: Value) -> Value {
    json!({"metadata": {"name": "x"}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": requests, "limits": limits}}]}})
}

#[test]
fn what_no_quota_is_about_costs_nothing() {
    let map = json!({"metadata": {"name": "x"}});
    assert_eq!(run::<ConfigMap>(&Request::create(World::new()), None, Some(&map)).unwrap(), []);
    let world = || world(json!({"hard": {"pods": "1"}}), json!({"pods": "0"}));
    assert_eq!(run::<ConfigMap>(&Request::create(world()), None, Some(&map)).unwrap(), []);
    // Whatever a quota says of others, it is only decoded when it may be about this kind.
    let mut odd = World::new();
    odd.0.insert((GroupResource::new("", "resourcequotas"), "ns".into(), "q".into()), "not JSON".into());
    assert_eq!(run::<ConfigMap>(&Request::create(odd), None, Some(&map)).unwrap(), []);
    let counting = self::world(json!({"hard": {"configmaps": "1"}}), json!({"configmaps": "0"}));
    assert_eq!(
        run::<ConfigMap>(&Request::create(counting), None, Some(&map)).unwrap()[0].1,
        json!({"configmaps": "1"})
    );
    let world = || self::world(json!({"hard": {"count/events": "0"}}), json!({"count/events": "0"}));
    let event = json!({"metadata": {"name": "x"}, "involvedObject": {}});
    assert_eq!(run::<Event>(&Request::create(world()), None, Some(&event)).unwrap(), []);
}

#[test]
fn pods_are_charged_given_back_and_refused() {
    let hard = json!({"hard": {"pods": "2", "requests.cpu": "1", "limits.memory": "1Gi", "count/pods": "5"}});
    let used = json!({"pods": "1", "requests.cpu": "500m", "limits.memory": "512Mi", "count/pods": "1"});
    let request = Request::create(world(hard.clone(), used.clone()));
    let fits = pod(json!({"cpu": "250m", "memory": "1"}), json!({"memory": "512Mi"}));
    let after = json!({"pods": "2", "requests.cpu": "750m", "limits.memory": "1Gi", "count/pods": "2"});
    assert_eq!(run::<Pod>(&request, None, Some(&fits)).unwrap(), [("q".to_owned(), after.clone())]);
    let full = Request::create(world(hard.clone(), after.clone()));
    assert_eq!(
        run::<Pod>(&full, None, Some(&fits)).unwrap_err(),
        "pods \"x\" is forbidden: exceeded quota: q, requested: limits.memory=512Mi,pods=1, used: \
         limits.memory=1Gi,pods=2, limited: limits.memory=1Gi,pods=2"
    );
    let gone = Request::delete(world(hard.clone(), after.clone()));
    assert_eq!(run::<Pod>(&gone, Some(&fits), None).unwrap(), [("q".to_owned(), used)]);
    // A pod that has ended keeps only its place in storage.
    let mut ended = fits.clone();
    ended["status"] = json!({"phase": "Succeeded"});
    let mut request = Request::update(world(hard, after));
    request.subresource = "status";
    let left = json!({"pods": "1", "requests.cpu": "500m", "limits.memory": "512Mi", "count/pods": "2"});
    assert_eq!(run::<Pod>(&request, Some(&fits), Some(&ended)).unwrap(), [("q".to_owned(), left)]);
}

#[test]
fn quotas_of_cpu_and_memory_demand_figures() {
    let request = Request::create(world(
        json!({"hard": {"cpu": "1", "limits.memory": "1Gi"}}),
        json!({"cpu": "0", "limits.memory": "0"}),
    ));
    let pod = json!({"metadata": {"name": "x"}, "spec": {
        "containers": [{"name": "b"}, {"name": "a"}],
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1"}}}]}});
    assert_eq!(
        run::<Pod>(&request, None, Some(&pod)).unwrap_err(),
        "pods \"x\" is forbidden: failed quota: q: must specify cpu for: a,b; limits.memory for: a,b,i"
    );
    let mut whole = pod;
    whole["spec"]["resources"] = json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}});
    assert_eq!(
        run::<Pod>(&request, None, Some(&whole)).unwrap()[0].1,
        json!({"cpu": "1", "limits.memory": "1Gi"})
    );
}

#[test]
fn a_quota_that_has_not_counted_yet_refuses() {
    let request =
        Request::create(world(json!({"hard": {"pods": "1", "count/pods": "1"}}), json!({"pods": "0"})));
    assert_eq!(
        run::<Pod>(&request, None, Some(&pod(json!({}), json!({})))).unwrap_err(),
        "pods \"x\" is forbidden: status unknown for quota: q, resources: count/pods,pods"
    );
}

#[test]
fn pods_add_up_with_init_containers_sidecars_overhead_and_resizes() {
    let c = |cpu: &str| json!({"name": format!("c{cpu}"), "resources": {"requests": {"cpu": cpu}}});
    let mut sidecar = c("1");
    sidecar["restartPolicy"] = json!("Always");
    let resized = |allocated: &str, conditions: Value| {
        json!({"metadata": {"name": "x"}, "spec": {"containers": [c("2")]}, "status": {
            "conditions": conditions,
            "containerStatuses": [{"name": "c2", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "resources": {"requests": {"cpu": "1"}}, "allocatedResources": {"cpu": allocated}}]}})
    };
    let infeasible = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
    let table = [
        (json!({"metadata": {}, "spec": {"containers": [c("1"), c("2")]}}), "3"),
        (json!({"metadata": {}, "spec": {"containers": [c("1")], "initContainers": [c("4"), c("5")]}}), "5"),
        (json!({"metadata": {}, "spec": {"containers": [c("1")], "initContainers": [sidecar, c("4")]}}), "5"),
        (json!({"metadata": {}, "spec": {"containers": [c("3")], "initContainers": [c("4"), sidecar]}}), "4"),
        (json!({"metadata": {}, "spec": {"containers": [c("1")], "overhead": {"cpu": "100m"}}}), "1100m"),
        (
            json!({"metadata": {}, "spec": {"containers": [c("1")], "overhead": {"cpu": "1"},
                "resources": {"requests": {"cpu": "7"}}}}),
            "8",
        ),
        (resized("3", json!([])), "3"),
        (resized("1", json!([])), "2"),
        (resized("1", infeasible), "1"),
    ];
    let request =
        Request::create(world(json!({"hard": {"requests.cpu": "100"}}), json!({"requests.cpu": "0"})));
    for (pod, want) in table {
        assert_eq!(run::<Pod>(&request, None, Some(&pod)).unwrap()[0].1["requests.cpu"], want, "{pod}");
    }
}

#[test]
fn huge_pages_and_devices_are_counted_as_requests() {
    let names = ["hugepages-2Mi", "requests.hugepages-2Mi", "requests.example.com/gpu"];
    let hard: BTreeMap<_, _> = names.iter().map(|n| (*n, "8Mi")).collect();
    let used: BTreeMap<_, _> = names.iter().map(|n| (*n, "0")).collect();
    let request = Request::create(world(json!({"hard": hard}), json!(used)));
    let asks = pod(json!({"hugepages-2Mi": "4Mi", "example.com/gpu": "2"}), json!({}));
    assert_eq!(
        run::<Pod>(&request, None, Some(&asks)).unwrap()[0].1,
        json!({"hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi", "requests.example.com/gpu": "2"})
    );
}

#[test]
fn scopes_pick_pods() {
    let base = pod(json!({}), json!({}));
    let with = |path: &str, value: Value| {
        let mut p = base.clone();
        *p.pointer_mut("/spec").unwrap().as_object_mut().unwrap().entry(path).or_insert(Value::Null) = value;
        p
    };
    let deadline = with("activeDeadlineSeconds", json!(1));
    let burst = pod(json!({"cpu": "1"}), json!({}));
    let high = with("priorityClassName", json!("high"));
    let term = json!({"topologyKey": "k", "namespaces": ["other"]});
    let cross = with(
        "affinity",
        json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": term}]}}),
    );
    let near = with(
        "affinity",
        json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k"}]}}),
    );
    let scope = |s: &str| json!({"hard": {"count/pods": "9"}, "scopes": [s]});
    let selector = |op: &str, values: Value| {
        json!({"hard": {"count/pods": "9"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": op, "values": values}]}})
    };
    let table = [
        (scope("Terminating"), &deadline, true),
        (scope("Terminating"), &base, false),
        (scope("NotTerminating"), &base, true),
        (scope("NotTerminating"), &deadline, false),
        (scope("BestEffort"), &base, true),
        (scope("BestEffort"), &burst, false),
        (scope("NotBestEffort"), &burst, true),
        (scope("NotBestEffort"), &base, false),
        (scope("CrossNamespacePodAffinity"), &cross, true),
        (scope("CrossNamespacePodAffinity"), &near, false),
        (scope("PriorityClass"), &high, true),
        (scope("PriorityClass"), &base, false),
        (selector("In", json!(["high", "low"])), &high, true),
        (selector("In", json!(["low"])), &high, false),
        (selector("NotIn", json!(["low"])), &high, true),
        (selector("NotIn", json!(["low"])), &base, true),
        (selector("DoesNotExist", json!(null)), &base, true),
        (selector("DoesNotExist", json!(null)), &high, false),
        (scope("VolumeAttributesClass"), &base, false),
    ];
    for (spec, pod, charged) in table {
        let request = Request::create(world(spec.clone(), json!({"count/pods": "0"})));
        let settled = run::<Pod>(&request, None, Some(pod)).unwrap();
        assert_eq!(!settled.is_empty(), charged, "{spec} {pod}");
    }
    // A change of scope moves the pod from one quota to the other.
    let mut both = World::new();
    both.put("", "resourcequotas", &quota("long", scope("NotTerminating"), json!({"count/pods": "1"})));
    both.put("", "resourcequotas", &quota("short", scope("Terminating"), json!({"count/pods": "0"})));
    let settled = run::<Pod>(&Request::update(both), Some(&base), Some(&deadline)).unwrap();
    assert_eq!(
        settled,
        [("long".to_owned(), json!({"count/pods": "0"})), ("short".to_owned(), json!({"count/pods": "1"}))]
    );
}

#[test]
fn services_count_ports_and_balancers() {
    let names = ["services", "services.nodeports", "services.loadbalancers", "count/services"];
    let zero: BTreeMap<_, _> = names.iter().map(|n| (*n, "0")).collect();
    let hard: BTreeMap<_, _> = names.iter().map(|n| (*n, "9")).collect();
    let service = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
    let table = [
        (json!({"ports": [{"port": 1}]}), ["1", "0", "0", "1"]),
        (json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}), ["1", "2", "0", "1"]),
        (json!({"type": "LoadBalancer", "ports": [{"port": 1}]}), ["1", "1", "1", "1"]),
        (
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [{"port": 1, "nodePort": 30000}, {"port": 2}]}),
            ["1", "1", "1", "1"],
        ),
    ];
    for (spec, want) in table {
        let request = Request::create(world(json!({"hard": hard}), json!(zero)));
        let settled = run::<Service>(&request, None, Some(&service(spec.clone()))).unwrap();
        for (name, want) in names.iter().zip(want) {
            assert_eq!(settled[0].1[*name], want, "{spec} {name}");
        }
    }
    let request = Request::update(world(
        json!({"hard": {"services.nodeports": "1"}}),
        json!({"services.nodeports": "0"}),
    ));
    let (from, to) = (
        json!({"ports": [{"port": 1}, {"port": 2}]}),
        json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}),
    );
    assert_eq!(
        run::<Service>(&request, Some(&service(from)), Some(&service(to))).unwrap_err(),
        "services \"x\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: \
         services.nodeports=0, limited: services.nodeports=1"
    );
}

#[test]
fn claims_count_storage_by_class_too() {
    let names = [
        "persistentvolumeclaims",
        "requests.storage",
        "gold.storageclass.storage.k8s.io/requests.storage",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims",
        "tin.storageclass.storage.k8s.io/requests.storage",
    ];
    let zero: BTreeMap<_, _> = names.iter().map(|n| (*n, "0")).collect();
    let hard: BTreeMap<_, _> = names.iter().map(|n| (*n, "10Gi")).collect();
    let request = Request::create(world(json!({"hard": hard}), json!(zero)));
    let claim = json!({"metadata": {"name": "x"}, "spec": {
        "storageClassName": "gold", "resources": {"requests": {"storage": "5Gi"}}}});
    assert_eq!(
        run::<PersistentVolumeClaim>(&request, None, Some(&claim)).unwrap()[0].1,
        json!({"persistentvolumeclaims": "1", "requests.storage": "5Gi",
            "gold.storageclass.storage.k8s.io/requests.storage": "5Gi",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "tin.storageclass.storage.k8s.io/requests.storage": "0"})
    );
    let mut growing = claim.clone();
    growing["status"] = json!({"allocatedResources": {"storage": "7Gi"}});
    let request = Request::create(world(
        json!({"hard": {"requests.storage": "6Gi"}}),
        json!({"requests.storage": "0"}),
    ));
    assert!(
        run::<PersistentVolumeClaim>(&request, None, Some(&growing))
            .unwrap_err()
            .contains("requested: requests.storage=7Gi")
    );
    let scoped = |op: &str| {
        json!({"hard": {"requests.storage": "9Gi"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": "VolumeAttributesClass", "operator": op, "values": ["slow"]}]}})
    };
    let mut slow = claim;
    slow["spec"]["volumeAttributesClassName"] = json!("slow");
    for (op, charged) in [("In", true), ("NotIn", false)] {
        let request = Request::create(world(scoped(op), json!({"requests.storage": "0"})));
        assert_eq!(!run::<PersistentVolumeClaim>(&request, None, Some(&slow)).unwrap().is_empty(), charged);
    }
}

#[test]
fn a_quota_that_goes_does_not_charge_itself() {
    let spec = json!({"hard": {"resourcequotas": "2"}});
    let mut w = world(spec.clone(), json!({"resourcequotas": "1"}));
    w.put("", "resourcequotas", &quota("x", spec, json!({"resourcequotas": "1"})));
    let own = json!({"metadata": {"name": "x"}});
    let settled = run::<ResourceQuota>(&Request::delete(w), Some(&own), None).unwrap();
    assert_eq!(settled, [("q".to_owned(), json!({"resourcequotas": "0"}))]);
}

fn tenant_world(hard: Value, used: Value) -> World {
    let mut world = World::new();
    let usage = json!({"metadata": {"name": "tenant"}, "spec": {"hard": hard}, "status": {"used": used}});
    world.put("tenancy.skep.io", "tenantusages", &usage.to_string());
    world
}

#[test]
fn the_tenants_quota_covers_everything_it_has() {
    let request = Request::create(tenant_world(
        json!({"requests.cpu": "1", "count/objects": "10", "bandwidth": "1G"}),
        json!({"requests.cpu": "0", "count/objects": "9", "bandwidth": "0"}),
    ));
    let map = json!({"metadata": {"name": "x"}});
    let settled = run::<ConfigMap>(&request, None, Some(&map)).unwrap();
    assert_eq!(
        settled,
        [("tenant".to_owned(), json!({"requests.cpu": "0", "count/objects": "10", "bandwidth": "0"}))]
    );
    assert_eq!(
        run::<Pod>(&request, None, Some(&pod(json!({"cpu": "2"}), json!({})))).unwrap_err(),
        "pods \"x\" is forbidden: exceeded quota: tenant, requested: requests.cpu=2, used: requests.cpu=0, limited: requests.cpu=1"
    );
    // Cluster-scoped objects count, and no figures are demanded.
    let node = json!({"metadata": {"name": "x"}});
    assert!(run::<k8s_openapi::api::core::v1::Node>(&request, None, Some(&node)).is_ok());
    assert!(run::<Pod>(&request, None, Some(&pod(json!({}), json!({})))).is_ok());
}

#[test]
fn settling_decides_on_what_is_there_then() {
    let request = Request::create(world(json!({"hard": {"pods": "1"}}), json!({"pods": "0"})));
    let pod = Bare::<Pod>(serde_json::from_value(self::pod(json!({}), json!({}))).unwrap());
    let charged = request.review::<Pod, _>("x", None, |r| charges(r, Some(&pod))).unwrap();
    assert_eq!(charged.keys().count(), 1);
    let full = quota("q", json!({"hard": {"pods": "1"}}), json!({"pods": "1"}));
    let refusal = settle(&charged, |_| Some(full.clone())).unwrap_err();
    assert!(refusal.message.contains("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"));
    assert_eq!(settle(&charged, |_| None::<Vec<u8>>).unwrap(), []);
}

/// One random write.
#[derive(Clone, Debug)]
enum Write {
    Create { slot: usize, cpu_m: u32, class: bool, deadline: bool },
    Resize { slot: usize, cpu_m: u32 },
    End { slot: usize },
    Delete { slot: usize },
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        3 => (0..6usize, 0..900u32, any::<bool>(), any::<bool>())
            .prop_map(|(slot, cpu_m, class, deadline)| Write::Create { slot, cpu_m, class, deadline }),
        2 => (0..6usize, 0..900u32).prop_map(|(slot, cpu_m)| Write::Resize { slot, cpu_m }),
        1 => (0..6usize).prop_map(|slot| Write::End { slot }),
        2 => (0..6usize).prop_map(|slot| Write::Delete { slot }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// However pods come, change and go, every quota says what a recount says, and none is overshot.
    #[test]
    fn quotas_always_say_what_a_recount_says(writes in prop::collection::vec(write(), 1..60)) {
        let mut world = World::new();
        let all = json!({"hard": {"pods": "4", "requests.cpu": "1500m", "count/pods": "5"}});
        let classed = json!({"hard": {"pods": "2"}, "scopes": ["PriorityClass"]});
        let short = json!({"hard": {"requests.cpu": "800m"}, "scopes": ["Terminating"]});
        world.put("", "resourcequotas", &quota("all", all, json!({"pods": "0", "requests.cpu": "0", "count/pods": "0"})));
        world.put("", "resourcequotas", &quota("classed", classed, json!({"pods": "0"})));
        world.put("", "resourcequotas", &quota("short", short, json!({"requests.cpu": "0"})));
        let usage = json!({"metadata": {"name": "tenant"}, "spec": {"hard": {"count/objects": "5", "requests.cpu": "2"}},
            "status": {"used": {"count/objects": "0", "requests.cpu": "0"}}});
        world.put("tenancy.skep.io", "tenantusages", &usage.to_string());
        let mut request = Request::create(world);
        let mut pods: BTreeMap<usize, Value> = BTreeMap::new();
        for write in writes {
            request.subresource = "";
            let (slot, old, new) = match write {
                Write::Create { slot, cpu_m, class, deadline } => {
                    if pods.contains_key(&slot) { continue }
                    request.operation = Operation::Create;
                    let mut p = pod(json!({"cpu": format!("{cpu_m}m")}), json!({}));
                    if class { p["spec"]["priorityClassName"] = json!("c") }
                    if deadline { p["spec"]["activeDeadlineSeconds"] = json!(5) }
                    (slot, None, Some(p))
                }
                Write::Resize { slot, cpu_m } => {
                    let Some(old) = pods.get(&slot) else { continue };
                    request.operation = Operation::Update;
                    request.subresource = "resize";
                    let mut p = old.clone();
                    p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!(format!("{cpu_m}m"));
                    (slot, Some(old.clone()), Some(p))
                }
                Write::End { slot } => {
                    let Some(old) = pods.get(&slot) else { continue };
                    request.operation = Operation::Update;
                    request.subresource = "status";
                    let mut p = old.clone();
                    p["status"] = json!({"phase": "Failed"});
                    (slot, Some(old.clone()), Some(p))
                }
                Write::Delete { slot } => {
                    let Some(old) = pods.get(&slot) else { continue };
                    request.operation = Operation::Delete;
                    (slot, Some(old.clone()), None)
                }
            };
            let before = request.world.0.clone();
            match run::<Pod>(&request, old.as_ref(), new.as_ref()) {
                Ok(settled) => {
                    for (name, used) in settled {
                        let tenant = name == "tenant";
                        let resource = if tenant {
                            GroupResource::new("tenancy.skep.io", "tenantusages")
                        } else {
                            GroupResource::new("", "resourcequotas")
                        };
                        let key = (resource, if tenant { "" } else { "ns" }.to_owned(), name);
                        let stored = request.world.0.get_mut(&key).unwrap();
                        let mut tree: Value = serde_json::from_str(stored).unwrap();
                        tree["status"]["used"] = used;
                        *stored = tree.to_string();
                    }
                    match new {
                        Some(p) => { pods.insert(slot, p); }
                        None => { pods.remove(&slot); }
                    }
                }
                Err(why) => {
                    prop_assert!(new.is_some(), "a deletion is never refused: {why}");
                    prop_assert_eq!(&before, &request.world.0);
                }
            }
            for ((resource, _, name), json) in &request.world.0 {
                let (mut recount, used, hard) = if resource.resource() == "resourcequotas" {
                    let q: ResourceQuota = serde_json::from_str(json).unwrap();
                    let status = q.status.clone().unwrap();
                    (Recount::of_quota(&q), status.used.unwrap(), status.hard.unwrap())
                } else if resource.resource() == "tenantusages" {
                    let t: TenantUsage = serde_json::from_str(json).unwrap();
                    (Recount::of_tenant(&t), t.status.used, t.spec.hard)
                } else {
                    continue
                };
                for p in pods.values() {
                    let p = Bare::<Pod>(serde_json::from_value(p.clone()).unwrap());
                    recount.add(&GroupResource::new("", "pods"), &p);
                }
                prop_assert_eq!(&recount.tenant_status().used, &used, "{}", name);
                for (resource, used) in &used {
                    prop_assert!(amounts::parse(used) <= amounts::parse(&hard[resource]), "{} {}", name, resource);
                }
            }
        }
    }
}

#[test]
fn the_resources_that_a_recount_needs() {
    let of = |hard: Value| {
        let q: ResourceQuota =
            serde_json::from_value(json!({"metadata": {}, "spec": {"hard": hard}})).unwrap();
        Recount::of_quota(&q).resources().map(|r| r.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let hard = json!({"requests.example.com/gpu": "1", "limits.cpu": "1", "secrets": "1", "services.nodeports": "1",
        "count/deployments.apps": "1", "a.storageclass.storage.k8s.io/requests.storage": "1", "bandwidth": "1"});
    let mut want =
        ["deployments.apps", "persistentvolumeclaims", "pods", "secrets", "services"].map(str::to_owned);
    let mut found = of(hard).unwrap();
    found.sort();
    want.sort();
    assert_eq!(found, want);
    assert_eq!(of(json!({"count/objects": "1"})).unwrap(), [""; 0]);
    let tenant =
        json!({"metadata": {"name": "acme"}, "spec": {"quota": {"count/objects": "1", "pods": "1"}}});
    let usage = TenantUsage::granted(&serde_json::from_value(tenant).unwrap()).unwrap();
    assert_eq!(Recount::of_tenant(&usage).resources(), None);
    let free = json!({"metadata": {"name": "acme"}, "spec": {"quota": {}}});
    assert!(TenantUsage::granted(&serde_json::from_value(free).unwrap()).is_none());
}

#[test]
fn the_usage_object_is_an_ordinary_kind() {
    let usage: TenantUsage =
        serde_json::from_value(json!({"metadata": {"name": "tenant"}, "spec": {"hard": {"cpu": "1"}}}))
            .unwrap();
    let encoded = Object::encode(&usage).unwrap();
    let text = String::from_utf8(encoded.body).unwrap();
    assert!(text.starts_with(
        r#"{"kind":"TenantUsage","apiVersion":"tenancy.skep.io/v1","metadata":{"resourceVersion":"","#
    ));
    assert!(text.ends_with(r#""spec":{"hard":{"cpu":"1"}},"status":{}}"#), "{text}");
    let key = TenantUsage::key(&TenantName::new("acme").unwrap());
    assert_eq!(key.to_string(), "acme/tenantusages.tenancy.skep.io/tenant");
}
