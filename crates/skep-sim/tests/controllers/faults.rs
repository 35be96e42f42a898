//! A way to the API server on which things go wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_client::{Body, Error, Request, Response, Transport};

/// What goes wrong, and what has.
pub(crate) struct Faults {
    rng: Mutex<StdRng>,
    on: AtomicBool,
    /// Pods that were made, or may have been, without the controllers having heard of it.
    unheard_pods: AtomicUsize,
    /// What each pod is said to use of the processor, in thousandths; nothing while nobody serves metrics.
    usage_milli: Mutex<Option<u32>>,
}

/// Where metrics of pods are read, and where the pods are.
const METRICS: (&str, &str) = ("/apis/metrics.k8s.io/v1beta1/", "/api/v1/");

impl Faults {
    pub(crate) fn new(seed: u64) -> Arc<Faults> {
        Arc::new(Faults {
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            on: AtomicBool::new(false),
            unheard_pods: AtomicUsize::new(0),
            usage_milli: Mutex::new(None),
        })
    }

    pub(crate) fn set(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    /// Has metrics served from now on, by which each pod uses so much.
    pub(crate) fn set_usage(&self, milli: u32) {
        *self.usage_milli.lock() = Some(milli);
    }

    pub(crate) fn unheard_pods(&self) -> usize {
        self.unheard_pods.load(Ordering::SeqCst)
    }

    fn chance(&self, p: f64) -> bool {
        self.on.load(Ordering::SeqCst) && self.rng.lock().random_bool(p)
    }

    async fn delay(&self, p: f64, longest_ms: u64) {
        if self.chance(p) {
            let wait_ms = self.rng.lock().random_range(0..longest_ms);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
    }
}

/// The transport below, with faults.
pub(crate) struct Faulty<T> {
    inner: T,
    faults: Arc<Faults>,
}

impl<T> Faulty<T> {
    pub(crate) fn new(inner: T, faults: Arc<Faults>) -> Faulty<T> {
        Faulty { inner, faults }
    }
}

fn answer(code: StatusCode, reason: &str) -> Response {
    let body = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "simulated", "reason": reason, "code": code.as_u16()});
    Response { status: code, headers: HeaderMap::new(), body: whole(Bytes::from(body.to_string())) }
}

fn whole(bytes: Bytes) -> Body {
    Box::pin(stream::iter([Ok(bytes)]))
}

fn broken() -> Error {
    Error::Unreachable { server: "simulated".to_owned(), why: "the connection was cut".to_owned() }
}

/// Counts a pod as unheard of unless somebody says that its creation was answered.
struct Unheard<'a>(Option<&'a Faults>);

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        if let Some(faults) = self.0 {
            faults.unheard_pods.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl<T: Transport> Transport for Faulty<T> {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Error>> {
        if request.endless {
            return Box::pin(self.watch(request));
        }
        if request.path.contains(METRICS.0)
            && let Some(milli) = *self.faults.usage_milli.lock()
        {
            return Box::pin(self.metrics(request, milli));
        }
        Box::pin(async move {
            let faults = &*self.faults;
            faults.delay(0.2, 20).await;
            if faults.chance(0.02) {
                return Err(broken());
            }
            if faults.chance(0.02) {
                let which = faults.rng.lock().random_range(0..3);
                return Ok(match which {
                    0 => answer(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
                    1 => answer(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
                    _ => answer(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
                });
            }
            if faults.chance(0.02) && matches!(request.method, Method::PUT | Method::PATCH) {
                return Ok(answer(StatusCode::CONFLICT, "Conflict"));
            }
            let makes_pod = request.method == Method::POST && request.path.ends_with("/pods");
            let mut unheard = Unheard(makes_pod.then_some(faults));
            let answer = self.inner.send(request).await?;
            let (status, headers) = (answer.status, answer.headers.clone());
            let bytes = answer.bytes().await?;
            faults.delay(0.2, 20).await;
            if faults.chance(0.02) {
                return Err(broken());
            }
            unheard.0 = None;
            Ok(Response { status, headers, body: whole(bytes) })
        })
    }

    fn server(&self) -> &str {
        self.inner.server()
    }
}

impl<T: Transport> Faulty<T> {
    /// Stands in for a metrics server: a sample for each pod that the request selects.
    async fn metrics(&self, mut request: Request, milli: u32) -> Result<Response, Error> {
        request.path = request.path.replace(METRICS.0, METRICS.1);
        let pods: serde_json::Value =
            serde_json::from_slice(&self.inner.send(request).await?.bytes().await?).unwrap();
        let now = jiff::Timestamp::now().to_string();
        let sample = |pod: &serde_json::Value| {
            serde_json::json!({"metadata": pod["metadata"], "timestamp": now, "window": "0s",
                "containers": [{"name": "c", "usage": {"cpu": format!("{milli}m"), "memory": "1Mi"}}]})
        };
        let items: Vec<_> = pods["items"].as_array().unwrap().iter().map(sample).collect();
        let list = serde_json::json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "items": items});
        Ok(Response {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: whole(list.to_string().into()),
        })
    }

    async fn watch(&self, request: Request) -> Result<Response, Error> {
        if self.faults.chance(0.05) {
            return Err(broken());
        }
        let answer = self.inner.send(request).await?;
        if !answer.status.is_success() {
            return Ok(answer);
        }
        let faults = self.faults.clone();
        // Events come late, twice, or not at all: then the stream ends, or says that it has forgotten where it was.
        let body = stream::unfold(Some((answer.body, None::<Bytes>)), move |state| {
            let faults = faults.clone();
            async move {
                let (mut body, again) = state?;
                if let Some(again) = again {
                    return Some((Ok(again), Some((body, None))));
                }
                let chunk = match body.next().await? {
                    Ok(chunk) => chunk,
                    Err(error) => return Some((Err(error), None)),
                };
                faults.delay(0.3, 30).await;
                faults.delay(0.02, 300).await;
                if faults.chance(0.01) {
                    return Some((Err(broken()), None));
                }
                if faults.chance(0.01) {
                    let gone = serde_json::json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
                        "status": "Failure", "reason": "Expired", "code": 410, "message": "simulated"}});
                    return Some((Ok(Bytes::from(format!("{gone}\n"))), None));
                }
                let again = (chunk.ends_with(b"\n") && faults.chance(0.05)).then(|| chunk.clone());
                Some((Ok(chunk), Some((body, again))))
            }
        });
        Ok(Response { status: answer.status, headers: answer.headers, body: Box::pin(body) })
    }
}
