//! The payloads of records: lists of entries that are checked once and then read in place, and how they are written.

use super::record::Bad;
use crate::mail::Guid128;

pub(super) fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

pub(super) fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at.checked_add(4)?).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Reads a number of an entry whose length was checked.
fn le(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

pub(super) const fn pad4(n: usize) -> usize {
    n.saturating_add(3) & !3
}

fn bad(what: impl Into<String>) -> Bad {
    Bad::Content(what.into())
}

/// The payload consists of entries of this size, of one at least.
fn entries(payload: &[u8], size: usize, what: &str) -> Result<(), Bad> {
    if payload.is_empty() || !payload.len().is_multiple_of(size) {
        return Err(bad(format!("{what} record of {} bytes", payload.len())));
    }
    Ok(())
}

/// UIDs from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct Range {
    pub first: u32,
    pub last: u32,
}

impl Range {
    fn parse(b: &[u8]) -> Result<Self, Bad> {
        let r = Self { first: le(b, 0), last: le(b, 4) };
        if r.first == 0 || r.first > r.last {
            return Err(bad(format!("UID range {}..{}", r.first, r.last)));
        }
        Ok(r)
    }
}

macro_rules! list {
    ($(#[$doc:meta])* $name:ident, $size:literal, $item:ty, |$b:ident| $read:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(in crate::index) struct $name<'a>(&'a [u8]);

        impl<'a> $name<'a> {
            pub fn iter(&self) -> impl ExactSizeIterator<Item = $item> + use<'a> {
                self.0.chunks_exact($size).map(|$b| $read)
            }
        }
    };
}

list!(
    /// UID ranges.
    Ranges, 8, Range, |b| Range { first: le(b, 0), last: le(b, 4) }
);

impl<'a> Ranges<'a> {
    pub fn parse(p: &'a [u8]) -> Result<Self, Bad> {
        entries(p, 8, "UID range")?;
        p.chunks_exact(8).try_for_each(|b| Range::parse(b).map(drop))?;
        Ok(Self(p))
    }
}

/// A new mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct Append {
    pub uid: u32,
    pub flags: u8,
}

list!(AppendList, 8, Append, |b| Append { uid: le(b, 0), flags: b[4] });

impl<'a> AppendList<'a> {
    pub fn parse(p: &'a [u8]) -> Result<Self, Bad> {
        entries(p, 8, "append").map(|()| Self(p))
    }
}

/// A change of system flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct FlagRange {
    pub uids: Range,
    pub add: u8,
    pub remove: u8,
    pub modseq_inc: bool,
}

impl FlagRange {
    /// The mails in the range get a new modseq.
    pub const fn counts(&self, minor: u8) -> bool {
        minor < 3 || self.modseq_inc || (self.add | self.remove) & 0x1f != 0
    }
}

list!(FlagRanges, 12, FlagRange, |b| FlagRange {
    uids: Range { first: le(b, 0), last: le(b, 4) },
    add: b[8],
    remove: b[9],
    modseq_inc: b[10] != 0,
});

impl<'a> FlagRanges<'a> {
    pub fn parse(p: &'a [u8]) -> Result<Self, Bad> {
        entries(p, 12, "flag update")?;
        p.chunks_exact(12).try_for_each(|b| Range::parse(b).map(drop))?;
        Ok(Self(p))
    }
}

/// An expunge that names the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct GuidExpunge {
    pub uid: u32,
    pub guid: Guid128,
}

list!(GuidExpunges, 20, GuidExpunge, |b| GuidExpunge {
    uid: le(b, 0),
    guid: Guid128(b[4..20].try_into().expect("twenty bytes were taken")),
});

impl<'a> GuidExpunges<'a> {
    pub fn parse(p: &'a [u8]) -> Result<Self, Bad> {
        entries(p, 20, "expunge")?;
        let list = Self(p);
        if list.iter().any(|e| e.uid == 0) {
            return Err(bad("expunge of UID 0"));
        }
        Ok(list)
    }
}

list!(
    /// UID and modseq; UID 0 is the counter.
    Modseqs, 12, (u32, u64), |b| (le(b, 0), u64::from(le(b, 4)) | u64::from(le(b, 8)) << 32)
);

impl<'a> Modseqs<'a> {
    pub fn parse(p: &'a [u8]) -> Result<Self, Bad> {
        entries(p, 12, "modseq update").map(|()| Self(p))
    }
}

list!(
    /// UID and difference.
    Incs, 8, (u32, i32), |b| (le(b, 0), i32::from_le_bytes([b[4], b[5], b[6], b[7]]))
);

impl<'a> Incs<'a> {
    pub fn parse(p: &'a [u8]) -> Result<Self, Bad> {
        entries(p, 8, "atomic increment").map(|()| Self(p))
    }
}

/// Bytes that go into a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct Write<'a> {
    pub offset: u32,
    pub data: &'a [u8],
}

/// Header writes with 16-bit or 32-bit offsets.
#[derive(Debug, Clone, Copy)]
pub(in crate::index) struct Writes<'a> {
    payload: &'a [u8],
    wide: bool,
}

impl<'a> Writes<'a> {
    pub fn parse(payload: &'a [u8], wide: bool) -> Result<Self, Bad> {
        let writes = Self { payload, wide };
        let mut rest = payload;
        while !rest.is_empty() {
            let (_, left) = writes.split(rest).ok_or_else(|| bad("header update beyond its record"))?;
            rest = left;
        }
        Ok(writes)
    }

    fn split(self, b: &'a [u8]) -> Option<(Write<'a>, &'a [u8])> {
        let (offset, size, front) = if self.wide {
            (u32_at(b, 0)?, usize::try_from(u32_at(b, 4)?).ok()?, 8)
        } else {
            (u32::from(u16_at(b, 0)?), usize::from(u16_at(b, 2)?), 4)
        };
        let end = size.checked_add(front)?;
        Some((Write { offset, data: b.get(front..end)? }, b.get(pad4(end)..)?))
    }

    pub fn iter(&self) -> impl Iterator<Item = Write<'a>> + use<'a> {
        let this = *self;
        let mut rest = self.payload;
        std::iter::from_fn(move || {
            let (write, left) = this.split(rest).filter(|_| !rest.is_empty())?;
            rest = left;
            Some(write)
        })
    }
}

/// The introduction of an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::index) struct Intro<'a> {
    /// Position in the list of extensions; [`Intro::BY_NAME`] = see the name.
    pub id: u32,
    pub reset_id: u32,
    pub hdr_size: u32,
    pub record_size: u16,
    pub record_align: u16,
    /// Sizes may only grow.
    pub keep: bool,
    pub name: &'a [u8],
}

impl Intro<'_> {
    pub const BY_NAME: u32 = u32::MAX;
}

#[derive(Debug, Clone, Copy)]
pub(in crate::index) struct Intros<'a>(&'a [u8]);

impl<'a> Intros<'a> {
    pub fn parse(p: &'a [u8]) -> Result<Self, Bad> {
        let mut rest = p;
        loop {
            let (_, left) = Self::split(rest).ok_or_else(|| bad("extension introduction beyond its record"))?;
            if left.is_empty() {
                return Ok(Self(p));
            }
            rest = left;
        }
    }

    fn split(b: &'a [u8]) -> Option<(Intro<'a>, &'a [u8])> {
        let name_size = usize::from(u16_at(b, 18)?);
        let intro = Intro {
            id: u32_at(b, 0)?,
            reset_id: u32_at(b, 4)?,
            hdr_size: u32_at(b, 8)?,
            record_size: u16_at(b, 12)?,
            record_align: u16_at(b, 14)?,
            keep: u16_at(b, 16)? & 1 != 0,
            name: b.get(20..20 + name_size)?,
        };
        Some((intro, b.get(pad4(20 + name_size)..)?))
    }

    pub fn iter(&self) -> impl Iterator<Item = Intro<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (intro, left) = Self::split(rest)?;
            rest = left;
            Some(intro)
        })
    }
}

/// Changed attributes: the names only, for the values are not in the log.
#[derive(Debug, Clone, Copy)]
pub(in crate::index) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub fn parse(p: &'a [u8]) -> Result<Self, Bad> {
        let list = Self(p);
        let mut at = 0;
        loop {
            match p.get(at) {
                Some(0) => return Ok(list),
                Some(b'+' | b'-') => {}
                _ => return Err(bad("attribute update without an end")),
            }
            let text = &p[at..];
            let end = text.iter().position(|&b| b == 0).ok_or_else(|| bad("attribute name without an end"))?;
            if end < 2 || !matches!(text[1], b'p' | b's') {
                return Err(bad("attribute name without a kind"));
            }
            at += end + 1;
        }
    }

    /// Removed, private, key.
    pub fn iter(&self) -> impl Iterator<Item = (bool, bool, &'a [u8])> + use<'a> {
        self.0.split(|&b| b == 0).take_while(|t| t.len() >= 2).map(|t| (t[0] == b'-', t[1] == b'p', &t[2..]))
    }
}

/// Writing of records.
pub(in crate::index) mod put {
    use super::super::frame::{Bits, encode_size};
    use super::super::record::kind;
    use super::{Append, FlagRange, GuidExpunge, Intro, Range, Write};

    /// A record of this type; `fill` writes its payload. Nothing is written for an empty payload.
    pub fn record(out: &mut Vec<u8>, kind: u32, bits: Bits, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(kind | bits.word()).to_le_bytes());
        fill(out);
        if out.len() == start + 8 {
            out.truncate(start);
            return;
        }
        pad(out, start);
        let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&encode_size(size));
    }

    /// Zeros up to a multiple of 4 from `start`.
    pub fn pad(out: &mut Vec<u8>, start: usize) {
        while !(out.len() - start).is_multiple_of(4) {
            out.push(0);
        }
    }

    pub fn range(out: &mut Vec<u8>, r: Range) {
        out.extend_from_slice(&r.first.to_le_bytes());
        out.extend_from_slice(&r.last.to_le_bytes());
    }

    pub fn append(out: &mut Vec<u8>, a: Append) {
        out.extend_from_slice(&a.uid.to_le_bytes());
        out.extend_from_slice(&[a.flags, 0, 0, 0]);
    }

    pub fn flags(out: &mut Vec<u8>, f: FlagRange) {
        range(out, f.uids);
        out.extend_from_slice(&[f.add, f.remove, u8::from(f.modseq_inc), 0]);
    }

    pub fn expunge(out: &mut Vec<u8>, e: GuidExpunge) {
        out.extend_from_slice(&e.uid.to_le_bytes());
        out.extend_from_slice(&e.guid.0);
    }

    pub fn modseq(out: &mut Vec<u8>, uid: u32, modseq: u64) {
        out.extend_from_slice(&uid.to_le_bytes());
        out.extend_from_slice(&modseq.to_le_bytes());
    }

    pub fn inc(out: &mut Vec<u8>, uid: u32, diff: i32) {
        out.extend_from_slice(&uid.to_le_bytes());
        out.extend_from_slice(&diff.to_le_bytes());
    }

    /// A header write with 16-bit numbers, which the caller knows to suffice.
    pub fn write(out: &mut Vec<u8>, w: Write<'_>, wide: bool) {
        let start = out.len();
        let size = w.data.len();
        if wide {
            out.extend_from_slice(&w.offset.to_le_bytes());
            out.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
        } else {
            out.extend_from_slice(&u16::try_from(w.offset).unwrap_or(u16::MAX).to_le_bytes());
            out.extend_from_slice(&u16::try_from(size).unwrap_or(u16::MAX).to_le_bytes());
        }
        out.extend_from_slice(w.data);
        pad(out, start);
    }

    pub fn intro(out: &mut Vec<u8>, i: Intro<'_>) {
        let start = out.len();
        out.extend_from_slice(&i.id.to_le_bytes());
        out.extend_from_slice(&i.reset_id.to_le_bytes());
        out.extend_from_slice(&i.hdr_size.to_le_bytes());
        out.extend_from_slice(&i.record_size.to_le_bytes());
        out.extend_from_slice(&i.record_align.to_le_bytes());
        out.extend_from_slice(&u16::from(i.keep).to_le_bytes());
        out.extend_from_slice(&u16::try_from(i.name.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(i.name);
        pad(out, start);
    }

    /// A boundary over `size` bytes, which include its own twelve.
    pub fn boundary(out: &mut Vec<u8>, sync: bool, size: u32) {
        record(out, kind::BOUNDARY, Bits { external: true, sync }, |out| out.extend_from_slice(&size.to_le_bytes()));
    }

    /// The front of a keyword update.
    pub fn keyword(out: &mut Vec<u8>, add: bool, name: &[u8]) {
        let start = out.len();
        out.extend_from_slice(&[u8::from(!add), 0]);
        out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(name);
        pad(out, start);
    }
}
