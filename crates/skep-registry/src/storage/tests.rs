#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::time::Duration;

use super::*;
use crate::digest::Algorithm;
use crate::name::{Reference, Tag};
use collect::Policy;

fn repository(tenant: &str, uid: &str, path: &str) -> Repository {
    Repository { owner: Owner::Tenant(tenant.into(), uid.into()), path: path.into() }
}

async fn store(storage: &Storage, to: &Repository, content: &'static [u8]) -> Digest {
    let digest = Digest::of(Algorithm::Sha256, content);
    let upload = storage.begin_upload(to, Algorithm::Sha256).unwrap();
    let mut position = storage.position(&upload).await.unwrap();
    storage.append(&mut position, &[content.into()], u64::MAX).unwrap();
    storage.commit(position, &digest).unwrap();
    digest
}

fn greedy() -> Policy {
    Policy { grace: Duration::ZERO, upload_idle: Duration::ZERO, mirror_unused: Duration::ZERO }
}

#[tokio::test]
async fn a_later_tenant_of_the_same_name_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let (old, new) = (repository("shop", "u1", "web"), repository("shop", "u2", "web"));
    let digest = store(&storage, &old, b"secret").await;
    assert!(storage.blob(&old, &digest).is_ok());
    assert_eq!(storage.blob(&new, &digest).unwrap_err().code, Code::BlobUnknown);
    assert!(!storage.exists(&new));
    // When it is known who is gone, its content goes.
    let alive = HashSet::from([("shop".to_owned(), "u2".to_owned())]);
    let done = storage.collect(&greedy(), Some(&alive)).unwrap();
    assert_eq!((done.tenants, done.blobs), (1, 1));
    assert!(!storage.exists(&old));
    assert_eq!(storage.used_bytes(&old.owner).unwrap(), 0);
}

#[tokio::test]
async fn content_is_stored_once_and_stays_while_somebody_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let (a, b) = (repository("shop", "u", "a"), repository("bank", "u", "b"));
    let digest = store(&storage, &a, b"layer").await;
    assert_eq!(store(&storage, &b, b"layer").await, digest);
    let metadata = std::fs::metadata(storage.blob_path(&digest)).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&metadata), 3);
    storage.delete_blob(&a, &digest).unwrap();
    let keep = Policy { grace: Duration::from_secs(3600), ..greedy() };
    assert_eq!(storage.collect(&keep, None).unwrap().blobs, 0);
    assert!(storage.blob(&b, &digest).is_ok());
    assert_eq!(storage.collect(&greedy(), None).unwrap().blobs, 1);
}

#[tokio::test]
async fn what_a_crash_leaves_is_cleaned_up_and_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let repository = repository("shop", "u", "web");
    let digest = Digest::of(Algorithm::Sha256, b"layer");
    {
        let storage = Storage::open(dir.path()).unwrap();
        assert!(matches!(Storage::open(dir.path()), Err(OpenError::Locked(_))), "one process at a time");
        // Content without a link; a file that was not renamed; an upload without a session.
        make_directory(storage.root(), storage.blob_path(&digest).parent().unwrap()).unwrap();
        std::fs::write(storage.blob_path(&digest), b"layer").unwrap();
        std::fs::write(dir.path().join("uploads/x.tmp"), b"lay").unwrap();
        std::fs::create_dir(dir.path().join("uploads/11111111-1111-4111-8111-111111111111")).unwrap();
        // A tag whose manifest is gone.
        make_directory(storage.root(), &storage.repository_path(&repository).join("_tags")).unwrap();
        std::fs::write(storage.repository_path(&repository).join("_tags/old"), digest.to_string()).unwrap();
    }
    let storage = Storage::open(dir.path()).unwrap();
    assert_eq!(names(&dir.path().join("uploads")).unwrap(), Vec::<String>::new());
    assert_eq!(storage.blob(&repository, &digest).unwrap_err().code, Code::BlobUnknown);
    let tag = Reference::Tag("old".parse::<Tag>().unwrap());
    assert_eq!(storage.manifest(&repository, &tag).unwrap_err().code, Code::ManifestUnknown);
    assert_eq!(storage.collect(&greedy(), None).unwrap().blobs, 1);
    assert!(!storage.exists(&repository));
}

#[tokio::test]
async fn a_damaged_manifest_stops_collection_of_its_repository_only() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let (broken, fine) = (repository("shop", "u", "broken"), repository("shop", "u", "fine"));
    let kept = store(&storage, &broken, b"one").await;
    let gone = store(&storage, &fine, b"two").await;
    let folder = storage.repository_path(&broken).join("_manifests");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(kept.to_string()), b"not a header\n{}").unwrap();
    assert_eq!(storage.collect(&greedy(), None).unwrap().links, 1);
    assert!(storage.blob(&broken, &kept).is_ok());
    assert!(storage.blob(&fine, &gone).is_err());
    // It can still be deleted.
    storage.delete_manifest(&broken, &Reference::Digest(kept.clone())).unwrap();
    assert_eq!(storage.collect(&greedy(), None).unwrap().links, 1);
}

#[tokio::test]
async fn an_upload_that_fails_half_way_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let to = repository("shop", "u", "web");
    let upload = storage.begin_upload(&to, Algorithm::Sha256).unwrap();
    let mut position = storage.position(&upload).await.unwrap();
    storage.append(&mut position, &[(&b"abc"[..]).into()], 5).unwrap();
    assert_eq!(storage.append(&mut position, &[(&b"def"[..]).into()], 5).unwrap_err().code, Code::Denied);
    assert_eq!(position.offset(), 3);
    storage.append(&mut position, &[(&b"d"[..]).into()], 5).unwrap();
    storage.commit(position, &Digest::of(Algorithm::Sha256, b"abcd")).unwrap();
    assert_eq!(storage.position(&upload).await.unwrap_err().code, Code::BlobUploadUnknown);
    assert_eq!(storage.used_bytes(&to.owner).unwrap(), 4);
}
