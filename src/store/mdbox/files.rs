//! The files of a storage: `m.N` in the primary and the alternative directory (dbox.md 3.1, 3.10), temp files.
//!
//! Message bytes never change in place and a descriptor stays good after an unlink, so open files are kept and read
//! without any lock.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::mail::{self, Class};
use crate::os::fs::{self, Modes};
use crate::store::dbox::{self, DboxFile};

/// Where an mdbox storage is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The mail root: `storage/m.N` are below it.
    pub root: PathBuf,
    /// Where the map index is: the mail root, or what `INDEX=` says.
    pub index_root: PathBuf,
    /// The root of the alternative storage (`ALT=`).
    pub alt: Option<PathBuf>,
}

/// How many files stay open: mails of one mailbox usually lie in few.
const OPEN_FILES: usize = 8;

/// Why a file could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// It is in neither directory.
    Missing,
    /// It cannot be read; only its mails are concerned.
    Failed(mail::Error),
}

#[derive(Debug)]
pub(super) struct Files {
    storage: PathBuf,
    alt: Option<PathBuf>,
    alt_root: Option<PathBuf>,
    root: PathBuf,
    open: VecDeque<(u32, Arc<DboxFile>)>,
    /// Files of which it is known whether they lie in the alternative storage.
    in_alt: HashMap<u32, bool>,
}

impl Files {
    pub fn new(location: &Location) -> Self {
        Self {
            storage: location.root.join("storage"),
            alt: location.alt.as_ref().map(|a| a.join("storage")),
            alt_root: location.alt.clone(),
            root: location.root.clone(),
            open: VecDeque::new(),
            in_alt: HashMap::new(),
        }
    }

    /// The primary directory.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// A file's name.
    pub fn name(id: u32) -> String {
        format!("m.{id}")
    }

    /// A file's path in the primary directory.
    pub fn path(&self, id: u32) -> PathBuf {
        self.storage.join(Self::name(id))
    }

    /// Both paths that a file may have, primary first.
    pub fn paths(&self, id: u32) -> impl Iterator<Item = PathBuf> + use<> {
        let alt = self.alt.as_ref().map(|a| a.join(Self::name(id)));
        [Some(self.path(id)), alt].into_iter().flatten()
    }

    /// Opens a file, in the primary directory or the alternative one.
    pub fn open(&mut self, id: u32) -> Result<Arc<DboxFile>, OpenError> {
        if let Some(at) = self.open.iter().position(|(i, _)| *i == id) {
            let entry = self.open.remove(at).expect("holds because position() found it");
            let file = Arc::clone(&entry.1);
            self.open.push_front(entry);
            return Ok(file);
        }
        for path in self.paths(id) {
            match DboxFile::open(&path) {
                Ok(file) => {
                    let file = Arc::new(file.that_grows());
                    self.open.truncate(OPEN_FILES - 1);
                    self.open.push_front((id, Arc::clone(&file)));
                    return Ok(file);
                }
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(OpenError::Failed(e.into())),
            }
        }
        match self.unmounted_alt() {
            Some(e) => Err(OpenError::Failed(e)),
            None => Err(OpenError::Missing),
        }
    }

    /// Closes all files: their names may mean others now (a rebuild has repaired them).
    pub fn forget(&mut self) {
        self.open.clear();
        self.in_alt.clear();
    }

    /// Closes a file that is purged.
    pub fn forget_one(&mut self, id: u32) {
        self.open.retain(|(i, _)| *i != id);
    }

    /// The error for a file that is missing while the alternative storage is not there: the mails are not lost.
    pub fn unmounted_alt(&self) -> Option<mail::Error> {
        let temporary = |text: String| Some(mail::Error::new(Class::Temporary, text));
        match &self.alt_root {
            Some(alt) if !alt.is_dir() => {
                temporary(format!("the alternative storage {} is not there (not mounted?)", alt.display()))
            }
            None if std::fs::symlink_metadata(self.root.join("dbox-alt-root")).is_ok() => temporary(format!(
                "{} says that there is an alternative storage, but no ALT= is configured",
                self.root.join("dbox-alt-root").display()
            )),
            _ => None,
        }
    }

    /// The highest N of all `m.N`, 0 without any. Names like `m.1.broken` count too: Dovecot's rebuild made them.
    pub fn highest_id(&self) -> mail::Result<u32> {
        let mut highest = 0;
        for dir in [Some(&self.storage), self.alt.as_ref()].into_iter().flatten() {
            let entries = match std::fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(fs::Error::new("read", dir, e).into()),
            };
            for entry in entries {
                let entry = entry.map_err(|e| fs::Error::new("read", dir, e))?;
                let name = entry.file_name();
                let id = name.to_str().and_then(|n| n.strip_prefix("m.")).map(|n| n.split('.').next().unwrap_or(n));
                highest = highest.max(id.and_then(|n| n.parse().ok()).unwrap_or(0));
            }
        }
        Ok(highest)
    }

    /// A file lies in the alternative storage: not in the primary one.
    pub fn in_alt(&mut self, id: u32) -> bool {
        let Some(alt) = &self.alt else { return false };
        let known = self.in_alt.get(&id).copied();
        known.unwrap_or_else(|| {
            let name = Self::name(id);
            let in_alt = !self.storage.join(&name).exists() && alt.join(&name).exists();
            self.in_alt.insert(id, in_alt);
            in_alt
        })
    }

    /// The directory for new files in the alternative storage, which is made if need be. `None`: there is none, or it is not
    /// mounted, and mails must not be written to where it will be.
    fn alt_for_new(&self, modes: &Modes) -> mail::Result<Option<&Path>> {
        let (Some(alt), Some(root)) = (&self.alt, &self.alt_root) else { return Ok(None) };
        if alt.is_dir() {
            return Ok(Some(alt));
        }
        // An empty directory is a place where something could be mounted.
        if std::fs::read_dir(root).map_or(true, |mut entries| entries.next().is_none()) {
            return Ok(None);
        }
        fs::mkdir_all(alt, modes)?;
        Ok(Some(alt))
    }

    /// A new temp file beside the primary files, or if wanted and possible in the alternative storage.
    pub fn writer(&self, modes: &Modes, in_alt: bool) -> mail::Result<dbox::Writer> {
        let alt = if in_alt { self.alt_for_new(modes)? } else { None };
        Ok(dbox::Writer::create(alt.unwrap_or(&self.storage), modes)?)
    }
}
