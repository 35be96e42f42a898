//! A file system that really is full. Needs the right to mount; says so when it has not.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use skep_base::{GroupResource, Key, Scope, TenantName};
use skep_store::engine::log::Log;
use skep_store::{CommitError, Expect, ListOptions, NewValue, Op, Store, StoreOptions, Txn};

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn put(name: &str, bytes: usize) -> Txn {
    let mut body = br#"{"metadata":{"resourceVersion":""},"text":""#.to_vec();
    body.resize(body.len() + bytes, b'x');
    body.extend_from_slice(br#""}"#);
    let value = NewValue { body, revision_at: 32, meta_start: 12, meta_end: 34, attrs: Vec::new() };
    let key = Key::new(GroupResource::new("", "pods"), TenantName::new("t").unwrap(), "ns", name);
    Txn::one(Op::Put { key, value, expect: Expect::Any, ttl_s: None })
}

fn open(directory: &Path) -> Store {
    let log = Log::open(directory).unwrap().snapshot_after(256 * 1024);
    Store::open(Box::new(log), StoreOptions::default()).unwrap()
}

fn names(store: &Store) -> Vec<String> {
    let scope = Scope::AllTenants(GroupResource::new("", "pods"));
    let listing = store.list(&scope, &ListOptions::default()).unwrap();
    listing.items.iter().map(|(k, v)| format!("{}@{}", k.name, v.revision())).collect()
}

async fn fill_and_recover(mount: &Path) {
    let directory = mount.join("store");
    let ballast = mount.join("ballast");
    let store = open(&directory);
    store.commit(put("first", 1000)).await.unwrap();
    // Something else eats the space.
    let mut file = std::fs::File::create(&ballast).unwrap();
    let block = vec![0u8; 16 * 1024];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    let _ = file.sync_all();
    let mut accepted = vec!["first".to_owned()];
    let mut refused = 0;
    // More than the log has filled with zeros in advance.
    for n in 0..400 {
        let name = format!("p{n}");
        match store.commit(put(&name, 5_000)).await {
            Ok(_) => accepted.push(name),
            Err(CommitError::NoSpace) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 50, "{refused}");
    let before = names(&store);
    assert_eq!(before.len(), accepted.len());
    // Reads go on, a restart on the full disk works, and nothing is damaged.
    store.close();
    let store = open(&directory);
    assert_eq!(names(&store), before);
    assert!(matches!(store.commit(put("no", 50_000)).await, Err(CommitError::NoSpace)));
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    for n in 0..100 {
        store.commit(put(&format!("later{}", n % 10), 5_000)).await.unwrap();
    }
    let after = names(&store);
    assert_eq!(after.len(), before.len() + 10);
    store.close();
    assert_eq!(names(&open(&directory)), after);
}

/// Mounts, or says why it does not.
fn mounted(
    what: &str,
    attempt: impl FnOnce(&Path) -> Result<(), String>,
) -> Option<(Mounted, tempfile::TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    match attempt(directory.path()) {
        Ok(()) => Some((Mounted(directory.path().to_owned()), directory)),
        Err(error) => {
            eprintln!("SKIPPED, {what} cannot be mounted here: {error}");
            None
        }
    }
}

#[tokio::test]
async fn on_a_small_tmpfs() {
    let mount = mounted("a tmpfs", |at| {
        run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", at.to_str().unwrap()])
    });
    if let Some((mount, _directory)) = mount {
        fill_and_recover(&mount.0).await;
    }
}

#[tokio::test]
async fn on_a_small_ext4() {
    let images = tempfile::tempdir().unwrap();
    let image = images.path().join("image");
    let mount = mounted("an ext4 image", |at| {
        std::fs::File::create(&image).and_then(|f| f.set_len(4 << 20)).map_err(|e| e.to_string())?;
        let image = image.to_str().unwrap();
        run("mkfs.ext4", &["-q", "-m", "0", image])?;
        run("mount", &["-o", "loop", image, at.to_str().unwrap()])
    });
    if let Some((mount, _directory)) = mount {
        fill_and_recover(&mount.0).await;
    }
}
