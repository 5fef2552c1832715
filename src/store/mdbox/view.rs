//! The mails of a mailbox as its index has them at one moment (dbox.md 3.4).

use super::record::{GUID, MDBOX, MailRecord};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::index::{ExtId, Mails, Position, State};
use crate::mail::{Guid128, Identity, Mail, MailList, Status, Uid};
use crate::store::dbox::{IndexHeader, Pop3};

/// What is wrong with a mailbox index that is readable as such.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadIndex {
    /// No `mdbox-hdr`, or a GUID of zeros.
    #[error("has no mailbox GUID")]
    NoGuid,
    /// UIDVALIDITY 0.
    #[error("has no UIDVALIDITY")]
    NoUidValidity,
    /// It was made with another map.
    #[error("map uidvalidity mismatch ({mailbox} vs {map})")]
    OtherMap {
        /// What the mailbox says.
        mailbox: u32,
        /// What the map says.
        map: u32,
    },
}

/// The extension `mdbox-hdr` of a mailbox, if it is usable.
pub(super) fn header(state: &State) -> Result<IndexHeader, BadIndex> {
    state
        .ext(IndexHeader::MDBOX)
        .and_then(|ext| IndexHeader::parse(state.ext_header(ext)))
        .filter(|h| h.guid.is_some())
        .ok_or(BadIndex::NoGuid)
}

/// Which POP3 values of a mailbox count.
pub(super) fn pop3(state: &State, header: &IndexHeader) -> Pop3 {
    Pop3::new(header, state.ext(Pop3::EXTENSION).map(|ext| state.ext_header(ext)))
}

/// GUID, UIDVALIDITY and UIDNEXT of a mailbox.
pub(super) fn identity(state: &State) -> Result<Identity, BadIndex> {
    let guid = header(state)?.guid.ok_or(BadIndex::NoGuid)?;
    let uidvalidity = state.uid_validity().ok_or(BadIndex::NoUidValidity)?;
    Ok(Identity { guid, uidvalidity, uid_next: state.next_uid() })
}

/// What a mailbox's index says of a mail beyond flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference {
    /// Its record in the map and the saved date; `None` is damage ("map uid lost").
    pub record: Option<MailRecord>,
    /// Zero = the index has none.
    pub guid: Guid128,
}

/// The reference of a row.
pub(super) fn reference(state: &State, row: usize) -> Reference {
    Columns::of(state).reference(state, row)
}

/// Where references are in an index.
#[derive(Debug)]
struct Columns {
    records: Option<ExtId>,
    guids: Option<ExtId>,
}

impl Columns {
    fn of(state: &State) -> Self {
        Self { records: state.ext(MDBOX), guids: state.ext(GUID) }
    }

    fn reference(&self, state: &State, row: usize) -> Reference {
        let record = self.records.and_then(|ext| MailRecord::parse(state.ext_record(ext, row)));
        Reference { record, guid: self.guid(state, row) }
    }

    fn guid(&self, state: &State, row: usize) -> Guid128 {
        let guid = self.guids.and_then(|ext| state.ext_record(ext, row).first_chunk::<16>().copied());
        Guid128(guid.unwrap_or_default())
    }
}

/// A view: it stays as it is while others change the mailbox. It shares the index's rows and makes nothing for all mails.
#[derive(Debug)]
pub(super) struct View {
    mails: Mails,
    columns: Columns,
    pub status: Status,
    pub pop3: Pop3,
    // Whoever asks for mails one after the other asks for this one next.
    next: AtomicUsize,
}

impl View {
    /// What the state shows.
    pub fn of(state: &State) -> Result<Self, BadIndex> {
        let identity = identity(state)?;
        let header = header(state)?;
        Ok(Self {
            columns: Columns::of(state),
            status: state.status(identity),
            pop3: pop3(state, &header),
            mails: Mails::of(state),
            next: AtomicUsize::new(0),
        })
    }

    /// Up to where the log is in it.
    pub const fn end(&self) -> Position {
        self.mails.state().position()
    }

    /// What the index says of the mail at a position.
    pub fn reference(&self, at: usize) -> Reference {
        self.columns.reference(self.mails.state(), at)
    }
}

impl MailList for View {
    fn len(&self) -> usize {
        self.mails.len()
    }

    fn uid(&self, at: usize) -> Uid {
        self.mails.uid(at)
    }

    fn mail(&self, at: usize) -> Mail {
        self.mails.mail(at)
    }

    fn all(&self) -> &[Mail] {
        self.mails.all()
    }

    fn guid(&self, at: usize) -> Option<Guid128> {
        Some(self.columns.guid(self.mails.state(), at)).filter(|guid| !guid.is_zero())
    }

    fn has_guids(&self) -> bool {
        match self.columns.guids {
            Some(ext) if self.mails.state().ext_record_size(ext) == 16 => self.mails.state().has_records(ext),
            _ => self.is_empty(),
        }
    }

    fn position(&self, uid: Uid) -> Option<usize> {
        let next = self.next.load(Ordering::Relaxed);
        let at = if next < self.len() && self.uid(next) == uid { next } else { self.mails.position(uid)? };
        self.next.store(at + 1, Ordering::Relaxed);
        Some(at)
    }
}
