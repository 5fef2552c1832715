//! The operating system as the storages need it: changing files, locks, ownership and modes, deadlines.
//!
//! Knows nothing about mail. **Every change to the file system goes through [`fs`]**, so that the fault tests can stop
//! or fail the program at each of them.

pub mod dotlock;
pub mod faults;
pub mod fs;
pub mod lock;
pub mod stop;

/// `mail_fsync`: when written data is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Not at all.
    Never,
    /// Where a crash would lose mail.
    Optimized,
    /// After every write.
    Always,
}

/// `lock_method`: how index files are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMethod {
    /// `fcntl` record locks.
    Fcntl,
    /// `flock`.
    Flock,
    /// A `.lock` file beside the file.
    Dotlock,
}

/// A random number, for names that nobody else uses.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Each state is keyed anew by the standard library.
    std::hash::RandomState::new().build_hasher().finish()
}
