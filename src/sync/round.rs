//! One mailbox, both sides: offers, facts, the decision, and what this side does about it.
//!
//! A mailbox takes one round, and another one only where the first did not end with equal sides because somebody else was
//! at work too. Order of writes on a side: identity; saves and renumberings in batches of ascending UIDs; then flags and
//! expunges; counters last, when everything before has succeeded. A stop in between leaves a valid mailbox with a part of
//! the new mails, which the next run finds by UID and GUID.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::facts::{self, BadMail};
use super::merge::{self, Context, Facts, Item, Merged, Missing, NewGuids, Outcome};
use super::message::{Failure, Gone, Link, LinkError, MailText, Message, Offer, RoundEnd};
use super::report::Counts;
use super::tree::Side;
use super::{Algorithm, MailboxState, Mode, Options, Source};
use crate::mail::{
    self, Class, Edit, EditKind, Floors, Identity, Mailbox, MailboxName, ModSeq, NewMail, Original, Rebuild, RebuildFrom,
    RebuildMail, SaveError, Since, Uid,
};
use crate::os::stop::Stop;

/// Mails that are committed together: few flushes, and little to do again after a stop.
const BATCH: usize = 1000;
/// Mails that may be on their way: bounds open files.
const WINDOW: u32 = 64;
/// Rounds for a mailbox that others keep changing.
const ROUNDS: u32 = 5;

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
}

/// One mailbox on its way.
pub struct Round<'a, L: Link> {
    /// Which side this is.
    pub side: Side,
    /// What was asked for.
    pub options: &'a Options,
    /// The way to the other side.
    pub link: &'a mut L,
    /// The own mailbox.
    pub mailbox: &'a mut dyn Mailbox,
    /// Its name, for messages.
    pub name: &'a MailboxName,
    /// Its entry in the saved state.
    pub saved: Option<MailboxState>,
    /// Equal counters and digests prove nothing: its identity was given in this run.
    pub fresh: bool,
    /// The two mailboxes have just become one.
    pub unified: bool,
    /// The user wants to stop.
    pub stop: &'a Stop,
    /// What came of it.
    pub report: RoundReport,
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
    /// See [`Round::fresh`].
    pub fresh: bool,
}

impl Start<'_> {
    /// Nothing at all is to be done, at neither side. Both sides come to the same answer.
    pub fn is_settled(&self, own: &Offer, peer: &Offer) -> bool {
        let differ = own.attributes.zip(peer.attributes).is_some_and(|(a, b)| a != b);
        let peers_side = if self.side == Side::Master { Side::Slave } else { Side::Master };
        !differ
            && self.nothing_to_do(own, peer)
            && self.floors(self.side, own.status, peer.status) == Floors::default()
            && self.floors(peers_side, peer.status, own.status) == Floors::default()
    }

    fn nothing_to_do(&self, a: &Offer, b: &Offer) -> bool {
        let equal = a.status.identity == b.status.identity && a.status.messages == b.status.messages && a.digest == b.digest;
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

    /// What a side has to raise to be level with the other one.
    fn floors(&self, side: Side, own: mail::Status, peer: mail::Status) -> Floors {
        if self.options.mode.is_source(side) || matches!(self.options.mode, Mode::OneWay(_)) {
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

    /// Both sides' modseq once the lower one is raised; the lower one where it is not.
    fn common_modseq(&self, a: mail::Status, b: mail::Status) -> ModSeq {
        if self.options.mode == Mode::TwoWay {
            a.highest_modseq.max(b.highest_modseq)
        } else {
            a.highest_modseq.min(b.highest_modseq)
        }
    }
}

struct Sides<T> {
    own: T,
    peer: T,
}

impl<L: Link> Round<'_, L> {
    /// Carries the mailbox through. The first offer has been exchanged already.
    ///
    /// # Errors
    /// See [`RoundError`]; `Done` has been sent only if `self` says so.
    pub fn run(&mut self, mut offers: (Offer, Offer), mut guids: facts::Guids, sent_done: &mut bool) -> Result<()> {
        for round in 1.. {
            *sent_done = false;
            let sides = Sides { own: offers.0, peer: offers.1 };
            self.report.bad.append(&mut guids.bad);
            if self.start().nothing_to_do(&sides.own, &sides.peer) {
                // Nor for the other side: it goes on, whatever happens here.
                *sent_done = true;
                self.level(&sides)?;
                self.remember(&sides);
                return Ok(());
            }
            let own = Arc::new(self.facts(&guids)?);
            // They are in the facts now.
            guids.all = Vec::new();
            self.link.send(Message::Facts(Arc::clone(&own)))?;
            let peer = match self.recv_fact()? {
                Message::Facts(f) => f,
                other => return Err(unexpected(&other, "facts")),
            };
            let outcome = self.decide(&own, &peer)?;
            let before = self.report.done;
            let surprised = self.carry_out(&own, &peer, &outcome)?;
            let acted = self.report.done != before;
            let ends = self.end_round(acted, surprised, sent_done)?;
            let again = (ends.own.surprised || ends.peer.surprised || self.should_match() && ends.own.digest != ends.peer.digest)
                && (ends.own.acted || ends.peer.acted);
            self.remember_end(&sides, &ends, &outcome);
            if !again || round == ROUNDS {
                self.report.unsettled = again;
                return self.level_end(&ends);
            }
            self.report.bad.clear();
            // The other side waits for an offer now, whatever happens here, and sends one itself.
            let own = self.offer_again(&ends);
            let said = own.as_ref().map(|(offer, _)| Box::new(offer.clone())).map_err(Failure::from);
            self.link.send(Message::Offer(said))?;
            let peer = match self.recv_fact()? {
                Message::Offer(o) => o,
                other => return Err(unexpected(&other, "a mailbox")),
            };
            let (own, seen) = own.map_err(RoundError::Own)?;
            guids = seen;
            let peer = *peer.map_err(RoundError::Peer)?;
            offers = (own, peer);
            self.unified = false;
        }
        Ok(())
    }

    /// The own side once more, behind a round that has ended.
    fn offer_again(&mut self, ends: &Sides<RoundEnd>) -> mail::Result<(Offer, facts::Guids)> {
        self.raise_to(ends.own.status, ends.peer.status)?;
        self.mailbox.refresh()?;
        let guids = facts::guids(self.mailbox);
        Ok((offer(self.mailbox, &guids), guids))
    }

    fn recv(&mut self) -> Result<Message> {
        match self.link.recv()? {
            Message::Done(Err(f)) => Err(RoundError::Peer(f)),
            other => Ok(other),
        }
    }

    /// The next message that is not the rest of a finished exchange.
    fn recv_fact(&mut self) -> Result<Message> {
        loop {
            match self.recv()? {
                Message::Credit(_) => {}
                other => return Ok(other),
            }
        }
    }

    fn is_source(&self) -> bool {
        self.options.mode.is_source(self.side)
    }

    /// After a run without disturbance both sides have the same mails.
    fn should_match(&self) -> bool {
        !matches!(self.options.mode, Mode::OneWay(_))
    }

    const fn start(&self) -> Start<'_> {
        Start { side: self.side, options: self.options, saved: self.saved, fresh: self.fresh }
    }

    fn facts(&mut self, guids: &facts::Guids) -> Result<Facts> {
        let since = match (self.options.mode, &self.options.algorithm, self.saved) {
            (Mode::Backup(_), _, _) => None,
            (_, Algorithm::State(_), Some(s)) => Some(Since::State { modseq: s.modseq, uid: s.last_common }),
            _ => Some(Since::Everything),
        };
        Ok(facts::facts(self.mailbox, guids, since, &self.options.filter)?)
    }

    fn decide(&mut self, own: &Facts, peer: &Facts) -> Result<Outcome> {
        let (master, slave) = if self.side == Side::Master { (own, peer) } else { (peer, own) };
        let context = Context {
            last_common: self.saved.filter(|_| matches!(self.options.algorithm, Algorithm::State(_))).and_then(|s| {
                let fits = |f: &Facts| {
                    Some(f.status.identity.uidvalidity) == s.uidvalidity && s.last_common < Some(f.status.identity.uid_next)
                };
                (fits(own) && fits(peer)).then_some(s.last_common).flatten()
            }),
            missing: match self.options.mode {
                Mode::TwoWay if self.unified => Missing::IfKnown,
                Mode::TwoWay if self.options.filter.is_empty() => Missing::Expunged,
                Mode::TwoWay => Missing::IfLogged,
                Mode::OneWay(_) if !self.unified => Missing::IfProved,
                Mode::OneWay(_) | Mode::Backup(_) => Missing::IfKnown,
            },
        };
        if let Mode::Backup(s) = self.options.mode {
            let (source, dest) = if s == Source::Master { (master, slave) } else { (slave, master) };
            let doubtful = merge::once_held_back(source, dest);
            let unreadable = if doubtful.is_empty() { HashSet::new() } else { self.still_unreadable(&doubtful)? };
            return Ok(merge::backup(master, slave, s == Source::Master, &unreadable));
        }
        let common = merge::find_common(master, slave, &context);
        let new = if self.side == Side::Master { &common.new_master } else { &common.new_slave };
        let mut guids = NewGuids::with_capacity(new.len());
        for &i in new {
            let uid = own.items[i].uid;
            // A mail that could not be read in an earlier run would have to make room for those that came after it. It does so
            // only when it can be read now.
            let was_held = !own.items[i].filtered && peer.never_had(uid);
            guids.push(self.guid_if_readable(uid, was_held));
        }
        let theirs = self.exchange_guids(guids.clone())?;
        let guids = if self.side == Side::Master { (&guids, &theirs) } else { (&theirs, &guids) };
        Ok(match self.options.mode {
            Mode::OneWay(s) => merge::one_way(master, slave, &common, guids, s == Source::Master),
            _ => merge::two_way(master, slave, &common, guids),
        })
    }

    fn exchange_guids(&mut self, own: NewGuids) -> Result<NewGuids> {
        self.link.send(Message::Guids(own))?;
        match self.recv_fact()? {
            Message::Guids(g) => Ok(g),
            other => Err(unexpected(&other, "GUIDs")),
        }
    }

    /// The GUID of a mail; none if that, or the text where it is asked for too, cannot be read.
    fn guid_if_readable(&mut self, uid: Uid, text_too: bool) -> Option<mail::MailGuid> {
        let guid = self.mailbox.guid(uid).and_then(|guid| {
            if text_too {
                self.mailbox.body(uid)?;
            }
            Ok(guid)
        });
        guid.map_err(|e| self.bad(uid, e)).ok()
    }

    /// Which of these mails of a backup's source cannot be read now either. Both sides ask it of the same mails.
    fn still_unreadable(&mut self, doubtful: &[Uid]) -> Result<HashSet<Uid>> {
        let own = if self.is_source() {
            doubtful.iter().map(|&uid| self.guid_if_readable(uid, true)).collect()
        } else {
            NewGuids::new()
        };
        let theirs = self.exchange_guids(own.clone())?;
        let guids = if self.is_source() { own } else { theirs };
        let missing = |n: usize| guids.get(n).is_none_or(Option::is_none);
        Ok(doubtful.iter().enumerate().filter(|(n, _)| missing(*n)).map(|(_, &uid)| uid).collect())
    }

    fn bad(&mut self, uid: Uid, error: mail::Error) {
        if error.class() != Class::Expunged && !self.report.bad.iter().any(|b| b.uid == uid) {
            self.report.bad.push(BadMail { uid, error });
        }
    }

    fn own(&self, m: &Merged) -> Option<Uid> {
        if self.side == Side::Master { m.master } else { m.slave }
    }

    fn peers(&self, m: &Merged) -> Option<Uid> {
        if self.side == Side::Master { m.slave } else { m.master }
    }

    /// Makes the own side what was decided, and gives the other side what it lacks. Says whether something came out differently.
    fn carry_out(&mut self, own: &Facts, peer: &Facts, outcome: &Outcome) -> Result<bool> {
        let receives = !self.is_source();
        let sends: Vec<Uid> = if self.options.mode == Mode::TwoWay || !receives {
            outcome.mails.iter().filter(|m| m.copied && self.peers(m).is_none()).filter_map(|m| self.own(m)).collect()
        } else {
            Vec::new()
        };
        let mut import = Import { rebuild: outcome.rebuild, ..Import::default() };
        if receives {
            let identity = self.mailbox.status().identity;
            let rebuild = outcome.rebuild;
            if !rebuild && identity.uidvalidity != outcome.uidvalidity {
                self.mailbox.set_identity(identity.guid, outcome.uidvalidity)?;
                self.report.done.identity += 1;
            }
            for m in &outcome.mails {
                match self.own(m) {
                    None if m.copied && self.peers(m).is_some() => import.steps.push(Step::Fetch(m)),
                    Some(u) if u != m.uid && !rebuild => import.steps.push(Step::Move(u, m)),
                    _ => {}
                }
            }
        }
        self.exchange(&sends, &mut import, outcome)?;
        if !receives {
            return Ok(false);
        }
        let held = self.held_back(own, peer, outcome, &import);
        if outcome.rebuild {
            self.rebuild(own, peer, outcome, &import)?;
            self.mailbox.hold_back(&held)?;
            return Ok(false);
        }
        self.edit(own, outcome)?;
        let complete = self.options.filter.is_empty() || self.options.mode != Mode::TwoWay;
        self.mailbox.hold_back(&held)?;
        self.mailbox.raise(&Floors {
            uid_next: complete.then_some(outcome.uid_next),
            first_recent: complete.then_some(outcome.first_recent),
            highest_modseq: ModSeq(0),
        })?;
        Ok(import.surprised)
    }

    /// UIDs that the own side does not have although the other side does, for no fault of its users. Without this memory a
    /// later two-way run would take these mails for expunged.
    fn held_back(&self, own: &Facts, peer: &Facts, outcome: &Outcome, import: &Import<'_>) -> Vec<(Uid, Uid)> {
        let failed = |m: &&Merged| !m.copied || import.unreadable.contains(&m.uid);
        let two_way = self.options.mode == Mode::TwoWay;
        let of_mails = outcome.mails.iter().filter(|m| self.own(m).is_none()).filter(failed).map(|m| m.uid);
        // One way, what the source has and shall not or cannot give is not among the mails of the outcome.
        let kept_away = |i: &&Item| i.filtered || i.guid.is_none() || own.never_had(i.uid);
        let of_source = peer.items.iter().filter(|_| !two_way).filter(kept_away).map(|i| i.uid);
        let mut uids: Vec<Uid> = of_mails.chain(of_source).collect();
        if uids.is_empty() {
            return Vec::new();
        }
        let comes = |m: &Merged| self.own(m).is_some() || !two_way && !failed(&m);
        let here: HashSet<Uid> = outcome.mails.iter().filter(|m| comes(m)).map(|m| m.uid).collect();
        uids.retain(|u| !here.contains(u));
        uids.sort_unstable();
        uids.dedup();
        let mut ranges: Vec<(Uid, Uid)> = Vec::new();
        for uid in uids {
            match ranges.last_mut() {
                Some((_, last)) if last.next() == uid => *last = uid,
                _ => ranges.push((uid, uid)),
            }
        }
        ranges
    }

    fn exchange(&mut self, sends: &[Uid], import: &mut Import<'_>, outcome: &Outcome) -> Result<()> {
        let mut credit = WINDOW;
        let mut outgoing = sends.iter();
        let mut waiting = outgoing.next();
        let mut received = 0;
        let mut steps = std::mem::take(&mut import.steps).into_iter();
        let mut step = steps.next();
        loop {
            if let Some(signal) = self.stop.requested() {
                return Err(RoundError::End(mail::Error::new(Class::Temporary, format!("Killed with signal {signal}"))));
            }
            if let Some(uid) = waiting.filter(|_| credit > 0) {
                let message = self.mail_text(*uid, &import.moved);
                self.link.send(message)?;
                credit -= 1;
                waiting = outgoing.next();
                continue;
            }
            match step {
                None if waiting.is_none() => break,
                Some(Step::Move(from, m)) => {
                    self.stage_move(from, m, import)?;
                    step = steps.next();
                    continue;
                }
                Some(Step::Fetch(_)) | None => {}
            }
            match self.recv()? {
                Message::Credit(n) => credit += n,
                message @ (Message::Mail(_) | Message::Gone(_)) => {
                    let Some(Step::Fetch(m)) = step else { return Err(unexpected(&message, "credit")) };
                    match message {
                        Message::Mail(text) => self.stage(*text, m, import)?,
                        Message::Gone(Gone::Unreadable) => {
                            import.unreadable.insert(m.uid);
                        }
                        _ => {}
                    }
                    received += 1;
                    if received % (WINDOW / 2) == 0 {
                        self.link.send(Message::Credit(WINDOW / 2))?;
                    }
                    step = steps.next();
                }
                other => return Err(unexpected(&other, "a mail")),
            }
            if import.staged >= BATCH && !outcome.rebuild {
                self.commit(import)?;
            }
        }
        if !outcome.rebuild {
            self.commit(import)?;
        }
        Ok(())
    }

    fn mail_text(&mut self, uid: Uid, moved: &HashMap<Uid, Uid>) -> Message {
        let text = |mailbox: &mut dyn Mailbox, at: Uid| -> mail::Result<MailText> {
            // The text first: whoever has opened a mail knows the rest of it.
            let body = mailbox.body(at)?;
            let facts = mailbox.facts(at)?;
            let guid = mailbox.guid(at)?;
            Ok(MailText { uid, guid, facts, body })
        };
        let mut result = text(self.mailbox, uid);
        // Its own side may have given it another UID a moment ago.
        if let (Err(e), Some(&now)) = (&result, moved.get(&uid))
            && e.class() == Class::Expunged
            && self.mailbox.refresh().is_ok()
        {
            result = text(self.mailbox, now);
        }
        match result {
            Ok(t) => Message::Mail(Box::new(t)),
            Err(e) if e.class() == Class::Expunged => Message::Gone(Gone::Expunged),
            Err(e) => {
                self.bad(uid, e);
                Message::Gone(Gone::Unreadable)
            }
        }
    }

    fn stage(&mut self, text: MailText, m: &Merged, import: &mut Import<'_>) -> Result<()> {
        let mail = new_mail(m, text.guid, &text.facts);
        match self.mailbox.stage(mail.clone(), text.body) {
            Ok(()) => {
                if import.rebuild {
                    import.order.insert(m.uid, import.staged_mails.len());
                    import.staged_mails.push(mail);
                }
                import.staged += 1;
                Ok(())
            }
            Err(SaveError::Body(e)) => {
                let why = format!("the source's text broke off: {e}");
                tracing::error!("Mailbox {}: UID {}: {why}; the mail is left out, the others go on", self.name, text.uid);
                import.unreadable.insert(m.uid);
                Ok(())
            }
            Err(SaveError::Store(e)) => Err(RoundError::Own(e)),
        }
    }

    fn stage_move(&mut self, from: Uid, m: &Merged, import: &mut Import<'_>) -> Result<()> {
        let mail = match (self.mailbox.guid(from), self.mailbox.facts(from)) {
            (Ok(guid), Ok(facts)) => new_mail(m, guid, &facts),
            (Err(e), _) | (_, Err(e)) => {
                self.bad(from, e);
                import.surprised = true;
                return Ok(());
            }
        };
        match self.mailbox.stage_copy(mail, from, Original::Expunge) {
            Ok(()) => {
                import.staged += 1;
                import.moving.push((from, m.uid));
                Ok(())
            }
            Err(SaveError::Store(e)) if e.class() != Class::Expunged => Err(RoundError::Own(e)),
            Err(e) => {
                tracing::warn!("Mailbox {}: UID {from}: {e}", self.name);
                import.surprised = true;
                Ok(())
            }
        }
    }

    fn commit(&mut self, import: &mut Import<'_>) -> Result<()> {
        if import.staged == 0 {
            return Ok(());
        }
        let saved = self.mailbox.commit()?;
        import.surprised |= saved.len() < import.staged || saved.iter().any(|s| s.wanted != s.got);
        let moved = import.moving.len();
        import.moved.extend(import.moving.drain(..));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.report.done.saved += count(import.staged.saturating_sub(moved));
        self.report.done.moved += count(moved);
        import.staged = 0;
        Ok(())
    }

    /// Flags, and mails that have to go.
    fn edit(&mut self, own: &Facts, outcome: &Outcome) -> Result<()> {
        let mut stays: Vec<Uid> = Vec::with_capacity(outcome.mails.len());
        let mut edits = Vec::new();
        // Mails are in the order of their UIDs on both sides, but for those that change theirs.
        let mut items = own.items.iter().peekable();
        for m in &outcome.mails {
            let Some(uid) = self.own(m) else { continue };
            stays.push(uid);
            if uid != m.uid {
                continue;
            }
            while items.next_if(|i| i.uid < uid).is_some() {}
            let Some(item) = items.peek().copied().filter(|i| i.uid == uid).or_else(|| own.item(uid)) else { continue };
            if item.flags == m.flags && item.keywords == m.keywords {
                continue;
            }
            self.report.done.flags += 1;
            edits.push(Edit {
                uid,
                expect: item.guid,
                kind: EditKind::Flags {
                    add: m.flags.without(item.flags),
                    remove: item.flags.without(m.flags),
                    add_keywords: m.keywords.without(&item.keywords),
                    remove_keywords: item.keywords.without(&m.keywords),
                    modseq: m.modseq,
                },
            });
        }
        // Mostly sorted already.
        stays.sort_unstable();
        let mut stays = stays.into_iter().peekable();
        for item in &own.items {
            while stays.next_if(|&uid| uid < item.uid).is_some() {}
            if stays.peek() != Some(&item.uid) {
                self.report.done.expunged += 1;
                edits.push(Edit { uid: item.uid, expect: item.guid, kind: EditKind::Expunge });
            }
        }
        if edits.is_empty() {
            return Ok(());
        }
        edits.sort_by_key(|e| e.uid);
        Ok(self.mailbox.edit(&edits)?)
    }

    fn rebuild(&mut self, own: &Facts, peer: &Facts, outcome: &Outcome, import: &Import<'_>) -> Result<()> {
        let mut mails = Vec::with_capacity(outcome.mails.len());
        for m in &outcome.mails {
            let (mail, from) = match (self.own(m), import.order.get(&m.uid)) {
                (Some(uid), _) => {
                    let (guid, facts) = match (self.mailbox.guid(uid), self.mailbox.facts(uid)) {
                        (Ok(g), Ok(f)) => (g, f),
                        // It cannot be told what it is, but it stays.
                        (Err(e), _) | (_, Err(e)) => return Err(RoundError::Own(e.at(format!("UID {uid}")))),
                    };
                    (new_mail(m, guid, &facts), RebuildFrom::Present(uid))
                }
                // Its place among the staged mails; the text itself came with all the rest.
                (None, Some(&n)) => match import.staged_mails.get(n) {
                    Some(mail) => (mail.clone(), RebuildFrom::Staged(n)),
                    None => continue,
                },
                (None, None) => continue,
            };
            mails.push(RebuildMail { mail, from });
        }
        let highest = peer.status.highest_modseq.max(own.status.highest_modseq);
        self.mailbox.rebuild(Rebuild {
            identity: Identity { guid: own.status.identity.guid, uidvalidity: outcome.uidvalidity, uid_next: outcome.uid_next },
            first_recent: outcome.first_recent,
            highest_modseq: highest,
            mails,
        })?;
        self.report.done.rebuilt += 1;
        Ok(())
    }

    fn end_round(&mut self, acted: bool, surprised: bool, sent_done: &mut bool) -> Result<Sides<RoundEnd>> {
        if surprised {
            self.mailbox.refresh()?;
        } else if acted {
            self.mailbox.renew()?;
        }
        let own = RoundEnd { status: self.mailbox.status(), digest: facts::digest(self.mailbox.mails(), None), acted, surprised };
        self.link.send(Message::Done(Ok(own)))?;
        *sent_done = true;
        match self.recv_fact()? {
            Message::Done(Ok(peer)) => Ok(Sides { own, peer }),
            other => Err(unexpected(&other, "the end of the mailbox")),
        }
    }

    /// Brings the counters of equal mailboxes to the same height.
    fn level(&mut self, sides: &Sides<Offer>) -> Result<()> {
        Ok(self.raise_to(sides.own.status, sides.peer.status)?)
    }

    fn level_end(&mut self, ends: &Sides<RoundEnd>) -> Result<()> {
        Ok(self.raise_to(ends.own.status, ends.peer.status)?)
    }

    fn raise_to(&mut self, own: mail::Status, peer: mail::Status) -> mail::Result<()> {
        let floors = self.start().floors(self.side, own, peer);
        if floors != Floors::default() {
            self.mailbox.raise(&floors)?;
        }
        Ok(())
    }

    fn remember(&mut self, sides: &Sides<Offer>) {
        self.report.state = Some(self.start().state_of(&sides.own, &sides.peer));
    }

    fn remember_end(&mut self, sides: &Sides<Offer>, ends: &Sides<RoundEnd>, outcome: &Outcome) {
        let (a, b) = (ends.own.status, ends.peer.status);
        let undisturbed = ends.own.digest == ends.peer.digest && !ends.own.surprised && !ends.peer.surprised;
        // Where others were at work, only what was known at the start is known to be exchanged.
        let modseq = if undisturbed {
            self.start().common_modseq(a, b)
        } else {
            sides.own.status.highest_modseq.min(sides.peer.status.highest_modseq)
        };
        if !self.should_match() {
            return;
        }
        self.report.state = Some(MailboxState {
            uidvalidity: Some(a.identity.uidvalidity),
            last_common: previous(outcome.uid_next.min(a.identity.uid_next).min(b.identity.uid_next)),
            modseq,
            private_modseq: a.highest_private_modseq.min(b.highest_private_modseq),
            messages: a.messages,
        });
    }
}

fn previous(uid: Uid) -> Option<Uid> {
    Uid::new(uid.get() - 1)
}

/// The own side of a mailbox, as the other side gets to see it.
pub fn offer(mailbox: &dyn Mailbox, guids: &facts::Guids) -> Offer {
    let status = mailbox.status();
    Offer {
        guid: status.identity.guid,
        status,
        capabilities: mailbox.capabilities(),
        digest: facts::digest(mailbox.mails(), Some(&guids.all)),
        doubtful: guids.all.iter().any(Option::is_none),
        attributes: None,
    }
}

fn new_mail(m: &Merged, guid: mail::MailGuid, facts: &mail::Facts) -> NewMail {
    NewMail {
        uid: m.uid,
        guid,
        flags: m.flags,
        keywords: m.keywords.clone(),
        modseq: m.modseq,
        received: facts.received,
        saved: facts.saved,
        pop3_uidl: facts.pop3_uidl.clone(),
        pop3_order: facts.pop3_order,
    }
}

fn unexpected(got: &Message, wanted: &'static str) -> RoundError {
    LinkError::Unexpected { got: got.kind(), wanted }.into()
}

enum Step<'a> {
    /// The other side sends it.
    Fetch(&'a Merged),
    /// It is here under another UID.
    Move(Uid, &'a Merged),
}

/// Mails on their way in.
#[derive(Default)]
struct Import<'a> {
    steps: Vec<Step<'a>>,
    /// Staged since the last commit.
    staged: usize,
    /// The mailbox will be rebuilt: nothing is committed before.
    rebuild: bool,
    /// For a rebuild: what was staged, and where each stands by its future UID.
    staged_mails: Vec<NewMail>,
    order: HashMap<Uid, usize>,
    /// Staged renumberings, and those that are done.
    moving: Vec<(Uid, Uid)>,
    moved: HashMap<Uid, Uid>,
    /// Future UIDs of mails that the other side could not give.
    unreadable: HashSet<Uid>,
    surprised: bool,
}
