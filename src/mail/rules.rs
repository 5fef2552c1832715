//! Which names a store can hold, as plain values: both sides of a sync know both sides' rules, and so agree on one name
//! for every mailbox (DESIGN "names one side cannot hold").

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::MailboxName;

/// What a store allows in names. Made by the mailbox list, used by the engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameRules {
    /// The namespace separator, the same in all namespaces that take part.
    pub separator: char,
    /// What stands for a character that cannot be held (`dsync_alt_char`).
    pub alt: char,
    /// There are no directories without a mailbox: a parent is only part of its children's names (Maildir++).
    pub no_directories: bool,
    /// INBOX can be renamed like any mailbox, children staying below the new name (dbox).
    pub inbox_moves: bool,
    /// The rules of the namespaces that take part. A name follows those of the longest prefix that fits.
    pub namespaces: Vec<NamespaceRules>,
}

/// What one namespace allows in the levels behind its prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamespaceRules {
    /// The levels of its prefix.
    pub prefix: Vec<String>,
    /// It has the user's INBOX.
    pub inbox: bool,
    /// The separator of the layout on disk (`.` for Maildir++).
    pub storage_separator: char,
    /// `/` cannot stand inside a level (always, except where names are not paths).
    pub no_slash: bool,
    /// `~` cannot begin a name.
    pub no_tilde: bool,
    /// Control characters can stand inside a level. Never NUL.
    pub controls: bool,
    /// Levels that are the storage's own (`dbox-Mails`, `cur`, ...).
    pub reserved: Vec<String>,
    /// Ends of levels that are the storage's own (`.lock` beside mboxes).
    pub reserved_ends: Vec<String>,
    /// The escape character, where the configuration has one: then separators, slashes and dots can be held.
    pub escape: Option<char>,
    /// Names are UTF-8 on disk, not modified UTF-7.
    pub utf8: bool,
    /// The whole name is one file name (Maildir++), with a dot in front.
    pub flat: bool,
    /// The longest file name, bytes; `None` where names are not file names.
    pub max_file_name: Option<usize>,
}

impl Default for NamespaceRules {
    /// A directory tree with modified UTF-7, as an sdbox has.
    fn default() -> Self {
        Self {
            prefix: Vec::new(),
            inbox: true,
            storage_separator: '/',
            no_slash: true,
            no_tilde: true,
            controls: true,
            reserved: Vec::new(),
            reserved_ends: Vec::new(),
            escape: None,
            utf8: false,
            flat: false,
            max_file_name: Some(255),
        }
    }
}

impl Default for NameRules {
    fn default() -> Self {
        Self { separator: '/', alt: '_', no_directories: false, inbox_moves: false, namespaces: vec![NamespaceRules::default()] }
    }
}

/// Dovecot refuses longer names to users.
const MAX_NAME: usize = 4096;
/// Length of what makes a shortened level its own: a dash and 8 hex digits.
const TAIL: usize = 9;

impl NameRules {
    /// What this store calls a mailbox that the other side calls `name`: the same, or the nearest name it can hold
    /// (sync.md 3.7). Applying it twice changes nothing more. A name of no namespace of this store stays as it is.
    #[must_use]
    pub fn nearest(&self, name: &MailboxName) -> MailboxName {
        if name.is_inbox() {
            return MailboxName::inbox();
        }
        let Some(space) = self.namespace_of(name) else { return name.clone() };
        let prefix = space.prefix.len();
        let mut levels = space.folded(name.levels());
        // Cut levels may have to be repaired again, e.g. when what is left is a reserved name.
        let mut left = space.max_file_name.map(|max| max - usize::from(space.flat));
        for i in prefix..levels.len() {
            let fixed = self.nearest_level(space, i - prefix, levels.len() - prefix == 1, &levels[i]);
            let Some(fixed) = space.shortened(fixed, left) else { return space.stand_in(name) };
            if let (true, Some(left)) = (space.flat, &mut left) {
                *left = left.saturating_sub(space.disk_len(&fixed) + 1);
            }
            levels[i] = fixed;
        }
        if levels.iter().map(|l| l.len() + 1).sum::<usize>() > MAX_NAME {
            return space.stand_in(name);
        }
        MailboxName::new(levels).unwrap_or_else(|| name.clone())
    }

    /// The name that two stores agree on for a mailbox that one of them calls `name`. Both compute the same, whichever of
    /// them asks.
    #[must_use]
    pub fn agreed(&self, other: &Self, name: &MailboxName) -> MailboxName {
        let (first, second) = if self <= other { (self, other) } else { (other, self) };
        let mut name = name.clone();
        // The second may undo nothing of the first but make a level longer or reserved; that settles at once or never.
        for _ in 0..4 {
            let next = second.nearest(&first.nearest(&name));
            if next == name {
                break;
            }
            name = next;
        }
        name
    }

    fn namespace_of(&self, name: &MailboxName) -> Option<&NamespaceRules> {
        let fits = |n: &&NamespaceRules| {
            let levels = n.folded(name.levels());
            levels.len() > n.prefix.len() && levels.starts_with(&n.prefix)
        };
        self.namespaces.iter().filter(fits).max_by_key(|n| n.prefix.len())
    }

    fn nearest_level(&self, space: &NamespaceRules, depth: usize, alone: bool, level: &str) -> String {
        let separators = [self.separator, space.storage_separator];
        let impossible = |c: char| {
            c == '\0'
                || (c < ' ' && !space.controls)
                || (space.escape.is_none() && (separators.contains(&c) || (space.no_slash && c == '/')))
        };
        let alt = if impossible(self.alt) { '_' } else { self.alt };
        let mut out: String = level.chars().map(|c| if impossible(c) { alt } else { c }).collect();
        let special = space.escape.is_none()
            && ((matches!(out.as_str(), "." | "..") && space.no_slash)
                || (depth == 0 && space.no_tilde && out.starts_with('~'))
                // `PREFIX/INBOX` would be the INBOX once more.
                || (alone && depth == 0 && space.inbox && out == "INBOX"));
        if special || space.reserved.contains(&out) {
            out.insert(0, '_');
        }
        if space.reserved_ends.iter().any(|e| out.ends_with(e.as_str())) {
            out.push('_');
        }
        out
    }
}

impl NamespaceRules {
    /// `inbox` in any case in front of other levels is INBOX, where this namespace has it.
    fn folded(&self, levels: &[String]) -> Vec<String> {
        let mut levels = levels.to_vec();
        let here = self.inbox && self.prefix.first().is_none_or(|p| p == "INBOX");
        if here && levels.len() > 1 && levels[0].eq_ignore_ascii_case("INBOX") {
            levels[0] = "INBOX".into();
        }
        levels
    }

    /// The level as it is or cut to at most `room` bytes on disk, told apart by a hash of what it was. `None`: no room for
    /// that.
    fn shortened(&self, level: String, room: Option<usize>) -> Option<String> {
        let Some(room) = room else { return Some(level) };
        if self.disk_len(&level) <= room {
            return Some(level);
        }
        let tail = format!("-{}", &hex::encode(Sha1::digest(level.as_bytes()))[..TAIL - 1]);
        let mut cut = level;
        while cut.pop().is_some() && !cut.is_empty() {
            if self.disk_len(&cut) + TAIL <= room {
                return Some(cut + &tail);
            }
        }
        None
    }

    /// The name of a mailbox whose own name is too long altogether.
    fn stand_in(&self, name: &MailboxName) -> MailboxName {
        let mut levels = self.prefix.clone();
        levels.push(hex::encode(&Sha1::digest(name.join('\0').as_bytes())[..16]));
        MailboxName::new(levels).unwrap_or_else(|| name.clone())
    }

    /// How many bytes a level takes in a file name.
    fn disk_len(&self, level: &str) -> usize {
        let mut len = 0;
        // UTF-16 units of the present run outside of printable ASCII (RFC 3501 5.1.3).
        let mut run = 0;
        let run_len = |units: usize| if units == 0 { 0 } else { (units * 16).div_ceil(6) + 2 };
        for c in level.chars() {
            if !self.utf8 && !matches!(c, ' '..='~') {
                run += c.len_utf16();
                continue;
            }
            len += run_len(std::mem::take(&mut run));
            let escaped = self.escape.is_some_and(|e| [e, '/', self.storage_separator, '~', '.'].contains(&c));
            len += if escaped {
                3
            } else if c == '&' && !self.utf8 {
                2
            } else {
                c.len_utf8()
            };
        }
        len + run_len(run)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn maildir() -> NameRules {
        let space = NamespaceRules { storage_separator: '.', flat: true, ..NamespaceRules::default() };
        NameRules { namespaces: vec![space], ..NameRules::default() }
    }

    fn dbox() -> NameRules {
        let space = NamespaceRules { reserved: vec!["dbox-Mails".into()], ..NamespaceRules::default() };
        NameRules { namespaces: vec![space], ..NameRules::default() }
    }

    fn name(levels: &[&str]) -> MailboxName {
        MailboxName::new(levels.iter().map(|&l| l.to_owned()).collect()).expect("levels")
    }

    #[test]
    fn maildir_with_slash_cannot_hold_dots() {
        assert_eq!(maildir().nearest(&name(&["a.b", "c/d"])).levels(), ["a_b", "c_d"]);
        let mut escaping = maildir();
        escaping.namespaces[0].escape = Some('\\');
        assert_eq!(escaping.nearest(&name(&["a.b", "c/d"])).levels(), ["a.b", "c/d"]);
    }

    #[test]
    fn reserved_names_get_an_underscore_and_stay() {
        let near = dbox().nearest(&name(&["dbox-Mails"]));
        assert_eq!(near.levels(), ["_dbox-Mails"]);
        assert_eq!(dbox().nearest(&near), near);
        assert_eq!(dbox().nearest(&name(&["..", "~x"])).levels(), ["_..", "~x"]);
        assert_eq!(dbox().nearest(&name(&["~x", "."])).levels(), ["_~x", "_."]);
    }

    #[test]
    fn percent_and_control_characters_are_ordinary() {
        for odd in ["50%", "a%25b", "a%2fb", "%ce", "a\tb", "a&b", "😀"] {
            assert_eq!(dbox().nearest(&name(&[odd])).levels(), [odd]);
        }
        assert_eq!(dbox().nearest(&name(&["a\0b"])).levels(), ["a_b"]);
    }

    #[test]
    fn inbox_is_one() {
        assert_eq!(maildir().nearest(&name(&["inBox"])), MailboxName::inbox());
        assert_eq!(maildir().nearest(&name(&["Inbox", "x"])).levels(), ["INBOX", "x"]);
        let mut rules = maildir();
        rules.namespaces[0].prefix = vec!["INBOX".into()];
        assert_eq!(rules.nearest(&name(&["INBOX", "INBOX"])).levels(), ["INBOX", "_INBOX"]);
        assert_eq!(rules.nearest(&name(&["other"])).levels(), ["other"]);
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = "é".repeat(100);
        let a = dbox().nearest(&name(&[&format!("{long}a")]));
        let b = dbox().nearest(&name(&[&format!("{long}b")]));
        assert_ne!(a, b);
        assert!(a.leaf().starts_with("ééé"));
        // In a flat layout the levels share one file name.
        let deep = name(&[&"x".repeat(100), &"y".repeat(100), &"z".repeat(100)]);
        assert_eq!(dbox().nearest(&deep), deep);
        let near = maildir().nearest(&deep);
        assert_eq!(near.levels()[..2], deep.levels()[..2]);
        assert_eq!(near.join('.').len(), 254);
        assert_eq!(maildir().nearest(&name(&[&"x".repeat(250), "yyyyyyyyyy"])).levels().len(), 1);
    }

    fn any_name() -> impl Strategy<Value = MailboxName> {
        let level = prop_oneof![
            "[a-zé./~%&_\\\\\\x00\\x01-]{1,6}",
            "[xé.]{80,300}",
            Just("INBOX".to_owned()),
            Just("dbox-Mails".to_owned()),
            Just("x.lock".to_owned())
        ];
        proptest::collection::vec(level, 1..5).prop_map(|l| MailboxName::new(l).expect("no empty level"))
    }

    fn any_rules() -> impl Strategy<Value = NameRules> {
        let space = (any::<[bool; 6]>(), prop_oneof![Just(None), Just(Some('\\'))]).prop_map(|(b, escape)| NamespaceRules {
            prefix: if b[0] { vec!["INBOX".into()] } else { Vec::new() },
            inbox: b[1],
            storage_separator: if b[2] { '.' } else { '/' },
            flat: b[2],
            controls: b[3],
            utf8: b[4],
            reserved: if b[2] { Vec::new() } else { vec!["dbox-Mails".into()] },
            reserved_ends: if b[5] { vec![".lock".into()] } else { Vec::new() },
            escape,
            ..NamespaceRules::default()
        });
        (space, any::<bool>(), prop_oneof![Just('_'), Just('.'), Just('-')]).prop_map(|(s, slash, alt)| NameRules {
            separator: if slash { '/' } else { '.' },
            alt,
            namespaces: vec![s],
            ..NameRules::default()
        })
    }

    proptest! {
        #[test]
        fn applying_it_twice_changes_nothing(rules in any_rules(), name in any_name()) {
            let once = rules.nearest(&name);
            prop_assert_eq!(rules.nearest(&once), once);
        }

        #[test]
        fn both_sides_agree(a in any_rules(), b in any_rules(), name in any_name()) {
            let agreed = a.agreed(&b, &name);
            prop_assert_eq!(&b.agreed(&a, &name), &agreed);
            prop_assert_eq!(&a.nearest(&agreed), &agreed);
            prop_assert_eq!(&b.nearest(&agreed), &agreed);
        }
    }
}
