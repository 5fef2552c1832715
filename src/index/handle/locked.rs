//! An index whose log is locked: the only way to change it (spec: index.md 3.11).

use std::time::Instant;

use super::Index;
use crate::index::error::{Error, Result};
use crate::index::given_since;
use crate::index::log::Bits;
use crate::index::state::{Position, State};
use crate::index::transaction::{Transaction, encode};
use crate::mail::Uid;
use crate::os::Fsync;
use crate::os::fs;
use crate::os::lock::Lock;

/// When a commit is made durable (dbox.md 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Another commit under the same lock will see to it.
    Later,
    /// Flags, keywords, expunge requests, tail: with `mail_fsync=always` only.
    Lazy,
    /// New mails, expunges, new references of an mdbox map: with `mail_fsync=optimized`, too.
    Mail,
}

/// An index whose log is locked. Dropping it unlocks.
///
/// Slow work is to be done before: others warn when they wait for more than 30 s.
#[derive(Debug)]
#[must_use = "the lock is gone when this value is dropped"]
pub struct Locked<'i> {
    pub(super) index: &'i mut Index,
    pub(super) lock: Lock,
    since: Instant,
}

impl<'i> Locked<'i> {
    pub(super) fn new(index: &'i mut Index, lock: Lock) -> Result<Self> {
        let locked = Self { index, lock, since: Instant::now() };
        let end = u64::from(locked.state().position().offset);
        let head = &locked.index.head;
        let len = head.look()?.len;
        if len > end {
            // Nobody else is writing: these bytes are the rest of a writer that died, and the next locking Dovecot would
            // give up the whole log because of them (index.md 6.3).
            tracing::warn!("{}: cutting off an incomplete transaction ({} bytes)", head.path.display(), len - end);
            fs::truncate(&head.file, &head.path, end)?;
        }
        Ok(locked)
    }

    /// The state at the end of the log. It cannot change by others' hands any more.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.index.state
    }

    /// A write has failed: nothing more can be written before the index is read again.
    #[must_use]
    pub const fn is_spoilt(&self) -> bool {
        self.index.stale
    }

    /// The index.
    #[must_use]
    pub const fn index(&self) -> &Index {
        self.index
    }

    /// Since when the lock is held.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Holds back the UIDs that others were given since UIDNEXT was `seen`, before a sync writes above them. Gives those UIDs.
    ///
    /// # Errors
    /// As [`Locked::commit`].
    pub fn hold_back_others(&mut self, seen: Uid) -> Result<Option<(Uid, Uid)>> {
        let others = given_since(seen, self.state().next_uid());
        if let Some(t) = others.and_then(|uids| self.state().hold_back_too(uids, Bits::EXTERNAL)) {
            self.commit(&t, Durability::Later)?;
        }
        Ok(others)
    }

    /// Writes a transaction in one piece and applies it to the state. Gives the position behind it. Writes nothing if there
    /// is nothing to do.
    ///
    /// # Errors
    /// [`Error::Refused`] if it does not fit the state; then nothing was written. A failed write is taken back as a whole.
    pub fn commit(&mut self, transaction: &Transaction, durability: Durability) -> Result<Position> {
        let index = &mut *self.index;
        if index.stale {
            return Err(Error::refused(&index.head.path, "an earlier write failed"));
        }
        let bytes = encode(transaction, &index.state).map_err(|what| Error::refused(&index.head.path, what))?;
        let old_end = index.state.position().offset;
        if !bytes.is_empty() {
            if u64::from(old_end) + bytes.len() as u64 > u64::from(u32::MAX) - (1 << 20) {
                return Err(Error::refused(&index.head.path, "the log would reach 4 GiB"));
            }
            // First here, then there: what our own reader refuses never gets into the file.
            let head = &index.head;
            if let Err(damage) = index.state.replay(head.source(), &bytes, old_end) {
                index.stale = true;
                return Err(Error::refused(&index.head.path, damage.what));
            }
            if let Err(e) = fs::write_all_at(&head.file, &head.path, &bytes, u64::from(old_end)) {
                index.stale = true;
                if let Err(e) = fs::truncate(&head.file, &head.path, u64::from(old_end)) {
                    tracing::error!("{e}");
                }
                return Err(e.into());
            }
        }
        let wanted = match durability {
            Durability::Later => false,
            Durability::Lazy => index.options.settings.fsync == Fsync::Always,
            Durability::Mail => index.options.settings.fsync != Fsync::Never,
        };
        if wanted {
            fs::fsync(&index.head.file, &index.head.path)?;
        }
        Ok(index.state.position())
    }

    /// Writes transactions one after the other. Those before a failing one stay.
    ///
    /// # Errors
    /// As [`Locked::commit`].
    pub fn commit_all(&mut self, transactions: &[Transaction], durability: Durability) -> Result<Position> {
        let Some((last, others)) = transactions.split_last() else { return Ok(self.state().position()) };
        for transaction in others {
            self.commit(transaction, Durability::Later)?;
        }
        self.commit(last, durability)
    }
}
