//! How much memory the other side may fill before anything is done with what it says. Its lists have no length that is told
//! beforehand, so one without an end looks like a long one.
//!
//! What is collected is weighed by the memory that it takes. There is room for the trees of tens of thousands of mailboxes, and
//! for as many mails as the other side has said to have.

use crate::wire::MailboxItem;

/// For all that is not announced: 100,000 mailbox names, or as many mails.
pub const BASE: usize = 16 << 20;
/// For each mail that is announced; most take a fifth of it, those with many keywords more.
const PER_MAIL: u64 = 1024;
/// For each UID below UIDNEXT that is no mail: the log may know that it was expunged.
const PER_GONE: u64 = 256;
/// Whatever is announced: some millions of mails.
const CEILING: u64 = 4 << 30;

/// The account of one session.
#[derive(Debug, Default)]
pub struct Budget {
    announced: u64,
    used: usize,
    /// What is kept to the end.
    kept: usize,
}

/// There is no room for what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch;

impl Budget {
    /// What was collected until now is kept to the end.
    pub fn keep(&mut self) {
        self.kept = self.used;
    }

    /// The lists of this mailbox follow, and what was collected for another one is gone.
    pub fn begin(&mut self, mailbox: &MailboxItem) {
        self.used = self.kept;
        self.announced = 0;
        self.announce(mailbox.messages);
        let gone = mailbox.uid_next.saturating_sub(1).saturating_sub(mailbox.messages);
        self.announced += u64::from(gone) * PER_GONE;
    }

    /// So many more mails are to be told of.
    pub fn announce(&mut self, mails: u32) {
        self.announced = self.announced.saturating_add(u64::from(mails) * PER_MAIL);
    }

    /// So much has been collected.
    pub fn take(&mut self, weight: usize) -> Result<(), TooMuch> {
        let used = self.used.saturating_add(weight);
        if used > self.most() {
            return Err(TooMuch);
        }
        self.used = used;
        Ok(())
    }

    /// So much is not kept any more.
    pub fn give_back(&mut self, weight: usize) {
        self.used = self.used.saturating_sub(weight);
    }

    /// What may still come.
    pub fn left(&self) -> usize {
        self.most() - self.used.min(self.most())
    }

    fn most(&self) -> usize {
        BASE.saturating_add(usize::try_from(self.announced.min(CEILING)).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_may_come() {
        let mut budget = Budget::default();
        assert_eq!(budget.take(BASE), Ok(()));
        assert_eq!(budget.take(1), Err(TooMuch));
        budget.give_back(1);
        assert_eq!((budget.take(1), budget.left()), (Ok(()), 0));
        let guid = "00112233445566778899aabbccddeeff".parse().expect("hex");
        let mailbox = MailboxItem { messages: 1000, uid_next: 1501, ..MailboxItem::refusal(guid, false) };
        budget.begin(&mailbox);
        assert_eq!(budget.left(), BASE + 1000 * 1024 + 500 * 256);
        assert_eq!(budget.take(700), Ok(()));
        budget.keep();
        assert_eq!(budget.take(7000), Ok(()));
        budget.begin(&MailboxItem { messages: u32::MAX, uid_next: 0, ..mailbox });
        assert_eq!(budget.left(), BASE + (4 << 30) - 700);
    }
}
