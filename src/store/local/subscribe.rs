//! Subscriptions of namespaces, also of those that keep them in another one's file (mailbox-list.md 9.4).

use super::LocalStore;
use super::scan::Draft;
use super::spaces::fatal;
use crate::index::mailbox_log::Event;
use crate::mail::{Class, Error, MailboxName, Result, Timestamp};
use crate::os::Fsync;
use crate::store::list::subscriptions::{Change, Subscriptions};
use crate::store::list::{Decoded, List};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

impl LocalStore {
    /// The namespace whose file has the subscriptions of this one.
    pub(super) fn subscription_owner(&self, space: usize) -> Option<usize> {
        let ns = &self.spaces[space].settings;
        if ns.subscriptions {
            return Some(space);
        }
        (0..self.spaces.len())
            .filter(|&i| {
                let other = &self.spaces[i].settings;
                i != space && other.subscriptions && self.spaces[i].usable.is_ok() && ns.prefix.starts_with(&other.prefix)
            })
            .max_by_key(|&i| self.spaces[i].settings.prefix.len())
    }

    pub(super) fn scan_subscriptions(&self, space: usize, draft: &mut Draft) -> Result<()> {
        let Some(owner) = self.subscription_owner(space) else { return Ok(()) };
        let list = self.list(space)?;
        let file = self.list(owner)?;
        let subscribed = Subscriptions::read(&file.location.subscriptions_file(), file.names.storage_separator)?;
        for entry in subscribed.names() {
            let name = if owner == space {
                // What begins with the prefix of such a namespace is its entry.
                let others = (0..self.spaces.len())
                    .any(|i| i != space && self.subscription_owner(i) == Some(space) && self.foreign(i, space, entry).is_some());
                if others { None } else { own_name(list, entry) }
            } else {
                self.foreign(space, owner, entry)
            };
            if let Some(name) = name {
                draft.node(&name).subscribed = true;
            }
        }
        Ok(())
    }

    /// The name of an entry in the owner's file that belongs to another namespace.
    fn foreign(&self, space: usize, owner: usize, entry: &[u8]) -> Option<MailboxName> {
        let list = self.list(space).ok()?;
        let prefix = self.prefix_in(space, owner)?;
        if entry.strip_suffix(&[list.names.separator as u8]).unwrap_or(entry)
            == prefix.trim_end_matches(list.names.separator).as_bytes()
        {
            return MailboxName::new(list.names.prefix.clone());
        }
        own_name(list, entry.strip_prefix(prefix.as_bytes())?)
    }

    /// A namespace's prefix as it stands in the owner's file: without the owner's own.
    fn prefix_in(&self, space: usize, owner: usize) -> Option<&str> {
        self.spaces[space].settings.prefix.strip_prefix(self.spaces[owner].settings.prefix.as_str())
    }

    pub(super) fn change_subscription(&mut self, name: &MailboxName, subscribed: bool, time: Timestamp) -> Result<()> {
        let space = self.space_of(name)?;
        let owner = self
            .subscription_owner(space)
            .ok_or_else(|| fatal(format!("No namespace keeps the subscriptions of '{}'", self.spaces[space].settings.prefix)))?;
        let list = self.list(space)?;
        let file = self.list(owner)?;
        let stored = match self.known.get(name) {
            Some(known) => known.entry.stored.clone(),
            None => list.names.stored(name).map_err(|e| Error::new(Class::InvalidData, e))?,
        };
        let mut entry = Vec::new();
        if owner != space && !stored.inbox {
            entry.extend_from_slice(self.prefix_in(space, owner).unwrap_or_default().as_bytes());
        }
        entry.extend_from_slice(stored.name.as_bytes());
        let path = file.location.subscriptions_file();
        if let Some(dir) = path.parent() {
            file.make_root(dir)?;
        }
        let flat = file.location.layout.is_flat();
        // Entries with slashes may be those of a namespace without a file of its own.
        let children = (0..self.spaces.len()).any(|i| i != owner && self.subscription_owner(i) == Some(owner));
        let invalid = |e: &[u8]| e.is_empty() || (flat && !children && e.contains(&b'/'));
        let change = Change {
            path: &path,
            separator: file.names.storage_separator,
            modes: file.root_modes(),
            use_excl: self.settings.index.dotlock_use_excl,
            durable: self.settings.index.fsync != Fsync::Never,
            invalid: &invalid,
        };
        if change.set(&entry, subscribed)? {
            let hash = self.hash(space, name)?;
            self.remember(owner, if subscribed { Event::Subscribe(hash) } else { Event::Unsubscribe(hash) }, time)?;
        }
        Ok(())
    }
}

fn own_name(list: &List, entry: &[u8]) -> Option<MailboxName> {
    if entry.eq_ignore_ascii_case(b"INBOX") && list.names.inbox {
        return Some(MailboxName::inbox());
    }
    if entry.is_empty() || (list.names.flat && entry.contains(&b'/')) {
        return None;
    }
    match list.names.decode(OsStr::from_bytes(entry)) {
        Decoded::Name(name) | Decoded::Odd(name) => Some(name),
        Decoded::Invalid(_) => None,
    }
}
