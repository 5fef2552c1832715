//! N and D: the mailbox tree and what was removed from it (wire.md 3.2).

use crate::mail::MailboxGuid;
use crate::wire::columns::Kind;
use crate::wire::row::{Out, Row, decimal, guid};
use crate::wire::{Error, text};

/// What is under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeExistence {
    /// A mailbox, or a directory when there is no GUID.
    Exists,
    /// Nothing: a parent, or a subscription only.
    Nonexistent,
    /// It was deleted. No Dovecot sends it.
    Deleted,
}

/// N: a name and what is under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeNode {
    /// The levels of the full name.
    pub name: Vec<Vec<u8>>,
    /// What is there.
    pub existence: NodeExistence,
    /// The mailbox.
    pub guid: Option<MailboxGuid>,
    /// UIDVALIDITY, 0 unknown.
    pub uidvalidity: u32,
    /// UIDNEXT, 0 unknown.
    pub uid_next: u32,
    /// When it got its name.
    pub renamed: Option<i64>,
    /// It is subscribed to.
    pub subscribed: bool,
    /// When that changed.
    pub subscription_changed: Option<i64>,
}

/// Deeper names than any store holds.
const MAX_LEVELS: usize = 1000;

impl TreeNode {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, Error> {
        let name = row.bytes(0).and_then(|text| text::split_short_list(text, MAX_LEVELS)).unwrap_or_default();
        if name.is_empty() || name.iter().any(Vec::is_empty) {
            return Err(row.bad(0));
        }
        Ok(Self {
            name,
            existence: match row.char(1)? {
                Some(b'y') => NodeExistence::Exists,
                Some(b'n') => NodeExistence::Nonexistent,
                Some(b'd') => NodeExistence::Deleted,
                _ => return Err(row.bad(1)),
            },
            guid: row.guid(2)?,
            uidvalidity: row.number(3)?.unwrap_or(0),
            uid_next: row.number(4)?.unwrap_or(0),
            renamed: row.time(5)?,
            subscribed: row.flag(6),
            subscription_changed: row.time(7)?,
        })
    }

    pub(super) fn row(&self) -> Out<'_> {
        let mut row = Out::new(Kind::Node);
        row.bytes(0, text::join_list(&self.name));
        row.bytes(
            1,
            &match self.existence {
                NodeExistence::Exists => b"y",
                NodeExistence::Nonexistent => b"n",
                NodeExistence::Deleted => b"d",
            }[..],
        );
        row.show_some(2, self.guid);
        row.show_some(3, Some(self.uidvalidity).filter(|v| *v > 0));
        row.show_some(4, Some(self.uid_next).filter(|v| *v > 0));
        row.show_some(5, self.renamed);
        row.flag(6, self.subscribed);
        row.show_some(7, self.subscription_changed);
        row
    }
}

/// Something that was removed: a mailbox's GUID or a name's hash, and when.
pub type Removed = ([u8; 16], i64);

/// D: how the sender writes names, and what was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletes {
    /// The sender's separator.
    pub separator: u8,
    /// Its escape character; outer `None` when it does not say (2.2).
    pub escape_char: Option<Option<u8>>,
    /// Mailboxes by GUID.
    pub mailboxes: Option<Vec<Removed>>,
    /// Directories by name hash.
    pub directories: Option<Vec<Removed>>,
    /// Subscriptions by name hash.
    pub unsubscribes: Option<Vec<Removed>>,
}

impl Deletes {
    pub(super) fn read(row: &Row<'_>) -> Result<Self, Error> {
        let removed = |column: usize| -> Result<Option<Vec<Removed>>, Error> {
            let Some(text) = row.bytes(column) else { return Ok(None) };
            let mut words = text.split(|b| *b == b' ').filter(|w| !w.is_empty());
            let mut out = Vec::new();
            while let Some(key) = words.next() {
                let key = guid(key).ok_or_else(|| row.bad(column))?;
                let time = words.next().and_then(decimal).and_then(|t| i64::try_from(t).ok()).ok_or_else(|| row.bad(column))?;
                out.push((*key.bytes(), time));
            }
            Ok(Some(out))
        };
        Ok(Self {
            separator: row.char(0)?.ok_or_else(|| row.bad(0))?,
            escape_char: match row.bytes(1) {
                None => None,
                Some(_) => Some(row.char(1)?),
            },
            mailboxes: removed(2)?,
            directories: removed(3)?,
            unsubscribes: removed(4)?,
        })
    }

    pub(super) fn row(&self) -> Out<'_> {
        let mut row = Out::new(Kind::Deletes);
        row.bytes(0, vec![self.separator]);
        if let Some(escape) = self.escape_char {
            row.bytes(1, escape.map(|c| vec![c]).unwrap_or_default());
        }
        for (column, list) in [(2, &self.mailboxes), (3, &self.directories), (4, &self.unsubscribes)] {
            if let Some(list) = list {
                let pairs: Vec<String> = list.iter().map(|(key, time)| format!("{} {time}", hex::encode(key))).collect();
                row.bytes(column, pairs.join(" ").into_bytes());
            }
        }
        row
    }
}
