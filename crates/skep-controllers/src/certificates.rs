//! Removes certificate signing requests that are over: nobody needs one once its certificate has been fetched.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde::Deserialize;
use skep_base::SharedStr;
use skep_client::{DeleteParams, Informer, ObjectKey, Resource};

use crate::views::or_default;
use crate::{Controller, Kind, Next, Setup, SyncError};

/// As upstream's.
const NAME: &str = "certificatesigningrequest-cleaner-controller";
/// How long one stays whose certificate was issued, or that was denied or failed, as upstream. Certificates that end
/// sooner go with it: none lasts less than some minutes.
const SETTLED: SignedDuration = SignedDuration::from_hours(1);
/// How long one stays that nobody decides on, or that nobody signs, as upstream.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Deserialize)]
struct Request {
    #[serde(default)]
    metadata: RequestMeta,
    #[serde(default, deserialize_with = "or_default")]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RequestMeta {
    creation_timestamp: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<RequestCondition>,
    /// Whether there is one is enough.
    #[serde(deserialize_with = "is_there")]
    certificate: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RequestCondition {
    r#type: SharedStr,
    last_update_time: Option<Timestamp>,
}

fn is_there<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    Ok(Option::<String>::deserialize(d)?.is_some_and(|text| !text.is_empty()))
}

impl Kind for Request {
    const RESOURCE: Resource = Resource::of::<CertificateSigningRequest>();
}

struct Cleaner {
    requests: Informer<Request>,
}

/// Makes the controller.
pub(crate) fn new(setup: &mut Setup) -> Arc<dyn Controller> {
    let requests = setup.informer::<Request>();
    let enqueue = setup.enqueue(NAME);
    requests.on_event(move |event| enqueue.event(event));
    setup.resync(NAME, &requests);
    Arc::new(Cleaner { requests })
}

impl Request {
    /// When it is to go.
    fn until(&self) -> Option<Timestamp> {
        let since = |c: &RequestCondition, lasts: SignedDuration| c.last_update_time?.checked_add(lasts).ok();
        let conditions = &self.status.conditions;
        if conditions.is_empty() {
            return self.metadata.creation_timestamp?.checked_add(PENDING).ok();
        }
        let each = conditions.iter().filter_map(|c| match &*c.r#type {
            "Denied" | "Failed" => since(c, SETTLED),
            "Approved" => since(c, if self.status.certificate { SETTLED } else { PENDING }),
            _ => None,
        });
        each.min()
    }
}

impl Cleaner {
    async fn look(&self, key: &ObjectKey) -> Result<Next, SyncError> {
        let Some(request) = self.requests.get(key) else { return Ok(Next::Wait) };
        let Some(until) = request.until() else { return Ok(Next::Wait) };
        let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        let version = request.revision.to_string();
        self.requests.remove(&request, &DeleteParams::default().resource_version(&version)).await?;
        Ok(Next::Wait)
    }
}

impl Controller for Cleaner {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sync<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Next, SyncError>> {
        Box::pin(self.look(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hours(conditions: Value, certificate: Value) -> Option<i64> {
        let created: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let request: Request = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": conditions, "certificate": certificate}}))
        .unwrap();
        request.until().map(|until| until.duration_since(created).as_hours())
    }

    #[test]
    fn each_state_has_its_time() {
        let at =
            |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T02:00:00Z"}]);
        assert_eq!(hours(json!([]), Value::Null), Some(24));
        assert_eq!(hours(at("Denied"), Value::Null), Some(3));
        assert_eq!(hours(at("Failed"), Value::Null), Some(3));
        assert_eq!(hours(at("Approved"), json!("LS0t")), Some(3));
        assert_eq!(hours(at("Approved"), json!("")), Some(26));
        assert_eq!(hours(json!([{"type": "Denied"}]), Value::Null), None, "no time is known");
        let none: Request = serde_json::from_value(json!({})).unwrap();
        assert_eq!(none.until(), None);
    }
}
