#![no_main]
use std::sync::LazyLock;

static REGISTRY: LazyLock<skep_api::Registry> = LazyLock::new(skep_api::Registry::builtin);

libfuzzer_sys::fuzz_target!(|data: &[u8]| skep_apiserver::fuzz::protobuf(&REGISTRY, data));
