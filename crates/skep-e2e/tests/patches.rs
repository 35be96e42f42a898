//! Patches, as clients send them.
#![allow(clippy::unwrap_used)]

use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, WARNING};
use serde_json::{Value, json};
use skep_client::{Client, Error, Request};
use skep_e2e::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

async fn refused(client: &Client, path: &str, kind: &str, body: &[u8]) -> (u16, String, String) {
    match client.request(Method::PATCH, path, kind, body.to_vec()).await {
        Err(Error::Status { code, reason, message, .. }) => (code, reason, message),
        other => panic!("{path} with {:?} answered {other:?}", String::from_utf8_lossy(body)),
    }
}

#[tokio::test]
async fn strict_patches_tell_of_everything_at_once() {
    let server = Server::start();
    let client = server.admin();
    let _: Value = client.post(MAPS, &json!({"metadata": {"name": "x"}})).await.unwrap();
    let path = format!("{MAPS}/x?fieldValidation=Strict");
    let merge = br#"{"dta":{"a":"b"},"metadata":{"labels":{"a":"b","a":"c"}}}"#;
    for kind in [MERGE, STRATEGIC] {
        let (code, reason, message) = refused(&client, &path, kind, merge).await;
        assert_eq!((code, reason.as_str()), (422, "Invalid"), "{message}");
        assert!(message.starts_with(r#" "" is invalid: patch: Invalid value: "#), "{message}");
        let all = r#"strict decoding error: duplicate field "metadata.labels.a", unknown field "dta""#;
        assert!(message.ends_with(all), "{message}");
    }
    let operations = br#"[{"op":"add","path":"/dta","value":{},"extra":1}]"#;
    let (code, _, message) = refused(&client, &path, "application/json-patch+json", operations).await;
    let all = r#"strict decoding error: json patch unknown field "[0].extra", unknown field "dta""#;
    assert!(code == 422 && message.ends_with(all), "{message}");
    // What does not apply is refused for that.
    let missing = br#"[{"op":"remove","path":"/nothing","extra":1}]"#;
    let (_, _, message) = refused(&client, &path, "application/json-patch+json", missing).await;
    assert!(!message.contains("strict"), "{message}");
    // Nothing of it was written; without strictness it is.
    let object: Value = client.get(&format!("{MAPS}/x")).await.unwrap();
    assert_eq!(object["metadata"]["labels"], Value::Null);
    let relaxed = format!("{MAPS}/x?fieldValidation=Ignore");
    client.request(Method::PATCH, &relaxed, MERGE, merge.to_vec()).await.unwrap();
    let object: Value = client.get(&format!("{MAPS}/x")).await.unwrap();
    assert_eq!(object["metadata"]["labels"]["a"], "c");
    let (code, _, message) = refused(&client, &path, "application/json", merge).await;
    assert!(code == 415 && message.contains("application/strategic-merge-patch+json"), "{message}");
}

/// A pod, and what it has for its own.
struct Subject {
    name: &'static str,
    own: Vec<(&'static str, String)>,
}

impl Subject {
    /// A text without what is the pod's own, and without the kind, which is in one of two patches.
    fn anonymous(&self, text: &str) -> String {
        let text = text.replace(r#""kind":"Pod","#, "").replace("map[kind:Pod ", "map[");
        self.own.iter().fold(text, |text, (field, own)| text.replace(own, field))
    }

    /// What a patch of the status is answered with: the object, or code, reason and message; and the warnings.
    async fn patched(&self, client: &Client, query: &str, kind: &str, patch: &Value) -> (Value, Vec<String>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        let path = format!("{PODS}/{}/status{query}", self.name);
        let body = patch.to_string().into();
        match client.send(Request { method: Method::PATCH, path, headers, body, endless: false }).await {
            Ok(response) => {
                let warnings = response.headers.get_all(WARNING);
                let warnings = warnings.iter().map(|w| w.to_str().unwrap().to_owned()).collect();
                let text = String::from_utf8(response.bytes().await.unwrap().to_vec()).unwrap();
                let mut object: Value = serde_json::from_str(&self.anonymous(&text)).unwrap();
                object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                (object, warnings)
            }
            Err(Error::Status { code, reason, message, .. }) => {
                (json!([code, reason, self.anonymous(&message)]), Vec::new())
            }
            Err(other) => panic!("{}: {other}", self.name),
        }
    }
}

/// Status patches of pods have a short way in the server. A patch that names the pod's kind does not take it: both ways come to the same.
#[tokio::test]
async fn a_status_is_patched_the_same_on_both_ways() {
    let server = Server::start();
    let client = server.admin();
    let pod = |name: &str| {
        json!({
            "metadata": {"name": name, "labels": {"app": "a", "tier": "b"}, "annotations": {"x": "y"}},
            "spec": {"automountServiceAccountToken": false, "nodeName": "n1", "containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}], "tolerations": [{"operator": "Exists"}]},
        })
    };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    let running = json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}});
    let table = [
        (
            MERGE,
            "",
            json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [running]}}),
        ),
        (
            STRATEGIC,
            "",
            json!({"status": {"conditions": [condition("Ready", "True"), condition("Initialized", "True")]}}),
        ),
        (
            STRATEGIC,
            "",
            json!({"status": {"conditions": [condition("Ready", "False")], "$setElementOrder/conditions": [{"type": "Initialized"}, {"type": "Ready"}]}}),
        ),
        (
            STRATEGIC,
            "",
            json!({"status": {"conditions": [{"type": "Initialized", "$patch": "delete"}], "message": null}}),
        ),
        (STRATEGIC, "", json!({"status": {"$patch": "replace", "phase": "Running", "hostIP": "1.2.3.4"}})),
        (
            MERGE,
            "",
            json!({"metadata": {"labels": {"app": "z", "tier": null}, "annotations": {"n": "1"}}, "status": {"message": "m"}}),
        ),
        (
            MERGE,
            "",
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "o", "uid": "u"}], "finalizers": ["example.com/f"]}}),
        ),
        (MERGE, "", json!({"metadata": {"finalizers": null}, "status": null})),
        (MERGE, "", json!({"metadata": null})),
        (MERGE, "", json!({"metadata": {"resourceVersion": "1"}, "status": {"phase": "Failed"}})),
        (MERGE, "", json!({"metadata": {"uid": "another"}, "status": {"phase": "Failed"}})),
        (MERGE, "", json!({"metadata": {"name": "another"}})),
        (
            MERGE,
            "?fieldValidation=Warn",
            json!({"status": {"phse": "Failed", "reason": "r"}, "metadata": {"lables": {}}}),
        ),
        (MERGE, "?fieldValidation=Strict", json!({"status": {"phse": "Failed"}})),
        (STRATEGIC, "?fieldValidation=Ignore", json!({"status": {"phse": "Failed", "reason": "s"}})),
        (MERGE, "", json!({"status": {"phase": 5}})),
        (MERGE, "", json!({"status": "wrong"})),
        (STRATEGIC, "", json!({"status": {"conditions": "wrong"}})),
        (STRATEGIC, "", json!({"status": {"conditions": [{"status": "True"}]}})),
        (MERGE, "", json!({"spec": {"nodeName": "n2"}, "status": {"phase": "Pending"}})),
        (MERGE, "?dryRun=All", json!({"status": {"phase": "Succeeded"}})),
        (MERGE, "", json!({})),
    ];
    let mut subjects = Vec::new();
    for name in ["pod-short", "pod-whole"] {
        let made: Value = client.post(PODS, &pod(name)).await.unwrap();
        let mut own = vec![("NAME", name.to_owned())];
        for field in ["uid", "creationTimestamp"] {
            own.push((field, made["metadata"][field].as_str().unwrap().to_owned()));
        }
        subjects.push(Subject { name, own });
    }
    for (kind, query, patch) in table {
        let mut named = patch.clone();
        named["kind"] = "Pod".into();
        let short = subjects[0].patched(&client, query, kind, &patch).await;
        let long = subjects[1].patched(&client, query, kind, &named).await;
        assert_eq!(short, long, "{kind}{query} {patch}");
    }
    let spec = client.get::<Value>(&format!("{PODS}/pod-short")).await.unwrap()["spec"].take();
    assert_eq!((spec["nodeName"].as_str(), spec["containers"][1]["image"].as_str()), (Some("n1"), Some("j")));
    assert_eq!(server.complaints(), Vec::<String>::new());
}
