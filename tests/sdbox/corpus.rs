//! Every fixture is read as its `expected.json` says, and no byte of it changes.

use dsync::mail::{Class, Mailbox};
use dsync::store::Settings;
use dsync::store::format::Format;
use dsync::store::sdbox::Sdbox;
use sha2::Digest;

use crate::common::{self, fixture, flag_names, uid};
use crate::lab::{contents, copy_tree};

fn scratch(name: &str) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("dsync-sdbox-").tempdir().expect("scratch directory");
    copy_tree(&fixture(name), dir.path());
    dir
}

fn expected(name: &str) -> serde_json::Value {
    let text = std::fs::read(fixture(name).join("expected.json")).expect("expected.json");
    serde_json::from_slice(&text).expect("json")
}

fn compare(mailbox: &mut dyn Mailbox, want: &serde_json::Value, name: &str) {
    let identity = mailbox.status().identity;
    assert_eq!(identity.guid.to_string(), want["guid"], "{name}");
    assert_eq!(identity.uidvalidity.get(), want["uidvalidity"], "{name}");
    assert_eq!(identity.uid_next.get(), want["uidnext"], "{name}");
    if let Some(highest) = want.get("highestmodseq") {
        assert_eq!(mailbox.status().highest_modseq.0, *highest, "{name}");
    }
    let wanted = want["messages"].as_array().expect("messages");
    assert_eq!(mailbox.status().messages as usize, wanted.len(), "{name}");
    let mails = mailbox.mails().to_vec();
    for (mail, want) in mails.iter().zip(wanted) {
        let at = format!("{name} uid {}", mail.uid);
        assert_eq!(mail.uid.get(), want["uid"], "{at}");
        let mut flags: Vec<&str> = ["flags", "keywords"]
            .iter()
            .flat_map(|k| want[k].as_array().expect("a list"))
            .map(|f| f.as_str().expect("text"))
            .collect();
        flags.sort_unstable();
        assert_eq!(flag_names(mail), flags, "{at}");
        if let Some(modseq) = want.get("modseq") {
            assert_eq!(mail.modseq.0, *modseq, "{at}");
        }
        let guid = mailbox.guid(mail.uid).unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_eq!(guid.to_string(), want["guid"], "{at}");
        assert_eq!(mailbox.guid128(mail.uid).expect("known"), guid.to_128(), "{at}");
        let facts = mailbox.facts(mail.uid).unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_eq!(facts.received.0, want["received"], "{at}");
        assert_eq!(facts.saved.0, want["saved"], "{at}");
        assert_eq!(facts.virtual_size.expect("dbox records it"), want["virtual"], "{at}");
        assert_eq!(facts.pop3_uidl.unwrap_or_default(), want["pop3_uidl"].as_str().unwrap_or_default(), "{at}");
        assert_eq!(u64::from(facts.pop3_order), want["pop3_order"].as_u64().unwrap_or_default(), "{at}");
        let text = common::read(mailbox.body(mail.uid).unwrap_or_else(|e| panic!("{at}: {e}")));
        assert_eq!(text.len() as u64, want["text_len"].as_u64().expect("a number"), "{at}");
        assert_eq!(hex::encode(sha2::Sha256::digest(&text)), want["sha256"], "{at}");
    }
}

fn check(name: &str, expected_name: &str, settings: &Settings) {
    let dir = scratch(name);
    let root = dir.path().join("mail");
    let before = contents(dir.path());
    let mut format =
        Sdbox::new(Settings { attachment_dir: Some(dir.path().join("attach")).filter(|d| d.is_dir()), ..settings.clone() });
    let alt = Some(dir.path().join("alt")).filter(|d| d.is_dir());
    let expected = expected(expected_name);
    let boxes = expected["mailboxes"].as_object().expect("mailboxes");
    assert_eq!(common::names(&root).len(), boxes.len(), "{name}");
    for (mailbox, want) in boxes {
        let mut place = common::place(&root, mailbox);
        place.alt = alt.as_ref().map(|alt| alt.join("mailboxes").join(mailbox).join("dbox-Mails"));
        assert!(format.exists(&place));
        let identity = format.identity(&place).unwrap_or_else(|e| panic!("{name} {mailbox}: {e}"));
        let mut opened = format.open(&place).unwrap_or_else(|e| panic!("{name} {mailbox}: {e}"));
        assert_eq!(opened.status().identity, identity);
        compare(&mut *opened, want, &format!("{name} {mailbox}"));
    }
    assert!(before == contents(dir.path()), "{name}: reading changed the tree");
}

#[test]
fn plain_fixtures() {
    for name in ["sdbox-basic", "sdbox-meta", "attach/sdbox", "alt/sdbox"] {
        check(name, name, &Settings::default());
    }
}

#[test]
fn compressed_fixtures() {
    for method in ["bz2", "gz", "lz4", "zstd"] {
        let name = format!("compress/sdbox-{method}");
        check(&name, &name, &Settings { plugins: vec!["zlib".into()], ..Settings::default() });
    }
}

#[test]
fn damage_is_an_error_of_that_mail_only() {
    check("damaged/sdbox-temp-left", "sdbox-basic", &Settings::default());
    check("damaged/sdbox-orphan-uid", "sdbox-basic", &Settings::default());

    let dir = scratch("damaged/sdbox-lost-uid");
    let before = contents(dir.path());
    let mut mailbox = common::open(&dir.path().join("mail"), "INBOX", &Settings::default());
    for mail in mailbox.mails().to_vec() {
        let text = mailbox.body(mail.uid).map(common::read);
        if mail.uid == uid(2) {
            let e = text.expect_err("its file is gone");
            assert_eq!(e.class(), Class::Temporary, "not an expunge: {e}");
            assert!(e.to_string().contains("u.2"), "{e}");
            assert_eq!(mailbox.facts(mail.uid).expect_err("its file is gone").class(), Class::Temporary);
        } else {
            assert!(!text.unwrap_or_else(|e| panic!("{e}")).is_empty());
        }
    }
    assert!(before == contents(dir.path()));
}

#[test]
fn what_cannot_be_decoded_is_refused_with_its_reason() {
    for (name, reason) in [
        ("crypt/sdbox", "message is encrypted with mail_crypt, which is not supported"),
        ("compress/sdbox-gz", "message is compressed (gz), but no compression plugin configured"),
        ("attach/sdbox", "mail_attachment_dir is not set"),
    ] {
        let dir = scratch(name);
        let mut mailbox = common::open(&dir.path().join("mail"), "INBOX", &Settings::default());
        let first = mailbox.mails()[0].uid;
        mailbox.facts(first).unwrap_or_else(|e| panic!("{name}: metadata are readable: {e}"));
        let e = mailbox.body(first).expect_err("refused");
        assert!(e.to_string().contains(reason), "{e}");
    }
}

#[test]
fn an_alternative_storage_that_is_not_there_loses_nothing() {
    let dir = scratch("alt/sdbox");
    let root = dir.path().join("mail");
    std::fs::rename(dir.path().join("alt"), dir.path().join("unmounted")).expect("moved away");
    let mut place = common::place(&root, "INBOX");
    place.alt = Some(dir.path().join("alt/mailboxes/INBOX/dbox-Mails"));
    let mut mailbox = Sdbox::new(Settings::default()).open(&place).expect("the index is there");
    let e = mailbox.body(uid(1)).expect_err("not mounted");
    assert!(e.class() == Class::Temporary && e.to_string().contains("not mounted"), "{e}");

    place.alt = None;
    std::os::unix::fs::symlink(dir.path().join("alt"), root.join("dbox-alt-root")).expect("the mark");
    let mut mailbox = Sdbox::new(Settings::default()).open(&place).expect("the index is there");
    let e = mailbox.body(uid(1)).expect_err("not configured");
    assert!(e.to_string().contains("no ALT= is configured"), "{e}");
}

#[test]
fn a_damaged_file_is_an_error_with_its_place() {
    let dir = scratch("sdbox-basic");
    let root = dir.path().join("mail");
    let path = common::place(&root, "INBOX").mailbox.join("u.2");
    let good = std::fs::read(&path).expect("there");
    for (bytes, reason) in [
        (&b"rubbish"[..], "(around offset=0): Invalid dbox version"),
        (&good[..100], "(around offset=220): EOF before the metadata block"),
        (&good[..good.len() - 1], "(around offset=220): missing end-of-metadata line"),
        (b"", "Invalid dbox version"),
    ] {
        std::fs::write(&path, bytes).expect("written");
        let before = contents(dir.path());
        let mut mailbox = common::open(&root, "INBOX", &Settings::default());
        let e = mailbox.body(uid(2)).expect_err("damaged");
        assert!(e.to_string().contains("u.2") && e.to_string().contains(reason), "{e}");
        assert_eq!(e.class(), Class::Temporary);
        assert!(mailbox.facts(uid(2)).is_err());
        for n in [1, 3, 4] {
            assert!(!common::read(mailbox.body(uid(n)).unwrap_or_else(|e| panic!("{e}"))).is_empty());
        }
        assert!(before == contents(dir.path()));
    }
}
