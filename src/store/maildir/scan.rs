//! What lies in `new/` and `cur/`, and under which name a mail lies there. Reads directories, changes nothing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::name;
use super::uidlist::Uidlist;
use crate::mail::{Error, Result};
use crate::os::fs;

/// One of the two directories with mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dir {
    /// `new/`: nobody has selected the mailbox since the delivery.
    New,
    /// `cur/`.
    Cur,
}

impl Dir {
    /// Its name in the mailbox.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Cur => "cur",
        }
    }
}

/// The path of a mail file.
pub(super) fn path_of(mailbox: &Path, dir: Dir, name: &[u8]) -> PathBuf {
    mailbox.join(dir.name()).join(OsStr::from_bytes(name))
}

/// By what a change of a directory is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DirTime {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds.
    pub nsecs: i64,
}

impl DirTime {
    fn of(meta: &Metadata) -> Self {
        Self { secs: meta.mtime(), nsecs: meta.mtime_nsec() }
    }
}

/// The modification times of `new/` and `cur/`.
///
/// # Errors
/// One of them is not there or cannot be looked at.
pub(super) fn times(mailbox: &Path) -> Result<(DirTime, DirTime)> {
    let time = |dir: Dir| {
        let path = mailbox.join(dir.name());
        std::fs::metadata(&path).map(|m| DirTime::of(&m)).map_err(|e| Error::io(fs::Error::new("stat", path, e)))
    };
    Ok((time(Dir::New)?, time(Dir::Cur)?))
}

/// Under which names the mails of a uidlist lie: 8 bytes a mail, since the many share few INFOs.
#[derive(Debug, Default)]
pub(super) struct Places {
    infos: Vec<Vec<u8>>,
    ids: HashMap<Vec<u8>, u32>,
    // (UID, number of the info * 2 + directory), by ascending UID.
    places: Vec<(u32, u32)>,
}

impl Places {
    fn code(&mut self, dir: Dir, info: &[u8]) -> u32 {
        let id = match self.ids.get(info) {
            Some(&id) => id,
            None => {
                // Fewer infos than files, and those are numbered by 32-bit UIDs; halved by the directory bit, which a
                // directory of 2^31 files would exceed long after memory ended.
                let id = u32::try_from(self.infos.len()).unwrap_or(u32::MAX) & (u32::MAX >> 1);
                self.infos.push(info.to_vec());
                self.ids.insert(info.to_vec(), id);
                id
            }
        };
        id << 1 | u32::from(dir == Dir::Cur)
    }

    /// The directory of a mail, and what follows BASE in its name.
    pub fn get(&self, uid: u32) -> Option<(Dir, &[u8])> {
        let at = self.places.binary_search_by_key(&uid, |p| p.0).ok()?;
        let code = self.places[at].1;
        let dir = if code & 1 == 1 { Dir::Cur } else { Dir::New };
        Some((dir, self.infos.get((code >> 1) as usize)?))
    }

    /// How many mails have a place.
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// The keyword letters that occur.
    pub fn letters(&self) -> impl Iterator<Item = name::Letters> + '_ {
        self.infos.iter().map(|info| name::flags(info).1)
    }

    /// Notes where a mail lies now.
    pub fn set(&mut self, uid: u32, dir: Dir, info: &[u8]) {
        let code = self.code(dir, info);
        match self.places.binary_search_by_key(&uid, |p| p.0) {
            Ok(at) => self.places[at].1 = code,
            Err(at) => self.places.insert(at, (uid, code)),
        }
    }

    /// The mail is gone.
    pub fn remove(&mut self, uid: u32) {
        if let Ok(at) = self.places.binary_search_by_key(&uid, |p| p.0) {
            self.places.remove(at);
        }
    }
}

/// A file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where.
    pub dir: Dir,
    /// Its name, INFO included.
    pub name: Vec<u8>,
}

impl Found {
    /// BASE of its name.
    pub fn base(&self) -> &[u8] {
        name::base(&self.name)
    }

    /// Its path.
    pub fn path(&self, mailbox: &Path) -> PathBuf {
        path_of(mailbox, self.dir, &self.name)
    }
}

/// What a look at both directories has shown.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Where the mails of the uidlist lie.
    pub places: Places,
    /// Files that the uidlist does not know, in UID order (7.5).
    pub unknown: Vec<Found>,
    /// Second names with a BASE that was found already (7.4).
    pub duplicates: Vec<Found>,
    /// The UIDs of those of them that the uidlist knows.
    pub duplicate_of: HashMap<Vec<u8>, u32>,
    /// Files whose BASE is empty.
    pub nameless: Vec<Found>,
    /// Modification time of `new/` before it was read.
    pub new_time: DirTime,
    /// Modification time of `cur/` before it was read.
    pub cur_time: DirTime,
    /// How many files there are.
    pub files: usize,
}

/// Looks at `new/`, then at `cur/`.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn scan(mailbox: &Path, list: &Uidlist) -> Result<Scan> {
    let by_base = list.by_base();
    let mut scan = Scan::default();
    (scan.new_time, scan.cur_time) = times(mailbox)?;
    let mut places = vec![0; list.len()];
    let mut unknown: HashMap<Vec<u8>, Found> = HashMap::new();
    for dir in [Dir::New, Dir::Cur] {
        read_dir(mailbox, dir, |name| {
            scan.files += 1;
            let found = || Found { dir, name: name.to_vec() };
            let base = name::base(name);
            if base.is_empty() {
                scan.nameless.push(found());
            } else if let Some(&n) = by_base.get(base) {
                if places[n] == 0 {
                    // Numbers of infos are far from the highest one.
                    places[n] = scan.places.code(dir, &name[base.len()..]).saturating_add(1);
                } else {
                    scan.duplicates.push(found());
                    if let Some(entry) = list.get(n) {
                        scan.duplicate_of.insert(base.to_vec(), entry.uid);
                    }
                }
            } else if unknown.contains_key(base) {
                scan.duplicates.push(found());
            } else {
                unknown.insert(base.to_vec(), found());
            }
        })?;
    }
    let known = list.iter().zip(&places).filter(|(_, code)| **code > 0);
    scan.places.places = known.map(|(entry, code)| (entry.uid, code - 1)).collect();
    scan.unknown = unknown.into_values().collect();
    scan.unknown.sort_unstable_by(|a, b| name::uid_order(a.base(), b.base()));
    Ok(scan)
}

/// The file with this BASE.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn find_base(mailbox: &Path, base: &[u8]) -> Result<Option<Found>> {
    let mut found = None;
    for dir in [Dir::New, Dir::Cur] {
        read_dir(mailbox, dir, |name| {
            if name::base(name) == base {
                found = Some(Found { dir, name: name.to_vec() });
            }
        })?;
    }
    Ok(found)
}

/// All files of a directory that are mails: neither hidden nor anything but files (1).
fn read_dir(mailbox: &Path, dir: Dir, mut each: impl FnMut(&[u8])) -> Result<()> {
    let path = mailbox.join(dir.name());
    let bad = |e: io::Error| Error::io(fs::Error::new("read", &path, e));
    for entry in std::fs::read_dir(&path).map_err(bad)? {
        let entry = entry.map_err(bad)?;
        let name = entry.file_name();
        let name = name.as_bytes();
        if name.first() == Some(&b'.') {
            continue;
        }
        if name.iter().any(|c| matches!(c, b'\r' | b'\n')) {
            tracing::warn!("{}: ignoring a file with a line end in its name: {:?}", path.display(), entry.file_name());
            continue;
        }
        let is_file = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file()),
            Ok(kind) => kind.is_file(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(bad(e)),
        };
        if is_file {
            each(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maildir(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for d in ["new", "cur", "tmp"] {
            std::fs::create_dir(dir.path().join(d)).expect("writable");
        }
        for file in files {
            std::fs::write(dir.path().join(file), b"x").expect("writable");
        }
        dir
    }

    fn list(lines: &str) -> Uidlist {
        Uidlist::parse(format!("3 V1 N1 G00112233445566778899aabbccddeeff\n{lines}").as_bytes()).expect("sound").0
    }

    #[test]
    fn known_and_unknown_files_are_told_apart() {
        let dir =
            maildir(&["new/2.b", "cur/1.a:2,FS", "cur/.hidden", "cur/10.d:2,", "new/3.c", "cur/3.c:2,", "cur/:2,S", "new/x\ny"]);
        std::fs::create_dir(dir.path().join("cur/9.directory")).expect("writable");
        let scan = scan(dir.path(), &list("4 :1.a\n7 :2.b\n8 :gone\n")).expect("readable");
        assert_eq!(scan.places.get(4), Some((Dir::Cur, &b":2,FS"[..])));
        assert_eq!(scan.places.get(7), Some((Dir::New, &b""[..])));
        assert_eq!(scan.places.get(8), None);
        assert_eq!(scan.unknown.iter().map(Found::base).collect::<Vec<_>>(), [&b"3.c"[..], b"10.d"]);
        assert_eq!(scan.duplicates, [Found { dir: Dir::Cur, name: b"3.c:2,".to_vec() }]);
        assert_eq!(scan.nameless.len(), 1);
    }

    #[test]
    fn symbolic_links_to_files_are_mails() {
        let dir = maildir(&["tmp/target"]);
        std::os::unix::fs::symlink("../tmp/target", dir.path().join("cur/1.a:2,")).expect("writable");
        std::os::unix::fs::symlink("../tmp", dir.path().join("cur/2.b:2,")).expect("writable");
        let scan = scan(dir.path(), &list("")).expect("readable");
        assert_eq!(scan.unknown.len(), 1);
    }

    #[test]
    fn places_follow_what_happens() {
        let mut places = Places::default();
        places.set(5, Dir::Cur, b":2,S");
        places.set(3, Dir::New, b"");
        places.set(5, Dir::Cur, b":2,");
        places.remove(3);
        assert_eq!((places.get(3), places.get(5)), (None, Some((Dir::Cur, &b":2,"[..]))));
    }
}
