//! Every fixture is read as its `expected.json` says, and no byte of it changes.

use std::path::Path;

use dsync::mail::Class;
use dsync::store::Settings;
use dsync::store::format::Format;
use dsync::store::mdbox::Mdbox;
use sha2::Digest;

use crate::common::{self, flag_names};
use crate::lab::{contents, copy_tree, fixture};

struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn of(fixture_name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("dsync-mdbox-").tempdir().expect("scratch directory");
        copy_tree(&fixture(fixture_name), dir.path());
        Self { dir }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("mail")
    }
}

fn expected(name: &str) -> serde_json::Value {
    let text = std::fs::read(fixture(name).join("expected.json")).expect("expected.json");
    serde_json::from_slice(&text).expect("json")
}

/// Compares all that the contract tells with the fixture's description.
fn check(root: &Path, format: &mut Mdbox, expected: &serde_json::Value) {
    let boxes = expected["mailboxes"].as_object().expect("mailboxes");
    assert_eq!(common::places(root).len(), boxes.len());
    for (name, want) in boxes {
        let place = common::place(root, name);
        let identity = format.identity(&place).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(identity.guid.to_string(), want["guid"], "{name}");
        assert_eq!(identity.uidvalidity.get(), want["uidvalidity"], "{name}");
        assert_eq!(identity.uid_next.get(), want["uidnext"], "{name}");

        let mut mailbox = common::open(format, root, name);
        assert_eq!(mailbox.status().identity, identity, "{name}");
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
            assert_eq!(mailbox.guid128(mail.uid).expect("in the index"), guid.to_128(), "{at}");
            let facts = mailbox.facts(mail.uid).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert_eq!(facts.received.0, want["received"], "{at}");
            assert_eq!(facts.saved.0, want["saved"], "{at}");
            assert_eq!(facts.virtual_size.expect("dbox records it"), want["virtual"], "{at}");
            assert_eq!(facts.pop3_uidl.unwrap_or_default(), want["pop3_uidl"].as_str().unwrap_or_default(), "{at}");
            assert_eq!(facts.pop3_order, want["pop3_order"].as_u64().unwrap_or_default() as u32, "{at}");
            let text = common::read(mailbox.body(mail.uid).unwrap_or_else(|e| panic!("{at}: {e}")));
            assert_eq!(text.len(), want["text_len"].as_u64().expect("a number") as usize, "{at}");
            assert_eq!(hex::encode(sha2::Sha256::digest(&text)), want["sha256"], "{at}");
        }
    }
}

fn check_fixture(name: &str, expected_name: &str, settings: &Settings) {
    let scratch = Scratch::of(name);
    let before = contents(&scratch.root());
    let alt = scratch.dir.path().join("alt");
    let location = common::location(&scratch.root(), alt.is_dir().then_some(alt.as_path()));
    let mut settings = settings.clone();
    settings.attachment_dir = Some(scratch.dir.path().join("attach")).filter(|d| d.is_dir());
    let mut format = Mdbox::new(location, settings);
    format.begin(&common::places(&scratch.root())).expect("sound");
    check(&scratch.root(), &mut format, &expected(expected_name));
    drop(format);
    assert!(before == contents(&scratch.root()), "{name}: reading changed the tree");
}

#[test]
fn plain_fixtures() {
    for name in ["mdbox-basic", "mdbox-meta", "mdbox-many", "handwritten", "alt", "attach"] {
        check_fixture(name, name, &Settings::default());
    }
    check_fixture("mdbox-many-purged", "mdbox-many", &Settings::default());
}

#[test]
fn what_dovecot_2_4_wrote() {
    let scratch = Scratch::of("v24-mdbox");
    let before = contents(&scratch.root());
    let expected = expected("v24-mdbox");
    let mut format = common::begin(&scratch.root(), &Settings::default()).expect("sound");
    let mut seen = 0;
    for want in expected["status"].as_array().expect("a list") {
        let name = want["mailbox"].as_str().expect("a name");
        // mUTF-7, as it stands on disk
        let mut mailbox = common::open(&mut format, &scratch.root(), &name.replace('Ä', "&AMQ-"));
        let status = mailbox.status();
        let got = [
            status.identity.guid.to_string(),
            status.identity.uidvalidity.to_string(),
            status.identity.uid_next.to_string(),
            status.highest_modseq.to_string(),
            status.messages.to_string(),
        ];
        assert_eq!(got, ["guid", "uidvalidity", "uidnext", "highestmodseq", "messages"].map(|k| want[k].as_str().expect("text")));
        for want in expected["mails"].as_array().expect("a list").iter().filter(|m| m["mailbox"] == *name) {
            let mail = mailbox.mails().iter().find(|m| want["uid"] == m.uid.to_string()).expect("the mail").clone();
            let facts = mailbox.facts(mail.uid).expect("readable");
            assert_eq!(mailbox.guid(mail.uid).expect("readable").to_string(), want["guid"]);
            let mut flags: Vec<_> = want["flags"].as_str().expect("text").split(' ').filter(|f| !f.is_empty()).collect();
            flags.sort_unstable();
            assert_eq!(flag_names(&mail), flags);
            assert_eq!(mail.modseq.to_string(), want["modseq"]);
            assert_eq!(facts.received.0.to_string(), want["date.received.unixtime"]);
            assert_eq!(facts.saved.0.to_string(), want["date.saved.unixtime"]);
            assert_eq!(facts.virtual_size.expect("recorded").to_string(), want["size.virtual"]);
            assert_eq!(common::read(mailbox.body(mail.uid).expect("readable")).len().to_string(), want["size.physical"]);
            seen += 1;
        }
    }
    assert_eq!(seen, expected["mails"].as_array().expect("a list").len());
    drop(format);
    assert!(before == contents(&scratch.root()), "reading changed the tree");
}

#[test]
fn compressed_fixtures() {
    for method in ["bz2", "gz", "lz4", "zstd"] {
        let name = format!("compress-{method}");
        check_fixture(&name, &name, &Settings { plugins: vec!["zlib".into()], ..Settings::default() });
    }
}

#[test]
fn an_encrypted_mail_is_refused_and_nothing_else() {
    let scratch = Scratch::of("crypt");
    let mut format = common::begin(&scratch.root(), &Settings::default()).expect("sound");
    let mut mailbox = common::open(&mut format, &scratch.root(), "INBOX");
    let uid = mailbox.mails()[0].uid;
    mailbox.guid(uid).expect("metadata is not encrypted");
    let e = mailbox.body(uid).expect_err("encrypted");
    assert!(e.to_string().contains("mail_crypt"), "{e}");
}

/// What became of each mail of a damaged storage: `Ok` or the error's text.
fn bodies(root: &Path, mailbox: &str, format: &mut Mdbox) -> Vec<Result<usize, String>> {
    let mut mailbox = common::open(format, root, mailbox);
    let uids: Vec<_> = mailbox.mails().iter().map(|m| m.uid).collect();
    uids.into_iter().map(|uid| mailbox.body(uid).map(|b| common::read(b).len()).map_err(|e| e.to_string())).collect()
}

#[test]
fn damage_is_named_and_only_its_mails_suffer() {
    for (name, bad) in [
        ("file-header-bad", vec![("INBOX", 4), ("Archive", 2)]),
        ("file-missing", vec![("INBOX", 4), ("Archive", 2)]),
        ("file-truncated", vec![("INBOX", 1)]),
        ("file-orphan-msg", vec![]),
        ("file-partial-tail", vec![]),
        ("file-id-exists", vec![]),
    ] {
        let scratch = Scratch::of(&format!("damaged/{name}"));
        let before = contents(&scratch.root());
        let mut format = common::begin(&scratch.root(), &Settings::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for mailbox in ["INBOX", "Archive"] {
            let got = bodies(&scratch.root(), mailbox, &mut format);
            let errors: Vec<_> = got.iter().filter_map(|r| r.as_ref().err()).collect();
            let want = bad.iter().find(|(b, _)| *b == mailbox).map_or(0, |(_, n)| *n);
            assert_eq!(errors.len(), want, "{name} {mailbox}: {got:?}");
            for e in errors {
                assert!(e.contains("m.1") && e.contains("UID"), "{name}: {e}");
            }
        }
        assert!(before == contents(&scratch.root()), "{name}: reading changed the tree");
    }
}

#[test]
fn a_lost_map_is_never_an_empty_one() {
    let scratch = Scratch::of("damaged/map-missing");
    let before = contents(&scratch.root());
    let e = common::begin(&scratch.root(), &Settings::default()).expect_err("no map");
    assert_eq!(e.class(), Class::Temporary);
    assert!(e.to_string().contains("dovecot.map.index") && e.to_string().contains("doveadm force-resync"), "{e}");
    assert!(before == contents(&scratch.root()), "the tree was changed");
}

#[test]
fn half_a_transaction_at_the_end_of_the_map_is_cut_off() {
    let scratch = Scratch::of("damaged/log-partial-record");
    let log = scratch.root().join("storage/dovecot.map.index.log");
    let before = std::fs::read(&log).expect("there");
    let mut format = common::begin(&scratch.root(), &Settings::default()).expect("sound");
    check(&scratch.root(), &mut format, &expected("mdbox-basic"));
    let after = std::fs::read(&log).expect("there");
    assert!(after.len() < before.len() && before.starts_with(&after));
}

#[test]
fn a_map_that_was_left_behind_is_counted_anew() {
    let scratch = Scratch::of("damaged/map-tail-behind");
    let mut format = common::begin(&scratch.root(), &Settings::default()).expect("mended");
    check(&scratch.root(), &mut format, &expected("mdbox-basic"));
    let map = scratch.root().join("storage/dovecot.map.index.log");
    let len = std::fs::metadata(&map).expect("there").len();
    drop(format);
    common::begin(&scratch.root(), &Settings::default()).expect("sound now");
    assert_eq!(len, std::fs::metadata(&map).expect("there").len(), "a second time there is nothing to mend");
}
