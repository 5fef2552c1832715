//! Lock files whose existence is the lock (spec: maildir.md 6, mailbox-list.md 9).
//!
//! A holder that died is recognised by the `PID:HOST` inside, or by nothing having changed for long.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::fs::{self, Error, Modes, Result};
use super::lock::Deadline;

/// How a dotlock is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Modes of the lock file.
    pub modes: Modes,
    /// How long to wait. Uidlist: 122 s.
    pub timeout: Duration,
    /// Without a change for so long it is left behind. Uidlist: 120 s, index log: 180 s, subscriptions: 30 s.
    pub stale: Duration,
    /// `dotlock_use_excl`: create with `O_EXCL`; else by a hard link.
    pub use_excl: bool,
    /// The file that is being changed under the lock: as long as it changes, the lock is alive.
    pub watched: Option<PathBuf>,
}

impl Options {
    /// These modes and this timeout; stale after 120 s, `O_EXCL`, nothing watched.
    #[must_use]
    pub fn new(modes: Modes, timeout: Duration) -> Self {
        Self { modes, timeout, stale: Duration::from_secs(120), use_excl: true, watched: None }
    }
}

/// The lock file's name for a file: `PATH.lock`.
#[must_use]
pub fn name_for(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// A lock file of ours. Dropping it removes it.
#[derive(Debug)]
#[must_use = "the lock is gone when this value is dropped"]
pub struct Dotlock {
    path: PathBuf,
    inode: (u64, u64),
    last_touch: Instant,
    renamed: bool,
}

impl Dotlock {
    /// Takes the lock; `path` is that of the lock file itself. Its content is `PID:HOST`.
    ///
    /// # Errors
    /// Kind `TimedOut`, or what the system says.
    pub fn acquire(path: &Path, options: &Options) -> Result<Self> {
        let (lock, _) = Self::take(path, options, format!("{}:{}", std::process::id(), host()).as_bytes())?;
        Ok(lock)
    }

    fn take(path: &Path, options: &Options, content: &[u8]) -> Result<(Self, File)> {
        let deadline = Deadline::after(options.timeout);
        let mut watch = Watch::default();
        let mut pause = Duration::from_millis(5);
        loop {
            match make(path, options, content) {
                Ok((file, inode)) => {
                    return Ok((Self { path: path.to_owned(), inode, last_touch: Instant::now(), renamed: false }, file));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            match watch.look(path, options)? {
                Look::Gone => continue,
                Look::Stale(inode) => {
                    tracing::warn!("Overriding stale lock file {}", path.display());
                    remove_if_still(path, inode)?;
                    continue;
                }
                Look::Alive(holder) if deadline.passed() => return Err(deadline.timed_out(path, holder)),
                Look::Alive(_) => {}
            }
            deadline.sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
    }

    /// Tells others that the holder is alive. To be called now and then during long work; does something every 5 s at most.
    ///
    /// # Errors
    /// What the system says.
    pub fn touch(&mut self) -> Result<()> {
        if self.last_touch.elapsed() < Duration::from_secs(5) {
            return Ok(());
        }
        self.last_touch = Instant::now();
        let file = File::open(&self.path).map_err(|e| Error::new("open", &self.path, e))?;
        fs::set_mtime(&file, &self.path, SystemTime::now())
    }

    /// The lock file has got another name: there is nothing left to remove.
    fn forget(mut self) {
        self.renamed = true;
    }

    /// Nobody has overridden it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        inode_of(&self.path).ok().flatten() == Some(self.inode)
    }
}

impl Drop for Dotlock {
    fn drop(&mut self) {
        if !self.renamed {
            match remove_if_still(&self.path, self.inode) {
                Ok(true) => {}
                Ok(false) => tracing::warn!("Lock file {} was overridden", self.path.display()),
                Err(e) => tracing::warn!("{e}"),
            }
        }
        ours().remove(&self.inode);
    }
}

/// A lock file that is the new content of the file it locks: written, then renamed into place (`subscriptions`, a new log).
/// Dropping it without [`Replacement::commit`] removes it.
#[derive(Debug)]
#[must_use = "the lock is gone when this value is dropped"]
pub struct Replacement {
    lock: Option<Dotlock>,
    file: File,
    name: PathBuf,
    target: PathBuf,
}

impl Replacement {
    /// Locks `target` by creating `TARGET.lock`, empty.
    ///
    /// # Errors
    /// Kind `TimedOut`, or what the system says.
    pub fn acquire(target: &Path, options: &Options) -> Result<Self> {
        Self::acquire_as(&name_for(target), target, options)
    }

    /// The same with another name for the lock file.
    ///
    /// # Errors
    /// As [`Replacement::acquire`].
    pub fn acquire_as(name: &Path, target: &Path, options: &Options) -> Result<Self> {
        let (lock, file) = Dotlock::take(name, options, b"")?;
        Ok(Self { lock: Some(lock), file, name: name.to_owned(), target: target.to_owned() })
    }

    /// The open lock file, to be locked or read.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Appends to the new content.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        fs::write_all(&mut self.file, &self.name, bytes)
    }

    /// Puts the new content in place of the old one, which also unlocks. With `durable` the content is on the disk before
    /// it gets its name.
    ///
    /// # Errors
    /// The lock was overridden by somebody else, or what the system says; the old content is then still in place.
    pub fn commit(self, durable: bool) -> Result<()> {
        self.publish(durable, fs::rename)
    }

    /// The same where there must be no old content.
    ///
    /// # Errors
    /// `AlreadyExists`, and as [`Replacement::commit`].
    pub fn commit_new(self, durable: bool) -> Result<()> {
        self.publish(durable, fs::rename_new)
    }

    fn publish(mut self, durable: bool, rename: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        if durable {
            fs::fsync(&self.file, &self.name)?;
        }
        if !self.lock.as_ref().is_some_and(Dotlock::is_ours) {
            return Err(Error::new("replace", &self.target, io::Error::other("our lock file was overridden")));
        }
        rename(&self.name, &self.target)?;
        if let Some(lock) = self.lock.take() {
            lock.forget();
        }
        Ok(())
    }
}

/// The lock files that this process holds: one with our process id that is not among them was left by a process before us.
fn ours() -> MutexGuard<'static, HashSet<(u64, u64)>> {
    static OURS: LazyLock<Mutex<HashSet<(u64, u64)>>> = LazyLock::new(Mutex::default);
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

fn inode_of(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match std::fs::symlink_metadata(path) {
        Ok(m) => Ok(Some((m.dev(), m.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn remove_if_still(path: &Path, inode: (u64, u64)) -> Result<bool> {
    if inode_of(path).map_err(|e| Error::new("stat", path, e))? != Some(inode) {
        return Ok(false);
    }
    fs::unlink_if_there(path)
}

/// Makes the lock file, or fails with `AlreadyExists`.
///
/// One that says who holds it gets its name when it is complete: a lock without content, left by a process that was killed
/// between two system calls, keeps everybody waiting for two minutes.
fn make(path: &Path, options: &Options, content: &[u8]) -> Result<(File, (u64, u64))> {
    if content.is_empty() {
        return make_as(path, options, content);
    }
    match make_as(path, &Options { use_excl: false, ..options.clone() }, content) {
        // A file system without links.
        Err(e) if options.use_excl && matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            make_as(path, options, content)
        }
        other => other,
    }
}

fn make_as(path: &Path, options: &Options, content: &[u8]) -> Result<(File, (u64, u64))> {
    let made = if options.use_excl {
        path.to_owned()
    } else {
        let name = format!("temp.{}.{}.{:016x}", host(), std::process::id(), super::random());
        path.with_file_name(name)
    };
    let mut file = fs::create_new(&made, &options.modes)?;
    let mut finish = || {
        if !content.is_empty() {
            fs::write_all(&mut file, &made, content)?;
        }
        let meta = file.metadata().map_err(|e| Error::new("stat", &made, e))?;
        let inode = (meta.dev(), meta.ino());
        // Known as ours before anybody can see it under its name.
        ours().insert(inode);
        if !options.use_excl
            && let Err(e) = fs::link(&made, path)
        {
            ours().remove(&inode);
            return Err(e);
        }
        Ok(inode)
    };
    let result = finish();
    if result.is_err() || !options.use_excl {
        let _ = fs::unlink_if_there(&made);
    }
    result.map(|inode| (file, inode))
}

enum Look {
    Gone,
    Stale((u64, u64)),
    Alive(Option<u32>),
}

/// What was seen of somebody else's lock file.
#[derive(Default)]
struct Watch {
    seen: Option<Identity>,
    since: Option<Instant>,
}

type Identity = ((u64, u64), (i64, i64), (i64, i64), u64);

impl Watch {
    /// The rules of maildir.md 6, in its order.
    fn look(&mut self, path: &Path, options: &Options) -> Result<Look> {
        let bad = |e| Error::new("stat", path, e);
        let meta = match std::fs::symlink_metadata(path) {
            Ok(m) => m,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Look::Gone),
            Err(e) => return Err(bad(e)),
        };
        let inode = (meta.dev(), meta.ino());
        let identity = (inode, (meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec()), meta.size());
        let now = Instant::now();
        if self.seen != Some(identity) {
            self.seen = Some(identity);
            self.since = Some(now);
        }
        let age = |m: &std::fs::Metadata| m.modified().ok().and_then(|t| t.elapsed().ok()).unwrap_or_default();

        if ours().contains(&inode) {
            return Ok(Look::Alive(Some(std::process::id())));
        }
        // A younger file may not have its content yet.
        if age(&meta) >= Duration::from_secs(2)
            && let Some(pid) = local_holder(path)
        {
            let alive = pid != std::process::id() && is_alive(pid);
            return Ok(if alive { Look::Alive(Some(pid)) } else { Look::Stale(inode) });
        }
        let unchanged = self.since.is_some_and(|t| now.duration_since(t) >= options.stale) || age(&meta) >= options.stale;
        let watched_rests = match &options.watched {
            Some(file) => match std::fs::metadata(file) {
                Ok(m) => age(&m) >= options.stale,
                Err(_) => true,
            },
            None => true,
        };
        Ok(if unchanged && watched_rests { Look::Stale(inode) } else { Look::Alive(None) })
    }
}

/// The process id in the lock file, if it is one of this host.
fn local_holder(path: &Path) -> Option<u32> {
    let mut text = [0; 512];
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path).ok()?;
    let n = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..n]).ok()?;
    let (pid, on) = text.trim_end().split_once(':')?;
    (on == host()).then_some(())?;
    pid.parse().ok().filter(|&p| p > 0)
}

fn is_alive(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    !matches!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::new(Modes::default(), Duration::from_millis(30))
    }

    fn plant(path: &Path, content: &str, age: u64) {
        std::fs::write(path, content).expect("scratch file");
        let file = File::options().write(true).open(path).expect("is there");
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("own file");
    }

    fn dead_pid() -> u32 {
        let mut child = std::process::Command::new("true").spawn().expect("every system has it");
        child.wait().expect("it ends");
        child.id()
    }

    #[test]
    fn says_who_holds_it_and_goes_with_the_value() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("dovecot-uidlist.lock");
        for use_excl in [true, false] {
            let lock = Dotlock::acquire(&path, &Options { use_excl, ..options() }).expect("free");
            let text = std::fs::read_to_string(&path).expect("is there");
            assert_eq!(text, format!("{}:{}", std::process::id(), host()));
            let e = Dotlock::acquire(&path, &Options { use_excl, ..options() }).expect_err("taken by this process");
            assert_eq!(e.kind(), io::ErrorKind::TimedOut);
            drop(lock);
            assert_eq!(std::fs::read_dir(dir.path()).expect("is there").count(), 0);
        }
    }

    #[test]
    fn overrides_the_dead_and_nobody_else() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("x.lock");
        let free = |content: &str, age| {
            plant(&path, content, age);
            let got = Dotlock::acquire(&path, &options()).is_ok();
            let _ = std::fs::remove_file(&path);
            got
        };
        let here = host();
        assert!(free(&format!("{}:{here}", dead_pid()), 3), "dead process");
        assert!(!free(&format!("{}:{here}", dead_pid()), 0), "too young to be judged");
        assert!(!free(&format!("1:{here}"), 3000), "init lives");
        assert!(free(&format!("{}:{here}", std::process::id()), 3), "left by an earlier process with our number");
        assert!(!free("77:elsewhere.invalid", 60), "another host, fresh");
        assert!(free("77:elsewhere.invalid", 121), "another host, long unchanged");
        assert!(free("", 121), "no content");
    }

    #[test]
    fn a_changing_file_keeps_the_lock_alive() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let path = dir.path().join("dovecot-uidlist.lock");
        let watched = dir.path().join("dovecot-uidlist");
        std::fs::write(&watched, "new").expect("scratch file");
        plant(&path, "77:elsewhere.invalid", 500);
        Dotlock::acquire(&path, &Options { watched: Some(watched), ..options() }).expect_err("alive");
    }

    #[test]
    fn a_replacement_takes_the_place_of_its_file() {
        let dir = tempfile::tempdir().expect("scratch directory");
        let target = dir.path().join("subscriptions");
        std::fs::write(&target, "old\n").expect("scratch file");
        let mut new = Replacement::acquire(&target, &options()).expect("free");
        Replacement::acquire(&target, &options()).expect_err("taken");
        new.write(b"new\n").expect("room");
        new.commit(true).expect("ours");
        assert_eq!(std::fs::read_to_string(&target).expect("is there"), "new\n");

        let mut dropped = Replacement::acquire(&target, &options()).expect("free again");
        dropped.write(b"never\n").expect("room");
        drop(dropped);
        assert_eq!(std::fs::read_to_string(&target).expect("is there"), "new\n");
        assert_eq!(std::fs::read_dir(dir.path()).expect("is there").count(), 1);
    }
}
