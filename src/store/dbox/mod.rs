//! What sdbox and mdbox have in common: the file format (dbox.md 1), temp names (2.1), the header extensions of the
//! mailbox index (2.2, 2.3) and the way from stored bytes to a mail's text (4).
//!
//! Knows no index and no mailbox directory. Message bytes are never changed in place: a [`Writer`] only ever fills a
//! temp file of its own.

mod error;
mod external;
mod fold;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;
mod index_header;
mod metadata;
mod read;
mod temp;
mod text;
mod write;

#[cfg(test)]
mod tests;

pub use error::{Damage, Error};
pub use external::{Attachments, External, ExternalError, Owner};
pub use header::{FileHeader, MESSAGE_HEADER_SIZE, MessageHeader};
pub use index_header::{IndexHeader, Pop3};
pub use metadata::{Metadata, NewMetadata};
pub use read::{DboxFile, Message, Messages};
pub use temp::{TEMP_PREFIX, temp_name};
pub use text::{TextError, TextRules};
pub use write::{AppendError, NewMessage, Temp, Writer, Written};
