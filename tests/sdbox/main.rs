//! sdbox against trees that Dovecot has written, and beside a live Dovecot.

#[path = "../mdbox/lab.rs"]
#[allow(dead_code, reason = "shared with the tests of mdbox")]
mod lab;

mod beside;
mod common;
mod corpus;
mod faults;
mod live;
mod rebuild;
