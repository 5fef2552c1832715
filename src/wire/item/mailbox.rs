//! S, B and A: a mailbox's numbers and attributes, and how far both sides are equal (wire.md 3.2).

use crate::mail::MailboxGuid;
use crate::wire::Error;
use crate::wire::columns::{Headers, Kind};
use crate::wire::row::{Out, Row};

/// S: how far both sides of a mailbox are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateItem {
    /// Which mailbox.
    pub guid: MailboxGuid,
    /// UIDVALIDITY; 0 with `changes`: a full resync is needed.
    pub uidvalidity: u32,
    /// Highest UID up to which both are equal.
    pub last_common_uid: u32,
    /// Modseq likewise.
    pub modseq: u64,
    /// Private modseq likewise.
    pub private_modseq: u64,
    /// How many mails.
    pub messages: Option<u32>,
    /// Something changed during the run.
    pub changes: bool,
}

impl StateItem {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, Error> {
        Ok(Self {
            guid: row.required_guid(0)?,
            uidvalidity: row.required(1)?,
            last_common_uid: row.required(2)?,
            modseq: row.required(3)?,
            private_modseq: row.required(4)?,
            messages: row.number(5)?,
            changes: row.flag(6),
        })
    }

    pub(super) fn row(&self) -> Out<'_> {
        let mut row = Out::new(Kind::State);
        row.show(0, self.guid);
        row.show(1, self.uidvalidity);
        row.show(2, self.last_common_uid);
        row.show(3, self.modseq);
        row.show(4, self.private_modseq);
        row.show_some(5, self.messages);
        row.flag(6, self.changes);
        row
    }
}

/// B: a mailbox's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxItem {
    /// Which mailbox.
    pub guid: MailboxGuid,
    /// UIDVALIDITY.
    pub uidvalidity: u32,
    /// UIDNEXT.
    pub uid_next: u32,
    /// How many mails.
    pub messages: u32,
    /// First \Recent UID.
    pub first_recent: u32,
    /// Highest modseq; 0 where none are kept.
    pub highest_modseq: u64,
    /// Highest private modseq.
    pub highest_private_modseq: u64,
    /// The slave does not have it.
    pub lost: bool,
    /// The slave wants it to be passed over.
    pub ignore: bool,
    /// Cache decisions, as they stand in the value.
    pub cache_fields: Option<Vec<u8>>,
    /// Mails have GUIDs.
    pub have_guids: bool,
    /// Mails can be saved under a given GUID.
    pub have_save_guids: bool,
    /// GUIDs are always 128 bits.
    pub have_only_guid128: bool,
}

impl MailboxItem {
    /// The answer for a mailbox that is not synced.
    #[must_use]
    pub const fn refusal(guid: MailboxGuid, ignore: bool) -> Self {
        Self {
            guid,
            uidvalidity: 0,
            uid_next: 0,
            messages: 0,
            first_recent: 0,
            highest_modseq: 0,
            highest_private_modseq: 0,
            lost: !ignore,
            ignore,
            cache_fields: Some(Vec::new()),
            have_guids: false,
            have_save_guids: false,
            have_only_guid128: false,
        }
    }

    pub(super) fn read(mut row: Row<'_>) -> Result<Self, Error> {
        Ok(Self {
            guid: row.required_guid(0)?,
            uidvalidity: row.required(1)?,
            uid_next: row.required(2)?,
            messages: row.required(3)?,
            first_recent: row.required(4)?,
            highest_modseq: row.required(5)?,
            highest_private_modseq: row.required(6)?,
            lost: row.flag(7),
            ignore: row.flag(8),
            cache_fields: row.take(9),
            have_guids: row.flag(10),
            have_save_guids: row.flag(11),
            have_only_guid128: row.flag(12),
        })
    }

    pub(super) fn row(&self) -> Out<'_> {
        let mut row = Out::new(Kind::Mailbox);
        row.show(0, self.guid);
        row.show(1, self.uidvalidity);
        row.show(2, self.uid_next);
        row.show(3, self.messages);
        row.show(4, self.first_recent);
        row.show(5, self.highest_modseq);
        row.show(6, self.highest_private_modseq);
        row.flag(7, self.lost);
        row.flag(8, self.ignore);
        row.some(9, self.cache_fields.as_deref());
        row.flag(10, self.have_guids);
        row.flag(11, self.have_save_guids);
        row.flag(12, self.have_only_guid128);
        row
    }
}

/// A cache decision inside a B.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheField {
    /// The field.
    pub name: Vec<u8>,
    /// `n`, `t` or `y`, and `F` behind it.
    pub decision: Vec<u8>,
    /// When it was last used.
    pub last_used: Option<i64>,
}

impl CacheField {
    /// The rows of a `cache_fields` value.
    ///
    /// # Errors
    /// A row that lacks something.
    pub fn list(value: &[u8], headers: &Headers) -> Result<Vec<Self>, Error> {
        if value.is_empty() {
            return Ok(Vec::new());
        }
        let rows = value.split(|b| *b == b'\n').map(|line| {
            let row = Row::parse(Kind::CacheField, line, headers)?;
            Ok(Self {
                name: row.bytes(0).unwrap_or_default().to_vec(),
                decision: row.bytes(1).unwrap_or_default().to_vec(),
                last_used: row.time(2)?,
            })
        });
        rows.collect()
    }

    /// The value of these rows.
    #[must_use]
    pub fn value(list: &[Self], headers: &Headers) -> Vec<u8> {
        let mut out = Vec::new();
        for (n, field) in list.iter().enumerate() {
            if n > 0 {
                out.push(b'\n');
            }
            let mut row = Out::new(Kind::CacheField);
            row.bytes(0, &field.name[..]);
            row.bytes(1, &field.decision[..]);
            row.show_some(2, field.last_used);
            row.write(&mut out, headers, true);
        }
        out
    }
}

/// A: an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeItem {
    /// Private to the user; else shared.
    pub private: bool,
    /// Without `/private/` or `/shared/`.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its value follows as a stream.
    pub stream: bool,
    /// It was removed.
    pub deleted: bool,
    /// When it was changed.
    pub last_change: Option<i64>,
    /// The modseq of the change.
    pub modseq: Option<u64>,
}

impl AttributeItem {
    pub(super) fn read(mut row: Row<'_>) -> Result<Self, Error> {
        let out = Self {
            private: match row.char(0)? {
                Some(b'p') => true,
                Some(b's') => false,
                _ => return Err(row.bad(0)),
            },
            stream: row.flag(3),
            deleted: row.flag(4),
            last_change: row.time(5)?,
            modseq: row.number(6)?,
            key: row.take(1).unwrap_or_default(),
            value: row.take(2),
        };
        // A Dovecot dies of an attribute with nothing in it.
        if out.value.is_none() && !out.stream && !out.deleted {
            return Err(row.bad(2));
        }
        Ok(out)
    }

    pub(super) fn row(&self) -> Out<'_> {
        let mut row = Out::new(Kind::Attribute);
        row.bytes(0, if self.private { &b"p"[..] } else { &b"s"[..] });
        row.bytes(1, &self.key[..]);
        row.some(2, self.value.as_deref());
        row.flag(3, self.stream);
        row.flag(4, self.deleted);
        row.show_some(5, self.last_change);
        row.show_some(6, self.modseq);
        row
    }
}
