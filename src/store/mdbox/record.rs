//! The bytes of mdbox in index files (dbox.md 3.2, 3.4): extensions of the map and of the mailboxes. Nothing is opened here.

use crate::mail::Timestamp;

/// Extension of the map with the place of each mail.
pub(super) const MAP: &str = "map";
/// Extension of the map with the reference counts.
pub(super) const REF: &str = "ref";
/// Extension of a mailbox: which map record a mail is.
pub(super) const MDBOX: &str = "mdbox";
/// Extension of a mailbox with the 16-byte GUIDs.
pub(super) const GUID: &str = "guid";

/// Dovecot refuses a further copy of a mail with this many references ("copied too many times").
pub(super) const MAX_REFS: u16 = 32768;

/// Where a mail lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapRecord {
    /// `m.<file_id>`; never 0.
    pub file_id: u32,
    /// Of the message header.
    pub offset: u32,
    /// Header, body and metadata with its final LF; 0 = larger than 4 GiB and last in its file (2.4).
    pub size: u32,
}

impl MapRecord {
    /// Bytes of a record.
    pub const SIZE: usize = 12;

    /// `None` when it is too short or names no file.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (file_id, offset, size) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
        (file_id != 0).then_some(Self { file_id, offset, size })
    }

    /// As it stands in the map.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0..4].copy_from_slice(&self.file_id.to_le_bytes());
        out[4..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.size.to_le_bytes());
        out
    }
}

/// What a mailbox index keeps of each mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MailRecord {
    /// Its record in the map; never 0.
    pub map_uid: u32,
    /// Saved into this mailbox.
    pub saved: Timestamp,
}

impl MailRecord {
    /// Bytes of a record.
    pub const SIZE: usize = 8;

    /// `None` when it is too short or has no map uid, which Dovecot calls "map uid lost".
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (map_uid, saved) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?);
        (map_uid != 0).then_some(Self { map_uid, saved: Timestamp(saved) })
    }

    /// As it stands in the index.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0..4].copy_from_slice(&self.map_uid.to_le_bytes());
        out[4..8].copy_from_slice(&self.saved.0.to_le_bytes());
        out
    }
}

/// A little-endian number inside a record.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk::<4>().copied()?))
}

/// A reference count.
pub(super) fn refs(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.first_chunk::<2>().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification() {
        // dbox.md 3.2: map uid 1 of a dovecot.map.index
        let r = MapRecord::parse(&[1, 0, 0, 0, 0x10, 0, 0, 0, 0x91, 0, 0, 0]).expect("a record");
        assert_eq!(r, MapRecord { file_id: 1, offset: 16, size: 145 });
        assert_eq!(MapRecord::parse(&r.to_bytes()), Some(r));
    }

    #[test]
    fn what_is_too_short_or_zero_is_none() {
        let full = MapRecord { file_id: 1, offset: 2, size: 3 }.to_bytes();
        for n in 0..full.len() {
            assert_eq!(MapRecord::parse(&full[..n]), None, "{n}");
        }
        assert_eq!(MapRecord::parse(&[0; 12]), None);
        assert_eq!(MailRecord::parse(&[0, 0, 0, 0, 9, 9, 9, 9]), None);
        assert_eq!(MailRecord::parse(&[1, 0, 0, 0, 9]), None);
    }
}
