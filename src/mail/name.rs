//! Mailbox names.

use serde::{Deserialize, Serialize};
use std::fmt;

use sha1::{Digest, Sha1};

/// The full name of a mailbox, namespace prefix included, as its levels in true UTF-8: no separator, no escaping, no
/// modified UTF-7. How a side writes it (separator, storage name, path) is that side's own business.
///
/// At least one level; no level is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct MailboxName(Vec<String>);

impl MailboxName {
    /// `None` without levels or with an empty one.
    #[must_use]
    pub fn new(levels: Vec<String>) -> Option<Self> {
        (!levels.is_empty() && levels.iter().all(|l| !l.is_empty())).then_some(Self(levels))
    }

    /// The name INBOX.
    #[must_use]
    pub fn inbox() -> Self {
        Self(vec!["INBOX".into()])
    }

    /// Splits a name as users write it. `None` if a level is empty.
    #[must_use]
    pub fn parse(name: &str, separator: char) -> Option<Self> {
        Self::new(name.split(separator).map(str::to_owned).collect())
    }

    /// The levels, outermost first.
    #[must_use]
    pub fn levels(&self) -> &[String] {
        &self.0
    }

    /// The last level.
    #[must_use]
    pub fn leaf(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The name without its last level.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        (self.0.len() > 1).then(|| Self(self.0[..self.0.len() - 1].to_vec()))
    }

    /// The name one level below this one.
    #[must_use]
    pub fn child(&self, level: &str) -> Self {
        let mut levels = self.0.clone();
        levels.push(level.to_owned());
        Self(levels)
    }

    /// It is this name, or lies below it.
    #[must_use]
    pub fn is_inside(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// INBOX in any case, at top level.
    #[must_use]
    pub fn is_inbox(&self) -> bool {
        self.0.len() == 1 && self.0[0].eq_ignore_ascii_case("INBOX")
    }

    /// The levels joined.
    #[must_use]
    pub fn join(&self, separator: char) -> String {
        let mut out = String::new();
        for (i, l) in self.0.iter().enumerate() {
            if i > 0 {
                out.push(separator);
            }
            out.push_str(l);
        }
        out
    }
}

impl TryFrom<Vec<String>> for MailboxName {
    type Error = &'static str;

    fn try_from(levels: Vec<String>) -> Result<Self, &'static str> {
        Self::new(levels).ok_or("an empty mailbox name")
    }
}

/// With `/`, for messages.
impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.join('/'))
    }
}

impl fmt::Debug for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.join('/'), f)
    }
}

/// The **first** 16 bytes of the SHA-1 of a full name, as the mailbox log keeps it (index.md 10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NameHash(pub [u8; 16]);

impl NameHash {
    /// The hash of a name joined with its side's separator.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let mut out = [0; 16];
        out.copy_from_slice(&Sha1::digest(name.as_bytes())[..16]);
        Self(out)
    }
}

impl fmt::Debug for NameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_hash_as_in_the_mailbox_log() {
        // mailbox-list.md 10
        assert_eq!(hex::encode(NameHash::of("Foo").0), "201a6b3053cc1422d2c3670b62616221");
        assert_eq!(hex::encode(NameHash::of("Ärger").0), "4507d6d6a46a316c2ff5b9e043e9fa0a");
    }

    #[test]
    fn empty_levels_are_refused() {
        assert_eq!(MailboxName::parse("a//b", '/'), None);
        assert_eq!(MailboxName::parse("", '/'), None);
    }
}
