//! Any bytes as a value of the index: `cargo fuzz run -s none reference`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coral_proxy::reference::fuzz(bytes));
