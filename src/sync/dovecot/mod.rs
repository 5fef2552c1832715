//! Our engine facing the dsync protocol (wire.md 5), in both roles: a Dovecot at the other end, or one of our own kind.
//!
//! Towards a Dovecot the decisions are the ones that it will come to by itself (sync.md 4.9, 7): it changes its own side
//! whatever we do, so we end where it will end. One of our own kind is recognised in the handshake, by a column that
//! Dovecot ignores.

mod decide;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handshake;
mod names;
mod session;
mod view;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use self::session::{End, Session};
use super::native::NativeLink;
use super::tree::Side;
use super::{Algorithm, MailboxState, Mode, Options, Report, Source};
use crate::mail::{self, Class, MailboxGuid, MailboxName, Store};
use crate::os::stop::Stop;
use crate::wire::{Conn, ConnError, Ends, Handshake};

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
    /// One of our own kind at the other end is spoken to as such.
    pub own_kind: bool,
    /// A Dovecot's INBOX is left as it is.
    pub leave_inbox: bool,
    /// Into a mailbox that a Dovecot has emptied mails come under UIDs that it has never had: those that it has expunged it takes
    /// for expunged here, too.
    pub refill: bool,
    /// What earlier sessions of this run have made equal: it is not looked at again.
    pub done: HashMap<MailboxGuid, Option<MailboxState>>,
}

/// Which Dovecot is at the other end, as far as the columns of its items tell (sync.md 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V22,
    V23,
    V24,
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
            own_kind: true,
            leave_inbox: false,
            refill: false,
            done: HashMap::new(),
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

/// How a run ended on the side that was started by the user.
#[derive(Debug, Default)]
pub struct Mastered {
    /// How it went.
    pub report: Report,
    /// Where a Dovecot that is the destination of a backup has closed on purpose.
    pub closed: Option<Closed>,
    /// Mailboxes of which nothing is left to be done or to be told.
    pub done: HashMap<MailboxGuid, Option<MailboxState>>,
}

/// Where a Dovecot has closed on purpose. As the destination of a backup it deletes a mailbox that differs in a way that it
/// cannot take back, and closes; in the next session the mailbox is a new one (sync.md 4.4, 14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// While it made its tree ours.
    Tree,
    /// In the lists of this mailbox.
    Mailbox(MailboxName),
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
pub fn master(options: &Options, settings: &Settings, place: &mut dyn Place, ends: Ends, stop: &Stop) -> Mastered {
    let conn = Conn::new(ends, settings.timeout, stop);
    let mut session = Session::new(Side::Master, options.clone(), settings, conn, stop);
    session.read_state();
    let item = handshake::of_master(&session.options, settings);
    let mut opened = None;
    let result = session.greet(item).and_then(|peer| prepare(&mut session, &peer, place));
    let result = match result {
        Ok(ready) if ready.own_kind => return Mastered { report: native(session, ready, stop), ..Mastered::default() },
        Ok(ready) => session.run(&mut *opened.insert(ready).store),
        Err(e) => Err(e),
    };
    let closed = match &result {
        Err(End::Conn(ConnError::Closed(_))) if options.mode == Mode::Backup(Source::Master) => session.place_of_close(),
        _ => None,
    };
    let done = std::mem::take(&mut session.done);
    Mastered { report: session.close(result), closed, done }
}

/// The run with one of our own kind.
fn native(mut session: Session<'_>, mut ready: Ready, stop: &Stop) -> Report {
    let settings = session.settings;
    let mut options = session.options.clone();
    let side = session.side;
    let result = NativeLink::new(&mut session.conn, &settings.temp_dir).and_then(|mut link| {
        match side {
            Side::Master => link.send_hello(&options)?,
            Side::Slave => link.recv_hello(&mut options)?,
        }
        options.locks_first = if ready.first { side } else { side.other() };
        let mut report = super::run(side, &options, &mut *ready.store, &mut link, stop);
        link.end();
        if report.peer_incomplete {
            report.skipped += 1;
        }
        Ok(report)
    });
    session.conn.close();
    result.unwrap_or_else(|e| {
        tracing::error!("{e}");
        Report { failed: Some(Class::Temporary), ..Report::default() }
    })
}

/// The `dsync-server` side.
pub fn serve(settings: &Settings, place: &mut dyn Place, ends: Ends, stop: &Stop) -> Served {
    let conn = Conn::new(ends, settings.timeout, stop);
    let mut session = Session::new(Side::Slave, Options::default(), settings, conn, stop);
    let mut opened = None;
    let result = session.greet(handshake::of_slave(settings)).and_then(|peer| {
        session.options = handshake::options(&peer);
        let names = peer.hashed_headers.iter().flatten().filter(|n| !n.is_empty());
        session.hashed_headers = names.map(|n| String::from_utf8_lossy(n).into_owned()).collect();
        prepare(&mut session, &peer, place)
    });
    let result = match result {
        Ok(ready) if ready.own_kind => {
            let full = session.options.algorithm == Algorithm::Full;
            return Served { report: native(session, ready, stop), full };
        }
        Ok(ready) => session.run(&mut *opened.insert(ready).store),
        Err(e) => Err(e),
    };
    if result.is_ok()
        && session.options.purge
        && let Some(ready) = &mut opened
        && let Err(e) = ready.store.purge()
    {
        tracing::error!("Purging failed: {e}");
    }
    let full = session.options.algorithm == Algorithm::Full;
    Served { report: session.close(result), full }
}

/// The own side, opened and, where it is our turn, locked.
struct Ready {
    store: Box<dyn Store>,
    /// The other side is one of our own kind.
    own_kind: bool,
    /// This side locks first.
    first: bool,
    _lock: Option<Box<dyn Send>>,
}

fn prepare(session: &mut Session<'_>, peer: &Handshake, place: &mut dyn Place) -> Result<Ready, End> {
    let own_kind = session.settings.own_kind && peer.own_kind == Some(handshake::OWN_KIND);
    session.begin_work(own_kind);
    let first = session::locks(session.side, &session.settings.hostname, &peer.hostname);
    let wait = session.options.lock_timeout.filter(|t| !t.is_zero());
    let lock = match wait.filter(|_| first) {
        Some(timeout) => Some(place.lock_user(timeout)?),
        None => None,
    };
    Ok(Ready { store: place.open(&mut session.options)?, own_kind, first, _lock: lock })
}
