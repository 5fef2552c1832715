//! Doors for the fuzz targets of dbox files (see [`crate::fuzz`]).

use std::sync::Arc;

use super::{DboxFile, External, IndexHeader, NewMetadata, TextRules};
use crate::mail::{MailGuid, Timestamp};
use crate::store::Settings;

/// A whole file: every message with its metadata and text.
pub(crate) fn file(bytes: &[u8]) {
    let _ = IndexHeader::parse(bytes);
    let dir = crate::fuzz::Scratch::new();
    dir.write("u.1", bytes);
    let path = dir.path().join("u.1");
    let open = std::fs::File::open(&path).expect("scratch");
    let Ok(file) = DboxFile::new(Arc::new(open), &path) else { return };
    let settings = Settings { plugins: vec!["zlib".into()], attachment_dir: Some("/nonexistent".into()), ..Settings::default() };
    let rules = TextRules::of(&settings);
    let guid = MailGuid::from_bytes([5; 16]);
    let mut end = 0;
    for message in file.messages() {
        let Ok(message) = message else { break };
        assert!(message.offset >= end && message.end > message.offset && message.end <= bytes.len() as u64);
        assert_eq!(file.message(message.offset).expect("read before"), message);
        end = message.end;
        let m = &message.metadata;
        let _ = (m.received(), m.pop3_uidl(), m.pop3_order(), m.guid(), m.mailbox(), m.virtual_size());
        let new =
            NewMetadata { received: Timestamp(1), guid: &guid, pop3_uidl: Some("x"), pop3_order: 1, mailbox: Some("INBOX") };
        assert_eq!(m.with(&new).guid().expect("just set"), guid);
        let _ = rules.attachments(&file, &message);
        if let Ok(body) = rules.text(&file, &message, None) {
            let _ = std::io::copy(&mut std::io::Read::take(body.reader, 4 << 20), &mut std::io::sink());
        }
    }
}

/// The `X` field, of a text of so many bytes.
pub(crate) fn external(bytes: &[u8]) {
    let _ = External::parse(bytes, 1 << 20);
    let _ = External::parse(bytes, u64::MAX);
}
