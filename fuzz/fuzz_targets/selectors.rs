#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skep_apiserver::fuzz::selectors(data));
