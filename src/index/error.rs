//! What can be wrong with index files (spec: index.md 6), and how it looks to the rest of the program.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::mail::{self, Class};
use crate::os::fs;

/// The classes of damage that make index files unusable for us (index.md 6.1). An incomplete tail of the log is not
/// among them: readers ignore it, and writers cut it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DamageClass {
    /// The log is missing, marked as corrupted or of another version, while a snapshot exists.
    LogLost,
    /// Dovecot would repair it by a rebuild.
    NeedsFsck,
    /// The log's framing is fine, its content is invalid.
    LogCorrupt,
    /// The snapshot cannot be read at all. Dovecot would show an empty mailbox with another identity.
    IndexUnusable,
    /// Neither a snapshot nor a log that starts the history.
    NoStart,
}

impl DamageClass {
    /// The name that the specification gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LogLost => "log-lost",
            Self::NeedsFsck => "needs-fsck",
            Self::LogCorrupt => "log-corrupt",
            Self::IndexUnusable => "index-unusable",
            Self::NoStart => "no-start",
        }
    }
}

impl fmt::Display for DamageClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Damage at a place. Nothing was changed because of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: damaged at offset {offset} ({class}): {what}; run `doveadm force-resync` on this mailbox", path = .path.display())]
pub struct Damage {
    /// Which class.
    pub class: DamageClass,
    /// In which file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

impl Damage {
    pub(super) fn new(class: DamageClass, path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self { class, path: path.to_owned(), offset, what: what.into() }
    }
}

/// Why index files could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They are damaged.
    #[error(transparent)]
    Damage(Box<Damage>),
    /// There are none: the mailbox has no index yet.
    #[error("{}: no such index", .0.display())]
    Missing(PathBuf),
    /// They carry the mark of a mailbox that is being deleted (index.md 4.5).
    #[error("{}: Mailbox was deleted under us", .0.display())]
    Deleted(PathBuf),
    /// A transaction does not fit the state of the index; nothing was written.
    #[error("{path}: refused to write: {what}", path = .path.display())]
    Refused {
        /// The log that it was meant for.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

impl Error {
    /// The class of damage, if that is what it is.
    #[must_use]
    pub fn damage(&self) -> Option<DamageClass> {
        match self {
            Self::Damage(d) => Some(d.class),
            _ => None,
        }
    }

    /// There are no index files at all.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }

    pub(super) fn read(path: &Path, e: std::io::Error) -> Self {
        Self::Io(fs::Error::new("read", path, e))
    }

    pub(super) fn refused(path: &Path, what: impl Into<String>) -> Self {
        Self::Refused { path: path.to_owned(), what: what.into() }
    }
}

impl From<Damage> for Error {
    fn from(d: Damage) -> Self {
        Self::Damage(Box::new(d))
    }
}

impl From<Error> for mail::Error {
    fn from(e: Error) -> Self {
        let class = match e {
            Error::Io(e) => return mail::Error::io(e),
            Error::Missing(_) | Error::Deleted(_) => Class::NotFound,
            Error::Damage(_) | Error::Refused { .. } => Class::Temporary,
        };
        Self::new(class, e)
    }
}

/// Result of this room.
pub type Result<T> = std::result::Result<T, Error>;
