//! The mails of a view, asked for one by one.

use std::fmt;

use super::{Guid128, Mail, Uid};

/// The mails of a view by their positions, ascending by UID. It stays as it is while the mailbox changes.
///
/// A storage answers from its index: what nobody asks for is not read, and nothing is made for all mails.
pub trait MailList: Send + Sync + fmt::Debug {
    /// How many.
    fn len(&self) -> usize;

    /// The UID of the mail at a position.
    ///
    /// # Panics
    /// Beyond the last mail, as a slice would. So do the others that take a position.
    fn uid(&self, at: usize) -> Uid;

    /// The mail at a position.
    fn mail(&self, at: usize) -> Mail;

    /// All of them. They are made for this, and kept: for those who need each of them more than once.
    fn all(&self) -> &[Mail];

    /// The GUID of the mail at a position, if the index has it.
    fn guid(&self, at: usize) -> Option<Guid128> {
        let _ = at;
        None
    }

    /// [`MailList::guid`] tells that of all mails.
    fn has_guids(&self) -> bool {
        (0..self.len()).all(|at| self.guid(at).is_some())
    }

    /// There is no mail.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position of the first mail with this UID or a higher one.
    fn first_from(&self, uid: Uid) -> usize {
        partition_point(self.len(), |at| self.uid(at) < uid)
    }

    /// The position of a mail.
    fn position(&self, uid: Uid) -> Option<usize> {
        Some(self.first_from(uid)).filter(|&at| at < self.len() && self.uid(at) == uid)
    }
}

/// The first of so many positions for which this does not hold, where it holds for all before: that of a slice, without one.
pub fn partition_point(len: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

impl MailList for Vec<Mail> {
    fn len(&self) -> usize {
        self.len()
    }

    fn uid(&self, at: usize) -> Uid {
        self[at].uid
    }

    fn mail(&self, at: usize) -> Mail {
        self[at].clone()
    }

    fn all(&self) -> &[Mail] {
        self
    }
}
