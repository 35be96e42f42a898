use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume};

use crate::testing::{Request, World};

const MAP: &str = r#"{"metadata":{"name":"m","namespace":"ns"}}"#;

fn terminating() -> World {
    let mut world = World::new();
    world.put("", "namespaces", r#"{"metadata":{"name":"ns"},"status":{"phase":"Terminating"}}"#);
    world
}

#[test]
fn nothing_is_written_into_missing_namespaces() {
    let refusal = Request::create(World::default()).admit::<ConfigMap>(MAP, None).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (404, "NotFound"));
    assert_eq!(refusal.message, r#"namespaces "ns" not found"#);
    assert_eq!(refusal.details.kind, "namespaces");
    assert!(Request::update(World::default()).admit::<ConfigMap>(MAP, Some(MAP)).is_err());
    assert!(Request::delete(World::default()).remove::<ConfigMap>(MAP).is_ok());
    assert!(Request::create(World::new()).admit::<ConfigMap>(MAP, None).is_ok());
}

#[test]
fn namespaces_on_their_way_out_take_changes_but_nothing_new() {
    let refusal = Request::create(terminating()).admit::<ConfigMap>(MAP, None).unwrap_err();
    assert_eq!((refusal.code, refusal.reason), (403, "Forbidden"));
    assert_eq!(
        refusal.message,
        r#"configmaps "m" is forbidden: unable to create new content in namespace ns because it is being terminated"#
    );
    let cause = &refusal.details.causes[0];
    assert_eq!((cause.reason, cause.field.as_str()), ("NamespaceTerminating", "metadata.namespace"));
    assert_eq!(cause.message, "namespace ns is being terminated");
    assert!(Request::update(terminating()).admit::<ConfigMap>(MAP, Some(MAP)).is_ok());
    assert!(Request::delete(terminating()).remove::<ConfigMap>(MAP).is_ok());
}

#[test]
fn some_namespaces_are_immortal() {
    for (name, mortal) in [("default", false), ("kube-system", false), ("kube-public", false), ("ns", true)] {
        let json = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
        let result = Request::delete(World::new()).remove::<Namespace>(&json);
        assert_eq!(result.is_ok(), mortal, "{name}");
        if let Err(refusal) = result {
            assert_eq!(
                refusal.message,
                format!(r#"namespaces "{name}" is forbidden: this namespace may not be deleted"#)
            );
        }
        assert!(Request::create(World::default()).admit::<Namespace>(&json, None).is_ok());
    }
}

#[test]
fn cluster_scoped_objects_and_access_reviews_need_no_namespace() {
    let volume = r#"{"metadata":{"name":"pv"},"spec":{}}"#;
    assert!(Request::create(World::default()).admit::<PersistentVolume>(volume, None).is_ok());
    let mut request = Request::create(World::default());
    request.resource = Some(("authorization.k8s.io", "localsubjectaccessreviews"));
    assert!(request.admit::<ConfigMap>(MAP, None).is_ok());
}
