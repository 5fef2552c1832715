//! An index in the words of [`crate::mail`]: what all storages that have one share.

mod changes;
mod edits;
mod held;
mod save;

use crate::mail::{Identity, Mail, ModSeq, Status};

use super::state::State;

pub use changes::Scan;
pub use edits::{EditPlan, plan_edits, raise};
pub use save::assign_uids;

impl State {
    /// The mails, ascending.
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        let mail = |row| Mail {
            uid: self.uid(row),
            flags: self.flags(row),
            keywords: self.keywords(row).clone(),
            modseq: self.modseq(row),
        };
        (0..self.len()).map(mail).collect()
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
