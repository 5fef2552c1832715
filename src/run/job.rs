//! What one run has to do for one user, as plain data: `cli` fills it, [`super::execute`] does it.

use std::path::PathBuf;

use crate::store::Account;
use crate::sync::Options;
use crate::sync::dovecot::Settings;

/// One run for one user. Nothing in here has been looked at on disk yet, except what finding the configuration, the
/// home directory and the mail location needed.
#[derive(Debug)]
pub struct Job {
    /// The first side: the user as the configuration knows them.
    pub account: Account,
    /// What the engine shall do.
    pub options: Options,
    /// What a stream to the other side needs to know.
    pub stream: Settings,
    /// `-r`: write everything that goes over the stream to this file.
    pub rawlog: Option<PathBuf>,
}

/// The second side: the destination.
#[derive(Debug)]
pub enum Peer<'a> {
    /// On this machine: the first side's settings with another location.
    Local(Box<Account>),
    /// At the other end of a stream.
    Remote(crate::peer::Peer, Reopen<'a>),
}

/// Opens the way to the other side once more. `None` if that fails, which has been said then.
pub struct Reopen<'a>(pub Box<dyn Fn() -> Option<crate::peer::Peer> + 'a>);

impl std::fmt::Debug for Reopen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reopen")
    }
}

/// `dsync-server`: one side of a run that another machine has started.
#[derive(Debug)]
pub struct Service {
    /// Whose mail.
    pub account: Account,
    /// What the stream needs to know.
    pub stream: Settings,
    /// `-r`
    pub rawlog: Option<PathBuf>,
    /// Nothing is changed here.
    pub read_only: bool,
    /// `-U`: where the replicator's socket would be.
    pub notify: Option<PathBuf>,
}
