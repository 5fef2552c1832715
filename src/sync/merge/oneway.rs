//! `sync -1`: the destination gets what the source has and keeps what only it has; the source stays as it is.

use std::collections::{BTreeMap, HashSet};

use super::assign::assign;
use super::twoway::{both, one, readable, stays, unfiltered};
use super::{Common, Context, Expunged, Facts, Item, Merged, Missing, NewGuids, Outcome, find_common, merged_uidvalidity};
use crate::mail::{Guid128, ModSeq, Renumbered, Uid, union_of_uids};
use crate::sync::tree::Side;

/// The mails that the destination shall have. `master_is_source` says which of the two facts are the source's.
///
/// UIDs are given as in a two-way run, which is what Dovecot does: a mail of the destination whose UID the source has used makes
/// room. A mail that the destination has under another UID than the source is recognised by its GUID and stays where it is.
#[must_use]
pub fn one_way(master: &Facts, slave: &Facts, common: &Common, guids: (&NewGuids, &NewGuids), master_is_source: bool) -> Outcome {
    let (source, dest) = if master_is_source { (master, slave) } else { (slave, master) };
    let modseq = ModSeq(master.status.highest_modseq.max(slave.status.highest_modseq).0 + 1);
    let mut mails: Vec<Merged> =
        common.pairs.iter().map(|&(a, b)| both(&master.items[a], &slave.items[b], master.items[a].uid, modseq)).collect();

    let present = unfiltered(master, slave, common);
    let (new_master, held_master) = readable(master, &common.new_master, guids.0, &present);
    let (new_slave, held_slave) = readable(slave, &common.new_slave, guids.1, &present);
    let (assigned, uid_next) = assign(&new_master, &new_slave, Some(if master_is_source { Side::Slave } else { Side::Master }));
    let mut met = BTreeMap::new();
    for a in assigned {
        mails.push(match (a.master, a.slave) {
            // Dovecot merges flags in the common past only; here the destination's stay.
            (Some(x), Some(y)) => {
                let d = if master_is_source { &slave.items[y] } else { &master.items[x] };
                let pair = both(&master.items[x], &slave.items[y], a.uid, modseq);
                if master.items[x].uid == slave.items[y].uid && (pair.flags != d.flags || pair.keywords != d.keywords) {
                    met.insert(a.uid, pair.clone());
                }
                Merged { flags: d.flags, keywords: d.keywords.clone(), ..pair }
            }
            (Some(x), None) => one(&master.items[x], a.uid, dest.status.highest_modseq, modseq, true),
            (None, Some(y)) => one(&slave.items[y], a.uid, dest.status.highest_modseq, modseq, false),
            (None, None) => continue,
        });
    }
    renumber_like_dovecot(&mut mails, dest, !master_is_source);
    // What cannot be read, or is held back by a filter, stays where it is; the destination remembers that it did not get it.
    mails.extend(held_master.into_iter().map(|i| stays(&master.items[i], true)));
    mails.extend(held_slave.into_iter().map(|i| stays(&slave.items[i], false)));
    mails.extend(common.kept.iter().map(|&i| stays(&dest.items[i], !master_is_source)));
    mails.sort_by_key(|m| (m.uid, m.master));
    if !met.is_empty() {
        let after = afterwards(source, dest, &mails, uid_next, master_is_source);
        let context = Context { last_common: None, missing: Missing::IfProved };
        let (m, s) = if master_is_source { (source, &after) } else { (&after, source) };
        let past: HashSet<Uid> = find_common(m, s, &context).pairs.iter().map(|&(a, _)| m.items[a].uid).collect();
        for m in &mut mails {
            if let Some(pair) = met.remove(&m.uid).filter(|_| past.contains(&m.uid)) {
                *m = pair;
            }
        }
    }

    Outcome {
        uidvalidity: merged_uidvalidity(master, slave),
        uid_next,
        first_recent: source.status.first_recent.max(dest.status.first_recent).min(uid_next),
        modseq,
        mails,
        rebuild: false,
    }
}

/// What the destination will know of itself after this run. What ended the common past may have made room then, and the next run would
/// let the flags of mails behind it meet: better this one does.
fn afterwards(source: &Facts, dest: &Facts, mails: &[Merged], uid_next: Uid, master_is_source: bool) -> Facts {
    let sides = |m: &Merged| if master_is_source { (m.master, m.slave) } else { (m.slave, m.master) };
    let mut out = dest.without_items();
    out.status.identity.uid_next = uid_next;
    for m in mails {
        let (of_source, own) = sides(m);
        let item = own.and_then(|uid| dest.item(uid)).or_else(|| of_source.filter(|_| m.copied).and_then(|uid| source.item(uid)));
        let Some(item) = item else { continue };
        out.items.push(Item { uid: m.uid, log: None, ..item.clone() });
        if own != Some(m.uid) {
            out.synced.push((m.uid, m.uid));
            out.renumbered.extend(own.map(|from| Renumbered { from, first: m.uid, last: m.uid }));
        }
    }
    out.items.sort_by_key(|i| i.uid);
    out.synced = union_of_uids(std::mem::take(&mut out.synced));
    let gone = dest.items.iter().filter(|i| out.item(i.uid).is_none_or(|now| now.guid != i.guid));
    let gone: Vec<Expunged> = gone.map(|i| Expunged { uid: i.uid, guid: i.guid }).collect();
    out.expunged.extend(gone);
    out.expunged.sort_by_key(|e| e.uid);
    out
}

/// Where several instances of one mail make room, Dovecot lets the last of them move first: it gets the lowest new UID
/// (sync.md 7.6). Nobody would miss it, but a script that compares the two programs would.
fn renumber_like_dovecot(mails: &mut [Merged], dest: &Facts, dest_is_master: bool) {
    let own = |m: &Merged| if dest_is_master { m.master } else { m.slave };
    let only_here = |m: &Merged| if dest_is_master { m.slave.is_none() } else { m.master.is_none() };
    let mut moving: BTreeMap<Guid128, Vec<(usize, Uid)>> = BTreeMap::new();
    for (n, m) in mails.iter().enumerate() {
        if let Some(from) = own(m).filter(|from| *from != m.uid && only_here(m))
            && let Some(guid) = dest.item(from).and_then(|i| i.guid)
        {
            moving.entry(guid).or_default().push((n, from));
        }
    }
    for mut instances in moving.into_values().filter(|i| i.len() > 1) {
        let mut sources: Vec<Uid> = instances.iter().map(|i| i.1).collect();
        sources.sort_unstable();
        instances.sort_by_key(|i| mails[i.0].uid);
        for ((n, _), from) in instances.into_iter().zip(sources.into_iter().rev()) {
            let Some(item) = dest.item(from) else { continue };
            let m = &mut mails[n];
            *(if dest_is_master { &mut m.master } else { &mut m.slave }) = Some(from);
            m.flags = item.flags;
            m.keywords = item.keywords.clone();
        }
    }
}
