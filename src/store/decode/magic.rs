//! What the first bytes of a stored body tell.

use std::fmt;

/// How many first bytes [`Method::of`] and [`is_encrypted`] want to see.
pub(super) const LONGEST: usize = 16;

/// A compression method, in the order in which Dovecot looks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// gzip.
    Gz,
    /// bzip2.
    Bz2,
    /// xz.
    Xz,
    /// LZ4 in Dovecot's own framing.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Method {
    /// The method that these first bytes belong to.
    #[must_use]
    pub fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x1f, 0x8b, ..] => Some(Self::Gz),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bz2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ if first.starts_with(super::lz4::MAGIC) => Some(Self::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gz => "gz",
            Self::Bz2 => "bz2",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// These first bytes are those of a body that mail_crypt has encrypted, format version 1 or 2.
#[must_use]
pub fn is_encrypted(first: &[u8]) -> bool {
    matches!(first, [b'C', b'R', b'Y', b'P', b'T', b'E', b'D', 3, 7, 1 | 2, ..])
}
