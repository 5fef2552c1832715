//! How mailboxes lie on disk: locations, layouts, names, subscriptions, UIDVALIDITYs, the list lock
//! (mailbox-list.md). Knows directories and names; what is inside a mailbox's directories is a
//! [`Format`](crate::store::format::Format)'s business.

mod detect;
pub mod location;
pub mod names;
mod paths;
mod utf7;

pub use location::{Driver, IndexDir, Layout, Location, LocationError};
pub use names::{Decoded, NameError, Names, Stored};
pub use paths::Paths;

#[cfg(test)]
mod corpus_tests;
