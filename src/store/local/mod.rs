//! A user's mail on this machine's disks: [`Store`] made of mailbox lists (one for each namespace) and storage formats (one for
//! each location).
//!
//! Knows names and where they lead; what is in a mailbox is its [`Format`]'s business. The order of writes stands where they
//! are made: [`change`], and for directories in the mailbox list.

mod cached_list;
mod change;
mod guid_dirs;
mod history;
mod metadata;
mod scan;
mod spaces;
mod subscribe;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::index::{self, list_index::ListIndex};
use crate::mail::{
    Attribute, Class, Error, Mailbox, MailboxGuid, MailboxName, Result, Selection, Store, Timestamp, Tree, UidValidity,
};
use crate::store::attributes::AttributeFile;
use crate::store::format::{Format, Place};
use crate::store::list::{Entry, IndexDir, Layout, List, Location};
use crate::store::sieve::SieveFiles;
use crate::store::{Account, Settings};

pub use spaces::Side;
use spaces::Space;

/// Which side of a run a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFor {
    /// Mail comes from here: a place that is not there is an error, not a user without mail.
    Source,
    /// Mail goes there: a place that is not there is made when the first mailbox is.
    Destination,
}

/// Makes the storage format of a location.
pub type MakeFormat<'a> = dyn Fn(&Location, &Account) -> Result<Box<dyn Format>> + 'a;

/// A location with its storage.
struct Site {
    /// As it was configured.
    asked: Location,
    location: Location,
    format: Box<dyn Format>,
    begun: bool,
    /// The indexes of `INDEX=MEMORY`, gone after the run.
    _indexes: Option<TempDir>,
}

impl Site {
    fn new(asked: Location, account: &Account, make_format: &MakeFormat<'_>) -> Result<Self> {
        let mut location = asked.clone();
        let mut account = Cow::Borrowed(account);
        let mut indexes = None;
        // A dbox without index files is nothing; its format says so.
        if location.index == IndexDir::Memory && !location.driver.is_dbox() {
            let failed = |e| Error::new(Class::Temporary, format!("INDEX=MEMORY: no directory for indexes: {e}"));
            let dir = tempfile::Builder::new().prefix("dsync-index-").tempdir().map_err(failed)?;
            location.index = IndexDir::Dir(dir.path().to_owned());
            account.to_mut().settings.index.lasts = false;
            indexes = Some(dir);
        }
        let format = make_format(&location, &account)?;
        Ok(Self { asked, location, format, begun: false, _indexes: indexes })
    }

    /// There is a mailbox at this place. A dbox whose directory has been made, but nothing in it, is none yet: whoever was
    /// making it did not come to its end.
    fn exists(&self, place: &Place) -> bool {
        let begun = || {
            index::Files::new(&place.index, index::Files::MAILBOX).exist()
                || std::fs::read_dir(&place.mailbox).is_ok_and(|mut d| d.next().is_some())
        };
        self.format.exists(place) && (!self.location.driver.is_dbox() || begun())
    }
}

/// One user's mail on disk.
pub struct LocalStore {
    spaces: Vec<Space>,
    sites: Vec<Site>,
    settings: Settings,
    open_for: OpenFor,
    /// The namespaces of the last scan; all usable ones before it.
    selected: Vec<usize>,
    /// List indexes that are open, by namespace.
    list_indexes: RefCell<HashMap<usize, ListIndex>>,
    /// `mail_attribute_dict`, where it is a file.
    attributes: Option<AttributeFile>,
    /// The user's Sieve scripts, which are attributes of INBOX.
    sieve: Option<SieveFiles>,
    /// What the last scan found, and what was made since.
    known: HashMap<MailboxName, Known>,
}

#[derive(Debug, Clone)]
struct Known {
    space: usize,
    entry: Entry,
    /// Of a mailbox that was there when the tree was read.
    place: Option<Place>,
}

/// A mailbox or directory that a name leads to.
#[derive(Debug, Clone)]
struct Target {
    space: usize,
    entry: Entry,
}

impl LocalStore {
    /// Understands the locations of an account and makes their storages. Nothing is read or changed yet, except to find out
    /// drivers that are not named.
    ///
    /// # Errors
    /// The namespaces contradict each other. A location that cannot be used is an error only once its namespace takes part.
    pub fn open(account: &Account, open_for: OpenFor, make_format: &MakeFormat<'_>) -> Result<Self> {
        let mut store = Self {
            spaces: Vec::new(),
            sites: Vec::new(),
            settings: account.settings.clone(),
            open_for,
            selected: Vec::new(),
            list_indexes: RefCell::default(),
            attributes: None,
            sieve: SieveFiles::of(&account.settings, &account.owner),
            known: HashMap::new(),
        };
        store.add_spaces(account, make_format)?;
        if let Some(dict) = &account.settings.attribute_dict {
            store.attributes = AttributeFile::of(dict, account.settings.index.dotlock_use_excl);
            if store.attributes.is_none() {
                tracing::warn!("mail_attribute_dict={dict} is no file: attributes of mailboxes are not synchronised");
            }
        }
        store.selected = (0..store.spaces.len()).filter(|&i| store.spaces[i].usable.is_ok()).collect();
        Ok(store)
    }

    fn list(&self, space: usize) -> Result<&List> {
        self.spaces[space].list()
    }

    fn format(&mut self, space: usize) -> Result<&mut dyn Format> {
        let site = self.spaces[space].site()?;
        Ok(&mut *self.sites[site].format)
    }

    fn place(&self, target: &Target) -> Result<Place> {
        self.list(target.space)?.place(&target.entry.name, &target.entry.stored, target.entry.guid)
    }

    /// There is a mailbox.
    fn exists(&self, target: &Target) -> Result<bool> {
        let list = self.list(target.space)?;
        if list.location.layout == Layout::Index && target.entry.guid.is_none() {
            return Ok(false);
        }
        let site = self.spaces[target.space].site()?;
        let place = self.list(target.space)?.place_to_read(&target.entry.name, &target.entry.stored, target.entry.guid)?;
        // In a flat layout every directory is a mailbox, except the root.
        let by_directory = list.location.layout.is_flat() && !target.entry.stored.inbox && place.mailbox.is_dir();
        Ok(by_directory || self.sites[site].exists(&place))
    }

    /// Where a name leads, whether or not there is anything.
    fn target(&self, name: &MailboxName) -> Result<Target> {
        if let Some(known) = self.known.get(name) {
            return Ok(Target { space: known.space, entry: known.entry.clone() });
        }
        let space = self.space_of(name)?;
        let list = self.list(space)?;
        let stored = list.names.stored(name).map_err(|e| Error::new(Class::InvalidData, e))?;
        let mut entry = Entry { name: name.clone(), stored, selectable: false, odd: false, guid: None };
        if list.location.layout == Layout::Index {
            entry.guid = self.guid_of(space, &entry)?;
        }
        Ok(Target { space, entry })
    }

    fn missing(name: &MailboxName) -> Error {
        Error::new(Class::NotFound, format!("Mailbox {name} doesn't exist"))
    }
}

impl Store for LocalStore {
    fn scan(&mut self, selection: &Selection) -> Result<Tree> {
        self.scan_tree(selection)
    }

    fn open(&mut self, name: &MailboxName) -> Result<Box<dyn Mailbox>> {
        let target = self.target(name)?;
        self.begin(target.space)?;
        let known = self.known.get(name).and_then(|known| known.place.clone());
        let place = match known {
            Some(place) => place,
            None if self.exists(&target)? => self.place(&target)?,
            None => return Err(Self::missing(name)),
        };
        match self.format(target.space)?.open(&place) {
            Ok(mailbox) => self.with_guid_directory(mailbox, &target),
            // Gone since the tree was read.
            Err(_) if !self.exists(&target)? => Err(Self::missing(name)),
            Err(e) => Err(e),
        }
    }

    fn create(&mut self, name: &MailboxName, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        self.create_mailbox(name, guid, uidvalidity)
    }

    fn create_dir(&mut self, name: &MailboxName) -> Result<()> {
        self.create_directory(name)
    }

    fn delete(&mut self, name: &MailboxName, guid: MailboxGuid, time: Timestamp) -> Result<()> {
        self.delete_mailbox(name, guid, time)
    }

    fn delete_dir(&mut self, name: &MailboxName, time: Timestamp) -> Result<()> {
        self.delete_directory(name, time)
    }

    fn rename(&mut self, from: &MailboxName, to: &MailboxName, time: Timestamp) -> Result<()> {
        self.rename_mailbox(from, to, time)
    }

    fn set_subscribed(&mut self, name: &MailboxName, subscribed: bool, time: Timestamp) -> Result<()> {
        self.change_subscription(name, subscribed, time)
    }

    fn purge(&mut self) -> Result<()> {
        let mut done = Vec::new();
        for space in self.selected.clone() {
            let Ok(site) = self.spaces[space].site() else { continue };
            if !done.contains(&site) && self.sites[site].location.root.is_dir() {
                self.begin(space)?;
                self.sites[site].format.purge()?;
                done.push(site);
            }
        }
        Ok(())
    }

    fn attributes(&mut self, name: &MailboxName, guid: MailboxGuid) -> Result<Option<Vec<Attribute>>> {
        self.get_attributes(name, guid)
    }

    fn set_attribute(&mut self, name: &MailboxName, guid: MailboxGuid, attribute: &Attribute) -> Result<()> {
        self.change_attribute(name, guid, attribute)
    }
}

#[cfg(test)]
mod tests;

/// The files of a list's index, and how they are opened.
fn list_index(list: &List, settings: &Settings) -> Option<(index::Files, index::Options)> {
    let path: PathBuf = list.location.list_index_file()?;
    let files = index::Files::new(path.parent()?, path.file_name()?.to_str()?);
    Some((files, index::Options::new(settings.index.clone(), list.root_modes())))
}
