//! Whole runs of our program, stopped or failed at every change to the file system.
//!
//! After each: Dovecot reads both sides without a word, no mail is missing that has a place in the end, the next run
//! ends the work as if nothing had happened, and one more run changes nothing. By default a spread of the steps is tried;
//! `cargo test --test faults -- --ignored` tries all.

#[path = "../rows/lab.rs"]
#[allow(dead_code, reason = "shared with the other tests that use Dovecot")]
mod lab;

mod matrix;
