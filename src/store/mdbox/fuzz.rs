//! The door for the fuzz target of an mdbox storage (see [`crate::fuzz`]).

use std::path::Path;

use super::files::Location;
use super::storage::Storage;
use super::{purge, recover};
use crate::index;
use crate::os::Fsync;
use crate::store::Settings;

/// The storage of this root: every mail of the map is looked up, what an interrupted writer left is completed, and it is purged.
pub(crate) fn storage(root: &Path) {
    let location = Location { root: root.to_owned(), index_root: root.to_owned(), alt: None };
    let settings =
        Settings { index: index::Settings { fsync: Fsync::Never, ..index::Settings::default() }, ..Settings::default() };
    let mut storage = Storage::new(location, settings);
    if !storage.refresh_map().unwrap_or(false) {
        return;
    }
    let all: Vec<_> = storage.map.records().take(100).collect();
    for listed in all {
        let file = storage.map.records_of(listed.place.file_id);
        assert!(file.iter().any(|l| l.uid == listed.uid));
        if let Ok(Some((listed, file))) = storage.open_mail(listed.uid) {
            let _ = file.message(u64::from(listed.place.offset));
        }
    }
    let _ = recover::begin(&mut storage, &[]);
    let _ = purge::purge(&mut storage);
}
