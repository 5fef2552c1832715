//! A snapshot's bytes: `dovecot.index` in and out (spec: index.md 2).

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::replay::ext_name;
use super::table::fits;
use super::{Base, Column, Extension, Field, KeywordTable, Position, SetId, State, Stored, Table};
use crate::index::error::{Damage, DamageClass};
use crate::mail::Flags;

/// Where the parts of a snapshot's records are.
pub(in crate::index) struct Layout {
    record_size: usize,
    // Offset of each extension's data, in the order of the extensions.
    offsets: Vec<usize>,
}

impl Layout {
    /// How long a snapshot of so many mails is behind its front.
    pub const fn size_of(&self, rows: usize) -> usize {
        rows * self.record_size
    }
}

/// What a record has of an extension.
enum Part<'s> {
    Keywords,
    Modseqs,
    Of(&'s Column),
}

/// What stands in front of the records.
struct Front {
    state: State,
    layout: Layout,
    header_size: usize,
}

impl State {
    /// Reads a snapshot. The position is where the log goes on; the modseq counter is left at 0 unless the snapshot itself
    /// tells it for this position.
    ///
    /// # Errors
    /// [`DamageClass::IndexUnusable`] and [`DamageClass::NeedsFsck`] (index.md 2.6).
    pub(in crate::index) fn from_snapshot(path: &Path, bytes: Vec<u8>) -> Result<Self, Damage> {
        let Front { mut state, layout, header_size } = Self::front(path, &bytes, bytes.len())?;
        let (rows, record_size) = (state.field(Field::MESSAGES) as usize, layout.record_size);
        state
            .read_records(Stored::new(Arc::new(bytes), header_size, record_size, rows), &layout)
            .map_err(|(row, what)| Damage::new(DamageClass::NeedsFsck, path, (header_size + row * record_size) as u64, what))?;
        Ok(state)
    }

    /// All checks of a snapshot except those of single mails. For ourselves: a log may have written anything into the header,
    /// and what no reader would accept must not take the place of a good snapshot. `bytes` are its front, `len` is all of it.
    ///
    /// # Errors
    /// As [`State::from_snapshot`].
    pub(in crate::index) fn check_snapshot(path: &Path, bytes: &[u8], len: usize) -> Result<(), Damage> {
        Self::front(path, bytes, len).map(drop)
    }

    fn front(path: &Path, bytes: &[u8], len: usize) -> Result<Front, Damage> {
        let unusable = |offset, what: String| Damage::new(DamageClass::IndexUnusable, path, offset, what);
        let fsck = |offset, what: String| Damage::new(DamageClass::NeedsFsck, path, offset, what);

        let Some(front) = bytes.get(..Base::SIZE) else {
            return Err(unusable(0, format!("{} bytes are no header", bytes.len())));
        };
        let base_size = usize::from(u16::from_le_bytes([front[2], front[3]]));
        let number = |at: usize| u32::from_le_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]) as usize;
        let (header_size, record_size) = (number(4), number(8));
        if front[0] != 7 {
            return Err(unusable(0, format!("major version {} is not 7", front[0])));
        }
        if front[12] & 1 != u8::from(cfg!(target_endian = "little")) {
            return Err(unusable(12, "written by a host of another byte order".into()));
        }
        if base_size < Base::SIZE || header_size < base_size || header_size > bytes.len() {
            return Err(unusable(2, format!("header sizes {base_size} and {header_size} in {} bytes", bytes.len())));
        }
        if !(8..1 << 16).contains(&record_size) {
            return Err(unusable(8, format!("record size {record_size}")));
        }
        let mut base = Base::of(&bytes[..base_size]);
        base.upgrade();
        if base.get(Field::FLAGS) & 1 != 0 {
            return Err(unusable(20, "marked as corrupted".into()));
        }
        check_numbers(&base).map_err(|(at, what)| fsck(at, what))?;

        let position = Position { seq: base.get(Field::LOG_SEQ), offset: base.get(Field::LOG_HEAD) };
        let mut state = Self::empty(base.get(Field::INDEXID), position, 0);
        state.tail = base.get(Field::LOG_TAIL);
        let start = base_size.next_multiple_of(8);
        let offsets = state
            .read_extensions(bytes.get(start..header_size).unwrap_or(&[]), record_size)
            .map_err(|(at, what)| fsck((start + at) as u64, what))?;

        let messages = base.get(Field::MESSAGES) as usize;
        let there = (len - header_size) / record_size;
        if messages > there {
            return Err(fsck(32, format!("{messages} mails, but records of {there}")));
        }
        if !fits(messages, state.record_size()) {
            return Err(fsck(32, "more data than a mailbox can have".into()));
        }
        state.base = base;
        if let Some((highest, at)) = state.modseq_header()
            && at == position
        {
            state.counter = highest;
        }
        Ok(Front { state, layout: Layout { record_size, offsets }, header_size })
    }

    /// Reads the extension area; gives the offsets of the extensions' record data.
    fn read_extensions(&mut self, area: &[u8], record_size: usize) -> Result<Vec<usize>, (usize, String)> {
        let mut offsets = Vec::new();
        let mut at = 0;
        while at < area.len() {
            let short = || (at, "extension beyond the header".to_owned());
            let h = area.get(at..at + 16).ok_or_else(short)?;
            let u16_at = |i: usize| u16::from_le_bytes([h[i], h[i + 1]]);
            let u32_at = |i: usize| u32::from_le_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
            let hdr_size = u32_at(0) as usize;
            let (offset, size, align) = (usize::from(u16_at(8)), u16_at(10), u16_at(12));
            let name_end = at + 16 + usize::from(u16_at(14));
            let name = area.get(at + 16..name_end).ok_or_else(short)?;
            let bad = |what: &str| (at, format!("extension {}: {what}", name.escape_ascii()));
            let known = ext_name(name).ok_or_else(|| bad("invalid name"))?;
            if self.ext(known).is_some() {
                return Err(bad("is there twice"));
            }
            if hdr_size == 0 && size == 0 || hdr_size >= 1 << 24 {
                return Err(bad("impossible sizes"));
            }
            if size > 0 {
                let a = usize::from(align);
                let fine = (1..=8).contains(&a) && size < 1 << 15 && offset >= 5 && offset + usize::from(size) <= record_size;
                if !fine || offset % a != 0 || !record_size.is_multiple_of(a) {
                    return Err(bad("records at an impossible place"));
                }
            }
            let data = name_end.next_multiple_of(8);
            let header = area.get(data..data + hdr_size).ok_or_else(short)?;
            if known == "keywords" {
                self.read_keywords(header).map_err(|what| bad(&what))?;
            }
            let typed = known == "keywords" || known == "modseq" && size == 8;
            self.extensions.push(Extension {
                name: known.into(),
                reset_id: u32_at(4),
                header: header.to_vec(),
                record_size: size,
                record_align: align,
                column: Column::new(if typed { 0 } else { size }),
            });
            offsets.push(offset);
            at = (data + hdr_size).next_multiple_of(8);
        }
        Ok(offsets)
    }

    fn read_keywords(&mut self, header: &[u8]) -> Result<(), String> {
        let number = |at: usize| header.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
        let short = || "keyword names beyond the header".to_owned();
        let count = number(0).ok_or_else(short)?;
        let names = count.checked_mul(8).and_then(|n| header.get(4 + n..)).ok_or_else(short)?;
        let keywords = Arc::make_mut(&mut self.keywords);
        let mut last = None;
        for i in 0..count {
            let at = number(4 + 8 * i + 4).ok_or_else(short)?;
            if last.is_some_and(|l| at <= l) {
                return Err("keyword names out of order".into());
            }
            last = Some(at);
            let text = names.get(at..).ok_or_else(short)?;
            let end = memchr::memchr(0, text).ok_or_else(short)?;
            let name = &text[..end];
            if name.is_empty() || keywords.find(name).is_some() {
                return Err(format!("keyword name {:?}", name.escape_ascii().to_string()));
            }
            keywords.add(name);
        }
        Ok(())
    }

    /// Takes the rows over as they are, once they are found to be in order.
    fn read_records(&mut self, stored: Stored, layout: &Layout) -> Result<(), (usize, String)> {
        let next_uid = self.field(Field::NEXT_UID);
        let mut last = 0;
        for (row, record) in stored.records().enumerate() {
            let uid = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
            if uid <= last {
                return Err((row, format!("UID {uid} out of order")));
            }
            if uid >= next_uid {
                return Err((row, format!("UID {uid} although UIDNEXT is {next_uid}")));
            }
            last = uid;
        }
        let (mut sets, mut modseqs) = (Vec::new(), None);
        for (ext, &offset) in self.extensions.iter_mut().zip(&layout.offsets) {
            match &*ext.name {
                _ if ext.record_size == 0 => {}
                "keywords" => {
                    let keywords = Arc::make_mut(&mut self.keywords);
                    sets = read_sets(keywords, stored.records().map(|r| &r[offset..offset + usize::from(ext.record_size)]));
                }
                "modseq" if ext.record_size == 8 => modseqs = Some(Column::stored(8, offset)),
                _ => ext.column = Column::stored(ext.record_size, offset),
            }
        }
        self.table = Table::of(stored, sets, modseqs);
        Ok(())
    }

    /// The bytes of a snapshot of this state.
    #[cfg(any(test, fuzzing))]
    pub(in crate::index) fn to_snapshot(&self) -> Vec<u8> {
        let (mut out, layout) = self.snapshot_front();
        self.snapshot_rows(0..self.len(), &layout, &mut out);
        out
    }

    /// What stands in front of a snapshot's records, and how they are laid out.
    pub(in crate::index) fn snapshot_front(&self) -> (Vec<u8>, Layout) {
        let mut base = self.base.clone();
        let layout = self.layout();
        let area = self.extension_area(&layout);
        let base_size = base.bytes().len().next_multiple_of(8);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (mut seen, mut deleted) = (0, 0);
        let (mut first_unseen, mut first_deleted) = (None, None);
        for row in 0..self.len() {
            let flags = Flags::from_bits(self.table.flags(row));
            if flags.contains(Flags::SEEN) {
                seen += 1;
            } else {
                first_unseen = first_unseen.or(Some(row));
            }
            if flags.contains(Flags::DELETED) {
                deleted += 1;
                first_deleted = first_deleted.or(Some(row));
            }
        }
        let uid_of = |row: Option<usize>| row.map_or(self.field(Field::NEXT_UID), |row| self.table.uid(row));
        base.write(4, &number(base_size + area.len()).to_le_bytes());
        base.write(8, &number(layout.record_size).to_le_bytes());
        base.set(Field::MESSAGES, number(self.len()));
        base.set(Field::SEEN, number(seen));
        base.set(Field::DELETED, number(deleted));
        base.set(Field::FIRST_UNSEEN_LOWWATER, uid_of(first_unseen));
        base.set(Field::FIRST_DELETED_LOWWATER, uid_of(first_deleted));
        base.set(Field::LOG_SEQ, self.position.seq);
        base.set(Field::LOG_HEAD, self.position.offset);
        base.set(Field::LOG_TAIL, self.tail);

        let mut out = Vec::with_capacity(base_size + area.len());
        out.extend_from_slice(base.bytes());
        out.resize(base_size, 0);
        out.extend_from_slice(&area);
        (out, layout)
    }

    /// Adds the records of these rows.
    pub(in crate::index) fn snapshot_rows(&self, rows: Range<usize>, layout: &Layout, out: &mut Vec<u8>) {
        let parts = self.extensions.iter().zip(&layout.offsets).filter(|(ext, _)| ext.record_size > 0);
        let parts: Vec<_> = parts
            .map(|(ext, &at)| {
                let part = match &*ext.name {
                    "keywords" => Part::Keywords,
                    "modseq" if ext.record_size == 8 => Part::Modseqs,
                    _ => Part::Of(&ext.column),
                };
                (part, at..at + usize::from(ext.record_size))
            })
            .collect();
        out.reserve(rows.len() * layout.record_size);
        for row in rows {
            let start = out.len();
            out.resize(start + layout.record_size, 0);
            let record = &mut out[start..];
            record[..4].copy_from_slice(&self.table.uid(row).to_le_bytes());
            record[4] = self.table.flags(row);
            for (part, at) in &parts {
                let place = &mut record[at.clone()];
                match part {
                    Part::Keywords => {
                        for k in self.keywords.content(self.table.set(row)) {
                            if let Some(bits) = place.get_mut(*k as usize / 8) {
                                *bits |= 1 << (k % 8);
                            }
                        }
                    }
                    Part::Modseqs => place.copy_from_slice(&self.table.modseq(row).to_le_bytes()),
                    Part::Of(column) => place.copy_from_slice(column.get(&self.table.stored, row)),
                }
            }
        }
    }

    /// Places the extensions in the record: by alignment, the largest first (index.md 2.3).
    fn layout(&self) -> Layout {
        let mut waiting: Vec<usize> = (0..self.extensions.len()).filter(|&i| self.extensions[i].record_size > 0).collect();
        let align = |i: usize| usize::from(self.extensions[i].record_align).max(1);
        waiting.sort_by_key(|&i| std::cmp::Reverse(align(i)));
        let largest = waiting.first().map_or(1, |&i| align(i));
        let mut offsets = vec![0; self.extensions.len()];
        let mut at = 5;
        while !waiting.is_empty() {
            match waiting.iter().position(|&i| at % align(i) == 0) {
                Some(n) => {
                    let i = waiting.remove(n);
                    offsets[i] = at;
                    at += usize::from(self.extensions[i].record_size);
                }
                None => at += 1,
            }
        }
        // Alignments that are no powers of two must divide the size, too.
        let mut record_size = at.next_multiple_of(largest.max(4));
        while !self.extensions.iter().all(|e| e.record_size == 0 || record_size % usize::from(e.record_align).max(1) == 0) {
            record_size += 1;
        }
        Layout { record_size, offsets }
    }

    fn extension_area(&self, layout: &Layout) -> Vec<u8> {
        let mut out = Vec::new();
        for (ext, &offset) in self.extensions.iter().zip(&layout.offsets) {
            let mut header = ext.header.clone();
            match &*ext.name {
                "keywords" => self.keyword_header(&mut header),
                "modseq" if header.len() >= 16 => {
                    header[..8].copy_from_slice(&self.highest_modseq().0.to_le_bytes());
                    header[8..12].copy_from_slice(&self.position.seq.to_le_bytes());
                    header[12..16].copy_from_slice(&self.position.offset.to_le_bytes());
                }
                _ => {}
            }
            let small = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes();
            out.extend_from_slice(&u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(&ext.reset_id.to_le_bytes());
            out.extend_from_slice(&small(offset));
            out.extend_from_slice(&ext.record_size.to_le_bytes());
            out.extend_from_slice(&ext.record_align.to_le_bytes());
            out.extend_from_slice(&small(ext.name.len()));
            out.extend_from_slice(ext.name.as_bytes());
            out.resize(out.len().next_multiple_of(8), 0);
            out.extend_from_slice(&header);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out
    }

    /// The keyword names, zero-filled to the registered size.
    fn keyword_header(&self, out: &mut Vec<u8>) {
        let size = out.len().max(self.keywords.header_size());
        out.clear();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        out.extend_from_slice(&number(self.keywords.len()));
        let mut at = 0;
        for name in self.keywords.names() {
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&number(at));
            at += name.len() + 1;
        }
        for name in self.keywords.names() {
            out.extend_from_slice(name);
            out.push(0);
        }
        out.resize(size, 0);
    }
}

/// The keyword sets of rows with these bits; what is missing at the end is 0.
fn read_sets<'r>(keywords: &mut KeywordTable, rows: impl ExactSizeIterator<Item = &'r [u8]>) -> Vec<SetId> {
    let (len, mut sets) = (rows.len(), Vec::new());
    let mut known = HashMap::new();
    // Most mails have none, or those of the mail before.
    let mut last = (&[][..], 0);
    for (row, bits) in rows.enumerate().filter(|(_, bits)| bits.iter().any(|&b| b != 0)) {
        if bits != last.0 {
            let set = *known.entry(bits).or_insert_with(|| {
                let on = |k: &u32| bits.get(*k as usize / 8).is_some_and(|b| b & (1 << (k % 8)) != 0);
                let count = u32::try_from(keywords.len()).unwrap_or(u32::MAX);
                keywords.intern((0..count).filter(on).collect())
            });
            last = (bits, set);
        }
        sets.resize(len, 0);
        sets[row] = last.1;
    }
    sets
}

/// The checks of index.md 2.6 that need nothing but the base header.
fn check_numbers(base: &Base) -> Result<(), (u64, String)> {
    let get = |f: Field| base.get(f);
    let next_uid = get(Field::NEXT_UID);
    let bad = |f: Field, what: &str| Err((u64::from(f.0), format!("{what} {}", get(f))));
    if get(Field::INDEXID) == 0 {
        return bad(Field::INDEXID, "indexid");
    }
    if next_uid == 0 {
        return bad(Field::NEXT_UID, "UIDNEXT");
    }
    if get(Field::UID_VALIDITY) == 0 && next_uid != 1 {
        return bad(Field::UID_VALIDITY, "UIDVALIDITY");
    }
    for count in [Field::SEEN, Field::DELETED] {
        if get(count) > get(Field::MESSAGES) {
            return bad(count, "more flagged mails than mails:");
        }
    }
    if get(Field::FIRST_RECENT_UID) == 0 {
        return bad(Field::FIRST_RECENT_UID, "first recent UID");
    }
    for uid in [Field::FIRST_RECENT_UID, Field::FIRST_UNSEEN_LOWWATER, Field::FIRST_DELETED_LOWWATER] {
        if get(uid) > next_uid {
            return bad(uid, "UID beyond UIDNEXT:");
        }
    }
    Ok(())
}
