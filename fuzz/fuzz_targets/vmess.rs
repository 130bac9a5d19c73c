//! Links that begin with `vmess://`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xrat_fuzz::link("vmess", data));
