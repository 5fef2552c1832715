//! Mailbox attributes (METADATA) in a dictionary file, `mail_attribute_dict = file:PATH` (sync.md 6.6).
//!
//! The file, verified live: a line with the key, `priv/GUID/NAME` or `shared/GUID/NAME`, then a line with the value, both
//! escaped like the entries of a subscriptions file. Changing: `PATH.lock` is written as the new file and renamed into place.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::list::tabescape;
use crate::mail::{Attribute, AttributeKey, MailboxGuid, Timestamp};
use crate::os::dotlock::{Options, Replacement};
use crate::os::fs::{self, Modes};

/// A dictionary file. Read once, and again when it has changed.
#[derive(Debug)]
pub struct AttributeFile {
    path: PathBuf,
    use_excl: bool,
    seen: Option<Stamp>,
    by_mailbox: HashMap<MailboxGuid, Vec<(AttributeKey, Vec<u8>)>>,
}

type Stamp = (u64, u64, i64, i64);

/// A guard against reading something else.
const READ_LIMIT: u64 = 256 << 20;

impl AttributeFile {
    /// The file of a `mail_attribute_dict`; `None` for other dictionaries.
    #[must_use]
    pub fn of(dict: &str, use_excl: bool) -> Option<Self> {
        let path = dict.strip_prefix("file:")?;
        Some(Self { path: path.into(), use_excl, seen: None, by_mailbox: HashMap::new() })
    }

    /// A mailbox's attributes, private ones first, by name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&mut self, mailbox: MailboxGuid) -> fs::Result<Vec<Attribute>> {
        self.refresh()?;
        let one = |(key, value): &(AttributeKey, Vec<u8>)| Attribute {
            key: key.clone(),
            value: Some(value.clone()),
            changed: Timestamp::default(),
        };
        let mut out: Vec<Attribute> = self.by_mailbox.get(&mailbox).into_iter().flatten().map(one).collect();
        out.sort_by(|a, b| (!a.key.private, &a.key.key).cmp(&(!b.key.private, &b.key.key)));
        Ok(out)
    }

    /// Sets an attribute, or with no value removes it. Says whether that changed anything.
    ///
    /// # Errors
    /// The lock, what the system says.
    pub fn set(&mut self, mailbox: MailboxGuid, key: &AttributeKey, value: Option<&[u8]>) -> fs::Result<bool> {
        let wanted = line_key(mailbox, key);
        let modes = self.modes();
        let mut options = Options::new(modes, Duration::from_secs(60));
        options.use_excl = self.use_excl;
        let mut new = Replacement::acquire(&self.path, &options)?;
        let mut pairs = self.read()?;
        let at = pairs.iter().position(|(k, _)| *k == wanted);
        match (at, value) {
            (None, None) => return Ok(false),
            (Some(at), Some(value)) if pairs[at].1 == value => return Ok(false),
            (Some(at), Some(value)) => pairs[at].1 = value.to_vec(),
            (Some(at), None) => drop(pairs.remove(at)),
            (None, Some(value)) => pairs.push((wanted, value.to_vec())),
        }
        let mut bytes = Vec::new();
        for (key, value) in &pairs {
            tabescape::escape(key, &mut bytes);
            bytes.push(b'\n');
            tabescape::escape(value, &mut bytes);
            bytes.push(b'\n');
        }
        new.write(&bytes)?;
        new.commit(true)?;
        Ok(true)
    }

    /// Those of the file, or of the directory where it will be.
    fn modes(&self) -> Modes {
        let model = std::fs::metadata(&self.path).or_else(|_| match self.path.parent() {
            Some(dir) => std::fs::metadata(dir),
            None => Err(io::ErrorKind::NotFound.into()),
        });
        model.map(|m| Modes::like(&m)).unwrap_or_default()
    }

    fn refresh(&mut self) -> fs::Result<()> {
        let stamp = match std::fs::metadata(&self.path) {
            Ok(m) => Some((m.ino(), m.len(), m.mtime(), m.mtime_nsec())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(fs::Error::new("stat", &self.path, e)),
        };
        if self.seen == stamp && stamp.is_some() {
            return Ok(());
        }
        self.by_mailbox.clear();
        for (key, value) in self.read()? {
            if let Some((mailbox, key)) = parse_key(&key) {
                self.by_mailbox.entry(mailbox).or_default().push((key, value));
            }
        }
        self.seen = stamp;
        Ok(())
    }

    fn read(&self) -> fs::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        match std::fs::File::open(&self.path).and_then(|f| f.take(READ_LIMIT).read_to_end(&mut bytes)) {
            Ok(n) if n as u64 == READ_LIMIT => {
                return Err(fs::Error::new("read", &self.path, io::Error::other("it is no dictionary: too large")));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fs::Error::new("read", &self.path, e)),
        }
        let plain = |line: &[u8]| {
            let mut out = Vec::new();
            tabescape::unescape(line, &mut out);
            out
        };
        let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').filter_map(|l| l.strip_suffix(b"\n")).collect();
        Ok(lines.chunks_exact(2).map(|pair| (plain(pair[0]), plain(pair[1]))).collect())
    }
}

fn line_key(mailbox: MailboxGuid, key: &AttributeKey) -> Vec<u8> {
    let class = if key.private { "priv" } else { "shared" };
    // Names know no case; Dovecot keeps them in lower case (verified live).
    format!("{class}/{mailbox}/{}", key.key.to_ascii_lowercase()).into_bytes()
}

fn parse_key(key: &[u8]) -> Option<(MailboxGuid, AttributeKey)> {
    let text = std::str::from_utf8(key).ok()?;
    let (class, rest) = text.split_once('/')?;
    let (guid, name) = rest.split_once('/')?;
    let private = match class {
        "priv" => true,
        "shared" => false,
        _ => return None,
    };
    Some((guid.parse().ok()?, AttributeKey { private, key: name.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(private: bool, key: &str) -> AttributeKey {
        AttributeKey { private, key: key.into() }
    }

    #[test]
    fn dovecot_s_own_file() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("attrs");
        // Written by doveadm 2.3.19.1.
        let text = "priv/555aa535b526026b3d36000083ecc375/comment\nhello world\nshared/555aa535b526026b3d36000083ecc375/comment\n\
                    line1\u{1}nline2\u{1}ttab\npriv/9c4c9736b526026b3e36000083ecc375/vendor/vendor.x/key\nv\n";
        std::fs::write(&path, text).expect("write");
        let mut file = AttributeFile::of(&format!("file:{}", path.display()), true).expect("a file");
        let foo: MailboxGuid = "555aa535b526026b3d36000083ecc375".parse().expect("GUID");
        let values = |file: &mut AttributeFile| -> Vec<(bool, String, String)> {
            let all = file.get(foo).expect("readable");
            let text = |v: Option<Vec<u8>>| String::from_utf8(v.expect("has one")).expect("UTF-8");
            all.into_iter().map(|a| (a.key.private, a.key.key, text(a.value))).collect()
        };
        let (private, shared) = ((true, "comment".to_owned(), "hello world".to_owned()), "line1\nline2\ttab".to_owned());
        assert_eq!(values(&mut file), [private.clone(), (false, "comment".into(), shared)]);
        assert!(!file.set(foo, &key(true, "Comment"), Some(b"hello world")).expect("the same"));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
        assert!(file.set(foo, &key(false, "comment"), None).expect("removed"));
        assert!(file.set(foo, &key(true, "x"), Some(b"a\nb")).expect("new"));
        assert_eq!(values(&mut file), [private, (true, "x".into(), "a\nb".into())]);
    }

    #[test]
    fn other_dictionaries_are_not_ours() {
        assert!(AttributeFile::of("redis:host=x", true).is_none());
        let dir = tempfile::tempdir().expect("scratch");
        let mut none = AttributeFile::of(&format!("file:{}/a", dir.path().display()), true).expect("a file");
        assert_eq!(none.get(MailboxGuid::generate()).expect("empty").len(), 0);
        assert!(!none.set(MailboxGuid::generate(), &key(true, "x"), None).expect("nothing to do"));
    }
}
