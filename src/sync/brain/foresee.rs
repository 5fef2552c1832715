//! Which mails are the last copies of what both sides would lose ([`crate::sync::last_copy`]): found out before anything is changed.

use std::collections::HashMap;

use super::survey::{Both, Open, Waiting};
use super::work;
use super::{Brain, End, unexpected};
use crate::mail::{self, Mailbox, MailboxGuid, Uid, union_of_uids};
use crate::sync::last_copy::{self, Going, LastCopies, Present, Ranges, Reader, Search, Text, farewells, suspects};
use crate::sync::message::{Failure, Message};
use crate::sync::round::{Look, Round};
use crate::sync::tree::Paired;

impl Brain<'_> {
    /// `unified`: the two mailboxes become one in this run.
    pub(super) fn foresee(
        &mut self,
        waiting: &mut [Waiting<'_>],
        mailboxes: &[Paired],
        unified: impl Fn(&Paired) -> bool,
    ) -> Result<LastCopies, End> {
        // First what is cheap to know: mostly there is nothing that could be a last copy.
        let may_go = self.may_go(waiting)?;
        if may_go.iter().any(Ranges::is_empty) {
            return Ok(LastCopies::default());
        }
        let mut going = suspects(self.going(waiting, &may_go[self.side as usize])?);
        if going.iter().any(Vec::is_empty) {
            return Ok(LastCopies::default());
        }
        let gone = self.gone(waiting, &may_go, unified)?;
        last_copy::only(&mut going, &gone);
        let suspects = suspects(going);
        if suspects.iter().any(Vec::is_empty) {
            return Ok(LastCopies::default());
        }
        let mut reader = Reader::default();
        let texts = self.texts(waiting, &suspects, &mut reader)?;
        let mut last = LastCopies::new(suspects, &texts);
        if last.is_empty() {
            return Ok(last);
        }
        let found = self.search(waiting, mailboxes, &gone[self.side as usize], Search::new(&last, &mut reader))?;
        self.flow.send(Message::Elsewhere(found.clone()))?;
        let peers = match self.flow.recv()? {
            Message::Elsewhere(peers) if peers.len() == found.len() => peers,
            other => return Err(unexpected(&other, "copies")),
        };
        last.found(&found);
        last.found(&peers);
        Ok(last)
    }

    /// What may go, as far as UIDs alone tell: from the master, from the slave.
    fn may_go(&mut self, waiting: &[Waiting<'_>]) -> Result<[Ranges; 2], End> {
        let present = || waiting.iter().filter_map(|w| Some((w.pair.guid, w.present.as_ref()?)));
        for (_, Both { own, .. }) in present() {
            self.flow.send(Message::Uids(own.uids.clone()))?;
        }
        let mut may_go = [Ranges::new(), Ranges::new()];
        for (guid, Both { own, peers_next }) in present() {
            let peer = match self.flow.recv()? {
                Message::Uids(uids) => Present { uids, uid_next: *peers_next },
                other => return Err(unexpected(&other, "UIDs")),
            };
            for (side, lost) in [(self.side, own.lost_at(&peer)), (self.side.other(), peer.lost_at(own))] {
                if !lost.is_empty() {
                    may_go[side as usize].insert(guid, lost);
                }
            }
        }
        Ok(may_go)
    }

    /// What will go, if nobody else is at work, as it will be decided when the mailbox has its turn.
    fn gone(
        &mut self,
        waiting: &mut [Waiting<'_>],
        may_go: &[Ranges; 2],
        unified: impl Fn(&Paired) -> bool,
    ) -> Result<[Ranges; 2], End> {
        let mut gone = [Ranges::new(), Ranges::new()];
        let loses = |w: &&mut Waiting<'_>| may_go.iter().any(|side| side.contains_key(&w.pair.guid));
        for portion in work::portions(waiting.iter_mut().filter(loses).collect(), false) {
            let mut begun = Vec::with_capacity(portion.len());
            for w in portion {
                self.check_stop()?;
                let (pair, was_open) = (w.pair, w.open.is_some());
                let start = self.start(pair, unified(pair));
                let told = self.taken(w).and_then(|(mailbox, look)| {
                    let mut round = Round::new(start, mailbox, look, &pair.local);
                    Ok((round.glance()?, round))
                });
                let (said, told) = match told {
                    Ok((facts, round)) => (Message::Facts(facts.clone()), Some((facts, round))),
                    Err(e) => (Message::Done(Err(Failure::from(&e))), None),
                };
                self.flow.send(said)?;
                begun.push((w, was_open, told));
            }
            for (w, was_open, told) in begun {
                let guid = w.pair.guid;
                match (self.flow.recv()?, told) {
                    (Message::Facts(peer), Some((own, mut round))) => {
                        for (gone, uids) in gone.iter_mut().zip(round.would_go(own, peer)) {
                            gone.insert(guid, union_of_uids(uids.into_iter().map(|uid| (uid, uid))));
                        }
                        if was_open {
                            let look = Look::of(&mut *round.mailbox);
                            w.open = Some(Open { mailbox: round.mailbox, look });
                        }
                    }
                    // What one side cannot tell nobody can count on.
                    (Message::Done(Err(_)), _) | (Message::Facts(_), None) => {
                        self.unusable.insert(guid);
                    }
                    (other, _) => return Err(unexpected(&other, "facts")),
                }
                self.flow.forget();
            }
        }
        Ok(gone)
    }

    fn taken(&mut self, w: &mut Waiting<'_>) -> mail::Result<(Box<dyn Mailbox>, Option<Look>)> {
        match w.open.take() {
            Some(Open { mailbox, look }) => Ok((mailbox, Some(look))),
            None => Ok((self.opened(w.pair)?, None)),
        }
    }

    /// The mails that may go from both sides.
    fn going(&mut self, waiting: &mut [Waiting<'_>], may_go: &Ranges) -> Result<Going, End> {
        let mut going = Going::default();
        for w in waiting.iter_mut().filter(|w| w.present.is_some()) {
            self.check_stop()?;
            let mut list = Vec::new();
            if let Some(uids) = may_go.get(&w.pair.guid) {
                self.read(w, |mailbox| list = farewells(mailbox, uids));
            }
            going[self.side as usize].extend(list.iter().map(|f| (w.pair.guid, f.clone())));
            self.flow.send(Message::Going(list))?;
        }
        for w in waiting.iter().filter(|w| w.present.is_some()) {
            match self.flow.recv()? {
                Message::Going(list) => going[self.side.other() as usize].extend(list.into_iter().map(|f| (w.pair.guid, f))),
                other => return Err(unexpected(&other, "mails that go")),
            }
        }
        Ok(going)
    }

    /// The texts of the suspects.
    fn texts(
        &mut self,
        waiting: &mut [Waiting<'_>],
        suspects: &Going,
        reader: &mut Reader,
    ) -> Result<[Vec<Option<Text>>; 2], End> {
        let (own, peers) = (self.side as usize, self.side.other() as usize);
        let mut mine = vec![None; suspects[own].len()];
        let mut by_mailbox: HashMap<MailboxGuid, Vec<(usize, Uid)>> = HashMap::new();
        for (n, (mailbox, f)) in suspects[own].iter().enumerate() {
            by_mailbox.entry(*mailbox).or_default().push((n, f.uid));
        }
        for w in waiting.iter_mut() {
            if let Some(here) = by_mailbox.get(&w.pair.guid) {
                self.check_stop()?;
                self.read(w, |mailbox| here.iter().for_each(|&(n, uid)| mine[n] = reader.text(mailbox, uid)));
            }
        }
        self.flow.send(Message::Texts(mine.clone()))?;
        let mut texts = <[Vec<Option<Text>>; 2]>::default();
        texts[own] = mine;
        texts[peers] = match self.flow.recv()? {
            Message::Texts(theirs) if theirs.len() == suspects[peers].len() => theirs,
            other => return Err(unexpected(&other, "texts")),
        };
        Ok(texts)
    }

    /// Of which of them there is a copy on the own side that stays.
    fn search(
        &mut self,
        waiting: &mut [Waiting<'_>],
        mailboxes: &[Paired],
        gone: &Ranges,
        mut search: Search<'_>,
    ) -> Result<Vec<bool>, End> {
        let mut at: HashMap<MailboxGuid, &mut Waiting<'_>> = waiting.iter_mut().map(|w| (w.pair.guid, w)).collect();
        for pair in mailboxes {
            if search.is_over() {
                break;
            }
            self.check_stop()?;
            // Nobody knows what is in it.
            if self.unusable.contains(&pair.guid) {
                continue;
            }
            let going = gone.get(&pair.guid).map_or(&[][..], Vec::as_slice);
            match at.get_mut(&pair.guid) {
                Some(w) => self.read(w, |mailbox| search.through(mailbox, going)),
                None => {
                    if let Ok(mut mailbox) = self.opened(pair) {
                        search.through(&mut *mailbox, going);
                    }
                }
            }
        }
        Ok(search.found)
    }

    /// Looks into a mailbox. What cannot be opened is told when its turn comes.
    fn read(&mut self, w: &mut Waiting<'_>, act: impl FnOnce(&mut dyn Mailbox)) {
        match &mut w.open {
            Some(open) => act(&mut *open.mailbox),
            None => {
                if let Ok(mut mailbox) = self.opened(w.pair) {
                    act(&mut *mailbox);
                }
            }
        }
    }

    fn opened(&mut self, pair: &Paired) -> mail::Result<Box<dyn Mailbox>> {
        let mut mailbox = self.open(pair)?;
        mailbox.refresh()?;
        Ok(mailbox)
    }
}
