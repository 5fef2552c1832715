//! Beside an open IMAP session: both change the mailbox in turn, both see what the other did.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use dsync::mail::{Edit, EditKind, Flags, Identity, LogChange, ModSeq, NewMail, Rebuild, RebuildFrom, RebuildMail, Since};
use dsync::store::Settings;
use dsync::store::format::Format;
use dsync::store::sdbox::Sdbox;

use crate::common::{assert_we_see, fixture, have_dovecot, keywords, lab, new_mail, open, place, read, uid};
use crate::lab::{Lab, SeenBox, contents, copy_tree};
use crate::live::{create, stage, text};

const GUID: &str = "00112233445566778899aabbccddeeff";

/// A pre-authenticated IMAP session.
pub struct Imap {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    tag: u32,
}

impl Imap {
    pub fn start(lab: &Lab) -> Option<Self> {
        let like = lab.command(&[]);
        let mut command = Command::new("/usr/lib/dovecot/imap");
        command.args(like.get_args()).env("USER", "u1").env("HOME", lab.path().join("home")).current_dir("/");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: no imap binary");
            return None;
        };
        let input = child.stdin.take().expect("piped");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        output.read_line(&mut String::new()).expect("a greeting");
        Some(Self { child, input, output, tag: 0 })
    }

    /// All lines up to the tagged one, or to the end.
    pub fn say(&mut self, command: &str) -> String {
        self.tag += 1;
        let tag = format!("t{} ", self.tag);
        writeln!(self.input, "{tag}{command}\r").expect("it reads");
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("it answers") == 0 {
                return all;
            }
            all.push_str(&line);
            if line.starts_with(&tag) {
                return all;
            }
        }
    }
}

impl Drop for Imap {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "z LOGOUT\r");
        let _ = self.child.wait();
    }
}

fn inbox(lab: &Lab) -> SeenBox {
    lab.dump().remove("INBOX").expect("INBOX")
}

fn flags(n: u32, add: Flags, remove: Flags, add_keywords: &[&str]) -> Edit {
    let kind =
        EditKind::Flags { add, remove, add_keywords: keywords(add_keywords), remove_keywords: keywords(&[]), modseq: ModSeq(0) };
    Edit { uid: uid(n), expect: None, kind }
}

#[test]
fn taking_turns_with_a_session() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    create(&lab, "INBOX", GUID, 1_600_000_000);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    for n in 1..=4 {
        stage(&mut *mailbox, new_mail(n, &format!("guid-{n}")), &text(n));
    }
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let Some(mut imap) = Imap::start(&lab) else { return };
    imap.say("ENABLE QRESYNC");
    assert!(imap.say("SELECT INBOX").contains("* 4 EXISTS"));

    // Ours: a new mail, flags with a new keyword, an expunge.
    stage(&mut *mailbox, NewMail { keywords: keywords(&["Fresh"]), ..new_mail(5, "guid-5") }, &text(5));
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let expunge = Edit { uid: uid(2), expect: None, kind: EditKind::Expunge };
    mailbox.edit(&[flags(1, Flags::FLAGGED, Flags::NONE, &["$Ours"]), expunge]).expect("edited");
    let news = imap.say("NOOP");
    assert!(news.contains("* 4 EXISTS") && news.contains("VANISHED 2"), "{news}");
    assert!(news.contains("\\Flagged") && news.contains("$Ours"), "{news}");
    assert!(imap.say("UID FETCH 5 (FLAGS BODY[TEXT])").contains("line two of 5"));

    // Theirs: flags, a new keyword, an append, an expunge. It reads a mail that we take away.
    assert!(imap.say("UID STORE 3 +FLAGS (\\Answered $Theirs)").contains("$Theirs"));
    assert!(imap.say("UID STORE 1 +FLAGS (\\Deleted)").contains("\\Deleted"));
    assert!(imap.say("UID EXPUNGE 1").contains("VANISHED 1"));
    mailbox.edit(&[flags(3, Flags::DRAFT, Flags::ANSWERED, &["$Ours"])]).expect("edited");
    mailbox.edit(&[Edit { uid: uid(4), expect: None, kind: EditKind::Expunge }]).expect("edited");
    let gone = imap.say("UID FETCH 4 (BODY[TEXT])");
    assert!(!gone.contains("line two"), "{gone}");
    assert!((gone + &imap.say("NOOP")).contains("VANISHED 4"));
    assert!(imap.say("UID STORE 3 +FLAGS ($Theirs2)").contains("$Theirs2"));
    mailbox.refresh().expect("refreshed");
    drop(imap);
    let seen = inbox(&lab);
    assert_eq!(seen.mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(seen.mails[0].flags, ["$Ours", "$Theirs", "$Theirs2", "\\Draft"]);
    assert_we_see(&mut *mailbox, &seen);

    // The log tells what was theirs, not what was ours, and all that is gone.
    let changes = mailbox.changes(Since::Everything).expect("read");
    let gone: Vec<_> = changes
        .mails
        .iter()
        .filter_map(|c| match c {
            LogChange::Expunged { uid, guid } => Some((uid.get(), guid.is_some())),
            LogChange::Flags { .. } => None,
        })
        .collect();
    assert_eq!(gone, [(1, gone[0].1), (2, true), (4, true)]);
    let theirs = changes.mails.iter().find(|c| c.uid() == uid(3)).expect("they changed it");
    let LogChange::Flags { added, keywords_added, .. } = theirs else { panic!("{theirs:?}") };
    assert_eq!((*added, keywords_added), (Flags::ANSWERED, &keywords(&["$Theirs", "$Theirs2"])));
    lab.silent();
}

#[test]
fn what_others_asked_for_is_carried_out() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    create(&lab, "INBOX", GUID, 1_600_000_000);
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    for n in 1..=3 {
        stage(&mut *mailbox, new_mail(n, &format!("guid-{n}")), &text(n));
    }
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    // A request as a session leaves it that dies before its sync.
    let place = place(&lab.root(), "INBOX");
    {
        use dsync::index::{Bits, Durability, Files, Index, Options, Transaction};
        let files = Files::new(&place.index, Files::MAILBOX);
        let mut index = Index::open(files, Options::new(dsync::index::Settings::default(), place.modes)).expect("opened");
        let mut request = Transaction::new(Bits::INTERNAL);
        request.expunge(uid(2), dsync::mail::Guid128::ZERO);
        index.lock().expect("free").commit(&request, Durability::Mail).expect("written");
    }
    mailbox.refresh().expect("refreshed");
    assert_eq!(mailbox.mails().iter().map(|m| m.uid.get()).collect::<Vec<_>>(), [1, 3]);
    assert!(!place.mailbox.join("u.2").exists());
    let seen = inbox(&lab);
    assert_eq!(seen.mails.len(), 2);
    mailbox.refresh().expect("refreshed");
    assert_we_see(&mut *mailbox, &seen);
    lab.silent();
}

#[test]
fn attachments_go_with_their_mail_and_with_its_uid() {
    if !have_dovecot() {
        return;
    }
    let mut lab = lab();
    copy_tree(&fixture("attach/sdbox/mail"), &lab.root());
    let attach = lab.path().join("home/attach");
    copy_tree(&fixture("attach/sdbox/attach"), &attach);
    // Single instances are links of each other, which the fixture cannot keep.
    for (path, bytes) in contents(&attach) {
        let hashes = path.parent().expect("a directory").join("hashes");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if let Some((hash, _)) = name.split_once('-') {
            assert_eq!(std::fs::read(hashes.join(hash)).expect("shared"), bytes);
            std::fs::remove_file(&path).and_then(|()| std::fs::hard_link(hashes.join(hash), &path)).expect("linked");
        }
    }
    lab.extra.push(format!("mail_attachment_dir={}", attach.display()));
    let settings = Settings { attachment_dir: Some(attach.clone()), ..Settings::default() };
    let before = inbox(&lab);
    let mut mailbox = open(&lab.root(), "INBOX", &settings);
    assert_we_see(&mut *mailbox, &before);

    // Another UID, another GUID of the mailbox: the names follow.
    let first = before.mails[0].clone();
    let renumbered = NewMail {
        received: dsync::mail::Timestamp(first.received),
        saved: dsync::mail::Timestamp(first.saved),
        ..new_mail(20, &first.guid)
    };
    mailbox.stage_copy(renumbered, uid(first.uid), dsync::mail::Original::Expunge).expect("staged");
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    mailbox.refresh().expect("refreshed");
    let other = "aa112233445566778899aabbccddeeff".parse().expect("a GUID");
    mailbox.set_identity(other, mailbox.status().identity.uidvalidity).expect("set");
    mailbox.refresh().expect("refreshed");
    let seen = inbox(&lab);
    let last = seen.mails.last().expect("three mails");
    assert_eq!((last.uid, &last.text, &last.guid), (20, &first.text, &first.guid));
    assert_we_see(&mut *mailbox, &seen);
    assert!(contents(&attach).keys().all(|p| !p.to_string_lossy().contains("2e872332d7ff016b215f000083ecc375-")));

    // Expunged one by one: the shared content goes with the last of them.
    for mail in seen.mails {
        assert!(!contents(&attach).is_empty());
        mailbox.edit(&[Edit { uid: uid(mail.uid), expect: None, kind: EditKind::Expunge }]).expect("expunged");
    }
    assert_eq!(contents(&attach).into_keys().collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
    assert!(inbox(&lab).mails.is_empty());
    lab.silent();
}

#[test]
fn mails_in_the_alternative_storage() {
    if !have_dovecot() {
        return;
    }
    let mut lab = lab();
    let alt = lab.path().join("home/alt");
    lab.extra = vec![format!("mail_location=sdbox:{}:ALT={}", lab.root().display(), alt.display())];
    for n in 1..=4 {
        lab.save("INBOX", text(n).as_bytes());
    }
    lab.doveadm(&["altmove", "mailbox", "INBOX", "uid", "1:3"]);
    let mut place = place(&lab.root(), "INBOX");
    let alt_box = alt.join("mailboxes/INBOX/dbox-Mails");
    place.alt = Some(alt_box.clone());
    assert!(alt_box.join("u.1").exists() && !place.mailbox.join("u.1").exists());
    let mut mailbox = Sdbox::new(Settings::default()).open(&place).expect("opened");
    let seen = inbox(&lab);
    assert_we_see(&mut *mailbox, &seen);

    // A copy stays there, an expunge finds it there, a new mail does not go there.
    let second = seen.mails[1].clone();
    let copy = NewMail {
        received: dsync::mail::Timestamp(second.received),
        saved: dsync::mail::Timestamp(second.saved),
        ..new_mail(10, &second.guid)
    };
    mailbox.stage_copy(copy, uid(2), dsync::mail::Original::Expunge).expect("staged");
    stage(&mut *mailbox, new_mail(11, "eleven"), &text(11));
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    mailbox.refresh().expect("refreshed");
    mailbox.edit(&[Edit { uid: uid(3), expect: None, kind: EditKind::Expunge }]).expect("expunged");
    let there = |dir: &std::path::Path, n: u32| dir.join(format!("u.{n}")).exists();
    assert!(there(&alt_box, 10) && there(&place.mailbox, 11));
    assert!(!there(&alt_box, 2) && !there(&alt_box, 3) && !there(&alt_box, 11));
    mailbox.refresh().expect("refreshed");
    let seen = inbox(&lab);
    assert_eq!(seen.mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 4, 10, 11]);
    assert_eq!(seen.mails[2].text, second.text);
    assert_we_see(&mut *mailbox, &seen);

    // A rebuild leaves there what stays as it is, and brings here what gets another UID.
    let as_seen = |n: u32, at: usize| {
        let (received, saved) = (seen.mails[at].received, seen.mails[at].saved);
        let (received, saved) = (dsync::mail::Timestamp(received), dsync::mail::Timestamp(saved));
        let mail = NewMail { received, saved, ..new_mail(n, &seen.mails[at].guid) };
        RebuildMail { mail, from: RebuildFrom::Present(uid(seen.mails[at].uid)) }
    };
    let mails = vec![as_seen(1, 0), as_seen(2, 2), as_seen(3, 3)];
    let identity = Identity { uid_next: uid(4), ..mailbox.status().identity };
    mailbox.rebuild(Rebuild { identity, first_recent: uid(1), highest_modseq: ModSeq(1), mails }).expect("rebuilt");
    let after = inbox(&lab);
    assert_eq!(after.mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [1, 2, 3]);
    for (mail, at) in after.mails.iter().zip([0, 2, 3]) {
        assert_eq!((&mail.text, &mail.guid, mail.saved), (&seen.mails[at].text, &seen.mails[at].guid, seen.mails[at].saved));
    }
    assert_we_see(&mut *mailbox, &after);
    assert!(there(&alt_box, 1) && there(&place.mailbox, 2) && there(&place.mailbox, 3));
    assert_eq!(contents(&alt_box).len(), 1);
    lab.save("INBOX", text(9).as_bytes());
    lab.silent();
}

#[test]
fn written_by_dovecot_2_4_read_alike() {
    let dir = tempfile::Builder::new().prefix("dsync-sdbox-").tempdir().expect("scratch directory");
    copy_tree(&fixture("v24-sdbox"), dir.path());
    let before = contents(dir.path());
    let expected: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("v24-sdbox").join("expected.json")).expect("there")).expect("JSON");
    let number = |v: &serde_json::Value| v.as_str().expect("text").parse::<u64>().expect("a number");
    for status in expected["status"].as_array().expect("a list") {
        let name = status["mailbox"].as_str().expect("text");
        let on_disk = if name == "Ärger" { "&AMQ-rger" } else { name };
        let mut mailbox = open(&dir.path().join("mail"), on_disk, &Settings::default());
        let ours = mailbox.status();
        assert_eq!(ours.identity.guid.to_string(), status["guid"]);
        assert_eq!(u64::from(ours.identity.uidvalidity.get()), number(&status["uidvalidity"]));
        assert_eq!(u64::from(ours.identity.uid_next.get()), number(&status["uidnext"]));
        assert_eq!(ours.highest_modseq.0, number(&status["highestmodseq"]));
        let mails: Vec<_> =
            expected["mails"].as_array().expect("a list").iter().filter(|m| m["mailbox"] == name).cloned().collect();
        assert_eq!(mails.len(), mailbox.mails().len());
        for want in mails {
            let uid = uid(u32::try_from(number(&want["uid"])).expect("32 bits"));
            let facts = mailbox.facts(uid).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(mailbox.guid(uid).expect("there").to_string(), want["guid"]);
            assert_eq!(u64::from(facts.received.0), number(&want["date.received.unixtime"]));
            assert_eq!(u64::from(facts.saved.0), number(&want["date.saved.unixtime"]));
            assert_eq!(facts.virtual_size, Some(number(&want["size.virtual"])));
            let text = read(mailbox.body(uid).unwrap_or_else(|e| panic!("{e}")));
            assert_eq!(text.len() as u64, number(&want["size.physical"]));
        }
    }
    assert!(before == contents(dir.path()));
}

#[test]
fn what_looks_compressed_reaches_dovecot_as_it_is() {
    if !have_dovecot() {
        return;
    }
    let mut lab = lab();
    lab.extra.push("mail_plugins=zlib".into());
    create(&lab, "INBOX", GUID, 1_600_000_000);
    let settings = Settings { plugins: vec!["zlib".into()], ..Settings::default() };
    let mut mailbox = open(&lab.root(), "INBOX", &settings);
    stage(&mut *mailbox, new_mail(1, "one"), "BZh9: strange header\r\n\r\nbody\r\n");
    stage(&mut *mailbox, new_mail(2, "two"), &text(2));
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    mailbox.refresh().expect("refreshed");
    let seen = inbox(&lab);
    assert_eq!(seen.mails[0].text.replace('\r', ""), "BZh9: strange header\n\nbody\n");
    assert_we_see(&mut *mailbox, &seen);
    lab.silent();
}

#[test]
fn a_store_that_encrypts_is_not_written_to() {
    let dir = tempfile::Builder::new().prefix("dsync-sdbox-").tempdir().expect("scratch directory");
    copy_tree(&fixture("crypt/sdbox"), dir.path());
    let settings =
        Settings { plugins: vec!["mail_crypt".into()], mail_crypt_save_version: Some("2".into()), ..Settings::default() };
    let mut mailbox = open(&dir.path().join("mail"), "INBOX", &settings);
    let e = mailbox.stage(new_mail(9, "nine"), dsync::mail::Body::from_bytes("x")).expect_err("refused");
    assert!(e.to_string().contains("mail_crypt"), "{e}");
}

#[test]
fn a_mail_that_is_expunged_before_it_gets_its_new_uid_does_not_come_back() {
    if !have_dovecot() {
        return;
    }
    let lab = lab();
    lab.save("INBOX", text(1).as_bytes());
    lab.save("INBOX", text(2).as_bytes());
    let mut mailbox = open(&lab.root(), "INBOX", &Settings::default());
    for (from, to) in [(1, 11), (2, 12)] {
        let guid = mailbox.guid(uid(from)).expect("a GUID").to_string();
        mailbox.stage_copy(new_mail(to, &guid), uid(from), dsync::mail::Original::Expunge).expect("staged");
    }
    lab.doveadm(&["expunge", "mailbox", "INBOX", "uid", "1"]);
    let saved = mailbox.commit(dsync::mail::Uid::LAST).expect("committed").saved;
    assert_eq!(saved, [dsync::mail::Saved { wanted: uid(12), got: uid(12) }]);
    assert_eq!(inbox(&lab).mails.iter().map(|m| m.uid).collect::<Vec<_>>(), [12]);
    mailbox.refresh().expect("refreshed");
    assert_we_see(&mut *mailbox, &inbox(&lab));
    lab.silent();
}
