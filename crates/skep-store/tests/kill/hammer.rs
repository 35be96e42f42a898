//! Writes to a store as hard as it can, and says on standard output what was acknowledged, until it is
//! killed. The other half of `tests/kill.rs`.
//!
//! A line is `put|del REVISION KEY COUNTER`; it is written in one piece, after the acknowledgement.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::path::Path;

use skep_base::{GroupResource, Key, TenantName};
use skep_store::engine::log::Log;
use skep_store::{AttrsBuilder, Expect, NewValue, Op, Store, StoreOptions, Txn};

const WRITERS: usize = 64;
const KEYS_PER_WRITER: u64 = 8;
/// So small that snapshots are written all the time.
const SNAPSHOT_AFTER_BYTES: u64 = 512 * 1024;

fn value(counter: u64) -> NewValue {
    let body = format!(r#"{{"metadata":{{"resourceVersion":""}},"counter":{counter}}}"#).into_bytes();
    let mut attrs = AttrsBuilder::default();
    attrs.field("spec.nodeName", &format!("n{}", counter % 5), true).unwrap();
    NewValue { revision_at: 32, meta_start: 12, meta_end: 34, body, attrs: attrs.build().unwrap() }
}

fn key(writer: usize, key: u64, twin: bool) -> Key {
    let name = format!("{key}{}", if twin { "-twin" } else { "" });
    let tenant = TenantName::new(&format!("w{writer}")).unwrap();
    Key::new(GroupResource::new("", "pods"), tenant, "ns", &name)
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap();
    let round: u64 = arguments.next().unwrap().parse().unwrap();
    let log = Log::open(Path::new(&directory)).unwrap().snapshot_after(SNAPSHOT_AFTER_BYTES);
    let store = Store::open(Box::new(log), StoreOptions::default()).unwrap();
    say(&format!("open {} - 0\n", store.revision()));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer, round))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Each key is written by one writer only, so what is there after a crash is what the writer was last told,
/// or the one write that was under way.
async fn write(store: Store, writer: usize, round: u64) {
    for n in 0u64.. {
        let counter = round << 32 | n;
        let k = n % KEYS_PER_WRITER;
        if n % 11 == 10 {
            let op = Op::Delete { key: key(writer, k, false), expect: Expect::Any };
            let changes = store.commit(Txn::one(op)).await.unwrap();
            if let Some(change) = changes.first() {
                say(&format!("del {} w{writer}/{k} {counter}\n", change.revision));
            }
            continue;
        }
        // A value and its twin are always written together.
        let both = [false, true].map(|twin| Op::Put {
            key: key(writer, k, twin),
            value: value(counter),
            expect: Expect::Any,
            ttl_s: None,
        });
        let changes = store.commit(both.into_iter().collect()).await.unwrap();
        let lines: String = changes
            .iter()
            .map(|c| format!("put {} w{writer}/{} {counter}\n", c.revision, c.key.name))
            .collect();
        say(&lines);
    }
}
