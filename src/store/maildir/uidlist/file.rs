//! The file `dovecot-uidlist`, its lock, and the two ways to change it.
//!
//! Order of writes (maildir.md 5.3), both under the lock and after a re-read:
//! - *Append*: all new lines in one write, then fdatasync. A kill in the write leaves a last line without an end, which
//!   no reader takes for a record and which makes the next writer rewrite the file.
//! - *Rewrite*: 1 `dovecot-uidlist.tmp` written and synced, 2 renamed over `dovecot-uidlist`. A kill before 2 leaves the
//!   old list and a `.tmp` that the next rewrite overwrites.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::codec::{Header, Uidlist};
use crate::mail::{Class, Error, Result};
use crate::os::Fsync;
use crate::os::dotlock::{Dotlock, Options};
use crate::os::fs::{self, Modes};
use crate::store::Settings;

/// By what a change of the file is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store::maildir) struct Stamp {
    dev: u64,
    ino: u64,
    /// Bytes.
    pub size: u64,
    /// Seconds.
    pub mtime: i64,
    /// Nanoseconds.
    pub mtime_nsec: i64,
}

impl Stamp {
    /// That of a file.
    pub fn of(meta: &Metadata) -> Self {
        let (mtime, mtime_nsec) = (meta.mtime(), meta.mtime_nsec());
        Self { dev: meta.dev(), ino: meta.ino(), size: meta.size(), mtime, mtime_nsec }
    }
}

/// The uidlist lock (6). Whoever changes anything of a Maildir but its mails' texts holds it.
#[derive(Debug)]
pub(in crate::store::maildir) struct UidlistLock(Dotlock);

impl UidlistLock {
    /// Tells others that we are alive; to be called now and then during long work.
    ///
    /// # Errors
    /// The lock file cannot be touched: it may be overridden soon.
    pub fn touch(&mut self) -> Result<()> {
        Ok(self.0.touch()?)
    }
}

/// Where a uidlist is, how it is written, and what was read of it last.
#[derive(Debug)]
pub(in crate::store::maildir) struct UidlistFile {
    path: PathBuf,
    modes: Modes,
    fsync: Fsync,
    lock_options: Options,
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    // How many bytes of the file are whole lines.
    complete: u64,
    list: Uidlist,
    /// Kept open, so that its inode number is not given to a later list, which would pass for this one grown.
    pin: File,
}

/// A list that was taken out to be changed, with what it is on the disk.
#[derive(Debug)]
pub(in crate::store::maildir) struct Taken {
    /// The list.
    pub list: Uidlist,
    // None: there is no file.
    stamp: Option<Stamp>,
    on_disk: usize,
    pin: Option<File>,
}

impl Taken {
    /// A list that is not on the disk yet.
    pub const fn new(list: Uidlist) -> Self {
        Self { list, stamp: None, on_disk: 0, pin: None }
    }
}

// Offsets in memory are 32 bits.
const SIZE_LIMIT: u64 = u32::MAX as u64;

impl UidlistFile {
    /// That in a control directory.
    pub fn new(control: &Path, modes: Modes, settings: &Settings) -> Self {
        let path = control.join("dovecot-uidlist");
        // maildir.md 6
        let patience = settings.max_lock_timeout.unwrap_or(Duration::MAX).min(Duration::from_secs(122));
        let mut lock_options = Options::new(modes, patience);
        lock_options.stale = Duration::from_secs(120);
        lock_options.use_excl = settings.index.dotlock_use_excl;
        lock_options.watched = Some(path.clone());
        Self { path, modes, fsync: settings.index.fsync, lock_options, known: None }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// Timeout ([`Class::Temporary`]), or the directory cannot be written ([`Class::Permission`]).
    pub fn lock(&self) -> Result<UidlistLock> {
        let path = crate::os::dotlock::name_for(&self.path);
        Ok(UidlistLock(Dotlock::acquire(&path, &self.lock_options)?))
    }

    /// What is on the disk now, without reading it. `None`: no uidlist.
    pub fn stamp(&self) -> Result<Option<Stamp>> {
        match std::fs::metadata(&self.path) {
            Ok(meta) => Ok(Some(Stamp::of(&meta))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io("stat", e)),
        }
    }

    /// The stamp of what was read or written last.
    pub fn known_stamp(&self) -> Option<Stamp> {
        self.known.as_ref().map(|k| k.stamp)
    }

    /// New mails get UIDs from this one on.
    pub fn raise_next(&mut self, next: u32) {
        if let Some(known) = &mut self.known {
            known.list.header.next = known.list.header.next.max(next);
        }
    }

    /// Forgets what was read: it is not what is on the disk any more.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Header and next UID: of the list in memory, else read without the mails in between.
    ///
    /// # Errors
    /// As [`UidlistFile::read_header`].
    pub fn header(&self) -> Result<Option<(Header, u32)>> {
        match &self.known {
            Some(known) => Ok(Some((known.list.header.clone(), known.list.next_uid()))),
            None => self.read_header(),
        }
    }

    /// The list as it was read or written last.
    pub fn list(&self) -> Option<&Uidlist> {
        self.known.as_ref().map(|k| &k.list)
    }

    /// Brings the list in memory up to date with the file: nothing, the appended part, or all of it is read. `false`: there
    /// is no uidlist.
    ///
    /// # Errors
    /// I/O, or the file is broken: then it is an error that names the line, and never an empty list.
    pub fn refresh(&mut self) -> Result<bool> {
        if self.known.is_some() && self.stamp()? == self.known_stamp() {
            return Ok(true);
        }
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.known = None;
                return Ok(false);
            }
            Err(e) => return Err(self.io("open", e)),
        };
        let stamp = Stamp::of(&file.metadata().map_err(|e| self.io("stat", e))?);
        if stamp.size > SIZE_LIMIT {
            return Err(self.broken(&"the file is too large"));
        }
        if let Some(mut known) = self.known.take() {
            if known.stamp == stamp {
                self.known = Some(known);
                return Ok(true);
            }
            if (known.stamp.dev, known.stamp.ino) == (stamp.dev, stamp.ino) && stamp.size > known.stamp.size {
                let bytes = self.read_from(&file, known.complete, stamp.size)?;
                // A list that does not continue well is read as a whole, which tells whether it is broken.
                if let Ok(torn) = known.list.parse_appended(&bytes) {
                    known.complete += (bytes.len() - torn) as u64;
                    known.stamp = stamp;
                    self.known = Some(known);
                    return Ok(true);
                }
            }
        }
        let bytes = self.read_from(&file, 0, stamp.size)?;
        let (list, torn) = Uidlist::parse(&bytes).map_err(|e| self.broken(&e))?;
        self.known = Some(Known { stamp, complete: (bytes.len() - torn) as u64, list, pin: file });
        Ok(true)
    }

    /// Up to `size`, and further where the file has grown since.
    fn read_from(&self, mut file: &File, offset: u64, size: u64) -> Result<Vec<u8>> {
        let bad = |e| self.io("read", e);
        // In one piece: left alone, `read_to_end` begins with small ones.
        let mut bytes = vec![0; usize::try_from(size.saturating_sub(offset)).unwrap_or(0)];
        file.seek(SeekFrom::Start(offset)).map_err(bad)?;
        let read = read_up_to(&mut file, &mut bytes).map_err(bad)?;
        bytes.truncate(read);
        file.take(SIZE_LIMIT.saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes).map_err(bad)?;
        Ok(bytes)
    }

    /// The first line and the true next UID, without reading the mails in between. `None`: no uidlist.
    ///
    /// # Errors
    /// As [`UidlistFile::refresh`], as far as these two places show it.
    pub fn read_header(&self) -> Result<Option<(Header, u32)>> {
        const BLOCK: u64 = 4096;
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.io("open", e)),
        };
        let mut head = vec![0; 4096];
        let read = read_up_to(&mut file, &mut head).map_err(|e| self.io("read", e))?;
        head.truncate(read);
        let Some(end) = memchr::memchr(b'\n', &head) else { return self.read_header_fully() };
        let (header, _) = Header::parse(&head[..end]).map_err(|e| self.broken(&e))?;
        let size = file.metadata().map_err(|e| self.io("stat", e))?.len();
        let tail = if size <= BLOCK {
            head.split_off(end + 1)
        } else {
            let mut tail = vec![0; 4096];
            file.seek(SeekFrom::Start(size - BLOCK)).map_err(|e| self.io("read", e))?;
            let read = read_up_to(&mut file, &mut tail).map_err(|e| self.io("read", e))?;
            tail.truncate(read);
            let Some(first) = memchr::memchr(b'\n', &tail) else { return self.read_header_fully() };
            tail.split_off(first + 1)
        };
        let last = last_uid(&tail);
        if last.is_none() && size > BLOCK {
            return self.read_header_fully();
        }
        let next = header.next.max(last.map_or(1, |uid| uid.saturating_add(1)));
        Ok(Some((header, next)))
    }

    fn read_header_fully(&self) -> Result<Option<(Header, u32)>> {
        let bytes = std::fs::read(&self.path).map_err(|e| self.io("read", e))?;
        let (list, _) = Uidlist::parse(&bytes).map_err(|e| self.broken(&e))?;
        let next = list.next_uid();
        Ok(Some((list.header, next)))
    }

    /// Takes the list out, to be changed and written. If that does not come about the next refresh reads the file again.
    pub fn take(&mut self) -> Option<Taken> {
        let known = self.known.take()?;
        Some(Taken { on_disk: known.list.len(), stamp: Some(known.stamp), list: known.list, pin: Some(known.pin) })
    }

    /// Makes a changed list the file's content: appends its new lines if that is possible, else rewrites it. Writes
    /// nothing if nothing was changed.
    ///
    /// # Errors
    /// I/O; the old list is then still there, with a torn line behind it at worst.
    pub fn write(&mut self, _lock: &UidlistLock, taken: Taken) -> Result<()> {
        let Taken { mut list, stamp, on_disk, pin } = taken;
        let now = self.stamp()?;
        if !list.needs_rewrite()
            && let (Some(stamp), Some(pin)) = (stamp.filter(|s| now == Some(*s)), pin)
        {
            if on_disk == list.len() {
                self.known = Some(Known { stamp, complete: stamp.size, list, pin });
                return Ok(());
            }
            match self.append(&list, on_disk, stamp.size) {
                Ok(stamp) => {
                    self.known = Some(Known { stamp, complete: stamp.size, list, pin });
                    return Ok(());
                }
                // A list that may only be read is rewritten (5.2).
                Err(e) if e.class() == Class::Permission => {}
                Err(e) => return Err(e),
            }
        }
        let (stamp, pin) = self.rewrite(&list)?;
        list.header.next = list.next_uid();
        list.set_needs_rewrite(false);
        self.known = Some(Known { stamp, complete: stamp.size, list, pin });
        Ok(())
    }

    fn append(&self, list: &Uidlist, first_new: usize, size: u64) -> Result<Stamp> {
        let mut lines = Vec::new();
        for entry in list.iter().skip(first_new) {
            entry.write(&mut lines);
        }
        let open = OpenOptions::new().append(true).open(&self.path);
        let mut file = open.map_err(|e| self.io("open", e))?;
        fs::write_all(&mut file, &self.path, &lines)?;
        self.finish(&file, &self.path, size + lines.len() as u64)
    }

    fn rewrite(&self, list: &Uidlist) -> Result<(Stamp, File)> {
        let tmp = self.path.with_extension("tmp");
        let bytes = list.serialize();
        let mut file = fs::create(&tmp, &self.modes)?;
        fs::write_all(&mut file, &tmp, &bytes)?;
        let stamp = self.finish(&file, &tmp, bytes.len() as u64)?;
        fs::rename(&tmp, &self.path)?;
        Ok((stamp, file))
    }

    fn finish(&self, file: &File, path: &Path, expected: u64) -> Result<Stamp> {
        if self.fsync != Fsync::Never {
            fs::fsync(file, path)?;
        }
        let stamp = Stamp::of(&file.metadata().map_err(|e| self.io("stat", e))?);
        if stamp.size != expected {
            tracing::warn!("{} has {} bytes instead of {expected}: somebody overrode our lock", path.display(), stamp.size);
        }
        Ok(stamp)
    }

    fn io(&self, op: &'static str, e: io::Error) -> Error {
        Error::io(fs::Error::new(op, &self.path, e))
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> Error {
        let path = self.path.display();
        Error::new(Class::Temporary, format!("Broken file {path} {why} (opening the mailbox once with Dovecot rebuilds it)"))
    }
}

fn read_up_to(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

fn last_uid(lines: &[u8]) -> Option<u32> {
    let complete = &lines[..memchr::memrchr(b'\n', lines)?];
    let last = &complete[memchr::memrchr(b'\n', complete).map_or(0, |n| n + 1)..];
    let digits = &last[..memchr::memchr(b' ', last)?];
    crate::store::maildir::name::number(digits).and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::super::codec::Entry;
    use super::*;
    use crate::mail::{MailboxGuid, UidValidity};

    struct Scratch {
        dir: tempfile::TempDir,
    }

    impl Scratch {
        fn with(bytes: &[u8]) -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            std::fs::write(dir.path().join("dovecot-uidlist"), bytes).expect("writable");
            Self { dir }
        }

        fn file(&self) -> UidlistFile {
            UidlistFile::new(self.dir.path(), Modes::default(), &Settings::default())
        }

        fn bytes(&self) -> String {
            std::fs::read_to_string(self.dir.path().join("dovecot-uidlist")).expect("there")
        }

        fn add(&self, base: &str) {
            let mut file = self.file();
            let lock = file.lock().expect("free");
            assert!(file.refresh().expect("sound"));
            let mut taken = file.take().expect("there");
            let uid = taken.list.next_uid();
            assert!(taken.list.push(Entry { uid, ext: b"", base: base.as_bytes() }));
            file.write(&lock, taken).expect("writable");
        }
    }

    const HEADER: &str = "3 V1234 N2 G00112233445566778899aabbccddeeff\n";

    #[test]
    fn a_sound_list_is_appended_to() {
        let s = Scratch::with(format!("{HEADER}1 :a\n").as_bytes());
        s.add("b");
        assert_eq!(s.bytes(), format!("{HEADER}1 :a\n2 :b\n"));
        assert!(!s.dir.path().join("dovecot-uidlist.lock").exists());
    }

    #[test]
    fn a_torn_line_is_never_appended_to() {
        let s = Scratch::with(format!("{HEADER}1 :a\n2 :1700000002.b").as_bytes());
        s.add("c");
        assert_eq!(s.bytes(), "3 V1234 N3 G00112233445566778899aabbccddeeff\n1 :a\n2 :c\n");
    }

    #[test]
    fn what_others_append_is_read_on() {
        let s = Scratch::with(format!("{HEADER}1 :a\n").as_bytes());
        let mut reader = s.file();
        assert!(reader.refresh().expect("sound"));
        s.add("b");
        assert!(reader.refresh().expect("sound"));
        assert_eq!(reader.list().expect("there").len(), 2);
        std::fs::write(s.dir.path().join("dovecot-uidlist"), format!("{HEADER}5 :x\n")).expect("writable");
        assert!(reader.refresh().expect("sound"));
        assert_eq!(reader.list().expect("there").iter().map(|e| e.uid).collect::<Vec<_>>(), [5]);
    }

    /// Two rewrites may give the new list the inode of the one that was read (ext4 does so), and lines of one length the
    /// places of others.
    #[test]
    fn a_new_list_is_not_the_old_one_grown() {
        let s = Scratch::with(b"");
        let mut reader = s.file();
        let rewrite = |lines: &str| {
            let tmp = s.dir.path().join("dovecot-uidlist.tmp");
            std::fs::write(&tmp, format!("{HEADER}{lines}")).expect("writable");
            std::fs::rename(&tmp, s.dir.path().join("dovecot-uidlist")).expect("writable");
        };
        for _ in 0..20 {
            rewrite("1 :a\n2 :b\n3 :c\n");
            assert!(reader.refresh().expect("sound"));
            rewrite("1 :a\n3 :c\n");
            rewrite("1 :a\n3 :c\n4 :d\n5 :e\n");
            assert!(reader.refresh().expect("sound"));
            assert_eq!(reader.list().expect("there").iter().map(|e| e.uid).collect::<Vec<_>>(), [1, 3, 4, 5]);
        }
    }

    #[test]
    fn the_header_is_read_without_the_mails() {
        let mut text = HEADER.to_owned();
        for uid in 1..2000 {
            text.push_str(&format!("{uid} :{uid}.M1P1.host.example.org,S=1,W=1\n"));
        }
        let s = Scratch::with(text.as_bytes());
        let (header, next) = s.file().read_header().expect("sound").expect("there");
        assert_eq!((header.uidvalidity, next), (UidValidity::new(1234).expect("not 0"), 2000));
        let s = Scratch::with(b"3 V5 N9 G00112233445566778899aabbccddeeff\n");
        assert_eq!(s.file().read_header().expect("sound").expect("there").1, 9);
    }

    #[test]
    fn broken_is_not_empty() {
        let s = Scratch::with(b"");
        let mut file = s.file();
        let text = file.refresh().expect_err("broken").to_string();
        assert!(text.contains("dovecot-uidlist line 1"), "{text}");
        assert!(file.list().is_none());
        assert!(s.dir.path().join("dovecot-uidlist").exists());
    }

    #[test]
    fn a_new_list_is_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut file = UidlistFile::new(dir.path(), Modes::default(), &Settings::default());
        let lock = file.lock().expect("free");
        assert!(!file.refresh().expect("fine"));
        let header = Header::new(UidValidity::new(7).expect("not 0"), MailboxGuid::new([1; 16]).expect("not zero"));
        file.write(&lock, Taken::new(Uidlist::new(header))).expect("writable");
        assert!(file.refresh().expect("sound"));
        assert_eq!(std::fs::read(file.path()).expect("there"), b"3 V7 N1 G01010101010101010101010101010101\n");
    }
}
