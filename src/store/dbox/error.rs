//! What can be wrong with a dbox file (dbox.md 1.5, 11).

use std::path::PathBuf;

use super::TextError;
use crate::mail::{self, Class};
use crate::os::fs;

/// A dbox file, or one message of it, that cannot be read. Other messages and files are not concerned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not what the format says.
    #[error("Corrupted dbox file {path} (around offset={offset}): {damage}", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// The message is whole, but its text cannot be had.
    #[error("{path} (offset={offset}): {source}", path = .path.display())]
    Text {
        /// Which file.
        path: PathBuf,
        /// Where the message begins.
        offset: u64,
        /// Why.
        source: TextError,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] fs::Error),
}

impl Error {
    /// The file is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(e) if e.is_not_found())
    }
}

impl From<Error> for mail::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Io(e) => Self::io(e),
            Error::Text { source: TextError::Decode(ref cause), .. } => Self::new(cause.class(), e),
            Error::Text { source: TextError::External(_), .. } => Self::new(Class::NotPossible, e),
            Error::Damaged { .. } => Self::new(Class::Temporary, e),
        }
    }
}

/// What is wrong, in Dovecot's words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// No first line, or one that does not begin with a known version.
    #[error("Invalid dbox version")]
    Version,
    /// The first line has no usable `M` field.
    #[error("Missing message header size")]
    NoHeaderSize,
    /// The file ends inside a message header.
    #[error("EOF reading msg header (got {got}/{want} bytes)")]
    ShortHeader {
        /// Bytes that are there.
        got: usize,
        /// Bytes that a header has in this file.
        want: usize,
    },
    /// A message header does not begin with its magic.
    #[error("msg header has bad magic value")]
    HeaderMagic,
    /// A message header's last byte is not a line feed.
    #[error("msg header doesn't end with LF")]
    HeaderEnd,
    /// There is no metadata block where the body ends.
    #[error("metadata header has bad magic value")]
    MetadataMagic,
    /// The file ends inside the body or directly behind it.
    #[error("EOF before the metadata block (the body should have {0} bytes)")]
    ShortBody(u64),
    /// The file ends inside a metadata block.
    #[error("missing end-of-metadata line")]
    MetadataEnd,
    /// A metadata block has no end within any sensible size.
    #[error("metadata block has more than {0} bytes")]
    MetadataTooLarge(usize),
    /// A metadata value is not what its key wants.
    #[error("metadata field {key} has an invalid value: {value:?}", key = *.key as char)]
    Field {
        /// The key.
        key: u8,
        /// The value.
        value: String,
    },
    /// The message has no GUID.
    #[error("metadata has no GUID")]
    NoGuid,
    /// The text is not as long as the metadata says.
    #[error("the text should have {want} bytes and has {got}")]
    Length {
        /// What the metadata says.
        want: u64,
        /// What is there.
        got: u64,
    },
}
