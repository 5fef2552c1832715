//! What becomes of one mailbox: a pure function of what both sides know of it.
//!
//! Both brains call it with the **same** arguments in the same order (the master's facts first), so they cannot disagree.
//! The outcome names every mail that shall be there afterwards; each side then makes itself equal to it. The rules are
//! Dovecot's (sync.md 7.2, 7.5, 7.7), so that a run ends where Dovecot's own would, where that ends well.

mod assign;
mod backup;
mod common;
mod flags;
mod oneway;
mod renumbered;
mod twoway;

pub use assign::NewGuids;
pub(super) use assign::{Assigned, NewMails, assign};
pub use backup::{backup, once_held_back};
pub use common::{Common, find_common};
pub use oneway::one_way;
pub use twoway::two_way;
pub(super) use twoway::{both, one, stays};

use crate::mail::{Flags, Guid128, Keywords, ModSeq, Renumbered, Status, Uid, UidValidity};
use serde::{Deserialize, Serialize};

/// What one side knows of a mailbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// Its counters.
    pub status: Status,
    /// Its mails, ascending.
    pub items: Vec<Item>,
    /// UIDs that its log knows as expunged, ascending, none of them in `items`.
    pub expunged: Vec<Expunged>,
    /// UIDs below its UIDNEXT that it never had, because a filter or an unreadable mail held them back: their absence
    /// says nothing. Ascending ranges, both ends included.
    pub held_back: Vec<(Uid, Uid)>,
    /// UIDs that mails got on this side first, as far as its log reaches; ranges likewise.
    pub native: Vec<(Uid, Uid)>,
    /// UIDs that a sync has brought to this side, likewise.
    pub synced: Vec<(Uid, Uid)>,
    /// UIDs that a sync took away as it gave their mails others.
    pub renumbered: Vec<Renumbered>,
    /// Only mails that the logs name since an earlier run, and those that came since: the others are as both sides had them then,
    /// which the digests at the end of the round prove. Never said over a stream.
    #[serde(skip)]
    pub partial: bool,
}

/// A mail that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its UID.
    pub uid: Uid,
    /// Its GUID; none when it cannot be read. Then it is left as it is, and taken for the mail that the other side has
    /// under its UID.
    pub guid: Option<Guid128>,
    /// System flags.
    pub flags: Flags,
    /// Keywords.
    pub keywords: Keywords,
    /// Modseq.
    pub modseq: ModSeq,
    /// What the log says of its flags; none if nothing.
    pub log: Option<Box<FlagLog>>,
    /// The filters of the run keep it from being copied.
    pub filtered: bool,
}

/// Flag changes that a log explains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagLog {
    /// Added flags.
    pub added: Flags,
    /// Removed flags.
    pub removed: Flags,
    /// Added keywords.
    pub keywords_added: Keywords,
    /// Removed keywords.
    pub keywords_removed: Keywords,
}

/// A UID that was expunged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expunged {
    /// Which UID.
    pub uid: Uid,
    /// Its GUID, if the log has it.
    pub guid: Option<Guid128>,
}

/// What both sides know besides the mails.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    /// Highest UID that both sides had after an earlier run, from the saved state.
    pub last_common: Option<Uid>,
    /// What it means that a mail is missing at or below the last common UID.
    pub missing: Missing,
}

/// What it means that a mail is missing on one side although both have a mail with the same or a higher UID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missing {
    /// It was expunged there, whether a log says so or not: UIDs have the same meaning on both sides, and all were copied.
    #[default]
    Expunged,
    /// It was expunged if the log has that UID; else it was never there, because filters are active.
    IfLogged,
    /// It was expunged only if the logs prove that this UID meant the same mail on both sides: one UID may be two mails
    /// (`sync -1`).
    IfProved,
    /// It was expunged only if the log has its GUID: UIDs mean nothing yet (mailboxes that have just become one).
    IfKnown,
}

/// What shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// UIDVALIDITY.
    pub uidvalidity: UidValidity,
    /// UIDNEXT, at least; exactly for a backup.
    pub uid_next: Uid,
    /// First \Recent UID, at least.
    pub first_recent: Uid,
    /// Modseq for mails that change, at least.
    pub modseq: ModSeq,
    /// All mails, by ascending UID.
    pub mails: Vec<Merged>,
    /// The destination of a backup cannot get there by adding, changing and expunging: UIDs or UIDNEXT would have to go down.
    pub rebuild: bool,
}

/// A mail that shall be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The UID it shall have.
    pub uid: Uid,
    /// The master's mail that it is.
    pub master: Option<Uid>,
    /// The slave's mail that it is.
    pub slave: Option<Uid>,
    /// System flags.
    pub flags: Flags,
    /// Keywords.
    pub keywords: Keywords,
    /// Modseq that it shall have at least, where it changes.
    pub modseq: ModSeq,
    /// The side that does not have it gets it. Not so for mails that a filter holds back or that cannot be read.
    pub copied: bool,
    /// The last copy of a mail that was to go: under its new UID it is another mail, and the old one goes after all.
    pub renewed: bool,
}

impl Facts {
    /// Of a mailbox of which nothing else is known.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Self {
            status,
            items: Vec::new(),
            expunged: Vec::new(),
            held_back: Vec::new(),
            native: Vec::new(),
            synced: Vec::new(),
            renumbered: Vec::new(),
            partial: false,
        }
    }

    /// The item with this UID.
    #[must_use]
    pub fn item(&self, uid: Uid) -> Option<&Item> {
        self.items.binary_search_by_key(&uid, |i| i.uid).ok().map(|n| &self.items[n])
    }

    /// All but the mails.
    #[must_use]
    pub fn without_items(&self) -> Self {
        Self {
            status: self.status,
            items: Vec::new(),
            expunged: self.expunged.clone(),
            held_back: self.held_back.clone(),
            native: self.native.clone(),
            synced: self.synced.clone(),
            renumbered: self.renumbered.clone(),
            partial: self.partial,
        }
    }

    /// A sync held this UID's mail back.
    #[must_use]
    pub fn never_had(&self, uid: Uid) -> bool {
        contains(&self.held_back, uid)
    }

    /// This UID was given to a mail here, not by a sync.
    pub(in crate::sync) fn is_native(&self, uid: Uid) -> bool {
        contains(&self.native, uid)
    }

    /// A sync has brought the mail with this UID.
    fn is_synced(&self, uid: Uid) -> bool {
        contains(&self.synced, uid)
    }

    const fn uid_next(&self) -> Uid {
        self.status.identity.uid_next
    }
}

/// Whether a UID is in one of these ascending ranges.
pub(super) fn contains(ranges: &[(Uid, Uid)], uid: Uid) -> bool {
    let n = ranges.partition_point(|&(_, last)| last < uid);
    ranges.get(n).is_some_and(|&(first, _)| first <= uid)
}

/// UIDVALIDITY of a mailbox that has two: that of the side with more mails, else the larger (sync.md 5.5).
fn merged_uidvalidity(a: &Facts, b: &Facts) -> UidValidity {
    let (va, vb) = (a.status.identity.uidvalidity, b.status.identity.uidvalidity);
    if (a.items.len(), va) >= (b.items.len(), vb) { va } else { vb }
}
