//! The subscriptions file (mailbox-list.md 9): storage names, one per line.
//!
//! Changing: the lock file `subscriptions.lock` is written as the new file and renamed into place. A kill before that leaves
//! the old file and a lock that the next writer overrides.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::os::dotlock::{Options, Replacement};
use crate::os::fs::{self, Modes};

const HEADER: &[u8] = b"V\t2\n\n";
/// Dovecot waits so long for `subscriptions.lock`.
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// A lock file that has not changed for so long is left behind by somebody.
const STALE: Duration = Duration::from_secs(30);
/// More than any user can have; a guard against reading something else.
const READ_LIMIT: u64 = 64 << 20;

/// The content of a subscriptions file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriptions {
    version: Version,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// The storage name, joined with the list's separator.
    name: Vec<u8>,
    /// As it stands in the file: other writers' lines are kept byte by byte.
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Subscriptions {
    /// Understands a file's bytes. A last line without its end is not an entry (9.1).
    #[must_use]
    pub fn parse(bytes: &[u8], separator: char) -> Self {
        let (version, lines) = match bytes.strip_prefix(HEADER) {
            Some(rest) => (Version::Two, rest),
            None => (Version::One, bytes),
        };
        let entries = lines
            .split_inclusive(|&b| b == b'\n')
            .filter_map(|line| line.strip_suffix(b"\n"))
            .map(|line| Entry {
                name: if version == Version::Two { untabbed(line, separator) } else { line.to_vec() },
                line: line.to_vec(),
            })
            .collect();
        Self { version, entries }
    }

    /// The bytes of the file.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        let mut out = if self.version == Version::Two { HEADER.to_vec() } else { Vec::new() };
        for entry in &self.entries {
            out.extend_from_slice(&entry.line);
            out.push(b'\n');
        }
        out
    }

    /// Storage names in file order, joined with the list's separator. May have duplicates.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|e| e.name.as_slice())
    }

    /// Reads a file; without one there are no subscriptions, and the file to be made is of version 2.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(path: &Path, separator: char) -> fs::Result<Self> {
        use std::io::Read;
        let mut bytes = Vec::new();
        match std::fs::File::open(path).and_then(|f| f.take(READ_LIMIT).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Self::parse(&bytes, separator)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self { version: Version::Two, entries: Vec::new() }),
            Err(e) => Err(fs::Error::new("read", path, e)),
        }
    }

    /// It has this entry; `INBOX` in any case.
    #[must_use]
    pub fn contains(&self, entry: &[u8]) -> bool {
        self.names().any(|n| same(n, entry))
    }

    /// Adds or removes an entry. Says whether that changed anything.
    pub fn set(&mut self, entry: &[u8], subscribed: bool, separator: char) -> bool {
        if self.contains(entry) == subscribed {
            return false;
        }
        if subscribed {
            let line = if self.version == Version::Two { tabbed(entry, separator) } else { entry.to_vec() };
            self.entries.push(Entry { name: entry.to_vec(), line });
        } else {
            self.entries.retain(|e| !same(&e.name, entry));
        }
        true
    }
}

/// A change to one file.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// The file.
    pub path: &'a Path,
    /// The list's separator.
    pub separator: char,
    /// Modes of the file, from the root (12).
    pub modes: Modes,
    /// `dotlock_use_excl`.
    pub use_excl: bool,
    /// The file is flushed before it takes the old one's place: as Dovecot does unless `mail_fsync` is `never`.
    pub durable: bool,
    /// Entries that are not names of this list: Dovecot drops them whenever it writes the file.
    pub invalid: &'a dyn Fn(&[u8]) -> bool,
}

impl Change<'_> {
    /// Subscribes or unsubscribes. The file stays as it is if it already says so. Its directory must be there.
    ///
    /// # Errors
    /// The lock, or what the system says.
    pub fn set(&self, entry: &[u8], subscribed: bool) -> fs::Result<bool> {
        if Subscriptions::read(self.path, self.separator)?.contains(entry) == subscribed {
            return Ok(false);
        }
        let mut options = Options::new(self.modes, LOCK_TIMEOUT);
        options.stale = STALE;
        options.use_excl = self.use_excl;
        let mut new = Replacement::acquire(self.path, &options)?;
        let mut file = Subscriptions::read(self.path, self.separator)?;
        if !file.set(entry, subscribed, self.separator) {
            return Ok(false);
        }
        file.entries.retain(|e| {
            let drop = (self.invalid)(&e.name);
            if drop {
                tracing::warn!(
                    "Subscriptions file {}: Removing invalid entry: {}",
                    self.path.display(),
                    String::from_utf8_lossy(&e.line)
                );
            }
            !drop
        });
        new.write(&file.render())?;
        new.commit(self.durable)?;
        Ok(true)
    }
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a == b || (a.eq_ignore_ascii_case(b"INBOX") && b.eq_ignore_ascii_case(b"INBOX"))
}

/// The line of version 2: parts divided by TAB, each escaped with byte 1.
fn tabbed(entry: &[u8], separator: char) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.len());
    for (i, part) in entry.split(|&b| b == separator as u8).enumerate() {
        if i > 0 {
            out.push(b'\t');
        }
        super::tabescape::escape(part, &mut out);
    }
    out
}

fn untabbed(line: &[u8], separator: char) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    for (i, part) in line.split(|&b| b == b'\t').enumerate() {
        if i > 0 {
            out.push(separator as u8);
        }
        super::tabescape::unescape(part, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// What a flat list refuses: the names of the fixture are those of a Maildir.
    fn invalid(entry: &[u8]) -> bool {
        entry.is_empty() || entry.contains(&b'/')
    }

    fn shown(entry: &[u8]) -> String {
        let text = String::from_utf8_lossy(entry);
        if text.eq_ignore_ascii_case("INBOX") {
            return "INBOX".into();
        }
        text.split('.').map(|l| super::super::utf7::decode(l).unwrap_or_else(|| l.to_owned())).collect::<Vec<_>>().join("/")
    }

    #[test]
    fn the_fixtures() {
        let all: Value = serde_json::from_str(include_str!("../../../tests/fixtures/list/expected.json")).expect("is JSON");
        let cases = all["subscriptions"].as_array().expect("list");
        assert_eq!(cases.len(), 11);
        for case in cases {
            let text = |key: &str| case[key].as_str().expect("text");
            let dir = tempfile::tempdir().expect("scratch");
            let path = dir.path().join("subscriptions");
            std::fs::write(&path, text("file")).expect("write");

            let file = Subscriptions::read(&path, '.').expect("read");
            let mut names: Vec<String> = Vec::new();
            for entry in file.names().filter(|e| !invalid(e)) {
                let name = shown(entry);
                // Dovecot shows CR of `crlf` too, its answer was stripped by the fixture's maker.
                let name = name.trim_end_matches('\r').to_owned();
                if !name.is_empty() && !names.contains(&name) {
                    names.push(name);
                }
            }
            let theirs: Vec<&str> =
                case["subscribed"].as_array().expect("list").iter().map(|v| v.as_str().expect("text").trim_end()).collect();
            let (mut ours_sorted, mut theirs_sorted) = (names, theirs);
            ours_sorted.sort();
            theirs_sorted.sort_unstable();
            assert_eq!(ours_sorted, theirs_sorted, "{}", text("name"));

            let change =
                Change { path: &path, separator: '.', modes: Modes::default(), use_excl: true, durable: true, invalid: &invalid };
            let Some((command, name)) = text("then_run").strip_prefix("mailbox ").and_then(|c| c.split_once(' ')) else {
                continue;
            };
            let changed = change.set(name.replace('/', ".").as_bytes(), command == "subscribe").expect("set");
            assert_eq!(changed, text("file_after") != text("file") && text("name") != "duplicate", "{}", text("name"));
            assert_eq!(String::from_utf8_lossy(&std::fs::read(&path).expect("read")), text("file_after"), "{}", text("name"));
        }
    }

    #[test]
    fn a_new_file_is_version_2() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("subscriptions");
        let change =
            Change { path: &path, separator: '/', modes: Modes::default(), use_excl: true, durable: true, invalid: &invalid };
        let change = Change { invalid: &|_| false, ..change };
        change.set("Foo/B\tr".as_bytes(), true).expect("set");
        assert_eq!(std::fs::read(&path).expect("read"), b"V\t2\n\nFoo\tB\x01tr\n");
        assert!(!change.set(b"Nope", false).expect("set"));
    }
}
