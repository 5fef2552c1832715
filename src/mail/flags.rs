//! System flags and keywords.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{BitAnd, BitOr, BitXor};
use std::sync::Arc;

/// The five system flags, as the index files and the wire have them (index.md 2.4). \Recent is not among them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u8")]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// \Answered
    pub const ANSWERED: Self = Self(0x01);
    /// \Flagged
    pub const FLAGGED: Self = Self(0x02);
    /// \Deleted
    pub const DELETED: Self = Self(0x04);
    /// \Seen
    pub const SEEN: Self = Self(0x08);
    /// \Draft
    pub const DRAFT: Self = Self(0x10);
    /// All five.
    pub const ALL: Self = Self(0x1f);

    const NAMES: [(Self, &'static str); 5] = [
        (Self::ANSWERED, "\\Answered"),
        (Self::FLAGGED, "\\Flagged"),
        (Self::DELETED, "\\Deleted"),
        (Self::SEEN, "\\Seen"),
        (Self::DRAFT, "\\Draft"),
    ];

    /// The system flags of a byte; other bits are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x1f)
    }

    /// The byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The flag with this name, in any case, backslash included.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|&(f, _)| f)
    }

    /// The name of the first of them.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(f, _)| self.contains(*f)).map_or("", |&(_, n)| n)
    }

    /// All of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// None is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl From<u8> for Flags {
    fn from(bits: u8) -> Self {
        Self::from_bits(bits)
    }
}

impl From<String> for Keyword {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Keyword> for String {
    fn from(keyword: Keyword) -> Self {
        keyword.as_str().to_owned()
    }
}

impl From<Vec<Keyword>> for Keywords {
    fn from(list: Vec<Keyword>) -> Self {
        list.into_iter().collect()
    }
}

impl From<Keywords> for Vec<Keyword> {
    fn from(keywords: Keywords) -> Self {
        keywords.iter().cloned().collect()
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Flags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitXor for Flags {
    type Output = Self;
    fn bitxor(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Self::NAMES.iter().filter(|(b, _)| self.contains(*b)).map(|(_, n)| *n).collect();
        write!(f, "({})", names.join(" "))
    }
}

/// A keyword (RFC 3501 2.3.2). Equal and ordered without regard to ASCII case, shown as it was first written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Keyword(Arc<str>);

impl Keyword {
    /// A keyword of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Keyword {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Keyword {}

impl PartialOrd for Keyword {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyword {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.bytes().map(|b| b.to_ascii_lowercase()).cmp(other.0.bytes().map(|b| b.to_ascii_lowercase()))
    }
}

impl Hash for Keyword {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for b in self.0.bytes() {
            state.write_u8(b.to_ascii_lowercase());
        }
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A set of keywords, shared between the mails that have the same ones: 8 bytes a mail.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Keyword>", into = "Vec<Keyword>")]
pub struct Keywords(Option<Arc<Vec<Keyword>>>);

impl Keywords {
    /// No keyword.
    pub const NONE: Self = Self(None);

    /// The keywords, ascending.
    pub fn iter(&self) -> std::slice::Iter<'_, Keyword> {
        self.0.as_deref().map_or([].iter(), |v| v.iter())
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |v| v.len())
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// It is in the set.
    #[must_use]
    pub fn contains(&self, keyword: &Keyword) -> bool {
        self.0.as_ref().is_some_and(|v| v.binary_search(keyword).is_ok())
    }

    /// These and those.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (_, true) => self.clone(),
            (true, _) => other.clone(),
            _ => self.iter().chain(other.iter()).cloned().collect(),
        }
    }

    /// These without those.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            return self.clone();
        }
        self.iter().filter(|k| !other.contains(k)).cloned().collect()
    }

    /// Those that are in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        self.iter().filter(|k| other.contains(k)).cloned().collect()
    }
}

impl FromIterator<Keyword> for Keywords {
    fn from_iter<I: IntoIterator<Item = Keyword>>(iter: I) -> Self {
        let mut v: Vec<_> = iter.into_iter().collect();
        v.sort();
        v.dedup();
        Self((!v.is_empty()).then(|| Arc::new(v)))
    }
}

impl<'a> IntoIterator for &'a Keywords {
    type Item = &'a Keyword;
    type IntoIter = std::slice::Iter<'a, Keyword>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Keywords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_know_no_case() {
        let set: Keywords = [Keyword::new("Junk"), Keyword::new("junk"), Keyword::new("$a")].into_iter().collect();
        assert_eq!(set.len(), 2);
        assert!(set.contains(&Keyword::new("JUNK")));
    }

    #[test]
    fn flags_by_name() {
        assert_eq!(Flags::by_name("\\seen"), Some(Flags::SEEN));
        assert_eq!(Flags::by_name("\\Recent"), None);
    }
}
