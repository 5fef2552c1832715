//! UIDs that a sync has held back (filters, unreadable mails), kept in an index extension of our own. Dovecot carries unknown
//! extensions along and never looks at them (index.md 2.9).
//!
//! Header data: u32 number of ranges, then {u32 first, u32 last} for each, ascending, both ends included. No record data.

use crate::index::log::Bits;
use crate::index::state::State;
use crate::index::transaction::{ExtSpec, Transaction};
use crate::mail::{Uid, union_of_uids};

const NAME: &str = "dsync-held";
/// More ranges than this are not kept apart: the last one then reaches to the end of the rest. A mail that counts as held back
/// although it was there may come back after its deletion; the other way round it would be deleted on the other side.
const MOST: usize = 4096;

impl State {
    /// UIDs that only one side ever had, though UIDNEXT has passed them on both. What makes no sense is left out.
    #[must_use]
    pub fn held_back(&self) -> Vec<(Uid, Uid)> {
        let Some(ext) = self.ext(NAME) else { return Vec::new() };
        let Some((count, ranges)) = self.ext_header(ext).split_first_chunk::<4>() else { return Vec::new() };
        let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
        let mut out: Vec<(Uid, Uid)> = Vec::new();
        for chunk in ranges.chunks_exact(8).take(count.min(MOST)) {
            let number = |at: usize| Uid::new(u32::from_le_bytes([chunk[at], chunk[at + 1], chunk[at + 2], chunk[at + 3]]));
            match (number(0), number(4)) {
                (Some(first), Some(last)) if first <= last && out.last().is_none_or(|l| l.1 < first) => out.push((first, last)),
                _ => return out,
            }
        }
        out
    }

    /// The transaction that makes these the ranges held back; none if they are already.
    #[must_use]
    pub fn hold_back(&self, ranges: &[(Uid, Uid)], bits: Bits) -> Option<Transaction> {
        let kept = ranges.get(..MOST).zip(ranges.last()).map(|(kept, end)| {
            let mut kept = kept.to_vec();
            kept[MOST - 1].1 = end.1;
            kept
        });
        let ranges = kept.as_deref().unwrap_or(ranges);
        (self.held_back() != ranges).then(|| holding(ranges, bits))
    }

    /// The transaction that adds these; none if that changes nothing.
    #[must_use]
    pub(in crate::index) fn hold_back_too(&self, uids: (Uid, Uid), bits: Bits) -> Option<Transaction> {
        self.hold_back(&union_of_uids(self.held_back().into_iter().chain([uids])), bits)
    }

    /// The transaction that brings the ranges held back into a new history of the same index; none where nothing is.
    #[must_use]
    pub fn hold_on(&self, bits: Bits) -> Option<Transaction> {
        let ranges = self.held_back();
        (!ranges.is_empty()).then(|| holding(&ranges, bits))
    }
}

fn holding(ranges: &[(Uid, Uid)], bits: Bits) -> Transaction {
    let mut data = u32::try_from(ranges.len()).unwrap_or(0).to_le_bytes().to_vec();
    for (first, last) in ranges {
        data.extend_from_slice(&first.get().to_le_bytes());
        data.extend_from_slice(&last.get().to_le_bytes());
    }
    let room = u32::try_from(data.len().next_power_of_two().max(64)).unwrap_or(u32::MAX);
    let spec = ExtSpec { name: NAME, hdr_size: room, record_size: 0, record_align: 0, exact: false };
    let mut t = Transaction::new(bits);
    t.ext_header(spec, 0, &data);
    t
}
