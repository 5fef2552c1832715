#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dsync::fuzz::door("mailbox_log").expect("a door")(bytes));
