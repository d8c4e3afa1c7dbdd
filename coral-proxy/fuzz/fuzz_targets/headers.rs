//! Any header lines: `cargo fuzz run -s none headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coral_proxy::headers::fuzz(bytes));
