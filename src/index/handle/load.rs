//! Snapshot and logs into a state (spec: index.md 3.12), and what can be wrong with them (index.md 6).

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use super::{Head, Look};
use crate::index::error::{Damage, DamageClass, Error, Result};
use crate::index::files::Files;
use crate::index::log::{Bits, Change, Header, Transactions};
use crate::index::state::{Position, Source, State};

/// Logs up to this length are read as a whole when they are opened.
const FIRST: u64 = 16 * 1024;
/// A log's header is not longer.
const HEADER: u64 = 128;

pub(super) struct Loaded {
    pub state: State,
    pub head: Head,
    pub snapshot: Option<Position>,
    pub counted: Counted,
}

/// A place of the head log and the modseq counter there: who looks for a later modseq need not count from the beginning.
#[derive(Debug, Clone, Copy)]
pub(in crate::index) struct Counted {
    pub at: Position,
    pub counter: u64,
}

/// What opening a log came to.
pub(super) enum Opened {
    Head(Head),
    Gone,
    /// There is a file, but it is no log.
    Unusable(String),
}

/// The bytes of an open file of this length from an offset on.
pub(in crate::index) fn read_from(file: &File, path: &Path, offset: u64, len: u64) -> Result<Vec<u8>> {
    let wanted = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::read(path, e.into())),
        }
    }
    bytes.truncate(wanted);
    Ok(bytes)
}

/// The header of a log, or why it is none.
pub(super) fn read_header(file: &File, path: &Path) -> Result<std::result::Result<Header, String>> {
    let mut bytes = [0; 128];
    let n = file.read_at(&mut bytes, 0).map_err(|e| Error::read(path, e))?;
    Ok(Header::parse(&bytes[..n]))
}

pub(super) fn open_log(path: &Path) -> io::Result<(File, bool)> {
    let open = |write| OpenOptions::new().read(true).write(write).custom_flags(libc::O_NOFOLLOW).open(path);
    match open(true) {
        Ok(file) => Ok((file, true)),
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            open(false).map(|file| (file, false))
        }
        Err(e) => Err(e),
    }
}

/// Opens the log that is being written.
pub(super) fn open_head(files: &Files) -> Result<Opened> {
    open_file(&files.log())
}

pub(super) fn open_file(path: &Path) -> Result<Opened> {
    let (file, writable) = match open_log(path) {
        Ok(opened) => opened,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Opened::Gone),
        Err(e) => return Err(Error::Io(crate::os::fs::Error::new("open", path, e))),
    };
    let look = Look::of(&file.metadata().map_err(|e| Error::read(path, e))?);
    // Of a longer one the beginning is of no use.
    let first = read_from(&file, path, 0, if look.len <= FIRST { look.len } else { HEADER })?;
    Ok(match Header::parse(&first[..first.len().min(HEADER as usize)]) {
        Ok(header) => Opened::Head(Head { file, path: path.to_owned(), header, writable, seen: Some(look), first }),
        Err(what) => Opened::Unusable(what),
    })
}

/// Reads it all.
pub(super) fn load(files: &Files) -> Result<Loaded> {
    // Somebody may rotate the log between two of our looks: then another look finds it in order.
    let first = attempt(files);
    match &first {
        Err(Error::Damage(d)) if matches!(d.class, DamageClass::NeedsFsck | DamageClass::LogLost | DamageClass::NoStart) => {
            attempt(files)
        }
        _ => first,
    }
}

fn attempt(files: &Files) -> Result<Loaded> {
    let log = files.log();
    let opened = open_head(files)?;
    let snapshot = read_snapshot(files)?;
    let head = match (opened, &snapshot) {
        (Opened::Head(head), _) => head,
        (Opened::Gone, None) => return Err(Error::Missing(log)),
        (Opened::Gone, Some(_)) => return Err(Damage::new(DamageClass::LogLost, &log, 0, "the file is missing").into()),
        (Opened::Unusable(what), Some(_)) => return Err(Damage::new(DamageClass::LogLost, &log, 0, what).into()),
        (Opened::Unusable(what), None) => return Err(Damage::new(DamageClass::NoStart, &log, 0, what).into()),
    };
    let snapshot = snapshot.map(|bytes| State::from_snapshot(&files.snapshot(), bytes)).transpose()?;
    if let Some(state) = &snapshot
        && state.indexid() != head.header.indexid
    {
        let what = format!("indexid {} differs from {} of the snapshot", head.header.indexid, state.indexid());
        return Err(Damage::new(DamageClass::NeedsFsck, &log, 4, what).into());
    }
    let position = snapshot.as_ref().map(State::position);
    let (state, head, counted) = Loader { files, head }.run(snapshot)?;
    Ok(Loaded { state, head, snapshot: position, counted })
}

fn read_snapshot(files: &Files) -> Result<Option<Vec<u8>>> {
    let path = files.snapshot();
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(Error::Io(crate::os::fs::Error::new("open", &path, e))),
    };
    let len = file.metadata().map_err(|e| Error::read(&path, e))?.len();
    read_from(&file, &path, 0, len).map(Some)
}

struct Loader<'a> {
    files: &'a Files,
    head: Head,
}

impl Loader<'_> {
    fn run(mut self, snapshot: Option<State>) -> Result<(State, Head, Counted)> {
        let h = self.head.header;
        let log = self.head.path.clone();
        let fsck = |what: String| Error::from(Damage::new(DamageClass::NeedsFsck, &log, 0, what));
        let start = |h: &Header| {
            let at = Position { seq: h.file_seq, offset: u32::from(h.size) };
            State::empty(h.indexid, at, h.initial_modseq)
        };
        let mut state = match snapshot {
            Some(state) if state.position().seq == h.file_seq => state,
            // The log was begun anew behind the snapshot: what the snapshot says is history.
            Some(state) if state.position().seq < h.file_seq && h.prev_seq == 0 => start(&h),
            Some(state) => {
                let seq = state.position().seq;
                match self.older(|old| old.file_seq == seq)? {
                    Some(old) if seq < h.file_seq => self.through(old, state)?,
                    _ => return Err(fsck(format!("the snapshot goes on in log {seq}, but this is log {}", h.file_seq))),
                }
            }
            None if h.prev_seq == 0 => start(&h),
            None => match self.older(|old| old.file_seq == h.prev_seq && old.prev_seq == 0)? {
                Some(old) => {
                    let state = start(&old.header);
                    self.through(old, state)?
                }
                None => {
                    let what = format!("no snapshot, and the history starts in log {} or before", h.prev_seq);
                    return Err(Damage::new(DamageClass::NoStart, &log, 12, what).into());
                }
            },
        };
        let counted = advance(&mut state, &self.head)?;
        self.head.first = Vec::new();
        self.head.seen = self.head.seen.filter(|look| look.len == u64::from(state.position().offset));
        Ok((state, self.head, counted))
    }

    /// The previous log, if it is there, belongs to this index and is the wanted one.
    fn older(&self, wanted: impl FnOnce(&Header) -> bool) -> Result<Option<Head>> {
        Ok(match open_file(&self.files.log2())? {
            Opened::Head(old) if old.header.indexid == self.head.header.indexid && wanted(&old.header) => Some(old),
            _ => None,
        })
    }

    /// Replays the previous log to its end and goes over to the head.
    fn through(&self, old: Head, mut state: State) -> Result<State> {
        advance(&mut state, &old)?;
        let h = self.head.header;
        let end = state.position();
        if (h.prev_seq, h.prev_offset) != (end.seq, end.offset) {
            let what = format!(
                "the log continues log {} at {}, which ends as log {} at {}",
                h.prev_seq, h.prev_offset, end.seq, end.offset
            );
            return Err(Damage::new(DamageClass::NeedsFsck, &old.path, u64::from(end.offset), what).into());
        }
        state.enter_file(h.file_seq, u32::from(h.size), h.initial_modseq);
        Ok(state)
    }
}

/// Replays a log from the state's position, which is in it, to its end. Gives that position.
fn advance(state: &mut State, log: &Head) -> Result<Counted> {
    let h = log.header;
    let position = state.position();
    let end = match log.seen {
        Some(look) => look.len,
        None => log.look()?.len,
    };
    if position.offset < u32::from(h.size) || u64::from(position.offset) > end {
        let what = format!("the snapshot goes on at {}, the log ends at {end}", position.offset);
        return Err(Damage::new(DamageClass::NeedsFsck, &log.path, u64::from(position.offset), what).into());
    }
    let known = state.counter > 0;
    let counted = state.modseq_header().filter(|(_, at)| at.seq == h.file_seq && at.offset <= position.offset);
    // Requests behind the tail, and the modseq counter, may need an earlier look than the records themselves.
    let first = u32::from(h.size);
    let tail = state.tail().clamp(first, position.offset);
    let (counter, from) = match counted {
        _ if known => (state.counter, position.offset),
        Some((highest, at)) if highest > 0 && at.offset >= first => (highest, at.offset),
        _ => (h.initial_modseq, first),
    };
    let read_at = from.min(tail).min(position.offset);
    let bytes: Cow<'_, [u8]> = match log.first.get(read_at as usize..) {
        Some(rest) if log.first.len() as u64 == end => rest.into(),
        _ => read_from(&log.file, &log.path, u64::from(read_at), end)?.into(),
    };
    let slice = |from: u32, to: u32| {
        let (from, to) = ((from - read_at) as usize, (to - read_at) as usize);
        bytes.get(from..to.max(from))
    };
    if !known {
        let skipped = slice(from, position.offset).unwrap_or(&[]);
        state.counter = count(log.source(), skipped, from, counter)?;
    }
    if tail < position.offset {
        state.collect_pending(log.source(), slice(tail, position.offset).unwrap_or(&[]), tail)?;
    }
    let counted = Counted { at: position, counter: state.counter };
    let rest = bytes.get((position.offset - read_at) as usize..).unwrap_or(&[]);
    state.replay(log.source(), rest, position.offset)?;
    Ok(counted)
}

/// The modseq counter behind these records (index.md 3.7).
pub(in crate::index) fn count(log: Source<'_>, bytes: &[u8], offset: u32, initial: u64) -> Result<u64> {
    let mut counter = initial;
    for record in Transactions::new(bytes, u64::from(offset)).flatten() {
        let (change, bits) = Change::parse(&record).map_err(|bad| log.damage(record.offset, bad))?;
        counter = step(counter, &change, bits, log.minor);
    }
    Ok(counter)
}

/// The counter behind one record.
pub(in crate::index) fn step(counter: u64, change: &Change<'_>, bits: Bits, minor: u8) -> u64 {
    let raised = match change {
        Change::Modseq(list) => list.iter().map(|m| m.1).max().unwrap_or(0).max(counter),
        Change::ExtIntro(_) if counter == 0 => u64::from(change.intros().any(|i| i.name == b"modseq")),
        _ => counter,
    };
    if counter == 0 { raised } else { raised.saturating_add(change.steps(bits, minor)) }
}
