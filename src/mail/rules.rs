//! Which names a store can hold, as plain values: both sides of a sync know both sides' rules, and so agree on one name
//! for every mailbox (DESIGN "names one side cannot hold").

use super::MailboxName;

/// What a store allows in names. Made by the mailbox list, used by the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRules {
    /// The namespace separator: cannot stand inside a level unless it is escaped.
    pub separator: char,
    /// The separator of the layout on disk (`.` for Maildir++).
    pub storage_separator: char,
    /// `/` cannot stand inside a level (always, except where names are not paths).
    pub no_slash: bool,
    /// Levels that are the storage's own (`dbox-Mails`, `cur`, ...).
    pub reserved: Vec<String>,
    /// The escape character, where the configuration has one: then every level can be held.
    pub escape: Option<char>,
    /// What stands for a character that cannot be held (`dsync_alt_char`).
    pub alt: char,
    /// There are no directories without a mailbox: a parent is only part of its children's names (Maildir++).
    pub no_directories: bool,
    /// INBOX can be renamed like any mailbox, children staying below the new name (dbox).
    pub inbox_moves: bool,
}

impl Default for NameRules {
    fn default() -> Self {
        Self {
            separator: '/',
            storage_separator: '/',
            no_slash: true,
            reserved: Vec::new(),
            escape: None,
            alt: '_',
            no_directories: false,
            inbox_moves: false,
        }
    }
}

impl NameRules {
    /// What this store calls a mailbox that the other side calls `name`: the same, or the nearest name it can hold
    /// (sync.md 3.7). Applying it twice changes nothing more.
    #[must_use]
    pub fn nearest(&self, name: &MailboxName) -> MailboxName {
        let levels = name.levels().iter().enumerate().map(|(depth, level)| self.nearest_level(depth, level)).collect();
        MailboxName::new(levels).unwrap_or_else(|| name.clone())
    }

    fn nearest_level(&self, depth: usize, level: &str) -> String {
        let impossible = |c: char| {
            (c as u32) < 0x20
                || self.escape.is_none() && (c == self.separator || c == self.storage_separator || (self.no_slash && c == '/'))
        };
        let mut out: String = level.chars().map(|c| if impossible(c) { self.alt } else { c }).collect();
        let dots = matches!(out.as_str(), "." | "..");
        let tilde = depth == 0 && out.starts_with('~');
        if self.reserved.contains(&out) || self.escape.is_none() && (dots || tilde) {
            out.insert(0, '_');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maildir_with_slash_cannot_hold_dots() {
        let rules = NameRules { separator: '/', storage_separator: '.', ..NameRules::default() };
        let name = MailboxName::new(vec!["a.b".into(), "c/d".into()]).expect("two levels");
        assert_eq!(rules.nearest(&name).levels(), ["a_b", "c_d"]);
    }

    #[test]
    fn reserved_names_get_an_underscore_and_stay() {
        let rules = NameRules { reserved: vec!["dbox-Mails".into()], ..NameRules::default() };
        let name = MailboxName::new(vec!["dbox-Mails".into()]).expect("one level");
        let near = rules.nearest(&name);
        assert_eq!(near.levels(), ["_dbox-Mails"]);
        assert_eq!(rules.nearest(&near), near);
    }
}
