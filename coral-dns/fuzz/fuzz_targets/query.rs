#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coral_dns::check_query(bytes));
