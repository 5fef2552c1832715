//! New mails in the index: the last step of a commit and of a rebuild.
//!
//! 1 the cache gets records with saved dates, 2 transactions append the mails and name these records. A kill after 1 leaves
//! bytes in the cache that nothing refers to; within 2 the mails whose transactions were not written are added by the next
//! sync, from uidlist and file names.

use crate::index::{Bits, CacheEntry, Durability, ExtSpec, Locked, State, Transaction};
use crate::mail::{Guid128, NewMail, Result, Timestamp, Uid};

/// A mail that the storage has already.
pub(super) struct Entry<'a> {
    pub uid: Uid,
    pub mail: &'a NewMail,
    /// BASE of its file's name.
    pub base: &'a [u8],
}

/// What becomes of the index.
pub(super) struct Record<'a> {
    /// By ascending UID.
    pub mails: &'a [Entry<'a>],
    /// Mails that are gone from the storage.
    pub expunged: &'a [(Uid, Guid128)],
    /// Saved dates of mails that are there, to be kept.
    pub saved: &'a [(Uid, Timestamp)],
}

impl Record<'_> {
    /// Writes it, marked as a sync's work.
    ///
    /// # Errors
    /// Locks, I/O.
    pub fn write(&self, locked: &mut Locked<'_>) -> Result<()> {
        let guids: Vec<_> = self.mails.iter().map(|m| m.mail.guid.text()).collect();
        let date = |t: Timestamp| (t.0 > 0).then_some(t);
        let mut entries: Vec<CacheEntry<'_>> = self
            .mails
            .iter()
            .zip(&guids)
            .map(|(m, guid)| CacheEntry {
                uid: m.uid,
                saved: date(m.mail.saved),
                // Where the name is the GUID there is nothing to look up.
                guid: (guid != m.base && m.mail.saved.0 > 0).then_some(&**guid),
            })
            .collect();
        let there = self.saved.iter().filter(|(uid, _)| locked.state().row(*uid).is_some());
        entries.extend(there.map(|&(uid, saved)| CacheEntry { uid, saved: date(saved), guid: None }));
        let offsets = locked.cache(&entries)?;
        drop(entries);
        let offset = |uid: Uid| offsets.binary_search_by_key(&uid, |o| o.0).ok().map(|n| offsets[n].1);

        let mut batch = Batch::of(locked, Bits::EXTERNAL_SYNC);
        for &(uid, guid) in self.expunged {
            if batch.locked.state().row(uid).is_some() {
                batch.tx.expunge(uid, guid);
            }
        }
        for (uid, _) in self.saved {
            if let Some(offset) = offset(*uid) {
                batch.tx.cache_offset(*uid, offset);
            }
        }
        for m in self.mails {
            batch.tx.save(m.uid, m.mail, 0);
            if let Some(offset) = offset(m.uid) {
                batch.tx.cache_offset(m.uid, offset);
            }
            batch.spill()?;
        }
        if let Some(m) = self.mails.iter().rev().find(|m| m.mail.pop3_uidl.is_some()) {
            note_uidl(batch.locked.state(), &mut batch.tx, m.uid);
        }
        batch.finish(Durability::Lazy)?;
        locked.maintain()?;
        Ok(())
    }
}

/// `hdr-pop3-uidl` has to know the highest UID with a stored UIDL: above it Dovecot does not look for one (index.md 5, 4).
fn note_uidl(state: &State, tx: &mut Transaction, uid: Uid) {
    let known = state.ext(ExtSpec::HDR_POP3_UIDL.name).and_then(|ext| state.ext_header(ext).first_chunk::<4>().copied());
    if known.is_none_or(|k| u32::from_le_bytes(k) < uid.get()) {
        tx.ext_header(ExtSpec::HDR_POP3_UIDL, 0, &uid.get().to_le_bytes());
    }
}

/// A series of transactions of a size that is written in one piece.
pub(super) struct Batch<'l, 'i> {
    pub locked: &'l mut Locked<'i>,
    pub tx: Transaction,
    bits: Bits,
}

impl<'l, 'i> Batch<'l, 'i> {
    /// Of external records.
    pub fn new(locked: &'l mut Locked<'i>) -> Self {
        Self::of(locked, Bits::EXTERNAL)
    }

    /// Of records of a kind.
    pub fn of(locked: &'l mut Locked<'i>, bits: Bits) -> Self {
        Self { locked, tx: Transaction::new(bits), bits }
    }

    /// Writes what there is if it has grown large.
    pub fn spill(&mut self) -> Result<()> {
        if self.tx.size_hint() > Transaction::ADVISED_SIZE {
            let tx = std::mem::replace(&mut self.tx, Transaction::new(self.bits));
            self.locked.commit(&tx, Durability::Later)?;
        }
        Ok(())
    }

    /// Writes the rest.
    pub fn finish(self, durability: Durability) -> Result<()> {
        self.locked.commit(&self.tx, durability)?;
        Ok(())
    }
}
