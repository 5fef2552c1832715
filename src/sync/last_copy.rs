//! The last copy of a mail stays.
//!
//! A mail is in two mailboxes. A user of one side expunges it in the first, a user of the other side in the second. Mailbox by
//! mailbox both are to be obeyed, and then it is nowhere, although nobody gave it up: each still had a copy. So before anything
//! is changed both sides tell which mails they may have to lose. A mail that both would lose, and of which no other copy is left on
//! either, stays where its turn comes first, as a new mail with a new UID; the others go. A run that is stopped in between has
//! left the mail somewhere, and the next one finds it.
//!
//! Copies are told by GUID or, because in Maildir each has one of its own, by text. Texts are read only of mails with the same date
//! on both sides. A backup reverts its destination and asks nobody.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::merge::contains;
use super::tree::Side;
use crate::mail::{Body, Guid128, MailGuid, Mailbox, MailboxGuid, Timestamp, Uid, union_of_uids};

/// Texts that a side reads for this in a run, at most. What is not read is nobody's copy.
const TEXTS: u32 = 20_000;

/// What makes two texts one: a digest without the carriage returns, which storages keep or drop.
pub type Text = [u8; 20];

/// A mail that its side may have to lose, because the other side does not have it any more. In `sync -1` also a mail that the source
/// keeps and the destination does not get, for that reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// Its UID.
    pub uid: Uid,
    /// Its GUID.
    pub guid: MailGuid,
    /// When it was received: a copy keeps that. 0: not known.
    pub received: Timestamp,
}

/// The mails of one side of a mailbox, before anything is compared.
#[derive(Debug, Clone)]
pub(super) struct Present {
    pub uid_next: Uid,
    pub uids: Vec<(Uid, Uid)>,
}

impl Present {
    /// The UIDs that this side may have to lose: below what the other side has given out, and not there.
    pub fn lost_at(&self, other: &Self) -> Vec<(Uid, Uid)> {
        let mut out = Vec::new();
        for &(first, last) in &self.uids {
            let mut at = first;
            let from = other.uids.partition_point(|r| r.1 < first);
            for &(there, end) in &other.uids[from..] {
                if there > last {
                    break;
                }
                if at < there {
                    out.extend(Uid::new(there.get() - 1).map(|before| (at, before)));
                }
                at = at.max(end.next());
            }
            let below = Uid::new(other.uid_next.get() - 1).map_or(last, |below| below.min(last));
            if at <= below {
                out.push((at, below));
            }
        }
        out
    }
}

/// The UIDs of a mailbox.
pub(super) fn uids(mailbox: &dyn Mailbox) -> Vec<(Uid, Uid)> {
    let list = mailbox.list();
    union_of_uids((0..list.len()).map(|n| (list.uid(n), list.uid(n))))
}

/// These UIDs one by one.
pub(super) fn each(ranges: &[(Uid, Uid)]) -> impl Iterator<Item = Uid> {
    ranges.iter().flat_map(|&(first, last)| (first.get()..=last.get()).filter_map(Uid::new))
}

/// What is there of these mails.
pub(super) fn farewells(mailbox: &mut dyn Mailbox, uids: &[(Uid, Uid)]) -> Vec<Farewell> {
    let mut out = Vec::new();
    for uid in each(uids) {
        if let Ok(guid) = mailbox.guid(uid) {
            let received = mailbox.facts(uid).map(|f| f.received).unwrap_or_default();
            out.push(Farewell { uid, guid, received });
        }
    }
    out
}

/// UIDs by mailbox.
pub(super) type Ranges = HashMap<MailboxGuid, Vec<(Uid, Uid)>>;

/// The mails that both sides may have to lose: the master's, the slave's. Each with its mailbox.
pub(super) type Going = [Vec<(MailboxGuid, Farewell)>; 2];

/// Leaves those that do go.
pub(super) fn only(going: &mut Going, gone: &[Ranges; 2]) {
    for (side, gone) in going.iter_mut().zip(gone) {
        side.retain(|(mailbox, f)| gone.get(mailbox).is_some_and(|gone| contains(gone, f.uid)));
    }
}

/// Leaves those that may be copies of one of the other side's.
pub(super) fn suspects(mut going: Going) -> Going {
    let known = going.each_ref().map(|side| {
        let guids: HashSet<Guid128> = side.iter().map(|(_, f)| f.guid.to_128()).collect();
        let dates: HashSet<Timestamp> = side.iter().map(|(_, f)| f.received).filter(|d| d.0 != 0).collect();
        (guids, dates)
    });
    for (side, (guids, dates)) in going.iter_mut().zip(known.iter().rev()) {
        side.retain(|(_, f)| guids.contains(&f.guid.to_128()) || dates.contains(&f.received));
    }
    going
}

/// A mail with its copies.
#[derive(Debug, Default)]
pub(super) struct Copies {
    guids: HashSet<Guid128>,
    texts: HashSet<Text>,
    sides: [bool; 2],
}

/// The last copies of a run. Both brains know the same.
#[derive(Debug, Default)]
pub(super) struct LastCopies {
    copies: Vec<Copies>,
    of: HashMap<(MailboxGuid, bool, Uid), (usize, MailGuid)>,
    dates: HashMap<Timestamp, HashSet<usize>>,
    /// One is safe on both sides, or always was.
    safe: Vec<bool>,
}

impl LastCopies {
    /// From suspects and their texts.
    pub fn new(suspects: Going, texts: &[Vec<Option<Text>>; 2]) -> Self {
        let mut out = Self::default();
        let (mut by_guid, mut by_text) = (HashMap::new(), HashMap::new());
        for (side, (mails, texts)) in suspects.into_iter().zip(texts).enumerate() {
            for (n, (mailbox, f)) in mails.into_iter().enumerate() {
                let (guid, text) = (f.guid.to_128(), texts.get(n).copied().flatten());
                let known = by_guid.get(&guid).or_else(|| by_text.get(&text?)).copied();
                let at = known.unwrap_or_else(|| {
                    out.copies.push(Copies::default());
                    out.copies.len() - 1
                });
                by_guid.insert(guid, at);
                out.copies[at].guids.insert(guid);
                if let Some(text) = text {
                    by_text.insert(text, at);
                    out.copies[at].texts.insert(text);
                }
                out.copies[at].sides[side] = true;
                out.dates.entry(f.received).or_default().insert(at);
                out.of.insert((mailbox, side == 1, f.uid), (at, f.guid));
            }
        }
        out.safe = out.copies.iter().map(|c| c.sides != [true; 2]).collect();
        out
    }

    /// There is nothing to look after.
    pub fn is_empty(&self) -> bool {
        self.safe.iter().all(|s| *s)
    }

    /// What was found elsewhere is safe.
    pub fn found(&mut self, elsewhere: &[bool]) {
        self.safe.iter_mut().zip(elsewhere).for_each(|(safe, found)| *safe |= found);
    }

    /// Which of these going mails of a mailbox stay, one of each: side, UID, GUID. In `sync -1` the `source` keeps its mails
    /// anyway, and those of the destination stay first.
    pub fn spare(&self, mailbox: MailboxGuid, going: &[(Side, Uid)], source: Option<Side>) -> Vec<(usize, Side, Uid, MailGuid)> {
        let mut here: Vec<_> = going
            .iter()
            .filter_map(|&(side, uid)| {
                let (at, guid) = self.of.get(&(mailbox, side == Side::Slave, uid))?;
                (!self.safe[*at]).then(|| (*at, side, uid, guid.clone()))
            })
            .collect();
        here.sort_by_key(|&(at, side, uid, _)| (at, source == Some(side), uid, side == Side::Slave));
        here.dedup_by_key(|one| one.0);
        here
    }

    /// Both sides have them now.
    pub fn are_safe(&mut self, spared: &[usize]) {
        spared.iter().for_each(|&at| self.safe[at] = true);
    }
}

/// Reads texts, within bounds.
pub(super) struct Reader {
    left: u32,
}

impl Default for Reader {
    fn default() -> Self {
        Self { left: TEXTS }
    }
}

impl Reader {
    /// The digest of a mail's text; none where it cannot be read.
    pub fn text(&mut self, mailbox: &mut dyn Mailbox, uid: Uid) -> Option<Text> {
        self.left = self.left.checked_sub(1)?;
        mailbox.body(uid).ok().and_then(|body| digest(body).ok())
    }
}

/// A search for copies that stay.
pub(super) struct Search<'a> {
    last: &'a LastCopies,
    by_guid: HashMap<Guid128, usize>,
    by_text: HashMap<Text, usize>,
    reader: &'a mut Reader,
    /// Which were found, or need not be.
    pub found: Vec<bool>,
    /// How many were not.
    left: usize,
}

impl<'a> Search<'a> {
    pub fn new(last: &'a LastCopies, reader: &'a mut Reader) -> Self {
        let (mut by_guid, mut by_text) = (HashMap::new(), HashMap::new());
        for (n, copies) in last.copies.iter().enumerate() {
            by_guid.extend(copies.guids.iter().map(|g| (*g, n)));
            by_text.extend(copies.texts.iter().map(|t| (*t, n)));
        }
        let left = last.safe.iter().filter(|safe| !**safe).count();
        Self { last, by_guid, by_text, reader, found: last.safe.clone(), left }
    }

    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Looks through a mailbox, but for the mails that go.
    pub fn through(&mut self, mailbox: &mut dyn Mailbox, going: &[(Uid, Uid)]) {
        let list = mailbox.list();
        for uid in (0..list.len()).map(|n| list.uid(n)).filter(|u| !contains(going, *u)) {
            if self.is_over() {
                return;
            }
            if let Some(&n) = mailbox.guid128(uid).ok().and_then(|guid| self.by_guid.get(&guid)) {
                self.is_found(n);
                continue;
            }
            let same_date = mailbox.facts(uid).ok().and_then(|f| self.last.dates.get(&f.received));
            if same_date.is_none_or(|of| of.iter().all(|&n| self.found[n])) {
                continue;
            }
            if let Some(&n) = self.reader.text(mailbox, uid).and_then(|text| self.by_text.get(&text)) {
                self.is_found(n);
            }
        }
    }

    fn is_found(&mut self, n: usize) {
        if !std::mem::replace(&mut self.found[n], true) {
            self.left -= 1;
        }
    }
}

fn digest(mut body: Body) -> std::io::Result<Text> {
    let mut hash = Sha1::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = body.reader.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finalize().into());
        }
        for line in buffer[..n].split(|&b| b == b'\r') {
            hash.update(line);
        }
    }
}
