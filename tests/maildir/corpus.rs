//! Every archive of the fixtures is read as `expected.json` says Dovecot reads it.

use std::path::{Path, PathBuf};

use dsync::store::format::Format;

use crate::lab::{contents, fixture, unpack};
use crate::ours::{all, format, open, place};

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).expect("a fixture")).expect("json")
}

fn home(archive: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a scratch directory");
    unpack(archive, dir.path());
    dir
}

/// The directory of a mailbox; names as the fixtures have them.
fn dir_of(home: &Path, mailbox: &str) -> PathBuf {
    let maildir = home.join("Maildir");
    match mailbox {
        "INBOX" => maildir,
        name => maildir.join(format!(".{}", name.replace('/', ".").replace('Ä', "&AMQ-"))),
    }
}

fn str_of<'a>(v: &'a serde_json::Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_else(|| panic!("{key} in {v}"))
}

fn check(archive: &str, expected: &serde_json::Value, exact: bool) {
    let home = home(archive);
    for status in expected["status"].as_array().expect("a list") {
        let name = str_of(status, "mailbox");
        let dir = dir_of(home.path(), name);
        let mut mailbox = open(&dir);
        let got = mailbox.status();
        assert_eq!(got.messages.to_string(), str_of(status, "messages"), "{archive} {name}");
        assert_eq!(got.identity.uid_next.to_string(), str_of(status, "uidnext"), "{archive} {name}");
        if exact {
            assert_eq!(got.identity.guid.to_string(), str_of(status, "guid"), "{archive} {name}");
            assert_eq!(got.identity.uidvalidity.to_string(), str_of(status, "uidvalidity"), "{archive} {name}");
            assert_eq!(got.highest_modseq.to_string(), str_of(status, "highestmodseq"), "{archive} {name}");
        }
        assert_eq!(format().identity(&place(&dir)).expect("an identity"), got.identity);

        let mails: Vec<_> =
            expected["mails"].as_array().expect("a list").iter().filter(|m| str_of(m, "mailbox") == name).collect();
        let ours = all(&mut *mailbox);
        assert_eq!(ours.len(), mails.len(), "{archive} {name}");
        for (ours, theirs) in ours.iter().zip(mails) {
            let place = format!("{archive} {name} UID {}", ours.uid);
            assert_eq!(ours.uid.to_string(), str_of(theirs, "uid"), "{place}");
            assert_eq!(ours.guid, str_of(theirs, "guid"), "{place}");
            let mut flags: Vec<_> = str_of(theirs, "flags").split(' ').filter(|f| !f.is_empty() && *f != "\\Recent").collect();
            flags.sort_unstable();
            assert_eq!(ours.flags, flags, "{place}");
            if exact {
                assert_eq!(ours.modseq.to_string(), str_of(theirs, "modseq"), "{place}");
            }
            assert_eq!(ours.facts.received.0.to_string(), str_of(theirs, "date.received.unixtime"), "{place}");
            if let Some(size) = theirs["size.virtual"].as_str() {
                let lf = ours.text.matches('\n').count();
                assert_eq!((ours.text.len() + lf).to_string(), size, "{place}");
                assert!(ours.facts.virtual_size.is_none_or(|w| w.to_string() == size), "{place}");
            }
            assert_eq!(ours.facts.pop3_uidl.as_deref().unwrap_or(""), theirs["pop3.uidl"].as_str().unwrap_or(""), "{place}");
            if let Some(subject) = theirs["hdr.subject"].as_str() {
                assert!(ours.text.contains(&format!("Subject: {subject}\n")), "{place}: {}", ours.text);
            }
            if let Some(saved) = theirs["date.saved.unixtime"].as_str() {
                assert_eq!(ours.facts.saved.0.to_string(), saved, "{place}");
            }
        }
        // Having looked once, another look changes nothing.
        drop(mailbox);
        let before = contents(&dir);
        drop(open(&dir));
        assert_eq!(contents(&dir), before, "{archive} {name}");
    }
}

#[test]
fn what_dovecot_made() {
    check("basic.tar", &json("expected.json")["basic.tar"], true);
}

#[test]
fn what_dovecot_2_4_made() {
    check("v24.tar", &json("v24-expected.json")["v24.tar"], true);
}

#[test]
fn a_plain_maildir_gets_the_uids_that_dovecot_gives() {
    check("plain-before.tar", &json("expected.json")["plain-before.tar"], false);
    check("plain-after.tar", &json("expected.json")["plain-before.tar"], false);
}

#[test]
fn keyword_letters_of_a_plain_maildir_get_names() {
    let home = home("plain-before.tar");
    drop(open(&dir_of(home.path(), "Sent")));
    let file = dir_of(home.path(), "Sent").join("dovecot-keywords");
    assert_eq!(std::fs::read_to_string(file).expect("there"), "19 unknown-19\n");
}

#[test]
fn a_uidlist_of_version_1() {
    let expected = &json("expected.json")["v1-before.tar"];
    check("v1-before.tar", expected, false);
    let home = home("v1-before.tar");
    let dir = dir_of(home.path(), "INBOX");
    let mailbox = open(&dir);
    assert_eq!(mailbox.status().identity.uidvalidity.get(), 1_234_567_890);
    assert_eq!(mailbox.status().first_recent.get(), 8);
    let written = std::fs::read_to_string(dir.join("dovecot-uidlist")).expect("there");
    let guid = mailbox.status().identity.guid.to_string();
    // Dovecot notes the sizes as well, which is optional (maildir.md 5.1).
    let theirs = str_of(expected, "uidlist_after").replace("<random>", &guid).replace("S206 ", "").replace("S212 ", "");
    assert_eq!(written.trim_end(), theirs);
}

#[test]
fn a_wrong_size_is_not_believed_and_the_name_stays() {
    let home = home("wrongsize.tar");
    let dir = dir_of(home.path(), "INBOX");
    let mut mailbox = open(&dir);
    let ours = all(&mut *mailbox);
    assert_eq!((ours[0].guid.as_str(), ours[0].text.len()), ("1700000001.a.host.example.org,S=181", 206));
    assert!(dir.join("cur/1700000001.a.host.example.org,S=181:2,S").exists());
}

/// What we do with a uidlist that Dovecot would throw away: nothing, and say so.
#[test]
fn uidlist_vectors() {
    for case in json("expected.json")["uidlist_cases"].as_array().expect("a list") {
        let name = str_of(case, "name");
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let dir = scratch.path().join("Maildir");
        for d in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(dir.join(d)).expect("writable");
        }
        for file in ["1700000001.a.host:2,S", "1700000002.b.host:2,"] {
            std::fs::write(dir.join("cur").join(file), "Subject: x\n\nx\n").expect("writable");
        }
        let before = str_of(case, "uidlist_before");
        std::fs::write(dir.join("dovecot-uidlist"), before).expect("writable");
        let opened = format().open(&place(&dir));
        let after = std::fs::read_to_string(dir.join("dovecot-uidlist")).expect("there");
        let broken = before.is_empty() || str_of(case, "log").contains("Broken file") && name != "unknown-keys";
        if broken {
            let text = opened.err().unwrap_or_else(|| panic!("{name} was not refused")).to_string();
            assert!(text.contains("dovecot-uidlist line"), "{name}: {text}");
            assert_eq!(after, before, "{name}");
            continue;
        }
        let mut mailbox = opened.unwrap_or_else(|e| panic!("{name}: {e}"));
        let ours: Vec<_> = all(&mut *mailbox).into_iter().map(|m| (m.uid.to_string(), m.guid)).collect();
        let theirs: Vec<_> = case["fetch"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|m| (str_of(m, "uid").to_owned(), str_of(m, "guid").to_owned()))
            .collect();
        assert_eq!(ours, theirs, "{name}");
        let lines = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        let wanted = match name {
            // Dovecot's own file is damaged there (maildir.md 5.3).
            "torn-last-line" => vec!["1 :1700000001.a.host".to_owned(), "2 :1700000002.b.host".to_owned()],
            _ => lines(str_of(case, "uidlist_after")),
        };
        assert_eq!(lines(&after), wanted, "{name}");
    }
}
