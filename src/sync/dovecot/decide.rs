//! What becomes of a mailbox beside a Dovecot (sync.md 7.2 to 7.7, 4.9): what that will do with its own side is computed from
//! what both sides tell each other, and our side is made equal to it.
//!
//! Nothing is lost for that: a mail that is here and that the other side neither takes nor says to be expunged stays.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::mail::{MailGuid, ModSeq, Uid};
use crate::sync::merge::{self, Assigned, Facts, Item, Merged, NewMails, Outcome};
use crate::sync::tree::Side;

/// One side's mails as both sides know them.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub facts: Facts,
    /// What a mail is known by, by item: GUID or header hash.
    pub keys: Vec<Option<MailGuid>>,
    /// Mails that are told but not there.
    pub claims: BTreeSet<Uid>,
}

/// How the two sides' mails relate, from the point of view of one of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Relation {
    /// Last common UID; 0 for none.
    pub last: u32,
    /// Indexes of mails that both have under one UID.
    pub pairs: Vec<(usize, usize)>,
    /// Local mails that are to be taken for new.
    pub new_local: Vec<usize>,
    /// Remote mails likewise.
    pub new_remote: Vec<usize>,
}

/// What a Dovecot whose mails are `local` makes of the changes of `remote` (sync.md 7.2, 7.3).
pub(super) fn relate(local: &Facts, remote: &Facts, last_common: Option<Uid>) -> Relation {
    let mut out = Relation { last: last_common.map_or(0, Uid::get), ..Relation::default() };
    let expunged_here = |uid: Uid| local.expunged.binary_search_by_key(&uid, |e| e.uid).ok().map(|n| local.expunged[n].guid);
    let mut found = last_common.is_some();
    let (mut here, mut r, mut e) = (0, 0, 0);
    let mut gone: HashSet<usize> = HashSet::new();
    let mut maybe_gone: Vec<usize> = Vec::new();
    let mut maybe_new: Vec<usize> = Vec::new();
    let mut touched: Option<usize> = None;
    if let Some(last) = last_common {
        here = local.items.partition_point(|i| i.uid <= last);
        r = remote.items.partition_point(|i| i.uid <= last);
        e = remote.expunged.partition_point(|x| x.uid <= last);
        for (a, item) in local.items[..here].iter().enumerate() {
            if let Ok(b) = remote.items[..r].binary_search_by_key(&item.uid, |i| i.uid) {
                out.pairs.push((a, b));
            }
        }
    }
    loop {
        let (save, expunge) = (remote.items.get(r), remote.expunged.get(e));
        let is_save = match (save, expunge) {
            (None, None) => break,
            (Some(s), Some(x)) => s.uid < x.uid,
            (s, _) => s.is_some(),
        };
        let uid = if is_save { remote.items[r].uid } else { remote.expunged[e].uid };
        if !found {
            while let Some(item) = local.items.get(here).filter(|i| i.uid < uid) {
                if touched != Some(here) && item.uid.get() > out.last {
                    maybe_gone.push(here);
                }
                here += 1;
            }
        }
        let at = local.items.get(here);
        let same_uid = at.is_some_and(|i| i.uid == uid);
        if is_save {
            let change = &remote.items[r];
            r += 1;
            if found {
                // Filters hold back what is not here already.
                let known =
                    || local.items.binary_search_by_key(&uid, |i| i.uid).is_ok_and(|n| local.items[n].guid == change.guid);
                if !change.filtered || known() {
                    out.new_remote.push(r - 1);
                }
            } else if same_uid {
                touched = Some(here);
                if local.items[here].guid == change.guid && change.guid.is_some() {
                    out.last = uid.get();
                    out.pairs.push((here, r - 1));
                } else {
                    found = true;
                    out.new_remote.push(r - 1);
                }
            } else if change.filtered {
            } else {
                match expunged_here(uid) {
                    _ if at.is_none() && uid >= local.status.identity.uid_next => found = true,
                    Some(Some(guid)) if Some(guid) == change.guid => {
                        out.last = uid.get();
                        continue;
                    }
                    Some(Some(_)) => found = true,
                    _ if at.is_none() => found = true,
                    _ => {
                        maybe_new.push(r - 1);
                        continue;
                    }
                }
                out.new_remote.push(r - 1);
            }
        } else {
            let guid = remote.expunged[e].guid;
            e += 1;
            if found {
                continue;
            }
            if same_uid {
                touched = Some(here);
                match guid {
                    None => {
                        if uid.get() > out.last {
                            maybe_gone.push(here);
                        }
                    }
                    Some(_) if guid == local.items[here].guid => {
                        out.last = uid.get();
                        gone.insert(here);
                    }
                    Some(_) => found = true,
                }
            } else if at.is_some()
                && let Some(Some(ours)) = expunged_here(uid)
                && Some(ours) == guid
            {
                out.last = uid.get();
            }
        }
    }
    gone.extend(maybe_gone.into_iter().filter(|&n| local.items[n].uid.get() <= out.last));
    let known_saves = maybe_new.into_iter().filter(|&n| remote.items[n].uid.get() > out.last);
    out.new_remote.extend(known_saves);
    out.new_remote.sort_unstable();
    out.new_local = (0..local.items.len()).filter(|n| local.items[*n].uid.get() > out.last && !gone.contains(n)).collect();
    out.pairs.retain(|(a, _)| !gone.contains(a));
    out
}

/// Where a side gets one of the new mails from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// It has it, maybe under another UID.
    Here(Uid),
    /// Another instance of it is there.
    Copy(Uid),
    /// The other side.
    Fetch,
}

/// Settles which of a side's instances of a mail becomes which new one (sync.md 7.6).
fn place(assigned: &[Assigned], keys: &[Option<&MailGuid>], new: &NewMails<'_>) -> Vec<From> {
    let mut out = vec![From::Fetch; assigned.len()];
    let mut chains: HashMap<&MailGuid, (Vec<usize>, Vec<Uid>)> = HashMap::new();
    for (n, key) in keys.iter().enumerate() {
        if let Some(key) = key {
            chains.entry(key).or_default().0.push(n);
        }
    }
    for (i, key) in &new.items {
        if let Some(chain) = chains.get_mut(key) {
            chain.1.push(new.facts.items[*i].uid);
        }
    }
    for (mut wanted, instances) in chains.into_values() {
        let Some(&any) = instances.first() else { continue };
        wanted.sort_by_key(|&n| assigned[n].uid);
        let targets: HashSet<Uid> = wanted.iter().map(|&n| assigned[n].uid).collect();
        let mut free: Vec<Uid> = instances.iter().copied().filter(|u| !targets.contains(u)).collect();
        free.sort_unstable();
        for n in wanted {
            let uid = assigned[n].uid;
            out[n] = if instances.contains(&uid) { From::Here(uid) } else { free.pop().map_or(From::Copy(any), From::Here) };
        }
    }
    out
}

/// The decision for a two-way run.
pub(super) struct Decision {
    pub outcome: Outcome,
    /// Instances that are to be made from others of the own side: from which UID, for which future UID.
    pub copies: Vec<(Uid, Uid)>,
    /// Last UID that both sides have in common afterwards.
    pub last_common: u32,
}

/// Both sides of a two-way run, as the own one looks at them.
struct Both<'a> {
    own: &'a Known,
    peer: &'a Known,
    own_is_master: bool,
    /// The modseq of what differs.
    changed: ModSeq,
}

impl<'a> Both<'a> {
    /// A mail that both sides have.
    fn merged(&self, own: &Item, peer: &Item, uid: Uid) -> Merged {
        let (master, slave) = if self.own_is_master { (own, peer) } else { (peer, own) };
        merge::both(master, slave, uid, self.changed)
    }

    /// Where a new mail is among the own items, and among the other side's.
    const fn places(&self, a: &Assigned) -> (Option<usize>, Option<usize>) {
        if self.own_is_master { (a.master, a.slave) } else { (a.slave, a.master) }
    }

    fn key(&self, a: &Assigned) -> Option<&'a MailGuid> {
        let (own, peer) = self.places(a);
        own.and_then(|n| self.own.keys[n].as_ref()).or_else(|| peer.and_then(|n| self.peer.keys[n].as_ref()))
    }

    /// What there will be of a new mail on our side. `have` and `has`: where our side and the other one get it from.
    fn arrived(&self, a: &Assigned, have: From, has: From) -> Option<Merged> {
        let (own, peer) = (&self.own.facts, &self.peer.facts);
        let (here, there) = self.places(a);
        let mine = match have {
            From::Here(uid) => own.item(uid),
            From::Copy(_) | From::Fetch => None,
        };
        let other = match has {
            From::Here(uid) | From::Copy(uid) => peer.item(uid),
            From::Fetch => None,
        };
        if mine.is_some_and(|i| self.own.claims.contains(&i.uid)) {
            return None;
        }
        let mut m = match (mine, other) {
            (Some(i), Some(x)) => {
                let mut m = self.merged(i, x, a.uid);
                if i.uid != x.uid {
                    // A Dovecot that has the mail under another UID moves it as it is, and looks at nobody's flags.
                    (m.flags, m.keywords) = (x.flags, x.keywords.clone());
                }
                m
            }
            (Some(i), None) => {
                let flags = here.map_or(i, |n| &own.items[n]);
                let mut m = merge::one(i, a.uid, peer.status.highest_modseq, self.changed, self.own_is_master);
                (m.flags, m.keywords) = (flags.flags, flags.keywords.clone());
                m
            }
            (None, Some(x)) => merge::one(x, a.uid, own.status.highest_modseq, self.changed, !self.own_is_master),
            (None, None) => return None,
        };
        if mine.is_none() {
            let source = there.map(|n| &peer.items[n]).or(other);
            m.copied = !matches!(have, From::Copy(_)) && source.is_some_and(|i| !i.filtered);
            *(if self.own_is_master { &mut m.slave } else { &mut m.master }) = source.map(|i| i.uid);
        }
        Some(m)
    }

    /// What is left on our side: filtered and unreadable mails stay, and those that could not be given in an earlier run; so does, in
    /// a run with filters (`careful`), what no log says to be gone.
    fn left(&self, accounted: &HashSet<Uid>, last_common: Option<Uid>, careful: bool) -> Vec<Merged> {
        let (own, peer) = (&self.own.facts, &self.peer.facts);
        let logged: BTreeMap<Uid, Option<_>> = peer.expunged.iter().map(|x| (x.uid, x.guid)).collect();
        let left = own.items.iter().zip(&self.own.keys);
        let left = left.filter(|(item, _)| !accounted.contains(&item.uid) && !self.own.claims.contains(&item.uid));
        let stays = left.filter(|(item, key)| {
            let common = last_common.is_some_and(|l| item.uid <= l);
            let unreadable = key.is_none() && !common;
            let expunged = logged.get(&item.uid).is_some_and(|g| g.is_none() || *g == item.guid);
            unreadable || item.filtered || own.never_had(item.uid) || careful && !expunged
        });
        stays.map(|(item, _)| merge::stays(item, self.own_is_master)).collect()
    }
}

/// A side's new mails, but for those to be skipped and those that cannot be read.
fn new_mails<'a>(known: &'a Known, list: &[usize], skip: impl Fn(&Item) -> bool) -> NewMails<'a> {
    let wanted = list.iter().filter(|&&n| !skip(&known.facts.items[n]));
    NewMails { facts: &known.facts, items: wanted.filter_map(|&n| Some((n, known.keys[n].clone()?))).collect() }
}

/// Two-way: what the other side will have, and so what ours shall have. `careful`: filters are in force, so that a mail
/// missing on the other side was not expunged unless its log says so.
pub(super) fn two_way(own_side: Side, own: &Known, peer: &Known, last_common: Option<Uid>, careful: bool) -> Decision {
    let relation = relate(&peer.facts, &own.facts, last_common);
    let own_is_master = own_side == Side::Master;
    let highest = own.facts.status.highest_modseq.max(peer.facts.status.highest_modseq);
    let both = Both { own, peer, own_is_master, changed: ModSeq(highest.0 + 1) };
    let (ours, theirs) = (&own.facts.items, &peer.facts.items);
    let mut mails: Vec<Merged> = Vec::with_capacity(ours.len());
    let mut accounted: HashSet<Uid> = HashSet::with_capacity(ours.len());
    for &(p, o) in &relation.pairs {
        let uid = ours[o].uid;
        accounted.insert(uid);
        if !own.claims.contains(&uid) {
            mails.push(both.merged(&ours[o], &theirs[p], uid));
        }
    }
    let new_own = new_mails(own, &relation.new_remote, |i| i.filtered);
    let new_peer = new_mails(peer, &relation.new_local, |_| false);
    let (new_master, new_slave) = if own_is_master { (&new_own, &new_peer) } else { (&new_peer, &new_own) };
    let (assigned, uid_next) = merge::assign(new_master, new_slave, None);
    let keys: Vec<Option<&MailGuid>> = assigned.iter().map(|a| both.key(a)).collect();
    let places = place(&assigned, &keys, &new_own).into_iter().zip(place(&assigned, &keys, &new_peer));
    let mut copies = Vec::new();
    for (a, (have, has)) in assigned.iter().zip(places) {
        accounted.extend(both.places(a).0.map(|o| ours[o].uid));
        let Some(m) = both.arrived(a, have, has) else { continue };
        if let From::Copy(uid) = have {
            copies.push((uid, a.uid));
        }
        mails.push(m);
    }
    mails.extend(both.left(&accounted, last_common, careful));
    mails.sort_by_key(|m| (m.uid, m.master));
    Decision {
        outcome: Outcome {
            uidvalidity: own.facts.status.identity.uidvalidity,
            uid_next,
            first_recent: own.facts.status.first_recent.max(peer.facts.status.first_recent).min(uid_next),
            modseq: both.changed,
            mails,
            rebuild: false,
        },
        copies,
        last_common: uid_next.get() - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Flags, Identity, Keywords, MailboxGuid, Status, UidValidity};
    use crate::sync::merge::Expunged;

    /// `uid key`; a key in front of which stands `-` is an expunged one.
    fn known(uid_next: u32, list: &[(u32, &str)]) -> Known {
        let guid = |k: &str| MailGuid::new(k).expect("not empty");
        let uid = |n: u32| Uid::new(n).expect("not 0");
        let mails: Vec<_> = list.iter().filter(|(_, k)| !k.starts_with('-')).collect();
        let items = mails.iter().map(|(u, k)| Item {
            uid: uid(*u),
            guid: Some(guid(k).to_128()),
            flags: Flags::NONE,
            keywords: Keywords::NONE,
            modseq: ModSeq(1),
            log: None,
            filtered: false,
        });
        let gone = list.iter().filter_map(|(u, k)| Some((u, k.strip_prefix('-')?)));
        let status = Status {
            identity: Identity {
                guid: MailboxGuid::new([1; 16]).expect("not zero"),
                uidvalidity: UidValidity::new(1).expect("not 0"),
                uid_next: uid(uid_next),
            },
            messages: 0,
            first_recent: Uid::FIRST,
            highest_modseq: ModSeq(9),
            highest_private_modseq: ModSeq(0),
        };
        Known {
            facts: Facts {
                items: items.collect(),
                expunged: gone.map(|(u, k)| Expunged { uid: uid(*u), guid: MailGuid::new(k).map(|g| g.to_128()) }).collect(),
                ..Facts::new(status)
            },
            keys: mails.iter().map(|(_, k)| Some(guid(k))).collect(),
            claims: BTreeSet::new(),
        }
    }

    /// What our side has in the end: `uid:key`, with `<` for what is fetched.
    fn outcome(own: &Known, peer: &Known) -> String {
        let d = two_way(Side::Master, own, peer, None, false);
        let key = |k: &Known, uid: Uid| {
            let n = k.facts.items.iter().position(|i| i.uid == uid).expect("there");
            k.keys[n].clone().expect("a key").to_string()
        };
        let one = |m: &Merged| match (m.master, m.slave) {
            (Some(a), _) => format!("{}:{}", m.uid, key(own, a)),
            (None, Some(b)) => format!("{}:<{}", m.uid, key(peer, b)),
            (None, None) => format!("{}:?", m.uid),
        };
        d.outcome.mails.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn mirrored(own: &Known, peer: &Known) -> (String, String) {
        let plain = |s: String| s.replace('<', "");
        (plain(outcome(own, peer)), plain(outcome(peer, own)))
    }

    #[test]
    fn uid_conflicts_end_as_in_the_book() {
        // sync.md 7.5, mail-uidconflict: the same UIDs for the same mails on both sides.
        let a = known(7, &[(4, "x"), (5, "17952..M185"), (6, "17952..M234")]);
        let b = known(8, &[(4, "x"), (5, "7909"), (6, "4a0b"), (7, "1801")]);
        assert_eq!(outcome(&a, &b), "4:x 7:<1801 8:17952..M185 9:17952..M234 10:<7909 11:<4a0b");
        let (ours, theirs) = mirrored(&a, &b);
        assert_eq!(ours, theirs);
    }

    #[test]
    fn what_is_missing_below_the_common_end_was_expunged() {
        let a = known(5, &[(1, "a"), (2, "b"), (3, "c"), (4, "d")]);
        let b = known(5, &[(1, "a"), (4, "d")]);
        assert_eq!(outcome(&a, &b), "1:a 4:d");
        assert_eq!(outcome(&b, &a), "1:a 4:d");
        let careful = two_way(Side::Master, &a, &b, None, true).outcome.mails.len();
        assert_eq!(careful, 4, "but not where filters may have held it back");
    }

    #[test]
    fn at_the_end_only_a_log_tells() {
        let a = known(4, &[(1, "a"), (2, "b"), (3, "c")]);
        let logged = known(4, &[(1, "a"), (2, "b"), (3, "-c")]);
        assert_eq!(outcome(&a, &logged), "1:a 2:b");
        assert_eq!(outcome(&logged, &a), "1:a 2:b");
        let unlogged = known(4, &[(1, "a"), (2, "b")]);
        assert_eq!(outcome(&a, &unlogged), "1:a 2:b 4:c");
        assert_eq!(outcome(&unlogged, &a), "1:a 2:b 4:<c");
    }

    #[test]
    fn a_mail_under_two_uids_is_one() {
        let a = known(4, &[(1, "a"), (2, "b"), (3, "c")]);
        let b = known(4, &[(1, "a"), (2, "c"), (3, "b")]);
        let (ours, theirs) = mirrored(&a, &b);
        assert_eq!(ours, theirs);
        assert!(!outcome(&a, &b).contains('<'), "nothing is sent: {}", outcome(&a, &b));
    }

    #[test]
    fn a_claim_protects_the_other_sides_mail() {
        let mut a = known(4, &[(1, "a"), (2, "b"), (3, "c")]);
        a.claims.insert(Uid::new(2).expect("not 0"));
        let b = known(4, &[(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!(outcome(&a, &b), "1:a 3:c", "it is not fetched");
        assert_eq!(relate(&b.facts, &a.facts, None).pairs.len(), 3, "and the other side keeps it");
    }

    #[test]
    fn a_mail_that_moves_keeps_the_flags_it_has_over_there() {
        let mut a = known(5, &[(2, "b"), (3, "c"), (4, "d")]);
        let mut b = known(5, &[(3, "b"), (4, "c")]);
        a.facts.items[1].flags = Flags::SEEN;
        a.facts.items[1].modseq = ModSeq(8);
        b.facts.items[1].flags = Flags::FLAGGED;
        for (own, peer, expected) in [(&a, &b, Flags::FLAGGED), (&b, &a, Flags::SEEN)] {
            let d = two_way(Side::Master, own, peer, None, false);
            let is_c = |k: &Known, uid: Option<Uid>| {
                uid.is_some_and(|u| {
                    k.facts.items.iter().position(|i| i.uid == u).and_then(|n| k.keys[n].clone()) == MailGuid::new("c")
                })
            };
            let moved = d.outcome.mails.iter().find(|m| is_c(own, m.master)).expect("it stays");
            assert_eq!(moved.flags, expected, "the other side does not look at ours");
        }
    }
}
