//! The mails of an index. Those of the snapshot stay as they stand in its file, row after row: nothing is taken apart that nobody
//! asks for. What came later is kept column by column: a new extension costs nothing for the mails that are there.
//!
//! All large parts are shared when a table is cloned, and copied when one of the two is changed: a view of an index costs nothing.

use std::sync::Arc;

use super::keywords::SetId;
use crate::index::log::Range;
use crate::mail::partition_point;

/// Bytes that all mails' extension data may take together; more is not a mailbox but an attack on memory.
const MAX_BYTES: usize = 1 << 30;

/// The first rows, in the bytes of a snapshot. Each begins with the UID and the flags.
#[derive(Debug, Clone, Default)]
pub(in crate::index) struct Stored {
    file: Arc<Vec<u8>>,
    start: usize,
    size: usize,
    rows: usize,
}

impl Stored {
    /// So many rows of so many bytes, from `start` on. The caller has found the file to be long enough.
    pub const fn new(file: Arc<Vec<u8>>, start: usize, size: usize, rows: usize) -> Self {
        Self { file, start, size, rows }
    }

    /// All rows, one behind the other.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let end = self.start + self.rows * self.size;
        self.file[self.start..end].chunks_exact(self.size.max(1))
    }

    fn part(&self, row: usize, at: usize, len: usize) -> &[u8] {
        let from = self.start + row * self.size + at;
        &self.file[from..from + len]
    }

    fn part_mut(&mut self, row: usize, at: usize, len: usize) -> &mut [u8] {
        let from = self.start + row * self.size + at;
        &mut Arc::make_mut(&mut self.file)[from..from + len]
    }

    pub fn uid(&self, row: usize) -> u32 {
        u32_of(self.part(row, 0, 4))
    }

    fn first_from(&self, uid: u32) -> usize {
        partition_point(self.rows, |row| self.uid(row) < uid)
    }

    fn keep(&mut self, dead: &[bool]) {
        if !dead.contains(&true) {
            return;
        }
        let (start, size) = (self.start, self.size);
        let file = Arc::make_mut(&mut self.file);
        let end = keep_rows(&mut file[start..start + self.rows * size], size, dead);
        file.truncate(start + end);
        self.rows = end / size;
    }
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b))
}

/// Moves the live rows of `size` bytes together; gives their bytes. What lies between two dead rows moves in one piece.
fn keep_rows(data: &mut [u8], size: usize, dead: &[bool]) -> usize {
    let rows = data.len() / size;
    let dead = &dead[..dead.len().min(rows)];
    let Some(first) = dead.iter().position(|&dead| dead) else { return rows * size };
    let (mut to, mut from) = (first, first + 1);
    while from < rows {
        let gap = dead.get(from..).unwrap_or_default();
        let len = gap.iter().position(|&dead| dead).unwrap_or(rows - from);
        data.copy_within(from * size..(from + len) * size, to * size);
        to += len;
        from += len + 1;
    }
    to * size
}

/// The data of one extension: `size` bytes a mail. What lies behind the end of `data` is zero.
#[derive(Debug, Clone, Default)]
pub(in crate::index) struct Column {
    pub size: usize,
    // Where it is in the stored rows; `data` then begins behind those.
    at: Option<usize>,
    data: Arc<Vec<u8>>,
}

static ZEROS: [u8; 1 << 15] = [0; 1 << 15];

impl Column {
    pub fn new(size: u16) -> Self {
        Self { size: usize::from(size), ..Self::default() }
    }

    /// One that is part of the stored rows, at this offset of each.
    pub fn stored(size: u16, at: usize) -> Self {
        Self { at: Some(at), ..Self::new(size) }
    }

    const fn first(&self, stored: &Stored) -> usize {
        if self.at.is_some() { stored.rows } else { 0 }
    }

    pub fn get<'a>(&'a self, stored: &'a Stored, row: usize) -> &'a [u8] {
        match self.at {
            Some(at) if row < stored.rows => stored.part(row, at, self.size),
            _ => {
                let at = (row - self.first(stored)) * self.size;
                self.data.get(at..at + self.size).unwrap_or_else(|| ZEROS.get(..self.size).unwrap_or(&ZEROS))
            }
        }
    }

    /// The data of a row, to be changed. `rows` is how many there are.
    pub fn get_mut<'a>(&'a mut self, stored: &'a mut Stored, row: usize, rows: usize, expected: usize) -> &'a mut [u8] {
        let first = self.first(stored);
        match self.at {
            Some(at) if row < first => stored.part_mut(row, at, self.size),
            _ => {
                let (row, rows, expected) = (row - first, rows - first, expected.saturating_sub(first));
                let data = Arc::make_mut(&mut self.data);
                if data.len() < (row + 1) * self.size {
                    make_room(data, rows * self.size, expected * self.size);
                    data.resize(rows * self.size, 0);
                }
                &mut data[row * self.size..(row + 1) * self.size]
            }
        }
    }

    pub fn resize(&mut self, size: u16, stored: &Stored) {
        let size = usize::from(size);
        if self.size == size {
            return;
        }
        if let Some(at) = self.at.take() {
            let mut data = Vec::with_capacity(stored.rows * self.size + self.data.len());
            stored.records().for_each(|r| data.extend_from_slice(&r[at..at + self.size]));
            data.extend_from_slice(&self.data);
            self.data = Arc::new(data);
        }
        let mut data = Vec::new();
        if !self.data.is_empty() && self.size > 0 && size > 0 {
            data = vec![0; self.data.len() / self.size * size];
            let common = size.min(self.size);
            for (new, old) in data.chunks_exact_mut(size).zip(self.data.chunks_exact(self.size)) {
                new[..common].copy_from_slice(&old[..common]);
            }
        }
        self.data = Arc::new(data);
        self.size = size;
    }

    pub fn clear(&mut self) {
        self.at = None;
        self.data = Arc::default();
    }

    fn keep(&mut self, dead: &[bool], stored: &Stored) {
        let dead = &dead[self.first(stored)..];
        if self.size == 0 || !dead.contains(&true) {
            return;
        }
        let data = Arc::make_mut(&mut self.data);
        let end = keep_rows(data, self.size, dead);
        data.truncate(end);
    }
}

/// The rows of an index. They ascend by UID.
#[derive(Debug, Clone, Default)]
pub(in crate::index) struct Table {
    pub stored: Stored,
    // UIDs and flags of the rows behind the stored ones.
    uids: Arc<Vec<u32>>,
    flags: Arc<Vec<u8>>,
    // Of all rows; 0 behind its end.
    sets: Arc<Vec<SetId>>,
    // None as long as the index keeps no modseqs. 0 = the highest one of the mailbox.
    modseqs: Option<Column>,
    // Rows that were expunged and not yet taken out; empty when there are none.
    dead: Vec<bool>,
    /// So many rows there will be, as far as is known: nothing has to grow again and again, and leave holes in the memory.
    pub expected: usize,
}

/// Makes room for so many items, and at once for those that are expected.
fn make_room<T>(list: &mut Vec<T>, len: usize, expected: usize) {
    if (list.capacity() + 1..=expected).contains(&len) {
        list.reserve_exact(expected - list.len());
    }
}

impl Table {
    /// That of a snapshot with its keyword sets, and where the modseqs are in it.
    pub fn of(stored: Stored, sets: Vec<SetId>, modseqs: Option<Column>) -> Self {
        Self { stored, sets: Arc::new(sets), modseqs, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.stored.rows + self.uids.len()
    }

    pub fn uid(&self, row: usize) -> u32 {
        if row < self.stored.rows { self.stored.uid(row) } else { self.uids[row - self.stored.rows] }
    }

    pub fn flags(&self, row: usize) -> u8 {
        if row < self.stored.rows { self.stored.part(row, 4, 1)[0] } else { self.flags[row - self.stored.rows] }
    }

    pub fn set_flags(&mut self, row: usize, flags: u8) {
        if row < self.stored.rows {
            self.stored.part_mut(row, 4, 1)[0] = flags;
        } else {
            Arc::make_mut(&mut self.flags)[row - self.stored.rows] = flags;
        }
    }

    /// The keyword set of a row.
    pub fn set(&self, row: usize) -> SetId {
        self.sets.get(row).copied().unwrap_or(0)
    }

    pub fn set_set(&mut self, row: usize, set: SetId) {
        if set == self.set(row) {
            return;
        }
        let (len, expected) = (self.len(), self.expected);
        let sets = Arc::make_mut(&mut self.sets);
        if sets.len() <= row {
            make_room(sets, len, expected);
            sets.resize(len, 0);
        }
        sets[row] = set;
    }

    /// From now on modseqs of single mails are kept.
    pub fn keep_modseqs(&mut self) {
        self.modseqs.get_or_insert_with(|| Column::new(8));
    }

    /// The modseq of a row; 0 where none is kept for it.
    pub fn modseq(&self, row: usize) -> u64 {
        let bytes = self.modseqs.as_ref().and_then(|column| column.get(&self.stored, row).first_chunk::<8>());
        bytes.map_or(0, |b| u64::from_le_bytes(*b))
    }

    /// Does nothing where none are kept.
    pub fn set_modseq(&mut self, row: usize, modseq: u64) {
        let rows = self.len();
        if let Some(column) = &mut self.modseqs {
            column.get_mut(&mut self.stored, row, rows, self.expected).copy_from_slice(&modseq.to_le_bytes());
        }
    }

    pub fn clear_modseqs(&mut self) {
        self.modseqs.iter_mut().for_each(Column::clear);
    }

    /// The row of the first mail that has this UID or a higher one.
    pub fn first_from(&self, uid: u32) -> usize {
        let stored = self.stored.rows;
        if stored > 0 && self.stored.uid(stored - 1) >= uid {
            return self.stored.first_from(uid);
        }
        stored + self.uids.partition_point(|&u| u < uid)
    }

    /// The row of a UID.
    pub fn row(&self, uid: u32) -> Option<usize> {
        Some(self.first_from(uid)).filter(|&r| r < self.len() && self.uid(r) == uid && !self.is_dead(r))
    }

    /// The row of a UID that is perhaps this one: whoever writes of many mails goes from one to the next.
    pub fn row_near(&self, uid: u32, guess: usize) -> Option<usize> {
        if guess < self.len() && self.uid(guess) == uid {
            return Some(guess).filter(|&r| !self.is_dead(r));
        }
        self.row(uid)
    }

    fn is_dead(&self, row: usize) -> bool {
        self.dead.get(row).is_some_and(|&d| d)
    }

    /// The rows of the mails in a UID range.
    pub fn rows(&self, range: Range) -> impl Iterator<Item = usize> + use<> {
        let last = range.last.checked_add(1).map_or(self.len(), |behind| self.first_from(behind));
        // Dead rows may be changed, too: nobody will see it.
        self.first_from(range.first)..last
    }

    /// Adds a mail at the end. `false`: there is no room in memory for the extensions' data of so many.
    pub fn push(&mut self, uid: u32, flags: u8, modseq: Option<u64>, record_size: usize) -> bool {
        let row = self.len();
        if !fits(row + 1, record_size) {
            return false;
        }
        let (len, expected) = (self.uids.len() + 1, self.expected.saturating_sub(self.stored.rows));
        let (uids, all_flags) = (Arc::make_mut(&mut self.uids), Arc::make_mut(&mut self.flags));
        make_room(uids, len, expected);
        make_room(all_flags, len, expected);
        uids.push(uid);
        all_flags.push(flags);
        if let Some(modseq) = modseq {
            self.set_modseq(row, modseq);
        }
        if !self.dead.is_empty() {
            self.dead.push(false);
        }
        true
    }

    /// Marks the mails of a range as expunged, until [`Self::compact`].
    pub fn kill(&mut self, range: Range) {
        let rows = self.rows(range);
        let len = self.len();
        for row in rows {
            if self.dead.is_empty() {
                self.dead.resize(len, false);
            }
            self.dead[row] = true;
        }
    }

    /// Takes the expunged mails out.
    pub fn compact<'c>(&mut self, columns: impl Iterator<Item = &'c mut Column>) {
        if self.dead.is_empty() {
            return;
        }
        let dead = std::mem::take(&mut self.dead);
        columns.for_each(|column| column.keep(&dead, &self.stored));
        self.modseqs.iter_mut().for_each(|column| column.keep(&dead, &self.stored));
        let (stored, others) = dead.split_at(self.stored.rows);
        self.stored.keep(stored);
        keep(&mut self.uids, others);
        keep(&mut self.flags, others);
        keep(&mut self.sets, &dead);
    }
}

fn keep<T: Clone>(column: &mut Arc<Vec<T>>, dead: &[bool]) {
    if dead.contains(&true) && !column.is_empty() {
        let mut rows = dead.iter();
        Arc::make_mut(column).retain(|_| !rows.next().is_some_and(|&d| d));
    }
}

/// So many rows of so many bytes are plausible.
pub(in crate::index) fn fits(rows: usize, record_size: usize) -> bool {
    rows.checked_mul(record_size).is_some_and(|n| n <= MAX_BYTES)
}
