//! New mails in an index.

use std::collections::BTreeSet;

use crate::index::transaction::Transaction;
use crate::mail::{ModSeq, NewMail, Uid};

impl Transaction {
    /// A new mail with its flags, keywords and modseq. `extra` are bits of the flags byte that are not system flags.
    ///
    /// Modseqs are written last, so that the mail gets exactly its own if that is larger than what the other records
    /// give it (index.md 4.7).
    pub fn save(&mut self, uid: Uid, mail: &NewMail, extra: u8) {
        self.append(uid, mail.flags.bits() | extra);
        self.keywords(uid, &mail.keywords);
        if mail.modseq != ModSeq(0) {
            self.modseq(uid, mail.modseq);
        }
    }
}

/// The UIDs that new mails get: the wanted ones, except where they are below `next` or given already; then the lowest
/// behind all others, in the order of the mails.
///
/// `None` if there are not enough UIDs left.
#[must_use]
pub fn assign_uids(next: Uid, wanted: &[Uid]) -> Option<Vec<Uid>> {
    let mut taken = BTreeSet::new();
    let kept: Vec<bool> = wanted.iter().map(|&uid| uid >= next && uid.get() < u32::MAX && taken.insert(uid)).collect();
    let mut free = taken.last().map_or(next, |last| last.next());
    wanted
        .iter()
        .zip(kept)
        .map(|(&uid, kept)| {
            if kept {
                return Some(uid);
            }
            let got = free;
            free = free.next();
            (got.get() < u32::MAX).then_some(got)
        })
        .collect()
}

/// UIDs between what was seen as UIDNEXT and what it is.
#[must_use]
pub fn given_since(seen: Uid, next: Uid) -> Option<(Uid, Uid)> {
    let last = Uid::new(next.get() - 1)?;
    (seen <= last).then_some((seen, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(list: &[u32]) -> Vec<Uid> {
        list.iter().map(|&n| Uid::new(n).expect("not 0")).collect()
    }

    #[test]
    fn a_uid_that_is_free_is_kept() {
        let next = Uid::new(6).expect("not 0");
        assert_eq!(assign_uids(next, &uids(&[5, 6, 9, 9, 1])), Some(uids(&[10, 6, 9, 11, 12])));
        assert_eq!(assign_uids(next, &uids(&[3, 4])), Some(uids(&[6, 7])));
        assert_eq!(assign_uids(next, &uids(&[u32::MAX - 1, 1])), None);
    }
}
