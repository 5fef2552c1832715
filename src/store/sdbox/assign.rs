//! Which UIDs staged mails get (contract of `Mailbox::commit`). Nothing is opened here.

use crate::mail::Uid;

/// The highest UID that a mail can have; one more must remain as UIDNEXT.
const HIGHEST: u32 = u32::MAX - 1;

/// No UID is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mailbox has no free UID left")]
pub(super) struct NoUidLeft;

/// UIDs for mails that want these, at a moment when UIDNEXT is `next`: who wants one that is still free gets it, the first of
/// several; all others get the ones behind the highest, in the order of what they wanted.
pub(super) fn assign(next: Uid, wanted: &[Uid]) -> Result<Vec<Uid>, NoUidLeft> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&i| wanted[i]);
    let mut got = vec![None; wanted.len()];
    let mut free = next.get();
    for &i in &order {
        let uid = wanted[i].get();
        if uid >= free && uid <= HIGHEST {
            got[i] = Some(uid);
            free = uid + 1;
        }
    }
    for &i in &order {
        if got[i].is_none() {
            if free > HIGHEST {
                return Err(NoUidLeft);
            }
            got[i] = Some(free);
            free += 1;
        }
    }
    Ok(got.into_iter().map(|uid| uid.and_then(Uid::new).expect("holds because all were given one above 0")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uids(numbers: &[u32]) -> Vec<Uid> {
        numbers.iter().map(|&n| Uid::new(n).expect("not 0")).collect()
    }

    fn assigned(next: u32, wanted: &[u32]) -> Vec<u32> {
        assign(Uid::new(next).expect("not 0"), &uids(wanted)).expect("room").iter().map(|u| u.get()).collect()
    }

    #[test]
    fn free_ones_are_kept_the_others_come_behind() {
        assert_eq!(assigned(5, &[7, 3, 5, 4]), [7, 8, 5, 9]);
        assert_eq!(assigned(1, &[9, 9, 2]), [9, 10, 2]);
        assert!(assigned(1, &[]).is_empty());
    }

    #[test]
    fn the_end_of_all_uids() {
        assert_eq!(assigned(u32::MAX - 1, &[1]), [u32::MAX - 1]);
        assert_eq!(assign(Uid::new(u32::MAX - 1).expect("not 0"), &uids(&[1, 2])), Err(NoUidLeft));
        assert_eq!(assign(Uid::new(5).expect("not 0"), &uids(&[u32::MAX])).map(|u| u[0].get()), Ok(5));
    }

    proptest! {
        #[test]
        fn no_two_are_alike_and_none_is_taken(next in 1u32..50, wanted in prop::collection::vec(1u32..60, 0..30)) {
            let got = assigned(next, &wanted);
            let mut sorted = got.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), got.len());
            prop_assert!(got.iter().all(|&u| u >= next));
            for (i, &w) in wanted.iter().enumerate() {
                if w >= next && !wanted[..i].contains(&w) {
                    prop_assert_eq!(got[i], w);
                }
            }
        }
    }
}
