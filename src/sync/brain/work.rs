//! Mailboxes in which something is to be done: locked, and carried through together.

use std::borrow::Borrow;
use std::time::Duration;

use super::survey::{Open, Waiting, check};
use super::{Brain, End, unexpected};
use crate::mail::{self, Attribute, Class, Mailbox, MailboxGuid, Since};
use crate::sync::attributes;
use crate::sync::last_copy::LastCopies;
use crate::sync::message::{Attributes, Failure, Message};
use crate::sync::round::{self, Entrant, Look, Round, RoundError, RoundReport, Start};
use crate::sync::tree::Paired;

/// How long the lock of one mailbox is waited for where `-l` says nothing (sync.md 10.1).
const MAILBOX_LOCK: Duration = Duration::from_secs(30);
/// Mailboxes that are carried through together over a wire: bounds open files and locks. Without one nobody waits for an answer:
/// each mailbox by itself is over sooner, and others have less time to come between.
const TOGETHER: usize = 32;
/// Mails in them, those of both sides: bounds memory.
const MAILS: u32 = 20_000;

/// Which mailboxes go together. Both sides come to the same answer.
pub(super) fn portions<'p, W: Borrow<Waiting<'p>>>(waiting: Vec<W>, one_by_one: bool) -> Vec<Vec<W>> {
    let together = if one_by_one { 1 } else { TOGETHER };
    let mut out: Vec<Vec<W>> = Vec::new();
    let mut mails = 0u32;
    for one in waiting {
        let own = one.borrow().mails;
        let more = mails.saturating_add(own);
        match out.last_mut() {
            Some(last) if last.len() < together && more <= MAILS => {
                mails = more;
                last.push(one);
            }
            _ => {
                mails = own;
                out.push(vec![one]);
            }
        }
    }
    out
}

impl<'a> Brain<'a> {
    pub(super) fn start(&self, pair: &Paired, unified: bool) -> Start<'a> {
        let saved = self.saved.0.get(&pair.guid).copied();
        Start { side: self.side, options: self.options, saved, fresh: pair.fresh, unified, stop: self.stop }
    }

    /// Carries these mailboxes through.
    pub(super) fn work(
        &mut self,
        portion: Vec<Waiting<'_>>,
        last: &mut LastCopies,
        unified: impl Fn(&MailboxGuid) -> bool,
    ) -> Result<(), End> {
        let differ: Vec<bool> = portion.iter().map(|w| w.attributes).collect();
        let (pairs, mut rounds) = self.lock_in_turn(portion, unified)?;
        self.sync_attributes(&pairs, &mut rounds, &differ)?;
        if !self.options.mode.is_source(self.side) {
            self.at_hand.open(self.store);
        }
        let result = round::run(&mut rounds, &mut self.flow, &mut self.at_hand, last);
        for (pair, round) in pairs.into_iter().zip(rounds) {
            if let Ok(round) = round {
                self.note(pair, round.report);
            }
        }
        result.map_err(|e| match e {
            RoundError::End(e) | RoundError::Own(e) => End::Own(e),
            RoundError::Peer(f) => End::Peer(f),
        })
    }

    fn note(&mut self, pair: &Paired, report: RoundReport) {
        let name = &pair.local;
        self.report.mailbox(name, report.done, report.bad);
        if report.unsettled {
            self.report.desync(format!("Mailbox {name} keeps changing"));
        }
        if let Some(state) = report.state {
            self.report.state.0.insert(pair.guid, state);
        }
        match report.failed {
            // Somebody was at work here; the next run sees to it.
            Some(e) if e.class() == Class::Expunged => self.report.desync(format!("Mailbox {name}: {e}")),
            Some(_) if self.is_lost(pair) => self.report.desync(format!("Mailbox GUID {} was lost", pair.guid)),
            Some(e) => {
                tracing::error!("Mailbox {name}: {e}");
                self.report.fail(e.class());
            }
            None => {}
        }
    }

    /// The mailbox is not there any more under its name: somebody has deleted or renamed it.
    fn is_lost(&mut self, pair: &Paired) -> bool {
        match self.store.open(&pair.local) {
            Ok(mut mailbox) => mailbox.refresh().is_ok() && mailbox.status().identity.guid != pair.guid,
            Err(e) => e.class() == Class::NotFound,
        }
    }

    /// Locks the own mailboxes when it is this side's turn, and looks at them again. Only the locks are taken one side after
    /// the other.
    fn lock_in_turn<'p>(
        &mut self,
        portion: Vec<Waiting<'p>>,
        unified: impl Fn(&MailboxGuid) -> bool,
    ) -> Result<(Vec<&'p Paired>, Vec<Entrant<'p>>), End>
    where
        'a: 'p,
    {
        let is_first = self.side == self.options.locks_first;
        if !is_first {
            match self.flow.recv()? {
                Message::Locked => {}
                other => return Err(unexpected(&other, "a lock")),
            }
        }
        let mut locked = Vec::with_capacity(portion.len());
        for Waiting { pair, open, .. } in portion {
            self.check_stop()?;
            locked.push((pair, self.lock(pair, open)));
        }
        if is_first {
            self.flow.send(Message::Locked)?;
        }
        let mut rounds = Vec::with_capacity(locked.len());
        let mut pairs = Vec::with_capacity(locked.len());
        for (pair, locked) in locked {
            let start = self.start(pair, unified(&pair.guid));
            let ready = locked.and_then(|(mut mailbox, look)| {
                mailbox.refresh()?;
                check(&*mailbox, pair)?;
                Ok(Round::new(start, mailbox, look, &pair.local))
            });
            pairs.push(pair);
            rounds.push(ready.map_err(|e| {
                self.lost(pair, &e);
                Failure::from(&e)
            }));
        }
        Ok((pairs, rounds))
    }

    fn lock(&mut self, pair: &Paired, open: Option<Open>) -> mail::Result<(Box<dyn Mailbox>, Option<Look>)> {
        let (mut mailbox, look) = match open {
            Some(Open { mailbox, look }) => (mailbox, Some(look)),
            None => (self.open(pair)?, None),
        };
        match mailbox.lock(self.options.lock_timeout.unwrap_or(MAILBOX_LOCK)) {
            // A source that cannot be written to is a source like any other: nothing will be changed there.
            Err(e) if e.class() == Class::Permission && self.options.mode.is_source(self.side) => {
                tracing::debug!("Mailbox {}: used without a lock: {e}", pair.local);
            }
            result => result?,
        }
        Ok((mailbox, look))
    }

    /// Attributes of the mailboxes where they differ.
    fn sync_attributes(&mut self, pairs: &[&Paired], rounds: &mut [Entrant<'_>], differ: &[bool]) -> Result<(), End> {
        let mut own = Vec::new();
        for (at, pair) in pairs.iter().enumerate().filter(|(at, _)| differ[*at]) {
            let said = match &mut rounds[at] {
                Ok(round) => self.attributes(pair).map(|present| {
                    let changes = round.mailbox.changes(Since::Everything).map(|c| c.attributes).unwrap_or_default();
                    Box::new(Attributes { present, changes })
                }),
                Err(_) => None,
            };
            // What cannot be read must not look as if it had been removed.
            self.flow.send(match &said {
                Some(said) => Message::Attributes(said.clone()),
                None => Message::Done(Err(Failure { class: Class::Temporary, text: String::new() })),
            })?;
            own.push((at, said));
        }
        for (at, own) in own {
            let peer = match self.flow.recv()? {
                Message::Attributes(a) => Some(a),
                Message::Done(Err(_)) => None,
                other => return Err(unexpected(&other, "attributes")),
            };
            if let (Some(own), Some(peer)) = (own, peer) {
                let source = self.options.mode.is_source(self.side);
                for attribute in attributes::to_change(&own, &peer, self.options.mode, source) {
                    self.set_attribute(pairs[at], &attribute);
                }
            }
        }
        Ok(())
    }

    fn set_attribute(&mut self, pair: &Paired, attribute: &Attribute) {
        match self.store.set_attribute(&pair.local, pair.guid, attribute) {
            Ok(()) => {}
            // This side has no place for it, and never will have: no reason to fail again and again.
            Err(e) if e.class() == Class::NotPossible => {
                tracing::warn!("Mailbox {}: Attribute {} is left out: {e}", pair.local, attribute.key.key);
            }
            Err(e) => {
                tracing::error!("Mailbox {}: Failed to set attribute {}: {e}", pair.local, attribute.key.key);
                self.report.skipped += 1;
            }
        }
    }
}
