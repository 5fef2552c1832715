//! The last copies of mails ([`super::super::last_copy`]) in the course of a round.

use std::collections::HashSet;

use super::together::{Asked, Entrant, Job, unexpected};
use super::{Asked as Found, Common, Result, Round};
use crate::mail::{MailboxName, Store};
use crate::sync::flow::Flow;
use crate::sync::last_copy::{Farewell, Farewells, LastCopy, Search};
use crate::sync::message::Message;
use crate::sync::tree::{Paired, Side};
use crate::sync::{Mode, Options};

/// Where copies are looked for, and what is known of them.
pub struct Copies<'a> {
    pub(in crate::sync) last: &'a mut LastCopy,
    /// The own side.
    pub store: &'a mut dyn Store,
    /// All mailboxes of the run.
    pub mailboxes: &'a [Paired],
    /// Which side this is.
    pub side: Side,
    /// What was asked for.
    pub options: &'a Options,
}

impl Copies<'_> {
    /// Whether both sides are to lose mails in these mailboxes, in which case it is worth reading them.
    pub(super) fn foresee(&mut self, jobs: &[Job<Common>]) {
        let loses = |side| jobs.iter().any(|(_, job)| job.as_ref().is_ok_and(|common| common.loses(side)));
        self.last.armed |= loses(Side::Master) && loses(Side::Slave);
    }

    /// The own mails that are to go.
    pub(super) fn going(&mut self, round: &mut Round<'_>, common: &Common) -> Vec<Farewell> {
        let own = common.gone(self.side);
        if self.source() == Some(self.side) {
            let guid = round.mailbox.status().identity.guid;
            self.last.given_up.extend(own.iter().map(|&uid| (guid, uid)));
        }
        if self.last.armed { self.last.farewells(&mut *round.mailbox, own.into_iter()) } else { Vec::new() }
    }

    fn source(&self) -> Option<Side> {
        match self.options.mode {
            Mode::OneWay(source) => Some(source.side()),
            _ => None,
        }
    }

    /// Lets those stay of which no other copy is left.
    pub(super) fn keep_last(&mut self, rounds: &mut [Entrant<'_>], jobs: &mut [Job<Asked>], flow: &mut Flow<'_>) -> Result<()> {
        let open: Vec<usize> = (0..jobs.len()).filter(|&n| jobs[n].1.is_ok()).collect();
        let going: Vec<[Vec<Farewell>; 2]> = jobs
            .iter_mut()
            .filter_map(|(_, job)| job.as_mut().ok())
            .map(|asked| {
                let [own, peer] = std::mem::take(&mut asked.going);
                if self.side == Side::Master { [own, peer] } else { [peer, own] }
            })
            .collect();
        let mailboxes: Vec<Farewells<'_>> = going.iter().map(|[m, s]| [&m[..], &s[..]]).collect();
        let suspects = self.last.ledger.suspects(&mailboxes);
        let mut last = HashSet::new();
        if !suspects.is_empty() {
            let own = self.search(rounds, jobs, &suspects);
            flow.send(Message::Elsewhere(own.clone()))?;
            let peer = match flow.recv()? {
                Message::Elsewhere(peer) if peer.len() == own.len() => peer,
                other => return Err(unexpected(&other, "copies")),
            };
            last.extend(suspects.iter().zip(own.iter().zip(&peer)).filter(|(_, (a, b))| !**a && !**b).map(|(f, _)| f.text));
        }
        for (at, side, n) in self.last.ledger.spare(&mailboxes, &last, self.source()) {
            let farewell = &going[at][side as usize][n];
            let (i, Ok(asked)) = &mut jobs[open[at]] else { continue };
            if let Ok(round) = &rounds[*i]
                && self.side == Side::Master
            {
                tracing::info!("Mailbox {}: UID {} stays: it is the last copy", round.name, farewell.uid);
            }
            let renew = self.source().is_none_or(|source| source == side);
            asked.spare(farewell, side, self.side, renew);
        }
        Ok(())
    }

    /// Of which mails there is another copy on the own side.
    fn search(&mut self, rounds: &mut [Entrant<'_>], jobs: &[Job<Asked>], suspects: &[&Farewell]) -> Vec<bool> {
        let mut search = Search::new(suspects);
        let mut seen: HashSet<&MailboxName> = HashSet::new();
        for (i, job) in jobs {
            let (Ok(round), Ok(asked)) = (&mut rounds[*i], job) else { continue };
            let gone = asked.common.gone(self.side);
            seen.insert(round.name);
            search.through(&mut *round.mailbox, |uid| gone.binary_search(&uid).is_ok());
        }
        for pair in self.mailboxes.iter().filter(|p| !seen.contains(&p.local)) {
            if search.is_over() {
                break;
            }
            let Ok(mut mailbox) = self.store.open(&pair.local) else { continue };
            if mailbox.refresh().is_ok() {
                let guid = mailbox.status().identity.guid;
                search.through(&mut *mailbox, |uid| self.last.given_up.contains(&(guid, uid)));
            }
        }
        search.found
    }
}

impl Asked {
    /// A mail that was to go stays: the other side gets it again, or nothing happens to it.
    fn spare(&mut self, mail: &Farewell, side: Side, own: Side, renew: bool) {
        let Common { found: Found::New(found), own: of_own, peer, guids } = &mut self.common else { return };
        let (facts, guids) = if side == own { (&*of_own, guids) } else { (&*peer, &mut self.theirs) };
        let Ok(item) = facts.items.binary_search_by_key(&mail.uid, |i| i.uid) else { return };
        if !renew && found.of(side).1.contains(&item) {
            found.kept.push(item);
        } else if renew && let Some(at) = found.renew(side, item) {
            guids.insert(at.min(guids.len()), Some(mail.guid.clone()));
        }
    }
}
