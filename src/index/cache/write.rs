//! Adding records, under the lock of the index's log (spec: index.md 8.5).
//!
//! Order: the new records, then the header's counts, then (by the caller) the offsets in the log. A kill in between leaves
//! bytes that nothing refers to.

use std::time::Duration;

use super::format::{Field, Fields, HEADER, Header, put_block_offset, put_record};
use super::read::Cache;
use super::{CacheEntry, CacheField};
use crate::index::error::{Error, Result};
use crate::index::log::Bits;
use crate::index::transaction::{ExtSpec, Transaction};
use crate::index::{Durability, Locked};
use crate::mail::{Timestamp, Uid};
use crate::os::fs;
use crate::os::lock::{Deadline, How, Lock, is_still};

/// `mail_cache_max_size`.
const MAX_SIZE: u64 = 1 << 30;
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

impl Transaction {
    /// Says where a mail's newest record in the cache is, as [`Locked::cache`] gave it.
    pub fn cache_offset(&mut self, uid: Uid, offset: u32) {
        self.ext_record(ExtSpec::CACHE, uid, &offset.to_le_bytes());
    }
}

impl Locked<'_> {
    /// Writes records for these mails to the cache, which is made if there is none. Gives each mail's offset, to be
    /// written with [`Transaction::cache_offset`] before the lock is given up. Mails without a value get none.
    ///
    /// Empty when the cache is full: what is not cached is not lost for Dovecot, only slower.
    ///
    /// # Errors
    /// Locks, I/O; nothing refers then to what was written.
    pub fn cache(&mut self, entries: &[CacheEntry<'_>]) -> Result<Vec<(Uid, u32)>> {
        let mut entries: Vec<_> = entries.iter().filter(|e| e.saved.is_some() || e.guid.is_some()).collect();
        entries.sort_by_key(|e| e.uid);
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let path = self.index().files().cache().to_owned();
        let how = How {
            method: self.index().options().settings.lock_method,
            stale: Duration::from_secs(60),
            use_excl: self.index().options().settings.dotlock_use_excl,
            modes: self.index().options().modes,
        };
        let deadline = Deadline::after(LOCK_TIMEOUT);
        let (mut cache, _lock) = loop {
            let Some(cache) = Cache::open(&path, self.state(), true)? else {
                self.create_cache()?;
                continue;
            };
            let lock = Lock::acquire(&cache.file, &path, &how, deadline)?;
            // Somebody may have replaced it, or written to it, before we got the lock.
            if !is_still(&path, &cache.file).map_err(|e| Error::read(&path, e))? {
                continue;
            }
            let file = cache.file.try_clone().map_err(|e| Error::read(&path, e))?;
            if let Some(cache) = Cache::parse(file, &path, cache.header.indexid, cache.header.file_seq)? {
                break (cache, lock);
            }
        };
        self.append(&mut cache, &path, &entries)
    }

    fn append(&self, cache: &mut Cache, path: &std::path::Path, entries: &[&CacheEntry<'_>]) -> Result<Vec<(Uid, u32)>> {
        let now = Timestamp::now().0;
        let start = cache.len.next_multiple_of(4);
        let mut out = Vec::with_capacity(entries.len() * 64 + 1024);

        let mut fields = cache.fields.clone();
        let saved = field(&mut fields, CacheField::Saved, now);
        let guid = field(&mut fields, CacheField::Guid, now);
        let old_block = cache.block;
        let new_fields = fields.0.len() != cache.fields.0.len();
        if new_fields {
            out.extend_from_slice(&fields.bytes());
        }
        let ext = self.state().ext("cache");
        let mut header = cache.header;
        let mut offsets = Vec::with_capacity(entries.len());
        for entry in entries {
            let prev = ext
                .and_then(|ext| Some(self.state().ext_u32(ext, self.state().row(entry.uid)?)))
                .filter(|&at| u64::from(at) < cache.len)
                .unwrap_or(0);
            let date = entry.saved.map(|t| t.0.to_le_bytes());
            let mut values: Vec<(usize, bool, &[u8])> = Vec::with_capacity(2);
            if let Some(date) = date.as_ref().filter(|_| fields.0[saved].size == Some(4)) {
                values.push((saved, true, date));
            }
            // In the file the value is text: what is no text, or too long to be one, is left out.
            let is_text = |g: &&[u8]| !g.is_empty() && !g.contains(&0) && g.len() < 1024;
            if let Some(text) = entry.guid.filter(is_text).filter(|_| fields.0[guid].size.is_none()) {
                values.push((guid, false, text));
            }
            if values.is_empty() {
                continue;
            }
            let at = start + out.len() as u64;
            let Some(offset) = u32::try_from(at).ok().filter(|_| at < MAX_SIZE) else {
                tracing::debug!("{}: the cache is full", path.display());
                return Ok(Vec::new());
            };
            put_record(&mut out, prev, &values);
            let count = if prev == 0 { &mut header.records } else { &mut header.continued };
            *count = count.saturating_add(1);
            offsets.push((entry.uid, offset));
        }
        if start > cache.len {
            fs::truncate(&cache.file, path, start)?;
        }
        fs::write_all_at(&cache.file, path, &out, start)?;
        if new_fields {
            // From here on the new block counts.
            let offset = u32::try_from(start).unwrap_or(0);
            if old_block == 0 {
                header.fields = offset;
            } else {
                fs::write_all_at(&cache.file, path, &put_block_offset(offset), old_block.into())?;
            }
        } else {
            self.keep_fields(cache, path, now)?;
        }
        fs::write_all_at(&cache.file, path, &header.bytes(), 0)?;
        Ok(offsets)
    }

    /// A field that Dovecot did not mean to cache would be dropped when it next rewrites the file.
    fn keep_fields(&self, cache: &Cache, path: &std::path::Path, now: u32) -> Result<()> {
        for wanted in [CacheField::Saved, CacheField::Guid] {
            let Some(i) = cache.fields.find(wanted.name()).filter(|&i| cache.fields.0[i].decision & 3 == 0) else { continue };
            let (decision, used) = cache.fields.places(i);
            let at = |place: usize| u64::from(cache.block) + place as u64;
            fs::write_all_at(&cache.file, path, &now.to_le_bytes(), at(used))?;
            fs::write_all_at(&cache.file, path, &[Field::YES], at(decision))?;
        }
        Ok(())
    }

    /// An empty cache in place of none, or of one that is not valid.
    fn create_cache(&mut self) -> Result<()> {
        let path = self.index().files().cache().to_owned();
        let state = self.state();
        let last = state.ext("cache").map_or(0, |ext| state.ext_reset_id(ext));
        let now = Timestamp::now().0;
        let file_seq = now.max(last.wrapping_add(1)).max(1);
        let mut fields = Fields::default();
        field(&mut fields, CacheField::Saved, now);
        field(&mut fields, CacheField::Guid, now);
        let block = fields.bytes();
        let header = Header { indexid: state.indexid(), file_seq, continued: 0, records: 0, deleted: 0, fields: HEADER as u32 };
        let mut tmp = path.as_os_str().to_owned();
        tmp.push(format!(".{:016x}.tmp", crate::os::random()));
        let tmp = std::path::PathBuf::from(tmp);
        let mut file = fs::create_new(&tmp, &self.index().options().modes)?;
        let bytes = [&header.bytes()[..], &block].concat();
        let made = fs::write_all(&mut file, &tmp, &bytes).and_then(|()| fs::rename(&tmp, &path));
        if let Err(e) = made {
            let _ = fs::unlink_if_there(&tmp);
            return Err(e.into());
        }
        let mut t = Transaction::new(Bits::EXTERNAL);
        t.ext_reset(ExtSpec::CACHE, file_seq, false);
        self.commit(&t, Durability::Later)?;
        Ok(())
    }
}

/// The number of a field; it is added if it is not there.
fn field(fields: &mut Fields, wanted: CacheField, now: u32) -> usize {
    fields.find(wanted.name()).unwrap_or_else(|| {
        let (size, kind) = match wanted {
            CacheField::Saved | CacheField::Received | CacheField::Pop3Order => (Some(4), Field::FIXED),
            CacheField::VirtualSize | CacheField::PhysicalSize => (Some(8), Field::FIXED),
            CacheField::Guid | CacheField::Pop3Uidl => (None, Field::STRING),
        };
        fields.0.push(Field { name: wanted.name().into(), size, kind, decision: Field::YES, last_used: now });
        fields.0.len() - 1
    })
}
