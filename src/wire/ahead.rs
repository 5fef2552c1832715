//! What is said before there is anything to say: a peer that hears nothing for the time of its `-T` gives up, and knows no item
//! that means "still here". But any octet counts, also one of a line that is not complete yet (wire.md 4.3). So the next item is
//! begun as far as it is known, and goes on with octets that change nothing: zeros in front of a number, letters with an escape.

use std::time::Duration;

use crate::mail::MailboxGuid;

/// The longest silence while it can be broken for ever.
const OFTEN: Duration = Duration::from_secs(5);
/// The same where there are only so many octets.
const SELDOM: Duration = Duration::from_secs(30);
/// The shortest.
const LEAST: Duration = Duration::from_millis(50);

/// The beginning of what will be sent next.
#[derive(Debug, Clone)]
pub struct Ahead {
    octets: Vec<u8>,
    /// What these octets stand for in the line that will be sent.
    meaning: Vec<u8>,
    kind: Kind,
    sent: usize,
    every: Duration,
    paused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One octet at a time, to the end.
    Slow,
    /// Zeros follow, as many as are needed.
    Zeros,
    /// The octets mean nothing and can be sent again and again.
    Nothing,
}

/// How much of it was sent.
#[derive(Debug)]
pub(super) struct Begun {
    ahead: Ahead,
}

impl Ahead {
    fn new(octets: Vec<u8>, meaning: Vec<u8>, kind: Kind) -> Self {
        Self { octets, meaning, kind, sent: 0, every: OFTEN, paused: false }
    }

    /// A mailbox item: in our order of columns it begins with the UIDVALIDITY.
    #[must_use]
    pub fn mailbox() -> Self {
        Self::new(b"B".to_vec(), b"B".to_vec(), Kind::Zeros)
    }

    /// The state of this mailbox.
    #[must_use]
    pub fn state(guid: MailboxGuid) -> Self {
        let start = format!("S{guid}\t").into_bytes();
        Self::new(start.clone(), start, Kind::Zeros)
    }

    /// A change: in our order of columns it begins with the UID.
    #[must_use]
    pub fn change() -> Self {
        Self::new(b"C".to_vec(), b"C".to_vec(), Kind::Zeros)
    }

    /// The first node of a tree, which has to be that of INBOX.
    #[must_use]
    pub fn inbox() -> Self {
        // A list is escaped twice: first within its element, then as a value (wire.md 2.5).
        let octets = std::iter::once(b'N').chain(b"INBOX".iter().flat_map(|&c| [1, b'1', 1, c])).collect();
        Self::new(octets, b"NINBOX".to_vec(), Kind::Slow)
    }

    /// Octets that mean nothing to the other side wherever they stand between two others.
    #[must_use]
    pub fn nothing(octets: &[u8]) -> Self {
        Self::new(octets.to_vec(), Vec::new(), Kind::Nothing)
    }

    /// The other side's patience is not known: it is taken for ours.
    pub(super) fn within(mut self, timeout: Option<Duration>) -> Self {
        let (part, most) = if self.kind == Kind::Slow { (3, SELDOM) } else { (4, OFTEN) };
        self.every = timeout.map_or(most, |t| (t / part).min(most)).max(LEAST);
        self
    }

    /// What is to be sent after so much silence.
    pub(super) fn next_part(&mut self, silent: Duration) -> Option<Vec<u8>> {
        if silent < self.every || self.paused {
            return None;
        }
        let part = match self.kind {
            Kind::Nothing => self.octets.clone(),
            Kind::Slow => vec![*self.octets.get(self.sent)?],
            Kind::Zeros if self.sent == 0 => self.octets.clone(),
            Kind::Zeros => vec![b'0'],
        };
        self.sent += part.len();
        Some(part)
    }

    /// Nothing more. True if something was sent that has to go on.
    pub(super) fn pause(&mut self) -> bool {
        self.paused = true;
        self.has_begun()
    }

    /// Something was sent that has to go on.
    pub(super) fn has_begun(&self) -> bool {
        self.sent > 0 && self.kind != Kind::Nothing
    }

    pub(super) fn begun(self) -> Option<Begun> {
        self.has_begun().then_some(Begun { ahead: self })
    }
}

impl Begun {
    /// What is still to be sent of a line. `None` if it begins otherwise.
    pub(super) fn rest(&self, line: &[u8]) -> Option<Vec<u8>> {
        let rest = line.strip_prefix(&self.ahead.meaning[..])?;
        let missing = self.ahead.octets.get(self.ahead.sent..).unwrap_or_default();
        Some([missing, rest].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Change, ChangeType, Decoder, Event, Headers, Item, NodeExistence, StateItem, TreeNode};

    fn guid() -> MailboxGuid {
        "00112233445566778899aabbccddeeff".parse().expect("hex")
    }

    fn comes_as(ahead: &Ahead, item: &Item) {
        let mut line = Vec::new();
        item.write(&mut line, &Headers::ours());
        for parts in 0..40 {
            let mut ahead = ahead.clone();
            let mut wire = Headers::ours().encode();
            for _ in 0..parts {
                wire.extend(ahead.next_part(OFTEN).into_iter().flatten());
            }
            match ahead.begun() {
                Some(begun) => wire.extend(begun.rest(&line).expect("it begins so")),
                None => wire.extend(&line),
            }
            let mut decoder = Decoder::default();
            decoder.feed(&wire);
            assert_eq!(decoder.next_event().expect("understood"), Some(Event::Headers));
            assert_eq!(decoder.next_event().expect("understood").as_ref(), Some(&Event::Item(item.clone())), "{parts}");
        }
    }

    #[test]
    fn what_is_sent_ahead_changes_nothing() {
        let node = TreeNode {
            name: vec![b"INBOX".to_vec()],
            existence: NodeExistence::Exists,
            guid: Some(guid()),
            uidvalidity: 7,
            uid_next: 8,
            renamed: None,
            subscribed: true,
            subscription_changed: Some(9),
        };
        comes_as(&Ahead::inbox(), &Item::Node(Box::new(node)));
        let state = StateItem {
            guid: guid(),
            uidvalidity: 0,
            last_common_uid: 4,
            modseq: 5,
            private_modseq: 0,
            messages: Some(6),
            changes: true,
        };
        comes_as(&Ahead::state(guid()), &Item::State(state));
        let refusal = crate::wire::MailboxItem::refusal(guid(), false);
        let mailbox = crate::wire::MailboxItem { uidvalidity: 1_700_000_000, uid_next: 5, lost: false, ..refusal.clone() };
        comes_as(&Ahead::mailbox(), &Item::Mailbox(Box::new(refusal)));
        comes_as(&Ahead::mailbox(), &Item::Mailbox(Box::new(mailbox)));
        let mail = Change {
            kind: ChangeType::Save,
            uid: 4_000_000_000,
            guid: Some(b"1700000000.M1P2.host".to_vec()),
            hdr_hash: None,
            modseq: 7,
            private_modseq: 0,
            add_flags: 0,
            remove_flags: 0,
            final_flags: 8,
            keywords_reset: false,
            keywords: None,
            received: None,
            virtual_size: Some(u64::MAX),
        };
        comes_as(&Ahead::change(), &Item::Change(Change { uid: 1, ..mail.clone() }));
        comes_as(&Ahead::change(), &Item::Change(Change { kind: ChangeType::Expunge, guid: None, ..mail.clone() }));
        comes_as(&Ahead::change(), &Item::Change(mail));
    }

    #[test]
    fn another_item_is_none() {
        let mut ahead = Ahead::state(guid());
        assert_eq!(ahead.next_part(Duration::ZERO), None);
        assert!(ahead.next_part(OFTEN).is_some() && ahead.pause());
        assert_eq!(ahead.next_part(OFTEN), None);
        assert!(ahead.begun().expect("sent").rest(b".\n").is_none());
    }
}
