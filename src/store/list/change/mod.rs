//! Making, removing and moving the directories of mailboxes, under the list lock (mailbox-list.md 8).
//!
//! Order of writes; a kill after a step leaves:
//!
//! create  1 roots, alt link                       what an empty user has
//!         2 what a former mailbox of this name    the same
//!           left in separate roots is removed
//!         3 index, cache, control directories     empty directories that belong to nobody
//!         4 the mailbox's directory               an empty mailbox, which the next run or Dovecot completes
//! delete  1 rename into the trash                 the mailbox is gone; trash that Dovecot or the next deletion removes
//!         2 trash removed                         the same
//!         3 separate roots, then empty            leftovers that step 2 of a later create removes
//!           directories
//! rename  1 parents of the new name               empty directories
//!         2 separate roots: the new name's tree   the same; the old mailbox is complete
//!           is made of hard links
//!         3 rename of the mailbox's directory     the new mailbox is complete, under its new name
//!         4 separate roots: the old tree goes     leftovers, as above
//!         5 the same for each child (Maildir++)   the children under the old name, complete; the engine finds them by GUID
//!         6 former parents that are empty go      empty directories
//!
//! Dovecot renames where we link (step 2), and a crash there costs it the identity of the mailbox.

mod create;
mod delete;
mod rename;

use std::io;
use std::path::{Path, PathBuf};

use super::{List, Paths, Stored};
use crate::mail::{Class, Error, MailboxGuid, Result};
use crate::os::fs;

impl Paths {
    /// The directories outside of the mailbox's own one, each once: index, cache, control, then ALT.
    fn separate(&self) -> Vec<PathBuf> {
        let mut out: Vec<PathBuf> = Vec::new();
        for path in [self.index.as_ref(), self.cache.as_ref(), Some(&self.control)].into_iter().flatten() {
            if !path.starts_with(&self.dir) && !self.mailbox.starts_with(path) && !out.contains(path) {
                out.push(path.clone());
            }
        }
        out
    }
}

impl List {
    /// Moves a directory out of the tree in one step and then removes it. Fine if it is not there.
    fn to_trash(&self, path: &Path) -> Result<()> {
        let trash = self.location.trash(&self.location.root);
        let unique = trash.join(format!("{}.{}.{}", host(), std::process::id(), hex::encode(crate::mail::generate_guid())));
        match fs::rename(path, &trash) {
            Ok(()) => {}
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => {
                match fs::rename(path, &unique) {
                    // Somebody has removed the trash, or the mailbox, at this moment.
                    Err(e) if e.is_not_found() => return if path.exists() { self.to_trash(path) } else { Ok(()) },
                    other => other?,
                }
            }
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => return Ok(fs::remove_tree(path)?),
            Err(e) => return Err(e.into()),
        }
        // The mailbox is gone whatever becomes of this. On NFS open files keep the directory.
        match fs::remove_tree(&trash) {
            Err(e) if !e.is_not_found() => tracing::warn!("{e}"),
            _ => {}
        }
        Ok(())
    }

    /// The directories in separate roots that belong to a name with all that is below it.
    fn trees(&self, stored: &Stored) -> Vec<PathBuf> {
        let paths = self.location.paths(stored);
        let mut out = paths.separate();
        if self.location.full_dirname {
            for dir in &mut out {
                dir.pop();
            }
        }
        out.extend(paths.alt_dir);
        out
    }

    /// Removes directories that are empty, from `dir` upwards, not reaching `root`.
    fn remove_empty(&self, dir: &Path, root: &Path) {
        let mut dir = dir;
        while dir != root && dir.starts_with(root) && fs::rmdir(dir).is_ok() {
            let Some(parent) = dir.parent() else { break };
            dir = parent;
        }
    }

    /// What a mailbox keeps in a separate root, without what its children keep there.
    fn remove_separate(&self, dir: &Path, stored: &Stored) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
        if self.location.layout != super::Layout::Fs || self.location.full_dirname {
            self.to_trash(dir)?;
            if self.location.full_dirname
                && let Some(parent) = dir.parent()
            {
                let _ = fs::rmdir(parent);
            }
            return Ok(());
        }
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| !t.is_dir()) {
                fs::unlink_if_there(&entry.path())?;
            }
        }
        if !stored.inbox {
            let _ = fs::rmdir(dir);
        }
        Ok(())
    }

    /// The roots that directories of this path's kind lie in, to know where to stop.
    fn listing_roots(&self) -> Vec<PathBuf> {
        let root = self.location.paths(&Stored { name: Default::default(), inbox: false });
        let mut roots = vec![root.dir];
        roots.extend(root.index);
        roots.extend(root.cache);
        roots.push(root.control);
        roots.extend(root.alt_dir);
        roots
    }

    fn remove_empty_anywhere(&self, dir: &Path) {
        if let Some(root) = self.listing_roots().iter().find(|r| dir.starts_with(r)) {
            self.remove_empty(dir, root);
        }
    }

    /// Whether the directories of a mailbox can be removed at all.
    ///
    /// # Errors
    /// [`Class::NotPossible`] for the INBOX of a Maildir and for the root.
    pub fn deletable(&self, stored: &Stored, guid: Option<MailboxGuid>) -> Result<()> {
        let text = if stored.inbox { "INBOX can't be deleted." } else { "Mail storage root can't be deleted." };
        self.movable(stored, guid, text)
    }

    /// The INBOX is a directory among the others, which can be renamed and deleted.
    #[must_use]
    pub fn inbox_moves(&self) -> bool {
        let inbox = Stored { name: "INBOX".into(), inbox: true };
        self.location.layout == super::Layout::Fs && self.movable(&inbox, None, "").is_ok()
    }

    /// INBOX of a flat layout and the root itself stay where they are.
    fn movable(&self, stored: &Stored, guid: Option<MailboxGuid>, text: &'static str) -> Result<()> {
        let root = stored.name.is_empty() || self.paths(stored, guid).dir == self.location.root;
        let elsewhere = stored.inbox && (self.location.inbox.is_some() || self.location.layout.is_flat());
        if root || elsewhere { Err(Error::new(Class::NotPossible, text)) } else { Ok(()) }
    }
}

fn host() -> String {
    nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default()
}

fn there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
