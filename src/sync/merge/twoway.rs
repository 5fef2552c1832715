//! Two-way: both sides end with the same mails.

use std::collections::HashSet;

use super::assign::{NewMails, assign};
use super::{Common, Facts, Item, Merged, NewGuids, Outcome, flags, merged_uidvalidity};
use crate::mail::{Guid128, ModSeq, Uid};
use crate::sync::tree::Side;

/// The mails that both sides shall have.
#[must_use]
pub fn two_way(master: &Facts, slave: &Facts, common: &Common, guids: (&NewGuids, &NewGuids)) -> Outcome {
    let highest = master.status.highest_modseq.max(slave.status.highest_modseq);
    let modseq = ModSeq(highest.0 + 1);
    let mut mails: Vec<Merged> =
        common.pairs.iter().map(|&(a, b)| both(&master.items[a], &slave.items[b], master.items[a].uid, modseq)).collect();

    let mut present = unfiltered(master, slave, common);
    // Whatever the filters say: the other copies of these go.
    present.extend(common.renewed.iter().filter_map(|&(side, n)| match side {
        Side::Master => master.items[n].guid,
        Side::Slave => slave.items[n].guid,
    }));
    let (new_master, held_master) = readable(master, &common.new_master, guids.0, &present);
    let (new_slave, held_slave) = readable(slave, &common.new_slave, guids.1, &present);
    let (assigned, uid_next) = assign(&new_master, &new_slave, None);
    for a in assigned {
        mails.push(match (a.master, a.slave) {
            (Some(x), Some(y)) => both(&master.items[x], &slave.items[y], a.uid, modseq),
            (Some(x), None) => {
                let renewed = common.renewed.contains(&(Side::Master, x));
                Merged { renewed, ..one(&master.items[x], a.uid, slave.status.highest_modseq, modseq, true) }
            }
            (None, Some(y)) => {
                let renewed = common.renewed.contains(&(Side::Slave, y));
                Merged { renewed, ..one(&slave.items[y], a.uid, master.status.highest_modseq, modseq, false) }
            }
            (None, None) => continue,
        });
    }
    // What cannot be read, or is held back by a filter, stays where it is and under its UID.
    mails.extend(held_master.into_iter().map(|i| stays(&master.items[i], true)));
    mails.extend(held_slave.into_iter().map(|i| stays(&slave.items[i], false)));
    mails.sort_by_key(|m| (m.uid, m.master));

    Outcome {
        uidvalidity: merged_uidvalidity(master, slave),
        uid_next,
        first_recent: master.status.first_recent.max(slave.status.first_recent).min(uid_next),
        modseq,
        mails,
        rebuild: false,
    }
}

/// What no filter holds back, because both sides have it already (sync.md 7.9). Empty where nothing is held back.
pub(super) fn unfiltered(master: &Facts, slave: &Facts, common: &Common) -> HashSet<Guid128> {
    let filtered = |facts: &Facts, new: &[usize]| new.iter().any(|&i| facts.items[i].filtered);
    if filtered(master, &common.new_master) || filtered(slave, &common.new_slave) {
        common.in_both(master, slave)
    } else {
        HashSet::new()
    }
}

pub(super) fn readable<'a>(
    facts: &'a Facts,
    new: &[usize],
    guids: &NewGuids,
    unfiltered: &HashSet<Guid128>,
) -> (NewMails<'a>, Vec<usize>) {
    let passes = |item: &Item| item.guid.is_some_and(|g| !item.filtered || unfiltered.contains(&g));
    let mut items = Vec::with_capacity(new.len());
    let mut held = Vec::new();
    for (n, &i) in new.iter().enumerate() {
        match guids.get(n) {
            Some(Some(guid)) if passes(&facts.items[i]) => items.push((i, guid.clone())),
            _ => held.push(i),
        }
    }
    (NewMails { facts, items }, held)
}

pub(in crate::sync) fn both(a: &Item, b: &Item, uid: Uid, changed: ModSeq) -> Merged {
    let (flags, keywords) = flags::merge(a, b);
    let same =
        a.flags == flags && b.flags == flags && a.keywords == keywords && b.keywords == keywords && a.uid == uid && b.uid == uid;
    let modseq = if same { a.modseq.max(b.modseq) } else { changed };
    Merged { uid, master: Some(a.uid), slave: Some(b.uid), flags, keywords, modseq, copied: true, renewed: false }
}

/// A mail that the other side gets. It keeps its modseq where that is news to the other side's clients.
pub(in crate::sync) fn one(item: &Item, uid: Uid, other_highest: ModSeq, changed: ModSeq, masters: bool) -> Merged {
    let modseq = if item.modseq > other_highest && item.uid == uid { item.modseq } else { changed };
    Merged {
        uid,
        master: masters.then_some(item.uid),
        slave: (!masters).then_some(item.uid),
        flags: item.flags,
        keywords: item.keywords.clone(),
        modseq,
        copied: true,
        renewed: false,
    }
}

/// A mail that only its own side has and keeps: its UID is meant there only.
pub(in crate::sync) fn stays(item: &Item, masters: bool) -> Merged {
    let mut m = one(item, item.uid, ModSeq(0), item.modseq, masters);
    m.modseq = item.modseq;
    m.copied = false;
    m
}
