#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dsync::fuzz::door("bz2").expect("a door")(bytes));
