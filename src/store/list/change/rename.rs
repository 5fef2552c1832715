//! See the order of writes in [`super`].

use std::io;
use std::path::{Path, PathBuf};

use super::super::{Layout, List, Stored};
use super::there;
use crate::mail::{Class, Error, Result};
use crate::os::fs::{self, Modes};

/// Directories that are being moved in a separate root.
struct Moved {
    from: PathBuf,
    to: PathBuf,
    linked: bool,
}

impl List {
    /// Moves the directories of a mailbox or directory and of all its children. `below` are the storage names of the
    /// children as a listing just showed them; only flat layouts need them.
    ///
    /// # Errors
    /// [`Class::Exists`]: there is something under the new name; [`Class::NotFound`]; [`Class::NotPossible`] for the INBOX of
    /// a Maildir.
    pub fn move_dirs(&self, from: &Stored, to: &Stored, below: &[Stored]) -> Result<()> {
        let text = if from.inbox { "Renaming INBOX isn't supported." } else { "Mail storage root can't be renamed." };
        self.movable(from, None, text)?;
        if to.inbox || to.name.is_empty() {
            return Err(Error::new(Class::Exists, "Target mailbox already exists"));
        }
        if to.name == from.name || self.names.is_below(to, from) {
            return Err(Error::new(Class::NotPossible, "Can't rename a mailbox to itself or into itself"));
        }
        let flat = self.location.layout.is_flat();
        let mut pairs = vec![(from.clone(), to.clone())];
        if flat {
            pairs.extend(below.iter().map(|child| (child.clone(), child.rebased(from, to))));
        }
        for (_, new) in &pairs {
            let paths = self.location.paths(new);
            if there(&paths.dir) || paths.alt_dir.as_ref().is_some_and(|p| there(p)) {
                return Err(Error::new(Class::Exists, "Target mailbox already exists"));
            }
        }
        let mut done = false;
        for (old, new) in &pairs {
            // A flat parent may be missing while its children are there.
            if there(&self.location.paths(old).dir) {
                self.move_one(old, new)?;
                done = true;
            }
        }
        if done { Ok(()) } else { Err(Error::new(Class::NotFound, "Mailbox doesn't exist")) }
    }

    fn move_one(&self, old: &Stored, new: &Stored) -> Result<()> {
        let (from, to) = (self.location.paths(old), self.location.paths(new));
        let modes = self.modes(new, None);
        if let Some(parent) = to.dir.parent() {
            fs::mkdir_all(parent, &modes)?;
        }
        let mut moved = Vec::new();
        for (from, to) in self.trees(old).into_iter().zip(self.trees(new)) {
            if there(&from) {
                // Only what a crash left can be there: the new name was free a moment ago.
                self.to_trash(&to)?;
                let linked = link_tree(&from, &to, &modes)?;
                moved.push(Moved { from, to, linked });
            }
        }
        fs::rename(&from.dir, &to.dir)?;
        for tree in moved {
            if tree.linked {
                self.to_trash(&tree.from)?;
            } else {
                fs::rename(&tree.from, &tree.to)?;
            }
            if let Some(parent) = tree.from.parent() {
                self.remove_empty_anywhere(parent);
            }
        }
        if self.location.layout == Layout::Fs
            && let Some(parent) = from.dir.parent()
        {
            self.remove_empty_anywhere(parent);
        }
        Ok(())
    }
}

/// Makes a second tree of the same files. `false` where the file system has no hard links: then nothing was made.
fn link_tree(from: &Path, to: &Path, modes: &Modes) -> Result<bool> {
    if let Some(parent) = to.parent() {
        fs::mkdir_all(parent, modes)?;
    }
    match link_dir(from, to) {
        Ok(()) => Ok(true),
        Err(e)
            if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied | io::ErrorKind::TooManyLinks) =>
        {
            if there(to) {
                fs::remove_tree(to)?;
            }
            Ok(false)
        }
        Err(e) => Err(e.into()),
    }
}

fn link_dir(from: &Path, to: &Path) -> fs::Result<()> {
    let bad = |e| fs::Error::new("read", from, e);
    fs::mkdir(to, &Modes::like(&std::fs::metadata(from).map_err(bad)?))?;
    for entry in std::fs::read_dir(from).map_err(bad)? {
        let entry = entry.map_err(bad)?;
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(bad(e)),
        };
        if kind.is_dir() {
            link_dir(&old, &new)?;
        } else {
            match fs::link(&old, &new) {
                // Replaced or removed by its owner meanwhile: a lock or a temporary file.
                Err(e) if e.is_not_found() => {}
                other => other?,
            }
        }
    }
    Ok(())
}
