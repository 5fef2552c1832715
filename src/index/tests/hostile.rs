//! No input makes a parser panic or allocate without measure.

use std::path::Path;

use proptest::prelude::*;

use super::{fixture, open, scratch};
use crate::index::State;
use crate::index::error::DamageClass;
use crate::index::log::Header;
use crate::index::state::{Position, Source};

fn replay(bytes: &[u8]) -> Option<State> {
    let path = Path::new("log");
    let header = Header::parse(bytes).ok()?;
    let at = Position { seq: header.file_seq, offset: u32::from(header.size) };
    let mut state = State::empty(header.indexid, at, header.initial_modseq);
    let log = Source { path, minor: header.minor, seq: header.file_seq };
    state.replay(log, &bytes[usize::from(header.size)..], at.offset).ok()?;
    Some(state)
}

fn start_of_history() -> Vec<u8> {
    std::fs::read(fixture("sdbox-history/sdbox/mailboxes/INBOX/dbox-Mails/dovecot.index.log.2")).expect("fixture")
}

#[test]
fn every_prefix_of_a_log_is_an_earlier_state() {
    let bytes = start_of_history();
    let mut last = 0;
    for n in 40..=bytes.len() {
        let state = replay(&bytes[..n]).unwrap_or_else(|| panic!("{n} bytes"));
        let end = state.position().offset;
        assert!(end >= last && end as usize <= n);
        last = end;
    }
    assert_eq!(last as usize, bytes.len());
}

#[test]
fn every_prefix_of_the_files_is_read_or_refused() {
    let dir = scratch(&fixture("minimal-sdbox/sdbox/mailboxes/INBOX/dbox-Mails"));
    let snapshot = dir.path().join("dovecot.index");
    let whole = std::fs::read(&snapshot).expect("fixture");
    for n in 0..whole.len() {
        std::fs::write(&snapshot, &whole[..n]).expect("scratch");
        let damage = open(dir.path()).err().and_then(|e| e.damage());
        assert!(matches!(damage, Some(DamageClass::IndexUnusable | DamageClass::NeedsFsck)), "{n} bytes: {damage:?}");
    }
    std::fs::write(&snapshot, &whole).expect("scratch");
    let log = dir.path().join("dovecot.index.log");
    let whole = std::fs::read(&log).expect("fixture");
    for n in 0..=whole.len() {
        std::fs::write(&log, &whole[..n]).expect("scratch");
        match open(dir.path()) {
            Ok(index) => assert!(index.state().position().offset as usize <= n),
            Err(e) => assert!(e.damage().is_some() && n < 752, "{n} bytes: {e}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_flipped_log_is_read_or_refused(flips in prop::collection::vec((40usize..3000, any::<u8>()), 1..6)) {
        let mut bytes = start_of_history();
        for (at, value) in flips {
            if let Some(b) = bytes.get_mut(at) {
                *b = value;
            }
        }
        if let Some(state) = replay(&bytes) {
            // What was read can be written and read again.
            let snapshot = state.to_snapshot();
            let _ = State::from_snapshot(Path::new("snapshot"), snapshot);
        }
    }

    #[test]
    fn a_flipped_snapshot_is_read_or_refused(flips in prop::collection::vec((0usize..1256, any::<u8>()), 1..6)) {
        let mut bytes = std::fs::read(fixture("sdbox-history/sdbox/mailboxes/INBOX/dbox-Mails/dovecot.index")).expect("fixture");
        for (at, value) in flips {
            if let Some(b) = bytes.get_mut(at) {
                *b = value;
            }
        }
        if let Ok(state) = State::from_snapshot(Path::new("snapshot"), bytes) {
            State::from_snapshot(Path::new("snapshot"), state.to_snapshot()).expect("we read what we write");
        }
    }

    #[test]
    fn records_of_noise(kinds in prop::collection::vec((0u32..21, any::<bool>(), prop::collection::vec(0u8..6, 0..60)), 1..20)) {
        let mut bytes = Header::new(7, 2, (0, 0), 0, 1).bytes().to_vec();
        for (shift, external, payload) in kinds {
            let bits = crate::index::Bits { external, sync: false };
            let word = match 1 << shift { w @ (0x1 | 0x2000) => w | 0xcd90, w => w };
            crate::index::log::put::record(&mut bytes, word, bits, |out| out.extend_from_slice(&payload));
        }
        if let Some(state) = replay(&bytes) {
            let _ = state.to_snapshot();
        }
    }

    #[test]
    fn noise(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = State::from_snapshot(Path::new("snapshot"), bytes.clone());
        let _ = replay(&bytes);
        if bytes.len() > 40 {
            bytes[..40].copy_from_slice(&Header::new(7, 2, (0, 0), 0, 1).bytes());
            let _ = replay(&bytes);
        }
    }
}
