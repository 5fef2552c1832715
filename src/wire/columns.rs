//! The kinds of items and their columns (wire.md 3), and the header blocks in which a side announces the order of its own.

use super::Error;

/// Kinds of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// H
    Handshake,
    /// S
    State,
    /// N
    Node,
    /// D
    Deletes,
    /// B
    Mailbox,
    /// A
    Attribute,
    /// C
    Change,
    /// R
    Request,
    /// M
    Mail,
    /// F
    Finish,
    /// c, only inside a B
    CacheField,
}

/// All kinds, in the order of header blocks.
pub const KINDS: [Kind; 11] = [
    Kind::Handshake,
    Kind::State,
    Kind::Node,
    Kind::Deletes,
    Kind::Mailbox,
    Kind::Attribute,
    Kind::Change,
    Kind::Request,
    Kind::Mail,
    Kind::Finish,
    Kind::CacheField,
];

/// The column of the handshake by which we know our own kind: the version of what we then speak. Dovecot skips columns that
/// it does not know (wire.md 2.4).
pub const OWN_KIND: &str = "x_dsync_native";

impl Kind {
    /// Its letter.
    #[must_use]
    pub const fn letter(self) -> u8 {
        match self {
            Self::Handshake => b'H',
            Self::State => b'S',
            Self::Node => b'N',
            Self::Deletes => b'D',
            Self::Mailbox => b'B',
            Self::Attribute => b'A',
            Self::Change => b'C',
            Self::Request => b'R',
            Self::Mail => b'M',
            Self::Finish => b'F',
            Self::CacheField => b'c',
        }
    }

    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::State => "mailbox_state",
            Self::Node => "mailbox_tree_node",
            Self::Deletes => "mailbox_delete",
            Self::Mailbox => "mailbox",
            Self::Attribute => "mailbox_attribute",
            Self::Change => "mail_change",
            Self::Request => "mail_request",
            Self::Mail => "mail",
            Self::Finish => "finish",
            Self::CacheField => "mailbox_cache_field",
        }
    }

    /// The kind with this letter.
    #[must_use]
    pub fn of(letter: u8) -> Option<Self> {
        KINDS.into_iter().find(|k| k.letter() == letter)
    }

    /// The protocol's minor version that brought it.
    pub(super) const fn min_minor(self) -> u32 {
        match self {
            Self::Attribute => 1,
            Self::Finish => 3,
            _ => 0,
        }
    }

    /// Its columns in the order of Dovecot 2.3.19.1, ours last; the first so many are required.
    pub(super) const fn columns(self) -> (&'static [&'static str], usize) {
        match self {
            Self::Handshake => (
                &[
                    "hostname",
                    "sync_ns_prefix",
                    "sync_box",
                    "sync_box_guid",
                    "sync_type",
                    "debug",
                    "sync_visible_namespaces",
                    "exclude_mailboxes",
                    "send_mail_requests",
                    "backup_send",
                    "backup_recv",
                    "lock_timeout",
                    "no_mail_sync",
                    "no_backup_overwrite",
                    "purge_remote",
                    "no_notify",
                    "sync_since_timestamp",
                    "sync_max_size",
                    "sync_flags",
                    "sync_until_timestamp",
                    "virtual_all_box",
                    "empty_hdr_workaround",
                    "import_commit_msgs_interval",
                    "hashed_headers",
                    "alt_char",
                    OWN_KIND,
                ],
                1,
            ),
            Self::State => (
                &[
                    "mailbox_guid",
                    "last_uidvalidity",
                    "last_common_uid",
                    "last_common_modseq",
                    "last_common_pvt_modseq",
                    "last_messages_count",
                    "changes_during_sync",
                ],
                5,
            ),
            Self::Node => (
                &[
                    "name",
                    "existence",
                    "mailbox_guid",
                    "uid_validity",
                    "uid_next",
                    "last_renamed_or_created",
                    "subscribed",
                    "last_subscription_change",
                ],
                2,
            ),
            Self::Deletes => (&["hierarchy_sep", "escape_char", "mailboxes", "dirs", "unsubscribes"], 1),
            Self::Mailbox => (
                &[
                    "mailbox_guid",
                    "uid_validity",
                    "uid_next",
                    "messages_count",
                    "first_recent_uid",
                    "highest_modseq",
                    "highest_pvt_modseq",
                    "mailbox_lost",
                    "mailbox_ignore",
                    "cache_fields",
                    "have_guids",
                    "have_save_guids",
                    "have_only_guid128",
                ],
                7,
            ),
            Self::Attribute => (&["type", "key", "value", "stream", "deleted", "last_change", "modseq"], 2),
            Self::Change => (
                &[
                    "type",
                    "uid",
                    "guid",
                    "hdr_hash",
                    "modseq",
                    "pvt_modseq",
                    "add_flags",
                    "remove_flags",
                    "final_flags",
                    "keywords_reset",
                    "keyword_changes",
                    "received_timestamp",
                    "virtual_size",
                ],
                2,
            ),
            Self::Request => (&["guid", "uid"], 0),
            Self::Mail => (&["guid", "uid", "pop3_uidl", "pop3_order", "received_date", "saved_date", "stream"], 0),
            Self::Finish => (&["error", "mail_error", "require_full_resync"], 0),
            Self::CacheField => (&["name", "decision", "last_used"], 2),
        }
    }
}

/// More columns than any side has.
const MAX_COLUMNS: usize = 128;
/// More header lines than any side has.
const MAX_LINES: usize = 64;

/// The columns that one side has announced for its own items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Per kind the names as announced; `None` before they are.
    announced: [Option<Vec<String>>; KINDS.len()],
    /// Per kind and announced position our own index of the column.
    known: [Vec<Option<usize>>; KINDS.len()],
    /// Minor version.
    minor: u32,
    lines: usize,
}

impl Headers {
    /// What we announce. The order is Dovecot's but for two kinds; any will do (wire.md 2.4).
    #[must_use]
    pub fn ours() -> Self {
        let mut out = Self::none(super::MINOR);
        for kind in KINDS {
            let (names, _) = kind.columns();
            let mut order: Vec<usize> = (0..names.len()).collect();
            if matches!(kind, Kind::Mailbox | Kind::Change) {
                // A number first: it can be begun before it is known what it belongs to (`ahead`).
                order.swap(0, 1);
            }
            out.announced[kind as usize] = Some(order.iter().map(|&n| names[n].to_owned()).collect());
            out.known[kind as usize] = order.into_iter().map(Some).collect();
        }
        out
    }

    pub(super) fn none(minor: u32) -> Self {
        Self { announced: Default::default(), known: Default::default(), minor, lines: 0 }
    }

    /// The minor version that came with them.
    #[must_use]
    pub const fn minor(&self) -> u32 {
        self.minor
    }

    /// The side knows this column of a kind.
    #[must_use]
    pub fn has(&self, kind: Kind, column: &str) -> bool {
        self.announced[kind as usize].as_ref().is_some_and(|c| c.iter().any(|n| n == column))
    }

    /// The columns of a kind in the side's order, as indexes of our own order.
    pub(super) fn order(&self, kind: Kind) -> &[Option<usize>] {
        &self.known[kind as usize]
    }

    /// Reads a header line.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), Error> {
        self.lines += 1;
        if self.lines > MAX_LINES {
            return Err(Error::TooMuch("header lines"));
        }
        let Some((&letter, rest)) = line.split_first() else { return Err(Error::Empty) };
        let Some(kind) = Kind::of(letter) else { return Ok(()) };
        let (columns, required) = kind.columns();
        let mut names = Vec::new();
        for text in rest.split(|b| *b == b'\t').filter(|t| !t.is_empty()) {
            if names.len() == MAX_COLUMNS {
                return Err(Error::TooMuch("columns"));
            }
            names.push(String::from_utf8_lossy(&super::text::unescape(text)).into_owned());
        }
        if let Some(missing) = columns[..required].iter().find(|c| !names.iter().any(|n| n == *c)) {
            return Err(Error::MissingColumn { kind: kind.name(), column: missing });
        }
        self.known[kind as usize] = names.iter().map(|n| columns.iter().position(|c| c == n)).collect();
        self.announced[kind as usize] = Some(names);
        Ok(())
    }

    /// The block is at its end.
    pub(super) fn end(&self) -> Result<(), Error> {
        let missing = |k: &Kind| self.announced[*k as usize].is_none() && k.min_minor() <= self.minor;
        match KINDS.into_iter().find(missing) {
            Some(kind) => Err(Error::MissingHeader(kind.name())),
            None => Ok(()),
        }
    }

    /// The VERSION line and the block, as they go over the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("VERSION\tdsync\t{}\t{}\n", super::MAJOR, self.minor).into_bytes();
        for kind in KINDS {
            if let Some(names) = &self.announced[kind as usize] {
                out.push(kind.letter());
                out.extend(super::text::join_list(names));
                out.push(b'\n');
            }
        }
        out.extend(b".\n");
        out
    }
}
