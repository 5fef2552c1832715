//! What the user asked of a run, as the engine understands it (sync.md 1.1).

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::tree::Side;
use crate::mail::{self, Flags, Keyword, Keywords, MailboxGuid, Selection, Timestamp};

/// Which way changes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Both ways.
    TwoWay,
    /// From the source to the destination, which keeps what only it has (`sync -1`).
    OneWay(Source),
    /// The destination becomes what the source is (`backup`).
    Backup(Source),
}

impl Mode {
    /// Whether this side is the one that must not change.
    #[must_use]
    pub fn is_source(self, side: Side) -> bool {
        match self {
            Self::TwoWay => false,
            Self::OneWay(s) | Self::Backup(s) => s.side() == side,
        }
    }
}

/// Which side is the source of a one-way run or backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The side that the command was started for.
    Master,
    /// The destination argument (`-R`).
    Slave,
}

impl Source {
    /// The side that it is.
    #[must_use]
    pub const fn side(self) -> Side {
        match self {
            Self::Master => Side::Master,
            Self::Slave => Side::Slave,
        }
    }
}

/// How changes are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// Mailboxes whose counters and digests are equal are skipped.
    Changed,
    /// Every mailbox is compared mail by mail (`-f`).
    Full,
    /// The state that an earlier run printed says where to begin (`-s`).
    State(String),
}

/// Mailboxes that take part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Only {
    /// All.
    #[default]
    All,
    /// None: only the tree (`-m ''`, `-g ''`).
    TreeOnly,
    /// Those whose name matches this LIST pattern, or with this special-use flag (`-m`).
    Name(String),
    /// The one with this GUID (`-g`).
    Guid(MailboxGuid),
}

/// Mails that are copied. A mail that a filter holds back is never deleted anywhere because of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Received at or after (`-t`).
    pub since: Option<Timestamp>,
    /// Received at or before (`-e`).
    pub until: Option<Timestamp>,
    /// Virtual size at most, bytes (`-I`).
    pub max_size: Option<u64>,
    /// With, or without, this flag (`-O`).
    pub flag: Option<FlagFilter>,
}

impl Filter {
    /// Everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The flag of `-O`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagFilter {
    /// The mail must have it; else must not.
    pub wanted: bool,
    /// Which flag or keyword.
    pub flag: FlagOrKeyword,
}

impl FlagFilter {
    /// Whether a mail with these flags and keywords is let through.
    #[must_use]
    pub fn passes(&self, flags: Flags, keywords: &Keywords) -> bool {
        let has = match &self.flag {
            FlagOrKeyword::Flag(flag) => flags.contains(*flag),
            FlagOrKeyword::Keyword(keyword) => keywords.contains(keyword),
        };
        has == self.wanted
    }
}

/// A system flag or a keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagOrKeyword {
    /// A system flag.
    Flag(Flags),
    /// A keyword.
    Keyword(Keyword),
}

/// Where mails go that come from the other side: `--alt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Placement {
    /// Into the alternative storage if they lie in the alternative storage there.
    #[default]
    Keep,
    /// Into the primary storage.
    Primary,
    /// Into the alternative storage if they were saved before this time.
    OlderThan(Timestamp),
}

impl Placement {
    /// Whether a mail with these facts goes to the alternative storage.
    #[must_use]
    pub fn in_alt(self, facts: &mail::Facts) -> bool {
        match self {
            Self::Keep => facts.in_alt,
            Self::Primary => false,
            Self::OlderThan(time) => {
                let saved = if facts.saved.0 == 0 { facts.received } else { facts.saved };
                saved < time
            }
        }
    }
}

/// Everything that a run was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Direction.
    pub mode: Mode,
    /// Algorithm.
    pub algorithm: Algorithm,
    /// Print a state at the end: `-s` was given.
    pub want_state: bool,
    /// Namespaces (`-n`, `-N`).
    pub namespaces: Selection,
    /// Mailboxes (`-m`, `-g`).
    pub only: Only,
    /// Excluded mailboxes (`-x`): masks with `*` and `?`, or special-use flags.
    pub exclude: Vec<String>,
    /// Which mails (`-t`, `-e`, `-I`, `-O`).
    pub filter: Filter,
    /// Name of the virtual mailbox with all mails (`-a`): texts that are in it do not travel.
    pub all_mailbox: Option<String>,
    /// Purge the slave's storage at the end (`-P`).
    pub purge: bool,
    /// The user lock is taken, waiting this long (`-l`); also the time for mailbox locks.
    pub lock_timeout: Option<Duration>,
    /// The side that locks a mailbox first, the same one in all runs between these two places: otherwise two runs that were
    /// started from either end wait for each other.
    pub locks_first: Side,
    /// A backup from a source without mails onto a destination that has some is wanted.
    pub allow_empty_source: bool,
    /// How many saved mails are committed together (`dsync_commit_msgs_interval`, but never fewer than it takes to be fast).
    pub commit_interval: u32,
    /// Primary or alternative storage.
    pub placement: Placement,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::TwoWay,
            algorithm: Algorithm::Changed,
            want_state: false,
            namespaces: Selection::Default,
            only: Only::All,
            exclude: Vec::new(),
            filter: Filter::default(),
            all_mailbox: None,
            purge: false,
            lock_timeout: None,
            locks_first: Side::Master,
            allow_empty_source: false,
            commit_interval: 1000,
            placement: Placement::Keep,
        }
    }
}
