//! What can go wrong with a place of mail, as a class that decides the exit code and a cause that names the place.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The classes of sync.md 11.2; `cli` has the one table from class to exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// May work another time: I/O errors, locks, damaged files that an administrator has to look at.
    Temporary,
    /// The mailbox (or what was asked for) is not there.
    NotFound,
    /// The name is taken.
    Exists,
    /// The operation cannot be done with this mailbox or storage.
    NotPossible,
    /// A value cannot be understood or represented.
    InvalidData,
    /// Wrong parameters.
    Params,
    /// No permission.
    Permission,
    /// Quota, or no room on the disk.
    NoRoom,
    /// Somebody else uses it.
    InUse,
    /// Some limit was reached.
    Limit,
    /// The mail has been expunged meanwhile.
    Expunged,
}

/// An error of a store, a mailbox or one mail.
#[derive(Debug)]
pub struct Error {
    class: Class,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Result of stores and mailboxes.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this class. The cause's text must name file, offset, mailbox or UID by itself.
    pub fn new(class: Class, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { class, source: cause.into() }
    }

    /// A failed change to, or reading of, the file system; the class follows from the kind of the cause.
    #[must_use]
    pub fn io(error: crate::os::fs::Error) -> Self {
        use std::io::ErrorKind as K;
        let class = match error.kind() {
            K::PermissionDenied | K::ReadOnlyFilesystem => Class::Permission,
            K::StorageFull | K::QuotaExceeded => Class::NoRoom,
            _ => Class::Temporary,
        };
        Self::new(class, error)
    }

    /// The class.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The same error with a place in front of its text, as `PLACE: TEXT`.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self { class: self.class, source: format!("{place}: {}", self.source).into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

impl From<crate::os::fs::Error> for Error {
    fn from(e: crate::os::fs::Error) -> Self {
        Self::io(e)
    }
}
