//! An index in the words of [`crate::mail`]: what all storages that have one share.

mod changes;
mod edits;
mod held;
mod mails;
mod save;

use crate::mail::{Identity, Mail, ModSeq, Status, Uid};

use super::state::{Request, State};

pub use changes::Scan;
pub use edits::{EditPlan, plan_edits, raise};
pub use mails::Mails;
pub use save::{assign_uids, given_since};

impl State {
    /// The mail of a row.
    #[must_use]
    pub fn mail(&self, row: usize) -> Mail {
        Mail { uid: self.uid(row), flags: self.flags(row), keywords: self.keywords(row).clone(), modseq: self.modseq(row) }
    }

    /// The mails, ascending.
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        (0..self.len()).map(|row| self.mail(row)).collect()
    }

    /// Another program has begun to make this mailbox and not finished: no mail was ever in it, and it has no UIDVALIDITY. When
    /// Dovecot looks at a dbox directory without an index it writes an index like this, and the rest when it opens the mailbox.
    #[must_use]
    pub fn is_half_made(&self) -> bool {
        self.is_empty() && self.next_uid() == Uid::FIRST && self.uid_validity().is_none()
    }

    /// The mail is there and nobody has asked to expunge it.
    #[must_use]
    pub fn keeps(&self, uid: Uid) -> bool {
        let asked =
            |r: &Request| matches!(r, Request::Expunge { uids: (first, last), .. } if (*first..=*last).contains(&uid.get()));
        self.row(uid).is_some() && !self.pending().iter().any(|p| asked(&p.request))
    }

    /// The numbers of a mailbox with this identity.
    #[must_use]
    pub fn status(&self, identity: Identity) -> Status {
        Status {
            identity,
            messages: u32::try_from(self.len()).unwrap_or(u32::MAX),
            first_recent: self.first_recent(),
            highest_modseq: self.highest_modseq(),
            highest_private_modseq: ModSeq(0),
        }
    }
}
