//! Links that begin with `tuic://`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xrat_fuzz::link("tuic", data));
