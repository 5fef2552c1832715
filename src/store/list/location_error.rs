//! What can be wrong with a `mail_location` (mailbox-list.md 1.1).

use std::path::PathBuf;

/// Why a location cannot be used. The texts are Dovecot's; it puts `Namespace 'PREFIX': ` in front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Nothing was given and nothing found.
    #[error("Mail storage autodetection failed with home={0}")]
    NothingFound(String),
    /// `auto:` found nothing.
    #[error("Autodetection failed for {location} (home={home})")]
    DetectionFailed {
        /// What was given.
        location: String,
        /// The home directory, or nothing.
        home: String,
    },
    /// No driver, and none found.
    #[error("Ambiguous mail location setting, don't know what to do with it: {0} (try prefixing it with mbox: or maildir:)")]
    Ambiguous(String),
    /// A dbox whose kind cannot be told.
    #[error("{0} may be an sdbox or an mdbox (try prefixing it with sdbox: or mdbox:)")]
    AmbiguousDbox(PathBuf),
    /// Nothing behind the driver.
    #[error("Root mail directory not given")]
    NoRoot,
    /// The root was forgotten.
    #[error("Mail root directory not given: {0}")]
    RootIsSetting(String),
    /// A driver that does not exist.
    #[error("Unknown mail storage driver {0}")]
    UnknownDriver(String),
    /// A key that does not exist, or a flag that was given a value.
    #[error("Unknown setting: {0}")]
    UnknownSetting(String),
    /// A layout that does not exist.
    #[error("Mailbox list driver {0}: Unknown driver name")]
    UnknownLayout(String),
    /// `DIRNAME` with a flat layout.
    #[error("Mailbox list driver {0}: maildir_name not supported by this driver")]
    DirnameNotSupported(&'static str),
    /// `ALT` with a flat layout.
    #[error("Mailbox list driver {0}: alt_dir not supported by this driver")]
    AltNotSupported(&'static str),
    /// `ITERINDEX` alone.
    #[error("ITERINDEX requires INDEX to be explicitly set")]
    IterIndexAlone,
    /// Not one character.
    #[error("BROKENCHAR value must be a single character")]
    BrokenChar,
    /// A file name that is empty.
    #[error("{0} value must not be empty")]
    EmptyValue(&'static str),
    /// `~/` without a home.
    #[error("Home directory not set for user. Can't expand ~/ for {what} in: {text}")]
    NoHome {
        /// What the path is for.
        what: &'static str,
        /// The path.
        text: String,
    },
    /// `~name/` of nobody.
    #[error("No home directory for system user. Can't expand ~{user} for {what} in: {text}")]
    NoSystemUser {
        /// The name.
        user: String,
        /// What the path is for.
        what: &'static str,
        /// The path.
        text: String,
    },
}
