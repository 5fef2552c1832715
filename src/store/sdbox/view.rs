//! The mails of a mailbox as its index has them at one moment, and what was learned of them from their files.

use std::sync::Arc;

use crate::index::{Mails, Position, State};
use crate::mail::{Facts, Identity, MailGuid, MailList, Status, Timestamp, Uid};
use crate::store::dbox::{IndexHeader, Pop3};

/// Index record flag: the mail is in the alternative storage (dbox.md 2.2).
pub(super) const IN_ALT: u8 = 0x40;

/// What is wrong with an index that is readable as such. Dovecot would rebuild; we change nothing (dbox.md 6.4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadIndex {
    #[error("has no mailbox GUID; the mailbox needs `doveadm force-resync`")]
    NoGuid,
    #[error("has no UIDVALIDITY; the mailbox needs `doveadm force-resync`")]
    NoUidValidity,
}

/// The extension `dbox-hdr`, if it is usable.
pub(super) fn header(state: &State) -> Result<IndexHeader, BadIndex> {
    state
        .ext(IndexHeader::SDBOX)
        .and_then(|ext| IndexHeader::parse(state.ext_header(ext)))
        .filter(|h| h.guid.is_some())
        .ok_or(BadIndex::NoGuid)
}

/// Which POP3 values count.
pub(super) fn pop3(state: &State, header: &IndexHeader) -> Pop3 {
    Pop3::new(header, state.ext(Pop3::EXTENSION).map(|ext| state.ext_header(ext)))
}

/// GUID, UIDVALIDITY and UIDNEXT.
pub(super) fn identity(state: &State) -> Result<Identity, BadIndex> {
    let guid = header(state)?.guid.ok_or(BadIndex::NoGuid)?;
    let uidvalidity = state.uid_validity().ok_or(BadIndex::NoUidValidity)?;
    Ok(Identity { guid, uidvalidity, uid_next: state.next_uid() })
}

/// What is known of a mail beyond the index.
#[derive(Debug, Clone, Default)]
pub(super) struct Slot {
    /// The cache was asked.
    pub looked_up: bool,
    /// As cached; 0 = not cached.
    pub saved: Timestamp,
    /// As cached, or as the file says.
    pub guid: Option<MailGuid>,
    /// From the file, once it was opened.
    pub facts: Option<Box<Facts>>,
}

/// A view: it stays as it is while others change the mailbox.
#[derive(Debug)]
pub(super) struct View {
    pub mails: Arc<dyn MailList>,
    pub status: Status,
    /// Where in the log it was taken.
    pub end: Position,
    pub pop3: Pop3,
    /// One for each of `mails`, filled as they are asked for.
    pub slots: Vec<Slot>,
}

impl View {
    /// What the state shows. What `old` knew of mails that are still there is kept: a file's content never changes.
    pub fn of(state: &State, old: Option<Self>) -> Result<Self, BadIndex> {
        let identity = identity(state)?;
        let header = header(state)?;
        let mails = Mails::of(state);
        let pop3 = pop3(state, &header);
        let mut slots = vec![Slot::default(); mails.len()];
        if let Some(old) =
            old.filter(|old| old.status.identity == Identity { uid_next: old.status.identity.uid_next, ..identity })
            && old.pop3 == pop3
        {
            let mut rest = slots.iter_mut().zip((0..mails.len()).map(|at| mails.uid(at))).peekable();
            for (uid, known) in (0..old.mails.len()).map(|at| old.mails.uid(at)).zip(old.slots) {
                while rest.next_if(|(_, u)| *u < uid).is_some() {}
                if let Some((slot, _)) = rest.next_if(|(_, u)| *u == uid) {
                    *slot = known;
                }
            }
        }
        Ok(Self { mails: Arc::new(mails), status: state.status(identity), end: state.position(), pop3, slots })
    }

    /// A view of nothing, of the same mailbox.
    pub fn empty_of(other: &Self) -> Self {
        Self { mails: Arc::new(Vec::new()), status: other.status, end: other.end, pop3: other.pop3, slots: Vec::new() }
    }

    /// The UIDs of all mails.
    pub fn uids(&self) -> impl Iterator<Item = Uid> {
        (0..self.mails.len()).map(|at| self.mails.uid(at))
    }

    /// The row of a mail.
    pub fn row(&self, uid: Uid) -> Option<usize> {
        self.mails.position(uid)
    }
}
