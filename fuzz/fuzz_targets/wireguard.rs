//! Links that begin with `wireguard://`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xrat_fuzz::link("wireguard", data));
