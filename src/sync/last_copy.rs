//! The last copy of a mail stays.
//!
//! A mail is in two mailboxes. A user of one side expunges it in the first, a user of the other side in the second. Mailbox by
//! mailbox both are to be obeyed, and then it is nowhere, although nobody gave it up: each still had a copy. So a mail that is
//! to go from one side is looked for among those that went from the other side in the same run. If it was there and no copy is
//! left anywhere, it stays as a new mail with a new UID.
//!
//! This holds within one run. One that is stopped between the two, or cannot use one of the mailboxes, leaves the next one with one
//! expunge to obey. A deleted mailbox goes with its mails.
//!
//! Copies are told by their texts: in Maildir each has a GUID of its own. Texts are read only in a run in which both sides have
//! mails to lose, and no more than [`MAILS`] of them; a backup reverts its destination and asks nobody.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::tree::Side;
use crate::mail::{self, Body, Guid128, MailGuid, Mailbox, MailboxGuid, Timestamp, Uid, union_of_uids};

/// Texts that a side reads in a run, at most.
const MAILS: u32 = 2_000;
/// Octets of them, at most.
const OCTETS: u64 = 64 << 20;

/// What makes two texts one: a digest without the carriage returns, which storages keep or drop.
type Text = [u8; 20];

/// A mail that its side is to lose because the other side's users have expunged it. In `sync -1` also a mail that the source
/// keeps and the destination does not get, for that reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// Its UID.
    pub uid: Uid,
    /// Its GUID.
    pub guid: MailGuid,
    /// When it was received: a copy keeps that.
    pub received: Timestamp,
    /// Digest of its text.
    pub text: Text,
}

/// The mails that both sides of a mailbox are to lose: the master's, the slave's.
pub(super) type Farewells<'a> = [&'a [Farewell]; 2];

/// What went in this run, and what stayed. Both brains know the same.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    lost: [HashSet<Text>; 2],
    spared: HashSet<Text>,
}

impl Ledger {
    /// Mails of these mailboxes that both sides would have lost with them, one for each text, in an order that both brains know.
    pub fn suspects<'a>(&self, mailboxes: &[Farewells<'a>]) -> Vec<&'a Farewell> {
        let mut going = [HashSet::new(), HashSet::new()];
        for of in mailboxes {
            for (going, of) in going.iter_mut().zip(of) {
                going.extend(of.iter().map(|f| f.text));
            }
        }
        let goes = |side: usize, text: &Text| going[side].contains(text) || self.lost[side].contains(text);
        let mut seen = HashSet::new();
        let all = mailboxes.iter().flat_map(|of| of.iter().copied().flatten());
        all.filter(|f| goes(0, &f.text) && goes(1, &f.text) && !self.spared.contains(&f.text) && seen.insert(f.text)).collect()
    }

    /// Which mails stay: the mailbox, the side and the number in its list. `last` are the suspects of which no other copy is
    /// left. In `sync -1` the `source` keeps its mails anyway, and those of the destination stay first.
    pub fn spare(
        &mut self,
        mailboxes: &[Farewells<'_>],
        last: &HashSet<Text>,
        source: Option<Side>,
    ) -> Vec<(usize, Side, usize)> {
        let mut out = Vec::new();
        for (at, of) in mailboxes.iter().enumerate() {
            let mut here: Vec<(Side, usize, &Farewell)> = Vec::new();
            for (side, of) in [Side::Master, Side::Slave].into_iter().zip(of) {
                here.extend(of.iter().enumerate().map(|(n, f)| (side, n, f)));
            }
            for (side, _, f) in &here {
                self.lost[*side as usize].insert(f.text);
            }
            here.sort_by_key(|(side, _, f)| (source == Some(*side), f.uid, *side as usize));
            for (side, n, f) in here {
                let both = self.lost.iter().all(|lost| lost.contains(&f.text));
                if both && last.contains(&f.text) && self.spared.insert(f.text) {
                    out.push((at, side, n));
                }
            }
        }
        out
    }
}

/// What one brain needs for it.
pub(super) struct LastCopy {
    /// Both sides have mails to lose in this run.
    pub armed: bool,
    pub ledger: Ledger,
    /// Mails of the source of `sync -1` that the destination's users have expunged: no copies to count on.
    pub given_up: HashSet<(MailboxGuid, Uid)>,
    mails: u32,
    octets: u64,
}

impl Default for LastCopy {
    fn default() -> Self {
        Self { armed: false, ledger: Ledger::default(), given_up: HashSet::new(), mails: MAILS, octets: OCTETS }
    }
}

impl LastCopy {
    /// Reads what is to go. What cannot be read is nobody's copy.
    pub fn farewells(&mut self, mailbox: &mut dyn Mailbox, uids: impl Iterator<Item = Uid>) -> Vec<Farewell> {
        let mut out = Vec::new();
        for uid in uids {
            if self.mails == 0 || self.octets == 0 {
                tracing::warn!("More mails are expunged than are looked at for their last copies");
                break;
            }
            self.mails -= 1;
            if let Ok(farewell) = self.farewell(mailbox, uid) {
                out.push(farewell);
            }
        }
        out
    }

    fn farewell(&mut self, mailbox: &mut dyn Mailbox, uid: Uid) -> mail::Result<Farewell> {
        let (text, octets) = digest(mailbox.body(uid)?).map_err(|e| mail::Error::new(mail::Class::Temporary, e))?;
        self.octets = self.octets.saturating_sub(octets);
        Ok(Farewell { uid, guid: mailbox.guid(uid)?, received: mailbox.facts(uid)?.received, text })
    }
}

/// A search for copies.
pub(super) struct Search<'a> {
    by_guid: HashMap<Guid128, usize>,
    by_date: HashMap<Timestamp, Vec<usize>>,
    wanted: &'a [&'a Farewell],
    /// Which are there.
    pub found: Vec<bool>,
}

impl<'a> Search<'a> {
    pub fn new(wanted: &'a [&'a Farewell]) -> Self {
        let mut by_date: HashMap<Timestamp, Vec<usize>> = HashMap::new();
        for (n, f) in wanted.iter().enumerate() {
            by_date.entry(f.received).or_default().push(n);
        }
        let by_guid = wanted.iter().enumerate().map(|(n, f)| (f.guid.to_128(), n)).collect();
        Self { by_guid, by_date, wanted, found: vec![false; wanted.len()] }
    }

    pub fn is_over(&self) -> bool {
        self.found.iter().all(|f| *f)
    }

    /// Looks through a mailbox, but for the mails that go.
    pub fn through(&mut self, mailbox: &mut dyn Mailbox, goes: impl Fn(Uid) -> bool) {
        let mails = mailbox.list();
        for uid in (0..mails.len()).map(|at| mails.uid(at)).filter(|u| !goes(*u)) {
            if self.is_over() {
                return;
            }
            if let Some(&n) = mailbox.guid128(uid).ok().and_then(|guid| self.by_guid.get(&guid)) {
                self.found[n] = true;
                continue;
            }
            let Some(same_date) = mailbox.facts(uid).ok().and_then(|f| self.by_date.get(&f.received)) else { continue };
            if same_date.iter().all(|&n| self.found[n]) {
                continue;
            }
            let Some((text, _)) = mailbox.body(uid).ok().and_then(|body| digest(body).ok()) else { continue };
            for &n in same_date {
                self.found[n] |= self.wanted[n].text == text;
            }
        }
    }
}

fn digest(mut body: Body) -> std::io::Result<(Text, u64)> {
    let mut hash = Sha1::new();
    let mut octets = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = body.reader.read(&mut buffer)?;
        if n == 0 {
            return Ok((hash.finalize().into(), octets));
        }
        octets += n as u64;
        for line in buffer[..n].split(|&b| b == b'\r') {
            hash.update(line);
        }
    }
}

/// The mails of one side of a mailbox, before anything is compared. Both sides have the same UIDVALIDITY.
#[derive(Debug, Clone)]
pub(super) struct Present {
    pub uid_next: Uid,
    pub uids: Vec<(Uid, Uid)>,
}

impl Present {
    /// This side may have mails to lose: that the other side had, or passed over, and has no more.
    pub fn may_lose(&self, other: &Self) -> bool {
        let covered = |first: Uid, last: Uid| {
            let n = other.uids.partition_point(|r| r.1 < first);
            other.uids.get(n).is_some_and(|r| r.0 <= first && last <= r.1)
        };
        self.uids.iter().filter(|r| r.0 < other.uid_next).any(|&(first, last)| {
            let below = Uid::new(other.uid_next.get() - 1).map_or(last, |below| below.min(last));
            !covered(first, below)
        })
    }
}

/// The UIDs of a mailbox.
pub(super) fn uids(mailbox: &dyn Mailbox) -> Vec<(Uid, Uid)> {
    let mails = mailbox.list();
    let uids = (0..mails.len()).map(|at| mails.uid(at));
    union_of_uids(uids.map(|uid| (uid, uid)))
}
