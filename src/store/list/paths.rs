//! Where the parts of a mailbox lie, per layout (mailbox-list.md 2 and 4). Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::location::{Driver, IndexDir, Layout, Location};
use super::names::Stored;

/// The directory of index files and control files of one level of mboxes.
const IMAP_DIR: &str = ".imap";

/// The paths of one mailbox; of the roots for an empty name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The mailbox's own directory: what a rename moves.
    pub dir: PathBuf,
    /// Where its mails are.
    pub mailbox: PathBuf,
    /// `dir` below ALT.
    pub alt_dir: Option<PathBuf>,
    /// `mailbox` below ALT.
    pub alt: Option<PathBuf>,
    /// Index files; none with `INDEX=MEMORY`.
    pub index: Option<PathBuf>,
    /// The cache file's directory.
    pub cache: Option<PathBuf>,
    /// Control files.
    pub control: PathBuf,
}

impl Location {
    /// The paths of a mailbox. With `LAYOUT=index` the storage name to give is that of its directory, the GUID in hex.
    #[must_use]
    pub fn paths(&self, stored: &Stored) -> Paths {
        let dir = self.below(&self.root, stored, false);
        let mailbox = match self.inbox_override(stored) {
            Some(path) => path,
            None if self.has_dirname(stored) => dir.join(&self.dirname),
            None => dir.clone(),
        };
        let dir = if mailbox.starts_with(&dir) { dir } else { mailbox.clone() };
        let index = match &self.index {
            IndexDir::Memory => None,
            IndexDir::Dir(root) => Some(self.meta(root, stored)),
            IndexDir::WithMails if self.driver == Driver::Mbox => Some(self.meta(&self.root, stored)),
            IndexDir::WithMails => Some(mailbox.clone()),
        };
        let control = match &self.control {
            Some(root) => self.meta(root, stored),
            None if self.driver == Driver::Mbox => self.meta(&self.root, stored),
            None => mailbox.clone(),
        };
        let alt_dir = self.alt.as_ref().map(|root| self.below(root, stored, true));
        Paths {
            cache: self.cache.as_ref().map(|root| self.meta(root, stored)).or_else(|| index.clone()),
            alt: alt_dir.as_ref().map(|d| if self.has_dirname(stored) { d.join(&self.dirname) } else { d.clone() }),
            dir,
            mailbox,
            alt_dir,
            index,
            control,
        }
    }

    fn has_dirname(&self, stored: &Stored) -> bool {
        !self.dirname.is_empty() && !stored.name.is_empty()
    }

    fn inbox_override(&self, stored: &Stored) -> Option<PathBuf> {
        if !stored.inbox {
            return None;
        }
        self.inbox.clone().or_else(|| match (self.driver, self.layout) {
            (Driver::Maildir, Layout::Fs) if self.dirname.is_empty() => Some(self.root.clone()),
            (Driver::Mbox, _) => Some(self.root.join("inbox")),
            _ => None,
        })
    }

    /// A mailbox's directory below a root. `named`: the INBOX of a flat layout has a directory of its own there.
    fn below(&self, root: &Path, stored: &Stored, named: bool) -> PathBuf {
        if stored.name.is_empty() {
            return if self.layout.is_flat() || self.mailbox_dir.is_empty() {
                root.to_owned()
            } else {
                root.join(&self.mailbox_dir)
            };
        }
        match self.layout {
            Layout::MaildirPlusPlus if stored.inbox && !named => root.to_owned(),
            Layout::MaildirPlusPlus => {
                let mut file = b".".to_vec();
                file.extend_from_slice(stored.name.as_bytes());
                root.join(OsStr::from_bytes(&file))
            }
            Layout::Imapdir => root.join(&stored.name),
            Layout::Fs | Layout::Index | Layout::None => {
                let root = if self.mailbox_dir.is_empty() { root.to_owned() } else { root.join(&self.mailbox_dir) };
                root.join(Path::new(&stored.name))
            }
        }
    }

    /// A mailbox's directory below a separate index, cache or control root, and always that of an mbox.
    fn meta(&self, root: &Path, stored: &Stored) -> PathBuf {
        if self.driver == Driver::Mbox {
            let name = Path::new(&stored.name);
            let parent = name.parent().filter(|p| !p.as_os_str().is_empty());
            let dir = parent.map_or_else(|| root.to_owned(), |p| root.join(p)).join(IMAP_DIR);
            return name.file_name().map_or_else(|| dir.clone(), |leaf| dir.join(leaf));
        }
        let dir = self.below(root, stored, true);
        if self.full_dirname && self.has_dirname(stored) { dir.join(&self.dirname) } else { dir }
    }

    /// The root of index files: list index, mailbox log, list lock. `None` with `INDEX=MEMORY`.
    #[must_use]
    pub fn index_root(&self) -> Option<PathBuf> {
        let root = match &self.index {
            IndexDir::Memory => return None,
            IndexDir::Dir(dir) => dir.clone(),
            IndexDir::WithMails => self.root.clone(),
        };
        Some(if self.driver == Driver::Mbox { root.join(IMAP_DIR) } else { root })
    }

    /// The directory of `dovecot-uidvalidity`.
    #[must_use]
    pub fn uidvalidity_root(&self) -> PathBuf {
        match &self.control {
            Some(dir) => dir.clone(),
            None if self.driver == Driver::Mbox => self.root.join(IMAP_DIR),
            None => self.root.clone(),
        }
    }

    /// The subscriptions file.
    #[must_use]
    pub fn subscriptions_file(&self) -> PathBuf {
        self.control.as_ref().unwrap_or(&self.root).join(&self.subscriptions)
    }

    /// The list index without its endings.
    #[must_use]
    pub fn list_index_file(&self) -> Option<PathBuf> {
        Some(self.index_root()?.join(&self.list_index))
    }

    /// The directory that a listing reads.
    #[must_use]
    pub fn listing_root(&self) -> PathBuf {
        let root = Stored { name: Default::default(), inbox: false };
        match &self.index {
            IndexDir::Dir(dir) if self.iter_index => self.below(dir, &root, true),
            _ => self.below(&self.root, &root, false),
        }
    }

    /// Where a deleted mailbox is moved (mailbox-list.md 8.4).
    #[must_use]
    pub fn trash(&self, root: &Path) -> PathBuf {
        root.join(match self.layout {
            Layout::MaildirPlusPlus => "..DOVECOT-TRASHED",
            Layout::Imapdir => ".DOVECOT-TRASHED",
            _ => "..DOVECOT-TrasH",
        })
    }
}
