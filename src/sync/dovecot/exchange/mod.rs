//! The lists of one mailbox (wire.md 5.4): both directions at once, neither waiting for more than the gates ask for.
//!
//! What a side sends: attributes, changes, requests, mails, its state; a source no requests, a destination nothing but
//! requests and its state.

mod receive;
mod send;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;

use super::Settings;
use super::decide;
use super::view::{Identity, Own, Theirs, Wanted, timestamp};
use crate::mail::{
    self, Attribute, AttributeChange, AttributeKey, Class, Floors, MailGuid, Mailbox, MailboxName, ModSeq, Original, Status,
    Store, Uid, union_of_uids,
};
use crate::sync::at_hand::AtHand;
use crate::sync::budget::Budget;
use crate::sync::carry::{Carry, Import, held_back, hold_back, own_uid};
use crate::sync::merge::{self, Context, Merged, Missing, Outcome};
use crate::sync::message::{Attributes, KnownMail, MailText};
use crate::sync::round::{RoundError, RoundReport};
use crate::sync::tree::Side;
use crate::sync::{MailboxState, Mode, Options, Source, attributes, facts};
use crate::wire::{
    Ahead, AttributeItem, Change, ChangeType, Conn, ConnError, Error, Event, Item, MailItem, MailboxItem, Request, Spool,
    StateItem, Wait,
};

/// Mails that are committed together.
const BATCH: usize = 1000;
/// A part of a mail text.
const PART: usize = 64 << 10;
/// Attributes longer than this are refused.
const ATTRIBUTE: u64 = 16 << 20;
/// Attributes that are longer travel as streams.
const INLINE: usize = 4096;
/// Mails that nobody has asked for are passed over, but not without end.
const UNWANTED: u32 = 1000;

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
    pub at_hand: &'a mut AtHand,
    /// What is collected from the other side.
    pub budget: &'a mut Budget,
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
    /// What UIDs are told higher by.
    shift: u32,
    requested: Vec<Uid>,
    next_requested: usize,
    body: Option<Box<dyn Read + Send>>,
    buffer: Vec<u8>,
    // What is received.
    receiving: Phase,
    incoming: Option<Incoming>,
    their_attributes: Vec<(Attribute, Option<ModSeq>, bool)>,
    their_changes: Vec<Change>,
    last_uid: u32,
    theirs: Option<Theirs>,
    outcome: Option<Outcome>,
    copies: Vec<(Uid, Uid)>,
    /// Mails of the outcome whose texts are in another mailbox of this side.
    known: Vec<(usize, MailGuid)>,
    by_guid: HashMap<Vec<u8>, Vec<usize>>,
    by_uid: HashMap<u32, Vec<usize>>,
    requests: Vec<Request>,
    /// How many mails have come that were not asked for.
    unwanted: u32,
    pending: BTreeSet<Uid>,
    staged_top: Option<Uid>,
    import: Import,
    /// What was decided has been done to the own side.
    imported: bool,
    /// Own mails that the other side does not have yet, and that stand below others that both will have.
    exposed: Vec<Uid>,
    /// Own mails that get another UID in this exchange.
    moves: HashMap<Uid, Uid>,
    /// Own mails that were asked for and could not be given.
    withheld: Vec<Uid>,
    /// Own mails that could not be given in an earlier run: they look expunged over there, and stay here.
    kept: Vec<Uid>,
    /// UIDs from here on are nobody's.
    beyond: Uid,
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
        let refill = s.settings.refill && s.peer.messages == 0;
        let shift = if refill { s.peer.uid_next.saturating_sub(1) } else { 0 };
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
        let attributes = match s.store.attributes(s.name, s.own.guid) {
            Ok(present) => present.map(|present| Attributes { present, changes: log_attributes }),
            // A side without a dictionary has nothing to say.
            Err(e) if e.class() == Class::NotPossible => None,
            Err(e) => return Err(e.at(format!("Mailbox {}: Failed to get attributes", s.name)).into()),
        };
        let with_attributes = s.conn.peer().minor() >= 1;
        if sends && with_attributes {
            send::attributes(s.conn, attributes.as_ref(), last_common.is_some());
        }
        // Without a state what comes next is a mail, if there is one.
        if sends && last_common.is_none() && s.options.filter.is_empty() && !s.mailbox.list().is_empty() {
            s.conn.work(Ahead::change());
        }
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
        let status = s.mailbox.status();
        let peer_status = super::view::status(&s.peer).ok_or_else(|| Error::Value {
            kind: "mailbox",
            column: "uid_validity",
            value: s.peer.uidvalidity.to_string(),
        })?;
        let hold_changes = receives && sends && (own.guids_missing(last_common) || !own.facts.held_back.is_empty());
        Ok(Self {
            sends,
            receives,
            last_common,
            status,
            peer_status,
            own,
            attributes,
            sending: if sends { Phase::Changes } else { Phase::Requests },
            told: None,
            next_told: 0,
            hold_changes,
            shift,
            requested: Vec::new(),
            next_requested: 0,
            body: None,
            buffer: Vec::new(),
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
            known: Vec::new(),
            by_guid: HashMap::new(),
            by_uid: HashMap::new(),
            requests: Vec::new(),
            unwanted: 0,
            pending: BTreeSet::new(),
            staged_top: None,
            import: Import::new(status.identity.uid_next),
            imported: false,
            exposed: Vec::new(),
            moves: HashMap::new(),
            withheld: Vec::new(),
            kept: Vec::new(),
            beyond: status.identity.uid_next,
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
        if result.is_err() && self.is_below_the_rest() && self.outcome.as_ref().is_some_and(|o| !o.rebuild) {
            // What has arrived whole stays. What stands above a mail that has not would make it look expunged.
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
        if result.is_ok() {
            let withheld: Vec<Uid> = self.withheld.iter().map(|&uid| self.now_at(uid)).collect();
            let held = self.s.mailbox.held_back();
            self.s.mailbox.hold_back(&with_uids(held, withheld))?;
        }
        if !self.exposed.is_empty()
            && let Err(e) = self.save_the_exposed()
        {
            tracing::error!("Mailbox {}: {e}", self.s.name);
        }
        result?;
        Ok(self.end())
    }

    /// Where an own mail is after the import.
    fn now_at(&self, uid: Uid) -> Uid {
        self.moves.get(&uid).copied().filter(|_| self.imported).unwrap_or(uid)
    }

    /// Those of the kept mails that can be read now: under new UIDs they are new, and go the next time.
    fn kept_and_readable(&mut self) -> Vec<Uid> {
        let mut out = Vec::new();
        for uid in self.kept.clone() {
            if self.withheld.contains(&uid) {
                continue;
            }
            let at = self.now_at(uid);
            match self.carry().text(at).and_then(|text| self.readable(text.body)) {
                Ok(_) => out.push(uid),
                Err(e) => self.carry().bad(at, e),
            }
        }
        out
    }

    /// A Dovecot that is cut off moves its own mails to their new UIDs and leaves out what had not come: in the next run these
    /// mails of ours would look expunged over there, and be expunged here. Under new UIDs they are new.
    fn save_the_exposed(&mut self) -> mail::Result<()> {
        // What is staged in the other handle stays out of this.
        let mut mailbox = self.s.store.open(self.s.name)?;
        mailbox.refresh()?;
        let uid_next = mailbox.status().identity.uid_next;
        let (mails, held) = (mailbox.list(), mailbox.held_back());
        let exposed: Vec<Uid> = self.exposed.iter().map(|&uid| self.now_at(uid)).collect();
        let mut import = Import::new(uid_next);
        let mut carry = Carry {
            side: self.s.side,
            placement: self.s.options.placement,
            mailbox: &mut *mailbox,
            name: self.s.name,
            report: self.s.report,
        };
        let mut uid = self.beyond.max(uid_next);
        let done = (|| {
            for from in exposed {
                let Some(at) = mails.position(from) else { continue };
                let mail::Mail { flags, keywords, modseq, .. } = mails.mail(at);
                let m = Merged { uid, master: None, slave: None, flags, keywords, modseq, copied: true, renewed: false };
                carry.stage_move(from, &m, &mut import)?;
                uid = uid.next();
            }
            carry.commit(&mut import)?;
            // What the commit has held back is there now.
            Ok(carry.mailbox.hold_back(&with_uids(held, import.stuck))?)
        })();
        match done {
            Ok(()) => Ok(()),
            Err(RoundError::Own(e) | RoundError::End(e)) => Err(e),
            Err(RoundError::Peer(f)) => Err(mail::Error::new(f.class, f.text)),
        }
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

    /// The own S.
    fn state(&self) -> StateItem {
        let status = self.s.mailbox.status();
        let resync = self.ended.full_resync;
        let disturbed = self.ended.desync.is_some();
        let modseqs = if self.receives && !disturbed { self.peer_status } else { self.status };
        StateItem {
            guid: self.s.own.guid,
            uidvalidity: if resync { 0 } else { status.identity.uidvalidity.get() },
            last_common_uid: self.last_common_after.saturating_add(self.shift),
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
fn with_uids(ranges: Vec<(Uid, Uid)>, more: impl IntoIterator<Item = Uid>) -> Vec<(Uid, Uid)> {
    union_of_uids(ranges.into_iter().chain(more.into_iter().map(|u| (u, u))))
}
