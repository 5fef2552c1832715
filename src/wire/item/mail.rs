//! C, R, M and F: changes of mails, the mails themselves, and how it ended (wire.md 3.2).

use crate::wire::columns::Kind;
use crate::wire::row::{Out, Row};
use crate::wire::{Error, text};

/// What a C says of its mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    /// It is there.
    Save,
    /// It was expunged.
    Expunge,
    /// Its flags changed.
    Flags,
}

/// C: a mail that is there or has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub kind: ChangeType,
    /// Its UID, never 0.
    pub uid: u32,
    /// Its GUID; empty where the storage has none. On expunges the 128-bit form, or nothing.
    pub guid: Option<Vec<u8>>,
    /// Hash over some of its headers, where GUIDs do not do.
    pub hdr_hash: Option<Vec<u8>>,
    /// Modseq, 0 unknown.
    pub modseq: u64,
    /// Private modseq, 0 unknown.
    pub private_modseq: u64,
    /// Flags added since the common state.
    pub add_flags: u8,
    /// Flags removed since.
    pub remove_flags: u8,
    /// Flags now; bit 20 is \Recent.
    pub final_flags: u8,
    /// All keywords were cleared first.
    pub keywords_reset: bool,
    /// Operators `+ - = &` with keywords; escaped and joined as in the value. Most mails have none.
    pub keywords: Option<Vec<u8>>,
    /// When it was received.
    pub received: Option<u64>,
    /// Its size with CRLF line ends; all ones: not told.
    pub virtual_size: Option<u64>,
}

impl Change {
    /// The keyword changes, as operator and keyword.
    pub fn keyword_changes(&self) -> impl Iterator<Item = (u8, Vec<u8>)> + '_ {
        let list = self.keywords.as_deref().map(text::split_list).unwrap_or_default();
        list.into_iter().filter_map(|mut e| {
            let operator = *e.first()?;
            e.remove(0);
            Some((operator, e))
        })
    }

    pub(super) fn read(mut row: Row<'_>) -> Result<Self, Error> {
        let kind = match row.char(0)? {
            Some(b's') => ChangeType::Save,
            Some(b'e') => ChangeType::Expunge,
            Some(b'f') => ChangeType::Flags,
            _ => return Err(row.bad(0)),
        };
        let uid = row.required(1)?;
        if uid == 0 {
            return Err(row.bad(1));
        }
        Ok(Self {
            kind,
            uid,
            modseq: row.number(4)?.unwrap_or(0),
            private_modseq: row.number(5)?.unwrap_or(0),
            add_flags: row.mask(6)?,
            remove_flags: row.mask(7)?,
            final_flags: row.mask(8)?,
            keywords_reset: row.flag(9),
            received: row.hex(11)?,
            virtual_size: row.hex(12)?,
            guid: row.take(2),
            hdr_hash: row.take(3),
            keywords: row.take(10),
        })
    }

    pub(super) fn row(&self) -> Out<'_> {
        let mut row = Out::new(Kind::Change);
        row.bytes(
            0,
            match self.kind {
                ChangeType::Save => &b"s"[..],
                ChangeType::Expunge => &b"e"[..],
                ChangeType::Flags => &b"f"[..],
            },
        );
        row.show(1, self.uid);
        row.some(2, self.guid.as_deref());
        row.some(3, self.hdr_hash.as_deref());
        row.show_some(4, Some(self.modseq).filter(|m| *m > 0));
        row.show_some(5, Some(self.private_modseq).filter(|m| *m > 0));
        row.mask(6, self.add_flags);
        row.mask(7, self.remove_flags);
        row.mask(8, self.final_flags);
        row.flag(9, self.keywords_reset);
        row.some(10, self.keywords.as_deref());
        row.hex_some(11, self.received);
        row.hex_some(12, self.virtual_size);
        row
    }
}

/// R: a mail that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// By GUID; else by UID.
    pub guid: Option<Vec<u8>>,
    /// Its UID at the other side, as far as is known.
    pub uid: Option<u32>,
}

/// M: a mail, the text of which follows unless it was expunged meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailItem {
    /// Its GUID if it was asked for by GUID, else empty.
    pub guid: Option<Vec<u8>>,
    /// Its UID if it was asked for by UID.
    pub uid: Option<u32>,
    /// POP3 UIDL; empty: none.
    pub pop3_uidl: Option<Vec<u8>>,
    /// POP3 order.
    pub pop3_order: Option<u32>,
    /// Received.
    pub received: Option<i64>,
    /// Saved.
    pub saved: Option<i64>,
    /// The text follows.
    pub stream: bool,
}

impl MailItem {
    pub(super) fn read(mut row: Row<'_>) -> Result<Self, Error> {
        Ok(Self {
            uid: row.number(1)?,
            pop3_order: row.number(3)?,
            received: row.time(4)?,
            saved: row.time(5)?,
            stream: row.flag(6),
            guid: row.take(0),
            pop3_uidl: row.take(2),
        })
    }

    pub(super) fn row(&self) -> Out<'_> {
        let mut row = Out::new(Kind::Mail);
        row.some(0, self.guid.as_deref());
        row.show_some(1, self.uid);
        row.some(2, self.pop3_uidl.as_deref());
        row.show_some(3, self.pop3_order);
        row.show_some(4, self.received);
        row.show_some(5, self.saved);
        row.flag(6, self.stream);
        row
    }
}

/// F: how the slave ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FinishItem {
    /// What went wrong.
    pub error: Option<String>,
    /// Its class.
    pub mail_error: Option<u32>,
    /// The state must not be kept.
    pub full_resync: bool,
}
