//! A whole run over a stream, in both roles (wire.md 5.1, 5.2).
//!
//! A master waits for the slave's tree before it sends its own: that costs no round trip, as a Dovecot sends its tree unasked,
//! and shows what must not be told (wire.md 9, trap 12), and whether anything would be done that must not be done.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::exchange::{self, Ended, Stopped, Subject};
use super::{Settings, Version, names, view};
use crate::mail::{self, Class, Existence, Mailbox, MailboxGuid, MailboxName, ModSeq, Since, Store, Tree, Uid, UidValidity};
use crate::os::stop::Stop;
use crate::sync::round::RoundReport;
use crate::sync::tree::{self, Peer, Plan, Side, TreeAction, TreeOptions};
use crate::sync::{Algorithm, MailboxState, Mode, Only, Options, Report, Source, State};
use crate::wire::{
    Conn, ConnError, Deletes, Error, Event, FinishItem, Handshake, Item, Kind, MailboxItem, StateItem, TreeNode, Wait,
};

/// How long a mailbox's lock is waited for where `-l` says nothing.
const MAILBOX_LOCK: Duration = Duration::from_secs(30);
/// More mails than the other side has, and still a number of mails.
const MANY: u32 = 1 << 30;
/// More names than anybody has.
const MOST_NAMES: usize = 1 << 20;

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
    /// Where the session is, in Dovecot's words.
    pub at: &'static str,
    pub hashed_headers: Vec<String>,
    /// GUIDs that own mailboxes had until this run gave them others.
    former: HashMap<MailboxGuid, MailboxName>,
    /// GUIDs that both sides had before the run.
    known: HashSet<MailboxGuid>,
    /// UIDVALIDITYs that the other side had before the run.
    their_uidvalidity: HashMap<MailboxGuid, UidValidity>,
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
            at: if side == Side::Master { "master_recv_handshake" } else { "slave_recv_handshake" },
            hashed_headers: settings.hashed_headers.clone(),
            former: HashMap::new(),
            known: HashSet::new(),
            their_uidvalidity: HashMap::new(),
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
        self.conn.set_name(String::from_utf8_lossy(&peer.hostname).into_owned());
        Ok(peer)
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
            match self.item()? {
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
                    if self.saved.0.len() > MOST_NAMES {
                        return Err(Error::TooMuch("mailbox states").into());
                    }
                }
                other => return Err(Self::unexpected(&other, "mailbox_state")),
            }
        }
    }

    // ---- tree

    fn tree_options(&self) -> TreeOptions {
        TreeOptions {
            peer: Peer::Dovecot,
            only: self.options.only.clone(),
            exclude: self.options.exclude.clone(),
            allow_empty_source: self.options.allow_empty_source,
            ..TreeOptions::new(self.options.mode, self.side)
        }
    }

    fn version(&self) -> Version {
        let peer = self.conn.peer();
        if peer.has(Kind::Handshake, "no_mailbox_renames") || !peer.has(Kind::Deletes, "escape_char") {
            Version::V22
        } else if peer.has(Kind::Handshake, "import_commit_msgs_interval") {
            Version::V23
        } else {
            Version::V24
        }
    }

    fn receive_tree(&mut self) -> Result<(Vec<TreeNode>, Deletes)> {
        self.at = "recv_mailbox_tree";
        let mut nodes = Vec::new();
        loop {
            match self.item()? {
                Item::End => break,
                Item::Node(n) if nodes.len() < MOST_NAMES => nodes.push(*n),
                Item::Node(_) => return Err(Error::TooMuch("mailboxes").into()),
                other => return Err(Self::unexpected(&other, "mailbox_tree_node")),
            }
        }
        self.at = "recv_mailbox_tree_deletes";
        match self.item()? {
            Item::Deletes(d) => Ok((nodes, *d)),
            other => Err(Self::unexpected(&other, "mailbox_delete")),
        }
    }

    fn send_tree(&mut self, own: &Tree, theirs: Option<&(Vec<TreeNode>, Deletes)>) {
        self.at = "send_mailbox_tree";
        let options = self.tree_options();
        for node in names::nodes(own, theirs.map(|t| &t.0[..]), &options, self.version()) {
            self.conn.send(&Item::Node(Box::new(node)));
        }
        self.conn.send(&Item::End);
        self.conn.send(&Item::Deletes(Box::new(names::deletes(own, theirs.map(|t| t.1.separator)))));
        self.conn.flush();
    }

    fn sync_tree(&mut self, store: &mut dyn Store) -> Result<Plan> {
        let own = store.scan(&self.options.namespaces)?;
        for (name, error) in &own.problems {
            tracing::error!("Failed to access mailbox {name}: {error}");
            self.report.fail(error.class());
        }
        let is_source = self.options.mode.is_source(self.side);
        let mut theirs = None;
        if self.side == Side::Master {
            theirs = Some(self.receive_tree()?);
        } else {
            if !own.problems.is_empty() && is_source {
                // The other side would take what is not told for deleted.
                return Err(End::Told(Class::Temporary));
            }
            self.send_tree(&own, None);
        }
        let received = match theirs {
            Some(received) => received,
            None => self.receive_tree()?,
        };
        let peer = names::tree(&received.0, &received.1, self.settings.alt_char, &own)?;
        let plan = tree::plan(&own, &peer, &self.tree_options()).map_err(|e| End::Own(mail::Error::new(e.class(), e)))?;
        if self.side == Side::Master {
            self.send_tree(&own, Some(&received));
        }
        for note in &plan.notes {
            if note.is_problem() {
                self.report.skipped += 1;
            }
            tracing::warn!("{note}");
        }
        let guids = |t: &Tree| -> HashSet<MailboxGuid> {
            t.nodes.iter().filter(|n| n.existence == Existence::Exists).filter_map(|n| n.identity.map(|i| i.guid)).collect()
        };
        self.known = guids(&own).intersection(&guids(&peer)).copied().collect();
        let identities = peer.nodes.iter().filter_map(|n| n.identity);
        self.their_uidvalidity = identities.map(|i| (i.guid, i.uidvalidity)).collect();
        let outcome = tree::execute(store, &plan.actions)?;
        self.report.done.tree += u32::try_from(plan.actions.len()).unwrap_or(u32::MAX);
        for reason in outcome.desync {
            tracing::warn!("{reason}");
            self.report.desync(reason);
        }
        for action in &plan.actions {
            if let TreeAction::SetGuid { name, from, .. } = action {
                self.former.insert(*from, name.clone());
            }
        }
        Ok(plan)
    }

    // ---- the run

    pub fn run(&mut self, store: &mut dyn Store) -> Result<()> {
        self.exchange_states()?;
        let plan = self.sync_tree(store)?;
        let names: BTreeMap<MailboxGuid, MailboxName> = plan.mailboxes.iter().map(|p| (p.guid, p.local.clone())).collect();
        if self.side == Side::Master {
            let mut states = self.saved.clone();
            states.0.retain(|guid, _| names.contains_key(guid));
            self.report.state = states;
            if self.options.only != Only::TreeOnly {
                for pair in &plan.mailboxes {
                    self.check_stop()?;
                    self.offer_mailbox(store, pair.guid, &pair.local)?;
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

    // ---- mailboxes

    fn open(&mut self, store: &mut dyn Store, name: &MailboxName) -> mail::Result<Box<dyn Mailbox>> {
        let mut mailbox = store.open(name)?;
        match mailbox.lock(self.options.lock_timeout.unwrap_or(MAILBOX_LOCK)) {
            Err(e) if e.class() == Class::Permission && self.options.mode.is_source(self.side) => {
                tracing::debug!("Mailbox {name}: used without a lock: {e}");
            }
            result => result?,
        }
        mailbox.refresh()?;
        Ok(mailbox)
    }

    /// Nothing has changed here since the saved state (wire.md 5.3).
    fn is_unchanged(&self, b: &MailboxItem) -> bool {
        self.is_stateful()
            && self.saved.0.get(&b.guid).is_some_and(|s| {
                s.uidvalidity.map(UidValidity::get) == Some(b.uidvalidity)
                    && s.last_common.map_or(1, |u| u.next().get()) == b.uid_next
                    && s.modseq.0 == b.highest_modseq
                    && s.private_modseq.0 == b.highest_private_modseq
                    && s.messages == b.messages
            })
    }

    /// The state to start from, if there is one.
    fn common(&self, guid: MailboxGuid) -> Option<MailboxState> {
        self.saved.0.get(&guid).copied().filter(|s| self.is_stateful() && (s.last_common.is_some() || s.modseq.0 > 0))
    }

    /// Reads the log; or tells why the saved state cannot be used (wire.md 5.6).
    fn changes(
        &self,
        mailbox: &mut dyn Mailbox,
        saved: Option<MailboxState>,
    ) -> mail::Result<std::result::Result<mail::Changes, String>> {
        let Some(saved) = saved else { return Ok(Ok(mailbox.changes(Since::Everything)?)) };
        let status = mailbox.status();
        let last = saved.last_common.map_or(0, Uid::get);
        if status.identity.uid_next.get() < last {
            return Ok(Err(format!("uidnext {} < {last}", status.identity.uid_next)));
        }
        if status.highest_modseq < saved.modseq {
            return Ok(Err(format!("highest_modseq {} < {}", status.highest_modseq, saved.modseq)));
        }
        let changes = mailbox.changes(Since::State { modseq: saved.modseq, uid: saved.last_common })?;
        Ok(match changes.too_old {
            Some(why) => Err(why),
            None => Ok(changes),
        })
    }

    fn cannot_continue(&mut self, name: &MailboxName, why: &str) {
        tracing::warn!("Failed to do incremental sync for mailbox {name}, retry with a full sync ({why})");
        self.report.desync(format!("Incremental sync failed: {why}"));
        self.report.full_resync = true;
    }

    /// The master's part of one mailbox.
    fn offer_mailbox(&mut self, store: &mut dyn Store, guid: MailboxGuid, name: &MailboxName) -> Result<()> {
        self.at = "master_send_mailbox";
        let mut mailbox = match self.open(store, name) {
            Ok(mailbox) => mailbox,
            Err(e) if matches!(e.class(), Class::NotFound | Class::NotPossible) => return Ok(()),
            Err(e) => return Err(End::Own(e.at(format!("Failed to access mailbox {name}")))),
        };
        let own = view::mailbox_item(&*mailbox);
        if own.guid != guid || self.is_unchanged(&own) {
            return Ok(());
        }
        let saved = self.common(guid);
        let changes = match self.changes(&mut *mailbox, saved)? {
            Ok(changes) => changes,
            Err(why) => {
                self.cannot_continue(name, &why);
                return Ok(());
            }
        };
        let mut own = own;
        if let Some(theirs) = self.their_uidvalidity.get(&guid).copied() {
            self.settle_uidvalidity(&mut *mailbox, name, &mut own, theirs)?;
        }
        let mut peer = self.offer(&own)?;
        if peer.lost
            && let Some(former) = self.former.iter().find(|(_, n)| *n == name).map(|(g, _)| *g)
        {
            // A Dovecot with Maildir takes our former GUID whatever the two are (sync.md 4.7): then we go back to it.
            mailbox.set_identity(former, mailbox.status().identity.uidvalidity)?;
            mailbox.refresh()?;
            own = view::mailbox_item(&*mailbox);
            peer = self.offer(&own)?;
        }
        if peer.ignore {
            return Ok(());
        }
        if peer.lost {
            self.report.desync(format!("Remote lost mailbox GUID {guid} (maybe it was just deleted?)"));
            self.report.full_resync |= self.is_stateful();
            return Ok(());
        }
        if self.options.algorithm == Algorithm::Changed && same_numbers(&own, &peer) {
            self.adopt_uidvalidity(&mut *mailbox, name, &own, &peer)?;
            self.remember_skipped(&own);
            return Ok(());
        }
        if saved.is_some_and(|s| s.last_common.is_some()) && own.uidvalidity != peer.uidvalidity {
            self.report.full_resync = true;
            let text = "UIDVALIDITY changed during a stateful sync, need to restart";
            return Err(End::Own(mail::Error::new(Class::Temporary, text)));
        }
        self.adopt_uidvalidity(&mut *mailbox, name, &own, &peer)?;
        self.exchange(store, &mut *mailbox, name, own, peer, saved, changes)
    }

    fn offer(&mut self, own: &MailboxItem) -> Result<MailboxItem> {
        self.conn.send(&Item::Mailbox(Box::new(own.clone())));
        self.at = "sync_mails";
        match self.item()? {
            Item::Mailbox(b) if b.guid == own.guid => Ok(*b),
            Item::Mailbox(b) => Err(Error::Value { kind: "mailbox", column: "mailbox_guid", value: b.guid.to_string() }.into()),
            other => Err(Self::unexpected(&other, "mailbox")),
        }
    }

    /// The slave's part of all mailboxes.
    fn answer_mailboxes(&mut self, store: &mut dyn Store, mut names: BTreeMap<MailboxGuid, MailboxName>) -> Result<()> {
        loop {
            self.at = "slave_recv_mailbox";
            self.check_stop()?;
            let peer = match self.item()? {
                Item::End => return Ok(()),
                Item::Mailbox(b) => *b,
                other => return Err(Self::unexpected(&other, "mailbox")),
            };
            self.answer(store, peer, &mut names)?;
        }
    }

    fn answer(&mut self, store: &mut dyn Store, peer: MailboxItem, names: &mut BTreeMap<MailboxGuid, MailboxName>) -> Result<()> {
        let guid = peer.guid;
        let refuse = |session: &mut Self, ignore| {
            session.conn.send(&Item::Mailbox(Box::new(MailboxItem::refusal(guid, ignore))));
        };
        if view::status(&peer).is_none() || peer.first_recent > peer.uid_next {
            return Err(Error::Value { kind: "mailbox", column: "uid_validity", value: peer.uidvalidity.to_string() }.into());
        }
        if !names.contains_key(&guid) {
            // It may have come, or got this GUID, just now.
            let tree = store.scan(&self.options.namespaces)?;
            let found = tree.nodes.iter().find(|n| n.identity.is_some_and(|i| i.guid == guid));
            names.extend(found.map(|n| (guid, n.name.clone())));
        }
        let former = self.former.get(&guid).cloned().filter(|_| !names.contains_key(&guid));
        let Some(name) = names.get(&guid).cloned().or_else(|| former.clone()) else {
            let ignore = self.options.mode == Mode::OneWay(Source::Slave);
            if !ignore {
                self.report.desync(format!("Mailbox GUID {guid} was lost"));
            }
            refuse(self, ignore);
            return Ok(());
        };
        let mut mailbox = match self.open(store, &name) {
            Ok(mailbox) => mailbox,
            Err(e) if matches!(e.class(), Class::NotFound | Class::NotPossible) => {
                refuse(self, false);
                return Ok(());
            }
            Err(e) => return Err(End::Own(e.at(format!("Can't open mailbox {name}")))),
        };
        if former.is_some() {
            mailbox.set_identity(guid, mailbox.status().identity.uidvalidity)?;
            mailbox.refresh()?;
        }
        let mut own = view::mailbox_item(&*mailbox);
        if let Some(theirs) = UidValidity::new(peer.uidvalidity) {
            self.settle_uidvalidity(&mut *mailbox, &name, &mut own, theirs)?;
        }
        if own.guid != guid {
            self.report.desync(format!("Mailbox GUID {guid} was lost"));
            refuse(self, false);
            return Ok(());
        }
        let skip = self.options.algorithm == Algorithm::Changed && same_numbers(&own, &peer);
        let saved = self.common(guid);
        if !skip && saved.is_some_and(|s| s.last_common.is_some()) && own.uidvalidity != peer.uidvalidity {
            self.report.full_resync = true;
            self.report.desync("UIDVALIDITY changed during a stateful sync, need to restart");
            refuse(self, false);
            return Ok(());
        }
        let changes = if skip { Ok(mail::Changes::default()) } else { self.changes(&mut *mailbox, saved)? };
        let changes = match changes {
            Ok(changes) => changes,
            Err(why) => {
                self.cannot_continue(&name, &why);
                refuse(self, false);
                return Ok(());
            }
        };
        self.conn.send(&Item::Mailbox(Box::new(own.clone())));
        self.adopt_uidvalidity(&mut *mailbox, &name, &own, &peer)?;
        if skip {
            self.remember_skipped(&own);
            return Ok(());
        }
        self.at = "sync_mails";
        self.exchange(store, &mut *mailbox, &name, own, peer, saved, changes)
    }

    /// A Dovecot that is the source takes over the UIDVALIDITY of a destination with more mails (sync.md 5.5); so before it
    /// gets to see ours, it is its own. One that is the destination keeps its own if it has more mails: so it is told of many.
    fn settle_uidvalidity(
        &mut self,
        mailbox: &mut dyn Mailbox,
        name: &MailboxName,
        own: &mut MailboxItem,
        theirs: UidValidity,
    ) -> Result<()> {
        if self.options.mode == Mode::TwoWay || own.uidvalidity == theirs.get() {
            return Ok(());
        }
        if self.options.mode.is_source(self.side) {
            own.messages = own.messages.max(MANY);
            return Ok(());
        }
        self.set_uidvalidity(mailbox, name, own, theirs)?;
        *own = view::mailbox_item(mailbox);
        Ok(())
    }

    /// The other side's UIDVALIDITY, where that is the one that stays (wire.md 5.3.2). A source keeps its own.
    fn adopt_uidvalidity(
        &mut self,
        mailbox: &mut dyn Mailbox,
        name: &MailboxName,
        own: &MailboxItem,
        peer: &MailboxItem,
    ) -> Result<()> {
        if own.uidvalidity == peer.uidvalidity || self.options.mode.is_source(self.side) {
            return Ok(());
        }
        let two_way = self.options.mode == Mode::TwoWay;
        if two_way && (peer.messages, peer.uidvalidity) < (own.messages, own.uidvalidity) {
            return Ok(());
        }
        match UidValidity::new(peer.uidvalidity) {
            Some(uidvalidity) => self.set_uidvalidity(mailbox, name, own, uidvalidity),
            None => Ok(()),
        }
    }

    fn set_uidvalidity(
        &mut self,
        mailbox: &mut dyn Mailbox,
        name: &MailboxName,
        own: &MailboxItem,
        uidvalidity: UidValidity,
    ) -> Result<()> {
        tracing::debug!("Mailbox {name}: UIDVALIDITY changes from {} to {uidvalidity}", own.uidvalidity);
        mailbox
            .set_identity(own.guid, uidvalidity)
            .map_err(|e| End::Own(e.at(format!("Couldn't update mailbox {name} metadata"))))?;
        mailbox.refresh()?;
        self.report.done.identity += 1;
        Ok(())
    }

    fn remember_skipped(&mut self, own: &MailboxItem) {
        let state = MailboxState {
            uidvalidity: UidValidity::new(own.uidvalidity),
            last_common: None,
            modseq: ModSeq(0),
            private_modseq: ModSeq(0),
            messages: own.messages,
        };
        self.report.state.0.insert(own.guid, state);
    }

    #[expect(clippy::too_many_arguments, reason = "what the two items of a mailbox have brought together")]
    fn exchange(
        &mut self,
        store: &mut dyn Store,
        mailbox: &mut dyn Mailbox,
        name: &MailboxName,
        own: MailboxItem,
        peer: MailboxItem,
        saved: Option<MailboxState>,
        changes: mail::Changes,
    ) -> Result<()> {
        let mut report = RoundReport::default();
        let guid = own.guid;
        let subject = Subject {
            conn: &mut self.conn,
            options: &self.options,
            settings: self.settings,
            side: self.side,
            hashed_headers: &self.hashed_headers,
            store,
            mailbox,
            name,
            own,
            peer,
            saved,
            changes,
            unified: !self.known.contains(&guid),
            report: &mut report,
        };
        let result = exchange::run(subject);
        self.account(name, report);
        let Ended { state, desync, full_resync } = result?;
        self.report.full_resync |= full_resync;
        if let Some(reason) = desync {
            self.report.desync(reason);
        }
        if let Some(state) = state {
            self.report.state.0.insert(guid, state);
        }
        Ok(())
    }

    fn account(&mut self, name: &MailboxName, report: RoundReport) {
        for bad in report.bad {
            tracing::error!("Mailbox {name}: UID {}: {}; the mail is left out, the others go on", bad.uid, bad.error);
            self.report.skipped += 1;
        }
        let (all, new) = (&mut self.report.done, report.done);
        all.saved += new.saved;
        all.moved += new.moved;
        all.expunged += new.expunged;
        all.flags += new.flags;
        all.identity += new.identity;
        all.rebuilt += new.rebuilt;
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
