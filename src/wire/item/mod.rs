//! The items as plain values (wire.md 3.2). Texts are octets: the protocol does not promise UTF-8.

mod handshake;
mod mail;
mod mailbox;
mod tree;

pub use self::handshake::Handshake;
pub use self::mail::{Change, ChangeType, FinishItem, MailItem, Request};
pub use self::mailbox::{AttributeItem, CacheField, MailboxItem, StateItem};
pub use self::tree::{Deletes, NodeExistence, Removed, TreeNode};
use super::Error;
use super::columns::{Headers, Kind};
use super::row::{Out, Row};

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
