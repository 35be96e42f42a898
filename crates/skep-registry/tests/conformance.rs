//! What the distribution specification wants, requirement by requirement, as its conformance suite asks for it.
#![allow(clippy::unwrap_used)]

mod common;

use common::{IMAGE, INDEX, Peer, greedy, image, start, users};
use serde_json::json;
use skep_registry::digest::{Algorithm, Digest};

struct Test {
    _dir: tempfile::TempDir,
    running: common::Running,
    ann: Peer,
}

async fn test() -> Test {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), greedy(), users()).await;
    let ann = running.as_user("ann");
    Test { _dir: dir, running, ann }
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

#[tokio::test]
async fn empty_repositories() {
    let t = test().await;
    t.ann.get("/v2/").await.is(200);
    t.ann.get("/v2/shop/none/manifests/latest").await.fails(404, "NAME_UNKNOWN");
    t.ann.get("/v2/shop/none/tags/list").await.fails(404, "NAME_UNKNOWN");
    let subject = digest(b"x");
    t.ann.get(&format!("/v2/shop/none/blobs/{subject}")).await.fails(404, "BLOB_UNKNOWN");
    let list = t.ann.get(&format!("/v2/shop/none/referrers/{subject}")).await.is(200);
    assert_eq!(list.header("content-type"), INDEX);
    assert_eq!(list.json()["manifests"], json!([]));
    t.ann.get("/v2/shop/none/referrers/sha256:bad").await.fails(400, "DIGEST_INVALID");
    t.ann.get("/v2/shop/No/manifests/1").await.fails(400, "NAME_INVALID");
    t.ann.ask("POST", "/v2/shop/a/tags/list", &[], b"").await.fails(405, "UNSUPPORTED");
}

#[tokio::test]
async fn blobs_are_pushed_in_all_ways() {
    let t = test().await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for content in [b"".to_vec(), b"{}".to_vec(), vec![7; 3000]] {
            let of = |more: &[u8]| Digest::of(algorithm, &[&content, more].concat());
            // One POST.
            let d = of(b"");
            let made = t
                .ann
                .ask("POST", &format!("/v2/shop/w/blobs/uploads/?digest={d}"), &[], &content)
                .await
                .is(201);
            assert_eq!(made.header("location"), format!("/v2/shop/w/blobs/{d}"));
            assert_eq!(t.ann.get(made.header("location")).await.is(200).body, content);
            let head = t.ann.ask("HEAD", made.header("location"), &[], b"").await.is(200);
            assert_eq!(head.header("content-length"), content.len().to_string());
            assert_eq!(head.header("docker-content-digest"), d.to_string());
            t.ann.ask("DELETE", made.header("location"), &[], b"").await.is(202);
            t.ann.get(made.header("location")).await.fails(404, "BLOB_UNKNOWN");
            t.ann.ask("DELETE", made.header("location"), &[], b"").await.fails(404, "BLOB_UNKNOWN");
            // POST, then PUT.
            let begun = t.ann.ask("POST", "/v2/shop/w/blobs/uploads/", &[], b"").await.is(202);
            let to = begun.header("location").to_owned();
            t.ann.ask("PUT", &format!("{to}?digest={d}"), &[], &content).await.is(201);
            // In a stream, another algorithm than the session began with.
            let begun = t.ann.ask("POST", "/v2/shop/w/blobs/uploads", &[], b"").await.is(202);
            let to = begun.header("location").to_owned();
            t.ann.ask("PATCH", &to, &[], &content).await.is(202);
            t.ann.ask("PATCH", &to, &[], b"more").await.is(202);
            let d = of(b"more");
            t.ann.ask("PUT", &format!("{to}?digest={d}"), &[], b"").await.is(201);
            assert_eq!(
                t.ann.get(&format!("/v2/shop/w/blobs/{d}")).await.is(200).body,
                [&content[..], b"more"].concat()
            );
            // It has ended.
            t.ann.ask("PATCH", &to, &[], b"x").await.fails(404, "BLOB_UPLOAD_UNKNOWN");
        }
    }
}

#[tokio::test]
async fn chunks_come_in_order_or_not_at_all() {
    let t = test().await;
    let content: Vec<u8> = (0..3000_u32).map(|i| (i % 251) as u8).collect();
    let d = digest(&content);
    let begun =
        t.ann.ask("POST", "/v2/shop/w/blobs/uploads/?digest-algorithm=sha256", &[], b"").await.is(202);
    let to = begun.header("location").to_owned();
    let sent = t.ann.ask("PATCH", &to, &[("content-range", "0-999")], &content[..1000]).await.is(202);
    assert_eq!(sent.header("range"), "0-999");
    // Too far, and again what is there.
    for range in ["2000-2999", "0-999"] {
        let no = t.ann.ask("PATCH", &to, &[("content-range", range)], &content[..1000]).await;
        assert_eq!(no.fails(416, "RANGE_INVALID").header("range"), "0-999");
        let no = t
            .ann
            .ask("PUT", &format!("{to}?digest={d}"), &[("content-range", range)], &content[..1000])
            .await;
        no.fails(416, "RANGE_INVALID");
    }
    t.ann
        .ask("PATCH", &to, &[("content-range", "1000-1001")], b"xyz")
        .await
        .fails(400, "BLOB_UPLOAD_INVALID");
    t.ann.ask("PATCH", &to, &[("content-range", "here")], b"xyz").await.fails(400, "BLOB_UPLOAD_INVALID");
    let status = t.ann.get(&to).await.is(204);
    assert_eq!((status.header("range"), status.header("location")), ("0-999", to.as_str()));
    t.ann.ask("PATCH", &to, &[("content-range", "1000-1999")], &content[1000..2000]).await.is(202);
    let end = [("content-range", "2000-2999")];
    t.ann.ask("PUT", &format!("{to}?digest={d}"), &end, &content[2000..]).await.is(201);
    assert_eq!(t.ann.get(&format!("/v2/shop/w/blobs/{d}")).await.is(200).body, content);
    // Given up.
    let begun = t.ann.ask("POST", "/v2/shop/w/blobs/uploads/", &[], b"").await.is(202);
    t.ann.ask("DELETE", begun.header("location"), &[], b"").await.is(204);
    t.ann.get(begun.header("location")).await.fails(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_refused() {
    let t = test().await;
    let d = digest(b"this");
    t.ann
        .ask("POST", &format!("/v2/shop/w/blobs/uploads/?digest={d}"), &[], b"that")
        .await
        .fails(400, "DIGEST_INVALID");
    t.ann
        .ask("POST", "/v2/shop/w/blobs/uploads/?digest=sha256:x", &[], b"that")
        .await
        .fails(400, "DIGEST_INVALID");
    t.ann
        .ask("POST", "/v2/shop/w/blobs/uploads/?digest-algorithm=md5", &[], b"")
        .await
        .fails(400, "DIGEST_INVALID");
    let begun = t.ann.ask("POST", "/v2/shop/w/blobs/uploads/", &[], b"").await.is(202);
    let to = begun.header("location");
    t.ann.ask("PUT", to, &[], b"that").await.fails(400, "DIGEST_INVALID");
    t.ann.ask("PUT", &format!("{to}?digest={d}"), &[], b"that").await.fails(400, "DIGEST_INVALID");
    t.ann.get(&format!("/v2/shop/w/blobs/{d}")).await.fails(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn ranges_and_conditions() {
    let t = test().await;
    let content: Vec<u8> = (0..2048_u32).map(|i| (i % 253) as u8).collect();
    let d = t.ann.blob("shop/w", &content).await;
    let path = format!("/v2/shop/w/blobs/{d}");
    for (range, first, last) in
        [("500-1499", 500, 1499), ("500-", 500, 2047), ("-500", 1548, 2047), ("2000-5000", 2000, 2047)]
    {
        let part = t.ann.ask("GET", &path, &[("range", &format!("bytes={range}"))], b"").await.is(206);
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/2048"));
        assert_eq!(part.body, content[first..=last]);
    }
    for range in ["500-0", "5000-10000"] {
        let none = t.ann.ask("GET", &path, &[("range", &format!("bytes={range}"))], b"").await;
        assert_eq!(none.fails(416, "RANGE_INVALID").header("content-range"), "bytes */2048");
    }
    let etag = t.ann.get(&path).await.header("etag").to_owned();
    t.ann.ask("GET", &path, &[("if-none-match", &etag)], b"").await.is(304);
    let other = [("range", "bytes=0-1"), ("if-range", "\"else\"")];
    assert_eq!(t.ann.ask("GET", &path, &other, b"").await.is(200).body.len(), 2048);
}

#[tokio::test]
async fn blobs_are_mounted_where_they_may_be_read() {
    let t = test().await;
    let d = t.ann.blob("shop/a", b"layer").await;
    let mount = |to: &str, from: &str| format!("/v2/{to}/blobs/uploads/?mount={d}&from={from}");
    let made = t.ann.ask("POST", &mount("shop/b", "shop/a"), &[], b"").await.is(201);
    assert_eq!(made.header("location"), format!("/v2/shop/b/blobs/{d}"));
    assert_eq!(t.ann.get(made.header("location")).await.is(200).body, b"layer");
    // From a repository that has it not, and from none: an upload begins.
    let begun = t.ann.ask("POST", &mount("shop/c", "shop/empty"), &[], b"").await.is(202);
    assert!(begun.header("location").starts_with("/v2/shop/c/blobs/uploads/"));
    // From somebody else's: as if it were not there.
    let bob = t.running.as_user("bob");
    bob.ask("POST", &mount("bank/a", "shop/a"), &[], b"").await.is(202);
    bob.get(&format!("/v2/bank/a/blobs/{d}")).await.fails(404, "BLOB_UNKNOWN");
    // It outlives what it was mounted from.
    t.ann.ask("DELETE", &format!("/v2/shop/a/blobs/{d}"), &[], b"").await.is(202);
    t.ann.get(&format!("/v2/shop/b/blobs/{d}")).await.is(200);
}

#[tokio::test]
async fn manifests_by_tag_and_digest() {
    let t = test().await;
    let (d, bytes) = t.ann.image("shop/w", "1", b"layer").await;
    for reference in ["1".to_owned(), d.to_string()] {
        let path = format!("/v2/shop/w/manifests/{reference}");
        let found = t.ann.get(&path).await.is(200);
        assert_eq!(found.body, bytes);
        assert_eq!(found.header("content-type"), IMAGE);
        assert_eq!(found.header("docker-content-digest"), d.to_string());
        let head = t.ann.ask("HEAD", &path, &[], b"").await.is(200);
        assert_eq!(head.header("content-length"), bytes.len().to_string());
        t.ann.ask("GET", &path, &[("if-none-match", found.header("etag"))], b"").await.is(304);
    }
    // Under another digest, and with tags in the query.
    let put = |path: String| {
        let (ann, bytes) = (&t.ann, &bytes);
        async move { ann.ask("PUT", &path, &[("content-type", IMAGE)], bytes).await }
    };
    put(format!("/v2/shop/w/manifests/{}", digest(b"else"))).await.fails(400, "DIGEST_INVALID");
    put("/v2/shop/w/manifests/sha256:bad".to_owned()).await.fails(400, "DIGEST_INVALID");
    put("/v2/shop/w/manifests/.bad".to_owned()).await.fails(400, "MANIFEST_INVALID");
    let long = Digest::of(Algorithm::Sha512, &bytes);
    let made = put(format!("/v2/shop/w/manifests/{long}?tag=2&tag=latest")).await.is(201);
    let tags: Vec<_> = made.headers.get_all("oci-tag").iter().map(|t| t.to_str().unwrap()).collect();
    assert_eq!(tags, ["2", "latest"]);
    assert_eq!(t.ann.get("/v2/shop/w/manifests/2").await.header("docker-content-digest"), long.to_string());
    // A tag goes alone; a manifest takes its tags along.
    t.ann.ask("DELETE", "/v2/shop/w/manifests/2", &[], b"").await.is(202);
    t.ann.get("/v2/shop/w/manifests/2").await.fails(404, "MANIFEST_UNKNOWN");
    t.ann.get("/v2/shop/w/manifests/latest").await.is(200);
    t.ann.ask("DELETE", &format!("/v2/shop/w/manifests/{long}"), &[], b"").await.is(202);
    t.ann.get("/v2/shop/w/manifests/latest").await.fails(404, "MANIFEST_UNKNOWN");
    let tags = t.ann.get("/v2/shop/w/tags/list").await.is(200).json();
    assert_eq!(tags, json!({"name": "shop/w", "tags": ["1"]}));
    t.ann.ask("DELETE", "/v2/shop/w/manifests/none", &[], b"").await.fails(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn manifests_need_what_they_name() {
    let t = test().await;
    let config = t.ann.blob("shop/w", b"{}").await;
    let put = |body: String, kind: &'static str| {
        let ann = &t.ann;
        async move { ann.ask("PUT", "/v2/shop/w/manifests/1", &[("content-type", kind)], body.as_bytes()).await }
    };
    let missing = digest(b"missing");
    let no = put(image(&config, 2, &missing, 7).to_string(), IMAGE).await.fails(400, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(no.json()["errors"][0]["detail"]["digest"], missing.to_string());
    // Another repository's does not count.
    t.ann.blob("shop/other", b"missing").await;
    put(image(&config, 2, &missing, 7).to_string(), IMAGE).await.fails(400, "MANIFEST_BLOB_UNKNOWN");
    // Sizes must be right, types known, and the whole small enough.
    put(image(&config, 3, &config, 2).to_string(), IMAGE).await.fails(400, "MANIFEST_INVALID");
    put(image(&config, 2, &config, 2).to_string(), INDEX).await.fails(400, "MANIFEST_INVALID");
    put("{".to_owned(), IMAGE).await.fails(400, "MANIFEST_INVALID");
    let mut large = image(&config, 2, &config, 2);
    large["annotations"] = json!({"a": "x".repeat(3_900_000)});
    put(large.to_string(), IMAGE).await.is(201);
    large["annotations"] = json!({"a": "x".repeat(5_000_000)});
    put(large.to_string(), IMAGE).await.fails(413, "MANIFEST_INVALID");
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": IMAGE, "digest": missing.to_string(), "size": 1}]});
    put(index.to_string(), INDEX).await.fails(400, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn conditional_pushes_do_not_overwrite() {
    let t = test().await;
    let (first, _) = t.ann.image("shop/w", "1", b"one").await;
    let config = t.ann.blob("shop/w", b"{}").await;
    let second = image(&config, 2, &config, 2).to_string();
    let put = |condition: (&'static str, String)| {
        let (ann, body) = (&t.ann, second.as_bytes());
        let condition_value = condition.1;
        async move {
            let headers = [("content-type", IMAGE), (condition.0, condition_value.as_str())];
            ann.ask("PUT", "/v2/shop/w/manifests/1", &headers, body).await
        }
    };
    put(("if-none-match", "*".to_owned())).await.is(412);
    put(("if-match", format!("\"{}\"", digest(b"else")))).await.is(412);
    put(("if-match", format!("\"{first}\""))).await.is(201);
    put(("if-match", format!("\"{first}\""))).await.is(412);
}

#[tokio::test]
async fn tags_are_sorted_and_come_in_pages() {
    let t = test().await;
    let (_, bytes) = t.ann.image("shop/w", "b", b"x").await;
    for tag in ["a", "C", "c", "0"] {
        let path = format!("/v2/shop/w/manifests/{tag}");
        t.ann.ask("PUT", &path, &[("content-type", IMAGE)], &bytes).await.is(201);
    }
    let tags = |query: &'static str| {
        let ann = &t.ann;
        async move { ann.get(&format!("/v2/shop/w/tags/list{query}")).await.is(200) }
    };
    assert_eq!(tags("").await.json()["tags"], json!(["0", "C", "a", "b", "c"]));
    let page = tags("?n=2").await;
    assert_eq!(page.json()["tags"], json!(["0", "C"]));
    assert_eq!(page.header("link"), "</v2/shop/w/tags/list?n=2&last=C>; rel=\"next\"");
    assert_eq!(tags("?n=2&last=C").await.json()["tags"], json!(["a", "b"]));
    assert_eq!(tags("?last=b").await.json()["tags"], json!(["c"]));
    let none = tags("?n=0").await;
    assert!(none.json()["tags"] == json!([]) && !none.headers.contains_key("link"));
    t.ann.get("/v2/shop/w/tags/list?n=x").await.fails(400, "PAGINATION_NUMBER_INVALID");
    // Following the links finds everything.
    assert_eq!(t.ann.0.tags("shop/w").await.unwrap().len(), 5);
}

#[tokio::test]
async fn referrers_are_listed_and_filtered() {
    let t = test().await;
    let (subject, bytes) = t.ann.image("shop/w", "1", b"x").await;
    let config = t.ann.blob("shop/w", b"{}").await;
    let about = |subject: &Digest, size: usize, kind: &str| {
        let mut m = image(&config, 2, &config, 2);
        m["subject"] = json!({"mediaType": IMAGE, "digest": subject.to_string(), "size": size});
        if !kind.is_empty() {
            m["artifactType"] = kind.into();
        }
        m["annotations"] = json!({"made": "by"});
        m
    };
    let missing = digest(b"not there");
    let mut sent = Vec::new();
    for (of, kind) in [(&subject, "a/sbom+json"), (&subject, "a/sig"), (&subject, ""), (&missing, "a/sig")] {
        let body = about(of, bytes.len(), kind).to_string();
        let d = digest(body.as_bytes());
        let path = format!("/v2/shop/w/manifests/{d}");
        let made = t.ann.ask("PUT", &path, &[("content-type", IMAGE)], body.as_bytes()).await.is(201);
        assert_eq!(made.header("oci-subject"), of.to_string());
        sent.push(d);
    }
    let list = |query: String| {
        let ann = &t.ann;
        async move { ann.get(&format!("/v2/shop/w/referrers/{query}")).await.is(200) }
    };
    let all = list(subject.to_string()).await.json();
    assert_eq!(all["manifests"].as_array().unwrap().len(), 3);
    let plain =
        all["manifests"].as_array().unwrap().iter().find(|m| m["digest"] == sent[2].to_string()).unwrap();
    assert_eq!(plain["artifactType"], "application/vnd.oci.image.config.v1+json");
    assert_eq!(plain["annotations"]["made"], "by");
    let some = list(format!("{subject}?artifactType=a/sbom%2Bjson")).await;
    assert_eq!(some.header("oci-filters-applied"), "artifactType");
    assert_eq!(some.json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(list(missing.to_string()).await.json()["manifests"][0]["digest"], sent[3].to_string());
    t.ann.ask("DELETE", &format!("/v2/shop/w/manifests/{}", sent[0]), &[], b"").await.is(202);
    assert_eq!(list(subject.to_string()).await.json()["manifests"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_catalogue_shows_what_is_the_callers() {
    let t = test().await;
    t.ann.image("shop/w", "1", b"x").await;
    t.ann.image("shop/team/api", "1", b"x").await;
    t.running.as_user("bob").image("bank/ledger", "1", b"y").await;
    let of = |user: &'static str| {
        let peer = t.running.as_user(user);
        async move { peer.get("/v2/_catalog").await.is(200).json()["repositories"].clone() }
    };
    assert_eq!(of("ann").await, json!(["shop/team/api", "shop/w"]));
    assert_eq!(of("bob").await, json!(["bank/ledger"]));
    assert_eq!(of("root").await, json!(["bank/ledger", "shop/team/api", "shop/w"]));
}

#[tokio::test]
async fn who_is_not_let_in_learns_nothing() {
    let t = test().await;
    let (d, bytes) = t.ann.image("shop/w", "1", b"x").await;
    let nobody = t.running.as_user("");
    let no = nobody.get("/v2/").await.fails(401, "UNAUTHORIZED");
    assert!(no.header("www-authenticate").starts_with("Bearer realm=\"http://127.0.0.1:"));
    let no = nobody.get("/v2/shop/w/manifests/1").await.fails(401, "UNAUTHORIZED");
    assert!(no.header("www-authenticate").contains("scope=\"repository:shop/w:pull,push\""));
    // A foreign repository that exists, one that does not, and a tenant that does not.
    let bob = t.running.as_user("bob");
    let mut answers = Vec::new();
    for name in ["shop/w", "shop/none", "nobody/w"] {
        let got = bob.get(&format!("/v2/{name}/manifests/1")).await.fails(403, "DENIED");
        let tags = bob.get(&format!("/v2/{name}/tags/list")).await.fails(403, "DENIED");
        bob.get(&format!("/v2/{name}/blobs/{d}")).await.fails(403, "DENIED");
        bob.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"").await.fails(403, "DENIED");
        bob.ask("DELETE", &format!("/v2/{name}/manifests/{d}"), &[], b"").await.fails(403, "DENIED");
        answers.push((got.body, tags.body));
    }
    assert!(answers.iter().all(|a| *a == answers[0]));
    // Who may only read.
    let reader = t.running.as_user("reader");
    assert_eq!(reader.get("/v2/shop/w/manifests/1").await.is(200).body, bytes);
    reader.ask("POST", "/v2/shop/w/blobs/uploads/", &[], b"").await.fails(403, "DENIED");
    reader
        .ask("PUT", "/v2/shop/w/manifests/2", &[("content-type", IMAGE)], &bytes)
        .await
        .fails(403, "DENIED");
    reader.ask("DELETE", "/v2/shop/w/manifests/1", &[], b"").await.fails(403, "DENIED");
}

#[tokio::test]
async fn quotas_hold_for_blobs_uploads_and_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), greedy(), users().quota_bytes(10_000)).await;
    let ann = running.as_user("ann");
    ann.blob("shop/w", &[1; 6000]).await;
    let d = digest(&[2; 6000]);
    let path = format!("/v2/shop/w/blobs/uploads/?digest={d}");
    ann.ask("POST", &path, &[], &[2; 6000]).await.fails(403, "DENIED");
    // An upload that has not ended counts, until it is given up.
    let begun = ann.ask("POST", "/v2/shop/w/blobs/uploads/", &[], b"").await.is(202);
    ann.ask("PATCH", begun.header("location"), &[], &[3; 3500]).await.is(202);
    ann.ask("POST", &format!("/v2/shop/w/blobs/uploads/?digest={}", digest(&[4; 1000])), &[], &[4; 1000])
        .await
        .fails(403, "DENIED");
    ann.ask("DELETE", begun.header("location"), &[], b"").await.is(204);
    ann.blob("shop/w", &[4; 1000]).await;
    // The other tenant has its own.
    running.as_user("bob").blob("bank/w", &[1; 6000]).await;
    // What is deleted makes room.
    ann.ask("DELETE", &format!("/v2/shop/w/blobs/{}", digest(&[1; 6000])), &[], b"").await.is(202);
    ann.ask("POST", &path, &[], &[2; 6000]).await.is(201);
    running.stop().await;
    // Counted anew after a restart, it is the same.
    let running = start(dir.path(), greedy(), users().quota_bytes(10_000)).await;
    let d = digest(&[5; 4000]);
    running
        .as_user("ann")
        .ask("POST", &format!("/v2/shop/w/blobs/uploads/?digest={d}"), &[], &[5; 4000])
        .await
        .fails(403, "DENIED");
}

#[tokio::test]
async fn uploads_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), greedy(), users()).await;
    let begun = running.as_user("ann").ask("POST", "/v2/shop/w/blobs/uploads/", &[], b"").await.is(202);
    let to = begun.header("location").to_owned();
    running.as_user("ann").ask("PATCH", &to, &[], b"first ").await.is(202);
    running.stop().await;
    let running = start(dir.path(), greedy(), users()).await;
    let ann = running.as_user("ann");
    assert_eq!(ann.get(&to).await.is(204).header("range"), "0-5");
    running.as_user("bob").get(&to.replace("shop", "bank")).await.fails(404, "BLOB_UPLOAD_UNKNOWN");
    let d = digest(b"first second");
    ann.ask("PUT", &format!("{to}?digest={d}"), &[], b"second").await.is(201);
    assert_eq!(ann.get(&format!("/v2/shop/w/blobs/{d}")).await.is(200).body, b"first second");
}

#[tokio::test]
async fn collection_removes_what_nothing_names_and_nothing_else() {
    let t = test().await;
    let (kept, _) = t.ann.image("shop/w", "1", b"kept").await;
    let (gone, _) = t.ann.image("shop/old/x", "1", b"gone").await;
    let loose = t.ann.blob("shop/w", b"loose").await;
    let begun = t.ann.ask("POST", "/v2/shop/w/blobs/uploads/", &[], b"").await.is(202);
    t.ann.ask("DELETE", &format!("/v2/shop/old/x/manifests/{gone}"), &[], b"").await.is(202);
    let done = t.running.registry.collect().await.unwrap();
    assert_eq!(
        (done.uploads, done.links),
        (1, 3),
        "loose, and the layer and configuration of the deleted image"
    );
    assert_eq!(done.blobs, 2, "the configuration is the other image's too");
    assert_eq!(done.tenants, 0, "these users do not tell who is gone");
    t.ann.get(&format!("/v2/shop/w/blobs/{loose}")).await.fails(404, "BLOB_UNKNOWN");
    t.ann.get(begun.header("location")).await.fails(404, "BLOB_UPLOAD_UNKNOWN");
    t.ann.get("/v2/shop/old/x/tags/list").await.fails(404, "NAME_UNKNOWN");
    t.ann.get(&format!("/v2/shop/w/manifests/{kept}")).await.is(200);
    t.ann.get(&format!("/v2/shop/w/blobs/{}", digest(b"kept"))).await.is(200);
    assert_eq!(t.running.registry.collect().await.unwrap(), skep_registry::storage::Collected::default());
}

/// Pushes of the same few layers while collections run without pause and everything is deleted again and again: no push fails, and what was
/// pushed last can be pulled.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collection_runs_under_pushes() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = greedy();
    // Longer than a push here, on any machine; the directories and the content below are collected at once all the same.
    config.policy.grace = std::time::Duration::from_secs(600);
    config.policy.upload_idle = std::time::Duration::from_secs(600);
    let running = start(dir.path(), config, users()).await;
    let registry = running.registry.clone();
    let collecting = tokio::spawn(async move {
        loop {
            registry.collect().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut pushing = tokio::task::JoinSet::new();
    for worker in 0..4 {
        let ann = running.as_user("ann");
        pushing.spawn(async move {
            for round in 0..12 {
                let repository = format!("shop/r{}", (worker + round) % 3);
                let layer = vec![u8::try_from(round % 4).unwrap(); 5000];
                let (d, _) = ann.image(&repository, &format!("w{worker}"), &layer).await;
                let blob = Digest::of(Algorithm::Sha256, &layer);
                assert_eq!(ann.get(&format!("/v2/{repository}/blobs/{blob}")).await.is(200).body, layer);
                if round % 3 == 0 {
                    // Another worker may have pushed, or deleted, the same image.
                    ann.ask("DELETE", &format!("/v2/{repository}/manifests/{d}"), &[], b"").await;
                }
            }
        });
    }
    while let Some(done) = pushing.join_next().await {
        done.unwrap();
    }
    collecting.abort();
}
