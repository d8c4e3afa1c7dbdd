#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coral_dsht::fuzzing::operations(bytes));
