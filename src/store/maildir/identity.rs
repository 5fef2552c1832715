//! A mailbox's GUID and UIDVALIDITY: reading them cheaply, changing them, creating and emptying a mailbox.
//!
//! Creating: 1 `cur new tmp`, `maildirfolder`, 2 `dovecot-uidlist`, 3 the index. A kill before 2 leaves an empty mailbox that
//! the next opening completes with an identity of its own; before 3 the index is made from the uidlist.
//!
//! Changing: 1 the uidlist is rewritten, 2 the index gets the new UIDVALIDITY. A kill in between leaves an index about other
//! mails, as far as anybody can see: the next opening, Dovecot's or ours, makes it anew from the uidlist. UIDs and GUIDs stay.

use std::io::ErrorKind;

use super::core::Core;
use super::facts::guid128;
use super::record::Batch;
use super::scan;
use super::sync::{MAILDIR, scanned};
use super::uidlist::{Header, Taken, Uidlist};
use crate::index::{Bits, Durability, ExtSpec, Transaction};
use crate::mail::{Class, Error, Identity, MailboxGuid, Result, Timestamp, Uid, UidValidity};
use crate::os::fs;

impl Core {
    /// The identity as the first and the last line of the uidlist tell it. `None` if it takes an opening to know it.
    ///
    /// # Errors
    /// The uidlist is broken.
    pub fn quick_identity(&self) -> Result<Option<Identity>> {
        let Some((header, next)) = self.uidlist.read_header()? else { return Ok(None) };
        let Some(guid) = header.guid else { return Ok(None) };
        Ok(Some(Identity { guid, uidvalidity: header.uidvalidity, uid_next: Uid::new(next).unwrap_or(Uid::FIRST) }))
    }

    /// Gives the mailbox another GUID or UIDVALIDITY.
    ///
    /// # Errors
    /// Locks, I/O.
    pub fn set_identity(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        let mut lock = self.lock_for_change()?;
        self.read_up_to_date(&mut lock)?;
        let header = &self.list()?.header;
        if header.guid == Some(guid) && header.uidvalidity == uidvalidity {
            return Ok(());
        }
        let before = self.uidlist.known_stamp();
        let mut taken = self.uidlist.take().expect("holds because list has read it");
        taken.list.header.guid = Some(guid);
        taken.list.header.uidvalidity = uidvalidity;
        taken.list.set_needs_rewrite(true);
        self.uidlist.write(&lock, taken)?;
        let now = self.uidlist.known_stamp();
        let index = self.index.as_mut().expect("holds because read_up_to_date has made it");
        let mut locked = index.lock()?;
        let state = locked.state();
        let mut tx = Transaction::new(Bits::EXTERNAL);
        if state.uid_validity() != Some(uidvalidity) {
            tx.uid_validity(uidvalidity);
        }
        // The files are those of the last scan, if they were before.
        if let (Some(scanned), Some(before), Some(now)) = (scanned(state), before, now)
            && scanned.knows(before)
        {
            tx.ext_header(MAILDIR, 0, &scanned.with(now).bytes());
        }
        locked.commit(&tx, Durability::Lazy)?;
        Ok(())
    }

    /// Makes an empty mailbox. A crashed run may have begun.
    ///
    /// # Errors
    /// [`Class::Exists`] if it has another identity and mails already, locks, I/O.
    pub fn create(&mut self, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()> {
        fs::mkdir_all(self.mailbox(), &self.place.modes)?;
        self.ensure_dirs()?;
        // Only Maildir++ has folders whose directories begin with a dot (1).
        if self.mailbox().file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
            match fs::create_new(&self.mailbox().join("maildirfolder"), &self.place.modes) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                other => drop(other?),
            }
        }
        let lock = self.uidlist.lock()?;
        if self.uidlist.refresh()? {
            let list = self.list()?;
            let same = list.header.guid == Some(guid) && list.header.uidvalidity == uidvalidity;
            if !same && list.len() > 0 {
                return Err(Error::new(Class::Exists, format!("{}: there are mails already", self.mailbox().display())));
            }
        }
        let mut header = Header::new(uidvalidity, guid);
        if let Some((old, next)) = self.uidlist.header()? {
            header.next = next;
            header.other = old.other;
        }
        let mut taken = self.uidlist.take().unwrap_or_else(|| Taken::new(Uidlist::new(header.clone())));
        if taken.list.header != header {
            taken.list.header = header;
            taken.list.set_needs_rewrite(true);
        }
        self.uidlist.write(&lock, taken)?;
        self.ensure_index()?;
        let index = self.index.as_mut().expect("holds because ensure_index was called");
        let mut locked = index.lock()?;
        if locked.state().uid_validity() != Some(uidvalidity) {
            let mut tx = Transaction::new(Bits::EXTERNAL);
            tx.uid_validity(uidvalidity);
            locked.commit(&tx, Durability::Lazy)?;
        }
        Ok(())
    }

    /// Removes all mails and marks the index as deleted, if nothing new has come meanwhile.
    ///
    /// # Errors
    /// [`Class::InUse`] if mail was delivered in that moment, locks, I/O.
    pub fn empty(&mut self) -> Result<()> {
        let mut lock = self.lock_for_change()?;
        self.sync_locked(&mut lock)?;
        let mut index = self.index.take().expect("holds because a sync makes it");
        let done = index.lock().map_err(Error::from).and_then(|mut locked| {
            let uids = locked.state().uids();
            let list = self.list()?.clone();
            let mut batch = Batch::of(&mut locked, Bits::INTERNAL);
            for uid in uids.iter().filter_map(|&uid| Uid::new(uid)) {
                batch.tx.expunge(uid, guid128(&list, uid));
                batch.spill()?;
            }
            batch.finish(Durability::Lazy)?;
            if let Some(e) = self.carry_out_requests(&mut lock, &mut locked)? {
                return Err(e);
            }
            let left = scan::scan(self.mailbox(), &list)?;
            if left.files > 0 {
                let text = format!("{}: new mails came while the mailbox was being deleted", self.mailbox().display());
                return Err(Error::new(Class::InUse, text));
            }
            let mut tx = Transaction::new(Bits::INTERNAL);
            tx.mark_deleted();
            tx.set_bits(Bits::EXTERNAL);
            tx.mark_deleted();
            locked.commit(&tx, Durability::Lazy)?;
            Ok(())
        });
        self.index = Some(index);
        self.places = None;
        done
    }

    /// Notes in the index that the mailbox got another name.
    ///
    /// # Errors
    /// Locks, I/O.
    pub fn renamed(&mut self) -> Result<()> {
        // Without an index there is nobody to tell.
        let name = self.place.storage_name.clone();
        let names_in_index = self.place.names_in_index;
        let Some(index) = &mut self.index else { return Ok(()) };
        let mut locked = index.lock()?;
        let mut tx = Transaction::new(Bits::EXTERNAL);
        tx.ext_header(ExtSpec::header("last-rename-stamp", 4), 0, &Timestamp::now().0.to_le_bytes());
        if names_in_index {
            // Levels are separated by NUL (index.md 2.9).
            let bytes: Vec<u8> = name.bytes().map(|c| if c == b'/' { 0 } else { c }).collect();
            let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            tx.ext_header(ExtSpec { exact: true, ..ExtSpec::header("box-name", size) }, 0, &bytes);
        }
        locked.commit(&tx, Durability::Lazy)?;
        Ok(())
    }
}
