//! Any bytes as the head of a request: `cargo fuzz run -s none heads`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coral_proxy::fuzz_head(bytes));
