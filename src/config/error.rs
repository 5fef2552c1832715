//! What can be wrong with a configuration, in Dovecot's words (cli-config.md 9.4, 10).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::mail::Class;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<Path>,
    pub(crate) line: usize,
}

/// `FILE:LINE`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// A line of a file is wrong.
    #[error("Error in configuration file {file} line {line}: {text}", file = file.display())]
    Line {
        /// The file, as the main file or an include names it.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        text: String,
    },
    /// The files as a whole are wrong.
    #[error("Error in configuration file {file}: {text}", file = file.display())]
    Whole {
        /// The main file.
        file: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The main file cannot be read.
    #[error("Error reading configuration: {call}({path}) failed: {reason}{hint}", path = path.display(), reason = reason(source))]
    Read {
        /// What was tried.
        call: &'static str,
        /// The main file.
        path: PathBuf,
        /// Where the path comes from, if that needs saying.
        hint: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The main file is a socket of Dovecot's config service.
    #[error("Error reading configuration: {path} is a socket, and asking Dovecot's config service is not supported: give the configuration file", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
    },
    /// An override of the command line is wrong.
    #[error("Error reading configuration: Invalid -o parameter {parameter}: {text}")]
    Override {
        /// `K=V` as given.
        parameter: String,
        /// What is wrong.
        text: String,
    },
    /// The settings do not fit together once the overrides are in.
    #[error("Error reading configuration: Invalid settings: {text}")]
    Settings {
        /// What is wrong.
        text: String,
    },
}

impl Error {
    /// The files themselves are wrong. Dovecot's `doveconf` reports that, with an exit code of its own (89).
    #[must_use]
    pub const fn is_in_files(&self) -> bool {
        matches!(self, Self::Line { .. } | Self::Whole { .. })
    }

    /// The class.
    #[must_use]
    pub const fn class(&self) -> Class {
        Class::Temporary
    }
}

/// The system's words without Rust's ` (os error N)`.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
