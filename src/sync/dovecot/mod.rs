//! Our engine facing the dsync protocol (wire.md 5), in both roles: a Dovecot at the other end, or one of our own kind.
//!
//! Towards a Dovecot the decisions are the ones that it will come to by itself (sync.md 4.9, 7): it changes its own side
//! whatever we do, so we end where it will end. One of our own kind is recognised in the handshake, by a column that
//! Dovecot ignores.

use std::path::PathBuf;
use std::time::Duration;

use super::{Options, Report};
use crate::mail::{self, Store};
use crate::os::stop::Stop;
use crate::wire::Ends;

/// What a run over a stream needs to know besides [`Options`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This host's full name, as Dovecot finds it (wire.md 5.7): decides which side takes the user lock.
    pub hostname: String,
    /// `dsync_hashed_headers`, split, without empty names.
    pub hashed_headers: Vec<String>,
    /// `dsync_alt_char`.
    pub alt_char: char,
    /// `dsync_features` has `empty-header-workaround`.
    pub empty_header_workaround: bool,
    /// `-T`: how long the other side may be silent; `None` for ever.
    pub timeout: Option<Duration>,
    /// `-D`: asks the other side for debug lines as well.
    pub debug: bool,
    /// Where mails too big for memory lie (unlinked) on their way (`mail_temp_dir`).
    pub temp_dir: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            hashed_headers: vec!["Date".into(), "Message-ID".into()],
            alt_char: '_',
            empty_header_workaround: false,
            timeout: Some(Duration::from_secs(600)),
            debug: false,
            temp_dir: std::env::temp_dir(),
        }
    }
}

/// The own side, before it is opened: nothing is to be looked at before the other side has said what it wants.
pub trait Place {
    /// Opens the store for a run with these options. Resolves `options.namespaces` to what the account has.
    ///
    /// # Errors
    /// The place cannot be used.
    fn open(&mut self, options: &mut Options) -> mail::Result<Box<dyn Store>>;

    /// Takes `~/.dovecot-sync.lock`; held until the value is dropped (sync.md 10.1).
    ///
    /// # Errors
    /// The lock was not to be had in time.
    fn lock_user(&mut self, timeout: Duration) -> mail::Result<Box<dyn Send>>;
}

/// How a `dsync-server` ended.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// How it went on this side. `state` is this side's own one.
    pub report: Report,
    /// It was a full sync (for the replicator, wire.md 11.2).
    pub full: bool,
}

/// The side that the user has started. `ends` begin with the dsync handshake.
pub fn master(options: &Options, settings: &Settings, place: &mut dyn Place, ends: Ends, stop: &Stop) -> Report {
    let _ = (options, settings, place, ends, stop);
    Report::default()
}

/// The `dsync-server` side.
pub fn serve(settings: &Settings, place: &mut dyn Place, ends: Ends, stop: &Stop) -> Served {
    let _ = (settings, place, ends, stop);
    Served::default()
}
