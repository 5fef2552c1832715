//! A whole run over a stream, in both roles (wire.md 5.1, 5.2).
//!
//! A master waits for the slave's tree before it sends its own: that costs no round trip, as a Dovecot sends its tree unasked,
//! and shows what must not be told (wire.md 9, trap 12), and whether anything would be done that must not be done.

mod mailboxes;
mod tree;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::exchange::{self, Ended, Stopped, Subject};
use super::{Closed, Settings, Version, names, view};
use crate::mail::{self, Class, Mailbox, MailboxGuid, MailboxName, ModSeq, Since, Store, Tree, Uid, UidValidity};
use crate::os::stop::Stop;
use crate::sync::at_hand::AtHand;
use crate::sync::budget::Budget;
use crate::sync::native::ahead as native_ahead;
use crate::sync::round::RoundReport;
use crate::sync::tree::{self as plan, Peer, Plan, Side, TreeAction, TreeOptions};
use crate::sync::{Algorithm, MailboxState, Mode, Only, Options, Report, Source, State};
use crate::wire::{
    Ahead, Conn, ConnError, Deletes, Error, Event, FinishItem, Handshake, Item, Kind, MailboxItem, StateItem, TreeNode, Wait,
};

/// How long a mailbox's lock is waited for where `-l` says nothing.
const MAILBOX_LOCK: Duration = Duration::from_secs(30);
/// More mails than the other side has, and still a number of mails.
const MANY: u32 = 1 << 30;

/// Why a run ended early.
pub(super) enum End {
    /// For a reason of this side: the other is told that it closes on purpose.
    Own(mail::Error),
    /// The other side has ended, or is not understood.
    Conn(ConnError),
    /// The other side has failed and said so, or has been reported already.
    Told(Class),
}

impl From<ConnError> for End {
    fn from(e: ConnError) -> Self {
        Self::Conn(e)
    }
}

impl From<Error> for End {
    fn from(e: Error) -> Self {
        Self::Conn(e.into())
    }
}

impl From<mail::Error> for End {
    fn from(e: mail::Error) -> Self {
        Self::Own(e)
    }
}

impl From<Stopped> for End {
    fn from(e: Stopped) -> Self {
        match e {
            Stopped::Own(e) => Self::Own(e),
            Stopped::Conn(e) => Self::Conn(e),
        }
    }
}

type Result<T> = std::result::Result<T, End>;

/// A run on its way.
pub(super) struct Session<'a> {
    pub side: Side,
    pub options: Options,
    pub settings: &'a Settings,
    pub conn: Conn,
    pub stop: &'a Stop,
    pub report: Report,
    /// States of an earlier run.
    pub saved: State,
    /// What is collected from the other side.
    budget: Budget,
    /// Where the session is, in Dovecot's words.
    pub at: &'static str,
    pub hashed_headers: Vec<String>,
    /// GUIDs that own mailboxes had until this run gave them others.
    former: HashMap<MailboxGuid, MailboxName>,
    /// GUIDs that both sides had before the run.
    known: HashSet<MailboxGuid>,
    /// UIDVALIDITYs that the other side had before the run.
    their_uidvalidity: HashMap<MailboxGuid, UidValidity>,
    at_hand: AtHand,
    /// Mailboxes of which nothing is left to be done or to be told.
    pub done: HashMap<MailboxGuid, Option<MailboxState>>,
    /// The mailbox whose lists are being exchanged.
    in_lists: Option<MailboxName>,
    /// The tree has been told, and no mailbox has been answered yet.
    in_tree: bool,
    /// The other side is none of ours, not even an older or newer one: those wait for our tree.
    beside_dovecot: bool,
}

impl<'a> Session<'a> {
    pub fn new(side: Side, options: Options, settings: &'a Settings, conn: Conn, stop: &'a Stop) -> Self {
        Self {
            side,
            options,
            settings,
            conn,
            stop,
            report: Report::default(),
            saved: State::default(),
            budget: Budget::default(),
            at: if side == Side::Master { "master_recv_handshake" } else { "slave_recv_handshake" },
            hashed_headers: settings.hashed_headers.clone(),
            former: HashMap::new(),
            known: HashSet::new(),
            their_uidvalidity: HashMap::new(),
            at_hand: AtHand::default(),
            done: HashMap::new(),
            in_lists: None,
            in_tree: false,
            beside_dovecot: false,
        }
    }

    // ---- handshake

    /// Sends headers and the handshake, and waits for the other side's.
    pub fn greet(&mut self, item: Handshake) -> Result<Handshake> {
        self.conn.send_headers();
        self.conn.send(&Item::Handshake(Box::new(item)));
        let peer = loop {
            match self.conn.next(Wait::Input)? {
                Some(Event::Headers) | None => {}
                Some(Event::Item(Item::Handshake(h))) => break *h,
                Some(Event::Item(Item::Close)) => return Err(self.closed()),
                Some(_) => return Err(Error::Unexpected { got: '.', wanted: "handshake" }.into()),
            }
        };
        self.beside_dovecot = peer.own_kind.is_none();
        self.conn.set_name(String::from_utf8_lossy(&peer.hostname).into_owned());
        Ok(peer)
    }

    /// The user's lock and the list of mailboxes may take their time.
    pub fn begin_work(&mut self, own_kind: bool) {
        let ahead = match self.saved.0.keys().next() {
            _ if own_kind => native_ahead(),
            Some(guid) if self.is_stateful() => Ahead::state(*guid),
            None if self.is_stateful() && self.side == Side::Master => return,
            _ => Ahead::inbox(),
        };
        self.conn.work(ahead);
    }

    fn closed(&self) -> End {
        End::Conn(ConnError::Closed(self.conn.position()))
    }

    fn item(&mut self) -> Result<Item> {
        loop {
            match self.conn.next(Wait::Input)? {
                Some(Event::Item(Item::Close)) => return Err(self.closed()),
                Some(Event::Item(item)) => return Ok(item),
                Some(_) => return Err(Error::Unexpected { got: '?', wanted: "an item" }.into()),
                None => {}
            }
        }
    }

    /// An item that is kept.
    fn collected(&mut self, what: &'static str) -> Result<Item> {
        let item = self.item()?;
        self.budget.take(item.weight()).map_err(|_| Error::TooMuch(what))?;
        Ok(item)
    }

    fn unexpected(got: &Item, wanted: &'static str) -> End {
        Error::Unexpected { got: got.letter(), wanted }.into()
    }

    // ---- states

    pub fn read_state(&mut self) {
        let Algorithm::State(text) = &self.options.algorithm else { return };
        match State::decode(text) {
            Ok(state) => self.saved = state,
            Err(e) => {
                tracing::error!("Saved sync state is invalid, falling back to full sync: {e}");
                self.options.algorithm = Algorithm::Full;
            }
        }
    }

    fn is_stateful(&self) -> bool {
        matches!(self.options.algorithm, Algorithm::State(_))
    }

    fn exchange_states(&mut self) -> Result<()> {
        if !self.is_stateful() {
            return Ok(());
        }
        if self.side == Side::Master {
            self.at = "master_send_last_common";
            for (guid, s) in &self.saved.0 {
                self.conn.send(&Item::State(StateItem {
                    guid: *guid,
                    uidvalidity: s.uidvalidity.map_or(0, UidValidity::get),
                    last_common_uid: s.last_common.map_or(0, Uid::get),
                    modseq: s.modseq.0,
                    private_modseq: s.private_modseq.0,
                    messages: Some(s.messages),
                    changes: false,
                }));
            }
            self.conn.send(&Item::End);
            return Ok(());
        }
        self.at = "slave_recv_last_common";
        loop {
            match self.collected("mailbox states")? {
                Item::End => return Ok(()),
                Item::State(s) => {
                    let state = MailboxState {
                        uidvalidity: UidValidity::new(s.uidvalidity),
                        last_common: Uid::new(s.last_common_uid),
                        modseq: ModSeq(s.modseq),
                        private_modseq: ModSeq(s.private_modseq),
                        messages: s.messages.unwrap_or(0),
                    };
                    self.saved.0.insert(s.guid, state);
                }
                other => return Err(Self::unexpected(&other, "mailbox_state")),
            }
        }
    }

    // ---- the run

    pub fn run(&mut self, store: &mut dyn Store) -> Result<()> {
        self.exchange_states()?;
        let plan = self.sync_tree(store)?;
        self.budget.keep();
        let names: BTreeMap<MailboxGuid, MailboxName> = plan.mailboxes.iter().map(|p| (p.guid, p.local.clone())).collect();
        if self.side == Side::Master {
            let mut states = self.saved.clone();
            states.0.retain(|guid, _| names.contains_key(guid));
            self.report.state = states;
            if self.options.only != Only::TreeOnly {
                for pair in &plan.mailboxes {
                    self.check_stop()?;
                    if self.settings.leave_inbox && pair.local == MailboxName::inbox() {
                        continue;
                    }
                    // One that the other side has lost since is a new one.
                    if let Some(state) = self.settings.done.get(&pair.guid).filter(|_| self.known.contains(&pair.guid)) {
                        self.report.state.0.extend(state.map(|state| (pair.guid, state)));
                        continue;
                    }
                    self.offer_mailbox(store, pair.guid, &pair.local)?;
                    if !self.report.tells() {
                        self.done.insert(pair.guid, self.report.state.0.get(&pair.guid).copied());
                    }
                }
            }
            self.conn.send(&Item::End);
            self.await_finish()
        } else {
            self.report.state = self.saved.clone();
            self.report.state.0.retain(|guid, _| names.contains_key(guid));
            self.answer_mailboxes(store, names)?;
            self.conn.send(&Item::Finish(FinishItem { full_resync: self.report.full_resync, ..FinishItem::default() }));
            self.conn.flush();
            self.at = "done";
            Ok(())
        }
    }

    /// Where the other side closes, if it does so now.
    pub fn place_of_close(&self) -> Option<Closed> {
        match &self.in_lists {
            Some(name) => Some(Closed::Mailbox(name.clone())),
            None => self.in_tree.then_some(Closed::Tree),
        }
    }

    fn check_stop(&self) -> Result<()> {
        match self.stop.requested() {
            Some(signal) => Err(End::Conn(ConnError::Stopped(signal))),
            None => Ok(()),
        }
    }

    fn await_finish(&mut self) -> Result<()> {
        self.at = "finish";
        if self.conn.peer().minor() < 3 {
            return Ok(());
        }
        match self.item()? {
            Item::Finish(f) => {
                self.report.full_resync |= f.full_resync;
                match f.error {
                    None => Ok(()),
                    Some(text) => {
                        tracing::error!("Remote dsync failed: {text}");
                        Err(End::Told(class_of(f.mail_error.unwrap_or(1))))
                    }
                }
            }
            Item::End => Ok(()),
            other => Err(Self::unexpected(&other, "finish")),
        }
    }

    /// Says how the run ended, closes, and gives the report.
    pub fn close(mut self, result: Result<()>) -> Report {
        match result {
            Ok(()) => {
                if self.side == Side::Slave {
                    self.conn.send(&Item::Close);
                }
            }
            Err(End::Own(e)) => {
                tracing::error!("{e}");
                self.report.fail(e.class());
                if !self.conn.is_in_stream() {
                    self.conn.send(&Item::Close);
                }
            }
            Err(End::Told(class)) => {
                self.report.fail(class);
                self.conn.send(&Item::Close);
            }
            Err(End::Conn(e)) => {
                self.report.fail(Class::Temporary);
                match &e {
                    // It has told its reason to whoever reads its messages.
                    ConnError::Closed(_) => tracing::debug!("{e}"),
                    ConnError::Eof { .. } | ConnError::Read { .. } | ConnError::Stopped(_) => tracing::error!("{e}"),
                    ConnError::Protocol(_) => tracing::error!("dsync({}): {e}", self.conn.name()),
                    ConnError::Stalled { .. } => {
                        tracing::error!("dsync({}): {e}", self.conn.name());
                        tracing::error!("Timeout during state={}", self.at);
                    }
                }
            }
        }
        self.conn.close();
        self.report
    }
}

/// The test of mode `c` (wire.md 5.3.1).
fn same_numbers(a: &MailboxItem, b: &MailboxItem) -> bool {
    let numbers =
        |m: &MailboxItem| (m.uidvalidity, m.uid_next, m.messages, m.highest_modseq, m.highest_private_modseq, m.first_recent);
    numbers(a) == numbers(b)
}

/// The class of a mail error number (wire.md 3.2, F).
fn class_of(mail_error: u32) -> Class {
    match mail_error {
        3 | 11 => Class::NotPossible,
        4 => Class::Params,
        5 => Class::Permission,
        6 => Class::NoRoom,
        7 => Class::NotFound,
        8 => Class::Exists,
        9 => Class::Expunged,
        10 => Class::InUse,
        12 => Class::InvalidData,
        13 => Class::Limit,
        _ => Class::Temporary,
    }
}

/// Whether this side takes the user lock (wire.md 5.7): the one with the lesser host name, the master of two equal ones.
pub(super) fn locks(side: Side, own: &str, peer: &[u8]) -> bool {
    match own.as_bytes().cmp(peer) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Equal => side == Side::Master,
        std::cmp::Ordering::Greater => false,
    }
}
