//! The two values in the mailbox's cache file that matter here: saved dates, which have no other home, and GUIDs, which
//! need no opening of files then (dbox.md 2.2, 2.7).

use std::collections::{BTreeMap, HashMap};

use super::view::View;
use crate::index::{self, CacheEntry, CacheField, Index, Locked, cached_number};
use crate::mail::{MailGuid, Timestamp, Uid};

/// So many mails are looked up at once: the file is read in large pieces anyway.
const AHEAD: usize = 1024;

/// Values to be cached.
#[derive(Debug, Clone)]
pub(super) struct NewRecord {
    pub uid: Uid,
    pub saved: Timestamp,
    pub guid: Option<MailGuid>,
}

/// Looks up a row of a view, and those behind it that were not looked up yet. A cache that cannot be read is an empty one.
pub(super) fn look_up(index: &Index, view: &mut View, row: usize) {
    let rows: Vec<usize> = (row..view.mails.len()).take(AHEAD).filter(|&row| !view.slots[row].looked_up).collect();
    for &row in &rows {
        view.slots[row].looked_up = true;
    }
    let state = index.state();
    // The index may know of changes that the view does not.
    let by_state: HashMap<usize, usize> =
        rows.into_iter().filter_map(|row| Some((state.row(view.mails.uid(row))?, row))).collect();
    let slots = &mut view.slots;
    let found = |at: usize, field: CacheField, data: &[u8]| {
        let Some(slot) = by_state.get(&at).and_then(|&row| slots.get_mut(row)) else { return };
        match field {
            CacheField::Saved => slot.saved = Timestamp(u32::try_from(cached_number(data)).unwrap_or(0)),
            CacheField::Guid if slot.guid.is_none() => slot.guid = MailGuid::new(data),
            _ => {}
        }
    };
    let mut wanted: Vec<usize> = by_state.keys().copied().collect();
    wanted.sort_unstable();
    let read = index.cache().and_then(|cache| match cache {
        Some(cache) => cache.read(state, wanted, &[CacheField::Saved, CacheField::Guid], found),
        None => Ok(()),
    });
    if let Err(e) = read {
        tracing::debug!("{e}");
    }
}

/// Writes records and tells where they are. Mails without one are no less there: their saved date is their file's ctime.
///
/// # Errors
/// The log could not be written to, so that nothing else can be either.
pub(super) fn write(locked: &mut Locked<'_>, records: &[NewRecord]) -> index::Result<BTreeMap<Uid, u32>> {
    let guids: Vec<Option<Vec<u8>>> = records.iter().map(|r| r.guid.as_ref().map(MailGuid::text)).collect();
    let entries: Vec<CacheEntry<'_>> = records
        .iter()
        .zip(&guids)
        .map(|(r, guid)| CacheEntry { uid: r.uid, saved: Some(r.saved), guid: guid.as_deref() })
        .collect();
    match locked.cache(&entries) {
        Ok(offsets) => Ok(offsets.into_iter().collect()),
        Err(e) if locked.is_spoilt() => Err(e),
        Err(e) => {
            tracing::warn!("saved dates are not kept: {e}");
            Ok(BTreeMap::new())
        }
    }
}
