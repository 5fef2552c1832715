//! Snapshots, rotation of the log, and a new beginning (spec: index.md 2.8, 3.9, 4.6).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use super::create::{first_log, new_log};
use super::locked::Locked;
use super::{Head, Index};
use crate::index::error::{Error, Result};
use crate::index::log::Header;
use crate::index::state::{Field, Position, State};
use crate::index::transaction::Transaction;
use crate::mail::Timestamp;
use crate::os::Fsync;
use crate::os::fs;
use crate::os::lock::{Deadline, Lock, is_still};

/// `mail_index_log_rotate_max_size`, `..min_size`, `..min_age`.
const ROTATE_SIZE: u32 = 1 << 20;
const ROTATE_MIN_SIZE: u32 = 32 << 10;
const ROTATE_MIN_AGE: Duration = Duration::from_secs(5 * 60);
/// `mail_index_rewrite_max_log_bytes`.
const SNAPSHOT_BYTES: u32 = 128 << 10;
/// Half of what a snapshot has for each mail.
const SNAPSHOT_BYTES_PER_MAIL: u32 = 16;
/// The same where nothing more is to come.
const SETTLED_BYTES: u32 = 16 << 10;
const SETTLED_BYTES_PER_MAIL: u32 = 4;
/// So many rows are written at once: a whole snapshot in memory would be the largest thing there.
const SNAPSHOT_ROWS: usize = 8192;

impl Locked<'_> {
    /// Writes `dovecot.index` anew, so that readers need less of the log.
    ///
    /// # Errors
    /// What the system says; the old snapshot then stays.
    pub fn write_snapshot(&mut self) -> Result<()> {
        let index = &mut *self.index;
        if index.stale {
            return Err(Error::refused(&index.head.path, "an earlier write failed"));
        }
        if index.state.is_synced() {
            index.state.tail = index.state.position.offset;
        }
        let (front, layout) = index.state.snapshot_front();
        let rows = index.state.len();
        let (path, tmp) = (index.files.snapshot(), index.files.tmp());
        State::check_snapshot(&path, &front, front.len() + layout.size_of(rows))
            .map_err(|damage| Error::refused(&path, damage.what))?;
        let mut file = match fs::create_new(&tmp, &index.options.modes) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a writer that died: writers hold the lock that we have.
                fs::unlink_if_there(&tmp)?;
                fs::create_new(&tmp, &index.options.modes)?
            }
            other => other?,
        };
        let durable = index.options.settings.fsync != Fsync::Never;
        let put = (|| {
            let mut bytes = front;
            for first in (0..rows.max(1)).step_by(SNAPSHOT_ROWS) {
                index.state.snapshot_rows(first..rows.min(first + SNAPSHOT_ROWS), &layout, &mut bytes);
                fs::write_all(&mut file, &tmp, &bytes)?;
                bytes.clear();
            }
            if durable {
                fs::fsync(&file, &tmp)?;
            }
            if index.options.backup && path.exists() {
                let backup_tmp = index.files.backup_tmp();
                fs::unlink_if_there(&backup_tmp)?;
                fs::link(&path, &backup_tmp)?;
                fs::rename(&backup_tmp, &index.files.backup())?;
            }
            fs::rename(&tmp, &path)
        })();
        if let Err(e) = put {
            let _ = fs::unlink_if_there(&tmp);
            return Err(e.into());
        }
        index.snapshot = Some(index.state.position());
        Ok(())
    }

    /// Keeps the files small, as Dovecot would: rotates a large log, writes a snapshot where much has been written since
    /// the last one. To be called once after a commit; usually it does nothing.
    ///
    /// # Errors
    /// What the system says; the index is valid whatever happens.
    pub fn maintain(&mut self) -> Result<()> {
        let (state, position) = (&self.index.state, self.index.state.position());
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(self.index.head.header.create_stamp.into());
        let old = created.elapsed().is_ok_and(|age| age >= ROTATE_MIN_AGE);
        let large = position.offset > ROTATE_SIZE || position.offset >= ROTATE_MIN_SIZE && old;
        if large && state.is_synced() && state.pending().is_empty() {
            return self.rotate();
        }
        if self.index.is_behind_by(SNAPSHOT_BYTES, SNAPSHOT_BYTES_PER_MAIL) {
            return self.write_snapshot();
        }
        Ok(())
    }

    /// Begins a new log file; the present one becomes `.log.2`. All requests must have been carried out.
    ///
    /// # Errors
    /// What the system says; the index is valid whatever happens.
    pub fn rotate(&mut self) -> Result<()> {
        // Without a snapshot in the head, the log that is dropped now may be where the history starts.
        if self.index.snapshot.is_none_or(|at| at.seq != self.index.state.position().seq) {
            self.write_snapshot()?;
        }
        let index = &mut *self.index;
        let end = index.state.position();
        let header = Header::new(
            index.state.indexid(),
            next_seq(index)?,
            (end.seq, end.offset),
            Timestamp::now().0,
            index.state.highest_modseq().0.max(1),
        );
        let mut new = new_log(&index.files, &index.options, true)?;
        if !is_still(&index.head.path, &index.head.file).map_err(|e| Error::read(&index.head.path, e))? {
            return Err(Error::refused(&index.head.path, "the log was replaced although we have its lock"));
        }
        new.write(&header.bytes())?;
        let lock = Self::lock_new(index, &new)?;
        let file = new.file().try_clone().map_err(|e| Error::read(&index.head.path, e))?;
        let log2 = index.files.log2();
        fs::unlink_if_there(&log2)?;
        fs::link(&index.head.path, &log2)?;
        new.commit(index.options.settings.fsync != Fsync::Never)?;
        index.state.enter_file(header.file_seq, u32::from(header.size), header.initial_modseq);
        index.state.base.set(Field::LOG2_ROTATE_TIME, Timestamp::now().0);
        self.go_over(file, header, lock);
        self.write_snapshot()
    }

    /// Gives the index another content and history: what was is forgotten. The modseq counter goes on. Open sessions notice
    /// and say BYE, as they do when Dovecot itself resets a Maildir's index.
    ///
    /// The index keeps its id: a session that finds another one under the same name takes the new log for damaged, and
    /// deletes it (2.3.19.1).
    ///
    /// # Errors
    /// [`Error::Refused`] if the content is not consistent, and what the system says. The index has either its old or
    /// its new content.
    pub fn reset(&mut self, content: &[Transaction]) -> Result<()> {
        let index = &mut *self.index;
        let modseq = index.state.highest_modseq().0.max(1);
        let header = Header::new(index.state.indexid(), next_seq(index)?, (0, 0), Timestamp::now().0, modseq);
        let bytes = first_log(&header, &index.head.path, content, index.head.outgrown()?)?;
        let mut new = new_log(&index.files, &index.options, true)?;
        if !is_still(&index.head.path, &index.head.file).map_err(|e| Error::read(&index.head.path, e))? {
            return Err(Error::refused(&index.head.path, "the log was replaced although we have its lock"));
        }
        new.write(&bytes)?;
        let lock = Self::lock_new(index, &new)?;
        let file = new.file().try_clone().map_err(|e| Error::read(&index.head.path, e))?;
        new.commit(index.options.settings.fsync != Fsync::Never)?;
        // From here on the old snapshot is history: its log is neither the head nor continued by it.
        fs::unlink_if_there(&index.files.snapshot())?;
        index.snapshot = None;
        index.loaded = super::next_load();
        let at = Position { seq: header.file_seq, offset: u32::from(header.size) };
        index.state = State::empty(header.indexid, at, header.initial_modseq);
        self.go_over(file, header, lock);
        self.index.follow()
    }

    /// A lock on the new log, for the time when it has got its name.
    fn lock_new(index: &Index, new: &crate::os::dotlock::Replacement) -> Result<Option<Lock>> {
        // A dotlock is on the name, and we have it.
        if index.options.settings.lock_method == crate::os::LockMethod::Dotlock {
            return Ok(None);
        }
        let how = index.options.lock();
        Ok(Some(Lock::acquire(new.file(), &index.files.newlock(), &how, Deadline::after(Duration::ZERO))?))
    }

    /// The new log is the head from now on, and its lock is the one we hold.
    fn go_over(&mut self, file: std::fs::File, header: Header, lock: Option<Lock>) {
        let path = self.index.head.path.clone();
        self.index.head = Head { file, path, header, writable: true, seen: None, first: Vec::new() };
        if let Some(lock) = lock {
            self.lock = lock;
        }
    }
}

impl Index {
    /// More than this of the log is not in the snapshot.
    ///
    /// In proportion to what a snapshot writes: else a large mailbox that grows would be written again and again.
    fn is_behind_by(&self, bytes: u32, bytes_per_mail: u32) -> bool {
        let position = self.state.position();
        let behind = match self.snapshot {
            Some(at) if at.seq == position.seq => position.offset - at.offset.min(position.offset),
            _ => position.offset,
        };
        let mails = u32::try_from(self.state.len()).unwrap_or(u32::MAX);
        behind > bytes.max(mails.saturating_mul(bytes_per_mail))
    }

    /// To be called when a larger job is done: what the next reader would have to replay goes into a snapshot.
    ///
    /// # Errors
    /// As [`Index::lock`], and what the system says; the old snapshot then stays.
    pub fn settle(&mut self) -> Result<()> {
        if !self.is_behind_by(SETTLED_BYTES, SETTLED_BYTES_PER_MAIL) {
            return Ok(());
        }
        self.lock()?.write_snapshot()
    }
}

/// The sequence number of the log behind the present one.
fn next_seq(index: &Index) -> Result<u32> {
    let seq = index.state.position().seq;
    seq.checked_add(1).ok_or_else(|| Error::refused(&index.head.path, "there is no log number behind this one"))
}

impl Head {
    /// The least size of a log that takes this one's place with another content. Dovecot's list index takes a mailbox for unchanged
    /// whose log has the size and the second of change that it has noted (index.md 9.2): a log that was written to in this second
    /// must be outgrown.
    fn outgrown(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(|e| Error::read(&self.path, e))?;
        let is_past = meta.mtime() < Timestamp::now().0.into();
        Ok(if is_past { 0 } else { meta.len() + 1 })
    }
}
