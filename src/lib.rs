//! dsync makes two places that hold a user's mail show the same mail.
//!
//! Rooms, from the ground up; a room uses the rooms above it in this list, never one below it
//! (docs/architecture.md; `tests/arrows.rs` holds us to it).

pub mod os;

pub mod mail;

pub mod index;

pub mod store;

pub mod wire;

pub mod sync;

pub mod peer;

pub mod config;

pub mod users;

pub mod run;

pub mod cli;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
