//! Names of mailboxes and how one namespace writes them on disk (mailbox-list.md 5). Pure.
//!
//! A [`MailboxName`] has levels of true characters. A *storage name* is what stands on disk, without the namespace's prefix:
//! levels in modified UTF-7, escaped where an escape character is configured, joined with the layout's separator.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::location::{Driver, Layout, Location};
use super::utf7;
use crate::mail::{MailboxName, NamespaceRules};
use crate::store::NamespaceSettings;

/// Why a name cannot be a mailbox here. The texts are Dovecot's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Separator in front.
    #[error("Invalid mailbox name: Begins with hierarchy separator")]
    BeginsWithSeparator,
    /// Separator at the end.
    #[error("Invalid mailbox name: Ends with hierarchy separator")]
    EndsWithSeparator,
    /// An empty level.
    #[error("Invalid mailbox name: Has adjacent hierarchy separators")]
    AdjacentSeparators,
    /// Not in this namespace.
    #[error("Invalid mailbox name: Missing namespace prefix '{0}'")]
    MissingPrefix(String),
    /// A separator inside a level.
    #[error("Character not allowed in mailbox name: '{0}'")]
    NotAllowed(char),
    /// `/` where a name is one file name.
    #[error("Invalid mailbox name: Name must not have '/' characters")]
    Slash,
    /// Would be a home directory for some programs.
    #[error("Invalid mailbox name: Begins with '~'")]
    Tilde,
    /// Would be an absolute path.
    #[error("Invalid mailbox name: Begins with '/'")]
    BeginsWithSlash,
    /// `//`.
    #[error("Invalid mailbox name: Has adjacent '/' chars")]
    AdjacentSlashes,
    /// `.` or `..` as a directory.
    #[error("Invalid mailbox name: Contains '{0}' part")]
    Dots(&'static str),
    /// The storage has its own use for it.
    #[error("Invalid mailbox name: Contains reserved name")]
    Reserved,
    /// Longer than a file name can be.
    #[error("Mailbox name too long")]
    TooLong,
    /// Contains a NUL.
    #[error("Invalid mailbox name: Contains NUL")]
    Nul,
}

/// A mailbox as it is stored: which one it is within its list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stored {
    /// The storage name. Empty: the namespace's root. Bytes, since directories may have any name.
    pub name: OsString,
    /// It is the user's INBOX.
    pub inbox: bool,
}

impl Stored {
    /// The storage name as text, for files that keep names.
    #[must_use]
    pub fn text(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }

    /// The name of something below `from` once that is called `to`.
    #[must_use]
    pub fn rebased(&self, from: &Self, to: &Self) -> Self {
        let mut name = to.name.clone();
        name.push(OsStr::from_bytes(self.name.as_bytes().get(from.name.len()..).unwrap_or_default()));
        Self { name, inbox: false }
    }
}

/// What a name on disk means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// This mailbox, and nothing else on disk could mean the same.
    Name(MailboxName),
    /// This mailbox, but the name would be written differently: it is reached by its directory alone.
    Odd(MailboxName),
    /// No name at all.
    Invalid(NameError),
}

/// How one namespace writes names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The levels of its prefix.
    pub prefix: Vec<String>,
    /// The prefix as configured.
    pub prefix_text: String,
    /// The namespace separator.
    pub separator: char,
    /// The layout's separator.
    pub storage_separator: char,
    /// It has the INBOX.
    pub inbox: bool,
    /// UTF-8 on disk.
    pub utf8: bool,
    /// The escape character.
    pub escape: Option<char>,
    /// A name is one file name.
    pub flat: bool,
    /// Names are directories.
    pub paths: bool,
    /// Names are checked for what file systems mean by them.
    pub checked: bool,
    /// The directory of the mails inside a mailbox.
    pub dirname: String,
    /// Directory names the storage uses itself.
    pub reserved: Vec<String>,
    /// Ends of names the storage uses itself.
    pub reserved_ends: Vec<String>,
}

impl Names {
    /// The rules of a namespace at a location. `reserved` are the format's own directory names.
    #[must_use]
    pub fn new(location: &Location, ns: &NamespaceSettings, reserved: &[&str], settings: &crate::store::Settings) -> Self {
        let separator = ns.separator.unwrap_or(if location.layout.is_flat() { '.' } else { '/' });
        let storage_separator = match location.layout {
            Layout::MaildirPlusPlus | Layout::Imapdir => '.',
            Layout::Index => separator,
            Layout::Fs | Layout::None => '/',
        };
        let paths = matches!(location.layout, Layout::Fs);
        let mut own = Vec::new();
        if paths {
            own.extend(reserved.iter().map(|&s| s.to_owned()));
            match location.driver {
                Driver::Maildir if location.dirname.is_empty() => own.extend(["cur", "new", "tmp"].map(str::to_owned)),
                Driver::Mbox => own.push(".imap".into()),
                _ => {}
            }
            if !location.dirname.is_empty() {
                own.retain(|r| !["cur", "new", "tmp"].contains(&r.as_str()));
                own.push(location.dirname.clone());
            }
            own.sort();
            own.dedup();
        }
        let inner = ns.prefix.strip_suffix(separator).unwrap_or(&ns.prefix);
        Self {
            prefix: if inner.is_empty() { Vec::new() } else { inner.split(separator).map(str::to_owned).collect() },
            prefix_text: ns.prefix.clone(),
            separator,
            storage_separator,
            inbox: ns.inbox,
            utf8: location.utf8,
            // The plugin leaves a layout alone that escapes by itself (verified live).
            escape: settings.listescape_char.filter(|_| location.layout != Layout::Index),
            flat: location.layout.is_flat(),
            paths,
            checked: !location.no_fs_validation && !settings.full_filesystem_access && location.layout != Layout::Index,
            dirname: location.dirname.clone(),
            reserved: own,
            reserved_ends: if location.driver == Driver::Mbox { vec![".lock".into()] } else { Vec::new() },
        }
    }

    /// A name as a user writes it. A separator at its end, which means "a directory", has been taken off before.
    ///
    /// # Errors
    /// It is no name of this namespace.
    pub fn parse(&self, vname: &str) -> Result<MailboxName, NameError> {
        let rest = match vname.strip_prefix(&self.prefix_text) {
            Some(rest) => rest,
            None if vname.eq_ignore_ascii_case("INBOX") && self.inbox => return Ok(MailboxName::inbox()),
            None => return Err(NameError::MissingPrefix(self.prefix_text.clone())),
        };
        if self.escape.is_none() && self.storage_separator != self.separator && rest.contains(self.storage_separator) {
            return Err(NameError::NotAllowed(self.storage_separator));
        }
        if rest.starts_with(self.separator) {
            return Err(NameError::BeginsWithSeparator);
        }
        if rest.ends_with(self.separator) {
            return Err(NameError::EndsWithSeparator);
        }
        let mut name = self.prefix.clone();
        name.extend(rest.split(self.separator).map(str::to_owned));
        MailboxName::new(name).map(|n| self.folded(n)).ok_or(NameError::AdjacentSeparators)
    }

    /// INBOX in any case, at top level and in front of other levels, is INBOX.
    #[must_use]
    pub fn folded(&self, name: MailboxName) -> MailboxName {
        let top = &name.levels()[0];
        if !self.inbox || top == "INBOX" || !top.eq_ignore_ascii_case("INBOX") {
            return name;
        }
        if name.levels().len() > 1 && !self.prefix.is_empty() && self.prefix[0] != "INBOX" {
            return name;
        }
        let mut levels = name.levels().to_vec();
        levels[0] = "INBOX".into();
        MailboxName::new(levels).unwrap_or(name)
    }

    /// The levels behind this namespace's prefix. `None`: not in it. Empty: the prefix itself.
    #[must_use]
    pub fn strip<'n>(&self, name: &'n MailboxName) -> Option<&'n [String]> {
        let levels = name.levels();
        let n = self.prefix.len();
        (levels.len() >= n && levels[..n] == self.prefix[..]).then(|| &levels[n..])
    }

    /// How a mailbox is stored.
    ///
    /// # Errors
    /// It cannot be stored under this name.
    pub fn stored(&self, name: &MailboxName) -> Result<Stored, NameError> {
        let name = self.folded(name.clone());
        if self.inbox && name.is_inbox() {
            return Ok(Stored { name: "INBOX".into(), inbox: true });
        }
        let levels = self.strip(&name).ok_or_else(|| NameError::MissingPrefix(self.prefix_text.clone()))?;
        let mut out = String::new();
        for (i, level) in levels.iter().enumerate() {
            if i > 0 {
                out.push(self.storage_separator);
            }
            out.push_str(&self.encode_level(level, levels.len() == 1)?);
        }
        self.check(&out)?;
        Ok(Stored { name: out.into(), inbox: false })
    }

    fn encode_level(&self, level: &str, alone: bool) -> Result<String, NameError> {
        if level.contains('\0') {
            return Err(NameError::Nul);
        }
        let text = if self.utf8 { level.to_owned() } else { utf7::encode(level) };
        if let Some(escape) = self.escape {
            return Ok(self.escaped(&text, escape, alone));
        }
        if alone && self.inbox && level == "INBOX" {
            // Would be the INBOX itself: `PREFIX/INBOX`.
            return Err(NameError::Reserved);
        }
        match level.chars().find(|&c| c == self.separator || c == self.storage_separator) {
            Some(c) => Err(NameError::NotAllowed(c)),
            None => Ok(text),
        }
    }

    /// mailbox-list.md 5.3.
    fn escaped(&self, text: &str, escape: char, alone: bool) -> String {
        let dots = matches!(text, "." | "..");
        let whole = dots || (!self.dirname.is_empty() && text == self.dirname) || (alone && self.inbox && text == "INBOX");
        let mut out = String::with_capacity(text.len());
        for (i, c) in text.chars().enumerate() {
            let first = i == 0 && (whole || c == '~');
            if c.is_ascii() && (first || c == self.storage_separator || c == '/' || c == escape) {
                out.push(escape);
                out.push_str(&format!("{:02x}", c as u32));
            } else {
                out.push(c);
            }
        }
        out
    }

    /// mailbox-list.md 5.5, in Dovecot's order.
    fn check(&self, storage: &str) -> Result<(), NameError> {
        if self.checked {
            if self.flat && storage.contains('/') {
                return Err(NameError::Slash);
            }
            if storage.starts_with('~') {
                return Err(NameError::Tilde);
            }
            if storage.starts_with('/') {
                return Err(NameError::BeginsWithSlash);
            }
            if storage.contains("//") {
                return Err(NameError::AdjacentSlashes);
            }
            for part in storage.split('/') {
                match part {
                    "." => return Err(NameError::Dots(".")),
                    ".." => return Err(NameError::Dots("..")),
                    _ => {}
                }
            }
        }
        // These would leave the mail root or hit other files whatever the configuration allows.
        if (self.flat && storage.contains('/')) || (self.paths && storage.split('/').any(|p| matches!(p, "." | ".."))) {
            return Err(NameError::Slash);
        }
        if self.paths && storage.split('/').any(|p| self.is_reserved(p)) {
            return Err(NameError::Reserved);
        }
        if storage.split('/').any(|p| p.len() + usize::from(self.flat) > MAX_FILE_NAME) {
            return Err(NameError::TooLong);
        }
        Ok(())
    }

    /// The storage uses a file or directory of this name itself.
    #[must_use]
    pub fn is_reserved(&self, part: &str) -> bool {
        self.reserved.iter().any(|r| r == part) || self.reserved_ends.iter().any(|e| part.ends_with(e.as_str()))
    }

    /// What a storage name means. Never called for the INBOX itself.
    #[must_use]
    pub fn decode(&self, storage: &OsStr) -> Decoded {
        let mut levels = self.prefix.clone();
        for part in storage.as_bytes().split(|&b| b == self.storage_separator as u8) {
            levels.push(self.decode_level(part));
        }
        let Some(name) = MailboxName::new(levels) else {
            return Decoded::Invalid(match storage.as_bytes() {
                [first, ..] if *first == self.storage_separator as u8 => NameError::BeginsWithSeparator,
                [.., last] if *last == self.storage_separator as u8 => NameError::EndsWithSeparator,
                _ => NameError::AdjacentSeparators,
            });
        };
        let name = self.folded(name);
        match self.stored(&name) {
            Ok(stored) if stored.name == storage => Decoded::Name(name),
            Ok(_) | Err(NameError::NotAllowed(_)) => Decoded::Odd(name),
            Err(e) => Decoded::Invalid(e),
        }
    }

    fn decode_level(&self, part: &[u8]) -> String {
        let plain = match self.escape {
            Some(escape) => unescaped(part, escape as u8),
            None => part.to_vec(),
        };
        let Ok(text) = String::from_utf8(plain) else { return String::from_utf8_lossy(part).into_owned() };
        if self.utf8 { text } else { utf7::decode(&text).unwrap_or(text) }
    }

    /// The storage name without its last level. `None` for one level and for the INBOX.
    #[must_use]
    pub fn parent(&self, stored: &Stored) -> Option<Stored> {
        let bytes = stored.name.as_bytes();
        let at = bytes.iter().rposition(|&b| b == self.storage_separator as u8).filter(|_| !stored.inbox)?;
        Some(Stored { name: OsStr::from_bytes(&bytes[..at]).to_owned(), inbox: false })
    }

    /// It lies below `above`, which is not the INBOX of a flat layout.
    #[must_use]
    pub fn is_below(&self, stored: &Stored, above: &Stored) -> bool {
        let rest = stored.name.as_bytes().strip_prefix(above.name.as_bytes());
        rest.and_then(<[u8]>::first).is_some_and(|&b| b == self.storage_separator as u8)
    }

    /// The same rules for the engine, which knows no storage names.
    #[must_use]
    pub fn rules(&self) -> NamespaceRules {
        NamespaceRules {
            prefix: self.prefix.clone(),
            inbox: self.inbox,
            storage_separator: self.storage_separator,
            no_slash: self.flat || self.paths,
            no_tilde: self.checked,
            // In a UTF-8 tree a line feed would stand in the subscriptions file and in file names.
            controls: !self.utf8,
            reserved: self.reserved.iter().filter(|r| self.escape.is_none() || **r != self.dirname).cloned().collect(),
            reserved_ends: self.reserved_ends.clone(),
            escape: self.escape,
            utf8: self.utf8,
            flat: self.flat,
            max_file_name: (self.flat || self.paths).then_some(MAX_FILE_NAME),
        }
    }

    /// The name joined with this namespace's separator, as the mailbox log hashes it.
    #[must_use]
    pub fn vname(&self, name: &MailboxName) -> String {
        name.join(self.separator)
    }
}

/// The longest file name of the usual file systems, bytes.
pub const MAX_FILE_NAME: usize = 255;

fn unescaped(part: &[u8], escape: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(part.len());
    let mut i = 0;
    while let Some(&b) = part.get(i) {
        let byte = part.get(i + 1..i + 3).and_then(|h| hex::decode(h).ok()).and_then(|v| v.first().copied());
        match byte {
            Some(byte) if b == escape => {
                out.push(byte);
                i += 3;
            }
            _ => {
                out.push(b);
                i += 1;
            }
        }
    }
    out
}
