//! Links that begin with `vless://`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xrat_fuzz::link("vless", data));
