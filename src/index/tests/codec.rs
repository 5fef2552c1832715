//! Log records of the corpus, byte for byte, and the size encoding.

use proptest::prelude::*;

use super::fixture;
use crate::index::log::{Bits, Change, Transactions, decode_size, encode_size, kind, put};

/// Writes a change as a record.
fn write(change: &Change<'_>, bits: Bits, word: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let kind = word & kind::MASK;
    put::record(&mut out, kind, bits, |out| match change {
        Change::Expunge(list) | Change::KeywordReset(list) => list.iter().for_each(|r| put::range(out, r)),
        Change::ExpungeGuid(list) => list.iter().for_each(|e| put::expunge(out, e)),
        Change::Append(list) => list.iter().for_each(|a| put::append(out, a)),
        Change::Flags(list) => list.iter().for_each(|f| put::flags(out, f)),
        Change::Header(list) => list.iter().for_each(|w| put::write(out, w, false)),
        Change::ExtHeader(list) => list.iter().for_each(|w| put::write(out, w, kind == kind::EXT_HDR_UPDATE32)),
        Change::ExtIntro(list) => list.iter().for_each(|i| put::intro(out, i)),
        Change::ExtReset { new_id, preserve } => {
            out.extend_from_slice(&new_id.to_le_bytes());
            out.extend_from_slice(&[u8::from(*preserve), 0, 0, 0]);
        }
        Change::ExtRecords(payload) => out.extend_from_slice(payload),
        Change::ExtInc(list) => list.iter().for_each(|(uid, by)| put::inc(out, uid, by)),
        Change::Keyword { add, name, ranges } => {
            put::keyword(out, *add, name);
            ranges.iter().for_each(|r| put::range(out, r));
        }
        Change::Modseq(list) => list.iter().for_each(|(uid, modseq)| put::modseq(out, uid, modseq)),
        Change::Deleted | Change::Undeleted => out.extend_from_slice(&[0; 4]),
        Change::Boundary | Change::Attributes(_) => unreachable!("not asked for"),
    });
    out
}

#[test]
fn records_of_the_corpus_come_back_byte_for_byte() {
    let vectors = super::json(&fixture("log-records/records.json"));
    let mut seen = std::collections::BTreeSet::new();
    for vector in vectors.as_array().expect("a list") {
        let bytes = hex::decode(vector["hex"].as_str().expect("hex")).expect("hex");
        let (kind, fields) = (vector["type"].as_str().expect("a name"), &vector["fields"]);
        // A boundary alone is not a transaction.
        if kind == "boundary" {
            let size = u32::try_from(fields["size"].as_u64().expect("a number")).expect("small");
            let mut out = Vec::new();
            put::boundary(&mut out, vector["sync"] == true, size);
            assert_eq!(out, bytes);
            continue;
        }
        let record = Transactions::new(&bytes, 0).flatten().next().expect("complete");
        let (change, bits) = Change::parse(&record).expect("valid");
        assert_eq!((bits.external, bits.sync), (vector["external"] == true, vector["sync"] == true));
        if let Change::Attributes(list) = change {
            assert!(list.iter().count() > 0, "{vector}");
            continue;
        }
        assert_eq!(hex::encode(write(&change, bits, record.word)), hex::encode(&bytes), "{vector}");
        check_fields(&change, kind, fields);
        seen.insert(kind.to_owned());
    }
    assert!(seen.len() >= 9, "{seen:?}");
}

/// The fields that the vectors name are those that we see.
fn check_fields(change: &Change<'_>, kind: &str, fields: &serde_json::Value) {
    use serde_json::json;
    match change {
        Change::ExtIntro(list) => {
            let i = list.iter().next().expect("not empty");
            assert_eq!(
                json!([i.id, i.reset_id, i.hdr_size, i.record_size, i.record_align, u8::from(i.keep)]),
                json!([
                    fields["ext_id"],
                    fields["reset_id"],
                    fields["hdr_size"],
                    fields["record_size"],
                    fields["record_align"],
                    fields["flags"]
                ])
            );
            assert_eq!(json!(String::from_utf8_lossy(i.name)), fields["name"]);
        }
        Change::Header(list) | Change::ExtHeader(list) => {
            let ours: Vec<_> = list.iter().map(|w| json!([w.offset, hex::encode(w.data)])).collect();
            assert_eq!(json!(ours), fields["writes"], "{kind}");
        }
        _ => {}
    }
}

#[test]
fn transactions_of_the_corpus_are_whole() {
    let vectors = super::json(&fixture("log-records/transactions.json"));
    for vector in vectors.as_array().expect("a list") {
        let bytes = hex::decode(vector["hex"].as_str().expect("hex")).expect("hex");
        let mut transactions = Transactions::new(&bytes, 0);
        let records = transactions.next().expect("complete").count();
        let listed = vector["records"].as_array().expect("a list").len();
        assert_eq!(records, listed + usize::from(listed > 1), "{vector}");
        // No part of it is visible before all of it is there.
        for n in 0..bytes.len() {
            assert!(Transactions::new(&bytes[..n], 0).next().is_none(), "{n} bytes of {vector}");
        }
    }
}

#[test]
fn sizes_of_the_corpus() {
    let vectors = super::json(&fixture("log-records/sizes.json"));
    let four =
        |v: &serde_json::Value| -> [u8; 4] { hex::decode(v.as_str().expect("hex")).expect("hex").try_into().expect("four") };
    for pair in vectors["encoded_sizes"].as_array().expect("a list") {
        let size = u32::try_from(pair[0].as_u64().expect("a number")).expect("32 bits");
        assert_eq!(encode_size(size), four(&pair[1]));
        assert_eq!(decode_size(four(&pair[1])), Some(size));
    }
    for bytes in vectors["not_finished"].as_array().expect("a list") {
        assert_eq!(decode_size(four(bytes)), None);
    }
}

proptest! {
    #[test]
    fn sizes_come_back(n in 0u32..1 << 28) {
        prop_assert_eq!(decode_size(encode_size(n * 4)), Some(n * 4));
    }
}
