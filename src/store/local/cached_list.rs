//! The list index of a namespace as this store uses it: opened once, followed from then on (index.md 9.5).

use super::{LocalStore, Target, list_index};
use crate::index::list_index::ListIndex;
use crate::mail::{Class, Error, MailboxGuid, Result};
use crate::store::list::{Entry, Stored};

impl LocalStore {
    /// The levels of a storage name.
    pub(super) fn levels(&self, space: usize, stored: &Stored) -> Vec<Vec<u8>> {
        let separator = self.list(space).map_or('/', |l| l.names.storage_separator);
        stored.name.as_encoded_bytes().split(|&b| b == separator as u8).map(<[u8]>::to_vec).collect()
    }

    /// Does something with the list index, as it is now. `None` if there is none and none is to be made.
    pub(super) fn with_list_index<T>(
        &self,
        space: usize,
        create: bool,
        act: impl FnOnce(&mut ListIndex) -> Result<T>,
    ) -> Result<Option<T>> {
        let list = self.list(space)?;
        let Some((files, options)) = list_index(list, &self.settings) else {
            return if create { Err(Error::new(Class::NotPossible, "LAYOUT=index needs index files on disk")) } else { Ok(None) };
        };
        let mut opened = self.list_indexes.borrow_mut();
        // Whatever is wrong with what was opened is found out by opening it again.
        let usable = files.exist() && opened.get_mut(&space).is_some_and(|index| index.refresh().is_ok());
        if !usable {
            opened.remove(&space);
            let new = if create {
                list.make_root(files.dir())?;
                Some(ListIndex::open_or_create(files, options)?)
            } else {
                ListIndex::open(files, options)?
            };
            opened.extend(new.map(|index| (space, index)));
        }
        opened.get_mut(&space).map(act).transpose()
    }

    /// Changes the node of a `LAYOUT=index` mailbox.
    pub(super) fn at_node<T>(&self, target: &Target, act: impl FnOnce(&mut ListIndex, &[&[u8]]) -> Result<T>) -> Result<T> {
        let levels = self.levels(target.space, &target.entry.stored);
        let levels: Vec<&[u8]> = levels.iter().map(Vec::as_slice).collect();
        let done = self.with_list_index(target.space, true, |index| act(index, &levels))?;
        done.ok_or_else(|| Error::new(Class::Temporary, "the list index cannot be made"))
    }

    /// Lets running sessions see that the tree has changed. A cache: what goes wrong here mends itself at the next listing.
    pub(super) fn tell_list_index(&self, space: usize) {
        if !self.settings.list_index {
            return;
        }
        if let Err(e) = self.with_list_index(space, false, |index| Ok(index.request_refresh()?)) {
            tracing::warn!("{e}");
        }
    }

    /// See [`ListIndex::cut_off_rest`].
    pub(super) fn mend_list_index(&self, space: usize) {
        if let Err(e) = self.with_list_index(space, false, |index| Ok(index.cut_off_rest()?)) {
            tracing::debug!("{e}");
        }
    }

    /// Dovecot itself goes on showing the GUID of a deleted Maildir++ folder that has children (verified live).
    pub(super) fn forget_in_list_index(&self, target: &Target, directory: bool) {
        let levels = self.levels(target.space, &target.entry.stored);
        let levels: Vec<&[u8]> = levels.iter().map(Vec::as_slice).collect();
        if let Err(e) = self.with_list_index(target.space, false, |index| Ok(index.forget(&levels, directory)?)) {
            tracing::warn!("{e}");
        }
    }

    /// With `LAYOUT=index`: the mailbox that the list index has under a name.
    pub(super) fn guid_of(&self, space: usize, entry: &Entry) -> Result<Option<MailboxGuid>> {
        let separator = self.list(space)?.names.storage_separator;
        let wanted = entry.stored.name.as_encoded_bytes();
        let found = self.with_list_index(space, false, |index| {
            Ok(index.paths(separator)?.into_iter().find(|(path, _)| path == wanted).and_then(|(_, n)| n.guid))
        })?;
        Ok(found.flatten())
    }

    /// Forgets what was known of a mailbox whose directory got another name.
    pub(super) fn target_again(&mut self, target: &Target) {
        self.known.remove(&target.entry.name);
    }
}
