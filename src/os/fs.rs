//! All changes to the file system. Reading uses `std::fs` directly.
//!
//! Errors carry the operation and the path ([`Error`]), so that no caller has to add them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::faults::{self, Verdict};

/// A change to the file system that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {path}: {source}", path = .path.display())]
pub struct Error {
    /// What was tried, as a verb.
    pub op: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl Error {
    /// An error of an operation that is not one of this module's (reading, locking).
    pub fn new(op: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { op, path: path.into(), source }
    }

    /// The kind of the cause.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The file or directory is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
}

/// Result with a place.
pub type Result<T> = std::result::Result<T, Error>;

fn doing<T>(op: &'static str, path: &Path, f: impl FnOnce() -> io::Result<T>) -> Result<T> {
    faults::step(op, path).and_then(|_| f()).map_err(|e| Error::new(op, path, e))
}

/// Modes and group for new files and directories of one place (spec: mailbox-list.md 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modes {
    /// Permission bits of new files.
    pub file: u32,
    /// Permission bits of new directories.
    pub dir: u32,
    /// The group that new files get, where it is not inherited anyway.
    pub gid: Option<u32>,
    /// Owner and group for everything new when the process runs as root.
    pub owner: Option<(u32, u32)>,
}

impl Default for Modes {
    fn default() -> Self {
        Self { file: 0o600, dir: 0o700, gid: None, owner: None }
    }
}

impl Modes {
    /// The rules of mailbox-list.md 12 for a directory that serves as the model.
    #[must_use]
    pub fn like(model: &std::fs::Metadata) -> Self {
        let mode = model.mode();
        let setgid = mode & 0o2000 != 0;
        let differs = (mode >> 3) & 7 != mode & 7;
        let egid = rustix::process::getegid().as_raw();
        let root = rustix::process::geteuid().is_root();
        Self {
            file: (mode & 0o666) | 0o600,
            dir: (mode & 0o777) | 0o700,
            gid: (!setgid && differs && model.gid() != egid).then_some(model.gid()),
            owner: root.then_some((model.uid(), model.gid())),
        }
    }

    fn give(&self, file: &File, mode: u32) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        let mut mode = mode;
        if let Some(gid) = self.gid
            && std::os::unix::fs::fchown(file, None, Some(gid)).is_err()
        {
            // Without the wanted group neither group nor world may get more than both were meant to have.
            let common = (mode >> 3) & mode & 7;
            mode = (mode & 0o700) | common << 3 | common;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    }
}

/// Creates a file that must not exist, for reading and writing.
///
/// # Errors
/// `AlreadyExists`, or what the system says.
pub fn create_new(path: &Path, modes: &Modes) -> Result<File> {
    doing("create", path, || {
        let plain = modes.owner.is_none() && modes.gid.is_none() && modes.file & umask() == 0;
        let mode = if plain { modes.file } else { 0o600 };
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?;
        if !plain {
            modes.give(&file, modes.file)?;
        }
        Ok(file)
    })
}

/// The process's umask, which nobody changes. All of it where the system does not tell.
fn umask() -> u32 {
    static UMASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *UMASK.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let told = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        told.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
    })
}

/// Creates or empties a file, for reading and writing.
///
/// # Errors
/// What the system says.
pub fn create(path: &Path, modes: &Modes) -> Result<File> {
    doing("create", path, || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        modes.give(&file, modes.file)?;
        Ok(file)
    })
}

/// Opens a log for appending; a new one is for its owner only. What is written to it is no change that a fault test counts:
/// nothing depends on a log.
///
/// # Errors
/// What the system says.
pub fn open_log(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    opened.map_err(|e| Error::new("open", path, e))
}

/// Writes everything at the file's position, or at its end if it was opened for appending.
///
/// # Errors
/// What the system says; some of the bytes may then be there.
pub fn write_all(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    match faults::step("write", path) {
        Ok(Verdict::Go) => file.write_all(bytes),
        Ok(Verdict::Half) => {
            let _ = file.write_all(&bytes[..bytes.len() / 2]);
            faults::die()
        }
        Err(e) => Err(e),
    }
    .map_err(|e| Error::new("write", path, e))
}

/// Writes everything at an offset.
///
/// # Errors
/// What the system says; some of the bytes may then be there.
pub fn write_all_at(file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
    match faults::step("write", path) {
        Ok(Verdict::Go) => file.write_all_at(bytes, offset),
        Ok(Verdict::Half) => {
            let _ = file.write_all_at(&bytes[..bytes.len() / 2], offset);
            faults::die()
        }
        Err(e) => Err(e),
    }
    .map_err(|e| Error::new("write", path, e))
}

/// Copies a range of another file to the file's position, by the kernel where it can.
///
/// # Errors
/// What the system says, `UnexpectedEof` when the source is shorter.
pub fn copy_range(from: &File, offset: u64, len: u64, to: &mut File, to_path: &Path) -> Result<()> {
    doing("write", to_path, || {
        let (mut offset, mut left) = (offset, len);
        while left > 0 {
            let n = usize::try_from(left.min(1 << 30)).unwrap_or(1 << 30);
            match rustix::fs::copy_file_range(from, Some(&mut offset), &*to, None, n) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => left -= n as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(
                    rustix::io::Errno::XDEV | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP,
                ) => {
                    let mut buffer = vec![0; 128 * 1024];
                    while left > 0 {
                        let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        let n = from.read_at(&mut buffer[..n], offset)?;
                        if n == 0 {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        to.write_all(&buffer[..n])?;
                        offset += n as u64;
                        left -= n as u64;
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    })
}

/// Cuts or extends a file.
///
/// # Errors
/// What the system says.
pub fn truncate(file: &File, path: &Path, len: u64) -> Result<()> {
    doing("truncate", path, || file.set_len(len))
}

/// Makes the content durable (fdatasync).
///
/// # Errors
/// What the system says.
pub fn fsync(file: &File, path: &Path) -> Result<()> {
    doing("fsync", path, || file.sync_data())
}

/// Makes the same change to many files, several at a time where it takes time: file systems then do for many what they would
/// do for one (ext4: syncing 1000 small files takes 0.1 s instead of 1 to 3 s, and so does removing them).
///
/// # Errors
/// That of one that failed; others may have been changed or not.
pub fn each<T: Sync>(items: &[T], change: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    const AT_ONCE: usize = 16;
    /// What a file system that has nothing to wait for needs at most. Starting a thread takes about as long.
    const QUICK: Duration = Duration::from_micros(50);
    let mut items = items;
    while let Some((first, rest)) = items.split_first() {
        let started = Instant::now();
        change(first)?;
        items = rest;
        if started.elapsed() > QUICK && items.len() >= 3 {
            break;
        }
    }
    if items.is_empty() {
        return Ok(());
    }
    let (change, share) = (&change, items.len().div_ceil(AT_ONCE));
    std::thread::scope(|scope| {
        let workers: Vec<_> = items.chunks(share).map(|share| scope.spawn(move || share.iter().try_for_each(change))).collect();
        let died = |_| Err(Error::new("go on in", Path::new("."), io::Error::other("a thread has ended early")));
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(died))
    })
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the system says.
pub fn fsync_dir(path: &Path) -> Result<()> {
    doing("fsync", path, || File::open(path)?.sync_all())
}

/// Renames, replacing what has the new name.
///
/// # Errors
/// What the system says.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    doing("rename", from, || std::fs::rename(from, to))
}

/// Renames only if the new name is free.
///
/// # Errors
/// `AlreadyExists`, or what the system says.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    doing("rename", from, || {
        match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, rustix::fs::RenameFlags::NOREPLACE) {
            // Not every file system knows the flag.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::hard_link(from, to)?;
                std::fs::remove_file(from)
            }
            other => Ok(other?),
        }
    })
}

/// Swaps two names in one step.
///
/// # Errors
/// What the system says.
pub fn exchange(a: &Path, b: &Path) -> Result<()> {
    doing("rename", a, || {
        Ok(rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, rustix::fs::RenameFlags::EXCHANGE)?)
    })
}

/// Makes a further hard link.
///
/// # Errors
/// `AlreadyExists`, or what the system says.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    doing("link", to, || std::fs::hard_link(from, to))
}

/// Makes a symbolic link.
///
/// # Errors
/// What the system says.
pub fn symlink(target: &Path, path: &Path) -> Result<()> {
    doing("link", path, || std::os::unix::fs::symlink(target, path))
}

/// Removes a file.
///
/// # Errors
/// What the system says, `NotFound` included.
pub fn unlink(path: &Path) -> Result<()> {
    doing("unlink", path, || std::fs::remove_file(path))
}

/// Removes a file if it is there; says whether it was.
///
/// # Errors
/// What the system says, except `NotFound`.
pub fn unlink_if_there(path: &Path) -> Result<bool> {
    match unlink(path) {
        Ok(()) => Ok(true),
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes an empty directory.
///
/// # Errors
/// What the system says.
pub fn rmdir(path: &Path) -> Result<()> {
    doing("rmdir", path, || std::fs::remove_dir(path))
}

/// Removes a directory with all that is in it. Symbolic links are removed, not followed.
///
/// # Errors
/// What the system says.
pub fn remove_tree(path: &Path) -> Result<()> {
    doing("unlink", path, || std::fs::remove_dir_all(path))
}

/// Makes one directory.
///
/// # Errors
/// `AlreadyExists`, or what the system says.
pub fn mkdir(path: &Path, modes: &Modes) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    doing("mkdir", path, || {
        std::fs::DirBuilder::new().mode(modes.dir).create(path)?;
        let dir = File::open(path)?;
        let made = dir.metadata()?.mode();
        let wanted = modes.dir | made & 0o2000;
        // A chmod takes the setgid bit away from whoever is not in the group: none where nothing has to change.
        if made & 0o7777 != wanted || modes.gid.is_some() || modes.owner.is_some() {
            modes.give(&dir, wanted)?;
            if made & 0o2000 != 0 && dir.metadata()?.mode() & 0o2000 == 0 {
                tracing::warn!("{} lost its setgid bit: we are not in its group", path.display());
            }
        }
        Ok(())
    })
}

/// Makes a directory and its missing parents.
///
/// # Errors
/// What the system says; an existing directory is none.
pub fn mkdir_all(path: &Path, modes: &Modes) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        mkdir_all(parent, modes)?;
    }
    match mkdir(path, modes) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// Sets the modification time.
///
/// # Errors
/// What the system says.
pub fn set_mtime(file: &File, path: &Path, time: SystemTime) -> Result<()> {
    doing("utime", path, || file.set_times(std::fs::FileTimes::new().set_accessed(time).set_modified(time)))
}
