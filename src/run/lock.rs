//! The lock of one user.

use std::path::PathBuf;
use std::time::Duration;

use crate::mail::{self, Class};
use crate::os::LockMethod;
use crate::os::fs::Modes;
use crate::os::lock::{How, LockFile};
use crate::store::Owner;

/// `~/.dovecot-sync.lock`, which keeps other runs with `-l` away from the user (sync.md 10.1).
pub(super) fn user(owner: &Owner, timeout: Duration) -> mail::Result<LockFile> {
    let home = owner.home.as_ref().ok_or_else(|| mail::Error::new(Class::Temporary, "User has no home directory"))?;
    let modes = std::fs::metadata(home).map_or_else(|_| Modes::default(), |m| Modes { file: 0o600, ..Modes::like(&m) });
    crate::os::fs::mkdir_all(home, &modes)?;
    let path: PathBuf = home.join(".dovecot-sync.lock");
    // Always an fcntl lock, whatever `lock_method` says.
    let how = How { method: LockMethod::Fcntl, stale: timeout, use_excl: true, modes };
    LockFile::acquire(&path, &how, timeout)
        .map_err(|e| mail::Error::new(Class::Temporary, format!("Couldn't lock {}: {e}", path.display())))
}
