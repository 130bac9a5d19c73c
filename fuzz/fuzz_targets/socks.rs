//! Links that begin with `socks://`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xrat_fuzz::link("socks", data));
