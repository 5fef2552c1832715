//! Attributes of mailboxes: the dictionary file, and the record in the mailbox's log that says that one changed (sync.md 6.6).
//!
//! Order of writes: 1 dictionary, 2 log. A kill in between leaves a changed attribute that the next run finds by its value.

use super::LocalStore;
use crate::index::{Bits, Durability, Files, Index, Options, Transaction};
use crate::mail::{Attribute, Class, Error, MailboxGuid, MailboxName, Result, Timestamp};
use crate::store::sieve::is_sieve;

impl LocalStore {
    pub(super) fn get_attributes(&mut self, name: &MailboxName, guid: MailboxGuid) -> Result<Option<Vec<Attribute>>> {
        let known = self.attributes.as_mut().map(|file| file.get(guid)).transpose()?;
        let scripts = match &self.sieve {
            Some(sieve) if name.is_inbox() => sieve.get()?,
            _ => Vec::new(),
        };
        if known.is_none() && !(name.is_inbox() && self.sieve.is_some()) {
            return Ok(None);
        }
        // The private ones come first, and a script before what says that it is active.
        let (private, shared): (Vec<_>, Vec<_>) = known.into_iter().flatten().partition(|a| a.key.private);
        Ok(Some([private, scripts, shared].concat()))
    }

    /// Sets the attribute where it belongs. Says whether that changed anything.
    fn store_attribute(&mut self, name: &MailboxName, guid: MailboxGuid, attribute: &Attribute) -> Result<bool> {
        if name.is_inbox()
            && is_sieve(&attribute.key)
            && let Some(sieve) = &self.sieve
        {
            return sieve.set(attribute);
        }
        let Some(file) = self.attributes.as_mut() else {
            return Err(Error::new(Class::NotPossible, "Mailbox attributes not enabled"));
        };
        Ok(file.set(guid, &attribute.key, attribute.value.as_deref())?)
    }

    pub(super) fn change_attribute(&mut self, name: &MailboxName, guid: MailboxGuid, attribute: &Attribute) -> Result<()> {
        if !self.store_attribute(name, guid, attribute)? {
            return Ok(());
        }
        let target = self.target(name)?;
        let place = self.place(&target)?;
        let files = Files::new(&place.index, Files::MAILBOX);
        let mut index = match Index::open(files, Options::new(self.settings.index.clone(), place.modes)) {
            Ok(index) => index,
            // A Maildir that nobody has opened yet.
            Err(e) if e.is_missing() => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let mut t = Transaction::new(Bits::INTERNAL_SYNC);
        let size = attribute.value.as_ref().map_or(0, |v| u32::try_from(v.len()).unwrap_or(u32::MAX));
        let removed = attribute.value.is_none();
        t.attribute(attribute.key.private, &attribute.key.key, removed, Timestamp::now().0, size);
        index.lock()?.commit(&t, Durability::Lazy)?;
        Ok(())
    }
}
