//! Files of real Dovecot read, files of ours read back, hostile bytes.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::mail::{Body, MailGuid, Timestamp};
use crate::os::fs::Modes;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dbox")
}

/// Every `u.N` below a directory.
fn mail_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("fixture directory") {
        let path = entry.expect("fixture entry").path();
        if path.is_dir() {
            mail_files(&path, found);
        } else if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("u.")) {
            found.push(path);
        }
    }
}

fn guid(text: &str) -> MailGuid {
    MailGuid::new(text).expect("not empty")
}

fn metadata(guid: &MailGuid) -> NewMetadata<'_> {
    NewMetadata { received: Timestamp(0x6b01_fb01), guid, pop3_uidl: None, pop3_order: 0, mailbox: None }
}

fn stored(file: &DboxFile, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    Body::from_range(file.stored_body(message), None).reader.read_to_end(&mut bytes).expect("readable");
    bytes
}

/// A file of these bytes.
fn file_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("u.1");
    fs::File::create(&path).and_then(|mut f| f.write_all(bytes)).expect("written");
    (dir, path)
}

#[test]
fn every_message_of_the_fixtures_is_read_and_copied_byte_for_byte() {
    let mut files = Vec::new();
    mail_files(&fixtures(), &mut files);
    assert!(files.len() > 40, "only {} files", files.len());
    let out = tempfile::tempdir().expect("temp dir");
    for path in files {
        let file = DboxFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let messages: Vec<_> = file.messages().collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}"));
        let [message] = messages.as_slice() else { panic!("{} messages in {}", messages.len(), path.display()) };
        assert_eq!(message.end, fs::metadata(&path).expect("there").len());
        assert!(message.metadata.guid().is_ok() && message.metadata.received().is_ok());

        let mut writer = Writer::create(out.path(), &Modes::default()).expect("created");
        let written = writer.append_stored(&file, message, &message.metadata).expect("appended");
        writer.sync().expect("synced");
        let copy = fs::read(writer.path()).expect("there");
        let original = fs::read(&path).expect("there");
        let line = usize::try_from(written.offset).expect("small");
        assert_eq!(copy[line..], original[file.header().len..], "{}", path.display());
    }
}

#[test]
fn plain_mails_of_the_fixtures_come_out_as_dovecot_stored_them() {
    let mut files = Vec::new();
    mail_files(&fixtures().join("sdbox-basic"), &mut files);
    mail_files(&fixtures().join("sdbox-meta"), &mut files);
    let out = tempfile::tempdir().expect("temp dir");
    for path in files {
        let file = DboxFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let message = file.message(0).unwrap_or_else(|e| panic!("{e}"));
        // As it would come over a wire: with CRLF everywhere.
        let text = stored(&file, &message);
        let mut crlf = Vec::new();
        for &c in &text {
            if c == b'\n' {
                crlf.push(b'\r');
            }
            crlf.push(c);
        }
        let (guid, uidl) = (message.metadata.guid().expect("there"), message.metadata.pop3_uidl());
        let new = NewMetadata {
            received: message.metadata.received().expect("a number"),
            guid: &guid,
            pop3_uidl: uidl.as_deref(),
            pop3_order: message.metadata.pop3_order(),
            mailbox: None,
        };
        let mut writer = Writer::create(out.path(), &Modes::default()).expect("created");
        let written = writer.append(&NewMessage { metadata: new, guard_magic: true }, Body::from_bytes(crlf)).expect("appended");
        writer.sync().expect("synced");
        assert_eq!(Some(written.virtual_size), message.metadata.virtual_size());
        let copy = fs::read(writer.path()).expect("there");
        let original = fs::read(&path).expect("there");
        assert_eq!(copy[usize::try_from(written.offset).expect("small")..], original[file.header().len..], "{}", path.display());
    }
}

#[test]
fn large_and_many_messages_in_one_file() {
    let dir = tempfile::tempdir().expect("temp dir");
    let guid = guid("g");
    let mut writer = Writer::create(dir.path(), &Modes::default()).expect("created");
    let texts: Vec<Vec<u8>> = [0usize, 1, 255 << 10, 256 << 10, (256 << 10) + 1, 3_000_000, 17]
        .iter()
        .map(|&n| (0..n).map(|i| if i % 61 == 60 { b'\n' } else { b'a' + u8::try_from(i % 7).expect("small") }).collect())
        .collect();
    let mut written = Vec::new();
    for text in &texts {
        let mut body = Body::from_bytes(text.clone());
        if text.len() % 2 == 0 {
            body.size = None;
        }
        written.push(writer.append(&NewMessage { metadata: metadata(&guid), guard_magic: false }, body).expect("appended"));
    }
    writer.sync().expect("synced");
    let file = DboxFile::open(writer.path()).expect("valid");
    let messages: Vec<_> = file.messages().collect::<Result<_, _>>().expect("valid");
    assert_eq!(messages.len(), texts.len());
    for ((message, text), written) in messages.iter().zip(&texts).zip(&written) {
        assert_eq!((message.offset, message.size(), message.plain_size()), (written.offset, written.size, written.plain_size));
        assert_eq!(message.metadata.virtual_size(), Some(written.virtual_size));
        assert!(stored(&file, message) == *text);
    }
    let temp = writer.path().to_owned();
    drop(writer);
    assert!(!temp.exists());
}

#[test]
fn a_body_that_breaks_off_leaves_nothing_behind() {
    struct Broken(u64);
    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            let n = buf.len().min(usize::try_from(self.0).expect("small"));
            buf[..n].fill(b'x');
            self.0 -= n as u64;
            Ok(n)
        }
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let guid = guid("g");
    let new = NewMessage { metadata: metadata(&guid), guard_magic: false };
    let mut writer = Writer::create(dir.path(), &Modes::default()).expect("created");
    writer.append(&new, Body::from_bytes("first\n")).expect("appended");
    for size in [10, 5_000_000] {
        let body = Body::from_reader(Box::new(Broken(size)), None, None);
        assert!(matches!(writer.append(&new, body), Err(AppendError::Body(_))));
        let short = Body::from_reader(Box::new(std::io::repeat(b'x').take(size)), Some(size + 1), None);
        assert!(matches!(writer.append(&new, short), Err(AppendError::Body(_))));
    }
    writer.append(&new, Body::from_bytes("second\n")).expect("appended");
    writer.sync().expect("synced");
    let file = DboxFile::open(writer.path()).expect("valid");
    let texts: Vec<_> = file.messages().map(|m| stored(&file, &m.expect("valid"))).collect();
    assert_eq!(texts, [b"first\n".to_vec(), b"second\n".to_vec()]);
}

#[test]
fn a_text_that_looks_compressed_is_compressed_where_readers_look() {
    let dir = tempfile::tempdir().expect("temp dir");
    let guid = guid("g");
    let text = b"BZh9\r\nthis is a mail\r\n".repeat(40_000);
    let mut writer = Writer::create(dir.path(), &Modes::default()).expect("created");
    let new = NewMessage { metadata: metadata(&guid), guard_magic: true };
    let written = writer.append(&new, Body::from_bytes(text)).expect("appended");
    writer.sync().expect("synced");
    let file = DboxFile::open(writer.path()).expect("valid");
    let message = file.message(0).expect("valid");
    assert_eq!(message.plain_size(), written.plain_size);
    assert!(stored(&file, &message).starts_with(&[0x1f, 0x8b]));
    let mut again = Vec::new();
    crate::store::decode::decoder(crate::store::decode::Method::Gz, Body::from_range(file.stored_body(&message), None).reader)
        .and_then(|mut r| r.read_to_end(&mut again))
        .expect("gz");
    assert!(again == b"BZh9\nthis is a mail\n".repeat(40_000));
}

#[test]
fn what_cannot_stand_on_a_line_is_an_error_of_that_mail() {
    let dir = tempfile::tempdir().expect("temp dir");
    let guid = guid("g");
    let mut writer = Writer::create(dir.path(), &Modes::default()).expect("created");
    let new = NewMetadata { pop3_uidl: Some("a\nGother"), ..metadata(&guid) };
    let failed = writer.append(&NewMessage { metadata: new, guard_magic: false }, Body::from_bytes("x"));
    assert!(matches!(failed, Err(AppendError::Body(_))));
}

#[test]
fn damage_is_told_with_its_place() {
    let good = fs::read(fixtures().join("sdbox-basic/mail/mailboxes/INBOX/dbox-Mails/u.1")).expect("fixture");
    for (cut, text) in [
        (0, "(around offset=0): Invalid dbox version"),
        (20, "(around offset=16): EOF reading msg header (got 4/30 bytes)"),
        (60, "(around offset=200): EOF before the metadata block (the body should have 154 bytes)"),
        (210, "(around offset=200): missing end-of-metadata line"),
    ] {
        let (_dir, path) = file_of(&good[..cut]);
        let error = DboxFile::open(&path).and_then(|f| f.message(0)).expect_err("damaged");
        assert!(error.to_string().ends_with(text), "{error}");
    }
}

proptest! {
    /// Whatever the bytes are, there is an answer, and what is found lies inside the file.
    #[test]
    fn hostile_files(bytes in hostile()) {
        let (_dir, path) = file_of(&bytes);
        if let Ok(file) = DboxFile::open(&path) {
            for message in file.messages().flatten() {
                prop_assert!(message.end <= bytes.len() as u64);
                prop_assert!(message.body_offset + message.body_size < message.end);
                let _ = (message.metadata.received(), message.metadata.guid(), message.metadata.pop3_order());
                let _ = message.metadata.external().map(<[u8]>::to_vec);
            }
        }
    }

    /// Cut or changed at any byte: an error, or a message that is whole.
    #[test]
    fn one_byte_wrong(at in 0usize..253, byte: u8) {
        let mut bytes = fs::read(fixtures().join("sdbox-basic/mail/mailboxes/INBOX/dbox-Mails/u.1")).expect("fixture");
        bytes[at] = byte;
        let (_dir, path) = file_of(&bytes);
        if let Ok(message) = DboxFile::open(&path).and_then(|f| f.message(0)) {
            prop_assert!(message.end <= bytes.len() as u64);
        }
        let (_dir, path) = file_of(&bytes[..at]);
        prop_assert!(DboxFile::open(&path).and_then(|f| f.message(0)).is_err());
    }
}

/// Random bytes, and random pieces of the real format in any order.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"2 M1e C6b01fb01\n".to_vec()),
        Just(b"2 M1000 C1\n".to_vec()),
        Just(b"\x01\x02N          0000000000000005\n".to_vec()),
        Just(b"\x01\x02N          FFFFFFFFFFFFFFFF\n".to_vec()),
        Just(b"\x01\x02N          7FFFFFFFFFFFFFF0\n".to_vec()),
        Just(b"hello".to_vec()),
        Just(b"\n\x01\x03\n".to_vec()),
        Just(b"\n\x01\x03\nR1\nG1\nV5\n\n".to_vec()),
        Just(b"X0 5 - aa/bb/x\n".to_vec()),
        Just(b"\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// The texts of all mails of a fixture that `expected.json` describes, compared with it; how many there were.
fn compare_texts(fixture: &str, settings: &crate::store::Settings) -> usize {
    use sha2::Digest;
    let root = fixtures().join(fixture);
    let expected: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join("expected.json")).expect("fixture")).expect("JSON");
    let rules = TextRules::of(settings);
    let mut count = 0;
    for (name, mailbox) in expected["mailboxes"].as_object().expect("mailboxes") {
        for mail in mailbox["messages"].as_array().expect("messages") {
            let uid = u32::try_from(mail["uid"].as_u64().expect("uid")).expect("32 bits");
            let dir = root.join("mail/mailboxes").join(name).join("dbox-Mails");
            let file = DboxFile::open(&dir.join(format!("u.{uid}"))).unwrap_or_else(|e| panic!("{e}"));
            let message = file.message(0).unwrap_or_else(|e| panic!("{e}"));
            let owner = Owner {
                mailbox: mailbox["guid"].as_str().expect("guid").parse().expect("a GUID"),
                uid: crate::mail::Uid::new(uid).expect("not 0"),
            };
            let mut body = rules.text(&file, &message, Some(owner)).unwrap_or_else(|e| panic!("{e}"));
            let mut text = Vec::new();
            body.reader.read_to_end(&mut text).unwrap_or_else(|e| panic!("{fixture} {uid}: {e}"));
            assert_eq!(mail["text_len"], text.len(), "{fixture} {name} {uid}");
            assert_eq!(mail["sha256"], hex::encode(sha2::Sha256::digest(&text)), "{fixture} {name} {uid}");
            assert_eq!(mail["guid"], message.metadata.guid().expect("there").to_string());
            assert_eq!(mail["received"], message.metadata.received().expect("a number").0);
            assert_eq!(mail["physical"], message.plain_size());
            assert_eq!(mail["virtual"].as_u64(), body.virtual_size);
            assert_eq!(body.size, Some(text.len() as u64));
            count += 1;
        }
    }
    count
}

#[test]
fn texts_are_those_that_dovecot_shows() {
    let plain = crate::store::Settings::default();
    let zlib = crate::store::Settings { plugins: vec!["zlib".into()], ..plain.clone() };
    assert_eq!(compare_texts("sdbox-basic", &plain), 6);
    assert_eq!(compare_texts("sdbox-basic", &zlib), 6);
    assert_eq!(compare_texts("sdbox-meta", &plain), 5);
    for method in ["gz", "bz2", "lz4", "zstd"] {
        assert!(compare_texts(&format!("compress/sdbox-{method}"), &zlib) > 1, "{method}");
    }
    let attach = crate::store::Settings { attachment_dir: Some(fixtures().join("attach/sdbox/attach")), ..plain };
    assert_eq!(compare_texts("attach/sdbox", &attach), 3);
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    let first = |fixture: &str, settings: &crate::store::Settings| {
        let file = DboxFile::open(&fixtures().join(fixture).join("mail/mailboxes/INBOX/dbox-Mails/u.1")).expect("fixture");
        let message = file.message(0).expect("whole");
        TextRules::of(settings).text(&file, &message, None).expect_err("refused").to_string()
    };
    let plain = crate::store::Settings::default();
    assert!(first("crypt/sdbox", &plain).ends_with("message is encrypted with mail_crypt, which is not supported"));
    assert!(first("compress/sdbox-gz", &plain).ends_with("message is compressed (gz), but no compression plugin configured"));
    assert!(first("attach/sdbox", &plain).ends_with("but mail_attachment_dir is not set"));
    let crypt = crate::store::Settings { attachment_dir: Some("/nowhere".into()), attachment_fs: "crypt:posix".into(), ..plain };
    assert!(first("attach/sdbox", &crypt).ends_with("mail_attachment_fs=crypt:posix, which is not supported"));
}
