//! One test per row of what people who use `doveadm sync` and `doveadm backup` suffer from, as far as it is about two local
//! places. Each is named after its row and fails where we behave as the row describes.
//!
//! Not here, and why:
//! - L9: mbox is not a storage of ours yet. L13: progress is for the eye. L14: the exit codes are in `tests/cli.rs`.
//! - F2, F3, F4, F7, F38 to F40: IMAP sources. F10 to F13, F15 to F18: peers on other machines, and Dovecot 2.4.
//! - F20: it is about rebuilding a storage, which we do not do. F22: the unit tests of `store::mdbox::map`.
//! - F25: `tests/sdbox/live.rs` compares the headers of what we create. F34: `tests/faults`. F41: the replicator.
//! - S30: the same as L5.

#[allow(dead_code, reason = "two targets share it, and neither uses all")]
mod lab;

mod fixed;
mod reproduced;
mod standing;
