//! The items as plain values (wire.md 3.2). Texts are octets: the protocol does not promise UTF-8.

use super::columns::{Headers, Kind};
use super::row::{Out, Row, decimal, guid};
use super::{Error, text};
use crate::mail::MailboxGuid;

/// One line of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// H
    Handshake(Box<Handshake>),
    /// S
    State(StateItem),
    /// N
    Node(Box<TreeNode>),
    /// D
    Deletes(Box<Deletes>),
    /// B
    Mailbox(Box<MailboxItem>),
    /// A
    Attribute(Box<AttributeItem>),
    /// C
    Change(Change),
    /// R
    Request(Request),
    /// M
    Mail(MailItem),
    /// F
    Finish(FinishItem),
    /// The end of a list.
    End,
    /// X: the sender closes on purpose.
    Close,
}

impl Item {
    /// Its name in messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Handshake(_) => Kind::Handshake.name(),
            Self::State(_) => Kind::State.name(),
            Self::Node(_) => Kind::Node.name(),
            Self::Deletes(_) => Kind::Deletes.name(),
            Self::Mailbox(_) => Kind::Mailbox.name(),
            Self::Attribute(_) => Kind::Attribute.name(),
            Self::Change(_) => Kind::Change.name(),
            Self::Request(_) => Kind::Request.name(),
            Self::Mail(_) => Kind::Mail.name(),
            Self::Finish(_) => Kind::Finish.name(),
            Self::End => "end-of-list",
            Self::Close => "done",
        }
    }

    /// Its first octet.
    #[must_use]
    pub const fn letter(&self) -> char {
        match self {
            Self::Handshake(_) => 'H',
            Self::State(_) => 'S',
            Self::Node(_) => 'N',
            Self::Deletes(_) => 'D',
            Self::Mailbox(_) => 'B',
            Self::Attribute(_) => 'A',
            Self::Change(_) => 'C',
            Self::Request(_) => 'R',
            Self::Mail(_) => 'M',
            Self::Finish(_) => 'F',
            Self::End => '.',
            Self::Close => 'X',
        }
    }

    /// A stream follows.
    #[must_use]
    pub fn has_stream(&self) -> bool {
        match self {
            Self::Attribute(a) => a.stream,
            Self::Mail(m) => m.stream,
            _ => false,
        }
    }

    /// Reads a line without its line end.
    pub(super) fn parse(line: &[u8], headers: &Headers) -> Result<Self, Error> {
        let Some((&letter, rest)) = line.split_first() else { return Err(Error::Empty) };
        if line == b"." {
            return Ok(Self::End);
        }
        if letter == b'X' {
            return Ok(Self::Close);
        }
        let unknown = Error::Unexpected { got: char::from(letter), wanted: "an item" };
        let kind = Kind::of(letter).filter(|k| *k != Kind::CacheField).ok_or(unknown)?;
        let row = Row::parse(kind, rest, headers)?;
        Ok(match kind {
            Kind::Handshake => Self::Handshake(Box::new(Handshake::read(row)?)),
            Kind::State => Self::State(StateItem::read(&row)?),
            Kind::Node => Self::Node(Box::new(TreeNode::read(&row)?)),
            Kind::Deletes => Self::Deletes(Box::new(Deletes::read(&row)?)),
            Kind::Mailbox => Self::Mailbox(Box::new(MailboxItem::read(row)?)),
            Kind::Attribute => Self::Attribute(Box::new(AttributeItem::read(row)?)),
            Kind::Change => Self::Change(Change::read(row)?),
            Kind::Request => Self::Request(Request { guid: row.bytes(0).map(<[u8]>::to_vec), uid: row.number(1)? }),
            Kind::Mail => Self::Mail(MailItem::read(row)?),
            Kind::Finish => Self::Finish(FinishItem { error: row.text(0), mail_error: row.number(1)?, full_resync: row.flag(2) }),
            // Filtered out above.
            Kind::CacheField => return Err(Error::Empty),
        })
    }

    /// Writes the line, line end included; without the stream that may follow.
    pub fn write(&self, out: &mut Vec<u8>, headers: &Headers) {
        let row = match self {
            Self::Handshake(h) => h.row(),
            Self::State(s) => s.row(),
            Self::Node(n) => n.row(),
            Self::Deletes(d) => d.row(),
            Self::Mailbox(b) => b.row(),
            Self::Attribute(a) => a.row(),
            Self::Change(c) => c.row(),
            Self::Request(r) => {
                let mut row = Out::new(Kind::Request);
                row.some(0, r.guid.as_deref());
                row.show_some(1, r.uid);
                row
            }
            Self::Mail(m) => m.row(),
            Self::Finish(f) => {
                let mut row = Out::new(Kind::Finish);
                row.some(0, f.error.as_ref().map(String::as_bytes));
                row.show_some(1, f.mail_error);
                row.flag(2, f.full_resync);
                row
            }
            Self::End => return out.extend_from_slice(b".\n"),
            Self::Close => return out.extend_from_slice(b"X\n"),
        };
        row.write(out, headers, false);
    }
}

/// H: what the sender is and what it wants. Directions are those of the receiver (wire.md 9, trap 14).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The sender's full host name.
    pub hostname: Vec<u8>,
    /// Prefixes of the namespaces (`-n`), joined by LF.
    pub namespaces: Option<Vec<u8>>,
    /// `-m`
    pub mailbox: Option<Vec<u8>>,
    /// `-g`
    pub mailbox_guid: Option<MailboxGuid>,
    /// `f`, `c` or `s`; a slave has none.
    pub sync_type: Option<u8>,
    /// `-D`
    pub debug: bool,
    /// `-N`
    pub visible_namespaces: bool,
    /// `-x`, all of them.
    pub exclude: Option<Vec<Vec<u8>>>,
    /// Mails are sent when they are asked for.
    pub send_mail_requests: bool,
    /// The receiver is the source.
    pub backup_send: bool,
    /// The receiver is the destination.
    pub backup_recv: bool,
    /// `-l`, seconds.
    pub lock_timeout: Option<u32>,
    /// `-m ''`
    pub no_mail_sync: bool,
    /// `-1`
    pub no_backup_overwrite: bool,
    /// `-P`
    pub purge: bool,
    /// Nobody sends it.
    pub no_notify: bool,
    /// `-t`
    pub since: Option<i64>,
    /// `-I`, octets.
    pub max_size: Option<u64>,
    /// `-O`
    pub flags: Option<Vec<u8>>,
    /// `-e`
    pub until: Option<i64>,
    /// `-a`
    pub virtual_all: Option<Vec<u8>>,
    /// `dsync_features = empty-header-workaround`
    pub empty_header_workaround: bool,
    /// `dsync_commit_msgs_interval`
    pub commit_interval: Option<u32>,
    /// `dsync_hashed_headers`. Dovecot ends it with an empty name, which means nothing.
    pub hashed_headers: Option<Vec<Vec<u8>>>,
    /// `dsync_alt_char`
    pub alt_char: Option<Option<u8>>,
    /// The sender is of our own kind and speaks this version of what we speak among ourselves.
    pub own_kind: Option<u32>,
}

impl Handshake {
    fn read(mut row: Row<'_>) -> Result<Self, Error> {
        let positive = |column: usize| match row.number::<u64>(column)? {
            Some(0) => Err(row.bad(column)),
            other => Ok(other),
        };
        let positive32 = |column: usize| match row.number::<u32>(column)? {
            Some(0) => Err(row.bad(column)),
            other => Ok(other),
        };
        let positive_time = |column: usize| match row.time(column)? {
            Some(t) if t <= 0 => Err(row.bad(column)),
            other => Ok(other),
        };
        let list = |column: usize| match row.bytes(column) {
            None => Ok(None),
            Some(text) => text::split_short_list(text, MAX_WORDS).map(Some).ok_or_else(|| row.bad(column)),
        };
        let sync_type = row.char(4)?;
        if sync_type.is_some_and(|t| !matches!(t, b'f' | b'c' | b's')) {
            return Err(row.bad(4));
        }
        Ok(Self {
            mailbox_guid: row.guid(3)?,
            sync_type,
            debug: row.flag(5),
            visible_namespaces: row.flag(6),
            exclude: list(7)?,
            send_mail_requests: row.flag(8),
            backup_send: row.flag(9),
            backup_recv: row.flag(10),
            lock_timeout: positive32(11)?,
            no_mail_sync: row.flag(12),
            no_backup_overwrite: row.flag(13),
            purge: row.flag(14),
            no_notify: row.flag(15),
            since: positive_time(16)?,
            max_size: positive(17)?,
            until: positive_time(19)?,
            empty_header_workaround: row.flag(21),
            commit_interval: positive32(22)?,
            hashed_headers: list(23)?,
            alt_char: match row.bytes(24) {
                None => None,
                Some(_) => Some(row.char(24)?),
            },
            // Whatever cannot be understood there is not our own kind.
            own_kind: row.number(25).unwrap_or_default(),
            hostname: row.take(0).unwrap_or_default(),
            namespaces: row.take(1),
            mailbox: row.take(2),
            flags: row.take(18),
            virtual_all: row.take(20),
        })
    }

    fn row(&self) -> Out<'_> {
        let mut row = Out::new(Kind::Handshake);
        row.bytes(0, &self.hostname[..]);
        row.some(1, self.namespaces.as_deref());
        row.some(2, self.mailbox.as_deref());
        row.show_some(3, self.mailbox_guid);
        row.show_some(4, self.sync_type.map(char::from));
        row.flag(5, self.debug);
        row.flag(6, self.visible_namespaces);
        if let Some(list) = &self.exclude {
            row.bytes(7, text::join_list(list));
        }
        row.flag(8, self.send_mail_requests);
        row.flag(9, self.backup_send);
        row.flag(10, self.backup_recv);
        row.show_some(11, self.lock_timeout);
        row.flag(12, self.no_mail_sync);
        row.flag(13, self.no_backup_overwrite);
        row.flag(14, self.purge);
        row.flag(15, self.no_notify);
        row.show_some(16, self.since);
        row.show_some(17, self.max_size);
        row.some(18, self.flags.as_deref());
        row.show_some(19, self.until);
        row.some(20, self.virtual_all.as_deref());
        row.flag(21, self.empty_header_workaround);
        row.show_some(22, self.commit_interval);
        if let Some(list) = &self.hashed_headers {
            row.bytes(23, text::join_list(list));
        }
        if let Some(alt) = self.alt_char {
            row.bytes(24, alt.map(|c| vec![c]).unwrap_or_default());
        }
        row.show_some(25, self.own_kind);
        row
    }
}

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
    fn read(row: &Row<'_>) -> Result<Self, Error> {
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

    fn row(&self) -> Out<'_> {
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

/// More mailboxes or headers than anybody names in the handshake.
const MAX_WORDS: usize = 10_000;
/// Deeper names than any store holds.
const MAX_LEVELS: usize = 1000;

impl TreeNode {
    fn read(row: &Row<'_>) -> Result<Self, Error> {
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

    fn row(&self) -> Out<'_> {
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
    fn read(row: &Row<'_>) -> Result<Self, Error> {
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

    fn row(&self) -> Out<'_> {
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

    fn read(mut row: Row<'_>) -> Result<Self, Error> {
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

    fn row(&self) -> Out<'_> {
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
    fn read(mut row: Row<'_>) -> Result<Self, Error> {
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

    fn row(&self) -> Out<'_> {
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

    fn read(mut row: Row<'_>) -> Result<Self, Error> {
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

    fn row(&self) -> Out<'_> {
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
    fn read(mut row: Row<'_>) -> Result<Self, Error> {
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

    fn row(&self) -> Out<'_> {
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
