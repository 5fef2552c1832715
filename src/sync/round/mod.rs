//! One mailbox, both sides: offers, facts, the decision, and what this side does about it.
//!
//! A mailbox takes one round, and another one only where the first did not end with equal sides because somebody else was
//! at work too. Order of writes on a side: identity; saves and renumberings in batches of ascending UIDs; then flags and
//! expunges; counters last, when everything before has succeeded. A stop in between leaves a valid mailbox with a part of
//! the new mails, which the next run finds by UID and GUID.

mod exchange;
mod look;
mod together;

use std::collections::HashSet;
use std::sync::Arc;

pub use self::together::{Entrant, run};
use super::at_hand::AtHand;
use super::carry::{Carry, Import, Step, held_back, hold_back, own_uid, still_needed};
use super::facts::{self, BadMail};
use super::flow::Turn;
use super::last_copy::LastCopies;
use super::merge::{self, Facts, Item, NewGuids, Outcome};
use super::message::{Failure, LinkError, Offer, RoundEnd};
use super::report::Counts;
use super::tree::Side;
use super::{Algorithm, MailboxState, Mode, Options, Source};
use crate::mail::{self, Class, Floors, Guid128, Mailbox, MailboxName, ModSeq, Uid};
use crate::os::stop::Stop;

/// Rounds for a mailbox that others keep changing.
const ROUNDS: u32 = 5;

/// That of a mailbox whose mails were not summed up.
const NO_DIGEST: [u8; 20] = [0; 20];

/// Why a round ended early.
#[derive(Debug)]
pub enum RoundError {
    /// This side cannot go on with the mailbox.
    Own(mail::Error),
    /// The other side cannot.
    Peer(Failure),
    /// There is no other side any more, or a signal came: the run ends.
    End(mail::Error),
}

impl From<mail::Error> for RoundError {
    fn from(e: mail::Error) -> Self {
        Self::Own(e)
    }
}

impl From<LinkError> for RoundError {
    fn from(e: LinkError) -> Self {
        Self::End(mail::Error::new(Class::Temporary, e))
    }
}

type Result<T> = std::result::Result<T, RoundError>;

/// How a mailbox ended.
#[derive(Debug, Default)]
pub struct RoundReport {
    /// What was done to the own side.
    pub done: Counts,
    /// Own mails that cannot be read.
    pub bad: Vec<BadMail>,
    /// The two sides' knowledge for the state string.
    pub state: Option<MailboxState>,
    /// The sides still differ, because others kept changing them.
    pub unsettled: bool,
    /// Why this side has given it up.
    pub failed: Option<mail::Error>,
}

/// What a side knows before it has looked at the mailbox.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// Which side it is.
    pub side: Side,
    /// What was asked for.
    pub options: &'a Options,
    /// The mailbox's entry in the saved state.
    pub saved: Option<MailboxState>,
    /// Equal counters and digests prove nothing: its identity was given in this run.
    pub fresh: bool,
    /// The two mailboxes have just become one.
    pub unified: bool,
    /// The user wants to stop.
    pub stop: &'a Stop,
}

/// The GUIDs that one look at a mailbox has shown.
pub struct Look {
    view: Option<u64>,
    /// In the order of the view.
    pub guids: facts::Guids,
}

impl Look {
    /// Reads all GUIDs.
    pub fn of(mailbox: &mut dyn Mailbox) -> Self {
        let guids = facts::guids(mailbox);
        Self { view: mailbox.view_number(), guids }
    }

    /// As it is now; what has not changed is not read again.
    fn again(self, mailbox: &mut dyn Mailbox) -> Self {
        if self.view.is_some() && self.view == mailbox.view_number() { self } else { Self::of(mailbox) }
    }
}

/// One mailbox on its way.
pub struct Round<'a> {
    /// What is known of it.
    pub start: Start<'a>,
    /// The own mailbox.
    pub mailbox: Box<dyn Mailbox>,
    /// An earlier look at it, which holds if nothing has changed.
    pub look: Option<Look>,
    /// What was known in the round before.
    pub before: Option<Arc<Facts>>,
    /// All mails of then, where the facts were partial.
    pub seen: Option<facts::Guids>,
    /// Its name, for messages.
    pub name: &'a MailboxName,
    /// What came of it.
    pub report: RoundReport,
}

impl Start<'_> {
    fn is_source(&self) -> bool {
        self.options.mode.is_source(self.side)
    }

    /// After a run without disturbance both sides have the same mails.
    const fn should_match(&self) -> bool {
        !matches!(self.options.mode, Mode::OneWay(_))
    }

    /// Both sides are as they shall be. Both come to the same answer.
    pub fn nothing_to_do(&self, a: &Offer, b: &Offer) -> bool {
        let equal = a.status.identity == b.status.identity
            && a.status.messages == b.status.messages
            && a.digest == b.digest
            && a.digest != NO_DIGEST;
        if equal && !a.doubtful && !b.doubtful {
            return true;
        }
        // A state proves that a side has not changed; it takes both sides' counters to prove that nothing has to be done.
        let unchanged = |o: &Offer, s: &MailboxState| {
            s.uidvalidity == Some(o.status.identity.uidvalidity)
                && s.last_common.map(Uid::next) == Some(o.status.identity.uid_next)
                && s.modseq == o.status.highest_modseq
                && s.messages == o.status.messages
                && o.capabilities.keeps_modseqs
        };
        !self.fresh
            && matches!(self.options.algorithm, Algorithm::State(_))
            && !a.doubtful
            && !b.doubtful
            && self.saved.as_ref().is_some_and(|s| unchanged(a, s) && unchanged(b, s))
    }

    /// The saved state is one of this mailbox: whether it has changed is told by its counters, and what has by its log.
    pub fn has_state(&self, own: &mail::Status) -> bool {
        let fits = |s: &MailboxState| s.uidvalidity == Some(own.identity.uidvalidity) && s.modseq != ModSeq(0);
        !self.fresh && matches!(self.options.algorithm, Algorithm::State(_)) && self.saved.as_ref().is_some_and(fits)
    }

    /// What this side has to raise to be level with the other one.
    pub fn floors(&self, own: mail::Status, peer: mail::Status) -> Floors {
        if self.is_source() || matches!(self.options.mode, Mode::OneWay(_)) {
            return Floors::default();
        }
        Floors {
            uid_next: None,
            first_recent: (peer.first_recent > own.first_recent && peer.first_recent <= own.identity.uid_next)
                .then_some(peer.first_recent),
            highest_modseq: if peer.highest_modseq > own.highest_modseq { peer.highest_modseq } else { ModSeq(0) },
        }
    }

    /// What the state string says of a mailbox in which nothing was to be done.
    pub fn state_of(&self, own: &Offer, peer: &Offer) -> MailboxState {
        let (a, b) = (own.status, peer.status);
        MailboxState {
            uidvalidity: Some(a.identity.uidvalidity),
            last_common: previous(a.identity.uid_next.min(b.identity.uid_next)),
            modseq: self.common_modseq(a, b),
            private_modseq: a.highest_private_modseq.min(b.highest_private_modseq),
            messages: a.messages,
        }
    }

    fn state_after(&self, decided: &Decided, own: &RoundEnd, peer: &RoundEnd) -> MailboxState {
        let (a, b) = (own.status, peer.status);
        let undisturbed = own.digest == peer.digest && !own.surprised && !peer.surprised;
        // Where others were at work, only what was known at the start is known to be exchanged.
        let modseq = if undisturbed {
            self.common_modseq(a, b)
        } else {
            decided.own.status.highest_modseq.min(decided.peer.status.highest_modseq)
        };
        MailboxState {
            uidvalidity: Some(a.identity.uidvalidity),
            last_common: previous(decided.outcome.uid_next.min(a.identity.uid_next).min(b.identity.uid_next)),
            modseq,
            private_modseq: a.highest_private_modseq.min(b.highest_private_modseq),
            messages: a.messages,
        }
    }

    /// Both sides' modseq once the lower one is raised; the lower one where it is not.
    fn common_modseq(&self, a: mail::Status, b: mail::Status) -> ModSeq {
        if self.options.mode == Mode::TwoWay {
            a.highest_modseq.max(b.highest_modseq)
        } else {
            a.highest_modseq.min(b.highest_modseq)
        }
    }
}

/// Both sides' facts, and what has to be asked before anything can be decided.
pub struct Common {
    own: Arc<Facts>,
    peer: Arc<Facts>,
    found: Asked,
    /// What the other side needs to know: the full GUIDs of own mails in question.
    guids: NewGuids,
}

enum Asked {
    /// A backup: mails of the source that could not be read in an earlier run.
    Doubtful(Vec<Uid>),
    /// Otherwise: mails that only one side has.
    New(merge::Common),
}

/// What shall be, and what was.
pub struct Decided {
    own: Arc<Facts>,
    peer: Arc<Facts>,
    outcome: Outcome,
    /// Mails whose texts the other side has elsewhere.
    there: HashSet<Uid>,
}

impl<'a> Round<'a> {
    /// Of a mailbox at which nobody has looked in this round. `look` is an earlier one.
    pub fn new(start: Start<'a>, mailbox: Box<dyn Mailbox>, look: Option<Look>, name: &'a MailboxName) -> Self {
        Self { start, mailbox, look, before: None, seen: None, name, report: RoundReport::default() }
    }
}

impl Round<'_> {
    fn check_stop(&self) -> Result<()> {
        match self.start.stop.requested() {
            None => Ok(()),
            Some(signal) => Err(RoundError::End(mail::Error::new(Class::Temporary, format!("Killed with signal {signal}")))),
        }
    }

    fn is_source(&self) -> bool {
        self.start.is_source()
    }

    const fn mode(&self) -> Mode {
        self.start.options.mode
    }

    /// Finds what both sides have.
    fn compare(&self, own: Arc<Facts>, peer: Arc<Facts>) -> Common {
        let (master, slave) = self.in_order(&own, &peer);
        let found = match self.mode() {
            Mode::Backup(Source::Master) => Asked::Doubtful(merge::once_held_back(master, slave)),
            Mode::Backup(Source::Slave) => Asked::Doubtful(merge::once_held_back(slave, master)),
            _ => Asked::New(merge::find_common(master, slave, &self.context(&own, &peer))),
        };
        Common { own, peer, found, guids: NewGuids::new() }
    }

    /// The master's facts first.
    fn in_order<'f>(&self, own: &'f Facts, peer: &'f Facts) -> (&'f Facts, &'f Facts) {
        if self.start.side == Side::Master { (own, peer) } else { (peer, own) }
    }

    /// The full GUIDs of own mails in question.
    fn guids(&mut self, Common { own, peer, found, .. }: &Common) -> NewGuids {
        let common = match found {
            Asked::Doubtful(doubtful) if self.is_source() => {
                return doubtful.iter().map(|&uid| self.guid_if_readable(uid, true)).collect();
            }
            Asked::Doubtful(_) => return NewGuids::new(),
            Asked::New(common) => common,
        };
        let (new, _) = common.of(self.start.side);
        let (master, slave) = self.in_order(own, peer);
        let doubtful = new.iter().any(|&i| peer.never_had(own.items[i].uid));
        let in_both = if doubtful { common.in_both(master, slave) } else { HashSet::new() };
        let mut guids = NewGuids::with_capacity(new.len());
        for &i in new {
            let uid = own.items[i].uid;
            // A mail that could not be read in an earlier run would have to make room for those that came after it. It does so
            // only when it can be read now, or need not be because the other side has it.
            let is_there = own.items[i].guid.is_some_and(|g| in_both.contains(&g));
            let was_held = !own.items[i].filtered && peer.never_had(uid) && !is_there;
            guids.push(self.guid_if_readable(uid, was_held));
        }
        guids
    }

    /// Lets the last copies of mails stay that were to go. Gives those of them that are safe when the round has succeeded.
    fn keep_last(&self, asked: &mut together::Asked, last: &LastCopies) -> Vec<usize> {
        let Common { own, peer, found: Asked::New(found), guids } = &mut asked.common else { return Vec::new() };
        if last.is_empty() {
            return Vec::new();
        }
        let side = self.start.side;
        let source = match self.mode() {
            Mode::OneWay(source) => Some(source.side()),
            _ => None,
        };
        let facts = |of: Side| if of == side { &*own } else { &*peer };
        let going = [Side::Master, Side::Slave].into_iter().flat_map(|of| found.of(of).1.iter().map(move |&n| (of, n)));
        let going: Vec<(Side, Uid)> = going.map(|(of, n)| (of, facts(of).items[n].uid)).collect();
        let mut spared = Vec::new();
        for (at, of, uid, guid) in last.spare(own.status.identity.guid, &going, source) {
            let Ok(item) = facts(of).items.binary_search_by_key(&uid, |i| i.uid) else { continue };
            if source.is_some_and(|source| source != of) {
                found.kept.push(item);
            } else if let Some(place) = found.renew(of, item) {
                let guids = if of == side { &mut *guids } else { &mut asked.theirs };
                guids.insert(place.min(guids.len()), Some(guid));
            }
            if side == Side::Master {
                tracing::info!("Mailbox {}: UID {uid} stays: it is the last copy", self.name);
            }
            spared.push(at);
        }
        spared
    }

    /// All that is known of the own side, before anything is locked.
    ///
    /// # Errors
    /// As [`Mailbox::changes`].
    pub fn glance(&mut self) -> mail::Result<Arc<Facts>> {
        self.begin(false, false)
    }

    /// What would go: the master's mails, the slave's.
    pub fn would_go(&self, own: Arc<Facts>, peer: Arc<Facts>) -> [Vec<Uid>; 2] {
        let common = self.compare(own, peer);
        let Asked::New(found) = &common.found else { return Default::default() };
        [Side::Master, Side::Slave].map(|side| {
            let facts = if side == self.start.side { &common.own } else { &common.peer };
            found.of(side).1.iter().map(|&n| facts.items[n].uid).collect()
        })
    }

    /// What shall be.
    fn decide(&self, common: Common, theirs: &NewGuids, there: Vec<Guid128>) -> Decided {
        let Common { own, peer, found, guids } = common;
        let is_master = self.start.side == Side::Master;
        let (master, slave) = self.in_order(&own, &peer);
        let outcome = match (found, self.mode()) {
            (Asked::Doubtful(doubtful), mode) => {
                let guids = if self.is_source() { &guids } else { theirs };
                let missing = |n: usize| guids.get(n).is_none_or(Option::is_none);
                let unreadable = doubtful.iter().enumerate().filter(|(n, _)| missing(*n)).map(|(_, &uid)| uid).collect();
                merge::backup(master, slave, mode == Mode::Backup(Source::Master), &unreadable)
            }
            (Asked::New(common), mode) => {
                let guids = if is_master { (&guids, theirs) } else { (theirs, &guids) };
                match mode {
                    Mode::OneWay(s) => merge::one_way(master, slave, &common, guids, s == Source::Master),
                    _ => merge::two_way(master, slave, &common, guids),
                }
            }
        };
        // What goes as it is known to be there already, by its UID.
        let there: HashSet<Guid128> = there.into_iter().collect();
        let is_there = |i: &&Item| i.guid.is_some_and(|g| there.contains(&g));
        let there = if there.is_empty() { HashSet::new() } else { own.items.iter().filter(is_there).map(|i| i.uid).collect() };
        // In a large mailbox the facts are much: what is not needed any more goes before the mails come.
        let peer = Arc::new(still_needed(self.mode(), &own, &peer));
        let own = if self.is_source() { Arc::new(own.without_items()) } else { own };
        Decided { own, peer, outcome, there }
    }

    /// The GUID of a mail; none if that, or the text where it is asked for too, cannot be read.
    fn guid_if_readable(&mut self, uid: Uid, text_too: bool) -> Option<mail::MailGuid> {
        let guid = self.mailbox.guid(uid).and_then(|guid| {
            if text_too {
                self.mailbox.body(uid)?;
            }
            Ok(guid)
        });
        guid.map_err(|e| self.carry().bad(uid, e)).ok()
    }

    fn carry(&mut self) -> Carry<'_> {
        Carry {
            side: self.start.side,
            placement: self.start.options.placement,
            mailbox: &mut *self.mailbox,
            name: self.name,
            report: &mut self.report,
        }
    }

    fn held_back(&self, Decided { own, peer, outcome, .. }: &Decided, import: &Import) -> Vec<(Uid, Uid)> {
        held_back(self.start.side, self.mode(), (own, peer), outcome, import)
    }

    /// Makes the own side what was decided, and gives the other side what it lacks.
    fn carry_out(&mut self, decided: &mut Decided, turn: &mut Turn<'_, '_>, at_hand: &mut AtHand) -> Result<RoundEnd> {
        let before = self.report.done;
        let partial = decided.own.partial;
        if partial && let Some(look) = self.look.take() {
            // What an expunge in the log was about must be known in another round, too.
            self.seen = Some(look.guids);
        }
        let surprised = self.make_true(decided, turn, at_hand)?;
        decided.outcome.mails = Vec::new();
        decided.own = Arc::new(decided.own.without_items());
        let acted = self.report.done != before;
        if surprised {
            self.mailbox.refresh()?;
        } else if acted {
            self.mailbox.renew()?;
        }
        // With partial facts nobody has looked at the other mails yet.
        let guids = partial.then(|| facts::guids(&mut *self.mailbox));
        let digest = facts::digest(&*self.mailbox.list(), guids.as_ref());
        Ok(RoundEnd { status: self.mailbox.status(), digest, acted, surprised })
    }

    /// Says whether something came out differently.
    fn make_true(&mut self, decided: &mut Decided, turn: &mut Turn<'_, '_>, at_hand: &mut AtHand) -> Result<bool> {
        let Decided { own, outcome, .. } = &*decided;
        let (side, peers_side) = (self.start.side, self.start.side.other());
        let receives = !self.is_source();
        let sends: Vec<Uid> = if self.mode() == Mode::TwoWay || !receives {
            outcome
                .mails
                .iter()
                .filter(|m| m.copied && own_uid(peers_side, m).is_none())
                .filter_map(|m| own_uid(side, m))
                .collect()
        } else {
            Vec::new()
        };
        let mut import = Import { rebuild: outcome.rebuild, ..Import::new(own.status.identity.uid_next) };
        if receives {
            let identity = self.mailbox.status().identity;
            let rebuild = outcome.rebuild;
            if !rebuild && identity.uidvalidity != outcome.uidvalidity {
                self.mailbox.set_identity(identity.guid, outcome.uidvalidity)?;
                self.report.done.identity += 1;
            }
        } else {
            decided.outcome.mails = Vec::new();
        }
        let decided = &*decided;
        let Decided { own, peer, outcome, .. } = decided;
        let rebuild = outcome.rebuild;
        let steps = outcome.mails.iter().filter_map(|m| match own_uid(side, m) {
            None if m.copied && own_uid(peers_side, m).is_some() => Some(Step::Fetch(m)),
            Some(u) if u != m.uid && !rebuild => Some(Step::Move(u, m)),
            _ => None,
        });
        self.mailbox.expect(steps.clone().count());
        self.exchange(sends, steps, &mut import, decided, (turn, at_hand))?;
        if !receives {
            return Ok(false);
        }
        let held = self.held_back(decided, &import);
        if outcome.rebuild {
            // Before, for a stop in between; a mail that is there is no less there for being held back.
            hold_back(&mut *self.mailbox, &held, self.start.options)?;
            self.carry().rebuild(own, peer, outcome, &import)?;
            return Ok(false);
        }
        self.carry().edit(own, outcome, &import)?;
        let complete = self.start.options.filter.is_empty() || self.mode() != Mode::TwoWay;
        hold_back(&mut *self.mailbox, &held, self.start.options)?;
        self.mailbox.raise(&Floors {
            uid_next: complete.then_some(outcome.uid_next),
            first_recent: complete.then_some(outcome.first_recent),
            highest_modseq: ModSeq(0),
        })?;
        Ok(import.surprised)
    }

    /// Both sides have done their part. Says whether another round is needed, because somebody else was at work, too: both
    /// sides come to the same answer.
    fn is_unsettled(&mut self, decided: &Decided, own: &RoundEnd, peer: &RoundEnd) -> bool {
        if self.start.should_match() {
            self.report.state = Some(self.start.state_after(decided, own, peer));
        }
        let differ = own.surprised || peer.surprised || self.start.should_match() && own.digest != peer.digest;
        self.report.unsettled = differ && (own.acted || peer.acted || decided.own.partial);
        self.report.unsettled
    }

    /// Brings the counters to the same height.
    fn level(&mut self, own: &RoundEnd, peer: &RoundEnd) -> Result<()> {
        let floors = self.start.floors(own.status, peer.status);
        if floors != Floors::default() {
            self.mailbox.raise(&floors)?;
        }
        if self.report.done != Counts::default() {
            self.mailbox.tidy();
        }
        Ok(())
    }
}

fn previous(uid: Uid) -> Option<Uid> {
    Uid::new(uid.get() - 1)
}

/// The own side of a mailbox, as the other side gets to see it.
pub fn offer(mailbox: &dyn Mailbox, guids: &facts::Guids, start: &Start<'_>) -> Offer {
    let status = mailbox.status();
    let digest = || facts::digest(&*mailbox.list(), Some(guids));
    Offer {
        guid: status.identity.guid,
        status,
        capabilities: mailbox.capabilities(),
        digest: if start.has_state(&status) { NO_DIGEST } else { digest() },
        doubtful: !guids.are_all_known(),
        attributes: None,
    }
}
