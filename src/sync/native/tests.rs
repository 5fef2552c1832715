//! What comes in is taken as far as it was announced.

use super::*;
use crate::mail::{
    Capabilities, Existence, Flags, Guid128, Identity, Keywords, MailGuid, MailboxGuid, MailboxName, ModSeq, NameRules, Node,
    Status, Timestamp, Tree, Uid, UidValidity,
};
use crate::os::stop::Stop;
use crate::sync::budget::BASE;
use crate::sync::merge::{Expunged, Facts, Item};
use crate::sync::message::{KnownMail, Offer};
use crate::wire::Ends;

const TOO_MUCH: &str = "the other side sent too much at once";

fn with_link<T>(act: impl FnOnce(&mut NativeLink<'_>) -> T) -> T {
    let ends = Ends { read: Box::new(io::empty()), write: Box::new(io::sink()), name: "flood".into() };
    let mut conn = Conn::new(ends, None, &Stop::new());
    act(&mut NativeLink::new(&mut conn, &std::env::temp_dir()).expect("nothing has come"))
}

fn wire(messages: &[Message]) -> Vec<u8> {
    let (mut octets, mut out) = (Vec::new(), Vec::new());
    for message in messages {
        code::write(&code::said(message), &mut octets).expect("short");
    }
    octets.chunks(blocks::BLOCK).for_each(|part| blocks::write(part, false, &mut out));
    out
}

impl NativeLink<'_> {
    fn hear(&mut self, wire: &[u8]) -> Result<(), String> {
        self.reader.feed(wire);
        self.sort().map_err(|e| e.to_string())
    }

    /// Takes this in again and again, and says how often and what was refused.
    fn flood(&mut self, wire: &[u8]) -> (usize, String) {
        let before = self.arrived.len();
        loop {
            if let Err(e) = self.hear(wire) {
                return (self.arrived.len() - before, e);
            }
            assert!((self.arrived.len() - before) * size_of::<Message>() <= 3 * BASE, "endless");
        }
    }
}

/// A mailbox of that number, with mails and UIDs below UIDNEXT that are none.
fn status(number: u32, messages: u32, gone: u32) -> Status {
    let guid = std::array::from_fn(|n| number.to_le_bytes()[n % 4] | 1);
    let guid = MailboxGuid::new(guid).expect("not zero");
    let uid_next = Uid::new(messages + gone + 1).expect("not zero");
    let identity = Identity { guid, uidvalidity: UidValidity::new(1).expect("not zero"), uid_next };
    let (highest_modseq, highest_private_modseq) = (ModSeq(1), ModSeq(0));
    Status { identity, messages, first_recent: uid_next, highest_modseq, highest_private_modseq }
}

fn offer(status: Status) -> Message {
    let capabilities = Capabilities { has_guids: true, saves_guids: true, keeps_modseqs: true };
    let guid = status.identity.guid;
    let offer = Offer { guid, status, capabilities, digest: [1; 20], doubtful: false, attributes: Some([2; 20]) };
    Message::Offer(Ok(Box::new(offer)))
}

/// All that the log of a mailbox can know: every UID was given to a mail.
fn facts(status: Status) -> Message {
    let guid = Some(Guid128([5; 16]));
    let (flags, keywords, modseq) = (Flags::SEEN, Keywords::default(), ModSeq(1 << 20));
    let item = |uid| Item { uid, guid, flags, keywords: keywords.clone(), modseq, log: None, filtered: false };
    let all = 1..status.identity.uid_next.get();
    let (present, gone): (Vec<u32>, Vec<u32>) = all.partition(|uid| *uid <= status.messages);
    Message::Facts(Arc::new(Facts {
        items: present.into_iter().filter_map(Uid::new).map(item).collect(),
        expunged: gone.into_iter().filter_map(Uid::new).map(|uid| Expunged { uid, guid }).collect(),
        ..Facts::new(status)
    }))
}

fn tree(mailboxes: u32) -> Message {
    let node = |number| Node {
        name: MailboxName::new(vec!["Customers".into(), "Berlin".into(), format!("Mailbox {number}")]).expect("not empty"),
        existence: Existence::Exists,
        identity: Some(status(number, 0, 0).identity),
        renamed: Timestamp(0),
        subscribed: true,
        subscription_changed: Timestamp(0),
        special_use: Vec::new(),
    };
    let rules = NameRules { separator: '/', alt: '_', no_directories: false, inbox_moves: false, namespaces: Vec::new() };
    let nodes = (0..mailboxes).map(node).collect();
    Message::Tree(Ok(Arc::new(Tree { nodes, deletions: Vec::new(), rules, problems: Vec::new() })))
}

/// A megabyte is left: so small ones do for giants.
fn nearly_full(link: &mut NativeLink<'_>) {
    link.budget.take(link.budget.left() - (1 << 20)).expect("there is room");
}

#[test]
fn a_giant_that_was_announced_passes() {
    for (messages, gone) in [(0, 42_000), (20_000, 20_000)] {
        let giant = status(1, messages, gone);
        let said = wire(&[facts(giant)]);
        with_link(|link| {
            nearly_full(link);
            assert_eq!(link.hear(&wire(&[tree(1), offer(giant)])), Ok(()));
            assert_eq!(link.hear(&said), Ok(()), "{messages} and {gone}");
            let (more, error) = link.flood(&said);
            assert!(error == TOO_MUCH && more < 20, "{error} after {more}");
        });
        with_link(|link| {
            nearly_full(link);
            assert_eq!(link.hear(&wire(&[tree(1), offer(status(1, 100, 100))])), Ok(()));
            assert_eq!(link.hear(&said), Err(TOO_MUCH.into()), "not announced");
        });
        with_link(|link| {
            nearly_full(link);
            assert_eq!(link.hear(&wire(&[offer(giant), facts(giant)])), Err(TOO_MUCH.into()), "no tree");
        });
    }
}

#[test]
fn mails_that_were_given_may_be_told_of() {
    for given in [0, 12_000] {
        with_link(|link| {
            nearly_full(link);
            assert_eq!(link.hear(&wire(&[tree(1), offer(status(1, 0, 0))])), Ok(()));
            for uid in (1..=given).filter_map(Uid::new) {
                let known = KnownMail { uid, guid: MailGuid::from_bytes([1; 16]), facts: crate::mail::Facts::default() };
                link.send(Message::Known(Box::new(known))).expect("nobody reads");
            }
            assert_eq!(link.hear(&wire(&[facts(status(1, 12_000, 0))])).is_ok(), given > 0);
        });
    }
}

#[test]
fn many_mailboxes_pass_and_offers_without_end_do_not() {
    with_link(|link| {
        assert_eq!(link.hear(&wire(&[tree(60_000)])), Ok(()));
        let all: Vec<Message> = (0..60_000).map(|n| offer(status(n, 0, 0))).collect();
        assert_eq!(link.hear(&wire(&all)), Ok(()), "offered before one was compared");
        let all: Vec<Message> = (0..60_000).map(|_| Message::Uids(Vec::new())).collect();
        while !link.arrived.is_empty() {
            link.recv().expect("has come");
            link.forget();
        }
        assert_eq!(link.hear(&wire(&all)), Ok(()));
        // Each tells of a mail.
        let (more, error) = link.flood(&wire(&[offer(status(1, 1, 0))]));
        assert!(error == TOO_MUCH && more < 100_000, "{error} after {more}");
    });
}

#[test]
fn what_is_forgotten_makes_room() {
    let said = wire(&[facts(status(1, 0, 20_000))]);
    for forgets in [false, true] {
        with_link(|link| {
            assert_eq!(link.hear(&wire(&[tree(1)])), Ok(()));
            link.recv().expect("has come");
            // The tree stays.
            link.forget();
            nearly_full(link);
            let left = link.budget.left();
            let heard = (0..10).all(|_| {
                let heard = link.hear(&said).is_ok() && link.recv().is_ok();
                if forgets {
                    link.forget();
                    link.forget();
                }
                heard
            });
            assert_eq!(heard, forgets);
            assert_eq!(link.budget.left() == left, forgets);
        });
    }
}

#[test]
fn no_message_comes_without_end() {
    let uid = Uid::FIRST;
    let known = KnownMail { uid, guid: MailGuid::generate(), facts: crate::mail::Facts::default() };
    let kinds = [
        (Message::Locked, 1000),
        (Message::Gone, 1000),
        (Message::Credit(1), 1000),
        (Message::Known(Box::new(known)), 1000),
        (Message::Uids((1..1000).filter_map(|n| Some((Uid::new(2 * n)?, Uid::new(2 * n)?))).collect()), 100),
        (Message::Guids(vec![None; 1000], Vec::new()), 100),
        (Message::Elsewhere(vec![true; 10_000]), 100),
    ];
    for (message, least) in kinds {
        let (taken, error) = with_link(|link| link.flood(&wire(std::slice::from_ref(&message))));
        assert_eq!(error, TOO_MUCH, "{message:?}");
        assert!(taken > least, "{}: {taken}", message.kind());
    }
}
