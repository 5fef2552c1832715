//! Looking values up. The file is read backwards in large pieces, each part once, whatever the order of the mails in it.

use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::CacheField;
use super::format::{Fields, HEADER, Header, MAX_RECORD, record_front};
use crate::index::Index;
use crate::index::error::{Error, Result};
use crate::index::state::State;

/// How much is read at once.
const WINDOW: u64 = 1 << 20;
/// A mail has at most so many records; a longer chain is none of Dovecot's.
const MAX_CHAIN: u16 = 256;
const MAX_BLOCKS: usize = 1024;

/// An opened cache that is valid for its index.
#[derive(Debug)]
pub struct Cache {
    pub(super) file: File,
    pub(super) len: u64,
    pub(super) header: Header,
    pub(super) fields: Fields,
    /// Where the last block of fields is; 0 = there is none.
    pub(super) block: u32,
}

/// Reads up to so many bytes.
fn read_at(file: &File, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::read(path, e)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

impl Cache {
    /// Opens the file if it is there and valid.
    pub(super) fn open(path: &Path, state: &State, write: bool) -> Result<Option<Self>> {
        let Some(ext) = state.ext("cache") else { return Ok(None) };
        let file = match OpenOptions::new().read(true).write(write).custom_flags(nix::libc::O_NOFOLLOW).open(path) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            // Unreadable for us: as good as not there, unless it is to be written.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !write => return Ok(None),
            Err(e) => return Err(Error::Io(crate::os::fs::Error::new("open", path, e))),
        };
        Self::parse(file, path, state.indexid(), state.ext_reset_id(ext))
    }

    pub(in crate::index) fn parse(file: File, path: &Path, indexid: u32, file_seq: u32) -> Result<Option<Self>> {
        let len = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let Some(header) = Header::parse(&read_at(&file, path, 0, HEADER)?) else { return Ok(None) };
        if header.indexid != indexid || header.file_seq != file_seq {
            return Ok(None);
        }
        let mut cache = Self { file, len, header, fields: Fields::default(), block: 0 };
        let mut next = header.fields;
        for _ in 0..MAX_BLOCKS {
            if next == 0 {
                return Ok(Some(cache));
            }
            let front = read_at(&cache.file, path, next.into(), 12)?;
            let Some((following, size)) = Fields::front(&front).filter(|f| f.1 <= 1 << 20) else { return Ok(None) };
            let Some(fields) = Fields::parse(&read_at(&cache.file, path, next.into(), size)?) else { return Ok(None) };
            if following != 0 && following <= next {
                return Ok(None);
            }
            (cache.fields, cache.block, next) = (fields, next, following);
        }
        Ok(None)
    }

    /// Hands the newest cached value of each wanted field of each of these rows to `found`, in no particular order.
    ///
    /// # Errors
    /// I/O. Invalid records are passed over.
    pub fn read(
        &self,
        state: &State,
        rows: impl IntoIterator<Item = usize>,
        wanted: &[CacheField],
        mut found: impl FnMut(usize, CacheField, &[u8]),
    ) -> Result<()> {
        let Some(ext) = state.ext("cache").filter(|&e| state.ext_reset_id(e) == self.header.file_seq) else { return Ok(()) };
        // The field of the file for each wanted one.
        let numbers: Vec<Option<usize>> = wanted.iter().take(16).map(|f| self.fields.find(f.name())).collect();
        let all = numbers.iter().zip(0..).filter(|(n, _)| n.is_some()).fold(0u16, |bits, (_, i)| bits | 1 << i);
        if all == 0 {
            return Ok(());
        }
        // From the end of the file to its front: a record names only records before it.
        let mut queue: BinaryHeap<(u32, usize, u16, u16)> = BinaryHeap::new();
        for row in rows {
            let offset = state.ext_u32(ext, row);
            if offset != 0 {
                queue.push((offset, row, all, 0));
            }
        }
        let path = Path::new("cache");
        let mut window = (0u64, Vec::new());
        while let Some((offset, row, mut missing, depth)) = queue.pop() {
            let at = u64::from(offset);
            if at < HEADER as u64 || at + 8 > self.len || !at.is_multiple_of(4) {
                continue;
            }
            let inside = at >= window.0 && (at - window.0) as usize + MAX_RECORD <= window.1.len()
                || at >= window.0 && window.0 + window.1.len() as u64 >= self.len && !window.1.is_empty();
            if !inside {
                let end = (at + MAX_RECORD as u64).min(self.len);
                // A single look-up needs no large piece.
                let start = if queue.is_empty() { at } else { end.saturating_sub(WINDOW).min(at) };
                window = (start, read_at(&self.file, path, start, (end - start) as usize)?);
            }
            let Some(bytes) = usize::try_from(at - window.0).ok().and_then(|i| window.1.get(i..)) else { continue };
            let Some((prev, size)) = record_front(bytes) else { continue };
            let Some(record) = bytes.get(..size) else { continue };
            let Some(values) = self.fields.values(record) else { continue };
            for (field, place) in values {
                let Some(i) = numbers.iter().position(|n| *n == Some(field)) else { continue };
                if missing & 1 << i != 0 {
                    missing &= !(1 << i);
                    found(row, wanted[i], &record[place]);
                }
            }
            if missing != 0 && prev != 0 && prev < offset && depth < MAX_CHAIN {
                queue.push((prev, row, missing, depth + 1));
            }
        }
        Ok(())
    }
}

impl Index {
    /// The cache, if there is one that is valid for the present state.
    ///
    /// # Errors
    /// I/O.
    pub fn cache(&self) -> Result<Option<Cache>> {
        Cache::open(self.files().cache(), self.state(), false)
    }

    /// The saved date of each mail of the present state as far as it is cached; 0 = not known.
    ///
    /// # Errors
    /// I/O.
    pub fn cached_save_dates(&self) -> Result<Vec<u32>> {
        let mut dates = vec![0; self.state().len()];
        if let Some(cache) = self.cache()? {
            cache.read(self.state(), 0..dates.len(), &[CacheField::Saved], |row, _, data| {
                dates[row] = u32::try_from(super::cached_number(data)).unwrap_or(0);
            })?;
        }
        Ok(dates)
    }
}
