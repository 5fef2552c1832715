//! The transaction log's bytes: framing, records and their fields, in both directions (spec: index.md 3.1 to 3.5).
//! Nothing is opened here.

mod fields;
mod frame;
mod record;

pub(super) use fields::{Append, FlagRange, GuidExpunge, Intro, Range, Write, put};
pub use frame::Bits;
pub(super) use frame::{Header, Transactions, decode_size, encode_size};
pub(super) use record::{Bad, Change, kind};
