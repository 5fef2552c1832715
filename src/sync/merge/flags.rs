//! Flags and keywords of a mail that both sides have (sync.md 7.7).

use super::{FlagLog, Item};
use crate::mail::{Flags, Keyword, Keywords};

/// The flags and keywords that both sides shall have.
///
/// A flag that is equal stays. One that a log explains follows that log, the newer side's where two logs contradict. One that
/// no log explains is as the newer side has it. Newer is the side with the higher modseq of this mail; the master's where
/// they are equal.
#[must_use]
pub fn merge(master: &Item, slave: &Item) -> (Flags, Keywords) {
    if master.flags == slave.flags && master.keywords == slave.keywords {
        return (master.flags, master.keywords.clone());
    }
    let (newer, older) = if slave.modseq > master.modseq { (slave, master) } else { (master, slave) };
    let nothing = FlagLog::default();
    let (newer_log, older_log) = (newer.log.as_deref().unwrap_or(&nothing), older.log.as_deref().unwrap_or(&nothing));

    let differ = newer.flags ^ older.flags;
    let added = newer_log.added | older_log.added.without(newer_log.removed);
    let removed = newer_log.removed | older_log.removed.without(newer_log.added);
    let flags = (newer.flags | (differ & added)).without(differ & removed);

    let keep = |k: &&Keyword| {
        let (n, o) = (newer.keywords.contains(k), older.keywords.contains(k));
        if n == o {
            return n;
        }
        let (n_add, n_rem) = (newer_log.keywords_added.contains(k), newer_log.keywords_removed.contains(k));
        let added = n_add || older_log.keywords_added.contains(k) && !n_rem;
        let removed = n_rem || older_log.keywords_removed.contains(k) && !n_add;
        (n || added) && !removed
    };
    let keywords = newer.keywords.union(&older.keywords).iter().filter(keep).cloned().collect();
    (flags, keywords)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{ModSeq, Uid};
    use proptest::prelude::*;

    fn item(flags: u8, modseq: u64, added: u8, removed: u8) -> Item {
        Item {
            uid: Uid::FIRST,
            guid: None,
            flags: Flags::from_bits(flags),
            keywords: Keywords::NONE,
            modseq: ModSeq(modseq),
            log: Some(Box::new(FlagLog {
                added: Flags::from_bits(added & !removed),
                removed: Flags::from_bits(removed),
                ..FlagLog::default()
            })),
            filtered: false,
        }
    }

    #[test]
    fn flags_set_on_both_sides_meet() {
        let (flags, _) = merge(&item(0x08, 5, 0x08, 0), &item(0x02, 5, 0x02, 0));
        assert_eq!(flags, Flags::SEEN | Flags::FLAGGED);
    }

    #[test]
    fn without_a_log_the_newer_side_has_it() {
        let (flags, _) = merge(&item(0x08, 5, 0, 0), &item(0x00, 6, 0, 0));
        assert_eq!(flags, Flags::NONE);
        let (flags, _) = merge(&item(0x08, 6, 0, 0), &item(0x00, 6, 0, 0));
        assert_eq!(flags, Flags::SEEN, "equal modseqs: the master's");
    }

    proptest! {
        #[test]
        fn what_is_merged_stays_merged(a in 0u8..32, b in 0u8..32, ma in 1u64..4, mb in 1u64..4, la in 0u8..32, ra in 0u8..32, lb in 0u8..32, rb in 0u8..32) {
            let (x, y) = (item(a, ma, la, ra), item(b, mb, lb, rb));
            let (flags, _) = merge(&x, &y);
            prop_assert_eq!(flags & Flags::from_bits(a & b), Flags::from_bits(a & b), "equal flags stay");
            prop_assert!(Flags::from_bits(a | b).contains(flags), "nothing is invented");
            let (x2, y2) = (Item { flags, ..x }, Item { flags, ..y });
            prop_assert_eq!(merge(&x2, &y2).0, flags);
        }
    }
}
