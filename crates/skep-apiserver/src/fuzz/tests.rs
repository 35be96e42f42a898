//! Each entry point for some seconds, on mutations of good input. `SKEP_FUZZ_SECONDS` makes it longer;
//! `SKEP_FUZZ_SEED` repeats a run that failed.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use skep_api::Registry;

/// For each entry point when nothing else is said.
const DEFAULT_SECONDS: u64 = 2;
/// Inputs grow by mutation, up to this.
const MAX_BYTES: usize = 16 * 1024;

/// Pieces that mean something to one of the parsers.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "null",
    "true",
    "0",
    "-1",
    "1e400",
    "9223372036854775808",
    "\"\"",
    "\"metadata\":",
    "\"name\":",
    "\"labels\":{",
    "\"spec\":",
    "\"status\":",
    "\"a\":null,",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "é",
    "%2f",
    "%00",
    "%",
    "..",
    "/",
    "//",
    "/tenants/",
    "/*/",
    "/namespaces/",
    "?watch=1",
    "&",
    "=",
    "!=",
    "!",
    " in (",
    " notin (",
    ")",
    "==",
    ",",
    "*",
    "&anchor",
    "*anchor",
    "<<: ",
    "- ",
    "\n",
    "  ",
    "---\n",
    "!!binary ",
    "k8s\u{0}",
    "\u{a}",
    "\u{12}",
    "\u{7f}",
    "AAAA",
    "==",
];

fn mutate(rng: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |rng: &mut StdRng| corpus.choose(rng).cloned().unwrap_or_default();
    let mut data = pick(rng);
    for _ in 0..rng.random_range(0..8) {
        let at = rng.random_range(0..=data.len());
        match rng.random_range(0..7) {
            0 if at < data.len() => data[at] ^= 1 << rng.random_range(0..8),
            1 if at < data.len() => drop(data.remove(at)),
            2 => {
                let end = rng.random_range(at..=data.len());
                data.drain(at..end);
            }
            3 => {
                let piece = PIECES.choose(rng).unwrap().as_bytes();
                data.splice(at..at, piece.iter().copied());
            }
            4 => {
                let other = pick(rng);
                let from = rng.random_range(0..=other.len());
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            5 => {
                // Deep nesting, or many of something.
                let piece = PIECES.choose(rng).unwrap().repeat(rng.random_range(1..200));
                data.splice(at..at, piece.into_bytes());
            }
            _ => data.push(rng.random()),
        }
        data.truncate(MAX_BYTES);
    }
    data
}

fn run(name: &str, corpus: &[Vec<u8>], mut check: impl FnMut(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seed = number("SKEP_FUZZ_SEED").unwrap_or_else(rand::random);
    let seconds = number("SKEP_FUZZ_SECONDS").unwrap_or(DEFAULT_SECONDS);
    eprintln!("{name}: SKEP_FUZZ_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    corpus.iter().for_each(|c| check(c));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        check(&mutate(&mut rng, corpus));
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

/// For every kind: an object with names only, and one that says more.
fn objects(registry: &Registry) -> Vec<Vec<u8>> {
    let specs = [
        "{}",
        r#"{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"requests":{"cpu":"100m"}}}]}}}"#,
        r#"{"ports":[{"port":80,"targetPort":"http"}],"selector":{"a":"b"},"type":"ClusterIP"}"#,
        r#"{"rules":[{"host":"a.io","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"s","port":{"number":80}}}}]}}]}"#,
        r#"{"group":"a.io","names":{"plural":"as","kind":"A"},"scope":"Namespaced","versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"x":{"type":"string"}}}}}}}]}"#,
        r#"{"hard":{"pods":"1"},"cidrs":["10.0.0.0/8"],"schedule":"* * * * *","jobTemplate":{"spec":{"template":{"spec":{"containers":[]}}}}}"#,
    ];
    let mut corpus = Vec::new();
    for (index, kind) in registry.iter().enumerate() {
        let info = kind.info();
        for spec in specs {
            let mut input = vec![u8::try_from(index).expect("fewer than 256 kinds")];
            input.extend(
                format!(
                    r#"{{"apiVersion":"{}","kind":"{}","metadata":{{"name":"x","namespace":"n","labels":{{"a":"b"}}}},"spec":{spec},"data":{{"k":"v"}}}}"#,
                    info.api_version(),
                    info.kind
                )
                .into_bytes(),
            );
            corpus.push(input);
        }
    }
    corpus
}

#[test]
fn paths() {
    let corpus = texts(&[
        "GET /api/v1/namespaces/n/pods/p/log?container=c&follow=true",
        "GET /tenants/acme/apis/apps/v1/deployments?labelSelector=a%3Db&limit=5",
        "PATCH /tenants/*/apis/apps/v1/namespaces/n/deployments/d/scale?fieldManager=x&force=true",
        "DELETE /api/v1/namespaces/n/configmaps?propagationPolicy=Orphan&dryRun=All",
        "GET /api/v1/namespaces/..%2f..%2fsecrets",
        "GET /openapi/v3/apis/apps/v1?hash=A",
    ]);
    run("path", &corpus, super::path);
}

#[test]
fn selectors() {
    let corpus =
        texts(&["a=b,c!=d,e in (f,g),h notin (i),j,!k", "metadata.name=a,spec.nodeName!=b", "a.io/b==c", ""]);
    run("selectors", &corpus, super::selectors);
}

#[test]
fn continue_tokens() {
    let token = crate::rest::read::Continue::example().encode();
    run("continue_token", &texts(&[&token, "", "AAAA"]), super::continue_token);
}

#[test]
fn json_bodies() {
    let registry = Registry::builtin();
    run("json", &objects(&registry), |data| super::json(&registry, data));
}

#[test]
fn yaml_bodies() {
    let registry = Registry::builtin();
    let mut corpus = objects(&registry);
    let yaml =
        "\u{1}apiVersion: v1\nkind: ConfigMap\nmetadata: &m\n  name: x\ndata:\n  a: |\n    b\n  c: *m\n";
    corpus.push(yaml.as_bytes().to_vec());
    run("yaml", &corpus, |data| super::yaml(&registry, data));
}

#[test]
fn protobuf_bodies() {
    let registry = Registry::builtin();
    let corpus = [
        b"\x00k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x05\x0a\x03\x0a\x01n".to_vec(),
        b"\x01k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x0c\x0a\x03\x0a\x01p\x12\x05\x12\x03\x0a\x01c".to_vec(),
    ];
    run("protobuf", &corpus, |data| super::protobuf(&registry, data));
}

#[test]
fn patches() {
    let corpus = texts(&[
        "{\"a\":{\"b\":[1,2]}}\n[{\"op\":\"add\",\"path\":\"/a/b/-\",\"value\":3},{\"op\":\"move\",\"from\":\"/a\",\"path\":\"/c\"}]",
        "{\"a\":{\"b\":1}}\n{\"a\":{\"b\":null,\"c\":{}}}",
    ]);
    run("patch", &corpus, |data| {
        skep_patch::fuzz::json_patch(data);
        skep_patch::fuzz::merge_patch(data);
        skep_patch::fuzz::strict_decoding(data);
    });
}
