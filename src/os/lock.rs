//! Exclusive locks on whole files, as Dovecot's `lock_method` wants them (spec: index.md 3.10), and lock files that are made
//! locked (mailbox-list.md 8.0, sync.md 10.1).
//!
//! For `fcntl` the locks are open-file-description locks: they exclude the classic record locks that Dovecot takes, in both
//! directions, and are not lost when another descriptor of the same file is closed in this process. Two descriptors of this
//! process exclude each other as well.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::FlockOperation;

use super::LockMethod;
use super::dotlock::{self, Dotlock};
use super::fs::{self, Error, Modes, Result};

/// A point in time until which something is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    end: Instant,
    total: Duration,
}

impl Deadline {
    /// So long from now.
    #[must_use]
    pub fn after(total: Duration) -> Self {
        let now = Instant::now();
        // A limit beyond what the clock can hold is as good as none.
        let end = now.checked_add(total).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365));
        Self { end, total }
    }

    /// What is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// It has passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// The whole time that was granted.
    #[must_use]
    pub const fn total(&self) -> Duration {
        self.total
    }

    /// Sleeps, but not beyond the deadline.
    pub(super) fn sleep(&self, time: Duration) {
        std::thread::sleep(time.min(self.left()));
    }

    /// The error of a lock that was not to be had.
    pub(super) fn timed_out(&self, path: &Path, holder: Option<u32>) -> Error {
        let held = holder.map(|pid| format!(" (WRITE lock held by pid {pid})")).unwrap_or_default();
        let text = format!("Timed out after {} seconds{held}", self.total.as_secs());
        Error::new("lock", path, io::Error::new(io::ErrorKind::TimedOut, text))
    }
}

/// How a file is to be locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct How {
    /// By which means.
    pub method: LockMethod,
    /// For dotlocks: without a change for so long they are left behind by somebody. Index logs: 180 s.
    pub stale: Duration,
    /// For dotlocks: `dotlock_use_excl`.
    pub use_excl: bool,
    /// For dotlocks: modes of the lock file.
    pub modes: Modes,
}

/// An exclusive lock on a whole file. Dropping it unlocks.
#[derive(Debug)]
#[must_use = "the lock is gone when this value is dropped"]
pub struct Lock {
    held: Held,
}

#[derive(Debug)]
enum Held {
    // A duplicate of the descriptor: the lock belongs to the open file description that both share.
    Fcntl(File),
    Flock(File),
    Dotlock { _lock: Dotlock },
}

impl Lock {
    /// Locks an open file. For fcntl it must be open for writing. With dotlocks the lock is the file `PATH.lock`.
    ///
    /// Whether the path still names this file is for the caller to check afterwards.
    ///
    /// # Errors
    /// Kind `TimedOut` with the holder's process id as far as the system tells, or what the system says.
    pub fn acquire(file: &File, path: &Path, how: &How, deadline: Deadline) -> Result<Self> {
        let bad = |e| Error::new("lock", path, e);
        let held = match how.method {
            LockMethod::Dotlock => {
                let mut options = dotlock::Options::new(how.modes, deadline.left());
                options.stale = how.stale;
                options.use_excl = how.use_excl;
                options.watched = Some(path.to_owned());
                Held::Dotlock { _lock: Dotlock::acquire(&dotlock::name_for(path), &options)? }
            }
            method => {
                let file = file.try_clone().map_err(bad)?;
                poll(deadline, || try_lock(&file, method))
                    .map_err(bad)?
                    .then_some(())
                    .ok_or_else(|| deadline.timed_out(path, holder(&file, method)))?;
                if method == LockMethod::Fcntl { Held::Fcntl(file) } else { Held::Flock(file) }
            }
        };
        Ok(Self { held })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        match &self.held {
            Held::Fcntl(file) => {
                let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)));
            }
            Held::Flock(file) => {
                let _ = rustix::fs::flock(file, FlockOperation::Unlock);
            }
            Held::Dotlock { .. } => {}
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the constants are small; their type differs between systems")]
fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock { l_type: kind as libc::c_short, l_whence: libc::SEEK_SET as libc::c_short, l_start: 0, l_len: 0, l_pid: 0 }
}

fn try_lock(file: &File, method: LockMethod) -> io::Result<bool> {
    if method == LockMethod::Flock {
        return match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        };
    }
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES | nix::errno::Errno::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn holder(file: &File, method: LockMethod) -> Option<u32> {
    if method != LockMethod::Fcntl {
        return None;
    }
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    // The holder of an open-file-description lock is shown as -1.
    u32::try_from(lock.l_pid).ok().filter(|&pid| pid > 0 && i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Tries until it works or the deadline has passed; waits a little longer each time.
fn poll(deadline: Deadline, mut attempt: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let mut pause = Duration::from_millis(1);
    loop {
        if attempt()? {
            return Ok(true);
        }
        if deadline.passed() {
            return Ok(false);
        }
        deadline.sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
    }
}

/// The path still names the open file (device and inode).
///
/// # Errors
/// What the system says; a path that is not there is a plain no.
pub fn is_still(path: &Path, file: &File) -> io::Result<bool> {
    let there = match std::fs::metadata(path) {
        Ok(m) => m,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let ours = file.metadata()?;
    Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

/// A lock file that never appears unlocked: made under another name, locked, then linked (mailbox-list.md 8.0).
/// Dropping it removes the file.
///
/// For `mailboxes.lock`, `.dovecot-box-sync.lock`, `~/.dovecot-sync.lock`.
#[derive(Debug)]
#[must_use = "the lock is gone when this value is dropped"]
pub struct LockFile {
    path: PathBuf,
    // `None`: the file is a dotlock.
    file: Option<File>,
    lock: Option<Lock>,
}

impl LockFile {
    /// Takes the lock. The directory must be there.
    ///
    /// # Errors
    /// Kind `TimedOut` with the holder's process id as far as the system tells, or what the system says.
    pub fn acquire(path: &Path, how: &How, timeout: Duration) -> Result<Self> {
        let deadline = Deadline::after(timeout);
        if how.method == LockMethod::Dotlock {
            let mut options = dotlock::Options::new(how.modes, timeout);
            options.stale = how.stale;
            options.use_excl = how.use_excl;
            // Its existence is the lock then; there is no second `.lock` (2.3.19.1, traced).
            let lock = Lock { held: Held::Dotlock { _lock: Dotlock::acquire(path, &options)? } };
            return Ok(Self { path: path.to_owned(), file: None, lock: Some(lock) });
        }
        loop {
            let found = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path);
            let got = match found {
                Ok(file) => {
                    let lock = Lock::acquire(&file, path, how, deadline).map_err(|e| name_holder(e, &file, deadline))?;
                    // Its former holder has removed it meanwhile: then this lock keeps nobody away.
                    is_still(path, &file).map_err(|e| Error::new("stat", path, e))?.then_some((file, lock))
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Self::make(path, how)?,
                Err(e) => return Err(Error::new("open", path, e)),
            };
            if let Some((file, lock)) = got {
                // The system does not tell whose such a lock is (see the top): the content does. A full disk is no reason
                // not to lock.
                if file.metadata().is_ok_and(|m| m.len() > 0) {
                    let _ = fs::truncate(&file, path, 0);
                }
                let _ = fs::write_all_at(&file, path, std::process::id().to_string().as_bytes(), 0);
                return Ok(Self { path: path.to_owned(), file: Some(file), lock: Some(lock) });
            }
            if deadline.passed() {
                return Err(deadline.timed_out(path, None));
            }
        }
    }

    /// A new lock file; `None` when somebody else was faster.
    fn make(path: &Path, how: &How) -> Result<Option<(File, Lock)>> {
        let mut temp = path.as_os_str().to_owned();
        temp.push(format!("{:016x}", super::random()));
        let temp = PathBuf::from(temp);
        let file = fs::create_new(&temp, &how.modes)?;
        let linked =
            Lock::acquire(&file, &temp, how, Deadline::after(Duration::ZERO)).and_then(|lock| match fs::link(&temp, path) {
                Ok(()) => Ok(Some(lock)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
                Err(e) => Err(e),
            });
        let removed = fs::unlink(&temp);
        let linked = linked?;
        removed?;
        Ok(linked.map(|lock| (file, lock)))
    }

    /// The path of the lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Adds the process that wrote its number into the lock file, where the system did not tell the holder.
fn name_holder(e: Error, file: &File, deadline: Deadline) -> Error {
    let mut text = [0; 16];
    let written = file.read_at(&mut text, 0).ok().and_then(|n| std::str::from_utf8(&text[..n]).ok()?.trim().parse().ok());
    match written {
        Some(pid) if e.kind() == io::ErrorKind::TimedOut && !e.to_string().contains(" pid ") => {
            deadline.timed_out(&e.path, Some(pid))
        }
        _ => e,
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Unlinked while still locked, so that whoever waits for this inode sees that it is gone.
        if let Some(file) = &self.file
            && is_still(&self.path, file).unwrap_or(false)
            && let Err(e) = fs::unlink_if_there(&self.path)
        {
            tracing::warn!("{e}");
        }
        self.lock = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(method: LockMethod) -> How {
        How { method, stale: Duration::from_secs(180), use_excl: true, modes: Modes::default() }
    }

    #[test]
    fn two_descriptors_exclude_each_other() {
        let dir = tempfile::tempdir().expect("scratch directory");
        for method in [LockMethod::Fcntl, LockMethod::Flock, LockMethod::Dotlock] {
            let path = dir.path().join(format!("{method:?}"));
            let a = fs::create_new(&path, &Modes::default()).expect("new file");
            let b = OpenOptions::new().read(true).write(true).open(&path).expect("is there");
            let first = Lock::acquire(&a, &path, &how(method), Deadline::after(Duration::ZERO)).expect("free");
            let e = Lock::acquire(&b, &path, &how(method), Deadline::after(Duration::from_millis(20))).expect_err("taken");
            assert_eq!(e.kind(), io::ErrorKind::TimedOut, "{method:?}: {e}");
            assert!(e.to_string().contains(path.to_str().expect("ascii")), "{e}");
            drop(first);
            drop(Lock::acquire(&b, &path, &how(method), Deadline::after(Duration::ZERO)).expect("free again"));
        }
    }

    #[test]
    fn closing_another_descriptor_keeps_the_lock() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("log");
        let a = fs::create_new(&path, &Modes::default()).expect("new file");
        let lock = Lock::acquire(&a, &path, &how(LockMethod::Fcntl), Deadline::after(Duration::ZERO)).expect("free");
        drop(File::open(&path).expect("is there"));
        let b = OpenOptions::new().read(true).write(true).open(&path).expect("is there");
        assert!(!try_lock(&b, LockMethod::Fcntl).expect("no error"));
        drop(lock);
        assert!(try_lock(&b, LockMethod::Fcntl).expect("no error"));
    }

    #[test]
    fn a_record_lock_of_another_process_is_named() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("log");
        std::fs::write(&path, b"x").expect("scratch file");
        let script =
            "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('ok',flush=True)\nsys.stdin.read()";
        let child = std::process::Command::new("python3")
            .args(["-c", script, path.to_str().expect("ascii")])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: no python3");
            return;
        };
        let mut ready = [0; 3];
        io::Read::read_exact(&mut child.stdout.take().expect("piped"), &mut ready).expect("it says ok");
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("is there");
        let e =
            Lock::acquire(&file, &path, &how(LockMethod::Fcntl), Deadline::after(Duration::from_millis(5))).expect_err("taken");
        drop(child.stdin.take());
        child.wait().expect("it ends");
        assert!(e.to_string().contains(&format!("held by pid {}", child.id())), "{e}");
    }

    #[test]
    fn lock_file_comes_and_goes() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join(".dovecot-box-sync.lock");
        for method in [LockMethod::Fcntl, LockMethod::Flock, LockMethod::Dotlock] {
            let lock = LockFile::acquire(&path, &how(method), Duration::ZERO).expect("free");
            let e = LockFile::acquire(&path, &how(method), Duration::from_millis(10)).expect_err("taken");
            assert!(e.to_string().contains(&format!("held by pid {}", std::process::id())), "{e}");
            drop(lock);
            assert_eq!(std::fs::read_dir(dir.path()).expect("is there").count(), 0, "{method:?}");
        }
    }

    #[test]
    fn a_waiter_gets_the_lock_file_in_turn() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("mailboxes.lock");
        let busy = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..25 {
                        let lock = LockFile::acquire(&path, &how(LockMethod::Fcntl), Duration::from_secs(20)).expect("in time");
                        assert!(!busy.swap(true, std::sync::atomic::Ordering::SeqCst));
                        busy.store(false, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
