//! How far the two sides have the same past: the last common UID (sync.md 7.2).

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use super::{Context, Facts, Item, Missing, renumbered};
use crate::mail::{Guid128, Uid};
use crate::sync::tree::Side;

/// The common past of two mailboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Common {
    /// Up to this UID both had the same mails.
    pub last: Option<Uid>,
    /// Mails that both have, as indexes into the items.
    pub pairs: Vec<(usize, usize)>,
    /// The master's items that are not common, as indexes: those that stay.
    pub new_master: Vec<usize>,
    /// The slave's.
    pub new_slave: Vec<usize>,
    /// The master's items that go, because the slave has them no more.
    pub gone_master: Vec<usize>,
    /// The slave's.
    pub gone_slave: Vec<usize>,
    /// Of `sync -1`: items of the destination that were to go and stay as they are.
    pub kept: Vec<usize>,
    /// Items that were to go and are new again.
    pub renewed: HashSet<(Side, usize)>,
    /// Partial facts do not suffice to be sure of this.
    pub doubtful: bool,
}

impl Common {
    /// GUIDs that both sides have among their mails that are not common: such a mail needs no copying, whatever its UIDs.
    #[must_use]
    pub fn in_both(&self, master: &Facts, slave: &Facts) -> HashSet<Guid128> {
        let guids = |facts: &Facts, new: &[usize]| new.iter().filter_map(|&i| facts.items[i].guid).collect::<HashSet<_>>();
        let theirs = guids(slave, &self.new_slave);
        let mut both = guids(master, &self.new_master);
        both.retain(|g| theirs.contains(g));
        both
    }

    /// The items of one side that are not common: those that stay, and those that go.
    #[must_use]
    pub fn of(&self, side: Side) -> (&[usize], &[usize]) {
        match side {
            Side::Master => (&self.new_master, &self.gone_master),
            Side::Slave => (&self.new_slave, &self.gone_slave),
        }
    }

    /// An item that was to go comes to the other side again, as a new one. Says where it stands among those; none if it did not go.
    pub fn renew(&mut self, side: Side, item: usize) -> Option<usize> {
        let (new, gone) = match side {
            Side::Master => (&mut self.new_master, &mut self.gone_master),
            Side::Slave => (&mut self.new_slave, &mut self.gone_slave),
        };
        gone.remove(gone.binary_search(&item).ok()?);
        let at = new.partition_point(|&n| n < item);
        new.insert(at, item);
        self.renewed.insert((side, item));
        Some(at)
    }
}

/// The items that are neither common nor new; both lists ascend.
fn rest(items: usize, common: impl ExactSizeIterator<Item = usize>, new: &[usize]) -> Vec<usize> {
    if common.len() + new.len() == items {
        return Vec::new();
    }
    let mut stays = vec![false; items];
    common.chain(new.iter().copied()).for_each(|n| stays[n] = true);
    (0..items).filter(|&n| !stays[n]).collect()
}

/// What one side knows about a UID.
enum Known {
    Here(usize),
    Expunged(Option<Guid128>),
    /// Below UIDNEXT and no trace.
    Missing,
    /// Not given out yet.
    Future,
}

impl Known {
    const fn record(&self) -> Record {
        match self {
            Self::Expunged(Some(_)) => Record::Named,
            Self::Expunged(None) => Record::Unnamed,
            _ => Record::None,
        }
    }
}

/// What a log says of a UID whose mail is gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Record {
    None,
    /// A mail was expunged.
    Unnamed,
    /// This very mail was.
    Named,
}

struct Cursor<'a> {
    facts: &'a Facts,
    item: usize,
    expunged: usize,
}

impl Cursor<'_> {
    fn next_uid(&self) -> Option<Uid> {
        let item = self.facts.items.get(self.item).map(|i| i.uid);
        let expunged = self.facts.expunged.get(self.expunged).map(|e| e.uid);
        [item, expunged].into_iter().flatten().min()
    }

    fn take(&mut self, uid: Uid) -> Known {
        let mut known = if uid >= self.facts.uid_next() { Known::Future } else { Known::Missing };
        if self.facts.expunged.get(self.expunged).is_some_and(|e| e.uid == uid) {
            known = Known::Expunged(self.facts.expunged[self.expunged].guid);
            self.expunged += 1;
        }
        if self.facts.items.get(self.item).is_some_and(|i| i.uid == uid) {
            known = Known::Here(self.item);
            self.item += 1;
        }
        known
    }
}

const fn same(a: &Item, b: &Item) -> bool {
    match (a.guid, b.guid) {
        (Some(a), Some(b)) => u128::from_ne_bytes(a.0) == u128::from_ne_bytes(b.0),
        _ => true,
    }
}

/// Finds the last common UID and what each side has beside the common mails.
///
/// A mail that is missing on one side at or below the last common UID was expunged there and goes on the other side too,
/// with or without a log record (but see [`Missing`]); above it, it is new. A UID that carries two different mails ends the common past.
#[must_use]
pub fn find_common(master: &Facts, slave: &Facts, context: &Context) -> Common {
    let mut out = Common { last: context.last_common, ..Common::default() };
    // Single mails whose fate hangs on whether a common UID follows.
    let mut maybe: Vec<(Uid, Single, Record)> = Vec::new();
    let mut m = Cursor { facts: master, item: 0, expunged: 0 };
    let mut s = Cursor { facts: slave, item: 0, expunged: 0 };
    let instances = OnceCell::new();
    // Only an open question makes it worth asking what an equal mail under an equal UID proves.
    let proves = |maybe: &[(Uid, Single, Record)], last: Option<Uid>, guids: [Option<Guid128>; 2], uid: Uid| {
        let open = maybe.last().is_some_and(|m| Some(m.0) > last);
        // What a sync has put under this UID was the other side's.
        let by_sync = || master.is_synced(uid) || slave.is_synced(uid);
        !open || by_sync() || !guids.into_iter().any(|g| instances.get_or_init(|| Instances::of(master, slave)).is_later(g, uid))
    };

    while let Some(uid) = [m.next_uid(), s.next_uid()].into_iter().flatten().min() {
        let (at_m, at_s) = (m.item, s.item);
        let (on_m, on_s) = (m.take(uid), s.take(uid));
        out.doubtful |= Some(uid) <= context.last_common && !is_plain(master, &on_m, slave, &on_s);
        match (on_m, on_s) {
            (Known::Here(a), Known::Here(b)) => {
                if !same(&master.items[a], &slave.items[b]) {
                    (m.item, s.item) = (at_m, at_s);
                    break;
                }
                out.pairs.push((a, b));
                if proves(&maybe, out.last, [master.items[a].guid, slave.items[b].guid], uid) {
                    out.last = out.last.max(Some(uid));
                }
            }
            (Known::Here(a), other) => match single(&master.items[a], &other, [master, slave], context) {
                Verdict::Expunge if proves(&maybe, out.last, [master.items[a].guid; 2], uid) => {
                    out.last = out.last.max(Some(uid))
                }
                Verdict::Expunge | Verdict::Undecided => {
                    maybe.push((uid, Single::Master(a), other.record()));
                }
                Verdict::New => out.new_master.push(a),
                Verdict::End => {
                    m.item = at_m;
                    break;
                }
            },
            (other, Known::Here(b)) => match single(&slave.items[b], &other, [slave, master], context) {
                Verdict::Expunge if proves(&maybe, out.last, [slave.items[b].guid; 2], uid) => out.last = out.last.max(Some(uid)),
                Verdict::Expunge | Verdict::Undecided => {
                    maybe.push((uid, Single::Slave(b), other.record()));
                }
                Verdict::New => out.new_slave.push(b),
                Verdict::End => {
                    s.item = at_s;
                    break;
                }
            },
            (Known::Expunged(Some(a)), Known::Expunged(Some(b))) if a == b && proves(&maybe, out.last, [Some(a); 2], uid) => {
                out.last = out.last.max(Some(uid));
            }
            _ => {}
        }
    }
    let (master_guids, slave_guids) = (OnceCell::<HashSet<_>>::new(), OnceCell::<HashSet<_>>::new());
    for (uid, which, record) in maybe {
        let recorded = record != Record::None;
        let (here, there) = if which.is_master() { (master, slave) } else { (slave, master) };
        // Given out on both sides independently, it never was one mail.
        let two_mails = here.is_native(uid) && there.is_native(uid);
        let gone = Some(uid) <= out.last
            && !two_mails
            && match context.missing {
                Missing::Expunged => true,
                Missing::IfLogged => recorded,
                Missing::IfProved => {
                    let guid = here.item(uid).and_then(|i| i.guid);
                    // Under another UID it is the same mail, which got a new one; but not if that one has its partner, nor if the
                    // log tells that a user expunged it: then that one is a copy. A log that names no mail means the one that a
                    // sync had brought under this UID.
                    let elsewhere = || {
                        let known = if which.is_master() { &slave_guids } else { &master_guids };
                        let named = record == Record::Named || recorded && there.is_synced(uid);
                        let by_user = named && !there.renumbered.iter().any(|r| r.from == uid);
                        !by_user
                            && known.get_or_init(|| unpaired(there, paired_items(&out.pairs, which.is_master()))).contains(&guid)
                    };
                    (here.is_synced(uid) || recorded && there.is_synced(uid)) && !elsewhere()
                }
                Missing::IfKnown => false,
            };
        match which {
            _ if gone => {}
            Single::Master(a) => out.new_master.push(a),
            Single::Slave(b) => out.new_slave.push(b),
        }
    }
    out.new_master.extend(m.item..master.items.len());
    out.new_slave.extend(s.item..slave.items.len());
    out.new_master.sort_unstable();
    out.new_slave.sort_unstable();
    let new = out.new_master.len() + out.new_slave.len();
    renumbered::drop_expunged(master, slave, &mut out.new_master);
    renumbered::drop_expunged(slave, master, &mut out.new_slave);
    out.doubtful |= instances.get().is_some() || out.new_master.len() + out.new_slave.len() < new;
    out.gone_master = rest(master.items.len(), out.pairs.iter().map(|p| p.0), &out.new_master);
    out.gone_slave = rest(slave.items.len(), out.pairs.iter().map(|p| p.1), &out.new_slave);
    out
}

/// What users do to a mail that both sides have: it stays, or one of them expunges it, or both.
fn is_plain(master: &Facts, on_m: &Known, slave: &Facts, on_s: &Known) -> bool {
    let guid = |facts: &Facts, known: &Known| match *known {
        Known::Here(n) => Some(facts.items[n].guid),
        Known::Expunged(guid) => Some(guid),
        Known::Missing | Known::Future => None,
    };
    match (guid(master, on_m), guid(slave, on_s)) {
        (Some(a), Some(b)) => a.is_none() || b.is_none() || a == b,
        _ => false,
    }
}

/// The items of the side that is not the master's (or that is), as far as they have a partner.
fn paired_items(pairs: &[(usize, usize)], slaves: bool) -> HashSet<usize> {
    pairs.iter().map(|p| if slaves { p.1 } else { p.0 }).collect()
}

/// GUIDs of items without a partner.
fn unpaired(facts: &Facts, paired: HashSet<usize>) -> HashSet<Option<Guid128>> {
    facts.items.iter().enumerate().filter(|(n, _)| !paired.contains(n)).map(|(_, i)| i.guid).collect()
}

/// The lowest UID at which each mail is on any side.
///
/// A second instance of a mail may have come to the same UID by two users' copying it, each on his side: such a pair says nothing
/// about the mails before it.
struct Instances(HashMap<Guid128, Uid>);

impl Instances {
    fn of(master: &Facts, slave: &Facts) -> Self {
        let mut first = HashMap::with_capacity(master.items.len());
        let all = [master, slave].into_iter().flat_map(|f| {
            let here = f.items.iter().filter_map(|i| Some((i.guid?, i.uid)));
            here.chain(f.expunged.iter().filter_map(|e| Some((e.guid?, e.uid))))
        });
        for (guid, uid) in all {
            first.entry(guid).and_modify(|u: &mut Uid| *u = uid.min(*u)).or_insert(uid);
        }
        Self(first)
    }

    fn is_later(&self, guid: Option<Guid128>, uid: Uid) -> bool {
        guid.is_none_or(|g| self.0.get(&g).is_some_and(|first| *first < uid))
    }
}

enum Single {
    Master(usize),
    Slave(usize),
}

impl Single {
    const fn is_master(&self) -> bool {
        matches!(self, Self::Master(_))
    }
}

enum Verdict {
    /// The other side has expunged this very mail.
    Expunge,
    /// The other side does not have it, and it is not known why.
    Undecided,
    /// The other side never had it.
    New,
    /// The UID stands for another mail there, or for none yet: here the common past ends.
    End,
}

fn single(item: &Item, other: &Known, [own_side, other_side]: [&Facts; 2], context: &Context) -> Verdict {
    match *other {
        // A mail that cannot be read is never given up because the other side lacks it.
        _ if item.guid.is_none() => Verdict::New,
        // Even where a run that was interrupted could not say any more that this mail did come.
        Known::Expunged(Some(guid)) if item.guid == Some(guid) => Verdict::Expunge,
        // Held back there, or it came here while a sync wrote above it.
        _ if other_side.never_had(item.uid) || own_side.never_had(item.uid) => Verdict::New,
        Known::Expunged(Some(_)) => Verdict::End,
        Known::Expunged(None) | Known::Missing => Verdict::Undecided,
        Known::Future if context.last_common.is_some_and(|last| item.uid <= last) => Verdict::Undecided,
        Known::Future | Known::Here(_) => Verdict::End,
    }
}
