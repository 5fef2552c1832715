//! What goes into a tree decision and what comes out of it.

use std::fmt;

use crate::mail::{Class, MailboxGuid, MailboxName, Timestamp, UidValidity};
use crate::sync::{Mode, Only, Source};

/// Which of the two this is: the side the command was started for, or the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The side the command was started for.
    Master,
    /// The destination argument's side.
    Slave,
}

impl Side {
    /// The one that this is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Master => Self::Slave,
            Self::Slave => Self::Master,
        }
    }
}

/// Who decides at the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Peer {
    /// This very code: both sides make the same tree true.
    #[default]
    Ours,
    /// A Dovecot, which does what sync.md 4 says and nothing else: we end where it will end.
    Dovecot,
}

/// What a tree decision needs to know beside the two trees. All but `side` must be the same on both sides.
#[derive(Debug, Clone)]
pub struct TreeOptions {
    /// Direction.
    pub mode: Mode,
    /// Which side the *local* tree is.
    pub side: Side,
    /// Who is at the other side.
    pub peer: Peer,
    /// Mailboxes that take part (`-m`, `-g`).
    pub only: Only,
    /// Excluded mailboxes (`-x`).
    pub exclude: Vec<String>,
    /// A backup from an empty source onto a destination that has mail is wanted.
    pub allow_empty_source: bool,
}

impl TreeOptions {
    /// A run without selection against our own kind.
    #[must_use]
    pub const fn new(mode: Mode, side: Side) -> Self {
        Self { mode, side, peer: Peer::Ours, only: Only::All, exclude: Vec::new(), allow_empty_source: false }
    }

    /// What the local side does in this mode.
    pub(super) const fn role(&self) -> Role {
        let (source, backup) = match self.mode {
            Mode::TwoWay => return Role::Both,
            Mode::OneWay(source) => (source, false),
            Mode::Backup(source) => (source, true),
        };
        let sends = matches!((source, self.side), (Source::Master, Side::Master) | (Source::Slave, Side::Slave));
        match (sends, backup) {
            (true, false) => Role::OneWaySource,
            (false, false) => Role::OneWayDestination,
            (true, true) => Role::BackupSource,
            (false, true) => Role::BackupDestination,
        }
    }
}

/// What one side does in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Both,
    OneWaySource,
    OneWayDestination,
    BackupSource,
    BackupDestination,
}

impl Role {
    /// The role of the other side.
    pub(super) const fn opposite(self) -> Self {
        match self {
            Self::Both => Self::Both,
            Self::OneWaySource => Self::OneWayDestination,
            Self::OneWayDestination => Self::OneWaySource,
            Self::BackupSource => Self::BackupDestination,
            Self::BackupDestination => Self::BackupSource,
        }
    }

    /// This side changes nothing.
    pub(super) const fn is_source(self) -> bool {
        matches!(self, Self::OneWaySource | Self::BackupSource)
    }
}

/// A change to the own store. Names are the own store's. Carried out one after the other, in this order.
///
/// Times are those of the user's action where it is known; 0 means "now".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeAction {
    /// Rename with all children. Nothing is at the new name; its parents are made.
    Rename {
        /// Present name.
        from: MailboxName,
        /// New name.
        to: MailboxName,
        /// When it was renamed.
        time: Timestamp,
    },
    /// Delete the mailbox. Children stay.
    Delete {
        /// Its name.
        name: MailboxName,
        /// Its GUID: another mailbox under that name is not deleted.
        guid: MailboxGuid,
        /// When it was deleted.
        time: Timestamp,
    },
    /// Remove an empty directory. Nothing to worry about when it went by itself with its last mailbox.
    DeleteDir {
        /// Its name.
        name: MailboxName,
        /// When it was deleted.
        time: Timestamp,
    },
    /// Make a directory, unless it is there.
    CreateDir {
        /// Its name.
        name: MailboxName,
    },
    /// Create an empty mailbox.
    Create {
        /// Its name.
        name: MailboxName,
        /// Its identity.
        guid: MailboxGuid,
        /// Its UIDVALIDITY.
        uidvalidity: UidValidity,
    },
    /// Give the mailbox another identity. Mails, UIDs and UIDVALIDITY stay (those are the mail engine's business).
    SetGuid {
        /// Its name.
        name: MailboxName,
        /// The GUID it has.
        from: MailboxGuid,
        /// The GUID it shall have.
        to: MailboxGuid,
    },
    /// Subscribe.
    Subscribe {
        /// To this name.
        name: MailboxName,
        /// When that was decided.
        time: Timestamp,
    },
    /// Unsubscribe.
    Unsubscribe {
        /// From this name.
        name: MailboxName,
        /// When that was decided.
        time: Timestamp,
    },
}

/// A mailbox that both sides have once the actions are carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paired {
    /// Its GUID on both sides.
    pub guid: MailboxGuid,
    /// What the local side calls it.
    pub local: MailboxName,
    /// What the remote side calls it.
    pub remote: MailboxName,
    /// It was created, renamed or given its GUID in this run, at either side: equal counters prove nothing, it must be
    /// compared mail by mail.
    pub fresh: bool,
}

/// Something the administrator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The name it is about.
    pub name: MailboxName,
    /// What.
    pub kind: NoteKind,
}

impl Note {
    /// After this run the two sides differ here, so the run is not perfect (exit code 2).
    #[must_use]
    pub const fn is_problem(&self) -> bool {
        !matches!(self.kind, NoteKind::HeldAs(_))
    }
}

/// What a [`Note`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoteKind {
    /// The other side cannot hold the name and calls it so.
    HeldAs(MailboxName),
    /// It cannot be read, so this name was left alone on both sides.
    Unreadable,
    /// It should have moved here, but something that must not be touched is in the way.
    CannotMove(MailboxName),
    /// The source has no such mailbox, but something at the source could not be read, so it was not deleted.
    KeptBecauseOfProblems,
    /// The source has no INBOX; the destination's was left alone.
    InboxKept,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.kind {
            NoteKind::HeldAs(other) => write!(f, "Mailbox {name}: the other side cannot hold this name and has it as {other}"),
            NoteKind::Unreadable => write!(f, "Mailbox {name}: cannot be read, left alone on both sides"),
            NoteKind::CannotMove(to) => write!(f, "Mailbox {name}: cannot be renamed to {to} without touching what must stay"),
            NoteKind::KeptBecauseOfProblems => {
                write!(f, "Mailbox {name}: not at the source, but kept because the source could not be read completely")
            }
            NoteKind::InboxKept => write!(f, "Mailbox {name}: the source has none, the destination's is left alone"),
        }
    }
}

/// What to do with the own side's mailboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes to the own store, in order.
    pub actions: Vec<TreeAction>,
    /// The mailboxes to be compared mail by mail afterwards, in the same order on both sides (by name).
    pub mailboxes: Vec<Paired>,
    /// What the administrator should know. Both sides have the same ones, with their own names.
    pub notes: Vec<Note>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Two mailboxes of one side have one GUID; the store should have seen to that.
    #[error("Duplicate mailbox GUID {guid} for mailboxes {first} and {second}")]
    DuplicateGuid {
        /// The GUID.
        guid: MailboxGuid,
        /// One name.
        first: MailboxName,
        /// The other one.
        second: MailboxName,
    },
    /// A side names one mailbox twice.
    #[error("Mailbox {0} exists twice")]
    DuplicateName(MailboxName),
    /// A backup would replace mail by nothing.
    #[error(
        "The backup source has no mail and shares no mailbox with the destination, which has some: \
         is it mounted? Nothing was changed (--allow-empty-source does it nevertheless)"
    )]
    EmptySource,
    /// The renames on both sides found no common end.
    #[error("BUG: Mailbox renaming algorithm found no end; no mailbox was renamed")]
    Stuck,
}

impl TreeError {
    /// The class that decides the exit code.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::DuplicateGuid { .. } | Self::DuplicateName(_) | Self::EmptySource | Self::Stuck => Class::Temporary,
        }
    }
}
