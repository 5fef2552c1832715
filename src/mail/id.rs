//! Numbers and identifiers of mails and mailboxes. None converts silently into another.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use sha1::{Digest, Sha1};

/// The unique identifier of a mail in its mailbox (RFC 3501 2.3.1.1): 1 to 2^32 - 2 for mails, one more as "next".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Uid(NonZeroU32);

impl Uid {
    /// The lowest one.
    pub const FIRST: Self = Self(NonZeroU32::MIN);
    /// The highest one.
    pub const LAST: Self = Self(NonZeroU32::MAX);

    /// `None` for 0.
    #[must_use]
    pub const fn new(n: u32) -> Option<Self> {
        match NonZeroU32::new(n) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The one behind it; stays at the highest number there is.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// UIDVALIDITY (RFC 3501 2.3.1.1): as long as it stays, the UIDs mean the same mails. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UidValidity(NonZeroU32);

/// These UIDs, first and last of each range, as ascending ranges with gaps between them.
#[must_use]
pub fn union_of_uids(ranges: impl IntoIterator<Item = (Uid, Uid)>) -> Vec<(Uid, Uid)> {
    let mut all: Vec<(Uid, Uid)> = ranges.into_iter().collect();
    all.sort_unstable();
    let mut out: Vec<(Uid, Uid)> = Vec::new();
    for (first, end) in all {
        match out.last_mut() {
            Some((_, last)) if first <= last.next() => *last = end.max(*last),
            _ => out.push((first, end)),
        }
    }
    out
}

impl UidValidity {
    /// `None` for 0.
    #[must_use]
    pub const fn new(n: u32) -> Option<Self> {
        match NonZeroU32::new(n) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for UidValidity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Modification sequence (RFC 7162). 0 = not known, or the storage keeps none.
///
/// ```compile_fail
/// let uid: dsync::mail::Uid = dsync::mail::ModSeq(7).into(); // both are numbers; neither is the other
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModSeq(pub u64);

impl fmt::Display for ModSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a mailbox through renames: 16 bytes, shown as 32 lower-case hex digits, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[u8; 16]")]
pub struct MailboxGuid([u8; 16]);

impl MailboxGuid {
    /// `None` for the all-zero value, which everywhere means "no mailbox".
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// A new one, unique in the world ([`generate_guid`]).
    #[must_use]
    pub fn generate() -> Self {
        Self(generate_guid())
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<[u8; 16]> for MailboxGuid {
    type Error = BadMailboxGuid;

    fn try_from(bytes: [u8; 16]) -> Result<Self, BadMailboxGuid> {
        Self::new(bytes).ok_or_else(|| BadMailboxGuid(String::new()))
    }
}

impl fmt::Display for MailboxGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for MailboxGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 32 hex digits, or all zero.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a mailbox GUID (32 hex digits, not all zero): {0:?}")]
pub struct BadMailboxGuid(pub String);

impl FromStr for MailboxGuid {
    type Err = BadMailboxGuid;

    fn from_str(s: &str) -> Result<Self, BadMailboxGuid> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(s, &mut bytes).ok().and_then(|()| Self::new(bytes)).ok_or_else(|| BadMailboxGuid(s.to_owned()))
    }
}

/// The 16-byte form of a mail GUID, which the index files keep (dbox.md appendix B).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Guid128(pub [u8; 16]);

impl Guid128 {
    /// "Not known", as some log records have it.
    pub const ZERO: Self = Self([0; 16]);

    /// It is [`Self::ZERO`].
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Debug for Guid128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for Guid128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The identity of a mail: a byte string, 32 lower-case hex digits from dbox, the base file name from Maildir.
///
/// Equality and order are those of the byte string (sync.md 0). Never empty.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Repr")]
pub struct MailGuid(Repr);

// Nearly all GUIDs are hex; 16 bytes instead of a string of 32 keeps large mailboxes small.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Repr {
    Hex([u8; 16]),
    Text(Box<[u8]>),
}

impl MailGuid {
    /// `None` for the empty string.
    #[must_use]
    pub fn new(text: impl AsRef<[u8]>) -> Option<Self> {
        let text = text.as_ref();
        if text.is_empty() {
            return None;
        }
        let mut bytes = [0; 16];
        let lower = text.len() == 32 && text.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if lower && hex::decode_to_slice(text, &mut bytes).is_ok() {
            return Some(Self(Repr::Hex(bytes)));
        }
        Some(Self(Repr::Text(text.into())))
    }

    /// The GUID whose text is these bytes in hex.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Repr::Hex(bytes))
    }

    /// A new one, unique in the world ([`generate_guid`]).
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(generate_guid())
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        match &self.0 {
            Repr::Hex(b) => hex::encode(b).into_bytes(),
            Repr::Text(t) => t.to_vec(),
        }
    }

    /// The 16-byte form: the decoded bytes of 32 hex digits, else the **last** 16 bytes of the text's SHA-1.
    #[must_use]
    pub fn to_128(&self) -> Guid128 {
        match &self.0 {
            Repr::Hex(b) => Guid128(*b),
            Repr::Text(t) => {
                let mut bytes = [0; 16];
                if t.len() == 32 && hex::decode_to_slice(t, &mut bytes).is_ok() {
                    return Guid128(bytes);
                }
                bytes.copy_from_slice(&Sha1::digest(t)[4..20]);
                Guid128(bytes)
            }
        }
    }
}

impl TryFrom<Repr> for MailGuid {
    type Error = &'static str;

    fn try_from(repr: Repr) -> Result<Self, &'static str> {
        match repr {
            Repr::Hex(bytes) => Ok(Self::from_bytes(bytes)),
            Repr::Text(text) => Self::new(text).ok_or("an empty GUID"),
        }
    }
}

impl PartialOrd for MailGuid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MailGuid {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Hex(a), Repr::Hex(b)) => a.cmp(b),
            (Repr::Text(a), Repr::Text(b)) => a.cmp(b),
            _ => self.text().cmp(&other.text()),
        }
    }
}

impl fmt::Display for MailGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text()))
    }
}

impl fmt::Debug for MailGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// 16 bytes unique in the world, made like Dovecot's: nanoseconds, seconds, process id, hash of the host name
/// (dbox.md appendix B). Strictly increasing time within a process.
#[must_use]
pub fn generate_guid() -> [u8; 16] {
    use std::sync::Mutex;
    static LAST: Mutex<u64> = Mutex::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let stamp = {
        let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = now.max(*last + 1);
        *last
    };
    let host = nix::unistd::gethostname().unwrap_or_default();
    let hash = Sha1::digest(std::os::unix::ffi::OsStrExt::as_bytes(host.as_os_str()));
    let (secs, nanos) = (stamp / 1_000_000_000, stamp % 1_000_000_000);
    let mut out = [0; 16];
    out[0..4].copy_from_slice(&u32::try_from(nanos).unwrap_or(0).to_le_bytes());
    out[4..8].copy_from_slice(&u32::try_from(secs).unwrap_or(u32::MAX).to_le_bytes());
    out[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    out[12..16].copy_from_slice(&hash[16..20]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guid128_of_names_is_the_end_of_their_sha1() {
        // dbox.md appendix B
        let g = MailGuid::new("1700000000.M1P2.host.example.org").expect("not empty");
        assert_eq!(g.to_128().to_string(), "d28346b68a108b8f3728d7b7c752cb31");
    }

    #[test]
    fn order_is_that_of_the_text() {
        let hex = MailGuid::new("00f3dc6b5fe6b3049ee5227a69b5799c").expect("not empty");
        let name = MailGuid::new("1795293326.M935857P2337.mx1").expect("not empty");
        assert!(hex < name);
        assert!(MailGuid::new("ZZ").expect("not empty") < MailGuid::new("ff".repeat(16)).expect("not empty"));
    }

    #[test]
    fn upper_case_hex_keeps_its_spelling() {
        let text = "00F3DC6B5FE6B3049EE5227A69B5799C";
        let g = MailGuid::new(text).expect("not empty");
        assert_eq!(g.text(), text.as_bytes());
        assert_eq!(g.to_128().to_string(), text.to_lowercase());
    }

    #[test]
    fn generated_guids_differ() {
        assert_ne!(generate_guid(), generate_guid());
    }
}
