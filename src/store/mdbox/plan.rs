//! Decisions over plain values: what an interrupted commit left wrong (dbox.md 6.1) and how a file is purged (7).

use std::collections::HashMap;
use std::ops::Range;

use super::record::MapRecord;

/// How often each map uid stands in the mailboxes.
pub(super) type Counts = HashMap<u32, u32>;

/// Reference counts that cannot be mended without a full rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CannotMend {
    /// A mailbox names a mail that the map does not have.
    #[error("a mailbox refers to map uid {0}, which the map does not have")]
    Unknown(u32),
    /// More references than the format can count.
    #[error("map uid {uid} has {count} references")]
    TooMany {
        /// Which mail.
        uid: u32,
        /// Its references.
        count: u32,
    },
}

/// The reference counts that are wrong, with what they must be. `map` has all records by ascending map uid.
///
/// Every reference is counted, so a mail that nobody refers to gets 0 and a later purge frees it.
pub(super) fn corrections(map: &[(u32, u16)], counts: &Counts) -> Result<Vec<(u32, u16)>, CannotMend> {
    if let Some(&uid) = counts.keys().find(|uid| map.binary_search_by_key(*uid, |(uid, _)| *uid).is_err()) {
        return Err(CannotMend::Unknown(uid));
    }
    let mut wrong = Vec::new();
    for &(uid, refs) in map {
        let count = counts.get(&uid).copied().unwrap_or(0);
        let right = u16::try_from(count).map_err(|_| CannotMend::TooMany { uid, count })?;
        if right != refs {
            wrong.push((uid, right));
        }
    }
    Ok(wrong)
}

/// A map record as purge sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its map uid.
    pub uid: u32,
    /// Its place.
    pub place: MapRecord,
    /// Its reference count.
    pub refs: u16,
}

/// A message as it was found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Of its header.
    pub offset: u64,
    /// To the end of its metadata.
    pub size: u64,
}

/// Why a file cannot be purged: records and messages are not one to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    /// A message that no record names.
    #[error("the message at offset {0} has no map record")]
    Orphan(u64),
    /// A record whose message is not where it says.
    #[error("map uid {uid} says offset {offset}, where no message is")]
    NoMessage {
        /// The record.
        uid: u32,
        /// Its offset.
        offset: u32,
    },
    /// A record with another size than its message.
    #[error("map uid {uid} at offset {offset} says {said} bytes, the message has {has}")]
    Size {
        /// The record.
        uid: u32,
        /// Its offset.
        offset: u32,
        /// Size in the record.
        said: u32,
        /// Size of the message.
        has: u64,
    },
}

/// Which mails of a file stay and which go; both in file order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PurgePlan {
    /// Still referred to: with the true size of each.
    pub keep: Vec<(Listed, u64)>,
    /// Nobody refers to them.
    pub drop: Vec<Listed>,
}

/// Compares the records of a file with the messages in it. `records` must be sorted by offset.
pub(super) fn purge_plan(records: &[Listed], messages: &[Found]) -> Result<PurgePlan, Mismatch> {
    let mut plan = PurgePlan::default();
    let mut messages = messages.iter();
    for record in records {
        let MapRecord { offset, size, .. } = record.place;
        let Some(message) = messages.next() else { return Err(Mismatch::NoMessage { uid: record.uid, offset }) };
        if message.offset < u64::from(offset) {
            return Err(Mismatch::Orphan(message.offset));
        }
        if message.offset > u64::from(offset) {
            return Err(Mismatch::NoMessage { uid: record.uid, offset });
        }
        // 2.4 writes 0 for what does not fit into 32 bits.
        if size != 0 && u64::from(size) != message.size {
            return Err(Mismatch::Size { uid: record.uid, offset, said: size, has: message.size });
        }
        if record.refs == 0 {
            plan.drop.push(*record);
        } else {
            plan.keep.push((*record, message.size));
        }
    }
    match messages.next() {
        Some(message) => Err(Mismatch::Orphan(message.offset)),
        None => Ok(plan),
    }
}

/// Cuts messages of these sizes into files of at most `rotate` bytes; a file has at least one message.
pub(super) fn split_by_size(sizes: &[u64], header: u64, rotate: u64) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let (mut start, mut bytes) = (0, header);
    for (i, &size) in sizes.iter().enumerate() {
        if i > start && bytes.saturating_add(size) > rotate {
            out.push(start..i);
            (start, bytes) = (i, header);
        }
        bytes = bytes.saturating_add(size);
    }
    if start < sizes.len() {
        out.push(start..sizes.len());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(uid: u32, offset: u32, size: u32, refs: u16) -> Listed {
        Listed { uid, place: MapRecord { file_id: 1, offset, size }, refs }
    }

    #[test]
    fn counts_rule() {
        let counts = Counts::from([(1, 2), (3, 1)]);
        assert_eq!(corrections(&[(1, 1), (2, 5), (3, 1)], &counts), Ok(vec![(1, 2), (2, 0)]));
        assert_eq!(corrections(&[(1, 1)], &counts), Err(CannotMend::Unknown(3)));
        assert_eq!(corrections(&[(1, 1)], &Counts::from([(1, 70000)])), Err(CannotMend::TooMany { uid: 1, count: 70000 }));
    }

    #[test]
    fn purge_wants_records_and_messages_one_to_one() {
        let records = [listed(4, 16, 100, 0), listed(2, 116, 50, 1), listed(9, 166, 0, 2)];
        let whole = [Found { offset: 16, size: 100 }, Found { offset: 116, size: 50 }, Found { offset: 166, size: 1 << 33 }];
        let plan = purge_plan(&records, &whole).expect("they fit");
        assert_eq!(plan.drop, [records[0]]);
        assert_eq!(plan.keep, [(records[1], 50), (records[2], 1 << 33)]);

        assert_eq!(purge_plan(&records, &whole[..2]), Err(Mismatch::NoMessage { uid: 9, offset: 166 }));
        assert_eq!(purge_plan(&records[..2], &whole), Err(Mismatch::Orphan(166)));
        assert_eq!(purge_plan(&records[1..], &whole), Err(Mismatch::Orphan(16)));
        assert_eq!(purge_plan(&records, &whole[1..]), Err(Mismatch::NoMessage { uid: 4, offset: 16 }));
        let short = [whole[0], Found { offset: 116, size: 49 }, whole[2]];
        assert!(matches!(purge_plan(&records, &short), Err(Mismatch::Size { uid: 2, .. })));
    }

    #[test]
    fn files_are_filled_to_the_rotate_size() {
        assert_eq!(split_by_size(&[40, 40, 40], 16, 100), [0..2, 2..3]);
        assert_eq!(split_by_size(&[400, 40], 16, 100), [0..1, 1..2]);
        assert!(split_by_size(&[], 16, 100).is_empty());
    }
}
