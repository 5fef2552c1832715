//! Doors for the fuzz targets of the index files (see [`crate::fuzz`]).

use std::io::Write;
use std::path::Path;

use super::cache::{Cache, CacheField};
use super::log::{Bits, Header, put};
use super::state::{Position, Source, State};

/// All that can be asked of a state; what it writes is the same state again.
fn look(state: &State) {
    let names: Vec<_> = state.extensions().collect();
    for row in 0..state.len() {
        for (ext, _) in &names {
            // Modseqs and keywords are kept in another way.
            let len = state.ext_record(*ext, row).len();
            assert!(len == 0 || len == state.ext_record_size(*ext));
        }
    }
    let _ = (state.held_back(), state.unseen(), state.highest_modseq());
    let (path, bytes) = (Path::new("snapshot"), state.to_snapshot());
    if State::check_snapshot(path, &bytes, bytes.len()).is_err() {
        return;
    }
    let again = State::from_snapshot(path, bytes).expect("we read what we write");
    let ours = |s: &State| s.mails().into_iter().map(|m| (m.uid, m.flags, m.keywords)).collect::<Vec<_>>();
    assert_eq!(ours(&again), ours(state));
}

pub(crate) fn snapshot(bytes: &[u8]) {
    if let Ok(state) = State::from_snapshot(Path::new("snapshot"), bytes.to_vec()) {
        look(&state);
    }
}

pub(crate) fn log(bytes: &[u8]) {
    let path = Path::new("log");
    let Ok(header) = Header::parse(bytes) else { return };
    let at = Position { seq: header.file_seq, offset: u32::from(header.size) };
    let mut state = State::empty(header.indexid, at, header.initial_modseq);
    let source = Source { path, minor: header.minor, seq: header.file_seq };
    let records = bytes.get(usize::from(header.size)..).unwrap_or(&[]);
    if state.replay(source, records, at.offset).is_ok() {
        assert!(state.position().offset as usize <= bytes.len());
        look(&state);
    }
    let _ = super::handle::count(source, records, at.offset, 1);
    let mut other = State::empty(header.indexid, at, header.initial_modseq);
    let _ = other.collect_pending(source, records, at.offset);
}

/// Records without their frames: a byte for the kind, a byte for the length of the payload in words and for the kind's bits.
pub(crate) fn records(bytes: &[u8]) {
    let mut out = Header::new(7, 2, (0, 0), 0, 1).bytes().to_vec();
    let mut rest = bytes;
    while let Some((&[kind, front], behind)) = rest.split_first_chunk::<2>() {
        let (payload, behind) = behind.split_at((usize::from(front & 0x3f) * 4).min(behind.len()));
        let bits = Bits { external: front & 0x40 != 0, sync: front & 0x80 != 0 };
        let word = match 1 << (kind % 21) {
            w @ (0x1 | 0x2000) => w | 0xcd90,
            w => w,
        };
        put::record(&mut out, word, bits, |o| o.extend_from_slice(payload));
        rest = behind;
    }
    log(&out);
}

/// Two rows' offsets, then the cache.
pub(crate) fn cache(bytes: &[u8]) {
    let Some((offsets, cache)) = bytes.split_first_chunk::<8>() else { return };
    let number = |b: &[u8], at: usize| b.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let (indexid, file_seq) = (number(cache, 4), number(cache, 8));
    let at = Position { seq: 2, offset: 40 };
    let mut state = State::empty(indexid, at, 1);
    let mut t = super::Transaction::new(Bits::EXTERNAL);
    t.ext_reset(super::ExtSpec::CACHE, file_seq, false);
    for uid in 1..=2 {
        let uid = crate::mail::Uid::new(uid).expect("not zero");
        t.append(uid, 0);
        let from = 4 * (uid.get() as usize - 1);
        t.ext_record(super::ExtSpec::CACHE, uid, &offsets[from..from + 4]);
    }
    let log = super::transaction::encode(&t, &state).expect("an ordinary transaction");
    state.replay(Source { path: Path::new("log"), minor: 2, seq: 2 }, &log, 40).expect("our own records");
    let dir = crate::fuzz::Scratch::new();
    let path = dir.path().join("cache");
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).read(true).open(&path).expect("scratch");
    file.write_all(cache).expect("scratch");
    if let Ok(Some(cache)) = Cache::parse(file, &path, indexid, file_seq) {
        let all = [CacheField::Saved, CacheField::Received, CacheField::Guid, CacheField::Pop3Uidl, CacheField::VirtualSize];
        cache.read(&state, 0..2, &all, |row, _, _| assert!(row < 2)).expect("the file is readable");
    }
}
