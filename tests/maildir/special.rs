//! What is not met every day: compressed mails, shared mailboxes, names that cannot be changed, doubled files, other line ends.

use std::path::Path;
use std::process::Command;

use dsync::mail::{Body, Flags, Original, Timestamp};
use dsync::store::Settings;
use dsync::store::format::Format;

use crate::lab::{Lab, UID, have_dovecot};
use crate::live::agree;
use crate::ours::{all, flags, format, format_with, new_mail, open, place, text, uid};

fn owned(path: &Path) {
    std::os::unix::fs::chown(path, Some(UID), Some(UID)).expect("root");
}

/// Puts a file into a Maildir as another program would.
fn put(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    std::fs::write(&path, content).expect("written");
    owned(&path);
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("there");
    let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn compressed_mails() {
    if !have_dovecot() {
        return;
    }
    let plugins = |method: &str| format!("mail_plugins = zlib\nplugin {{\n  zlib_save = {method}\n}}");
    for method in ["gz", "bz2", "lz4", "zstd"] {
        let lab = Lab::with(&plugins(method), "");
        let long = text(1) + &"the same line again and again\n".repeat(200);
        lab.save("INBOX", long.as_bytes());
        let settings = Settings { plugins: vec!["zlib".into()], ..Settings::default() };
        let mut mailbox = format_with(settings).open(&place(&lab.inbox())).expect("opens");
        let file = lab.inbox().join("new").join(&names(&lab.inbox().join("new"))[0]);
        assert!(std::fs::metadata(&file).expect("there").len() < 1000, "{method} is not compressed");
        assert_eq!(all(&mut *mailbox)[0].text, long, "{method}");
        // A plain mail beside it is a mail as well; and so is one that merely looks compressed.
        mailbox.stage(new_mail(2, &"ab".repeat(16)), Body::from_bytes(text(2))).expect("staged");
        mailbox.stage(new_mail(3, &"cd".repeat(16)), Body::from_bytes("BZh9: not compressed\n\nx\n")).expect("staged");
        mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
        agree(&lab, &mut *mailbox);
        // Without the plugin the file is what it is.
        let plain = std::fs::read(&file).expect("there");
        let mut mailbox = open(&lab.inbox());
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut mailbox.body(uid(1)).expect("a body").reader, &mut read).expect("readable");
        assert_eq!(read, plain);
    }
}

#[test]
fn line_ends_as_the_setting_wants_them() {
    if !have_dovecot() {
        return;
    }
    for save_crlf in [false, true] {
        let lab = Lab::with(&format!("mail_save_crlf = {}", if save_crlf { "yes" } else { "no" }), "");
        let odd = "Subject: odd\r\n\r\nbare\rcr\r\r\nlf\nend";
        lab.save("INBOX", odd.as_bytes());
        let theirs = names(&lab.inbox().join("new"))[0].clone();
        let settings = Settings { save_crlf, ..Settings::default() };
        let mut mailbox = format_with(settings).open(&place(&lab.inbox())).expect("opens");
        mailbox.stage(new_mail(2, &"ab".repeat(16)), Body::from_bytes(odd)).expect("staged");
        mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
        let ours = names(&lab.inbox().join("cur"))[0].clone();
        let sizes = |name: &str| name.split_once(",S=").map(|(_, sizes)| sizes.trim_end_matches(":2,").to_owned());
        assert_eq!(sizes(&ours), sizes(&theirs));
        assert_eq!(
            std::fs::read(lab.inbox().join("cur").join(ours)).expect("there"),
            std::fs::read(lab.inbox().join("new").join(theirs)).expect("there")
        );
        lab.silent();
    }
}

#[test]
fn a_name_that_cannot_be_changed_is_changed_later() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    let mut imap = lab.imap();
    imap.append("INBOX", "(\\Draft)", &text(1).replace('\n', "\r\n"));
    drop(imap);
    let mut mailbox = open(&lab.inbox());
    let cur = lab.inbox().join("cur");
    let attribute = |what: &str| Command::new("chattr").arg(what).arg(&cur).status().is_ok_and(|s| s.success());
    if !attribute("+i") {
        eprintln!("skipped: this file system has no immutable directories");
        return;
    }
    let edited = mailbox.edit(&[flags(1, Flags::SEEN, Flags::NONE)]);
    let refreshed = mailbox.refresh();
    let seen = mailbox.mails()[0].flags;
    let dump = lab.dump("INBOX");
    assert!(attribute("-i"));
    edited.expect("edited");
    refreshed.expect("refreshed");
    assert_eq!(seen, Flags::SEEN | Flags::DRAFT);
    assert_eq!(dump.mail(1).flags, ["\\Draft", "\\Seen"]);
    assert!(names(&cur)[0].ends_with(":2,D"));
    mailbox.refresh().expect("refreshed");
    assert!(names(&cur)[0].ends_with(":2,DS"), "{:?}", names(&cur));
    // Dovecot complained about the directory while it could not be written.
    std::fs::remove_file(lab.path().join("dovecot.log")).ok();
    agree(&lab, &mut *mailbox);
}

#[test]
fn seen_is_private_in_a_shared_mailbox() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::with("", ":INDEX=~/index");
    for d in ["", "cur", "new", "tmp"] {
        std::fs::create_dir_all(lab.inbox().join(d)).expect("writable");
        owned(&lab.inbox().join(d));
    }
    put(&lab.inbox(), "dovecot-shared", "");
    put(&lab.inbox(), "cur/1700000001.M1P1.h:2,FS", &text(1));
    put(&lab.inbox(), "cur/1700000002.M1P1.h:2,", &text(2));
    lab.doveadm(&["flags", "add", "\\Seen \\Answered", "mailbox", "INBOX", "uid", "2"]);
    let theirs = lab.dump("INBOX");
    let mut shared = place(&lab.inbox());
    shared.index = lab.home().join("index/.INBOX");
    shared.cache.clone_from(&shared.index);
    let mut mailbox = format().open(&shared).expect("opens");
    let ours: Vec<_> = all(&mut *mailbox).into_iter().map(|m| m.flags).collect();
    assert_eq!(ours, theirs.mails.iter().map(|m| m.flags.clone()).collect::<Vec<_>>());
    assert_eq!(ours, [vec!["\\Flagged"], vec!["\\Answered", "\\Seen"]]);
    let refused = mailbox.edit(&[flags(1, Flags::SEEN, Flags::NONE)]).expect_err("read only");
    assert!(refused.to_string().contains("dovecot-shared"), "{refused}");
    lab.silent();
}

#[test]
fn doubled_and_nameless_files_become_mails_of_their_own() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    lab.save("INBOX", text(9).as_bytes());
    put(&lab.inbox(), "cur/1700000001.a.host,S=5:2,", &text(1));
    put(&lab.inbox(), "cur/1700000001.a.host,S=5:2,S", &text(2));
    put(&lab.inbox(), "cur/:2,F", &text(3));
    let mut mailbox = open(&lab.inbox());
    let mut texts: Vec<_> = all(&mut *mailbox).into_iter().map(|m| m.text).collect();
    texts.sort();
    assert_eq!(texts, [text(1), text(2), text(3), text(9)]);
    // The wrong size in the name would make Dovecot complain.
    let names: Vec<_> = names(&lab.inbox().join("new"));
    assert_eq!(names.iter().filter(|n| n.ends_with(",S=5")).count(), 1, "{names:?}");
}

#[test]
fn a_hard_link_does_not_move_the_saved_date_of_its_source() {
    if !have_dovecot() {
        return;
    }
    let lab = Lab::new();
    lab.save("INBOX", text(1).as_bytes());
    let mut mailbox = open(&lab.inbox());
    let before = agree(&lab, &mut *mailbox);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut copy = new_mail(5, "another GUID?no");
    copy.received = Timestamp(before.mail(1).received);
    copy.saved = Timestamp(1_234_567_890);
    mailbox.stage_copy(copy, uid(1), Original::Keep).expect("staged");
    mailbox.commit(dsync::mail::Uid::LAST).expect("committed");
    let after = agree(&lab, &mut *mailbox);
    assert_eq!((after.mail(1).saved, after.mail(5).saved), (before.mail(1).saved, 1_234_567_890));
}
