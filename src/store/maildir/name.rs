//! Names of mail files: `BASE[:INFO]` (maildir.md 2). Bytes in, meaning out; nothing is opened here.
//!
//! BASE ends before the first colon and never changes while the mail lives; INFO starts at the last one.

use std::fmt;
use std::sync::{Mutex, OnceLock};

use crate::mail::Flags;

/// Keyword letters `a`..`z` of a file name as bits 0..25.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Letters(u32);

impl Letters {
    /// How many letters a Maildir has.
    pub const COUNT: u8 = 26;

    /// The letter with this number is set.
    pub const fn contains(self, index: u8) -> bool {
        index < Self::COUNT && self.0 >> index & 1 == 1
    }

    /// These and the letter with this number; numbers from 26 on have no letter.
    #[must_use]
    pub const fn with(self, index: u8) -> Self {
        if index < Self::COUNT { Self(self.0 | 1 << index) } else { self }
    }

    /// The numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..Self::COUNT).filter(move |&i| self.contains(i))
    }
}

impl FromIterator<u8> for Letters {
    fn from_iter<I: IntoIterator<Item = u8>>(iter: I) -> Self {
        iter.into_iter().fold(Self::default(), Self::with)
    }
}

const SYSTEM: [(u8, Flags); 5] =
    [(b'D', Flags::DRAFT), (b'F', Flags::FLAGGED), (b'R', Flags::ANSWERED), (b'S', Flags::SEEN), (b'T', Flags::DELETED)];

/// BASE of a file name.
pub(super) fn base(name: &[u8]) -> &[u8] {
    memchr::memchr(b':', name).map_or(name, |colon| &name[..colon])
}

/// The letters of a name's INFO, and the foreign set behind them with its comma. `None` for a name without `2,`.
fn info(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memrchr(b':', name)?;
    let letters = name[colon + 1..].strip_prefix(b"2,")?;
    let end = memchr::memchr(b',', letters).unwrap_or(letters.len());
    Some(letters.split_at(end))
}

/// Flags and keyword letters of a file name (2.3). Without a known INFO there are none.
pub(super) fn flags(name: &[u8]) -> (Flags, Letters) {
    let (letters, _) = info(name).unwrap_or_default();
    let mut flags = Flags::NONE;
    let mut keywords = Letters::default();
    for &c in letters {
        if c.is_ascii_lowercase() {
            keywords = keywords.with(c - b'a');
        } else if let Some((_, flag)) = SYSTEM.iter().find(|(letter, _)| *letter == c) {
            flags = flags | *flag;
        }
    }
    (flags, keywords)
}

/// The name that a file in `cur/` gets when its flags become these: letters that mean nothing to us and the foreign set
/// stay, everything else is written anew, and `:2,` stands even without flags (2.3).
pub(super) fn with_flags(name: &[u8], flags: Flags, keywords: Letters) -> Vec<u8> {
    let (old, rest) = info(name).unwrap_or_default();
    let mut letters: Vec<u8> =
        old.iter().copied().filter(|c| !c.is_ascii_lowercase() && !SYSTEM.iter().any(|(letter, _)| letter == c)).collect();
    letters.extend(SYSTEM.iter().filter(|(_, flag)| flags.contains(*flag)).map(|(letter, _)| *letter));
    letters.extend(keywords.iter().map(|i| b'a' + i));
    letters.sort_unstable();
    letters.dedup();

    let base = base(name);
    let mut out = Vec::with_capacity(base.len() + 3 + letters.len() + rest.len());
    out.extend_from_slice(base);
    out.extend_from_slice(b":2,");
    out.extend_from_slice(&letters);
    out.extend_from_slice(rest);
    out
}

/// A size that BASE tells: `S` is the size of the mail's bytes, `W` with every line end as CRLF (2.2).
pub(super) fn size(base: &[u8], key: u8) -> Option<u64> {
    let at = memchr::memmem::find(base, &[b',', key, b'='])?;
    let digits = &base[at + 3..];
    let end = digits.iter().position(|c| !c.is_ascii_digit()).unwrap_or(digits.len());
    if digits.get(end).is_some_and(|c| !matches!(c, b',' | b':')) {
        return None;
    }
    number(&digits[..end])
}

/// Decimal digits only, and not too many of them.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, c| {
        let digit = c.is_ascii_digit().then(|| u64::from(c - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// The order in which new files get their UIDs (7.5): leading seconds, then the microseconds of `.M`, then the bytes.
///
/// Microseconds decide only between two names that have them, which alone would be no total order; so names without
/// stand in front of or behind all those that have them, where their bytes put them.
pub(super) fn uid_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    timestamp(a).cmp(&timestamp(b)).then_with(|| a.cmp(b))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    seconds: u64,
    micros: Micros,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Micros {
    NoneAndBefore,
    Some(u64),
    NoneAndBehind,
}

fn timestamp(base: &[u8]) -> Stamp {
    let leading = |s: &[u8]| {
        let end = s.iter().position(|c| !c.is_ascii_digit()).unwrap_or(s.len());
        (s[..end].iter().fold(0u64, |n, c| n.saturating_mul(10).saturating_add(u64::from(c - b'0'))), end)
    };
    let (seconds, _) = leading(base);
    let rest = memchr::memchr(b'.', base).map_or(&[][..], |dot| &base[dot + 1..]);
    let micros = match rest.strip_prefix(b"M").map(leading) {
        Some((n, end)) if end > 0 => Micros::Some(n),
        _ if *rest > b"M0"[..] => Micros::NoneAndBehind,
        _ => Micros::NoneAndBefore,
    };
    Stamp { seconds, micros }
}

/// Why a GUID cannot be the BASE of a new file (8.3). A name that only has other sizes is not among them.
pub(super) fn fits_as_base(guid: &[u8]) -> bool {
    // The longest INFO is ":2," with all letters of the alphabet and the flags.
    const LONGEST_INFO: usize = 3 + 31;
    !guid.is_empty()
        && guid.len() + LONGEST_INFO <= 255
        && guid[0] != b'.'
        && !guid.iter().any(|&c| c <= b' ' || c == 0x7f || c == b'/' || c == b':')
}

/// The part of a generated name in front of the sizes, which is the name in `tmp/` as well (2.1).
///
/// Within this process no two are alike: time goes on by at least a microsecond from one to the next.
pub(super) fn generate() -> TmpName {
    static LAST: Mutex<u64> = Mutex::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *last = now.max(*last + 1);
    TmpName(format!("{}.M{}P{}.{}", *last / 1_000_000, *last % 1_000_000, std::process::id(), host()))
}

/// A generated name without sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TmpName(String);

impl TmpName {
    /// The BASE of a file with these sizes.
    pub fn with_sizes(&self, physical: u64, with_crlf: Option<u64>) -> Vec<u8> {
        let with_crlf = with_crlf.map(|w| format!(",W={w}")).unwrap_or_default();
        format!("{},S={physical}{with_crlf}", self.0).into_bytes()
    }
}

impl fmt::Display for TmpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let name = std::env::var_os("DOVECOT_HOSTNAME").unwrap_or_else(|| nix::unistd::gethostname().unwrap_or_default());
        // Dovecot refuses such host names; any other character serves, the name only has to be unique.
        name.to_string_lossy().chars().map(|c| if c == '/' || c == ':' || c <= ' ' { '_' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base_ends_at_the_first_colon_and_info_starts_at_the_last() {
        assert_eq!(base(b"1.a.host:x:2,S"), b"1.a.host");
        assert_eq!(flags(b"1.a.host:x:2,S").0, Flags::SEEN);
        assert_eq!(base(b"1.a.host"), b"1.a.host");
    }

    #[test]
    fn letters_of_the_corpus() {
        let (system, letters) = flags(b"1795293326.M938971P2337.mx1.example.org,S=206,W=214:2,Sac");
        assert_eq!((system, letters), (Flags::SEEN, [0, 2].into_iter().collect()));
        assert_eq!(flags(b"1700000002.y:1,experimental"), (Flags::NONE, Letters::default()));
        assert_eq!(flags(b"1700000007.q:2,S,future"), (Flags::SEEN, Letters::default()));
        assert_eq!(flags(b"1700000003.x:2,PS").0, Flags::SEEN);
    }

    #[test]
    fn rewriting_keeps_what_is_not_ours() {
        // maildir.md 2.3
        assert_eq!(with_flags(b"x:2,PS", Flags::SEEN | Flags::FLAGGED, Letters::default()), b"x:2,FPS");
        assert_eq!(with_flags(b"x:2,S,future", Flags::NONE, Letters::default()), b"x:2,,future");
        assert_eq!(with_flags(b"x:1,experimental", Flags::DRAFT, Letters::default().with(25)), b"x:2,Dz");
        assert_eq!(with_flags(b"x", Flags::NONE, Letters::default()), b"x:2,");
    }

    #[test]
    fn sizes() {
        assert_eq!(size(b"1.a.host,S=206,W=214", b'S'), Some(206));
        assert_eq!(size(b"1.a.host,S=206,W=214", b'W'), Some(214));
        assert_eq!(size(b"1.a.host,S=206x", b'S'), None);
        assert_eq!(size(b"1.a.host,S=", b'S'), None);
        assert_eq!(size(b"1.a.host,S=99999999999999999999", b'S'), None);
    }

    #[test]
    fn uid_order_of_the_corpus() {
        // corpus/maildir/plain-before: the order in which Dovecot gave the UIDs 1 to 8
        let order = [
            "notimestamp",
            "1700000001.M9P2.host.example.org",
            "1700000002.y.host.example.org",
            "1700000003.x.host.example.org",
            "1700000004.z.host.example.org",
            "1700000005.M1P2.host.example.org",
            "1700000006.w.host.example.org,S=203",
            "1700000007.q.host.example.org",
        ];
        let mut sorted = order;
        sorted.reverse();
        sorted.sort_by(|a, b| uid_order(a.as_bytes(), b.as_bytes()));
        assert_eq!(sorted, order);
        assert!(uid_order(b"1.M9P1.h", b"1.M10P1.h").is_lt());
    }

    #[test]
    fn guids_that_are_no_names() {
        assert!(fits_as_base(b"1795293326.M935857P2337.mx1,S=206,W=214"));
        for bad in ["", ".x", "a/b", "a:b", "a b", "a\nb", "a\0b"] {
            assert!(!fits_as_base(bad.as_bytes()), "{bad:?}");
        }
        assert!(!fits_as_base(&[b'x'; 222]));
        assert!(fits_as_base(&[b'x'; 221]));
    }

    #[test]
    fn generated_names_differ_and_have_the_form_of_the_specification() {
        let (a, b) = (generate(), generate());
        assert_ne!(a, b);
        let name = a.with_sizes(10, Some(12));
        assert!(fits_as_base(&name));
        assert_eq!((size(&name, b'S'), size(&name, b'W')), (Some(10), Some(12)));
        assert!(uid_order(a.to_string().as_bytes(), b.to_string().as_bytes()).is_lt());
    }

    proptest! {
        #[test]
        fn written_flags_are_read_back(name in proptest::collection::vec(any::<u8>(), 0..60), bits in 0u8..32, set in 0u32..1 << 26) {
            let wanted = (Flags::from_bits(bits), (0..26).filter(|i| set >> i & 1 == 1).collect::<Letters>());
            let written = with_flags(&name, wanted.0, wanted.1);
            prop_assert_eq!(flags(&written), wanted);
            prop_assert_eq!(base(&written), base(&name));
            prop_assert_eq!(with_flags(&written, wanted.0, wanted.1), written);
        }

        #[test]
        fn hostile_names_are_read(name in proptest::collection::vec(any::<u8>(), 0..300)) {
            flags(&name);
            size(&name, b'S');
            prop_assert!(uid_order(&name, &name).is_eq());
        }

        #[test]
        fn uid_order_is_total(names in proptest::collection::vec("[01]{0,2}[.x]?M?[0-9aN]{0,2}", 3)) {
            let (a, b, c) = (names[0].as_bytes(), names[1].as_bytes(), names[2].as_bytes());
            prop_assert_eq!(uid_order(a, b), uid_order(b, a).reverse());
            if uid_order(a, b).is_le() && uid_order(b, c).is_le() {
                prop_assert!(uid_order(a, c).is_le());
            }
        }
    }
}
