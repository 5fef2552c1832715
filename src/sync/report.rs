//! What went wrong in a run, for its end: the messages themselves have been logged when they came up.

use std::ops::AddAssign;

use super::facts::BadMail;
use super::{State, tree};
use crate::mail::{Class, MailboxName};

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The worst class of all errors.
    pub failed: Option<Class>,
    /// Why the sides may still differ, in Dovecot's words; the first reason.
    pub desync: Option<String>,
    /// Mails and names that were left out.
    pub skipped: u32,
    /// The new state.
    pub state: State,
    /// What was done.
    pub done: Counts,
    /// The other side has left something undone, and has said so in its own words.
    pub peer_incomplete: bool,
    /// The state of an earlier run must not be used any more, and there is no new one.
    pub full_resync: bool,
}

/// What a side did to its own store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Mailboxes created, deleted, renamed, subscribed.
    pub tree: u32,
    /// Mailboxes whose GUID or UIDVALIDITY changed.
    pub identity: u32,
    /// Mails saved.
    pub saved: u32,
    /// Mails that got another UID.
    pub moved: u32,
    /// Mails expunged.
    pub expunged: u32,
    /// Mails whose flags changed.
    pub flags: u32,
    /// Mailboxes rebuilt.
    pub rebuilt: u32,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.tree += more.tree;
        self.identity += more.identity;
        self.saved += more.saved;
        self.moved += more.moved;
        self.expunged += more.expunged;
        self.flags += more.flags;
        self.rebuilt += more.rebuilt;
    }
}

impl Report {
    /// What came of the changes to the own tree.
    pub(super) fn tree(&mut self, actions: usize, outcome: tree::Outcome) {
        self.done.tree += u32::try_from(actions).unwrap_or(u32::MAX);
        for error in outcome.impossible {
            tracing::error!("{error}; it is left out, the others go on");
            self.fail(error.class());
        }
        for reason in outcome.desync {
            tracing::warn!("{reason}");
            self.desync(reason);
        }
    }

    /// What was done to a mailbox, and the own mails in it that cannot be read.
    pub(super) fn mailbox(&mut self, name: &MailboxName, done: Counts, bad: Vec<BadMail>) {
        for bad in bad {
            tracing::error!("Mailbox {name}: UID {}: {}; the mail is left out, the others go on", bad.uid, bad.error);
            self.skipped += 1;
        }
        self.done += done;
    }

    /// An error of this class. Temporary outweighs all others, else the first stays (sync.md 11.2).
    pub fn fail(&mut self, class: Class) {
        if self.failed.is_none() || class == Class::Temporary {
            self.failed = Some(class);
        }
    }

    /// There is something that the end of the run has to tell of.
    pub(super) const fn tells(&self) -> bool {
        self.failed.is_some() || self.desync.is_some() || self.skipped > 0 || self.full_resync
    }

    /// The sides may still differ.
    pub fn desync(&mut self, reason: impl Into<String>) {
        self.desync.get_or_insert_with(|| reason.into());
    }

    /// The state as it is printed; empty where the next run has to do without (wire.md 13).
    #[must_use]
    pub fn state_string(&self) -> String {
        if self.full_resync { String::new() } else { self.state.encode() }
    }

    /// Both sides' reports as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        if let Some(class) = other.failed {
            self.fail(class);
        }
        self.desync = self.desync.or(other.desync);
        self.skipped += other.skipped;
        self
    }
}
