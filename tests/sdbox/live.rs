//! What we write a real Dovecot sees exactly, and what it writes we read exactly; it never complains.

use std::path::PathBuf;

use dsync::mail::{
    Body, Edit, EditKind, Flags, Floors, Guid128, MailGuid, Mailbox, MailboxGuid, ModSeq, NewMail, Original, Timestamp,
    UidValidity,
};
use dsync::os::fs::{Modes, mkdir_all};
use dsync::store::Settings;
use dsync::store::format::Format;
use dsync::store::sdbox::Sdbox;

use crate::common::{assert_we_see, have_dovecot, keywords, lab, new_mail, open, place, uid};
use crate::lab::{Lab, SeenBox};

const GUID: &str = "00112233445566778899aabbccddeeff";

fn guid(text: &str) -> MailboxGuid {
    text.parse().expect("a GUID")
}

/// Makes a mailbox as the list would.
pub fn create(lab: &Lab, name: &str, mailbox_guid: &str, uidvalidity: u32) {
    let mut place = place(&lab.root(), name);
    let home = std::fs::metadata(lab.path().join("home")).expect("there");
    place.modes = Modes::like(&home);
    mkdir_all(&place.mailbox, &place.modes).expect("made");
    Sdbox::new(Settings::default())
        .create(&place, guid(mailbox_guid), UidValidity::new(uidvalidity).expect("not 0"))
        .expect("created");
}

pub fn stage(mailbox: &mut dyn Mailbox, mail: NewMail, text: &str) {
    mailbox.stage(mail, Body::from_bytes(text)).expect("staged");
}

pub fn text(n: u32) -> String {
    format!("From: a{n}@example.org\r\nSubject: mail {n}\r\n\r\nline one\r\nline two of {n}\r\n")
}

/// A mailbox of `n` mails made by us.
fn filled(lab: &Lab, n: u32) -> Box<dyn Mailbox> {
    create(lab, "INBOX", GUID, 1_600_000_000);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    for i in 1..=n {
        stage(&mut *mailbox, new_mail(i, &format!("guid-{i}")), &text(i));
    }
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    mailbox.refresh().expect("refreshed");
    mailbox
}

fn inbox(lab: &Lab) -> SeenBox {
    lab.dump().remove("INBOX").expect("INBOX")
}

#[test]
fn a_mailbox_made_by_us_is_what_was_asked_for() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    create(&lab, "INBOX", GUID, 1_234_567);
    create(&lab, "Work/Sub", "ffeeddccbbaa99887766554433221100", 99);
    let seen = lab.dump();
    assert_eq!(seen["INBOX"].guid, GUID);
    assert_eq!((seen["INBOX"].uidvalidity, seen["INBOX"].uidnext), (1_234_567, 1));
    assert_eq!(seen["Work/Sub"].guid, "ffeeddccbbaa99887766554433221100");
    lab.save("INBOX", text(1).as_bytes());
    assert_eq!(inbox(&lab).mails[0].uid, 1);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    assert_we_see(&mut *mailbox, &inbox(&lab));
    // Once more is fine, with another identity it is not.
    let again = place(&lab.root(), "INBOX");
    let mut format = Sdbox::new(Settings::default());
    format.create(&again, guid(GUID), UidValidity::new(1_234_567).expect("not 0")).expect("the same");
    let e = format.create(&again, guid(GUID), UidValidity::new(2).expect("not 0")).expect_err("another");
    assert_eq!(e.class(), dsync::mail::Class::Exists);
    lab.silent();
}

#[test]
fn saved_mails_have_everything_that_they_came_with() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    create(&lab, "INBOX", GUID, 1_600_000_000);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    let mails = [
        NewMail {
            flags: Flags::SEEN | Flags::FLAGGED,
            keywords: keywords(&["$Label1", "Work"]),
            modseq: ModSeq(100),
            pop3_uidl: Some("uidl-5".into()),
            pop3_order: 77,
            ..new_mail(5, "0123456789abcdef0123456789abcdef")
        },
        NewMail {
            flags: Flags::DRAFT,
            modseq: ModSeq(90),
            received: Timestamp(0),
            ..new_mail(9, "1700000000.M1P2.host.example.org")
        },
        NewMail { keywords: keywords(&["work"]), modseq: ModSeq(80), ..new_mail(12, "ABCDEF") },
    ];
    for mail in &mails {
        stage(&mut *mailbox, mail.clone(), &text(mail.uid.get()));
    }
    let saved = mailbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    assert_eq!(saved.iter().map(|s| s.got.get()).collect::<Vec<_>>(), [5, 9, 12]);

    let seen = inbox(&lab);
    assert_eq!((seen.uidnext, seen.mails.len()), (13, 3));
    for (mail, seen) in mails.iter().zip(&seen.mails) {
        assert_eq!(seen.uid, mail.uid.get());
        assert_eq!(seen.guid, mail.guid.to_string());
        assert_eq!((seen.received, seen.saved), (mail.received.0, mail.saved.0), "{}", mail.uid);
        assert_eq!(seen.modseq, mail.modseq.0, "{}", mail.uid);
        assert_eq!(seen.uidl, mail.pop3_uidl.clone().unwrap_or_default());
        assert_eq!(seen.order.parse().unwrap_or(0), mail.pop3_order);
        assert_eq!(seen.text.replace('\r', ""), text(seen.uid).replace('\r', ""));
        assert_eq!(seen.virtual_size, text(seen.uid).len() as u64);
    }
    assert_eq!(seen.mails[0].flags, ["$Label1", "Work", "\\Flagged", "\\Seen"]);
    assert_eq!(seen.mails[2].flags, ["Work"], "a keyword is the same in any case");
    mailbox.refresh().expect("refreshed");
    assert_we_see(&mut *mailbox, &seen);

    // Dovecot goes on where we stopped, and we behind it.
    lab.save("INBOX", text(13).as_bytes());
    stage(&mut *mailbox, new_mail(13, "taken"), &text(13));
    let saved = mailbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    assert_eq!((saved[0].wanted, saved[0].got), (uid(13), uid(14)));
    mailbox.refresh().expect("refreshed");
    assert_we_see(&mut *mailbox, &inbox(&lab));
    lab.silent();
}

#[test]
fn uidls_of_dovecots_own_mails_do_not_change_by_ours() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    lab.save("INBOX", text(1).as_bytes());
    let before = inbox(&lab).mails.remove(0);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    stage(&mut *mailbox, NewMail { pop3_uidl: Some("ours".into()), ..new_mail(2, "two") }, &text(2));
    stage(&mut *mailbox, new_mail(3, "three"), &text(3));
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let seen = inbox(&lab);
    assert_eq!(seen.mails[0].uidl, before.uidl);
    assert_eq!(seen.mails[1].uidl, "ours");
    lab.silent();
}

#[test]
fn flags_and_expunges() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    let mut mailbox = filled(&lab, 6);
    let flags = |n, add, remove, add_keywords: &[&str], remove_keywords: &[&str], modseq| Edit {
        uid: uid(n),
        expect: None,
        kind: EditKind::Flags {
            add,
            remove,
            add_keywords: keywords(add_keywords),
            remove_keywords: keywords(remove_keywords),
            modseq: ModSeq(modseq),
        },
    };
    let expunge = |n, expect| Edit { uid: uid(n), expect, kind: EditKind::Expunge };
    let known = |text: &str| Some(MailGuid::new(text).expect("not empty").to_128());
    mailbox
        .edit(&[
            flags(1, Flags::SEEN, Flags::NONE, &["a", "b"], &[], 50),
            flags(2, Flags::ANSWERED, Flags::NONE, &[], &[], 0),
            expunge(3, known("guid-3")),
            expunge(4, known("another mail")),
            flags(1, Flags::NONE, Flags::SEEN, &[], &["a"], 60),
            expunge(99, None),
        ])
        .expect("edited");
    let seen = inbox(&lab);
    assert_eq!(seen.mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    assert_eq!(seen.mails[0].flags, ["b"]);
    assert_eq!(seen.mails[0].modseq, 60);
    assert_eq!(seen.mails[1].flags, ["\\Answered"]);
    let dir = place(&lab.root(), "INBOX").mailbox;
    assert!(!dir.join("u.3").exists() && dir.join("u.4").exists());
    mailbox.refresh().expect("refreshed");
    assert_we_see(&mut *mailbox, &seen);
    // The GUID of the expunged mail is in the log.
    let log = std::fs::read(dir.join("dovecot.index.log")).expect("the log");
    let bytes = MailGuid::new("guid-3").expect("not empty").to_128().0;
    assert!(log.windows(16).any(|w| w == bytes));

    // Nothing to do: not a byte is written.
    mailbox.edit(&[flags(2, Flags::ANSWERED, Flags::SEEN, &[], &["b"], 0)]).expect("edited");
    assert_eq!(std::fs::read(dir.join("dovecot.index.log")).expect("the log"), log);
    lab.silent();
}

#[test]
fn counters_and_identity() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    let mut mailbox = filled(&lab, 2);
    let floors = Floors { uid_next: Some(uid(50)), first_recent: Some(uid(40)), highest_modseq: ModSeq(1000) };
    mailbox.raise(&floors).expect("raised");
    let seen = inbox(&lab);
    assert_eq!((seen.uidnext, seen.highestmodseq), (50, 1000));
    let log = place(&lab.root(), "INBOX").mailbox.join("dovecot.index.log");
    let before = std::fs::read(&log).expect("the log");
    mailbox.raise(&Floors { uid_next: Some(uid(3)), first_recent: Some(uid(1)), highest_modseq: ModSeq(5) }).expect("nothing");
    assert_eq!(std::fs::read(&log).expect("the log"), before);

    let other = "aa112233445566778899aabbccddeeff";
    mailbox.set_identity(guid(other), UidValidity::new(77).expect("not 0")).expect("set");
    stage(&mut *mailbox, new_mail(50, "fifty"), &text(50));
    mailbox.commit(dsync::mail::Uid::LAST).expect("still this mailbox");
    mailbox.refresh().expect("refreshed");
    let seen = inbox(&lab);
    assert_eq!((seen.guid.as_str(), seen.uidvalidity), (other, 77));
    assert_eq!(seen.mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 2, 50]);
    assert_we_see(&mut *mailbox, &seen);
    lab.silent();
}

#[test]
fn a_mail_gets_another_uid() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    let mut mailbox = filled(&lab, 3);
    let before = inbox(&lab);
    let renumbered = NewMail { flags: Flags::SEEN, ..new_mail(2, "guid-2") };
    mailbox.stage_copy(NewMail { uid: uid(10), ..renumbered.clone() }, uid(2), Original::Expunge).expect("staged");
    // Another instance with a GUID of its own.
    mailbox.stage_copy(NewMail { uid: uid(11), ..new_mail(3, "another") }, uid(3), Original::Keep).expect("staged");
    // One that differs in nothing: a link.
    mailbox.stage_copy(NewMail { uid: uid(12), ..new_mail(1, "guid-1") }, uid(1), Original::Keep).expect("staged");
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let seen = inbox(&lab);
    assert_eq!(seen.mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 3, 10, 11, 12]);
    assert_eq!((seen.mails[2].guid.as_str(), &seen.mails[2].text), ("guid-2", &before.mails[1].text));
    assert_eq!(seen.mails[2].saved, renumbered.saved.0);
    assert_eq!((seen.mails[3].guid.as_str(), &seen.mails[3].text), ("another", &before.mails[2].text));
    assert_eq!((seen.mails[4].refs, seen.mails[0].refs), (2, 2));
    assert_eq!((seen.mails[0].saved, seen.mails[1].saved), (before.mails[0].saved, before.mails[2].saved));
    mailbox.refresh().expect("refreshed");
    assert_we_see(&mut *mailbox, &seen);
    assert!(!place(&lab.root(), "INBOX").mailbox.join("u.2").exists());
    lab.silent();
}

#[test]
fn what_dovecot_writes_we_read() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    for i in 1..=5 {
        lab.save("INBOX", text(i).as_bytes());
    }
    lab.doveadm(&["flags", "add", "\\Seen $Forwarded", "mailbox", "INBOX", "uid", "2:3"]);
    lab.doveadm(&["mailbox", "create", "Work"]);
    lab.doveadm(&["copy", "Work", "mailbox", "INBOX", "uid", "1,4"]);
    lab.doveadm(&["expunge", "mailbox", "INBOX", "uid", "5"]);
    lab.doveadm(&["flags", "remove", "\\Seen", "mailbox", "INBOX", "uid", "3"]);
    for (name, seen) in lab.dump() {
        let mut mailbox = open(&lab.root(), &name, &Settings::default());
        assert_we_see(&mut *mailbox, &seen);
    }
    lab.silent();
}

#[test]
fn a_crashed_save_is_adopted() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    let mut mailbox = filled(&lab, 2);
    let dir = place(&lab.root(), "INBOX").mailbox;
    // As a kill between renaming and the log leaves it: our next mails, a stranger's mail, and rubbish.
    let other = Lab::new();
    let scratch = {
        let mut other = other;
        other.extra.push(format!("mail_location=sdbox:{}", other.root().display()));
        let mut donor = filled(&other, 2);
        for n in 3..=4 {
            stage(&mut *donor, new_mail(n, &format!("guid-{n}")), &text(n));
        }
        donor.commit(dsync::mail::Uid::LAST).expect("committed");
        let from: PathBuf = place(&other.root(), "INBOX").mailbox;
        for n in 3..=4 {
            std::fs::copy(from.join(format!("u.{n}")), dir.join(format!("u.{n}"))).expect("copied");
        }
        other
    };
    std::fs::write(dir.join("u.5"), b"2 M1e C1\nrubbish").expect("written");
    drop(scratch);
    for n in 3..=5 {
        std::os::unix::fs::chown(dir.join(format!("u.{n}")), Some(1000), Some(1000)).expect("chown");
    }
    // 3 is what we save now, 4 is not, 5 cannot be read.
    stage(&mut *mailbox, new_mail(3, "guid-3"), &text(3));
    stage(&mut *mailbox, new_mail(4, "new-4"), &text(40));
    stage(&mut *mailbox, new_mail(5, "new-5"), &text(50));
    let saved = mailbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    assert_eq!(saved.iter().map(|s| s.got.get()).collect::<Vec<_>>(), [3, 6, 5]);
    let seen = inbox(&lab);
    let guids: Vec<_> = seen.mails.iter().map(|m| (m.uid, m.guid.as_str())).collect();
    assert_eq!(guids, [(1, "guid-1"), (2, "guid-2"), (3, "guid-3"), (4, "guid-4"), (5, "new-5"), (6, "new-4")]);
    mailbox.refresh().expect("refreshed");
    assert_we_see(&mut *mailbox, &seen);
    lab.silent();
}

#[test]
fn an_emptied_mailbox_is_marked_and_a_renamed_one_stamped() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    create(&lab, "Old", GUID, 5);
    let mut mailbox = open(&lab.root(), "Old", &Settings::default());
    stage(&mut *mailbox, new_mail(1, "one"), &text(1));
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let mut format = Sdbox::new(Settings::default());
    let old = place(&lab.root(), "Old");
    format.renamed(&old).expect("stamped");
    assert_eq!(lab.dump()["Old"].mails.len(), 1);
    lab.silent();

    format.empty(&old).expect("emptied");
    format.empty(&old).expect("twice is fine");
    assert!(!old.mailbox.join("u.1").exists());
    let out = lab.try_doveadm(&["mailbox", "status", "messages", "Old"], b"");
    assert!(String::from_utf8_lossy(&out.stderr).contains("deleted under us"), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(format.open(&old).is_err());
    let e = mailbox.edit(&[Edit { uid: uid(1), expect: Some(Guid128::ZERO), kind: EditKind::Expunge }]).expect_err("deleted");
    assert_eq!(e.class(), dsync::mail::Class::NotFound);
}

#[test]
fn a_lost_index_is_no_new_mailbox() {
    let dir = tempfile::Builder::new().prefix("dsync-sdbox-").tempdir().expect("scratch directory");
    crate::lab::copy_tree(&crate::common::fixture("sdbox-basic"), dir.path());
    let inbox = place(&dir.path().join("mail"), "INBOX");
    std::fs::remove_file(inbox.index.join("dovecot.index.log")).expect("there");
    let mut format = Sdbox::new(Settings::default());
    assert!(format.exists(&inbox));
    let e = format.identity(&inbox).expect_err("no identity");
    assert!(e.class() == dsync::mail::Class::Temporary && e.to_string().contains("force-resync"), "{e}");
    assert!(format.open(&inbox).is_err());

    // What a stopped creation leaves can be created.
    let begun = place(&dir.path().join("mail"), "Begun");
    std::fs::create_dir_all(&begun.mailbox).expect("made");
    assert!(!format.exists(&begun));
    format.create(&begun, guid(GUID), UidValidity::new(1).expect("not 0")).expect("created");
    assert!(format.exists(&begun));
}

#[test]
fn many_mails_at_once() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    create(&lab, "INBOX", GUID, 1_600_000_000);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    for n in 1..=4000 {
        let mail = NewMail { keywords: keywords(&[["a", "b", "c"][n as usize % 3]]), ..new_mail(n, &format!("guid-{n}")) };
        stage(&mut *mailbox, mail, &text(n));
    }
    let saved = mailbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    assert!(saved.iter().all(|s| s.wanted == s.got) && saved.len() == 4000);
    let dir = place(&lab.root(), "INBOX").mailbox;
    assert!(dir.join("dovecot.index").exists(), "the log is long enough for a snapshot");
    let edits: Vec<_> =
        (1..=4000).filter(|n| n % 100 != 0).map(|n| Edit { uid: uid(n), expect: None, kind: EditKind::Expunge }).collect();
    mailbox.refresh().expect("refreshed");
    mailbox.edit(&edits).expect("edited");
    let seen = inbox(&lab);
    assert_eq!(seen.mails.len(), 40);
    mailbox.refresh().expect("refreshed");
    assert_we_see(&mut *mailbox, &seen);
    lab.save("INBOX", text(1).as_bytes());
    lab.silent();
}

#[test]
fn saving_while_dovecot_saves() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    create(&lab, "INBOX", GUID, 1_600_000_000);
    let mut guids: Vec<String> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=15 {
                lab.save("INBOX", text(n).as_bytes());
                lab.doveadm(&["flags", "add", "\\Seen theirs", "mailbox", "INBOX", "1:*"]);
            }
        });
        let ours = (1..=40u32).map(|n| {
            let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
            stage(&mut *mailbox, new_mail(n, &format!("ours-{n}")), &text(100 + n));
            stage(&mut *mailbox, new_mail(n + 1, &format!("more-{n}")), &text(200 + n));
            mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
            mailbox.refresh().expect("refreshed");
            let all: Vec<_> = mailbox.mails().iter().map(|m| m.uid).collect();
            let kind = || EditKind::Flags {
                add: Flags::FLAGGED,
                remove: Flags::NONE,
                add_keywords: keywords(&["ours"]),
                remove_keywords: keywords(&[]),
                modseq: ModSeq(0),
            };
            let edits: Vec<_> = all.into_iter().map(|uid| Edit { uid, expect: None, kind: kind() }).collect();
            mailbox.edit(&edits).expect("edited");
            [format!("ours-{n}"), format!("more-{n}")]
        });
        ours.flatten().collect()
    });
    let seen = inbox(&lab);
    assert_eq!(seen.mails.len(), 95);
    guids.retain(|g| seen.mails.iter().filter(|m| m.guid == *g).count() != 1);
    assert_eq!(guids, Vec::<String>::new(), "lost or doubled");
    assert_we_see(&mut *open(&lab.root(), "INBOX", &Settings::default()), &seen);
    lab.silent();
}

/// As Dovecot leaves it when it looks at a directory that somebody has just made for a mailbox.
#[test]
fn a_mailbox_that_was_only_begun_is_completed() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    lab.save("INBOX", b"From: a\n\nb\n");
    let place = place(&lab.root(), "Begun");
    let modes = Modes::like(&std::fs::metadata(lab.root()).expect("the root"));
    mkdir_all(&place.mailbox, &modes).expect("a directory");
    let mut format = Sdbox::new(Settings::default());
    let one: dsync::mail::MailboxGuid = "aa112233445566778899aabbccddeeff".parse().expect("a GUID");
    let two = dsync::mail::UidValidity::new(77).expect("not zero");
    let files = dsync::index::Files::new(&place.index, dsync::index::Files::MAILBOX);
    let mut first = dsync::index::Transaction::new(dsync::index::Bits::INTERNAL);
    let header = [&[0; 4][..], &[9; 16], &[0; 4]].concat();
    first.ext_header(dsync::index::ExtSpec::header("dbox-hdr", 24), 0, &header);
    let options = dsync::index::Options::new(Settings::default().index, modes);
    drop(dsync::index::Index::create(files, options, &[first]).expect("an index"));
    assert_eq!(format.identity(&place).expect_err("not there").class(), dsync::mail::Class::NotFound);
    format.create(&place, one, two).expect("completed");
    let identity = format.identity(&place).expect("there");
    assert_eq!((identity.guid, identity.uidvalidity), (one, two));
    let status = lab.doveadm(&["mailbox", "status", "guid uidvalidity", "Begun"]);
    assert!(status.contains("aa112233445566778899aabbccddeeff") && status.contains("77"), "{status}");
    lab.silent();
}
