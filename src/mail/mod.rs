//! The words of the trade as types, and what every place of mail offers.
//!
//! Knows no file and no socket. Storages implement [`Store`] and [`Mailbox`]; the engine (`sync`) is written against them.

mod body;
mod error;
mod flags;
mod id;
mod list;
mod name;
mod rules;
mod store;

pub use body::{Body, FileRange, Piece, SMALL, zeroes};
pub use error::{Class, Error, Result};
pub use flags::{Flags, Keyword, Keywords};
pub use id::{Guid128, MailGuid, MailboxGuid, ModSeq, Uid, UidValidity, generate_guid, union_of_uids};
pub use list::{MailList, partition_point};
pub use name::{MailboxName, NameHash};
pub use rules::{NameRules, NamespaceRules};
pub use store::{
    Attribute, AttributeChange, AttributeKey, Capabilities, Changes, Committed, Deletion, DeletionKey, Edit, EditKind, Existence,
    Facts, Floors, Identity, LogChange, Mail, Mailbox, NewMail, Node, Original, Rebuild, RebuildFrom, RebuildMail, Renumbered,
    SaveError, Saved, Selection, Since, Status, Store, Timestamp, Tree,
};
