//! What one run has to do for one user, as plain data: `cli` fills it, [`super::execute`] does it.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::Account;
use crate::sync::Options;

/// One run for one user. Nothing in here has been looked at on disk yet, except what finding the configuration, the
/// home directory and the mail location needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The first side: the user as the configuration knows them.
    pub account: Account,
    /// The second side: the destination.
    pub peer: Peer,
    /// What the engine shall do.
    pub options: Options,
    /// `-T`: give up after so long without any progress of a stream; `None` never.
    pub timeout: Option<Duration>,
    /// `-r`: write everything that goes over the stream to this file.
    pub rawlog: Option<PathBuf>,
    /// `dsync_hashed_headers`, split; never empty (sync.md 6.4).
    pub hashed_headers: Vec<String>,
    /// `dsync_features` has `empty-header-workaround` (sync.md 7.4).
    pub empty_header_workaround: bool,
}

/// Where the second side is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// On this machine: the first side's settings with another location.
    Local(Box<Account>),
}
