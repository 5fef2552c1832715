//! The cache, against what the fixtures say of it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{fixture, open, scratch};
use crate::index::{Bits, CacheEntry, CacheField, Durability, Index, Transaction, cached_number};
use crate::mail::{Timestamp, Uid};

const ALL: [CacheField; 7] = [
    CacheField::Saved,
    CacheField::Received,
    CacheField::VirtualSize,
    CacheField::PhysicalSize,
    CacheField::Guid,
    CacheField::Pop3Uidl,
    CacheField::Pop3Order,
];
const NAMES: [&str; 7] = ["date.save", "date.received", "size.virtual", "size.physical", "guid", "pop3.uidl", "pop3.order"];

fn values(index: &Index) -> BTreeMap<(u32, &'static str), String> {
    let mut out = BTreeMap::new();
    if let Some(cache) = index.cache().expect("readable") {
        let state = index.state();
        cache
            .read(state, 0..state.len(), &ALL, |row, field, data| {
                let name = NAMES[ALL.iter().position(|f| *f == field).expect("asked for")];
                assert_eq!(out.insert((state.uid(row).get(), name), hex::encode(data)), None, "told twice");
            })
            .expect("readable");
    }
    out
}

#[test]
fn cached_values_of_the_corpus() {
    let (mut checked, mut compared) = (0, 0);
    for folder in [
        "minimal-sdbox",
        "sdbox-history",
        "maildir-history",
        "mdbox-history",
        "dsync-destination/maildir",
        "dsync-destination/sdbox",
    ] {
        let root = fixture(folder);
        for (name, mailbox) in super::json(&root.join("expected.json"))["mailboxes"].as_object().expect("a map") {
            let Some(mails) = mailbox["cache"].get("mails") else { continue };
            let dir = scratch(&root.join(mailbox["index_dir"].as_str().expect("a path")));
            let index = open(dir.path()).expect("a fixture");
            let wanted: BTreeMap<(u32, &str), String> = mails
                .as_object()
                .expect("a map")
                .iter()
                .flat_map(|(uid, mail)| {
                    let fields = mail["fields"].as_object().expect("a map").iter();
                    fields.map(move |(k, v)| ((uid.parse().expect("a UID"), k.as_str()), v.as_str().expect("hex").to_owned()))
                })
                .filter(|(k, _)| NAMES.contains(&k.1))
                .collect();
            let ours = values(&index);
            compared += wanted.len();
            assert!(ours.iter().map(|(k, v)| ((k.0, k.1), v.clone())).eq(wanted), "{folder}/{name}: {ours:?}");
            checked += 1;
        }
    }
    assert!(checked > 10 && compared > 40, "{checked} caches, {compared} values");
}

#[test]
fn a_foreign_cache_is_no_cache() {
    for case in ["cache-indexid", "cache-otherseq", "cache-gone"] {
        let dir = scratch(&fixture("damaged").join(case));
        assert!(open(dir.path()).expect("harmless").cache().expect("readable").is_none(), "{case}");
    }
}

fn write(index: &mut Index, entries: &[CacheEntry<'_>]) {
    let mut locked = index.lock().expect("free");
    let offsets = locked.cache(entries).expect("room");
    assert_eq!(offsets.len(), entries.len());
    let mut t = Transaction::new(Bits::EXTERNAL);
    offsets.iter().for_each(|&(uid, at)| t.cache_offset(uid, at));
    locked.commit(&t, Durability::Lazy).expect("room");
}

#[test]
fn saved_dates_are_added_to_what_is_cached() {
    for case in ["cache-gone", "cache-otherseq", "index-stale-tmp", "../sdbox-history/sdbox/mailboxes/INBOX/dbox-Mails"] {
        let dir = scratch(&fixture("damaged").join(case));
        let mut index = open(dir.path()).expect("harmless");
        let before = values(&index);
        let uids: Vec<Uid> = (0..index.state().len()).map(|row| index.state().uid(row)).collect();
        let entries: Vec<_> =
            uids.iter().map(|&uid| CacheEntry { uid, saved: Some(Timestamp(uid.get() + 7)), guid: Some(b"some-guid") }).collect();
        write(&mut index, &entries);
        write(&mut index, &[CacheEntry { uid: uids[2], saved: Some(Timestamp(1)), guid: None }]);
        let fresh = open(dir.path()).expect("valid");
        let dates = fresh.cached_save_dates().expect("readable");
        let wanted: Vec<u32> = uids.iter().map(|u| if *u == uids[2] { 1 } else { u.get() + 7 }).collect();
        assert_eq!(dates, wanted, "{case}");
        let after = values(&fresh);
        for (key, value) in &before {
            if !matches!(key.1, "date.save" | "guid") {
                assert_eq!(after.get(key), Some(value), "{case}");
            }
        }
        assert_eq!(after[&(uids[2].get(), "guid")], hex::encode("some-guid"), "{case}");
    }
}

#[test]
fn numbers_of_four_and_eight_bytes() {
    assert_eq!((cached_number(&[1, 1, 0, 0]), cached_number(&[0, 0, 0, 0, 1, 0, 0, 0])), (257, 1 << 32));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn a_flipped_cache_does_no_harm(flips in prop::collection::vec((0usize..2600, any::<u8>()), 1..8)) {
        let dir = scratch(&fixture("sdbox-history/sdbox/mailboxes/INBOX/dbox-Mails"));
        let path = dir.path().join("dovecot.index.cache");
        let mut bytes = std::fs::read(&path).expect("a fixture");
        for (at, value) in flips {
            if let Some(b) = bytes.get_mut(at) {
                *b = value;
            }
        }
        std::fs::write(&path, &bytes).expect("scratch");
        let index = open(dir.path()).expect("the index is as it was");
        let _ = values(&index);
    }
}
