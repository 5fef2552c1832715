//! Stopping or failing the program at the n-th change to the file system, for the fault tests.
//!
//! Built into debug builds only. `DSYNC_FAULT=n:KIND` in the environment acts at the n-th step (counted from 1) of the
//! process: `kill` ends the process at once before the step, `short` lets a write put down half of its bytes and then
//! kills, `ENOSPC`, `EIO`, `EDQUOT` and `EACCES` make the step and all later ones of its kind fail with that error.
//! `DSYNC_FAULT_LOG=FILE` appends a line per step, so that a test can learn how many there are.

use std::io;
use std::path::Path;
#[cfg(debug_assertions)]
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// What a write has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The step goes on as if nothing was there.
    Go,
    /// A write puts down half of its bytes; the caller then calls [`die`].
    Half,
}

#[cfg(debug_assertions)]
struct Plan {
    at: u64,
    kind: String,
    log: Option<std::path::PathBuf>,
}

#[cfg(debug_assertions)]
fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let log = std::env::var_os("DSYNC_FAULT_LOG").map(Into::into);
        let (at, kind) = match std::env::var("DSYNC_FAULT") {
            Ok(v) => {
                let (n, kind) = v.split_once(':')?;
                (n.parse().ok()?, kind.to_owned())
            }
            Err(_) => (0, String::new()),
        };
        (at > 0 || log.is_some()).then_some(Plan { at, kind, log })
    })
    .as_ref()
}

/// Counts one change to the file system and says what becomes of it.
///
/// # Errors
/// The error that the fault plan wants at this step.
#[cfg(debug_assertions)]
pub fn step(op: &str, path: &Path) -> io::Result<Verdict> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(plan) = plan() else { return Ok(Verdict::Go) };
    let n = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(log) = &plan.log {
        use std::io::Write;
        let mut f = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        // One write a line: both sides of a run work at the same time.
        f.write_all(format!("{n} {op} {}\n", path.display()).as_bytes())?;
    }
    if plan.at == 0 || n < plan.at {
        return Ok(Verdict::Go);
    }
    let errno = match plan.kind.as_str() {
        "kill" if n == plan.at => die(),
        "short" if n == plan.at => {
            if op == "write" {
                return Ok(Verdict::Half);
            }
            die()
        }
        "ENOSPC" | "EDQUOT" if matches!(op, "unlink" | "rmdir" | "truncate" | "fsync") => return Ok(Verdict::Go),
        "ENOSPC" => nix::errno::Errno::ENOSPC,
        "EDQUOT" => nix::errno::Errno::EDQUOT,
        "EIO" => nix::errno::Errno::EIO,
        "EACCES" => nix::errno::Errno::EACCES,
        _ => return Ok(Verdict::Go),
    };
    Err(io::Error::from_raw_os_error(errno as i32))
}

/// Release builds have no fault plan.
///
/// # Errors
/// Never.
#[cfg(not(debug_assertions))]
#[inline]
#[allow(clippy::unnecessary_wraps, reason = "the debug build fails on purpose")]
pub fn step(_op: &str, _path: &Path) -> io::Result<Verdict> {
    Ok(Verdict::Go)
}

/// Ends the process as `kill -9` would: no destructor runs, no buffer is flushed.
pub fn die() -> ! {
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    std::process::abort()
}
