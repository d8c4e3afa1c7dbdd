//! Any host and target: `cargo fuzz run -s none url`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| coral_proxy::url::fuzz(input.0, input.1));
