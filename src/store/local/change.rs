//! Making, deleting and renaming mailboxes, each under the list lock (mailbox-list.md 8).
//!
//! Order of writes; the directories' own order stands in the mailbox list:
//!
//! create  1 directories   2 the format fills them   3 list index (the name, with `LAYOUT=index`)
//! delete  1 mailbox log: DELETE_MAILBOX, which counts only once the GUID is gone   2 the format expunges all and marks the
//!         index   3 directories   4 list index   5 mailbox log: DELETE_DIR
//! rename  1 directories (or the list index)   2 stamp in the index   3 mailbox log: RENAME
//!
//! After a kill between 1 and 2 of a rename the next run sees the new name without its time, and leaves it at that.

use super::{Known, LocalStore};
use crate::index::mailbox_log::Event;
use crate::mail::{Class, Error, MailboxGuid, MailboxName, Result, Timestamp, UidValidity};
use crate::store::list::{Decoded, Entry, Layout, Stored};

impl LocalStore {
    pub(super) fn create_mailbox(&mut self, name: &MailboxName, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        let mut target = self.target(name)?;
        self.begin(target.space)?;
        let list = self.list(target.space)?;
        list.make_roots()?;
        let _lock = list.lock()?;
        if self.exists(&target)? && !self.is_half_made(&target) {
            return Err(Error::new(Class::Exists, format!("Mailbox {name} already exists")));
        }
        let by_guid = list.location.layout == Layout::Index;
        target.entry.guid = by_guid.then_some(guid);
        list.make_dirs(&target.entry.stored, target.entry.guid)?;
        let place = self.place(&target)?;
        self.format(target.space)?.create(&place, guid, uidvalidity)?;
        if by_guid {
            self.at_node(&target, |index, levels| Ok(index.create(levels, guid, uidvalidity)?))?;
        } else {
            self.tell_list_index(target.space);
        }
        target.entry.selectable = true;
        self.known.insert(name.clone(), Known { space: target.space, entry: target.entry, place: None });
        Ok(())
    }

    pub(super) fn create_directory(&mut self, name: &MailboxName) -> Result<()> {
        let target = self.target(name)?;
        let list = self.list(target.space)?;
        if target.entry.stored.inbox {
            return Ok(());
        }
        if target.entry.stored.name.is_empty() {
            return list.make_roots();
        }
        list.make_roots()?;
        if list.location.layout.is_flat() {
            // There is nothing between a mailbox and no mailbox (sync.md 4.7).
            if self.exists(&target)? {
                return Ok(());
            }
            let place = self.place(&target)?;
            let uidvalidity = crate::store::list::uidvalidity::next(&place.control_root, &place.modes)?;
            return match self.create_mailbox(name, MailboxGuid::generate(), uidvalidity) {
                Err(e) if e.class() == Class::Exists => Ok(()),
                other => other,
            };
        }
        let _lock = list.lock()?;
        if list.location.layout == Layout::Index {
            return self.at_node(&target, |index, levels| Ok(index.create_dir(levels)?));
        }
        list.make_plain_dir(&target.entry.stored)?;
        self.tell_list_index(target.space);
        Ok(())
    }

    pub(super) fn delete_mailbox(&mut self, name: &MailboxName, guid: MailboxGuid, time: Timestamp) -> Result<()> {
        let target = self.target(name)?;
        self.begin(target.space)?;
        let space = target.space;
        let list = self.list(space)?;
        let stored = &target.entry.stored;
        list.deletable(stored, target.entry.guid)?;
        if !list.location.root.is_dir() {
            return Err(Self::missing(name));
        }
        let _lock = list.lock()?;
        if !self.exists(&target)? || self.identity(&target)?.guid != guid {
            return Err(Self::missing(name));
        }
        self.remember(space, Event::DeleteMailbox(guid), time)?;
        let place = self.place(&target)?;
        self.format(space)?.empty(&place)?;
        let list = self.list(space)?;
        let mut gone = list.remove_dirs(stored, target.entry.guid)?;
        if list.location.layout == Layout::Index {
            gone = self.at_node(&target, |index, levels| Ok(index.delete(levels, Some(guid))?))?;
        } else {
            self.forget_in_list_index(&target, !gone);
            self.tell_list_index(space);
        }
        self.known.remove(name);
        if gone {
            let hash = self.hash(space, name)?;
            self.remember(space, Event::DeleteDir(hash), time)?;
        }
        Ok(())
    }

    pub(super) fn delete_directory(&mut self, name: &MailboxName, time: Timestamp) -> Result<()> {
        let target = self.target(name)?;
        let list = self.list(target.space)?;
        if target.entry.stored.inbox || !list.location.root.is_dir() {
            return Err(Self::missing(name));
        }
        let _lock = list.lock()?;
        if self.exists(&target)? {
            return Err(Error::new(Class::Exists, format!("{name} is a mailbox")));
        }
        if list.location.layout == Layout::Index {
            self.at_node(&target, |index, levels| Ok(index.delete(levels, None)?))?;
        } else {
            list.remove_plain_dir(&target.entry.stored)?;
            self.tell_list_index(target.space);
        }
        self.known.remove(name);
        // Dovecot logs the hash of the storage name here, which no reader can find a name by; readers look for this one.
        let hash = self.hash(target.space, name)?;
        self.remember(target.space, Event::DeleteDir(hash), time)
    }

    pub(super) fn rename_mailbox(&mut self, from: &MailboxName, to: &MailboxName, time: Timestamp) -> Result<()> {
        let old = self.target(from)?;
        let mut new = self.target(to)?;
        if self.spaces[old.space].site()? != self.spaces[new.space].site()? {
            return Err(Error::new(Class::NotPossible, "Can't rename mailboxes across specified storages."));
        }
        self.begin(old.space)?;
        let list = self.list(new.space)?;
        if !list.location.root.is_dir() {
            return Err(Self::missing(from));
        }
        let _lock = list.lock()?;
        let below: Vec<Entry> =
            self.listing(old.space)?.entries.into_iter().filter(|e| list.names.is_below(&e.stored, &old.entry.stored)).collect();
        if list.location.layout == Layout::Index {
            if old.entry.stored.inbox {
                return Err(Error::new(Class::NotPossible, "Renaming INBOX isn't supported."));
            }
            let levels = |s: &Stored| -> Vec<Vec<u8>> { self.levels(new.space, s) };
            let (from, to) = (levels(&old.entry.stored), levels(&new.entry.stored));
            let to: Vec<&[u8]> = to.iter().map(Vec::as_slice).collect();
            let from: Vec<&[u8]> = from.iter().map(Vec::as_slice).collect();
            self.with_list_index(new.space, true, |index| Ok(index.rename(&from, &to)?))?;
            new.entry.guid = old.entry.guid;
        } else {
            let stored: Vec<Stored> = below.iter().map(|e| e.stored.clone()).collect();
            list.move_dirs(&old.entry.stored, &new.entry.stored, &stored)?;
            self.tell_list_index(new.space);
        }
        self.known.retain(|name, _| !name.is_inside(from));
        let names = &self.list(new.space)?.names;
        // Where other names lead is computed; an odd one leads nowhere by itself.
        let odd: Vec<Known> = below
            .into_iter()
            .filter(|e| e.odd)
            .filter_map(|mut entry| {
                entry.stored = entry.stored.rebased(&old.entry.stored, &new.entry.stored);
                match names.decode(&entry.stored.name) {
                    Decoded::Odd(name) => entry.name = name,
                    _ => return None,
                }
                Some(Known { space: new.space, entry, place: None })
            })
            .collect();
        self.known.extend(odd.into_iter().map(|k| (k.entry.name.clone(), k)));
        new.entry.selectable = self.exists(&new)?;
        if new.entry.selectable {
            let place = self.place(&new)?;
            // The stamp is for Dovecot's own information: the rename stands without it.
            if let Err(e) = self.format(new.space)?.renamed(&place) {
                tracing::warn!("Mailbox {to}: {e}");
            }
        }
        let hash = self.hash(new.space, to)?;
        self.known.insert(to.clone(), Known { space: new.space, entry: new.entry.clone(), place: None });
        self.remember(new.space, Event::Rename(hash), time)
    }
}
