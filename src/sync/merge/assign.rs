//! New mails on both sides: which are the same, and which UID each shall have (sync.md 7.5).

use std::collections::HashMap;

use super::Facts;
use crate::mail::{MailGuid, Uid};
use crate::sync::tree::Side;

/// The GUIDs of one side's new mails, in the order of [`super::Common`]'s list; none for one that cannot be read.
pub type NewGuids = Vec<Option<MailGuid>>;

/// A new mail with its future UID.
pub(in crate::sync) struct Assigned {
    pub uid: Uid,
    pub master: Option<usize>,
    pub slave: Option<usize>,
}

struct Entry {
    own: Uid,
    master: Option<usize>,
    slave: Option<usize>,
    /// Its UID is still free on the other side.
    usable: bool,
    pair: Option<usize>,
    settled: bool,
}

/// One side's readable new mails.
pub(in crate::sync) struct NewMails<'a> {
    pub facts: &'a Facts,
    pub items: Vec<(usize, MailGuid)>,
}

/// Walks both lists by their heads, smaller GUID first, exactly as Dovecot does on both ends: nobody wins, and both give the
/// same new UIDs to the same mails. A mail that both
/// sides have keeps its UID on the side that `stays`, if a sync has given it that UID.
pub(in crate::sync) fn assign(master: &NewMails<'_>, slave: &NewMails<'_>, stays: Option<Side>) -> (Vec<Assigned>, Uid) {
    let (next_m, next_s) = (master.facts.uid_next(), slave.facts.uid_next());
    let mut entries: Vec<Entry> = Vec::with_capacity(master.items.len() + slave.items.len());
    let mut chains: HashMap<&MailGuid, Vec<usize>> = HashMap::new();
    let (mut m, mut s) = (master.items.iter().peekable(), slave.items.iter().peekable());
    let uid_m = |i: usize| master.facts.items[i].uid;
    let uid_s = |i: usize| slave.facts.items[i].uid;
    loop {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (m.peek(), s.peek()) {
            (None, None) => break,
            (Some(_), None) => Less,
            (None, Some(_)) => Greater,
            (Some((a, ga)), Some((b, gb))) => ga.cmp(gb).then(uid_m(*a).cmp(&uid_s(*b))),
        };
        let a = if order == Greater { None } else { m.next() };
        let b = if order == Less { None } else { s.next() };
        let Some((guid, own)) = a.map(|(i, g)| (g, uid_m(*i))).or_else(|| b.map(|(i, g)| (g, uid_s(*i)))) else { break };
        let n = entries.len();
        let mut entry = Entry {
            own,
            master: a.map(|(i, _)| *i),
            slave: b.map(|(i, _)| *i),
            usable: match order {
                Less => own >= next_s,
                Greater => own >= next_m,
                Equal => true,
            },
            pair: None,
            settled: false,
        };
        let chain = chains.entry(guid).or_default();
        for &earlier in chain.iter() {
            let e = &mut entries[earlier];
            if e.own == own {
                e.usable = true;
            }
            let opposite = order != Equal
                && e.pair.is_none()
                && (e.master.is_some() != e.slave.is_some())
                && e.master.is_some() == b.is_some();
            if opposite && entry.pair.is_none() {
                e.pair = Some(n);
                entry.pair = Some(earlier);
            }
        }
        chain.push(n);
        entries.push(entry);
    }
    let settled = |e: &Entry| match stays {
        Some(Side::Master) => e.master.is_some() && master.facts.is_synced(e.own),
        Some(Side::Slave) => e.slave.is_some() && slave.facts.is_synced(e.own),
        None => false,
    };
    settle(entries, next_m.max(next_s), settled)
}

fn settle(mut entries: Vec<Entry>, mut next: Uid, stays: impl Fn(&Entry) -> bool) -> (Vec<Assigned>, Uid) {
    let mut out = Vec::with_capacity(entries.len());
    for n in 0..entries.len() {
        if entries[n].settled {
            continue;
        }
        let pair = entries[n].pair;
        let kept = pair.and_then(|p| [n, p].into_iter().find(|&e| stays(&entries[e])).map(|e| entries[e].own));
        let uid = if let Some(uid) = kept {
            uid
        } else if entries[n].usable {
            entries[n].own
        } else if let Some(p) = pair.filter(|&p| entries[p].usable) {
            entries[p].own
        } else {
            let uid = next;
            next = next.next();
            uid
        };
        let (mut master, mut slave) = (entries[n].master, entries[n].slave);
        entries[n].settled = true;
        if let Some(p) = pair {
            entries[p].settled = true;
            master = master.or(entries[p].master);
            slave = slave.or(entries[p].slave);
        }
        out.push(Assigned { uid, master, slave });
    }
    // Kept UIDs may lie above what was handed out; UIDNEXT is above all of them.
    let next = out.iter().map(|a| a.uid.next()).max().map_or(next, |top| top.max(next));
    (out, next)
}
