//! What the transaction log tells of the changes since an earlier run (spec: index.md 7, sync.md 5.6 and 6.1).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::index::error::{Damage, DamageClass, Result};
use crate::index::handle::{Index, LogText, step};
use crate::index::log::{Bits, Change, Range, Transactions};
use crate::index::state::Position;
use crate::mail::{
    AttributeChange, AttributeKey, Changes, Flags, Guid128, Keyword, Keywords, LogChange, MailList, ModSeq, Renumbered, Since,
    Status, Uid,
};

/// Expunges that name ranges, not mails, are listed UID by UID: more than this is no mailbox.
const MAX_EXPUNGED: u32 = 1 << 24;

/// From where to where a log is read, and the view that tells which mails are there.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'v> {
    /// From where.
    pub since: Since,
    /// Where the view was taken ([`State::position`](crate::index::State::position) of then).
    pub end: Position,
    /// The mails of the view, ascending.
    pub mails: &'v dyn MailList,
    /// The numbers of the view.
    pub status: &'v Status,
}

impl Scan<'_> {
    fn has(&self, uid: u32) -> bool {
        Uid::new(uid).is_some_and(|uid| self.mails.position(uid).is_some())
    }

    /// The UIDs of the view in a range.
    fn within(&self, range: Range) -> impl Iterator<Item = u32> {
        let from =
            |uid: Option<u32>| uid.map_or(self.mails.len(), |uid| Uid::new(uid).map_or(0, |uid| self.mails.first_from(uid)));
        let (first, behind) = (from(Some(range.first)), from(range.last.checked_add(1)));
        (first..behind).map(|at| self.mails.uid(at).get())
    }

    /// Why a state that says so is not of this mailbox as it is now.
    fn contradiction(&self, modseq: ModSeq, uid: Option<Uid>) -> Option<String> {
        let uid = uid?;
        let (next, highest) = (self.status.identity.uid_next, self.status.highest_modseq);
        if next < uid {
            return Some(format!("uidnext {next} < {uid}"));
        }
        (highest < modseq).then(|| format!("highest_modseq {highest} < {modseq}"))
    }
}

/// What is known of a UID so far.
enum Seen {
    Expunged(Guid128),
    Flags { added: Flags, removed: Flags, reset: bool, keywords: Vec<(u32, bool)> },
}

impl Seen {
    const CHANGED: Self = Self::Flags { added: Flags::NONE, removed: Flags::NONE, reset: false, keywords: Vec::new() };
}

struct Collector<'s, 'v> {
    scan: &'s Scan<'v>,
    /// Mails above it are new to the other side anyway.
    last_uid: u32,
    seen: BTreeMap<u32, Seen>,
    // Names as the log has them; numbers are positions.
    keywords: Vec<Keyword>,
    keyword_numbers: HashMap<Vec<u8>, u32>,
    attributes: Vec<AttributeChange>,
    native: Vec<(u32, u32)>,
    synced: Vec<(u32, u32)>,
    renumbered: Vec<Renumbered>,
    synced_flags: BTreeSet<u32>,
    step: Step,
}

/// What a sync did in the transaction that is being read.
#[derive(Default)]
struct Step {
    appended: Option<(u32, u32)>,
    gone: Vec<u32>,
}

/// Adds a UID to ascending ranges; appends come in that order.
fn add_uid(ranges: &mut Vec<(u32, u32)>, uid: u32) {
    match ranges.last_mut() {
        Some((_, last)) if *last >= uid => {}
        Some((_, last)) if last.checked_add(1) == Some(uid) => *last = uid,
        _ => ranges.push((uid, uid)),
    }
}

impl Index {
    /// Reads the logs up to the end of a view.
    ///
    /// # Errors
    /// Damage, I/O.
    pub fn changes(&self, scan: &Scan<'_>) -> Result<Changes> {
        let logs = match scan.since {
            // What the view shows is what was known then.
            Since::State { modseq, .. } if modseq != ModSeq(0) && modseq == scan.status.highest_modseq => Vec::new(),
            Since::State { modseq, .. } => self.logs(Some(modseq))?,
            Since::Everything => self.logs(None)?,
        };
        let (mut too_old, mut from, mut last_uid) = (None, Position::default(), u32::MAX);
        if let Since::State { modseq, uid } = scan.since
            && modseq != ModSeq(0)
        {
            last_uid = uid.map_or(0, Uid::get);
            match start(&logs, modseq, scan)? {
                Some(position) => from = position,
                None => {
                    let s = scan.status;
                    too_old = Some(format!(
                        "Modseq {modseq} no longer in transaction log (highest={}, last_common_uid={last_uid}, nextuid={})",
                        s.highest_modseq, s.identity.uid_next
                    ));
                }
            }
            too_old = too_old.or_else(|| scan.contradiction(modseq, uid));
            if too_old.is_some() {
                return self.changes(&Scan { since: Since::Everything, ..*scan }).map(|all| Changes { too_old, ..all });
            }
        }
        let mut collector = Collector {
            scan,
            last_uid,
            seen: BTreeMap::new(),
            keywords: Vec::new(),
            keyword_numbers: HashMap::new(),
            attributes: Vec::new(),
            native: Vec::new(),
            synced: Vec::new(),
            renumbered: Vec::new(),
            synced_flags: BTreeSet::new(),
            step: Step::default(),
        };
        for log in &logs {
            collector.read(log, from)?;
        }
        Ok(collector.finish(too_old))
    }
}

/// Behind which record the changes after this modseq begin. `None`: not in these logs any more.
fn start(logs: &[LogText], modseq: ModSeq, scan: &Scan<'_>) -> Result<Option<Position>> {
    if modseq == scan.status.highest_modseq {
        return Ok(Some(scan.end));
    }
    let Some(log) = logs.iter().rev().find(|l| (1..=modseq.0).contains(&l.header.initial_modseq)) else { return Ok(None) };
    let seq = log.header.file_seq;
    let mut counter = log.counter;
    let mut offset = u64::from(log.first);
    for record in log.transactions().flatten() {
        if counter >= modseq.0 {
            break;
        }
        let (change, bits) = Change::parse(&record).map_err(|bad| log.source().damage(record.offset, bad))?;
        counter = step(counter, &change, bits, log.header.minor);
        offset = record.offset + record.size() as u64;
    }
    Ok(Some(Position { seq, offset: u32::try_from(offset).unwrap_or(u32::MAX) }))
}

impl LogText {
    fn transactions(&self) -> Transactions<'_> {
        Transactions::new(&self.bytes, u64::from(self.first))
    }
}

impl Collector<'_, '_> {
    fn read(&mut self, log: &LogText, from: Position) -> Result<()> {
        let seq = log.header.file_seq;
        if seq < from.seq || seq > self.scan.end.seq {
            return Ok(());
        }
        let mut counter = log.counter;
        for transaction in log.transactions() {
            for record in transaction {
                let at = Position { seq, offset: u32::try_from(record.offset).unwrap_or(u32::MAX) };
                if at >= self.scan.end {
                    return Ok(());
                }
                let (change, bits) = Change::parse(&record).map_err(|bad| log.source().damage(record.offset, bad))?;
                counter = step(counter, &change, bits, log.header.minor);
                if at < from {
                    continue;
                }
                self.take(&change, bits, counter)
                    .map_err(|what| Damage::new(DamageClass::LogCorrupt, &log.path, record.offset, what))?;
            }
            self.end_of_transaction();
        }
        Ok(())
    }

    fn end_of_transaction(&mut self) {
        let Step { appended, gone } = std::mem::take(&mut self.step);
        if let Some((first, last)) = appended.and_then(|(a, b)| Some((Uid::new(a)?, Uid::new(b)?))) {
            let from = gone.into_iter().filter_map(Uid::new);
            self.renumbered.extend(from.map(|from| Renumbered { from, first, last }));
        }
    }

    fn take(&mut self, change: &Change<'_>, bits: Bits, counter: u64) -> std::result::Result<(), String> {
        if let Change::Append(list) = change {
            let ranges = if bits.sync { &mut self.synced } else { &mut self.native };
            for a in list.iter() {
                add_uid(ranges, a.uid);
                if bits.sync {
                    let (first, last) = self.step.appended.unwrap_or((a.uid, a.uid));
                    self.step.appended = Some((first.min(a.uid), last.max(a.uid)));
                }
            }
            return Ok(());
        }
        if bits.sync && !matches!(change, Change::ExpungeGuid(_)) {
            if self.scan.since != Since::Everything {
                self.note_synced(change);
            }
            return Ok(());
        }
        match change {
            Change::Expunge(ranges) if bits.external => {
                for range in ranges.iter() {
                    let last = range.last.min(self.last_uid).min(self.scan.status.identity.uid_next.get());
                    if last.saturating_sub(range.first) > MAX_EXPUNGED {
                        return Err(format!("expunge of {} mails", last - range.first));
                    }
                    (range.first..=last).for_each(|uid| self.expunged(uid, Guid128::ZERO));
                }
            }
            Change::ExpungeGuid(list) => {
                // A request tells the GUID, but is true only once the mail is gone.
                for e in list.iter().filter(|e| bits.external || !self.scan.has(e.uid)) {
                    self.expunged(e.uid, e.guid);
                    if bits.sync && bits.external {
                        self.step.gone.push(e.uid);
                    }
                }
            }
            Change::Flags(ranges) => {
                for r in ranges.iter() {
                    let (add, remove) = (Flags::from_bits(r.add), Flags::from_bits(r.remove));
                    self.each(r.uids, |added, removed, _, _| {
                        *added = added.without(remove) | add;
                        *removed = removed.without(add) | remove.without(add);
                    });
                }
            }
            Change::Keyword { add, name, ranges } => {
                let keyword = self.keyword(name);
                for range in ranges.iter() {
                    self.each(range, |_, _, _, keywords| match keywords.iter_mut().find(|k| k.0 == keyword) {
                        Some(known) => known.1 = *add,
                        None => keywords.push((keyword, *add)),
                    });
                }
            }
            Change::KeywordReset(ranges) => {
                for range in ranges.iter() {
                    self.each(range, |_, _, reset, keywords| {
                        *reset = true;
                        keywords.clear();
                    });
                }
            }
            Change::Modseq(list) => {
                for (uid, _) in list.iter().filter(|m| m.0 != 0) {
                    self.each(Range { first: uid, last: uid }, |_, _, _, _| {});
                }
            }
            Change::Attributes(list) => {
                for (removed, private, key) in list.iter() {
                    let key = AttributeKey { private, key: String::from_utf8_lossy(key).into_owned() };
                    let change = AttributeChange { key, removed, modseq: ModSeq(counter) };
                    match self.attributes.iter_mut().find(|a| a.key == change.key) {
                        Some(known) => *known = change,
                        None => self.attributes.push(change),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn note_synced(&mut self, change: &Change<'_>) {
        let scan = self.scan;
        let last = self.last_uid;
        let known = |r: Range| scan.within(Range { last: r.last.min(last), ..r });
        match change {
            Change::Flags(list) => self.synced_flags.extend(list.iter().flat_map(|r| known(r.uids))),
            Change::Keyword { ranges, .. } | Change::KeywordReset(ranges) => {
                self.synced_flags.extend(ranges.iter().flat_map(known));
            }
            _ => {}
        }
    }

    fn expunged(&mut self, uid: u32, guid: Guid128) {
        if uid > self.last_uid {
            return;
        }
        match self.seen.get_mut(&uid) {
            Some(Seen::Expunged(known)) => {
                if !guid.is_zero() {
                    *known = guid;
                }
            }
            _ => drop(self.seen.insert(uid, Seen::Expunged(guid))),
        }
    }

    /// Changes what is known of each mail of the view in a range, unless it is known to be expunged.
    fn each(&mut self, range: Range, mut change: impl FnMut(&mut Flags, &mut Flags, &mut bool, &mut Vec<(u32, bool)>)) {
        let range = Range { last: range.last.min(self.last_uid), ..range };
        for uid in self.scan.within(range) {
            let seen = self.seen.entry(uid).or_insert(Seen::CHANGED);
            if let Seen::Flags { added, removed, reset, keywords } = seen {
                change(added, removed, reset, keywords);
            }
        }
    }

    fn keyword(&mut self, name: &[u8]) -> u32 {
        let number = u32::try_from(self.keywords.len()).unwrap_or(u32::MAX);
        *self.keyword_numbers.entry(name.to_ascii_lowercase()).or_insert_with(|| {
            self.keywords.push(Keyword::new(&String::from_utf8_lossy(name)));
            number
        })
    }

    fn finish(self, too_old: Option<String>) -> Changes {
        let mut sets: HashMap<Vec<(u32, bool)>, (Keywords, Keywords)> = HashMap::new();
        let name = |k: &(u32, bool)| self.keywords.get(k.0 as usize).cloned();
        // A reset removed whatever there was: of that we know the names that other mails of the view have.
        let all: Keywords = if self.seen.values().any(|s| matches!(s, Seen::Flags { reset: true, .. })) {
            let mails = self.scan.mails;
            let there = (0..mails.len()).map(|at| mails.mail(at).keywords).collect::<HashSet<_>>();
            there.iter().flat_map(|k| k.iter().cloned()).chain(self.keywords.iter().cloned()).collect()
        } else {
            Keywords::NONE
        };
        let mails = self.seen.into_iter().filter_map(|(uid, seen)| {
            let uid = Uid::new(uid)?;
            Some(match seen {
                Seen::Expunged(guid) => LogChange::Expunged { uid, guid: Some(guid).filter(|g| !g.is_zero()) },
                Seen::Flags { added, removed, reset, mut keywords } => {
                    keywords.sort_unstable();
                    let (plus, mut minus) = sets
                        .entry(keywords)
                        .or_insert_with_key(|list| {
                            let side = |add| list.iter().filter(|k| k.1 == add).filter_map(name).collect();
                            (side(true), side(false))
                        })
                        .clone();
                    if reset {
                        minus = minus.union(&all.without(&plus));
                    }
                    LogChange::Flags { uid, added, removed, keywords_added: plus, keywords_removed: minus }
                }
            })
        });
        let uids = |ranges: Vec<(u32, u32)>| ranges.into_iter().filter_map(|(a, b)| Some((Uid::new(a)?, Uid::new(b)?))).collect();
        Changes {
            too_old,
            mails: mails.collect(),
            attributes: self.attributes,
            native: uids(self.native),
            synced: uids(self.synced),
            renumbered: self.renumbered,
            synced_flags: self.synced_flags.into_iter().filter_map(Uid::new).collect(),
        }
    }
}
