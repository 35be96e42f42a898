//! The log's files: damage at every byte, torn ends, full and broken disks, locks and versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_base::{Key, Revision};

use super::format::{FILE_HEADER_LEN, FRAME_HEADER_LEN, FRAME_MAGIC};
use super::*;
use crate::engine::sim::{Full, SimDisk};
use crate::model::{FIELD, Stepper, Thing, new_value, resources};
use crate::ring::RingLimits;
use crate::txn::{CommitError, Expect, Op, Txn};

type Files = BTreeMap<String, Vec<u8>>;
type Everything = BTreeMap<Key, Thing>;

/// Little, so that tests come to its end often.
pub(super) const RESERVE_BYTES: u64 = 300;

fn key(name: &str) -> Key {
    let tenant = skep_base::TenantName::new("t").unwrap();
    Key::new(resources()[0].clone(), tenant, "ns", name)
}

fn put(name: &str, text: &str) -> Txn {
    Txn::one(Op::Put {
        key: key(name),
        value: new_value(text, Some("node")),
        expect: Expect::Any,
        ttl_s: None,
    })
}

fn delete(name: &str) -> Txn {
    Txn::one(Op::Delete { key: key(name), expect: Expect::Any })
}

fn open_with(disk: &SimDisk, snapshot_after: u64) -> Result<Stepper, OpenError> {
    let log = Log::on(Arc::new(disk.clone())).snapshot_after(snapshot_after).in_step();
    Stepper::open(Box::new(log), RingLimits::default())
}

fn open(disk: &SimDisk) -> Result<Stepper, OpenError> {
    open_with(disk, 1 << 30)
}

fn commit(store: &mut Stepper, txn: Txn) -> Result<Revision, CommitError> {
    let answer = store.commit(vec![txn]).remove(0);
    answer.map(|changes| changes[0].revision)
}

/// A small log with a snapshot and two segments, and what is in it after each of its last writes.
fn small_log(close: bool) -> (Files, Vec<Everything>) {
    let disk = SimDisk::new(1);
    let mut store = open_with(&disk, 600).unwrap();
    let mut states = Vec::new();
    for n in 0..14 {
        let txn =
            if n % 5 == 4 { delete(&format!("p{}", n % 3)) } else { put(&format!("p{}", n % 3), "text") };
        commit(&mut store, txn).unwrap();
        states.push(store.everything());
    }
    if close {
        store.close_in_place();
    }
    let files = disk.files();
    assert!(files.keys().any(|n| n.ends_with(".snapshot")), "{:?}", files.keys());
    (files, states)
}

fn last_log(files: &Files) -> String {
    files.keys().rfind(|n| n.ends_with(".log")).unwrap().clone()
}

/// Refused with the file's name and a place before the damage's end, or nothing is lost.
fn check_damage(files: &Files, name: &str, at: usize, states: &[Everything], torn_allowed: bool) -> bool {
    match open(&SimDisk::with_files(files)) {
        Err(OpenError::Corrupt { file, offset, .. }) => {
            assert_eq!(file, name);
            assert!(offset <= at as u64, "{name} is said to be damaged at {offset}, it is at {at}");
            true
        }
        Err(OpenError::Format(file)) => panic!("damage at {at} of {file} passes for another version"),
        Err(other) => panic!("{other}"),
        Ok(store) => {
            let found = store.everything();
            let whole = states.last() == Some(&found);
            let one_less = torn_allowed && states.iter().rev().nth(1) == Some(&found);
            assert!(whole || one_less, "damage at byte {at} of {name} went unnoticed");
            false
        }
    }
}

#[test]
fn damage_in_any_byte_is_noticed() {
    let (files, states) = small_log(true);
    let last = last_log(&files);
    let mut unnoticed = 0;
    for (name, bytes) in &files {
        for at in 0..bytes.len() {
            for bit in [1u8 << (at % 8), 0xff] {
                let mut damaged = files.clone();
                damaged.get_mut(name).unwrap()[at] ^= bit;
                // The mark of closing at the very end may pass for torn: it says nothing else.
                unnoticed += usize::from(!check_damage(&damaged, name, at, &states, false));
            }
        }
    }
    assert!(unnoticed <= 2 * (FRAME_HEADER_LEN + 1), "{unnoticed}, {last}");
}

#[test]
fn without_a_clean_end_only_the_last_write_may_pass_for_torn() {
    let (files, states) = small_log(false);
    let last = last_log(&files);
    for at in 0..files[&last].len() {
        let mut damaged = files.clone();
        damaged.get_mut(&last).unwrap()[at] ^= 1 << (at % 8);
        check_damage(&damaged, &last, at, &states, true);
    }
}

#[test]
fn a_file_cut_off_anywhere_is_torn_or_damaged() {
    let (files, states) = small_log(true);
    let last = last_log(&files);
    for (name, bytes) in &files {
        for len in 0..bytes.len() {
            let mut cut = files.clone();
            cut.get_mut(name).unwrap().truncate(len);
            match open(&SimDisk::with_files(&cut)) {
                Ok(store) => {
                    assert_eq!(*name, last, "cut off at {len} unnoticed");
                    assert!(states.contains(&store.everything()), "no state that there ever was");
                }
                Err(OpenError::Corrupt { file, .. }) => {
                    assert!(file == *name || file == last, "{file} {name}")
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn what_a_crash_leaves_behind_the_end_is_cut_off() {
    let (files, states) = small_log(false);
    let last = last_log(&files);
    for rest in [vec![0; 1], vec![0; 5000], vec![0xff; 300], FRAME_MAGIC.repeat(50), b"x".repeat(11)] {
        let mut torn = files.clone();
        torn.get_mut(&last).unwrap().extend_from_slice(&rest);
        let disk = SimDisk::with_files(&torn);
        let mut store = open(&disk).unwrap();
        assert_eq!(Some(&store.everything()), states.last());
        commit(&mut store, put("after", "repair")).unwrap();
        let found = store.everything();
        assert_eq!(open(&disk.power_cycle()).unwrap().everything(), found);
    }
}

#[test]
fn a_missing_file_is_noticed() {
    let disk = SimDisk::new(3);
    let mut store = open_with(&disk, 400).unwrap();
    for n in 0..8 {
        commit(&mut store, put(&format!("p{n}"), "text")).unwrap();
    }
    let files = disk.files();
    let last = last_log(&files);
    for name in files.keys() {
        let mut fewer = files.clone();
        fewer.remove(name);
        let opened = open(&SimDisk::with_files(&fewer));
        let error = opened.err().unwrap_or_else(|| panic!("{name} is not missed"));
        assert!(matches!(&error, OpenError::Corrupt { .. }), "{error} ({last})");
    }
}

#[test]
fn segments_and_snapshots_of_another_place_are_noticed() {
    let (files, _) = small_log(true);
    let last = last_log(&files);
    // A segment under its successor's name.
    let mut moved = files.clone();
    let bytes = moved[&last].clone();
    moved.insert(log_name(sequence_of(&last, ".log").unwrap() + 1), bytes);
    assert!(matches!(open(&SimDisk::with_files(&moved)), Err(OpenError::Corrupt { .. })));
    // A frame written twice.
    let mut twice = files.clone();
    let log = twice.get_mut(&last).unwrap();
    let frames = log[FILE_HEADER_LEN..].to_vec();
    log.extend_from_slice(&frames);
    let store = open(&SimDisk::with_files(&twice)).unwrap();
    assert_eq!(store.everything(), open(&SimDisk::with_files(&files)).unwrap().everything());
}

#[test]
fn nothing_that_clients_store_can_look_like_a_frame() {
    assert!(FRAME_MAGIC.iter().filter(|b| **b >= 0xf5).count() >= 2, "bytes that UTF-8 never has");
}

#[test]
fn another_version_is_told_from_damage() {
    let (mut files, _) = small_log(true);
    for (name, bytes) in &mut files {
        if name.ends_with(".snapshot") {
            bytes[8] += 1;
            let crc = crc32fast::hash(&bytes[..FILE_HEADER_LEN - 4]);
            bytes[FILE_HEADER_LEN - 4..FILE_HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let opened = open(&SimDisk::with_files(&files));
    assert!(matches!(opened, Err(OpenError::Format(file)) if file.ends_with(".snapshot")));
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::new(7);
    let mut store = open(&disk).unwrap();
    let first = commit(&mut store, put("p", "text")).unwrap();
    disk.limit(Some((disk.used() + 100, Full::AtWrite)));
    for _ in 0..5 {
        let refused = commit(&mut store, put("q", &"x".repeat(500)));
        assert!(matches!(refused, Err(CommitError::NoSpace)), "{refused:?}");
    }
    disk.limit(None);
    assert!(commit(&mut store, put("r", "text")).unwrap() > first);
    let found = store.everything();
    assert_eq!(found.len(), 2);
    assert_eq!(open(&disk.power_cycle()).unwrap().everything(), found);
}

#[test]
fn when_the_sync_finds_no_space_a_fresh_segment_voids_the_write() {
    for (room, seed) in (0..50).map(|seed| (400, seed)).chain((0..50).map(|seed| (10, seed))) {
        let disk = SimDisk::new(seed);
        let mut store = open(&disk).unwrap();
        commit(&mut store, put("p", "text")).unwrap();
        // Room for a fresh segment's header when the large write is given up, or not even that.
        let zeros = RESERVE_BYTES as usize;
        disk.limit(Some((disk.used() - zeros + room, Full::AtSync)));
        let refused = commit(&mut store, put("q", &"x".repeat(600)));
        disk.limit(None);
        let later = commit(&mut store, put("r", "text"));
        let found = store.everything();
        assert!(found.keys().all(|k| &*k.name != "q"), "nobody sees what is refused");
        let reopened = open(&disk.power_cycle()).unwrap().everything();
        if room > 100 {
            assert!(matches!(refused, Err(CommitError::NoSpace)), "{refused:?}");
            assert_eq!((later.is_ok(), found.len()), (true, 2));
            assert_eq!(reopened, found);
        } else {
            assert!(matches!(refused, Err(CommitError::Uncertain(_))), "{refused:?}");
            assert!(matches!(later, Err(CommitError::Failed(_))), "{later:?}");
            assert!(reopened.keys().all(|k| &*k.name != "r"));
        }
    }
}

#[test]
fn a_broken_disk_stops_all_writes() {
    let disk = SimDisk::new(5);
    let mut store = open(&disk).unwrap();
    commit(&mut store, put("p", "text")).unwrap();
    disk.fail_next_sync();
    assert!(matches!(commit(&mut store, put("q", "text")), Err(CommitError::Uncertain(_))));
    let before = disk.operations();
    for _ in 0..3 {
        assert!(matches!(commit(&mut store, put("r", "text")), Err(CommitError::Failed(_))));
    }
    assert_eq!(disk.operations(), before, "the disk is not even asked");
    assert_eq!(store.everything().len(), 1, "what is uncertain is not shown");
}

#[test]
fn a_segment_that_cannot_be_begun_voids_nothing() {
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        // So that the next try to begin one comes later than the test's end.
        let mut store = open_with(&disk, 2_000).unwrap();
        // Write, zeros and sync, then a segment: create, header, sync, directory; remove, directory.
        disk.fail_some(3 + (seed as usize % 6), 1 + (seed as usize / 6 % 4));
        commit(&mut store, put("p", &"x".repeat(2_200))).unwrap();
        disk.fail_some(0, 0);
        let answer = commit(&mut store, put("q", "acknowledged"));
        let reopened = open(&disk.power_cycle()).unwrap().everything();
        let there = reopened.keys().any(|k| &*k.name == "q");
        assert_eq!(there, answer.is_ok(), "seed {seed}: {answer:?}");
    }
}

#[test]
fn the_disk_space_used_is_bounded() {
    let disk = SimDisk::new(9);
    let mut store = open_with(&disk, 4_000).unwrap();
    let mut most = 0;
    for n in 0..2_000 {
        commit(&mut store, put(&format!("p{}", n % 20), &"x".repeat(100))).unwrap();
        most = most.max(disk.used());
    }
    let live = store.core.state().object_bytes;
    // A snapshot, the log since, and while a new snapshot is written, that and what is logged meanwhile.
    assert!(most < 3 * live + 3 * 4_000, "{most} bytes on disk for {live} live ones");
}

#[test]
fn the_index_and_attributes_survive() {
    let disk = SimDisk::new(2);
    let mut store = open_with(&disk, 300).unwrap();
    for n in 0..5 {
        commit(&mut store, put(&format!("p{n}"), "text")).unwrap();
    }
    let store = open(&disk.power_cycle()).unwrap();
    let scope = skep_base::Scope::Tenant(resources()[0].clone(), key("p").tenant);
    let options = crate::ListOptions { index: Some((FIELD, "node")), ..Default::default() };
    let listing = store.list(&scope, &options).unwrap();
    assert_eq!(listing.items.len(), 5);
    assert!(listing.items.iter().all(|(_, v)| v.attrs().label("app") == Some("tex")));
}

#[test]
fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let first = Log::open(directory.path()).unwrap();
    let second = Log::open(directory.path()).err().unwrap();
    assert!(matches!(&second, OpenError::InUse(name) if name.contains(directory.path().to_str().unwrap())));
    drop(first);
    Log::open(directory.path()).unwrap();
}
