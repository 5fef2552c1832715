//! The engine: two brains, one per side, that exchange facts and change only their own store.
//!
//! Both compute the same outcome from the same facts ([`merge`] is a pure function of master's and slave's facts), and each
//! makes its own side equal to it. Knows no storage and no wire.

mod at_hand;
mod attributes;
mod brain;
mod budget;
mod carry;
pub mod dovecot;
mod facts;
mod flow;
mod last_copy;
pub mod merge;
mod message;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, reason = "the fuzz targets need a part of it"))]
mod model;
mod native;
mod options;
mod report;
mod round;
mod state;
#[cfg(test)]
mod tests;
pub mod tree;

pub use brain::run;
pub use message::{Channel, Failure, Finish, Link, LinkError, MailText, Message, Offer, RoundEnd};
pub use options::{Algorithm, Filter, FlagFilter, FlagOrKeyword, Mode, Only, Options, Placement, Source};
pub use report::{Counts, Report};
pub use state::{BadState, MailboxState, State};
