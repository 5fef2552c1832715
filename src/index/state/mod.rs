//! The state of an index: what the snapshot says, and what the log records behind it make of it.
//!
//! Some twenty to fifty bytes a mail, which clones share. Reading is by row; rows ascend by UID.

mod header;
mod keywords;
mod replay;
mod snapshot;
mod table;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::mail::{Flags, Guid128, Keywords, ModSeq, Uid, UidValidity};

pub(super) use header::Base;
pub use header::Field;
pub(super) use keywords::{KeywordTable, SetId};
pub(super) use table::{Column, Stored, Table};

use super::log::Range;
pub(super) use replay::Source;

/// A place in the logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Sequence number of the log file.
    pub seq: u32,
    /// Offset in it.
    pub offset: u32,
}

/// An extension of this state, by its position in the list of extensions. Stays valid as long as the index is not reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtId(pub(super) usize);

#[derive(Debug, Clone)]
pub(super) struct Extension {
    pub name: Box<str>,
    pub reset_id: u32,
    pub header: Vec<u8>,
    pub record_size: u16,
    pub record_align: u16,
    pub column: Column,
}

/// A request in the log that the storage has perhaps not carried out yet (index.md 3.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Where its record starts in the head log.
    pub offset: u32,
    /// What is requested. Flags and keywords are in the state already.
    pub request: Request,
}

/// What a [`Pending`] record requests. UID ranges include both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Changes of system flags.
    Flags {
        /// First and last UID.
        uids: (u32, u32),
        /// Added.
        add: Flags,
        /// Removed.
        remove: Flags,
    },
    /// A keyword was added or removed.
    Keyword {
        /// Its name.
        name: Vec<u8>,
        /// Added; else removed.
        add: bool,
        /// First and last UIDs.
        uids: Vec<(u32, u32)>,
    },
    /// All keywords were removed.
    KeywordReset {
        /// First and last UIDs.
        uids: Vec<(u32, u32)>,
    },
    /// Mails are to be expunged. They are still in the state.
    Expunge {
        /// First and last UID.
        uids: (u32, u32),
        /// The mail's GUID, if the record has one: then it is about one UID.
        guid: Option<Guid128>,
    },
}

/// Marks of a deletion (index.md 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeletedMark {
    /// None.
    None,
    /// The deletion was requested.
    Requested,
    /// The deletion was done.
    Done,
}

/// The content of an index at one position of its log.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) base: Base,
    pub(super) extensions: Vec<Extension>,
    pub(super) keywords: Arc<KeywordTable>,
    pub(super) table: Table,
    /// The modseq counter at `position`.
    pub(super) counter: u64,
    pub(super) position: Position,
    pub(super) tail: u32,
    pub(super) pending: VecDeque<Pending>,
    /// Where the last internal record of the head log stands, whatever it is about.
    pub(super) last_internal: u32,
    pub(super) deleted: DeletedMark,
    pub(super) intro: replay::Context,
}

impl State {
    /// That of an index without any history.
    pub(super) fn empty(indexid: u32, position: Position, counter: u64) -> Self {
        Self {
            base: Base::new(indexid),
            extensions: Vec::new(),
            keywords: Arc::default(),
            table: Table::default(),
            counter,
            position,
            tail: position.offset,
            pending: VecDeque::new(),
            last_internal: 0,
            deleted: DeletedMark::None,
            intro: replay::Context::default(),
        }
    }

    /// The index's id: the same in snapshot, logs and cache.
    #[must_use]
    pub fn indexid(&self) -> u32 {
        self.base.get(Field::INDEXID)
    }

    /// A number of the base header.
    #[must_use]
    pub fn field(&self, field: Field) -> u32 {
        self.base.get(field)
    }

    /// UIDVALIDITY; none before the storage has set it.
    #[must_use]
    pub fn uid_validity(&self) -> Option<UidValidity> {
        UidValidity::new(self.field(Field::UID_VALIDITY))
    }

    /// UIDNEXT.
    #[must_use]
    pub fn next_uid(&self) -> Uid {
        Uid::new(self.field(Field::NEXT_UID)).unwrap_or(Uid::FIRST)
    }

    /// Mails from this UID on are \Recent.
    #[must_use]
    pub fn first_recent(&self) -> Uid {
        Uid::new(self.field(Field::FIRST_RECENT_UID)).unwrap_or(Uid::FIRST)
    }

    /// A fsck by Dovecot has repaired something (index.md 6.4). Information only.
    #[must_use]
    pub fn fsckd(&self) -> bool {
        self.field(Field::FLAGS) & 4 != 0
    }

    /// The mailbox is being deleted, or was.
    #[must_use]
    pub const fn deleted(&self) -> DeletedMark {
        self.deleted
    }

    /// The position up to which the logs are in this state.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Up to here in the head log the storage is known to agree, as the index has it written down.
    #[must_use]
    pub const fn tail(&self) -> u32 {
        self.tail
    }

    /// Requests behind the tail.
    #[must_use]
    pub const fn pending(&self) -> &VecDeque<Pending> {
        &self.pending
    }

    /// Nothing internal stands behind the tail: the storage agrees with this state.
    #[must_use]
    pub const fn is_synced(&self) -> bool {
        self.last_internal < self.tail
    }

    /// The log goes on at the front of a new file.
    pub(super) fn enter_file(&mut self, seq: u32, offset: u32, initial_modseq: u64) {
        self.position = Position { seq, offset };
        self.counter = self.counter.max(initial_modseq);
        self.tail = offset;
        self.last_internal = 0;
        // A log is rotated only after the storage has carried out all that it requests (index.md 3.9).
        self.pending.clear();
    }

    /// How many mails.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// There is no mail.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of a UID.
    #[must_use]
    pub fn row(&self, uid: Uid) -> Option<usize> {
        self.table.row(uid.get())
    }

    /// The UID of a row, of which there are [`State::len`].
    ///
    /// # Panics
    /// For a row beyond the last one, as a slice would. So do all the others that take a row.
    #[must_use]
    pub fn uid(&self, row: usize) -> Uid {
        Uid::new(self.table.uid(row)).unwrap_or(Uid::FIRST)
    }

    /// A copy of all UIDs, ascending.
    #[must_use]
    pub fn uids(&self) -> Vec<u32> {
        (0..self.len()).map(|row| self.table.uid(row)).collect()
    }

    /// The rows of the mails from one UID to another, both ends included.
    pub fn rows_between(&self, first: u32, last: u32) -> impl Iterator<Item = usize> + use<> {
        self.table.rows(Range { first, last })
    }

    /// The system flags of a row.
    #[must_use]
    pub fn flags(&self, row: usize) -> Flags {
        Flags::from_bits(self.table.flags(row))
    }

    /// The flags byte of a row with the bits that are not system flags: 0x40 backend, 0x80 dirty (index.md 2.4).
    #[must_use]
    pub fn raw_flags(&self, row: usize) -> u8 {
        self.table.flags(row)
    }

    /// The keywords of a row. Rows with the same keywords share one set.
    #[must_use]
    pub fn keywords(&self, row: usize) -> &Keywords {
        self.keywords.set(self.table.set(row))
    }

    /// The keyword names of the index in the order of their numbers, as they were first written.
    pub fn keyword_names(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.keywords.names()
    }

    /// Modseqs of single mails are kept.
    #[must_use]
    pub fn keeps_modseqs(&self) -> bool {
        self.modseq_ext().is_some()
    }

    /// The modseq of a row: the mailbox's highest one where none is kept for it.
    #[must_use]
    pub fn modseq(&self, row: usize) -> ModSeq {
        match self.table.modseq(row) {
            0 => self.highest_modseq(),
            m => ModSeq(m),
        }
    }

    /// The highest modseq of the mailbox (index.md 3.7).
    #[must_use]
    pub fn highest_modseq(&self) -> ModSeq {
        ModSeq(self.counter.max(self.modseq_header().map_or(0, |h| h.0)))
    }

    pub(super) fn modseq_ext(&self) -> Option<usize> {
        self.extensions.iter().position(|e| &*e.name == "modseq" && e.record_size == 8)
    }

    /// Highest modseq, log sequence number and offset in the header of the `modseq` extension.
    pub(super) fn modseq_header(&self) -> Option<(u64, Position)> {
        let h = self.extensions.get(self.modseq_ext()?)?.header.first_chunk::<16>()?;
        let number = |at: usize| u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let highest = u64::from(number(0)) | u64::from(number(4)) << 32;
        Some((highest, Position { seq: number(8), offset: number(12) }))
    }

    /// The extension with this name.
    #[must_use]
    pub fn ext(&self, name: &str) -> Option<ExtId> {
        self.extensions.iter().position(|e| &*e.name == name).map(ExtId)
    }

    /// The names of all extensions, in the order of their ids.
    pub fn extensions(&self) -> impl ExactSizeIterator<Item = (ExtId, &str)> {
        self.extensions.iter().enumerate().map(|(i, e)| (ExtId(i), &*e.name))
    }

    /// The header data of an extension. For `keywords` and `modseq` use what this type offers for them.
    #[must_use]
    pub fn ext_header(&self, ext: ExtId) -> &[u8] {
        self.extensions.get(ext.0).map_or(&[], |e| &e.header)
    }

    /// The reset id of an extension: for `cache` the sequence number of the cache file.
    #[must_use]
    pub fn ext_reset_id(&self, ext: ExtId) -> u32 {
        self.extensions.get(ext.0).map_or(0, |e| e.reset_id)
    }

    /// Bytes that the extension has for each mail.
    #[must_use]
    pub fn ext_record_size(&self, ext: ExtId) -> usize {
        self.extensions.get(ext.0).map_or(0, |e| usize::from(e.record_size))
    }

    /// The data of an extension for a mail; zeros where nothing was ever written.
    #[must_use]
    pub fn ext_record(&self, ext: ExtId, row: usize) -> &[u8] {
        self.extensions.get(ext.0).map_or(&[], |e| e.column.get(&self.table.stored, row))
    }

    /// All mails have data of an extension that is not just zeros.
    #[must_use]
    pub fn has_records(&self, ext: ExtId) -> bool {
        let Some(column) = self.extensions.get(ext.0).map(|e| &e.column) else { return self.is_empty() };
        (0..self.len()).all(|row| column.get(&self.table.stored, row).iter().any(|&b| b != 0))
    }

    /// The first four bytes of the data of an extension for a mail, as a number.
    #[must_use]
    pub fn ext_u32(&self, ext: ExtId, row: usize) -> u32 {
        self.ext_record(ext, row).first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b))
    }

    /// How many mails are not \Seen.
    #[must_use]
    pub fn unseen(&self) -> usize {
        (0..self.len()).filter(|&row| self.table.flags(row) & Flags::SEEN.bits() == 0).count()
    }

    pub(super) fn record_size(&self) -> usize {
        self.extensions.iter().map(|e| usize::from(e.record_size)).sum()
    }

    pub(super) fn rows(&self, range: Range) -> impl Iterator<Item = usize> + use<> {
        self.table.rows(range)
    }
}
