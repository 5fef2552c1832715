//! Dovecot's index files: `dovecot.index`, its transaction log, its cache; the list index; the mailbox log.
//!
//! Knows nothing of any one storage. Follows `docs/formats/index.md` where the project keeps it, RFC 7162 for modseqs.

pub mod mailbox_log;
mod settings;

pub use settings::Settings;
