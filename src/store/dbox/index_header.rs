//! The extensions `dbox-hdr`, `mdbox-hdr` and `hdr-pop3-uidl` of the mailbox index (dbox.md 2.2, 2.3, 3.4).

use crate::mail::{MailboxGuid, Uid};

/// The header that both formats keep in the mailbox index; 24 bytes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexHeader {
    /// sdbox: how many rebuilds there were. mdbox: UIDVALIDITY of the map.
    pub number: u32,
    /// The mailbox GUID; `None` where the file has zeros, which is damage.
    pub guid: Option<MailboxGuid>,
    /// [`Self::HAS_UIDL`], [`Self::HAS_ORDER`], and whatever else is there.
    pub flags: u8,
    /// Not used; kept as it is.
    pub rest: [u8; 3],
}

impl IndexHeader {
    /// Extension name in sdbox.
    pub const SDBOX: &'static str = "dbox-hdr";
    /// Extension name in mdbox.
    pub const MDBOX: &'static str = "mdbox-hdr";
    /// Its size in the index, bytes.
    pub const SIZE: usize = 24;
    /// Some mail has a POP3 UIDL.
    pub const HAS_UIDL: u8 = 0x01;
    /// Some mail has a POP3 order.
    pub const HAS_ORDER: u8 = 0x02;

    /// Reads it; old versions wrote fewer bytes, the missing ones are 0. `None` below 4 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 4 {
            return None;
        }
        let mut full = [0; Self::SIZE];
        let n = bytes.len().min(Self::SIZE);
        full[..n].copy_from_slice(&bytes[..n]);
        let [a, b, c, d, guid @ .., flags, r0, r1, r2] = full;
        Some(Self { number: u32::from_le_bytes([a, b, c, d]), guid: MailboxGuid::new(guid), flags, rest: [r0, r1, r2] })
    }

    /// The 24 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&self.number.to_le_bytes());
        if let Some(guid) = self.guid {
            out[4..20].copy_from_slice(guid.bytes());
        }
        out[20] = self.flags;
        out[21..].copy_from_slice(&self.rest);
        out
    }
}

/// Which mails' POP3 values count (dbox.md 2.3), and how a save keeps that true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pop3 {
    /// The flags of [`IndexHeader`].
    pub flags: u8,
    /// `max_uid_with_pop3_uidl`; `None` without the extension.
    pub max_uid: Option<u32>,
}

impl Pop3 {
    /// Extension name.
    pub const EXTENSION: &'static str = "hdr-pop3-uidl";
    /// Its size in the index, bytes.
    pub const SIZE: usize = 4;

    /// Of an opened mailbox: its header's flags and the bytes of [`Self::EXTENSION`], if it has that.
    #[must_use]
    pub fn new(header: &IndexHeader, extension: Option<&[u8]>) -> Self {
        let max_uid = extension.and_then(|b| b.first_chunk::<4>()).map(|b| u32::from_le_bytes(*b));
        Self { flags: header.flags, max_uid }
    }

    /// The UIDL in this mail's metadata counts.
    #[must_use]
    pub fn shows_uidl(&self, uid: Uid) -> bool {
        self.flags & IndexHeader::HAS_UIDL != 0 && self.below_max(uid)
    }

    /// The order in this mail's metadata counts. It is tested against the same maximum as the UIDL.
    #[must_use]
    pub fn shows_order(&self, uid: Uid) -> bool {
        self.flags & IndexHeader::HAS_ORDER != 0 && self.below_max(uid)
    }

    fn below_max(&self, uid: Uid) -> bool {
        self.max_uid.is_none_or(|max| uid.get() <= max)
    }

    /// What must be stored so that the values of a mail saved under `uid` show. An order of 0 is none.
    ///
    /// Without the extension every mail shows, so none is made. An order alone raises the maximum too, else it would not show.
    #[must_use]
    pub fn after_save(self, uid: Uid, has_uidl: bool, order: u32) -> Self {
        let mut after = self;
        if has_uidl {
            after.flags |= IndexHeader::HAS_UIDL;
        }
        if order != 0 {
            after.flags |= IndexHeader::HAS_ORDER;
        }
        if has_uidl || order != 0 {
            after.max_uid = self.max_uid.map(|max| max.max(uid.get()));
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u32) -> Uid {
        Uid::new(n).expect("not 0")
    }

    #[test]
    fn header_round_trip_and_short_ones() {
        let guid = MailboxGuid::new([7; 16]);
        let header = IndexHeader { number: 0x6553_f105, guid, flags: 3, rest: [1, 2, 3] };
        assert_eq!(IndexHeader::parse(&header.encode()), Some(header));
        assert_eq!(IndexHeader::parse(&header.encode()[..20]), Some(IndexHeader { flags: 0, rest: [0; 3], ..header }));
        assert_eq!(IndexHeader::parse(&header.encode()[..4]), Some(IndexHeader { number: header.number, ..Default::default() }));
        assert_eq!(IndexHeader::parse(&[1, 2, 3]), None);
    }

    #[test]
    fn three_conditions_for_a_uidl() {
        let none = Pop3 { flags: 0, max_uid: Some(9) };
        assert!(!none.shows_uidl(uid(1)));
        let four = Pop3 { flags: 3, max_uid: Some(4) };
        assert!(four.shows_uidl(uid(4)) && four.shows_order(uid(4)));
        assert!(!four.shows_uidl(uid(5)) && !four.shows_order(uid(5)));
        assert!(Pop3 { flags: 1, max_uid: None }.shows_uidl(uid(5)));
    }

    #[test]
    fn a_save_makes_its_own_values_show() {
        let fresh = Pop3 { flags: 0, max_uid: Some(0) };
        let after = fresh.after_save(uid(7), true, 3);
        assert_eq!(after, Pop3 { flags: 3, max_uid: Some(7) });
        assert_eq!(after.after_save(uid(9), false, 0), after);
        assert!(fresh.after_save(uid(8), false, 2).shows_order(uid(8)));
    }
}
