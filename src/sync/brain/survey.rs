//! Which mailboxes need work. Nothing is locked for a mailbox in which nothing is to be done, and nobody waits for the other
//! side before it has looked at all of them.

use super::{Brain, End, unexpected};
use crate::mail::{self, Class, Floors, Mailbox, Uid};
use crate::sync::Mode;
use crate::sync::attributes;
use crate::sync::last_copy::{self, Present};
use crate::sync::message::{Failure, Message, Offer};
use crate::sync::round::{Look, offer};
use crate::sync::tree::Paired;

/// Mailboxes that stay open until the other side's answer is there: bounds open files. Others are opened again.
const KEPT: usize = 32;
/// Mails in them: bounds memory.
const KEPT_MAILS: u32 = 50_000;

/// What this side has of a mailbox.
pub(super) struct Seen {
    offer: mail::Result<Offer>,
    open: Option<Open>,
    /// The UIDs of one that is not kept open.
    uids: Vec<(Uid, Uid)>,
}

/// A mailbox as it was looked at.
pub(super) struct Open {
    pub mailbox: Box<dyn Mailbox>,
    pub look: Look,
}

/// A mailbox that needs work.
pub(super) struct Waiting<'p> {
    pub pair: &'p Paired,
    /// As it was found, if it is still open.
    pub open: Option<Open>,
    /// Its attributes differ.
    pub attributes: bool,
    /// Mails on both sides together.
    pub mails: u32,
    /// What is there, where a side might have mails to lose.
    pub present: Option<Both>,
}

/// The own mails, and how far the other side has given out UIDs.
pub(super) struct Both {
    pub own: Present,
    pub peers_next: Uid,
}

impl Brain<'_> {
    /// Looks at all mailboxes and tells the other side.
    pub(super) fn look_at(&mut self, pairs: &[Paired]) -> Result<Vec<Seen>, End> {
        let mut seen = Vec::with_capacity(pairs.len());
        let (mut kept, mut mails) = (0, 0u32);
        for pair in pairs {
            self.check_stop()?;
            let found = self.find(pair);
            let (said, found) = match found {
                Ok((open, offer)) => {
                    let more = mails.saturating_add(offer.status.messages);
                    let keeps = kept < KEPT && more <= KEPT_MAILS;
                    if keeps {
                        kept += 1;
                        mails = more;
                    }
                    let uids = if keeps { Vec::new() } else { self.uids(&open) };
                    (Ok(Box::new(offer.clone())), Seen { offer: Ok(offer), open: keeps.then_some(open), uids })
                }
                Err(e) => (Err(Failure::from(&e)), Seen { offer: Err(e), open: None, uids: Vec::new() }),
            };
            self.flow.send(Message::Offer(said))?;
            seen.push(found);
        }
        Ok(seen)
    }

    fn find(&mut self, pair: &Paired) -> mail::Result<(Open, Offer)> {
        let mut mailbox = self.open(pair)?;
        let look = Look::of(&mut *mailbox);
        let attributes = self.attributes(pair);
        let offer = Offer {
            attributes: attributes.as_deref().map(attributes::digest),
            ..offer(&*mailbox, &look.guids, &self.start(pair, false))
        };
        Ok((Open { mailbox, look }, offer))
    }

    pub(super) fn open(&mut self, pair: &Paired) -> mail::Result<Box<dyn Mailbox>> {
        let mailbox = self.store.open(&pair.local)?;
        check(&*mailbox, pair)?;
        Ok(mailbox)
    }

    /// Hears what the other side has. Gives the mailboxes that need work.
    pub(super) fn compare<'p>(&mut self, pairs: &'p [Paired], seen: Vec<Seen>) -> Result<Vec<Waiting<'p>>, End> {
        let mut waiting = Vec::new();
        for (pair, Seen { offer, open, uids }) in pairs.iter().zip(seen) {
            let theirs = match self.flow.recv()? {
                Message::Offer(offer) => offer,
                other => return Err(unexpected(&other, "a mailbox")),
            };
            // A few octets of it stay.
            self.flow.forget();
            let (mine, theirs) = match (offer, theirs) {
                (Ok(mine), Ok(theirs)) => (mine, theirs),
                (Err(e), _) => {
                    self.lost(pair, &e);
                    self.unusable.insert(pair.guid);
                    continue;
                }
                // The other side has said why.
                (Ok(_), Err(_)) => {
                    self.unusable.insert(pair.guid);
                    continue;
                }
            };
            let start = self.start(pair, false);
            let attributes = mine.attributes.zip(theirs.attributes).is_some_and(|(a, b)| a != b);
            if attributes || !start.nothing_to_do(&mine, &theirs) {
                let mails = mine.status.messages.saturating_add(theirs.status.messages);
                let uids = open.as_ref().map_or(uids, |open| self.uids(open));
                let present = self.common_uids(uids, &mine, &theirs);
                waiting.push(Waiting { pair, open, attributes, mails, present });
                continue;
            }
            let state = start.state_of(&mine, &theirs);
            let floors = start.floors(mine.status, theirs.status);
            if let Err(e) = self.level(pair, open, &floors) {
                self.lost(pair, &e);
                continue;
            }
            self.report.state.0.insert(pair.guid, state);
        }
        Ok(waiting)
    }

    /// What there may be to lose; a backup asks nobody.
    fn uids(&self, open: &Open) -> Vec<(Uid, Uid)> {
        if matches!(self.options.mode, Mode::Backup(_)) { Vec::new() } else { last_copy::uids(&*open.mailbox) }
    }

    /// None where a side never had a mail, or nobody asks. Both sides come to the same answer.
    fn common_uids(&self, uids: Vec<(Uid, Uid)>, mine: &Offer, theirs: &Offer) -> Option<Both> {
        let [own, peer] = [mine, theirs].map(|offer| offer.status.identity);
        let new = own.uid_next == Uid::FIRST || peer.uid_next == Uid::FIRST;
        let backup = matches!(self.options.mode, Mode::Backup(_));
        (!new && !backup).then_some(Both { own: Present { uid_next: own.uid_next, uids }, peers_next: peer.uid_next })
    }

    /// Brings the counters of equal mailboxes to the same height. Raising them needs no lock: it is true whatever happens.
    fn level(&mut self, pair: &Paired, open: Option<Open>, floors: &Floors) -> mail::Result<()> {
        if *floors == Floors::default() {
            return Ok(());
        }
        let mut mailbox = match open {
            Some(open) => open.mailbox,
            None => self.open(pair)?,
        };
        mailbox.raise(floors)
    }
}

/// It is the mailbox that the plan speaks of.
pub(super) fn check(mailbox: &dyn Mailbox, pair: &Paired) -> mail::Result<()> {
    if mailbox.status().identity.guid == pair.guid {
        return Ok(());
    }
    Err(mail::Error::new(Class::NotFound, format!("Mailbox GUID {} was lost", pair.guid)))
}
