//! An opened index: a state, and the log file that it follows (spec: index.md 3.12).
//!
//! Reading takes no lock. What is written is written by [`Locked`].

mod create;
mod load;
mod locked;
mod parked;
mod rotate;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::os::fs::{self, Modes};
use crate::os::lock::{Deadline, How, Lock, is_still};

use super::error::{Damage, DamageClass, Error, Result};
use super::files::Files;
use super::log::{Bits, Header};
use super::settings::Settings;
use super::state::{DeletedMark, Source, State};
use super::transaction::Transaction;
use crate::mail::ModSeq;

pub use create::Created;
#[cfg(any(test, fuzzing))]
pub(super) use load::count;
pub(super) use load::step;
pub use locked::{Durability, Locked};
pub use parked::Parking;

/// When a mark of a deletion was left by somebody who was stopped.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// How an index is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Locks and durability.
    pub settings: Settings,
    /// Modes of new files.
    pub modes: Modes,
    /// A replaced snapshot stays as `.backup` (dbox and map).
    pub backup: bool,
    /// Open it even if it carries the mark of a deletion.
    pub even_deleted: bool,
}

impl Options {
    /// These settings and modes, without backup of snapshots.
    #[must_use]
    pub const fn new(settings: Settings, modes: Modes) -> Self {
        Self { settings, modes, backup: false, even_deleted: false }
    }

    fn lock(&self) -> How {
        How {
            method: self.settings.lock_method,
            stale: Duration::from_secs(180),
            use_excl: self.settings.dotlock_use_excl,
            modes: self.modes,
        }
    }
}

/// Room for more mails than this is not made before they are there.
const MOST_EXPECTED: usize = 1 << 20;

/// The log file that is being followed.
#[derive(Debug)]
struct Head {
    file: File,
    path: PathBuf,
    header: Header,
    writable: bool,
    // The last look, if all that was there then is in the state.
    seen: Option<Look>,
    // The first bytes, while it is being loaded.
    first: Vec<u8>,
}

/// By what a change of a log is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    dev: u64,
    ino: u64,
    len: u64,
    mtime: (i64, i64),
}

impl Look {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self { dev: meta.dev(), ino: meta.ino(), len: meta.len(), mtime: (meta.mtime(), meta.mtime_nsec()) }
    }
}

impl Head {
    fn source(&self) -> Source<'_> {
        Source { path: &self.path, minor: self.header.minor, seq: self.header.file_seq }
    }

    fn look(&self) -> Result<Look> {
        self.file.metadata().map(|meta| Look::of(&meta)).map_err(|e| Error::read(&self.path, e))
    }
}

/// An opened index.
#[derive(Debug)]
pub struct Index {
    files: Files,
    options: Options,
    state: State,
    head: Head,
    // The state is not to be trusted any more: a write or a replay failed half-way.
    stale: bool,
    // Counts what was read from the beginning, in this process.
    loaded: u64,
    // Where the snapshot on disk goes on in the log, as far as is known.
    snapshot: Option<super::state::Position>,
    counted: load::Counted,
}

/// What an index says at one moment: equal versions of an index, equal content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    loaded: u64,
    position: super::state::Position,
}

fn next_load() -> u64 {
    static LOADS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    LOADS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A whole log in memory.
#[derive(Debug)]
pub(super) struct LogText {
    pub path: PathBuf,
    pub header: Header,
    /// From here on.
    pub first: u32,
    /// The modseq counter there.
    pub counter: u64,
    pub bytes: Vec<u8>,
}

impl LogText {
    pub fn source(&self) -> Source<'_> {
        Source { path: &self.path, minor: self.header.minor, seq: self.header.file_seq }
    }
}

impl Index {
    /// Opens an index and reads it.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Deleted`], damage, I/O.
    pub fn open(files: Files, options: Options) -> Result<Self> {
        let loaded = load::load(&files)?;
        let mut index = Self {
            files,
            options,
            state: loaded.state,
            head: loaded.head,
            stale: false,
            loaded: next_load(),
            snapshot: loaded.snapshot,
            counted: loaded.counted,
        };
        index.wait_for_first_record()?;
        if !index.options.even_deleted && index.state.deleted() != DeletedMark::None && !index.take_back_deletion()? {
            return Err(Error::Deleted(index.files.dir().to_owned()));
        }
        Ok(index)
    }

    /// A deletion that nobody has gone on with was given up: its mark goes, as it does when a Dovecot opens the mailbox
    /// (index.md 4.5). Says whether it has gone.
    fn take_back_deletion(&mut self) -> Result<bool> {
        if !self.head.writable || !self.is_left()? {
            return Ok(false);
        }
        // Whoever has the lock is perhaps deleting it.
        let Ok(mut locked) = self.lock() else { return Ok(false) };
        if locked.state().deleted() != DeletedMark::None {
            if !locked.index.is_left()? {
                return Ok(false);
            }
            let mut transaction = Transaction::new(Bits::EXTERNAL);
            transaction.mark_undeleted();
            locked.commit(&transaction, Durability::Lazy)?;
        }
        Ok(true)
    }

    /// Nobody has written to the log for a while.
    fn is_left(&self) -> Result<bool> {
        let meta = self.head.file.metadata().map_err(|e| Error::read(&self.head.path, e))?;
        Ok(meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > GIVEN_UP)))
    }

    /// The state at the last [`Index::open`], [`Index::refresh`], [`Index::lock`] or commit.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Which state this is.
    #[must_use]
    pub const fn version(&self) -> Version {
        Version { loaded: self.loaded, position: self.state.position() }
    }

    /// So many mails more will come in this run.
    pub fn expect(&mut self, mails: usize) {
        self.state.table.expected = self.state.len() + mails.min(MOST_EXPECTED);
    }

    /// The rest of an interrupted write at the end of the log goes, also where nothing else is to be done: the next Dovecot that
    /// locks the log would give the whole of it up because of that (index.md 6.3). Whoever is just writing is waited for.
    ///
    /// # Errors
    /// Locks, I/O; a log that cannot be written is none: then it is not for us to mend.
    pub fn cut_off_rest(&mut self) -> Result<()> {
        if self.head.seen.is_none_or(|look| look.len > u64::from(self.state.position().offset)) {
            match self.lock() {
                Ok(locked) => drop(locked),
                Err(Error::Io(e)) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The names of its files.
    #[must_use]
    pub const fn files(&self) -> &Files {
        &self.files
    }

    /// How it was opened.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Takes in what others have written since. Says whether there was anything. Costs a few system calls if there was not.
    ///
    /// # Errors
    /// As [`Index::open`], except for the mark of a deletion: see [`State::deleted`].
    pub fn refresh(&mut self) -> Result<bool> {
        if self.stale {
            self.reload()?;
            return Ok(true);
        }
        let before = self.state.position();
        if self.options.settings.nfs {
            // Opening a file is what makes a client ask the server for its present attributes.
            drop(File::open(&self.head.path));
        }
        let there = match std::fs::metadata(&self.head.path) {
            Ok(meta) => Some(Look::of(&meta)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::read(&self.head.path, e)),
        };
        if there.is_some() && there == self.head.seen && !self.options.settings.nfs {
            return Ok(false);
        }
        let ours = self.head.look()?;
        if there.is_some_and(|there| (there.dev, there.ino) == (ours.dev, ours.ino)) {
            self.follow()?;
        } else {
            self.follow_rotation()?;
        }
        Ok(self.state.position() != before)
    }

    /// The logs that are still there, the oldest first: as much of them as is needed to see what came behind this modseq.
    pub(super) fn logs(&self, since: Option<ModSeq>) -> Result<Vec<LogText>> {
        let head = self.head.header;
        let mut logs = Vec::new();
        let text = |log: &Head, first: u32, counter: u64| -> Result<LogText> {
            let bytes = load::read_from(&log.file, &log.path, first.into(), log.look()?.len)?;
            Ok(LogText { path: log.path.clone(), header: log.header, first, counter, bytes })
        };
        let load::Counted { at, counter } = self.counted;
        if since.is_some_and(|since| (1..=since.0).contains(&counter)) && at.seq == head.file_seq {
            return Ok(vec![text(&self.head, at.offset, counter)?]);
        }
        let text = |log: &Head| text(log, log.header.size.into(), log.header.initial_modseq);
        if head.prev_seq != 0
            && let load::Opened::Head(old) = load::open_file(&self.files.log2())?
            && (old.header.indexid, old.header.file_seq) == (head.indexid, head.prev_seq)
        {
            logs.push(text(&old)?);
        }
        logs.push(text(&self.head)?);
        Ok(logs)
    }

    /// Reads everything anew.
    fn reload(&mut self) -> Result<()> {
        let loaded = load::load(&self.files)?;
        self.state = loaded.state;
        self.head = loaded.head;
        self.snapshot = loaded.snapshot;
        self.counted = loaded.counted;
        self.loaded = next_load();
        self.stale = false;
        self.wait_for_first_record()
    }

    /// Who begins a history anew (Dovecot's rebuild) puts an empty log in place of the old one, locked, and writes the first
    /// records then (traced). In between the mailbox is not empty: it has no state.
    fn wait_for_first_record(&mut self) -> Result<()> {
        let (h, at) = (self.head.header, self.state.position());
        if h.prev_seq != 0 || (at.seq, at.offset) != (h.file_seq, u32::from(h.size)) || !self.head.writable {
            return Ok(());
        }
        let deadline = Deadline::after(self.options.settings.lock_timeout);
        drop(Lock::acquire(&self.head.file, &self.head.path, &self.options.lock(), deadline)?);
        self.head.seen = None;
        self.follow()
    }

    /// Replays what was appended to the head.
    fn follow(&mut self) -> Result<()> {
        let look = self.head.look()?;
        if self.head.seen == Some(look) && !self.options.settings.nfs {
            return Ok(());
        }
        let at = self.state.position().offset;
        if look.len < u64::from(at) {
            self.stale = true;
            let what = format!("the log is shorter ({} bytes) than it was", look.len);
            return Err(Damage::new(DamageClass::NeedsFsck, &self.head.path, look.len, what).into());
        }
        // Whoever declares a log corrupt overwrites its header.
        let header = load::read_header(&self.head.file, &self.head.path)?;
        if let Err(what) = &header {
            self.stale = true;
            return Err(Damage::new(DamageClass::LogLost, &self.head.path, 0, what.clone()).into());
        }
        let bytes = load::read_from(&self.head.file, &self.head.path, u64::from(at), look.len)?;
        if let Err(damage) = self.state.replay(self.head.source(), &bytes, at) {
            self.stale = true;
            return Err(damage.into());
        }
        self.head.seen = Some(look);
        Ok(())
    }

    /// The log has got another inode: reads the old one to its end, then the new one if it continues it.
    fn follow_rotation(&mut self) -> Result<()> {
        self.head.seen = None;
        self.follow()?;
        let new = match load::open_head(&self.files)? {
            load::Opened::Head(new) => new,
            load::Opened::Gone => return Err(Error::Missing(self.head.path.clone())),
            load::Opened::Unusable(what) => {
                return Err(Damage::new(DamageClass::LogLost, &self.head.path, 0, what).into());
            }
        };
        let (old, position) = (self.head.header, self.state.position());
        let h = new.header;
        let continues = h.indexid == old.indexid
            && h.file_seq == old.file_seq.wrapping_add(1)
            && (h.prev_seq, h.prev_offset) == (position.seq, position.offset);
        if !continues {
            return self.reload();
        }
        self.state.enter_file(h.file_seq, u32::from(h.size), h.initial_modseq);
        self.head = Head { seen: None, first: Vec::new(), ..new };
        self.follow()
    }

    /// Locks the log against all other writers, takes in what they have written, and cuts off what a writer that died
    /// left behind (index.md 3.10, 3.11).
    ///
    /// # Errors
    /// Kind `TimedOut`, no permission, and as [`Index::refresh`].
    pub fn lock(&mut self) -> Result<Locked<'_>> {
        let deadline = Deadline::after(self.options.settings.lock_timeout);
        let how = self.options.lock();
        loop {
            if !self.head.writable {
                let e = io::Error::new(io::ErrorKind::PermissionDenied, "Index is read-only, can't write-lock");
                return Err(fs::Error::new("lock", &self.head.path, e).into());
            }
            let lock = Lock::acquire(&self.head.file, &self.head.path, &how, deadline)?;
            if is_still(&self.head.path, &self.head.file).map_err(|e| Error::read(&self.head.path, e))? {
                self.head.seen = None;
                if self.stale {
                    // The file is opened anew, and the lock was taken on the old descriptor.
                    drop(lock);
                    self.reload()?;
                    continue;
                }
                self.follow()?;
                return Locked::new(self, lock);
            }
            drop(lock);
            self.refresh()?;
        }
    }
}
