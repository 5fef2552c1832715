//! New mails that are none: the other side had them under the same UID and its user expunged them.
//!
//! Where the common past ends early (one UID is two mails), everything behind is new and gets new UIDs. A mail among it that
//! a user expunged meanwhile would come back: a run that was killed, or a user who was faster than the run, leaves it under
//! its old or already under its new UID on one side only. The logs tell.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use super::Facts;
use crate::mail::{Guid128, Renumbered, Uid};

impl Facts {
    /// This mail had this UID, and has it no more.
    fn lost(&self, uid: Uid, guid: Guid128) -> bool {
        self.guid_of_expunged(uid) == Some(guid)
    }

    fn guid_of_expunged(&self, uid: Uid) -> Option<Guid128> {
        let at = self.expunged.binary_search_by_key(&uid, |e| e.uid).ok()?;
        self.expunged[at].guid
    }
}

/// Takes out of a side's new mails those that the other side has expunged under the UID that both had, and has under no other.
pub(super) fn drop_expunged(here: &Facts, there: &Facts, new: &mut Vec<usize>) {
    if there.expunged.is_empty() || new.is_empty() {
        return;
    }
    let mut moves: HashMap<Guid128, Vec<&Renumbered>> = HashMap::new();
    for r in &here.renumbered {
        if let Some(guid) = here.guid_of_expunged(r.from) {
            moves.entry(guid).or_default().push(r);
        }
    }
    let present = OnceCell::new();
    new.retain(|&n| {
        let item = &here.items[n];
        let Some(guid) = item.guid else { return true };
        let moves = moves.get(&guid).map_or(&[][..], Vec::as_slice);
        // Back over all the UIDs that it had.
        let mut uid = Some(item.uid);
        let lost = std::iter::from_fn(|| {
            let now = uid?;
            uid = moves.iter().rev().find(|r| r.from < now && (r.first..=r.last).contains(&now)).map(|r| r.from);
            Some(now)
        })
        // Given out on both sides independently, it never was one mail.
        .any(|uid| there.lost(uid, guid) && !(here.is_native(uid) && there.is_native(uid)));
        !lost || present.get_or_init(|| there.items.iter().filter_map(|i| i.guid).collect::<HashSet<_>>()).contains(&guid)
    });
}
