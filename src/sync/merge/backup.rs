//! `backup`: the destination becomes what the source is, without getting again what it has.

use std::collections::{HashMap, HashSet};

use super::{Facts, Merged, Outcome};
use crate::mail::{Guid128, Uid};

/// The source's mails that an earlier run has held back, because a filter or an error kept it from copying them. Before a
/// mailbox is rebuilt for their sake the source has to see whether they can be read.
#[must_use]
pub fn once_held_back(source: &Facts, dest: &Facts) -> Vec<Uid> {
    let held = source.items.iter().filter(|i| i.guid.is_some() && !i.filtered && dest.never_had(i.uid));
    held.filter(|i| dest.item(i.uid).is_none()).map(|i| i.uid).collect()
}

/// The mails that the destination shall have: the source's, without those of [`once_held_back`] that are `unreadable`. `master_is_source` says which of the two facts are the source's.
///
/// Where a UID stands for another mail at the destination, a mail is missing below its UIDNEXT, or that is beyond the source's,
/// the mailbox has to be rebuilt. Each source mail is looked for under any UID.
#[must_use]
pub fn backup(master: &Facts, slave: &Facts, master_is_source: bool, unreadable: &HashSet<Uid>) -> Outcome {
    let (source, dest) = if master_is_source { (master, slave) } else { (slave, master) };
    let mut rebuild = dest.uid_next() > source.uid_next();
    let mut found: Vec<(usize, Option<Uid>)> = Vec::with_capacity(source.items.len());
    for (n, item) in source.items.iter().enumerate() {
        let there = dest.item(item.uid);
        match (item.guid, there) {
            (Some(a), Some(d)) if d.guid.is_none_or(|b| a == b) => found.push((n, Some(d.uid))),
            (None, Some(d)) => found.push((n, Some(d.uid))),
            (Some(_), None) if !item.filtered && !unreadable.contains(&item.uid) => {
                rebuild |= item.uid < dest.uid_next();
                found.push((n, None));
            }
            (Some(_), Some(_)) if !item.filtered => {
                rebuild = true;
                found.push((n, None));
            }
            // Unreadable or filtered, and not there: nothing to be done.
            _ => {}
        }
    }
    find_anywhere(source, dest, &mut found, rebuild);
    let mails = found
        .into_iter()
        .map(|(n, at_dest)| {
            let item = &source.items[n];
            let (m, s) = if master_is_source { (Some(item.uid), at_dest) } else { (at_dest, Some(item.uid)) };
            Merged {
                uid: item.uid,
                master: m,
                slave: s,
                flags: item.flags,
                keywords: item.keywords.clone(),
                modseq: item.modseq,
                copied: true,
                renewed: false,
            }
        })
        .collect();
    Outcome {
        uidvalidity: source.status.identity.uidvalidity,
        uid_next: source.uid_next(),
        first_recent: source.status.first_recent,
        modseq: source.status.highest_modseq,
        mails,
        rebuild,
    }
}

/// Gives each source mail without a partner a destination mail of its GUID, whatever its UID; one `again` that has a partner
/// already where none else is there.
fn find_anywhere(source: &Facts, dest: &Facts, found: &mut [(usize, Option<Uid>)], again: bool) {
    if found.iter().all(|(_, d)| d.is_some()) {
        return;
    }
    let taken: HashSet<Uid> = found.iter().filter_map(|(_, d)| *d).collect();
    let mut free: HashMap<Guid128, Vec<Uid>> = HashMap::new();
    let mut any: HashMap<Guid128, Uid> = HashMap::new();
    for d in dest.items.iter().rev() {
        if let Some(guid) = d.guid {
            any.insert(guid, d.uid);
            if !taken.contains(&d.uid) {
                free.entry(guid).or_default().push(d.uid);
            }
        }
    }
    for (n, at_dest) in found.iter_mut().filter(|(_, d)| d.is_none()) {
        if let Some(guid) = source.items[*n].guid {
            *at_dest = free.get_mut(&guid).and_then(Vec::pop).or_else(|| any.get(&guid).copied().filter(|_| again));
        }
    }
}
