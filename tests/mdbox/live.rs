//! What we do, Dovecot sees exactly and without a word; what Dovecot does, we read exactly.

use dsync::mail::{
    Body, Class, Edit, EditKind, Flags, Floors, Identity, Mailbox, MailboxGuid, ModSeq, NewMail, Original, Rebuild, RebuildFrom,
    RebuildMail, Timestamp, UidValidity,
};
use dsync::store::Settings;
use dsync::store::format::Format;

use crate::common::{self, keywords, new_mail, place, uid};
use crate::judge::{self, After, check};
use crate::lab::{Lab, SeenBox, copy_tree, fixture, have_dovecot};

const GUIDS: [&str; 5] = [
    "00112233445566778899aabbccddee01",
    "00112233445566778899aabbccddee02",
    "1700000000.M1P2.host.example.org",
    "00112233445566778899AABBCCDDEE04",
    "00112233445566778899aabbccddee05",
];

fn text(n: u32) -> String {
    format!("From: a@example.org\nSubject: mail {n}\n\nbody of mail {n}\n{}\n", "x".repeat(n as usize * 7 % 90))
}

fn crlf(text: &str) -> String {
    text.replace('\n', "\r\n")
}

fn body(n: u32) -> Body {
    Body::from_bytes(crlf(&text(n)))
}

/// A lab whose INBOX and `Work/Sub` were made by us.
fn ours() -> (Lab, dsync::store::mdbox::Mdbox) {
    let lab = Lab::new();
    let home = lab.path().join("home");
    let mut format = common::begin(&lab.root(), &Settings::default()).expect("nothing there");
    for (n, name) in ["INBOX", "Work/Sub"].iter().enumerate() {
        let mut place = place(&lab.root(), name);
        place.modes = dsync::os::fs::Modes::like(&std::fs::metadata(&home).expect("home"));
        let guid = MailboxGuid::new([n as u8 + 1; 16]).expect("not zero");
        format.create(&place, guid, UidValidity::new(1_500_000_000 + n as u32).expect("not 0")).expect("created");
    }
    (lab, format)
}

fn stage_all(mailbox: &mut dyn Mailbox, mails: &[NewMail]) {
    for mail in mails {
        mailbox.stage(mail.clone(), body(mail.uid.get())).expect("staged");
    }
}

/// Five mails with all that a mail can have.
fn rich() -> Vec<NewMail> {
    let mut mails: Vec<NewMail> = GUIDS.iter().zip([3, 7, 8, 90, 91]).map(|(g, n)| new_mail(n, g)).collect();
    mails[0].flags = Flags::SEEN | Flags::ANSWERED;
    mails[0].keywords = keywords(&["Work", "$Label1"]);
    mails[0].modseq = ModSeq(500);
    mails[1].modseq = ModSeq(70);
    mails[1].pop3_uidl = Some("uidl-7".into());
    mails[2].pop3_order = 4;
    mails[2].modseq = ModSeq(60);
    mails[3].keywords = keywords(&["Work"]);
    mails[3].received = Timestamp(0);
    mails[4].modseq = ModSeq(1);
    mails
}

#[track_caller]
fn expect(seen: &SeenBox, mails: &[NewMail]) {
    assert_eq!(seen.mails.len(), mails.len());
    for (seen, mail) in seen.mails.iter().zip(mails) {
        assert_eq!(seen.uid, mail.uid.get());
        assert_eq!(seen.guid, mail.guid.to_string());
        assert_eq!((seen.received, seen.saved), (mail.received.0, mail.saved.0), "{mail:?}");
        assert_eq!(seen.uidl, mail.pop3_uidl.clone().unwrap_or_default(), "{mail:?}");
        assert_eq!(seen.order.parse().unwrap_or(0), mail.pop3_order, "{mail:?}");
    }
}

#[test]
fn a_storage_of_ours_is_a_storage() {
    if !have_dovecot() {
        return;
    }
    let (lab, mut format) = ours();
    let mut inbox = common::open(&mut format, &lab.root(), "INBOX");
    let mails = rich();
    stage_all(&mut *inbox, &mails);
    let saved = inbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    assert!(saved.iter().zip(&mails).all(|(s, m)| s.got == m.uid && s.wanted == m.uid));
    assert!(inbox.mails().is_empty(), "a commit does not change the view");
    inbox.raise(&Floors { uid_next: Some(uid(100)), first_recent: Some(uid(90)), highest_modseq: ModSeq(600) }).expect("raised");
    inbox.refresh().expect("a new view");
    assert_eq!(inbox.status().first_recent, uid(90));

    let seen = &lab.dump()["INBOX"];
    expect(seen, &mails);
    assert_eq!((seen.uidnext, seen.highestmodseq, seen.uidvalidity), (100, 600, 1_500_000_000));
    assert_eq!(seen.guid, "01".repeat(16));
    let modseqs: Vec<u64> = seen.mails.iter().map(|m| m.modseq).collect();
    assert_eq!(modseqs[..3], [500, 70, 60], "modseqs are kept exactly");
    assert_eq!(seen.mails[0].flags, ["$Label1", "Work", "\\Answered", "\\Seen"]);
    for m in &seen.mails {
        assert_eq!(m.text, text(m.uid));
        assert_eq!((m.physical, m.virtual_size), (text(m.uid).len() as u64, crlf(&text(m.uid)).len() as u64));
    }
    check(&lab, After::Calm);

    // Dovecot goes on with it.
    lab.save("INBOX", crlf(&text(1)).as_bytes());
    lab.doveadm(&["copy", "Work/Sub", "mailbox", "INBOX", "uid", "3,90,100"]);
    lab.doveadm(&["expunge", "mailbox", "INBOX", "uid", "3,7"]);
    lab.doveadm(&["flags", "add", "\\Deleted New", "mailbox", "INBOX", "uid", "8"]);
    check(&lab, After::Calm);
    lab.doveadm(&["purge"]);
    check(&lab, After::Calm);
}

/// Dovecot's INBOX with mails 1 to 6, and `Copies` with instances of three of them.
fn dovecots() -> Lab {
    let lab = Lab::new();
    for n in 1..=6 {
        lab.save("INBOX", crlf(&text(n)).as_bytes());
    }
    lab.doveadm(&["mailbox", "create", "Copies"]);
    lab.doveadm(&["copy", "Copies", "mailbox", "INBOX", "uid", "2:4"]);
    lab.doveadm(&["flags", "add", "\\Seen Old", "mailbox", "INBOX", "uid", "2,5"]);
    lab
}

fn expunge(n: u32) -> Edit {
    Edit { uid: uid(n), expect: None, kind: EditKind::Expunge }
}

fn flags(n: u32, add: Flags, remove: Flags, kw: (&[&str], &[&str]), modseq: u64) -> Edit {
    let kind =
        EditKind::Flags { add, remove, add_keywords: keywords(kw.0), remove_keywords: keywords(kw.1), modseq: ModSeq(modseq) };
    Edit { uid: uid(n), expect: None, kind }
}

/// The sum of sizes that Dovecot keeps in the index is that of the mails.
#[track_caller]
fn sums_are_right(lab: &Lab) {
    let sum: u64 = lab.dump()["INBOX"].mails.iter().map(|m| m.virtual_size).sum();
    assert_eq!(lab.doveadm(&["mailbox", "status", "vsize", "INBOX"]).trim(), format!("INBOX vsize={sum}"));
}

#[test]
fn edits_are_as_if_dovecot_had_made_them() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    sums_are_right(&lab);
    check(&lab, After::Calm);
    let (_format, mut inbox) = judge::open(&lab, "INBOX");
    let guid1 = inbox.guid128(uid(1)).expect("known");
    let wrong = Edit { expect: Some(guid1), ..expunge(6) };
    inbox
        .edit(&[
            flags(1, Flags::FLAGGED, Flags::NONE, (&["Work"], &[]), 0),
            flags(2, Flags::NONE, Flags::SEEN, (&[], &["old"]), 900),
            flags(5, Flags::SEEN, Flags::NONE, (&["OLD"], &[]), 0),
            flags(77, Flags::SEEN, Flags::NONE, (&[], &[]), 0),
            Edit { expect: Some(guid1), ..expunge(1) },
            expunge(3),
            expunge(78),
            wrong,
        ])
        .expect("edited");
    inbox.refresh().expect("a view");
    let dump = lab.dump();
    let inbox_seen = &dump["INBOX"];
    assert_eq!(inbox_seen.mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [2, 4, 5, 6]);
    assert_eq!(inbox_seen.mails[0].flags, Vec::<String>::new());
    assert_eq!(inbox_seen.mails[0].modseq, 900);
    assert_eq!(inbox_seen.mails[2].flags, ["Old", "\\Seen"]);
    assert_eq!(dump["Copies"].mails.iter().map(|m| m.refs).collect::<Vec<_>>(), [2, 1, 2]);
    check(&lab, After::Calm);
    sums_are_right(&lab);

    // Nothing to do: nothing is written.
    let log = lab.root().join("mailboxes/INBOX/dbox-Mails/dovecot.index.log");
    let len = std::fs::metadata(&log).expect("there").len();
    inbox.edit(&[flags(5, Flags::SEEN, Flags::FLAGGED, (&["old"], &["x"]), 3), expunge(1)]).expect("nothing");
    inbox.raise(&Floors { uid_next: Some(uid(2)), first_recent: None, highest_modseq: ModSeq(1) }).expect("nothing");
    assert_eq!(len, std::fs::metadata(&log).expect("there").len());
}

#[test]
fn a_request_that_a_session_left_is_carried_out() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let log = lab.root().join("mailboxes/INBOX/dbox-Mails/dovecot.index.log");
    // What a session writes when it is killed between the request and its sync: expunge-guid {uid 2, zero GUID}, internal.
    let mut bytes = std::fs::read(&log).expect("a log");
    bytes.extend_from_slice(&[0x80, 0x80, 0x80, 0x87, 0x90, 0xed, 0, 0, 2, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 16]);
    std::fs::write(&log, &bytes).expect("written");
    let (_format, inbox) = judge::open(&lab, "INBOX");
    assert_eq!(inbox.mails().iter().map(|m| m.uid.get()).collect::<Vec<_>>(), [1, 3, 4, 5, 6]);
    assert_eq!(lab.dump()["Copies"].mails[0].refs, 1);
    check(&lab, After::Calm);
}

#[test]
fn instances_are_references_and_a_move_is_one_step() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    sums_are_right(&lab);
    let (_format, mut inbox) = judge::open(&lab, "INBOX");
    let copy = |inbox: &mut Box<dyn Mailbox>, from: u32, to: u32| {
        let (guid, facts) = (inbox.guid(uid(from)).expect("known"), inbox.facts(uid(from)).expect("known"));
        NewMail { guid, received: facts.received, saved: facts.saved, ..new_mail(to, "x") }
    };
    // A second instance; one that moves; one that differs in a date, and has to be a mail of its own.
    let mail = copy(&mut inbox, 1, 20);
    inbox.stage_copy(mail, uid(1), Original::Keep).expect("staged");
    let mail = NewMail { flags: Flags::DRAFT, modseq: ModSeq(300), ..copy(&mut inbox, 2, 21) };
    inbox.stage_copy(mail, uid(2), Original::Expunge).expect("staged");
    let mail = NewMail { received: Timestamp(1000), ..copy(&mut inbox, 3, 22) };
    inbox.stage_copy(mail, uid(3), Original::Expunge).expect("staged");
    let saved = inbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    assert_eq!(saved.iter().map(|s| s.got.get()).collect::<Vec<_>>(), [20, 21, 22]);

    let dump = lab.dump();
    let seen: Vec<_> = dump["INBOX"].mails.iter().map(|m| (m.uid, m.refs)).collect();
    assert_eq!(seen, [(1, 2), (4, 2), (5, 1), (6, 1), (20, 2), (21, 2), (22, 1)]);
    assert_eq!(dump["INBOX"].mails[5].modseq, 300);
    assert_eq!(dump["INBOX"].mails[6].received, 1000);
    assert_eq!(dump["INBOX"].mails[6].text, text(3));
    assert_eq!(dump["Copies"].mails.iter().map(|m| m.refs).collect::<Vec<_>>(), [2, 1, 2]);
    check(&lab, After::Calm);
    sums_are_right(&lab);
    lab.doveadm(&["expunge", "mailbox", "INBOX", "all"]);
    check(&lab, After::Calm);
    assert_eq!(lab.dump()["Copies"].mails[0].text, text(2));
}

#[test]
fn a_mail_that_is_expunged_before_it_gets_its_new_uid_does_not_come_back() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let (_format, mut inbox) = judge::open(&lab, "INBOX");
    for (from, to) in [(1, 21), (3, 23)] {
        let (guid, facts) = (inbox.guid(uid(from)).expect("known"), inbox.facts(uid(from)).expect("known"));
        let mail = NewMail { guid, received: facts.received, saved: facts.saved, ..new_mail(to, "x") };
        inbox.stage_copy(mail, uid(from), Original::Expunge).expect("staged");
    }
    lab.doveadm(&["expunge", "mailbox", "INBOX", "uid", "1"]);
    let saved = inbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    assert_eq!(saved.iter().map(|s| s.got.get()).collect::<Vec<_>>(), [23]);
    assert_eq!(lab.dump()["INBOX"].mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [2, 4, 5, 6, 23]);
    check(&lab, After::Calm);
    sums_are_right(&lab);
}

#[test]
fn copies_of_one_stored_mail_stay_one() {
    if !have_dovecot() {
        return;
    }
    let (lab, mut format) = ours();
    let mut inbox = common::open(&mut format, &lab.root(), "INBOX");
    stage_all(&mut *inbox, &rich());
    inbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let mut other = common::open(&mut format, &lab.root(), "Work/Sub");
    let mails = rich();
    other.stage(mails[0].clone(), body(3)).expect("the same");
    other.stage(mails[1].clone(), body(4)).expect("the same GUID, another text");
    other.stage(NewMail { received: Timestamp(5), ..mails[2].clone() }, body(8)).expect("another date");
    other.stage(mails[3].clone(), body(90)).expect("the same");
    other.commit(dsync::mail::Uid::LAST).expect("committed");
    let seen: Vec<_> = lab.dump()["Work/Sub"].mails.iter().map(|m| (m.uid, m.refs)).collect();
    assert_eq!(seen, [(3, 2), (7, 1), (8, 1), (90, 2)]);
    check(&lab, After::Calm);
    lab.doveadm(&["expunge", "mailbox", "INBOX", "all"]);
    lab.doveadm(&["purge"]);
    check(&lab, After::Calm);
    assert_eq!(lab.dump()["Work/Sub"].mails[0].text, text(3));
}

#[test]
fn a_taken_uid_is_told() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let (_format, mut inbox) = judge::open(&lab, "INBOX");
    inbox.stage(new_mail(9, GUIDS[0]), body(1)).expect("staged");
    inbox.stage(new_mail(7, GUIDS[1]), body(2)).expect("staged");
    lab.save("INBOX", b"Subject: a delivery\n\n");
    let got: Vec<_> =
        inbox.commit(dsync::mail::Uid::LAST).expect("committed").saved.iter().map(|s| (s.wanted.get(), s.got.get())).collect();
    assert_eq!(got, [(9, 9), (7, 10)]);
    check(&lab, After::Calm);
}

fn plan(identity: Identity, mails: Vec<RebuildMail>) -> Rebuild {
    Rebuild { identity, first_recent: uid(1), highest_modseq: ModSeq(2000), mails }
}

#[test]
fn a_rebuilt_mailbox_has_exactly_the_new_content() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let (_format, mut inbox) = judge::open(&lab, "INBOX");
    let before = inbox.status().identity;
    let present = |inbox: &mut Box<dyn Mailbox>, from: u32, to: u32| {
        let (guid, facts) = (inbox.guid(uid(from)).expect("known"), inbox.facts(uid(from)).expect("known"));
        let mail = NewMail { guid, received: facts.received, saved: facts.saved, ..new_mail(to, "x") };
        RebuildMail { mail, from: RebuildFrom::Present(uid(from)) }
    };
    inbox.stage(new_mail(2, GUIDS[0]), body(60)).expect("staged");
    inbox.stage(new_mail(3, GUIDS[1]), body(61)).expect("staged, and not wanted");
    let mut mails = vec![
        present(&mut inbox, 2, 1),
        RebuildMail { mail: new_mail(2, GUIDS[0]), from: RebuildFrom::Staged(0) },
        present(&mut inbox, 5, 3),
        present(&mut inbox, 5, 4),
    ];
    mails[2].mail.keywords = keywords(&["Work"]);
    mails[2].mail.flags = Flags::FLAGGED;
    mails[3].mail.received = Timestamp(12);
    let guid = MailboxGuid::new([9; 16]).expect("not zero");
    let identity = Identity { guid, uidvalidity: UidValidity::new(77).expect("not 0"), uid_next: uid(5) };
    inbox.rebuild(plan(identity, mails)).expect("rebuilt");
    assert_eq!(inbox.status().identity, identity);
    assert_ne!(before, identity);

    let dump = lab.dump();
    let seen = &dump["INBOX"];
    let texts: Vec<_> = seen.mails.iter().map(|m| (m.uid, m.refs, m.text.clone())).collect();
    assert_eq!(texts, [(1, 2, text(2)), (2, 1, text(60)), (3, 1, text(5)), (4, 1, text(5))]);
    assert_eq!(seen.mails[2].flags, ["Work", "\\Flagged"]);
    assert_eq!(seen.mails[3].received, 12);
    assert_eq!((seen.uidnext, seen.uidvalidity, seen.highestmodseq), (5, 77, 2000));
    assert_eq!(dump["Copies"].mails.iter().map(|m| m.refs).collect::<Vec<_>>(), [2, 1, 1]);
    check(&lab, After::Calm);
    lab.save("INBOX", crlf(&text(9)).as_bytes());
    lab.doveadm(&["purge"]);
    check(&lab, After::Calm);

    // To nothing, and from nothing.
    inbox.refresh().expect("a view");
    inbox.rebuild(plan(identity, Vec::new())).expect("emptied");
    check(&lab, After::Calm);
    assert_eq!(lab.dump()["Copies"].mails[0].refs, 1);
    inbox.rebuild(plan(identity, Vec::new())).expect("emptied again");
    check(&lab, After::Calm);
}

#[test]
fn an_open_session_survives_a_rebuild() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let mut session = lab.imap();
    session.ok("SELECT INBOX");
    let (_format, mut inbox) = judge::open(&lab, "INBOX");
    let (guid, facts) = (inbox.guid(uid(2)).expect("known"), inbox.facts(uid(2)).expect("known"));
    let mail = NewMail { guid, received: facts.received, saved: facts.saved, ..new_mail(1, "x") };
    let identity = Identity { uid_next: uid(2), ..inbox.status().identity };
    inbox.rebuild(plan(identity, vec![RebuildMail { mail, from: RebuildFrom::Present(uid(2)) }])).expect("rebuilt");
    // It has to look anew; so Dovecot says it to sessions of a mailbox that it has rebuilt itself.
    assert!(session.any("NOOP").contains("state is inconsistent"));
    drop(session);
    check(&lab, After::Calm);
}

#[test]
fn identity_names_and_deletion() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let (mut format, mut copies) = judge::open(&lab, "Copies");
    let guid = MailboxGuid::new([5; 16]).expect("not zero");
    copies.set_identity(guid, UidValidity::new(99).expect("not 0")).expect("set");
    assert_eq!(copies.status().identity.guid, guid);
    let seen = &lab.dump()["Copies"];
    assert_eq!((seen.guid.as_str(), seen.uidvalidity), ("05".repeat(16).as_str(), 99));
    drop(copies);
    std::fs::rename(lab.root().join("mailboxes/Copies"), lab.root().join("mailboxes/Other")).expect("renamed");
    format.renamed(&place(&lab.root(), "Other")).expect("noted");
    check(&lab, After::Calm);

    format.empty(&place(&lab.root(), "Other")).expect("emptied");
    format.empty(&place(&lab.root(), "Other")).expect("a second time");
    let e = format.open(&place(&lab.root(), "Other")).err().expect("deleted");
    assert_eq!(e.class(), Class::NotFound);
    std::fs::remove_dir_all(lab.root().join("mailboxes/Other")).expect("removed");
    assert_eq!(lab.dump()["INBOX"].mails.iter().map(|m| m.refs).collect::<Vec<_>>(), [1; 6]);
    check(&lab, After::Calm);
}

#[test]
fn a_directory_without_index_is_new_only_if_no_mail_is_missing() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let new = place(&lab.root(), "New");
    std::fs::create_dir_all(&new.mailbox).expect("mkdir");
    let mut format = common::begin(&lab.root(), &Settings::default()).expect("sound");
    let identity = format.identity(&new).expect("an interrupted creation");
    assert_eq!(format.identity(&new).expect("there"), identity);
    check(&lab, After::Calm);

    let inbox = place(&lab.root(), "INBOX");
    for entry in std::fs::read_dir(&inbox.index).expect("a directory") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    let e = format.identity(&inbox).expect_err("a lost index");
    assert!(e.to_string().contains("force-resync"), "{e}");
}

#[test]
fn purge_frees_what_nobody_refers_to() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let (mut format, mut inbox) = judge::open(&lab, "INBOX");
    // Another file, whose mails all go.
    inbox.stage(new_mail(50, GUIDS[0]), body(1)).expect("staged");
    inbox.commit(dsync::mail::Uid::LAST).expect("committed");
    inbox.refresh().expect("a view");
    inbox.edit(&[expunge(1), expunge(2), expunge(50)]).expect("expunged");
    check(&lab, After::Calm);
    assert_eq!(judge::files(&lab).keys().copied().collect::<Vec<_>>(), [1, 2]);
    format.purge().expect("purged");
    assert_eq!(judge::files(&lab).keys().copied().collect::<Vec<_>>(), [3]);
    assert_eq!(judge::map(&lab).len(), 5);
    assert!(judge::map(&lab).iter().all(|r| r.refs > 0));
    check(&lab, After::Calm);
    // The view from before still reads its mails, where they are now.
    inbox.refresh().expect("a view");
    assert_eq!(common::read(inbox.body(uid(3)).expect("moved")), text(3).as_bytes());
    format.purge().expect("nothing to do");
    check(&lab, After::Calm);
    lab.save("INBOX", crlf(&text(9)).as_bytes());
    check(&lab, After::Calm);
}

#[test]
fn purge_removes_attachments_and_keeps_shared_ones() {
    if !have_dovecot() {
        return;
    }
    let mut lab = Lab::new();
    let attach = lab.path().join("home/attach");
    lab.extra = vec![format!("mail_attachment_dir={}", attach.display()), "mail_attachment_min_size=200".into()];
    let part = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NQ==\n".repeat(20);
    let mail = format!(
        "Subject: a\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: application/octet-stream\n\
         Content-Transfer-Encoding: base64\n\n{part}\n--b--\n"
    );
    lab.save("INBOX", mail.as_bytes());
    lab.save("INBOX", mail.as_bytes());
    lab.save("INBOX", b"Subject: plain\n\nplain\n");
    let files = |dir: &std::path::Path| crate::lab::contents(dir).len();
    let before = files(&attach);
    assert!(before >= 3, "{before}");
    let settings = Settings { attachment_dir: Some(attach.clone()), ..Settings::default() };
    let mut format = common::begin(&lab.root(), &settings).expect("sound");
    let mut inbox = common::open(&mut format, &lab.root(), "INBOX");
    assert_eq!(common::read(inbox.body(uid(1)).expect("whole")), mail.as_bytes());
    inbox.edit(&[expunge(1)]).expect("expunged");
    format.purge().expect("purged");
    assert_eq!(files(&attach), before - 1);
    inbox.refresh().expect("a view");
    assert_eq!(common::read(inbox.body(uid(2)).expect("whole")), mail.as_bytes());
    inbox.edit(&[expunge(2)]).expect("expunged");
    format.purge().expect("purged");
    assert_eq!(files(&attach), 0);
    lab.silent();
}

#[test]
fn fixtures_after_a_purge_of_ours() {
    if !have_dovecot() {
        return;
    }
    for name in ["mdbox-basic", "mdbox-many", "handwritten"] {
        let lab = Lab::new();
        copy_tree(&fixture(name).join("mail"), &lab.root());
        let before = lab.dump();
        let (mut format, _) = judge::open(&lab, "INBOX");
        format.purge().expect("purged");
        check(&lab, After::Calm);
        let texts = |d: &std::collections::BTreeMap<String, SeenBox>| -> Vec<_> {
            d.iter().flat_map(|(n, b)| b.mails.iter().map(move |m| (n.clone(), m.clone()))).collect()
        };
        assert_eq!(texts(&before), texts(&lab.dump()), "{name}");
    }
}

/// A storage whose index files, lock files and old mails lie elsewhere.
#[test]
fn index_volatile_and_alt_directories() {
    if !have_dovecot() {
        return;
    }
    let mut lab = Lab::new();
    let home = lab.path().join("home");
    let (index, volatile, alt) = (home.join("index"), home.join("volatile"), home.join("alt"));
    lab.extra = vec![format!(
        "mail_location=mdbox:{}:INDEX={}:VOLATILEDIR={}:ALT={}",
        lab.root().display(),
        index.display(),
        volatile.display(),
        alt.display()
    )];
    for n in 1..=3 {
        lab.save("INBOX", crlf(&text(n)).as_bytes());
    }
    lab.doveadm(&["altmove", "mailbox", "INBOX", "uid", "1"]);
    lab.doveadm(&["purge"]);
    lab.doveadm(&["expunge", "mailbox", "INBOX", "uid", "2"]);
    let place = dsync::store::format::Place {
        index: index.join("mailboxes/INBOX"),
        cache: index.join("mailboxes/INBOX"),
        volatile: Some(volatile.clone()),
        alt: Some(alt.join("mailboxes/INBOX")),
        ..place(&lab.root(), "INBOX")
    };
    let location = dsync::store::mdbox::Location { root: lab.root(), index_root: index.clone(), alt: Some(alt.clone()) };
    let mut format = dsync::store::mdbox::Mdbox::new(location.clone(), Settings::default());
    format.begin(std::slice::from_ref(&place)).expect("sound");
    let mut inbox = format.open(&place).expect("open");
    inbox.lock(std::time::Duration::from_secs(5)).expect("ours alone");
    let locks = |n: usize| {
        let names: Vec<_> = std::fs::read_dir(&volatile).expect("there").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(names.iter().filter(|n| n.to_string_lossy().starts_with(".dovecot-box-sync.lock.")).count(), n, "{names:?}");
    };
    locks(1);
    assert_eq!(common::read(inbox.body(uid(1)).expect("in ALT")), text(1).as_bytes());
    inbox.stage(new_mail(10, GUIDS[0]), body(10)).expect("staged");
    inbox.commit(dsync::mail::Uid::LAST).expect("committed");
    inbox.edit(&[expunge(1)]).expect("expunged");
    format.purge().expect("purged");
    drop(inbox);
    locks(0);
    assert!(!alt.join("storage").read_dir().expect("there").any(|_| true), "nothing is left in ALT");
    let dump = lab.dump();
    assert_eq!(dump["INBOX"].mails.iter().map(|m| (m.uid, m.text.clone())).collect::<Vec<_>>(), [(3, text(3)), (10, text(10))]);
    lab.silent();

    // Mails that lie in an alternative storage that is not mounted are not lost.
    lab.doveadm(&["altmove", "mailbox", "INBOX", "uid", "3"]);
    lab.doveadm(&["purge"]);
    std::fs::rename(&alt, home.join("unmounted")).expect("renamed");
    let mut format = dsync::store::mdbox::Mdbox::new(location, Settings::default());
    format.begin(std::slice::from_ref(&place)).expect("sound");
    let mut inbox = format.open(&place).expect("open");
    let e = inbox.body(uid(3)).expect_err("not there");
    assert!(e.to_string().contains("not mounted"), "{e}");
    inbox.guid128(uid(3)).expect("in the index");
}

/// What the log tells a later run.
#[test]
fn changes_since_a_state() {
    if !have_dovecot() {
        return;
    }
    let lab = dovecots();
    let (_format, mut inbox) = judge::open(&lab, "INBOX");
    inbox.stage(new_mail(9, GUIDS[0]), body(1)).expect("staged");
    inbox.commit(dsync::mail::Uid::LAST).expect("committed");
    inbox.refresh().expect("a view");
    let common = inbox.status();
    let gone = inbox.guid128(uid(4)).expect("known");
    lab.doveadm(&["flags", "add", "\\Draft Late", "mailbox", "INBOX", "uid", "3"]);
    lab.doveadm(&["expunge", "mailbox", "INBOX", "uid", "4"]);
    inbox
        .edit(&[flags(5, Flags::FLAGGED, Flags::NONE, (&[], &[]), 0), expunge(6)])
        .expect("our own are no news, but expunges are");
    inbox.refresh().expect("a view");
    let since = dsync::mail::Since::State { modseq: common.highest_modseq, uid: Some(uid(9)) };
    let changes = inbox.changes(since).expect("readable");
    assert_eq!(changes.too_old, None);
    let told: Vec<u32> = changes.mails.iter().map(|c| c.uid().get()).collect();
    assert_eq!(told, [3, 4, 6]);
    assert!(matches!(&changes.mails[1], dsync::mail::LogChange::Expunged { guid: Some(g), .. } if *g == gone));
    assert!(matches!(&changes.mails[2], dsync::mail::LogChange::Expunged { guid: Some(_), .. }));
    check(&lab, After::Calm);

    assert!(inbox.held_back().is_empty());
    inbox.hold_back(&[(uid(11), uid(12))]).expect("remembered");
    let (_format, again) = judge::open(&lab, "INBOX");
    assert_eq!(again.held_back(), [(uid(11), uid(12))]);
    check(&lab, After::Calm);
}
