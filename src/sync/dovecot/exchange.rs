//! The lists of one mailbox (wire.md 5.4): both directions at once, neither waiting for more than the gates ask for.
//!
//! What a side sends: attributes, changes, requests, mails, its state; a source no requests, a destination nothing but
//! requests and its state.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;

use super::Settings;
use super::decide;
use super::view::{Identity, Own, Theirs, Wanted, timestamp};
use crate::mail::{
    self, Attribute, AttributeChange, AttributeKey, Class, Floors, MailGuid, Mailbox, MailboxName, ModSeq, Original, Status,
    Store, Uid,
};
use crate::sync::carry::{Carry, Import, held_back, own_uid};
use crate::sync::merge::{self, Context, Merged, Missing, Outcome};
use crate::sync::message::{Attributes, MailText};
use crate::sync::round::{RoundError, RoundReport};
use crate::sync::tree::Side;
use crate::sync::{MailboxState, Mode, Options, Source, attributes, facts};
use crate::wire::{
    AttributeItem, Change, ChangeType, Conn, ConnError, Error, Event, Item, MailItem, MailboxItem, Request, Spool, StateItem,
    Wait,
};

/// Mails that are committed together.
const BATCH: usize = 1000;
/// A part of a mail text.
const PART: usize = 64 << 10;
/// Attributes longer than this are refused.
const ATTRIBUTE: u64 = 16 << 20;
/// Attributes that are longer travel as streams.
const INLINE: usize = 4096;
/// More changes than a mailbox can have mails for.
const MOST: usize = 1 << 26;

/// Why the lists ended early.
#[derive(Debug)]
pub(super) enum Stopped {
    /// This side cannot go on with the run.
    Own(mail::Error),
    /// There is no other side any more, or it makes no sense.
    Conn(ConnError),
}

impl From<ConnError> for Stopped {
    fn from(e: ConnError) -> Self {
        Self::Conn(e)
    }
}

impl From<Error> for Stopped {
    fn from(e: Error) -> Self {
        Self::Conn(e.into())
    }
}

impl From<mail::Error> for Stopped {
    fn from(e: mail::Error) -> Self {
        Self::Own(e)
    }
}

impl From<RoundError> for Stopped {
    fn from(e: RoundError) -> Self {
        match e {
            RoundError::Own(e) | RoundError::End(e) => Self::Own(e),
            RoundError::Peer(f) => Self::Own(mail::Error::new(f.class, f.text)),
        }
    }
}

type Result<T> = std::result::Result<T, Stopped>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Attributes,
    Changes,
    Requests,
    Mails,
    State,
    Done,
}

/// A mailbox whose lists are to be exchanged.
pub(super) struct Subject<'a> {
    pub conn: &'a mut Conn,
    pub options: &'a Options,
    pub settings: &'a Settings,
    pub side: Side,
    /// Headers that hashes are made of.
    pub hashed_headers: &'a [String],
    pub store: &'a mut dyn Store,
    pub mailbox: &'a mut dyn Mailbox,
    pub name: &'a MailboxName,
    pub own: MailboxItem,
    pub peer: MailboxItem,
    /// What is known from the saved state.
    pub saved: Option<MailboxState>,
    /// What the log tells since then.
    pub changes: mail::Changes,
    /// The two mailboxes have just become one.
    pub unified: bool,
    pub report: &'a mut RoundReport,
}

/// How the lists ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// What both have in common.
    pub state: Option<MailboxState>,
    /// Others were at work.
    pub desync: Option<String>,
    /// A saved state must not be used any more.
    pub full_resync: bool,
}

/// Exchanges the lists and does this side's part.
pub(super) fn run(subject: Subject<'_>) -> Result<Ended> {
    Exchange::new(subject)?.run()
}

/// What is told of a UID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Claim,
    Item(usize),
    Gone(usize),
}

/// What is coming in as a stream.
enum Incoming {
    Attribute(Box<AttributeItem>, Spool),
    Mail(MailItem, Spool),
}

struct Exchange<'a> {
    s: Subject<'a>,
    sends: bool,
    receives: bool,
    with_attributes: bool,
    last_common: Option<Uid>,
    status: Status,
    peer_status: Status,
    own: Own,
    attributes: Option<Attributes>,
    // What is sent.
    sending: Phase,
    told: Option<Vec<(Uid, Told)>>,
    next_told: usize,
    hold_changes: bool,
    requested: Vec<Uid>,
    next_requested: usize,
    body: Option<Box<dyn Read + Send>>,
    // What is received.
    receiving: Phase,
    incoming: Option<Incoming>,
    their_attributes: Vec<(Attribute, Option<ModSeq>, bool)>,
    their_changes: Vec<Change>,
    last_uid: u32,
    theirs: Option<Theirs>,
    outcome: Option<Outcome>,
    copies: Vec<(Uid, Uid)>,
    by_guid: HashMap<Vec<u8>, Vec<usize>>,
    by_uid: HashMap<u32, Vec<usize>>,
    requests: Vec<Request>,
    pending: BTreeSet<Uid>,
    staged_top: Option<Uid>,
    import: Import<'static>,
    guid_uids: Option<HashMap<MailGuid, Uid>>,
    asked_by_uid: HashSet<Uid>,
    own_state: Option<StateItem>,
    their_state: Option<StateItem>,
    ended: Ended,
    last_common_after: u32,
}

impl<'a> Exchange<'a> {
    fn new(mut s: Subject<'a>) -> Result<Self> {
        let is_source = s.options.mode.is_source(s.side);
        let (sends, receives) = match s.options.mode {
            Mode::TwoWay => (true, true),
            _ => (is_source, !is_source),
        };
        let by_guid = s.peer.have_save_guids && (s.own.have_save_guids || is_source && s.own.have_guids)
            || !is_source && s.options.mode != Mode::TwoWay && s.peer.have_guids && s.own.have_save_guids;
        let identity = if by_guid {
            Identity::Guid
        } else {
            Identity::Hash {
                headers: s.hashed_headers.to_vec(),
                filtered: s.conn.peer().minor() >= 4,
                empty: s.peer.messages == 0,
            }
        };
        let last_common = s.saved.and_then(|saved| saved.last_common);
        let changes = std::mem::take(&mut s.changes);
        let log_attributes = changes.attributes.clone();
        let guids = facts::guids(s.mailbox);
        let facts = facts::with_changes(s.mailbox, &guids, changes, &s.options.filter);
        let wanted = Wanted { identity: &identity, filter: &s.options.filter, last_common };
        let (own, bad) = Own::read(s.mailbox, facts, &wanted);
        s.report.bad.extend(guids.bad);
        for (uid, error) in bad {
            if error.class() != Class::Expunged && !s.report.bad.iter().any(|b| b.uid == uid) {
                s.report.bad.push(facts::BadMail { uid, error });
            }
        }
        let attributes = match s.store.attributes(s.name, s.own.guid) {
            Ok(present) => present.map(|present| Attributes { present, changes: log_attributes }),
            // A side without a dictionary has nothing to say.
            Err(e) if e.class() == Class::NotPossible => None,
            Err(e) => return Err(e.at(format!("Mailbox {}: Failed to get attributes", s.name)).into()),
        };
        let status = s.mailbox.status();
        let peer_status = super::view::status(&s.peer).ok_or_else(|| Error::Value {
            kind: "mailbox",
            column: "uid_validity",
            value: s.peer.uidvalidity.to_string(),
        })?;
        let with_attributes = s.conn.peer().minor() >= 1;
        let hold_changes = receives && sends && (own.guids_missing(last_common) || !own.facts.held_back.is_empty());
        Ok(Self {
            sends,
            receives,
            with_attributes,
            last_common,
            status,
            peer_status,
            own,
            attributes,
            sending: if sends { Phase::Attributes } else { Phase::Requests },
            told: None,
            next_told: 0,
            hold_changes,
            requested: Vec::new(),
            next_requested: 0,
            body: None,
            receiving: match (receives, with_attributes) {
                (true, true) => Phase::Attributes,
                (true, false) => Phase::Changes,
                (false, _) => Phase::Requests,
            },
            incoming: None,
            their_attributes: Vec::new(),
            their_changes: Vec::new(),
            last_uid: 0,
            theirs: None,
            outcome: None,
            copies: Vec::new(),
            by_guid: HashMap::new(),
            by_uid: HashMap::new(),
            requests: Vec::new(),
            pending: BTreeSet::new(),
            staged_top: None,
            import: Import::default(),
            guid_uids: None,
            asked_by_uid: HashSet::new(),
            own_state: None,
            their_state: None,
            ended: Ended::default(),
            last_common_after: status.identity.uid_next.get() - 1,
            s,
        })
    }

    fn run(mut self) -> Result<Ended> {
        let result = self.exchange();
        if result.is_err() && self.outcome.as_ref().is_some_and(|o| !o.rebuild) {
            // What has arrived whole stays.
            let kept = Carry {
                side: self.s.side,
                placement: self.s.options.placement,
                mailbox: self.s.mailbox,
                name: self.s.name,
                report: self.s.report,
            }
            .commit(&mut self.import);
            if let Err(RoundError::Own(e)) = kept {
                tracing::error!("Mailbox {}: {e}", self.s.name);
            }
        }
        result?;
        Ok(self.end())
    }

    fn exchange(&mut self) -> Result<()> {
        while self.sending != Phase::Done || self.receiving != Phase::Done {
            if self.produce()? {
                // A word of the other side may be there in the meantime; it must not wait until all is said.
                if let Some(event) = self.s.conn.next(Wait::No)? {
                    self.take(event)?;
                }
                continue;
            }
            let wait = if self.s.conn.has_room() { Wait::Input } else { Wait::InputOrRoom };
            if let Some(event) = self.s.conn.next(wait)? {
                self.take(event)?;
            }
        }
        Ok(())
    }

    // ---- sending

    /// Sends some of what may be sent now. False when something has to come first.
    fn produce(&mut self) -> Result<bool> {
        if self.sending != Phase::Done && !self.s.conn.has_room() {
            return Ok(false);
        }
        match self.sending {
            Phase::Attributes => {
                if self.with_attributes {
                    self.send_attributes();
                    self.s.conn.send(&Item::End);
                }
                self.sending = Phase::Changes;
                Ok(true)
            }
            Phase::Changes => {
                if self.hold_changes {
                    if self.receiving <= Phase::Changes {
                        return Ok(false);
                    }
                    self.hold_changes = false;
                }
                let told = match self.told.take() {
                    Some(told) => told,
                    None => self.plan_changes(),
                };
                let end = told.len().min(self.next_told + 256);
                for &(uid, what) in &told[self.next_told..end] {
                    if let Some(change) = self.change(uid, what) {
                        self.s.conn.send(&Item::Change(change));
                    }
                }
                self.next_told = end;
                if end == told.len() {
                    self.s.conn.send(&Item::End);
                    self.sending = if self.receives { Phase::Requests } else { Phase::Mails };
                } else {
                    self.told = Some(told);
                }
                Ok(true)
            }
            Phase::Requests => {
                if self.receiving <= Phase::Changes {
                    return Ok(false);
                }
                for request in std::mem::take(&mut self.requests) {
                    self.s.conn.send(&Item::Request(request));
                }
                self.s.conn.send(&Item::End);
                self.sending = if self.sends { Phase::Mails } else { Phase::State };
                Ok(true)
            }
            Phase::Mails => {
                if self.receiving <= Phase::Requests {
                    return Ok(false);
                }
                self.send_mails()?;
                Ok(true)
            }
            Phase::State => {
                if self.receiving < Phase::State {
                    return Ok(false);
                }
                if self.receives {
                    self.finish_import()?;
                }
                let state = self.state();
                self.s.conn.send(&Item::State(state.clone()));
                self.s.conn.flush();
                self.own_state = Some(state);
                self.sending = Phase::Done;
                Ok(true)
            }
            Phase::Done => Ok(false),
        }
    }

    fn send_attributes(&mut self) {
        let Some(own) = &self.attributes else { return };
        let incremental = self.last_common.is_some();
        let change = |key: &AttributeKey| own.changes.iter().rev().find(|c| c.key == *key);
        let mut list: Vec<&Attribute> = own.present.iter().filter(|a| !incremental || change(&a.key).is_some()).collect();
        list.sort_by_key(|a| !a.key.private);
        let items: Vec<(AttributeItem, Option<&Vec<u8>>)> = list
            .into_iter()
            .filter_map(|a| {
                let value = a.value.as_ref()?;
                let stream = value.len() > INLINE || value.contains(&0);
                let item = AttributeItem {
                    private: a.key.private,
                    key: a.key.key.clone().into_bytes(),
                    value: (!stream).then(|| value.clone()),
                    stream,
                    deleted: false,
                    last_change: (a.changed.0 > 0).then_some(a.changed.0.into()),
                    modseq: change(&a.key).map(|c| c.modseq.0).filter(|m| *m > 0),
                };
                Some((item, stream.then_some(value)))
            })
            .collect();
        for (item, data) in items {
            self.s.conn.send(&Item::Attribute(Box::new(item)));
            if let Some(data) = data {
                self.s.conn.send_data(data);
                self.s.conn.send_data_end();
            }
        }
        for c in own.changes.iter().filter(|c| c.removed && !own.present.iter().any(|a| a.key == c.key)) {
            let item = AttributeItem {
                private: c.key.private,
                key: c.key.key.clone().into_bytes(),
                value: None,
                stream: false,
                deleted: true,
                last_change: None,
                modseq: Some(c.modseq.0).filter(|m| *m > 0),
            };
            self.s.conn.send(&Item::Attribute(Box::new(item)));
        }
    }

    /// What is told of mails, by UID: those that are there, those that are gone, and claims.
    fn plan_changes(&self) -> Vec<(Uid, Told)> {
        let own = &self.own;
        let mut out = Vec::with_capacity(own.facts.items.len() + own.facts.expunged.len());
        out.extend(own.claims.keys().map(|uid| (*uid, Told::Claim)));
        out.extend(own.facts.items.iter().enumerate().map(|(n, i)| (i.uid, Told::Item(n))));
        // Above the common UIDs of a state nobody asks what is gone.
        let asked = |uid: Uid| self.last_common.is_none_or(|l| uid <= l);
        out.extend(own.facts.expunged.iter().enumerate().filter(|(_, e)| asked(e.uid)).map(|(n, e)| (e.uid, Told::Gone(n))));
        // No UID occurs twice: what stands first here counts.
        out.sort_by_key(|(uid, told)| (*uid, *told));
        out.dedup_by_key(|(uid, _)| *uid);
        out
    }

    fn change(&self, uid: Uid, told: Told) -> Option<Change> {
        let filter = &self.s.options.filter;
        match told {
            Told::Claim => self.own.claims.get(&uid).cloned(),
            Told::Item(n) => self.own.change(n, self.last_common, filter.since.is_some() || filter.until.is_some()),
            Told::Gone(n) => Some(Own::expunge(&self.own.facts.expunged[n], filter)),
        }
    }

    fn send_mails(&mut self) -> Result<()> {
        if let Some(body) = &mut self.body {
            let mut buffer = vec![0; PART];
            let n = body
                .read(&mut buffer)
                .map_err(|e| mail::Error::new(Class::Temporary, format!("Exporting mailbox {} failed: {e}", self.s.name)))?;
            if n > 0 {
                self.s.conn.send_data(&buffer[..n]);
            } else {
                self.s.conn.send_data_end();
                self.body = None;
            }
            return Ok(());
        }
        let Some(&uid) = self.requested.get(self.next_requested) else {
            self.s.conn.send(&Item::End);
            self.sending = Phase::State;
            return Ok(());
        };
        self.next_requested += 1;
        let by_uid = self.asked_by_uid.contains(&uid);
        let guid = self.own.guids[self.own.index(uid)].as_ref().map(MailGuid::text);
        let text = self.carry().text(uid);
        let mut item = MailItem {
            guid: if by_uid { Some(Vec::new()) } else { guid },
            uid: by_uid.then_some(uid.get()),
            pop3_uidl: Some(Vec::new()),
            ..MailItem::default()
        };
        match text {
            Ok(text) => {
                let time = |t: mail::Timestamp| (t.0 > 0).then_some(i64::from(t.0));
                item.pop3_uidl = Some(text.facts.pop3_uidl.unwrap_or_default().into_bytes());
                item.pop3_order = Some(text.facts.pop3_order).filter(|o| *o > 0);
                item.received = time(text.facts.received);
                item.saved = time(text.facts.saved);
                match self.readable(text.body) {
                    Ok(body) => {
                        item.stream = true;
                        self.body = Some(body);
                    }
                    Err(e) => self.carry().bad(uid, e),
                }
            }
            Err(e) => self.carry().bad(uid, e),
        }
        self.s.conn.send(&Item::Mail(item));
        Ok(())
    }

    /// A text that can be read to its end. One that has to be unpacked is, before anything is said of it: half a mail would
    /// be the end of the session.
    fn readable(&self, mut body: mail::Body) -> mail::Result<Box<dyn Read + Send>> {
        if body.range.is_some() {
            return Ok(body.reader);
        }
        let mut spool = Spool::default();
        let mut buffer = vec![0; PART];
        loop {
            let n = body.reader.read(&mut buffer).map_err(|e| mail::Error::new(Class::Temporary, e))?;
            if n == 0 {
                return Ok(spool.finish().body().reader);
            }
            spool.add(&buffer[..n], &self.s.settings.temp_dir)?;
        }
    }

    fn carry(&mut self) -> Carry<'_> {
        Carry {
            side: self.s.side,
            placement: self.s.options.placement,
            mailbox: &mut *self.s.mailbox,
            name: self.s.name,
            report: &mut *self.s.report,
        }
    }

    // ---- receiving

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Headers => Err(Error::Unexpected { got: 'V', wanted: "an item" }.into()),
            Event::Item(item) => self.item(item),
            Event::Data(data) => {
                if let Some(Incoming::Attribute(_, spool) | Incoming::Mail(_, spool)) = &mut self.incoming {
                    spool.add(&data, &self.s.settings.temp_dir)?;
                }
                Ok(())
            }
            Event::DataEnd => match self.incoming.take() {
                Some(Incoming::Attribute(item, spool)) => {
                    let value = spool.finish().bytes(ATTRIBUTE)?;
                    self.attribute(*item, Some(value));
                    Ok(())
                }
                Some(Incoming::Mail(item, spool)) => self.mail(item, Some(spool)),
                None => Ok(()),
            },
        }
    }

    fn item(&mut self, item: Item) -> Result<()> {
        match (self.receiving, item) {
            (Phase::Attributes, Item::Attribute(a)) => {
                if self.their_attributes.len() > 100_000 {
                    return Err(Error::TooMuch("attributes").into());
                }
                if a.stream {
                    self.incoming = Some(Incoming::Attribute(a, Spool::default()));
                } else {
                    let value = a.value.clone();
                    self.attribute(*a, value);
                }
            }
            (Phase::Attributes, Item::End) => {
                self.set_attributes();
                self.receiving = Phase::Changes;
            }
            (Phase::Changes, Item::Change(change)) => self.their_change(change)?,
            (Phase::Changes, Item::End) => {
                self.decide()?;
                self.receiving = if self.sends { Phase::Requests } else { Phase::Mails };
            }
            (Phase::Requests, Item::Request(request)) => self.request(&request)?,
            (Phase::Requests, Item::End) => {
                self.requested.sort_unstable();
                self.requested.dedup();
                self.receiving = if self.receives { Phase::Mails } else { Phase::State };
            }
            (Phase::Mails, Item::Mail(m)) => {
                if m.stream {
                    self.incoming = Some(Incoming::Mail(m, Spool::default()));
                } else {
                    self.mail(m, None)?;
                }
            }
            (Phase::Mails, Item::End) => self.receiving = Phase::State,
            (Phase::State, Item::State(state)) => {
                if state.guid != self.s.own.guid {
                    let value = state.guid.to_string();
                    return Err(Error::Value { kind: "mailbox_state", column: "mailbox_guid", value }.into());
                }
                self.their_state = Some(state);
                self.receiving = Phase::Done;
            }
            (_, Item::Close) => return Err(ConnError::Closed(self.s.conn.position()).into()),
            (phase, item) => {
                let wanted = match phase {
                    Phase::Attributes => "mailbox_attribute",
                    Phase::Changes => "mail_change",
                    Phase::Requests => "mail_request",
                    Phase::Mails => "mail",
                    Phase::State | Phase::Done => "mailbox_state",
                };
                return Err(Error::Unexpected { got: item.letter(), wanted }.into());
            }
        }
        Ok(())
    }

    fn attribute(&mut self, item: AttributeItem, value: Option<Vec<u8>>) {
        let key = AttributeKey { private: item.private, key: String::from_utf8_lossy(&item.key).into_owned() };
        let value = value.filter(|_| !item.deleted);
        let attribute = Attribute { key, value, changed: timestamp(item.last_change) };
        self.their_attributes.push((attribute, item.modseq.map(ModSeq), item.deleted));
    }

    fn set_attributes(&mut self) {
        let Some(own) = &self.attributes else { return };
        let theirs = std::mem::take(&mut self.their_attributes);
        // A stateful run tells only what has changed, and a Dovecot never asks for one to be removed that it does not have.
        let told: HashSet<&AttributeKey> = theirs.iter().map(|(a, ..)| &a.key).collect();
        let own = Attributes {
            present: own.present.iter().filter(|a| told.contains(&a.key)).cloned().collect(),
            changes: own.changes.iter().filter(|c| told.contains(&c.key)).cloned().collect(),
        };
        let mut peer = Attributes::default();
        for (attribute, modseq, removed) in &theirs {
            if let Some(modseq) = *modseq {
                peer.changes.push(AttributeChange { key: attribute.key.clone(), removed: *removed, modseq });
            } else if *removed {
                peer.changes.push(AttributeChange { key: attribute.key.clone(), removed: true, modseq: ModSeq(0) });
            }
            if attribute.value.is_some() {
                peer.present.push(attribute.clone());
            }
        }
        for attribute in attributes::to_change(&own, &peer, self.s.options.mode, self.s.options.mode.is_source(self.s.side)) {
            if let Err(e) = self.s.store.set_attribute(self.s.name, self.s.own.guid, &attribute) {
                tracing::error!("Mailbox {}: Failed to set attribute {}: {e}", self.s.name, attribute.key.key);
            }
        }
    }

    /// What would kill a Dovecot is refused politely (wire.md 9).
    fn their_change(&mut self, change: Change) -> Result<()> {
        let bad = |column: &'static str, value: String| Error::Value { kind: "mail_change", column, value };
        if change.uid <= self.last_uid {
            return Err(bad("uid", change.uid.to_string()).into());
        }
        self.last_uid = change.uid;
        if self.their_changes.len() >= MOST {
            return Err(Error::TooMuch("mail changes").into());
        }
        let common = self.last_common.is_some_and(|l| change.uid <= l.get());
        let fits = match change.kind {
            ChangeType::Save => !common,
            ChangeType::Flags => common,
            ChangeType::Expunge => true,
        };
        if !fits {
            return Err(bad("type", format!("{:?} for UID {}", change.kind, change.uid)).into());
        }
        if change.kind == ChangeType::Save && change.guid.is_none() {
            return Err(Error::MissingValue { kind: "mail_change", column: "guid" }.into());
        }
        self.their_changes.push(change);
        Ok(())
    }

    fn decide(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.their_changes);
        let saved = self.s.saved.map_or(ModSeq(0), |s| s.modseq);
        let mut changes_only = changes;
        if self.hold_changes {
            self.claim(&changes_only);
        }
        let theirs = Theirs::new(&self.own, &changes_only, self.peer_status, self.last_common, saved, &self.s.options.filter);
        changes_only.clear();
        if let Some(why) = theirs.mismatch {
            tracing::warn!(
                "Mailbox {} doesn't match previous state: {why} (dsync must be run again without the state)",
                self.s.name
            );
            self.ended.full_resync = true;
            return Ok(());
        }
        let known = self.own.known();
        let master = self.s.side == Side::Master;
        let (first, second) = if master { (&known, &theirs.known) } else { (&theirs.known, &known) };
        let outcome = match self.s.options.mode {
            Mode::TwoWay => {
                let careful = !self.s.options.filter.is_empty();
                let decision = decide::two_way(self.s.side, &known, &theirs.known, self.last_common, careful);
                self.copies = decision.copies;
                self.last_common_after = decision.last_common;
                decision.outcome
            }
            Mode::OneWay(source) => {
                let missing = if self.s.unified { Missing::IfKnown } else { Missing::IfProved };
                let context = Context { last_common: self.last_common, missing };
                let common = merge::find_common(&first.facts, &second.facts, &context);
                let keys = |k: &decide::Known, new: &[usize]| new.iter().map(|&n| k.keys[n].clone()).collect::<Vec<_>>();
                let guids = (keys(first, &common.new_master), keys(second, &common.new_slave));
                let out = merge::one_way(&first.facts, &second.facts, &common, (&guids.0, &guids.1), source == Source::Master);
                self.last_common_after = out.uid_next.get() - 1;
                out
            }
            Mode::Backup(source) => {
                let out = merge::backup(&first.facts, &second.facts, source == Source::Master, &HashSet::new());
                self.last_common_after = out.uid_next.get() - 1;
                out
            }
        };
        self.import.rebuild = outcome.rebuild;
        self.ask(&outcome, &theirs);
        self.theirs = Some(theirs);
        self.outcome = Some(outcome);
        Ok(())
    }

    /// Mails that the other side has and that are not here for no fault of its users are told as if they were, so that it
    /// keeps them.
    fn claim(&mut self, changes: &[Change]) {
        for change in changes.iter().filter(|c| c.kind == ChangeType::Save) {
            let Some(uid) = Uid::new(change.uid) else { continue };
            let unreadable = self.own.facts.item(uid).is_some() && self.own.guids[self.own.index(uid)].is_none();
            if unreadable || self.own.facts.item(uid).is_none() && self.own.facts.never_had(uid) {
                let claim = Change { add_flags: 0, remove_flags: 0, ..change.clone() };
                self.own.claims.insert(uid, claim);
            }
        }
    }

    fn own_uid(&self, m: &Merged) -> Option<Uid> {
        own_uid(self.s.side, m)
    }

    fn peer_uid(&self, m: &Merged) -> Option<Uid> {
        if self.s.side == Side::Master { m.slave } else { m.master }
    }

    /// What has to be asked for, and what else will be staged.
    fn ask(&mut self, outcome: &Outcome, theirs: &Theirs) {
        let copied: HashSet<Uid> = self.copies.iter().map(|c| c.1).collect();
        for (n, m) in outcome.mails.iter().enumerate() {
            match (self.own_uid(m), self.peer_uid(m)) {
                (None, Some(uid)) if m.copied => match theirs.guids.get(&uid) {
                    Some(Some(guid)) => {
                        let list = self.by_guid.entry(guid.clone()).or_default();
                        if list.is_empty() {
                            self.requests.push(Request { guid: Some(guid.clone()), uid: Some(uid.get()) });
                        }
                        list.push(n);
                        self.pending.insert(m.uid);
                    }
                    Some(None) => {
                        self.requests.push(Request { guid: None, uid: Some(uid.get()) });
                        self.by_uid.entry(uid.get()).or_default().push(n);
                        self.pending.insert(m.uid);
                    }
                    // A stateful run does not offer it: only one without the state can bring it back.
                    None => {
                        self.import.unreadable.insert(m.uid);
                        self.ended.full_resync = true;
                    }
                },
                (None, _) if copied.contains(&m.uid) => {
                    self.pending.insert(m.uid);
                }
                (Some(uid), _) if uid != m.uid && !outcome.rebuild => {
                    self.pending.insert(m.uid);
                }
                _ => {}
            }
        }
    }

    fn request(&mut self, request: &Request) -> Result<()> {
        let own = &self.own;
        let uid = match (&request.guid, request.uid) {
            (Some(guid), _) => {
                let map = self.guid_uids.get_or_insert_with(|| {
                    let known = own.facts.items.iter().zip(&own.guids);
                    let mut map = HashMap::with_capacity(own.guids.len());
                    for (item, guid) in known {
                        if let Some(guid) = guid {
                            map.entry(guid.clone()).or_insert(item.uid);
                        }
                    }
                    map
                });
                MailGuid::new(guid).and_then(|g| map.get(&g).copied())
            }
            (None, Some(uid)) => {
                let uid = Uid::new(uid).filter(|u| own.facts.item(*u).is_some_and(|_| own.guids[own.index(*u)].is_some()));
                self.asked_by_uid.extend(uid);
                uid
            }
            (None, None) => None,
        };
        let Some(uid) = uid else {
            let what = request.guid.as_deref().map_or_else(
                || format!("UID {}", request.uid.unwrap_or(0)),
                |g| format!("GUID {}", String::from_utf8_lossy(&g[..g.len().min(200)])),
            );
            let text = format!("Exporting mailbox {} failed: Remote requested unexpected {what}", self.s.name);
            return Err(mail::Error::new(Class::Temporary, text).into());
        };
        if self.requested.len() > 2 * own.guids.len() + 1000 {
            return Err(Error::TooMuch("mail requests").into());
        }
        self.requested.push(uid);
        Ok(())
    }

    fn mail(&mut self, item: MailItem, spool: Option<Spool>) -> Result<()> {
        let guid = item.guid.filter(|g| !g.is_empty());
        let wanted = match (&guid, item.uid) {
            (Some(guid), _) => self.by_guid.remove(guid),
            (None, Some(uid)) => self.by_uid.remove(&uid),
            (None, None) => None,
        };
        let Some(wanted) = wanted else {
            tracing::error!(
                "Mailbox {}: Remote sent unwanted message body for GUID={} UID={}",
                self.s.name,
                String::from_utf8_lossy(guid.as_deref().unwrap_or_default()),
                item.uid.unwrap_or(0)
            );
            return Ok(());
        };
        let Some(outcome) = self.outcome.take() else { return Ok(()) };
        let spooled = spool.map(Spool::finish);
        let facts = mail::Facts {
            received: timestamp(item.received),
            saved: timestamp(item.saved),
            pop3_uidl: item.pop3_uidl.filter(|u| !u.is_empty()).map(|u| String::from_utf8_lossy(&u).into_owned()),
            pop3_order: item.pop3_order.unwrap_or(0),
            virtual_size: None,
            in_alt: false,
        };
        let mut result = Ok(());
        for n in wanted {
            let m = &outcome.mails[n];
            self.pending.remove(&m.uid);
            let Some(spooled) = &spooled else {
                // Expunged there meanwhile.
                self.import.surprised = true;
                continue;
            };
            let uid = self.peer_uid(m).unwrap_or(m.uid);
            let guid = guid.as_deref().and_then(MailGuid::new).unwrap_or_else(MailGuid::generate);
            let text = MailText { uid, guid, facts: facts.clone(), body: spooled.body() };
            let mut import = std::mem::take(&mut self.import);
            result = self.carry().stage(text, m, &mut import);
            self.import = import;
            if result.is_err() {
                break;
            }
            self.staged_top = self.staged_top.max(Some(m.uid));
        }
        // Only what stands below everything that is still to come can become visible.
        let ready = self.import.staged >= BATCH && self.pending.first().is_none_or(|next| self.staged_top < Some(*next));
        if result.is_ok() && ready && !outcome.rebuild {
            let mut import = std::mem::take(&mut self.import);
            result = self.carry().commit(&mut import);
            self.import = import;
        }
        self.outcome = Some(outcome);
        Ok(result?)
    }

    /// All mails are here.
    fn finish_import(&mut self) -> Result<()> {
        let (Some(outcome), Some(theirs)) = (self.outcome.take(), self.theirs.take()) else { return Ok(()) };
        let missing = self.by_guid.values().chain(self.by_uid.values()).flatten().copied().collect::<Vec<_>>();
        if let Some(m) = missing.first().map(|&n| &outcome.mails[n]) {
            let text = format!("Mailbox {}: Remote didn't send mail UID={}", self.s.name, self.peer_uid(m).unwrap_or(m.uid));
            self.outcome = Some(outcome);
            return Err(mail::Error::new(Class::Temporary, text).into());
        }
        let mut import = std::mem::take(&mut self.import);
        let result = self.carry_out(&outcome, &theirs, &mut import);
        self.import = import;
        result
    }

    fn carry_out(&mut self, outcome: &Outcome, theirs: &Theirs, import: &mut Import<'static>) -> Result<()> {
        let copies = std::mem::take(&mut self.copies);
        for (from, to) in copies {
            if let Some(m) = outcome.mails.iter().find(|m| m.uid == to && self.own_uid(m).is_none()) {
                self.carry().stage_instance(from, m, import, Original::Keep)?;
            }
        }
        let held = {
            let sides = (&self.own.facts, &theirs.known.facts);
            let ranges = held_back(self.s.side, self.s.options.mode, sides, outcome, &import.unreadable);
            let here = |uid: &Uid| self.own.facts.item(*uid).is_none();
            with_uids(ranges, self.own.claims.keys().copied().filter(here))
        };
        let facts = self.own.facts.clone();
        if outcome.rebuild {
            self.carry().rebuild(&facts, &theirs.known.facts, outcome, import)?;
            self.s.mailbox.hold_back(&held)?;
        } else {
            for m in &outcome.mails {
                if let Some(from) = self.own_uid(m).filter(|from| *from != m.uid) {
                    self.carry().stage_move(from, m, import)?;
                }
            }
            self.carry().commit(import)?;
            self.carry().edit(&facts, outcome)?;
            let two_way = self.s.options.mode == Mode::TwoWay;
            let complete = self.s.options.filter.is_empty() || !two_way;
            self.s.mailbox.hold_back(&held)?;
            self.s.mailbox.raise(&Floors {
                uid_next: complete.then_some(outcome.uid_next),
                first_recent: complete.then_some(outcome.first_recent),
                highest_modseq: if two_way { self.peer_status.highest_modseq } else { ModSeq(0) },
            })?;
        }
        self.s.mailbox.refresh()?;
        if import.surprised {
            self.ended.desync = Some("UIDs changed due to UID conflicts".into());
            self.last_common_after = self.status.identity.uid_next.get() - 1;
        }
        Ok(())
    }

    /// The own S.
    fn state(&self) -> StateItem {
        let status = self.s.mailbox.status();
        let resync = self.ended.full_resync;
        let disturbed = self.ended.desync.is_some();
        let modseqs = if self.receives && !disturbed { self.peer_status } else { self.status };
        StateItem {
            guid: self.s.own.guid,
            uidvalidity: if resync { 0 } else { status.identity.uidvalidity.get() },
            last_common_uid: self.last_common_after,
            modseq: modseqs.highest_modseq.0,
            private_modseq: modseqs.highest_private_modseq.0,
            messages: Some(if self.receives { status.messages } else { self.status.messages }),
            changes: resync || disturbed,
        }
    }

    fn end(mut self) -> Ended {
        if let (Some(own), Some(theirs)) = (self.own_state, self.their_state) {
            // Of a mailbox that was made in this run the common modseq is that of its beginning, to which its log often does not
            // reach back (a Dovecot says so by ending with 2): the next run begins anew there, as after a mailbox was skipped.
            let made = |b: &MailboxItem| b.messages == 0 && b.uid_next == 1;
            let made_now = made(&self.s.own) != made(&self.s.peer);
            let own = if made_now { StateItem { last_common_uid: 0, modseq: 0, private_modseq: 0, ..own } } else { own };
            self.ended.state = Some(MailboxState {
                uidvalidity: mail::UidValidity::new(self.s.own.uidvalidity),
                last_common: Uid::new(own.last_common_uid.min(theirs.last_common_uid)),
                modseq: ModSeq(own.modseq.min(theirs.modseq)),
                private_modseq: ModSeq(own.private_modseq.min(theirs.private_modseq)),
                messages: own.messages.unwrap_or(0),
            });
            if theirs.changes {
                self.ended.desync.get_or_insert_with(|| "Remote notified that changes happened during sync".into());
                self.ended.full_resync |= theirs.uidvalidity == 0;
            }
        }
        self.ended
    }
}

/// The ranges with these UIDs in them as well.
fn with_uids(ranges: Vec<(Uid, Uid)>, more: impl Iterator<Item = Uid>) -> Vec<(Uid, Uid)> {
    let mut all: Vec<(Uid, Uid)> = ranges.into_iter().chain(more.map(|u| (u, u))).collect();
    all.sort_unstable();
    let mut out: Vec<(Uid, Uid)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match out.last_mut() {
            Some((_, end)) if first <= end.next() => *end = last.max(*end),
            _ => out.push((first, last)),
        }
    }
    out
}
