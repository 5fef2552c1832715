//! Doors to what is read from several files, or cannot be told from its files: they lie in a scratch directory.

use std::path::{Path, PathBuf};

use crate::index::list_index::ListIndex;
use crate::index::{Bits, Durability, ExtSpec, Files, Index, Options, Settings, Transaction};
use crate::mail::Guid128;
use crate::os::fs::Modes;

/// A directory that goes with this value. For speed put `TMPDIR` into memory.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dsync-fuzz-{}-{n}", std::process::id()));
        std::fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("a directory");
        std::fs::write(path, bytes).expect("a file");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The first of several parts and the rest: three bytes of length, then the part.
pub fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((&[a, b, c], rest)) = bytes.split_first_chunk::<3>() else { return (bytes, &[]) };
    let n = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    rest.split_at(n.min(rest.len()))
}

/// Puts parts together for [`split`].
#[cfg(test)]
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    let (last, others) = parts.split_last().expect("at least one");
    let mut out = Vec::new();
    for part in others {
        out.extend_from_slice(&u32::try_from(part.len()).expect("small").to_le_bytes()[..3]);
        out.extend_from_slice(part);
    }
    out.extend_from_slice(last);
    out
}

fn write_index<'b>(dir: &Scratch, stem: &str, bytes: &'b [u8]) -> &'b [u8] {
    let mut rest = bytes;
    for end in ["", ".log", ".log.2"] {
        let (part, behind) = split(rest);
        if !part.is_empty() {
            dir.write(&format!("{stem}{end}"), part);
        }
        rest = behind;
    }
    rest
}

fn options() -> Options {
    Options { even_deleted: true, ..Options::new(Settings::default(), Modes::default()) }
}

/// Snapshot, log, older log, cache. What we append to an index that we could read, we read again.
pub fn index_files(bytes: &[u8]) {
    let dir = Scratch::new();
    let rest = write_index(&dir, Files::MAILBOX, bytes);
    dir.write("dovecot.index.cache", rest);
    let files = Files::new(dir.path(), Files::MAILBOX);
    let Ok(mut index) = Index::open(files.clone(), options()) else { return };
    let _ = index.cached_save_dates();
    let _ = index.refresh();
    let Ok(mut locked) = index.lock() else { return };
    let mut t = Transaction::new(Bits::EXTERNAL);
    let next = locked.state().next_uid();
    t.append(next, 1);
    t.keyword(next, &crate::mail::Keyword::new("added"), true);
    t.ext_record(ExtSpec::new("guid", 0, 16, 1), next, &[9; 16]);
    if let Some(&first) = locked.state().uids().first() {
        t.expunge(crate::mail::Uid::new(first).expect("no mail has the UID 0"), Guid128([0; 16]));
    }
    // A refusal is fine: then nothing was written.
    let committed = locked.commit(&t, Durability::Later).is_ok();
    let _ = locked.maintain();
    let wanted = (locked.state().uids(), locked.state().position());
    drop(locked);
    if committed {
        let again = Index::open(files, options()).expect("we read what we wrote");
        assert_eq!((again.state().uids(), again.state().position()), wanted);
    }
}

/// A list index: its snapshot, log, older log.
pub fn list_index(bytes: &[u8]) {
    let dir = Scratch::new();
    write_index(&dir, Files::LIST, bytes);
    if let Ok(Some(list)) = ListIndex::open(Files::new(dir.path(), Files::LIST), options())
        && let Ok(paths) = list.paths('/')
    {
        assert_eq!(paths.len(), list.nodes().expect("read before").len());
    }
}

/// The map's snapshot, log, older log, and one file of mails.
pub fn mdbox_storage(bytes: &[u8]) {
    let dir = Scratch::new();
    let stem = format!("storage/{}", Files::MAP);
    let rest = write_index(&dir, &stem, bytes);
    dir.write("storage/m.1", rest);
    crate::store::mdbox::fuzz::storage(dir.path());
}
