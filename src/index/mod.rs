//! Dovecot's index files: `dovecot.index`, its transaction log, its cache; the list index; the mailbox log.
//!
//! Knows nothing of any one storage. Follows `docs/formats/index.md` where the project keeps it, RFC 7162 for modseqs.

mod cache;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handle;
pub mod list_index;
mod log;
pub mod mailbox_log;
mod settings;
mod state;
mod transaction;
mod view;

pub use cache::{Cache, CacheEntry, CacheField, cached_number};
pub use error::{Damage, DamageClass, Error, Result};
pub use files::Files;
pub use handle::{Created, Durability, Index, Locked, Options, Parking, Version};
pub use log::Bits;
pub use settings::Settings;
pub use state::{DeletedMark, ExtId, Field, Pending, Position, Request, State};
pub use transaction::{ExtSpec, Transaction};
pub use view::{EditPlan, Mails, Scan, assign_uids, given_since, plan_edits, raise};

#[cfg(test)]
mod tests;
