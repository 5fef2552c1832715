//! `dovecot-keywords`: which keyword a letter of a file name means (maildir.md 4).
//!
//! Writing happens under the uidlist lock and **before** any file gets such a letter: a kill in between leaves an entry
//! without use. The file is replaced by rename; a kill before that leaves `dovecot-keywords.lock`, which the next writer removes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::warn;

use super::name::Letters;
use crate::mail::{Error, Keyword, Keywords, Result};
use crate::os::fs::{self, Modes};

const SLOTS: usize = Letters::COUNT as usize;
/// 26 entries; whatever is longer than this is not such a file.
const SIZE_LIMIT: u64 = 1 << 20;

/// The keywords of a Maildir's 26 letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    slots: [Option<Keyword>; SLOTS],
}

impl Table {
    /// Understands the file's bytes. Entries that make no sense are left out, with a warning that names `path` (4.1).
    pub fn parse(bytes: &[u8], path: &Path) -> Self {
        let mut table = Self::default();
        for (n, line) in bytes.split(|&c| c == b'\n').enumerate() {
            let Some(space) = memchr::memchr(b' ', line) else { continue };
            let index = super::name::number(&line[..space]).and_then(|i| usize::try_from(i).ok()).filter(|&i| i < SLOTS);
            let keyword = std::str::from_utf8(&line[space + 1..]).ok().filter(|name| !name.is_empty()).map(Keyword::new);
            match (index, keyword) {
                (Some(i), Some(keyword)) if table.slots[i].is_none() && table.letter(&keyword).is_none() => {
                    table.slots[i] = Some(keyword);
                }
                _ => warn!("{} line {}: invalid or repeated entry, ignored", path.display(), n + 1),
            }
        }
        table
    }

    /// The file's bytes.
    pub fn serialize(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (i, keyword) in self.slots.iter().enumerate() {
            if let Some(keyword) = keyword {
                out.extend_from_slice(format!("{i} {keyword}\n").as_bytes());
            }
        }
        out
    }

    /// The number of a keyword's letter.
    pub fn letter(&self, keyword: &Keyword) -> Option<u8> {
        self.slots.iter().position(|k| k.as_ref() == Some(keyword)).and_then(|i| u8::try_from(i).ok())
    }

    /// The number of a keyword's letter, the lowest free one if it had none; `None` when all are in use (4.3).
    pub fn letter_or_new(&mut self, keyword: &Keyword) -> Option<u8> {
        // A name with a line end could not be told from two entries.
        if keyword.as_str().is_empty() || keyword.as_str().contains(['\n', '\0']) {
            return None;
        }
        self.letter(keyword).or_else(|| {
            let free = self.slots.iter().position(Option::is_none)?;
            self.slots[free] = Some(keyword.clone());
            u8::try_from(free).ok()
        })
    }

    /// The letters of those keywords that have one.
    pub fn letters(&self, keywords: &Keywords) -> Letters {
        keywords.iter().filter_map(|k| self.letter(k)).collect()
    }

    /// The letters of these keywords, new ones taken where needed.
    pub fn letters_or_new(&mut self, keywords: &Keywords) -> Letters {
        keywords.iter().filter_map(|k| self.letter_or_new(k)).collect()
    }

    /// Gives a letter that nobody has named the name Dovecot gives it, `unknown-<number>` (4.1).
    pub fn name_unknown(&mut self, letters: Letters) {
        for i in letters.iter() {
            let slot = &mut self.slots[usize::from(i)];
            if slot.is_none() {
                *slot = Some(Keyword::new(&format!("unknown-{i}")));
            }
        }
    }

    /// The keywords of these letters; letters without a name are left out.
    pub fn keywords(&self, letters: Letters) -> Keywords {
        letters.iter().filter_map(|i| self.slots[usize::from(i)].clone()).collect()
    }
}

/// Where a Maildir's keywords are kept.
#[derive(Debug, Clone)]
pub(super) struct KeywordsFile {
    path: PathBuf,
    modes: Modes,
}

impl KeywordsFile {
    /// The file in a control directory.
    pub fn new(control: &Path, modes: Modes) -> Self {
        Self { path: control.join("dovecot-keywords"), modes }
    }

    /// Reads it; a file that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read, or is far too large to be one.
    pub fn read(&self) -> Result<Table> {
        use std::io::Read;
        let read = || {
            let mut bytes = Vec::with_capacity(4096);
            let read = std::fs::File::open(&self.path)?.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
            if read as u64 > SIZE_LIMIT {
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "too large for a list of 26 keywords"));
            }
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Table::parse(&bytes, &self.path)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Table::default()),
            Err(e) => Err(Error::io(fs::Error::new("read", &self.path, e))),
        }
    }

    /// Replaces it. The caller holds the uidlist lock.
    ///
    /// # Errors
    /// I/O; the old file is then still there.
    pub fn write(&self, table: &Table) -> Result<()> {
        let lock = self.path.with_extension("lock");
        fs::unlink_if_there(&lock)?;
        let mut file = fs::create_new(&lock, &self.modes)?;
        fs::write_all(&mut file, &lock, &table.serialize())?;
        // Other processes notice a change by whole seconds of the modification time only.
        let mtime = |meta: std::io::Result<std::fs::Metadata>| meta.and_then(|m| m.modified()).ok();
        let seconds = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if let (Some(old), Some(new)) = (mtime(std::fs::metadata(&self.path)), mtime(file.metadata()))
            && seconds(new) <= seconds(old)
        {
            fs::set_mtime(&file, &lock, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds(old).saturating_add(1)))?;
        }
        fs::fsync(&file, &lock)?;
        fs::rename(&lock, &self.path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Table {
        Table::parse(bytes, Path::new("dovecot-keywords"))
    }

    #[test]
    fn holes_are_taken_first_and_bad_lines_are_left_out() {
        let mut t = parse(b"0 $Forwarded\n2 Label1\nnospace\n26 TooMany\nx y\n2 Again\n5 LABEL1\n");
        assert_eq!(t.letter(&Keyword::new("label1")), Some(2));
        assert_eq!(t.letter(&Keyword::new("Again")), None);
        assert_eq!(t.letter_or_new(&Keyword::new("New")), Some(1));
        assert_eq!(t.serialize(), b"0 $Forwarded\n1 New\n2 Label1\n");
    }

    #[test]
    fn the_27th_keyword_has_no_letter() {
        let mut t = Table::default();
        let letters: Vec<_> = (0..27).map(|i| t.letter_or_new(&Keyword::new(&format!("k{i}")))).collect();
        assert_eq!(letters[25], Some(25));
        assert_eq!(letters[26], None);
    }

    #[test]
    fn letters_without_a_name_get_one() {
        // maildir.md 4.1: `:2,RSt` without a file
        let mut t = Table::default();
        t.name_unknown(Letters::default().with(19));
        assert_eq!(t.serialize(), b"19 unknown-19\n");
    }

    #[test]
    fn the_modification_time_moves_by_whole_seconds() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = KeywordsFile::new(dir.path(), Modes::default());
        let mut times = Vec::new();
        for name in ["a", "b", "c"] {
            let mut t = file.read().expect("readable");
            t.letter_or_new(&Keyword::new(name));
            file.write(&t).expect("writable");
            times.push(std::fs::metadata(dir.path().join("dovecot-keywords")).expect("there").mtime());
        }
        assert!(times[0] < times[1] && times[1] < times[2], "{times:?}");
        assert_eq!(file.read().expect("readable").serialize(), b"0 a\n1 b\n2 c\n");
    }

    proptest! {
        #[test]
        fn hostile_files_are_read_and_what_is_understood_is_kept(bytes in "([0-9]{1,3} ?[a-c]{0,2}\n|.{0,4}\n){0,40}") {
            let table = parse(bytes.as_bytes());
            prop_assert_eq!(parse(&table.serialize()), table);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let table = parse(&bytes);
            prop_assert_eq!(parse(&table.serialize()), table);
        }
    }
}
