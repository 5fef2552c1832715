//! See the order of writes in [`super`].

use std::path::Path;

use super::super::{IndexDir, Layout, List, Stored};
use super::there;
use crate::mail::{Class, Error, MailboxGuid, Result};
use crate::os::fs;

const ALT_LINK: &str = "dbox-alt-root";

impl List {
    /// Makes the root and what belongs into it.
    ///
    /// # Errors
    /// What the system says. The mail root is not there although its index root is: it may only be not mounted, and a
    /// fresh one would make the indexes of all mailboxes look like leftovers.
    pub fn make_roots(&self) -> Result<()> {
        let location = &self.location;
        if !location.root.is_dir() {
            let other = match &location.index {
                IndexDir::Dir(dir) => Some(dir),
                _ => None,
            };
            if let Some(dir) = other.into_iter().chain(&location.control).find(|d| d.join("dovecot.list.index.log").exists()) {
                let text = format!("{} is not there, but {} is: is it mounted?", location.root.display(), dir.display());
                return Err(Error::new(Class::Temporary, text));
            }
        }
        self.make_root(&location.root)?;
        if let IndexDir::Dir(dir) = &location.index {
            self.make_root(dir)?;
        }
        self.check_alt_link(true)
    }

    /// A dbox remembers its alternative storage, so that a configuration without it is noticed (mailbox-list.md 13).
    ///
    /// # Errors
    /// The link leads elsewhere.
    pub fn check_alt_link(&self, make: bool) -> Result<()> {
        let location = &self.location;
        let link = location.root.join(ALT_LINK);
        if !location.driver.is_dbox() || !location.alt_check {
            return Ok(());
        }
        match (std::fs::read_link(&link), &location.alt) {
            (Ok(target), Some(alt)) if same_dir(&target, alt) => Ok(()),
            (Ok(target), alt) => {
                let ours = alt.as_ref().map_or_else(|| "unset".to_owned(), |a| a.display().to_string());
                let text = format!("{} leads to {}, but ALT is {ours}", link.display(), target.display());
                Err(Error::new(Class::Temporary, text))
            }
            (Err(_), Some(alt)) if make => {
                // With something in it, or it would look as if it were not mounted.
                let below = alt.join(if location.driver == super::super::Driver::Mdbox { "storage" } else { "mailboxes" });
                if let Err(e) = self.make_root(alt).and_then(|()| self.make_root(&below)) {
                    tracing::debug!("{e}; new mails go to the primary storage");
                }
                match fs::symlink(alt, &link) {
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                    other => Ok(other?),
                }
            }
            (Err(_), _) => Ok(()),
        }
    }

    /// Makes the directories of a mailbox that does not exist.
    ///
    /// # Errors
    /// What the system says; ALT still has files of a mailbox of this name.
    pub fn make_dirs(&self, stored: &Stored, guid: Option<MailboxGuid>) -> Result<()> {
        self.make_roots()?;
        let paths = self.paths(stored, guid);
        let modes = self.modes(stored, guid);
        for dir in paths.separate() {
            self.remove_separate(&dir, stored)?;
        }
        if let Some(alt) = paths.alt.as_ref().filter(|a| a.read_dir().is_ok_and(|mut d| d.next().is_some())) {
            let text = format!("{} has files of another mailbox of this name", alt.display());
            return Err(Error::new(Class::Temporary, text));
        }
        for dir in paths.separate() {
            fs::mkdir_all(&dir, &modes).map_err(of_name)?;
        }
        if self.location.driver == super::super::Driver::Mbox {
            if let Some(dir) = paths.mailbox.parent() {
                fs::mkdir_all(dir, &modes).map_err(of_name)?;
            }
        } else {
            fs::mkdir_all(&paths.mailbox, &modes).map_err(of_name)?;
        }
        Ok(())
    }

    /// Makes a directory without a mailbox. Flat layouts have none: nothing happens.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_plain_dir(&self, stored: &Stored) -> Result<()> {
        if self.location.layout != Layout::Fs {
            return Ok(());
        }
        self.make_roots()?;
        Ok(fs::mkdir_all(&self.location.paths(stored).dir, &self.modes(stored, None))?)
    }

    /// There is something under this name, if only a directory.
    #[must_use]
    pub fn dir_exists(&self, stored: &Stored) -> bool {
        there(&self.location.paths(stored).dir)
    }
}

fn same_dir(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A file of the storage's own lies where the directory belongs (a mailbox `subscriptions` in a Maildir with `LAYOUT=fs`): so it
/// will be tomorrow.
fn of_name(error: fs::Error) -> Error {
    use std::io::ErrorKind::{AlreadyExists, InvalidFilename, NotADirectory};
    match error.kind() {
        AlreadyExists | NotADirectory | InvalidFilename => Error::new(Class::NotPossible, error),
        _ => error.into(),
    }
}
