//! How mailboxes lie on disk: locations, layouts, names, subscriptions, UIDVALIDITYs, the list lock
//! (mailbox-list.md). Knows directories and names; what is inside a mailbox's directories is a
//! [`Format`](crate::store::format::Format)'s business.

mod change;
mod detect;
mod location;
mod location_error;
mod names;
mod paths;
pub mod subscriptions;
pub mod tabescape;
pub mod uidvalidity;
mod utf7;
mod walk;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use location::{Driver, IndexDir, Layout, Location};
pub use location_error::LocationError;
pub use names::{Decoded, NameError, Names, Stored};
pub use paths::Paths;
pub use walk::Exists;

use crate::mail::{Class, Error, MailboxGuid, MailboxName, Result};
use crate::os::fs::{self, Modes};
use crate::os::lock::{How, LockFile};
use crate::store::format::Place;
use crate::store::{NamespaceSettings, Settings};

/// How long `mailboxes.lock` is waited for, unless `mail_max_lock_timeout` is less (mailbox-list.md 8.0).
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// One namespace's mailboxes at one location.
#[derive(Debug, Clone)]
pub struct List {
    /// Where.
    pub location: Location,
    /// How names are written.
    pub names: Names,
    lock: LockSettings,
}

#[derive(Debug, Clone)]
struct LockSettings {
    how: How,
    timeout: Duration,
}

/// A mailbox or directory as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its full name.
    pub name: MailboxName,
    /// How it is stored.
    pub stored: Stored,
    /// It is a mailbox; else only a directory.
    pub selectable: bool,
    /// The name alone would not lead here.
    pub odd: bool,
    /// `LAYOUT=index`: the mailbox, which is the name of its directory.
    pub guid: Option<MailboxGuid>,
}

/// What a listing found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Names unique.
    pub entries: Vec<Entry>,
    /// What had to be skipped, and why.
    pub problems: Vec<(MailboxName, Error)>,
    /// Symbolic links that lead out of the mail root, and where to: never followed.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// The directories that were read, as they were before; none for one that may change again and look the same.
    directories: Vec<(PathBuf, Option<Changed>)>,
}

/// When a directory was last changed: time of modification, and of any change in nanoseconds.
type Changed = (SystemTime, i64, i64);

fn changed(dir: &Path) -> Option<Changed> {
    let meta = std::fs::metadata(dir).ok()?;
    Some((meta.modified().ok()?, meta.ctime(), meta.ctime_nsec()))
}

impl Listing {
    fn reads(&mut self, dir: &Path) {
        // Two changes within one tick of the kernel's clock leave the same time.
        const TICKS: Duration = Duration::from_millis(30);
        let is_old = |c: &Changed| SystemTime::now().duration_since(c.0).is_ok_and(|age| age > TICKS);
        self.directories.push((dir.to_owned(), changed(dir).filter(is_old)));
    }

    /// Nothing has come, gone or got another name in the directories since they were read. `false` where that cannot be told.
    #[must_use]
    pub fn is_certainly_up_to_date(&self) -> bool {
        !self.directories.is_empty() && self.directories.iter().all(|(dir, before)| before.is_some() && changed(dir) == *before)
    }
}

impl List {
    /// The list of a namespace. `reserved` are the format's own directory names.
    #[must_use]
    pub fn new(location: Location, ns: &NamespaceSettings, reserved: &[&str], settings: &Settings) -> Self {
        let names = Names::new(&location, ns, reserved, settings);
        let how = How {
            method: settings.index.lock_method,
            stale: Duration::from_secs(180),
            use_excl: settings.index.dotlock_use_excl,
            modes: Modes::default(),
        };
        let timeout = settings.max_lock_timeout.map_or(LOCK_TIMEOUT, |t| t.min(LOCK_TIMEOUT));
        Self { location, names, lock: LockSettings { how, timeout } }
    }

    /// The paths of a mailbox. With `LAYOUT=index` directories are named by GUID.
    #[must_use]
    pub fn paths(&self, stored: &Stored, guid: Option<MailboxGuid>) -> Paths {
        match guid {
            Some(guid) if self.location.layout == Layout::Index => {
                self.location.paths(&Stored { name: guid.to_string().into(), inbox: false })
            }
            _ => self.location.paths(stored),
        }
    }

    /// What a format needs to know of a mailbox.
    ///
    /// # Errors
    /// [`Class::NotPossible`]: there are no index files at all (`INDEX=MEMORY`).
    pub fn place(&self, name: &MailboxName, stored: &Stored, guid: Option<MailboxGuid>) -> Result<Place> {
        self.place_to_read(name, stored, guid).map(|place| Place { modes: self.modes(stored, guid), ..place })
    }

    /// As [`Self::place`], with the default modes: for whoever makes nothing there.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub fn place_to_read(&self, name: &MailboxName, stored: &Stored, guid: Option<MailboxGuid>) -> Result<Place> {
        let paths = self.paths(stored, guid);
        let (Some(index), Some(cache)) = (paths.index, paths.cache) else {
            return Err(Error::new(Class::NotPossible, "INDEX=MEMORY is not supported: there is no place for a mailbox's state"));
        };
        Ok(Place {
            name: name.clone(),
            storage_name: stored.text(),
            inbox: stored.inbox,
            mailbox: paths.mailbox,
            index,
            cache,
            control: paths.control,
            alt: paths.alt,
            control_root: self.location.uidvalidity_root(),
            volatile: self.location.volatile.clone(),
            names_in_index: self.location.layout == Layout::Index,
            modes: Modes::default(),
        })
    }

    /// Modes and owner for what is made in a mailbox's directories: like its own directory, the nearest parent that
    /// there is, the mail root (mailbox-list.md 12).
    #[must_use]
    pub fn modes(&self, stored: &Stored, guid: Option<MailboxGuid>) -> Modes {
        let dir = self.paths(stored, guid).dir;
        if let Ok(meta) = std::fs::metadata(&dir) {
            return Modes::like(&meta);
        }
        let mut above = self.names.parent(stored);
        while let Some(parent) = above {
            if let Ok(meta) = std::fs::metadata(self.location.paths(&parent).dir) {
                return Modes::like(&meta);
            }
            above = self.names.parent(&parent);
        }
        self.root_modes()
    }

    /// Modes and owner of files in the roots.
    #[must_use]
    pub fn root_modes(&self) -> Modes {
        if let Ok(meta) = std::fs::metadata(&self.location.root) {
            return Modes::like(&meta);
        }
        // Nothing there yet: private, and belonging to whom the directory above belongs.
        let above = self.location.root.ancestors().skip(1).find_map(|p| std::fs::metadata(p).ok());
        Modes { owner: above.and_then(|m| Modes::like(&m).owner), ..Modes::default() }
    }

    /// Makes a root with its parents; fine if it is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_root(&self, root: &Path) -> Result<()> {
        Ok(fs::mkdir_all(root, &self.root_modes())?)
    }

    /// Takes the list lock (mailbox-list.md 8.0). Never while a mailbox lock is held.
    ///
    /// # Errors
    /// Not to be had in time; the message names its holder as far as the system tells.
    pub fn lock(&self) -> Result<LockFile> {
        let path = self.lock_path();
        let modes = self.root_modes();
        if let Some(dir) = path.parent() {
            fs::mkdir_all(dir, &modes)?;
        }
        let how = How { modes, ..self.lock.how.clone() };
        Ok(LockFile::acquire(&path, &how, self.lock.timeout)?)
    }

    fn lock_path(&self) -> PathBuf {
        use sha1::{Digest, Sha1};
        match &self.location.volatile {
            Some(dir) => dir.join(format!("mailboxes.lock{}", hex::encode(Sha1::digest(self.names.prefix_text.as_bytes())))),
            None => self.location.index_root().unwrap_or_else(|| self.location.root.clone()).join("mailboxes.lock"),
        }
    }
}

#[cfg(test)]
mod corpus_tests;
