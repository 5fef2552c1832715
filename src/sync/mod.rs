//! The engine: two brains, one per side, that exchange facts and change only their own store.
//!
//! Both compute the same outcome from the same facts ([`merge`] is a pure function of master's and slave's facts), and each
//! makes its own side equal to it. Knows no storage and no wire.

pub mod merge;
mod options;
mod state;
pub mod tree;

pub use options::{Algorithm, Filter, FlagFilter, FlagOrKeyword, Mode, Only, Options, Source};
pub use state::{BadState, MailboxState, State};
