//! Any bytes as a file of the store: `cargo +nightly fuzz run store`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coral_proxy::cache::disk::fuzz(bytes));
