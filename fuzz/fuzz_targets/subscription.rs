//! Bodies of subscriptions, in every format.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xrat_fuzz::subscription(data));
