//! The contract between the mailbox list, which knows names and directories, and a storage format, which knows what is
//! in a mailbox's directories.
//!
//! Creating: the list makes the directories, then calls [`Format::create`]. Deleting: it calls [`Format::empty`], then
//! moves the directories away. Renaming: it moves the directories, then calls [`Format::renamed`].

use std::path::PathBuf;
use std::time::Duration;

use sha1::{Digest, Sha1};

use super::Settings;
use crate::mail::{Class, Error, Identity, Mailbox, MailboxGuid, MailboxName, Result, UidValidity};
use crate::os::fs::{self, Modes};
use crate::os::lock::{How, LockFile};

/// Where the parts of one mailbox lie (mailbox-list.md 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its full name, for messages.
    pub name: MailboxName,
    /// Its storage name: without prefix, as it stands on disk, in the layout's separator (dbox metadata `B`, `box-name`).
    pub storage_name: String,
    /// It is the INBOX of the user.
    pub inbox: bool,
    /// The mails: Maildir folder, `dbox-Mails`.
    pub mailbox: PathBuf,
    /// The index files `dovecot.index*`.
    pub index: PathBuf,
    /// Where `dovecot.index.cache` is.
    pub cache: PathBuf,
    /// `dovecot-uidlist`, `dovecot-keywords`.
    pub control: PathBuf,
    /// The same mailbox in the alternative storage.
    pub alt: Option<PathBuf>,
    /// The user's control root: `dovecot-uidvalidity`.
    pub control_root: PathBuf,
    /// `VOLATILEDIR`, for lock files.
    pub volatile: Option<PathBuf>,
    /// `LAYOUT=index`: the index carries the name (`box-name`).
    pub names_in_index: bool,
    /// Modes and group of new files here.
    pub modes: Modes,
}

/// The file that keeps other dsync runs away from a mailbox (sync.md 10.1).
pub const RUN_LOCK: &str = ".dovecot-box-sync.lock";

impl Place {
    /// Takes a lock file of this mailbox: beside its index, or in `VOLATILEDIR` with the hash of its name.
    ///
    /// # Errors
    /// Class `NotFound`: somebody has deleted or renamed the mailbox. The lock was not to be had in time; I/O.
    pub fn lock_file(&self, name: &str, settings: &Settings, timeout: Duration) -> Result<LockFile> {
        let path = match &self.volatile {
            None => self.index.join(name),
            Some(dir) => dir.join(format!("{name}.{}", hex::encode(Sha1::digest(self.storage_name.as_bytes())))),
        };
        // Never the directory of the mailbox: what went away would be there again.
        if let Some(dir) = path.parent().filter(|dir| *dir != self.mailbox && self.mailbox.is_dir()) {
            fs::mkdir_all(dir, &self.modes)?;
        }
        let how = How {
            method: settings.index.lock_method,
            stale: Duration::from_secs(180),
            use_excl: settings.index.dotlock_use_excl,
            modes: self.modes,
        };
        let timeout = settings.max_lock_timeout.map_or(timeout, |max| timeout.min(max));
        LockFile::acquire(&path, &how, timeout).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::new(Class::NotFound, e),
            _ => e.into(),
        })
    }
}

/// A storage format at one location.
pub trait Format: Send {
    /// Its name in a `mail_location`.
    fn driver(&self) -> &'static str;

    /// Called once by the list, with all mailboxes of all namespaces at this location, before any other use of the
    /// format: completes what an interrupted commit left (mdbox map, dbox.md 6.1).
    ///
    /// # Errors
    /// The storage needs an administrator; nothing of it may be used.
    fn begin(&mut self, all: &[Place]) -> Result<()> {
        let _ = all;
        Ok(())
    }

    /// Whether there is a mailbox at this place, decided by the file system alone.
    fn exists(&self, place: &Place) -> bool;

    /// Reads GUID, UIDVALIDITY and UIDNEXT without scanning mails where that is possible. For a mailbox that has none yet
    /// (a Maildir that Dovecot never opened) they are made and written.
    ///
    /// # Errors
    /// Damage: never "a new mailbox".
    fn identity(&mut self, place: &Place) -> Result<Identity>;

    /// Opens it and takes a first view.
    ///
    /// # Errors
    /// Damage, locks, I/O.
    fn open(&mut self, place: &Place) -> Result<Box<dyn Mailbox>>;

    /// Fills fresh directories. Fine if a crashed run had begun.
    ///
    /// # Errors
    /// I/O.
    fn create(&mut self, place: &Place, guid: MailboxGuid, uidvalidity: UidValidity) -> Result<()>;

    /// Before a deletion: expunges all mails and marks the index as deleted, so that sessions that have it open notice.
    ///
    /// # Errors
    /// Locks, I/O; then nothing must be moved away.
    fn empty(&mut self, place: &Place) -> Result<()>;

    /// After a rename: `last-rename-stamp`, `box-name`.
    ///
    /// # Errors
    /// Locks, I/O.
    fn renamed(&mut self, place: &Place) -> Result<()>;

    /// Frees the space of expunged mails.
    ///
    /// # Errors
    /// Damage, locks, I/O.
    fn purge(&mut self) -> Result<()> {
        Ok(())
    }

    /// Directory levels that are the format's own and cannot be mailbox names.
    fn reserved(&self) -> &'static [&'static str];
}
