//! The settings that the index files need (spec: index.md 11.1). `config` fills them.

use std::time::Duration;

use crate::os::{Fsync, LockMethod};

/// How index files are locked and made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `lock_method`.
    pub lock_method: LockMethod,
    /// `mail_fsync`.
    pub fsync: Fsync,
    /// How long to wait for a log lock: 180 s, or `mail_max_lock_timeout` if that is less.
    pub lock_timeout: Duration,
    /// `dotlock_use_excl`.
    pub dotlock_use_excl: bool,
    /// `mail_nfs_index`: reopen files instead of trusting cached attributes.
    pub nfs: bool,
    /// The files outlive the run; those of `INDEX=MEMORY` do not.
    pub lasts: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lock_method: LockMethod::Fcntl,
            fsync: Fsync::Optimized,
            lock_timeout: Duration::from_secs(180),
            dotlock_use_excl: true,
            nfs: false,
            lasts: true,
        }
    }
}
