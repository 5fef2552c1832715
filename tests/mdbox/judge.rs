//! What must hold for a storage after whatever was done to it: dbox.md 12, test 2, by a reader that shares nothing with ours
//! but the log's grammar (Dovecot's own dump of the map), and Dovecot's view compared with ours.

use std::collections::BTreeMap;

use dsync::mail::Mailbox;
use dsync::store::mdbox::Mdbox;

use crate::common::{self, flag_names};
use crate::lab::{Lab, Seen};

/// A map record as `doveadm dump` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub uid: u32,
    pub file_id: u32,
    pub offset: u64,
    pub size: u64,
    pub refs: u32,
}

/// The map as Dovecot reads it.
pub fn map(lab: &Lab) -> Vec<Record> {
    let path = lab.root().join("storage");
    let dump = lab.doveadm(&["dump", "-t", "index", path.join("dovecot.map.index").to_str().expect("ascii")]);
    let mut out: Vec<Record> = Vec::new();
    let field = |name: &str| dump.lines().find(|l| l.starts_with(name)).and_then(|l| l.split(" = ").nth(1)).expect(name);
    assert_eq!(field("log file tail offset"), field("log file head offset"), "the tail is behind");
    assert_eq!(field("flags"), "0", "fsckd");
    for line in dump.lines() {
        if let Some(rest) = line.strip_prefix("RECORD: ") {
            let uid = rest.split(['=', ',']).nth(3).expect("a uid").trim().parse().expect("a number");
            out.push(Record { uid, file_id: 0, offset: 0, size: 0, refs: 0 });
        }
        let Some(last) = out.last_mut() else { continue };
        let hex = || {
            let text = line.rsplit_once('(').map_or("", |(_, h)| h.trim_end_matches(')'));
            hex::decode(text).expect("hex")
        };
        let number = |b: &[u8]| b.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let line_name = line.split_whitespace().nth(3);
        if line.trim_start().starts_with("- ext") && line_name == Some("map") {
            let b = hex();
            (last.file_id, last.offset, last.size) = (number(&b[0..4]) as u32, number(&b[4..8]), number(&b[8..12]));
        } else if line.trim_start().starts_with("- ext") && line_name == Some("ref") {
            last.refs = number(&hex()) as u32;
        }
    }
    out
}

/// The messages of a file: offset and size. Written for the tests from dbox.md 1.1 alone.
pub fn messages(bytes: &[u8]) -> Vec<(u64, u64)> {
    let mut at = bytes.iter().position(|&b| b == b'\n').expect("a first line") + 1;
    let mut out = Vec::new();
    while at < bytes.len() {
        assert_eq!(&bytes[at..at + 3], b"\x01\x02N", "no message at {at}");
        let size = std::str::from_utf8(&bytes[at + 13..at + 29]).expect("hex");
        let metadata = at + 30 + usize::from_str_radix(size, 16).expect("hex");
        assert_eq!(&bytes[metadata..metadata + 4], b"\n\x01\x03\n", "no metadata at {metadata}");
        let end = metadata + 4 + bytes[metadata + 3..].windows(2).position(|w| w == b"\n\n").expect("an end") + 1;
        out.push((at as u64, (end - at) as u64));
        at = end;
    }
    out
}

/// Files of the storage, by id.
pub fn files(lab: &Lab) -> BTreeMap<u32, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(lab.root().join("storage")).expect("storage") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("ascii");
        if let Some(id) = name.strip_prefix("m.") {
            out.insert(id.parse().unwrap_or_else(|_| panic!("a strange file {name}")), std::fs::read(&path).expect("a file"));
        }
    }
    out
}

/// How strict the invariants are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing was interrupted.
    Calm,
    /// A crash may have left messages and files without record.
    Crash,
}

/// Every record has its message, every reference is counted, nothing is without record; Dovecot is silent and sees the
/// same as we do.
#[track_caller]
pub fn check(lab: &Lab, after: After) {
    let dump = lab.dump();
    lab.silent();
    let records = map(lab);
    let files = files(lab);
    let mut known: BTreeMap<u32, Vec<(u64, u64)>> = files.iter().map(|(&id, b)| (id, messages(b))).collect();
    for r in &records {
        let of_file = known.get_mut(&r.file_id).unwrap_or_else(|| panic!("{r:?}: m.{} is missing", r.file_id));
        let at = of_file.iter().position(|m| *m == (r.offset, r.size)).unwrap_or_else(|| panic!("{r:?}: no such message"));
        of_file.remove(at);
    }
    if after == After::Calm {
        known.retain(|_, m| !m.is_empty());
        assert!(known.is_empty(), "messages without record: {known:?}");
        let left: Vec<_> = std::fs::read_dir(lab.root().join("storage"))
            .expect("storage")
            .map(|e| e.expect("an entry").file_name())
            .filter(|n| n.to_string_lossy().starts_with(".temp"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    let mut format = common::begin(&lab.root(), &dsync::store::Settings::default()).expect("sound");
    let mut counted: u64 = 0;
    for (name, seen) in &dump {
        let mut mailbox = common::open(&mut format, &lab.root(), name);
        let status = mailbox.status();
        assert_eq!(status.identity.guid.to_string(), seen.guid, "{name}");
        assert_eq!(status.identity.uidvalidity.get(), seen.uidvalidity, "{name}");
        assert_eq!(status.identity.uid_next.get(), seen.uidnext, "{name}");
        assert_eq!(status.highest_modseq.0, seen.highestmodseq, "{name}");
        assert_eq!(mailbox.mails().len(), seen.mails.len(), "{name}");
        for want in &seen.mails {
            same(&mut *mailbox, want, name);
            counted += 1;
        }
    }
    let refs: u64 = records.iter().map(|r| u64::from(r.refs)).sum();
    assert_eq!(refs, counted, "references in the map, and in the mailboxes");
    // Dovecot shows the refcount of each mail: all the mails of one record have the same text, and are that many.
    let mut by_content: BTreeMap<(&str, u32), u32> = BTreeMap::new();
    for m in dump.values().flat_map(|b| &b.mails) {
        *by_content.entry((&m.guid, m.refs)).or_default() += 1;
    }
    for ((guid, refs), count) in by_content {
        assert_eq!(count % refs.max(1), 0, "{guid}: {count} mails say that they have {refs} references");
        assert_ne!(refs, 0, "{guid}");
    }
    lab.silent();
}

/// A mail is for us as Dovecot sees it.
#[track_caller]
pub fn same(mailbox: &mut dyn Mailbox, want: &Seen, name: &str) {
    let at = format!("{name} uid {}", want.uid);
    let uid = common::uid(want.uid);
    let mail = mailbox.mails().iter().find(|m| m.uid == uid).unwrap_or_else(|| panic!("{at}: missing")).clone();
    assert_eq!(flag_names(&mail), want.flags, "{at}");
    assert_eq!(mail.modseq.0, want.modseq, "{at}");
    assert_eq!(mailbox.guid(uid).expect("readable").to_string(), want.guid, "{at}");
    let facts = mailbox.facts(uid).expect("readable");
    assert_eq!((facts.received.0, facts.saved.0), (want.received, want.saved), "{at}");
    assert_eq!(facts.virtual_size, Some(want.virtual_size), "{at}");
    assert_eq!(facts.pop3_uidl.unwrap_or_default(), want.uidl, "{at}");
    assert_eq!(facts.pop3_order, want.order.parse().unwrap_or(0), "{at}");
    let text = common::read(mailbox.body(uid).expect("readable"));
    assert_eq!(text.len() as u64, want.physical, "{at}");
    assert_eq!(String::from_utf8_lossy(&text), want.text, "{at}");
}

/// Opens a mailbox of a lab anew.
pub fn open(lab: &Lab, name: &str) -> (Mdbox, Box<dyn Mailbox>) {
    let mut format = common::begin(&lab.root(), &dsync::store::Settings::default()).expect("sound");
    let mailbox = common::open(&mut format, &lab.root(), name);
    (format, mailbox)
}
