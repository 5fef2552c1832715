//! What the two brains say to each other, as plain values, and the way between them.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::mpsc;

use super::last_copy::{Farewell, Text};
use super::merge::{Facts, NewGuids};
use crate::mail::{
    self, Attribute, AttributeChange, Body, Capabilities, Class, Guid128, MailGuid, MailboxGuid, Status, Tree, Uid,
};

/// One thing said.
#[derive(Debug)]
pub enum Message {
    /// All mailboxes of the sender.
    Tree(Result<Arc<Tree>, Failure>),
    /// The sender's tree is as planned; or it is not, and the run ends.
    TreeDone(Result<(), Failure>),
    /// The sender, whose turn it was, has locked the next mailbox or given it up: now the other side may lock its own.
    Locked,
    /// The sender's side of the next mailbox; or it cannot be used.
    Offer(Result<Box<Offer>, Failure>),
    /// Attributes of the mailbox.
    Attributes(Box<Attributes>),
    /// What the sender knows of the mailbox's mails.
    Facts(Arc<Facts>),
    /// The full GUIDs of the sender's mails that are not common, and mails of the other side whose texts the sender has elsewhere:
    /// they need not travel.
    Guids(NewGuids, Vec<Guid128>),
    /// The UIDs of the sender's mails in the next mailbox.
    Uids(Vec<(Uid, Uid)>),
    /// The sender's mails in the next mailbox that the other side does not have any more.
    Going(Vec<Farewell>),
    /// What the texts of those are that may be copies of each other.
    Texts(Vec<Option<Text>>),
    /// Of which of them the sender has another copy.
    Elsewhere(Vec<bool>),
    /// A mail, in the order in which the receiver needs them.
    Mail(Box<MailText>),
    /// The next mail, whose text the receiver has said to have.
    Known(Box<KnownMail>),
    /// The next mail cannot be had.
    Gone,
    /// The receiver has room for this many more mails.
    Credit(u32),
    /// The sender has done its part of this round; or it gave the mailbox up.
    Done(Result<RoundEnd, Failure>),
    /// The sender has done its part of the run.
    Finish(Finish),
}

/// Why something could not be done, as far as the other side needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Class of the error.
    pub class: Class,
    /// Its text.
    pub text: String,
}

impl From<&mail::Error> for Failure {
    fn from(e: &mail::Error) -> Self {
        Self { class: e.class(), text: e.to_string() }
    }
}

/// One side of a mailbox at the beginning of a round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offer {
    /// Which mailbox.
    pub guid: MailboxGuid,
    /// Its counters.
    pub status: Status,
    /// What the storage can keep.
    pub capabilities: Capabilities,
    /// Digest over UIDs, GUIDs, flags and keywords of all mails; zeros where a saved state says enough.
    pub digest: [u8; 20],
    /// Some mails cannot be read: the digest proves nothing.
    pub doubtful: bool,
    /// Digest over all attributes; none where the store keeps none.
    pub attributes: Option<[u8; 20]>,
}

/// Attributes of a mailbox.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// All there are now.
    pub present: Vec<Attribute>,
    /// What the log says of them.
    pub changes: Vec<AttributeChange>,
}

/// A mail on its way.
#[derive(Debug)]
pub struct MailText {
    /// Its UID at the sender.
    pub uid: Uid,
    /// Its GUID.
    pub guid: MailGuid,
    /// Dates and POP3 values.
    pub facts: mail::Facts,
    /// Its text.
    pub body: Body,
}

/// A mail without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMail {
    /// Its UID at the sender.
    pub uid: Uid,
    /// Its GUID.
    pub guid: MailGuid,
    /// Dates and POP3 values.
    pub facts: mail::Facts,
}

/// How a side left a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundEnd {
    /// Its counters now.
    pub status: Status,
    /// Digest over UIDs, flags and keywords of all mails now; over GUIDs, too, where the facts were partial.
    pub digest: [u8; 20],
    /// Something was changed in this round.
    pub acted: bool,
    /// Something did not come out as decided: others were at work.
    pub surprised: bool,
}

/// How a side ends the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// The worst class of its errors.
    pub failed: Option<Class>,
    /// Something is left to do.
    pub incomplete: bool,
}

/// The other side is not there any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It ended without a word.
    #[error("the other side ended unexpectedly")]
    Closed,
    /// The way to it is broken, or what it says cannot be understood.
    #[error("{0}")]
    Failed(String),
    /// It said something that makes no sense now.
    #[error("the other side sent {got} when {wanted} was expected")]
    Unexpected {
        /// What came.
        got: &'static str,
        /// What should have come.
        wanted: &'static str,
    },
}

/// A way to the other brain. Messages arrive whole and in order.
pub trait Link {
    /// Says something. Does not wait for the other side to read it.
    ///
    /// # Errors
    /// The other side is gone.
    fn send(&mut self, message: Message) -> Result<(), LinkError>;

    /// Waits for what the other side says.
    ///
    /// # Errors
    /// The other side is gone.
    fn recv(&mut self) -> Result<Message, LinkError>;

    /// Nothing of what was received last is kept any more. A link that weighs what comes takes notice.
    fn forget(&mut self) {}

    /// The other brain is in this process: it gets what is said as it is, at no cost.
    fn is_near(&self) -> bool {
        false
    }

    /// How many mails may be on their way at once. In one process each is an open file.
    fn window(&self) -> u32 {
        64
    }
}

/// The way between two brains of one process.
pub struct Channel {
    to: mpsc::Sender<Message>,
    from: mpsc::Receiver<Message>,
}

impl Channel {
    /// Both ends of a way.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let ((to_b, from_a), (to_a, from_b)) = (mpsc::channel(), mpsc::channel());
        (Self { to: to_b, from: from_b }, Self { to: to_a, from: from_a })
    }
}

impl Link for Channel {
    fn send(&mut self, message: Message) -> Result<(), LinkError> {
        // A side that has ended has said why, and that is still to be read: `recv` tells.
        let _ = self.to.send(message);
        Ok(())
    }

    fn is_near(&self) -> bool {
        true
    }

    fn recv(&mut self) -> Result<Message, LinkError> {
        self.from.recv().map_err(|_| LinkError::Closed)
    }
}

impl Message {
    /// What it is, for messages about messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tree(_) => "a mailbox tree",
            Self::TreeDone(_) => "the end of the tree sync",
            Self::Locked => "a lock",
            Self::Offer(_) => "a mailbox",
            Self::Attributes(_) => "attributes",
            Self::Facts(_) => "a mailbox's mails",
            Self::Guids(..) => "GUIDs",
            Self::Uids(_) => "UIDs",
            Self::Going(_) => "mails that go",
            Self::Texts(_) => "texts",
            Self::Elsewhere(_) => "copies",
            Self::Mail(_) | Self::Known(_) => "a mail",
            Self::Gone => "a missing mail",
            Self::Credit(_) => "credit",
            Self::Done(_) => "the end of a mailbox",
            Self::Finish(_) => "the end of the run",
        }
    }
}
