//! What the format and its mailboxes share: the map, the files, and the mails that this run has saved.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::{Files, Location, OpenError};
use super::map::Map;
use super::plan::Listed;
use crate::index::{self, Index, Options, Parking};
use crate::mail::{Error, Guid128, Result};
use crate::os::fs::{self, Modes};
use crate::store::Settings;
use crate::store::dbox::TextRules;
use crate::store::format::Place;

/// How many saved mails are remembered for being found again: just what a hash table of 2^17 places, some 3 MB, has room for.
const REMEMBERED: usize = 7 << 14;

/// One storage: a mail root with its `m.N` and its map.
#[derive(Debug)]
pub(super) struct Storage {
    pub location: Location,
    pub settings: Settings,
    pub rules: TextRules,
    /// Modes of what is made in `storage/`: those of the mail root.
    pub modes: Modes,
    pub files: Files,
    pub map: Map,
    /// Indexes of mailboxes that were looked at and will be opened.
    pub parking: Parking,
    /// Map uids of mails saved by this run: the next mail with the same GUID is perhaps the same mail.
    saved: HashMap<Guid128, u32>,
}

/// A storage as its users hold it.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<Storage>>);

impl Shared {
    pub fn new(storage: Storage) -> Self {
        Self(Arc::new(Mutex::new(storage)))
    }

    /// The storage, for as long as one operation takes. No operation calls another one that does this.
    pub fn get(&self) -> MutexGuard<'_, Storage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage {
    pub fn new(location: Location, settings: Settings) -> Self {
        let modes = std::fs::metadata(&location.root).map(|m| Modes::like(&m)).unwrap_or_default();
        Self {
            rules: TextRules::of(&settings),
            files: Files::new(&location),
            map: Map::new(&location, &settings.index, modes),
            parking: Parking::default(),
            saved: HashMap::new(),
            location,
            settings,
            modes,
        }
    }

    /// Makes the directories of the storage.
    pub fn create_dirs(&mut self, modes: &Modes) -> Result<()> {
        fs::mkdir_all(&self.location.root, modes)?;
        self.modes = std::fs::metadata(&self.location.root).map_or(*modes, |m| Modes::like(&m));
        self.map.set_modes(self.modes);
        fs::mkdir_all(self.files.storage(), &self.modes)?;
        fs::mkdir_all(self.map.dir(), &self.modes)?;
        Ok(())
    }

    /// Takes in what others have done to the map. `false`: there is no map.
    pub fn refresh_map(&mut self) -> Result<bool> {
        let there = self.map.refresh()?;
        if self.map.was_rebuilt() {
            self.files.forget();
        }
        Ok(there)
    }

    /// The options with which a mailbox's index is opened.
    pub fn index_options(&self, place: &Place) -> Options {
        index_options(&self.settings, place)
    }

    /// Opens a mailbox's index.
    pub fn open_index(&mut self, place: &Place) -> std::result::Result<Index, index::Error> {
        let options = self.index_options(place);
        self.parking.open(index_files(place), options)
    }

    /// Where a mail is, after another look at the map if need be. `None`: the map does not have it.
    pub fn locate(&mut self, map_uid: u32) -> Result<Option<Listed>> {
        if let Some(listed) = self.map.lookup(map_uid) {
            return Ok(Some(listed));
        }
        self.refresh_map()?;
        Ok(self.map.lookup(map_uid))
    }

    /// Where a mail is and its file, beside a purge that moves it (dbox.md 3.5). `None`: it is nowhere.
    pub fn open_mail(&mut self, map_uid: u32) -> Result<Option<(Listed, Arc<crate::store::dbox::DboxFile>)>> {
        let mut tried = None;
        loop {
            let Some(listed) = self.locate(map_uid)? else { return Ok(None) };
            match self.files.open(listed.place.file_id) {
                Ok(file) => return Ok(Some((listed, file))),
                Err(OpenError::Failed(e)) => return Err(e),
                Err(OpenError::Missing) if tried == Some(listed.place.file_id) => return Ok(None),
                Err(OpenError::Missing) => {
                    tried = Some(listed.place.file_id);
                    self.refresh_map()?;
                }
            }
        }
    }

    /// A mail that this run has saved under this GUID.
    pub fn saved(&self, guid: Guid128) -> Option<u32> {
        self.saved.get(&guid).copied()
    }

    /// Remembers a saved mail. The first one of a GUID stays.
    pub fn remember(&mut self, guid: Guid128, map_uid: u32) {
        if self.saved.len() < REMEMBERED {
            self.saved.entry(guid).or_insert(map_uid);
        }
    }

    /// Forgets a mail that is not what was saved.
    pub fn forget(&mut self, guid: Guid128) {
        self.saved.remove(&guid);
    }
}

/// The options with which a mailbox's index is opened.
pub(super) fn index_options(settings: &Settings, place: &Place) -> Options {
    Options { backup: true, ..Options::new(settings.index.clone(), place.modes) }
}

/// The index files of a mailbox.
pub(super) fn index_files(place: &Place) -> index::Files {
    index::Files::new(&place.index, index::Files::MAILBOX).with_cache_dir(&place.cache)
}

/// An error that names the index's place.
pub(super) fn bad_index(place: &Place, e: impl std::fmt::Display) -> Error {
    let text = format!("{}: {e}; {}", index_files(place).log().display(), super::map::CURE);
    Error::new(crate::mail::Class::Temporary, text)
}
