//! What each log record does to the state (spec: index.md 3.4, 3.7, 3.8).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::table::fits;
use super::{Column, DeletedMark, Extension, Field, Pending, Position, Request, State};
use crate::index::error::{Damage, DamageClass};
use crate::index::log::{Append, Bad, Bits, Change, FlagRange, Intro, Range, Transactions};
use crate::mail::Flags;

/// The extension that the records after an introduction belong to.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::index) enum Context {
    /// None was introduced.
    #[default]
    None,
    /// This one, its records having so many bytes.
    Live { ext: usize, record_size: u16 },
    /// The introduction had another reset id: only a reset applies.
    Foreign { ext: usize, record_size: u16 },
}

/// A log whose records are replayed.
#[derive(Debug, Clone, Copy)]
pub(in crate::index) struct Source<'a> {
    pub path: &'a Path,
    pub minor: u8,
    pub seq: u32,
}

impl Source<'_> {
    pub fn damage(&self, offset: u64, bad: Bad) -> Damage {
        let (class, what) = match bad {
            Bad::Content(what) => (DamageClass::LogCorrupt, what),
            Bad::Replay(what) => (DamageClass::NeedsFsck, what),
        };
        Damage::new(class, self.path, offset, what)
    }
}

impl State {
    /// Applies the complete transactions in `bytes`, which stand at `offset` of the log, and moves the position behind the
    /// last one.
    ///
    /// # Errors
    /// Damage. The state is then of no use any more.
    pub(in crate::index) fn replay(&mut self, log: Source<'_>, bytes: &[u8], offset: u32) -> Result<(), Damage> {
        let end = u64::from(offset) + bytes.len() as u64;
        let mut transactions = Transactions::new(bytes, u64::from(offset));
        let mut result = Ok(());
        'all: for records in transactions.by_ref() {
            for record in records {
                let parsed = Change::parse(&record).and_then(|(change, bits)| {
                    let at = u32::try_from(record.offset).map_err(|_| Bad::Replay("log beyond 4 GiB".into()))?;
                    self.apply(&change, bits, Apply { minor: log.minor, offset: at, end })
                });
                if let Err(bad) = parsed {
                    result = Err(log.damage(record.offset, bad));
                    break 'all;
                }
            }
        }
        self.table.compact(self.extensions.iter_mut().map(|e| &mut e.column));
        result?;
        let valid = transactions.offset();
        let offset = u32::try_from(valid).map_err(|_| log.damage(valid, Bad::Replay("log beyond 4 GiB".into())))?;
        self.position = Position { seq: log.seq, offset };
        Ok(())
    }

    /// Collects the requests in `bytes`, which the state has applied already.
    pub(in crate::index) fn collect_pending(&mut self, log: Source<'_>, bytes: &[u8], offset: u32) -> Result<(), Damage> {
        for record in Transactions::new(bytes, u64::from(offset)).flatten() {
            let (change, bits) = Change::parse(&record).map_err(|bad| log.damage(record.offset, bad))?;
            self.note_request(&change, bits, u32::try_from(record.offset).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    fn apply(&mut self, change: &Change<'_>, bits: Bits, at: Apply) -> Result<(), Bad> {
        if self.counter > 0 {
            self.counter = self.counter.saturating_add(change.steps(bits, at.minor));
        }
        self.note_request(change, bits, at.offset);
        match change {
            Change::Expunge(ranges) if bits.external => ranges.iter().for_each(|r| self.table.kill(r)),
            Change::ExpungeGuid(list) if bits.external => {
                list.iter().for_each(|e| self.table.kill(Range { first: e.uid, last: e.uid }));
            }
            Change::Expunge(_) | Change::ExpungeGuid(_) | Change::Boundary | Change::Attributes(_) => {}
            Change::Append(list) => {
                let modseq = self.keeps_modseqs().then_some(self.counter);
                let record_size = self.record_size();
                list.iter().try_for_each(|a| self.append(a, modseq, record_size))?;
            }
            Change::Flags(ranges) => ranges.iter().for_each(|r| self.change_flags(r, at.minor)),
            Change::Header(writes) => {
                for w in writes.iter() {
                    self.write_header(w.offset, w.data, at)?;
                }
            }
            Change::ExtIntro(_) => {
                for intro in change.intros() {
                    self.introduce(&intro)?;
                }
            }
            Change::ExtReset { new_id, preserve } => self.reset_ext(*new_id, *preserve),
            Change::ExtHeader(writes) => {
                for w in writes.iter() {
                    self.write_ext_header(w.offset, w.data)?;
                }
            }
            Change::ExtRecords(payload) => self.write_ext_records(payload)?,
            Change::ExtInc(list) => {
                for (uid, diff) in list.iter() {
                    self.increment(uid, diff)?;
                }
            }
            Change::Keyword { add, name, ranges } => {
                let keyword = self.keyword(name)?;
                self.change_keywords(ranges.iter(), |table, set| table.changed(set, keyword, *add));
            }
            Change::KeywordReset(ranges) => self.change_keywords(ranges.iter(), |_, _| 0),
            Change::Modseq(list) => {
                let mut next = 0;
                for (uid, modseq) in list.iter() {
                    self.counter = self.counter.max(modseq);
                    if let Some(row) = self.table.row_near(uid, next) {
                        self.table.set_modseq(row, modseq.max(self.table.modseq(row)));
                        next = row + 1;
                    }
                }
            }
            Change::Deleted => {
                self.deleted = if bits.external { DeletedMark::Done } else { DeletedMark::Requested };
            }
            Change::Undeleted => self.deleted = DeletedMark::None,
        }
        Ok(())
    }

    fn note_request(&mut self, change: &Change<'_>, bits: Bits, offset: u32) {
        if bits.external {
            return;
        }
        self.last_internal = offset;
        let both = |r: Range| (r.first, r.last);
        let pending = &mut self.pending;
        let mut add = |request| pending.push_back(Pending { offset, request });
        match change {
            Change::Flags(list) => list.iter().for_each(|r| {
                let (f, g) = (Flags::from_bits(r.add), Flags::from_bits(r.remove));
                add(Request::Flags { uids: both(r.uids), add: f, remove: g });
            }),
            Change::Keyword { add: on, name, ranges } => {
                add(Request::Keyword { name: name.to_vec(), add: *on, uids: ranges.iter().map(both).collect() });
            }
            Change::KeywordReset(ranges) => add(Request::KeywordReset { uids: ranges.iter().map(both).collect() }),
            Change::Expunge(ranges) => {
                ranges.iter().for_each(|r| add(Request::Expunge { uids: both(r), guid: None }));
            }
            Change::ExpungeGuid(list) => list.iter().for_each(|e| {
                add(Request::Expunge { uids: (e.uid, e.uid), guid: Some(e.guid).filter(|g| !g.is_zero()) });
            }),
            _ => {}
        }
    }

    fn append(&mut self, a: Append, modseq: Option<u64>, record_size: usize) -> Result<(), Bad> {
        let next = self.field(Field::NEXT_UID);
        if a.uid < next || a.uid == 0 || a.uid == u32::MAX {
            return Err(Bad::Replay(format!("append of UID {} although UIDNEXT is {next}", a.uid)));
        }
        if !self.table.push(a.uid, a.flags, modseq, record_size) {
            return Err(Bad::Replay("more data than a mailbox can have".into()));
        }
        self.base.set(Field::NEXT_UID, a.uid + 1);
        Ok(())
    }

    fn change_flags(&mut self, r: FlagRange, minor: u8) {
        let counts = r.counts(minor);
        for row in self.rows(r.uids) {
            let flags = self.table.flags(row);
            self.table.set_flags(row, flags & !r.remove | r.add);
            if counts {
                self.touch(row);
            }
        }
    }

    /// The mail gets the modseq of the present record.
    fn touch(&mut self, row: usize) {
        self.table.set_modseq(row, self.counter);
    }

    fn change_keywords(
        &mut self,
        ranges: impl Iterator<Item = Range>,
        mut change: impl FnMut(&mut super::KeywordTable, super::SetId) -> super::SetId,
    ) {
        // Most mails of a record have one of a few sets.
        let mut known = HashMap::new();
        for range in ranges {
            for row in self.table.rows(range) {
                let set = self.table.set(row);
                let new = *known.entry(set).or_insert_with(|| change(Arc::make_mut(&mut self.keywords), set));
                self.table.set_set(row, new);
                self.touch(row);
            }
        }
    }

    /// The number of a keyword. The first one ever, and growth, (re)register the extension (index.md 2.5).
    fn keyword(&mut self, name: &[u8]) -> Result<u32, Bad> {
        let id = match self.keywords.find(name) {
            Some(id) => id,
            None => Arc::make_mut(&mut self.keywords).add(name),
        };
        let used = self.keywords.header_size();
        let bytes = self.keywords.len().div_ceil(8);
        if bytes >= 1 << 14 {
            return Err(Bad::Replay("more keywords than can be".into()));
        }
        let ext = match self.extensions.iter().position(|e| &*e.name == "keywords") {
            Some(at) => &mut self.extensions[at],
            None => {
                self.extensions.push(Extension {
                    name: "keywords".into(),
                    reset_id: 0,
                    header: Vec::new(),
                    record_size: 0,
                    record_align: 1,
                    column: Column::default(),
                });
                self.extensions.last_mut().expect("just pushed")
            }
        };
        if used > ext.header.len() || bytes > usize::from(ext.record_size) {
            ext.header.resize(used.next_multiple_of(4) + 128, 0);
            let size = if bytes.is_multiple_of(4) { bytes } else { bytes + 1 };
            ext.record_size = u16::try_from(size).unwrap_or(u16::MAX);
        }
        Ok(id)
    }

    fn write_header(&mut self, offset: u32, data: &[u8], at: Apply) -> Result<(), Bad> {
        let next_uid = self.field(Field::NEXT_UID);
        let start = offset as usize;
        if !self.base.write(start, data) {
            return Err(Bad::Replay(format!("header update of {} bytes at {start}", data.len())));
        }
        let tail = usize::from(Field::LOG_TAIL.0);
        if start <= tail && start + data.len() >= tail + 4 {
            let value = self.base.get(Field::LOG_TAIL);
            if u64::from(value) > at.end {
                return Err(Bad::Replay(format!("tail offset {value} behind the end of the log")));
            }
            self.move_tail(value);
        }
        if self.field(Field::NEXT_UID) < next_uid {
            self.base.set(Field::NEXT_UID, next_uid);
        }
        Ok(())
    }

    fn move_tail(&mut self, value: u32) {
        self.tail = self.tail.max(value);
        while self.pending.front().is_some_and(|p| p.offset < self.tail) {
            self.pending.pop_front();
        }
    }

    fn introduce(&mut self, intro: &Intro<'_>) -> Result<(), Bad> {
        let bad = |what: &str| Err(Bad::Replay(format!("extension introduction: {what}")));
        if intro.hdr_size == 0 && intro.record_size == 0 {
            return bad("neither header nor records");
        }
        if intro.record_size > 0 && !(1..=8).contains(&intro.record_align)
            || intro.record_size >= 1 << 15
            || intro.hdr_size >= 1 << 24
        {
            return bad("impossible sizes");
        }
        let found = if intro.id == Intro::BY_NAME {
            self.extensions.iter().position(|e| e.name.as_bytes() == intro.name)
        } else {
            match usize::try_from(intro.id).ok().filter(|&id| id < self.extensions.len()) {
                Some(id) => Some(id),
                None => return bad(&format!("there is no extension number {}", intro.id)),
            }
        };
        let record_size = intro.record_size;
        let ext = match found {
            Some(ext) if &*self.extensions[ext].name == "keywords" => return bad("of keywords"),
            None if intro.name == b"keywords" => return bad("of keywords"),
            Some(ext) if self.extensions[ext].reset_id != intro.reset_id => {
                self.intro = Context::Foreign { ext, record_size };
                return Ok(());
            }
            Some(ext) => {
                self.resize_ext(ext, intro)?;
                ext
            }
            None => {
                let Some(name) = ext_name(intro.name) else { return bad("invalid name") };
                self.extensions.push(Extension {
                    name: name.into(),
                    reset_id: intro.reset_id,
                    header: Vec::new(),
                    record_size: 0,
                    record_align: intro.record_align,
                    column: Column::default(),
                });
                self.resize_ext(self.extensions.len() - 1, intro)?;
                self.extensions.len() - 1
            }
        };
        if &*self.extensions[ext].name == "modseq" && self.extensions[ext].record_size == 8 {
            self.counter = self.counter.max(1);
            self.table.keep_modseqs();
        }
        self.intro = Context::Live { ext, record_size };
        Ok(())
    }

    fn resize_ext(&mut self, ext: usize, intro: &Intro<'_>) -> Result<(), Bad> {
        let (rows, others) = (self.table.len(), self.record_size() - usize::from(self.extensions[ext].record_size));
        let headers: usize = self.extensions.iter().map(|e| e.header.len()).sum();
        let e = &mut self.extensions[ext];
        let hdr_size = intro.hdr_size as usize;
        let size = if intro.keep { intro.record_size.max(e.record_size) } else { intro.record_size };
        if headers + hdr_size > 1 << 25 || others + usize::from(size) >= 1 << 16 || !fits(rows, others + usize::from(size)) {
            return Err(Bad::Replay("extensions larger than can be".into()));
        }
        // Headers are compared by the room that they take in a snapshot.
        if !(intro.keep && hdr_size.next_multiple_of(8) < e.header.len().next_multiple_of(8)) {
            e.header.resize(hdr_size, 0);
        }
        if intro.record_size > 0 {
            e.record_align = intro.record_align;
        }
        e.record_size = size;
        // Modseqs have a column of their own type.
        if &*e.name != "modseq" || size != 8 {
            e.column.resize(size, &self.table.stored);
        }
        Ok(())
    }

    fn reset_ext(&mut self, new_id: u32, preserve: bool) {
        let (Context::Live { ext, record_size } | Context::Foreign { ext, record_size }) = self.intro else {
            tracing::debug!("extension reset without an introduction, ignored");
            return;
        };
        let e = &mut self.extensions[ext];
        e.reset_id = new_id;
        if !preserve {
            e.header.fill(0);
            e.column.clear();
            if &*e.name == "modseq" {
                self.table.clear_modseqs();
            }
        }
        self.intro = Context::Live { ext, record_size };
    }

    fn write_ext_header(&mut self, offset: u32, data: &[u8]) -> Result<(), Bad> {
        let Context::Live { ext, .. } = self.intro else { return Ok(()) };
        let e = &mut self.extensions[ext];
        let start = offset as usize;
        let end = start.checked_add(data.len());
        let Some(place) = end.and_then(|end| e.header.get_mut(start..end)) else {
            return Err(Bad::Replay(format!("header update of {} bytes at {start} of extension {}", data.len(), e.name)));
        };
        place.copy_from_slice(data);
        if &*e.name == "modseq" {
            // Mails that had none yet get the one of the moment when modseqs were switched on (index.md 3.7).
            let highest = self.modseq_header().map_or(0, |h| h.0);
            self.counter = self.counter.max(highest);
            for row in 0..self.table.len() {
                if highest > 0 && self.table.modseq(row) == 0 {
                    self.table.set_modseq(row, highest);
                }
            }
        }
        Ok(())
    }

    fn write_ext_records(&mut self, payload: &[u8]) -> Result<(), Bad> {
        let (ext, size) = match self.intro {
            Context::Live { ext, record_size } => (ext, usize::from(record_size)),
            Context::Foreign { .. } => return Ok(()),
            Context::None => {
                tracing::debug!("extension records without an introduction, ignored");
                return Ok(());
            }
        };
        let stride = (4 + size).next_multiple_of(4);
        if payload.is_empty() || !payload.len().is_multiple_of(stride) {
            return Err(Bad::Replay(format!("extension records of {} bytes", payload.len())));
        }
        let next_uid = self.field(Field::NEXT_UID);
        let rows = self.table.len();
        let e = &mut self.extensions[ext];
        let is_modseq = &*e.name == "modseq" && e.record_size == 8;
        let mut next = rows;
        for entry in payload.chunks_exact(stride) {
            let uid = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            if uid == 0 || uid >= next_uid {
                return Err(Bad::Replay(format!("extension record of UID {uid} although UIDNEXT is {next_uid}")));
            }
            let Some(row) = self.table.row_near(uid, next) else { continue };
            next = row + 1;
            let data = &entry[4..4 + size];
            if is_modseq {
                if let Some(b) = data.first_chunk::<8>() {
                    self.table.set_modseq(row, u64::from_le_bytes(*b));
                }
                continue;
            }
            // An introduction that shrinks nothing may name fewer bytes than there are.
            let place = e.column.get_mut(&mut self.table.stored, row, rows, self.table.expected);
            let n = size.min(place.len());
            place[..n].copy_from_slice(&data[..n]);
        }
        Ok(())
    }

    fn increment(&mut self, uid: u32, diff: i32) -> Result<(), Bad> {
        let Context::Live { ext, .. } = self.intro else { return Ok(()) };
        let rows = self.table.len();
        let Some(row) = self.table.row(uid) else { return Ok(()) };
        let e = &mut self.extensions[ext];
        let place = e.column.get_mut(&mut self.table.stored, row, rows, self.table.expected);
        let size = place.len();
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(Bad::Replay(format!("increment of a record of {size} bytes")));
        }
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(place);
        let old = u64::from_le_bytes(wide);
        let new = old.checked_add_signed(i64::from(diff)).filter(|n| size == 8 || *n < 1 << (8 * size));
        let Some(new) = new else {
            return Err(Bad::Replay(format!("increment of {old} by {diff} for UID {uid}")));
        };
        place.copy_from_slice(&new.to_le_bytes()[..size]);
        Ok(())
    }
}

/// Where a record stands, and what of its file matters.
#[derive(Debug, Clone, Copy)]
struct Apply {
    minor: u8,
    offset: u32,
    /// The end of what was read of the log.
    end: u64,
}

/// The name of an extension, if it may be one (index.md 2.2).
pub(in crate::index) fn ext_name(name: &[u8]) -> Option<&str> {
    let valid = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b' ');
    (1..64).contains(&name.len()).then_some(())?;
    name.iter().all(valid).then(|| std::str::from_utf8(name).ok())?
}
