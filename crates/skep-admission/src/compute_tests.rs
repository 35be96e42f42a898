use serde_json::json;
use skep_api::UserInfo;
use skep_api::compute::{Host, Machine, NodePool};

use crate::testing::{Request, World};
use crate::{Operation, mutate, validate};

fn machine(host: &str) -> Machine {
    serde_json::from_value(json!({
        "metadata": {"name": "m"},
        "spec": {"flavorName": "small", "hostName": host, "resources": {"cpu": "1", "memory": "1Gi"}},
    }))
    .unwrap()
}

fn daemon(name: &str) -> UserInfo {
    UserInfo {
        name: format!("system:host:{name}"),
        groups: vec!["system:hosts".to_owned()],
        ..UserInfo::default()
    }
}

fn request(operation: Operation, home: &'static str, user: UserInfo) -> Request {
    let create = Request::create(World::new());
    Request { operation, user, home, namespace: "", ..create }
}

/// Makes a request about a kind of the group, and says what it was refused for.
macro_rules! refused {
    ($request:expr, $kind:ty, $old:expr, $new:expr) => {{
        let request: &Request = &$request;
        let old: Option<&$kind> = $old;
        let new: Option<$kind> = $new;
        request.review::<$kind, _>("m", old.map(|o| o as &dyn skep_api::Object), |review| match new {
            Some(mut new) => mutate(review, &mut new),
            None => validate(review, None),
        })
    }};
}

#[test]
fn a_tenant_reads_its_machines_and_writes_none() {
    let root = UserInfo { groups: vec!["system:masters".to_owned()], ..UserInfo::default() };
    for operation in [Operation::Create, Operation::Update, Operation::Delete] {
        for subresource in ["", "status"] {
            let request = Request { subresource, ..request(operation, "acme", root.clone()) };
            let old = machine("");
            let new = (operation != Operation::Delete).then(|| machine(""));
            let refusal = refused!(request, Machine, Some(&old), new).unwrap_err();
            assert_eq!(refusal.code, 403);
            assert!(
                refusal.message.starts_with(
                    "machines.compute.skep.io \"m\" is forbidden: machines are made, changed and returned by"
                ),
                "{refusal}"
            );
        }
    }
    let operator = request(Operation::Create, "system", root);
    assert_eq!(refused!(operator, Machine, None, Some(machine(""))), Ok(()));
}

#[test]
fn a_daemon_speaks_for_its_own_machines_only() {
    let update = |name: &str| request(Operation::Update, "system", daemon(name));
    let (mine, mut bigger) = (machine("h1"), machine("h1"));
    assert_eq!(refused!(update("h1"), Machine, Some(&mine), Some(mine.clone())), Ok(()));
    let status = Request { subresource: "status", ..update("h1") };
    assert_eq!(refused!(status, Machine, Some(&mine), Some(mine.clone())), Ok(()));
    bigger.spec.resources.insert("cpu".to_owned(), serde_json::from_value(json!("64")).unwrap());
    let why = refused!(update("h1"), Machine, Some(&mine), Some(bigger)).unwrap_err();
    assert!(why.message.contains("may not change what a machine is to be"), "{why}");
    for (daemon, machine) in [("h2", machine("h1")), ("", machine("")), ("h1", machine(""))] {
        let why = refused!(update(daemon), Machine, Some(&machine), Some(machine.clone())).unwrap_err();
        assert!(why.message.contains("is not a machine of host"), "{why}");
    }
    for operation in [Operation::Create, Operation::Delete] {
        let new = (operation == Operation::Create).then(|| machine("h1"));
        let why =
            refused!(request(operation, "system", daemon("h1")), Machine, Some(&mine), new).unwrap_err();
        assert!(why.message.contains("may neither make nor delete"), "{why}");
    }
}

#[test]
fn a_daemon_writes_its_own_host_only() {
    let host = |json| serde_json::from_value::<Host>(json).unwrap();
    let mine = host(json!({"metadata": {"name": "h1"}}));
    let closed = host(json!({"metadata": {"name": "h1"}, "spec": {"unschedulable": true}}));
    let by = |operation, name| request(operation, "system", daemon(name));
    assert_eq!(refused!(by(Operation::Create, "h1"), Host, None, Some(mine.clone())), Ok(()));
    assert_eq!(refused!(by(Operation::Update, "h1"), Host, Some(&mine), Some(mine.clone())), Ok(()));
    for (operation, name, new) in [
        (Operation::Create, "h2", Some(mine.clone())),
        (Operation::Update, "h2", Some(mine.clone())),
        (Operation::Update, "", Some(mine.clone())),
        (Operation::Update, "h1", Some(closed)),
        (Operation::Delete, "h1", None),
    ] {
        let why = refused!(by(operation, name), Host, Some(&mine), new).unwrap_err();
        assert_eq!(why.code, 403, "{operation:?} {name} {why}");
    }
}

#[test]
fn a_pool_stays_within_the_quota() {
    let pool = |min: i32, max: i32| {
        let json = json!({"metadata": {"name": "p"}, "spec": {"minMachines": min, "maxMachines": max}});
        serde_json::from_value::<NodePool>(json).unwrap()
    };
    let usage = json!({"metadata": {"name": "tenant"}, "spec": {"hard": {"machines": "3"}}});
    let asks = |usage: Option<&serde_json::Value>, pool| {
        let mut request = request(Operation::Create, "acme", UserInfo::default());
        if let Some(usage) = usage {
            request.world.put("tenancy.skep.io", "tenantusages", &usage.to_string());
        }
        refused!(request, NodePool, None, Some(pool))
    };
    assert_eq!(asks(None, pool(4, 9)), Ok(()));
    assert_eq!(asks(Some(&usage), pool(3, 3)), Ok(()));
    let why = asks(Some(&usage), pool(0, 4)).unwrap_err();
    assert!(
        why.message.ends_with("exceeded quota: tenant, requested: spec.maxMachines=4, limited: machines=3"),
        "{why}"
    );
    assert!(asks(Some(&usage), pool(4, 4)).unwrap_err().message.contains("spec.minMachines=4"));
}
