//! How much memory the other side may fill before anything is done with what it says. Its lists have no length that is told
//! beforehand, so one without an end looks like a long one.
//!
//! What is collected is weighed by the memory that it takes. There is room for the trees of tens of thousands of mailboxes, for
//! what is told of each of them, and for as many mails, present and gone, as the other side has said to have.

use crate::wire::MailboxItem;

/// For all that is not announced: 100,000 mailbox names, or as many mails.
pub const BASE: usize = 16 << 20;
/// For each mail that is announced; most take a fifth of it, those with many keywords more.
const PER_MAIL: u64 = 1024;
/// For each UID below UIDNEXT that is no mail: the log may know that it was expunged.
const PER_GONE: u64 = 256;
/// Whatever is announced: some millions of mails.
const CEILING: u64 = 4 << 30;
/// For each mailbox of the trees, beside its node: the side that has looked at its mailboxes first offers them all, and an offer
/// takes 250.
const PER_MAILBOX: usize = 256;
/// Only for so many, because a tree costs few octets: 16 MiB.
const MAILBOXES: usize = 1 << 16;
/// Our own kind tells its tree in one piece, and each level of a name takes about 50.
const OF_OWN_KIND: usize = 8 << 20;

/// The account of one session.
#[derive(Debug, Default)]
pub struct Budget {
    /// Beside [`BASE`].
    beside: usize,
    announced: u64,
    /// In the trees of both sides.
    mailboxes: usize,
    /// Of these, what may still be offered.
    offers: usize,
    used: usize,
    /// What is kept to the end.
    kept: usize,
}

/// There is no room for what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch;

impl Budget {
    /// For what our own kind says.
    pub fn of_own_kind() -> Self {
        Self { beside: OF_OWN_KIND, ..Self::default() }
    }

    /// What was collected until now is kept to the end.
    pub fn keep(&mut self) {
        self.kept = self.used;
    }

    /// The lists of this mailbox follow, and what was collected for another one is gone.
    pub fn begin(&mut self, mailbox: &MailboxItem) {
        self.used = self.kept;
        self.announced = 0;
        self.announce(mailbox.messages, mailbox.uid_next);
    }

    /// A tree has so many nodes, each of which may be offered as a mailbox.
    pub fn tree(&mut self, nodes: usize) {
        self.mailboxes = self.mailboxes.saturating_add(nodes);
        self.offers = self.offers.saturating_add(nodes);
    }

    /// The mails of one more mailbox are to be told of. Offers that no mailbox stands behind announce nothing: these, too, are a
    /// list that may have no end.
    pub fn offer(&mut self, messages: u32, uid_next: u32) {
        if let Some(offers) = self.offers.checked_sub(1) {
            self.offers = offers;
            self.announce(messages, uid_next);
        }
    }

    /// The other side was given a mail: it may tell of it when it is asked again.
    pub fn give(&mut self) {
        self.announced = self.announced.saturating_add(PER_MAIL);
    }

    fn announce(&mut self, messages: u32, uid_next: u32) {
        let gone = uid_next.saturating_sub(1).saturating_sub(messages);
        let room = u64::from(messages) * PER_MAIL + u64::from(gone) * PER_GONE;
        self.announced = self.announced.saturating_add(room);
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

    /// What may come in one piece: that there are many mailboxes makes none of them larger.
    pub fn left_for_one(&self) -> usize {
        self.left().min(self.for_mails())
    }

    fn most(&self) -> usize {
        self.for_mails().saturating_add(self.mailboxes.min(MAILBOXES) * PER_MAILBOX)
    }

    fn for_mails(&self) -> usize {
        (BASE + self.beside).saturating_add(usize::try_from(self.announced.min(CEILING)).unwrap_or(usize::MAX))
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

    #[test]
    fn only_mailboxes_of_a_tree_announce_their_mails() {
        let mut budget = Budget::default();
        budget.offer(1_000_000, 2_000_001);
        assert_eq!((budget.left(), budget.left_for_one()), (BASE, BASE), "no tree");
        budget.tree(2);
        budget.offer(1000, 1501);
        let most = BASE + 1000 * 1024 + 500 * 256;
        assert_eq!((budget.left(), budget.left_for_one()), (most + 2 * 256, most));
        // UIDNEXT behind the mails makes no sense, but no harm either.
        budget.offer(1000, 1);
        budget.offer(u32::MAX, u32::MAX);
        assert_eq!(budget.left_for_one(), most + 1000 * 1024, "two offers");
        budget.give();
        assert_eq!(budget.left_for_one(), most + 1001 * 1024);
        budget.tree(1);
        budget.offer(0, u32::MAX);
        assert_eq!(budget.left_for_one(), BASE + (4 << 30), "the ceiling");
    }

    #[test]
    fn trees_announce_little() {
        let mut budget = Budget::of_own_kind();
        budget.tree(usize::MAX);
        budget.tree(usize::MAX);
        assert_eq!((budget.left(), budget.left_for_one()), (40 << 20, 24 << 20));
        assert_eq!(budget.take(30 << 20), Ok(()));
        assert_eq!((budget.left(), budget.left_for_one()), (10 << 20, 10 << 20));
    }
}
