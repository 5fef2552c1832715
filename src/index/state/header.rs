//! The base header of a snapshot (spec: index.md 2.1).

/// A number in the base header, by its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field(pub(in crate::index) u16);

impl Field {
    /// UIDVALIDITY.
    pub const UID_VALIDITY: Self = Self(24);
    /// UIDNEXT.
    pub const NEXT_UID: Self = Self(28);
    /// First \Recent UID.
    pub const FIRST_RECENT_UID: Self = Self(48);
    /// When the log was rotated last; 0 = not known, 0xffffffff = there is no `.log.2`.
    pub const LOG2_ROTATE_TIME: Self = Self(76);
    /// When leftover temporary files were last looked for.
    pub const LAST_TEMP_FILE_SCAN: Self = Self(80);
    /// Local midnight of the last append; the eight first UIDs of days follow it.
    pub const DAY_STAMP: Self = Self(84);

    pub(in crate::index) const INDEXID: Self = Self(16);
    pub(in crate::index) const FLAGS: Self = Self(20);
    pub(in crate::index) const MESSAGES: Self = Self(32);
    pub(in crate::index) const SEEN: Self = Self(40);
    pub(in crate::index) const DELETED: Self = Self(44);
    pub(in crate::index) const FIRST_UNSEEN_LOWWATER: Self = Self(52);
    pub(in crate::index) const FIRST_DELETED_LOWWATER: Self = Self(56);
    pub(in crate::index) const LOG_SEQ: Self = Self(60);
    pub(in crate::index) const LOG_TAIL: Self = Self(64);
    pub(in crate::index) const LOG_HEAD: Self = Self(68);
}

/// The bytes of the base header. Log records write into it anywhere, hence no struct of fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::index) struct Base(Vec<u8>);

impl Base {
    /// The least size, and that of the headers that we make.
    pub const SIZE: usize = 120;

    /// That of a mailbox without history.
    pub fn new(indexid: u32) -> Self {
        let mut base = Self(vec![0; Self::SIZE]);
        base.0[0] = 7;
        base.0[1] = 3;
        base.0[2..4].copy_from_slice(&120u16.to_le_bytes());
        base.0[12] = 1;
        base.set(Field::INDEXID, indexid);
        base.set(Field::NEXT_UID, 1);
        base.set(Field::FIRST_RECENT_UID, 1);
        base
    }

    /// From a snapshot's bytes, which the caller has found to be long enough.
    pub fn of(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn get(&self, field: Field) -> u32 {
        let at = usize::from(field.0);
        self.0.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub fn set(&mut self, field: Field, value: u32) {
        let at = usize::from(field.0);
        if let Some(b) = self.0.get_mut(at..at + 4) {
            b.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes bytes as a log record wants it. `false`: beyond the header.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        let Some(place) = offset.checked_add(data.len()).and_then(|end| self.0.get_mut(offset..end)) else { return false };
        place.copy_from_slice(data);
        true
    }

    /// What newer versions expect of an older minor version (index.md 2.1).
    pub fn upgrade(&mut self) {
        let minor = self.0[1];
        if minor == 0 && self.get(Field::FIRST_RECENT_UID) == 0 {
            self.set(Field::FIRST_RECENT_UID, 1);
        }
        if minor <= 1 {
            let flags = self.get(Field::FLAGS);
            self.set(Field::FLAGS, flags & !0x20);
        }
        if minor <= 2 {
            for field in [Field(72), Field::LOG2_ROTATE_TIME, Field::LAST_TEMP_FILE_SCAN] {
                self.set(field, 0);
            }
        }
        self.0[1] = minor.max(3);
    }
}
