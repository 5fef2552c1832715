//! What one run has to do for one user, as plain data: `cli` fills it, [`super::execute`] does it.

use std::path::PathBuf;
use std::time::Duration;

use crate::mail::{Flags, Keyword, MailboxGuid, Selection};
use crate::store::Account;

/// One run for one user. Nothing in here has been looked at on disk yet, except what finding the configuration, the
/// home directory and the mail location needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The first side: the user as the configuration knows them.
    pub account: Account,
    /// The second side: the destination.
    pub peer: Peer,
    /// What shall be equal afterwards.
    pub mode: Mode,
    /// `-R`: the destination is the source. Means nothing to [`Mode::Sync`].
    pub reverse: bool,
    /// How closely mailboxes are looked at.
    pub depth: Depth,
    /// `-s`: the state of the previous run, empty for the first; if given, the new state is wanted.
    pub state: Option<String>,
    /// Which mailboxes take part.
    pub boxes: Boxes,
    /// Which mails are imported.
    pub mails: MailFilter,
    /// `-a`: the virtual mailbox that holds every mail of the side.
    pub all_mailbox: Option<String>,
    /// `-l`: take the user's lock, wait at most so long; also the limit for the mailboxes' locks.
    pub lock: Option<Duration>,
    /// `-P`: free the space of expunged mails of the second side at the end.
    pub purge: bool,
    /// `-T`: give up after so long without any progress of a stream; `None` never.
    pub timeout: Option<Duration>,
    /// `-r`: write everything that goes over the stream to this file.
    pub rawlog: Option<PathBuf>,
    /// `--allow-empty-source`: a backup may empty a destination with mail although its source has none.
    pub allow_empty_source: bool,
    /// Settings of the engine.
    pub engine: Engine,
}

/// Where the second side is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// On this machine: the first side's settings with another location.
    Local(Box<Account>),
}

/// What shall be equal after the run (sync.md 1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Both sides get the other's changes.
    Sync,
    /// `sync -1`: the destination gets the source's changes and keeps its own.
    OneWay,
    /// `backup`: the destination becomes what the source is.
    Backup,
}

/// How closely mailboxes are looked at (sync.md 1.1, 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Those whose counters differ between the sides.
    Changed,
    /// Those that changed since the state of the previous run.
    State,
    /// All (`-f`).
    Full,
}

/// Which mailboxes take part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Boxes {
    /// `-n`, `-N`.
    pub namespaces: Selection,
    /// `-m NAME`: a full name, a LIST pattern or a special-use flag (`\Trash`).
    pub name: Option<String>,
    /// `-g GUID`.
    pub guid: Option<MailboxGuid>,
    /// `-m ''`, `-g ''`: the tree only, no mails.
    pub tree_only: bool,
    /// `-x`: full names with `*` and `?`, or special-use flags (`\Junk`).
    pub exclude: Vec<String>,
}

/// Which mails are imported (sync.md 7.9).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailFilter {
    /// `-t`: received (or saved) at this time or later, UNIX seconds.
    pub since: Option<i64>,
    /// `-e`: up to this time, UNIX seconds.
    pub until: Option<i64>,
    /// `-I`: virtual size of at most so many bytes.
    pub max_size: Option<u64>,
    /// `-O`.
    pub flag: Option<FlagFilter>,
}

impl MailFilter {
    /// Every mail passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `-O`: only mails with, or without, one flag or keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagFilter {
    /// Which one.
    pub flag: AnyFlag,
    /// `true`: mails that have it; `false` (a `-` in front): those that do not.
    pub present: bool,
}

/// A system flag or a keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyFlag {
    /// Exactly one system flag.
    System(Flags),
    /// A keyword.
    Keyword(Keyword),
}

/// Settings of the engine (sync.md 1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// `dsync_hashed_headers`, split; never empty.
    pub hashed_headers: Vec<String>,
    /// `dsync_commit_msgs_interval`; 0 = commit only at the end.
    pub commit_interval: u32,
    /// `dsync_features` has `empty-header-workaround`.
    pub empty_header_workaround: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Self { hashed_headers: vec!["Date".into(), "Message-ID".into()], commit_interval: 100, empty_header_workaround: false }
    }
}
