//! kill -9 under load: no acknowledged write is lost, no revision is used twice, watches resume.
//!
//! `SKEP_KILL_ROUNDS` says how many times (10 if not set).
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_base::{GroupResource, Revision, Scope};
use skep_store::engine::log::Log;
use skep_store::{ListOptions, Store, StoreOptions, Value};

/// What a writer was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    revision: Revision,
    key: String,
    /// `None`: deleted.
    counter: Option<u64>,
}

fn parse(output: &str) -> Vec<Told> {
    // The last line may have been cut off by the kill.
    let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .filter(|line| !line.starts_with("open"))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let counter: u64 = words[3].parse().unwrap();
            Told {
                revision: Revision::parse(words[1]).unwrap(),
                key: words[2].to_owned(),
                counter: (words[0] == "put").then_some(counter),
            }
        })
        .collect()
}

fn counter(value: &Value) -> u64 {
    let json = std::str::from_utf8(value.json()).unwrap();
    assert!(json.contains(&format!(r#""resourceVersion":"{}""#, value.revision())), "{json}");
    json.rsplit_once(':').unwrap().1.trim_end_matches('}').parse().unwrap()
}

/// Runs the hammer for a while, kills it, and returns what it said.
fn hammer(directory: &Path, round: u64, for_ms: u64) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_store-hammer"))
        .arg(directory)
        .arg(round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut output = String::new();
        stdout.read_to_string(&mut output).unwrap();
        output
    });
    std::thread::sleep(Duration::from_millis(for_ms));
    // SIGKILL.
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn kill_at_random_moments_under_load() {
    let rounds: u64 = std::env::var("SKEP_KILL_ROUNDS").map_or(10, |v| v.parse().unwrap());
    let seed: u64 = std::env::var("SKEP_KILL_SEED").map_or_else(|_| rand::random(), |v| v.parse().unwrap());
    println!("SKEP_KILL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let pods = GroupResource::new("", "pods");
    // The newest that was acknowledged of every key, and of all.
    let mut told: HashMap<String, Told> = HashMap::new();
    let mut owners: HashMap<Revision, Told> = HashMap::new();
    let (mut newest, mut total, mut resumed) = (Revision::ZERO, 0, 0);
    for round in 1..=rounds {
        let output = hammer(directory.path(), round, rng.random_range(20..400));
        let said = parse(&output);
        total += said.len();
        let begun =
            output.lines().next().and_then(|l| l.strip_prefix("open ")).and_then(|l| l.split(' ').next());
        if let Some(begun) = begun.and_then(Revision::parse) {
            assert!(begun >= newest, "round {round}: started at {begun}, {newest} was acknowledged");
        }
        let resume_from = newest;
        for told_now in &said {
            assert!(told_now.revision > resume_from, "round {round}: {told_now:?} is from before");
            let before = owners.insert(told_now.revision, told_now.clone());
            assert!(before.is_none(), "revision {} is used twice", told_now.revision);
            newest = newest.max(told_now.revision);
            let last = told.entry(told_now.key.clone()).or_insert_with(|| told_now.clone());
            if last.revision < told_now.revision {
                *last = told_now.clone();
            }
        }
        let log = Log::open(directory.path()).unwrap();
        let store = Store::open(Box::new(log), StoreOptions::default()).unwrap();
        assert!(store.revision() >= newest, "round {round}: {newest} was acknowledged, {}", store.revision());
        let listing = store.list(&Scope::AllTenants(pods.clone()), &ListOptions::default()).unwrap();
        let there: BTreeMap<String, (Revision, u64)> = listing
            .items
            .iter()
            .map(|(k, v)| (format!("{}/{}", k.tenant, k.name), (v.revision(), counter(v))))
            .collect();
        for (key, told) in &told {
            match (there.get(key), told.counter) {
                (Some((revision, counter)), Some(c)) if *revision == told.revision => assert_eq!(*counter, c),
                (None, None) => {}
                // The write that was under way when the process died.
                (Some((revision, _)), _) => assert!(*revision > told.revision, "{told:?} is lost"),
                // Deletions come between puts, and may have been under way.
                (None, Some(_)) => assert!(!key.ends_with("-twin"), "{told:?} is lost"),
            }
        }
        for (key, (_, counter)) in &there {
            if !key.ends_with("-twin") {
                assert_eq!(
                    there.get(&format!("{key}-twin")).map(|t| t.1),
                    Some(*counter),
                    "half a transaction"
                );
            }
        }
        // A deletion under way is the only reason for an acknowledged put not to be there.
        if resume_from >= store.compacted(&pods) {
            resumed += 1;
            check_resumed(&store, &pods, resume_from, &said);
        } else {
            assert!(store.watch(Scope::AllTenants(pods.clone()), None, resume_from).is_err());
        }
        store.close();
    }
    println!(
        "{rounds} kills, {total} acknowledged changes, {} objects, {resumed} watches resumed",
        told.len()
    );
    assert!(total as u64 > rounds * 10, "it hardly wrote: {total}");
}

/// A watch from before the kill delivers everything acknowledged since, each once and in order.
fn check_resumed(store: &Store, pods: &GroupResource, from: Revision, said: &[Told]) {
    let mut watcher = store.watch(Scope::AllTenants(pods.clone()), None, from).unwrap();
    let mut events: BTreeMap<Revision, (String, Option<u64>)> = BTreeMap::new();
    let mut last = from;
    loop {
        let changes = watcher.try_next().unwrap();
        if changes.is_empty() {
            break;
        }
        for change in changes {
            assert!(change.revision > last, "out of order");
            last = change.revision;
            let key = format!("{}/{}", change.key.tenant, change.key.name);
            events.insert(change.revision, (key, change.value.as_deref().map(counter)));
        }
    }
    assert_eq!(watcher.position(), store.revision());
    for told in said {
        assert_eq!(
            events.get(&told.revision),
            Some(&(told.key.clone(), told.counter)),
            "{told:?} is missing"
        );
    }
}
