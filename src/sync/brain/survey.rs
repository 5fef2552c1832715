//! Which mailboxes need work. Nothing is locked for a mailbox in which nothing is to be done, and nobody waits for the other
//! side before it has looked at many.

use std::collections::HashMap;
use std::ops::Range;

use super::{Brain, End, attributes, facts};
use crate::mail::{self, Mailbox, MailboxGuid, Tree};
use crate::sync::facts::Guids;
use crate::sync::message::{Failure, Link as _, Message, Offer};
use crate::sync::round::{self, offer};
use crate::sync::tree::Paired;

/// Mailboxes that are looked at before the other side's answers are read: bounds open files.
const AHEAD: usize = 32;
/// Mails in them, as far as UIDNEXT tells: bounds memory.
const MAILS_AHEAD: u64 = 20_000;

/// A mailbox that needs work, as it was found.
pub(super) struct Waiting<'p> {
    pub pair: &'p Paired,
    pub mailbox: Box<dyn Mailbox>,
    pub seen: Seen,
}

/// What one look at a mailbox has shown.
pub(super) struct Seen {
    view: Option<u64>,
    pub guids: Guids,
    pub offer: Offer,
}

impl Seen {
    /// Reads all GUIDs and sums everything up.
    pub fn of(mailbox: &mut dyn Mailbox) -> Self {
        let guids = facts::guids(mailbox);
        Self { view: mailbox.view_number(), offer: offer(mailbox, &guids), guids }
    }

    /// As it is now; what has not changed is not read again.
    pub fn again(self, mailbox: &mut dyn Mailbox) -> Self {
        let same = self.view.is_some() && self.view == mailbox.view_number();
        let status = mailbox.status();
        if same { Self { offer: Offer { status, ..self.offer }, ..self } } else { Self::of(mailbox) }
    }
}

/// How many mailboxes, one after the other, are looked at together. Both sides come to the same answer.
pub(super) fn portions(pairs: &[Paired], trees: [&Tree; 2]) -> Vec<Range<usize>> {
    let mut sizes: HashMap<MailboxGuid, u64> = HashMap::new();
    for identity in trees.iter().flat_map(|t| &t.nodes).filter_map(|n| n.identity) {
        let size = sizes.entry(identity.guid).or_default();
        *size = (*size).max(identity.uid_next.get().into());
    }
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut mails = 0;
    for (at, pair) in pairs.iter().enumerate() {
        let size = sizes.get(&pair.guid).copied().unwrap_or(0);
        match out.last_mut() {
            Some(last) if last.len() < AHEAD && mails + size <= MAILS_AHEAD => {
                last.end = at + 1;
                mails += size;
            }
            _ => {
                out.push(at..at + 1);
                mails = size;
            }
        }
    }
    out
}

impl Brain<'_> {
    /// Looks at some mailboxes, on both sides. Gives those that need work.
    pub(super) fn survey<'p>(&mut self, pairs: &'p [Paired]) -> Result<Vec<Waiting<'p>>, End> {
        let mut seen = Vec::with_capacity(pairs.len());
        for pair in pairs {
            self.check_stop()?;
            let found = self.find(pair);
            let said = found.as_ref().map(|(_, seen)| Box::new(seen.offer.clone())).map_err(Failure::from);
            self.link.send(Message::Offer(said))?;
            seen.push(found);
        }
        let mut waiting = Vec::new();
        for (pair, found) in pairs.iter().zip(seen) {
            let theirs = self.recv_offer()?;
            match (found, theirs) {
                (Err(e), _) => self.lost(pair, &e),
                // The other side has said why.
                (Ok(_), Err(_)) => {}
                (Ok((mailbox, seen)), Ok(theirs)) => {
                    let mine = &seen.offer;
                    let saved = self.saved.0.get(&pair.guid).copied();
                    let start = round::Start { side: self.side, options: self.options, saved, fresh: pair.fresh };
                    if start.is_settled(mine, &theirs) {
                        self.report.state.0.insert(pair.guid, start.state_of(mine, &theirs));
                    } else {
                        waiting.push(Waiting { pair, mailbox, seen });
                    }
                }
            }
        }
        Ok(waiting)
    }

    fn find(&mut self, pair: &Paired) -> mail::Result<(Box<dyn Mailbox>, Seen)> {
        let mut mailbox = self.store.open(&pair.local)?;
        Self::check(&*mailbox, pair)?;
        let mut seen = Seen::of(&mut *mailbox);
        seen.offer.attributes = self.attributes(pair).as_deref().map(attributes::digest);
        Ok((mailbox, seen))
    }
}
