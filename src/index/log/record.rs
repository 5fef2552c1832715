//! What a record says: its payload, checked and taken apart without copying.

use super::fields::{
    AppendList, Attributes, FlagRanges, GuidExpunges, Incs, Intro, Intros, Modseqs, Ranges, Writes, pad4, u16_at, u32_at,
};
use super::frame::{Bits, Framed};

/// Type values (index.md 3.3).
pub(in crate::index) mod kind {
    pub const MASK: u32 = 0x0fff_ffff;
    /// Protects both expunge types against being made of a few flipped bits.
    pub const EXPUNGE_PROTECTION: u32 = 0xcd90;

    pub const EXPUNGE: u32 = 0x1;
    pub const APPEND: u32 = 0x2;
    pub const FLAG_UPDATE: u32 = 0x4;
    pub const HEADER_UPDATE: u32 = 0x20;
    pub const EXT_INTRO: u32 = 0x40;
    pub const EXT_RESET: u32 = 0x80;
    pub const EXT_HDR_UPDATE: u32 = 0x100;
    pub const EXT_REC_UPDATE: u32 = 0x200;
    pub const KEYWORD_UPDATE: u32 = 0x400;
    pub const KEYWORD_RESET: u32 = 0x800;
    pub const EXT_ATOMIC_INC: u32 = 0x1000;
    pub const EXPUNGE_GUID: u32 = 0x2000;
    pub const MODSEQ_UPDATE: u32 = 0x8000;
    pub const EXT_HDR_UPDATE32: u32 = 0x1_0000;
    pub const INDEX_DELETED: u32 = 0x2_0000;
    pub const INDEX_UNDELETED: u32 = 0x4_0000;
    pub const BOUNDARY: u32 = 0x8_0000;
    pub const ATTRIBUTE_UPDATE: u32 = 0x10_0000;
}

/// A record that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::index) enum Bad {
    /// Its type is not known, or it does not fit the state.
    Replay(String),
    /// Its content is invalid.
    Content(String),
}

/// A record's content.
#[derive(Debug, Clone)]
pub(in crate::index) enum Change<'a> {
    Expunge(Ranges<'a>),
    ExpungeGuid(GuidExpunges<'a>),
    Append(AppendList<'a>),
    Flags(FlagRanges<'a>),
    Header(Writes<'a>),
    ExtIntro(Intros<'a>),
    ExtReset {
        new_id: u32,
        preserve: bool,
    },
    ExtHeader(Writes<'a>),
    /// Records of the extension introduced last: their size is that of the introduction.
    ExtRecords(&'a [u8]),
    ExtInc(Incs<'a>),
    Keyword {
        add: bool,
        name: &'a [u8],
        ranges: Ranges<'a>,
    },
    KeywordReset(Ranges<'a>),
    Modseq(Modseqs<'a>),
    Deleted,
    Undeleted,
    Boundary,
    Attributes(Attributes<'a>),
}

impl<'a> Change<'a> {
    /// Takes a record apart.
    ///
    /// # Errors
    /// [`Bad`]: an unknown type or invalid content.
    pub fn parse(record: &Framed<'a>) -> Result<(Self, Bits), Bad> {
        let bits = Bits::of(record.word);
        let p = record.payload;
        let content = |what: &str| Bad::Content(what.into());
        let change = match record.word & kind::MASK {
            w if w & !kind::EXPUNGE_PROTECTION == kind::EXPUNGE => {
                expunge_is_protected(w)?;
                Self::Expunge(Ranges::parse(p)?)
            }
            w if w & !kind::EXPUNGE_PROTECTION == kind::EXPUNGE_GUID => {
                expunge_is_protected(w)?;
                Self::ExpungeGuid(GuidExpunges::parse(p)?)
            }
            kind::APPEND => Self::Append(AppendList::parse(p)?),
            kind::FLAG_UPDATE => Self::Flags(FlagRanges::parse(p)?),
            kind::HEADER_UPDATE => Self::Header(Writes::parse(p, false)?),
            kind::EXT_INTRO => Self::ExtIntro(Intros::parse(p)?),
            kind::EXT_RESET => Self::ExtReset {
                new_id: u32_at(p, 0).ok_or_else(|| content("short extension reset"))?,
                preserve: p.get(4).is_some_and(|&b| b != 0),
            },
            kind::EXT_HDR_UPDATE => Self::ExtHeader(Writes::parse(p, false)?),
            kind::EXT_HDR_UPDATE32 => Self::ExtHeader(Writes::parse(p, true)?),
            kind::EXT_REC_UPDATE => Self::ExtRecords(p),
            kind::EXT_ATOMIC_INC => Self::ExtInc(Incs::parse(p)?),
            kind::KEYWORD_UPDATE => {
                let add = match p.first() {
                    Some(0) => true,
                    Some(1) => false,
                    _ => return Err(content("keyword update of an unknown kind")),
                };
                let size = usize::from(u16_at(p, 2).ok_or_else(|| content("short keyword update"))?);
                let name = p.get(4..4 + size).ok_or_else(|| content("keyword name beyond its record"))?;
                if name.is_empty() || name.contains(&0) {
                    return Err(content("empty keyword name"));
                }
                let rest = p.get(pad4(4 + size)..).ok_or_else(|| content("keyword update without UIDs"))?;
                Self::Keyword { add, name, ranges: Ranges::parse(rest)? }
            }
            kind::KEYWORD_RESET => Self::KeywordReset(Ranges::parse(p)?),
            kind::MODSEQ_UPDATE => Self::Modseq(Modseqs::parse(p)?),
            kind::INDEX_DELETED => Self::Deleted,
            kind::INDEX_UNDELETED => Self::Undeleted,
            kind::BOUNDARY => Self::Boundary,
            kind::ATTRIBUTE_UPDATE => Self::Attributes(Attributes::parse(p)?),
            other => return Err(Bad::Replay(format!("unknown record type {other:#x}"))),
        };
        Ok((change, bits))
    }

    /// How far the record moves the modseq counter (index.md 3.3). `minor` is the log's minor version.
    ///
    /// Modseq updates, which raise it to a value, and introductions, which may start it, are not among these steps.
    pub fn steps(&self, bits: Bits, minor: u8) -> u64 {
        let counts = match self {
            Self::Expunge(_) | Self::ExpungeGuid(_) => bits.external,
            Self::Append(_) | Self::Keyword { .. } | Self::KeywordReset(_) | Self::Attributes(_) => true,
            Self::Flags(ranges) => ranges.iter().any(|r| r.counts(minor)),
            _ => false,
        };
        u64::from(counts)
    }

    /// The introductions in it, if it is such a record.
    pub fn intros(&self) -> impl Iterator<Item = Intro<'a>> {
        match self {
            Self::ExtIntro(intros) => Some(intros.iter()),
            _ => None,
        }
        .into_iter()
        .flatten()
    }
}

fn expunge_is_protected(word: u32) -> Result<(), Bad> {
    if word & kind::EXPUNGE_PROTECTION == kind::EXPUNGE_PROTECTION {
        return Ok(());
    }
    Err(Bad::Content("expunge without its protection bits".into()))
}
