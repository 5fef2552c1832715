//! Purge: frees the bytes of mails that nobody refers to (dbox.md 7). A kill after a step leaves:
//!
//! ```text
//! P5 survivors copied to .temp.*, synced       temp files that Dovecot removes by itself
//! P7 ids reserved, files renamed               m.N without map records, ids never given out again
//! P8 map switched: one write, synced           the new state; the old files are garbage
//! P9 old files unlinked, directory synced      attachments without mail
//! P10 attachments removed                      nothing
//! ```
//!
//! Map uids stay, so no mailbox is touched. Nobody waits for us: the old files are locked against appending only while they
//! are copied, and the map for P6 to P9. Several small files go through these steps together: their survivors come to lie
//! in one file, and the disk is waited for once.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::map::{Locked, Switch};
use super::plan::{Found, PurgePlan, purge_plan, split_by_size};
use super::record::MapRecord;
use super::storage::Storage;
use crate::mail::{Class, Error, Result};
use crate::os::fs::{self, Modes};
use crate::os::lock::{self, Deadline, How, Lock};
use crate::os::{Fsync, LockMethod};
use crate::store::dbox::{DboxFile, Message, Temp, Writer};

/// How many files are open and locked at a time.
const GROUP: usize = 32;
/// Room for the first line of a file.
const FILE_HEADER: u64 = 32;

/// Purges every file that has a mail without references. Files that somebody appends to are left for another time.
///
/// # Errors
/// The first file that could not be purged; the others are done.
pub(super) fn purge(storage: &mut Storage) -> Result<()> {
    if !storage.refresh_map()? {
        return Ok(());
    }
    let ids: BTreeSet<u32> = storage.map.records().filter(|r| r.refs == 0).map(|r| r.place.file_id).collect();
    let mut result = Ok(());
    let mut note = |done: Result<()>| {
        if let Err(e) = done {
            let e = e.at("Purging");
            tracing::error!("{e}");
            if result.is_ok() {
                result = Err(e);
            }
        }
    };
    let mut group: Vec<Source> = Vec::new();
    for id in ids {
        match prepare(storage, id) {
            Ok(Some(source)) => {
                let full = group.first().is_some_and(|f| f.dir() != source.dir())
                    || group.len() >= GROUP
                    || group.iter().map(Source::survivors).sum::<u64>() + source.survivors() > storage.settings.mdbox_rotate_size;
                if full {
                    note(purge_group(storage, std::mem::take(&mut group)));
                }
                group.push(source);
            }
            Ok(None) => {}
            Err(e) => note(Err(e)),
        }
    }
    note(purge_group(storage, group));
    result
}

/// A file to be purged, locked against appending.
struct Source {
    path: PathBuf,
    file: DboxFile,
    plan: PurgePlan,
    /// As many as the plan keeps, in the same order.
    keep: Vec<Message>,
    drop: Vec<Message>,
    _lock: Lock,
}

impl Source {
    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn survivors(&self) -> u64 {
        self.plan.keep.iter().map(|(_, size)| *size).sum()
    }
}

/// P1 to P4 without copying. `None`: nothing to do in this file, or somebody uses it.
fn prepare(storage: &mut Storage, id: u32) -> Result<Option<Source>> {
    storage.files.forget_one(id);
    let Some(path) = storage.files.paths(id).find(|p| p.exists()) else {
        return drop_records_of_missing(storage, id).map(|()| None);
    };
    let Some((file, lock)) = lock_file(&path)? else { return Ok(None) };
    storage.refresh_map()?;
    let records = storage.map.records_of(id);
    let messages = file.messages().collect::<std::result::Result<Vec<Message>, _>>()?;
    let found: Vec<Found> = messages.iter().map(|m| Found { offset: m.offset, size: m.size() }).collect();
    let plan = purge_plan(&records, &found)
        .map_err(|e| Error::new(Class::Temporary, format!("{}: {e}; nothing was changed in it", path.display())))?;
    if plan.drop.is_empty() {
        return Ok(None);
    }
    let gone: BTreeSet<u32> = plan.drop.iter().map(|l| l.place.offset).collect();
    let is_gone = |m: &Message| u32::try_from(m.offset).is_ok_and(|o| gone.contains(&o));
    let (drop, keep) = messages.into_iter().partition(is_gone);
    Ok(Some(Source { path, file, plan, keep, drop, _lock: lock }))
}

/// P1 and P2. `None`: somebody uses it, or has removed it.
fn lock_file(path: &Path) -> Result<Option<(DboxFile, Lock)>> {
    let file = match File::open(path) {
        Ok(file) => Arc::new(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fs::Error::new("open", path, e).into()),
    };
    // These files are always locked by flock, whatever lock_method says (dbox.md 5.1).
    let how = How { method: LockMethod::Flock, stale: Duration::MAX, use_excl: true, modes: Modes::default() };
    let lock = match Lock::acquire(&file, path, &how, Deadline::after(Duration::ZERO)) {
        Ok(lock) => lock,
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if !lock::is_still(path, &file).map_err(|e| fs::Error::new("stat", path, e))? {
        return Ok(None);
    }
    Ok(Some((DboxFile::new(file, path)?, lock)))
}

/// The records without references of a file that is nowhere (P1).
fn drop_records_of_missing(storage: &mut Storage, id: u32) -> Result<()> {
    if let Some(e) = storage.files.unmounted_alt() {
        return Err(e);
    }
    let mut locked = storage.map.lock()?;
    // Somebody may have purged it between our look and the lock.
    let (gone, lost): (Vec<_>, Vec<_>) = locked.records_of(id).into_iter().partition(|r| r.refs == 0);
    if storage.files.paths(id).any(|p| p.exists()) {
        return Ok(());
    }
    if !gone.is_empty() {
        locked.switch(&Switch { moved: &[], gone: &gone.iter().map(|r| r.uid).collect::<Vec<_>>() })?;
    }
    match lost.first() {
        Some(r) => {
            let text = format!("{} is lost, map uid {} was in it", storage.files.path(id).display(), r.uid);
            Err(Error::new(Class::Temporary, text))
        }
        None => Ok(()),
    }
}

/// P4 to P10 for files of one directory.
fn purge_group(storage: &mut Storage, group: Vec<Source>) -> Result<()> {
    let Some(dir) = group.first().map(|s| s.dir().to_owned()) else { return Ok(()) };
    let outputs = copy_survivors(storage, &dir, &group)?;
    if !switch(storage, &dir, &group, outputs)? {
        return Ok(());
    }
    for source in &group {
        for message in &source.drop {
            if let Some((attachments, parts)) = storage.rules.attachments(&source.file, message)? {
                attachments.delete(&parts, None)?;
            }
        }
    }
    Ok(())
}

/// A file with survivors: map uid, offset and size of each.
struct Output {
    temp: Temp,
    moved: Vec<(u32, u32, u32)>,
}

/// P4 and P5.
fn copy_survivors(storage: &Storage, dir: &Path, group: &[Source]) -> Result<Vec<Output>> {
    let survivors = || group.iter().flat_map(|s| s.plan.keep.iter().zip(&s.keep).map(move |(k, m)| (s, k, m)));
    let sizes: Vec<u64> = survivors().map(|(_, (_, size), _)| *size).collect();
    let mut survivors = survivors();
    let mut outputs = Vec::new();
    for range in split_by_size(&sizes, FILE_HEADER, storage.settings.mdbox_rotate_size) {
        let mut writer = Writer::create(dir, &storage.modes)?;
        let mut moved = Vec::with_capacity(range.len());
        for (source, (listed, _), message) in survivors.by_ref().take(range.len()) {
            let written = writer.append_stored(&source.file, message, &message.metadata)?;
            let (Ok(offset), Ok(size)) = (u32::try_from(written.offset), u32::try_from(written.size)) else {
                let text = format!("{}: a mail of 4 GiB cannot be moved", source.path.display());
                return Err(Error::new(Class::Limit, text));
            };
            moved.push((listed.uid, offset, size));
        }
        if storage.settings.index.fsync == Fsync::Never {
            writer.flush()?;
        } else {
            writer.sync()?;
        }
        outputs.push(Output { temp: writer.close(), moved });
    }
    Ok(outputs)
}

/// P6 to P9. `false`: somebody has changed the files' records meanwhile, nothing was done.
fn switch(storage: &mut Storage, dir: &Path, group: &[Source], mut outputs: Vec<Output>) -> Result<bool> {
    let mut locked = storage.map.lock()?;
    if !group.iter().all(|s| still_as_planned(&locked, s)) {
        return Ok(false);
    }
    let mut moved = Vec::new();
    if !outputs.is_empty() {
        let count = u32::try_from(outputs.len()).map_err(|e| Error::new(Class::Limit, e))?;
        let first = locked.reserve(&storage.files, count)?;
        for (file_id, output) in (first..).zip(&mut outputs) {
            output.temp.publish(&dir.join(format!("m.{file_id}")))?;
            moved.extend(output.moved.iter().map(|&(uid, offset, size)| (uid, MapRecord { file_id, offset, size })));
        }
        if storage.settings.index.fsync != Fsync::Never {
            fs::fsync_dir(dir)?;
        }
    }
    let gone: Vec<u32> = group.iter().flat_map(|s| &s.plan.drop).map(|l| l.uid).collect();
    locked.switch(&Switch { moved: &moved, gone: &gone })?;
    // Still under the lock: a Dovecot that rebuilds the storage finds each mail once only.
    for source in group {
        fs::unlink(&source.path)?;
    }
    if storage.settings.index.fsync != Fsync::Never {
        fs::fsync_dir(dir)?;
    }
    locked.maintain();
    Ok(true)
}

/// The records are where they were, and nobody has got a reference to what is to go. Others cannot have come: that would
/// have needed the file's lock.
fn still_as_planned(locked: &Locked<'_>, source: &Source) -> bool {
    let same = |uid: u32, place: MapRecord| locked.lookup(uid).filter(|now| now.place == place);
    source.plan.keep.iter().all(|(l, _)| same(l.uid, l.place).is_some())
        && source.plan.drop.iter().all(|l| same(l.uid, l.place).is_some_and(|now| now.refs == 0))
}
