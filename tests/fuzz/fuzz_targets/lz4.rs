#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dsync::fuzz::door("lz4").expect("a door")(bytes));
