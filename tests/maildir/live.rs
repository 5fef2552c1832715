//! Side by side with a real Dovecot: what we write it sees exactly and without a word in its log; what it does we read.

use std::path::Path;
use std::time::Duration;

use dsync::mail::{
    Body, Class, Flags, Floors, Identity, LogChange, Mailbox, MailboxGuid, ModSeq, Original, Rebuild, RebuildFrom, RebuildMail,
    Since, Timestamp, UidValidity,
};
use dsync::store::format::Format;

use crate::lab::{Imap, Lab, SeenBox, contents, have_dovecot};
use crate::ours::{all, body, expunge, flags, format, guid, keyword_edit, keywords, new_mail, open, place, text, uid};

/// Dovecot and we see the same mails.
#[track_caller]
pub fn agree(lab: &Lab, mailbox: &mut dyn Mailbox) -> SeenBox {
    agree_on(lab, "INBOX", mailbox)
}

#[track_caller]
pub fn agree_on(lab: &Lab, name: &str, mailbox: &mut dyn Mailbox) -> SeenBox {
    let theirs = lab.dump(name);
    mailbox.refresh().expect("refreshes");
    let status = mailbox.status();
    assert_eq!(status.identity.guid.to_string(), theirs.guid);
    assert_eq!(status.identity.uidvalidity.get(), theirs.uidvalidity);
    assert_eq!(status.identity.uid_next.get(), theirs.uidnext);
    assert_eq!(status.highest_modseq.0, theirs.highestmodseq);
    let ours = all(mailbox);
    assert_eq!(ours.iter().map(|m| m.uid).collect::<Vec<_>>(), theirs.uids());
    for (ours, theirs) in ours.iter().zip(&theirs.mails) {
        assert_eq!(ours.guid, theirs.guid, "{theirs:?}");
        assert_eq!(ours.flags, theirs.flags, "{theirs:?}");
        assert_eq!(ours.modseq, theirs.modseq, "{theirs:?}");
        assert_eq!(ours.facts.received.0, theirs.received, "{theirs:?}");
        assert_eq!(ours.facts.saved.0, theirs.saved, "{theirs:?}");
        assert_eq!(ours.facts.pop3_uidl.as_deref().unwrap_or(""), theirs.uidl, "{theirs:?}");
        assert_eq!(ours.facts.pop3_order, theirs.order.parse().unwrap_or(0), "{theirs:?}");
        assert!(ours.facts.virtual_size.is_none_or(|w| w == theirs.virtual_size), "{ours:?} {theirs:?}");
        assert_eq!(ours.text, theirs.text.replace("\r\n", "\n"), "{theirs:?}");
    }
    lab.silent();
    theirs
}

/// A lab whose INBOX has this many mails of Dovecot's own.
fn with_mails(n: u32) -> Lab {
    let lab = Lab::new();
    let mut imap = lab.imap();
    for i in 1..=n {
        imap.append("INBOX", "() \"01-Feb-2024 10:00:00 +0000\"", &text(i).replace('\n', "\r\n"));
    }
    drop(imap);
    lab
}

fn save(mailbox: &mut dyn Mailbox, from: u32, to: u32) {
    for n in from..=to {
        mailbox.stage(new_mail(n, &format!("{n:032x}")), body(n)).expect("staged");
    }
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
}

#[test]
fn what_we_save_is_what_dovecot_sees() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(1);
    let mut mailbox = open(&lab.inbox());
    let sizes = |t: &str| format!(",S={},W={}", t.len(), t.len() + t.matches('\n').count());
    let name = format!("1700000000.M1P2.host{}", sizes(&text(4)));

    let mut hex = new_mail(5, &"ab".repeat(16));
    hex.flags = Flags::SEEN | Flags::FLAGGED;
    hex.keywords = keywords(&["$Forwarded", "Work"]);
    hex.modseq = ModSeq(70);
    hex.pop3_uidl = Some("UIDL-5".into());
    hex.pop3_order = 3;
    hex.saved = Timestamp(1_500_000_000);
    mailbox.stage(hex, Body::from_bytes(text(5).replace('\n', "\r\n"))).expect("staged");
    let mut named = new_mail(4, &name);
    named.modseq = ModSeq(60);
    mailbox.stage(named, body(4)).expect("staged");
    mailbox.stage(new_mail(7, "1700000000.M1P2.no.sizes"), body(7)).expect("staged");
    mailbox.stage(new_mail(8, "has a blank"), body(8)).expect("staged");
    // UID 1 is taken.
    mailbox.stage(new_mail(1, "late/comer"), body(9)).expect("staged");
    let saved = mailbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    let got: Vec<_> = saved.iter().map(|s| (s.wanted.get(), s.got.get())).collect();
    assert_eq!(got, [(5, 5), (4, 4), (7, 7), (8, 8), (1, 9)]);

    let seen = agree(&lab, &mut *mailbox);
    assert_eq!(seen.uids(), [1, 4, 5, 7, 8, 9]);
    assert_eq!(seen.mail(4).guid, name);
    assert!(lab.inbox().join(format!("cur/{name}:2,")).exists());
    let five = seen.mail(5);
    assert_eq!((five.guid.as_str(), five.modseq, five.received), ("ab".repeat(16).as_str(), 70, 1_600_000_005));
    assert_eq!((five.uidl.as_str(), five.order.as_str()), ("UIDL-5", "3"));
    assert_eq!(five.flags, ["$Forwarded", "Work", "\\Flagged", "\\Seen"]);
    assert_eq!(seen.mail(4).modseq, 60);
    assert_eq!(seen.mail(7).guid, "1700000000.M1P2.no.sizes");
    assert_eq!(seen.mail(8).guid, guid("has a blank").to_128().to_string());
    assert_eq!(seen.mail(9).guid, "late/comer");
    assert_eq!(std::fs::read_dir(lab.inbox().join("tmp")).expect("there").count(), 0);
    assert!(!lab.inbox().join("dovecot-uidlist.lock").exists());

    // A program that knows Maildir and nothing of Dovecot finds the same mails.
    let mut foreign: Vec<_> =
        maildir::Maildir::from(lab.inbox()).list_cur().map(|e| e.expect("an entry").flags().to_owned()).collect();
    foreign.sort();
    assert_eq!(foreign, ["", "", "", "", "FSab"]);
}

#[test]
fn the_saved_date_survives_flag_changes() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(1);
    let mut mailbox = open(&lab.inbox());
    let mut mail = new_mail(2, &"cd".repeat(16));
    mail.saved = Timestamp(1_400_000_000);
    mailbox.stage(mail, body(2)).expect("staged");
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    assert_eq!(agree(&lab, &mut *mailbox).mail(2).saved, 1_400_000_000);
    lab.doveadm(&["flags", "add", "\\Seen", "mailbox", "INBOX", "uid", "2"]);
    assert_eq!(agree(&lab, &mut *mailbox).mail(2).saved, 1_400_000_000);
}

#[test]
fn a_mailbox_that_we_create_is_dovecots() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(1);
    let dir = lab.inbox().join(".Work");
    std::fs::create_dir(&dir).expect("writable");
    std::os::unix::fs::chown(&dir, Some(crate::lab::UID), Some(crate::lab::UID)).expect("root");
    let id: MailboxGuid = "00112233445566778899aabbccddeeff".parse().expect("a GUID");
    let v = UidValidity::new(12345).expect("not 0");
    for _ in 0..2 {
        format().create(&place(&dir), id, v).expect("created");
    }
    let mut mailbox = open(&dir);
    assert_eq!(mailbox.status().identity, Identity { guid: id, uidvalidity: v, uid_next: uid(1) });
    agree_on(&lab, "Work", &mut *mailbox);
    save(&mut *mailbox, 3, 5);
    assert_eq!(agree_on(&lab, "Work", &mut *mailbox).uids(), [3, 4, 5]);
    lab.save("Work", text(6).as_bytes());
    assert_eq!(agree_on(&lab, "Work", &mut *mailbox).uids(), [3, 4, 5, 6]);

    let other = MailboxGuid::generate();
    let refused = format().create(&place(&dir), other, v).expect_err("there are mails");
    assert_eq!(refused.class(), Class::Exists);
}

#[test]
fn our_edits_reach_names_and_log() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(4);
    let mut mailbox = open(&lab.inbox());
    let start = mailbox.status().highest_modseq;
    let gone = mailbox.guid128(uid(2)).expect("a GUID");
    let mut wrong = expunge(3);
    wrong.expect = Some(guid("somebody else").to_128());
    mailbox
        .edit(&[
            keyword_edit(1, Flags::SEEN, Flags::NONE, &["Work", "$Junk"], &[]),
            expunge(2),
            wrong,
            flags(4, Flags::FLAGGED, Flags::NONE),
            flags(99, Flags::FLAGGED, Flags::NONE),
        ])
        .expect("edited");
    let names = |lab: &Lab| -> Vec<String> {
        let dir = std::fs::read_dir(lab.inbox().join("cur")).expect("there");
        dir.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    assert!(names(&lab).iter().any(|n| n.ends_with(":2,Sab")), "{:?}", names(&lab));
    let seen = agree(&lab, &mut *mailbox);
    assert_eq!(seen.uids(), [1, 3, 4]);
    assert_eq!(seen.mail(1).flags, ["$Junk", "Work", "\\Seen"]);
    assert_eq!(seen.mail(4).flags, ["\\Flagged"]);

    let changes = mailbox.changes(Since::State { modseq: start, uid: Some(uid(4)) }).expect("the log");
    let expunged: Vec<_> = changes.mails.iter().filter(|c| matches!(c, LogChange::Expunged { .. })).collect();
    assert_eq!(expunged, [&LogChange::Expunged { uid: uid(2), guid: Some(gone) }]);

    mailbox.edit(&[keyword_edit(1, Flags::NONE, Flags::SEEN, &[], &["work"])]).expect("edited");
    assert_eq!(agree(&lab, &mut *mailbox).mail(1).flags, ["$Junk"]);
}

#[test]
fn keywords_beyond_the_letters_live_in_the_index() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(1);
    let mut mailbox = open(&lab.inbox());
    let names: Vec<String> = (0..30).map(|i| format!("k{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut mail = new_mail(2, &"ef".repeat(16));
    mail.keywords = keywords(&names);
    mailbox.stage(mail, body(2)).expect("staged");
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    mailbox.edit(&[keyword_edit(1, Flags::NONE, Flags::NONE, &["k29", "k03"], &[])]).expect("edited");
    let seen = agree(&lab, &mut *mailbox);
    assert_eq!(seen.mail(2).flags, names);
    assert_eq!(seen.mail(1).flags, ["k03", "k29"]);
    lab.doveadm(&["flags", "remove", "k28 k02", "mailbox", "INBOX", "uid", "2"]);
    assert_eq!(agree(&lab, &mut *mailbox).mail(2).flags.len(), 28);
}

#[test]
fn what_dovecot_does_we_read() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(6);
    let mut mailbox = open(&lab.inbox());
    agree(&lab, &mut *mailbox);
    let mut imap = lab.imap();
    imap.ok("SELECT INBOX");
    imap.ok("STORE 1:2 +FLAGS (\\Seen Todo)");
    imap.ok("STORE 3 +FLAGS (\\Deleted)");
    imap.ok("EXPUNGE");
    imap.ok("COPY 1 INBOX");
    imap.ok("CREATE Other");
    imap.ok("MOVE 2 Other");
    imap.append("INBOX", "(\\Draft $Label1)", &text(77).replace('\n', "\r\n"));
    imap.ok("NOOP");
    mailbox.refresh().expect("refreshes");
    let seen = agree(&lab, &mut *mailbox);
    assert_eq!(seen.mails.len(), 6);
    let mut other = open(&lab.inbox().join(".Other"));
    assert_eq!(agree_on(&lab, "Other", &mut *other).mails.len(), 1);
}

fn uids_of(imap: &mut Imap) -> Vec<u32> {
    let lines = imap.ok("UID SEARCH ALL");
    let found = lines.iter().find_map(|l| l.strip_prefix("* SEARCH")).expect("an answer");
    found.split_whitespace().map(|n| n.parse().expect("a UID")).collect()
}

#[test]
fn an_open_session_sees_our_work_and_we_see_its() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(3);
    let mut imap = lab.imap();
    imap.ok("SELECT INBOX");
    let mut mailbox = open(&lab.inbox());
    for round in 0..8 {
        let next = mailbox.status().identity.uid_next.get();
        save(&mut *mailbox, next, next + 2);
        mailbox.edit(&[flags(next, Flags::FLAGGED, Flags::NONE), expunge(next + 1)]).expect("edited");
        imap.append("INBOX", &format!("(r{round})"), &text(100 + round).replace('\n', "\r\n"));
        imap.ok("NOOP");
        let uids = uids_of(&mut imap);
        let last = uids.last().expect("mails");
        imap.ok(&format!("UID STORE {last} +FLAGS (\\Answered both{round})"));
        if round % 3 == 0 {
            imap.ok(&format!("UID STORE {} +FLAGS (\\Deleted)", uids[0]));
            imap.ok("EXPUNGE");
        }
        mailbox.refresh().expect("refreshes");
        let ours: Vec<_> = mailbox.mails().iter().map(|m| m.uid.get()).collect();
        assert_eq!(ours, uids_of(&mut imap));
    }
    drop(imap);
    agree(&lab, &mut *mailbox);
}

#[test]
fn a_mail_gets_another_uid_and_stays_the_same_file() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(3);
    let mut mailbox = open(&lab.inbox());
    let before = agree(&lab, &mut *mailbox);
    let mut moved = new_mail(10, &before.mail(2).guid);
    moved.received = Timestamp(before.mail(2).received);
    moved.flags = Flags::SEEN;
    mailbox.stage_copy(moved, uid(2), Original::Expunge).expect("staged");
    let mut copy = new_mail(11, &before.mail(3).guid);
    copy.received = Timestamp(before.mail(3).received);
    mailbox.stage_copy(copy, uid(3), Original::Keep).expect("staged");
    // Another date: the file cannot be shared.
    mailbox.stage_copy(new_mail(12, &before.mail(3).guid), uid(3), Original::Keep).expect("staged");
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let after = agree(&lab, &mut *mailbox);
    assert_eq!(after.uids(), [1, 3, 10, 11, 12]);
    for (new, old) in [(10, 2), (11, 3), (12, 3)] {
        assert_eq!(after.mail(new).guid, before.mail(old).guid);
        assert_eq!(after.mail(new).text, before.mail(old).text);
    }
    assert_eq!(after.mail(10).flags, ["\\Seen"]);
    assert_eq!(after.mail(12).received, 1_600_000_012);
    let links = |n: u32| {
        use std::os::unix::fs::MetadataExt;
        let file = mailbox_file(&lab.inbox(), n);
        std::fs::metadata(file).expect("there").nlink()
    };
    assert_eq!((links(10), links(11), links(3), links(12)), (1, 2, 2, 1));
    let changes = mailbox.changes(Since::Everything).expect("the log");
    assert!(changes.mails.contains(&LogChange::Expunged { uid: uid(2), guid: Some(guid(&before.mail(2).guid).to_128()) }));
}

/// The file of a UID.
fn mailbox_file(dir: &Path, n: u32) -> std::path::PathBuf {
    let list = std::fs::read_to_string(dir.join("dovecot-uidlist")).expect("there");
    let line = list.lines().skip(1).find(|l| l.starts_with(&format!("{n} "))).expect("a line");
    let base = line.split_once(" :").map(|(_, base)| base).expect("a name");
    let found = ["cur", "new"].iter().flat_map(|d| std::fs::read_dir(dir.join(d)).expect("there"));
    let mut found = found.map(|e| e.expect("an entry").path());
    found.find(|p| p.file_name().expect("a name").to_string_lossy().split(':').next() == Some(base)).expect("a file")
}

#[test]
fn counters_and_identity() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(3);
    let mut mailbox = open(&lab.inbox());
    let floors = Floors { uid_next: Some(uid(20)), first_recent: Some(uid(3)), highest_modseq: ModSeq(500) };
    mailbox.raise(&floors).expect("raised");
    let seen = agree(&lab, &mut *mailbox);
    assert_eq!((seen.uidnext, seen.highestmodseq), (20, 500));
    let before = contents(&lab.inbox());
    mailbox.raise(&floors).expect("raised");
    assert_eq!(contents(&lab.inbox()), before);

    let modseqs: Vec<_> = mailbox.mails().iter().map(|m| m.modseq).collect();
    let id = MailboxGuid::generate();
    mailbox.set_identity(id, UidValidity::new(99).expect("not 0")).expect("set");
    let seen = agree(&lab, &mut *mailbox);
    assert_eq!((seen.guid, seen.uidvalidity, seen.uidnext), (id.to_string(), 99, 20));
    assert_eq!(seen.mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(mailbox.mails().iter().map(|m| m.modseq).collect::<Vec<_>>(), modseqs);
    lab.save("INBOX", text(20).as_bytes());
    assert_eq!(agree(&lab, &mut *mailbox).uids(), [1, 2, 3, 20]);
}

#[test]
fn a_rebuilt_mailbox_has_exactly_the_new_content() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(5);
    lab.doveadm(&["flags", "add", "\\Seen $Junk", "mailbox", "INBOX", "uid", "2:3"]);
    let mut mailbox = open(&lab.inbox());
    let before = agree(&lab, &mut *mailbox);
    mailbox.stage(new_mail(1, &"aa".repeat(16)), body(50)).expect("staged");
    mailbox.stage(new_mail(1, &"bb".repeat(16)), body(51)).expect("staged");
    let present = |n: u32, old: u32| RebuildMail {
        mail: dsync::mail::NewMail { modseq: ModSeq(n.into()), ..new_mail(n, &before.mail(old).guid) },
        from: RebuildFrom::Present(uid(old)),
    };
    let mut flagged = present(2, 4);
    flagged.mail.flags = Flags::FLAGGED;
    flagged.mail.keywords = keywords(&["$Junk", "New"]);
    flagged.mail.pop3_uidl = Some("abc".into());
    let staged = RebuildMail { mail: new_mail(3, &"bb".repeat(16)), from: RebuildFrom::Staged(1) };
    let identity = Identity {
        guid: MailboxGuid::generate(),
        uidvalidity: UidValidity::new(before.uidvalidity).expect("not 0"),
        uid_next: uid(6),
    };
    mailbox
        .rebuild(Rebuild {
            identity,
            first_recent: uid(4),
            highest_modseq: ModSeq(200),
            mails: vec![present(1, 3), flagged, staged, present(4, 3), present(5, 5)],
        })
        .expect("rebuilt");
    let seen = agree(&lab, &mut *mailbox);
    assert_eq!((seen.guid.clone(), seen.uidnext, seen.highestmodseq), (identity.guid.to_string(), 6, 200));
    assert_eq!(seen.uids(), [1, 2, 3, 4, 5]);
    for (new, old) in [(1, 3), (2, 4), (4, 3), (5, 5)] {
        assert_eq!((&seen.mail(new).guid, &seen.mail(new).text), (&before.mail(old).guid, &before.mail(old).text));
        assert_eq!(seen.mail(new).received, 1_600_000_000 + new);
    }
    assert_eq!((seen.mail(3).guid.as_str(), seen.mail(3).text.replace("\r\n", "\n")), ("bb".repeat(16).as_str(), text(51)));
    assert_eq!(seen.mail(1).flags, Vec::<String>::new());
    assert_eq!((seen.mail(2).flags.join(" "), seen.mail(2).uidl.as_str()), ("$Junk New \\Flagged".to_owned(), "abc"));
    // The counter goes on; all appends of one transaction are one step.
    assert_eq!(seen.mail(5).modseq, before.highestmodseq + 1);
    assert_eq!(std::fs::read_dir(lab.inbox().join("tmp")).expect("there").count(), 0);
    lab.save("INBOX", text(60).as_bytes());
    assert_eq!(agree(&lab, &mut *mailbox).uids(), [1, 2, 3, 4, 5, 6]);
}

/// The mails 1 and 2 in the other order, under a session that has the mailbox open.
fn swapped(lab: &Lab) -> (SeenBox, SeenBox) {
    let mut mailbox = open(&lab.inbox());
    let before = agree(lab, &mut *mailbox);
    let mut imap = lab.imap();
    imap.ok("SELECT INBOX");
    let present =
        |n: u32, old: u32| RebuildMail { mail: new_mail(n, &before.mail(old).guid), from: RebuildFrom::Present(uid(old)) };
    let mails = vec![present(1, 2), present(2, 1)];
    let identity = Identity {
        guid: before.guid.parse().expect("a GUID"),
        uidvalidity: UidValidity::new(before.uidvalidity).expect("not 0"),
        uid_next: uid(3),
    };
    mailbox.rebuild(Rebuild { identity, first_recent: uid(1), highest_modseq: ModSeq(0), mails }).expect("rebuilt");
    for command in ["NOOP", "UID FETCH 1:* (FLAGS BODY.PEEK[])", "UID STORE 1 +FLAGS (\\Seen)", "NOOP", "CHECK"] {
        imap.cmd(command);
    }
    drop(imap);
    (before, lab.dump("INBOX"))
}

#[test]
fn a_session_that_has_the_mailbox_open_ends_and_does_no_harm() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(2);
    let mut mailbox = open(&lab.inbox());
    // Makes the uidlist say N3: the trap of a lowered N (rebuild.rs) is not what is looked at here.
    mailbox.set_identity(MailboxGuid::generate(), mailbox.status().identity.uidvalidity).expect("set");
    let (before, after) = swapped(&lab);
    assert_eq!((after.uids(), after.uidnext), (vec![1, 2], 3));
    assert_eq!((&after.mail(1).guid, &after.mail(2).guid), (&before.mail(2).guid, &before.mail(1).guid));
    // The session says that it cannot go on, and nothing else.
    let log = lab.log();
    assert!(log.lines().all(|l| l.contains("index reset, view is now inconsistent")), "{log}");
}

#[test]
fn a_look_at_an_unchanged_mailbox_writes_nothing() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(3);
    let mut mailbox = open(&lab.inbox());
    save(&mut *mailbox, 4, 8);
    mailbox.refresh().expect("refreshes");
    // Another identity says nothing about the files.
    mailbox.set_identity(MailboxGuid::generate(), UidValidity::new(99).expect("not 0")).expect("set");
    drop(mailbox);
    let before = contents(&lab.inbox());
    for _ in 0..2 {
        let mut mailbox = open(&lab.inbox());
        all(&mut *mailbox);
        mailbox.refresh().expect("refreshes");
        drop(mailbox);
        // Beyond the second in which a change could have been missed (maildir.md 7.1).
        std::thread::sleep(Duration::from_millis(1500));
    }
    assert_eq!(contents(&lab.inbox()), before);
}

/// Between two transactions of a save or a copy the index has the stamps of the files with the new mail, but not the mail.
#[test]
fn a_mail_that_is_just_being_saved_is_not_missed() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(1);
    // From now on the index keeps modseqs, and the fast way is open.
    drop(open(&lab.inbox()));
    let mut imap = lab.imap();
    imap.ok("SELECT INBOX");
    imap.ok("UID STORE 1 FLAGS (\\Seen)");
    imap.ok("UID COPY 1 INBOX");
    let log = lab.inbox().join("dovecot.index.log");
    let dump = lab.doveadm(&["dump", log.to_str().expect("a path")]);
    let before = dump.rsplit_once("type=append").expect("the second mail").0;
    let boundary = before.rsplit_once("type=boundary").expect("its transaction").0;
    let offset = boundary.rsplit_once("offset=").and_then(|(_, o)| o.split(',').next()?.parse().ok()).expect("an offset");
    std::fs::OpenOptions::new().write(true).open(&log).and_then(|file| file.set_len(offset)).expect("cut");

    let mailbox = open(&lab.inbox());
    let uids: Vec<u32> = mailbox.mails().iter().map(|m| m.uid.get()).collect();
    assert_eq!((uids, mailbox.status().identity.uid_next), (vec![1, 2], uid(3)));
}

#[test]
fn other_programs_rename_deliver_and_delete() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(4);
    lab.doveadm(&["flags", "add", "\\Seen", "mailbox", "INBOX", "uid", "1"]);
    let mut mailbox = open(&lab.inbox());
    let first = mailbox_file(&lab.inbox(), 1);
    let renamed = first.to_string_lossy().replace(":2,S", ":2,FR");
    std::fs::rename(&first, &renamed).expect("renamed");
    std::fs::remove_file(mailbox_file(&lab.inbox(), 3)).expect("removed");
    for name in ["1700000009.M5P1.mta", "1700000009.M4P1.mta"] {
        let path = lab.inbox().join("new").join(name);
        std::fs::write(&path, text(9)).expect("written");
        std::os::unix::fs::chown(&path, Some(crate::lab::UID), Some(crate::lab::UID)).expect("root");
    }
    // The view is older than all that: its mails are still found by their names, or known to be gone.
    assert_eq!(mailbox.body(uid(3)).expect_err("removed").class(), Class::Expunged);
    mailbox.body(uid(1)).expect("found again");
    mailbox.refresh().expect("refreshes");
    assert_eq!(all(&mut *mailbox).iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 2, 4, 5, 6]);
    let seen = agree(&lab, &mut *mailbox);
    assert_eq!(seen.mail(1).flags, ["\\Answered", "\\Flagged"]);
    assert_eq!(seen.mail(5).guid, "1700000009.M4P1.mta");
}

#[test]
fn an_emptied_mailbox_is_gone_for_sessions() {
    if !have_dovecot() {
        return;
    }
    let lab = with_mails(1);
    lab.doveadm(&["mailbox", "create", "Trash"]);
    lab.save("Trash", text(1).as_bytes());
    let dir = lab.inbox().join(".Trash");
    let mut imap = lab.imap();
    imap.ok("SELECT Trash");
    format().empty(&place(&dir)).expect("emptied");
    assert_eq!(std::fs::read_dir(dir.join("cur")).expect("there").count(), 0);
    let refused = format().open(&place(&dir)).err().expect("deleted");
    assert_eq!(refused.class(), Class::NotFound);
    std::fs::remove_dir_all(&dir).expect("removed");
    imap.cmd("NOOP");
    drop(imap);
}

#[test]
fn two_dsyncs_keep_apart() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let dir = scratch.path().join("Maildir");
    for d in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(dir.join(d)).expect("writable");
    }
    let mut a = open(&dir);
    let mut b = open(&dir);
    a.lock(Duration::from_secs(1)).expect("free");
    assert!(dir.join(".dovecot-box-sync.lock").exists());
    b.lock(Duration::from_millis(50)).expect_err("taken");
    drop(a);
    b.lock(Duration::from_secs(1)).expect("free again");
    drop(b);
    assert!(!dir.join(".dovecot-box-sync.lock").exists());
}
