//! What Dovecot would lose or rebuild, we refuse, and say so; what is harmless is read (index.md 6).

use serde_json::json;

use super::{fixture, open, scratch};
use crate::index::State;

#[test]
fn every_damage_gets_its_verdict() {
    let expected = super::json(&fixture("damaged/expected.json"));
    let cases = expected.as_object().expect("one entry per folder");
    assert!(cases.len() >= 33);
    for (name, case) in cases {
        let folder = fixture("damaged").join(name);
        let dir = scratch(&folder);
        let before = content(dir.path());
        let wanted = &case["reader"];
        let class = case["class"].as_str().expect("a name");
        match open(dir.path()) {
            Ok(mut index) => {
                assert!(matches!(class, "ok" | "ok-warn" | "tail-incomplete" | "cache-invalid"), "{name}: {class}");
                let state = index.state();
                assert_eq!(json!(state.uids()), wanted["uids"], "{name}");
                assert_eq!(json!(state.highest_modseq().0), wanted["highest_modseq"], "{name}");
                assert_eq!(json!(state.next_uid().get()), wanted["next_uid"], "{name}");
                assert_eq!(json!(state.position().offset), wanted["log_valid_end"], "{name}");
                assert_eq!(content(dir.path()), before, "{name}: reading changes nothing");
                assert_eq!(case["may_append"], true, "{name}");
                // Locking leaves the log without a rest that Dovecot would call garbage.
                drop(index.lock().expect("free"));
                let len = std::fs::metadata(dir.path().join("dovecot.index.log")).expect("is there").len();
                assert_eq!(json!(len), wanted["log_valid_end"], "{name}");
            }
            Err(e) => {
                let damage = e.damage().unwrap_or_else(|| panic!("{name}: {e}"));
                assert_eq!(damage.name(), class, "{name}: {e}");
                assert_eq!(case["may_append"], false, "{name}");
                let text = e.to_string();
                assert!(text.contains("dovecot.index") && text.contains(class) && text.contains("force-resync"), "{text}");
                let e = crate::mail::Error::from(e);
                assert_eq!(e.class(), crate::mail::Class::Temporary);
                assert_eq!(content(dir.path()), before, "{name}: nothing is touched");
                if wanted["state_from"] == "index only" {
                    let path = folder.join("dovecot.index");
                    let bytes = std::fs::read(&path).expect("is there");
                    let state = State::from_snapshot(&path, bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
                    assert_eq!(json!(state.uids()), wanted["uids"], "{name}");
                }
            }
        }
    }
}

fn content(dir: &std::path::Path) -> std::collections::BTreeMap<std::ffi::OsString, Vec<u8>> {
    let entries = std::fs::read_dir(dir).expect("is there").flatten();
    entries.map(|e| (e.file_name(), std::fs::read(e.path()).expect("readable"))).collect()
}
