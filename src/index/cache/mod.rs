//! `dovecot.index.cache`: what was cached of mails, and the two values of ours that have no other home (spec: index.md 8).
//!
//! A cache that is not there, or not valid for the index, is as good as empty; it is never damage.
//! Lock order: the index's log, then the cache.

mod format;
mod read;
mod write;

use crate::mail::{Timestamp, Uid};

pub use read::Cache;

/// A value that may be cached of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheField {
    /// When it was saved into this mailbox: 4 bytes.
    Saved,
    /// When it was received: 4 bytes.
    Received,
    /// Size with CRLF line ends: 8 bytes.
    VirtualSize,
    /// Size as stored: 8 bytes.
    PhysicalSize,
    /// Its GUID: text.
    Guid,
    /// POP3 UIDL: text.
    Pop3Uidl,
    /// POP3 order: 4 bytes.
    Pop3Order,
}

impl CacheField {
    const fn name(self) -> &'static str {
        match self {
            Self::Saved => "date.save",
            Self::Received => "date.received",
            Self::VirtualSize => "size.virtual",
            Self::PhysicalSize => "size.physical",
            Self::Guid => "guid",
            Self::Pop3Uidl => "pop3.uidl",
            Self::Pop3Order => "pop3.order",
        }
    }
}

/// The number in the data of a cached value of 4 or 8 bytes.
#[must_use]
pub fn cached_number(data: &[u8]) -> u64 {
    let mut wide = [0; 8];
    let n = data.len().min(8);
    wide[..n].copy_from_slice(&data[..n]);
    u64::from_le_bytes(wide)
}

/// What is to be cached of a mail.
#[derive(Debug, Clone, Copy)]
pub struct CacheEntry<'a> {
    /// The UID that the mail has, or will get in the transaction that names the offset.
    pub uid: Uid,
    /// When it was saved.
    pub saved: Option<Timestamp>,
    /// Its GUID as text.
    pub guid: Option<&'a [u8]>,
}
