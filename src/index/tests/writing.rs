//! What a transaction writes is what was meant, and what a reader sees.

use std::time::Duration;

use super::{fixture, open, options, scratch};
use crate::index::{Bits, Durability, ExtSpec, Files, Index, Transaction};
use crate::mail::{Flags, Guid128, Keyword, ModSeq, Uid, UidValidity};

fn uid(n: u32) -> Uid {
    Uid::new(n).expect("not 0")
}

fn new_index(dir: &std::path::Path) -> Index {
    let mut first = Transaction::new(Bits::EXTERNAL);
    first.uid_validity(UidValidity::new(7).expect("not 0"));
    first.ext_header(ExtSpec::header("dbox-hdr", 24), 0, &[5; 24]);
    Index::create(Files::new(dir, Files::MAILBOX), options(), &[first]).expect("a scratch directory").index()
}

#[test]
fn a_new_index_grows_for_everybody() {
    let dir = tempfile::tempdir().expect("scratch directory");
    let mut ours = new_index(dir.path());
    let mut theirs = open(dir.path()).expect("just made");
    assert_eq!(theirs.state().uid_validity(), UidValidity::new(7));

    let mut on = Transaction::new(Bits::INTERNAL);
    on.keep_modseqs();
    let mut save = Transaction::new(Bits::EXTERNAL_SYNC);
    for n in (1..=300).rev() {
        save.append(uid(n), Flags::SEEN.bits());
        save.modseq(uid(n), ModSeq(1000 + u64::from(n)));
        if n % 3 == 0 {
            save.keyword(uid(n), &Keyword::new("Work"), true);
        }
    }
    save.next_uid(uid(1000));
    let mut locked = ours.lock().expect("free");
    locked.commit_all(&[on.clone(), save, on], Durability::Mail).expect("room");
    drop(locked);

    assert!(theirs.refresh().expect("valid"));
    assert!(!theirs.refresh().expect("valid"), "nothing new");
    let s = theirs.state();
    assert_eq!((s.len(), s.next_uid(), s.highest_modseq()), (300, uid(1000), ModSeq(1300)));
    let row = s.row(uid(9)).expect("was appended");
    assert_eq!((s.modseq(row), s.flags(row), s.keywords(row).len()), (ModSeq(1009), Flags::SEEN, 1));

    let mut change = Transaction::new(Bits::INTERNAL_SYNC);
    change.flags(uid(5), Flags::FLAGGED, Flags::SEEN);
    change.expunge(uid(6), Guid128([9; 16]));
    theirs.lock().expect("free").commit(&change, Durability::Lazy).expect("room");
    ours.refresh().expect("valid");
    let s = ours.state();
    assert_eq!(s.len(), 300, "only a request");
    assert_eq!(s.flags(s.row(uid(5)).expect("there")), Flags::FLAGGED);
    assert_eq!(s.pending().len(), 2);

    let mut done = Transaction::new(Bits::EXTERNAL);
    done.expunge(uid(6), Guid128::ZERO);
    done.storage_is_synced();
    ours.lock().expect("free").commit(&done, Durability::Mail).expect("room");
    assert!(ours.state().pending().is_empty() && ours.state().is_synced());
    assert_eq!(ours.state().row(uid(6)), None);

    // A fresh reader sees the same, from the log and from a snapshot.
    let all = super::fixtures::describe(ours.state());
    assert_eq!(super::fixtures::describe(open(dir.path()).expect("valid").state()), all);
    ours.lock().expect("free").write_snapshot().expect("room");
    assert_eq!(super::fixtures::describe(open(dir.path()).expect("valid").state()), all);
    ours.lock().expect("free").rotate().expect("room");
    assert_eq!(super::fixtures::describe(open(dir.path()).expect("valid").state()), super::fixtures::describe(ours.state()));
    theirs.refresh().expect("follows the rotation");
    assert_eq!(theirs.state().position(), ours.state().position());
    let mut more = Transaction::new(Bits::EXTERNAL);
    more.append(uid(1000), 0);
    theirs.lock().expect("free").commit(&more, Durability::Mail).expect("room");
    ours.refresh().expect("valid");
    assert_eq!(ours.state().len(), 300);
}

#[test]
fn a_new_beginning_replaces_all() {
    let dir = tempfile::tempdir().expect("scratch directory");
    let mut ours = new_index(dir.path());
    let mut theirs = open(dir.path()).expect("just made");
    let mut save = Transaction::new(Bits::EXTERNAL);
    save.append(uid(1), 0);
    save.append(uid(2), 0);
    let mut locked = ours.lock().expect("free");
    locked.commit(&save, Durability::Mail).expect("room");
    locked.write_snapshot().expect("room");
    let mut new = Transaction::new(Bits::EXTERNAL);
    new.uid_validity(UidValidity::new(8).expect("not 0"));
    new.append(uid(1), 8);
    locked.reset(&[new]).expect("room");
    assert_eq!(locked.state().len(), 1);
    drop(locked);
    theirs.refresh().expect("valid");
    assert_eq!((theirs.state().len(), theirs.state().uid_validity()), (1, UidValidity::new(8)));
    assert!(theirs.state().highest_modseq() >= ModSeq(3), "the counter goes on");
    assert_eq!(open(dir.path()).expect("valid").state().next_uid(), uid(2));
}

/// Dovecot's list index goes by the log's size and the second of its last change.
#[test]
fn a_new_beginning_cannot_be_taken_for_the_old_end() {
    let now = std::time::SystemTime::now();
    for (changed, outgrows) in [(now + Duration::from_secs(9), true), (now - Duration::from_secs(9), false)] {
        let dir = tempfile::tempdir().expect("scratch directory");
        let mut index = new_index(dir.path());
        let mut save = Transaction::new(Bits::EXTERNAL);
        (1..50).for_each(|n| save.append(uid(n), 0));
        let mut locked = index.lock().expect("free");
        locked.commit(&save, Durability::Mail).expect("room");
        let log = dir.path().join("dovecot.index.log");
        let file = std::fs::File::options().append(true).open(&log).expect("there");
        file.set_modified(changed).expect("a file of ours");
        let old = file.metadata().expect("there").len();
        let mut new = Transaction::new(Bits::EXTERNAL);
        new.uid_validity(UidValidity::new(8).expect("not 0"));
        locked.reset(&[new]).expect("room");
        assert_eq!(std::fs::metadata(&log).expect("there").len() > old, outgrows);
        let seen = open(dir.path()).expect("valid");
        assert_eq!((seen.state().len(), seen.state().uid_validity()), (0, UidValidity::new(8)));
    }
}

#[test]
fn what_does_not_fit_is_not_written() {
    let dir = scratch(&fixture("minimal-sdbox/sdbox/mailboxes/INBOX/dbox-Mails"));
    let mut index = open(dir.path()).expect("fixture");
    let log = dir.path().join("dovecot.index.log");
    let before = std::fs::read(&log).expect("fixture");
    let mut low = Transaction::new(Bits::EXTERNAL);
    low.append(uid(1), 0);
    let mut nameless = Transaction::new(Bits::EXTERNAL);
    nameless.keyword(uid(1), &Keyword::new(""), true);
    let mut below_zero = Transaction::new(Bits::EXTERNAL);
    below_zero.ext_increment(ExtSpec::new("ref", 0, 2, 2), uid(1), -1);
    for t in [low, nameless, below_zero] {
        let e = index.lock().expect("free").commit(&t, Durability::Mail).expect_err("impossible");
        assert!(e.to_string().contains("refused"), "{e}");
    }
    assert_eq!(std::fs::read(&log).expect("fixture"), before);
    let mut fine = Transaction::new(Bits::EXTERNAL);
    fine.append(uid(3), 0);
    index.lock().expect("recovers").commit(&fine, Durability::Mail).expect("room");
}

#[test]
fn nothing_to_do_writes_nothing() {
    let dir = scratch(&fixture("minimal-sdbox/sdbox/mailboxes/INBOX/dbox-Mails"));
    let mut index = open(dir.path()).expect("fixture");
    let before = index.state().position();
    let mut locked = index.lock().expect("free");
    let mut on = Transaction::new(Bits::INTERNAL);
    on.keep_modseqs();
    assert_eq!(locked.commit(&on, Durability::Mail).expect("fine"), before);
    assert_eq!(locked.commit(&Transaction::new(Bits::EXTERNAL), Durability::Mail).expect("fine"), before);
}

#[test]
fn an_implicit_extension_is_counted() {
    // index.md 3.6: the keyword takes an id, the extension behind it the next one.
    let dir = tempfile::tempdir().expect("scratch directory");
    let mut index = new_index(dir.path());
    let mut t = Transaction::new(Bits::EXTERNAL);
    t.append(uid(1), 0);
    t.keyword(uid(1), &Keyword::new("a"), true);
    t.set_bits(Bits::EXTERNAL_SYNC);
    t.ext_record(ExtSpec::new("vsize", 0, 4, 4), uid(1), &[9, 0, 0, 0]);
    let mut locked = index.lock().expect("free");
    locked.commit(&t, Durability::Mail).expect("room");
    let mut again = Transaction::new(Bits::EXTERNAL);
    again.ext_record(ExtSpec::new("vsize", 0, 4, 4), uid(1), &[8, 0, 0, 0]);
    locked.commit(&again, Durability::Mail).expect("room");
    drop(locked);
    let fresh = open(dir.path()).expect("valid");
    let names: Vec<_> = fresh.state().extensions().map(|e| e.1).collect();
    assert_eq!(names, ["dbox-hdr", "keywords", "vsize"]);
    assert_eq!(fresh.state().ext_u32(fresh.state().ext("vsize").expect("there"), 0), 8);
}

#[test]
fn more_gaps_than_there_is_room_for_are_gaps_all_the_same() {
    let dir = tempfile::tempdir().expect("scratch directory");
    let mut index = new_index(dir.path());
    let every_other: Vec<_> = (1..=5000).map(|n| (uid(2 * n), uid(2 * n))).collect();
    let held = index.state().hold_back(&every_other, Bits::EXTERNAL).expect("it is new");
    index.lock().expect("free").commit(&held, Durability::Mail).expect("room");
    assert!(index.state().hold_back(&every_other, Bits::EXTERNAL).is_none(), "nothing new");
    let kept = open(dir.path()).expect("valid").state().held_back();
    let is_held = |u: crate::mail::Uid| kept.iter().any(|r| r.0 <= u && u <= r.1);
    assert!(every_other.iter().all(|r| is_held(r.0)));
    assert!(!is_held(uid(3)) && !is_held(uid(10_001)));
}
