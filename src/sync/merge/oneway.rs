//! `sync -1`: the destination gets what the source has and keeps what only it has; the source stays as it is.

use std::collections::{HashMap, HashSet};

use super::twoway::{both, stays};
use super::{Common, Facts, Merged, Outcome};
use crate::mail::{Guid128, ModSeq, Uid};

/// The mails that the destination shall have. `master_is_source` says which of the two facts are the source's.
///
/// A source mail whose UID the destination has used already gets a new one there; in later runs it is recognised by its GUID
/// and stays where it is.
#[must_use]
pub fn one_way(master: &Facts, slave: &Facts, common: &Common, master_is_source: bool) -> Outcome {
    let (source, dest) = if master_is_source { (master, slave) } else { (slave, master) };
    let (new_source, new_dest) =
        if master_is_source { (&common.new_master, &common.new_slave) } else { (&common.new_slave, &common.new_master) };
    let modseq = ModSeq(master.status.highest_modseq.max(slave.status.highest_modseq).0 + 1);
    let place = |source_uid: Option<Uid>, dest_uid: Option<Uid>| {
        if master_is_source { (source_uid, dest_uid) } else { (dest_uid, source_uid) }
    };

    let mut mails: Vec<Merged> =
        common.pairs.iter().map(|&(a, b)| both(&master.items[a], &slave.items[b], master.items[a].uid, modseq)).collect();

    // Instances of one mail: those of equal UID belong together, the others in their order.
    let twin = |s: usize| {
        let item = &source.items[s];
        dest.items
            .binary_search_by_key(&item.uid, |i| i.uid)
            .ok()
            .filter(|&d| item.guid.is_some() && dest.items[d].guid == item.guid)
    };
    let twins: HashSet<usize> = new_source.iter().filter_map(|&s| twin(s)).collect();
    let mut by_guid: HashMap<Guid128, Vec<usize>> = HashMap::new();
    for &d in new_dest.iter().rev().filter(|d| !twins.contains(d)) {
        if let Some(guid) = dest.items[d].guid {
            by_guid.entry(guid).or_default().push(d);
        }
    }
    let mut paired = vec![false; dest.items.len()];
    let mut next = dest.uid_next().max(source.uid_next());
    for &s in new_source {
        let item = &source.items[s];
        let Some(guid) = item.guid else { continue };
        if let Some(d) = twin(s).or_else(|| by_guid.get_mut(&guid).and_then(Vec::pop)) {
            paired[d] = true;
            let (a, b) = if master_is_source { (item, &dest.items[d]) } else { (&dest.items[d], item) };
            mails.push(both(a, b, dest.items[d].uid, modseq));
        } else if !item.filtered {
            let uid = if item.uid >= dest.uid_next() {
                item.uid
            } else {
                let uid = next;
                next = next.next();
                uid
            };
            let keeps = uid == item.uid && item.modseq > dest.status.highest_modseq;
            let (m, s) = place(Some(item.uid), None);
            mails.push(Merged {
                uid,
                master: m,
                slave: s,
                flags: item.flags,
                keywords: item.keywords.clone(),
                modseq: if keeps { item.modseq } else { modseq },
                copied: true,
            });
        }
    }
    mails.extend(new_dest.iter().filter(|&&d| !paired[d]).map(|&d| stays(&dest.items[d], !master_is_source)));
    mails.sort_by_key(|m| (m.uid, m.master));

    Outcome {
        uidvalidity: dest.status.identity.uidvalidity,
        uid_next: next,
        first_recent: source.status.first_recent.max(dest.status.first_recent).min(next),
        modseq,
        mails,
        rebuild: false,
    }
}
