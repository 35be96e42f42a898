//! The transport for roles in the server's own process.
//!
//! A request takes the same way as one from the network, from identification on: impersonation, fairness, authorisation,
//! admission, and the same bytes as an answer. Only TLS and HTTP's framing are left out. The identity is given when
//! the transport is made, as a certificate would give it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use http_body_util::Full;
use skep_api::UserInfo;
use skep_auth::identity::{Credential, Identity, groups};
use skep_base::TenantName;
use skep_client::{Client, Error, Request, Response, Transport};

use crate::app::App;
use crate::body::Body;
use crate::server::{PeerIdentity, Writer, respond};

/// See the module.
pub struct InProcess {
    app: Arc<App>,
    identity: Arc<PeerIdentity>,
}

impl InProcess {
    /// For one identity.
    #[must_use]
    pub fn new(app: Arc<App>, identity: Identity) -> InProcess {
        InProcess { app, identity: Arc::new(Some(Ok(Arc::new(identity)))) }
    }
}

/// A client for a system role in this process, such as `system:kube-controller-manager`. Such roles work for all
/// tenants, so they are masters of the system tenant; what they do is logged under their name.
#[must_use]
pub fn system_client(app: &Arc<App>, user: &str) -> Client {
    let identity = Identity {
        tenant: TenantName::system(),
        tenant_uid: None,
        user: UserInfo {
            name: user.to_owned(),
            uid: String::new(),
            groups: vec![groups::MASTERS.to_owned(), groups::AUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
        },
        credential: Credential::ClientCert,
    };
    Client::over(Arc::new(InProcess::new(app.clone(), identity)), TenantName::system())
}

impl Transport for InProcess {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, Error>> {
        let (app, identity) = (self.app.clone(), self.identity.clone());
        Box::pin(async move {
            let mut inner = http::Request::builder()
                .method(request.method)
                .uri(&request.path)
                .body(Full::new(request.body))
                .map_err(|e| Error::Answer(format!("the path {:?} is not one: {e}", request.path)))?;
            *inner.headers_mut() = request.headers;
            let writer = Writer::of(&app, inner.method());
            let response = respond(app, identity, inner, writer).await;
            let (head, body) = response.into_parts();
            Ok(Response { status: head.status, headers: head.headers, body: chunks(body) })
        })
    }

    fn server(&self) -> &str {
        &self.app.config.base_url
    }
}

fn chunks(body: Body) -> skep_client::Body {
    let one = |bytes: Bytes| Ok::<_, Error>(bytes);
    match body {
        Body::Full(bytes) if bytes.is_empty() => Box::pin(stream::empty()),
        Body::Full(bytes) => Box::pin(stream::iter([one(bytes)])),
        Body::Pieces(pieces) => Box::pin(stream::iter(pieces.map(one))),
        Body::Stream(stream) => Box::pin(stream.map(one)),
    }
}
