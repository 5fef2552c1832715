//! H, the handshake (wire.md 3.2, 4).

use crate::mail::MailboxGuid;
use crate::wire::columns::Kind;
use crate::wire::row::{Out, Row};
use crate::wire::{Error, text};

/// More mailboxes or headers than anybody names in the handshake.
const MAX_WORDS: usize = 10_000;

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
    pub(super) fn read(mut row: Row<'_>) -> Result<Self, Error> {
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

    pub(super) fn row(&self) -> Out<'_> {
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
