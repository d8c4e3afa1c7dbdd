#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coral::reach::check_bytes(bytes));
