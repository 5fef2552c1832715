//! The dsync protocol's bytes (wire.md 1 to 6): what is said when, and what it means, is `sync`'s business.
//!
//! `text`, `columns`, `row`, `item`, `dots` and `decode` know no I/O. [`Conn`] carries items over two ends of a pipe or socket.

mod ahead;
mod columns;
mod conn;
mod decode;
mod dots;
mod ends;
mod error;
mod item;
mod row;
mod spool;
pub mod text;
mod weight;

pub use ahead::Ahead;
pub use columns::{Headers, KINDS, Kind, OWN_KIND};
pub use conn::{Conn, ConnError, Wait};
pub use decode::{Decoder, Event, MAX_LINE};
pub use dots::Stuffer;
pub use ends::Ends;
pub use error::Error;
pub use item::{
    AttributeItem, CacheField, Change, ChangeType, Deletes, FinishItem, Handshake, Item, MailItem, MailboxItem, NodeExistence,
    Removed, Request, StateItem, TreeNode,
};
pub use spool::{Spool, Spooled};
pub use weight::of_memory;

/// The protocol's major version: another one is another protocol.
const MAJOR: u32 = 3;
/// The minor version that every Dovecot sends, and so do we (wire.md 3.3).
pub const MINOR: u32 = 5;
