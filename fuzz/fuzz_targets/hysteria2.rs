//! Links that begin with `hysteria2://`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xrat_fuzz::link("hysteria2", data));
