//! Which mails are the last copies of what both sides would lose ([`crate::sync::last_copy`]): found out before anything is changed.

use std::collections::HashMap;

use super::survey::{Both, Waiting};
use super::{Brain, End, unexpected};
use crate::mail::{self, Mailbox, MailboxGuid, Uid};
use crate::sync::last_copy::{Going, LastCopies, Present, Reader, Search, Text, farewells, suspects};
use crate::sync::message::Message;
use crate::sync::tree::{Paired, Side};

/// UIDs that may go from the own side, by mailbox.
type MayGo = HashMap<MailboxGuid, Vec<(Uid, Uid)>>;

impl Brain<'_> {
    pub(super) fn foresee(&mut self, waiting: &mut [Waiting<'_>], mailboxes: &[Paired]) -> Result<LastCopies, End> {
        let (own, peers) = self.may_go(waiting)?;
        if own.is_empty() || !peers {
            return Ok(LastCopies::default());
        }
        let suspects = suspects(self.going(waiting, &own)?);
        if suspects.iter().any(Vec::is_empty) {
            return Ok(LastCopies::default());
        }
        let mut reader = Reader::default();
        let texts = self.texts(waiting, &suspects, &mut reader)?;
        let mut last = LastCopies::new(suspects, &texts);
        if last.is_empty() {
            return Ok(last);
        }
        let found = self.search(waiting, mailboxes, &own, Search::new(&last, &mut reader));
        self.flow.send(Message::Elsewhere(found.clone()))?;
        let peers = match self.flow.recv()? {
            Message::Elsewhere(peers) if peers.len() == found.len() => peers,
            other => return Err(unexpected(&other, "copies")),
        };
        last.found(&found);
        last.found(&peers);
        Ok(last)
    }

    /// What may go from the own side, and whether anything may from the other.
    fn may_go(&mut self, waiting: &[Waiting<'_>]) -> Result<(MayGo, bool), End> {
        let present = || waiting.iter().filter_map(|w| Some((w.pair.guid, w.present.as_ref()?)));
        for (_, Both { own, .. }) in present() {
            self.flow.send(Message::Uids(own.uids.clone()))?;
        }
        let (mut may_go, mut peers) = (MayGo::new(), false);
        for (guid, Both { own, peer }) in present() {
            let peer = match self.flow.recv()? {
                Message::Uids(uids) => Present { uids, ..peer.clone() },
                other => return Err(unexpected(&other, "UIDs")),
            };
            let lost = own.lost_at(&peer);
            if !lost.is_empty() {
                may_go.insert(guid, lost);
            }
            peers |= !peer.lost_at(own).is_empty();
        }
        Ok((may_go, peers))
    }

    /// What may go from both sides.
    fn going(&mut self, waiting: &mut [Waiting<'_>], may_go: &MayGo) -> Result<Going, End> {
        let mut own = Vec::new();
        for w in waiting.iter_mut().filter(|w| w.present.is_some()) {
            let mut list = Vec::new();
            if let Some(uids) = may_go.get(&w.pair.guid) {
                self.read(w, |mailbox| list = farewells(mailbox, uids));
            }
            own.extend(list.iter().map(|f| (w.pair.guid, f.clone())));
            self.flow.send(Message::Going(list))?;
        }
        let mut peers = Vec::new();
        for w in waiting.iter().filter(|w| w.present.is_some()) {
            match self.flow.recv()? {
                Message::Going(list) => peers.extend(list.into_iter().map(|f| (w.pair.guid, f))),
                other => return Err(unexpected(&other, "mails that go")),
            }
        }
        Ok(if self.side == Side::Master { [own, peers] } else { [peers, own] })
    }

    /// The texts of the suspects.
    fn texts(
        &mut self,
        waiting: &mut [Waiting<'_>],
        suspects: &Going,
        reader: &mut Reader,
    ) -> Result<[Vec<Option<Text>>; 2], End> {
        let [own, peers] = if self.side == Side::Master { [0, 1] } else { [1, 0] };
        let mut mine = vec![None; suspects[own].len()];
        for w in waiting.iter_mut() {
            let here = suspects[own].iter().enumerate().filter(|(_, (guid, _))| *guid == w.pair.guid);
            let here: Vec<(usize, Uid)> = here.map(|(n, (_, f))| (n, f.uid)).collect();
            if !here.is_empty() {
                self.read(w, |mailbox| here.iter().for_each(|&(n, uid)| mine[n] = reader.text(mailbox, uid)));
            }
        }
        self.flow.send(Message::Texts(mine.clone()))?;
        let theirs = match self.flow.recv()? {
            Message::Texts(theirs) if theirs.len() == suspects[peers].len() => theirs,
            other => return Err(unexpected(&other, "texts")),
        };
        Ok(if own == 0 { [mine, theirs] } else { [theirs, mine] })
    }

    /// Of which of them there is a copy on the own side that stays.
    fn search(&mut self, waiting: &mut [Waiting<'_>], mailboxes: &[Paired], may_go: &MayGo, mut search: Search<'_>) -> Vec<bool> {
        let mut at: HashMap<MailboxGuid, &mut Waiting<'_>> = waiting.iter_mut().map(|w| (w.pair.guid, w)).collect();
        for pair in mailboxes {
            if search.is_over() {
                break;
            }
            // Nobody knows what is in it.
            if self.unusable.contains(&pair.guid) {
                continue;
            }
            let going = may_go.get(&pair.guid).map_or(&[][..], Vec::as_slice);
            match at.get_mut(&pair.guid) {
                Some(w) => self.read(w, |mailbox| search.through(mailbox, going)),
                None => {
                    if let Ok(mut mailbox) = self.opened(pair) {
                        search.through(&mut *mailbox, going);
                    }
                }
            }
        }
        search.found
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
