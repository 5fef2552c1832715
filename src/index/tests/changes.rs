//! The log scan, against what Dovecot's IMAP says of the same mailboxes (index.md 7).

use std::collections::BTreeSet;

use super::{fixture, open, scratch};
use crate::index::{Bits, Durability, Index, Scan, Transaction, plan_edits, raise};
use crate::mail::{
    Changes, Edit, EditKind, Flags, Floors, Guid128, Identity, Keyword, Keywords, LogChange, MailboxGuid, ModSeq, Since, Uid,
    UidValidity,
};

fn changes(index: &Index, since: Since) -> Changes {
    let s = index.state();
    let identity = Identity {
        guid: MailboxGuid::new([1; 16]).expect("not 0"),
        uidvalidity: UidValidity::new(1).expect("not 0"),
        uid_next: s.next_uid(),
    };
    let (mails, status) = (s.mails(), s.status(identity));
    index.changes(&Scan { since, end: s.position(), mails: &mails, status: &status }).expect("a fixture")
}

fn since(index: &Index, modseq: u64) -> Changes {
    let uid = Uid::new(index.state().next_uid().get() - 1);
    changes(index, Since::State { modseq: ModSeq(modseq), uid })
}

fn uids(changes: &Changes, expunged: bool) -> BTreeSet<u32> {
    let wanted = |c: &&LogChange| matches!(c, LogChange::Expunged { .. }) == expunged;
    changes.mails.iter().filter(wanted).map(|c| c.uid().get()).collect()
}

fn uid_set(text: &str) -> BTreeSet<u32> {
    let number = |t: &str| t.parse::<u32>().expect("a number");
    text.split(',')
        .filter(|t| !t.is_empty())
        .flat_map(|t| match t.split_once(':') {
            Some((a, b)) => number(a)..=number(b),
            None => number(t)..=number(t),
        })
        .collect()
}

#[test]
fn what_imap_reports_since_a_modseq() {
    let mut checked = 0;
    for folder in ["maildir-history", "sdbox-history", "mdbox-history"] {
        let root = fixture(folder);
        let expected = super::json(&root.join("expected.json"));
        for (name, mailbox) in expected["mailboxes"].as_object().expect("a map") {
            let dir = scratch(&root.join(mailbox["index_dir"].as_str().expect("a path")));
            let index = open(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
            for (modseq, expunged) in mailbox["live_expunged_since"].as_object().into_iter().flatten() {
                let what = format!("{folder}/{name} since {modseq}");
                let ours = since(&index, modseq.parse().expect("a number"));
                assert_eq!(ours.too_old, None, "{what}");
                assert_eq!(uids(&ours, true), uid_set(expunged.as_str().expect("text")), "{what}");
                let list = mailbox["live_changed_since"][modseq].as_array().expect("a list");
                let changed: BTreeSet<u32> =
                    list.iter().map(|u| u32::try_from(u.as_u64().expect("a number")).expect("small")).collect();
                let flags = uids(&ours, false);
                assert!(flags.is_subset(&changed), "{what}: {flags:?} {changed:?}");
                // The others were saved since then.
                let number: u64 = modseq.parse().expect("a number");
                if number >= 60 {
                    assert!(changed.difference(&flags).all(|&u| u == 13), "{what}: {flags:?} {changed:?}");
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn a_log_that_does_not_reach_back_says_so() {
    let dir = scratch(&fixture("sdbox-history/sdbox/mailboxes/INBOX/dbox-Mails"));
    std::fs::remove_file(dir.path().join("dovecot.index.log.2")).expect("is there");
    let index = open(dir.path()).expect("a fixture");
    let text = since(&index, 30).too_old.expect("it was in the other log");
    assert_eq!(text, "Modseq 30 no longer in transaction log (highest=69, last_common_uid=13, nextuid=14)");
    assert_eq!(since(&index, 70).too_old.as_deref(), Some("highest_modseq 69 < 70"));
    let beyond = changes(&index, Since::State { modseq: ModSeq(69), uid: Uid::new(20) });
    assert_eq!(beyond.too_old.as_deref(), Some("uidnext 14 < 20"));
    assert!(since(&index, 69).mails.is_empty());
}

#[test]
fn what_a_sync_wrote_is_no_change_except_expunges() {
    for part in
        ["sdbox/dst-sdbox/mailboxes/INBOX/dbox-Mails", "mdbox/dst-mdbox/mailboxes/INBOX/dbox-Mails", "maildir/dst-maildir"]
    {
        let dir = scratch(&fixture("dsync-destination").join(part));
        let index = open(dir.path()).expect("a fixture");
        let all = changes(&index, Since::Everything);
        let [LogChange::Expunged { uid, guid: Some(guid) }] = &all.mails[..] else { panic!("{part}: {:?}", all.mails) };
        assert_eq!((uid.get(), guid.to_string().as_str()), (2, "4823af2156ff016b0a3f000083ecc375"), "{part}");
    }
    let dir = scratch(&fixture("dsync-destination/source/sdbox/mailboxes/INBOX/dbox-Mails"));
    let index = open(dir.path()).expect("a fixture");
    let all = changes(&index, Since::Everything);
    let Some(LogChange::Flags { added, keywords_added, .. }) = all.mails.iter().find(|c| c.uid().get() == 1) else {
        panic!("{:?}", all.mails)
    };
    assert!(added.contains(Flags::FLAGGED) && keywords_added.contains(&Keyword::new("$Later")));
}

fn edit(uid: u32, kind: EditKind) -> Edit {
    Edit { uid: Uid::new(uid).expect("not 0"), expect: None, kind }
}

fn flags(add: Flags, remove: Flags, keyword: &str, modseq: u64) -> EditKind {
    let add_keywords: Keywords = [Keyword::new(keyword)].into_iter().collect();
    EditKind::Flags { add, remove, add_keywords, remove_keywords: Keywords::NONE, modseq: ModSeq(modseq) }
}

#[test]
fn edits_that_change_nothing_write_nothing() {
    let dir = scratch(&fixture("minimal-sdbox/sdbox/mailboxes/INBOX/dbox-Mails"));
    let mut index = open(dir.path()).expect("a fixture");
    let before = std::fs::read(dir.path().join("dovecot.index.log")).expect("is there");
    // Mail 1 is \Seen, mail 2 \Answered, as the fixture has it.
    let edits = [
        edit(1, flags(Flags::SEEN, Flags::FLAGGED, "$New", 5)),
        edit(2, flags(Flags::ANSWERED, Flags::NONE, "$New", 0)),
        edit(9, EditKind::Expunge),
        Edit { expect: Some(Guid128([1; 16])), ..edit(1, EditKind::Expunge) },
    ];
    let mut locked = index.lock().expect("free");
    let other = |_: usize| Some(Guid128([2; 16]));
    let plan = plan_edits(locked.state(), &edits, Bits::INTERNAL_SYNC, other);
    assert!(plan.expunges.is_empty());
    locked.commit_all(&plan.changes, Durability::Lazy).expect("room");
    let now = std::fs::read(dir.path().join("dovecot.index.log")).expect("is there");
    assert!(now.len() > before.len());
    let again = plan_edits(locked.state(), &edits, Bits::INTERNAL_SYNC, other);
    assert!(again.is_empty(), "{again:?}");
    let s = locked.state();
    let floors = Floors { uid_next: Some(s.next_uid()), first_recent: Some(Uid::FIRST), highest_modseq: s.highest_modseq() };
    assert!(raise(s, &floors, Bits::INTERNAL).is_empty());
    let higher = Floors { uid_next: Uid::new(50), first_recent: Uid::new(90), highest_modseq: ModSeq(500) };
    let t = raise(s, &higher, Bits::INTERNAL);
    locked.commit(&t, Durability::Lazy).expect("room");
    let s = locked.state();
    assert_eq!((s.next_uid().get(), s.first_recent().get(), s.highest_modseq()), (50, 50, ModSeq(500)));
    drop(locked);
    // A later scan does not take the sync's own edits for somebody's changes.
    let changes = since(&index, 7);
    assert_eq!(uids(&changes, false), BTreeSet::new());
}

#[test]
fn attributes_are_told_with_their_modseq() {
    let dir = scratch(&fixture("minimal-sdbox/sdbox/mailboxes/INBOX/dbox-Mails"));
    let mut index = open(dir.path()).expect("a fixture");
    let mut t = Transaction::new(Bits::EXTERNAL);
    t.attribute(true, "comment", false, 77, 3);
    t.attribute(false, "vendor/x", true, 78, 0);
    index.lock().expect("free").commit(&t, Durability::Lazy).expect("room");
    let all = changes(&index, Since::Everything).attributes;
    let highest = index.state().highest_modseq();
    assert_eq!(
        all.iter().map(|a| (a.key.private, a.key.key.as_str(), a.removed, a.modseq)).collect::<Vec<_>>(),
        [(true, "comment", false, highest), (false, "vendor/x", true, highest),]
    );
}
