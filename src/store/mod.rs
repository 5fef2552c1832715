//! The storages. [`format`] is the contract between the mailbox list and a format; the formats do not know each other.

pub mod dbox;
pub mod decode;
pub mod format;
pub mod list;
pub mod maildir;
pub mod mdbox;
mod settings;

pub use settings::{Account, MailboxSettings, NamespaceSettings, Owner, Settings};
