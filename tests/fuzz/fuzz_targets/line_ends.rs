#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dsync::fuzz::door("line_ends").expect("a door")(bytes));
