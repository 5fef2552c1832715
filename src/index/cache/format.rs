//! The cache's bytes: header, field blocks, records (spec: index.md 8.2 to 8.4). Nothing is opened here.

use std::ops::Range;

use crate::index::log::{decode_size, encode_size};

/// Bytes of the file's header.
pub(super) const HEADER: usize = 32;
/// A record is at most so long.
pub(super) const MAX_RECORD: usize = 64 * 1024;
const MAX_FIELDS: usize = 4096;
const VARIABLE: u32 = u32::MAX;

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at.checked_add(4)?).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub indexid: u32,
    pub file_seq: u32,
    pub continued: u32,
    pub records: u32,
    pub deleted: u32,
    /// Where the first block of fields is; 0 = nowhere yet.
    pub fields: u32,
}

impl Header {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let b = bytes.get(..HEADER)?;
        // Version, and the size of the offsets of the program that made it.
        if (b[0], b[1]) != (1, 8) {
            return None;
        }
        let number = |at| u32_at(b, at);
        Some(Self {
            indexid: number(4)?,
            file_seq: number(8)?,
            continued: number(12)?,
            records: number(16)?,
            deleted: number(24)?,
            fields: block_offset([b[28], b[29], b[30], b[31]]),
        })
    }

    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[..3].copy_from_slice(&[1, 8, 1]);
        b[4..8].copy_from_slice(&self.indexid.to_le_bytes());
        b[8..12].copy_from_slice(&self.file_seq.to_le_bytes());
        b[12..16].copy_from_slice(&self.continued.to_le_bytes());
        b[16..20].copy_from_slice(&self.records.to_le_bytes());
        b[24..28].copy_from_slice(&self.deleted.to_le_bytes());
        b[28..32].copy_from_slice(&put_block_offset(self.fields));
        b
    }
}

/// Offsets of blocks are written like sizes of log records; 0 = none.
fn block_offset(b: [u8; 4]) -> u32 {
    decode_size(b).unwrap_or(0)
}

pub(super) fn put_block_offset(offset: u32) -> [u8; 4] {
    if offset == 0 { [0; 4] } else { encode_size(offset) }
}

/// A kind of data in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub name: Vec<u8>,
    /// `None`: each value has its own length.
    pub size: Option<u32>,
    pub kind: u8,
    pub decision: u8,
    pub last_used: u32,
}

impl Field {
    /// Of one size for all mails.
    pub const FIXED: u8 = 0;
    /// Text without NUL.
    pub const STRING: u8 = 2;
    /// To be cached for all mails.
    pub const YES: u8 = 2;
}

/// A block of field definitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(pub Vec<Field>);

impl Fields {
    /// The bytes of a block that start here: offset of the next block, and its own size.
    pub fn front(bytes: &[u8]) -> Option<(u32, usize)> {
        let next = block_offset(*bytes.first_chunk::<4>()?);
        let size = usize::try_from(u32_at(bytes, 4)?).ok()?;
        (size >= 12).then_some((next, size))
    }

    /// A whole block.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let count = usize::try_from(u32_at(block, 8)?).ok().filter(|&n| n <= MAX_FIELDS)?;
        let (used, sizes) = (12, 12 + 4 * count);
        let (kinds, decisions) = (sizes + 4 * count, sizes + 5 * count);
        let mut names = block.get(decisions + count..)?;
        let mut fields = Vec::with_capacity(count);
        for i in 0..count {
            let end = memchr::memchr(0, names)?;
            let size = u32_at(block, sizes + 4 * i)?;
            fields.push(Field {
                name: names[..end].to_vec(),
                size: (size != VARIABLE).then_some(size),
                kind: *block.get(kinds + i)?,
                decision: *block.get(decisions + i)?,
                last_used: u32_at(block, used + 4 * i)?,
            });
            names = &names[end + 1..];
        }
        Some(Self(fields))
    }

    /// Where the decision and the last use of a field are in its block.
    pub fn places(&self, field: usize) -> (usize, usize) {
        (12 + 9 * self.0.len() + field, 12 + 4 * field)
    }

    /// The bytes of a block, the last one of its file.
    pub fn bytes(&self) -> Vec<u8> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = vec![0; 8];
        out.extend_from_slice(&number(self.0.len()));
        self.0.iter().for_each(|f| out.extend_from_slice(&f.last_used.to_le_bytes()));
        self.0.iter().for_each(|f| out.extend_from_slice(&f.size.unwrap_or(VARIABLE).to_le_bytes()));
        self.0.iter().for_each(|f| out.push(f.kind));
        self.0.iter().for_each(|f| out.push(f.decision));
        for f in &self.0 {
            out.extend_from_slice(&f.name);
            out.push(0);
        }
        out.resize(out.len().next_multiple_of(4), 0);
        let size = number(out.len());
        out[4..8].copy_from_slice(&size);
        out
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|f| f.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The values in a record: field, and where its data is.
    ///
    /// `None` for a record that is not valid.
    pub fn values(&self, record: &[u8]) -> Option<Vec<(usize, Range<usize>)>> {
        let mut values = Vec::new();
        let mut at = 8;
        while at < record.len() {
            let field = usize::try_from(u32_at(record, at)?).ok()?;
            at += 4;
            let size = match self.0.get(field)?.size {
                Some(size) => size,
                None => {
                    at += 4;
                    u32_at(record, at - 4)?
                }
            };
            let end = at.checked_add(usize::try_from(size).ok()?)?;
            record.get(at..end)?;
            values.push((field, at..end));
            at = end.checked_next_multiple_of(4)?;
        }
        (at == record.len()).then_some(values)
    }
}

/// The front of a record: offset of the one before it, and its size.
pub(super) fn record_front(bytes: &[u8]) -> Option<(u32, usize)> {
    let size = usize::try_from(u32_at(bytes, 4)?).ok()?;
    (8..=MAX_RECORD).contains(&size).then_some((u32_at(bytes, 0)?, size))
}

/// Writes a record with these values (field number, whether of one size for all, data).
pub(super) fn put_record(out: &mut Vec<u8>, prev: u32, values: &[(usize, bool, &[u8])]) {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let start = out.len();
    out.extend_from_slice(&prev.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for (field, fixed, data) in values {
        out.extend_from_slice(&number(*field));
        if !fixed {
            out.extend_from_slice(&number(data.len()));
        }
        out.extend_from_slice(data);
        out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    }
    let size = number(out.len() - start);
    out[start + 4..start + 8].copy_from_slice(&size);
}
