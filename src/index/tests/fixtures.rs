//! Every index of the corpus gives the state that Dovecot shows of it.

use std::path::Path;

use serde_json::{Value, json};

use super::{fixture, options, scratch};
use crate::index::log::{Header, Transactions};
use crate::index::{Files, Index, State};

const FOLDERS: [(&str, &str); 12] = [
    ("minimal-sdbox", ""),
    ("maildir-history", ""),
    ("sdbox-history", ""),
    ("mdbox-history", ""),
    ("mbox-history", ""),
    ("mdbox-layout-index", ""),
    ("v24-separate-index", ""),
    ("list-index", ""),
    ("dsync-destination", "source"),
    ("dsync-destination", "sdbox"),
    ("dsync-destination", "mdbox"),
    ("dsync-destination", "maildir"),
];

/// What the fixtures say about a state, made of ours.
pub(super) fn describe(state: &State) -> Value {
    let snapshot = State::from_snapshot(Path::new("snapshot"), state.to_snapshot()).expect("we read what we write");
    let flags = |row: usize| -> Vec<&str> {
        let bits = state.raw_flags(row);
        let names = [(1, "\\Answered"), (2, "\\Flagged"), (4, "\\Deleted"), (8, "\\Seen"), (16, "\\Draft")];
        names.iter().filter(|n| bits & n.0 != 0).map(|n| n.1).collect()
    };
    let records: Vec<Value> = (0..state.len())
        .map(|row| {
            let mut ext = serde_json::Map::new();
            for (id, name) in state.extensions() {
                let data = state.ext_record(id, row);
                if data.iter().any(|&b| b != 0) {
                    ext.insert(name.to_owned(), json!(hex::encode(data)));
                }
            }
            let mut keywords: Vec<_> = state.keywords(row).iter().map(|k| k.as_str().to_owned()).collect();
            keywords.sort();
            json!({"uid": state.uid(row).get(), "flags": flags(row), "keywords": keywords,
                "modseq": state.modseq(row).0, "ext": ext})
        })
        .collect();
    let extensions: Vec<Value> = snapshot
        .extensions()
        .zip(&snapshot.extensions)
        .map(|((_, name), e)| {
            let hdr = (name != "keywords").then(|| hex::encode(&e.header));
            json!({"name": name, "hdr_size": e.header.len(), "reset_id": e.reset_id, "record_size": e.record_size,
                "record_align": e.record_align, "hdr": hdr})
        })
        .collect();
    let keywords: Vec<_> = state.keyword_names().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
    json!({"extensions": extensions, "keywords": keywords, "highest_modseq": state.highest_modseq().0, "records": records})
}

/// Header fields by the names that the fixtures use.
fn header(state: &State) -> Value {
    use crate::index::Field;
    let f = |offset| state.field(Field(offset));
    json!({
        "indexid": state.indexid(), "flags": f(20), "uid_validity": f(24), "next_uid": f(28),
        "messages_count": state.len(), "first_recent_uid": f(48), "log2_rotate_time": f(76),
        "last_temp_file_scan": f(80), "day_stamp": f(84), "day_first_uid0": f(88), "day_first_uid1": f(92),
        "log_file_seq": state.position().seq, "log_file_head_offset": state.position().offset,
        "seen_messages_count": state.len() - state.unseen(),
    })
}

fn check(what: &str, state: &State, wanted: &Value) {
    let ours = header(state);
    for (key, value) in ours.as_object().expect("made above") {
        if key != "seen_messages_count" || wanted["header"].get(key).is_some() {
            assert_eq!(value, &wanted["header"][key], "{what}: {key}");
        }
    }
    let ours = describe(state);
    assert_eq!(ours["keywords"], wanted["keywords"], "{what}");
    assert_eq!(ours["highest_modseq"], wanted["highest_modseq"], "{what}");
    assert_eq!(ours["extensions"], wanted["extensions"], "{what}");
    let (ours, wanted) =
        (ours["records"].as_array().expect("made above"), wanted["records"].as_array().expect("in all fixtures"));
    assert_eq!(ours.len(), wanted.len(), "{what}");
    for (our, their) in ours.iter().zip(wanted) {
        for key in ["uid", "flags", "ext"] {
            assert_eq!(our[key], their[key], "{what}: {key} of {}", their["uid"]);
        }
        if let Some(keywords) = their.get("keywords") {
            let mut sorted: Vec<_> =
                keywords.as_array().expect("a list").iter().map(|k| k.as_str().expect("a name").to_owned()).collect();
            sorted.sort();
            assert_eq!(our["keywords"], json!(sorted), "{what}: keywords of {}", their["uid"]);
        }
        if let Some(modseq) = their.get("modseq") {
            assert_eq!(&our["modseq"], modseq, "{what}: modseq of {}", their["uid"]);
        }
    }
}

/// The records of a log as the fixtures list them.
fn records(bytes: &[u8]) -> (Value, u64) {
    use crate::index::handle::step;
    use crate::index::log::{Bits, Change, kind};
    let header = Header::parse(bytes).expect("a log");
    let mut modseq = header.initial_modseq;
    let mut list = Vec::new();
    let mut transactions = Transactions::new(&bytes[usize::from(header.size)..], u64::from(header.size));
    for record in transactions.by_ref().flatten() {
        let (change, bits) = Change::parse(&record).expect("Dovecot's own");
        let name = match record.word
            & kind::MASK
            & !if record.word & kind::EXPUNGE_PROTECTION == kind::EXPUNGE_PROTECTION { kind::EXPUNGE_PROTECTION } else { 0 }
        {
            kind::EXPUNGE => "expunge",
            kind::APPEND => "append",
            kind::FLAG_UPDATE => "flag-update",
            kind::HEADER_UPDATE => "header-update",
            kind::EXT_INTRO => "ext-intro",
            kind::EXT_RESET => "ext-reset",
            kind::EXT_HDR_UPDATE => "ext-hdr-update",
            kind::EXT_REC_UPDATE => "ext-rec-update",
            kind::KEYWORD_UPDATE => "keyword-update",
            kind::EXT_ATOMIC_INC => "ext-atomic-inc",
            kind::EXPUNGE_GUID => "expunge-guid",
            kind::MODSEQ_UPDATE => "modseq-update",
            kind::INDEX_DELETED => "index-deleted",
            kind::INDEX_UNDELETED => "index-undeleted",
            kind::BOUNDARY => "boundary",
            kind::ATTRIBUTE_UPDATE => "attribute-update",
            other => panic!("{other:#x}"),
        };
        let mut row = vec![json!(record.offset), json!(record.size()), json!(name)];
        row.push(json!(if bits.external { "external" } else { "internal" }));
        if Bits::of(record.word).sync {
            row.push(json!("sync"));
        }
        let new = step(modseq, &change, bits, header.minor);
        if new != modseq {
            row.push(json!(new));
            modseq = new;
        }
        list.push(Value::Array(row));
    }
    (json!({"valid_end": transactions.offset(), "file_size": bytes.len(), "modseq_at_end": modseq, "records": list}), modseq)
}

fn check_logs(dir: &Path, wanted: &Value) -> usize {
    let mut checked = 0;
    for (name, wanted) in wanted.as_object().into_iter().flatten() {
        let bytes = std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{}/{name}: {e}", dir.display()));
        let (ours, _) = records(&bytes);
        for (key, value) in ours.as_object().expect("made above") {
            assert_eq!(value, &wanted[key], "{}/{name}: {key}", dir.display());
        }
        checked += 1;
    }
    checked
}

#[test]
fn every_index_reads_as_dovecot_shows_it() {
    let (mut indexes, mut logs) = (0, 0);
    for (folder, part) in FOLDERS.into_iter().filter(|f| f.0 != "v24-separate-index") {
        let root = fixture(folder).join(part);
        let expected = super::json(&root.join("expected.json"));
        let boxes = expected["mailboxes"].as_object().into_iter().flatten();
        let mut all: Vec<(std::path::PathBuf, &str, &Value)> = boxes
            .filter(|(_, b)| b.get("index").is_some_and(Value::is_object))
            .map(|(_, b)| (root.join(b["index_dir"].as_str().expect("a path")), Files::MAILBOX, &b["index"]))
            .collect();
        for (key, stem) in [("list_index", Files::LIST), ("map_index", Files::MAP)] {
            let Some(index) = expected.get(key).filter(|v| v.is_object()) else { continue };
            let inner = index.get("index").unwrap_or(index);
            let dir = find(&root, stem).unwrap_or_else(|| panic!("{folder}: no {stem}"));
            all.push((dir, stem, inner));
        }
        assert!(!all.is_empty(), "{folder}");
        for (dir, stem, wanted) in all {
            let what = format!("{}/{stem}", dir.display());
            let copy = scratch(&dir);
            let index = Index::open(Files::new(copy.path(), stem), options()).unwrap_or_else(|e| panic!("{what}: {e}"));
            check(&what, index.state(), wanted);
            logs += check_logs(&dir, &wanted["logs"]);
            indexes += 1;
        }
    }
    assert!(indexes > 30 && logs > 30, "{indexes} indexes, {logs} logs");
}

/// The directory below that has a log of this stem.
fn find(root: &Path, stem: &str) -> Option<std::path::PathBuf> {
    if root.join(format!("{stem}.log")).exists() {
        return Some(root.to_owned());
    }
    let mut below: Vec<_> = std::fs::read_dir(root).ok()?.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    below.sort();
    below.iter().find_map(|p| find(p, stem))
}

#[test]
fn a_snapshot_says_what_the_logs_said() {
    for (folder, part) in FOLDERS {
        let root = fixture(folder).join(part);
        let Some(dir) = find(&root, Files::MAILBOX) else { continue };
        let copy = scratch(&dir);
        let files = Files::new(copy.path(), Files::MAILBOX);
        let mut index = Index::open(files.clone(), options()).expect("as above");
        let before = describe(index.state());
        index.lock().expect("free").write_snapshot().expect("room");
        let again = Index::open(files, options()).expect("we read what we write");
        assert_eq!(describe(again.state()), before, "{folder}");
        assert_eq!(again.state().position(), index.state().position());
    }
}

#[test]
fn what_dovecot_2_4_wrote() {
    let root = fixture("v24-separate-index");
    let expected = super::json(&root.join("expected.json"));
    for status in expected["status"].as_array().expect("a list") {
        let name = status["mailbox"].as_str().expect("a name");
        let dir = expected["index_dirs"][name].as_str().expect("a path");
        let copy = scratch(&root.join(dir));
        let index = super::open(copy.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let s = index.state();
        let validity = s.uid_validity().expect("set").get();
        let ours = [s.len() as u64, s.next_uid().get().into(), validity.into(), s.highest_modseq().0];
        let theirs: [u64; 4] = ["messages", "uidnext", "uidvalidity", "highestmodseq"]
            .map(|k| status[k].as_str().expect("text").parse().expect("a number"));
        assert_eq!(ours, theirs, "{name}");
        for (row, mail) in expected["mails"].as_array().expect("a list").iter().filter(|m| m["mailbox"] == name).enumerate() {
            let number = |key: &str| -> u64 { mail[key].as_str().expect("text").parse().expect("a number") };
            assert_eq!((u64::from(s.uid(row).get()), s.modseq(row).0), (number("uid"), number("modseq")), "{name}");
            let flags = mail["flags"].as_str().expect("text");
            let (system, keywords): (Vec<&str>, Vec<&str>) = flags.split_whitespace().partition(|f| f.starts_with('\\'));
            let bits = system.iter().filter_map(|f| crate::mail::Flags::by_name(f)).fold(crate::mail::Flags::NONE, |a, b| a | b);
            assert_eq!(s.flags(row), bits, "{name}: {flags}");
            assert_eq!(s.keywords(row), &keywords.iter().map(|k| crate::mail::Keyword::new(k)).collect(), "{name}");
        }
    }
}
