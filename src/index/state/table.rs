//! The mails of an index, column by column: a new extension costs nothing for the mails that are there.

use crate::index::log::Range;

use super::keywords::SetId;

/// Bytes that all mails' extension data may take together; more is not a mailbox but an attack on memory.
const MAX_BYTES: usize = 1 << 30;

/// The data of one extension: `size` bytes a mail. What lies behind the end of `data` is zero.
#[derive(Debug, Clone, Default)]
pub(in crate::index) struct Column {
    pub size: usize,
    data: Vec<u8>,
}

static ZEROS: [u8; 1 << 15] = [0; 1 << 15];

impl Column {
    pub fn new(size: u16) -> Self {
        Self { size: usize::from(size), data: Vec::new() }
    }

    pub fn get(&self, row: usize) -> &[u8] {
        let at = row * self.size;
        self.data.get(at..at + self.size).unwrap_or_else(|| ZEROS.get(..self.size).unwrap_or(&ZEROS))
    }

    /// The data of a row, to be changed. `rows` is how many there are.
    pub fn get_mut(&mut self, row: usize, rows: usize, expected: usize) -> &mut [u8] {
        if self.data.len() < (row + 1) * self.size {
            make_room(&mut self.data, rows * self.size, expected * self.size);
            self.data.resize(rows * self.size, 0);
        }
        &mut self.data[row * self.size..(row + 1) * self.size]
    }

    /// The data of all rows: what stands at this offset of each of these records of one size.
    pub fn fill(&mut self, records: &[u8], record_size: usize, offset: usize) {
        // Sizes that are known beforehand are copied without a call for each row.
        self.data = match self.size {
            2 => gather::<2>(records, record_size, offset),
            4 => gather::<4>(records, record_size, offset),
            8 => gather::<8>(records, record_size, offset),
            12 => gather::<12>(records, record_size, offset),
            16 => gather::<16>(records, record_size, offset),
            size => {
                let mut data = Vec::with_capacity(records.len() / record_size * size);
                records.chunks_exact(record_size).for_each(|r| data.extend_from_slice(&r[offset..offset + size]));
                data
            }
        };
        let used = self.data.iter().rposition(|&b| b != 0).map_or(0, |at| (at / self.size.max(1) + 1) * self.size);
        self.data.truncate(used);
        if used == 0 {
            self.data = Vec::new();
        }
    }

    pub fn resize(&mut self, size: u16) {
        let size = usize::from(size);
        if self.size == size {
            return;
        }
        if !self.data.is_empty() && self.size > 0 && size > 0 {
            let mut data = vec![0; self.data.len() / self.size * size];
            let common = size.min(self.size);
            for (new, old) in data.chunks_exact_mut(size).zip(self.data.chunks_exact(self.size)) {
                new[..common].copy_from_slice(&old[..common]);
            }
            self.data = data;
        } else {
            self.data = Vec::new();
        }
        self.size = size;
    }

    pub fn clear(&mut self) {
        self.data = Vec::new();
    }

    fn keep(&mut self, dead: &[bool]) {
        if self.size == 0 {
            return;
        }
        let rows = self.data.len() / self.size;
        let dead = &dead[..dead.len().min(rows)];
        let Some(first) = dead.iter().position(|&dead| dead) else { return };
        // What lies between two dead rows moves in one piece.
        let (mut to, mut from) = (first, first + 1);
        while from < rows {
            let gap = dead.get(from..).unwrap_or_default();
            let len = gap.iter().position(|&dead| dead).unwrap_or(rows - from);
            self.data.copy_within(from * self.size..(from + len) * self.size, to * self.size);
            to += len;
            from += len + 1;
        }
        self.data.truncate(to * self.size);
    }
}

fn gather<const N: usize>(records: &[u8], record_size: usize, offset: usize) -> Vec<u8> {
    let mut data = vec![[0; N]; records.len() / record_size];
    for (to, record) in data.iter_mut().zip(records.chunks_exact(record_size)) {
        to.copy_from_slice(&record[offset..offset + N]);
    }
    data.into_flattened()
}

/// The columns that every index has. Rows ascend by UID.
#[derive(Debug, Clone, Default)]
pub(in crate::index) struct Table {
    pub uids: Vec<u32>,
    pub flags: Vec<u8>,
    pub sets: Vec<SetId>,
    /// Empty as long as the index keeps no modseqs. 0 = the highest one of the mailbox.
    pub modseqs: Vec<u64>,
    /// Rows that were expunged and not yet taken out; empty when there are none.
    pub dead: Vec<bool>,
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
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    /// The row of a UID.
    pub fn row(&self, uid: u32) -> Option<usize> {
        self.uids.binary_search(&uid).ok().filter(|&r| !self.is_dead(r))
    }

    /// The row of a UID that is perhaps this one: whoever writes of many mails goes from one to the next.
    pub fn row_near(&self, uid: u32, guess: usize) -> Option<usize> {
        match self.uids.get(guess) {
            Some(&there) if there == uid => Some(guess).filter(|&r| !self.is_dead(r)),
            _ => self.row(uid),
        }
    }

    fn is_dead(&self, row: usize) -> bool {
        self.dead.get(row).is_some_and(|&d| d)
    }

    /// The rows of the mails in a UID range.
    pub fn rows(&self, range: Range) -> impl Iterator<Item = usize> + use<> {
        let first = self.uids.partition_point(|&u| u < range.first);
        let last = self.uids.partition_point(|&u| u <= range.last);
        // Dead rows may be changed, too: nobody will see it.
        first..last
    }

    /// Adds a mail at the end. `false`: there is no room in memory for the extensions' data of so many.
    pub fn push(&mut self, uid: u32, flags: u8, modseq: Option<u64>, record_size: usize) -> bool {
        if !fits(self.len() + 1, record_size) {
            return false;
        }
        let (len, expected) = (self.len() + 1, self.expected);
        make_room(&mut self.uids, len, expected);
        make_room(&mut self.flags, len, expected);
        make_room(&mut self.sets, len, expected);
        self.uids.push(uid);
        self.flags.push(flags);
        self.sets.push(0);
        if let Some(modseq) = modseq {
            make_room(&mut self.modseqs, len, expected);
            self.modseqs.push(modseq);
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
        for column in columns {
            column.keep(&dead);
        }
        keep(&mut self.uids, &dead);
        keep(&mut self.flags, &dead);
        keep(&mut self.sets, &dead);
        keep(&mut self.modseqs, &dead);
    }
}

fn keep<T>(column: &mut Vec<T>, dead: &[bool]) {
    let mut rows = dead.iter();
    column.retain(|_| !rows.next().is_some_and(|&d| d));
}

/// So many rows of so many bytes are plausible.
pub(in crate::index) fn fits(rows: usize, record_size: usize) -> bool {
    rows.checked_mul(record_size).is_some_and(|n| n <= MAX_BYTES)
}
