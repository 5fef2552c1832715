//! Which mailboxes lie on disk (mailbox-list.md 7). Only reads. What a name cannot be made of is skipped and reported;
//! symbolic links are skipped, so that no mail is synchronised twice. One that leads out of the mail root is told of.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::location::{Driver, Layout};
use super::names::{Decoded, Stored};
use super::{Entry, List, Listing};
use crate::mail::{Class, Error, MailboxName, Result};
use crate::os::fs;

/// Deeper than any path that the system accepts.
const MAX_DEPTH: usize = 2048;

/// Decides whether there is a mailbox in a mailbox's directories.
pub type Exists<'a> = dyn Fn(&Stored) -> bool + 'a;

impl List {
    /// Lists the mailboxes and directories of a backing-store layout (all but `index`).
    ///
    /// # Errors
    /// The root cannot be read; `NotFound` when it is not there.
    pub fn walk(&self, exists: &Exists<'_>) -> Result<Listing> {
        let mut walk = Walk { list: self, exists, out: Listing::default(), seen: HashMap::new() };
        let root = self.location.listing_root();
        match self.location.layout {
            Layout::MaildirPlusPlus | Layout::Imapdir => walk.flat(&root)?,
            Layout::Fs => match walk.directory(&root, OsStr::new(""), 0) {
                // A user without any mailbox yet: the root may be there, the directory of the mailboxes not.
                Err(e) if e.class() == Class::NotFound && self.location.root.is_dir() => {}
                other => other?,
            },
            Layout::None | Layout::Index => {}
        }
        walk.inbox();
        Ok(walk.out)
    }
}

struct Walk<'a> {
    list: &'a List,
    exists: &'a Exists<'a>,
    out: Listing,
    seen: HashMap<MailboxName, usize>,
}

fn read_dir(dir: &Path, out: &mut Listing) -> Result<Vec<(OsString, std::fs::FileType)>> {
    out.reads(dir);
    let bad = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Error::new(Class::NotFound, fs::Error::new("read", dir, e)),
        _ => Error::io(fs::Error::new("read", dir, e)),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(bad)? {
        let entry = entry.map_err(bad)?;
        match entry.file_type() {
            Ok(kind) => found.push((entry.file_name(), kind)),
            // Gone since the name was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(bad(e)),
        }
    }
    // The order of a directory is chance; which of two names for one mailbox wins must not be.
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

impl Walk<'_> {
    fn flat(&mut self, root: &Path) -> Result<()> {
        let dotted = self.list.location.layout == Layout::MaildirPlusPlus;
        for (file, kind) in read_dir(root, &mut self.out)? {
            let bytes = file.as_bytes();
            let name = if dotted { bytes.strip_prefix(b".") } else { Some(bytes) };
            let Some(name) = name.filter(|n| !n.is_empty()) else { continue };
            let trash = if dotted { &b".DOVECOT-TRASHED"[..] } else { b".DOVECOT-TRASHED" };
            if matches!(name, b"." | b"..") || name == trash || (dotted && name == b".") {
                continue;
            }
            if !kind.is_dir() {
                self.link(&root.join(&file), kind);
                continue;
            }
            self.add(OsStr::from_bytes(name), true);
        }
        Ok(())
    }

    fn directory(&mut self, dir: &Path, storage: &OsStr, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Ok(());
        }
        let location = &self.list.location;
        let mbox = location.driver == Driver::Mbox;
        for (file, kind) in read_dir(dir, &mut self.out)? {
            let bytes = file.as_bytes();
            let text = file.to_string_lossy();
            let at_root = depth == 0;
            let ours = at_root
                && (bytes == b"..DOVECOT-TrasH"
                    || location.mailbox_dir.is_empty() && (text == location.subscriptions || text == "dovecot.list.index"));
            if ours || matches!(bytes, b"." | b"..") || self.list.names.is_reserved(&text) {
                continue;
            }
            let mut name = storage.to_owned();
            if !name.is_empty() {
                name.push("/");
            }
            name.push(&file);
            if kind.is_dir() {
                self.add(&name, !mbox);
                match self.directory(&dir.join(&file), &name, depth + 1) {
                    // Gone since the name was read.
                    Err(e) if e.class() == Class::NotFound => {}
                    // What is below is not known, and must not be taken for deleted: nothing is synchronised.
                    other => other?,
                }
            } else if kind.is_symlink() {
                self.link(&dir.join(&file), kind);
            } else if mbox && kind.is_file() && !bytes.starts_with(b"dovecot.") {
                self.add(&name, true);
            }
        }
        Ok(())
    }

    /// A symbolic link to a mailbox beside it is only a second name. One that leads elsewhere has mails that nothing else shows,
    /// and Dovecot leaves those out without a word.
    fn link(&mut self, path: &Path, kind: std::fs::FileType) {
        if !kind.is_symlink() {
            return;
        }
        let Ok(to) = std::fs::canonicalize(path) else { return };
        let beside = std::fs::canonicalize(&self.list.location.root).is_ok_and(|root| to.starts_with(root));
        if to.is_dir() && !beside {
            self.out.links.push((path.to_owned(), to));
        }
    }

    /// One directory (or mbox file) with this storage name. `can_be_mailbox`: else it is a mere directory.
    fn add(&mut self, storage: &OsStr, can_be_mailbox: bool) {
        let list = self.list;
        let flat = list.location.layout.is_flat();
        let is_inbox = list.names.inbox && storage.as_bytes().eq_ignore_ascii_case(b"INBOX");
        if is_inbox {
            // Maildir++ has its INBOX elsewhere and hides this one behind it; so does any other spelling.
            if list.location.layout == Layout::MaildirPlusPlus || storage != "INBOX" {
                return;
            }
            let stored = Stored { name: "INBOX".into(), inbox: true };
            let selectable = can_be_mailbox && (self.exists)(&stored);
            self.push(MailboxName::inbox(), stored, selectable, false);
            return;
        }
        let (name, odd) = match list.names.decode(storage) {
            Decoded::Name(name) => (name, false),
            Decoded::Odd(name) => (name, true),
            Decoded::Invalid(e) => return self.problem(storage, Error::new(Class::InvalidData, e)),
        };
        let stored = Stored { name: storage.to_owned(), inbox: false };
        // In a flat layout every directory is a mailbox, whatever is missing in it (7.1).
        let selectable = can_be_mailbox && (flat || (self.exists)(&stored));
        if !selectable && list.location.no_noselect {
            return;
        }
        self.push(name, stored, selectable, odd);
    }

    fn push(&mut self, name: MailboxName, stored: Stored, selectable: bool, odd: bool) {
        let entry = Entry { name, stored, selectable, odd, guid: None };
        let Some(&at) = self.seen.get(&entry.name) else {
            self.seen.insert(entry.name.clone(), self.out.entries.len());
            self.out.entries.push(entry);
            return;
        };
        // Two directories for one name: the one that the name leads to is the mailbox.
        let loser = if self.out.entries[at].odd && !odd { std::mem::replace(&mut self.out.entries[at], entry) } else { entry };
        let text = format!("Directory {} is another mailbox of this name", self.list.location.paths(&loser.stored).dir.display());
        self.out.problems.push((loser.name, Error::new(Class::InvalidData, text)));
    }

    fn problem(&mut self, storage: &OsStr, error: Error) {
        let levels = match self.list.names.decode(storage) {
            Decoded::Name(name) | Decoded::Odd(name) => name.levels().to_vec(),
            Decoded::Invalid(_) => {
                let mut levels = self.list.names.prefix.clone();
                levels.push(storage.to_string_lossy().into_owned());
                levels
            }
        };
        if let Some(name) = MailboxName::new(levels) {
            self.out.problems.push((name, error));
        }
    }

    /// The INBOX, where it does not lie among the others.
    fn inbox(&mut self) {
        if !self.list.names.inbox {
            return;
        }
        let stored = Stored { name: "INBOX".into(), inbox: true };
        match self.seen.get(&MailboxName::inbox()) {
            Some(&at) if !self.out.entries[at].selectable => self.out.entries[at].selectable = (self.exists)(&stored),
            Some(_) => {}
            None if (self.exists)(&stored) => self.push(MailboxName::inbox(), stored, true, false),
            None => {}
        }
    }
}
