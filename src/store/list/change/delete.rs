//! See the order of writes in [`super`].

use super::super::{Driver, Layout, List, Stored};
use super::there;
use crate::mail::{Class, Error, MailboxGuid, Result};
use crate::os::fs;

impl List {
    /// Removes the directories of a mailbox whose mails are expunged and whose index is marked. Says whether nothing is
    /// left of the name, not even as a directory of children.
    ///
    /// # Errors
    /// [`Class::NotPossible`] for the INBOX of a Maildir; what the system says.
    pub fn remove_dirs(&self, stored: &Stored, guid: Option<MailboxGuid>) -> Result<bool> {
        self.deletable(stored, guid)?;
        let location = &self.location;
        let paths = self.paths(stored, guid);
        match location.layout {
            Layout::Fs if location.driver == Driver::Mbox => {
                fs::unlink_if_there(&paths.mailbox)?;
            }
            Layout::Fs if location.dirname.is_empty() => {
                // The children lie among the mailbox's own directories; `cur` makes it a mailbox.
                for own in ["cur", "new", "tmp"] {
                    self.to_trash(&paths.mailbox.join(own))?;
                }
                self.remove_separate(&paths.mailbox, stored)?;
            }
            Layout::Fs => self.to_trash(&paths.mailbox)?,
            _ => self.to_trash(&paths.dir)?,
        }
        for dir in paths.separate() {
            self.remove_separate(&dir, stored)?;
        }
        if let Some(alt) = &paths.alt {
            match fs::remove_tree(alt) {
                Err(e) if !e.is_not_found() => tracing::warn!("{e}"),
                _ => {}
            }
            self.remove_empty_anywhere(paths.alt_dir.as_ref().unwrap_or(alt));
        }
        if location.layout == Layout::Fs {
            // Parents stay, as Dovecot has it, unless the configuration wants none without a mailbox.
            if fs::rmdir(&paths.dir).is_ok()
                && location.no_noselect
                && let Some(parent) = paths.dir.parent()
            {
                self.remove_empty_anywhere(parent);
            }
        }
        Ok(!there(&paths.dir))
    }

    /// Removes a directory that has neither a mailbox nor children.
    ///
    /// # Errors
    /// [`Class::NotFound`]; not empty: [`Class::Exists`].
    pub fn remove_plain_dir(&self, stored: &Stored) -> Result<()> {
        let not_there = || Error::new(Class::NotFound, "Mailbox doesn't exist");
        if self.location.layout != Layout::Fs {
            return Err(not_there());
        }
        self.movable(stored, None, "Mail storage root can't be deleted.")?;
        let paths = self.location.paths(stored);
        match fs::rmdir(&paths.dir) {
            Ok(()) => {}
            Err(e) if e.is_not_found() => return Err(not_there()),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists) => {
                return Err(Error::new(Class::Exists, "Mailbox has children, delete them first"));
            }
            Err(e) => return Err(e.into()),
        }
        for dir in self.trees(stored) {
            let _ = fs::rmdir(&dir);
        }
        Ok(())
    }
}
