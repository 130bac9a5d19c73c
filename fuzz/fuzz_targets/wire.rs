//! Requests on the socket, in pieces of any size.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xrat_fuzz::wire(data));
