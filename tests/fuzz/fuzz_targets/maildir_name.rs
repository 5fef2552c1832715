#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dsync::fuzz::door("maildir_name").expect("a door")(bytes));
