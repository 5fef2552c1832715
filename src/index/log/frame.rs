//! Header, record framing and transaction boundaries of a log.

use super::record::kind;

/// The kind of a record beside its type (index.md 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bits {
    /// The storage already agrees; else it is a request that the next storage sync carries out.
    pub external: bool,
    /// A sync wrote it: a later log scan skips it.
    pub sync: bool,
}

impl Bits {
    /// Changes that the storage already has, or that live in the index only.
    pub const EXTERNAL: Self = Self { external: true, sync: false };
    /// Requests to the storage.
    pub const INTERNAL: Self = Self { external: false, sync: false };
    /// As [`Self::EXTERNAL`], written by a sync.
    pub const EXTERNAL_SYNC: Self = Self { external: true, sync: true };
    /// As [`Self::INTERNAL`], written by a sync.
    pub const INTERNAL_SYNC: Self = Self { external: false, sync: true };

    const EXTERNAL_BIT: u32 = 0x1000_0000;
    const SYNC_BIT: u32 = 0x2000_0000;

    pub(in crate::index) const fn word(self) -> u32 {
        (if self.external { Self::EXTERNAL_BIT } else { 0 }) | (if self.sync { Self::SYNC_BIT } else { 0 })
    }

    pub(in crate::index) const fn of(word: u32) -> Self {
        Self { external: word & Self::EXTERNAL_BIT != 0, sync: word & Self::SYNC_BIT != 0 }
    }
}

/// Four groups of seven bits, the highest first, each with the top bit set. `size` is a multiple of 4 below 2^30.
pub(in crate::index) const fn encode_size(size: u32) -> [u8; 4] {
    let n = size / 4;
    #[allow(clippy::cast_possible_truncation, reason = "masked to seven bits")]
    const fn group(n: u32, shift: u32) -> u8 {
        ((n >> shift) & 0x7f) as u8 | 0x80
    }
    [group(n, 21), group(n, 14), group(n, 7), group(n, 0)]
}

/// The number behind [`encode_size`]; `None` as long as the writer has not finished it.
pub(in crate::index) const fn decode_size(b: [u8; 4]) -> Option<u32> {
    if b[0] & b[1] & b[2] & b[3] & 0x80 == 0 {
        return None;
    }
    #[allow(clippy::cast_lossless, reason = "From is not const")]
    const fn group(b: u8) -> u32 {
        (b & 0x7f) as u32
    }
    Some((group(b[0]) << 21 | group(b[1]) << 14 | group(b[2]) << 7 | group(b[3])) * 4)
}

/// The header of a log file (index.md 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct Header {
    pub major: u8,
    pub minor: u8,
    pub size: u16,
    pub indexid: u32,
    pub file_seq: u32,
    pub prev_seq: u32,
    pub prev_offset: u32,
    pub create_stamp: u32,
    pub initial_modseq: u64,
    pub compat: u8,
}

impl Header {
    /// Bytes of the header that we write.
    pub const SIZE: u16 = 40;

    /// A header of the version that we write.
    pub fn new(indexid: u32, file_seq: u32, prev: (u32, u32), create_stamp: u32, initial_modseq: u64) -> Self {
        Self {
            major: 1,
            minor: 3,
            size: Self::SIZE,
            indexid,
            file_seq,
            prev_seq: prev.0,
            prev_offset: prev.1,
            create_stamp,
            initial_modseq,
            compat: 1,
        }
    }

    /// Reads it from the front of a file. The reason, if it is no usable log.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let short = || format!("the file ends inside its header ({} bytes)", bytes.len());
        let Some(b) = bytes.get(..24) else { return Err(short()) };
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let mut h = Self {
            major: b[0],
            minor: b[1],
            size: u16::from_le_bytes([b[2], b[3]]),
            indexid: u32_at(4),
            file_seq: u32_at(8),
            prev_seq: u32_at(12),
            prev_offset: u32_at(16),
            create_stamp: u32_at(20),
            initial_modseq: 0,
            compat: 1,
        };
        if h.major != 1 {
            return Err(format!("major version {} is not 1", h.major));
        }
        if h.size < 24 || !h.size.is_multiple_of(4) {
            return Err(format!("header size {}", h.size));
        }
        if bytes.len() < usize::from(h.size) {
            return Err(short());
        }
        let whole = &bytes[..usize::from(h.size)];
        if h.minor >= 1
            && let Some(b) = whole.get(24..32)
        {
            h.initial_modseq = u64::from_le_bytes(b.try_into().expect("eight bytes were taken"));
        }
        if h.minor >= 2
            && let Some(&compat) = whole.get(32)
        {
            h.compat = compat;
        }
        if h.compat & 1 != u8::from(cfg!(target_endian = "little")) {
            return Err("written by a host of another byte order".into());
        }
        if h.indexid == 0 {
            return Err("marked as corrupted (indexid 0)".into());
        }
        Ok(h)
    }

    /// The 40 bytes.
    pub fn bytes(&self) -> [u8; 40] {
        let mut b = [0; 40];
        b[0] = self.major;
        b[1] = self.minor;
        b[2..4].copy_from_slice(&self.size.to_le_bytes());
        b[4..8].copy_from_slice(&self.indexid.to_le_bytes());
        b[8..12].copy_from_slice(&self.file_seq.to_le_bytes());
        b[12..16].copy_from_slice(&self.prev_seq.to_le_bytes());
        b[16..20].copy_from_slice(&self.prev_offset.to_le_bytes());
        b[20..24].copy_from_slice(&self.create_stamp.to_le_bytes());
        b[24..32].copy_from_slice(&self.initial_modseq.to_le_bytes());
        b[32] = self.compat;
        b
    }
}

/// A framed record: its type word and payload, not yet looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct Framed<'a> {
    /// Where it starts, counted from the front of the file.
    pub offset: u64,
    /// Type and bits.
    pub word: u32,
    pub payload: &'a [u8],
}

impl Framed<'_> {
    /// The record's length with its eight bytes of frame.
    pub const fn size(&self) -> usize {
        self.payload.len() + 8
    }
}

/// The record at the front of `bytes`. `None`: the writer is not done yet, or nothing follows, or it is garbage, which in a
/// log that may be growing is the same to a reader.
fn next(bytes: &[u8], offset: u64) -> Option<Framed<'_>> {
    let (&[a, b, c, d, t0, t1, t2, t3], _) = bytes.split_first_chunk::<8>()?;
    let size = usize::try_from(decode_size([a, b, c, d])?).ok()?;
    let payload = bytes.get(8..size)?;
    Some(Framed { offset, word: u32::from_le_bytes([t0, t1, t2, t3]), payload })
}

/// Complete transactions, one after the other. What stands behind the last complete one is left alone.
#[derive(Debug, Clone)]
pub(in crate::index) struct Transactions<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Transactions<'a> {
    /// Those in `bytes`, which stand at `offset` of their file.
    pub const fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset }
    }

    /// The offset behind the last transaction that was returned: the valid end, once there are no more.
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

impl<'a> Iterator for Transactions<'a> {
    type Item = Records<'a>;

    fn next(&mut self) -> Option<Records<'a>> {
        let first = next(self.rest, self.offset)?;
        let size = if first.word & kind::MASK == kind::BOUNDARY {
            let size = first.payload.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))?;
            let size = usize::try_from(size).ok()?;
            let group = self.rest.get(..size)?;
            // A boundary that does not end where one of its records ends is garbage.
            let mut at = first.size();
            while at < size {
                at += next(group.get(at..)?, 0)?.size();
            }
            (at == size).then_some(size)?
        } else {
            first.size()
        };
        let (group, rest) = self.rest.split_at(size);
        let records = Records { rest: group, offset: self.offset };
        self.rest = rest;
        self.offset += size as u64;
        Some(records)
    }
}

/// The records of one transaction, its boundary included.
#[derive(Debug, Clone)]
pub(in crate::index) struct Records<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Iterator for Records<'a> {
    type Item = Framed<'a>;

    fn next(&mut self) -> Option<Framed<'a>> {
        let record = next(self.rest, self.offset)?;
        self.rest = &self.rest[record.size()..];
        self.offset += record.size() as u64;
        Some(record)
    }
}
