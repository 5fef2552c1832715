//! The mail files of one mailbox: `u.UID` in the mailbox directory, or in the alternative storage (dbox.md 2.1, 2.6).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::mail::{self, Class, Timestamp, Uid};
use crate::os::fs;
use crate::store::dbox::{DboxFile, Message};
use crate::store::format::Place;

/// Where the files of one mailbox are.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// The mailbox directory.
    dir: PathBuf,
    /// The mailbox directory in the alternative storage.
    alt: Option<PathBuf>,
    /// The root of the alternative storage, as far as it can be told from the mailbox's directory there.
    alt_root: Option<PathBuf>,
    /// `dbox-alt-root` in the mail root: there is an alternative storage, whatever the configuration says.
    alt_mark: Option<PathBuf>,
}

/// A mail file that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub file: DboxFile,
    pub message: Message,
    /// When the file's inode was last changed: the saved date where nothing else tells it (2.7).
    pub changed: Timestamp,
    /// It lies in the alternative storage.
    pub in_alt: bool,
}

/// Why a mail file could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// It is not there: expunged, or lost.
    Missing(PathBuf),
    /// It cannot be read.
    Failed(mail::Error),
}

impl Files {
    pub fn new(place: &Place) -> Self {
        let root = root_of(&place.mailbox, &place.storage_name);
        Self {
            dir: place.mailbox.clone(),
            alt: place.alt.clone(),
            alt_root: place.alt.as_deref().and_then(|alt| root_of(alt, &place.storage_name)),
            alt_mark: root.map(|root| root.join("dbox-alt-root")),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn alt(&self) -> Option<&Path> {
        self.alt.as_deref()
    }

    pub fn primary(&self, uid: Uid) -> PathBuf {
        self.dir.join(file_name(uid))
    }

    pub fn in_alt(&self, uid: Uid) -> Option<PathBuf> {
        self.alt.as_ref().map(|alt| alt.join(file_name(uid)))
    }

    /// The directory for new mails in the alternative storage, which is made if need be. `None`: there is none, or it is not
    /// mounted, and mails must not be written to where it will be.
    pub fn alt_for_new(&self, modes: &fs::Modes) -> fs::Result<Option<&Path>> {
        let Some(alt) = &self.alt else { return Ok(None) };
        if alt.is_dir() {
            return Ok(Some(alt));
        }
        if self.alt_root.is_none() || self.unmounted_alt().is_some() {
            return Ok(None);
        }
        fs::mkdir_all(alt, modes)?;
        Ok(Some(alt))
    }

    /// Opens a mail's file and reads its metadata. The primary place wins where both have it.
    pub fn open(&self, uid: Uid) -> Result<Opened, OpenError> {
        let path = self.primary(uid);
        for (path, in_alt) in [(Some(path.clone()), false), (self.in_alt(uid), true)] {
            let Some(path) = path else { continue };
            match DboxFile::open(&path) {
                Ok(file) => return opened(file, in_alt).map_err(OpenError::Failed),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(OpenError::Failed(e.into())),
            }
        }
        match self.unmounted_alt() {
            Some(text) => Err(OpenError::Failed(mail::Error::new(Class::Temporary, format!("{}: {text}", path.display())))),
            None => Err(OpenError::Missing(path)),
        }
    }

    /// Why a missing file may lie in an alternative storage that is not there.
    fn unmounted_alt(&self) -> Option<String> {
        match (&self.alt, &self.alt_root, &self.alt_mark) {
            // An empty directory is a place where something could be mounted.
            (Some(_), Some(root), _) if std::fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none()) => {
                Some(format!("the alternative storage {} is not there (not mounted?)", root.display()))
            }
            (None, _, Some(mark)) if std::fs::symlink_metadata(mark).is_ok() => Some(format!(
                "not there, but {} says that there is an alternative storage; no ALT= is configured",
                mark.display()
            )),
            _ => None,
        }
    }

    /// There is a mail file, whether an index knows it or not.
    pub fn any(&self) -> bool {
        let mail = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.is_ok_and(|e| e.file_name().to_str().is_some_and(|n| uid_of(n).is_some()))
        };
        let dirs = [Some(&self.dir), self.alt.as_ref()];
        dirs.into_iter().flatten().any(|dir| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.any(mail)))
    }

    /// Removes a mail's file wherever it is. Several processes may do so at once.
    pub fn remove(&self, uid: Uid) -> fs::Result<()> {
        if !fs::unlink_if_there(&self.primary(uid))?
            && let Some(path) = self.in_alt(uid)
        {
            fs::unlink_if_there(&path)?;
        }
        Ok(())
    }
}

fn opened(file: DboxFile, in_alt: bool) -> mail::Result<Opened> {
    let message = file.message(0)?;
    let metadata = file.file().metadata().map_err(|e| fs::Error::new("stat", file.path(), e))?;
    let changed = Timestamp(u32::try_from(metadata.ctime().max(0)).unwrap_or(u32::MAX));
    Ok(Opened { file, message, changed, in_alt })
}

pub(super) fn file_name(uid: Uid) -> String {
    format!("u.{uid}")
}

/// The UID that a file name stands for: decimal without leading zeros.
pub(super) fn uid_of(name: &str) -> Option<Uid> {
    let uid = name.strip_prefix("u.")?.parse().ok().and_then(Uid::new)?;
    (file_name(uid) == name).then_some(uid)
}

/// The mail root, if the mailbox directory is `ROOT/mailboxes/NAME[/dbox-Mails]`, whatever the two own levels are called.
pub(super) fn root_of(mailbox: &Path, storage_name: &str) -> Option<PathBuf> {
    let name = Path::new(storage_name);
    let mailboxes = [mailbox, mailbox.parent()?].into_iter().find(|dir| dir.ends_with(name))?;
    let mailboxes = mailboxes.ancestors().nth(name.components().count())?;
    Some(mailboxes.parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let uid = Uid::new(12).expect("not 0");
        assert_eq!(file_name(uid), "u.12");
        assert_eq!(uid_of("u.12"), Some(uid));
        for bad in ["u.0", "u.012", "u.", "u.+1", "u.4294967296", "m.1", "u.1.broken"] {
            assert_eq!(uid_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn root_of_the_default_layout() {
        let root = Some(PathBuf::from("/m"));
        assert_eq!(root_of(Path::new("/m/mailboxes/INBOX/dbox-Mails"), "INBOX"), root);
        assert_eq!(root_of(Path::new("/m/mailboxes/a/b/dbox-Mails"), "a/b"), root);
        assert_eq!(root_of(Path::new("/m/mailboxes/a/b"), "a/b"), root);
        assert_eq!(root_of(Path::new("/m/mailboxes/0123456789abcdef"), "a/b"), None);
    }
}
