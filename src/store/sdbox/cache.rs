//! What the mailbox's cache file knows that has no cheaper home: GUIDs and saved dates (dbox.md 2.2, 2.7).

use std::collections::BTreeMap;

use crate::index::{Index, Locked};
use crate::mail::{MailGuid, Result, Timestamp, Uid};

/// The cached values of a view.
#[derive(Debug, Default)]
pub(super) struct Cache;

impl Cache {
    pub fn open(_index: &Index) -> Self {
        Self
    }

    /// The saved date, if it is cached.
    pub fn saved(&self, _uid: &Uid) -> Option<Timestamp> {
        None
    }

    /// Writes records; tells where they are. Values that are not needed for being right are left out if the cache cannot be
    /// written.
    pub fn write(&mut self, _locked: &mut Locked<'_>, _records: &[NewRecord]) -> Result<BTreeMap<Uid, u32>> {
        Ok(BTreeMap::new())
    }

    /// The GUID, if it is cached.
    pub fn guid(&self, _uid: &Uid) -> Option<MailGuid> {
        None
    }
}

/// Values to be cached.
#[derive(Debug, Clone)]
pub(super) struct NewRecord {
    pub uid: Uid,
    pub saved: Timestamp,
    pub guid: Option<MailGuid>,
}
