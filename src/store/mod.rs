//! The storages. [`format`] is the contract between the mailbox list and a format; the formats do not know each other.

mod attributes;
pub mod dbox;
pub mod decode;
pub mod format;
mod formats;
pub mod list;
pub mod local;
pub mod maildir;
pub mod mdbox;
pub mod sdbox;
mod settings;
mod sieve;

#[cfg(any(test, fuzzing))]
pub(crate) use attributes::AttributeFile;
pub use formats::open;
pub use settings::{Account, MailboxSettings, NamespaceSettings, Owner, Settings};
