//! What a hostile or clumsy client may send: a clear `Status`, nothing changed, nobody disturbed.
#![allow(clippy::unwrap_used)]

use http::Method;
use serde_json::{Value, json};
use skep_client::{Client, Error};
use skep_e2e::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn refused(
    client: &Client,
    method: Method,
    path: &str,
    kind: &str,
    body: &[u8],
) -> (u16, String, String) {
    match client.request(method, path, kind, body.to_vec()).await {
        Err(Error::Status { code, reason, message, .. }) => (code, reason, message),
        other => panic!(
            "{path} with {:?} answered {other:?}",
            String::from_utf8_lossy(&body[..body.len().min(80)])
        ),
    }
}

#[tokio::test]
async fn bodies_that_are_wrong() {
    let server = Server::start();
    let client = server.admin();
    let before: Value = client.get(MAPS).await.unwrap();
    let json = "application/json";
    let deep = format!("{}{}", r#"{"data":"#.repeat(100_000), "}".repeat(100_000));
    let labels: String = (0..40_000).map(|i| format!(r#""k{i}":"v","#)).collect();
    let many = format!(r#"{{"metadata":{{"name":"x","annotations":{{{labels}"z":"z"}}}}}}"#);
    let huge = format!(r#"{{"metadata":{{"name":"x"}},"data":{{"k":"{}"}}}}"#, "x".repeat(4 << 20));
    let table: &[(&[u8], &str, u16, &str)] = &[
        (b"", json, 400, ""),
        (b"{", json, 400, ""),
        (b"null", json, 400, ""),
        (b"[]", json, 400, ""),
        (b"{\"metadata\":{\"name\":\"\xff\"}}", json, 400, ""),
        (br#"{"metadata":{"name":5}}"#, json, 400, "cannot be handled as a ConfigMap"),
        (
            br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}"#,
            json,
            400,
            "does not match the expected",
        ),
        (br#"{"metadata":{"name":"A_B"}}"#, json, 422, "a lowercase RFC 1123 subdomain"),
        (br#"{"metadata":{}}"#, json, 422, "name or generateName is required"),
        (br#"{"metadata":{"name":"x","namespace":"other"}}"#, json, 400, "does not match the namespace"),
        (
            br#"{"metadata":{"name":"x","resourceVersion":"7"}}"#,
            json,
            400,
            "resourceVersion should not be set",
        ),
        (br#"{"metadata":{"name":"x"},"data":{"a/b":"c"}}"#, json, 422, "a valid config key"),
        (deep.as_bytes(), json, 400, ""),
        (many.as_bytes(), json, 422, "Too long"),
        (huge.as_bytes(), json, 413, "limit is 3145728"),
        (b"x", "text/plain", 415, "unknown format"),
        (b"a: [b", "application/yaml", 400, "error converting YAML to JSON"),
    ];
    for (body, kind, code, text) in table {
        let (got, _, message) = refused(&client, Method::POST, MAPS, kind, body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(got, *code, "{shown}: {message}");
        assert!(message.contains(text), "{shown}: {message}");
    }
    let after: Value = client.get(MAPS).await.unwrap();
    assert_eq!(before["items"], after["items"]);
    assert_eq!(before["metadata"], after["metadata"], "something was written");
}

#[tokio::test]
async fn requests_that_are_wrong() {
    let server = Server::start();
    let client = server.admin();
    let _: Value = client.post(MAPS, &json!({"metadata": {"name": "x"}})).await.unwrap();
    let table = [
        ("GET", "/api/v1/nothings", 404, "could not find the requested resource"),
        ("GET", "/api/v1/namespaces/default/configmaps/y", 404, r#"configmaps "y" not found"#),
        ("GET", "/api/v1/configmaps?labelSelector=a%3D%3D%3Db", 400, "unable to parse requirement"),
        ("GET", "/api/v1/configmaps?fieldSelector=data.x%3Dy", 400, "field label not supported: data.x"),
        ("GET", "/api/v1/configmaps?limit=x", 400, "limit"),
        ("GET", "/api/v1/configmaps?continue=abc", 400, "continue key is not valid"),
        ("GET", "/api/v1/configmaps?resourceVersion=999999999", 504, "Too large resource version"),
        ("GET", "/api/v1/configmaps?resourceVersion=abc", 400, "invalid resource version"),
        ("GET", "/api/v1/namespaces/..%2f..%2fsecrets", 400, "invalid segment"),
        ("GET", "/api/v1/namespaces/default/configmaps/%00", 400, "invalid segment"),
        ("POST", "/api/v1/namespaces/default/configmaps/x", 405, "does not allow this method"),
        ("POST", "/api/v1/configmaps", 400, "namespace"),
        ("PUT", "/api/v1/namespaces/default/configmaps", 405, "does not allow this method"),
        (
            "DELETE",
            "/api/v1/namespaces/default/configmaps/x?propagationPolicy=Maybe",
            422,
            "propagationPolicy",
        ),
        ("DELETE", "/api/v1/namespaces/default/configmaps/y", 404, "not found"),
    ];
    for (method, path, code, text) in table {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let (got, _, message) =
            refused(&client, method.clone(), path, "application/json", b"{\"metadata\":{\"name\":\"x\"}}")
                .await;
        assert_eq!(got, code, "{method} {path}: {message}");
        assert!(message.contains(text), "{method} {path}: {message}");
    }
    assert!(client.get::<Value>(&format!("{MAPS}/x")).await.is_ok());
    assert_eq!(server.complaints(), Vec::<String>::new());
}
