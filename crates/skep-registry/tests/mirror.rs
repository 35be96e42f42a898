//! A mirror of a second registry of the same kind.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Peer, Running, greedy, start, users};
use skep_registry::digest::{Algorithm, Digest};
use skep_registry::mirror::Source;

async fn mirror_of(source: &Running, directory: &std::path::Path) -> Running {
    let mut config = greedy();
    config.mirrors = vec![Source {
        name: "hub.test".to_owned(),
        address: source.address.clone(),
        credentials: Some(("reader".to_owned(), "secret".to_owned())),
        authorities_pem: Vec::new(),
    }];
    start(directory, config, users()).await
}

async fn layer_through(peer: &Peer, layer: &[u8]) {
    let d = Digest::of(Algorithm::Sha256, layer);
    let got = peer.get(&format!("/v2/hub.test/shop/w/blobs/{d}")).await.is(200);
    assert!(got.body == layer, "{} bytes", got.body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_asked_for_once_is_served_without_the_source() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = start(a.path(), greedy(), users()).await;
    let layer: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 241) as u8).collect();
    let (digest, bytes) = source.as_user("ann").image("shop/w", "1", &layer).await;
    let mirror = mirror_of(&source, b.path()).await;
    // Any tenant may pull from a mirror, and nobody push.
    let bob = mirror.as_user("bob");
    mirror.as_user("").get("/v2/hub.test/shop/w/manifests/1").await.fails(401, "UNAUTHORIZED");
    bob.ask("POST", "/v2/hub.test/shop/w/blobs/uploads/", &[], b"").await.fails(403, "DENIED");
    bob.get("/v2/other.test/x/manifests/1").await.fails(404, "NAME_UNKNOWN");
    let found = bob.get("/v2/hub.test/shop/w/manifests/1").await.is(200);
    assert_eq!(found.body, bytes);
    // As a mirror's clients ask: the source beside the path.
    let found = bob.get("/v2/shop/w/manifests/1?ns=hub.test").await.is(200);
    assert_eq!(found.header("oci-namespace"), "hub.test");
    let path = format!("/v2/hub.test/shop/w/blobs/{}", Digest::of(Algorithm::Sha256, &layer));
    let head = bob.ask("HEAD", &path, &[], b"");
    assert_eq!(head.await.is(200).header("content-length"), layer.len().to_string());
    // Several at once get it from one download.
    let mut all = tokio::task::JoinSet::new();
    for user in ["bob", "ann", "root", "reader"] {
        let (peer, layer) = (mirror.as_user(user), layer.clone());
        all.spawn(async move { layer_through(&peer, &layer).await });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    bob.get("/v2/hub.test/shop/w/manifests/none").await.fails(404, "MANIFEST_UNKNOWN");
    assert_eq!(bob.get("/v2/hub.test/shop/w/tags/list").await.is(200).json()["tags"][0], "1");
    source.stop().await;
    // The source is away: by digest and by tag everything is still there, and what never came is not.
    assert_eq!(bob.get(&format!("/v2/hub.test/shop/w/manifests/{digest}")).await.is(200).body, bytes);
    assert_eq!(bob.get("/v2/hub.test/shop/w/manifests/1").await.is(200).body, bytes);
    layer_through(&bob, &layer).await;
    bob.get("/v2/hub.test/shop/w/manifests/2").await.is(502);
    // Also in a new process, which does not know when it looked last.
    mirror.stop().await;
    let gone = start(a.path(), greedy(), users()).await;
    let address = gone.address.clone();
    gone.stop().await;
    let mut config = greedy();
    config.mirrors = vec![Source::parse(&format!("hub.test={address}")).unwrap()];
    let mirror = start(b.path(), config, users()).await;
    assert_eq!(mirror.as_user("bob").get("/v2/hub.test/shop/w/manifests/1").await.is(200).body, bytes);
}

/// A source that sends other bytes than asked for: the client never gets the last of them, and nothing stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_that_lies_is_found_out() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = start(a.path(), greedy(), users()).await;
    let layer = vec![5_u8; 100_000];
    source.as_user("ann").image("shop/w", "1", &layer).await;
    let d = Digest::of(Algorithm::Sha256, &layer);
    // Behind its back: hard links share the content.
    let path = a.path().join("blobs/sha256").join(&d.hex()[..2]).join(d.hex());
    let mut wrong = layer.clone();
    wrong[50_000] = 6;
    std::fs::write(&path, &wrong).unwrap();
    let mirror = mirror_of(&source, b.path()).await;
    let bob = mirror.as_user("bob");
    let response = bob.0.blob("hub.test/shop/w", &d, 0).await.unwrap();
    let mut body = response.into_body();
    let mut got = 0;
    let error = loop {
        match bob.0.next_piece(&mut body).await {
            Ok(Some(piece)) => got += piece.len(),
            Ok(None) => panic!("the content looks whole"),
            Err(error) => break error,
        }
    };
    assert!(got < wrong.len(), "{error}");
    let stored = b.path().join("blobs/sha256").join(&d.hex()[..2]).join(d.hex());
    assert!(!stored.exists());
}
