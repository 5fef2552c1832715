//! The names of an index's files (spec: index.md 1.1).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The file family of one index: `DIR/STEM`, `DIR/STEM.log` and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    dir: PathBuf,
    stem: String,
    cache: PathBuf,
}

impl Files {
    /// Stem of a mailbox's index.
    pub const MAILBOX: &'static str = "dovecot.index";
    /// Stem of the map index of an mdbox.
    pub const MAP: &'static str = "dovecot.map.index";
    /// Stem of a mailbox list's index.
    pub const LIST: &'static str = "dovecot.list.index";

    /// The family with this stem in this directory, the cache with it.
    pub fn new(dir: impl Into<PathBuf>, stem: impl Into<String>) -> Self {
        let (dir, stem) = (dir.into(), stem.into());
        let cache = dir.join(format!("{stem}.cache"));
        Self { dir, stem, cache }
    }

    /// The same with the cache file in another directory (`INDEXCACHE=`).
    #[must_use]
    pub fn with_cache_dir(mut self, dir: &Path) -> Self {
        self.cache = dir.join(format!("{}.cache", self.stem));
        self
    }

    fn with(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.stem);
        name.push(suffix);
        self.dir.join(name)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The snapshot.
    #[must_use]
    pub fn snapshot(&self) -> PathBuf {
        self.with("")
    }

    /// The log that is being written.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.with(".log")
    }

    /// The log before it.
    #[must_use]
    pub fn log2(&self) -> PathBuf {
        self.with(".log.2")
    }

    /// The cache file.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    pub(super) fn newlock(&self) -> PathBuf {
        self.with(".log.newlock")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.with(".tmp")
    }

    pub(super) fn backup(&self) -> PathBuf {
        self.with(".backup")
    }

    pub(super) fn backup_tmp(&self) -> PathBuf {
        self.with(".backup.tmp")
    }

    /// There are index files: a log, or a snapshot whose log is lost.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.log().exists() || self.snapshot().exists()
    }
}
