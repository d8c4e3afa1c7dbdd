//! Any bytes as a file of the store: `cargo fuzz run -s none store`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coral_proxy::cache::disk::fuzz(bytes));
